"""Trajectories under two names are found and dated; runs that agree by chance are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from cubes_of_arrays import make_cube

from polystab.analysis.audit import equality
from polystab.analysis.audit.checks import audit_cube
from polystab.analysis.audit.copies import shared_stretches
from polystab.analysis.audit.equality import codes, comparisons, stretches

KINDS = ("identical-run", "identical-until", "identical-stretch", "same-start")
Array = npt.NDArray[np.float64]


def cube_of(value: Array, **given: Any) -> xr.Dataset:
    """A cube of scores that may be anything."""
    given.setdefault("metrics", [f"eval/task{k}/score" for k in range(value.shape[3])])
    return make_cube(value, **given)


@pytest.fixture
def value() -> Array:
    """Two models, four seeds, twelve steps, six metrics."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 4, 12, 6)).cumsum(axis=2)


def found(cube_values: Array, **given: Any) -> list[tuple[str, str, int, str, int, int, int]]:
    """Kind, run, other run, first and last step of what was found."""
    rows = audit_cube(cube_of(cube_values, **given))
    columns = ("kind", "model", "seed", "other_model", "other_seed", "first_step", "last_step")
    return [row for row in zip(*(rows[name].values.tolist() for name in columns), strict=True) if row[0] in KINDS]


def nearly_identical(n_runs: int, n_metrics: int, decimals: int, noise: float) -> Array:
    """Smooth curves, the same for all runs but for noise well below the last decimal that is kept."""
    rng = np.random.default_rng(decimals)
    curve = rng.uniform(0.2, 0.8, n_metrics) * (1 - np.exp(-np.arange(60)[:, None] / 40))
    return np.round(curve + rng.normal(0, noise * 10.0**-decimals, (1, n_runs, 60, n_metrics)), decimals)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.05, 0.1, 0.3, 1.0])
def test_rounded_runs_that_are_nearly_the_same_are_no_copies(noise: float) -> None:
    assert found(nearly_identical(12, 12, 2, noise)) == []


def test_codes_are_equal_where_the_values_are() -> None:
    table = np.random.default_rng(1).integers(0, 4, (7, 9)).astype(float)
    table[2, 3] = table[5, 3] = np.nan
    table[0, 1], table[1, 1] = 0.0, -0.0
    coded = codes(table)
    np.testing.assert_array_equal(coded[:, None] == coded, (table[:, None] == table) | np.eye(7, dtype=bool)[..., None])


def test_comparisons_are_of_every_two_rows_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(equality, "_BLOCK", 6)
    table = np.random.default_rng(1).integers(0, 4, (7, 2)).astype(float)
    seen = [
        (a, b, same.tolist())
        for a, others, equal, _ in comparisons(codes(table), ~np.isnan(table))
        for b, same in zip(others.tolist(), equal, strict=True)
    ]
    assert seen == [(a, b, (table[a] == table[b]).tolist()) for a in range(7) for b in range(a + 1, 7)]


def test_stretches_pass_over_cells_that_are_not_common() -> None:
    equal = np.array([[1, 1, 0, 1, 0, 1, 1, 0]], dtype=bool)[..., None]
    common = np.array([[1, 1, 0, 1, 1, 1, 1, 0]], dtype=bool)[..., None]
    length, number = stretches(equal, common)
    assert (length.item(), number.item()) == (3, 2)


def test_honest_runs_share_nothing(value: Array) -> None:
    assert found(value) == []


def test_a_copied_run_is_found_across_models(value: Array) -> None:
    value[1, 2] = value[0, 3]
    assert found(value) == [("identical-run", "m1", 2, "m0", 3, 0, 11000)]


def test_runs_equal_up_to_a_step_are_one_run_until_then(value: Array) -> None:
    value[1, 0, :8] = value[0, 0, :8]
    assert found(value) == [("identical-until", "m1", 0, "m0", 0, 0, 7000)]


def test_a_stretch_in_between_is_found(value: Array) -> None:
    value[0, 2, 4:9] = value[0, 1, 4:9]
    assert found(value) == [("identical-stretch", "m0", 2, "m0", 1, 4000, 8000)]


def test_a_copied_metric_is_found_with_its_name(value: Array) -> None:
    value[0, 1:, :, 2] = value[0, 0, :, 2]  # one task of all seeds read from one run
    rows = audit_cube(cube_of(value))
    assert rows["seed"].values.tolist() == [1, 2, 3]
    assert rows["other_seed"].values.tolist() == [0, 0, 0]
    assert rows["metrics"].values.tolist() == ["eval/task2/score"] * 3


