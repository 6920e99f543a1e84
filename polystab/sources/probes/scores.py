"""Scores of probes that need no training of our own: F1, the logistic probe, the online codelength."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Shares of the rows after which the online code changes its probe (Voita and Titov 2020).
PORTIONS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)


class F1(NamedTuple):
    """F1 averaged over the classes, and over the rows (which is the accuracy)."""

    macro: float
    micro: float


def f1_scores(truth: npt.NDArray[Any], predicted: npt.NDArray[Any]) -> F1:
    """Macro and micro F1 of one label for each row.

    Parameters
    ----------
    truth, predicted : ndarray, shape (N,)
        Classes. One that only the truth has (which training never saw) has an F1 of 0.

    Returns
    -------
    F1
        The macro average is over the classes that occur in either. NaN without rows.

    Examples
    --------
    >>> f1_scores(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 1]))
    F1(macro=0.38888888888888884, micro=0.5)
    """
    if not len(truth):
        return F1(np.nan, np.nan)
    classes, codes = np.unique(np.concatenate((truth, predicted)), return_inverse=True)
    t, p = codes[: len(truth)], codes[len(truth) :]
    hits = np.bincount(t[t == p], minlength=len(classes))
    both = np.bincount(t, minlength=len(classes)) + np.bincount(p, minlength=len(classes))
    return F1(float(np.mean(2 * hits / both)), float(np.mean(t == p)))


def fit_logistic(x: Floats, y: Ints, n_classes: int, *, penalty: float = 1.0) -> tuple[Floats, Floats]:
    """Multinomial logistic regression, the plain probe.

    It minimises ``sum_i -log softmax(W x_i + b)[y_i] + penalty / 2 * sum W^2``: a convex
    problem, which L-BFGS solves. scikit-learn's ``LogisticRegression(C=1 / penalty)`` is
    the same.

    Parameters
    ----------
    x : ndarray, shape (N, d)
    y : ndarray of int, shape (N,)
        Classes below ``n_classes``; some may not occur.
    penalty : float, optional

    Returns
    -------
    W, b : ndarray, shapes (n_classes, d) and (n_classes,)
    """
    from scipy.optimize import minimize
    from scipy.special import logsumexp

    n, d = x.shape
    rows = np.arange(n)
    sums = np.zeros((n_classes, d + 1))
    np.add.at(sums, y, np.column_stack((x, np.ones(n))))

    def loss(flat: Floats) -> tuple[float, Floats]:
        part = flat.reshape(n_classes, d + 1)
        logits = x @ part[:, :d].T + part[:, d]
        normal = logsumexp(logits, axis=1, keepdims=True)
        p = np.exp(logits - normal)
        slope = np.column_stack((p.T @ x, p.sum(axis=0))) - sums
        slope[:, :d] += penalty * part[:, :d]
        value = float(np.sum(normal[:, 0] - logits[rows, y]) + penalty / 2 * np.sum(part[:, :d] ** 2))
        return value / n, slope.ravel() / n

    start = np.zeros(n_classes * (d + 1))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500, "ftol": 1e-10, "gtol": 1e-6})
    part = found.x.reshape(n_classes, d + 1)
    return part[:, :d], part[:, d]


def online_codelength(
    x: Floats, y: Ints, n_classes: int, *, portions: Sequence[float] = PORTIONS, penalty: float = 1.0
) -> float:
    """Codelength of labels that are sent block by block, each with a probe trained on the blocks before.

    ``L = t_1 log C - sum_i log p_i(y_{t_i + 1} .. y_{t_{i+1}})``, where ``p_i`` is the
    logistic probe of the first ``t_i`` rows (the prequential code of [1]_).

    Parameters
    ----------
    x : ndarray, shape (N, d)
    y : ndarray of int, shape (N,)
    n_classes : int
    portions : sequence of float, optional
        Where blocks end, as shares of the rows, increasing to 1.
    penalty : float, optional
        As in :func:`fit_logistic`.

    Returns
    -------
    float
        In nats.

    References
    ----------
    .. [1] E. Voita, I. Titov, Information-theoretic probing with minimum description
       length, EMNLP 2020, doi:10.18653/v1/2020.emnlp-main.14.
    """
    from scipy.special import log_softmax

    ends = sorted({max(1, round(share * len(y))) for share in portions} | {len(y)})
    total = ends[0] * float(np.log(n_classes))
    for start, end in pairwise(ends):
        weights, bias = fit_logistic(x[:start], y[:start], n_classes, penalty=penalty)
        logp = log_softmax(x[start:end] @ weights.T + bias, axis=1)
        total -= float(logp[np.arange(end - start), y[start:end]].sum())
    return total
