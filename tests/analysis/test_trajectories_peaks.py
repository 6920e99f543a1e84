"""Peaks of curves: where, how far the decline goes, and that noise and rising curves have none."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from cubes_of_arrays import make_cube

from polystab.analysis.segments.null import ar1_noise
from polystab.analysis.trajectories import curve_peaks
from polystab.analysis.trajectories.peak_kernels import RHOS, Smoother, noise_of, residual_traces
from polystab.errors import AnalysisError

N = 31
U = np.arange(N) / (N - 1)
HUMP = 3 * np.exp(-(((U - 0.4) / 0.25) ** 2))
SHAPES = {
    "flat": 0 * U,
    "rising": 2 * U,
    "saturating": 20 * (1 - np.exp(-8 * U)),
    "falling": -20 * (1 - np.exp(-8 * U)),
    "up at once": 50.0 * (U > 3 / N),
}


def noisy(shape: np.ndarray, runs: int, metrics: int, rho: float, *, rng: int = 0, sd: float = 1.0) -> xr.Dataset:
    """One model whose metrics all have this shape."""
    noise = ar1_noise(rho, runs * metrics, len(shape), np.random.default_rng(rng))[..., 0]
    value = shape + sd * noise.reshape(1, runs, metrics, len(shape))
    return make_cube(np.moveaxis(value, 2, 3))


def peaks(cube: xr.Dataset, **options: object) -> xr.Dataset:
    return curve_peaks(cube, **{"rng": 0, "n_resamples": 49} | options)  # type: ignore[arg-type]


# --- the smoother --------------------------------------------------------------------------------------------------


def test_smoothing_keeps_straight_lines() -> None:
    np.testing.assert_allclose(Smoother(20, 3).mean @ np.arange(20.0), np.arange(20.0))


@pytest.mark.parametrize("seed", range(5))
def test_smoothing_keeps_rising_curves_rising(seed: int) -> None:
    rising = np.cumsum(np.random.default_rng(seed).exponential(size=40) ** 4)
    smoother = Smoother(40, 5)
    smooth = smoother.mean @ rising
    assert (np.diff(smooth) >= 0).all()
    assert (smooth[smoother.inner] <= smoother.last @ rising).all()


@pytest.mark.parametrize("rho", [0.0, 0.4])
def test_the_noise_of_a_set_of_runs_is_found_or_a_little_overstated(rho: float) -> None:
    noise = ar1_noise(rho, 200 * 10, 60, np.random.default_rng(0)).reshape(200, 10, 60)
    rest = noise - noise @ Smoother(60, 4).mean.T
    place, sd = noise_of(rest - rest.mean(axis=1, keepdims=True), 4)
    above = place - RHOS.index(rho)
    assert ((above >= 0) & (above <= 1)).mean() > 0.9
    # With the right correlation the standard deviation is right.
    assert sd[above == 0].mean() == pytest.approx(1, rel=0.1)


def test_the_expected_residuals_of_white_noise_are_simulations() -> None:
    noise = np.random.default_rng(0).standard_normal((20_000, 30))
    rest = noise - noise @ Smoother(30, 2).mean.T
    square, product = residual_traces(30, 2)
    assert np.mean(np.sum(rest**2, axis=1)) == pytest.approx(square[0], rel=0.01)
    assert np.mean(np.sum(rest[:, 1:] * rest[:, :-1], axis=1)) == pytest.approx(product[0], rel=0.02)


# --- known truth ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_clear_peak_is_found_where_it_is() -> None:
    found = peaks(noisy(HUMP, 10, 20, 0.0, sd=0.1))
    true = 1000 * int(np.argmax(HUMP))
    assert (abs(found["runs_step"] - true) <= 1000).all()
    assert (found["runs_p"] < 0.01).all()
    assert (found["p"] < 0.01).mean() > 0.95
    assert (found["n_peaks"] >= 9).all()


@pytest.mark.slow
def test_rise_and_decline_of_a_triangle_are_its_sides() -> None:
    triangle = np.interp(np.arange(N), [0, 3, 15, 27, 30], [0, 0, 12, 6, 6.0])
    found = peaks(noisy(triangle, 10, 50, 0.0, sd=0.05), window=3)
    # A mean over three checkpoints takes half of the middle one's way off the tip: (1 + 0.5) / 3.
    assert found["runs_rise"].mean() == pytest.approx(11.5, abs=0.02)
    assert found["runs_decline"].mean() == pytest.approx(5.5, abs=0.02)
    np.testing.assert_allclose(found["height"], 11.5, atol=0.3)


@pytest.mark.slow
def test_the_decline_over_runs_covers_its_truth() -> None:
    triangle = np.interp(np.arange(N), [0, 3, 15, 27, 30], [0, 0, 12, 6, 6.0])
    found = peaks(noisy(triangle, 6, 400, 0.5, sd=0.3), window=3)
    inside = (found["runs_decline_lower"] <= 5.5) & (found["runs_decline_upper"] >= 5.5)
    assert 0.9 <= float(inside.mean()) <= 0.98


@pytest.mark.slow
def test_intervals_of_the_step_hold_the_true_one() -> None:
    found = peaks(noisy(HUMP, 10, 200, 0.5, rng=1), n_resamples=199)
    true = 1000 * int(np.argmax(HUMP))
    for lower, upper in (("lower", "upper"), ("runs_lower", "runs_upper")):
        assert float(((found[lower] <= true) & (found[upper] >= true)).mean()) >= 0.93


@pytest.mark.slow
def test_a_trough_is_the_peak_of_the_negative() -> None:
    cube = noisy(HUMP, 5, 3, 0.0)
    peak, trough = peaks(cube), peaks(cube.assign(value=-cube["value"]), which="trough")
    for name in ("step", "lower", "upper", "rise", "decline", "p", "runs_step", "runs_p", "runs_decline"):
        np.testing.assert_array_equal(peak[name], trough[name], err_msg=name)
    np.testing.assert_array_equal(peak["height"], -trough["height"])


# --- calibration ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("runs", [1, 3, 10])
@pytest.mark.parametrize("shape", SHAPES)
def test_noise_and_monotone_curves_have_a_peak_no_more_often_than_they_may(shape: str, runs: int, rho: float) -> None:
    found = peaks(noisy(SHAPES[shape], runs, 500, rho, rng=2), n_resamples=1)
    # 5 %, and 3 standard errors of a share of 500.
    assert float((found["p"] <= 0.05).mean()) <= 0.08
    assert float((found["runs_p"] <= 0.05).mean()) <= 0.08


@pytest.mark.slow
def test_flat_noise_has_few_peaks() -> None:
    found = peaks(noisy(0 * U, 5, 200, 0.5, rng=3), n_resamples=1)
    assert float((found["runs_p"] <= 0.05).mean()) <= 0.1
    assert float((found["p"] <= 0.05).mean()) <= 0.1


# --- algebra -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_scale_and_offset_change_units_only() -> None:
    cube = noisy(HUMP, 5, 3, 0.0)
    plain, other = peaks(cube), peaks(cube.assign(value=2.0**-40 * cube["value"] + 3.0))
    for name in ("step", "lower", "upper", "runs_step", "runs_lower"):
        np.testing.assert_array_equal(plain[name], other[name])
    np.testing.assert_allclose(other["p"], plain["p"], atol=0.002)
    np.testing.assert_allclose(other["decline"], 2.0**-40 * plain["decline"], rtol=1e-3)


def test_the_order_of_the_runs_does_not_matter() -> None:
    cube = noisy(HUMP, 5, 3, 0.0)
    order = [3, 1, 0, 4, 2]
    one, other = peaks(cube), peaks(cube.isel(seed=order))
    np.testing.assert_array_equal(one["step"].isel(seed=order), other["step"])
    np.testing.assert_allclose(one["runs_decline"], other["runs_decline"])


@pytest.mark.slow
def test_the_same_rng_gives_the_same_bytes() -> None:
    cube = noisy(HUMP, 5, 3, 0.3)
    xr.testing.assert_identical(peaks(cube, rng=7), peaks(cube, rng=7))


@pytest.mark.slow
def test_a_copied_run_counts_once() -> None:
    cube = noisy(HUMP, 4, 2, 0.0)
    copied = xr.concat([cube, cube.isel(seed=[0]).assign_coords(seed=[4])], "seed", join="outer")
    found = peaks(copied)
    assert found["n_runs"].values.tolist() == [[4, 4]]
    assert (found["reason"].sel(seed=4) == 2).all()
    np.testing.assert_allclose(found["runs_decline"], peaks(cube)["runs_decline"])


# --- what cannot be said -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_single_run_has_a_peak_of_its_own_and_none_over_runs() -> None:
    found = peaks(noisy(HUMP, 1, 1, 0.0, sd=0.1)).squeeze()
    assert float(found["p"]) < 0.05
    assert np.isnan(found["runs_p"])
    assert int(found["runs_step"]) == -1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.ones((1, 3, 20, 1)), "constant"),
        (np.random.default_rng(0).normal(size=(1, 3, 3, 1)), "too_few_points"),
        (np.full((1, 3, 20, 1), np.inf), "not_measured"),
    ],
)
def test_why_no_peak_was_looked_for(value: np.ndarray, reason: str) -> None:
    found = peaks(make_cube(value))
    words = found["reason"].attrs["flag_meanings"].split()
    assert {words[code] for code in found["reason"].values.ravel()} == {reason}
    assert (found["step"] == -1).all()
    assert np.isnan(found["p"]).all()


@pytest.mark.slow
def test_missing_checkpoints_and_diverged_runs_are_passed_over() -> None:
    cube = noisy(HUMP, 6, 1, 0.0, sd=0.1)
    value = cube["value"].values.copy()
    value[0, 0, 10:12], value[0, 1, 20:] = np.nan, np.inf
    found = peaks(cube.assign(value=(cube["value"].dims, value))).squeeze()
    assert int(found["n_runs"]) == 4
    assert abs(int(found["step"][0]) - 12_000) <= 1000
    assert abs(int(found["runs_step"]) - 12_000) <= 1000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"which": "top"}, "no kind of peak is called 'top'"),
        ({"window": 4}, "odd number"),
        ({"window": 1}, "whole number from 3"),
        ({"level": 2}, "between 0 and 1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        peaks(noisy(HUMP, 3, 1, 0.0), **options)
