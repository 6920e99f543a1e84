"""The summary: one plain dict, made once, that every renderer reads. This is its schema.

``polystab_report``
    ``schema`` (1), ``version`` (of polystab), ``fingerprint`` (SHA-256 of labels and values).
A summary for some sections only (``polystab.report(..., sections=...)``, in every format) has, beside ``polystab_report``,
``title``, ``source``, ``contents`` and ``methods``, the parts that these sections read, and no others; takeaways read
``audit``, ``copies``, ``findings``, ``diverged``, ``final``, ``variance``, ``phases``, ``verdicts``, ``outliers`` and ``warning``.

``title``, ``source``
    Texts from the cube's attributes; ``source`` has ``summary``, ``source``, ``license``,
    ``references``, ``history``, ``created``, ``polystab_version``.
``takeaways``
    List of ``level`` (``bad``, ``warn``, ``info``), ``text``, ``section``; worst first.
``contents``
    ``dims`` (sizes), ``first_step``, ``last_step``, ``cells``, ``measured``, ``share``;
    ``families``: list of ``family``, ``metrics``, ``measured``, ``share``; ``models``: list of
    ``model``, ``n_parameters``, ``seeds``, ``runs``, ``steps``, ``first_step``, ``last_step``,
    ``metrics``, ``share`` (of its own runs x steps x metrics); ``picture`` (in words).
``audit``
    None without an audit, else ``files``, ``read``; and ``refused``, ``replaced``, ``noted``:
    list of ``reason``, ``count``, ``entries`` (list of ``path``, ``detail``, ``by``).
``copies``
    List of ``model``, ``seed``, ``of``, ``metrics`` (number; whole runs have all), ``whole``.
``findings``
    ``notes`` (what was left out of a large cube), ``counts`` (by severity), ``kinds``: list of ``kind``, ``severity``,
    ``count``; ``rows``: the variables of :func:`polystab.analysis.audit_cube` without marks, worst first; ``left_out``.
``diverged``
    List of ``model``, ``seed``, ``values`` (number of infinite ones).
``curves``
    ``metrics``: list of ``metric``, ``family``, ``units``, ``better``, ``signal``, ``picture`` (in
    words), ``models``: list of ``model``, ``steps``, ``median``, ``lower``, ``upper``, ``n``;
    ``others``: metrics without a panel; ``models_shown``, ``models_left_out``; ``legend``.
``final``
    ``level``, ``rows``: list of ``metric``, ``family``, ``units``, ``better``, ``model`` and every
    variable of :func:`polystab.analysis.seed_spread`, metrics in order of their rank;
    ``factors``: list of ``n``, ``lower``, ``upper``; ``models``: list of ``model`` and every
    variable of :func:`polystab.analysis.spread_overview`.
``variance``
    ``design``, ``confounded``, ``level``; ``parts``: list of ``component``, ``label``, ``meaning``;
    ``rows``: for every measured metric, in order of rank, ``metric``, ``family``, ``step``, ``n_runs``,
    ``n_models``, ``method``, ``informative`` (at least two parts are known), ``total`` (variance) and
    ``parts``, by component: ``fraction``, ``fraction_lower``, ``fraction_upper``, ``variance``,
    ``estimate``, ``p``, ``reason``; ``pictures``: list of ``metric``, ``picture`` (in words).
``phases``
    ``curves`` (looked at), ``changing``, ``expected`` (of those that change, by chance), ``false_alarm``;
    ``min_points`` (of a curve), ``seeds`` (most of a model and metric), ``notes`` (left out of a large cube);
    ``shared``: list of ``metric``, ``model``, ``step``, ``lower``, ``upper``, ``first``, ``last``, ``n_runs``,
    ``n_looked_at``, ``size``, ``p``, ``lacking`` (seeds); ``glitches``: list of ``metric``, ``model``,
    ``step``, ``seeds``; ``picture`` (in words); ``map``: ``reason`` (why there is none, or empty), ``n_states``,
    ``metrics``, ``notes``, ``selection``: list of ``n_states``, ``bic``, ``aic``, ``optimum_share``; ``runs``
    and ``models`` (with a state somewhere); ``picture``; ``graphs``: list of ``model``, ``picture``.
``agreement``
    ``reason`` (why there is none, or empty), ``notes``, ``level``, ``min_runs``; ``rows``: list of ``answer``, ``model``,
    ``task``, ``step`` (the last), ``n_items``, ``agreement`` (Cohen's kappa over all pairs of runs), ``lower``, ``upper``,
    ``p_o``, ``p_e``, ``n_runs``, ``fleiss``; ``picture``: ``answer``, ``models``, ``picture`` (in words), or None.
``representations``
    ``rows``: list of ``task``, ``model``, ``layer``, ``step``, ``n_runs``, ``compression``, ``lower``, ``upper`` (median and
    middle half of runs), ``angle`` (degrees, median over pairs of runs), ``expected`` (of random subspaces);
    ``pictures``: list of ``metric`` (task and layer), ``models``, ``picture``.
``networks``
    ``models`` (drawn); ``families``: list of ``family``, ``metrics`` (number), ``rows``: list of ``metric``, ``model``, ``first_step``,
    ``first``, ``last_step``, ``last`` (medians), ``sd`` (at the final step); ``metric`` and ``picture``; ``lacking``.
``verdicts``
    ``false_alarm`` (per model), ``smallest_p``, ``n_tests``, ``min_runs``; ``models``: list of ``model``, ``n_judged``,
    ``smallest_p_rank``, ``note``; ``rows``: list of ``model``, ``seed``, ``kind``, ``p_value``, ``q_value``, ``p_rank``,
    ``group``, ``from_step``, ``until_step``, ``n_onsets``, ``because`` (list of ``metric``, ``score``), ``leads`` (list of
    ``group``, ``order``, ``first_onset``, ``first_metric``, ``n_onsets``, ``n_metrics``); ``leads_by``;
    ``shared_events``: list of ``model``, ``step``, ``n_metrics``, ``metrics`` (first five), and ``n_shared_events``;
    ``n_glitches`` (cells), ``most_glitches`` (``model``, ``seed``, ``count``, or None).
``warning``
    None without training logs, else ``runs`` (with a log), ``wrong`` (number), ``rows``: list of ``model``, ``seed``,
    ``rules``, ``seen_at`` (update), ``n_spikes``, ``final_loss``; ``left_out``; ``reason`` (why early warnings are not
    evaluated, or empty) and ``early``, None or: ``method``, ``families``, ``splits``, ``folds``, ``resamples``, ``level``,
    ``false_alarm``; ``step`` and ``share`` of training that the following are about, ``best_baseline`` there, ``gain`` over it with
    ``gain_lower`` and ``gain_upper``, ``n_wrong``, ``n_good``, ``n_already``, ``n_pairs``; ``wrong`` and ``good`` (runs evaluated);
    ``methods``: list of ``name``, ``auroc`` (within models) with bounds, ``caught`` and ``false_alarms`` with bounds,
    ``caught_matched``, ``median_lead``, ``brier``, ``brier_base``; ``steps``, ``curves``: list of ``name``, ``value``, ``lower``,
    ``upper``; ``baseline`` (drawn), ``picture`` (in words).
``outliers``
    ``method``, ``threshold``, ``expected``: list of ``model``, ``share``; ``runs``: list of
    ``model``, ``seed``, ``name`` and every (model, seed) variable of
    :func:`polystab.analysis.outlier_scores`, the largest share beyond the threshold first;
    ``picture`` (in words).
``methods``
    ``versions`` (name -> version), ``settings`` (name -> value).

Unknown numbers are null, infinite ones too (counts of diverged cells stand beside them).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr

from polystab._version import __version__
from polystab.analysis.audit.runs import MIN_DISTINCT
from polystab.cube.audit import AuditEntry
from polystab.cube.describe import cube_facts
from polystab.plots.describe import (
    chosen,
    describe_coverage,
    describe_curves,
    legend_title,
    quartiles,
)
from polystab.report.judged import DRAWS, findings_summary, scores_summary, verdicts_summary
from polystab.report.networks import agreement_summary, network_summary, representations_summary
from polystab.report.parts import phases_summary, variance_summary
from polystab.report.results import MAX_MODELS, MAX_PANELS, RNG, Results, analyse
from polystab.report.takeaways import takeaways
from polystab.report.warned import warning_summary

SCHEMA = 1
DEFAULT_TITLE = "Seed stability of training runs"

Summary = dict[str, Any]


def summarise(
    cube: xr.Dataset | xr.DataTree, *, title: str | None = None, sections: Sequence[str] | None = None
) -> Summary:
    """Everything the report says about a cube, as a plain dict.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube; a tree's ``audit`` group is used.
    title : str, optional
        In place of the cube's own.
    sections : sequence of str, optional
        Sections of the page that it is for; parts that none of them needs are neither computed nor in the dict.

    Returns
    -------
    dict
        Texts, numbers, None, lists and dicts only; the schema stands at the top of
        :mod:`polystab.report.summary`.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.report.summary import summarise
    >>> found = summarise(polystab.testing.synthetic_cube(n_models=2, rng=0), sections=["contents"])
    >>> found["contents"]["dims"]["model"], "variance" in found
    (2, False)
    """
    return summary_of(analyse(cube), title=title, sections=sections)


def summary_of(results: Results, *, title: str | None = None, sections: Sequence[str] | None = None) -> Summary:
    """The summary of a cube about which results can be asked for; see :func:`summarise`."""
    attrs = results.cube.attrs
    wanted = tuple(_NEEDED) if sections is None else tuple(sections)
    # The first sentence of every page is on the contents.
    needed = {"contents", *(part for section in wanted for part in _NEEDED[section])}
    summary: Summary = {
        "polystab_report": {"schema": SCHEMA, "version": __version__, "fingerprint": results.fingerprint},
        "title": title or attrs.get("title") or DEFAULT_TITLE,
        "source": {
            name: str(attrs.get(name, ""))
            for name in ("summary", "source", "license", "references", "history", "created", "polystab_version")
        },
        "takeaways": [],
        **{part: make(results) for part, make in _PARTS.items() if part in needed},
    }
    summary["methods"] = _methods(summary)
    cleaned: Summary = plain(summary)
    if "takeaways" in wanted:
        cleaned["takeaways"] = takeaways(cleaned)
    else:
        del cleaned["takeaways"]
    return cleaned


def plain(value: Any) -> Any:
    """The value with nothing in it but what JSON has: numpy types, NaN and broken text are gone."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    return value


