"""What one results file of the lm-evaluation-harness says, in either dialect.

Dialect 0.3 writes ``acc`` and ``acc_stderr``; 0.4 and later write ``acc,none`` and
``acc_stderr,none``, with shots, sample counts and directions beside the results.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from polystab.cube.labels import is_writable
from polystab.errors import ReadError, RefusedFileError, shown
from polystab.redaction import without_secrets
from polystab.sources.eval_json import WANTED, decoded, parse, parse_mapping, parse_shared, parsed_whole, sections
from polystab.sources.run_labels import RunLabel, parse_run, shots_of, step_of, without_shots

# Which argument of `model_args` names the model, in the harness's own order of precedence.
_MODEL_KEYS = ("peft", "delta", "pretrained", "model", "path", "engine")

# What 64 bits hold, with room to spare.
LARGEST = 2**62

_NOT_MEASURES = frozenset({"alias", "name", "sample_len", "sample_count"})

_TIME = re.compile(r"(?P<date>\d{4}-\d\d-\d\d)T(?P<h>\d\d)[-:](?P<m>\d\d)[-:](?P<s>\d\d)(?P<fraction>\.\d+)?")
_NEOX_TIME = re.compile(r"_(?P<mo>\d\d)-(?P<d>\d\d)-(?P<y>\d{4})-(?P<h>\d\d)-(?P<m>\d\d)-(?P<s>\d\d)")


@dataclass(frozen=True)
class Options:
    """How labels are read from a file's content."""

    pattern: re.Pattern[str] | None = None
    revision_steps: tuple[tuple[str, int], ...] = ()
    allow_limit: bool = False


@dataclass(frozen=True)
class Identity:
    """Which run and step a file says it measured, and its default number of shots."""

    run: RunLabel
    step: int
    num_fewshot: int


@dataclass(frozen=True)
class TaskFacts:
    """What a file says about its tasks beside the scores; shared by many files, never changed."""

    shots: Mapping[str, int]
    n_items: Mapping[str, int]
    better: Mapping[tuple[str, str], str]
    groups: frozenset[str]


class EvalFile(NamedTuple):
    """One parsed results file; ``results`` is task -> key -> whatever stood there."""

    identity: Identity
    facts: TaskFacts
    results: Mapping[str, Any]
    time: float
    version: str


