"""Measuring the units of one checkpoint: claimed, opened once, and each written down as it is done or fails."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from polystab.errors import OutputError, PolystabError, RecordsError
from polystab.redaction import without_secrets, without_secrets_in
from polystab.sources.checkpoint_errors import is_out_of_memory
from polystab.sources.outputs import (
    UnitFailure,
    claimed,
    forget_failure,
    keep_settings,
    remove_leftovers,
    write_failure,
)
from polystab.sources.unit_keys import UnitKey
from polystab.sources.units import is_done, make_folder, write_unit

if TYPE_CHECKING:
    from polystab.sources.checkpoints import Checkpoint, CheckpointOptions
    from polystab.sources.measuring import Measurer
    from polystab.sources.runs import Run

DETAIL_CHARACTERS = 2000
TRACEBACK_CHARACTERS = 8000

POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Job:
    """The sources that have yet to measure a checkpoint."""

    run: Run
    step: int
    sources: tuple[str, ...]

    def key(self, source: str) -> UnitKey:
        return UnitKey(source, self.run.model, self.run.seed, self.step)


@dataclass(frozen=True)
class Plan:
    """What all jobs of a fill have in common.

    ``settings`` are those of the measurers by name, asked for once: it may take a
    measurer seconds to tell them.
    """

    folder: Path
    measurers: Mapping[str, Measurer]
    settings: Mapping[str, Mapping[str, Any]]
    options: CheckpointOptions | None = None

    @classmethod
    def of(
        cls, folder: str | os.PathLike[str], measurers: Mapping[str, Measurer], options: CheckpointOptions | None = None
    ) -> Plan:
        """A plan for an output folder, whose settings are checked, or written down if they are the first.

        Raises
        ------
        ConflictError
            The folder holds units of other settings.
        OutputError
            The folder cannot be written.
        """
        root = Path(folder).expanduser()
        if root.exists() and not root.is_dir():
            raise OutputError(f"cannot fill {root}: it is a file; name a folder.")
        make_folder(root)
        settings = {name: without_secrets_in(measurer.settings()) for name, measurer in measurers.items()}
        for name, said in settings.items():
            keep_settings(root, name, said)
        return cls(root.resolve(), measurers, settings, options)


class Event(NamedTuple):
    """Something that happened to a job.

    ``opening`` and ``measuring`` say what is being done, ``done`` and ``failed`` how a
    unit ended, ``elsewhere`` that another process finished it meanwhile.
    """

    kind: Literal["opening", "measuring", "done", "failed", "elsewhere"]
    source: str = ""
    failure: UnitFailure | None = None


Report = Callable[[Event], None]


def attempt(plan: Plan, job: Job, report: Report) -> bool:
    """Measure what is missing of a job, and report on every unit of it.

    Returns
    -------
    bool
        False if another process has claimed the checkpoint; nothing is done then.

    Raises
    ------
    OutputError
        The folder cannot be written. Whatever goes wrong with a unit is reported, not raised.
    """
    with claimed(plan.folder, job.run.model, job.run.seed, job.step) as mine:
        if not mine:
            return False
        pending = _pending(plan.folder, job, report)
        if pending:
            _open_and_measure(plan, job, pending, report)
    return True


def measure_checkpoint(
    folder: str | os.PathLike[str], checkpoint: Checkpoint, measurers: Sequence[Measurer]
) -> list[UnitFailure]:
    """Measure a checkpoint that is open already into an output folder, e.g. while it is trained.

    Parameters
    ----------
    folder : path
        Output folder, made if it is not there; :func:`~polystab.fill` can go on with it.
    checkpoint : Checkpoint
        What to measure; it stays open.
    measurers : sequence of Measurer
        Units that are done already are not measured again.

    Returns
    -------
    list of UnitFailure
        The units that failed; each is recorded in the folder as well.

    Raises
    ------
    ConflictError
        The folder holds units of other settings.
    OutputError
        The folder cannot be written.
    """
    plan = Plan.of(folder, {measurer.name: measurer for measurer in measurers})
    job = Job(checkpoint.run, checkpoint.step, tuple(plan.measurers))
    failures: list[UnitFailure] = []

    def report(event: Event) -> None:
        if event.failure is not None:
            failures.append(event.failure)

    while True:
        with claimed(plan.folder, job.run.model, job.run.seed, job.step) as mine:
            if mine:
                for source in _pending(plan.folder, job, report):
                    _measure(plan, job, source, checkpoint, report)
                return failures
        time.sleep(POLL_SECONDS)


def _pending(folder: Path, job: Job, report: Report) -> list[str]:
    """Sources whose unit is still missing now that the checkpoint is ours."""
    pending = []
    for source in job.sources:
        key = job.key(source)
        remove_leftovers(folder, key)
        if is_done(folder, key):
            forget_failure(folder, key)
            report(Event("elsewhere", source))
        else:
            pending.append(source)
    return pending


def _open_and_measure(plan: Plan, job: Job, sources: Sequence[str], report: Report) -> None:
    from polystab.sources.checkpoints import open_checkpoint

    report(Event("opening"))
    try:
        checkpoint = open_checkpoint(job.run, job.step, options=plan.options)
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever it is, other checkpoints go on
        for source in sources:
            _fail(plan.folder, job, source, error, report)
        return
    with checkpoint:
        for source in sources:
            _measure(plan, job, source, checkpoint, report)


def _measure(plan: Plan, job: Job, source: str, checkpoint: Checkpoint, report: Report) -> None:
    report(Event("measuring", source))
    try:
        measurement = plan.measurers[source].measure(checkpoint)
        measurement = replace(measurement, notes=[*checkpoint.notes, *measurement.notes])
    except (Exception, SystemExit) as error:  # noqa: BLE001  a measurer may raise anything; other units go on
        _fail(plan.folder, job, source, error, report)
        return
    try:
        write_unit(plan.folder, source, job.run, job.step, measurement, plan.settings[source], sha=checkpoint.sha)
    except RecordsError as error:
        _fail(plan.folder, job, source, error, report, reason="invalid-measurement")
        return
    forget_failure(plan.folder, job.key(source))
    report(Event("done", source))


def _fail(
    folder: Path, job: Job, source: str, error: BaseException, report: Report, *, reason: str | None = None
) -> None:
    why, detail = failure_of(error)
    failure = UnitFailure(job.run.model, job.run.seed, job.step, source, reason or why, detail)
    said = without_secrets("".join(traceback.format_exception(error)))
    write_failure(folder, failure, said[-TRACEBACK_CHARACTERS:])
    report(Event("failed", source, failure))


def failure_of(error: BaseException) -> tuple[str, str]:
    """Reason and detail of an exception, as they are kept with a failed unit."""
    text = str(error)
    if isinstance(error, PolystabError):
        reason, detail = str(getattr(error, "reason", "") or "refused"), text
    elif is_out_of_memory(error):
        reason, detail = "out-of-memory", text or "memory ran out; use fewer jobs or a smaller batch."
    else:
        reason, detail = "error", f"{type(error).__name__}: {text}"
    detail = without_secrets(detail)  # libraries repeat addresses, and those of a download are signed
    return reason, detail if len(detail) <= DETAIL_CHARACTERS else f"{detail[:DETAIL_CHARACTERS]}..."
