"""Kernels of hidden Markov models, held against hmmlearn and against counting every path."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from polystab.analysis.maps.fit import FLOOR_PROBABILITY, Options, first_visit_order, fit
from polystab.analysis.maps.kernels import Covariance, Parameters, decode, log_density, n_parameters, packed

KINDS: list[Covariance] = ["diag", "full", "tied"]


def random_model(kind: Covariance, k: int = 3, d: int = 2, seed: int = 0) -> Parameters:
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(k, d, d))
    full = np.einsum("kij,klj->kil", roots, roots) + 0.3 * np.eye(d)
    covariance = {"diag": np.diagonal(full, axis1=1, axis2=2).copy(), "full": full, "tied": full[0]}[kind]
    transition = rng.dirichlet(np.ones(k), size=k)
    return Parameters(rng.dirichlet(np.ones(k)), transition, rng.normal(size=(k, d)), covariance, kind)


def in_hmmlearn(model: Parameters) -> Any:
    from hmmlearn.hmm import GaussianHMM

    theirs = GaussianHMM(model.n_states, covariance_type=model.kind)
    theirs.startprob_, theirs.transmat_, theirs.means_ = model.start, model.transition, model.mean
    theirs.covars_ = model.covariance
    theirs.n_features = model.mean.shape[1]
    return theirs


def sequences(lengths: list[int], d: int = 2, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Random sequences, concatenated as hmmlearn wants them and padded as we do."""
    x = np.random.default_rng(seed).normal(size=(sum(lengths), d))
    padded = np.zeros((len(lengths), max(lengths), d))
    for row, part in zip(padded, np.split(x, np.cumsum(lengths)[:-1]), strict=True):
        row[: len(part)] = part
    return x, padded


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_paths_and_posteriors_are_hmmlearns(kind: Covariance) -> None:
    lengths = [7, 1, 12, 4]
    x, padded = sequences(lengths)
    model = random_model(kind)
    theirs, ours = in_hmmlearn(model), decode(padded, np.array(lengths), model)
    inside = np.arange(12) < np.array(lengths)[:, None]
    np.testing.assert_array_equal(ours.viterbi[inside], theirs.predict(x, lengths))
    np.testing.assert_allclose(ours.smoothed[inside], theirs.predict_proba(x, lengths), atol=1e-12)
    np.testing.assert_allclose(ours.log_likelihood.sum(), theirs.score(x, lengths), rtol=1e-12)
    assert (ours.viterbi[~inside] == -1).all()
    assert np.isnan(ours.smoothed[~inside]).all()


def test_likelihood_is_the_sum_over_all_paths_and_viterbi_the_best_of_them() -> None:
    model = random_model("full", k=3)
    _, padded = sequences([5])
    density = log_density(padded[0], model)
    paths = list(itertools.product(range(3), repeat=5))
    scores = np.array([
        np.log(model.start[p[0]])
        + sum(np.log(model.transition[a, b]) for a, b in itertools.pairwise(p))
        + sum(density[t, s] for t, s in enumerate(p))
        for p in paths
    ])  # fmt: skip
    ours = decode(padded, np.array([5]), model)
    np.testing.assert_allclose(ours.log_likelihood[0], np.logaddexp.reduce(scores), rtol=1e-12)
    assert tuple(ours.viterbi[0].tolist()) == paths[int(np.argmax(scores))]


def test_filtered_probabilities_are_the_smoothed_ones_of_the_prefix() -> None:
    model = random_model("diag")
    _, padded = sequences([9])
    whole = decode(padded, np.array([9]), model)
    for t in range(1, 10):
        part = decode(padded[:, :t], np.array([t]), model)
        np.testing.assert_allclose(whole.filtered[0, t - 1], part.smoothed[0, -1], rtol=1e-12)


def test_impossible_transitions_stay_impossible() -> None:
    model = Parameters(
        np.array([1.0, 0.0]), np.array([[0.5, 0.5], [0.0, 1.0]]), np.array([[0.0], [1.0]]), np.ones((2, 1)), "diag"
    )
    ours = decode(np.array([[[1.0], [0.0], [1.0], [0.0]]]), np.array([4]), model)
    assert (np.diff(ours.viterbi[0]) >= 0).all()
    assert ours.smoothed[0, 0].tolist() == [1.0, 0.0]


def test_densities_far_out_stay_finite() -> None:
    ours = decode(np.full((1, 3, 2), 1e6), np.array([3]), random_model("diag"))
    assert np.isfinite(ours.log_likelihood).all()
    np.testing.assert_allclose(ours.smoothed.sum(axis=2), 1.0)


