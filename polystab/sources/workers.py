"""Jobs on several processes of this machine.

Each worker is a fresh interpreter with a pipe of its own. A worker that the system
ends, most often because memory ran out, costs the unit that it was at and nothing
else. Workers end with the process that started them, even if that is killed.
"""

from __future__ import annotations

import os
import pickle
import time
import traceback
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from polystab.errors import OutputError, PolystabError
from polystab.sources.attempts import POLL_SECONDS, Event, Job, Plan, Report, attempt
from polystab.sources.outputs import UnitFailure, claimed, write_failure
from polystab.sources.processes import last_words, start_process
from polystab.sources.units import is_done

# A worker that was told to end gets this long before it is made to.
_PATIENCE_SECONDS = 3.0
# So many workers in a row that end before they are ready mean that none will be.
_FAILED_STARTS = 3


class WorkerError(PolystabError):
    """Worker processes cannot be started."""


@dataclass
class JobQueue:
    """Jobs in order; those that another process has claimed come back at the end."""

    fresh: deque[Job]
    claimed: deque[Job] = field(default_factory=deque)
    not_before: float = 0.0
    pause: float = POLL_SECONDS

    def __bool__(self) -> bool:
        return bool(self.fresh or self.claimed)

    def next(self) -> Job | None:
        """A job to try now; None if every job that is left was claimed by others a moment ago."""
        if self.fresh:
            return self.fresh.popleft()
        if self.claimed and time.monotonic() >= self.not_before:
            # One round over all of them, then a pause.
            self.fresh, self.claimed = self.claimed, self.fresh
            self.not_before = time.monotonic() + self.pause
            return self.fresh.popleft()
        return None

    def later(self, job: Job) -> None:
        self.claimed.append(job)


def run_here(plan: Plan, jobs: Iterable[Job], report: Report) -> None:
    """Do the jobs in this process, and say what happens to each unit.

    Raises
    ------
    OutputError
        The folder cannot be written.
    """
    queue = JobQueue(deque(jobs))
    while queue:
        job = queue.next()
        if job is None:
            time.sleep(POLL_SECONDS / 4)
        elif not attempt(plan, job, report):
            queue.later(job)


def run_in_workers(plan: Plan, jobs: Iterable[Job], report: Report, *, n_workers: int) -> None:
    """Do the jobs in worker processes, and say what happens to each unit.

    Raises
    ------
    OutputError
        The folder cannot be written.
    WorkerError
        A measurer cannot be sent to another process, or none can be started.
    """
    pool = _Pool(plan, JobQueue(deque(jobs)), report, n_workers)
    try:
        pool.run()
        pool.stop()
    finally:
        pool.kill()  # those that are left: after an error or Ctrl-C


def _packed(plan: Plan) -> bytes:
    try:
        return pickle.dumps(plan)
    except Exception as error:
        raise WorkerError(
            f"sources {', '.join(plan.measurers)} cannot be sent to worker processes: {error}. "
            "Define the measurer at the top of a module, or use one job."
        ) from error


@dataclass(eq=False)
class _Worker:
    """A worker process as its parent sees it."""

    process: Any
    connection: Connection
    ready: bool = False
    job: Job | None = None
    left: list[str] = field(default_factory=list)
    at: str = ""

    def send(self, job: Job) -> None:
        """Hand out a job; a worker that is gone is noticed when it is listened to."""
        self.job, self.left, self.at = job, list(job.sources), ""
        with suppress(OSError):
            self.connection.send(job)


