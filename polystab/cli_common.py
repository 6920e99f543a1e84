"""What the commands of several modules share: options, how cubes are written, how facts and errors are printed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import click

from polystab.errors import PolystabError, printable
from polystab.redaction import without_secrets

if TYPE_CHECKING:
    import xarray as xr

    from polystab.progress_bars import Bar

F = TypeVar("F", bound=Callable[..., Any])

# Which of two values for one cell to keep.
RULES = ("error", "latest", "earliest", "first", "last")
# Below this share of measured cells a common grid is hardly worth having.
MOSTLY_EMPTY = 0.05

JSON = click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")


def options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order in which ``--help`` lists them."""

    def apply(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return apply


OUTPUT = options(
    click.option("-o", "--output", required=True, type=click.Path(), help="The netCDF file to write."),
    click.option("--overwrite", is_flag=True, help="Replace the file if it exists."),
)


class Group(click.Group):
    """Turns the errors that polystab raises on purpose into one message and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PolystabError as error:
            click.echo(f"Error: {printable(str(error))}", err=True)
            ctx.exit(2)
        except click.ClickException as error:
            error.message = without_secrets(error.message)  # type: ignore[misc]  # the one place where it is not final
            raise
        except MemoryError as error:
            said = f" ({error})" if str(error) else ""
            click.echo(f"Error: memory ran out{said}; select fewer runs, steps or metrics first.", err=True)
            ctx.exit(2)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from polystab.errors import did_you_mean

            raise click.UsageError(
                f"{error.message.rstrip('.')}. {did_you_mean(args[0], self.list_commands(ctx))}", ctx
            ) from error


def require_writable(output: str, overwrite: bool) -> None:
    """Fail before the work, not after it."""
    from polystab.files import require_writable

    require_writable(output, overwrite=overwrite)


def print_json(facts: Any) -> None:
    click.echo(json.dumps(facts, indent=2, ensure_ascii=False))


def write_cubes(outputs: Mapping[str, xr.DataTree], overwrite: bool, as_json: bool) -> None:
    """Save cubes, and say what is in each and what was refused."""
    from polystab.cube import audit_facts, save_cube
    from polystab.cube.describe import coverage_sentence, fullness

    for path, cube in outputs.items():
        save_cube(cube, path, overwrite=overwrite)
    facts = [{**audit_facts(cube), "output": path} for path, cube in outputs.items()]
    if as_json:
        print_json(facts[0] if len(facts) == 1 else facts)
        return
    for (path, cube), said in zip(outputs.items(), facts, strict=True):
        click.echo(f"{path}: {coverage_sentence(cube)}")
        if cube.sizes["model"] > 1 and fullness(cube) < MOSTLY_EMPTY:
            click.echo("  models hardly share a grid; --split model (training-log, table) writes one cube a model")
        if len(facts) == 1 or said["refused"] or said["replaced"]:
            _print_audit(said)


def _print_audit(facts: Mapping[str, Any]) -> None:
    from collections import Counter

    click.echo(f"  read {facts['read']:,} of {facts['files']:,} files, {facts['values']:,} values")
    for status in ("refused", "replaced", "noted"):
        for reason, count in Counter(entry["reason"] for entry in facts[status]).most_common():
            first = next(entry for entry in facts[status] if entry["reason"] == reason)
            said = first.get("detail") or f"gave way to {first.get('by')}"
            click.echo(f"  {status} {count:,} {reason}, first {first['path']}: {said}")


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
