"""One live run against past runs and its own past."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from live_cubes import LOSS, NORM, cube_of, curves, tree_of

from polystab.errors import AnalysisError
from polystab.monitor import Finding, Reference, RunWatcher


def followed(watcher: RunWatcher, loss: np.ndarray, *, every: int = 1, start: int = 0) -> list[Finding]:
    for t in range(start, len(loss), every):
        watcher.update(t + 1, {LOSS: float(loss[t])})
    return watcher.alarms


@pytest.fixture(scope="module")
def past() -> Reference:
    return Reference(tree_of(curves(9, 200, rng=1)))


@pytest.fixture
def healthy() -> np.ndarray:
    return curves(1, 200, rng=11)[0]


class TestBand:
    def test_a_run_like_the_past_ones_is_quiet(self, past: Reference, healthy: np.ndarray) -> None:
        assert followed(RunWatcher(past), healthy) == []

    def test_a_run_that_departs_is_found_once_and_soon(self, past: Reference, healthy: np.ndarray) -> None:
        healthy[100:] += 0.5
        alarms = followed(RunWatcher(past), healthy)
        assert [(alarm.rule, alarm.step, alarm.since) for alarm in alarms] == [("band", 103, 101)]

    def test_it_is_found_as_well_on_a_coarser_grid(self, past: Reference, healthy: np.ndarray) -> None:
        healthy[100:] += 0.5
        assert [alarm.since for alarm in followed(RunWatcher(past), healthy, every=10, start=9)] == [110]

    def test_one_value_alone_is_none(self, past: Reference, healthy: np.ndarray) -> None:
        healthy[100] += 50.0
        assert followed(RunWatcher(past, own_past=False), healthy) == []

    def test_a_lower_loss_is_none(self, past: Reference, healthy: np.ndarray) -> None:
        assert followed(RunWatcher(past), healthy - 1.0) == []

    def test_the_message_says_where_the_past_was_and_how_rare_this_is(
        self, past: Reference, healthy: np.ndarray
    ) -> None:
        healthy[100:] += 0.5
        message = followed(RunWatcher(past), healthy)[0].message
        assert "further than all 9 past runs ever were" in message
        assert "At most 10 % of healthy runs" in message

    def test_values_one_by_one_and_all_again_are_the_same(self, past: Reference, healthy: np.ndarray) -> None:
        # A rewind compares all that is left at once; values one by one keep a running sum.
        one, other = RunWatcher(past), RunWatcher(past)
        followed(one, healthy[:120])
        followed(other, healthy[:150])
        other.update(121, {LOSS: 3.0})
        one.update(121, {LOSS: 3.0})
        assert one._band is not None
        assert other._band is not None
        assert np.allclose(one._band.lives[LOSS].out, other._band.lives[LOSS].out, rtol=1e-12)

    def test_what_comes_later_does_not_change_what_was_said(self, past: Reference, healthy: np.ndarray) -> None:
        healthy[100:] += 0.5
        whole = [alarm for alarm in followed(RunWatcher(past), healthy) if alarm.step <= 120]
        assert followed(RunWatcher(past), healthy[:120]) == whole

    def test_steps_after_the_reference_are_not_compared(self, past: Reference) -> None:
        watcher = RunWatcher(past, own_past=False)
        assert [watcher.update(step, {LOSS: 99.0}) for step in range(201, 260)][-1] == []

    def test_a_grid_without_a_common_step_is_said(self) -> None:
        loss = curves(5, 40, rng=0)
        watcher = RunWatcher(Reference(cube_of(loss=loss)))
        found = [one for step in range(100, 140) for one in watcher.update(step, {LOSS: 3.0})]
        assert [(one.rule, one.alarm) for one in found] == [("no-common-step", False)]

    def test_a_metric_that_the_reference_lacks_is_passed_over(self, past: Reference) -> None:
        watcher = RunWatcher(past)
        assert [watcher.update(step, {"eval/arc/acc": -5.0}) for step in range(1, 40)][-1] == []

    def test_gradient_norms_count_too(self) -> None:
        norm = np.exp(0.1 * np.random.default_rng(0).standard_normal((9, 100)))
        watcher = RunWatcher(Reference(cube_of(norm=norm)), own_past=False)
        for t in range(100):
            watcher.update(t + 1, {NORM: norm[0, t] * (3.0 if t >= 50 else 1.0)})
        assert [(alarm.metric, alarm.since) for alarm in watcher.alarms] == [(NORM, 51)]

    def test_a_metric_with_fewer_steps_than_values_in_a_row_has_no_say(self) -> None:
        cube = tree_of(curves(5, 20, rng=0))  # two checkpoints with a validation loss
        assert len(followed(RunWatcher(Reference(cube)), np.full(20, 9.0))) == 1


class TestNotFinite:
    def test_is_said_once_until_it_is_finite_again(self) -> None:
        watcher = RunWatcher()
        followed(watcher, np.array([math.inf, math.inf, 3.0, math.inf]))
        assert [alarm.step for alarm in watcher.alarms] == [1, 4]

    def test_an_infinite_loss_is_an_alarm_at_once(self) -> None:
        watcher = RunWatcher(own_past=False)
        assert [found.rule for found in watcher.update(5, {LOSS: math.inf})] == ["non-finite"]

    @pytest.mark.parametrize("metric", ["weight/embed_out/spectral_norm", "activation/embed_out/max_abs"])
    def test_weights_and_logits_that_are_nan_are_an_alarm_at_once(self, metric: str) -> None:
        assert [found.alarm for found in RunWatcher().update(5, {metric: math.nan})] == [True]

    def test_a_loss_that_is_nan_is_one_after_three(self) -> None:
        watcher = RunWatcher()
        alarms = followed(watcher, np.array([3.0, 2.9, 2.8, math.nan, math.nan, math.nan, math.nan]))
        assert [(alarm.step, alarm.since) for alarm in alarms] == [(6, 4)]

    def test_an_evaluation_that_is_nan_is_none(self) -> None:
        watcher = RunWatcher()
        assert [watcher.update(step, {"eval/arc/f1": math.nan}) for step in range(50)][-1] == []


class TestRestart:
    def test_is_said_and_what_came_after_forgotten(self, past: Reference, healthy: np.ndarray) -> None:
        watcher = RunWatcher(past)
        broken = healthy.copy()
        broken[100:] += 0.5
        followed(watcher, broken[:130])
        followed(watcher, healthy, start=90)
        assert [found.rule for found in watcher.findings] == ["band", "restart"]

    def test_the_alarm_is_raised_again_if_it_goes_wrong_again(self, past: Reference, healthy: np.ndarray) -> None:
        watcher = RunWatcher(past, own_past=False)
        healthy[100:] += 0.5
        followed(watcher, healthy)
        followed(watcher, healthy, start=90)
        assert [alarm.step for alarm in watcher.alarms] == [103, 103]

    def test_other_metrics_forget_too(self) -> None:
        loss, norm = curves(9, 100, rng=1), np.exp(0.1 * np.random.default_rng(0).standard_normal((9, 100)))
        watcher = RunWatcher(Reference(cube_of(loss=loss, norm=norm)), own_past=False)
        for t in [*range(80), *range(40, 100)]:
            bad = len(watcher.findings) < 2 and t >= 50
            watcher.update(t + 1, {LOSS: loss[0, t], NORM: norm[0, t] * (9.0 if bad else 1.0)})
        assert [found.rule for found in watcher.findings] == ["band", "restart"]

    def test_the_same_step_again_is_passed_over(self) -> None:
        watcher = RunWatcher()
        watcher.update(7, {LOSS: 3.0})
        assert watcher.update(7, {LOSS: math.inf}) == []


def test_findings_are_plain_for_json() -> None:
    found = RunWatcher().update(5, {LOSS: math.inf})[0].to_dict()
    assert json.loads(json.dumps(found, allow_nan=False))["value"] == "inf"


def test_two_numbers_of_values_in_a_row_are_refused(past: Reference) -> None:
    with pytest.raises(AnalysisError, match="give it there"):
        RunWatcher(past, sustain=5)


def test_a_window_that_makes_no_sense_is_refused_at_once() -> None:
    with pytest.raises(AnalysisError, match="window"):
        RunWatcher(window=0)