class _Pool:
    """Hands jobs to workers one at a time, and replaces workers that die."""

    def __init__(self, plan: Plan, queue: JobQueue, report: Report, n_workers: int) -> None:
        self.folder = plan.folder
        self.packed = _packed(plan)
        self.queue = queue
        self.report = report
        self.n_workers = n_workers
        self.threads = max(1, cores() // n_workers)
        self.workers: list[_Worker] = []
        self.failed_starts = 0

    def run(self) -> None:
        while self.queue or any(worker.job for worker in self.workers):
            self._hand_out()
            self._start_missing()
            waited_for = {worker.connection: worker for worker in self.workers}
            waited_for |= {worker.process.sentinel: worker for worker in self.workers}
            heard = wait(list(waited_for), timeout=POLL_SECONDS)
            for worker in dict.fromkeys(waited_for[thing] for thing in heard):  # type: ignore[index]
                self._listen(worker)

    def _hand_out(self) -> None:
        for worker in self.workers:
            if worker.ready and worker.job is None:
                job = self.queue.next()
                if job is None:
                    return
                worker.send(job)

    def _start_missing(self) -> None:
        """Start workers while there are more jobs to hand out than workers without one."""
        idle = sum(worker.job is None for worker in self.workers)
        while len(self.workers) < self.n_workers and idle < len(self.queue.fresh) + len(self.queue.claimed):
            self.workers.append(_started(self.packed, self.threads))
            idle += 1

    def _listen(self, worker: _Worker) -> None:
        """Take everything that a worker has said; if it has died, settle what it left."""
        alive = worker.process.is_alive()  # asked first, so that nothing said before is missed
        try:
            while worker.connection.poll():
                self._heard(worker, *worker.connection.recv())
        except (EOFError, OSError):
            alive = False
        if not alive:
            worker.process.join(_PATIENCE_SECONDS)
            if worker.process.is_alive():  # its pipe broke
                worker.process.kill()
                worker.process.join()
            self._bury(worker)

    def _heard(self, worker: _Worker, what: str, content: Any) -> None:
        if what == "ready":
            worker.ready = True
            self.failed_starts = 0
        elif what == "event" and worker.job is not None:
            event: Event = content
            if event.kind in ("opening", "measuring"):
                worker.at = event.source
            else:
                worker.left.remove(event.source)
                worker.at = ""
            self.report(event)
        elif what == "finished" and worker.job is not None:
            if not content:
                self.queue.later(worker.job)
            worker.job = None
        elif what == "fatal":
            kind, text = content
            raise OutputError(text) if kind == "output" else WorkerError(text)

    def _bury(self, worker: _Worker) -> None:
        """A worker has died: its unit fails, the rest of its job goes to another one."""
        self.workers.remove(worker)
        worker.connection.close()
        said = last_words(worker.process.exitcode)
        if not worker.ready:
            self.failed_starts += 1
            if self.failed_starts >= _FAILED_STARTS:
                raise WorkerError(
                    f"worker processes end before they are ready ({said}). Where a script defines a measurer, call fill() "
                    "below `if __name__ == '__main__':`; or use one job."
                )
            return
        if worker.job is None or not worker.left:
            return
        # While a checkpoint is opened, all of its units are at stake.
        lost = [worker.at] if worker.at else list(worker.left)
        rest = tuple(source for source in worker.left if source not in lost)
        for source in lost:
            self._fail(worker.job, source, said)
        if rest:
            self.queue.fresh.appendleft(replace(worker.job, sources=rest))

    def _fail(self, job: Job, source: str, said: str) -> None:
        detail = f"the worker process was ended {said} while it measured."
        if said.endswith("SIGKILL"):
            detail += " The system does so when memory runs out: use fewer jobs, or a machine with more memory."
        settle_lost(self.folder, job, source, detail, self.report)

    def stop(self) -> None:
        """Let workers end by themselves."""
        for worker in self.workers:
            with suppress(OSError):
                worker.connection.send(None)
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for worker in self.workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))

    def kill(self) -> None:
        """End workers that are left. Units are written atomically, so nothing is half done."""
        for worker in self.workers:
            if worker.process.is_alive():
                worker.process.kill()
        for worker in self.workers:
            worker.process.join()
            worker.process.close()
            worker.connection.close()
        self.workers.clear()


def settle_lost(folder: Path, job: Job, source: str, detail: str, report: Report) -> None:
    """Record and report that a worker died while it measured a unit, unless it was done just before."""
    key = job.key(source)
    failure = UnitFailure(key.model, key.seed, key.step, source, "worker-died", detail)
    with claimed(folder, key.model, key.seed, key.step) as mine:
        if is_done(folder, key):
            report(Event("done", source))  # it died between writing and saying so
            return
        if mine:  # else another fill is at it already
            write_failure(folder, failure)
    report(Event("failed", source, failure))


def cores() -> int:
    """Cores that this process may use; macOS does not say, and has them all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _started(packed: bytes, threads: int) -> _Worker:
    try:
        process, connection = start_process(
            _work, packed, name="polystab-fill", threads=threads, script=b"__main__" in packed
        )
    except OSError as error:
        raise WorkerError(f"a worker process cannot be started: {error}. Use fewer jobs.") from error
    return _Worker(process, connection)


def _work(connection: Connection, packed: bytes) -> None:
    """A worker process: do the jobs that come through the pipe until there are no more."""
    try:
        plan: Plan = pickle.loads(packed)  # noqa: S301 (from our own parent)  # nosec B301
    except Exception:  # noqa: BLE001  the parent raises what it is told
        connection.send(("fatal", ("worker", f"a worker process cannot load the sources: {traceback.format_exc()}")))
        return
    connection.send(("ready", None))
    while (job := _next_job(connection)) is not None:
        try:
            finished = attempt(plan, job, lambda event: connection.send(("event", event)))
        except BrokenPipeError:  # the parent is gone
            return
        except OutputError as error:
            connection.send(("fatal", ("output", str(error))))
            return
        except Exception:  # noqa: BLE001  nothing that a unit can do: the parent stops, and says so
            connection.send(("fatal", ("worker", f"a worker process failed: {traceback.format_exc()}")))
            return
        connection.send(("finished", finished))


def _next_job(connection: Connection) -> Job | None:
    try:
        job: Job | None = connection.recv()
    except (EOFError, ConnectionError):  # the parent is gone
        return None
    return job
