"""Which past runs, metrics and steps a live run is compared with."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from live_cubes import LOSS, NORM, cube_of, curves, tree_of

import polystab as ps
from polystab.errors import AnalysisError, NotACubeError
from polystab.monitor import Reference
from polystab.monitor.contest import BOTH, DOWN, UP
from polystab.testing.drawing import bare_cube


def test_the_log_of_every_update_goes_before_the_cube() -> None:
    tree = tree_of(curves(4, 100, rng=0), np.exp(curves(4, 100, rng=1)))
    reference = Reference(tree)
    sizes = {name: len(curve.steps) for name, curve in reference.curves.items()}
    assert sizes == {"loss/validation/cross_entropy": 10, LOSS: 100, NORM: 100}


def test_a_cube_without_a_log_is_enough() -> None:
    reference = Reference(cube_of(loss=curves(4, 50, rng=0)))
    assert (reference.runs, reference.last_step, list(reference.curves)) == ([0, 1, 2, 3], 50, [LOSS])


@pytest.mark.slow
def test_a_cube_goes_by_name() -> None:
    assert Reference("nano", model="nano-96k").runs == list(range(10))


def test_what_a_training_log_became_is_a_reference(tmp_path: object) -> None:
    from pathlib import Path

    for seed, curve in enumerate(curves(3, 30, rng=0)):
        rows = "".join(f"{step},{loss:.6f}\n" for step, loss in enumerate(curve, 1))
        (Path(str(tmp_path)) / f"seed{seed}.csv").write_text("step,loss\n" + rows)
    assert Reference(ps.read_training_log(str(tmp_path), model="a")).runs == [0, 1, 2]


def test_runs_that_went_wrong_are_left_out() -> None:
    loss = curves(5, 300, rng=0)
    loss[2, 200:] += 2.0
    reference = Reference(tree_of(loss))
    assert reference.runs == [0, 1, 3, 4]
    assert reference.notes == ["Seeds 2 went wrong, and are left out."]


def test_runs_with_infinite_values_are_left_out() -> None:
    loss = curves(5, 50, rng=0)
    loss[1, 30] = np.inf
    assert Reference(cube_of(loss=loss)).runs == [0, 2, 3, 4]


def test_copies_count_once() -> None:
    loss = curves(5, 50, rng=0)
    loss[4] = loss[0]
    assert Reference(cube_of(loss=loss)).runs == [0, 1, 2, 3]


def test_runs_that_stopped_early_are_left_out() -> None:
    loss = curves(5, 50, rng=0)
    loss[3, 30:] = np.nan
    assert Reference(cube_of(loss=loss)).runs == [0, 1, 2, 4]


def test_a_run_that_lacks_some_values_counts_and_a_metric_that_lacks_many_does_not() -> None:
    loss, norm = curves(5, 50, rng=0), np.exp(curves(5, 50, rng=1))
    loss[3, 20:23] = np.nan
    norm[4, ::2] = np.nan
    reference = Reference(cube_of(loss=loss, norm=norm))
    assert (reference.runs, list(reference.curves)) == ([0, 1, 2, 3, 4], [LOSS])
    assert reference.notes == [f"{NORM} is not measured in all runs, and left out."]


def test_the_bad_side_is_above_for_losses_below_for_scores_and_both_else() -> None:
    value = np.random.default_rng(0).uniform(1, 2, (1, 4, 20, 3))
    names = [LOSS, "eval/arc/acc", NORM]
    cube = bare_cube(value, ["a"], np.arange(20), names).assign_coords(better=("metric", ["lower", "higher", ""]))
    found = Reference(cube, metrics=names).curves
    assert [found[name].side for name in names] == [UP, DOWN, BOTH]


def test_gradient_norms_are_compared_in_logs() -> None:
    norm = np.random.default_rng(0).uniform(1, 2, (4, 20))
    curve = Reference(cube_of(norm=norm)).curves[NORM]
    assert np.allclose(curve.values, np.log(norm))
    assert np.allclose(curve.plain(curve.values), norm)


class TestRate:
    @pytest.mark.parametrize(("n", "rate"), [(3, 1 / 4), (9, 1 / 10), (19, 1 / 20), (30, 1 / 31)])
    def test_is_what_the_runs_allow(self, n: int, rate: float) -> None:
        assert Reference(cube_of(loss=curves(n, 20, rng=0))).false_alarm == pytest.approx(rate)

    def test_a_rate_that_the_runs_cannot_give_is_refused_with_how_many_are_needed(self) -> None:
        with pytest.raises(AnalysisError, match=r"9 runs give 0\.1 at best; use 19 runs"):
            Reference(cube_of(loss=curves(9, 20, rng=0)), false_alarm=0.05)

    def test_a_larger_rate_allows_runs_that_went_further(self) -> None:
        reference = Reference(cube_of(loss=curves(9, 20, rng=0)), false_alarm=0.3)
        assert (reference.allowed, reference.false_alarm) == (1, pytest.approx(0.3))


class TestRefuses:
    def test_fewer_than_three_runs(self) -> None:
        with pytest.raises(AnalysisError, match="a has 2 runs to compare with; a band needs 3"):
            Reference(cube_of(loss=curves(2, 20, rng=0)))

    def test_only_runs_that_went_wrong_and_says_so(self) -> None:
        loss = np.full((3, 20), np.inf)
        with pytest.raises(AnalysisError, match="went wrong"):
            Reference(cube_of(loss=loss))

    @pytest.mark.slow
    def test_a_model_that_is_not_there(self) -> None:
        with pytest.raises(AnalysisError, match="Did you mean 'nano-96k'"):
            Reference("nano", model="nano-95k")

    @pytest.mark.slow
    def test_several_models_without_a_choice(self) -> None:
        with pytest.raises(AnalysisError, match="3 models; pass model="):
            Reference("nano")

    def test_a_metric_that_is_not_there(self) -> None:
        with pytest.raises(AnalysisError, match="Did you mean"):
            Reference(cube_of(loss=curves(4, 20, rng=0)), metrics=["loss/train/crossentropy"])

    def test_a_cube_without_anything_to_watch(self) -> None:
        cube = bare_cube(np.ones((1, 4, 5, 1)), ["a"], np.arange(5), ["eval/arc/acc"])
        with pytest.raises(AnalysisError, match="name metrics"):
            Reference(cube)

    def test_a_name_of_nothing(self) -> None:
        with pytest.raises(NotACubeError, match="neither a file nor the name of a cube"):
            Reference("nanoo")

    def test_a_rate_that_is_none(self) -> None:
        with pytest.raises(AnalysisError, match="false_alarm is 2"):
            Reference(cube_of(loss=curves(4, 20, rng=0)), false_alarm=2.0)


def test_the_cube_is_left_as_it_was() -> None:
    tree = tree_of(curves(4, 50, rng=0))
    before = tree.copy(deep=True)
    Reference(tree)
    xr.testing.assert_identical(tree, before)
