"""Who is responsible for the spread.

``variance``
    ``design``, ``confounded``, ``level``; ``parts``: list of ``component``, ``label``, ``meaning``, and of the
    metrics whose share is informative ``n_metrics``, ``fraction_least``, ``fraction_median``, ``fraction_largest``;
    ``rows``: for every measured metric, in order of rank, ``metric``, ``family``, ``step``, ``n_runs``,
    ``n_models``, ``method``, ``informative`` (at least two parts are known), ``total`` (variance) and
    ``parts``, by component: ``fraction``, ``fraction_lower``, ``fraction_upper``, ``variance``,
    ``estimate``, ``p``, ``reason``; ``pictures``: list of ``metric``, ``picture`` (in words).
"""

from __future__ import annotations

import numpy as np

from polystab.plots.describe import PARTS, describe_shares
from polystab.report.results.computed import Results
from polystab.report.summary.schema import Summary


def variance_summary(results: Results) -> Summary:
    """Who is responsible for the spread."""
    at_end = results.at_end
    parts = at_end.isel(component=at_end["part"].values)
    names = [str(name) for name in parts["component"].values.tolist()]
    about = {
        name: at_end[name].values
        for name in ("metric", "family", "step", "n_runs", "n_models", "method", "informative")
    }
    total = at_end["variance"].sel(component="total").values
    columns = {name: parts[name].transpose("component", "metric").values for name in _PART_COLUMNS}
    reasons = parts["reason"].attrs["flag_meanings"].split()
    rows: list[Summary] = []
    for k in np.argsort(results.ranked["rank"].values).tolist():
        if about["n_runs"][k] == 0:
            continue
        each = {
            component: {name: column[i, k] for name, column in columns.items()}
            | {"reason": reasons[int(columns["reason"][i, k])]}
            for i, component in enumerate(names)
        }
        rows.append({name: column[k] for name, column in about.items()} | {"total": total[k], "parts": each})
    return {
        "design": str(at_end.attrs["design"]),
        "confounded": str(at_end.attrs["confounded"]),
        "level": at_end.attrs["level"],
        "parts": [
            {"component": name, "label": PARTS[name].label, "meaning": str(meaning)}
            | {column: parts[column].values[i] for column in _OVER_METRICS}
            for i, (name, meaning) in enumerate(zip(names, parts["meaning"].values.tolist(), strict=True))
        ],
        "rows": rows,
        "pictures": [
            {"metric": name, "picture": describe_shares(results.fractions, metric=name)} for name in results.shares
        ],
    }


_OVER_METRICS = ("n_metrics", "fraction_least", "fraction_median", "fraction_largest")
_PART_COLUMNS = ("fraction", "fraction_lower", "fraction_upper", "variance", "estimate", "p", "reason")
