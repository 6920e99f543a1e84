"""How often the intervals of item components hold the truth: normal scores, and logistic answers of 0 and 1."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import xarray as xr
from harness import report_line

SEEDS = (3, 5, 10)
# Mean and SD of item difficulty, SD of seeds, SD of seed x item, in logits.
LOGISTIC = {
    "half right": (0.0, 1.5, 0.3, 0.5),
    "equal items": (0.0, 0.3, 0.2, 0.3),
    "spread items": (-1.0, 3.0, 0.3, 1.0),
    "nine in ten right": (3.0, 1.5, 0.15, 0.5),
    "nine in ten right, seeds far apart": (3.0, 1.5, 0.3, 0.5),
}


def group(scores: Any) -> xr.Dataset:
    """Items of (model, seed, item, step): one simulated task at every step."""
    n_item = scores.shape[2]
    return xr.Dataset(
        {"score": (("model", "seed", "item", "step"), scores)},
        coords={"task": ("item", np.full(n_item, "t")), "item": np.arange(n_item), "step": np.arange(scores.shape[3])}
        | {"model": [f"m{i}" for i in range(len(scores))], "seed": np.arange(scores.shape[1])},
    )


def normal_scores(rng: Any, shape: tuple[int, int, int, int], missing: float) -> tuple[Any, dict[str, float]]:
    a, n, b, r = shape
    truth = {"model": 1.0, "seed": 0.1, "item": 1.0, "model:item": 0.5, "residual": 1.0}
    sizes = {"model": (a, 1, 1, r), "seed": (a, n, 1, r), "item": (1, 1, b, r), "model:item": (a, 1, b, r)}
    y = sum(np.sqrt(truth[name]) * rng.standard_normal(sizes.get(name, shape)) for name in truth)
    if a == 1:
        truth = {"seed": 0.1, "item": 1.5, "residual": 1.0}
    return np.where(rng.random(shape) < missing, np.nan, y), truth | {"total": sum(truth.values())}


def logistic_answers(rng: Any, setting: tuple[float, ...], shape: tuple[int, ...]) -> tuple[Any, dict[str, float]]:
    from scipy.special import expit

    mean, item, seed, cell = setting
    _, n, b, r = shape
    logit = mean + item * rng.standard_normal((1, 1, b, r)) + seed * rng.standard_normal((1, n, 1, r))
    y = rng.random(shape) < expit(logit + cell * rng.standard_normal(shape))
    node, weight = np.polynomial.hermite_e.hermegauss(60)
    weight = weight / weight.sum()

    def variance(own: float, others: float) -> tuple[float, float]:
        chance = (expit(mean + own * node[:, None] + others * node) * weight).sum(1)
        middle = float((weight * chance).sum())
        return float((weight * chance**2).sum()) - middle**2, middle

    truth = {"seed": variance(seed, np.hypot(item, cell))[0], "item": variance(item, np.hypot(seed, cell))[0]}
    share = variance(seed, np.hypot(item, cell))[1]
    truth["residual"] = share * (1 - share) - sum(truth.values())
    return y.astype(np.float64), truth | {"total": share * (1 - share)}


def covered(y: Any, truth: dict[str, float], intervals: str) -> Iterator[tuple[str, float]]:
    from polystab.analysis.components.items import item_components

    found = item_components(group(y), by_model=len(y) == 1, measure="score", intervals=intervals).squeeze(drop=True)
    for name, value in truth.items():
        part = found.sel(component=name)
        yield name, float(((part["lower"] <= value) & (value <= part["upper"])).mean())


def line(label: str, shares: Iterator[tuple[str, float]]) -> None:
    report_line(f"{label}: " + ", ".join(f"{name} {100 * share:.1f}" for name, share in shares))


def main(repeats: int) -> None:
    rng = np.random.default_rng(0)
    report_line(f"coverage of 95 % intervals in {repeats} repeats, wanted 93-97")
    for models in (1, 3, 5):
        for n in SEEDS:
            for missing in (0.0, 0.1):
                y, truth = normal_scores(rng, (models, n, 100, repeats), missing)
                line(f"normal, {models} models, {n} seeds, {missing:.0%} missing", covered(y, truth, "normal"))
    for name, setting in LOGISTIC.items():
        for n in SEEDS:
            for items in (50, 200):
                y, truth = logistic_answers(rng, setting, (1, n, items, repeats))
                for intervals in ("normal", "items"):
                    line(f"{name}, {n} seeds, {items} items, {intervals}", covered(y, truth, intervals))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
