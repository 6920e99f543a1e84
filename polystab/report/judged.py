"""Which data to distrust and which runs: the audit and the verdicts on runs, analysed and summed up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from polystab.analysis.audit.checks import audit_cube
from polystab.analysis.outliers.events import shared_events
from polystab.analysis.outliers.leads import lead_lag
from polystab.analysis.outliers.scores import rank_runs
from polystab.analysis.outliers.verdicts import outlier_runs
from polystab.plots.describe import describe_outliers
from polystab.report.bounded import Searched, for_judging

Summary = dict[str, Any]

# Rotations behind the verdicts.
DRAWS = 499

# Findings in the summary, and rows of shared events; more are counted.
MAX_FINDINGS = 500
MAX_EVENTS = 200

# Runs in the listing of those that stand out; the JSON form has all.
LISTED_RUNS = 20

# What was said on reading stands in tables of files.
OF_FILES = ("label-mismatch", "refused-files", "replaced-values", "reading-note")


@dataclass(frozen=True)
class Judged:
    """The findings of the audit, the verdicts, who moved first, events; and what part of the cube was looked at."""

    searched: Searched
    findings: xr.Dataset
    verdicts: xr.Dataset
    leads: xr.Dataset
    events: xr.Dataset


def judge(cube: xr.Dataset | xr.DataTree, data: xr.Dataset, ranked: Sequence[str], *, rng: int) -> Judged:
    """Audit a cube and judge its runs.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A tree brings along what was noted on reading.
    data : xarray.Dataset
        The cube itself, in memory.
    ranked : sequence of str
        All metrics, those to look at first where there are too many first.
    rng : int
        Of the verdicts.
    """
    searched = for_judging(data, ranked)
    part = searched.cube
    if isinstance(cube, xr.DataTree) and "audit" in cube.children:
        audited = xr.DataTree.from_dict({"/": part, "/audit": cube.children["audit"].to_dataset(inherit=False)})
        findings = audit_cube(audited)
    else:
        findings = audit_cube(part)
    verdicts = outlier_runs(part, draws=DRAWS, rng=rng)
    by = "family" if "family" in verdicts.coords and len(np.unique(verdicts["family"].values)) > 1 else "metric"
    return Judged(searched, findings, verdicts, lead_lag(verdicts, by=by), shared_events(part))


def findings_summary(judged: Judged) -> Summary:
    """What the audit found; see :mod:`polystab.report.summary`."""
    found = judged.findings
    columns = {name: found[name].values.tolist() for name in _FINDING_COLUMNS}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return {
        "notes": list(judged.searched.notes),
        "counts": dict(Counter(row["severity"] for row in rows)),
        "kinds": [
            {"kind": kind, "severity": severity, "count": n}
            for (kind, severity), n in Counter((row["kind"], row["severity"]) for row in rows).items()
        ],
        "rows": rows[:MAX_FINDINGS],
        "left_out": max(len(rows) - MAX_FINDINGS, 0),
    }


_FINDING_COLUMNS = (
    "kind", "severity", "model", "seed", "other_model", "other_seed", "first_step", "last_step", "n_metrics",
    "metrics", "evidence", "advice",
)  # fmt: skip


def verdicts_summary(judged: Judged) -> Summary:
    """Which runs are outliers; see :mod:`polystab.report.summary`."""
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
        "false_alarm": found.attrs["false_alarm"],
        "smallest_p": 1 / (found.attrs["draws"] + 1),
        "n_tests": found.attrs["n_tests"],
        "min_runs": found.attrs["min_runs"],
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


_VERDICT_COLUMNS = ("kind", "p_value", "q_value", "p_rank", "group", "from_step", "until_step", "n_onsets")


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
    """How unusual runs are, the most unusual first; see :mod:`polystab.report.summary`."""
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
