"""Processes at work for this one: each a fresh interpreter with a pipe, which ends when this one does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any


def start_process(
    target: Callable[..., None], *args: Any, name: str, threads: int, script: bool = False
) -> tuple[Any, Connection]:
    """Start ``target(connection, *args)`` in a fresh interpreter.

    Parameters
    ----------
    target : callable
        A function of a module, which gets its end of a pipe first.
    name : str
        Of the process.
    threads : int
        That numpy and torch take there, unless ``OMP_NUM_THREADS`` is set.
    script : bool
        Whether ``args`` need what the script of this process defines. It is then run
        again there, up to ``if __name__ == "__main__":``.

    Returns
    -------
    (Process, Connection)
        The process, and our end of the pipe.

    Raises
    ------
    OSError
        The system starts no more processes.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    # Not daemonic: it may use processes of its own.
    process = context.Process(target=_run, args=(target, theirs, args), name=name)
    with _environment(threads), no_interrupts(), main_module(needed=script):
        process.start()
    theirs.close()
    return process, ours


def last_words(exit_code: int | None) -> str:
    """How a process ended: ``by SIGKILL``, ``with exit code 1``."""
    if exit_code is None or exit_code >= 0:
        return f"with exit code {exit_code}"
    try:
        return f"by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"by signal {-exit_code}"


def _run(target: Callable[..., None], connection: Connection, args: tuple[Any, ...]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    target(connection, *args)


def _end_with_parent() -> None:
    """End this process when its parent has ended, even in the middle of its work."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """The number of threads that numpy and torch take from the environment as they are imported, unless it is set."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]


@contextmanager
def main_module(*, needed: bool) -> Iterator[None]:
    """Keep new processes from running the script of this one again, unless they need what it defines.

    Running it again takes time, and a script that does not guard its call of us would
    call us from there.
    """
    main = sys.modules["__main__"]
    if not needed:
        sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def no_interrupts() -> Iterator[None]:
    """Ctrl-C goes to every process of a terminal; ours inherit that it is blocked, and end when we do."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
