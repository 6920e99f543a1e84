"""Training curves, as trainers and trackers write them, into a cube."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import xarray as xr

from polystab.errors import RefusedFileError, shown
from polystab.sources.columns import (
    ALIASES,
    LABELS,
    Note,
    Numbers,
    checked_mapping,
    listed,
    note_numbers,
    numbers,
    said_of_text,
)
from polystab.sources.duplicates import OnDuplicate, checked_rule
from polystab.sources.finding import InputFile, PathLike, any_file, find_files
from polystab.sources.gathering import Gathering, Values, checked_attrs
from polystab.sources.labelled_rows import (
    LabelOptions,
    compiled_pattern,
    label_rows,
    measured_values,
    note_steps_back,
)
from polystab.sources.metric_names import checked_metrics, one_column_each, training_metric
from polystab.sources.tabular_files import SUFFIXES, TRAINER_STATE, Table, peek_columns
from polystab.sources.wandb_exports import is_wandb_export, unfolded

LOG_SUFFIXES = (*SUFFIXES, TRAINER_STATE)


def guess_training_log(path: str | os.PathLike[str]) -> bool:
    """Whether a file looks like a training log, or one of the first files below a folder does.

    Looks at names and first bytes only: a trainer state, a W&B export, or columns with
    a step and a loss or gradient norm.
    """
    return any_file(path, LOG_SUFFIXES, _looks_right)


def read_training_log(
    paths: PathLike | Iterable[PathLike],
    *,
    columns: Mapping[str, str] | None = None,
    metrics: Mapping[str, str] | None = None,
    model: str | None = None,
    run_pattern: str | None = None,
    on_duplicate: OnDuplicate = "error",
    **attrs: str,
) -> xr.DataTree:
    """Read training curves into a cube.

    Parameters
    ----------
    paths : path or iterable of paths
        CSV, TSV or JSON lines, each plain or ``.gz``; a Hugging Face
        ``trainer_state.json``; the CSV that the W&B page exports; or folders, searched
        for such files (links are followed once, hidden files are passed over).
    columns : mapping, optional
        Where ``model``, ``seed`` and ``step`` come from: a column, several joined by
        ``+`` (``"track+record"`` gives ``track/record``), or a constant after ``=``
        (``"=gpt2-124m"``). Without it, columns with obvious names are taken: ``model``;
        ``seed``, ``run``, ``run_id`` or ``run_name``; ``step``, ``global_step``,
        ``iteration``, ``iter`` or ``_step``, in this order.
    metrics : mapping, optional
        Metric ids of columns whose names do not tell, e.g. ``{"norm": "weight/all/norm"}``;
        an empty id leaves a column out. Known without it: losses (``loss``,
        ``train/loss``, ``val_loss``, ``eval_loss``, ...), gradient norms, ``eval_*``, and
        names that are ids already.
    model : str, optional
        The model of all files, where no column names it.
    run_pattern : str, optional
        Regular expression with the named group ``seed`` or ``model`` or both, searched in
        the path of each file (relative to what was given, then with the enclosing
        folder's name), or in the run names of a W&B export. Without it, a file without a
        run column is the run that ``seed<digits>`` in its path states, or else a run
        named by its path.
    on_duplicate : {"error", "first", "last"}
        What to do where a cell has different values: raise, or keep the first or last by
        order of files, then rows. What gives way is kept in the audit. Equal values are
        no conflict.
    **attrs : str
        File attributes of the cube: ``title``, ``source``, ``license``, ``references``, ...

    Returns
    -------
    xarray.DataTree
        The cube at the root, ``value(model, seed, step, metric)``. Losses are
        ``loss/train/cross_entropy`` and ``loss/validation/cross_entropy`` in nats; the
        gradient norm is ``gradient/all/norm``; ``eval_accuracy`` is
        ``eval/validation/accuracy``. Integer run labels are the seeds; labels that each
        state another seed (``tiny-seed3``) give it; other names are numbered in natural
        order within each model, and kept in the coordinate ``run_name(model, seed)``.
        ``summary`` says how full the cube is. The child ``audit`` has an entry for every
        file, read or refused, and notes on what was left out.

    Raises
    ------
    ReadError
        Nothing could be read: the message says what was refused and why. Or an option
        makes no sense.
    ConflictError
        A cell has different values and ``on_duplicate="error"``.
    UnknownNameError
        An option's value or an attribute does not exist.
    CubeTooLargeError
        The common grid is too large, or over half a GiB and less than 1 % full; use
        :func:`read_training_log_by_model`.

    Notes
    -----
    Empty, null and NaN cells are not measured (the audit counts them, NaN apart, as a
    diverged run may log it); infinite values are kept. Text among numbers, rows whose
    step is no whole number from 0 on, and broken lines are left out and counted. A
    trainer state's last ``train_loss`` is a mean over training, and left out. One run,
    one step and ragged runs are fine.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> log = pathlib.Path(tempfile.mkdtemp()) / "curves.csv"
    >>> _ = log.write_text("run,step,val_loss\\nb,0,10.9\\nb,100,6.1\\na,0,10.8\\n")
    >>> tree = read_training_log(log, model="tiny")
    >>> dict(tree.sizes), tree["run_name"].values.tolist()
    ({'model': 1, 'seed': 2, 'step': 2, 'metric': 1}, [['a', 'b']])
    >>> tree.attrs["summary"].split(".")[0]
    '2 runs; 3 of 4 cells (1 model x 2 seeds x 2 steps x 1 metric) are measured, 75 %'
    """
    return _gathered(paths, columns, metrics, model, run_pattern, on_duplicate, attrs).tree(on_duplicate, attrs)


def read_training_log_by_model(
    paths: PathLike | Iterable[PathLike],
    *,
    columns: Mapping[str, str] | None = None,
    metrics: Mapping[str, str] | None = None,
    model: str | None = None,
    run_pattern: str | None = None,
    on_duplicate: OnDuplicate = "error",
    **attrs: str,
) -> dict[str, xr.DataTree]:
    """Read training curves into one cube for each model, each on its own grid.

    For models that share few steps: a common grid, which would be mostly empty, is
    never made. Parameters and errors are those of :func:`read_training_log`.

    Returns
    -------
    dict of str to xarray.DataTree
        By model, in the order in which a cube lists models. Each ``audit`` has the files
        that this model's values are from, and all refused files.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> log = pathlib.Path(tempfile.mkdtemp()) / "curves.csv"
    >>> _ = log.write_text("model,seed,step,loss\\ntiny,0,1,9.5\\nbig,0,2,9.1\\n")
    >>> {model: dict(tree.sizes)["step"] for model, tree in read_training_log_by_model(log).items()}
    {'big': 1, 'tiny': 1}
    """
    return _gathered(paths, columns, metrics, model, run_pattern, on_duplicate, attrs).trees(on_duplicate, attrs)


def _gathered(
    paths: PathLike | Iterable[PathLike],
    columns: Mapping[str, str] | None,
    metrics: Mapping[str, str] | None,
    model: str | None,
    run_pattern: str | None,
    on_duplicate: str,
    attrs: Mapping[str, str],
) -> Gathering:
    checked_rule(on_duplicate)
    checked_attrs(attrs)
    options = LabelOptions(checked_mapping(columns, LABELS, model=model), compiled_pattern(run_pattern))
    chosen = checked_metrics(metrics)
    gathering = Gathering("training log")

    def interpret(table: Table, file: InputFile, note: Note) -> tuple[Values, str]:
        if is_wandb_export(table.columns):
            table = unfolded(table)
            gathering.met.update(table.columns)
            for reason, detail in table.notes:
                note(reason, detail)
        return _interpreted(table, file, options, chosen, gathering, note)

    gathering.read(find_files(paths, LOG_SUFFIXES, gathering.log), interpret)
    gathering.check_met(chosen)
    return gathering


def _interpreted(
    table: Table, file: InputFile, options: LabelOptions, metrics: Mapping[str, str], gathering: Gathering, note: Note
) -> tuple[Values, str]:
    """One file's values, and a line on it for the audit."""
    rows = label_rows(table, file, options, note)
    note_steps_back(table, rows, note)
    chosen, read = _metric_columns(table, rows.used, metrics, note)
    note_numbers(read, table, note)
    values = measured_values(gathering, rows, {metric: read[name] for name, metric in chosen.items()}, note)
    named = listed([f"{name!r} is {metric}" for name, metric in chosen.items()])
    return values, f"{table.kind}, {len(table):,} rows, {len(values):,} values; {named}."


def _metric_columns(
    table: Table, used: frozenset[str], metrics: Mapping[str, str], note: Note
) -> tuple[dict[str, str], dict[str, Numbers]]:
    """Metric ids and numbers of the columns that are metrics; what is left out is noted."""
    chosen: dict[str, str] = {}
    left: dict[str, list[str]] = {"not-a-metric": [], "unused-column": [], "training-mean": []}
    for name in table.columns:
        if name in used:
            continue
        metric = metrics[name] if name in metrics else training_metric(name)
        if name not in metrics and table.kind == "trainer-state" and name == "train_loss":
            left["training-mean"].append(name)
        elif metric:
            chosen[name] = metric
        else:
            left["unused-column" if metric is None or name in metrics else "not-a-metric"].append(name)
    read = {name: numbers(table.columns[name]) for name in chosen}
    for name, column in read.items():
        if name not in metrics and column.only_text:
            del chosen[name]
            left["unused-column"].append(name)
    chosen = one_column_each(chosen, metrics, left["unused-column"])
    if not chosen:
        raise RefusedFileError(
            "no-metric",
            "no column is known to be a loss, a gradient norm or an evaluation; say which is with "
            "metrics={'COLUMN': 'loss/train/cross_entropy'} (--metrics COLUMN=loss/train/cross_entropy). "
            f"Columns: {shown(table.columns, 12)}.{said_of_text(read)}",
        )
    for reason, names in left.items():
        if names:
            note(reason, f"left out: {shown(names, 12)}. {_WHY[reason]}")
    return chosen, {name: read[name] for name in chosen}


_WHY = {
    "not-a-metric": "Clock, progress and settings have no place in a cube.",
    "unused-column": "Text, or a name that does not tell what is measured; metrics= (--metrics COLUMN=ID) does.",
    "training-mean": "The trainer's closing train_loss is the mean over training, not the loss at that step.",
}


def _looks_right(path: Path) -> bool:
    names = peek_columns(path)
    if names == ["log_history"]:
        return True
    has_step = any(name.lower() in ALIASES["step"] for name in names)
    return has_step and (is_wandb_export(names) or any(training_metric(name) for name in names))
