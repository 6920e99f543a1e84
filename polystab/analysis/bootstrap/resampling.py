"""Is one recipe better than another? Resampling of seeds and test items together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Floats, Ints, described, unscaled
from polystab.analysis.bootstrap.inputs import (
    DESIGNS,
    RESAMPLES,
    Matched,
    Scores,
    complete_items,
    known_answers,
    matched,
)
from polystab.analysis.bootstrap.intervals import INTERVALS, Spread, interval_columns
from polystab.analysis.bootstrap.kernels import (
    Score,
    Side,
    Summed,
    all_counts,
    centred,
    count_blocks,
    pseudo_values,
    resampled,
    same_patterns,
)
from polystab.analysis.options import check_choice, check_shares, check_whole, flagged, generator_of
from polystab.analysis.variance import MIN_RUNS
from polystab.errors import AnalysisError

SIDES = ("base", "other", "difference")
PARTS = ("seed", "item", "seed:item")

# Why a cell has no interval, as a code and a word.
REASONS = ("given", "no_common_items", "few_seeds", "few_items")

# Working memory of the resamples that are scored together, in bytes, unless a chunk is given.
_MEMORY = 2**25

_DOCS = {
    "estimate": "mean over runs of the score",
    "lower": "lower end of the interval",
    "upper": "upper end of the interval",
    "p": "two-sided p of a difference of zero; not corrected for many tests",
    "stderr": "standard error: by the resamples, and by the variance parts (t)",
    "df": "degrees of freedom of the t interval",
    "variance": "variance part of a single answer, never below zero",
    "variance_estimate": "unbiased estimate of the variance part, which may be below zero",
    "n_seeds": "runs that count",
    "n_items": "items compared: answered by all of those runs",
    "n_items_incomplete": "items left out because a run did not answer them",
    "reason": "why there is no interval",
}


def multibootstrap(
    base: Scores,
    other: Scores,
    *,
    design: str = "unpaired",
    resample: str = "both",
    score: Callable[[npt.NDArray[Any]], npt.ArrayLike] | None = None,
    parts: str | None = None,
    n_resamples: int = 1000,
    level: float = 0.95,
    chunk: int | None = None,
    rng: int | np.random.Generator | None = None,
) -> xr.Dataset:
    """Compare two recipes by resampling their seeds and their test items (multi-bootstrap).

    Parameters
    ----------
    base, other : array (seed, item) or xarray.DataArray
        Score of each run on each item, e.g. 1 for a correct answer. A DataArray has the
        dimensions ``seed`` and ``item``, joined on their labels, and any others, for each
        of which the comparison is made. NaN and infinite: not measured; so is -1 in a
        cube's ``items["correct"]``.
    design : {"unpaired", "paired", "fixed"}
        ``unpaired``: runs of the two sides have nothing in common but the items, and are
        drawn separately. ``paired``: seed *k* of one belongs to seed *k* of the other
        (the same initialisation, or the same checkpoint trained on); both are drawn
        together. ``fixed``: base is what it is, e.g. one released model; its runs are
        not drawn, and it may be without ``seed``.
    resample : {"both", "seeds", "items"}
        What is drawn anew. With "seeds" the answer holds for these items only, with
        "items" for these runs only.
    score : callable, optional
        The score of a run, where it is not the mean over items. It takes an array whose
        last dimension is ``item`` and gives one without it. It is called once per resample,
        unless ``parts`` is given.
    parts : str, optional
        A dimension of several numbers per item, for a score that is a function of their
        means over items, e.g. an F1 from true positives, false positives and misses.
        ``score`` then takes means, with ``parts`` last, and gives an array without it;
        all resamples are one matrix product.
    n_resamples : int, optional
        Number of resamples.
    level : float, optional
        Confidence level, between 0 and 1.
    chunk : int, optional
        How many resamples are scored at a time, at most: that takes about ``8 x chunk x
        (items + runs x cells)`` bytes. It does not change the result. By default as many
        as take 32 MiB. The resamples themselves, ``24 x n_resamples x cells`` bytes, are
        kept, because quantiles need all of them.
    rng : int, numpy.random.Generator or None, optional
        Source of chance; the same int gives the same result.

    Returns
    -------
    xarray.Dataset
        Over the further dimensions and ``side`` (base, other, difference = other - base):
        ``estimate``, in units of the score; ``lower``, ``upper`` and ``stderr``, over
        ``interval`` (percentile, bca, t; the standard error of the first two is the SD of the
        resamples, ddof 1); ``df`` of the t interval; ``variance`` and
        ``variance_estimate`` over ``part`` (seed, item, seed:item), in squared units.
        ``p`` over ``interval``, of the difference. The counts ``n_seeds`` (over ``side``;
        of the difference the smaller), ``n_items`` and ``n_items_incomplete``; and
        ``reason``, an integer code (``attrs["flag_meanings"]``), 0 where there is an
        interval. In ``attrs``: ``design``, ``resample``, ``level``, ``n_resamples``,
        ``p_smallest`` (of the first two intervals), ``n_items_joined`` and
        ``n_items_apart`` (items that stand on one side only, left out).

    Raises
    ------
    AnalysisError
        The sides have no item in common, or different seeds in a paired design; an
        unknown ``design`` or ``resample``; ``score`` gives the wrong shape or NaN.

    Notes
    -----
    Every resample draws n_s seeds and n_x items with replacement, the same items for all
    runs, scores every run and takes the mean over runs. The scores vary by

    ``Var = s_S^2 / n_s + s_X^2 / n_x + s_SX^2 / (n_s n_x)``,

    and ``variance`` are the three parts, from mean squares of the two-way table run x item
    (of the difference: of the differences of one run of each side). They say what more
    seeds or more items would buy (:func:`polystab.analysis.detectable_difference`). For a
    score other than a mean the table holds jackknife pseudo-values, of at most 200 groups
    of items.

    **Which interval.** Nominal 95 % intervals of a difference covered the truth in these
    shares of 2,000 simulated comparisons (200 items; paired and unpaired design; BCa is
    within 0.02 of the percentile interval):

    =============================  =====  ============  ============
    what makes most of the spread  seeds  percentile    t
    =============================  =====  ============  ============
    seeds alone                        3  0.74, 0.79    0.96, 0.96
    seeds alone                        5  0.83, 0.87    0.96, 0.95
    seeds alone                       10  0.90, 0.92    0.95, 0.95
    seeds alone                       25  0.94, 0.93    0.96, 0.95
    seeds, some noise                  3  0.88, 0.90    0.94, 0.96
    seeds, some noise                 10  0.96, 0.97    0.96, 0.96
    items                           3-25  0.94 to 0.95  0.94 to 0.95
    run x item (noise)                 3  0.99, 0.99    0.99, 0.98
    run x item (noise)                25  1.00, 1.00    0.96, 0.96
    answers of 0 and 1                 3  0.98, 0.98    0.97, 0.97
    answers of 0 and 1                25  0.99, 0.99    0.95, 0.96
    =============================  =====  ============  ============

    The bootstrap undercovers for few seeds, because n runs drawn with replacement vary by
    (n - 1) / n too little and the tails of a t distribution are missing; and where run x item
    dominates it is up to 1.7 times too wide, since drawing both counts that part three
    times (Owen 2007). The interval ``t`` takes the variance from the mean squares, and
    Student's t with Satterthwaite's degrees of freedom: prefer it.

    ``p`` of a bootstrap is twice the smaller tail, with one added to the count, so that it
    is never 0; ``p_smallest`` is ``2 / (n_resamples + 1)``. The p of BCa is the level at which
    its interval ends at zero. Halve it for a one-sided question.

    Runs without any answer are left out (in a paired design with their partner), then items
    that not all remaining runs answered. A side that is drawn needs three runs for an
    interval, and items need three items; NaN and ``reason`` say so. Scores that are all equal
    give an interval of no length. Copied runs are not looked for here
    (:func:`polystab.analysis.duplicate_runs`).

    References
    ----------
    Sellam, T. et al. (2022). The MultiBERTs: BERT reproductions for robustness analysis.
    ICLR. https://doi.org/10.48550/arXiv.2106.16163

    Efron, B. (1987). Better bootstrap confidence intervals. Journal of the American
    Statistical Association 82, 171-185. https://doi.org/10.1080/01621459.1987.10478410

    Owen, A. B. (2007). The pigeonhole bootstrap. Annals of Applied Statistics 1, 386-411.
    https://doi.org/10.1214/07-AOAS122

    Examples
    --------
    >>> import numpy as np
    >>> from polystab.analysis.bootstrap import multibootstrap
    >>> rng = np.random.default_rng(0)
    >>> base, other = rng.random((5, 400)) < 0.60, rng.random((5, 400)) < 0.70
    >>> found = multibootstrap(base, other, rng=0).sel(side="difference")
    >>> round(float(found["estimate"]), 3), int(found["n_items"]), bool(found["p"].sel(interval="t") < 0.01)
    (0.102, 400, True)
    """
    _check_options(design, resample, score, parts, n_resamples, level, chunk)
    generator = generator_of(rng)
    data = matched(base, other, design, parts)
    known = known_answers(data.base), known_answers(data.other)
    runs = [np.asarray(side.any(axis=2)) for side in known]
    if design == "paired":
        runs = [runs[0] & runs[1]] * 2
    items = complete_items(known[0], runs[0]) & complete_items(known[1], runs[1])
    ever = known[0].any(axis=1) | known[1].any(axis=1)
    columns = _empty(len(data.base))
    plan = _Plan(design, resample, score, parts is not None, n_resamples, level, chunk, generator)
    for cells in same_patterns(np.concatenate([*runs, items], axis=1)):
        first = cells[0]
        base_cells, other_cells = (
            values[np.ix_(cells, side[first], items[first])]
            for values, side in zip((data.base, data.other), runs, strict=True)
        )
        for name, found in _compared(base_cells, other_cells, plan).items():
            columns[name][cells] = found
    columns["n_items_incomplete"] = ever.sum(axis=1) - items.sum(axis=1)
    attrs = {
        "design": design,
        "resample": resample,
        "level": float(level),
        "n_resamples": int(n_resamples),
        "p_smallest": 2 / (n_resamples + 1),
        "n_items_joined": data.n_joined,
        "n_items_apart": data.n_apart,
    }
    return _labelled(columns, data, attrs)


class _Plan:
    """What was asked for."""

    def __init__(
        self,
        design: str,
        resample: str,
        score: Score | None,
        parts: bool,
        n_resamples: int,
        level: float,
        chunk: int | None,
        rng: np.random.Generator,
    ) -> None:
        self.design, self.resample, self.score, self.parts = design, resample, score, parts
        self.n_resamples, self.level, self.chunk, self.rng = n_resamples, level, chunk, rng


def _check_options(
    design: str,
    resample: str,
    score: Score | None,
    parts: str | None,
    n_resamples: int,
    level: float,
    chunk: int | None,
) -> None:
    check_choice("design", design, DESIGNS)
    check_choice("resample", resample, RESAMPLES)
    if score is not None and not callable(score):
        raise AnalysisError(f"score is {score!r}; pass a function of an array, or nothing for the mean over items.")
    if parts is not None and score is None:
        raise AnalysisError(f"parts={parts!r} needs a score: a function of the means of the parts.")
    check_whole("n_resamples", n_resamples, 2)
    check_whole("chunk", 1 if chunk is None else chunk, 1)
    check_shares(level=level)


def _empty(n_cell: int) -> dict[str, npt.NDArray[Any]]:
    nan = {
        "estimate": (3,),
        "lower": (3, 3),
        "upper": (3, 3),
        "stderr": (3, 3),
        "df": (3,),
        "p": (3,),
        "variance_estimate": (3, 3),
    }
    columns: dict[str, npt.NDArray[Any]] = {name: np.full((n_cell, *shape), np.nan) for name, shape in nan.items()}
    return columns | {
        "n_seeds": np.zeros((n_cell, 3), dtype=np.int64),
        "n_items": np.zeros(n_cell, dtype=np.int64),
        "reason": np.zeros(n_cell, dtype=np.int8),
    }


def _compared(base: Floats, other: Floats, plan: _Plan) -> dict[str, npt.NDArray[Any] | int]:
    """Every number of some cells (cell, run, item[, part]) that have the same runs and items."""
    n_runs, n_item = (base.shape[1], other.shape[1]), base.shape[2]
    found: dict[str, npt.NDArray[Any] | int] = {"n_seeds": np.array([*n_runs, min(n_runs)]), "n_items": n_item}
    if not n_item:
        return found | {"reason": 1}
    (base, other), centre, exponent = centred(base, other, plan.score)
    sides = Side(base, plan.score, plan.parts), Side(other, plan.score, plan.parts)
    estimate = resampled(sides, (None, None), iter([np.ones((1, n_item))]), n_resamples=1, chunk=1)[:, 0]
    _check_scores(estimate, plan)
    drawn_runs = n_runs[1:] if plan.design == "fixed" else n_runs
    few_seeds = plan.resample != "items" and min(drawn_runs) < MIN_RUNS
    few_items = plan.resample != "seeds" and n_item < MIN_RUNS
    spread = Spread(pseudo_values(sides[0]), pseudo_values(sides[1]), n_item, plan.design, plan.resample)
    shift = np.stack([centre, centre, np.zeros_like(centre)], axis=1)
    found |= {
        "estimate": _larger(estimate.T, exponent) + shift,
        "variance_estimate": _larger(spread.variance(), 2 * exponent),
        "reason": 2 if few_seeds else 3 if few_items else 0,
    }
    if few_seeds or few_items:
        return found
    draws = _draws((_reduced(sides[0], plan), _reduced(sides[1], plan)), plan)
    _check_scores(draws, plan)
    ends, stderr, df, p = interval_columns(draws, estimate, spread, plan.level)
    ends = _larger(ends, exponent) + shift[:, None, :, None]
    return found | {"lower": ends[:, 0], "upper": ends[:, 1], "stderr": _larger(stderr, exponent), "df": df, "p": p}


def _larger(values: Floats, exponent: Ints) -> Floats:
    """Values (cell, ...) times a power of two; infinite beyond the largest float."""
    return unscaled(values, exponent.reshape(-1, *(1,) * (values.ndim - 1)))


def _reduced(side: Side, plan: _Plan) -> Side:
    """A side whose runs are not drawn needs only their sum, where the score is a mean."""
    drawn = plan.resample != "items"
    return side if drawn or plan.score else Summed(side)


def _draws(sides: tuple[Side, Side], plan: _Plan) -> Floats:
    """(3, resample, cell)"""
    n, rng, n_item = plan.n_resamples, plan.rng, sides[0].n_item
    runs: list[Floats | None] = [None, None]
    if plan.resample != "items":
        runs[1] = all_counts(sides[1].n_run, n, rng)
        runs[0] = runs[1] if plan.design == "paired" else None
        if plan.design == "unpaired":
            runs[0] = all_counts(sides[0].n_run, n, rng)
    items = None if plan.resample == "seeds" else count_blocks(n_item, n, rng)
    width = n_item + sum(side.values[:, :, 0].size for side in sides)
    chunk = plan.chunk or max(1, _MEMORY // (8 * width))
    return resampled(sides, (runs[0], runs[1]), items, n_resamples=n, chunk=min(chunk, n))


def _check_scores(values: Floats, plan: _Plan) -> None:
    if plan.score is not None and not np.isfinite(values).all():
        raise AnalysisError(
            "score gives NaN or infinite values for some resamples; make it defined for every draw of items, "
            "e.g. 0 where its denominator is 0."
        )


def _labelled(columns: dict[str, npt.NDArray[Any]], data: Matched, attrs: dict[str, Any]) -> xr.Dataset:
    dims = {
        "estimate": ("side",),
        "lower": ("side", "interval"),
        "upper": ("side", "interval"),
        "p": ("interval",),
        "stderr": ("side", "interval"),
        "df": ("side",),
        "variance": ("side", "part"),
        "variance_estimate": ("side", "part"),
        "n_seeds": ("side",),
        "n_items": (),
        "n_items_incomplete": (),
        "reason": (),
    }
    columns = columns | {"variance": np.maximum(columns["variance_estimate"], 0.0)}
    result = xr.Dataset(
        {
            name: ((*data.dims, *own), columns[name].reshape((*data.shape, *columns[name].shape[1:])))
            for name, own in dims.items()
        },
        coords={**data.coords, "side": list(SIDES), "interval": list(INTERVALS), "part": list(PARTS)},
        attrs=attrs,
    )
    return flagged(described(result, _DOCS), {"reason": REASONS})