def test_no_runs_and_empty_runs_decode_to_nothing() -> None:
    model = random_model("diag")
    assert decode(np.zeros((0, 0, 2)), np.zeros(0, dtype=np.int64), model).viterbi.shape == (0, 0)
    assert decode(np.zeros((2, 0, 2)), np.zeros(2, dtype=np.int64), model).log_likelihood.tolist() == [0.0, 0.0]
    mixed = decode(np.zeros((2, 3, 2)), np.array([3, 0]), model)
    assert mixed.viterbi[1].tolist() == [-1, -1, -1]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("k", "d"), [(1, 1), (3, 2), (5, 14)])
def test_parameter_counts_are_hmmlearns(kind: Covariance, k: int, d: int) -> None:
    theirs = in_hmmlearn(random_model(kind, k=k, d=d))
    assert n_parameters(k, d, kind) == sum(theirs._get_n_fit_scalars_per_param().values())


def test_packing_moves_measured_checkpoints_to_the_front() -> None:
    values = np.arange(12.0).reshape(2, 6, 1)
    used = np.array([[0, 1, 0, 1, 1, 0], [1, 0, 0, 0, 0, 0]], dtype=bool)
    x, lengths, place = packed(values, used)
    assert lengths.tolist() == [3, 1]
    assert x[0, :, 0].tolist() == [1.0, 3.0, 4.0]
    assert x[1, 0, 0] == 6.0
    assert place.tolist() == [[1, 3, 4], [0, -1, -1]]


def two_levels(n_runs: int = 4, n: int = 40, d: int = 2, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.where(np.arange(n)[:, None] < n // 2, 0.0, 5.0) + rng.normal(size=(n, d)) for _ in range(n_runs)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_without_an_active_floor_the_fit_is_hmmlearns_optimum(kind: Covariance) -> None:
    from hmmlearn.hmm import GaussianHMM

    data = two_levels()
    ours = fit(data, 2, Options(covariance=kind, n_restarts=2))
    theirs = GaussianHMM(2, covariance_type=kind, covars_prior=0.0, n_iter=200, tol=1e-8, random_state=0)
    theirs.fit(np.concatenate(data), [len(x) for x in data])
    assert ours.converged.all()
    np.testing.assert_allclose(
        ours.log_likelihoods[ours.best], theirs.score(np.concatenate(data), [len(x) for x in data]), atol=1e-3
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_direction_has_less_variance_than_the_floor(kind: Covariance) -> None:
    data = [np.repeat([[0.0, 0.0], [1.0, 1.0]], 20, axis=0) for _ in range(3)]
    found = fit(data, 2, Options(covariance=kind, n_restarts=1, variance_floor=0.01)).parameters
    if kind == "diag":
        np.testing.assert_allclose(found.covariance, 0.01)
    else:
        np.testing.assert_allclose(np.linalg.eigvalsh(found.covariance), 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_states_that_find_no_row_do_not_break_the_fit(kind: Covariance) -> None:
    data = [np.zeros((5, 2)), np.ones((5, 2))]
    found = fit(data, 4, Options(covariance=kind, n_restarts=3))
    assert np.isfinite(found.parameters.mean).all()
    assert np.isfinite(found.log_likelihoods).all()


@pytest.mark.slow
def test_the_order_of_runs_changes_no_bit() -> None:
    data = two_levels()
    one, other = (fit(runs, 3, Options(n_restarts=3)).parameters for runs in (data, data[::-1]))
    assert one.mean.tobytes() == other.mean.tobytes()
    assert one.transition.tobytes() == other.transition.tobytes()


@pytest.mark.slow
def test_left_to_right_never_goes_back() -> None:
    cycle = [np.tile(np.repeat([[0.0], [4.0]], 10, axis=0), (3, 1)) for _ in range(3)]
    noise = np.random.default_rng(0)
    found = fit([x + 0.3 * noise.normal(size=x.shape) for x in cycle], 4, Options(left_to_right=True)).parameters
    assert (np.tril(found.transition, -1) == 0).all()


def test_every_start_and_transition_stays_possible() -> None:
    found = fit(two_levels(), 2, Options(n_restarts=1)).parameters
    assert found.transition.min() > FLOOR_PROBABILITY / 2
    np.testing.assert_allclose(found.transition.sum(axis=1), 1.0)
    np.testing.assert_allclose(found.start.sum(), 1.0)


def test_states_are_ordered_by_first_visit_and_unvisited_ones_last() -> None:
    paths = np.array([[2, 2, 0, 0], [2, 3, 3, -1]])
    assert first_visit_order(paths, 4, np.zeros((4, 1))).tolist() == [2, 3, 0, 1]


@pytest.mark.slow
def test_more_restarts_never_end_lower() -> None:
    rng = np.random.default_rng(3)
    data = [rng.normal(size=(30, 2)).cumsum(axis=0) for _ in range(3)]
    scores = [np.max(fit(data, 4, Options(n_restarts=n)).log_likelihoods) for n in (1, 3, 6)]
    assert scores == sorted(scores)
