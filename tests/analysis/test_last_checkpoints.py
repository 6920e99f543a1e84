"""Scatter of runs over their last checkpoints: numpy as oracle, known truth, calibration, bad input."""

from __future__ import annotations

import numpy as np
import pytest
from cubes_of_arrays import make_cube

import polystab as ps
from polystab.analysis.components.last_checkpoints import checkpoint_noise
from polystab.errors import AnalysisError


def series(rng: np.random.Generator, shape: tuple[int, ...], rho: float = 0.0) -> np.ndarray:  # type: ignore[type-arg]
    values = rng.standard_normal(shape)
    for t in range(1, shape[2]):
        values[:, :, t] = rho * values[:, :, t - 1] + np.sqrt(1 - rho**2) * values[:, :, t]
    return values


def test_spreads_are_those_of_numpy() -> None:
    values = series(np.random.default_rng(0), (2, 3, 15, 4))
    found = checkpoint_noise(make_cube(values), last=10)
    late = values[:, :, -10:]
    np.testing.assert_allclose(found["mean"], late.mean(axis=2))
    np.testing.assert_allclose(found["sd"], late.std(axis=2, ddof=1))
    flat = np.moveaxis(late, 2, 0).reshape(10, -1)
    rest = (
        flat
        - np.polynomial.polynomial.polyval(np.arange(10), np.polynomial.polynomial.polyfit(np.arange(10), flat, 1)).T
    )
    np.testing.assert_allclose(found["sd_detrended"].values.ravel(), np.sqrt(np.sum(rest**2, axis=0) / 8))
    assert set(found["first_step"].values.ravel()) == {5000}
    assert set(found["last_step"].values.ravel()) == {14000}


def test_a_straight_line_is_trend_and_no_noise() -> None:
    values = np.arange(12.0)[None, None, :, None] * np.array([0.1, -3.7, 1e9]) + 7.3
    found = checkpoint_noise(make_cube(values))
    assert (found["sd_detrended"].values == 0).all()
    assert (found["upper"].values == 0).all()
    assert (found["sd"].values > 0).all()
    assert np.isnan(found["autocorrelation"].values).all()


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6])
def test_the_correlation_is_recovered_from_the_runs_of_a_model(rho: float) -> None:
    found = checkpoint_noise(make_cube(series(np.random.default_rng(1), (1, 200, 10, 20), rho)))
    assert found["autocorrelation_model"].mean().item() == pytest.approx(rho, abs=0.04)


def test_the_interval_covers() -> None:
    found = checkpoint_noise(make_cube(series(np.random.default_rng(2), (1, 10, 10, 500))))
    assert 0.93 <= np.mean((found["lower"] <= 1) & (found["upper"] >= 1)) <= 0.97


def test_the_interval_of_correlated_noise_covers_the_spread_in_such_windows() -> None:
    values = series(np.random.default_rng(3), (1, 10, 10, 800), 0.6)
    found = checkpoint_noise(make_cube(values))
    expected = np.sqrt((found["sd_detrended"] ** 2).mean()).item()
    assert 0.93 <= np.mean((found["lower"] <= expected) & (found["upper"] >= expected)) <= 0.97
    assert (found["df"] < 8).mean() > 0.95


def test_each_run_has_its_own_last_checkpoints() -> None:
    values = series(np.random.default_rng(4), (1, 3, 12, 1))
    values[0, 1, 7:] = np.nan
    values[0, 2, ::2] = np.nan
    found = checkpoint_noise(make_cube(values), last=5).isel(model=0, metric=0)
    assert found["first_step"].values.tolist() == [7000, 2000, 3000]
    assert found["last_step"].values.tolist() == [11000, 6000, 11000]
    np.testing.assert_allclose(found["sd"].values[1], values[0, 1, 2:7, 0].std(ddof=1))


