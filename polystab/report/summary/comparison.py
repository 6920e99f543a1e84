"""The cube against another one.

``comparison``
    None without another cube, else ``title`` and ``fingerprint`` of the other; ``level``, ``paired``, ``power``; ``n_tests``;
    ``same`` (every run is on both sides); ``models_alone``, ``metrics_alone`` (number of either cube,
    not compared); ``notes`` (what makes the comparison less than it seems); ``models``: list of
    ``model``, ``other_model``; ``undecided`` (every variable of
    :func:`polystab.analysis.comparisons.undecided_overview`); ``counts`` by verdict; ``worse``, ``better`` (rows that differ); ``rows``: list, worst first,
    of ``metric``, ``family``, ``units``, ``better``, ``model``, ``other_model`` and every variable of
    :func:`polystab.analysis.compare_cubes`, of which those with two sides end in ``_this`` and ``_other``, codes are words;
    ``picture`` (in words); ``curves``: list of ``metric``, ``model``, ``other_model``, ``picture``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from polystab.analysis.comparisons.kernels import METHODS, REASONS
from polystab.analysis.comparisons.undecided import undecided_overview
from polystab.analysis.comparisons.verdicts import CHANGES, VERDICTS
from polystab.analysis.coverage import fingerprint
from polystab.plots.describe import describe_curves
from polystab.report.results.computed import Results
from polystab.report.summary.schema import Summary

_WORDS = {"verdict": VERDICTS, "change": CHANGES, "method": METHODS, "reason": REASONS}

DIFFER = ("differs", "differs_slightly")


def comparison_summary(results: Results) -> Summary | None:
    """What differs between the cube of the report and another one; None without one."""
    against, compared = results.against, results.compared
    if against is None or compared is None:
        return None
    from polystab.plots.comparisons import (
        describe_differences,  # it imports matplotlib, which pages without a comparison need not
    )

    table = compared.table
    rows = _rows(table)
    differ = [row for row in rows if row["verdict"] in DIFFER]
    return {
        "title": str(against.cube.attrs.get("title", "")),
        "fingerprint": fingerprint(against.cube),
        "level": table.attrs["level"],
        "paired": bool(table.attrs["paired"]),
        "power": table.attrs["power"],
        "n_tests": table.attrs["n_tests"],
        "same": bool(table.attrs["same"]),
        "models_alone": table.attrs["n_models_alone"],
        "metrics_alone": table.attrs["n_metrics_alone"],
        "notes": list(table.attrs["notes"]),
        "models": [
            {"model": str(model), "other_model": str(other)}
            for model, other in zip(table["model"].values, table["other_model"].values, strict=True)
        ],
        "undecided": {name: number.item() for name, number in _by_side(undecided_overview(table)).items()},
        "counts": {name: sum(row["verdict"] == name for row in rows) for name in VERDICTS},
        "worse": sum(row["change"] == "worse" for row in differ),
        "better": sum(row["change"] == "better" for row in differ),
        "rows": rows,
        "picture": describe_differences(table),
        "curves": [
            {"metric": metric, "model": model, "other_model": other, "picture": describe_curves(band, metric=metric)}
            for metric, model, other, band in drawn_bands(results)
        ],
    }


def drawn_bands(results: Results) -> list[tuple[str, str, str, xr.Dataset]]:
    """Metric, model, model of the other cube, and the bands of both, of the rows whose curves are drawn."""
    compared = results.compared
    if compared is None or compared.bands is None:
        return []
    from polystab.plots.comparisons import (
        both_bands,  # it imports matplotlib, which pages without a comparison need not
    )

    return [
        (metric, model, other, both_bands(results.band, compared.bands, metric=metric, model=model, other_model=other))
        for metric, model, other in compared.drawn
    ]


def _rows(table: xr.Dataset) -> list[Summary]:
    """Every row as a dict, worst first."""
    from polystab.plots.comparisons import (
        ordered_rows,  # it imports matplotlib, which pages without a comparison need not
    )

    shape = table.sizes["model"], table.sizes["metric"]
    columns: dict[str, Any] = {
        name: np.broadcast_to(column.transpose("model", "metric", missing_dims="ignore").values, shape)
        for name, column in _by_side(table).items()
    }
    about = {name: table[name].values for name in ("metric", "family", "units", "better")}
    models, others = table["model"].values, table["other_model"].values
    return [
        {
            **{name: str(column[k]) for name, column in about.items()},
            "model": str(models[m]),
            "other_model": str(others[m]),
            **{
                name: _WORDS[name][int(column[m, k])] if name in _WORDS else column[m, k]
                for name, column in columns.items()
            },
        }
        for m, k in ordered_rows(table)
    ]


def _by_side(found: xr.Dataset) -> dict[str, xr.DataArray]:
    """Every variable; one with two sides as two, whose names end in the side."""
    columns: dict[str, xr.DataArray] = {}
    for name, variable in found.data_vars.items():
        if "side" in variable.dims:
            columns |= {f"{name}_{side}": variable.sel(side=side) for side in found["side"].values.tolist()}
        else:
            columns[str(name)] = variable
    return columns


def worsened(found: Summary) -> list[Summary]:
    """Rows in which the other cube is worse beyond what the seeds explain."""
    return [row for row in found["rows"] if row["verdict"] in DIFFER and row["change"] == "worse"]