class EvalReader:
    """Parses results files, remembering what stands alike in many of them.

    The harness repeats the same task sections in the file of every checkpoint, and the
    same ``config`` in all files of one checkpoint. A file that continues, letter by
    letter, as an earlier one did need not be parsed there again; this is what makes
    reading thousands of files quick.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._middles: dict[tuple[str, ...], tuple[bytes, TaskFacts, str]] = {}
        self._config: tuple[bytes, Identity] | None = None

    def parse(self, content: bytes, name: str) -> EvalFile:
        """Read the bytes of the results file called ``name``.

        Raises
        ------
        RefusedFileError
            Not a usable results file; the reasons are listed at ``read_lm_eval``.
        """
        return self._parse_like_earlier(content, name) or self._parse_sections(content, name)

    def _parse_like_earlier(self, content: bytes, name: str) -> EvalFile | None:
        """A file whose task sections are those of an earlier one; None if it is not.

        Only scores, configuration and date are parsed; the rest was when it was first met.
        """
        if not (content.startswith(_OPENING) and content.endswith(b"\n}")):
            return None
        end = content.find(_CLOSING, len(_OPENING)) + len(_CLOSING)
        try:
            results = parse(content[len(_OPENING) - 1 : end].decode())
        except (RefusedFileError, UnicodeDecodeError):
            return None  # the thorough way says what is wrong
        middle, facts, dialect = self._middles.get(tuple(results), (b"", None, ""))
        if facts is None or not content.startswith(middle, end):
            return None
        start = end + len(middle)
        if self._config is None or not content.startswith(self._config[0], start):
            stop = content.find(_CLOSING, start) + len(_CLOSING)
            try:
                self._config = content[start:stop], _identity(content[start:stop].decode(), self._options)
            except (RefusedFileError, UnicodeDecodeError):
                return None
        config, identity = self._config
        top = _rest(content[start + len(config) :])
        if top is None:
            return None
        return EvalFile(identity, facts, results, _time(top.get("date"), name), _version(top, dialect))

    def _parse_sections(self, content: bytes, name: str) -> EvalFile:
        text = decoded(content)
        try:
            return self._parse_top(sections(text), content, name)
        except RefusedFileError as refusal:
            if refusal.reason != "invalid-json":
                raise
            # Indented otherwise than the harness does, a key may look like one of the top level; the whole tells.
            return self._parse_top(parsed_whole(text), content, name)

    def _parse_top(self, top: Mapping[str, str], content: bytes, name: str) -> EvalFile:
        if "results" not in top:
            raise RefusedFileError("not-results", "no 'results' at the top level: not a results file of the harness.")
        results = parse(top["results"])
        if not isinstance(results, dict):
            raise RefusedFileError("not-results", f"'results' is a {type(results).__name__}, not a mapping of tasks.")
        if not results:
            raise RefusedFileError("no-results", "'results' is empty.")
        if "config" not in top:
            raise RefusedFileError("no-config", "no 'config', so nothing says which model and step this is.")
        identity = _identity(top["config"], self._options)
        facts = self._facts(top)
        self._remember(content, results, facts, top)
        return EvalFile(identity, facts, results, _time(top.get("date"), name), _version(top, _dialect(top)))

    def _facts(self, top: Mapping[str, str]) -> TaskFacts:
        by_task = top.get("n-shot")
        # The task configurations are long; they matter only where the shots stand nowhere else.
        configs = top.get("configs") if by_task is None else None
        groups = frozenset(parse_mapping(top.get("groups"), shared=False))
        rest = (top.get("n-samples"), top.get("higher_is_better"), top.get("group_subtasks"))
        return _task_facts(by_task, configs, *rest, groups, self._options.allow_limit)

    def _remember(self, content: bytes, results: Mapping[str, Any], facts: TaskFacts, top: Mapping[str, str]) -> None:
        """Keep what stands between the results and the config, for files with the same tasks."""
        if "groups" in top or not content.startswith(_OPENING):
            return  # `groups` repeats scores, so no two files are alike there
        start = content.find(_CLOSING, len(_OPENING)) + len(_CLOSING)
        stop = content.find(_CONFIG, start)
        end = content.find(_CLOSING, stop + len(_CONFIG)) + len(_CLOSING)
        whole = stop >= 0 and content[len(_OPENING) - 1 : start] == top["results"].encode()
        if whole and _rest(content[end:]) is not None:
            if len(self._middles) >= _MOST_MIDDLES:
                self._middles.clear()
            self._middles[tuple(results)] = content[start : stop + len(_CONFIG) - 1], facts, _dialect(top)


_OPENING = b'{\n  "results": {'
_CLOSING = b"\n  }"
_CONFIG = b'\n  "config": {'
# What may stand behind the config without deciding how the results are read.
_DECISIVE = WANTED - {"date", "git_hash", "lm_eval_version"}
_MOST_MIDDLES = 256
_DATE = re.compile(rb'\n  "date": ((?:0|[1-9]\d{0,15})(?:\.\d{1,15})?)(?=[,\n])')
_ANY_DATE = b"-1.5"


def key_parts(keys: tuple[str, ...]) -> list[tuple[str, str, str, str]]:
    """The measures among the keys of one task: (key, key of the standard error, measure, filter).

    A key of the new dialect holds a comma; where one key does, keys without are not measures.
    """
    new = any("," in key for key in keys)
    found = []
    for key in keys:
        measure, comma, chosen = key.partition(",")
        if bool(comma) != new or measure.endswith("_stderr") or (not new and key in _NOT_MEASURES):
            continue
        error = f"{measure}_stderr,{chosen}" if new else f"{measure}_stderr"
        found.append((key, error, measure, "" if chosen == "none" else chosen))
    return found


def number(value: Any) -> float:
    """A measured number; NaN for text, null and booleans."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


_public = lru_cache(maxsize=4096)(without_secrets)


