"""Intervals of differences on other test items of the kind, from the answers to every item."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Floats, Ints
from polystab.analysis.bootstrap.resampling import multibootstrap
from polystab.analysis.comparisons.inputs import Matched
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError

# Scores that are further from the means of the answers are not made of these answers.
_CLOSE = 1e-6

_GROUP = "items"


def item_intervals(
    trees: tuple[xr.Dataset | xr.DataTree, xr.Dataset | xr.DataTree],
    matched: Matched,
    place: int,
    used: tuple[Floats, Floats],
    *,
    steps: Ints,
    paired: bool,
    level: float,
) -> dict[str, npt.NDArray[Any]]:
    """Ends of the ``t`` interval of the multi-bootstrap for the metrics (metric) of one pair of models.

    A metric has one if both trees have answers to items of the task that is its subject, the answers of every run
    (``used``, (seed, metric), NaN for runs that do not count) give its score, and three runs are left on both sides.
    """
    n = len(matched.metrics)
    lower, upper, count = np.full(n, np.nan), np.full(n, np.nan), np.zeros(n, dtype=np.int64)
    found = {"items_lower": lower, "items_upper": upper, "items_n": count}
    groups = [_answers(tree, model) for tree, model in zip(trees, matched.models[place], strict=True)]
    if groups[0] is None or groups[1] is None:
        return found
    subjects = as_cube(matched.this)["subject"].sel(metric=list(matched.metrics)).values.tolist()
    families = as_cube(matched.this)["family"].sel(metric=list(matched.metrics)).values.tolist()
    for k, (subject, family) in enumerate(zip(subjects, families, strict=True)):
        if family != "eval" or steps[k] < 0:
            continue
        sides = [
            _scores(group, str(subject), int(steps[k]), seeds, side[:, k])
            for group, seeds, side in zip(groups, matched.seeds, used, strict=True)
            if group is not None
        ]
        if sides[0] is None or sides[1] is None:
            continue
        try:
            # The interval t is not drawn: the fewest resamples do.
            drawn = multibootstrap(
                sides[0], sides[1], design="paired" if paired else "unpaired", n_resamples=2, level=level, rng=0
            )
        except AnalysisError:
            continue  # no item in common, or other runs in a pair
        one = drawn.sel(side="difference", interval="t")
        lower[k], upper[k], count[k] = one["lower"].item(), one["upper"].item(), one["n_items"].item()
    return found


def _answers(tree: xr.Dataset | xr.DataTree, model: str) -> xr.Dataset | None:
    """The answers of one model, read when they are asked for; None without any."""
    if not isinstance(tree, xr.DataTree) or _GROUP not in tree.children:
        return None
    group = tree.children[_GROUP].to_dataset()
    if not {"correct", "task"} <= set(map(str, group.variables)) or model not in group["model"].values.tolist():
        return None
    return group[["correct", "task"]].sel(model=model)


def _scores(group: xr.Dataset, task: str, step: int, seeds: Ints, score: Floats) -> xr.DataArray | None:
    """Answers (seed, item) of the runs that count, 1 for right; None where they do not give their scores."""
    runs = seeds[np.isfinite(score)]
    if step not in group["step"].values or not len(runs) or not np.isin(runs, group["seed"].values).all():
        return None
    items = np.flatnonzero(group["task"].values.astype(str) == task)
    if len(items) < 2:
        return None
    answers = group["correct"].isel(item=items).sel(step=step, seed=runs).transpose("seed", "item").load()
    scores = answers.where(answers >= 0)
    if not np.allclose(scores.mean("item").values, score[np.isfinite(score)], rtol=0, atol=_CLOSE):
        return None
    return scores.drop_vars([name for name in scores.coords if name not in ("seed", "item")])