def _contents(results: Results) -> Summary:
    cube, cover = results.cube, results.cover
    steps = cube["step"].values
    runs = cube_facts(cube)["runs"]
    parameters = cube["n_parameters"].values if "n_parameters" in cube.coords else np.full(cube.sizes["model"], -1)
    models = [
        {
            "model": str(name),
            "n_parameters": int(parameters[i]) if parameters[i] > 0 else None,
            "seeds": runs[str(name)],
            **{short: cover[long].values[i] for short, long in _MODEL_COLUMNS.items()},
        }
        for i, name in enumerate(cube["model"].values.tolist())
    ]
    families = [
        {
            "family": str(name),
            "metrics": cover["n_metrics_family"].values[i],
            "measured": cover["n_measured_family"].values[i],
            "share": cover["share_family"].values[i],
        }
        for i, name in enumerate(cover["family"].values.tolist())
    ]
    return {
        "dims": {str(dim): size for dim, size in cube.sizes.items()},
        "first_step": steps[0],
        "last_step": steps[-1],
        "cells": cover["n_cells"].item(),
        "measured": cover["n_measured"].item(),
        "share": cover["share"].item(),
        "families": families,
        "models": models,
        "picture": describe_coverage(cover),
    }


_MODEL_COLUMNS = {
    "runs": "n_runs",
    "steps": "n_steps",
    "first_step": "first_step",
    "last_step": "last_step",
    "metrics": "n_metrics",
    "share": "share_model",
}


