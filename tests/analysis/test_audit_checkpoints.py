"""Checkpoints under a wrong step: frozen, copied, shifted."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from cubes_of_arrays import make_cube

from polystab.analysis.audit.checks import audit_cube

Array = npt.NDArray[np.float64]


def cube_of(value: Array, **given: Any) -> xr.Dataset:
    """A cube of scores that may be anything."""
    given.setdefault("metrics", [f"eval/task{k}/score" for k in range(value.shape[3])])
    return make_cube(value, **given)


@pytest.fixture
def value() -> Array:
    return np.random.default_rng(0).normal(size=(1, 4, 12, 6)).cumsum(axis=2)


def rows(value: Array, **given: Any) -> list[tuple[str, int, list[int]]]:
    """Kind, seed and the steps concerned."""
    found = audit_cube(cube_of(value, **given))
    return [
        (kind, seed, found["step"].values[at].tolist())
        for kind, seed, at in zip(
            found["kind"].values.tolist(), found["seed"].values.tolist(), found["at_step"].values, strict=True
        )
    ]


def test_honest_checkpoints_have_no_findings(value: Array) -> None:
    assert rows(value) == []


def test_equal_first_checkpoints_are_frozen_and_the_first_stays(value: Array) -> None:
    value[0, 2, 1:3] = value[0, 2, 0]
    assert rows(value) == [("frozen-checkpoint", 2, [1000, 2000])]


def test_frozen_over_steps_that_were_not_measured_is_frozen(value: Array) -> None:
    value[0, 2, 3] = np.nan
    value[0, 2, 4] = value[0, 2, 2]
    assert ("frozen-checkpoint", 2, [4000]) in rows(value)


def test_a_late_checkpoint_under_an_early_step_is_the_one_out_of_place(value: Array) -> None:
    value[0, 1] = np.linspace(0, 20, 12)[:, None] * np.arange(1, 7) + 0.1 * value[0, 1]
    value[0, 1, 3] = value[0, 1, 11]
    assert rows(value) == [("copied-checkpoint", 1, [3000])]


def test_an_early_checkpoint_under_a_late_step_is_the_one_out_of_place(value: Array) -> None:
    value[0, 1] = np.linspace(0, 20, 12)[:, None] * np.arange(1, 7) + 0.1 * value[0, 1]
    value[0, 1, 9] = value[0, 1, 2]
    assert rows(value) == [("copied-checkpoint", 1, [9000])]


def test_where_the_place_cannot_be_told_both_steps_are_concerned() -> None:
    value = np.random.default_rng(2).normal(size=(1, 3, 12, 6))  # no trend at all
    value[0, 1, 9] = value[0, 1, 2]
    assert rows(value) == [("copied-checkpoint", 1, [2000, 9000])]


def test_copies_of_one_family_are_found_beside_sound_others(value: Array) -> None:
    value = np.concatenate([value, 5 + value[..., ::-1] ** 2], axis=3)
    value[0, 0, 5, 6:] = value[0, 0, 4, 6:]
    metrics = [f"eval/t{i}/score" for i in range(6)] + [f"weight/w{i}/mean" for i in range(6)]
    found = audit_cube(make_cube(value, metrics=metrics))
    assert found["kind"].values.tolist() == ["frozen-checkpoint"]
    assert int(found["n_metrics"].item()) == 6
    assert found["metrics"].item().startswith("weight/w0/mean")


def test_few_metrics_that_agree_prove_nothing(value: Array) -> None:
    value[0, 2, 1] = value[0, 2, 0]
    assert rows(value[..., :4]) == []


def test_metrics_that_never_change_prove_nothing(value: Array) -> None:
    value[...] = value[:, :, :1]
    assert [kind for kind, _, _ in rows(value)] == []


def test_values_shifted_by_one_step_in_another_run(value: Array) -> None:
    value[0, 3, 1:] = value[0, 1, :-1]
    assert rows(value) == [("shifted-values", 3, [1000 * t for t in range(1, 12)])]


def test_values_of_one_metric_shifted_by_one_step(value: Array) -> None:
    value[0, 3, 1:, 0] = value[0, 1, :-1, 0]
    found = audit_cube(cube_of(value))
    assert found["kind"].values.tolist() == ["shifted-values"]
    assert found["metrics"].item() == "eval/task0/score"
    assert "shifted by 1 checkpoint" in found["evidence"].item()


def test_a_shift_in_a_cube_of_one_metric_is_found() -> None:
    value = np.random.default_rng(4).normal(size=(1, 6, 27, 1)).cumsum(axis=2)
    value[0, 5, 1:] = value[0, 2, :-1]
    assert rows(value) == [("shifted-values", 5, [1000 * t for t in range(1, 27)])]


def test_values_that_a_run_repeats_are_found() -> None:
    value = np.random.default_rng(4).normal(size=(1, 3, 40, 1)).cumsum(axis=2)
    value[0, 1, 20:30] = value[0, 1, 5:15]
    assert rows(value) == [("repeated-stretch", 1, [1000 * t for t in range(20, 30)])]


def test_a_checkpoint_of_another_run_and_step(value: Array) -> None:
    value[0, 3, 7] = value[0, 1, 4]
    assert rows(value) == [("misplaced-checkpoint", 3, [7000])]


def test_a_copied_run_with_frozen_steps_has_no_misplaced_checkpoints(value: Array) -> None:
    value[0, 1, 1] = value[0, 1, 0]
    value[0, 3] = value[0, 1]
    assert {kind for kind, _, _ in rows(value)} == {"identical-run", "frozen-checkpoint"}


def test_scores_of_few_items_do_not_look_frozen() -> None:
    rng = np.random.default_rng(5)
    value = rng.binomial(20, 0.5, (2, 5, 60, 6)) / 20
    assert rows(value) == []


def test_steps_that_were_not_measured_are_passed_over(value: Array) -> None:
    value[0, :, ::3] = np.nan
    value[0, 3, 1:, 0] = np.nan
    assert [kind for kind, _, _ in rows(value) if kind != "coverage-hole" and kind != "ends-early"] == []


@pytest.mark.slow
def test_real_hu_metrics_have_equal_steps_0_and_1(shared_data) -> None:  # type: ignore[no-untyped-def]
    from polystab.sources.tables import read_table

    path = shared_data / "pythia-training-maps" / "Pythia70m_Hu_metrics.tsv"
    found = audit_cube(read_table(path, model="pythia-70m", family="weight"))
    frozen = found.isel(finding=np.flatnonzero(found["kind"].values == "frozen-checkpoint"))
    assert frozen["seed"].values.tolist() == [0, 1, 2, 3, 4]
    assert all("steps 0 and 1" in text for text in frozen["evidence"].values.tolist())


def test_rows_name_no_step_that_is_not_in_the_cube(value: Array) -> None:
    value[0, 2, 1:3] = value[0, 2, 0]
    cube: xr.Dataset = cube_of(value, steps=[0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000])
    found = audit_cube(cube)
    assert (found["first_step"].item(), found["last_step"].item()) == (1, 2)
