"""What was answered to each test item: of one checkpoint, or from the harness's own samples files.

An item is one document of one task. It is known by its task and the hash that the
harness gives its document, because numbers of documents change with ``--limit``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.cube.audit import AuditLog, as_kept, audit_entries
from polystab.cube.labels import MetricId, writable
from polystab.cube.specs import GROUPS
from polystab.errors import SHOWN_LABELS, ConflictError, CubeTooLargeError, ReadError, RefusedFileError, shown
from polystab.progress_bars import tracked
from polystab.sources.eval_cells import OnDuplicate
from polystab.sources.eval_files import EvalFile, EvalReader, Options
from polystab.sources.eval_results import read_lm_eval
from polystab.sources.item_answers import TaskItems, task_items
from polystab.sources.walk import paused_collection, walk_files


def items_dataset(parts: Sequence[TaskItems]) -> xr.Dataset:
    """The answers of one checkpoint to the items of several tasks.

    Returns
    -------
    xarray.Dataset
        Along ``item`` (``task/hash``): ``choice`` (the option with the highest
        log-likelihood, as the harness's ``acc`` has it; -1 where there are no
        options), ``correct`` (1, 0, -1 unknown) and ``margin`` (log-likelihood, in
        nats, of the best correct option minus that of the best wrong one; NaN where
        unknown), with the coordinates ``task`` and ``doc_hash``.
    """
    parts = sorted(parts, key=lambda part: part.task)
    columns: dict[str, npt.NDArray[Any]] = {
        "choice": np.array([value for part in parts for value in part.choice], dtype=np.int16),
        "correct": np.array([value for part in parts for value in part.correct], dtype=np.int8),
        "margin": np.array([value for part in parts for value in part.margin], dtype=np.float32),
    }
    labels = [label for part in parts for label in part.labels]
    tasks = [part.task for part in parts for _ in part.hashes]
    hashes = [digits for part in parts for digits in part.hashes]
    return described_items({name: (("item",), column) for name, column in columns.items()}, labels, tasks, hashes)


def described_items(
    variables: Mapping[str, tuple[Sequence[str], npt.NDArray[Any]]],
    labels: Sequence[str],
    tasks: Sequence[str],
    hashes: Sequence[str],
) -> xr.Dataset:
    """A Dataset of the group ``items``, with what each variable means."""
    group = next(group for group in GROUPS if group.name == "items")
    said = {spec.name: spec.doc for spec in group.variables} | {
        "margin": "log-likelihood of the best correct option minus that of the best wrong one; NaN unknown"
    }
    data = xr.Dataset(
        dict(variables),
        coords={
            "item": ("item", _texts(labels)),
            "task": ("item", _texts(tasks)),
            "doc_hash": ("item", _texts(hashes)),
        },
        attrs={"summary": group.doc},
    )
    for name, text in said.items():
        if name in data.variables:
            data[name].attrs["long_name"] = text
    if "margin" in data:
        data["margin"].attrs["units"] = "nat"
    return data


def _texts(labels: Sequence[str]) -> npt.NDArray[np.str_]:
    return np.array([writable(label) for label in labels], dtype=np.str_)


# Items of one task, with the moment of the evaluation as the harness writes it into names.
_SAMPLES = re.compile(r"samples_(?P<task>.+)_(?P<moment>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.jsonl", re.DOTALL)
_RESULTS = re.compile(r".+_(?P<moment>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.json", re.DOTALL)

# Answers of one group; more are gigabytes that hold next to nothing.
MOST_CELLS = 2**31


def task_label(task: str, shots: int) -> str:
    """The task as metric ids have it: ``arc_easy@5shot``, because shots change the answers."""
    return str(MetricId("eval", task, "", shots)).removeprefix("eval/").removesuffix("/")


def read_lm_eval_samples(
    tree: str | os.PathLike[str],
    *,
    on_duplicate: OnDuplicate = "error",
    allow_limit: bool = False,
    run_pattern: str | None = None,
    revision_steps: Mapping[str, int] | None = None,
    title: str = "",
) -> xr.DataTree:
    """Read results files of the harness, and what was answered to each item, into one tree.

    Parameters
    ----------
    tree : path
        A folder that holds ``results_<time>.json`` and, beside them,
        ``samples_<task>_<time>.jsonl``, which ``lm_eval --log_samples`` writes; or one
        results file.
    on_duplicate, allow_limit, run_pattern, revision_steps, title
        As in :func:`polystab.read_lm_eval`; ``on_duplicate`` also settles different
        answers to one item.

    Returns
    -------
    xarray.DataTree
        The cube of scores at the root; the child ``items`` with ``choice``, ``correct``
        and ``margin`` over (model, seed, step, item), -1 and NaN where nothing was
        read; the child ``audit`` with an entry for every file of both kinds. The task
        of an item has its shots with it (``arc_easy@5shot``), as in metric ids.

    Raises
    ------
    ReadError
        As :func:`polystab.read_lm_eval`; or there is no samples file, or all were
        refused.
    ConflictError
        Different answers to one item, with ``on_duplicate="error"``, or a rule by time
        where a file does not say when it was made.
    CubeTooLargeError
        There are over two thousand million cells.

    Notes
    -----
    A samples file is of the run and step of the results file of the same time in its
    folder. Refused, by reason: ``no-results-file`` (none, or it was refused itself),
    ``label-mismatch`` (results that lack the task), ``missing-keys``, ``duplicate-rows``,
    ``invalid-json``, ``empty``, ``unreadable``. A last line that was cut short is left out
    and noted as ``truncated-line``; fewer items than the results count are noted as
    ``items-missing``; answers of a filter other than ``none`` as ``items-filter``. Files are
    read line by line.

    Examples
    --------
    >>> tree = read_lm_eval_samples("results/")                    # doctest: +SKIP
    >>> tree["items"].correct.sel(seed=3).mean("item")             # doctest: +SKIP
    """
    options = {"allow_limit": allow_limit, "run_pattern": run_pattern, "revision_steps": revision_steps}
    scores = read_lm_eval(tree, on_duplicate=on_duplicate, title=title, **options)  # type: ignore[arg-type]
    reader = EvalReader(
        Options(
            re.compile(run_pattern) if run_pattern is not None else None,
            tuple(sorted((revision_steps or {}).items())),
            allow_limit,
        )
    )
    log = AuditLog(audit_entries(scores))
    with paused_collection():
        known: dict[str, int] = {}
        blocks = _read_blocks(Path(tree).expanduser(), reader, log, known)
        ordered = _settled(blocks, on_duplicate, known, log)
    cube = scores.to_dataset()
    return xr.DataTree.from_dict(
        {"/": cube, "/items": _over_checkpoints(cube, ordered, list(known)), "/audit": log.dataset()}
    )


class _Run(NamedTuple):
    model: str
    seed: int
    step: int


@dataclass
class _Block:
    """The answers in one samples file; ``codes`` number the items."""

    path: str
    sha256: str
    run: _Run
    time: float
    codes: npt.NDArray[np.int64]
    choice: npt.NDArray[np.int16]
    correct: npt.NDArray[np.int8]
    margin: npt.NDArray[np.float32]


def _read_blocks(tree: Path, reader: EvalReader, log: AuditLog, known: dict[str, int]) -> list[_Block]:
    """Every samples file that can be used; new items are appended to ``known``."""
    root = tree if tree.is_dir() else tree.parent
    results = _results_files(tree, reader, log)
    blocks, found = [], 0
    files = walk_files(root, ".jsonl", on_error=lambda where, why: log.refuse(where, "unreadable", why))
    for path, name in tracked(files, "reading samples", unit="file"):
        folder, _, file = name.rpartition("/")
        match = _SAMPLES.fullmatch(file)
        if match is None or (not tree.is_dir() and (folder, match["moment"]) not in results):
            continue
        found += 1
        try:
            parsed = _results_of(results.get((folder, match["moment"]), []), match["task"])
            blocks.append(_block(path, name, match["task"], parsed, log, known))
        except RefusedFileError as refusal:
            log.refuse(name, refusal.reason, refusal.detail)
        except OSError as error:
            log.refuse(name, "unreadable", f"{error.strerror or error}.")
    if not found:
        raise ReadError(
            f"no samples_<task>_<time>.jsonl below {root}; the harness writes them beside its results with --log_samples."
        )
    if not blocks:
        refused = [entry for entry in log.entries if entry.status == "refused" and entry.path.endswith(".jsonl")]
        first = [f"{entry.path} ({entry.reason}: {entry.detail})" for entry in refused[:1]]
        raise ReadError(f"none of the {found} samples files below {root} could be used. First, {first[0]}")
    return blocks


def _results_files(tree: Path, reader: EvalReader, log: AuditLog) -> dict[tuple[str, str], list[EvalFile]]:
    """The results files that were read, by folder and the time in their names."""
    found: dict[tuple[str, str], list[EvalFile]] = defaultdict(list)
    read = {entry.path for entry in log.entries if entry.status == "read"}
    for path, name in walk_files(tree, ".json", on_error=lambda *_: None):  # it was said before
        folder, _, file = name.rpartition("/")
        if (match := _RESULTS.fullmatch(file)) and as_kept(name) in read:
            with suppress(RefusedFileError):  # of a folder that the audit cannot tell from another
                found[folder, match["moment"]].append(reader.parse(Path(path).read_bytes(), name))
    return dict(found)


def _results_of(parsed: Sequence[EvalFile], task: str) -> EvalFile:
    if not parsed:
        raise RefusedFileError(
            "no-results-file", "no results file of the same time was read beside it, so nothing says which run it is."
        )
    having = [file for file in parsed if task in file.results]
    if len({(file.identity.run, file.identity.step) for file in having}) != 1:
        said = "several results files of this time have" if having else "the results file of the same time lacks"
        raise RefusedFileError("label-mismatch", f"{said} the task {task!r}.")
    return having[0]


def _block(path: str, name: str, task: str, parsed: EvalFile, log: AuditLog, known: dict[str, int]) -> _Block:
    cut: list[int] = []
    shots = parsed.facts.shots.get(task, parsed.identity.num_fewshot)
    with Path(path).open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    items = task_items(task_label(task, shots), _rows(path, cut))
    if cut:
        log.note(name, "truncated-line", f"line {cut[0]}, the last, was cut short and is left out.", sha256=digest)
    wanted = parsed.facts.n_items.get(task, 0)
    if len(items.hashes) < wanted:
        detail = f"{len(items.hashes)} items, of the {wanted} that the results are about."
        log.note(name, "items-missing", detail, sha256=digest)
    if items.filter != "none":
        log.note(name, "items-filter", f"answers are those of the filter {items.filter}.", sha256=digest)
    identity = parsed.identity
    run = _Run(identity.run.model, identity.run.seed or 0, identity.step)
    log.read(name, sha256=digest, detail=f"{run.model} seed {run.seed} step {run.step}, {len(items.hashes)} items")
    codes = np.array([known.setdefault(label, len(known)) for label in items.labels], dtype=np.int64)
    return _Block(
        name,
        digest,
        run,
        parsed.time,
        codes,
        np.array(items.choice, dtype=np.int16),
        np.array(items.correct, dtype=np.int8),
        np.array(items.margin, dtype=np.float32),
    )


def _rows(path: str, cut: list[int]) -> Iterator[Mapping[str, Any]]:
    """The rows of a samples file; the number of a last line that is no whole row goes to ``cut``."""
    bad: tuple[int, str] | None = None
    with Path(path).open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            if bad is not None:
                raise RefusedFileError("invalid-json", f"line {bad[0]} is not JSON: {bad[1]}.")
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                bad = number, str(error)[:200]
                continue
            if not isinstance(row, dict):
                raise RefusedFileError(
                    "missing-keys", f"line {number} is a {type(row).__name__}, not a row of samples."
                )
            yield row
    if bad is not None:
        cut.append(bad[0])


def _settled(blocks: list[_Block], rule: OnDuplicate, known: Mapping[str, int], log: AuditLog) -> list[_Block]:
    """The blocks in order of precedence, the strongest last; answers that give way go to the audit."""
    if rule in ("latest", "earliest"):
        sign = 1 if rule == "latest" else -1
        blocks = sorted(
            blocks, key=lambda block: (-math.inf if math.isnan(block.time) else sign * block.time, block.path)
        )
    else:
        blocks = sorted(blocks, key=lambda block: block.path, reverse=rule == "first")
    labels = list(known)
    by_run: dict[_Run, list[_Block]] = defaultdict(list)
    for block in blocks:
        for earlier in by_run[block.run]:
            if lost := _differences(earlier, block, labels):
                _refuse_or_record(earlier, block, lost, rule, log)
        by_run[block.run].append(block)
    return blocks


def _differences(loser: _Block, winner: _Block, labels: Sequence[str]) -> dict[str, float]:
    """Cells of two files of one run that differ, with the loser's choice, or its correctness where there is none."""
    _, mine, theirs = np.intersect1d(loser.codes, winner.codes, assume_unique=True, return_indices=True)
    other = (loser.choice[mine] != winner.choice[theirs]) | (loser.correct[mine] != winner.correct[theirs])
    run = "|".join(str(part) for part in loser.run)
    return {
        f"{run}|{labels[loser.codes[i]]}": float(loser.choice[i] if loser.choice[i] >= 0 else loser.correct[i])
        for i in mine[other].tolist()
    }


