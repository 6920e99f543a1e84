"""Identical trajectories are found, coincidences are not."""

from __future__ import annotations

import numpy as np
import pytest
from cubes_of_arrays import make_cube

from polystab.analysis import duplicate_runs


@pytest.fixture
def value() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 4, 6, 3))


def test_honest_runs_are_no_copies(value: np.ndarray) -> None:
    copies = duplicate_runs(make_cube(value))
    assert not copies["duplicate"].any()
    assert (copies["duplicate_run_of"] == copies["seed"]).all()


def test_a_copied_run_is_found_and_the_first_one_counts(value: np.ndarray) -> None:
    value[1, 3] = value[1, 1]
    value[1, 2] = value[1, 1]
    copies = duplicate_runs(make_cube(value))
    assert copies["duplicate_run"].values.tolist() == [[False] * 4, [False, False, True, True]]
    assert copies["duplicate_run_of"].values[1].tolist() == [0, 1, 1, 1]
    assert copies["duplicate"].values[1, 2:].all()


def test_a_single_copied_metric_is_found(value: np.ndarray) -> None:
    value[0, 1:, :, 2] = value[0, 0, :, 2]  # one metric of nine seeds read from one model
    copies = duplicate_runs(make_cube(value))
    assert copies["duplicate"].values[0].sum(axis=0).tolist() == [0, 0, 3]
    assert not copies["duplicate_run"].any()


def test_one_bit_of_difference_makes_two_runs(value: np.ndarray) -> None:
    value[0, 1] = value[0, 0]
    value[0, 1, 3, 1] = np.nextafter(value[0, 1, 3, 1], 9)
    copies = duplicate_runs(make_cube(value))
    assert not copies["duplicate_run"].any()
    assert copies["duplicate"].values[0, 1].tolist() == [True, False, True]


def test_different_gaps_make_two_runs(value: np.ndarray) -> None:
    value[0, 1] = value[0, 0]
    value[0, 1, 5] = np.nan
    assert not duplicate_runs(make_cube(value))["duplicate"].any()


def test_equal_gaps_and_minus_zero_are_equal(value: np.ndarray) -> None:
    value[0, 0, 2] = np.nan
    value[0, 0, 3] = 0.0
    value[0, 1] = value[0, 0]
    value[0, 1, 3] = -0.0
    assert duplicate_runs(make_cube(value))["duplicate_run"].values[0].tolist() == [False, True, False, False]


@pytest.mark.parametrize("fill", [np.nan, 0.25])
def test_empty_and_flat_trajectories_prove_nothing(value: np.ndarray, fill: float) -> None:
    assert not duplicate_runs(make_cube(np.full_like(value, fill)))["duplicate"].any()


def test_few_equal_values_are_taken_for_coincidence() -> None:
    value = np.tile([0.1, 0.2, 0.3, 0.4], (1, 3, 1)).reshape(1, 3, 4, 1)
    assert not duplicate_runs(make_cube(value))["duplicate"].any()


def test_a_cube_of_one_step_can_have_copied_runs() -> None:
    value = np.random.default_rng(1).normal(size=(1, 3, 1, 9))
    value[0, 2] = value[0, 0]
    assert duplicate_runs(make_cube(value))["duplicate_run"].values.tolist() == [[False, False, True]]


def test_the_same_run_under_two_models_is_not_this_functions_business(value: np.ndarray) -> None:
    value[1] = value[0]
    assert not duplicate_runs(make_cube(value))["duplicate"].any()


def test_seeds_need_not_count_from_zero(value: np.ndarray) -> None:
    value[0, 3] = value[0, 1]
    cube = make_cube(value).assign_coords(seed=[5, 7, 11, 13])
    assert duplicate_runs(cube)["duplicate_run_of"].values[0].tolist() == [5, 7, 11, 7]
