"""Spread over seeds: known truth, algebra, scipy as oracle, coverage of the intervals."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from cubes_of_arrays import make_cube
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from polystab.analysis import c4, rank_metrics, sd_factors, seed_spread, spread_overview
from polystab.analysis.arrays import moments, rms
from polystab.errors import AnalysisError


@pytest.mark.parametrize(("n", "value"), [(2, 0.797885), (3, 0.886227), (5, 0.939986), (10, 0.972659), (25, 0.989640)])
def test_c4_has_the_values_of_the_tables(n: int, value: float) -> None:
    # NIST/SEMATECH e-Handbook 6.3.2.1 and any table of control chart constants.
    assert float(c4(n)) == pytest.approx(value, abs=1e-6)


def test_c4_of_fewer_than_two_values_is_unknown() -> None:
    assert np.isnan(c4([0, 1])).all()


def test_a_ten_seed_sd_is_known_to_the_stated_factor() -> None:
    low, high = sd_factors(10)
    assert (round(float(low), 2), round(float(high), 2)) == (0.69, 1.83)


@pytest.mark.parametrize("level", [0.5, 0.95, 0.999])
def test_factors_agree_with_scipy_chi_square(level: float) -> None:
    n = np.array([3, 4, 10, 75, 1000])
    low, high = sd_factors(n, level=level)
    expected_low = np.sqrt((n - 1) / scipy.stats.chi2.ppf(0.5 + level / 2, n - 1))
    expected_high = np.sqrt((n - 1) / scipy.stats.chi2.ppf(0.5 - level / 2, n - 1))
    np.testing.assert_allclose(low, expected_low, rtol=1e-10)
    np.testing.assert_allclose(high, expected_high, rtol=1e-10)


def test_statistics_agree_with_numpy_and_scipy_run_by_run() -> None:
    value = np.random.default_rng(0).normal(size=(2, 7, 3, 4))
    value[0, 5:, -1, 2] = np.nan
    spread = seed_spread(make_cube(value), step=2000, level=0.9)
    for m in range(2):
        for k in range(4):
            runs = value[m, :, -1, k]
            runs = runs[~np.isnan(runs)]
            got = {name: float(spread[name][m, k]) for name in spread.data_vars}
            n, sd = len(runs), runs.std(ddof=1)
            t = scipy.stats.t.interval(0.9, n - 1, runs.mean(), sd / np.sqrt(n))
            chi = scipy.stats.chi2.ppf([0.95, 0.05], n - 1)
            assert got["n_seeds"] == got["n_runs"] == n
            assert got["mean"] == pytest.approx(runs.mean())
            assert got["median"] == pytest.approx(np.median(runs))
            assert (got["minimum"], got["maximum"]) == (runs.min(), runs.max())
            assert got["sd"] == pytest.approx(sd)
            assert (got["mean_lower"], got["mean_upper"]) == pytest.approx(t)
            assert (got["sd_lower"], got["sd_upper"]) == pytest.approx(tuple(sd * np.sqrt((n - 1) / chi)))


def test_permuting_seeds_changes_nothing() -> None:
    value = np.random.default_rng(1).normal(size=(2, 8, 4, 3))
    order = np.random.default_rng(2).permutation(8)
    xr.testing.assert_allclose(seed_spread(make_cube(value)), seed_spread(make_cube(value[:, order])), rtol=1e-12)


def test_scaling_by_c_scales_every_spread_by_c() -> None:
    value = np.random.default_rng(3).normal(size=(1, 6, 2, 2))
    one, seven = seed_spread(make_cube(value)), seed_spread(make_cube(7 * value))
    for name in ("mean", "sd", "sd_c4", "sd_lower", "sd_upper"):
        np.testing.assert_allclose(seven[name], 7 * one[name], rtol=1e-12)
    np.testing.assert_allclose(seven["factor_lower"], one["factor_lower"])


def test_a_duplicated_seed_counts_once() -> None:
    value = np.random.default_rng(4).normal(size=(1, 5, 9, 2))
    twice = np.concatenate([value, value[:, 2:3]], axis=1)
    single, double = seed_spread(make_cube(value)), seed_spread(make_cube(twice))
    np.testing.assert_allclose(double["sd"], single["sd"])
    assert double["n_duplicates"].values.tolist() == [[1, 1]]
    assert double["n_runs"].values.tolist() == [[6, 6]]


def test_one_run_has_no_sd_and_two_runs_have_no_interval() -> None:
    one = seed_spread(make_cube(np.ones((1, 1, 1, 1)))).squeeze()
    two = seed_spread(make_cube(np.array([1.0, 3.0]).reshape(1, 2, 1, 1))).squeeze()
    assert np.isnan(one["sd"])
    assert np.isnan(one["mean_lower"])
    assert float(two["sd"]) == pytest.approx(np.sqrt(2))
    for name in ("sd_lower", "sd_upper", "mean_lower", "mean_upper", "factor_lower"):
        assert np.isnan(two[name]), name


def test_equal_runs_have_a_spread_of_exactly_zero() -> None:
    spread = seed_spread(make_cube(np.full((1, 3, 1, 1), 0.1))).squeeze()
    assert [float(spread[name]) for name in ("sd", "sd_c4", "sd_lower", "sd_upper")] == [0, 0, 0, 0]


def test_diverged_runs_are_counted_and_left_out() -> None:
    spread = seed_spread(make_cube(np.array([1, 2, 3, np.inf, -np.inf, np.nan]).reshape(1, 6, 1, 1))).squeeze()
    assert (int(spread["n_runs"]), int(spread["n_seeds"]), int(spread["n_nonfinite"])) == (5, 3, 2)
    assert (float(spread["mean"]), float(spread["sd"])) == (2, 1)


def test_huge_values_do_not_overflow() -> None:
    spread = seed_spread(make_cube(np.array([1e300, 3e300, 2e300]).reshape(1, 3, 1, 1))).squeeze()
    assert float(spread["sd"]) == pytest.approx(1e300)


def test_a_metric_never_measured_has_no_step_and_no_numbers() -> None:
    value = np.ones((1, 3, 2, 2))
    value[..., 1] = np.nan
    spread = seed_spread(make_cube(value)).isel(model=0, metric=1)
    assert (int(spread["step"]), int(spread["n_runs"]), int(spread["n_seeds"])) == (-1, 0, 0)
    assert np.isnan(spread["mean"])


def test_item_stderr_is_the_root_mean_square_over_the_runs_that_count() -> None:
    value = np.array([0.1, 0.2, 0.3, np.inf]).reshape(1, 4, 1, 1)
    stderr = np.array([0.03, 0.04, np.nan, 9.0]).reshape(1, 4, 1, 1)
    spread = seed_spread(make_cube(value, stderr=stderr)).squeeze()
    expected = np.sqrt((0.03**2 + 0.04**2) / 2)
    assert float(spread["item_stderr"]) == pytest.approx(expected)
    assert float(spread["sd_over_stderr"]) == pytest.approx(0.1 / float(c4(3)) / expected)


def test_without_stderr_the_item_error_is_unknown() -> None:
    assert np.isnan(seed_spread(make_cube(np.ones((1, 3, 1, 1))))["item_stderr"]).all()


def test_a_step_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(AnalysisError, match=r"step 1500 is not in the cube; the nearest are 0, 1000, 2000\."):
        seed_spread(make_cube(np.ones((1, 1, 3, 1))), step=1500)


@pytest.mark.parametrize("level", [0, 1, 95])
def test_a_level_outside_zero_to_one_is_refused(level: float) -> None:
    with pytest.raises(AnalysisError, match="confidence level"):
        seed_spread(make_cube(np.ones((1, 1, 1, 1))), level=level)


def test_a_tree_gives_what_its_cube_gives() -> None:
    cube = make_cube(np.random.default_rng(5).normal(size=(1, 4, 2, 2)))
    xr.testing.assert_identical(seed_spread(xr.DataTree(cube)), seed_spread(cube))


def test_the_input_is_left_as_it_was() -> None:
    cube = make_cube(np.array([1, 2, np.inf, 1, 2, 3.0]).reshape(1, 3, 2, 1))
    before = cube.copy(deep=True)
    seed_spread(cube)
    xr.testing.assert_identical(cube, before)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
def test_chi_square_interval_covers_95_percent_and_c4_removes_the_bias(n: int) -> None:
    value = np.random.default_rng(n).normal(scale=2.0, size=(1, n, 1, 20_000))
    spread = seed_spread(make_cube(value))
    covered = float(((spread["sd_lower"] <= 2) & (spread["sd_upper"] >= 2)).mean())
    mean_covered = float(((spread["mean_lower"] <= 0) & (spread["mean_upper"] >= 0)).mean())
    assert 0.94 <= covered <= 0.96
    assert 0.94 <= mean_covered <= 0.96
    assert float(spread["sd_c4"].mean()) == pytest.approx(2.0, rel=0.01)


def test_overview_takes_the_median_over_metrics_with_enough_runs() -> None:
    rng = np.random.default_rng(6)
    value = rng.normal(size=(2, 4, 3, 5))
    value[1, 1:] = np.nan
    cube = make_cube(value, stderr=np.full(value.shape, 0.5))
    spread = seed_spread(cube)
    moved = rank_metrics(cube)["movement"]
    overview = spread_overview(spread, movement=moved)
    assert overview["n_seeds"].values.tolist() == [4, 1]
    assert overview["n_with_sd"].values.tolist() == [5, 0]
    assert float(overview["sd_over_stderr"][0]) == pytest.approx(float(spread["sd_over_stderr"][0].median()))
    assert float(overview["sd_over_movement"][0]) == pytest.approx(float((spread["sd_c4"] / moved)[0].median()))
    assert np.isnan(overview["sd_over_stderr"][1])


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(arrays(np.float64, st.tuples(st.integers(1, 6), st.integers(1, 4)), elements=st.floats(-1e6, 1e6)))
def test_moments_agree_with_numpy(values: np.ndarray) -> None:
    mean, sd, n = moments(values, axis=0)
    np.testing.assert_allclose(mean, values.mean(axis=0), rtol=1e-9, atol=1e-9)
    assert (n == len(values)).all()
    if len(values) > 1:
        np.testing.assert_allclose(sd, values.std(axis=0, ddof=1), rtol=1e-6, atol=1e-9)


def test_rms_ignores_what_is_not_a_number() -> None:
    assert float(rms(np.array([3.0, 4.0, np.nan, np.inf]), axis=0)) == pytest.approx(np.sqrt(12.5))
    assert np.isnan(rms(np.array([np.nan]), axis=0))
