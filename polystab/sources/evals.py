"""Evaluating checkpoints with the lm-evaluation-harness."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from polystab.cube.labels import MetricId
from polystab.errors import ReadError, shown
from polystab.sources.checkpoint_errors import memory_errors
from polystab.sources.eval_files import EvalFile, EvalReader, Options
from polystab.sources.eval_quiet import import_harness, undisturbed
from polystab.sources.eval_results import SHARES, chance_level, usual_direction
from polystab.sources.eval_scoring import scorer
from polystab.sources.eval_table import Table
from polystab.sources.eval_tasks import EvaluationError, bench, check_tasks, content_digest
from polystab.sources.item_answers import TaskItems, task_items
from polystab.sources.items import items_dataset, task_label
from polystab.sources.measuring import Measurement

if TYPE_CHECKING:
    from polystab.sources.checkpoints import Checkpoint

# Measures that a task's own statement of its chance level is about.
_GUESSED = ("acc", "acc_norm", "exact_match")


@dataclass(frozen=True)
class Evals:
    """Runs tasks of the lm-evaluation-harness on checkpoints.

    Scores are those of ``lm_eval.simple_evaluate``, and have the ids that
    :func:`polystab.read_lm_eval` gives them. Tasks, requests and tokens are prepared
    once a process, so use one object for many checkpoints.

    Parameters
    ----------
    tasks : sequence of str
        Names of tasks, groups or tags.
    include_path : sequence of str, optional
        Folders with task files of your own. Where these have all the tasks, the
        harness's own 14,000 files need not be looked through, which takes ten seconds.
    num_fewshot : int, optional
        Examples in the prompt; by default as each task says. A task that says 0 itself
        is never given any, as in the harness.
    batch_size : int, optional
        Sequences in one forward pass. It decides no numbers, but for rounding.
    limit : int, optional
        Only the first so many documents of each task: for trying out.
    keep_items : bool, optional
        Also keep what was answered to each item, as the group ``items``.

    Notes
    -----
    The standard errors of means are the harness's. Those of other statistics
    (perplexity, F1), which it bootstraps, are left out: 100,000 resamples of each
    checkpoint cost more than all the rest, and those of groups, as its formula does not
    match their mean. A task's accuracy from guessing is what the task states as
    ``metadata: {chance: 0.25}``, else one divided by its number of options where all
    items have as many.

    The random states, log levels and warning filters of the process are afterwards
    what they were before.

    Examples
    --------
    >>> evals = Evals(["arc_easy", "lambada_openai"], num_fewshot=0)
    >>> evals.settings()["tasks"]
    ['arc_easy', 'lambada_openai']
    """

    tasks: Sequence[str]
    include_path: Sequence[str] = ()
    num_fewshot: int | None = None
    batch_size: int = 64
    limit: int | None = None
    keep_items: bool = True

    def __post_init__(self) -> None:
        for name in ("tasks", "include_path"):
            given = getattr(self, name)
            texts = [given] if isinstance(given, str) else [str(text) for text in given]
            kept = sorted({*texts}) if name == "tasks" else texts
            object.__setattr__(self, name, tuple(kept))  # hashable, and the same however it was written
        if not self.tasks:
            raise ReadError("no task to evaluate on; name at least one, e.g. --tasks arc_easy.")
        for name, least in (("num_fewshot", 0), ("batch_size", 1), ("limit", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise ReadError(f"{name} is {value!r}; it must be a whole number from {least}.")

    @property
    def name(self) -> str:
        """As on the command line: ``polystab fill evals``."""
        return "evals"

    def settings(self) -> dict[str, Any]:
        """What decides the numbers. Task folders count by their content, wherever they are.

        Raises
        ------
        ReadError
            A folder of ``include_path`` does not exist.
        """
        return {
            "tasks": list(self.tasks),
            "include_path_sha256": content_digest(self.include_path),
            "num_fewshot": self.num_fewshot,
            "limit": self.limit,
            "keep_items": self.keep_items,
            # A patch release changes single tasks at most; the whole version is in the provenance.
            "harness": ".".join(_version("lm_eval").split(".")[:2]),
        }

    def check(self) -> None:
        """Find out what is wrong with the request before any checkpoint is loaded. Loads no data.

        Raises
        ------
        UnknownNameError
            A task does not exist; close names are suggested.
        ReadError
            The harness is not installed; a folder of ``include_path`` is missing, holds
            no task, or holds a broken YAML file.
        """
        import_harness()
        with undisturbed():
            check_tasks(tuple(self.tasks), tuple(self.include_path))

    def measure(self, checkpoint: Checkpoint) -> Measurement:
        """Evaluate one checkpoint.

        Returns
        -------
        Measurement
            Values and standard errors by metric id; NaN scores are left out and noted
            (``not-a-number``). Noted as well: ``truncated``, prompts longer than the
            model's context, whose beginning was cut.

        Raises
        ------
        EvaluationError
            By ``reason``: ``dataset-unavailable``; ``broken-task``;
            ``non-finite-output``, finite weights gave log-likelihoods that are not;
            ``item-too-long``, an option alone exceeds the context; ``empty-option``, the
            tokenizer makes nothing of an option; ``no-text-end``, it has no token that
            texts start or end with.
        UnknownNameError, ReadError
            As :meth:`check`; or the checkpoint cannot be loaded or is not finite.
        """
        checkpoint.require_finite()
        model, tokenizer = checkpoint.model(), checkpoint.tokenizer()
        with (
            undisturbed(next(iter(model.parameters())).device),
            memory_errors(f"evaluating with batches of {self.batch_size}"),
        ):
            ready = bench(tuple(self.tasks), tuple(self.include_path), self.num_fewshot, self.limit)
            with _own_padding(tokenizer):
                lm = scorer(model, tokenizer, bench=ready, batch_size=self.batch_size)
                results = ready.run(lm)
            _refuse_non_finite(ready.tasks)
            stated = {name: _stated_chance(name, task) for name, task in ready.tasks.items()}
        items = {
            task: task_items(task_label(task, results["n-shot"].get(task) or 0), rows)
            for task, rows in results["samples"].items()
        }
        found = _measurement(results, items, stated)
        if lm.truncated:
            detail = f"{lm.truncated} of {lm.requests} prompts exceed the model's context of {lm.max_length} tokens"
            found.notes.append(("truncated", f"{detail}; their beginning was cut."))
        if self.keep_items:
            found.details["items"] = items_dataset(list(items.values()))
            others = sorted(f"{part.task} ({part.filter})" for part in items.values() if part.filter != "none")
            if others:
                found.notes.append(("items-filter", f"answers are those of a filter: {shown(others)}."))
        found.provenance = {
            "lm_eval": _version("lm_eval"),
            "torch": _version("torch"),
            "transformers": _version("transformers"),
            "batch_size": str(self.batch_size),
            "device": str(lm.device),
            "dtype": str(model.dtype).removeprefix("torch."),
        }
        return found


@contextmanager
def _own_padding(tokenizer: Any) -> Iterator[None]:
    """Take back the padding token that the harness gives a tokenizer without one."""
    before = tokenizer.pad_token
    try:
        yield
    finally:
        if tokenizer.pad_token != before:
            tokenizer.pad_token = before


def _measurement(
    results: Mapping[str, Any], items: Mapping[str, TaskItems], stated: Mapping[str, float]
) -> Measurement:
    """The harness's results in the cube's words, as our reader of its files has them."""
    parsed = _parsed(results)
    table, found = Table(), Measurement()
    unusable = table.add("", "", parsed)
    if unusable:
        found.notes.append(("not-a-number", f"left out: {shown(unusable)}."))
    keys = list(table.metrics)
    for code, value, error in zip(table.metric, table.value, table.stderr, strict=True):
        task, measure, chosen, shots = keys[code]
        metric = str(MetricId("eval", task, measure, shots, chosen))
        found.values[metric] = value
        if 0 <= error < math.inf:
            found.stderr[metric] = error
        found.metrics[metric] = {
            "units": "1" if measure in SHARES else "",
            "better": parsed.facts.better.get((task, measure)) or usual_direction(measure),
            "chance": _chance_level(
                task, measure, stated.get(task, math.nan), items[task].chance if task in items else math.nan
            ),
            "n_items": parsed.facts.n_items.get(task, -1),
            "shots": shots,
            "filter": chosen,
        }
    return found


def _parsed(results: Mapping[str, Any]) -> EvalFile:
    """The results as our reader sees them in a file. Going through text makes the two agree by construction."""
    from lm_eval.utils import handle_non_serializable

    sections = ("results", "groups", "group_subtasks", "n-shot", "n-samples", "higher_is_better")
    content = {section: results[section] for section in sections if section in results}
    content["config"] = {"model_args": {"pretrained": "model", "revision": "step0"}}
    text = json.dumps(content, default=handle_non_serializable, ensure_ascii=False)
    return EvalReader(Options(allow_limit=True)).parse(text.encode("utf-8", "backslashreplace"), "results")


def _chance_level(task: str, measure: str, stated: float, by_options: float) -> float:
    if measure in _GUESSED and not math.isnan(stated):
        return stated
    if measure in ("acc", "acc_norm") and not math.isnan(by_options):
        return by_options
    return chance_level(task, measure)


def _stated_chance(name: str, task: Any) -> float:
    """What a task's ``metadata`` gives as its chance level; NaN where it says nothing."""
    metadata = task.get_config("metadata")
    chance = metadata.get("chance") if isinstance(metadata, Mapping) else None
    if chance is None:
        return math.nan
    if isinstance(chance, bool) or not isinstance(chance, (int, float)) or not 0 <= chance <= 1:
        raise EvaluationError("broken-task", f"{name} states chance {chance!r}; it must be a number from 0 to 1.")
    return float(chance)


def _refuse_non_finite(tasks: Mapping[str, Any]) -> None:
    """Refuse scores that were made of log-likelihoods that are no numbers: an argmax over NaN looks like an answer."""
    bad: dict[str, int] = {}
    total = 0
    for name, task in tasks.items():
        answers = [answer for instance in task.instances for answer in instance.resps]
        numbers = [answer[0] if isinstance(answer, tuple) else answer for answer in answers]
        total += len(numbers)
        count = sum(isinstance(number, float) and not math.isfinite(number) for number in numbers)
        if count:
            bad[name] = count
    if bad:
        raise EvaluationError(
            "non-finite-output",
            f"{sum(bad.values())} of {total} log-likelihoods are not finite, in {shown(sorted(bad))}: the weights are "
            "finite but the outputs overflow, as in a run that diverged.",
        )


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
