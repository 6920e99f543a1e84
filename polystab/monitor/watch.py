"""Watching the log of a running job."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator

from polystab.errors import ReadError
from polystab.monitor.tail import LogRow, LogTail
from polystab.monitor.watcher import Finding, RunWatcher


def watch_log(
    tail: LogTail,
    watcher: RunWatcher,
    *,
    interval: float = 10.0,
    idle: float = math.inf,
    until: int | None = None,
    once: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Finding]:
    """Findings on a run, as its log grows.

    Parameters
    ----------
    tail : LogTail
        The log.
    watcher : RunWatcher
        What it is compared with; its ``alarms`` and ``last_step`` tell more.
    interval : float, optional
        Seconds between looks at the log.
    idle : float, optional
        Seconds without anything new after which watching ends.
    until : int, optional
        The step after which it ends.
    once : bool, optional
        Read what is there, and end.
    sleep : callable, optional
        Waits for so many seconds.

    Yields
    ------
    Finding
        Ends when the log says that training has, at ``until``, after ``idle`` seconds, or after one look.

    Raises
    ------
    ReadError
        The log cannot be read, or held nothing to use by the end; ``interval`` or ``idle`` is not above 0.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> from polystab.monitor import LogTail, RunWatcher, watch_log
    >>> log = pathlib.Path(tempfile.mkdtemp()) / "log.csv"
    >>> _ = log.write_text("step,loss\\n1,9.2\\n2,8.8\\n3,inf\\n")
    >>> [(found.rule, found.step) for found in watch_log(LogTail(log), RunWatcher(), once=True)]
    [('non-finite', 3)]
    """
    if not (interval > 0 and idle > 0):
        raise ReadError(f"interval is {interval} and idle {idle} seconds; both must be above 0.")
    waited = 0.0
    try:
        while True:
            rows = tail.read(last=once)
            yield from _said(rows, watcher)
            waited = 0.0 if rows else waited
            if once or tail.ended or (until is not None and watcher.last_step >= until):
                break
            if waited >= idle:
                yield from _said(tail.read(last=True), watcher)
                break
            pause = min(interval, max(idle - waited, 1e-3))
            sleep(pause)
            waited += pause
        tail.check_used()
    finally:
        tail.close()


def _said(rows: Iterable[LogRow], watcher: RunWatcher) -> Iterator[Finding]:
    for row in rows:
        yield from watcher.update(row.step, row.values)
