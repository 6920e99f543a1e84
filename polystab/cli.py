"""The ``polystab`` command.

Nothing heavy is imported before a command needs it, so that ``--help`` answers at
once. No statistic is computed here: commands call functions and print what they say.

Exit codes: 0 fine, 1 something was found (a cube that is not valid), 2 wrong usage
or bad input.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from polystab._version import __version__
from polystab.cli_common import JSON, options, print_json, require_writable
from polystab.errors import PolystabError, printable

if TYPE_CHECKING:
    import xarray as xr

RULES = ("error", "latest", "earliest", "first", "last")
# Below this share of measured cells a common grid is hardly worth having.
MOSTLY_EMPTY = 0.05

LOG_RULES = ("error", "first", "last")

ELSEWHERE = {
    "audit": "polystab.cli_audit:audit",
    "cubes": "polystab.cli_release:cubes",
    "fill": "polystab.cli_fill:fill",
    "plan": "polystab.cli_plan:plan",
    "release": "polystab.cli_release:release",
    "train": "polystab.cli_train:train",
    "watch": "polystab.cli_watch:watch",
}


class _Group(click.Group):
    """Turns the errors that polystab raises on purpose into one message and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except PolystabError as error:
            from polystab.cube.addresses import without_secrets

            click.echo(f"Error: {printable(without_secrets(str(error)))}", err=True)
            ctx.exit(2)
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


