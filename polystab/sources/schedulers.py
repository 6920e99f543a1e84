"""Jobs on a Dask cluster: workers on other machines, or on this one, of which any may end at any time.

The cluster decides who works, the output folder decides what is done. Each attempt keeps
a journal there, a file of a few lines, so that what a dead worker leaves is known: who
ends in the middle of a unit costs that unit another attempt, and no other anything.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import os
import queue
import secrets
import shutil
import warnings
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from polystab.errors import PolystabError, ReadError, shown
from polystab.redaction import clean_cause
from polystab.sources.attempts import POLL_SECONDS, Event, Job, Plan, Report
from polystab.sources.outputs import LOCKS
from polystab.sources.processes import main_module, no_interrupts
from polystab.sources.scheduled_jobs import (
    MUST_AGREE,
    Fitness,
    Journal,
    Order,
    Outcome,
    compare,
    do_job,
    fitness,
    not_installed,
    versions,
)
from polystab.sources.units import is_done, make_folder
from polystab.sources.workers import JobQueue, WorkerError, cores, settle_lost

_CONNECT_SECONDS = 30.0
# Before a checkpoint that others have claimed is asked for again.
_CLAIMED_SECONDS = 1.0
# A job that never began goes back so often: workers that cannot even begin are no use to the others either.
_RESENDS = 3


class SchedulerWarning(UserWarning):
    """Something about a cluster that a person should know, and that stops no work."""


def run_on_scheduler(plan: Plan, jobs: Iterable[Job], report: Report, *, scheduler: Any, n_workers: int = 1) -> None:
    """Do the jobs on a Dask cluster, and say what happens to each unit.

    Parameters
    ----------
    plan, jobs, report
        As for :func:`~polystab.sources.workers.run_in_workers`.
    scheduler : str or distributed.Client
        ``"local"`` for a cluster of ``n_workers`` processes that lives as long as this call; the address of a
        scheduler, such as ``tcp://host:8786``; or a client that is connected to one, and stays so.
    n_workers : int, optional
        Processes of the local cluster.

    Raises
    ------
    OutputError
        The folder cannot be written, here or by a worker.
    ReadError
        ``scheduler`` is none of these, or Dask is not installed.
    WorkerError
        The scheduler cannot be reached or goes away, or a worker cannot take part: it sees
        another folder, has another version of polystab, or not the measurers.

    Notes
    -----
    Warns where versions of numpy, torch, transformers or lm-eval differ, and where there is no worker yet.
    """
    check_scheduler(scheduler)
    with ExitStack() as stack:
        packed = _packed(plan)
        client = stack.enter_context(_connected(scheduler, n_workers))
        journals = stack.enter_context(_journals(plan.folder))
        order = Order(packed, journals, tuple(versions().items()))
        fresh = JobQueue(deque(jobs), pause=_CLAIMED_SECONDS)
        _Dispatcher(client, plan.folder, order, fresh, report).run()


def check_scheduler(scheduler: Any) -> None:
    """Refuse what cannot be a scheduler, before anything is prepared for it.

    Raises
    ------
    ReadError
        It is no address, ``"local"`` or client, or Dask is not installed.
    """
    distributed = _distributed()
    if isinstance(scheduler, distributed.Client):
        if scheduler.asynchronous:
            raise ReadError("the client is asynchronous; fill needs one that is not: Client(address).")
        if scheduler.status != "running":
            raise ReadError(f"the client is {scheduler.status}, not connected to a scheduler; make a new one.")
        return
    if not isinstance(scheduler, str):
        raise ReadError(f"scheduler is 'local', an address or a distributed.Client, not {type(scheduler).__name__}.")
    if "@" in scheduler:
        raise ReadError(
            "the address of a scheduler has no name and password (a host after @); Dask takes certificates instead: "
            "give a distributed.Client with its security."
        )
    kind, separator, place = scheduler.partition("://")
    if scheduler != "local" and not (separator and kind and place):
        raise ReadError(
            f"scheduler {scheduler!r} is no address such as tcp://host:8786 or tls://host:8786, and not 'local'. "
            "`dask scheduler` prints its address when it starts."
        )


def _distributed() -> Any:
    """The package ``distributed``; through importlib, as it may not be there, nor be typed."""
    try:
        return importlib.import_module("distributed")
    except ModuleNotFoundError as error:
        raise ReadError(
            f"a scheduler needs {error.name}, which is not installed; install it with: pip install 'polystab[distributed]'."
        ) from error


def _packed(plan: Plan) -> bytes:
    """The plan, with what a script or notebook defines by its content: workers do not run that script."""
    cloudpickle = importlib.import_module("cloudpickle")
    try:
        packed: bytes = cloudpickle.dumps(plan)
    except Exception as error:  # noqa: BLE001  pickling runs code of the measurers, which raises anything
        said = f"sources {', '.join(plan.measurers)} cannot be sent to workers: {error}."
        raise WorkerError(said) from clean_cause(error)
    return packed


@contextmanager
def _journals(folder: Path) -> Iterator[Path]:
    """A folder with a name that nobody can guess, in the output folder: who sees it sees the same output folder."""
    path = folder / LOCKS / f"fill-{secrets.token_hex(8)}"
    make_folder(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)  # workers that are still at it take this as the end


@contextmanager
def _connected(scheduler: Any, n_workers: int) -> Iterator[Any]:
    """A client of the scheduler; what is started here ends here."""
    distributed = _distributed()
    if isinstance(scheduler, distributed.Client):
        yield scheduler
        return
    with ExitStack() as stack:
        address = stack.enter_context(_local_cluster(n_workers)) if scheduler == "local" else scheduler
        try:
            if scheduler != "local":
                _check_certificates(scheduler)
            client = distributed.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
        except (OSError, TimeoutError) as error:
            raise WorkerError(
                f"no scheduler answers at {address}: {error}. Start one with `dask scheduler`, and give the address it prints."
            ) from clean_cause(error)
        except (ValueError, TypeError, RuntimeError, ImportError) as error:
            raise WorkerError(f"{address} cannot be used as a scheduler: {error}.") from clean_cause(error)
        yield stack.enter_context(client)


def _check_certificates(address: str) -> None:
    """Say now that certificates are missing or cannot be read: a client that fails over them takes a minute to end."""
    if not address.startswith("tls://"):
        return
    if _distributed().Security().get_connection_args("client").get("ssl_context") is None:
        raise ReadError(
            f"{address} needs certificates: name them in the configuration of Dask (distributed.comm.tls.ca-file, "
            "client.key, client.cert), or give a distributed.Client with its security."
        )


@contextmanager
def _local_cluster(n_workers: int) -> Iterator[Any]:
    """Workers of one thread on this machine, which the system ends when memory runs out, as it does without Dask."""
    dask = importlib.import_module("dask")
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, cores() // n_workers)))
    # Not daemonic: measurers may use processes of their own. Both hold for workers that replace dead ones, too.
    with dask.config.set({"distributed.worker.daemon": False}), main_module(needed=False):
        with no_interrupts():
            cluster = _distributed().LocalCluster(
                n_workers=n_workers, threads_per_worker=1, processes=True, memory_limit=0, host="127.0.0.1",
                dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL, env={"OMP_NUM_THREADS": threads},
            )  # fmt: skip
        with cluster:
            yield cluster


class _Dispatcher:
    """Hands jobs to the cluster, and hears what became of them."""

    def __init__(self, client: Any, folder: Path, order: Order, jobs: JobQueue, report: Report) -> None:
        self.client = client
        self.folder = folder
        self.order = order
        self.jobs = jobs
        self.report = report
        self.sent: dict[str, tuple[Any, Job]] = {}
        self.ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.resent: Counter[_Label] = Counter()
        self.warned: set[str] = set()
        self._keys = itertools.count()
        self._numbers: dict[_Label, int] = {}

    def run(self) -> None:
        self._check_scheduler()
        self._check_workers()
        while self.jobs or self.sent:
            while (job := self.jobs.next()) is not None:
                self._send(job)
            self._listen()

    def _check_scheduler(self) -> None:
        """The scheduler unpacks what it passes on, so that it needs polystab, too."""
        try:
            there = self.client.run_on_scheduler(versions)
        except ModuleNotFoundError as error:
            raise WorkerError(not_installed("the scheduler", error)) from error
        problem = compare(dict(self.order.versions), there, MUST_AGREE)
        if problem:
            raise WorkerError(f"the scheduler {problem}. Install the same there.")

    def _check_workers(self) -> None:
        """Look at the workers that are there now; those that come later look for themselves."""
        answers: dict[str, Any] = self.client.run(fitness, self.order, on_error="return")
        if not answers:
            warnings.warn(
                "the cluster has no worker yet; the fill waits for the first.", SchedulerWarning, stacklevel=2
            )
        problems: dict[str, list[str]] = {}
        for worker, answer in answers.items():
            if isinstance(answer, ModuleNotFoundError):
                problems.setdefault(not_installed("", answer), []).append(worker)
            elif isinstance(answer, Fitness):
                if answer.problem:
                    problems.setdefault(answer.problem, []).append(worker)
                self._warn(worker, answer.differs)
            # Any other answer is of a worker that has just gone.
        if problems:
            said = "; ".join(f"{problem} ({shown(workers)})" for problem, workers in problems.items())
            raise WorkerError(f"{sum(map(len, problems.values()))} of {len(answers)} workers cannot take part: {said}")

    def _warn(self, worker: str, differs: str) -> None:
        if differs and differs not in self.warned:
            self.warned.add(differs)
            warnings.warn(
                f"worker {worker} {differs}: values may differ in the last digits.", SchedulerWarning, stacklevel=2
            )

    def _send(self, job: Job) -> None:
        name = f"{self.order.journals.name}-{next(self._keys)}"
        future = self.client.submit(do_job, self.order, job, self._journal(job), key=name, pure=False)
        self.sent[name] = (future, job)
        future.add_done_callback(lambda ended: self.ended.put(ended.key))

    def _listen(self) -> None:
        """Take what has ended; wait a moment if nothing has."""
        try:
            name = self.ended.get(timeout=POLL_SECONDS)
        except queue.Empty:
            if self.client.status not in ("running", "connecting"):
                self._scheduler_is_gone()
            return
        future, job = self.sent[name]
        if future.status in ("lost", "pending"):  # its result went with its worker: it is done again
            future.add_done_callback(lambda ended: self.ended.put(ended.key))
            return
        if future.status == "cancelled":
            self._scheduler_is_gone()
        del self.sent[name]
        try:
            outcome = future.result()
        except Exception as error:  # noqa: BLE001  whatever a worker raised; each kind is answered or raised
            if future.status != "error":  # nobody raised it there: the result did not come through
                self._scheduler_is_gone()
            self._failed(job, error)
        else:
            self._heard(job, outcome)

    def _scheduler_is_gone(self) -> NoReturn:
        raise WorkerError(
            "the scheduler has gone away, or has dropped this work. What is done is kept: "
            "start the scheduler again, and run the same again to go on."
        )

    def _heard(self, job: Job, outcome: Outcome) -> None:
        self._warn(outcome.worker, outcome.differs)
        if not outcome.mine:
            self.jobs.later(job)
            return
        journal = self._journal(job)
        ours = journal.done()
        for event in outcome.events:
            # Done by a worker of ours that died before it could say so.
            self.report(Event("done", event.source) if event.kind == "elsewhere" and event.source in ours else event)
        journal.remove()

    def _failed(self, job: Job, error: BaseException) -> None:
        if isinstance(error, _distributed().KilledWorker):
            self._lost(job)
        elif isinstance(error, PolystabError):
            raise error
        elif isinstance(error, ModuleNotFoundError):
            raise WorkerError(not_installed("a worker", error)) from error
        else:
            raise WorkerError(f"a worker failed: {type(error).__name__}: {error}") from error

    def _lost(self, job: Job) -> None:
        """The cluster has given a job up, as too many workers ended while they had it, if only in their queue."""
        journal = self._journal(job)
        attempts = journal.attempts()
        if not attempts and self.resent[_label(job)] < _RESENDS:
            self.resent[_label(job)] += 1
            self.jobs.fresh.append(job)
            return
        at = journal.at()
        at_it = f"{attempts} of them while they were at it" if attempts else "as they were about to begin"
        detail = (
            f"the workers that had it ended, {at_it}, most often because memory or their time ran out: give them more."
        )
        # While a checkpoint is opened, all of its units are at stake.
        rest = [source for source in job.sources if at and source != at and not is_done(self.folder, job.key(source))]
        for source in job.sources:
            if source not in rest:
                settle_lost(self.folder, job, source, detail, self.report)
        journal.remove()
        if rest:
            self.jobs.fresh.append(replace(job, sources=tuple(rest)))

    def _journal(self, job: Job) -> Journal:
        """One for all attempts at a job, also where it was sent again."""
        return Journal(self.order.journals / f"{self._numbers.setdefault(_label(job), len(self._numbers))}.jsonl")


_Label = tuple[str, int, int, tuple[str, ...]]


def _label(job: Job) -> _Label:
    return job.run.model, job.run.seed, job.step, job.sources
