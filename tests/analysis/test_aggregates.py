"""Aggregates over tasks: known answers, scipy as oracle, coverage, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import xarray as xr
from cubes_of_arrays import make_cube

from polystab.analysis.aggregates import aggregate_scores, improvement_probability, performance_profile
from polystab.analysis.aggregates.kernels import interquartile_mean
from polystab.errors import AnalysisError

Floats = npt.NDArray[np.float64]

ONE = [[1, 2], [3, 4], [5, 6]]
TWO = [[0, 3], [2, 5], [4, 6]]


def of(result: xr.Dataset, statistic: str, name: str = "estimate") -> xr.DataArray:
    return result[name].sel(statistic=statistic)


def test_interquartile_mean_of_ten_numbers() -> None:
    assert float(interquartile_mean(range(10))) == 4.5


@pytest.mark.parametrize("n", [1, 3, 4, 7, 50])
def test_interquartile_mean_is_the_trimmed_mean_of_scipy(n: int) -> None:
    values = np.random.default_rng(n).standard_normal((6, n))
    np.testing.assert_allclose(interquartile_mean(values), scipy.stats.trim_mean(values, 0.25, axis=1), rtol=1e-12)


def test_interquartile_mean_is_of_the_numbers_only() -> None:
    values = np.array([3.0, np.nan, 1.0, 2.0, 100.0, np.nan])
    assert float(interquartile_mean(values)) == 2.5
    assert np.isnan(interquartile_mean([np.nan]))


def test_optimality_gap_known_answer() -> None:
    found = aggregate_scores([[0.5, 1.2], [0.8, 0.9]], rng=0)
    assert of(found, "optimality_gap").item() == pytest.approx(0.2, abs=1e-12)


def test_probability_of_improvement_known_answer() -> None:
    found = improvement_probability(ONE, TWO, rng=0)
    assert found["estimate"].item() == pytest.approx(0.527778, abs=5e-7)


def test_probability_of_improvement_is_mann_whitney_u_over_the_pairs() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (7, 4)), rng.integers(0, 6, (5, 4))
    found = improvement_probability(x, y, rng=0)
    expected = [scipy.stats.mannwhitneyu(x[:, k], y[:, k]).statistic / 35 for k in range(4)]
    np.testing.assert_allclose(found["per_task"], expected, rtol=1e-12)
    assert found["estimate"].item() == pytest.approx(np.mean(expected))


def test_probabilities_of_both_ways_add_up_to_one() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (7, 4)), rng.integers(0, 6, (5, 4))
    one, two = improvement_probability(x, y, rng=0), improvement_probability(y, x, rng=0)
    assert float(one["estimate"] + two["estimate"]) == pytest.approx(1)


def test_median_is_of_the_means_of_tasks() -> None:
    values = np.random.default_rng(0).standard_normal((5, 7))
    found = aggregate_scores(values, rng=0)
    assert of(found, "median").item() == pytest.approx(np.median(values.mean(axis=0)))
    assert of(found, "mean").item() == pytest.approx(values.mean())


def test_profile_is_the_share_above() -> None:
    values = np.random.default_rng(0).random((6, 9))
    found = performance_profile(values, thresholds=[0.1, 0.5, 0.99], rng=0)
    np.testing.assert_allclose(found["share"], [(values > t).mean() for t in (0.1, 0.5, 0.99)])


def test_t_interval_of_the_mean_is_that_of_run_means() -> None:
    values = np.random.default_rng(0).standard_normal((6, 9))
    found = aggregate_scores(values, rng=0).sel(statistic="mean", interval="t")
    expected = scipy.stats.ttest_1samp(values.mean(axis=1), 0).confidence_interval()
    np.testing.assert_allclose([found["lower"], found["upper"]], expected, rtol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["percentile", "bca"])
def test_intervals_of_the_mean_agree_with_scipy(kind: str) -> None:
    values = np.random.default_rng(0).gamma(1.0, size=(9, 4))
    found = aggregate_scores(values, n_resamples=30_000, rng=0).sel(statistic="mean", interval=kind)
    expected = scipy.stats.bootstrap(
        (values.mean(axis=1),), np.mean, method=kind, n_resamples=30_000, rng=np.random.default_rng(1)
    )
    width = np.ptp(expected.confidence_interval)
    np.testing.assert_allclose(
        [found["lower"], found["upper"]], expected.confidence_interval, rtol=0, atol=0.03 * width
    )


@pytest.mark.slow
def test_drawing_within_tasks_has_the_variance_of_independent_tasks() -> None:
    values = np.random.default_rng(0).standard_normal((5, 30)) + np.arange(5)[:, None]
    found = aggregate_scores(values, resample="tasks", n_resamples=8000, rng=0).sel(statistic="mean")
    expected = np.sqrt(values.var(axis=0).sum() / 5) / 30
    assert found["stderr"].sel(interval="percentile").item() == pytest.approx(expected, rel=0.03)
    assert np.isnan(found["lower"].sel(interval="t"))


def coverage(n_seed: int, shared: float, n_resamples: int = 2, cells: int = 600, **options: Any) -> dict[str, float]:
    rng = np.random.default_rng(n_seed)
    values = (
        shared * rng.standard_normal((cells, n_seed, 1))
        + rng.standard_normal((cells, n_seed, 12))
        + np.linspace(-2, 2, 12)
    )
    scores = xr.DataArray(values, dims=("cell", "seed", "task"))
    found = aggregate_scores(scores, statistics=["iqm"], n_resamples=n_resamples, rng=rng, **options)
    inside = ((found["lower"] <= 0) & (found["upper"] >= 0)).squeeze().mean("cell")
    return {str(name): float(inside.sel(interval=name)) for name in inside["interval"].values}


@pytest.mark.parametrize("n_seed", [3, 5, 10])
@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_t_interval_covers(n_seed: int, shared: float) -> None:
    assert 0.92 <= coverage(n_seed, shared)["t"] <= 0.975


@pytest.mark.slow
def test_drawing_within_tasks_is_too_narrow_where_tasks_share_their_runs() -> None:
    whole, within = (coverage(10, 0.5, 200, 200, resample=kind)["percentile"] for kind in ("runs", "tasks"))
    assert within < 0.8 < whole


def test_a_cube_is_taken_at_its_final_steps() -> None:
    values = np.random.default_rng(0).random((2, 5, 3, 4))
    found = aggregate_scores(make_cube(values), rng=0)
    np.testing.assert_allclose(of(found, "mean"), values[:, :, -1].mean(axis=(1, 2)))
    assert found["n_runs"].values.tolist() == [5, 5]


def test_the_same_rng_gives_the_same_result() -> None:
    values = np.random.default_rng(0).random((5, 4))
    xr.testing.assert_identical(aggregate_scores(values, rng=1), aggregate_scores(values, rng=1))


@pytest.mark.parametrize("resample", ["runs", "tasks"])
def test_gaps_are_counted_and_never_drawn(resample: str) -> None:
    values = np.random.default_rng(0).random((6, 3))
    values[0, 1], values[5, 2], values[3] = np.nan, np.inf, np.nan
    found = aggregate_scores(values, resample=resample, rng=0)
    assert (int(found["n_runs"]), int(found["n_missing"])) == (5, 5)
    assert found["lower"].sel(interval=["percentile", "bca"]).notnull().all()
    known = np.where(np.isfinite(values), values, np.nan)
    assert of(found, "mean").item() == pytest.approx(np.nanmean(known))


def test_two_runs_have_no_interval() -> None:
    found = aggregate_scores([[0.5, 1.2], [0.8, 0.9]], rng=0)
    assert found["lower"].isnull().all()
    assert found["estimate"].notnull().all()


def test_constant_scores_have_an_interval_of_no_length() -> None:
    found = aggregate_scores(np.full((4, 3), 0.3), rng=0)
    np.testing.assert_allclose(found["upper"] - found["lower"], 0, atol=1e-15)


def test_tasks_are_joined_on_their_labels() -> None:
    x = xr.DataArray(ONE, dims=("seed", "task"), coords={"task": ["a", "b"]})
    y = xr.DataArray(np.array(TWO)[:, ::-1], dims=("seed", "task"), coords={"task": ["b", "a"]})
    assert improvement_probability(x, y, rng=0)["estimate"].item() == pytest.approx(0.527778, abs=5e-7)


@pytest.mark.parametrize(
    ("scores", "options", "message"),
    [
        (ONE, {"statistics": ["iqm2"]}, "Did you mean 'iqm'"),
        (ONE, {"statistics": []}, "no statistic"),
        (ONE, {"resample": "task"}, "Did you mean 'tasks'"),
        (ONE, {"level": 95}, "level is 95"),
        (ONE, {"n_resamples": 1}, "n_resamples is 1"),
        ([1.0, 2.0], {}, "1 dimensions"),
        (xr.DataArray(ONE, dims=("run", "task")), {}, "needs the dimensions 'seed'"),
        (xr.DataArray([["a"]], dims=("seed", "task")), {}, "not numbers"),
        (np.empty((0, 3)), {}, "empty"),
        (ONE, {"threshold": float("nan")}, "threshold is nan"),
        ([[1.0, 2.0], [3.0]], {}, "not an array of numbers"),
        (make_cube(np.ones((1, 3, 1, 1))).isel(metric=[]), {}, "no metrics"),
        (make_cube(np.ones((1, 3, 1, 1)), metrics=["loss/val/ce"], better=["lower"]), {}, "better lower"),
    ],
)
def test_what_cannot_be_aggregated_is_refused(scores: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        aggregate_scores(scores, rng=0, **options)


def test_different_tasks_are_refused() -> None:
    x, y = (xr.DataArray(ONE, dims=("seed", "task"), coords={"task": names}) for names in (["a", "b"], ["c", "d"]))
    with pytest.raises(AnalysisError, match="no task in common"):
        improvement_probability(x, y, rng=0)


def test_thresholds_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(AnalysisError, match="one row of finite numbers"):
        performance_profile(ONE, thresholds=[np.nan], rng=0)


def test_one_statistic_needs_no_list() -> None:
    assert aggregate_scores(ONE, statistics="iqm", rng=0)["statistic"].values.tolist() == ["iqm"]
