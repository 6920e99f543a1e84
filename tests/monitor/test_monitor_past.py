"""The rules about a run's own past."""

from __future__ import annotations

import math

import numpy as np
import pytest
from live_cubes import curves

from polystab.analysis import loss_spikes
from polystab.errors import AnalysisError
from polystab.monitor import OwnPast
from polystab.monitor.past import Said


def said(values: object, **arguments: object) -> list[tuple[int, Said]]:
    """What was said, and at which place."""
    past = OwnPast(**arguments)  # type: ignore[arg-type]
    return [(place, one) for place, value in enumerate(np.asarray(values)) for one in past.add(float(value))]


def noise(n: int, *, rng: int = 0) -> np.ndarray:
    return 3 + 0.05 * np.random.default_rng(rng).standard_normal(n)


def test_single_spikes_are_those_of_the_rule_for_whole_curves() -> None:
    loss = curves(1, 600, rng=3)[0]
    loss[[380, 450, 451, 590]] += [1.0, 2.0, 2.0, 1.2]
    found = [place for place, one in said(loss) if one.rule == "spike"]
    # Of two in a row the second is no new event.
    assert found == [place for place in np.flatnonzero(loss_spikes(loss)).tolist() if place != 451] == [380, 450, 590]


def test_a_spike_that_passes_is_no_alarm() -> None:
    loss = noise(200)
    loss[150:152] += 1.0
    assert [(place, one.alarm) for place, one in said(loss)] == [(150, False)]


def test_a_jump_that_stays_is_one_alarm_since_it_began() -> None:
    loss = noise(200)
    loss[150:] += 1.0
    alarms = [(place, one.rule, one.since) for place, one in said(loss, climbs=False) if one.alarm]
    assert alarms == [(152, "spike", 2)]


def test_a_slow_climb_is_an_alarm_although_no_value_spikes() -> None:
    loss = noise(600)
    loss[300:] += np.linspace(0, 1, 300)
    found = [(place, one.rule) for place, one in said(loss) if one.alarm]
    assert [rule for _, rule in found] == ["climb"]
    assert 350 < found[0][0] < 500


def test_a_climb_is_not_looked_for_unless_asked() -> None:
    loss = noise(600)
    loss[300:] += np.linspace(0, 1, 300)
    assert said(loss, climbs=False) == []


@pytest.mark.slow
def test_healthy_curves_are_quiet() -> None:
    values = curves(8, 300, rng=5)
    assert sum(one.alarm for curve in values for _, one in said(curve)) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_series_that_ends_in_no_numbers_is_broken(bad: float) -> None:
    found = said([*noise(10), bad, bad, bad, bad])
    assert [(place, one.rule, one.since) for place, one in found] == [(12, "non-finite", 2)]


def test_a_column_that_is_filled_now_and_then_is_not_broken() -> None:
    assert said(([2.0] + [math.nan] * 9) * 10) == []


def test_a_gradient_scaler_that_settles_is_not_broken() -> None:
    assert said([math.inf] * 12 + [1.0] * 50) == []


def test_a_series_that_never_had_a_number_is_broken() -> None:
    assert [one.rule for _, one in said([math.nan] * 30)] == ["non-finite"]


def test_a_constant_series_is_quiet() -> None:
    assert said([1.0] * 300) == []


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_an_offset_changes_nothing(offset: float) -> None:
    loss = noise(300)
    loss[200:] += 1.0
    assert [place for place, _ in said(loss + offset)] == [place for place, _ in said(loss)]


@pytest.mark.parametrize("arguments", [{"window": 1}, {"sd": 0.0}, {"sustain": 0}, {"sd": math.nan}])
def test_refuses_arguments_that_make_no_sense(arguments: dict[str, float]) -> None:
    with pytest.raises(AnalysisError):
        OwnPast(**arguments)  # type: ignore[arg-type]
