"""``polystab audit``: is the data what it says?"""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from polystab.cli_common import JSON, print_json

if TYPE_CHECKING:
    import xarray as xr

SHOWN = 50


@click.command(
    short_help="Say whether the data is what it says.",
    epilog="Example: polystab audit evals.nc --runs polypythias --models pythia-14m --seeds 0,3 --steps 0,1,128000,143000",
)
@click.argument("cube", metavar="CUBE_OR_NAME")
@JSON
@click.option("--runs", help="Also compare the weights: a run table (runs.csv), its folder, or a catalog.")
@click.option("--models", metavar="A,B", help="With --runs: only these models; by default those of the cube.")
@click.option(
    "--seeds", metavar="0,1|0:9", help="With --runs: only these seeds, 0:9 is 0 to 9; by default those of the cube."
)
@click.option(
    "--steps", metavar="0,512|0:9000:1000", help="With --runs: only these steps; by default those of the cube."
)
@click.option("--warmup", type=click.IntRange(min=0), help="With --runs: updates over which the learning rate rises.")
@click.option("--cache-dir", type=click.Path(), help="With --runs: where checkpoints from the Hub are kept.")
@click.option("--local-files-only", is_flag=True, help="With --runs: never reach for the network.")
@click.option("--all", "everything", is_flag=True, help=f"Print all findings, not the first {SHOWN}.")
def audit(cube: str, as_json: bool, runs: str | None, everything: bool, **given: Any) -> None:
    """Look for copies, restarts, frozen or misplaced checkpoints, impossible values and holes.

    Exit code 1 if there is an error or a warning among the findings; what is only for
    information does not count.
    """
    from polystab.analysis.audit.checks import audit_cube
    from polystab.cube import open_any

    unused = [name for name, value in given.items() if value]
    if runs is None and unused:
        raise click.UsageError(f"--{unused[0].replace('_', '-')} is about weights: it needs --runs.")
    with open_any(cube) as tree:
        lineage = None if runs is None else _lineage(tree, runs, **given)
        findings = audit_cube(tree, lineage=lineage)
    rows = _rows(findings)
    found = [row for row in rows if row["severity"] != "info"]
    if as_json:
        print_json({"findings": rows, "counts": dict(Counter(row["severity"] for row in rows))})
    else:
        _print(cube, rows, everything)
    sys.exit(1 if found else 0)


def _lineage(
    tree: xr.Dataset | xr.DataTree,
    runs: str,
    *,
    models: str | None,
    seeds: str | None,
    steps: str | None,
    warmup: int | None,
    cache_dir: str | None,
    local_files_only: bool,
) -> xr.Dataset:
    from polystab.cli_fill import parse_numbers
    from polystab.cube.validate import as_cube
    from polystab.errors import shown
    from polystab.sources.checkpoints import CheckpointOptions
    from polystab.sources.lineage import weight_lineage
    from polystab.sources.runs import read_runs

    options = CheckpointOptions(cache_dir=cache_dir, local_files_only=local_files_only)
    table = read_runs(runs, options=options).with_steps(options)
    cube = as_cube(tree)

    def both(name: str, there: set[Any]) -> list[Any]:
        """What the cube and the table have both of."""
        found = sorted(there & set(cube[name].values.tolist()))
        if not found:
            raise click.UsageError(
                f"no {name} of the cube is in {runs}, which has {shown(sorted(there))}; say which to compare with --{name}s."
            )
        return found

    table = table.select(
        models=[name.strip() for name in models.split(",")] if models else both("model", {run.model for run in table})
    )
    table = table.select(
        seeds=parse_numbers("--seeds", seeds) if seeds else both("seed", {run.seed for run in table}),
        steps=parse_numbers("--steps", steps) if steps else both("step", {step for run in table for step in run.steps}),
    )
    return weight_lineage(table, options=options, warmup=warmup)


def _rows(findings: xr.Dataset) -> list[dict[str, Any]]:
    """One plain dict a finding, as --json prints them."""
    columns = (
        "kind", "severity", "model", "seed", "other_model", "other_seed", "first_step", "last_step", "n_metrics",
        "metrics", "evidence", "advice",
    )  # fmt: skip
    lists = [findings[name].values.tolist() for name in columns]
    steps = findings["step"].values
    return [
        dict(zip(columns, row, strict=True)) | {"steps": steps[at].tolist()}
        for row, at in zip(zip(*lists, strict=True), findings["at_step"].values, strict=True)
    ]


def _print(cube: str, rows: list[dict[str, Any]], everything: bool) -> None:
    counts = Counter(row["severity"] for row in rows)
    summary = ", ".join(f"{n:,} {name}{'' if n == 1 or name == 'info' else 's'}" for name, n in counts.items())
    click.echo(f"{cube}: {summary or 'nothing found'}")
    listed = rows if everything else rows[:SHOWN]
    for row in listed:
        click.echo(f"  {row['severity']} {row['kind']}: {row['evidence']}")
        click.echo(f"    {row['advice']}")
    if len(listed) < len(rows):
        click.echo(f"  and {len(rows) - len(listed):,} more; --all prints them")
