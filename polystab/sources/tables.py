"""Any table of measurements, tidy or wide, into a cube."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import get_args

import xarray as xr

from polystab.cube.specs import FAMILIES
from polystab.errors import UnknownNameError, did_you_mean
from polystab.sources.columns import ALIASES, Note, checked_mapping
from polystab.sources.duplicates import OnDuplicate, checked_rule
from polystab.sources.finding import InputFile, PathLike, any_file, find_files
from polystab.sources.gathering import Gathering, Values, checked_attrs
from polystab.sources.labelled_rows import LabelOptions
from polystab.sources.metric_names import checked_id, checked_metrics
from polystab.sources.table_layouts import ROLES, Layout, TableOptions, interpreted
from polystab.sources.tabular_files import SUFFIXES, Table, peek_columns


def guess_table(path: str | os.PathLike[str]) -> bool:
    """Whether a file looks like a table of measurements, or one of the first files below a folder does.

    Looks at names and first bytes only: columns for a step, and either metric and value
    or a seed.
    """
    return any_file(path, SUFFIXES, _looks_right)


def read_table(
    paths: PathLike | Iterable[PathLike],
    *,
    columns: Mapping[str, str] | None = None,
    metrics: Mapping[str, str] | None = None,
    layout: Layout = "auto",
    model: str | None = None,
    family: str | None = None,
    subject: str = "all",
    on_duplicate: OnDuplicate = "error",
    **attrs: str,
) -> xr.DataTree:
    """Read a table of measurements into a cube.

    Parameters
    ----------
    paths : path or iterable of paths
        CSV, TSV or JSON lines, each plain or ``.gz``; or folders, searched for such files
        (links are followed once, hidden files are passed over).
    columns : mapping, optional
        Where ``model``, ``seed``, ``step`` and, for tidy tables, ``metric``, ``value``,
        ``stderr`` and coordinates come from: a column, several joined by ``+``, or a
        constant after ``=`` (``{"model": "=pythia-70m"}``). Without it, columns with
        these names are taken (for the seed also ``run``, ``run_id`` or ``run_name``; for
        the step also ``global_step``, ``iteration``, ``iter`` or ``_step``).
    metrics : mapping, optional
        Metric ids of columns (of entries of the ``metric`` column, in a tidy table), e.g.
        ``{"score": "eval/downstream/score"}``; an empty id leaves one out.
    layout : {"auto", "tidy", "wide"}
        ``"tidy"``: one value a row, with columns ``metric`` and ``value``, and any
        coordinate that :func:`polystab.cube_from_records` takes. ``"wide"``: one column
        a metric. ``"auto"``: tidy if there are both columns.
    model : str, optional
        The model of all files, where no column names it.
    family, subject : str, optional
        Names that are not metric ids become ``<family>/<subject>/<name>``, where a ``/``
        in the name is written ``_over_``: with ``family="weight"``, a column ``L1/L2`` is
        ``weight/all/L1_over_L2``. Without a family they are left out, and noted.
    on_duplicate : {"error", "first", "last"}
        What to do where a cell has different values: raise, or keep the first or last by
        order of files, then rows. What gives way is kept in the audit.
    **attrs : str
        File attributes of the cube: ``title``, ``source``, ``license``, ``references``, ...

    Returns
    -------
    xarray.DataTree
        The cube at the root, ``value`` and, if the table has it, ``stderr`` over (model,
        seed, step, metric); runs are numbered as :func:`polystab.read_training_log` does.
        The child ``audit`` has an entry for every file, read or refused, and notes on
        what was left out.

    Raises
    ------
    ReadError
        Nothing could be read: the message says what was refused and why. Or an option
        makes no sense.
    ConflictError
        A cell has different values and ``on_duplicate="error"``.
    RecordsError
        A coordinate differs between files.
    UnknownNameError
        An option's value or an attribute does not exist.
    CubeTooLargeError
        The common grid is too large, or over half a GiB and less than 1 % full; use
        :func:`read_table_by_model`.

    Notes
    -----
    Empty, null and NaN cells are not measured; infinite values are kept; text among
    numbers and rows without a usable label or step are left out and counted. Columns of
    a wide table that hold more text than numbers are no metrics. One seed is fine.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> table = pathlib.Path(tempfile.mkdtemp()) / "norms.tsv"
    >>> _ = table.write_text("seed\\tstep\\tL1/L2\\n0\\t0\\t814.9\\n1\\t0\\t815.2\\n")
    >>> tree = read_table(table, model="pythia-70m", family="weight")
    >>> tree["metric"].values.tolist(), tree["value"].values.ravel().tolist()
    (['weight/all/L1_over_L2'], [814.9, 815.2])
    """
    return _gathered(paths, columns, metrics, layout, model, family, subject, on_duplicate, attrs).tree(
        on_duplicate, attrs
    )


def read_table_by_model(
    paths: PathLike | Iterable[PathLike],
    *,
    columns: Mapping[str, str] | None = None,
    metrics: Mapping[str, str] | None = None,
    layout: Layout = "auto",
    model: str | None = None,
    family: str | None = None,
    subject: str = "all",
    on_duplicate: OnDuplicate = "error",
    **attrs: str,
) -> dict[str, xr.DataTree]:
    """Read a table of measurements into one cube for each model, each on its own grid.

    Parameters and errors are those of :func:`read_table`.

    Returns
    -------
    dict of str to xarray.DataTree
        By model, in the order in which a cube lists models.
    """
    return _gathered(paths, columns, metrics, layout, model, family, subject, on_duplicate, attrs).trees(
        on_duplicate, attrs
    )


def _gathered(
    paths: PathLike | Iterable[PathLike],
    columns: Mapping[str, str] | None,
    metrics: Mapping[str, str] | None,
    layout: Layout,
    model: str | None,
    family: str | None,
    subject: str,
    on_duplicate: str,
    attrs: Mapping[str, str],
) -> Gathering:
    checked_rule(on_duplicate)
    checked_attrs(attrs)
    if layout not in get_args(Layout):
        raise UnknownNameError(f"no layout {layout!r}. {did_you_mean(str(layout), get_args(Layout))}")
    if family is not None:
        if family not in FAMILIES:
            raise UnknownNameError(f"no family {family!r}. {did_you_mean(str(family), FAMILIES)}")
        checked_id(f"{family}/{subject}/measure", said_by=f"subject={subject!r}")
    labels = LabelOptions(checked_mapping(columns, ROLES, model=model))
    options = TableOptions(labels, checked_metrics(metrics), layout, family, subject)
    gathering = Gathering("table")

    def interpret(table: Table, file: InputFile, note: Note) -> tuple[Values, str]:
        return interpreted(table, file, options, gathering, note)

    gathering.read(find_files(paths, SUFFIXES, gathering.log), interpret)
    gathering.check_met(options.metrics)
    return gathering


def _looks_right(path: Path) -> bool:
    names = {name.lower() for name in peek_columns(path)}
    if names.isdisjoint(ALIASES["step"]):
        return False
    return {"metric", "value"} <= names or not names.isdisjoint(ALIASES["seed"])
