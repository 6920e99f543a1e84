"""Kernels of segmentation: costs against least squares, searches against brute force and ruptures."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest

from polystab.analysis.segments.continuous import best_gains, best_knots, knots_cost
from polystab.analysis.segments.costs import level_costs, line_costs
from polystab.analysis.segments.search import best_costs, best_for_penalty, traced

STEPS = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 3000, 13000, 23000, 33000, 43000, 53000], dtype=float)


def steps_and_noise(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=n) + np.repeat([0.0, 3.0, -1.0, 2.0], n // 4)


def gls_residual(y: np.ndarray, basis: np.ndarray, rho: float) -> float:
    """Generalised least squares by the full covariance matrix: (1 - rho^2) y' P y."""
    lag = np.abs(np.subtract.outer(np.arange(len(y)), np.arange(len(y))))
    root = np.linalg.cholesky(np.linalg.inv(rho**lag / (1 - rho**2))).T
    fit = np.linalg.lstsq(root @ basis, root @ y, rcond=None)[0]
    return float(np.sum((root @ (y - basis @ fit)) ** 2))


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.97])
@pytest.mark.parametrize("line", [False, True])
def test_cost_of_a_stretch_is_that_of_generalised_least_squares(rho: float, line: bool) -> None:
    y = np.random.default_rng(1).normal(size=(len(STEPS), 2))
    costs = line_costs(y[None], STEPS, np.array([rho])) if line else level_costs(y[None], np.array([rho]))
    for start, end in ((0, 18), (0, 5), (3, 9), (11, 18)):
        basis = np.vander(STEPS[start:end] / STEPS[end - 1], 2) if line else np.ones((end - start, 1))
        wanted = sum(gls_residual(y[start:end, c], basis, rho) for c in range(2))
        assert costs.between(np.array([start]), np.array([end]))[0, 0] == pytest.approx(wanted, rel=1e-7)


def test_costs_of_stretches_with_one_end_are_those_of_any_stretches() -> None:
    y = np.random.default_rng(2).normal(size=(3, 20, 2))
    costs = level_costs(y, np.array([0.0, 0.4, 0.8]), own_variance=True)
    starts = np.arange(4, 11)
    np.testing.assert_allclose(costs.ending(15, 4, 11), costs.between(starts, np.full(7, 15)), rtol=1e-12)


@pytest.mark.parametrize("min_size", [1, 3])
def test_paths_are_those_of_ruptures_dynp(min_size: int) -> None:
    rpt = pytest.importorskip("ruptures")
    y = steps_and_noise(40)
    cost, starts = best_costs(level_costs(y[None, :, None], np.zeros(1)), 5, min_size)
    peer = rpt.Dynp(model="l2", jump=1, min_size=min_size).fit(y)
    for k in range(1, 6):
        found = peer.predict(k)
        assert traced(starts, 0, k).tolist() == found[:-1]
        assert cost[0, k] == pytest.approx(peer.cost.sum_of_costs(found), rel=1e-12)


@pytest.mark.parametrize("penalty", [0.5, 3.0, 30.0])
def test_penalised_segmentation_is_that_of_ruptures_pelt(penalty: float) -> None:
    rpt = pytest.importorskip("ruptures")
    y = steps_and_noise(60, seed=3)
    peer = rpt.Pelt(model="l2", jump=1, min_size=1).fit(y).predict(penalty)
    assert best_for_penalty(level_costs(y[None, :, None], np.zeros(1)), penalty, 1).tolist() == peer[:-1]


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_longer_segments_never_cost_more_than_those_of_ruptures_pelt(seed: int) -> None:
    # ruptures prunes a start at once although its rival must wait for min_size points, and so misses the optimum at seed 3.
    rpt = pytest.importorskip("ruptures")
    y = steps_and_noise(60, seed=seed)
    peer = rpt.Pelt(model="l2", jump=1, min_size=3).fit(y)
    theirs = peer.predict(0.5)
    ours = best_for_penalty(level_costs(y[None, :, None], np.zeros(1)), 0.5, 3).tolist()
    cost = [peer.cost.sum_of_costs(b) + 0.5 * len(b) for b in ([*ours, 60], theirs)]
    assert cost[0] <= cost[1] + 1e-9


@pytest.mark.parametrize("kind", ["l2", "meanvar", "linear"])
def test_pruning_loses_nothing_against_the_path(kind: str) -> None:
    y = steps_and_noise(80, seed=4)[None, :, None]
    costs = (
        line_costs(y, np.arange(80.0), np.zeros(1))
        if kind == "linear"
        else level_costs(y, np.zeros(1), own_variance=kind == "meanvar")
    )
    cost, starts = best_costs(costs, 15, 5)
    for penalty in (2.0, 8.0, 25.0):
        best = int(np.argmin(cost[0] + penalty * np.arange(16)))
        assert best_for_penalty(costs, penalty, 5).tolist() == traced(starts, 0, best).tolist()


def test_each_series_of_a_batch_is_segmented_as_if_alone() -> None:
    y = np.stack([steps_and_noise(40, seed) for seed in range(4)])[:, :, None]
    rho = np.array([0.0, 0.3, 0.6, 0.9])
    together, starts = best_costs(level_costs(y, rho), 4, 3)
    for i in range(4):
        alone, begins = best_costs(level_costs(y[i : i + 1], rho[i : i + 1]), 4, 3)
        np.testing.assert_allclose(together[i], alone[0], rtol=1e-12)
        assert traced(starts, i, 3).tolist() == traced(begins, 0, 3).tolist()


@pytest.mark.parametrize(("rho", "min_size"), [(0.0, 2), (0.5, 3), (0.9, 3)])
def test_knots_are_the_best_of_all_sets_of_knots(rho: float, min_size: int) -> None:
    x = STEPS / STEPS[-1]
    n = len(x)
    y = np.random.default_rng(int(10 * rho)).normal(size=n)
    cost, knots = best_knots(y, x, rho, 3, min_size)
    for k in (1, 2, 3):
        sets = [
            s for s in combinations(range(min_size, n - min_size + 1), k)
            if all(b - a >= min_size for a, b in pairwise(s))
        ]  # fmt: skip
        costs = [knots_cost(y, x, rho, np.array(s))[0] for s in sets]
        assert tuple(knots[k]) == sets[int(np.argmin(costs))]
        assert cost[k] == pytest.approx(min(costs), rel=1e-9)


def test_gains_of_one_and_two_knots_are_those_of_the_exact_search() -> None:
    x = np.log2(STEPS + 1)
    y = np.random.default_rng(5).normal(size=(3, len(x)))
    found = best_gains(y, x, 0.6, 3)
    for row, series in zip(found, y, strict=True):
        np.testing.assert_allclose(row, best_knots(series, x, 0.6, 2, 3)[0], rtol=1e-9)
