"""Variance over the seeds of each model: numpy and scipy as oracles, calibration, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from cubes_of_arrays import make_cube

from polystab.analysis import seed_spread, seed_variances
from polystab.errors import AnalysisError


def test_variances_and_intervals_are_the_squares_of_seed_spread() -> None:
    cube = make_cube(np.random.default_rng(0).standard_normal((3, 6, 1, 4)))
    found, spread = seed_variances(cube).isel(step=0), seed_spread(cube)
    for name, square in (("variance", "sd"), ("lower", "sd_lower"), ("upper", "sd_upper")):
        np.testing.assert_allclose(found[name], spread[square] ** 2, rtol=1e-12)


def test_p_is_the_f_test_of_the_distances_without_the_smallest() -> None:
    values = np.random.default_rng(1).standard_normal((3, 7, 1, 1))
    values[1, 5:] = np.nan
    groups = [row[~np.isnan(row)] for row in values[:, :, 0, 0]]
    distances = [np.sort(np.abs(row - np.median(row)))[1:] for row in groups]
    expected = scipy.stats.f_oneway(*distances).pvalue
    assert seed_variances(make_cube(values))["p"].item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("n_seed", [3, 4, 5, 10])
@pytest.mark.parametrize("tail", [4.0, 1e6])
def test_equal_variances_are_rejected_at_most_at_the_stated_rate(n_seed: int, tail: float) -> None:
    values = np.random.default_rng(2).standard_t(tail, (3, n_seed, 1, 4000))
    assert 0.015 <= np.mean(seed_variances(make_cube(values))["p"].values < 0.05) <= 0.06


def test_a_model_that_spreads_much_more_is_found() -> None:
    values = np.random.default_rng(3).standard_normal((3, 10, 1, 500)) * np.array([1, 1, 6])[:, None, None, None]
    assert np.mean(seed_variances(make_cube(values))["p"].values < 0.05) > 0.9


def test_the_interval_covers() -> None:
    found = seed_variances(make_cube(np.random.default_rng(4).standard_normal((1, 5, 1, 4000))))
    assert 0.93 <= np.mean((found["lower"] <= 1) & (found["upper"] >= 1)) <= 0.97


@pytest.mark.parametrize(("n_seed", "known"), [(1, False), (2, True)])
def test_fewer_than_three_seeds_have_no_interval(n_seed: int, known: bool) -> None:
    found = seed_variances(make_cube(np.random.default_rng(5).standard_normal((2, n_seed, 1, 1))))
    assert bool(found["variance"].notnull().all()) is known
    assert np.isnan(found["upper"].values).all()


def test_one_model_is_compared_with_none() -> None:
    found = seed_variances(make_cube(np.random.default_rng(6).standard_normal((1, 5, 1, 1))))
    assert np.isnan(found["p"].values).all()


def test_constant_metrics_have_zero_variance_and_no_test() -> None:
    found = seed_variances(make_cube(np.full((3, 5, 1, 1), 0.1)))
    assert (found["variance"].values == 0).all()
    assert np.isnan(found["p"].values).all()


def test_infinite_values_are_not_measured() -> None:
    values = np.random.default_rng(7).standard_normal((2, 5, 1, 1))
    values[0, 0] = np.inf
    assert seed_variances(make_cube(values))["n_seeds"].values.ravel().tolist() == [4, 5]


def test_a_level_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(AnalysisError, match="level"):
        seed_variances(make_cube(np.zeros((1, 3, 1, 1))), level=95)
