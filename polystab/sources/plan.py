"""What a fill would take, before it is started: units, bytes and hours, with every assumption said."""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from polystab.errors import ReadError, UnknownNameError, did_you_mean, shown
from polystab.sources.plan_rates import (
    EVALS_DOCUMENT,
    MACHINE,
    RATES,
    UNKNOWN_TASK,
    Task,
    bytes_of_unit,
    seconds_of_checkpoint,
    task_size,
)
from polystab.sources.registry import measurers
from polystab.sources.runs import Run, RunTable, read_runs
from polystab.sources.unit_keys import UnitKey
from polystab.sources.units import is_done

if TYPE_CHECKING:
    import pandas as pd

PathLike = str | os.PathLike[str]

# Weights on the Hub are float16; the Pythia repositories also have the causal mask of each layer, 2,048 x 2,048 bytes.
BYTES_A_PARAMETER = 2
PYTHIA_CONTEXT = 2048
# config.json and the tokenizer's files.
SMALL_FILES_BYTES = 2_200_000
# The tasks that PolyPythias evaluated and whose size is known; taken where none is named.
DEFAULT_TASKS = ("arc_challenge", "arc_easy", "lambada_openai", "logiqa", "piqa", "sciq", "winogrande", "wsc")
DEFAULT_BANDWIDTH = 50e6


@dataclass(frozen=True)
class PlanRow:
    """What one source takes on the runs of one model: units still to measure, seconds of one worker, bytes of units."""

    model: str
    source: str
    units: int
    seconds: float | None
    store_bytes: float | None


@dataclass(frozen=True)
class FillPlan:
    """What a fill would take.

    Attributes
    ----------
    runs, checkpoints, units : int
        Asked for; ``units`` is checkpoints x sources.
    already_done : int
        Units that are in the output folder, if one was named. What follows is about the others.
    rows : tuple of PlanRow
        By model and source.
    downloads : int
        Checkpoints to fetch from the Hub.
    download_bytes, largest_bytes : float
        Of all of them, and of the largest; those of unknown size are not in it.
    store_bytes : float
        Of the units; the cube that they are joined into takes about as much.
    seconds : float
        Of one worker, downloads not counted.
    workers, bandwidth : int, float
        As given; bytes a second of all workers together.
    hours_least, hours_most : float
        If downloads and measuring overlap fully, and if they do not at all.
    assumptions, unknown : tuple of str
        What the numbers rest on; and what is not in them.
    """

    runs: int
    checkpoints: int
    units: int
    already_done: int
    rows: tuple[PlanRow, ...]
    downloads: int
    download_bytes: float
    largest_bytes: float
    store_bytes: float
    seconds: float
    workers: int
    bandwidth: float
    hours_least: float
    hours_most: float
    assumptions: tuple[str, ...]
    unknown: tuple[str, ...]


def plan_fill(
    sources: str | Sequence[str],
    *,
    runs: RunTable | pd.DataFrame | PathLike,
    output: PathLike | None = None,
    models: str | Collection[str] | None = None,
    seeds: int | Collection[int] | None = None,
    steps: int | Collection[int] | None = None,
    tasks: Sequence[str] = (),
    workers: int = 1,
    speed: float = 1.0,
    bandwidth: float = DEFAULT_BANDWIDTH,
) -> FillPlan:
    """Say what :func:`polystab.fill` would download, store and compute. Nothing is downloaded for it.

    Parameters
    ----------
    sources : str or sequence of str
        As ``polystab fill --list`` names them.
    runs : RunTable, DataFrame, path or catalog name
        See :func:`polystab.sources.runs.read_runs`. The Hub is asked only for the steps of runs that list none.
    output : path, optional
        A folder of units: what is done there is not counted.
    models, seeds, steps : one or a collection, optional
        Which part of the runs; all without it.
    tasks : sequence of str, optional
        Of ``evals``; by default :data:`DEFAULT_TASKS`.
    workers : int, optional
        Processes that measure at once, each on a core of its own.
    speed : float, optional
        How many times as fast as :data:`~polystab.sources.plan_rates.MACHINE` a worker is.
    bandwidth : float, optional
        Bytes a second that all downloads share.

    Returns
    -------
    FillPlan
        An estimate. Runs whose number of parameters is not known are counted as units, and listed under ``unknown``.

    Raises
    ------
    ReadError, SelectionError
        The runs cannot be read, or none is left of them; an argument is out of range.
    UnknownNameError
        There is no such source.

    Examples
    --------
    >>> plan = plan_fill("weights", runs="polypythias", models="pythia-14m", seeds=0)
    >>> plan.units, plan.downloads, round(plan.download_bytes / 1e9, 1)
    (154, 154, 8.5)
    """
    names = _checked(sources, workers, speed, bandwidth)
    table = read_runs(runs, find_steps=False) if not isinstance(runs, RunTable) else runs
    table = table.select(models=models, seeds=seeds).with_steps().select(steps=steps)
    work = _Work(names, [(name, task_size(name)) for name in tasks or DEFAULT_TASKS], output)
    for run in table:
        work.add(run)
    compute = work.seconds / speed
    download, parallel = work.download_bytes / bandwidth, compute / min(workers, max(work.to_measure, 1))
    return FillPlan(
        runs=len(table),
        checkpoints=work.checkpoints,
        units=work.checkpoints * len(names),
        already_done=work.done,
        rows=work.rows(speed),
        downloads=work.downloads,
        download_bytes=work.download_bytes,
        largest_bytes=work.largest,
        store_bytes=work.store_bytes,
        seconds=compute,
        workers=workers,
        bandwidth=bandwidth,
        hours_least=max(download, parallel) / 3600,
        hours_most=(download + parallel) / 3600,
        assumptions=tuple(_assumptions(work, workers, speed, bandwidth, bool(tasks))),
        unknown=tuple(work.unknown()),
    )


