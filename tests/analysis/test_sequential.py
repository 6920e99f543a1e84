"""The sequential detector: run lengths against published ones and simulation, delays, and bad values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from polystab.analysis.sequential import SequentialDetector, run_length, threshold_of
from polystab.errors import AnalysisError


def alarms(detector: SequentialDetector, values: Iterable[float]) -> list[int]:
    """Places (from 0) at which the detector was in alarm."""
    return [place for place, value in enumerate(values) if detector.update(value)]


def noise(n: int, rng: int = 0, correlation: float = 0.0) -> list[float]:
    generator = np.random.default_rng(rng)
    values = [float(generator.standard_normal())]
    for draw in generator.standard_normal(n - 1):
        values.append(correlation * values[-1] + math.sqrt(1 - correlation**2) * float(draw))
    return values


def run_lengths(n: int, *, correlation: float = 0.0, before: int = 0, **arguments: Any) -> float:
    """Mean run length of a detector over ``n`` series of noise, each after a reference of ``before`` values."""
    lengths = []
    for rng in range(n):
        generator = np.random.default_rng([7, rng])
        reference = generator.standard_normal(before)
        detector = SequentialDetector(autocorrelation=correlation, reference=reference, **arguments)
        value, count = float(generator.standard_normal()), 1
        while not detector.update(value):
            value = correlation * value + math.sqrt(1 - correlation**2) * float(generator.standard_normal())
            count += 1
        lengths.append(count)
    return float(np.mean(lengths))


# Run lengths.


@pytest.mark.slow
@pytest.mark.parametrize(
    ("threshold", "mean", "published"),
    [(4.0, 0.0, 168), (4.0, 1.0, 8.38), (4.0, 2.0, 3.34), (5.0, 0.0, 465), (5.0, 1.0, 10.4), (5.0, 2.0, 4.01)],
)
def test_run_lengths_are_the_published_ones(threshold: float, mean: float, published: float) -> None:
    # Lucas and Crosier (1982), https://doi.org/10.1080/00401706.1982.10487759, table 1: k = 1/2, no head start.
    assert run_length(threshold, mean=mean, sides=2) == pytest.approx(published, rel=0.005)


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0.5, 1.0])
@pytest.mark.parametrize("stated", [100, 1000, 10_000])
def test_thresholds_agree_with_siegmund(shift: float, stated: float) -> None:
    reach = shift * (threshold_of(stated, shift=shift, sides=1) + 1.166)
    assert (math.exp(reach) - reach - 1) / (shift**2 / 2) == pytest.approx(stated, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["both", "up"])
def test_noise_alarms_as_rarely_as_stated(direction: str) -> None:
    # 1,000 runs: the standard error of the mean is 3 %.
    assert run_lengths(1000, average_run_length=50, direction=direction) == pytest.approx(50, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [-0.3, 0.3, 0.6, 0.9])
def test_autocorrelated_noise_alarms_as_rarely_as_stated(correlation: float) -> None:
    assert run_lengths(1500, correlation=correlation, average_run_length=100) == pytest.approx(100, rel=0.1)


@pytest.mark.slow
def test_a_short_reference_leaves_the_rate_as_stated() -> None:
    assert run_lengths(1500, before=10, average_run_length=100) == pytest.approx(100, rel=0.1)


@pytest.mark.slow
def test_scale_and_offset_change_nothing() -> None:
    values = np.array(noise(200, 4) + [x + 2 for x in noise(20, 5)])
    plain = alarms(SequentialDetector(), values)
    assert plain
    assert alarms(SequentialDetector(), 1e-8 * values) == plain
    assert alarms(SequentialDetector(), 1e6 + values) == plain


@pytest.mark.slow
def test_upside_down_is_the_same_the_other_way() -> None:
    values = np.array(noise(50, 4) + [x + 3 for x in noise(20, 5)])
    up, down = SequentialDetector(direction="up"), SequentialDetector(direction="down")
    assert alarms(up, values) == alarms(down, -values) != []
    assert alarms(SequentialDetector(direction="down"), values[:70]) == []


# Delays.


def delays(size: float, *, n: int = 200) -> list[float]:
    """Values from a step until the alarm; negative where it came before."""
    found = []
    for rng in range(n):
        values = np.array(noise(150, rng))
        values[100:] += size
        places = alarms(SequentialDetector(average_run_length=1000), values)
        found.append(places[0] - 99 if places else math.inf)
    return found


@pytest.mark.slow
def test_a_step_of_2_sd_is_found_after_five_values() -> None:
    after = [delay for delay in delays(2.0) if delay > 0]
    assert len(after) > 170  # 1 - 100 / 1000, and some luck
    assert 4 < np.mean(after) < 5.2  # 4.5 for a known level (Markov chain)


@pytest.mark.slow
def test_a_larger_step_is_found_sooner() -> None:
    assert np.median(delays(1.0, n=60)) > np.median(delays(2.0, n=60)) > np.median(delays(4.0, n=60))


@pytest.mark.slow
def test_since_tells_when_the_change_began() -> None:
    detector = SequentialDetector(average_run_length=300)
    assert alarms(detector, [*[1.0, -1.0] * 25, 4.0, 5.0, 4.0])
    assert detector.since == 3


# Bad values.


@pytest.mark.slow
def test_missing_values_are_passed_over() -> None:
    values = noise(40, 1) + [x + 3 for x in noise(10, 2)]
    with_gaps = [x for value in values for x in (value, math.nan)]
    one, two = SequentialDetector(), SequentialDetector()
    assert [one.update(x) for x in values] == [two.update(x) for x in with_gaps][::2]
    assert one.to_dict()["mean"] == two.to_dict()["mean"]


def test_missing_values_under_autocorrelation_cost_the_next_value() -> None:
    detector = SequentialDetector(autocorrelation=0.5)
    for value in [1.0, 2.0, math.nan, 3.0, 4.0]:
        detector.update(value)
    assert detector.n_learnt == 2


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_an_infinite_value_is_an_alarm_until_restart(value: float) -> None:
    detector = SequentialDetector(reference=noise(30))
    assert detector.update(value)
    assert detector.update(0.0)
    assert detector.statistic == math.inf
    detector.restart()
    assert not detector.update(0.0)


def test_one_glitch_is_no_alarm_and_two_later_ones_neither() -> None:
    values = np.zeros(100) + np.tile([1.0, -1.0], 50)
    values[[30, 60, 80]] = 1e6
    assert alarms(SequentialDetector(), values) == []


@pytest.mark.slow
def test_without_a_limit_a_glitch_is_an_alarm() -> None:
    assert alarms(SequentialDetector(limit=math.inf, reference=noise(30)), [0.0, 50.0])[0] == 1


def test_a_constant_series_never_alarms() -> None:
    assert alarms(SequentialDetector(), [0.1 + 0.2] * 500) == []


def test_a_constant_series_that_steps_alarms_soon() -> None:
    assert alarms(SequentialDetector(), [0.25] * 50 + [0.5] * 10)[0] in (52, 53)


@pytest.mark.slow
def test_the_first_two_values_never_alarm() -> None:
    assert alarms(SequentialDetector(average_run_length=10), [0.0, 1e9]) == []


def test_alarmed_it_learns_nothing() -> None:
    detector = SequentialDetector(reference=noise(50))
    alarms(detector, [5.0] * 3)
    learnt = detector.n_learnt
    assert detector.update(5.0)
    assert detector.n_learnt == learnt


def test_restart_may_keep_what_was_learnt() -> None:
    detector = SequentialDetector(reference=noise(50))
    alarms(detector, [6.0] * 6)
    detector.restart(forget=False)
    assert detector.statistic == 0
    assert alarms(detector, [6.0] * 3) == [2]


# State.


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], [math.nan], [math.inf]])
@pytest.mark.parametrize("arguments", [{}, {"limit": math.inf, "autocorrelation": 0.4, "direction": "down"}])
def test_a_saved_detector_goes_on_as_if_nothing_happened(arguments: dict[str, Any], extra: list[float]) -> None:
    first = SequentialDetector(average_run_length=100, **arguments)
    alarms(first, [*noise(30), *extra])
    text = json.dumps(first.to_dict(), allow_nan=False)
    second = SequentialDetector.from_dict(json.loads(text))
    values = [x + 1 for x in noise(30, 1)]
    assert alarms(first, values) == alarms(second, values)
    assert first.to_dict() == second.to_dict()
    assert len(text) < 600


def test_a_state_with_gaps_is_refused() -> None:
    with pytest.raises(AnalysisError, match="lacks shift, mean"):
        SequentialDetector.from_dict(
            {k: v for k, v in SequentialDetector().to_dict().items() if k not in ("shift", "mean")}
        )


def test_repr_names_the_arguments() -> None:
    assert "average_run_length=1000.0, shift=1.0, direction='both'" in repr(SequentialDetector())


# Arguments.


def test_autocorrelation_is_estimated_from_a_reference() -> None:
    found = [
        SequentialDetector(autocorrelation="reference", reference=noise(200, i, 0.6)).autocorrelation for i in range(40)
    ]
    assert np.mean(found) == pytest.approx(0.6, abs=0.03)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"average_run_length": 5}, "average_run_length is 5; it lies between 10 and inf"),
        ({"average_run_length": math.nan}, "average_run_length is nan"),
        ({"average_run_length": "long"}, "average_run_length is 'long', not a number"),
        ({"shift": 0}, "shift is 0"),
        ({"limit": 0.5}, "limit is 0.5"),
        ({"limit": 1.5, "shift": 4}, "not above half the shift"),
        ({"direction": "upp"}, "Did you mean 'up'"),
        ({"autocorrelation": 1.0}, "autocorrelation is 1.0; it lies between -1 and 1"),
        ({"autocorrelation": "auto"}, "pass a number or 'reference'"),
        ({"autocorrelation": "reference"}, "reference has 0 finite values"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        SequentialDetector(**arguments)