def test_scaling_and_shifting() -> None:
    cube = make_cube(series(np.random.default_rng(5), (2, 3, 12, 2), 0.4))
    plain, moved = checkpoint_noise(cube), checkpoint_noise(cube.assign(value=-4 * cube["value"] + 1024))
    for name in ("sd", "sd_detrended", "lower", "upper"):
        np.testing.assert_allclose(moved[name], 4 * plain[name], rtol=1e-8)
    for name in ("df", "autocorrelation", "autocorrelation_model"):
        np.testing.assert_allclose(moved[name], plain[name], rtol=1e-6)


@pytest.mark.parametrize(("n", "known"), [(1, ()), (2, ("sd",)), (3, ("sd", "sd_detrended")), (4, ("sd", "lower"))])
def test_short_runs_have_what_they_allow(n: int, known: tuple[str, ...]) -> None:
    found = checkpoint_noise(make_cube(series(np.random.default_rng(6), (2, 3, n, 1))))
    assert (found["n"].values == n).all()
    for name in ("sd", "sd_detrended", "lower", "upper"):
        expected = name in known or (n == 4)
        assert bool(found[name].notnull().all()) is expected
        assert bool(found[name].notnull().any()) is expected


def test_copies_and_unmeasured_runs_have_no_numbers() -> None:
    values = series(np.random.default_rng(7), (1, 4, 12, 2))
    values[0, 1], values[0, 2] = values[0, 0], np.nan
    found = checkpoint_noise(make_cube(values)).isel(model=0)
    assert found["n"].values[:, 0].tolist() == [10, 0, 0, 10]
    assert found["last_step"].values[:, 0].tolist() == [11000, -1, -1, 11000]
    assert np.isnan(found["sd"].values[1:3]).all()


def test_infinite_values_are_not_measured() -> None:
    values = series(np.random.default_rng(8), (1, 2, 12, 1))
    values[0, 0, -2:] = np.inf
    found = checkpoint_noise(make_cube(values), last=4)
    np.testing.assert_allclose(found["sd"].values[0, 0], values[0, 0, 6:10].std(axis=0, ddof=1))


def test_huge_and_tiny_values_neither_overflow_nor_vanish() -> None:
    cube = make_cube(series(np.random.default_rng(9), (1, 3, 12, 1)))
    plain = checkpoint_noise(cube)
    for power in (-900, 900):
        moved = checkpoint_noise(cube.assign(value=np.ldexp(cube["value"], power)))
        np.testing.assert_allclose(moved["sd_detrended"], np.ldexp(plain["sd_detrended"], power))


@pytest.mark.slow
def test_nano_has_noise() -> None:
    assert checkpoint_noise(ps.select(ps.load_cube("nano"), family="eval"))["sd"].notnull().all()


def test_a_cube_without_metrics_has_an_empty_answer() -> None:
    cube = make_cube(np.zeros((1, 2, 5, 1))).isel(metric=[])
    assert checkpoint_noise(cube)["sd"].shape == (1, 2, 0)


@pytest.mark.parametrize("last", [1, 0, -3, 2.5, True, "10"])
def test_a_number_of_checkpoints_that_is_none_is_refused(last: object) -> None:
    with pytest.raises(AnalysisError, match="last"):
        checkpoint_noise(make_cube(np.zeros((1, 2, 5, 1))), last=last)  # type: ignore[arg-type]


def test_a_cube_without_steps_is_refused() -> None:
    with pytest.raises(AnalysisError, match="no steps"):
        checkpoint_noise(make_cube(np.zeros((1, 2, 5, 1))).isel(step=[]))


def test_a_level_outside_zero_to_one_is_refused() -> None:
    with pytest.raises(AnalysisError, match="level"):
        checkpoint_noise(make_cube(np.zeros((1, 2, 5, 1))), level=95)


def test_a_spread_beyond_the_largest_float_is_infinite() -> None:
    found = checkpoint_noise(make_cube(np.array([1.7e308, -1.7e308] * 2).reshape(1, 1, 4, 1)))
    assert found["sd"].item() == np.inf
