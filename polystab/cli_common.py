"""What the commands of several modules share: options, and how facts are printed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from polystab.progress_bars import Bar

F = TypeVar("F", bound=Callable[..., Any])

JSON = click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")


def options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order in which ``--help`` lists them."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


def require_writable(output: str, overwrite: bool) -> None:
    """Fail before the work, not after it."""
    from polystab.files import require_writable

    require_writable(output, overwrite=overwrite)


def print_json(facts: Any) -> None:
    click.echo(json.dumps(facts, indent=2, ensure_ascii=False))


def duration(seconds: float) -> str:
    """``45 s``, ``7 min`` or ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class ProgressDisplay:
    """Progress on standard error: a bar on a terminal, else a line now and then; nothing if ``shown`` is false."""

    LINE_SECONDS = 30.0

    def __init__(self, shown: bool = True) -> None:
        from polystab.progress_bars import asked, wanted

        self._bar: Bar | None = None
        self._last = time.monotonic()
        self._barred = shown and wanted()
        self._lined = shown and not self._barred and asked() is not False

    def show(self, done: int, total: int, *, unit: str, note: str, line: Callable[[], str]) -> None:
        """Say that ``done`` of ``total`` units are done; ``line`` says it where there is no bar."""
        if self._barred:
            if self._bar is None:
                self._bar = _new_bar(done, total, unit)
            self._bar.to(done, note)
        elif self._lined and time.monotonic() - self._last >= self.LINE_SECONDS:
            self._last = time.monotonic()
            click.echo(line(), err=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _new_bar(done: int, total: int, unit: str) -> Bar:
    from polystab.progress_bars import Bar

    return Bar(unit=unit, total=total, done=done, keep=True, delay=0).__enter__()
