"""A budget of false alarms: how a run's highest score so far ranks among those of runs known to be stable."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Bools, Floats, Ints, mean, median
from polystab.analysis.outliers.zscores import NORMAL_MAD, NORMAL_MEAN_AD


def runs_needed(false_alarm: float) -> int:
    """The fewest stable runs with which an alarm at this rate is possible at all.

    Examples
    --------
    >>> [runs_needed(rate) for rate in (0.05, 0.1, 0.2)]
    [19, 9, 4]
    """
    # Rounded first: 1 / 0.05 may lie a little above 20.
    return math.ceil(round(1 / false_alarm, 9)) - 1


def smallest_p(n_stable: int) -> float:
    """The smallest p-value that a ranking among so many runs can give."""
    return 1 / (n_stable + 1)


def standardised(scores: Floats, stable: Floats, *, leave_one_out: bool = False) -> Floats:
    """Scores (run, step) minus the median of the stable runs at the step, over their robust standard deviation.

    Parameters
    ----------
    scores : (run, step) array
    stable : (stable run, step) array
    leave_one_out : bool
        ``scores`` are ``stable``; each is judged by the others, as a new run is judged by all.
    """
    if not leave_one_out:
        return _scaled(scores, stable)
    others = ~np.eye(len(stable), dtype=bool)
    return np.stack([_scaled(scores[r], stable[others[r]]) for r in range(len(stable))]) if len(stable) else scores


def _scaled(scores: Floats, stable: Floats) -> Floats:
    centre = median(stable, axis=0)
    away = np.abs(stable - centre)
    spread = np.fmax(median(away, axis=0) / NORMAL_MAD, 0.5 * NORMAL_MEAN_AD * mean(away, axis=0))
    # Scores that do not vary at a step keep their unit there.
    return np.asarray((scores - centre) / np.where(spread > 0, spread, 1.0))


def highest_so_far(scores: Floats) -> Floats:
    """Running maximum along the last axis; steps without a score keep what there was, NaN before the first."""
    highest = np.maximum.accumulate(np.where(np.isnan(scores), -np.inf, scores), axis=-1)
    return np.where(np.isneginf(highest), np.nan, highest)


def conformal_p(highest: Floats, calibration: Floats) -> Floats:
    """P-values by ranking among stable runs: (1 + how many of them are at least as high) / (1 + n).

    Parameters
    ----------
    highest : array
        Highest scores so far.
    calibration : (stable run,) array
        Highest scores over whole runs.

    Returns
    -------
    array
        Shape of ``highest``; NaN where that is NaN. The p-value of a run falls as it goes on; alarms at
        ``p <= a`` strike a stable run ever in its life with a probability of at most a, if runs are exchangeable.

    References
    ----------
    Vovk, V., Gammerman, A. and Shafer, G. (2005). Algorithmic Learning in a Random World. Springer.
    https://doi.org/10.1007/b106715

    Examples
    --------
    >>> conformal_p(np.array([2.5, 9.0]), np.array([1.0, 2.0, 3.0])).tolist()
    [0.5, 0.25]
    """
    below = np.searchsorted(np.sort(calibration), highest, side="left")
    n = len(calibration)
    return np.where(np.isnan(highest), np.nan, (1 + n - below) / (1 + n))


def folds_of(groups: npt.NDArray[np.str_], n_folds: int, rng: np.random.Generator) -> Ints:
    """A fold for every run, those of each group spread over the folds as evenly as can be.

    Groups follow each other without a break, so that folds are equally large too.
    """
    fold = np.empty(len(groups), dtype=np.int64)
    order = np.concatenate([rng.permutation(np.flatnonzero(groups == name)) for name in np.unique(groups)])
    fold[order] = np.arange(len(groups)) % n_folds
    return fold


def exceeds(p: Floats, false_alarm: float) -> Bools:
    """Where a p-value is within the budget; equality is not lost to rounding."""
    return np.asarray(p <= false_alarm * (1 + 1e-9))