def _refuse_or_record(loser: _Block, winner: _Block, lost: dict[str, float], rule: OnDuplicate, log: AuditLog) -> None:
    pair = f"{loser.path} and {winner.path}"
    if rule == "error":
        raise ConflictError(
            f"{len(lost)} answers differ between {pair}: {shown(lost, SHOWN_LABELS)}. Choose on_duplicate "
            "latest, earliest, first or last; what gives way is kept in the audit."
        )
    if rule in ("latest", "earliest") and not abs(loser.time - winner.time) > 0:
        raise ConflictError(
            f"on_duplicate={rule!r} goes by when evaluations ran, but {pair} do not say, or say the same."
        )
    log.replace(loser.path, rule, lost, by=winner.path, sha256=loser.sha256)


def _over_checkpoints(cube: xr.Dataset, blocks: Sequence[_Block], labels: Sequence[str]) -> xr.Dataset:
    """The answers over (model, seed, step, item), on the cube's own labels."""
    names = ("model", "seed", "step")
    places = [{label: i for i, label in enumerate(cube[name].values.tolist())} for name in names]
    tasks = [label.rpartition("/")[0] for label in labels]
    order = sorted(range(len(labels)), key=lambda i: (tasks[i], i))
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.arange(len(labels))
    shape = (*(len(place) for place in places), len(labels))
    if math.prod(shape) > MOST_CELLS:
        counts = Counter(block.run.model for block in blocks)
        raise CubeTooLargeError(
            f"{' x '.join(f'{size:,}' for size in shape)} cells (model x seed x step x item) are too many for one array; "
            f"read one model at a time: {shown(counts)}."
        )
    arrays: dict[str, npt.NDArray[Any]] = {
        "choice": np.full(shape, -1, dtype=np.int16),
        "correct": np.full(shape, -1, dtype=np.int8),
        "margin": np.full(shape, np.nan, dtype=np.float32),
    }
    for block in blocks:
        at = tuple(place[label] for place, label in zip(places, block.run, strict=True))
        for name, array in arrays.items():
            array[at][rank[block.codes]] = getattr(block, name)
    data = described_items(
        {name: ((*names, "item"), array) for name, array in arrays.items()},
        [labels[i] for i in order],
        [tasks[i] for i in order],
        [labels[i].rpartition("/")[2].partition("#")[0] for i in order],
    )
    return data.assign_coords({name: cube[name].values for name in names})
