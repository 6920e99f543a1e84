"""The CSV that the Weights & Biases page exports: one column for each run and metric."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from polystab.errors import shown
from polystab.sources.columns import ALIASES
from polystab.sources.tabular_files import ABSENT, Table

RUN = "run"

_BETWEEN = " - "
_BOUNDS = ("__MIN", "__MAX")


def is_wandb_export(names: Collection[str]) -> bool:
    """Whether columns look like ``Step``, ``run-name - train/loss``, ``run-name - train/loss__MIN``, ..."""
    series = [name for name in names if _BETWEEN in name]
    others = [name for name in names if _BETWEEN not in name]
    plain = {"relative time (process)", "relative time (wall)", "wall time", "relative time", *ALIASES["step"]}
    return bool(series) and bool(others) and all(name.lower() in plain for name in others)


def unfolded(table: Table) -> Table:
    """The same with a row for each step of each run, and a column for each metric.

    The run's name is what stands before the last `` - ``. Minima and maxima are left
    out; they tell whether a value is itself a mean. ``notes`` say so, and nothing else.
    """
    series: dict[str, dict[str, list[Any]]] = {}
    shared: dict[str, list[Any]] = {}
    bounds: list[str] = []
    for name, cells in table.columns.items():
        run, between, metric = name.rpartition(_BETWEEN)
        if not between:
            shared[name] = cells
        elif name.endswith(_BOUNDS) and name[: -len("__MIN")] in table.columns:
            bounds.append(name)
        else:
            series.setdefault(run.strip(), {})[metric.strip()] = cells
    metrics = list(dict.fromkeys(metric for columns in series.values() for metric in columns))
    columns: dict[str, list[Any]] = {name: cells * len(series) for name, cells in shared.items()}
    columns[RUN] = [run for run in series for _ in table.lines]
    absent = [ABSENT] * len(table)
    for metric in metrics:
        columns[metric] = [cell for own in series.values() for cell in own.get(metric, absent)]
    return Table("wandb", columns, table.lines * len(series), run_column=RUN, notes=_bound_notes(table.columns, bounds))


def _bound_notes(columns: Mapping[str, list[Any]], bounds: list[str]) -> list[tuple[str, str]]:
    notes = []
    if bounds:
        notes.append(("bounds-left-out", f"{len(bounds)} columns of minima and maxima: {shown(bounds)}."))
    spread = {}
    for name in bounds:
        low, high = columns.get(name[:-3] + "MIN"), columns.get(name[:-3] + "MAX")
        if low is not None and high is not None:
            count = sum(a != b for a, b in zip(low, high, strict=True))
            if count:
                spread[name[: -len("__MIN")]] = count
    if spread:
        notes.append(
            (
                "means-of-several",
                f"{sum(spread.values()):,} values of {shown(spread)} have a minimum and a maximum that differ: "
                "W&B averaged over steps or over grouped runs, so these are means. A group is not a run: export runs ungrouped.",
            )
        )
    return notes