def _audit(entries: tuple[AuditEntry, ...] | None) -> Summary | None:
    if entries is None:
        return None
    by_status = {
        status: _by_reason(entry for entry in entries if entry.status == status)
        for status in ("refused", "replaced", "noted")
    }
    read = sum(entry.status == "read" for entry in entries)
    return {"files": read + sum(group["count"] for group in by_status["refused"]), "read": read, **by_status}


def _by_reason(entries: Iterable[AuditEntry]) -> list[Summary]:
    """Entries grouped by reason, the most frequent first."""
    groups: dict[str, list[Summary]] = {}
    for entry in entries:
        found = {"path": entry.path, "detail": entry.detail, "by": entry.by}
        groups.setdefault(entry.reason, []).append(found)
    ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
    return [{"reason": reason, "count": len(listed), "entries": listed} for reason, listed in ordered]


def _copies(results: Results) -> list[Summary]:
    copies = results.copies
    whole, of = copies["duplicate_run"].values, copies["duplicate_run_of"].values
    part, part_of = copies["duplicate"].values, copies["duplicate_of"].values
    models, seeds = copies["model"].values, copies["seed"].values
    return [
        {
            "model": str(models[m]),
            "seed": seeds[s],
            "of": of[m, s] if whole[m, s] else sorted(set(part_of[m, s][part[m, s]].tolist())),
            "metrics": part[m, s].sum(),
            "whole": whole[m, s],
        }
        for m, s in np.argwhere(part.any(axis=2)).tolist()
    ]


