"""Components at the final step of every metric."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import polystab as ps
import polystab.testing
from polystab.analysis import final_components, variance_fractions
from polystab.errors import AnalysisError


def _both(cube: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    components = ps.variance_components(cube)
    return components, variance_fractions(components)


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    return polystab.testing.variance_cube(n_models=4, n_seeds=5, n_steps=4, n_metrics=3, rng=1)


def test_every_number_is_the_one_of_the_last_step(cube: xr.Dataset) -> None:
    components, fractions = _both(cube)
    found = final_components(components, fractions)
    assert (found["step"] == cube["step"][-1]).all()
    for name in ("variance", "lower", "p", "reason"):
        np.testing.assert_array_equal(
            found[name].transpose("component", "metric"),
            components[name].isel(step=-1).transpose("component", "metric"),
        )
    np.testing.assert_array_equal(
        found["fraction_upper"].transpose("component", "metric"),
        fractions["upper"].isel(step=-1).transpose("component", "metric"),
    )


def test_a_step_that_few_runs_reached_is_not_the_final_one(cube: xr.Dataset) -> None:
    value = cube["value"].copy()
    value[:, 2:, -1, 0] = np.nan  # of 20 runs 8 have the last step
    found = final_components(*_both(cube.assign(value=value)))
    assert found["step"].values.tolist() == [cube["step"].values[-2], *[cube["step"].values[-1]] * 2]


def test_shares_over_metrics_are_those_of_the_informative_ones(cube: xr.Dataset) -> None:
    value = cube["value"].copy()
    value[..., 1] = np.nan
    found = final_components(*_both(cube.assign(value=value)))
    shares = found["fraction"].sel(component="seed").isel(metric=[0, 2]).values
    seed = found.sel(component="seed")
    assert int(seed["n_metrics"]) == 2
    np.testing.assert_allclose(
        [float(seed[f"fraction_{which}"]) for which in ("least", "median", "largest")],
        [shares.min(), shares.mean(), shares.max()],
    )


def test_without_an_informative_metric_there_are_no_shares_over_metrics(cube: xr.Dataset) -> None:
    alone = cube.isel(model=[0], step=[-1]).drop_vars("stderr", errors="ignore")
    found = final_components(*_both(alone))
    assert (found["n_metrics"] == 0).all()
    assert found[["fraction_least", "fraction_median", "fraction_largest"]].isnull().all().to_array().all()


def test_a_metric_measured_nowhere_has_step_minus_one_and_no_numbers(cube: xr.Dataset) -> None:
    value = cube["value"].copy()
    value[..., 1] = np.nan
    found = final_components(*_both(cube.assign(value=value))).isel(metric=1)
    assert int(found["step"]) == -1
    assert not bool(found["informative"])
    assert found["variance"].isnull().all()


@pytest.mark.slow
def test_one_part_alone_is_not_informative(cube: xr.Dataset) -> None:
    assert final_components(*_both(cube))["informative"].all()
    alone = cube.isel(model=[0]).drop_vars("stderr", errors="ignore")
    assert not final_components(*_both(alone))["informative"].any()


def test_results_of_different_cubes_are_refused(cube: xr.Dataset) -> None:
    components, fractions = _both(cube)
    with pytest.raises(AnalysisError, match="differ along step"):
        final_components(components, fractions.isel(step=slice(1, None)))


def test_codes_of_reasons_stay_whole_numbers(cube: xr.Dataset) -> None:
    assert final_components(*_both(cube))["reason"].dtype == np.int8


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_no_result_at_all_steps_is_refused(cube: xr.Dataset, place: int) -> None:
    given = list(_both(cube))
    given[place] = given[place].isel(step=0)
    with pytest.raises(AnalysisError, match="has no 'step'"):
        final_components(given[0], given[1])


def test_components_in_place_of_fractions_are_refused(cube: xr.Dataset) -> None:
    components, _ = _both(cube)
    with pytest.raises(AnalysisError, match="fractions has no 'fraction'"):
        final_components(components, components)
