"""Training all runs of a suite, on several processes, and making its cube."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polystab.errors import OutputError, PolystabError
from polystab.files import write_text
from polystab.progress_bars import Bar
from polystab.sources.attempts import measure_checkpoint
from polystab.sources.checkpoint_errors import library
from polystab.sources.measuring import check_measurers
from polystab.sources.outputs import UnitFailure, claimed, keep_settings, read_settings, write_failure
from polystab.sources.processes import last_words, start_process
from polystab.sources.runs import write_runs
from polystab.sources.unit_keys import folder_name
from polystab.sources.units import make_folder
from polystab.suites import training as steps
from polystab.suites.beginnings import begun, begun_by_recipe
from polystab.suites.recipes import Suite, SuiteRun, as_run, suite
from polystab.suites.training import Training

if TYPE_CHECKING:
    from polystab.sources.measuring import Measurement, Measurer

# Title and summary of the suite, for its cube; they decide nothing, so they are no settings.
ABOUT = "suite.json"
CHECKPOINTS = "checkpoints/{model}/seed{seed}/step{step}"
TRAINING = "training"
# Runs whose finished weights others begin with.
SOURCES = "sources"


class TrainingError(PolystabError):
    """Runs of a suite could not be trained to their end."""


@dataclass(frozen=True)
class TrainProgress:
    """How far a suite is: updates made, and how many there are."""

    updates: int
    total: int
    runs_done: int
    runs: int
    seconds: float


@dataclass(frozen=True)
class TrainResult:
    """What :func:`train` did.

    Attributes
    ----------
    folder : Path
        Logs, run table, units, and checkpoints if they were kept.
    trained, already_done : int
        Runs trained now, and runs found finished.
    diverged : tuple of str
        Runs trained now whose loss or gradient stopped being finite.
    failed : tuple of UnitFailure
        Units that could not be measured, other than those after a divergence.
    seconds : float
    """

    folder: Path
    trained: int
    already_done: int
    diverged: tuple[str, ...]
    failed: tuple[UnitFailure, ...]
    seconds: float


@dataclass(frozen=True)
class _Work:
    """What a worker needs to know."""

    folder: Path
    measurers: tuple[Measurer, ...]
    keep_checkpoints: bool
    device: str


class _Losses:
    """The measurer of what training itself says, for one checkpoint of a run in memory."""

    name = TRAINING

    def __init__(self, training: Training, since: int) -> None:
        self._training, self._since = training, since

    def settings(self) -> Mapping[str, Any]:
        return {"validation_documents": steps.VALIDATION_DOCUMENTS}

    def measure(self, checkpoint: object) -> Measurement:  # noqa: ARG002  it is the model in memory
        return steps.measure_losses(self._training, self._since)


# What happened, to which run, and a step or a failure.
Report = Callable[[str, SuiteRun, Any], None]


def train(
    name: str | Suite,
    output: str | os.PathLike[str],
    *,
    jobs: int = 1,
    measure: Sequence[str] = (),
    keep_checkpoints: bool | None = None,
    quick: bool = False,
    device: str = "auto",
    init_from: str | os.PathLike[str] | None = None,
    init_how: str | None = None,
    init_vectors: str | None = None,
    progress: Callable[[TrainProgress], None] | None = None,
) -> TrainResult:
    """Train a suite, or go on where an earlier call stopped.

    Parameters
    ----------
    name : str or Suite
        ``nano``, ``nano-factorial``, ``nano-edge`` or ``nano-init``, or a suite of your own.
    output : path
        Folder, made if it is not there. It gets ``runs.csv``, ``logs/`` with loss and
        gradient norm of every update, the units that :func:`polystab.sources.joining.join_units`
        joins, and ``checkpoints/`` in the format of Hugging Face if they are kept.
    jobs : int
        Processes, each training one run at a time on one thread.
    measure : sequence of str
        Sources that measure each checkpoint while its model is in memory, e.g. ``evals``.
    keep_checkpoints : bool, optional
        Default: only if nothing is measured.
    quick : bool
        The short version of the suite.
    device : str
        ``auto`` is an accelerator where there is one. On the CPU the same seeds give the
        same bytes, with the same version of torch.
    init_from : path, optional
        Finished weights that every run begins with, see :func:`polystab.suites.init_from`: the
        folder of a checkpoint, or a pattern with ``{model}``, ``{seed}`` and ``{step}`` (the last) of the run to
        be begun. Models are then called ``model-how``. The digest of the weights is among the
        settings of the folder. For a suite whose recipe names the runs that others
        begin with (``nano-init``): where they were trained, if they were; without it they are, into ``sources/``.
    init_how, init_vectors : str, optional
        How, with the weight seed of the run as ``rng``; by default ``permute`` and ``final``.
    progress : callable, optional
        Called with a :class:`TrainProgress` about every second, in place of a bar (see :func:`polystab.progress`).

    Returns
    -------
    TrainResult

    Raises
    ------
    UnknownNameError
        No such suite, source or way to begin.
    InitError
        A run cannot begin with the weights that it should.
    ConflictError
        The folder holds another suite, or units of other settings.
    OutputError
        The folder cannot be written.
    TrainingError
        There is no such device, or a process ended before its work; what it had done is kept, and the same call goes on.
    """
    from polystab.suites.measuring import suite_measurers

    began = time.monotonic()
    chosen = suite(name, quick=quick) if isinstance(name, str) else name
    if jobs < 1:
        raise TrainingError(f"jobs is {jobs}; it must be at least 1.")
    folder = Path(output).expanduser()
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"cannot train into {folder}: it is a file; name a folder.")
    measurers = tuple(suite_measurers(measure))
    check_measurers(measurers)
    device = _device(device)
    make_folder(folder)
    if init_from is None and begun_by_recipe(chosen):
        init_from = _train_sources(chosen, folder, jobs, device, progress)
    chosen = begun(chosen, init_from, init_how, init_vectors)
    keep_settings(folder, "suite", chosen.settings())
    write_text(folder / ABOUT, json.dumps({"title": chosen.title, "summary": chosen.summary}, indent=2) + "\n")
    kept = not measurers if keep_checkpoints is None else keep_checkpoints
    if kept:
        # Absolute, as a relative pattern counts from the current folder; below the table's own it is written relative.
        write_runs(chosen.table(str(folder.resolve() / CHECKPOINTS)), folder / "runs.csv")
    work = _Work(folder.resolve(), measurers, kept, device)
    done = {run for run in chosen.runs if _log_path(work.folder, run).exists()}
    updates = sum(run.recipe.steps for run in chosen.runs)
    bar = Bar("training", unit="update", total=updates, done=sum(run.recipe.steps for run in done))
    left = [run for run in chosen.runs if run not in done]
    with bar if progress is None else nullcontext():
        tally = _Tally(chosen, done, progress or partial(_shown_on, bar), began)
        if len(left) and jobs == 1:
            _train_all(work, left, tally.report)
        elif left:
            _in_processes(work, left, tally, min(jobs, len(left)))
    return TrainResult(
        folder, len(left), len(done), tuple(tally.diverged), tuple(tally.failed), time.monotonic() - began
    )


def _train_sources(
    chosen: Suite, folder: Path, jobs: int, device: str, progress: Callable[[TrainProgress], None] | None
) -> str:
    """Train the runs whose finished weights others begin with; gives the pattern of their checkpoints."""
    known = read_settings(folder, "suite")
    if known is not None and known.get("suite") != chosen.name:
        keep_settings(folder, "suite", chosen.settings())  # says what is in the folder
    sources = Suite(f"{chosen.name}-{SOURCES}", f"runs that {chosen.name} begins with", "", begun_by_recipe(chosen))
    train(sources, folder / SOURCES, jobs=jobs, keep_checkpoints=True, device=device, progress=progress)
    return str(folder.resolve() / SOURCES).replace("{", "{{").replace("}", "}}") + f"/{CHECKPOINTS}"


def _shown_on(bar: Bar, told: TrainProgress) -> None:
    bar.to(told.updates, f"{told.runs_done}/{told.runs} runs")


class _Tally:
    """Counts what the workers say."""

    def __init__(
        self, chosen: Suite, done: set[SuiteRun], progress: Callable[[TrainProgress], None] | None, began: float
    ) -> None:
        self.at = {run: run.recipe.steps if run in done else 0 for run in chosen.runs}
        self.runs_done = len(done)
        self.total = sum(run.recipe.steps for run in chosen.runs)
        self.progress, self.began, self.told = progress, began, 0.0
        self.diverged: list[str] = []
        self.failed: list[UnitFailure] = []

    def report(self, what: str, run: SuiteRun, content: Any) -> None:
        if what == "failed":
            self.failed.append(content)
            return
        if what == "diverged":
            self.diverged.append(f"{as_run(run)} after step {content}")
        self.at[run] = run.recipe.steps if what in ("finished", "diverged") else content
        self.runs_done += what == "finished"
        now = time.monotonic()
        if self.progress is not None and (now - self.told > 1 or what == "finished"):
            self.told = now
            updates = sum(self.at.values())
            self.progress(TrainProgress(updates, self.total, self.runs_done, len(self.at), now - self.began))


def _device(device: str) -> str:
    torch = library("torch")
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TrainingError(f"cannot train on {device!r} here: {str(error).splitlines()[0]}; try cpu.") from error
    return device


def _in_processes(work: _Work, runs: Sequence[SuiteRun], tally: _Tally, jobs: int) -> None:
    """Several processes walk the same list, and each takes the runs that no other has claimed."""
    started: list[tuple[Any, Connection]] = []
    errors: list[BaseException] = []
    try:
        started.extend(start_process(_worker, work, runs, name="polystab-train", threads=1) for _ in range(jobs))
        open_pipes = [pipe for _, pipe in started]
        while open_pipes:
            ready = wait(open_pipes)
            for pipe in [pipe for pipe in open_pipes if pipe in ready]:
                try:
                    what, run, content = pipe.recv()
                except (EOFError, ConnectionError):  # that process has ended
                    open_pipes.remove(pipe)
                    continue
                if what == "error":
                    errors.append(content)
                else:
                    tally.report(what, run, content)
        for process, _ in started:
            process.join()
    except OSError as error:
        raise TrainingError(f"processes cannot be started: {error}. Use fewer jobs.") from error
    finally:
        for process, pipe in started:
            process.kill()
            process.join()
            pipe.close()
    if errors:
        raise errors[0]
    ended = [last_words(process.exitcode) for process, _ in started if process.exitcode]
    if ended and any(not _log_path(work.folder, run).exists() for run in runs):
        raise TrainingError(
            f"{len(ended)} of {jobs} processes ended {ended[0]} before their work, often because memory ran out. What "
            "they had done is kept: run the same again, with fewer jobs."
        )


def _worker(connection: Connection, work: _Work, runs: Sequence[SuiteRun]) -> None:
    try:
        _train_all(work, runs, lambda *event: connection.send(event))
    except PolystabError as error:
        connection.send(("error", None, TrainingError(str(error))))
    except Exception as error:  # noqa: BLE001  the parent raises what it is told
        connection.send(("error", None, TrainingError(f"a process ended with {type(error).__name__}: {error}")))


def _train_all(work: _Work, runs: Sequence[SuiteRun], report: Report) -> None:
    """Train every run that is neither finished nor claimed; at the end wait for those that others have claimed."""
    waiting = list(runs)
    while waiting:
        others = [run for run in waiting if not _claim_and_train(work, run, report)]
        if len(others) == len(waiting):
            time.sleep(0.5)
        waiting = others


def _claim_and_train(work: _Work, run: SuiteRun, report: Report) -> bool:
    if _log_path(work.folder, run).exists():
        return True
    with claimed(work.folder, run.recipe.model, run.seed, -1) as mine:
        if not mine:
            return False
        if not _log_path(work.folder, run).exists():
            steps.reproducibly(partial(_train_run, work, run, report))
    return True


def _train_run(work: _Work, run: SuiteRun, report: Report) -> None:
    """Train one run from where its state stands to its end; the log, written last, says that it is finished."""
    from polystab.suites.models import new_tokenizer

    state, log = _state_path(work.folder, run), _log_path(work.folder, run)
    for path in (state, log):
        make_folder(path.parent)
        steps.remove_leftovers(path)
    fresh = not state.exists()
    training = steps.resume(run, state, device=work.device)
    tokenizer = new_tokenizer(run.recipe.context)
    grid = run.recipe.checkpoints()
    for previous, step in zip((0, *grid), grid, strict=False):
        if step < training.step or (step == training.step and not fresh):
            continue
        for now in steps.advance(training, step):
            report("step", run, now)
        if training.diverged:
            _record_divergence(work, run, training.step, [later for later in grid if later >= step])
            report("diverged", run, training.step)
            break
        _at_checkpoint(work, training, previous, tokenizer, report)
        steps.save_state(training, state)
        fresh = False
    steps.write_log(training, log)
    with suppress(FileNotFoundError):
        state.unlink()
    report("finished", run, training.step)


def _at_checkpoint(work: _Work, training: Training, previous: int, tokenizer: Any, report: Report) -> None:
    from polystab.sources.checkpoints import Checkpoint

    run = training.run
    row = as_run(run, CHECKPOINTS if work.keep_checkpoints else "")
    with Checkpoint.of_model(row, training.step, training.model, tokenizer) as checkpoint:
        measurers = [_Losses(training, previous), *work.measurers]
        for failure in measure_checkpoint(work.folder, checkpoint, measurers):
            report("failed", run, failure)
    if work.keep_checkpoints:
        steps.save_checkpoint(training, tokenizer, work.folder / row.place(training.step))


def _record_divergence(work: _Work, run: SuiteRun, step: int, missing: Sequence[int]) -> None:
    """Say of every later checkpoint that there is none, and why."""
    detail = f"the loss or gradient of update {step} was not finite; training ended there."
    for later in missing:
        for source in (TRAINING, *(measurer.name for measurer in work.measurers)):
            write_failure(work.folder, UnitFailure(run.recipe.model, run.seed, later, source, "diverged", detail))


def _log_path(folder: Path, run: SuiteRun) -> Path:
    return folder / "logs" / folder_name(run.recipe.model) / f"seed{run.seed}.csv"


def _state_path(folder: Path, run: SuiteRun) -> Path:
    return folder / "state" / folder_name(run.recipe.model) / f"seed{run.seed}.pt"
