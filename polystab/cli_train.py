"""``polystab train``: train a small suite of runs, and make its cube."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from polystab.cli_common import JSON, ProgressDisplay, duration, print_json

if TYPE_CHECKING:
    from polystab.suites.train import TrainProgress, TrainResult


@click.command(
    short_help="Train a small suite of runs.",
    epilog="Example: polystab train nano --quick --measure evals -o nano-quick/",
)
@click.argument("suite", required=False)
@click.option("-o", "--output", type=click.Path(), help="The folder of the suite; run it again to go on.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes, one run each.")
@click.option("--measure", metavar="A,B", default="", help="Sources that measure each checkpoint as it is made: evals.")
@click.option("--quick", is_flag=True, help="A short version that takes minutes.")
@click.option("--keep-checkpoints", is_flag=True, help="Keep them although they are measured.")
@click.option("--device", default="auto", show_default=True, help="Where models run: auto, cpu, cuda, ...")
@click.option(
    "--init-from",
    metavar="CHECKPOINT",
    help="Make the first weights of finished ones: a folder, or a pattern with {model}, {seed} and {step}.",
)
@click.option("--init-how", metavar="HOW", help="permute them (default), or draw: histogram, fit or normal.")
@click.option("--init-vectors", metavar="WHICH", help="Gains and biases: final, as matrices (default), or fresh.")
@click.option("--list", "listing", is_flag=True, help="List the suites.")
@JSON
def train(
    suite: str | None,
    output: str | None,
    jobs: int,
    measure: str,
    quick: bool,
    keep_checkpoints: bool,
    device: str,
    init_from: str | None,
    init_how: str | None,
    init_vectors: str | None,
    listing: bool,
    as_json: bool,
) -> None:
    """Train SUITE (nano, nano-factorial, nano-edge or nano-init): GPT-NeoX runs on a small language, no downloads.

    The folder gets logs, the cube SUITE.nc with losses and whatever was measured, and
    runs.csv with the checkpoints if they are kept, for polystab fill. What is done is
    not done again. Exit code 1 if something could not be measured.
    """
    if listing:
        _list(as_json)
        return
    if suite is None or output is None:
        missing = "a suite (polystab train --list)" if suite is None else "-o DIR, the folder of the suite"
        raise click.UsageError(f"give {missing}.")
    from polystab.cube import save_cube
    from polystab.cube.describe import coverage_sentence
    from polystab.suites.cubes import suite_cube

    begin = {"init_from": init_from, "init_how": init_how, "init_vectors": init_vectors}
    result = _train(suite, output, jobs, measure, quick, keep_checkpoints, device, begin, show=not as_json)
    tree = suite_cube(output)
    path = Path(output) / f"{suite}{'-quick' if quick else ''}.nc"
    save_cube(tree, path)
    if as_json:
        print_json(_facts(result, path))
    else:
        _print_result(result)
        click.echo(f"{path}: {coverage_sentence(tree)}")
        click.echo(f"  next: polystab report {path} -o report.html")
    sys.exit(1 if result.failed else 0)


def _list(as_json: bool) -> None:
    from polystab.suites.recipes import suite, suites

    listed = [suite(name) for name in suites()]
    if as_json:
        print_json([{"name": each.name, "runs": len(each.runs), "summary": each.summary} for each in listed])
        return
    for each in listed:
        click.echo(f"{each.name:<15} {len(each.runs):>3} runs  {each.summary}")


def _train(
    suite: str,
    output: str,
    jobs: int,
    measure: str,
    quick: bool,
    keep: bool,
    device: str,
    begin: Mapping[str, str | None],
    *,
    show: bool,
) -> TrainResult:
    from polystab.suites.train import train as train_suite

    display = _Display(show)
    try:
        return train_suite(
            suite,
            output,
            jobs=jobs,
            measure=[name.strip() for name in measure.split(",") if name.strip()],
            keep_checkpoints=keep or None,
            quick=quick,
            device=device,
            **begin,
            progress=display,
        )
    except KeyboardInterrupt:
        display.close()
        click.echo(f"Stopped. What is done is kept in {output}; the same command goes on.", err=True)
        sys.exit(1)
    finally:
        display.close()


class _Display(ProgressDisplay):
    """Updates and runs on standard error."""

    def __call__(self, progress: TrainProgress) -> None:
        self.show(
            progress.updates,
            progress.total,
            unit="update",
            note=f"{progress.runs_done}/{progress.runs} runs",
            line=lambda: progress_line(progress),
        )


def progress_line(progress: TrainProgress) -> str:
    """``3 of 12 runs, 700 of 2,400 updates, 40 s``."""
    return (
        f"{progress.runs_done} of {progress.runs} runs, {progress.updates:,} of {progress.total:,} updates, "
        f"{duration(progress.seconds)}"
    )


def _facts(result: TrainResult, path: Path) -> dict[str, Any]:
    return {
        "output": str(path),
        "trained": result.trained,
        "already_done": result.already_done,
        "diverged": list(result.diverged),
        "failed": [vars(failure) for failure in result.failed],
        "seconds": round(result.seconds, 3),
    }


def _print_result(result: TrainResult) -> None:
    there = f", {result.already_done:,} were there" if result.already_done else ""
    click.echo(f"{result.folder}: trained {result.trained:,} runs in {duration(result.seconds)}{there}")
    for text in result.diverged:
        click.echo(f"  diverged: {text}")
    for failure in result.failed[:5]:
        click.echo(
            f"  failed {failure.source} {failure.model} seed {failure.seed} step {failure.step}: "
            f"{failure.reason}: {failure.detail}"
        )
    if len(result.failed) > 5:
        click.echo(f"  and {len(result.failed) - 5:,} more")