def checkpoint_bytes(run: Run) -> float | None:
    """Bytes of the files that are fetched of one checkpoint on the Hub; None where that is not known.

    Examples
    --------
    >>> from polystab.sources.runs import catalog
    >>> round(checkpoint_bytes(catalog("pythia").select(models="pythia-70m").runs[0]) / 1e6)
    168
    """
    parameters = _parameters(run)
    if parameters is None:
        return None
    masks = int(run.facts.get("n_layers") or 0) * PYTHIA_CONTEXT**2 if run.location.startswith("EleutherAI/") else 0
    return BYTES_A_PARAMETER * parameters + masks + SMALL_FILES_BYTES


class _Work:
    """Sums over runs."""

    def __init__(self, sources: Sequence[str], tasks: list[tuple[str, Task | None]], output: PathLike | None) -> None:
        self.sources, self.folder = sources, None if output is None else Path(output).expanduser()
        self.tasks = tasks
        sizes = [size or UNKNOWN_TASK for _, size in tasks]
        self.documents = sum(size.documents for size in sizes)
        self.tokens = sum(size.documents * size.endings * size.tokens for size in sizes)
        self.checkpoints = self.done = self.downloads = self.to_measure = 0
        self.download_bytes = self.largest = self.store_bytes = self.seconds = 0.0
        self.units: dict[tuple[str, str], int] = defaultdict(int)
        self.costs: dict[tuple[str, str], tuple[float | None, float | None]] = {}
        self.sizeless: set[str] = set()
        self.beyond: set[str] = set()

    def add(self, run: Run) -> None:
        """Count a run in."""
        parameters = _parameters(run)
        if not parameters:
            self.sizeless.add(run.model)
        self.checkpoints += len(run.steps)
        needed: set[int] = set()
        for source in self.sources:
            left = [step for step in run.steps if not self._is_done(source, run, step)]
            self.done += len(run.steps) - len(left)
            needed |= {*left}
            if left and source == "weights":
                needed.add(0)  # which changes are measured against, even where it was not asked for
            self._count(run.model, source, len(left), parameters)
        self.to_measure += len(needed & {*run.steps})
        if run.on_hub and needed:
            size = checkpoint_bytes(run) or 0.0
            self.downloads += len(needed)
            self.download_bytes += size * len(needed)
            self.largest = max(self.largest, size)

    def _is_done(self, source: str, run: Run, step: int) -> bool:
        return self.folder is not None and is_done(self.folder, UnitKey(source, run.model, run.seed, step))

    def _count(self, model: str, source: str, units: int, parameters: float | None) -> None:
        seconds = size = None
        if parameters and source in RATES:
            seconds = seconds_of_checkpoint(source, parameters, tokens=self.tokens)
            size = bytes_of_unit(source, parameters, documents=self.documents)
            if not RATES[source][0].parameters <= parameters <= RATES[source][-1].parameters:
                self.beyond.add(f"{source} of {model}")
        self.units[model, source] += units
        self.costs[model, source] = (seconds, size)
        self.seconds += units * (seconds or 0.0)
        self.store_bytes += units * (size or 0.0)

    def rows(self, speed: float) -> tuple[PlanRow, ...]:
        """One row for each model and source."""
        rows = []
        for (model, source), units in self.units.items():
            seconds, size = self.costs[model, source]
            rows.append(
                PlanRow(
                    model,
                    source,
                    units,
                    None if seconds is None else units * seconds / speed,
                    None if size is None else units * size,
                )
            )
        return tuple(rows)

    def unknown(self) -> list[str]:
        """What is not in the sums."""
        said = []
        if self.sizeless:
            said.append(
                f"the number of parameters of {shown(sorted(self.sizeless))}: their bytes and hours are not counted; "
                "add a column n_parameters to the run table"
            )
        if rateless := [source for source in self.sources if source not in RATES]:
            said.append(f"how long {shown(rateless)} takes: hours and units' bytes are not counted")
        return said


