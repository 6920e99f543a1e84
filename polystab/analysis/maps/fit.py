"""Fitting Gaussian hidden Markov models: restarts, a variance floor, how many states."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from polystab.analysis.arrays import Floats, Ints
from polystab.analysis.maps.kernels import Covariance, Parameters, shares
from polystab.progress_bars import tracked

MAX_ITERATIONS = 1000
# EM stops when an iteration gains less, in units of log-likelihood.
TOLERANCE = 1e-3
# Restarts whose log-likelihood is within this of the best one have reached the same optimum.
SAME_OPTIMUM = 0.5
# Sum of probabilities below which nothing can be estimated from a state.
_NOBODY = 1e-8
# No start and no transition is impossible: a run that goes wrong must still be readable.
FLOOR_PROBABILITY = 1e-6


@dataclass(frozen=True)
class Options:
    """How to fit."""

    covariance: Covariance = "diag"
    n_restarts: int = 10
    variance_floor: float = 1e-3
    left_to_right: bool = False
    base_seed: int = 0


@dataclass(frozen=True)
class Fit:
    """The best of some restarts, and what the others gave.

    Attributes
    ----------
    parameters : Parameters
    log_likelihoods : (restart,) array
        Of the fitted rows; NaN for a restart that broke down.
    converged : (restart,) array of bool
        EM stopped by itself.
    best : int
        The restart that is kept.
    """

    parameters: Parameters
    log_likelihoods: Floats
    converged: Any
    best: int

    @property
    def optimum_share(self) -> float:
        """Share of the restarts that ended as high as the best one."""
        top = self.log_likelihoods[self.best]
        return float(np.mean(np.nan_to_num(self.log_likelihoods, nan=-np.inf) >= top - SAME_OPTIMUM))


def fit(sequences: Sequence[Floats], n_states: int, options: Options) -> Fit:
    """The most likely model of some sequences (time, metric), out of several restarts.

    Notes
    -----
    The result does not depend on the order of the sequences. Half of the restarts begin at
    means of stretches of training, cut at random places (the first one at equal cuts), a
    quarter at random checkpoints, a quarter at k-means centres; ``left_to_right`` begins at
    cuts only. Trajectories have many local optima: on the weights of Pythia 70m, five states,
    default scale, the best of five starts of hmmlearn (k-means) ends 650 units of log-likelihood
    below what it reaches from our optimum; and no number of restarts proves that there is none higher.
    """
    ordered = sorted((x for x in sequences if len(x)), key=lambda x: x.tobytes())
    rows = np.concatenate(ordered)
    lengths = [len(x) for x in ordered]
    place = np.concatenate([(np.arange(n) + 0.5) / n for n in lengths])
    tries = []
    restarts = range(1 if n_states == 1 else options.n_restarts)
    for restart in tracked(restarts, f"fitting {n_states} states", unit="start"):
        rng = np.random.default_rng([options.base_seed, n_states, restart])
        if options.left_to_right or restart % 4 < 2:
            means = _means_of_cuts(rows, place, n_states, None if restart == 0 else rng)
        elif restart % 4 == 2:
            means = rows[rng.choice(len(rows), n_states, replace=False)]
        else:
            means = _means_of_clusters(rows, n_states, rng)
        tries.append(
            _climb(rows, lengths, _first_guess(rows, means, options, None if restart % 4 == 0 else rng), options)
        )
    scores = np.array([score for _, score, _ in tries])
    best = int(np.argmax(scores))
    return Fit(_with_floor(tries[best][0], options), scores, np.array([done for *_, done in tries]), best)


def _climb(rows: Floats, lengths: list[int], guess: Parameters, options: Options) -> tuple[Parameters, float, bool]:
    """EM from a first guess: parameters, log-likelihood, whether it stopped by itself."""
    model = _bounded_hmm()(
        n_components=guess.n_states, covariance_type=guess.kind, n_iter=MAX_ITERATIONS, tol=TOLERANCE,
        init_params="", covars_prior=0.0, covars_weight=1.0,
    )  # fmt: skip
    model.variance_floor = options.variance_floor
    model.startprob_, model.transmat_ = guess.start, guess.transition
    model.means_, model.n_features = guess.mean, rows.shape[1]
    model.covars_ = guess.covariance
    with quiet_hmmlearn():
        model.fit(rows, lengths)
    history = list(model.monitor_.history)
    return parameters_of(model), float(history[-1]), len(history) < 2 or history[-1] - history[-2] < TOLERANCE


def parameters_of(model: Any) -> Parameters:
    """The parameters of a fitted ``hmmlearn.hmm.GaussianHMM``."""
    full = np.asarray(model.covars_, dtype=np.float64)
    if model.covariance_type == "diag":
        covariance = np.array(np.diagonal(full, axis1=1, axis2=2))
    else:
        covariance = full[0] if model.covariance_type == "tied" else full
    start, transition = (np.asarray(p, dtype=np.float64) for p in (model.startprob_, model.transmat_))
    return Parameters(start, transition, np.asarray(model.means_, dtype=np.float64), covariance, model.covariance_type)


@contextmanager
def quiet_hmmlearn() -> Iterator[None]:
    """hmmlearn logs to the screen where EM falters, and k-means warns of equal rows: both are told in the result."""
    logger = logging.getLogger("hmmlearn")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")
            yield
    finally:
        logger.setLevel(before)


def _first_guess(rows: Floats, means: Floats, options: Options, rng: np.random.Generator | None) -> Parameters:
    """States that last (random transitions if there is an ``rng``), with the variances of all rows."""
    n_states = len(means)
    if rng is None:
        transition = 0.9 * np.eye(n_states) + 0.1 / n_states
    else:
        transition = rng.dirichlet(np.ones(n_states), size=n_states)
    if options.left_to_right:
        transition = np.triu(transition)
    transition /= transition.sum(axis=1, keepdims=True)
    variance = np.maximum(np.var(rows, axis=0), options.variance_floor)
    if options.covariance == "diag":
        covariance = np.tile(variance, (n_states, 1))
    else:
        full = np.diag(variance)
        covariance = full if options.covariance == "tied" else np.tile(full, (n_states, 1, 1))
    return Parameters(np.full(n_states, 1 / n_states), transition, means, covariance, options.covariance)


def _means_of_cuts(rows: Floats, place: Floats, n_states: int, rng: np.random.Generator | None) -> Floats:
    """Means of stretches of training, cut at equal or at random places (0 to 1) of it."""
    inner = np.arange(1, n_states) / n_states if rng is None else np.sort(rng.uniform(size=n_states - 1))
    stretch = np.searchsorted(inner, place)
    nearest = (np.concatenate([[0.0], inner]) + np.concatenate([inner, [1.0]])) / 2
    means = np.empty((n_states, rows.shape[1]))
    for k in range(n_states):
        inside = stretch == k
        means[k] = rows[inside].mean(axis=0) if inside.any() else rows[np.argmin(np.abs(place - nearest[k]))]
    return means


def _means_of_clusters(rows: Floats, n_states: int, rng: np.random.Generator) -> Floats:
    from sklearn.cluster import KMeans

    with quiet_hmmlearn():
        found = KMeans(n_states, n_init=1, random_state=int(rng.integers(2**31))).fit(rows)
    return np.asarray(found.cluster_centers_, dtype=np.float64)


def _with_floor(parameters: Parameters, options: Options) -> Parameters:
    """No start and no allowed transition with a probability of zero."""
    k = parameters.n_states
    allowed = np.triu(np.ones((k, k))) if options.left_to_right else np.ones((k, k))
    start = parameters.start + FLOOR_PROBABILITY
    transition = (parameters.transition + FLOOR_PROBABILITY) * allowed
    return replace(parameters, start=start / start.sum(), transition=transition / transition.sum(axis=1, keepdims=True))


def _bounded_hmm() -> Any:
    """hmmlearn's GaussianHMM with variances of at least ``variance_floor`` and states that may die out.

    The floor is applied to variances (diagonal) or to the eigenvalues of covariance matrices, which is the
    maximum of the likelihood under that bound, so that EM still climbs. A state without any row keeps the
    mean, covariance and transitions it had.
    """
    from hmmlearn import hmm

    gaussian: Any = hmm.GaussianHMM

    class BoundedHMM(gaussian):  # type: ignore[misc]
        variance_floor = 0.0
        means_: Any
        transmat_: Any
        _covars_: Any

        def _do_mstep(self, stats: dict[str, Any]) -> None:
            before = self.means_, self._covars_, self.transmat_
            with np.errstate(divide="ignore", invalid="ignore"):
                super()._do_mstep(stats)
            dead = stats["post"] < _NOBODY
            if dead.any():
                self.means_ = np.where(dead[:, None], before[0], self.means_)
                if self.covariance_type != "tied":
                    shape = (-1,) + (1,) * (before[1].ndim - 1)
                    self._covars_ = np.where(dead.reshape(shape), before[1], self._covars_)
            self._covars_ = _bounded(self._covars_, self.covariance_type, self.variance_floor)
            stuck = ~(self.transmat_.sum(axis=1) > 0.5)
            self.transmat_ = np.where(stuck[:, None], before[2], self.transmat_)

        def _compute_posteriors_log(self, forward: Floats, backward: Floats) -> Floats:
            # The same as hmmlearn's, without the general-purpose logsumexp that takes 40 % of a fit.
            return shares(forward + backward)

    return BoundedHMM


def _bounded(covariance: Floats, kind: Covariance, floor: float) -> Floats:
    """Covariances whose variances along every direction are at least ``floor``."""
    if kind == "diag":
        return np.maximum(covariance, floor)
    symmetric = (covariance + np.swapaxes(covariance, -1, -2)) / 2
    values, vectors = np.linalg.eigh(symmetric)
    bounded = np.einsum("...ij,...j,...kj->...ik", vectors, np.maximum(values, floor), vectors)
    return np.asarray((bounded + np.swapaxes(bounded, -1, -2)) / 2)


def first_visit_order(paths: Ints, n_states: int, means: Floats) -> Ints:
    """States in the order in which any run first gets to them; those that nobody visits last.

    Parameters
    ----------
    paths : (run, time) array of int
        -1 beyond a run's end.
    n_states : int
    means : (state, metric) array
        Decides between states reached at the same time by as many runs.
    """
    keys = []
    for k in range(n_states):
        here = paths == k
        visiting = here.any(axis=1)
        first = np.argmax(here, axis=1)[visiting]
        earliest = int(first.min()) if len(first) else paths.shape[1]
        late = float(np.mean(first)) if len(first) else 0.0
        keys.append((earliest, -int(visiting.sum()), late, *means[k].tolist(), k))
    return np.array([key[-1] for key in sorted(keys)], dtype=np.int64)
