"""Intervals on request: profile likelihood and bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
from component_cubes import coverage, cube_of, factorial_cube, nested_cube, of
from cubes_of_arrays import make_cube

from polystab.analysis import fit_reml, variance_components
from polystab.errors import AnalysisError


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_profile_intervals_are_those_of_the_fit(missing: float) -> None:
    cube = cube_of(np.random.default_rng(1).standard_normal((4, 5, 2)), missing, np.random.default_rng(2))
    found = variance_components(cube, intervals="profile", level=0.9)
    fit = fit_reml(cube["value"].values.reshape(20, 2), {"model": np.repeat(np.arange(4), 5)})
    expected = fit.profile_interval("model", level=0.9)
    np.testing.assert_allclose(of(found, "lower", "model"), expected[0], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(of(found, "upper", "model"), expected[1], rtol=1e-5)


@pytest.mark.slow
def test_the_kind_of_interval_does_not_change_the_estimates() -> None:
    cube = nested_cube(np.random.default_rng(3), n=3)
    plain = variance_components(cube)
    for kind in ("profile", "bootstrap"):
        found = variance_components(cube, intervals=kind, n_resamples=99, rng=0)
        np.testing.assert_array_equal(found["estimate"], plain["estimate"])
        assert found.attrs["intervals"] == kind


@pytest.mark.slow
@pytest.mark.parametrize("design", ["nested", "crossed", "factorial"])
def test_the_same_rng_gives_the_same_bootstrap(design: str) -> None:
    rng = np.random.default_rng(4)
    cube = factorial_cube(rng, (3, 3, 2), 4) if design == "factorial" else nested_cube(rng, n=4)
    one, two, other = (
        variance_components(cube, design=design, intervals="bootstrap", n_resamples=99, rng=rng) for rng in (5, 5, 6)
    )
    assert one.identical(two)
    assert not one.identical(other)


@pytest.mark.slow
def test_the_bootstrap_of_a_factorial_keeps_its_models_apart() -> None:
    one = factorial_cube(np.random.default_rng(7), (3, 3, 1), 3)
    values = np.concatenate([one["value"].values, one["value"].values + 1000.0])
    both = make_cube(values)
    for name in ("weight_seed", "data_seed"):
        both[name] = (("model", "seed"), np.repeat(one[name].values, 2, axis=0))
    found = variance_components(both, intervals="bootstrap", n_resamples=99, rng=8)
    assert (of(found, "upper", "total") < 1000).all()


@pytest.mark.slow
def test_the_bootstrap_undercovers_as_documented() -> None:
    rng = np.random.default_rng(9)
    values = rng.standard_normal((5, 1, 500)) + rng.standard_normal((5, 3, 500))
    found = variance_components(cube_of(values), intervals="bootstrap", n_resamples=399, rng=10)
    assert coverage(found, {"seed": 1.0})["seed"] < 0.8


def test_unknown_intervals_are_refused_with_a_hint() -> None:
    with pytest.raises(AnalysisError, match="Did you mean 'bootstrap'"):
        variance_components(nested_cube(np.random.default_rng(12)), intervals="bootstap")


def test_too_few_resamples_are_refused() -> None:
    with pytest.raises(AnalysisError, match="need at least 40"):
        variance_components(nested_cube(np.random.default_rng(13)), intervals="bootstrap", n_resamples=20)
