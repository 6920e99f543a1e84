"""Fixed effects of variance components: oracles, algebra, calibration, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from component_cubes import Floats, coverage, cube_of, factorial_cube, nested_cube, of

from polystab.analysis import fit_reml, variance_components
from polystab.errors import AnalysisError

CELLS = 3000


def sized_cube(values: Floats, slope: float = 3.0, missing: float = 0.0, seed: int = 0) -> xr.Dataset:
    """A cube whose models grow tenfold and score ``slope`` higher each time."""
    exponent = 7 + np.arange(len(values))
    cube = cube_of(values + slope * exponent[:, None, None], missing, np.random.default_rng(seed))
    return cube.assign_coords(n_parameters=("model", 10**exponent))


def log_size(cube: xr.Dataset) -> dict[str, xr.DataArray]:
    return {"log size": np.log10(cube["n_parameters"])}


# Oracles and algebra.


def test_a_balanced_covariate_is_regression_of_the_model_means() -> None:
    rng = np.random.default_rng(1)
    cube = sized_cube(rng.standard_normal((5, 1, 4)) + rng.standard_normal((5, 6, 4)))
    found = variance_components(cube, fixed=log_size(cube))
    mean, exponent = cube["value"].values.mean(axis=1)[:, 0], np.arange(5.0)
    rest = np.stack([y - np.polyval(np.polyfit(exponent, y, 1), exponent) for y in mean.T])
    within = cube["value"].values.var(axis=1, ddof=1).mean(axis=0).ravel()
    np.testing.assert_allclose(of(found, "estimate", "model"), (rest**2).sum(axis=1) / 3 - within / 6, rtol=1e-8)
    np.testing.assert_allclose(of(found, "estimate", "seed"), within, rtol=1e-8)


def test_the_test_of_models_beyond_groups_is_that_of_least_squares() -> None:
    cube = nested_cube(np.random.default_rng(2), n_model=5, n=3, sd=0.7).assign_coords(
        family_of=("model", list("aabbb"))
    )
    cube["value"][1, 2] = np.nan
    found = variance_components(cube, fixed="family_of")
    for k in range(3):
        runs = [row[~np.isnan(row)] for row in cube["value"].values[:, :, 0, k]]
        full = sum(((y - y.mean()) ** 2).sum() for y in runs)
        groups = [np.concatenate(runs[:2]), np.concatenate(runs[2:])]
        reduced = sum(((y - y.mean()) ** 2).sum() for y in groups)
        expected = scipy.stats.f.sf((reduced - full) / 3 / (full / 19), 3, 19)
        assert of(found, "p", "model")[k] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("design", ["nested", "crossed"])
def test_unbalanced_cells_with_covariates_hold_reml(design: str) -> None:
    rng = np.random.default_rng(3)
    cube = sized_cube(2 * rng.standard_normal((5, 1, 6)) + rng.standard_normal((5, 4, 6)))
    cube["value"][0, 0] = np.nan
    found = variance_components(cube, design=design, fixed=log_size(cube))
    model, seed = (labels.ravel() for labels in np.indices((5, 4)))
    factors = {"model": model} | ({"seed": seed} if design == "crossed" else {})
    fit = fit_reml(cube["value"].values.reshape(20, 6), factors, {"size": model.astype(float)})
    assert (found["method"].values == 2).all()
    np.testing.assert_allclose(of(found, "variance", "model"), fit.variance["model"], rtol=1e-6, atol=1e-9)


def test_a_trend_that_is_taken_out_leaves_no_trace() -> None:
    values = np.random.default_rng(4).standard_normal((5, 4, 10))
    flat, steep = (sized_cube(values, slope) for slope in (0.0, 50.0))
    xr.testing.assert_allclose(
        variance_components(flat, fixed=log_size(flat)), variance_components(steep, fixed=log_size(steep)), rtol=1e-7
    )


def test_names_values_and_arrays_mean_the_same() -> None:
    cube = sized_cube(np.random.default_rng(5).standard_normal((5, 4, 3)))
    named = variance_components(cube, fixed=["n_parameters"])
    given = variance_components(cube, fixed={"n_parameters": 10.0 ** (7 + np.arange(5))})
    wide = np.repeat(10.0 ** (7 + np.arange(5)), 4).reshape(5, 4)
    xr.testing.assert_allclose(named, given)
    xr.testing.assert_allclose(named, variance_components(cube, fixed={"n_parameters": wide}))


def test_values_are_matched_by_label() -> None:
    cube = sized_cube(np.random.default_rng(6).standard_normal((5, 4, 3)))
    xr.testing.assert_identical(
        variance_components(cube, fixed=log_size(cube)),
        variance_components(cube, fixed={"log size": log_size(cube)["log size"][::-1]}),
    )


def test_runs_without_the_covariate_are_left_out() -> None:
    cube = sized_cube(np.random.default_rng(7).standard_normal((6, 4, 3)))
    cube["n_parameters"][2] = -1
    fewer = cube.isel(model=[0, 1, 3, 4, 5])
    left = variance_components(cube, fixed="n_parameters")
    assert (left["n_runs"].values == 20).all()
    np.testing.assert_allclose(left["estimate"], variance_components(fewer, fixed="n_parameters")["estimate"])


def test_a_covariate_of_runs_takes_from_the_seeds_only() -> None:
    rng = np.random.default_rng(8)
    cube = nested_cube(rng, n=3)
    rate = rng.standard_normal((4, 5))
    plain, found = variance_components(cube), variance_components(cube, fixed={"rate": rate})
    assert of(found, "df", "model")[0] == of(plain, "df", "model")[0]
    assert of(found, "df", "seed")[0] == of(plain, "df", "seed")[0] - 1


def test_what_was_taken_out_is_in_the_attributes() -> None:
    cube = sized_cube(np.random.default_rng(9).standard_normal((5, 4, 1)))
    assert variance_components(cube, fixed="n_parameters").attrs["fixed"] == "n_parameters"


# Calibration.


@pytest.mark.parametrize("missing", [0.0, pytest.param(0.1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("n_seed", [3, 5, 10])
def test_intervals_beside_a_covariate_cover(n_seed: int, missing: float) -> None:
    rng = np.random.default_rng(20 + n_seed)
    values = rng.standard_normal((5, 1, CELLS)) + rng.standard_normal((5, n_seed, CELLS))
    cube = sized_cube(values, missing=missing, seed=n_seed)
    found = variance_components(cube, fixed=log_size(cube))
    assert all(0.93 <= share <= 0.97 for share in coverage(found, {"model": 1, "seed": 1, "total": 2}).values())


@pytest.mark.parametrize("missing", [0.0, pytest.param(0.1, marks=pytest.mark.slow)])
def test_models_on_a_line_are_rejected_at_the_stated_rate(missing: float) -> None:
    cube = sized_cube(np.random.default_rng(30).standard_normal((5, 4, CELLS)), missing=missing)
    found = variance_components(cube, fixed=log_size(cube))
    assert 0.04 <= np.mean(of(found, "p", "model") < 0.05) <= 0.06


# Refusals.


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        (["n_params"], "is not in the cube.*Did you mean 'n_parameters'"),
        (["step"], "lies along 'step'"),
        ("model", "no degrees of freedom for 'model'"),
        ({"x": list("abcde")}, "no degrees of freedom for 'model'"),
        ({"x": [1.0, 2.0]}, "give one value for every model"),
        ({"x": xr.DataArray([1.0, 2.0], dims="model")}, "no labels; the cube has 5"),
        ({"x": xr.DataArray([1.0, 2.0], dims="step")}, "allowed: model, seed"),
        ({"x": np.ones(5)}, "are the same for all measured runs"),
        ({"x": np.full(5, np.nan)}, "no measured run has all"),
        ({"x": [1.0, 2.0, 3.0, 4.0, np.inf]}, "infinite"),
        ({"x": [1, 2, 3, 4, 6], "y": [2, 4, 6, 8, 12]}, "combinations of the others"),
        (3, "give names of coordinates"),
    ],
)
def test_fixed_effects_that_cannot_be_meant_are_refused(fixed: Any, message: str) -> None:
    cube = sized_cube(np.random.default_rng(40).standard_normal((5, 4, 2)))
    with pytest.raises(AnalysisError, match=message):
        variance_components(cube, fixed=fixed)


def test_covariates_of_models_have_no_place_in_a_factorial() -> None:
    one = factorial_cube(np.random.default_rng(41))
    both = xr.concat([one, one.assign_coords(model=["other"])], "model")
    with pytest.raises(AnalysisError, match="takes out the mean of every model anyway"):
        variance_components(both, fixed={"size": [1.0, 2.0]})
