"""Gaussian hidden Markov models of many runs at once: densities, filtering, smoothing, Viterbi.

Plain arrays: a sequence is a row of a padded (run, time, metric) array that counts up to its length.
hmmlearn fits the models (:mod:`polystab.analysis.maps.fit`); the tests hold these kernels against it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from polystab.analysis.arrays import Bools, Floats, Ints

Covariance = Literal["diag", "full", "tied"]


@dataclass(frozen=True)
class Parameters:
    """A Gaussian hidden Markov model.

    Attributes
    ----------
    start : (state,) array
        Probabilities of the first state.
    transition : (state, state) array
        Probabilities of the next state; rows sum to 1.
    mean : (state, metric) array
    covariance : array
        Variances (state, metric) if ``kind`` is "diag", matrices (state, metric, metric) if "full", one matrix
        (metric, metric) if "tied".
    kind : {'diag', 'full', 'tied'}
    """

    start: Floats
    transition: Floats
    mean: Floats
    covariance: Floats
    kind: Covariance

    @property
    def n_states(self) -> int:
        return len(self.start)

    @property
    def variance(self) -> Floats:
        """Variances (state, metric), whatever the kind."""
        if self.kind == "diag":
            return self.covariance
        return np.array(np.broadcast_to(np.diagonal(self.covariance, axis1=-2, axis2=-1), self.mean.shape))

    def reordered(self, order: Ints) -> Parameters:
        """The same model with its states numbered anew: the new state i is the old state ``order[i]``."""
        return replace(
            self,
            start=self.start[order],
            transition=self.transition[np.ix_(order, order)],
            mean=self.mean[order],
            covariance=self.covariance if self.kind == "tied" else self.covariance[order],
        )


@dataclass(frozen=True)
class Decoded:
    """Sequences read with a model, padded as they came; -1 or NaN beyond their lengths.

    Attributes
    ----------
    viterbi : (run, time) array of int
        The most likely path of states.
    smoothed, filtered : (run, time, state) array
        Probabilities of the states given the whole sequence, and given it up to there.
    log_likelihood : (run,) array
    """

    viterbi: Ints
    smoothed: Floats
    filtered: Floats
    log_likelihood: Floats


def n_parameters(n_states: int, n_metrics: int, kind: Covariance) -> int:
    """Free parameters: starts, transitions, means, covariances.

    Examples
    --------
    >>> [n_parameters(n, 14, "diag") for n in range(1, 9)]
    [28, 59, 92, 127, 164, 203, 244, 287]
    """
    k, d = n_states, n_metrics
    covariances = {"diag": k * d, "full": k * d * (d + 1) // 2, "tied": d * (d + 1) // 2}[kind]
    return (k - 1) + k * (k - 1) + k * d + covariances


def log_density(x: Floats, model: Parameters) -> Floats:
    """Log density (..., state) of rows (..., metric) in each state, in natural logarithms."""
    d = x.shape[-1]
    result = np.empty((*x.shape[:-1], model.n_states))
    for k in range(model.n_states):
        away = x - model.mean[k]
        if model.kind == "diag":
            square = np.sum(away**2 / model.covariance[k], axis=-1)
            log_det = np.sum(np.log(model.covariance[k]))
        else:
            root = np.linalg.cholesky(model.covariance if model.kind == "tied" else model.covariance[k])
            square = np.sum(np.linalg.solve(root, away.reshape(-1, d).T) ** 2, axis=0).reshape(away.shape[:-1])
            log_det = 2 * np.sum(np.log(np.diagonal(root)))
        result[..., k] = -0.5 * (d * np.log(2 * np.pi) + log_det + square)
    return result


def decode(x: Floats, lengths: Ints, model: Parameters) -> Decoded:
    """Most likely path, smoothed and filtered probabilities, and likelihood of each sequence.

    Parameters
    ----------
    x : (run, time, metric) array
        What lies beyond a run's length does not matter.
    lengths : (run,) array of int
    model : Parameters
    """
    n_run, n_time, _ = x.shape
    inside = np.arange(n_time) < lengths[:, None]
    density = log_density(np.where(inside[:, :, None], x, 0.0), model)
    with np.errstate(divide="ignore"):
        start, transition = np.log(model.start), np.log(model.transition)
    forward = _forward(density, start, transition)
    backward = _backward(density, inside, transition)
    last = np.maximum(lengths - 1, 0)
    # Beyond a run's end `forward` goes on with rows of zeros; only its last own value counts.
    whole = _log_sum(forward[np.arange(n_run), last], axis=1) if n_time else np.zeros(n_run)
    path = _viterbi(density, inside, start, transition)
    return Decoded(
        viterbi=np.where(inside, path, -1),
        smoothed=np.where(inside[:, :, None], shares(forward + backward), np.nan),
        filtered=np.where(inside[:, :, None], shares(forward), np.nan),
        log_likelihood=np.where(lengths > 0, whole, 0.0),
    )


def packed(values: Floats, used: Bools) -> tuple[Floats, Ints, Ints]:
    """Used checkpoints moved to the front of each run: values, lengths, and where each came from (-1 for padding)."""
    lengths = used.sum(axis=1).astype(np.int64)
    n_time = int(lengths.max(initial=0))
    place = np.full((len(used), n_time), -1, dtype=np.int64)
    place[np.arange(n_time) < lengths[:, None]] = np.nonzero(used)[1]
    taken = np.take_along_axis(values, np.maximum(place, 0)[:, :, None], axis=1)
    return np.where((place >= 0)[:, :, None], taken, 0.0), lengths, place


def _forward(density: Floats, start: Floats, transition: Floats) -> Floats:
    """Log probability of each state together with the data up to there, (run, time, state)."""
    forward = np.empty_like(density)
    for t in range(density.shape[1]):
        before = start if t == 0 else _log_sum(forward[:, t - 1, :, None] + transition, axis=1)
        forward[:, t] = before + density[:, t]
    return forward


def _backward(density: Floats, inside: Bools, transition: Floats) -> Floats:
    """Log probability of the data after each checkpoint given its state, (run, time, state)."""
    backward = np.zeros_like(density)
    for t in range(density.shape[1] - 2, -1, -1):
        after = _log_sum(transition + (density[:, t + 1] + backward[:, t + 1])[:, None, :], axis=2)
        backward[:, t] = np.where(inside[:, t + 1, None], after, 0.0)
    return backward


def _viterbi(density: Floats, inside: Bools, start: Floats, transition: Floats) -> Ints:
    n_run, n_time, n_state = density.shape
    source = np.zeros((n_run, n_time, n_state), dtype=np.int64)
    best = start + density[:, 0] if n_time else np.zeros((n_run, n_state))
    for t in range(1, n_time):
        options = best[:, :, None] + transition
        source[:, t] = np.where(inside[:, t, None], np.argmax(options, axis=1), np.arange(n_state))
        best = np.where(inside[:, t, None], np.max(options, axis=1) + density[:, t], best)
    path = np.zeros((n_run, n_time), dtype=np.int64)
    state = np.argmax(best, axis=1)
    for t in range(n_time - 1, -1, -1):
        path[:, t] = state
        state = source[np.arange(n_run), t, state]
    return path


def _log_sum(values: Floats, *, axis: int) -> Floats:
    """``log(sum(exp(values)))`` that neither overflows nor vanishes; -inf where all are."""
    top = np.max(values, axis=axis, keepdims=True)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(np.sum(np.exp(values - safe), axis=axis)) + np.squeeze(safe, axis=axis))


def shares(log_values: Floats) -> Floats:
    """Probabilities along the last axis from logarithms known up to a constant."""
    weights = np.exp(log_values - log_values.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))
