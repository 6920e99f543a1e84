"""What the commands of several modules share: options, and how facts are printed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

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
    """Progress on standard error: a bar on a terminal, where tqdm is there, else a line now and then."""

    LINE_SECONDS = 30.0

    def __init__(self) -> None:
        self._bar: Any = None
        self._last = time.monotonic()
        self._plain = not sys.stderr.isatty()

    def show(self, done: int, total: int, *, unit: str, note: str, line: Callable[[], str]) -> None:
        """Say that ``done`` of ``total`` units are done; ``line`` says it where there is no bar."""
        if not self._plain and self._bar is None:
            self._bar = _new_bar(done, total, unit)
            self._plain = self._bar is None
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.n = done
            self._bar.refresh()
        elif time.monotonic() - self._last >= self.LINE_SECONDS:
            self._last = time.monotonic()
            click.echo(line(), err=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _new_bar(done: int, total: int, unit: str) -> Any:
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        return None
    return tqdm(total=total, initial=done, unit=unit, dynamic_ncols=True)
