"""What every analysis asks of its arguments, whichever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr
from cubes_of_arrays import make_cube

import polystab.analysis as analysis
from polystab.analysis.arrays import moments, quantiles
from polystab.analysis.options import check_choice, check_shares, check_whole, flagged, generator_of, numbers
from polystab.errors import AnalysisError

OF_A_CUBE: list[Callable[[xr.Dataset], Any]] = [
    analysis.variance_components,
    lambda cube: analysis.variance_components(cube, intervals="bootstrap", n_resamples=99, rng=0),
    analysis.variance_over_windows,
    analysis.checkpoint_noise,
    analysis.seed_variances,
    analysis.seed_reliability,
    analysis.coefficient_of_variation,
    analysis.noise_floor,
    lambda cube: analysis.seeds_needed(cube, difference=0.1),
    lambda cube: analysis.permutation_test(cube, n_permutations=9, rng=0),
    lambda cube: analysis.variance_by_size(cube, size=dict.fromkeys(["m0", "m1"], 1.0)),
    analysis.rank_agreement,
    analysis.signal_to_noise,
    analysis.monotonicity,
    analysis.checkpoint_proxy,
    analysis.decision_accuracy,
    lambda cube: analysis.aggregate_scores(cube, n_resamples=9, rng=0),
]


@pytest.mark.slow
@pytest.mark.parametrize("ask", OF_A_CUBE)
@pytest.mark.parametrize("dim", ["seed", "step"])
def test_a_cube_with_nothing_along_a_dimension_is_refused(ask: Callable[[xr.Dataset], Any], dim: str) -> None:
    cube = make_cube(np.random.default_rng(0).random((2, 3, 4, 1)))
    with pytest.raises(AnalysisError, match=f"no {dim}s"):
        ask(cube.isel({dim: []}))


def test_several_empty_dimensions_are_named_together() -> None:
    cube = make_cube(np.ones((1, 2, 2, 1))).isel(model=[], seed=[])
    with pytest.raises(AnalysisError, match="no models and no seeds"):
        analysis.variance_components(cube)


@pytest.mark.parametrize("ask", [analysis.rank_agreement, analysis.signal_to_noise, analysis.monotonicity])
def test_a_cube_without_metrics_has_an_empty_result(ask: Callable[[xr.Dataset], xr.Dataset]) -> None:
    assert ask(make_cube(np.ones((2, 3, 4, 1))).isel(metric=[])).sizes["metric"] == 0


@pytest.mark.parametrize("level", [0, 1, 95, -0.1, float("nan"), "0.95", None])
def test_what_is_no_share_is_refused(level: Any) -> None:
    with pytest.raises(AnalysisError, match=r"level is .*between 0 and 1"):
        check_shares(level=level)


@pytest.mark.parametrize("number", [1, 2.0, "3", None, True])
def test_what_is_no_whole_number_from_two_on_is_refused(number: Any) -> None:
    with pytest.raises(AnalysisError, match="whole number from 2"):
        check_whole("last", number, 2)


def test_whole_numbers_of_numpy_are_taken() -> None:
    check_whole("last", np.int64(2), 2)


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(AnalysisError, match="Did you mean"):
        check_choice("design", "cross", ("nested", "crossed"))


@pytest.mark.parametrize("rng", ["0", -1, 0.5])
def test_what_is_no_source_of_chance_is_refused(rng: Any) -> None:
    with pytest.raises(AnalysisError, match="rng is"):
        generator_of(rng)


@pytest.mark.parametrize("given", ["a", [["b"]], [[1, 2], [3]], {"a": 1}])
def test_what_is_no_array_of_numbers_is_refused(given: Any) -> None:
    with pytest.raises(AnalysisError, match="scores is not an array of numbers"):
        numbers(given, "scores")


def test_codes_say_what_they_mean() -> None:
    data = flagged(xr.Dataset({"reason": ("x", np.zeros(2, dtype=np.int8))}), {"reason": ("given", "one_seed")})
    assert data["reason"].attrs["flag_meanings"].split()[data["reason"].attrs["flag_values"][1]] == "one_seed"


def test_a_spread_beyond_the_largest_float_is_infinite() -> None:
    assert moments(np.array([1.7e308, -1.7e308]), axis=0)[1] == np.inf


def test_quantiles_of_nothing_are_not_known() -> None:
    assert np.isnan(quantiles(np.empty((0, 3)), (0.5,), axis=0)[0]).all()