class _ReadGroup(_Group):
    """The built-in sources, each with its own options, and those that other packages register."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from polystab.sources.registry import sources

        built_in = super().list_commands(ctx)
        return [*built_in, *(name for name, source in sources().items() if source.reader and name not in built_in)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        command = super().get_command(ctx, name)
        if command is not None:
            return command
        from polystab.sources.registry import sources

        source = sources().get(name)
        if source is None or not source.reader:
            return None

        def read_source(path: str, output: str, overwrite: bool, as_json: bool) -> None:
            require_writable(output, overwrite)
            _write_cubes({output: source.read(path)}, overwrite, as_json)

        argument = click.argument("path", type=click.Path())
        return click.command(name, short_help=source.summary, help=f"Read {source.summary}.")(
            options(argument, _OUTPUT, JSON)(read_source)
        )


class _MainGroup(_Group):
    """Also the commands that live in modules of their own, imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted([*super().list_commands(ctx), *ELSEWHERE])

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in ELSEWHERE:
            return super().get_command(ctx, name)
        module, _, attribute = ELSEWHERE[name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


@click.group(cls=_MainGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="polystab")
def main() -> None:
    """Seed-stability of language-model training.

    Gathers results of runs into a cube, checks it, and reports on it.

    \b
    polystab read lm-eval results/ -o cube.nc     a folder of evaluations becomes a cube
    polystab report cube.nc -o report.html        and the cube a page
    """


@main.group(cls=_ReadGroup, short_help="Make a cube from result files.")
def read() -> None:
    """Make a cube from result files; what was refused, and why, is kept in its audit."""


_OUTPUT = options(
    click.option("-o", "--output", required=True, type=click.Path(), help="The netCDF file to write."),
    click.option("--overwrite", is_flag=True, help="Replace the file if it exists."),
)
_COLUMNS = options(
    click.option(
        "--columns", default="", metavar="NAME=COLUMN,...",
        help="Where labels come from: model=record,seed=run,step=step. Join columns with +; == starts a constant (model==gpt2).",
    ),
    click.option(
        "--metrics", default="", metavar="COLUMN=ID,...", help="Metric ids of columns: score=eval/downstream/score."
    ),
    click.option("--model", help="The model, where no column says it."),
    click.option("--split", type=click.Choice(["model"]), help="Write one cube for each model into the folder OUTPUT."),
    click.option("--on-duplicate", type=click.Choice(LOG_RULES), default="error", show_default=True,
                 help="Which of two different values for one cell to keep; what loses is kept in the audit."),
    click.option("--title", default="", help="Title of the cube."),
)  # fmt: skip


@read.command(
    "lm-eval",
    short_help="Results of the lm-evaluation-harness.",
    epilog="Example: polystab read lm-eval results/ -o evals.nc --on-duplicate latest",
)
@click.argument("tree", type=click.Path())
@_OUTPUT
@JSON
@click.option("--on-duplicate", type=click.Choice(RULES), default="error", show_default=True,
              help="Which of two different values for one cell to keep; what loses is kept in the audit.")  # fmt: skip
@click.option("--allow-limit", is_flag=True, help="Also read files measured on part of the items (--limit).")
@click.option("--run-pattern", metavar="REGEX",
              help="Finds (?P<model>), (?P<seed>), (?P<step>) in MODEL@REVISION of each file's content.")  # fmt: skip
@click.option(
    "--revision", "revisions", multiple=True, metavar="NAME=STEP", help="Step of a revision such as main=143000."
)
@click.option("--items", is_flag=True, help="Also read samples_*.jsonl beside the results: the choice for each item.")
@click.option("--title", default="", help="Title of the cube.")
def read_lm_eval(
    tree: str,
    output: str,
    overwrite: bool,
    as_json: bool,
    on_duplicate: Any,
    allow_limit: bool,
    run_pattern: str | None,
    revisions: Sequence[str],
    items: bool,
    title: str,
) -> None:
    """Read the lm-evaluation-harness results below TREE (dialects 0.3 and 0.4 or later).

    Model, seed, step and shots come from the content of each file. A file whose path
    says otherwise is refused as label-mismatch, and so listed.
    """
    from polystab.sources.eval_results import read_lm_eval
    from polystab.sources.items import read_lm_eval_samples

    require_writable(output, overwrite)
    steps = dict(_step_of_revision(text) for text in revisions)
    cube = (read_lm_eval_samples if items else read_lm_eval)(
        tree,
        on_duplicate=on_duplicate,
        allow_limit=allow_limit,
        run_pattern=run_pattern,
        revision_steps=steps,
        title=title,
    )
    _write_cubes({output: cube}, overwrite, as_json)


@read.command(
    "training-log",
    short_help="Curves: CSV, TSV, JSONL, trainer_state.json, W&B.",
    epilog="Example: polystab read training-log val_loss.csv.gz --columns model=record,seed=run,step=step --split model -o cubes/",
)
@click.argument("files", nargs=-1, required=True, type=click.Path())
@_OUTPUT
@JSON
@_COLUMNS
@click.option(
    "--run-pattern", metavar="REGEX", help="Finds (?P<model>) and (?P<seed>) in the paths of files with one run each."
)
def read_training_log(files: Sequence[str], run_pattern: str | None, **given: Any) -> None:
    """Read training curves from FILES: CSV, TSV, JSONL (also .gz), trainer_state.json, W&B export.

    Run names that are not whole numbers are numbered in sorted order and kept as run_name.
    """
    from polystab.sources import training_logs

    readers = (training_logs.read_training_log, training_logs.read_training_log_by_model)
    _read_columns(readers, files, {"run_pattern": run_pattern}, **given)


@read.command(
    "table",
    short_help="Tables, tidy or wide.",
    epilog="Example: polystab read table weights.tsv --model pythia-70m --family weight -o weights.nc",
)
@click.argument("files", nargs=-1, required=True, type=click.Path())
@_OUTPUT
@JSON
@_COLUMNS
@click.option("--layout", type=click.Choice(["auto", "tidy", "wide"]), default="auto", show_default=True,
              help="tidy: a row a value (model,seed,step,metric,value[,stderr]); wide: a column a metric.")  # fmt: skip
@click.option(
    "--family", help="Family of the metrics of a wide table: eval, probe, weight, activation, gradient, loss."
)
@click.option("--subject", default="all", show_default=True, help="Subject of the metrics of a wide table.")
def read_table(files: Sequence[str], layout: str, family: str | None, subject: str, **given: Any) -> None:
    """Read measurements from tables: one row a value, or one column a metric."""
    from polystab.sources import tables

    readers = (tables.read_table, tables.read_table_by_model)
    _read_columns(readers, files, {"layout": layout, "family": family, "subject": subject}, **given)


def _read_columns(
    readers: tuple[Callable[..., Any], Callable[..., Any]],
    files: Sequence[str],
    extra: Mapping[str, Any],
    *,
    output: str,
    overwrite: bool,
    as_json: bool,
    columns: str,
    metrics: str,
    model: str | None,
    split: str | None,
    on_duplicate: str,
    title: str,
) -> None:
    """What the readers of tables have in common: mapped columns, and a cube a model."""
    from polystab.sources.columns import parse_assignments

    options = {
        "columns": parse_assignments(columns) or None,
        "metrics": parse_assignments(metrics, option="--metrics") or None,
        "model": model,
        "on_duplicate": on_duplicate,
        **extra,
    }
    if title:
        options["title"] = title
    if split is None:
        require_writable(output, overwrite)
        _write_cubes({output: readers[0](list(files), **options)}, overwrite, as_json)
        return
    from polystab.files import file_names

    folder = Path(output)
    if folder.exists() and not folder.is_dir():
        raise click.UsageError(f"--split writes into a folder, but {output} is a file.")
    cubes = readers[1](list(files), **options)
    folder.mkdir(parents=True, exist_ok=True)
    names = file_names(cubes)
    outputs = {str(folder / f"{names[name]}.nc"): cube for name, cube in cubes.items()}
    for path in outputs:
        require_writable(path, overwrite)
    _write_cubes(outputs, overwrite, as_json)


def _write_cubes(outputs: Mapping[str, xr.DataTree], overwrite: bool, as_json: bool) -> None:
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


@main.command(short_help="Write one page on a cube.", epilog="Example: polystab report evals.nc -o report.html")
@click.argument("cube", metavar="[CUBE_OR_NAME]", default="nano")
@click.option(
    "-o", "--output", type=click.Path(), help="The file to write; standard output for md and json if left out."
)
@click.option(
    "--format", "format_", type=click.Choice(["html", "md", "json"]), help="Default: by the output's ending, else html."
)
@click.option("--title", help="Title of the page.")
@click.option("--sections", metavar="A,B", help="Only these sections, e.g. takeaways,audit,outliers.")
@click.option("--metrics", metavar="A,B", help="Only these metrics: ids, or patterns such as 'eval/*'.")
@click.option("--compare", metavar="CUBE_OR_NAME",
              help="Another cube: which differences are real, given the seeds?")  # fmt: skip
@click.option("--compare-models", metavar="HERE=THERE,...", default="",
              help="Which of its models stand against which; by default those of the same name.")  # fmt: skip
@click.option(
    "--paired", is_flag=True, help="Seed k of one cube belongs to seed k of the other (same initialisation or order)."
)
@click.option("--fail-on", multiple=True, metavar="REASON",
              help="Exit with 1 if: outliers (a run is one, or diverged); audit (it has an error or warning); change (seeds share "
              "a change for the worse after a quarter of training); change:STEP (they share any change from that step on); "
              "difference (the cube of --compare is worse in a metric, q <= 0.05). May be repeated.")  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace a file that is not an earlier report.")
def report(
    cube: str,
    output: str | None,
    format_: Any,
    title: str | None,
    sections: str | None,
    metrics: str | None,
    compare: str | None,
    compare_models: str,
    paired: bool,
    fail_on: Sequence[str],
    overwrite: bool,
) -> None:
    """Write one page on a cube: its audit, curves, seed spread, variance, phases, outlier runs.

    Without a cube, the page is about nano, which comes with polystab. The page is written before
    --fail-on has its say.
    """
    from polystab.cube import open_any
    from polystab.report.failing import parsed, reasons_to_fail
    from polystab.report.page import is_report, write_page
    from polystab.report.sections import known_sections
    from polystab.sources.columns import parse_assignments

    if output is None and format_ in (None, "html"):
        raise click.UsageError("an HTML page needs a file: -o report.html (md and json can go to standard output).")
    given: dict[str, Any] = {"format": format_, "title": title}
    given |= {name: _names(text) for name, text in (("sections", sections), ("metrics", metrics)) if text is not None}
    known_sections(given.get("sections"))
    for text in fail_on:
        parsed(text)
    if output is not None:
        require_writable(output, overwrite or is_report(output))
    if compare is None and (compare_models or paired or "difference" in fail_on):
        raise click.UsageError(
            "--compare-models, --paired and --fail-on difference need another cube: --compare OTHER."
        )
    with ExitStack() as opened:
        tree = opened.enter_context(open_any(cube))
        if compare is not None:
            pairs = parse_assignments(compare_models, option="--compare-models") or None
            given |= {"compare": opened.enter_context(open_any(compare)), "compare_models": pairs, "paired": paired}
        page, summary = write_page(tree, output, fail_on=fail_on, **given)
    click.echo(page if output is None else f"Report: {Path(output).resolve()}")
    reasons = reasons_to_fail(summary, fail_on)
    for reason in reasons:
        click.echo(f"Found: {reason}", err=True)
    if reasons:
        sys.exit(1)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


@main.command(epilog="Example: polystab info evals.nc --json")
@click.argument("cube", metavar="CUBE_OR_NAME")
@JSON
def info(cube: str, as_json: bool) -> None:
    """Say what is in a cube."""
    from polystab.cube import open_any
    from polystab.cube.describe import cube_facts, cube_text

    with open_any(cube) as tree:
        facts = cube_facts(tree)
    if as_json:
        print_json(facts)
    else:
        click.echo(cube_text(facts))


@main.command(short_help="List every violation of the rules.", epilog="Example: polystab validate evals.nc")
@click.argument("cube", metavar="CUBE_OR_NAME")
@JSON
def validate(cube: str, as_json: bool) -> None:
    """List every violation of the cube's rules; exit code 1 if there is one."""
    from polystab.cube import find_cube
    from polystab.cube.store import validate_file

    violations = validate_file(find_cube(cube))
    if as_json:
        print_json({"valid": not violations, "violations": [vars(violation) for violation in violations]})
    else:
        for violation in violations:
            click.echo(printable(str(violation)))
        click.echo(f"{cube}: " + (f"{len(violations)} violations" if violations else "valid"))
    sys.exit(1 if violations else 0)


@main.command(short_help="Join cubes.", epilog="Example: polystab merge evals.nc weights.nc -o all.nc")
@click.argument("cubes", nargs=-1, required=True, metavar="CUBES")
@_OUTPUT
@JSON
@click.option("--on-conflict", type=click.Choice(RULES), default="error", show_default=True,
              help="Which of two different values for one cell to keep; what loses is kept in the audit.")  # fmt: skip
def merge(cubes: Sequence[str], output: str, overwrite: bool, as_json: bool, on_conflict: Any) -> None:
    """Join cubes over the union of their models, seeds, steps and metrics."""
    from polystab.cube import merge_cubes, open_any

    require_writable(output, overwrite)
    merged: Any = merge_cubes([open_any(cube) for cube in cubes], on_conflict=on_conflict)
    _write_cubes({output: merged}, overwrite, as_json)


def _step_of_revision(text: str) -> tuple[str, int]:
    name, equals, step = (part.strip() for part in text.partition("="))
    if not (name and equals and step.isdecimal()):
        raise click.UsageError(f"--revision takes NAME=STEP such as main=143000, not {text!r}.")
    return name, int(step)


if __name__ == "__main__":
    main()