@lru_cache(maxsize=512)
def _identity(config_text: str, options: Options) -> Identity:
    """Run, step and shots from the ``config`` of a file; a checkpoint's files share it."""
    config = parse_shared(config_text)
    if not isinstance(config, dict):
        raise RefusedFileError(
            "no-config", f"'config' is a {type(config).__name__}, so nothing says which model this is."
        )
    args = _model_args(config)
    neox = "iteration" in args and not any(args.get(key) for key in ("pretrained", "peft", "delta"))
    run, step = _neox_identity(args, config, options) if neox else _harness_identity(args, config, options)
    if config.get("limit") not in (None, 0, "None") and not options.allow_limit:
        raise RefusedFileError(
            "limited", f"measured on part of the items (--limit {config['limit']}); --allow-limit reads it."
        )
    if not run.model.strip() or not is_writable(run.model):
        raise RefusedFileError("no-model", f"{run.model!r} cannot be a model's name.")
    if max(step, run.seed or 0) > LARGEST:
        raise RefusedFileError("no-step", f"step {step} or seed {run.seed} is larger than any cube holds.")
    return Identity(run, step, _count(config.get("num_fewshot")) or 0)


def _harness_identity(args: Mapping[str, Any], config: Mapping[str, Any], options: Options) -> tuple[RunLabel, int]:
    name = next((_public(str(args[key])) for key in _MODEL_KEYS if args.get(key)), None)
    if name is None:
        raise RefusedFileError("no-model", "config.model_args names no model (pretrained=...).")
    both = (args.get("revision"), config.get("model_revision"))
    said = [_public(str(revision)) for revision in both if revision]
    named = sorted(set(said) - {"main"})
    if len(named) > 1:
        raise RefusedFileError("label-mismatch", f"the content names two revisions: {shown(named)}.")
    revision = named[0] if named else "main"
    run = _parsed_run(name if options.pattern is None else f"{name}@{revision}", options)
    stated = {step for step in (run.step, step_of(revision)) if step is not None}
    if len(stated) > 1:
        raise RefusedFileError("label-mismatch", f"the content names two steps: {shown(sorted(stated))}.")
    if stated:
        return run, stated.pop()
    steps = dict(options.revision_steps)
    if revision in steps:
        return run, steps[revision]
    raise RefusedFileError(
        "no-step",
        f"neither model {name!r} nor revision {revision!r} states a step; say it with --revision {revision}=STEP.",
    )


def _neox_identity(args: Mapping[str, Any], config: Mapping[str, Any], options: Options) -> tuple[RunLabel, int]:
    """GPT-NeoX's own evaluation: the full training arguments, with the step in ``iteration``."""
    name = next((str(args[key]) for key in ("eval_results_prefix", "load", "save") if args.get(key)), "").rstrip("/")
    if not name.strip("./"):
        raise RefusedFileError("no-model", "the NeoX arguments name no model (eval_results_prefix, load or save).")
    step = _count(args["iteration"])
    if step is None:
        raise RefusedFileError("no-step", f"iteration is {args['iteration']!r}, not a step.")
    run = _parsed_run(without_shots(name), options)
    if run.step is not None and run.step != step:
        raise RefusedFileError("label-mismatch", f"iteration is {step}, but {name!r} states step {run.step}.")
    shots = _count(config.get("num_fewshot"))
    claimed = shots_of(name)
    if claimed and shots is not None and shots not in claimed:
        raise RefusedFileError("label-mismatch", f"num_fewshot is {shots}, but {name!r} says {shown(sorted(claimed))}.")
    return run, step


def _parsed_run(name: str, options: Options) -> RunLabel:
    try:
        return parse_run(name, options.pattern)
    except (ReadError, ValueError) as error:
        raise RefusedFileError("no-model", f"{error}.") from error


def _model_args(config: Mapping[str, Any]) -> dict[str, Any]:
    args = config.get("model_args")
    if isinstance(args, Mapping):
        return dict(args)
    if not isinstance(args, str):
        # The oldest GPT-NeoX files are themselves the arguments.
        return dict(config) if "iteration" in config else {"pretrained": config.get("model_name")}
    found: dict[str, Any] = {}
    last = ""
    for part in args.split(","):
        key, equals, value = part.partition("=")
        if equals:
            last = key.strip()
            found[last] = value.strip()
        elif last:
            found[last] += f",{part}"  # a value that holds commas itself
    return found


