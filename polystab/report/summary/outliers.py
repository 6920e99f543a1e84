"""Which runs are outliers, and which stand out.

``verdicts``
    ``false_alarm`` (per model), ``n_models``, ``n_expected_by_chance``, ``smallest_p``, ``n_tests``, ``min_runs``;
    ``models``: list of ``model``, ``n_judged``, ``smallest_p_rank``, ``note``; ``rows``: list of ``model``, ``seed``,
    ``kind``, ``p_value``, ``q_value``, ``p_any_model``, ``p_rank``, ``group``, ``from_step``, ``until_step``, ``n_onsets``, ``because`` (list of ``metric``, ``score``), ``leads`` (list of
    ``group``, ``order``, ``first_onset``, ``first_metric``, ``n_onsets``, ``n_metrics``); ``leads_by``;
    ``shared_events``: list of ``model``, ``step``, ``n_metrics``, ``metrics`` (first five), and ``n_shared_events``;
    ``n_glitches`` (cells), ``most_glitches`` (``model``, ``seed``, ``count``, or None).
``outliers``
    ``method``, ``threshold``, ``expected``: list of ``model``, ``share``; ``runs``: list of
    ``model``, ``seed``, ``name`` and every (model, seed) variable of
    :func:`polystab.analysis.outlier_scores`, the largest share beyond the threshold first;
    ``picture`` (in words).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from polystab.analysis.outliers.scores import rank_runs
from polystab.plots.describe import describe_outliers
from polystab.report.results.judged import Judged
from polystab.report.summary.schema import Summary

MAX_EVENTS = 200

# Runs in the listing of those that stand out; the JSON form has all.
LISTED_RUNS = 20


def verdicts_summary(judged: Judged) -> Summary:
    """Which runs are outliers."""
    found, leads = judged.verdicts, judged.leads
    models, seeds = found["model"].values.tolist(), found["seed"].values.tolist()
    columns = {name: found[name].transpose("model", "seed").values for name in _VERDICT_COLUMNS}
    because, score = (found[name].transpose("model", "seed", "reason").values for name in ("because", "because_score"))
    rows = []
    for m, s in sorted(np.argwhere(found["outlier"].values).tolist(), key=lambda at: _worst_first(columns, *at)):
        rows.append(
            {"model": models[m], "seed": seeds[s]}
            | {name: column[m, s] for name, column in columns.items()}
            | {
                "because": [
                    {"metric": metric, "score": z}
                    for metric, z in zip(because[m, s], score[m, s], strict=True)
                    if metric
                ],
                "leads": _leads(leads, m, s),
            }
        )
    notes = found["note"].values.tolist()
    judged_runs = found["n_judged"].values.tolist()
    return {
        **{name: found.attrs[name] for name in _VERDICT_ATTRS},
        "models": [
            {"model": model, "n_judged": n, "smallest_p_rank": least, "note": note}
            for model, n, least, note in zip(
                models, judged_runs, found["smallest_p_rank"].values.tolist(), notes, strict=True
            )
        ],
        "rows": rows,
        "leads_by": leads.attrs["by"],
        **_events(judged.events),
    }


_VERDICT_ATTRS = ("false_alarm", "n_models", "n_expected_by_chance", "smallest_p", "n_tests", "min_runs")
_VERDICT_COLUMNS = (
    "kind", "p_value", "q_value", "p_any_model", "p_rank", "group", "from_step", "until_step", "n_onsets",
)  # fmt: skip


def _worst_first(columns: dict[str, Any], m: int, s: int) -> tuple[bool, float]:
    p = float(columns["p_value"][m, s])
    return columns["kind"][m, s] != "diverged", 0.0 if np.isnan(p) else p


def _leads(leads: xr.Dataset, m: int, s: int) -> list[Summary]:
    """The groups of a run that left its siblings, the first first."""
    here = leads.isel(model=m, seed=s)
    order = here["order"].values
    return [
        {"group": str(here["group"].values[g]), "n_metrics": here["n_metrics"].values[g]}
        | {name: here[name].values[g] for name in ("order", "first_onset", "n_onsets")}
        | {"first_metric": str(here["first_metric"].values[g])}
        for g in np.argsort(order, kind="stable").tolist()
        if order[g] > 0
    ]


def _events(events: xr.Dataset) -> Summary:
    """Checkpoints at which most runs of a model are off, and how many cells of single runs are."""
    shared = events["shared"].transpose("model", "step", "metric").values
    models, steps, metrics = (events[dim].values for dim in ("model", "step", "metric"))
    rows = [
        {
            "model": str(models[m]),
            "step": steps[t],
            "n_metrics": shared[m, t].sum(),
            "metrics": metrics[shared[m, t]][:5].tolist(),
        }
        for m, t in np.argwhere(shared.any(axis=2)).tolist()
    ]
    glitches = events["n_glitches"].transpose("model", "seed").values
    most = np.unravel_index(int(glitches.argmax()), glitches.shape) if glitches.any() else None
    return {
        "shared_events": rows[:MAX_EVENTS],
        "n_shared_events": len(rows),
        "n_glitches": glitches.sum(),
        "most_glitches": None
        if most is None
        else {"model": str(models[most[0]]), "seed": events["seed"].values[most[1]], "count": glitches[most]},
    }


def scores_summary(scores: xr.Dataset) -> Summary:
    """How unusual runs are, the most unusual first."""
    everyone = rank_runs(scores, limit=scores.sizes["model"] * scores.sizes["seed"])
    models, seeds = scores["model"].values.tolist(), scores["seed"].values.tolist()
    names = scores["run_name"].values if "run_name" in scores.coords else None
    columns = {str(name): scores[name].values for name in scores.data_vars if scores[name].dims == ("model", "seed")}
    runs: list[Summary] = []
    for model, seed in everyone:
        m, s = models.index(model), seeds.index(seed)
        run = {name: column[m, s] for name, column in columns.items()}
        runs.append(
            {"model": model, "seed": seed, "name": str(names[m, s]) if names is not None else ""}
            | run
            | {"largest_metric": str(run["largest_metric"]), "first_metric": str(run["first_metric"])}
        )
    listed = [(run["model"], run["seed"]) for run in runs if run["n_beyond"] > 0][:LISTED_RUNS]
    return {
        "method": scores.attrs["method"],
        "threshold": scores.attrs["threshold"],
        "min_runs": scores.attrs["min_runs"],
        "expected": [
            {"model": str(name), "share": share}
            for name, share in zip(models, scores["expected_share"].values.tolist(), strict=True)
        ],
        "runs": runs,
        "listed": [{"model": model, "seed": seed} for model, seed in listed],
        "picture": describe_outliers(scores, runs=listed) if listed else "",
    }
