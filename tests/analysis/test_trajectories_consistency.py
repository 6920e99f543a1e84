"""How alike curves are across seeds and sizes: oracles, known truth, a null that holds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import xarray as xr
from cubes_of_arrays import make_cube

from polystab.analysis.segments.null import ar1_noise
from polystab.analysis.trajectories import curve_consistency
from polystab.analysis.trajectories.likeness import interval, jackknife, likeness, null_likeness, p_of, unit_curves
from polystab.errors import AnalysisError

N = 24
X = np.log1p(np.arange(N) * 1000.0)


def shaped(shape: np.ndarray, runs: int, metrics: int, *, models: int = 2, sd: float = 1.0, rng: int = 0) -> xr.Dataset:
    noise = np.random.default_rng(rng).standard_normal((models, runs, N, metrics))
    return make_cube(shape[:, None] + sd * noise)


def consistency(cube: xr.Dataset, **options: object) -> xr.Dataset:
    return curve_consistency(cube, **{"n_draws": 9, "rng": 0} | options)  # type: ignore[arg-type]


def correlation(a: np.ndarray, b: np.ndarray, kind: str) -> float:
    if kind == "increments":
        a, b = np.diff(a), np.diff(b)
    if kind == "detrended":
        a, b = (y - np.polyval(np.polyfit(X, y, 1), X) for y in (a, b))
    return float(np.corrcoef(a, b)[0, 1])


# --- oracles -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["level", "detrended", "increments"])
def test_correlations_are_means_of_numpys_over_pairs(kind: str) -> None:
    cube = shaped(np.sin(X), 4, 1, models=3)
    value = cube["value"].values[..., 0]
    found = consistency(cube).sel(kind=kind).squeeze("metric")
    pairs = list(itertools.combinations(range(4), 2))
    seeds = [np.mean([correlation(one[i], one[j], kind) for i, j in pairs]) for one in value]
    sizes = [correlation(a, b, kind) for one, two in itertools.combinations(value, 2) for a in one for b in two]
    np.testing.assert_allclose(found["r_model"], seeds)
    assert float(found["r"].sel(across="seeds")) == pytest.approx(np.mean(seeds))
    assert float(found["r"].sel(across="sizes")) == pytest.approx(np.mean(sizes))


def test_the_null_rotates_the_increments_of_each_run() -> None:
    curves = np.random.default_rng(1).standard_normal((2, 5, N)).cumsum(axis=-1)
    groups = np.array([0, 0, 1, 1, 1])
    ours = null_likeness(curves, X, groups, 3, np.random.default_rng(2))
    starts = np.random.default_rng(2).integers(0, N - 1, (3, 5))
    for draw in range(3):
        turned = np.stack([np.roll(np.diff(curves[:, r]), -starts[draw, r], axis=-1) for r in range(5)], axis=1)
        rebuilt = np.concatenate([np.zeros((2, 5, 1)), turned.cumsum(axis=-1)], axis=-1)
        np.testing.assert_allclose(ours[draw], likeness(unit_curves(rebuilt, X), groups), atol=1e-10)


# --- known truth ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_curves_that_only_rise_correlate_as_they_are_and_not_otherwise() -> None:
    rising = np.random.default_rng(3).exponential(size=(2, 6, N, 20)).cumsum(axis=2)
    found = consistency(make_cube(rising), x="index")["r"].median("metric").sel(across="seeds")
    assert float(found.sel(kind="level")) > 0.9
    assert abs(float(found.sel(kind="detrended"))) < 0.15
    assert abs(float(found.sel(kind="increments"))) < 0.05


@pytest.mark.slow
def test_the_correlation_of_curves_with_a_shared_shape_is_its_share() -> None:
    shape = np.sqrt(2) * np.sin(np.arange(N) * 2.1)  # variance 1, and hardly a trend
    found = consistency(shaped(shape, 10, 60), n_draws=1)["r"].mean("metric")
    # The trend takes a step's worth out of either; noise increments have variance 2, the shape's 2 (1 - cos 2.1).
    np.testing.assert_allclose(found.sel(kind="detrended"), 0.5, atol=0.04)
    share = (1 - np.cos(2.1)) / (1 + 1 - np.cos(2.1))
    np.testing.assert_allclose(found.sel(kind="increments"), share, atol=0.04)


@pytest.mark.slow
def test_shared_shapes_are_told_from_chance_and_others_are_not() -> None:
    alike = consistency(shaped(3 * np.sin(X), 5, 5), n_draws=99)
    assert (alike["p"].sel(kind="detrended") <= 0.02).all()
    assert (alike["r"] > alike["null_upper"]).sel(kind="detrended").all()


@pytest.mark.slow
def test_the_peak_comes_later_in_larger_models() -> None:
    step = np.arange(60)
    shapes = [8 * np.exp(-(((step - at) / 8) ** 2)) for at in (10, 20, 40)]
    noise = 0.2 * np.random.default_rng(4).standard_normal((3, 8, 60, 1))
    cube = make_cube(np.stack(shapes)[:, None, :, None] + noise)
    cube = cube.assign_coords(n_parameters=("model", [10**6, 10**7, 10**8]))
    found = consistency(cube).squeeze()
    # From 10,000 over 20,000 to 40,000: a factor 2 for every factor of 10.
    assert float(found["peak_lower"]) < np.log10(2) < float(found["peak_upper"])
    assert float(found["peak_slope"]) == pytest.approx(np.log10(2), abs=0.03)
    assert int(found["peak_runs"]) == 24


@pytest.mark.slow
def test_models_without_a_peak_have_no_slope_of_it() -> None:
    cube = shaped(3 * X, 5, 2, sd=0.1).assign_coords(n_parameters=("model", [10**6, 10**7]))
    found = consistency(cube)
    assert (found["peak_runs"] == 0).all()
    assert np.isnan(found["peak_slope"]).all()


# --- calibration ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("made", ["white", "autoregressive", "walk"])
def test_unrelated_curves_are_taken_for_alike_no_more_often_than_they_may(made: str) -> None:
    draw = np.random.default_rng(5)
    curves = ar1_noise(0.8, 200 * 8, N, draw)[..., 0].reshape(200, 8, N)
    if made != "autoregressive":
        curves = draw.standard_normal((200, 8, N))
    curves = curves.cumsum(axis=-1) if made == "walk" else curves
    groups = np.repeat([0, 1], 4)
    p = p_of(likeness(unit_curves(curves, X), groups), null_likeness(curves, X, groups, 99, draw))
    share = (p <= 0.05).mean(axis=1)
    assert (share <= 0.10).all()  # 5 % and 3.2 standard errors of a share of 200
    assert (share >= 0.005).all()


@pytest.mark.parametrize("runs", [3, 10])
def test_intervals_cover_the_correlation_of_more_runs(runs: int) -> None:
    draw = np.random.default_rng(6)
    shapes = np.stack([2 * np.sin(np.linspace(0, 4, N)), 2 * np.sin(np.linspace(0.5, 4, N))])
    many = np.repeat([0, 1], 2000)
    truth = likeness(unit_curves((shapes[many] + draw.standard_normal((4000, N)))[None], X), many)[:, 0]
    groups = np.repeat([0, 1], runs)
    vectors = unit_curves(shapes[groups] + draw.standard_normal((400, 2 * runs, N)), X)
    lower, upper = interval(likeness(vectors, groups), *jackknife(vectors, groups), 0.95)
    covered = ((lower <= truth[:, None]) & (upper >= truth[:, None])).mean(axis=1)
    assert (covered >= 0.93).all()


# --- algebra and what cannot be said -------------------------------------------------------------------------------


@pytest.mark.slow
def test_scale_and_offset_of_a_run_do_not_matter() -> None:
    cube = shaped(np.sin(X), 4, 2)
    factor = np.array([1.0, 2.0, 0.5, 4.0])[:, None, None]
    one, other = consistency(cube), consistency(cube.assign(value=cube["value"] * factor + 3 * factor))
    np.testing.assert_allclose(one["r"], other["r"], atol=1e-9)
    np.testing.assert_allclose(one["p"], other["p"])


@pytest.mark.slow
def test_the_order_of_the_runs_does_not_matter() -> None:
    cube = shaped(np.sin(X), 4, 2)
    one, other = consistency(cube), consistency(cube.isel(seed=[2, 0, 3, 1]))
    for name in ("r", "lower", "upper"):
        np.testing.assert_allclose(one[name], other[name], atol=1e-12)


@pytest.mark.slow
def test_the_same_rng_gives_the_same_bytes() -> None:
    cube = shaped(np.sin(X), 3, 2)
    xr.testing.assert_identical(consistency(cube), consistency(cube))


@pytest.mark.slow
def test_a_copied_run_counts_once() -> None:
    cube = shaped(np.sin(X), 4, 1)
    copied = xr.concat([cube, cube.isel(seed=[0]).assign_coords(seed=[4])], "seed", join="outer")
    found = consistency(copied)
    np.testing.assert_allclose(found["r"], consistency(cube)["r"])
    assert found["n_runs"].values.tolist() == [8]


@pytest.mark.slow
@pytest.mark.parametrize(("models", "runs", "missing"), [(1, 4, "sizes"), (3, 1, "seeds")])
def test_a_single_model_or_seed_has_the_other_half_of_the_table(models: int, runs: int, missing: str) -> None:
    found = consistency(shaped(np.sin(X), runs, 1, models=models))
    there = {"sizes": "seeds", "seeds": "sizes"}[missing]
    assert np.isnan(found[["r", "p", "null_mean"]].sel(across=missing).to_array()).all()
    assert not np.isnan(found["r"].sel(across=there)).any()


@pytest.mark.slow
def test_runs_that_diverge_are_constant_or_miss_a_step_are_left_out() -> None:
    cube = shaped(np.sin(X), 6, 1)
    value = cube["value"].values.copy()
    value[0, 0, 12:], value[0, 1], value[1, 2, 7] = np.inf, 1.0, np.nan
    found = consistency(cube.assign(value=(cube["value"].dims, value)))
    assert found["n_runs"].values.tolist() == [9]
    assert found["n_steps"].values.tolist() == [N]


def test_three_steps_are_too_few() -> None:
    found = consistency(shaped(np.sin(X), 4, 1).isel(step=slice(3)))
    assert np.isnan(found["r"]).all()
    assert found["n_runs"].values.tolist() == [0]


@pytest.mark.parametrize(
    ("options", "message"), [({"x": "steps"}, "no x is called"), ({"n_draws": 0}, "n_draws"), ({"level": 1}, "level")]
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        consistency(shaped(np.sin(X), 3, 1), **options)
