"""When training changes: change points and the training map.

``phases``
    ``curves`` (looked at), ``changing``, ``expected`` (of those that change, by chance), ``false_alarm``;
    ``min_points`` (of a curve), ``seeds`` (most of a model and metric), ``notes`` (left out of a large cube);
    ``shared``: list of ``metric``, ``model``, ``step``, ``lower``, ``upper``, ``first``, ``last``, ``n_runs``,
    ``n_looked_at``, ``size``, ``worse`` (None where the metric has no better), ``p``, ``lacking`` (seeds); ``glitches``: list of ``metric``, ``model``,
    ``step``, ``seeds``; ``picture`` (in words); ``map``: ``reason`` (why there is none, or empty), ``n_states``,
    ``metrics``, ``notes``, ``selection``: list of ``n_states``, ``bic``, ``aic``, ``optimum_share``; ``runs``
    and ``models`` (with a state somewhere); ``picture``; ``graphs``: list of ``model``, ``picture``.
"""

from __future__ import annotations

import numpy as np

from polystab.analysis.segments.profile import MIN_SIZES
from polystab.plots.describe import describe_change_points, describe_map, describe_transitions
from polystab.report.results.computed import MAX_GRAPHS, Results
from polystab.report.summary.schema import Summary

# Fewer points of a curve are not looked at: two shortest segments and two to spare.
MIN_POINTS = 2 * MIN_SIZES["l2"] + 2


def phases_summary(results: Results) -> Summary:
    """When training changes."""
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
                | {"worse": _worse(str(here["better"].item()), one["size"].item())}
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


_CHANGE_COLUMNS = ("step", "lower", "upper", "first", "last", "n_runs", "size", "p")


def _worse(better: str, size: float) -> bool | None:
    """Whether a change of this size is for the worse; None where a metric has no better, or the size is not known."""
    if better not in ("higher", "lower") or np.isnan(size):
        return None
    return (size < 0) == (better == "higher")


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
