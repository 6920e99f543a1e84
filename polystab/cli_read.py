"""``polystab read``: cubes from result files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from polystab.cli_common import JSON, OUTPUT, RULES, Group, options, require_writable, write_cubes

LOG_RULES = ("error", "first", "last")


class _ReadGroup(Group):
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
            write_cubes({output: source.read(path)}, overwrite, as_json)

        argument = click.argument("path", type=click.Path())
        return click.command(name, short_help=source.summary, help=f"Read {source.summary}.")(
            options(argument, OUTPUT, JSON)(read_source)
        )


@click.group(cls=_ReadGroup, short_help="Make a cube from result files.")
def read() -> None:
    """Make a cube from result files; what was refused, and why, is kept in its audit."""


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
@OUTPUT
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
    write_cubes({output: cube}, overwrite, as_json)


@read.command(
    "training-log",
    short_help="Curves: CSV, TSV, JSONL, trainer_state.json, W&B.",
    epilog="Example: polystab read training-log val_loss.csv.gz --columns model=record,seed=run,step=step --split model -o cubes/",
)
@click.argument("files", nargs=-1, required=True, type=click.Path())
@OUTPUT
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
@OUTPUT
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
        write_cubes({output: readers[0](list(files), **options)}, overwrite, as_json)
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
    write_cubes(outputs, overwrite, as_json)


def _step_of_revision(text: str) -> tuple[str, int]:
    name, equals, step = (part.strip() for part in text.partition("="))
    if not (name and equals and step.isdecimal()):
        raise click.UsageError(f"--revision takes NAME=STEP such as main=143000, not {text!r}.")
    return name, int(step)