def _assumptions(work: _Work, workers: int, speed: float, bandwidth: float, tasks_given: bool) -> list[str]:
    said = [
        f"measuring: {MACHINE}, times {speed:g}; rates of benchmarks/bench_plan.py with the sources' default options, "
        "random weights in Pythia's shapes, interpolated by the number of parameters",
        f"{workers} workers, each with a core of its own and as fast as if it were alone",
    ]
    if work.beyond:
        said.append(f"extrapolated beyond the sizes that were measured: {shown(sorted(work.beyond))}")
    if work.downloads:
        said += [
            f"downloads: {bandwidth / 1e6:g} MB/s for all workers together; {BYTES_A_PARAMETER} bytes a parameter (float16), "
            "in Pythia's repositories also a mask of 2,048 x 2,048 bytes a layer; 2.2 MB for config and tokenizer",
            "each checkpoint is downloaded once, for all sources together; the cache takes all of it, or what "
            f"--cache-limit says, but at least {max(workers, 1)} x the largest checkpoint",
        ]
        if "weights" in work.sources:
            said.append(
                "weights: step 0 of each run and the checkpoint before are compared with; with a cache that is too "
                "small for them they are downloaded again, up to three times as much"
            )
    if "evals" in work.sources:
        listed = ", ".join(name for name, _ in work.tasks)
        said.append(
            f"evals: {'' if tasks_given else 'no --tasks named, so '}{listed}: {work.documents:,} documents, "
            f"{work.tokens / 1e6:.2f} million tokens a checkpoint (tokens roughly, zero-shot), {EVALS_DOCUMENT} bytes a document"
        )
        if foreign := [name for name, size in work.tasks if size is None]:
            said.append(
                f"evals: the size of {shown(foreign)} is not known; each is taken for {UNKNOWN_TASK.documents:,} documents of "
                f"{UNKNOWN_TASK.endings} endings and {UNKNOWN_TASK.tokens:g} tokens"
            )
    return said


def _checked(sources: str | Sequence[str], workers: int, speed: float, bandwidth: float) -> list[str]:
    names = list(dict.fromkeys([sources] if isinstance(sources, str) else sources))
    if not names:
        raise UnknownNameError("no source was given; `polystab fill --list` names them.")
    for name in names:
        if name not in measurers():
            raise UnknownNameError(f"no source that measures is called {name!r}. {did_you_mean(name, measurers())}")
    if workers < 1:
        raise ReadError(f"workers is the number of processes, at least 1, not {workers}.")
    for what, value in (("speed", speed), ("bandwidth", bandwidth)):
        if not 0 < value < float("inf"):
            raise ReadError(f"{what} is a number above 0, not {value}.")
    return names


def _parameters(run: Run) -> int | None:
    """What the table says of a run, or else the headers of its first checkpoint on this machine."""
    said = run.facts.get("n_parameters")
    if isinstance(said, (int, float)) and said > 0:
        return int(said)
    return None if run.on_hub or not run.steps else _local_parameters(Path(run.place(run.steps[0])))


def _local_parameters(folder: Path) -> int | None:
    from polystab.sources.checkpoint_errors import CheckpointError
    from polystab.sources.tensor_files import is_known_buffer, safetensors_header, weight_files

    total = 0
    try:
        weights = weight_files(folder)
        if weights.kind != "safetensors":
            return None
        for path in weights.files:
            for name, about in safetensors_header(path).items():
                total += 0 if is_known_buffer(name) else int(math.prod(about["shape"]))
    except (CheckpointError, OSError, KeyError, TypeError, ValueError):
        return None
    return total or None
