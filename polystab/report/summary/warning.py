"""Which runs went wrong, and what early warnings of them were worth.

``warning``
    None without training logs, else ``runs`` (with a log), ``wrong`` (number), ``rows``: list of ``model``, ``seed``,
    ``rules``, ``seen_at`` (update), ``n_spikes``, ``final_loss``; ``left_out``; ``reason`` (why early warnings are not
    evaluated, or empty) and ``early``, None or: ``method``, ``families``, ``splits``, ``folds``, ``resamples``, ``level``,
    ``false_alarm``; ``step`` and ``share`` of training that the following are about, ``best_baseline`` there, ``gain`` over it with
    ``gain_lower`` and ``gain_upper``, ``n_wrong``, ``n_good``, ``n_already``, ``n_pairs``; ``wrong`` and ``good`` (runs evaluated);
    ``methods``: list of ``name``, ``auroc`` (within models) with bounds, ``caught`` and ``false_alarms`` with bounds,
    ``caught_matched``, ``median_lead``, ``brier``, ``brier_base``; ``steps``, ``curves``: list of ``name``, ``value``, ``lower``,
    ``upper``; ``baseline`` (drawn), ``picture`` (in words).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import xarray as xr

from polystab.plots.warnings import LABELS, MEASURE, best_baseline, describe_warning
from polystab.report.results.warned import FAMILIES, FOLDS, METHOD, TOLD, Warned
from polystab.report.summary.schema import Summary
from polystab.words import NONE, count, number, percent, plural

# Runs that went wrong in the summary; more are counted.
MAX_WRONG = 200


def warning_summary(warned: Warned | None) -> Summary | None:
    """Which runs went wrong, and what early warnings were worth."""
    if warned is None:
        return None
    failed = warned.failed
    wrong = failed["wrong"].transpose("model", "seed").values
    models, seeds, rules = (failed[dim].values for dim in ("model", "seed", "rule"))
    by_rule = failed["failed"].transpose("model", "seed", "rule").values
    columns = {name: failed[name].transpose("model", "seed").values for name in ("seen_at", "n_spikes", "final_loss")}
    places = np.argwhere(wrong).tolist()
    return {
        "runs": failed["known"].sum().item(),
        "wrong": len(places),
        "rows": [
            {"model": str(models[m]), "seed": seeds[s], "rules": [str(rule) for rule in rules[by_rule[m, s]]]}
            | {name: column[m, s] for name, column in columns.items()}
            for m, s in places[:MAX_WRONG]
        ],
        "left_out": max(len(places) - MAX_WRONG, 0),
        "reason": warned.reason,
        "early": None if warned.evaluation is None else _early(warned.evaluation, warned.last),
    }


def _early(found: xr.Dataset, last: float) -> Summary:
    """What held-out runs were told, at the step that the sentence is about and over steps."""
    step = int(min(found["step"].values.tolist(), key=lambda t: abs(t - TOLD * last)))
    at = found.sel(measure=MEASURE, step=step)
    ranked = found.sel(measure=MEASURE)
    methods = [
        {
            "name": name,
            "auroc": at["value"].sel(warning=name).item(),
            "auroc_lower": at["lower"].sel(warning=name).item(),
            "auroc_upper": at["upper"].sel(warning=name).item(),
        }
        | {column: found[column].sel(warning=name).item() for column in _ALARM_COLUMNS}
        | {column: found[column].sel(warning=name, step=step).item() for column in ("brier", "brier_base")}
        for name in found["warning"].values.tolist()
    ]
    return {
        "method": METHOD,
        "families": list(FAMILIES),
        "splits": found.attrs["n_splits"],
        "folds": FOLDS,
        "resamples": found.attrs["n_resamples"],
        "level": found.attrs["level"],
        "false_alarm": found.attrs["false_alarm"],
        "step": step,
        "share": step / last,
        "baseline": best_baseline(found),
        **{name: ranked[name].sel(step=step).item() for name in _GAINS if name in ranked},
        **{name: at[name].item() for name in ("n_wrong", "n_good", "n_already", "n_pairs")},
        "wrong": (found["wrong"] & found["evaluated"]).sum().item(),
        "good": (~found["wrong"] & found["evaluated"]).sum().item(),
        "methods": methods,
        "steps": found["step"].values.tolist(),
        "curves": [
            {"name": name}
            | {column: ranked[column].sel(warning=name).values.tolist() for column in ("value", "lower", "upper")}
            for name in found["warning"].values.tolist()
        ],
        "picture": describe_warning(found),
    }


_GAINS = ("best_baseline", "gain", "gain_lower", "gain_upper")


_ALARM_COLUMNS = (
    "caught", "caught_lower", "caught_upper", "caught_matched", "false_alarms", "false_alarms_lower",
    "false_alarms_upper", "median_lead",
)  # fmt: skip


def verdict(early: Summary) -> str:
    """Better than the best baseline, worse, or neither, with the numbers."""
    ours = next(row for row in early["methods"] if row["name"] == early["method"])
    what = f"At step {count(early['step'])} ({percent(early['share'])} of training) the early warning tells"
    if ours["auroc"] is None:
        return f"At step {count(early['step'])} no run that goes wrong later can be compared with a sibling."
    reached = f"an AUROC of {with_interval(ours, 'auroc', number_of)}"
    if early.get("gain") is None:
        return f"{what} runs that will go wrong from others with {reached}; there is no baseline to compare with."
    against = (
        f"the best simple baseline, {LABELS.get(early['best_baseline'], early['best_baseline'])} (difference "
        f"{_signed(early['gain'])}, {percent(early['level'])} interval {_signed(early['gain_lower'])} to "
        f"{_signed(early['gain_upper'])})"
    )
    low, high = early["gain_lower"], early["gain_upper"]
    if low is not None and low > 0:
        how = "better than"
    elif high is not None and high < 0:
        how = "worse than"
    else:
        how = "neither clearly better nor clearly worse than"
    few = f"of {plural(early['n_wrong'], 'run')} that went wrong and {count(early['n_good'])} that did not"
    return f"{what} runs that will go wrong from others {how} {against}: {reached}, {few}."


def number_of(value: float) -> str:
    """A share or score with two decimals."""
    return number(value, decimals=2)


def _signed(value: float | None) -> str:
    return NONE if value is None else ("+" if value >= 0 else "") + number_of(value)


def with_interval(row: Summary, name: str, written: Callable[[float], str]) -> str:
    value, low, high = (row[key] for key in (name, f"{name}_lower", f"{name}_upper"))
    if value is None:
        return NONE
    return written(value) + (f" ({written(low)} to {written(high)})" if low is not None and high is not None else "")