def _diverged(results: Results) -> list[Summary]:
    values = results.scores["n_nonfinite"].values
    models, seeds = results.scores["model"].values, results.scores["seed"].values
    return [
        {"model": str(models[m]), "seed": seeds[s], "values": values[m, s]} for m, s in np.argwhere(values > 0).tolist()
    ]


def _curves(results: Results) -> Summary:
    band, ranked = results.band, results.ranked
    models = list(results.models)
    names = [str(name) for name in ranked["metric"].values.tolist()]
    order = [names[i] for i in np.argsort(ranked["rank"].values)]
    metrics = []
    for metric in results.panels:
        part = chosen(band, metric=metric, models=models)
        about = ranked[["signal"]].sel(metric=metric)
        metrics.append(
            {
                "metric": metric,
                "family": str(about["family"].item()),
                "units": str(about["units"].item()),
                "better": str(about["better"].item()),
                "signal": about["signal"].item(),
                "picture": describe_curves(part, metric=metric),
                "models": [_one_curve(part.isel(model=i)) for i in range(part.sizes["model"])],
            }
        )
    everything = [str(name) for name in band["model"].values.tolist()]
    return {
        "metrics": metrics,
        "others": [name for name in order if name not in results.panels],
        "models_shown": models,
        "models_left_out": [name for name in everything if name not in models],
        "legend": legend_title(band.sel(model=models)),
    }


def _one_curve(part: xr.Dataset) -> Summary:
    low, middle, high = quartiles(part)
    keep = part["shared"].values[:, 0] & ~np.isnan(middle)
    return {
        "model": str(part["model"].item()),
        "steps": part["step"].values[keep].tolist(),
        "median": middle[keep].tolist(),
        "lower": low[keep].tolist(),
        "upper": high[keep].tolist(),
        "n": part["n"].values[keep, 0].tolist(),
    }