@lru_cache(maxsize=512)
def _task_facts(
    by_task: str | None,
    configs: str | None,
    samples: str | None,
    higher: str | None,
    subtasks: str | None,
    groups: frozenset[str],
    allow_limit: bool,
) -> TaskFacts:
    """Facts about tasks from the texts of their sections; the same texts stand in many files."""
    stated: dict[str, Any] = dict(parse_mapping(by_task))
    for task, config in parse_mapping(configs).items():
        stated[task] = config.get("num_fewshot") if isinstance(config, dict) else None
    shots = {task: count for task, value in stated.items() if (count := _count(value)) is not None}
    n_items = {}
    for task, count in parse_mapping(samples).items():
        used, original = (count.get("effective"), count.get("original")) if isinstance(count, dict) else (count, count)
        if used != original and not allow_limit:
            raise RefusedFileError(
                "limited", f"{task} used {used} of {original} items (--limit); --allow-limit reads it."
            )
        if (known := _count(used)) is not None:
            n_items[task] = known
    better = {
        (task, measure): "higher" if up else "lower"
        for task, measures in parse_mapping(higher).items()
        if isinstance(measures, dict)
        for measure, up in measures.items()
        if isinstance(up, bool)
    }
    groups |= frozenset(task for task, members in parse_mapping(subtasks).items() if members)
    return TaskFacts(shots, n_items, better, groups)


def _count(value: Any) -> int | None:
    """A whole number from 0, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST else None


def _time(date: str | None, name: str) -> float:
    """When the evaluation ran, in seconds since 1970 (UTC), from the content or the file's name; NaN unknown."""
    try:
        if date is not None and float(date) > 0:
            return float(date)
    except ValueError:
        pass
    try:
        if match := _TIME.search(name):
            moment = datetime.fromisoformat("{date}T{h}:{m}:{s}+00:00".format(**match.groupdict()))
            return moment.timestamp() + float(match["fraction"] or 0)
        if match := _NEOX_TIME.search(name):
            return datetime.fromisoformat("{y}-{mo}-{d}T{h}:{m}:{s}+00:00".format(**match.groupdict())).timestamp()
    except ValueError:
        pass
    return math.nan


def _rest(content: bytes) -> dict[str, str] | None:
    """The wanted entries behind the config, as text; None where that is no plain end of a file.

    A section that decides how the results are read makes it none: it belongs before the config.
    """
    if not content.startswith((b',\n  "', b"\n}")):
        return None
    date = _DATE.search(content)
    if date is None:
        return _rest_shared(content)
    rest = _rest_shared(content[: date.start(1)] + _ANY_DATE + content[date.end(1) :])
    if rest is None or rest.get("date") != _ANY_DATE.decode():
        return rest
    return {**rest, "date": date[1].decode()}


@lru_cache(maxsize=64)
def _rest_shared(content: bytes) -> dict[str, str] | None:
    """:func:`_rest` of files that differ in nothing but their date: most of it is a report of the environment."""
    try:
        rest = parse("{" + content.decode().removeprefix(","))
    except (RefusedFileError, UnicodeDecodeError):
        return None
    if not _DECISIVE.isdisjoint(rest):
        return None
    return {key: str(rest[key]) for key in ("git_hash", "date", "lm_eval_version") if rest.get(key) is not None}


def _dialect(top: Mapping[str, str]) -> str:
    """What wrote a file, where it does not state its version."""
    return "lm-eval 0.3" if "versions" in top and "configs" not in top else "lm-eval"


def _version(top: Mapping[str, str], dialect: str) -> str:
    for key in ("lm_eval_version", "git_hash"):
        said = top.get(key, "").strip('"')
        if said and said != "null":
            return f"lm-eval {said}" if key == "lm_eval_version" else f"lm-eval at {said}"
    return dialect
