"""Bars for work that takes more than a moment: below the cell of a notebook, or on standard error of a terminal.

Long functions count through :func:`tracked` or a :class:`Bar`. Nothing is ever shown on standard output,
in a file or a pipe, in a worker process or another thread, or within work that has a bar already; nor
before :data:`DELAY` seconds, so that short work has none. The bar is wiped when the work ends.

:func:`progress` switches bars off (or on, wherever standard error goes), and so does the environment
variable ``POLYSTAB_PROGRESS`` (``0`` or ``1``).
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")

VARIABLE = "POLYSTAB_PROGRESS"
_WORDS = {"0": False, "false": False, "no": False, "off": False, "1": True, "true": True, "yes": True, "on": True}

# Seconds before a bar appears, and between two looks of it.
DELAY = 1.5
INTERVAL = 0.1
_CELL_WIDTH = 100

_switch: bool | None = None
_busy = False


def progress(shown: bool | None) -> None:
    """Switch the progress bars of this process.

    Parameters
    ----------
    shown : bool or None
        False for none at all; True for bars wherever standard error goes; None, as at the start, for
        what the environment variable ``POLYSTAB_PROGRESS`` says (``0`` or ``1``) or else for bars in
        notebooks and on terminals only.

    Examples
    --------
    >>> from polystab.progress_bars import progress
    >>> progress(False)
    >>> progress(None)
    """
    global _switch
    _switch = None if shown is None else bool(shown)


def tracked(items: Iterable[T], text: str, *, unit: str = "part", total: int | None = None) -> Iterator[T]:
    """The items one by one, behind a bar if that is wanted; else nothing stands between them and the loop."""
    if not wanted():
        return iter(items)
    return _counted(items, text, unit, len(items) if total is None and isinstance(items, Sized) else total)


def _counted(items: Iterable[T], text: str, unit: str, total: int | None) -> Iterator[T]:
    with Bar(text, unit=unit, total=total) as bar:
        for item in items:
            yield item
            bar.advance()


def wanted() -> bool:
    """Whether a bar that began now would be shown."""
    if _busy or threading.current_thread() is not threading.main_thread():
        return False
    if multiprocessing.parent_process() is not None:
        return False  # workers share the terminal of the process that shows their progress
    said = asked()
    return on_terminal() or _in_notebook() if said is None else said


def asked() -> bool | None:
    """What :func:`progress` or the environment says of bars; None if neither says anything."""
    return _WORDS.get(os.environ.get(VARIABLE, "").strip().lower()) if _switch is None else _switch


def on_terminal() -> bool:
    """Whether somebody looks at standard error."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:  # it is closed
        return False


def _in_notebook() -> bool:
    # A terminal's IPython has no kernel; nobody has a shell before IPython is imported.
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class Bar:
    """How much of some work is done, told by :meth:`advance` or :meth:`to` within a ``with`` block.

    Parameters
    ----------
    text : str
        What is being done.
    unit : str, optional
        What is counted, in the singular.
    total : int, optional
        How many there are; without it the bar only counts.
    done : int, optional
        How many were done before, which says nothing of the speed.
    keep : bool, optional
        Leave the bar there when the work has ended.
    delay : float, optional
        Seconds before it is shown, by default :data:`DELAY`.
    """

    def __init__(
        self,
        text: str = "",
        *,
        unit: str = "part",
        total: int | None = None,
        done: int = 0,
        keep: bool = False,
        delay: float | None = None,
    ) -> None:
        self._text, self._unit, self._total, self._keep = text, unit, total, keep
        self._began = time.time()
        self._next = time.monotonic() + (DELAY if delay is None else delay)
        self._before = self._done = done
        self._note = ""
        self._live = False
        self._shown: Any = None

    def __enter__(self) -> Bar:
        global _busy
        if wanted():
            _busy = self._live = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def advance(self, more: int = 1) -> None:
        """So much more is done."""
        self._done += more
        if self._live and time.monotonic() >= self._next:
            self._draw()

    def to(self, done: int, note: str = "") -> None:
        """So much is done; ``note`` is said beside it."""
        self._note = note
        self.advance(done - self._done)

    def close(self) -> None:
        """The work has ended, well or not."""
        global _busy
        if self._live:
            _busy = self._live = False
        if self._shown is not None:
            if self._keep:
                self._draw()
            self._shown.close()
            self._shown = None

    def _draw(self) -> None:
        if self._shown is None:
            self._shown = self._made()
        self._shown.n = self._done
        self._shown.set_postfix_str(self._note, refresh=False)
        self._shown.refresh()
        self._next = time.monotonic() + INTERVAL

    def _made(self) -> Any:
        from tqdm import tqdm

        # Without the thread that watches bars: a process that has threads should not fork.
        unwatched: Any = type("unwatched", (tqdm,), {"monitor_interval": 0})
        place: dict[str, Any] = (
            {"file": _Cell(), "ncols": _CELL_WIDTH} if _in_notebook() else {"file": sys.stderr, "dynamic_ncols": True}
        )
        made = unwatched(
            total=self._total,
            initial=self._before,
            desc=self._text or None,
            unit=f" {self._unit}",
            leave=self._keep,
            delay=1e-9,  # or it would be drawn at once, before it is told how much is done
            **place,
        )
        made.start_t = self._began
        return made


class _Cell:
    """What tqdm writes, as one output of a notebook's cell that is replaced each time; it needs no widgets."""

    encoding = "utf-8"

    def __init__(self) -> None:
        self._output: Any = None

    def write(self, text: str) -> None:
        content = {"text/plain": text.strip("\r\n ")}
        if self._output is not None:
            self._output.update(content, raw=True)
        elif content["text/plain"]:
            from IPython.display import display

            self._output = display(content, raw=True, display_id=True)  # type: ignore[no-untyped-call,unused-ignore]

    def flush(self) -> None:
        """Everything is shown at once."""