def _final(results: Results) -> Summary:
    spread, ranked, overview = results.spread, results.ranked, results.overview
    columns = {str(name): spread[name].values for name in spread.data_vars}
    about = {name: spread[name].values for name in ("metric", "family", "units", "better")}
    models = spread["model"].values
    rows = [
        {
            **{name: str(column[k]) for name, column in about.items()},
            "model": str(models[m]),
            **{name: column[m, k] for name, column in columns.items()},
        }
        for k in np.argsort(ranked["rank"].values).tolist()
        for m in np.flatnonzero(columns["n_runs"][:, k] > 0).tolist()
    ]
    sizes, first = np.unique(columns["n_seeds"], return_index=True)
    factors = [
        {"n": n, "lower": columns["factor_lower"].flat[i], "upper": columns["factor_upper"].flat[i]}
        for n, i in zip(sizes.tolist(), first.tolist(), strict=True)
        if n >= spread.attrs["min_runs"]
    ]
    return {
        "level": spread.attrs["level"],
        "min_runs": spread.attrs["min_runs"],
        "rows": rows,
        "factors": factors,
        "models": _records(overview, "model"),
    }


# What makes each part of the summary, in its order.
_PARTS: dict[str, Callable[[Results], Any]] = {
    "contents": lambda results: _contents(results),
    "audit": lambda results: _audit(results.audit),
    "copies": lambda results: _copies(results),
    "findings": lambda results: findings_summary(results.judged),
    "diverged": lambda results: _diverged(results),
    "curves": lambda results: _curves(results),
    "final": lambda results: _final(results),
    "variance": lambda results: variance_summary(results),
    "agreement": lambda results: agreement_summary(results.networks, results.models),
    "representations": lambda results: representations_summary(results.networks, results.models),
    "phases": lambda results: phases_summary(results),
    "networks": lambda results: network_summary(results.band, results.spread, results.ranked, results.models),
    "verdicts": lambda results: verdicts_summary(results.judged),
    "outliers": lambda results: scores_summary(results.scores),
    "warning": lambda results: warning_summary(results.warned),
}

# Parts that each section reads. The takeaways of a page are about all of the cube, whatever else is on the page.
_NEEDED: dict[str, tuple[str, ...]] = {
    "takeaways": (
        "audit", "copies", "findings", "diverged", "final", "variance", "phases", "verdicts", "outliers", "warning",
    ),
    "audit": ("audit", "copies", "findings"),
    "contents": (),
    "curves": ("curves",),
    "final": ("curves", "final"),
    "variance": ("variance",),
    "agreement": ("agreement",),
    "representations": ("representations",),
    "phases": ("phases",),
    "networks": ("networks",),
    "outliers": ("outliers", "verdicts"),
    "warning": ("warning",),
    "methods": (),
}  # fmt: skip


def _methods(summary: Summary) -> Summary:
    """Versions, and the settings of the parts that were computed."""
    final, outliers, verdicts, warning = (
        summary.get(name) or {} for name in ("final", "outliers", "verdicts", "warning")
    )
    early = warning.get("early") or {}
    settings = {
        "confidence level of intervals": final.get("level"),
        "fewest runs for an interval": final.get("min_runs"),
        "robust z threshold": outliers.get("threshold"),
        "false alarms of outlier verdicts, per model": verdicts.get("false_alarm"),
        "rotations behind outlier verdicts": DRAWS if verdicts else None,
        "different values that make equal trajectories copies": MIN_DISTINCT,
        "panels at most": MAX_PANELS,
        "models in a panel at most": MAX_MODELS,
        "parts of the seeds that early warnings are told of in turn": early.get("splits"),
        "parts of the other runs that their alarms are calibrated with": early.get("folds"),
        "resamples behind intervals of early warnings": early.get("resamples"),
        "rng of simulations": RNG,
    }
    return {
        "versions": {
            "polystab": __version__,
            **{name: version(name) for name in ("numpy", "scipy", "xarray", "matplotlib")},
        },
        "settings": {name: value for name, value in settings.items() if value is not None},
    }


def _records(data: xr.Dataset, dim: str) -> list[Summary]:
    """The variables along one dimension as a list of dicts."""
    columns = {str(name): data[name].values for name in data.data_vars if data[name].dims == (dim,)}
    return [
        {dim: str(label), **{name: column[i] for name, column in columns.items()}}
        for i, label in enumerate(data[dim].values.tolist())
    ]
