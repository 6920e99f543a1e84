"""Parts of the summary: shares of the variance, change points, the training map."""

from __future__ import annotations

from typing import Any

import numpy as np

from polystab.analysis.segments.profile import MIN_SIZES
from polystab.plots.describe import PARTS, describe_change_points, describe_map, describe_shares, describe_transitions
from polystab.report.results import MAX_GRAPHS, Results

Summary = dict[str, Any]


def variance_summary(results: Results) -> Summary:
    """Who is responsible for the spread; see :mod:`polystab.report.summary`."""
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
            for name, meaning in zip(names, parts["meaning"].values.tolist(), strict=True)
        ],
        "rows": rows,
        "pictures": [
            {"metric": name, "picture": describe_shares(results.fractions, metric=name)} for name in results.shares
        ],
    }


_PART_COLUMNS = ("fraction", "fraction_lower", "fraction_upper", "variance", "estimate", "p", "reason")


def phases_summary(results: Results) -> Summary:
    """When training changes; see :mod:`polystab.report.summary`."""
    changes, shared = results.changes, results.shared
    if changes is None or shared is None:
        return {
            "curves": 0,
            "changing": 0,
            "min_points": MIN_POINTS,
            "seeds": 0,
            "notes": [],
            "shared": [],
            "glitches": [],
            "picture": "",
            "map": _map(results),
        }
    names = {dim: shared[dim].values.tolist() for dim in ("model", "seed", "metric")}
    rows = []
    for k, m in ((k, m) for k in range(len(names["metric"])) for m in range(len(names["model"]))):
        here = shared.isel(model=m, metric=k)
        for i in range(int(here["n_changes"])):
            one = here.isel(change=i)
            seeds = np.flatnonzero(one["lacks"].values).tolist()
            rows.append(
                {"metric": names["metric"][k], "model": names["model"][m]}
                | {name: one[name].item() for name in _CHANGE_COLUMNS}
                | {"n_looked_at": here["n_looked_at"].item(), "lacking": [names["seed"][s] for s in seeds]}
            )
    glitch = changes["glitch"].transpose("metric", "model", "checkpoint", "seed").values
    glitches = [
        {
            "metric": names["metric"][k],
            "model": names["model"][m],
            "step": changes["checkpoint"].values[t],
            "seeds": [names["seed"][s] for s in np.flatnonzero(glitch[k, m, t]).tolist()],
        }
        for k, m, t in np.argwhere(glitch.any(axis=3)).tolist()
    ]
    return {
        "curves": changes.attrs["n_curves"],
        "changing": changes.attrs["n_curves_with_changes"],
        "min_points": MIN_POINTS,
        "seeds": shared["n_looked_at"].max().item(),
        "expected": changes.attrs["n_expected_by_chance"],
        "false_alarm": changes.attrs["false_alarm"],
        "notes": [] if results.searched is None else list(results.searched.notes),
        "shared": rows,
        "glitches": glitches,
        "picture": describe_change_points(shared) if rows else "",
        "map": _map(results),
    }


# Fewer points of a curve are not looked at: two shortest segments and two to spare.
MIN_POINTS = 2 * MIN_SIZES["l2"] + 2

_CHANGE_COLUMNS = ("step", "lower", "upper", "first", "last", "n_runs", "size", "p")


def _map(results: Results) -> Summary:
    found, transitions = results.map, results.transitions
    if isinstance(found, str) or transitions is None:
        return {"reason": str(found), "graphs": []}
    table = found.selection
    mapped = found.states["model"].values[(found.states["n_checkpoints"] > 0).any("seed").values].tolist()
    return {
        "reason": "",
        "n_states": found.n_states,
        "metrics": list(found.metrics),
        "notes": [*([] if results.mapped is None else results.mapped.notes), *found.notes],
        "selection": [
            {"n_states": n} | {name: table[name].values[i] for name in ("bic", "aic", "optimum_share")}
            for i, n in enumerate(table["n_states"].values.tolist())
        ],
        "runs": (found.states["n_checkpoints"] > 0).sum().item(),
        "models": len(mapped),
        "picture": describe_map(found.states),
        "graphs": [
            {"model": model, "picture": describe_transitions(transitions, model=model)} for model in mapped[:MAX_GRAPHS]
        ],
    }
