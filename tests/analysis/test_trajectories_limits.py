"""Asymptotes: recovered where the data say them, and not where they do not."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from cubes_of_arrays import make_cube
from scipy.optimize import least_squares

from polystab.analysis.segments.null import ar1_noise
from polystab.analysis.trajectories import asymptotes
from polystab.analysis.trajectories.decays import fit_decays, shapes_at, whitened
from polystab.errors import AnalysisError

U = np.linspace(0, 1, 40)
POWER = 1 + (1 + U / 0.05) ** -1.0
EXPONENTIAL = 1 + np.exp(-U / 0.2)


def noisy(shape: np.ndarray, n: int, sd: float, rho: float = 0.0, rng: int = 0) -> np.ndarray:
    return shape + sd * ar1_noise(rho, n, len(shape), np.random.default_rng(rng))[..., 0]


def cube_of(curves: np.ndarray, runs: int = 5) -> xr.Dataset:
    """Curves (curve, step) as metrics of one model with so many runs."""
    return make_cube(np.moveaxis(curves.reshape(1, runs, -1, curves.shape[1]), 2, 3))


# --- the fit -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shape", "form"), [(EXPONENTIAL, 1), (POWER, 2)])
def test_the_asymptote_of_a_decay_without_noise_is_found(shape: np.ndarray, form: int) -> None:
    found = fit_decays(shape[None], U)
    assert found.value[0] == pytest.approx(1, abs=2e-4)
    assert found.form[0] == form
    assert found.lower[0] <= 1 <= found.upper[0]
    assert found.bounded[0]


def test_the_target_of_a_decay_without_noise_is_found() -> None:
    assert fit_decays(POWER[None], U, target=4.0).value[0] == pytest.approx(1 + 81**-1.0, abs=2e-4)


def test_the_fit_is_that_of_scipy() -> None:
    y = noisy(EXPONENTIAL, 1, 0.02)
    ours = fit_decays(y, U)
    assert ours.form[0] == 1

    def residual(p: np.ndarray) -> np.ndarray:
        return whitened((y[0] - p[0] - p[1] * np.exp(-U / np.exp(p[2])))[None], float(ours.rho[0]))[0]

    theirs = least_squares(residual, [1.0, 1.0, np.log(0.2)])
    assert [ours.value[0], ours.change[0], np.log(ours.scale[0])] == pytest.approx(theirs.x, abs=1e-4)


def test_the_exponential_is_the_limit_of_the_power_laws() -> None:
    shapes = shapes_at(U, np.inf)
    exponential = np.isinf(shapes.power)
    last = shapes.values[~exponential & (shapes.power == shapes.power[~exponential].max())]
    assert np.abs(last[:, None] - shapes.values[exponential]).max(axis=2).min() < 0.05


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_whitening_leaves_white_noise(rho: float) -> None:
    white = whitened(ar1_noise(rho, 2000, 50, np.random.default_rng(0))[..., 0], rho)
    assert np.mean(white**2) == pytest.approx(1 - rho**2, rel=0.02)
    assert np.mean(white[:, 1:] * white[:, :-1]) == pytest.approx(0, abs=0.01)


# --- calibration ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.5])
@pytest.mark.parametrize("shape", [EXPONENTIAL, POWER, 1 + 0 * U])
def test_intervals_cover_the_asymptote(shape: np.ndarray, rho: float) -> None:
    found = fit_decays(noisy(shape, 150, 0.02, rho, rng=1), U)
    inside = ((found.lower <= 1) & (found.upper >= 1))[found.bounded]
    assert found.bounded.mean() > 0.8
    assert inside.mean() > 0.88


@pytest.mark.slow
@pytest.mark.parametrize("n", [22, 130])
@pytest.mark.parametrize("sd", [0.01, 0.05])
@pytest.mark.parametrize("form", ["exponential", "power", "constant"])
@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_the_nominal_95_percent_cover_91_to_99(n: int, sd: float, form: str, rho: float) -> None:
    u = np.linspace(0, 1, n)
    shape = 1 + {"exponential": np.exp(-u / 0.2), "power": 1 / (1 + u / 0.05), "constant": 0 * u}[form]
    found = fit_decays(noisy(shape, 500, sd, rho, rng=2), u)
    inside = ((found.lower <= 1) & (found.upper >= 1))[found.bounded]
    assert inside.mean() > 0.88  # 91 % less 2.4 standard errors


@pytest.mark.slow
@pytest.mark.parametrize(
    "shape", [1 - 0.5 * U, 1 + 0.3 * np.log1p(U / 0.05), 1 - U**2], ids=["line", "logarithm", "speeding up"]
)
def test_curves_that_go_on_have_no_asymptote(shape: np.ndarray) -> None:
    found = asymptotes(cube_of(noisy(shape, 100, 0.005)), since=0)
    words = found["reason"].attrs["flag_meanings"].split()
    still = float((found["reason"] == words.index("still_moving")).mean())
    assert still >= 0.95
    assert np.isnan(found["asymptote"].values[found["reason"].values > 0]).all()


# --- the labelled table --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_with_their_own_asymptotes_have_the_mean_of_these() -> None:
    own = np.random.default_rng(3).normal(5, 0.3, (8, 20))
    curves = own[..., None] + noisy(np.exp(-U / 0.1), 160, 0.01, rng=4).reshape(8, 20, -1)
    found = asymptotes(cube_of(curves.reshape(160, -1), runs=8), since=0)
    np.testing.assert_allclose(found["asymptote"].values[0], own, atol=0.05)
    np.testing.assert_allclose(found["runs_asymptote"].values[0], own.mean(axis=0), atol=0.02)
    inside = (found["runs_lower"] <= 5) & (found["runs_upper"] >= 5)
    assert int(inside.sum()) >= 17


@pytest.mark.slow
def test_a_curve_that_turns_is_no_decay_until_it_has_turned() -> None:
    shape = np.where(U < 0.4, U / 0.4, 0.5 + 0.5 * np.exp(-(U - 0.4) / 0.1))
    cube = cube_of(noisy(shape, 50, 0.01))
    words = asymptotes(cube)["reason"].attrs["flag_meanings"].split()
    assert (asymptotes(cube)["reason"] == words.index("turns")).all()
    later = asymptotes(cube, since=16_000)
    assert float((later["reason"] == 0).mean()) > 0.9
    assert float(later["asymptote"].mean()) == pytest.approx(0.5, abs=0.01)


@pytest.mark.slow
def test_left_is_what_the_fit_has_still_to_go() -> None:
    found = asymptotes(cube_of(EXPONENTIAL + np.arange(3)[:, None], runs=3), since=0)
    np.testing.assert_allclose(found["left"], -np.exp(-5), atol=1e-4)
    np.testing.assert_allclose(found["scale"], 0.2 * 39_000, rtol=1e-3)


@pytest.mark.slow
def test_scale_and_offset_change_units_only() -> None:
    cube = cube_of(noisy(POWER, 15, 0.01))
    plain, other = asymptotes(cube), asymptotes(cube.assign(value=2.0**-20 * cube["value"] + 1))
    np.testing.assert_array_equal(plain["reason"], other["reason"])
    np.testing.assert_allclose((other["asymptote"] - 1) * 2.0**20, plain["asymptote"], rtol=2e-3)


@pytest.mark.slow
def test_the_default_leaves_the_first_tenth_out() -> None:
    found = asymptotes(cube_of(noisy(POWER, 3, 0.01), runs=3))
    assert (found["n_steps"] == 36).all()  # steps 3,900 to 39,000 in thousands: 4,000 on


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.ones((1, 3, 20, 1)), "constant"),
        (np.random.default_rng(0).normal(size=(1, 3, 9, 1)), "too_few_points"),
        (np.full((1, 3, 20, 1), np.nan), "not_measured"),
    ],
)
def test_why_there_is_no_asymptote(value: np.ndarray, reason: str) -> None:
    found = asymptotes(make_cube(value))
    words = found["reason"].attrs["flag_meanings"].split()
    assert {words[code] for code in found["reason"].values.ravel()} == {reason}
    assert np.isnan(found["asymptote"]).all()
    assert (found["form"] == -1).all()


@pytest.mark.slow
def test_a_gap_and_a_diverged_end_are_passed_over() -> None:
    cube = cube_of(noisy(EXPONENTIAL, 4, 0.005), runs=4)
    value = cube["value"].values.copy()
    value[0, 0, 10:14], value[0, 1, 35:] = np.nan, np.inf
    found = asymptotes(cube.assign(value=(cube["value"].dims, value)))
    np.testing.assert_allclose(found["asymptote"].values.ravel(), 1, atol=0.03)


@pytest.mark.slow
def test_two_runs_have_no_interval_over_runs() -> None:
    found = asymptotes(cube_of(noisy(EXPONENTIAL, 2, 0.005), runs=2))
    assert np.isnan(found["runs_lower"]).all()
    assert not np.isnan(found["asymptote"]).any()


@pytest.mark.parametrize("since", [-1, 2.5])
def test_impossible_starts_are_refused(since: float) -> None:
    with pytest.raises(AnalysisError, match="since is"):
        asymptotes(cube_of(POWER[None], runs=1), since=since)  # type: ignore[arg-type]
