"""How well scores tell runs that go wrong from others; runs have weights, so that resamples are one product."""

from __future__ import annotations

import numpy as np

from polystab.analysis.arrays import Bools, Floats, divided
from polystab.analysis.early_warning.relative import Texts


def auroc(score: Floats, wrong: Bools, model: Texts, weights: Floats, *, within: bool) -> Floats:
    """The share of pairs of a run that goes wrong and one that does not in which the former scores higher.

    Parameters
    ----------
    score : (run,) array
        NaN: the run is left out. Ties count one half.
    wrong : (run,) array of bool
    model : (run,) array of str
    weights : (resample, run) array
        How often each run counts.
    within : bool
        Only pairs of runs of the same model count, so that telling models apart is worth nothing.

    Returns
    -------
    (resample,) array
        NaN where there is no such pair.

    Examples
    --------
    >>> model = np.array(["a", "a", "b", "b"])
    >>> score, wrong = np.array([1.0, 2.0, 5.0, 6.0]), np.array([False, False, True, True])
    >>> auroc(score, wrong, model, np.ones((1, 4)), within=False).tolist()
    [1.0]
    >>> auroc(score, wrong, model, np.ones((1, 4)), within=True).tolist()
    [nan]
    """
    there = ~np.isnan(score)
    bad, good = np.flatnonzero(wrong & there), np.flatnonzero(~wrong & there)
    high, low = score[bad][:, None], score[good]
    wins = np.where(high > low, 1.0, np.where(high == low, 0.5, 0.0))
    pairs = model[bad][:, None] == model[good] if within else np.ones(wins.shape, dtype=bool)
    w_bad, w_good = weights[:, bad], weights[:, good]
    top = np.sum((w_bad @ np.where(pairs, wins, 0.0)) * w_good, axis=1)
    return divided(top, np.sum((w_bad @ pairs.astype(np.float64)) * w_good, axis=1))


def average_precision(score: Floats, wrong: Bools, weights: Floats) -> Floats:
    """Mean over runs that go wrong of the share of such runs among all with at least their score, (resample,).

    Equal scores are one threshold, as in scikit-learn. NaN without any run that goes wrong.
    """
    there = ~np.isnan(score)
    s, y, w = score[there], wrong[there], weights[:, there]
    values, place = np.unique(-s, return_inverse=True)
    one_hot = np.zeros((len(s), len(values)))
    one_hot[np.arange(len(s)), place] = 1.0
    hits = (w * y) @ one_hot
    precision = divided(np.cumsum(hits, axis=1), np.cumsum(w @ one_hot, axis=1))
    return divided(np.sum(hits * np.nan_to_num(precision), axis=1), hits.sum(axis=1))


def run_weights(model: Texts, n: int, rng: np.random.Generator) -> Floats:
    """How often each run is drawn in ``n`` resamples of runs within models, (resample, run)."""
    weights = np.zeros((n, len(model)))
    for name in np.unique(model):
        own = np.flatnonzero(model == name)
        weights[:, own] = rng.multinomial(len(own), np.full(len(own), 1 / len(own)), size=n)
    return weights


def limits(draws: Floats, level: float) -> tuple[Floats, Floats]:
    """Percentile interval of resamples along axis 0; NaN where fewer than half of the resamples give a number."""
    enough = (~np.isnan(draws)).mean(axis=0) >= 0.5
    tail = (1 - level) / 2
    safe = np.where(enough, draws, 0.0)
    low, high = np.nanquantile(safe, (tail, 1 - tail), axis=0)
    return np.where(enough, low, np.nan), np.where(enough, high, np.nan)


def share_limits(hits: Floats, n: Floats, level: float) -> tuple[Floats, Floats]:
    """Clopper-Pearson interval of a share; NaN of none.

    References
    ----------
    Clopper, C. J. and Pearson, E. S. (1934). The use of confidence or fiducial limits illustrated in the case of the
    binomial. Biometrika 26, 404-413. https://doi.org/10.1093/biomet/26.4.404

    Examples
    --------
    >>> low, high = share_limits(np.array(0.0), np.array(10.0), 0.95)
    >>> float(low), round(float(high), 4)
    (0.0, 0.3085)
    """
    from scipy.special import betaincinv

    tail = (1 - level) / 2
    some = n > 0
    low = np.where(hits > 0, betaincinv(np.maximum(hits, 1), np.maximum(n - hits + 1, 1), tail), 0.0)
    high = np.where(hits < n, betaincinv(hits + 1, np.maximum(n - hits, 1), 1 - tail), 1.0)
    return np.where(some, low, np.nan), np.where(some, high, np.nan)
