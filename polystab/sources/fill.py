"""Measuring checkpoints into units: what is missing is measured, and nothing twice."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polystab.errors import ConflictError, ReadError, RefusedFileError, UnknownNameError, shown
from polystab.progress_bars import Bar
from polystab.sources.attempts import Event, Job, Plan
from polystab.sources.measuring import Measurer, check_measurers
from polystab.sources.outputs import UnitFailure, forget_failure
from polystab.sources.registry import get_measurer
from polystab.sources.runs import Run, RunTable, read_runs
from polystab.sources.unit_files import open_unit
from polystab.sources.unit_keys import UnitKey
from polystab.sources.units import run_facts
from polystab.sources.workers import run_here, run_in_workers

if TYPE_CHECKING:
    import pandas as pd

    from polystab.sources.checkpoints import CheckpointOptions

PathLike = str | os.PathLike[str]
Wanted = str | int


@dataclass(frozen=True)
class FillProgress:
    """How far a fill is.

    Attributes
    ----------
    total : int
        Units asked for.
    done : int
        Of these, finished: now, before, or by another process.
    failed : int
        Of these, failed in this fill.
    rate : float
        Units that ended per second since this fill began; 0 before the first.
    seconds_left : float or None
        At this rate; None where it is not known yet.
    """

    total: int
    done: int
    failed: int
    rate: float
    seconds_left: float | None


@dataclass(frozen=True)
class FillResult:
    """What became of a fill.

    Attributes
    ----------
    planned : int
        Units asked for: ``already_done + done + len(failed)``.
    already_done : int
        Units that were there, or that another process finished meanwhile.
    done : int
        Units measured by this fill.
    failed : tuple of UnitFailure
        Units that could not be measured, sorted; the same call tries them again.
    seconds : float
        Time taken.
    """

    planned: int
    already_done: int
    done: int
    failed: tuple[UnitFailure, ...]
    seconds: float


def fill(
    sources: str | Measurer | Sequence[str | Measurer],
    *,
    runs: RunTable | pd.DataFrame | PathLike,
    output: PathLike,
    jobs: int = 1,
    scheduler: Any = None,
    models: str | Collection[str] | None = None,
    seeds: int | Collection[int] | None = None,
    steps: int | Collection[int] | None = None,
    options: CheckpointOptions | None = None,
    progress: Callable[[FillProgress], None] | None = None,
) -> FillResult:
    """Measure every checkpoint of the runs that is not measured yet.

    Each unit (model, seed, step, source) becomes one small file below ``output``,
    written when it is done. Call it again after a failure, a kill or Ctrl-C, and it
    goes on where it stopped; several calls at once, on machines that share the
    folder, share the work. :func:`polystab.sources.joining.join_units` makes a cube of the folder.

    Parameters
    ----------
    sources : str, Measurer, or several
        What to measure: names as ``polystab fill --list`` gives them, or measurers.
        All of them measure a checkpoint while it is loaded once.
    runs : RunTable, DataFrame, path or catalog name
        Where the checkpoints lie; see :func:`polystab.sources.runs.read_runs`.
    output : path
        Folder of the units, made if it is not there.
    jobs : int, optional
        Processes at work. With 1, everything happens in this one. With more, each is
        a fresh interpreter: a script that defines a measurer of its own must then call
        this below ``if __name__ == "__main__":``.
    scheduler : str or distributed.Client, optional
        A Dask cluster to do the work: the address of its scheduler, such as ``tcp://host:8786``; a client of it;
        or ``"local"`` for one of ``jobs`` processes here. Every worker has to see ``output`` and the
        checkpoints at the same paths. A unit whose worker ends is measured by another one.
    models, seeds, steps : one or a collection, optional
        Which part of the runs to measure; all without it.
    options : CheckpointOptions, optional
        How checkpoints are fetched and loaded.
    progress : callable, optional
        Called with a :class:`FillProgress` at the start and after each unit, in place of a bar (see
        :func:`polystab.progress`).

    Returns
    -------
    FillResult
        Counts, and every unit that failed with its reason. A failed unit stops no
        other. NaN values that a measurer gives are "not measured", not a failure.

    Raises
    ------
    ReadError, SelectionError
        The runs cannot be read, or none is left of them.
    UnknownNameError
        There is no such source.
    ConflictError
        The folder holds units of other settings, or of another repository.
    OutputError
        The folder cannot be written, e.g. because the disk is full.
    WorkerError
        No worker process can be started; the scheduler does not answer; a worker does not see the folder, or has
        another version of polystab.

    Notes
    -----
    The files do not depend on the order of the work, nor on how often it stopped. What
    a model answers does depend, in the last digits, on the number of threads, and the
    workers of ``jobs`` share the cores: set ``OMP_NUM_THREADS`` where the same bytes are
    wanted from another number of jobs.
    """
    start = time.monotonic()
    if jobs < 1:
        raise ReadError(f"jobs is the number of processes, at least 1, not {jobs}.")
    if scheduler is not None:
        _check_scheduler(scheduler, jobs)
    measurers = _measurers(sources)
    check_measurers(measurers.values())
    options = options or _default_options()
    table = _selected(runs, models, seeds, steps, options)
    plan = Plan.of(output, measurers, options)
    todo, total = _missing(plan.folder, table, list(measurers))
    already = total - sum(len(job.sources) for job in todo)
    bar = Bar("measuring checkpoints", unit="unit", total=total, done=already)
    with bar if progress is None else nullcontext():
        tally = _Tally(total, already, start, progress or partial(_shown_on, bar))
        tally.tell()
        try:
            if scheduler is not None and todo:
                from polystab.sources.schedulers import run_on_scheduler

                run_on_scheduler(plan, todo, tally.count, scheduler=scheduler, n_workers=min(jobs, len(todo)))
            elif jobs == 1 or len(todo) <= 1:
                run_here(plan, todo, tally.count)
            else:
                run_in_workers(plan, todo, tally.count, n_workers=min(jobs, len(todo)))
        except KeyboardInterrupt as error:
            error.add_note(
                f"stopped with {tally.already + tally.done:,} of {total:,} units done; nothing is half done. "
                "The same call goes on from here."
            )
            raise
    failed = tuple(sorted(tally.failed, key=lambda failure: failure.key))
    return FillResult(total, tally.already, tally.done, failed, time.monotonic() - start)


def _check_scheduler(scheduler: object, jobs: int) -> None:
    from polystab.sources.schedulers import check_scheduler  # late: few fills need it

    check_scheduler(scheduler)
    if jobs != 1 and scheduler != "local":
        raise ReadError(
            f"jobs={jobs} is the number of processes on this machine, but the work is given to a scheduler: "
            "its workers are started beside it, so leave jobs out."
        )


def _measurers(sources: str | Measurer | Sequence[str | Measurer]) -> dict[str, Measurer]:
    several = [sources] if isinstance(sources, (str, Measurer)) else list(sources)
    found: dict[str, Measurer] = {}
    for source in several:
        measurer = get_measurer(source) if isinstance(source, str) else source
        if not isinstance(measurer, Measurer):
            raise UnknownNameError(
                f"{source!r} is no source: give a name, or an object with name, settings() and measure(checkpoint)."
            )
        if measurer.name in found:
            raise ConflictError(f"source {measurer.name!r} is given twice; give each once.")
        found[measurer.name] = measurer
    if not found:
        raise UnknownNameError("no source was given; `polystab fill --list` names them.")
    return found


def _default_options() -> CheckpointOptions:
    from polystab.sources.checkpoints import CheckpointOptions

    return CheckpointOptions()


def _selected(
    runs: RunTable | pd.DataFrame | PathLike,
    models: str | Collection[str] | None,
    seeds: int | Collection[int] | None,
    steps: int | Collection[int] | None,
    options: CheckpointOptions,
) -> RunTable:
    """The runs that are asked for, with their steps; steps are looked for in these only."""
    table = runs if isinstance(runs, RunTable) else read_runs(runs, find_steps=False, options=options)
    return table.select(models=models, seeds=seeds).with_steps(options).select(steps=steps)


def _missing(folder: Path, table: RunTable, sources: Sequence[str]) -> tuple[list[Job], int]:
    """The checkpoints with a unit missing, in the order of the table, and the number of units asked for."""
    todo: list[Job] = []
    elsewhere: list[str] = []
    total = 0
    for run, step in table.checkpoints():
        total += len(sources)
        job = Job(run, step, tuple(sources))
        missing = []
        for source in sources:
            facts = _facts_of_done(folder, job.key(source))
            if facts is None:
                missing.append(source)
            elif _moved(run, facts):
                elsewhere.append(f"{job.key(source)} from {facts['location']} at {facts['revision']}")
            else:
                forget_failure(folder, job.key(source))
        if missing:
            todo.append(Job(run, step, tuple(missing)))
    if elsewhere:
        raise ConflictError(
            f"{folder} holds units that were measured from other repositories than the run table names now: "
            f"{shown(elsewhere)}. Use another folder, or remove these units."
        )
    return todo, total


def _facts_of_done(folder: Path, key: UnitKey) -> dict[str, object] | None:
    """What a finished unit says about its run; None if it is missing or damaged, and so has to be measured."""
    try:
        unit = open_unit(folder / key.place())
    except RefusedFileError:
        return None
    return unit.facts if unit.key == key else None


def _moved(run: Run, facts: dict[str, object]) -> bool:
    """Whether a unit was measured from another Hub repository; local folders may move."""
    now = run_facts(run)
    return bool(run.revision and facts["revision"]) and any(facts[n] != now[n] for n in ("location", "revision"))


def _shown_on(bar: Bar, told: FillProgress) -> None:
    bar.to(told.done + told.failed, f"{told.failed} failed" if told.failed else "")


@dataclass
class _Tally:
    """Counts units as they end, and tells the progress."""

    total: int
    already: int
    start: float
    progress: Callable[[FillProgress], None] | None
    done: int = 0
    failed: list[UnitFailure] = field(default_factory=list)
    working_since: float = field(default_factory=time.monotonic)

    def count(self, event: Event) -> None:
        if event.kind == "done":
            self.done += 1
        elif event.kind == "elsewhere":
            self.already += 1
        elif event.failure is not None:
            self.failed.append(event.failure)
        else:
            return  # a unit has begun
        self.tell()

    def tell(self) -> None:
        if self.progress is None:
            return
        ended = self.done + len(self.failed)
        rate = ended / max(time.monotonic() - self.working_since, 1e-9) if ended else 0.0
        left = self.total - self.already - ended
        seconds_left = left / rate if rate else (0.0 if not left else None)
        self.progress(FillProgress(self.total, self.already + self.done, len(self.failed), rate, seconds_left))