def test_many_copies_are_compared_with_the_first_only(value: Array) -> None:
    value[:] = value[:1, :1]
    assert [row[3:5] for row in found(value)] == [("m0", 0)] * 7


def test_a_shared_first_checkpoint_is_a_shared_initialisation(value: Array) -> None:
    value[1, 0, 0] = value[0, 0, 0]
    assert found(value) == [("same-start", "m1", 0, "m0", 0, 0, 0)]


def test_a_shared_start_that_weight_seeds_deny_is_a_warning(value: Array) -> None:
    value[0, 1, 0] = value[0, 0, 0]
    cube = cube_of(value).assign(weight_seed=(("model", "seed"), np.tile(np.arange(4), (2, 1))))
    rows = audit_cube(cube)
    assert rows["severity"].values.tolist() == ["warning"]
    assert "weight_seed" in rows["evidence"].item()


def test_runs_on_different_grids_are_compared_where_both_are_measured(value: Array) -> None:
    value[0, 1] = value[0, 0]
    value[0, 1, 1::2] = np.nan
    value[0, 0, 2] = np.nan
    assert ("identical-run", "m0", 1, "m0", 0, 0, 10000) in found(value)


def test_one_bit_of_difference_ends_a_stretch(value: Array) -> None:
    value[0, 1] = value[0, 0]
    value[0, 1, 6, 3] = np.nextafter(value[0, 1, 6, 3], 9)
    rows = audit_cube(cube_of(value))
    said = dict(zip(rows["kind"].values.tolist(), rows["n_metrics"].values.tolist(), strict=True))
    # The metrics without the difference are copies throughout, all of them together up to it and after.
    assert said == {"identical-run": 5, "identical-until": 6, "identical-stretch": 6}


def test_the_order_of_seeds_does_not_change_what_is_found(value: Array) -> None:
    value[0, 3, :8] = value[0, 1, :8]
    turned = value[:, ::-1]
    assert [row[0] for row in found(turned)] == [row[0] for row in found(value)]


def test_scaling_a_metric_changes_nothing(value: Array) -> None:
    value[0, 3] = value[0, 1]
    assert found(value * 2.0**-40) == found(value)


@pytest.mark.parametrize("fill", [np.nan, 0.25, np.inf])
def test_empty_flat_and_infinite_runs_prove_nothing(value: Array, fill: float) -> None:
    assert found(np.full_like(value, fill)) == []


def test_equal_infinities_are_two_diverged_runs_not_a_copy(value: Array) -> None:
    value[0, :2, 6:] = np.inf
    assert found(value) == []


def coarse_cubes(n_cubes: int, n_items: int, shape: tuple[int, ...]) -> int:
    """How many clean cubes of accuracies over few items have a finding on copies."""
    rng = np.random.default_rng(n_items)
    alarms = 0
    for _ in range(n_cubes):
        level = rng.uniform(0.3, 0.7, (1, 1, 1, shape[3])) + 0.2 * np.linspace(0, 1, shape[2])[:, None]
        noise = rng.normal(0, 0.02, shape)
        for t in range(1, shape[2]):
            noise[:, :, t] = 0.9 * noise[:, :, t - 1] + 0.43 * noise[:, :, t]
        rounded = np.round((level + noise) * n_items) / n_items
        there = np.arange(shape[0] * shape[1]) // shape[1]
        alarms += bool(shared_stretches(rounded.reshape(-1, *shape[2:]), there))
    return alarms


@pytest.mark.slow
@pytest.mark.parametrize("n_items", [50, 100, 1000, 10_000])
def test_coarse_accuracies_that_agree_by_chance_are_no_copies(n_items: int) -> None:
    assert coarse_cubes(5, n_items, (2, 10, 30, 8)) == 0


@pytest.mark.slow
@pytest.mark.parametrize("n_items", [50, 100, 1000, 10_000])
@pytest.mark.parametrize("shape", [(1, 2, 30, 1), (1, 20, 154, 1), (3, 10, 27, 40)])
def test_no_clean_cube_of_forty_has_a_copy(n_items: int, shape: tuple[int, ...]) -> None:
    assert coarse_cubes(40, n_items, shape) == 0


@pytest.mark.slow
def test_losses_with_four_decimals_are_no_copies() -> None:
    rng = np.random.default_rng(3)
    curve = 4 + 4 * np.exp(-np.arange(40) / 8)
    value = np.round(curve[:, None] + rng.normal(0, 0.002, (1, 30, 40, 1)), 4)
    assert found(value, metrics=["loss/val/loss"]) == []
