"""Permutation test of variance components: oracle, calibration, bad input."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import scipy.stats
from component_cubes import cube_of, factorial_cube, nested_cube, of

from polystab.analysis import variance_components
from polystab.analysis.components.permutation import permutation_test
from polystab.errors import AnalysisError

CELLS = 3000


@pytest.mark.slow
def test_all_arrangements_of_a_small_table_give_the_same_p() -> None:
    values = np.random.default_rng(1).standard_normal((2, 3))
    found = of(permutation_test(cube_of(values[:, :, None]), n_permutations=20_000, rng=2), "p", "model")[0]
    statistics = [scipy.stats.f_oneway(order[:3], order[3:]).statistic for order in permutations(values.ravel())]
    expected = np.mean(np.array(statistics) >= scipy.stats.f_oneway(*values).statistic - 1e-9)
    assert found == pytest.approx(expected, abs=0.015)


@pytest.mark.slow
@pytest.mark.parametrize("design", ["nested", "crossed"])
def test_normal_scores_give_about_the_p_of_the_f_test(design: str) -> None:
    cube = nested_cube(np.random.default_rng(3), 5, 10, 200, sd=0.3)
    dealt, exact = permutation_test(cube, design=design, rng=4), variance_components(cube, design=design)
    difference = of(dealt, "p", "model") - of(exact, "p", "model")
    assert np.abs(difference).max() < 0.1
    assert np.abs(difference.mean()) < 0.01


def test_permutations_within_a_cell_do_not_depend_on_the_other_cells() -> None:
    cube = cube_of(np.random.default_rng(5).standard_normal((3, 4, 8)), 0.2, np.random.default_rng(6))
    whole = permutation_test(cube, rng=7).isel(metric=[2])
    assert whole["p"].identical(permutation_test(cube.isel(metric=[2]), rng=7)["p"])


@pytest.mark.parametrize("design", ["nested", "crossed"])
def test_a_large_common_part_changes_no_p(design: str) -> None:
    cube = nested_cube(np.random.default_rng(24), n=5, sd=0.5)
    moved = cube.assign(value=cube["value"].round(3) + 2.0**20)
    plain = permutation_test(cube.assign(value=moved["value"] - 2.0**20), design=design, rng=25)
    np.testing.assert_array_equal(permutation_test(moved, design=design, rng=25)["p"], plain["p"])


@pytest.mark.slow
@pytest.mark.parametrize("heavy", [False, True])
def test_nested_zeros_are_rejected_at_the_stated_rate(heavy: bool) -> None:
    rng = np.random.default_rng(8)
    scores = rng.standard_exponential((4, 5, CELLS)) ** 2 if heavy else rng.standard_normal((4, 5, CELLS))
    assert 0.04 <= np.mean(of(permutation_test(cube_of(scores), rng=9), "p", "model") <= 0.05) <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize("component", ["model", "seed"])
def test_crossed_zeros_are_rejected_at_the_stated_rate(component: str) -> None:
    rng = np.random.default_rng(10)
    other = (1, 5, CELLS) if component == "model" else (4, 1, CELLS)
    cube = cube_of(2 * rng.standard_normal(other) + rng.standard_normal((4, 5, CELLS)))
    found = permutation_test(cube, design="crossed", rng=11)
    assert 0.04 <= np.mean(of(found, "p", component) <= 0.05) <= 0.06


@pytest.mark.slow
def test_unbalanced_zeros_are_rejected_at_the_stated_rate() -> None:
    scores = np.random.default_rng(12).standard_normal((4, 5, CELLS))
    scores[0, 1:], scores[2, 4] = np.nan, np.nan
    assert 0.04 <= np.mean(of(permutation_test(cube_of(scores), rng=13), "p", "model") <= 0.05) <= 0.06


@pytest.mark.slow
def test_factorial_zeros_are_rejected_at_the_stated_rate() -> None:
    cube = factorial_cube(np.random.default_rng(14), (4, 5, 1), CELLS, (0.0, 2.0, 0.0))
    found = permutation_test(cube, rng=15)
    assert 0.04 <= np.mean(of(found, "p", "initialisation") <= 0.05) <= 0.06


def test_a_large_component_has_the_smallest_p() -> None:
    found = permutation_test(nested_cube(np.random.default_rng(16), n=3, sd=30.0), n_permutations=199, rng=17)
    assert of(found, "p", "model").tolist() == [1 / 200] * 3


@pytest.mark.parametrize("design", ["nested", "crossed"])
def test_equal_runs_have_no_p(design: str) -> None:
    found = permutation_test(cube_of(np.full((3, 4, 2), 0.1)), design=design, rng=18)
    assert np.isnan(found["p"].values).all()


@pytest.mark.parametrize("shape", [(4, 1), (1, 4)])
def test_one_seed_or_one_model_has_no_p(shape: tuple[int, int]) -> None:
    found = permutation_test(nested_cube(np.random.default_rng(19), *shape), rng=20)
    assert np.isnan(found["p"].values).all()
    assert found["n_tests"].values.tolist() == [0]


def test_cells_without_values_have_no_p() -> None:
    assert np.isnan(permutation_test(cube_of(np.full((3, 4, 2), np.nan)), rng=21)["p"].values).all()


def test_a_factorial_with_replicates_is_refused() -> None:
    with pytest.raises(AnalysisError, match="no permutation is exact"):
        permutation_test(factorial_cube(np.random.default_rng(22), (3, 3, 2)))


def test_no_permutations_are_refused() -> None:
    with pytest.raises(AnalysisError, match="n_permutations is 0"):
        permutation_test(nested_cube(np.random.default_rng(23)), n_permutations=0)
