"""What alarms and probabilities of held-out runs were worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Bools, Floats, divided
from polystab.analysis.early_warning.classifier import EarlyWarning
from polystab.analysis.early_warning.conformal import highest_so_far
from polystab.analysis.early_warning.labels import Labels
from polystab.analysis.early_warning.material import Material
from polystab.analysis.early_warning.ranking import share_limits

BINS = np.linspace(0, 1, 6)

# What EarlyWarning.warn_material gives, of all runs.
Told = dict[str, npt.NDArray[Any]]


def alarms(
    told: dict[str, Told],
    chosen: Mapping[str, EarlyWarning],
    material: Material,
    labels: Labels,
    evaluated: Bools,
    level: float,
) -> dict[str, Any]:
    """False alarms, runs caught in time, and how long before."""
    good, bad = evaluated & labels.stable, evaluated & labels.wrong
    n_good, n_bad = float(good.sum()), float(bad.sum())
    before = labels.seen_at[:, None] > material.steps
    rows: dict[str, list[Any]] = {name: [] for name in ("false", "caught", "matched", "lead", "caught_by", "false_by")}
    for name, method in chosen.items():
        alarm = told[name]["alarm"].astype(bool)
        in_time = np.logical_or.accumulate(alarm & before, axis=1)
        rows["caught_by"].append(divided(in_time[bad].sum(axis=0), n_bad))
        rows["false_by"].append(divided(alarm[good].sum(axis=0), n_good))
        rows["false"].append(float(alarm[good].any(axis=1).sum()))
        rows["caught"].append(float(in_time[bad].any(axis=1).sum()))
        ahead = lead(told[name], labels)[bad]
        rows["lead"].append(np.median(ahead[~np.isnan(ahead)]) if (~np.isnan(ahead)).any() else np.nan)
        score = highest_so_far(told[name]["score"])
        threshold = _threshold(score[good][:, -1], method.false_alarm)
        rows["matched"].append(divided(((score > threshold) & before)[bad].any(axis=1).sum(), n_bad))
    false, caught = np.array(rows["false"]), np.array(rows["caught"])
    result: dict[str, Any] = {}
    for name, hits, n in (("false_alarms", false, n_good), ("caught", caught, n_bad)):
        low, high = share_limits(hits, np.full(len(hits), n), level)
        result |= {
            name: ("warning", divided(hits, n)),
            f"{name}_lower": ("warning", low),
            f"{name}_upper": ("warning", high),
        }
    result["caught_matched"] = ("warning", np.array(rows["matched"], dtype=np.float64))
    result["median_lead"] = ("warning", np.array(rows["lead"], dtype=np.float64))
    result["caught_by"] = (("warning", "step"), np.array(rows["caught_by"]))
    result["false_alarms_by"] = (("warning", "step"), np.array(rows["false_by"]))
    return result


def _threshold(highest: Floats, false_alarm: float) -> float:
    """What at most a share ``false_alarm`` of the good runs exceeds."""
    ordered = np.sort(np.nan_to_num(highest, nan=-np.inf))
    return float(ordered[len(ordered) - 1 - int(false_alarm * len(ordered) + 1e-9)]) if len(ordered) else np.inf


def lead(told: Told, labels: Labels) -> Floats:
    """From the first alarm to where the rule could see it; NaN without an alarm, or with one that is not earlier."""
    first = told["first_alarm"].astype(np.float64)
    ahead = labels.seen_at - first
    return np.where((first >= 0) & np.isfinite(ahead) & (ahead > 0), ahead, np.nan)


def calibration(
    told: dict[str, Told], material: Material, labels: Labels, evaluated: Bools, level: float
) -> dict[str, Any]:
    """How often runs go wrong of which that was given a probability."""
    shape = len(told), len(material.steps), len(BINS) - 1
    total, hits, n = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    brier, base = np.full(shape[:2], np.nan), np.full(shape[:2], np.nan)
    at_risk = evaluated[:, None] & (labels.seen_at[:, None] > material.steps) & material.scored
    for i, found in enumerate(told.values()):
        for t in range(shape[1]):
            used = at_risk[:, t] & ~np.isnan(found["probability"][:, t])
            if not used.any():
                continue
            p, y = found["probability"][used, t], labels.wrong[used].astype(np.float64)
            place = np.clip(np.digitize(p, BINS) - 1, 0, shape[2] - 1)
            for values, weight in ((total, p), (hits, y), (n, np.ones(len(p)))):
                values[i, t] = np.bincount(place, weights=weight, minlength=shape[2])
            brier[i, t], base[i, t] = np.mean((p - y) ** 2), np.mean((y - y.mean()) ** 2)
    low, high = share_limits(hits, n, level)
    cell = ("warning", "step", "bin")
    return {
        "predicted": (cell, divided(total, n)),
        "observed": (cell, divided(hits, n)),
        "observed_lower": (cell, low),
        "observed_upper": (cell, high),
        "n_in_bin": (cell, n.astype(np.int64)),
        "brier": (cell[:2], brier),
        "brier_base": (cell[:2], base),
    }
