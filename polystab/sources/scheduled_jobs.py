"""A job on a worker of a Dask cluster, and what such a worker finds when it looks at what is asked of it.

Each attempt keeps a journal in the output folder, a file of a few lines, so that what a
dead worker leaves is known.
"""

from __future__ import annotations

import functools
import importlib
import json
import pickle
import platform
import secrets
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from polystab.errors import OutputError, PolystabError
from polystab.sources.attempts import Event, Job, Plan, attempt
from polystab.sources.workers import WorkerError

# A worker of another polystab or Python cannot take part; other versions only move the last digits, which is said.
MUST_AGREE = ("polystab", "python")
_SHOULD_AGREE = ("numpy", "torch", "transformers", "lm-eval")
# Measuring is not safe in threads: the harness redirects streams, torch keeps its number of threads.
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class Order:
    """What every worker is told: the plan, where the journals of this fill lie, and the versions of who asks."""

    packed: bytes
    journals: Path
    versions: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Fitness:
    """What a worker finds when it looks at an order: why it cannot do it, and in which versions it differs."""

    problem: str = ""
    differs: str = ""


@dataclass(frozen=True)
class Outcome:
    """A job that a worker has been through; ``mine`` is False if another process had claimed the checkpoint."""

    mine: bool
    events: tuple[Event, ...]
    worker: str
    differs: str


class _GoneError(PolystabError):
    """The fill that wanted this job has ended."""


@dataclass(frozen=True)
class Journal:
    """The events of all attempts at one job, a JSON line each; a line may be cut off."""

    path: Path

    def write(self, event: Event) -> None:
        """Append an event.

        Raises
        ------
        _GoneError
            The folder of the journals is not there any more: the fill has ended.
        OutputError
            It cannot be written.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps([event.kind, event.source]) + "\n")
        except FileNotFoundError as error:
            raise _GoneError("the fill that wanted this has ended.") from error
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}.") from error

    def read(self) -> list[tuple[str, str]]:
        try:
            lines = self.path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []
        events = []
        for line in lines:
            with suppress(ValueError):
                kind, source = json.loads(line)
                events.append((kind, source))
        return events

    def attempts(self) -> int:
        """How often a worker has opened the checkpoint."""
        return sum(kind == "opening" for kind, _ in self.read())

    def at(self) -> str:
        """The source whose unit was being measured at the end; empty if it was none, or all."""
        events = self.read()
        return events[-1][1] if events and events[-1][0] == "measuring" else ""

    def done(self) -> set[str]:
        """The sources whose unit an attempt has written."""
        return {source for kind, source in self.read() if kind == "done"}

    def remove(self) -> None:
        with suppress(OSError):
            self.path.unlink()


def versions() -> dict[str, str]:
    """Versions here of what decides the numbers; empty for what is not installed."""
    from polystab._version import __version__

    found = {"polystab": __version__, "python": ".".join(platform.python_version_tuple()[:2])}
    for name in _SHOULD_AGREE:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return {name: found.get(name, "") for name in (*MUST_AGREE, *_SHOULD_AGREE)}


def do_job(order: Order, job: Job, journal: Journal) -> Outcome:
    """On a worker: measure a job."""
    plan, fit = _opened(order)
    if plan is None:
        raise WorkerError(f"worker {_address()} cannot take part: {fit.problem}")
    events: list[Event] = []

    def report(event: Event) -> None:
        journal.write(event)
        events.append(event)

    with _ONE_AT_A_TIME:
        mine = attempt(plan, job, report)
    return Outcome(mine, tuple(events), _address(), fit.differs)


def fitness(order: Order) -> Fitness:
    """On a worker: whether it can do what is ordered."""
    return _opened(order)[1]


@functools.lru_cache(maxsize=4)
def _opened(order: Order) -> tuple[Plan | None, Fitness]:
    """The plan of an order, which is unpacked once, so that measurers keep what they have loaded."""
    expected, here = dict(order.versions), versions()
    differs = compare(expected, here, _SHOULD_AGREE)
    problem = compare(expected, here, MUST_AGREE)
    if problem:
        return None, Fitness(f"{problem}. Install the same there.", differs)
    problem = _folder_problem(order.journals)
    if problem:
        return None, Fitness(problem, differs)
    try:
        return pickle.loads(order.packed), Fitness("", differs)  # noqa: S301 (from who may run anything here)  # nosec B301
    except Exception as error:  # noqa: BLE001  who asked raises what it is told
        return None, Fitness(
            f"it cannot load the sources, {type(error).__name__}: {error}. What they are made of has to be installed there.",
            differs,
        )


def _folder_problem(journals: Path) -> str:
    output = journals.parents[1]
    if not journals.is_dir():
        return (
            f"it does not see the output folder {output} that is to be filled. It has to lie on a file system "
            "that every worker has, at the same path."
        )
    try:
        probe = journals / f"probe-{secrets.token_hex(8)}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        return f"it cannot write into the output folder {output}: {error.strerror}."
    return ""


def compare(expected: Mapping[str, str], found: Mapping[str, str], names: Iterable[str]) -> str:
    """``has numpy 1.26.4 instead of 2.4.6``, for all of the names that differ; empty if none does."""
    differ = [name for name in names if found[name] != expected[name]]
    said = (f"{name} {found[name] or '(not installed)'} instead of {expected[name] or 'none'}" for name in differ)
    return f"has {', '.join(said)}" if differ else ""


def not_installed(who: str, error: ModuleNotFoundError) -> str:
    return f"{who} has no module {error.name}; install the same polystab there as here.".strip()


def _address() -> str:
    address: str = importlib.import_module("distributed").get_worker().address
    return address
