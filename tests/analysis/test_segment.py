"""segment: known changes found, algebra, calibration on noise, intervals, glitches, odd input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from polystab.analysis.change_points import segment, segment_many
from polystab.analysis.phases.agreement import change_point_f1, covering
from polystab.analysis.segments.null import LEVELS, TRUE_RHOS, ar1_noise, tabulated
from polystab.errors import AnalysisError

TCPD = Path(__file__).parents[3] / "shared" / "data" / "tcpd"
PYTHIA_27 = np.array([0, *2.0 ** np.arange(10), 1000, 3000, *range(13000, 143001, 10000)])
PYTHIA_154 = np.array([0, *2.0 ** np.arange(10), *range(1000, 143001, 1000)])


def noise(n: int = 80, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=n)


def stepped(n: int = 80, size: float = 4.0, seed: int = 0) -> np.ndarray:
    return noise(n, seed) + size * (np.arange(n) >= n // 2)


# Known truth


@pytest.mark.parametrize("cost", ["l2", "meanvar", "linear"])
def test_a_large_step_is_found_with_every_cost_that_can_jump(cost: str) -> None:
    found = segment(stepped(size=8.0), cost=cost)
    assert found.indices.tolist() == [40]
    assert found.before.tolist() == [39]
    assert found.p_values[0] < 0.01
    assert found.sizes[0] == pytest.approx(8.0, abs=1.2)


def test_three_changes_are_found_with_autocorrelated_noise() -> None:
    y = ar1_noise(0.6, 1, 154, np.random.default_rng(0))[0, :, 0] + np.repeat([0.0, 9.0, 2.0, 12.0], [40, 40, 40, 34])
    found = segment(y)
    assert found.indices.tolist() == [40, 80, 120]
    assert 0.3 <= found.rho <= 0.75


def test_a_change_of_variance_is_found_by_the_cost_that_has_one_only() -> None:
    y = noise(120) * np.where(np.arange(120) < 60, 1.0, 6.0)
    found = segment(y, cost="meanvar")
    assert len(found) == 1
    assert found.intervals[0, 0] <= 60 <= found.intervals[0, 1]


@pytest.mark.slow
def test_a_bend_is_found_at_its_step() -> None:
    x = np.log2(PYTHIA_27 + 1)
    y = np.maximum(x - x[12], 0) * 2 + 0.1 * noise(27)
    found = segment(y, x=x, cost="continuous")
    assert found.indices.tolist() == [12]
    assert found.sizes[0] == pytest.approx(2.0, abs=0.2)


@pytest.mark.slow
def test_columns_that_change_together_are_surer_than_any_of_them() -> None:
    y = np.random.default_rng(7).normal(size=(40, 6))
    y[20:] += 1.1
    found = segment(y)
    assert found.indices.tolist() == [20]
    assert found.sizes.shape == (1, 6)
    assert found.p_none < min(segment(column).p_none for column in y.T)


def test_the_path_holds_the_best_segmentation_of_each_number_of_changes() -> None:
    found = segment(stepped())
    assert [len(s) for s in found.segments] == list(range(len(found.cost_path)))
    assert (np.diff(found.cost_path) < 0).all()
    best = int(np.argmin(found.cost_path + found.penalty * np.arange(len(found.cost_path))))
    assert found.segments[best].tolist() == found.indices.tolist()


def test_at_most_as_many_changes_as_asked_for() -> None:
    y = noise(90) + np.repeat([0.0, 8.0, -8.0], 30)
    assert len(segment(y)) == 2
    assert len(segment(y, max_changes=1)) == 1
    assert len(segment(y, max_changes=0)) == 0


# Algebra


@pytest.mark.slow
@pytest.mark.parametrize("cost", ["l2", "meanvar", "linear", "continuous"])
@pytest.mark.parametrize("change", [lambda y: 1e6 + 1e-3 * y, lambda y: -1e200 * y])
def test_shift_and_scale_change_nothing_but_the_sizes(cost: str, change) -> None:
    y = stepped(24, size=3.0)
    first, second = segment(y, cost=cost), segment(change(y), cost=cost)
    assert first.indices.tolist() == second.indices.tolist()
    np.testing.assert_allclose(first.p_values, second.p_values, rtol=1e-4)


@pytest.mark.parametrize("cost", ["l2", "meanvar", "linear"])
def test_a_reversed_series_has_its_changes_reversed(cost: str) -> None:
    y = noise(80, 3) + np.repeat([0.0, 6.0, 1.0, 7.0], 20)
    found, back = segment(y, cost=cost), segment(y[::-1], cost=cost)
    assert len(found) >= 1
    assert sorted(80 - back.indices) == found.indices.tolist()


def test_many_series_at_once_are_segmented_as_one_by_one() -> None:
    y = np.stack([stepped(30, size, seed) for seed, size in enumerate((0.0, 2.0, 5.0, 9.0))])
    y[2, 7] = np.nan
    for row, found in zip(y, segment_many(y), strict=True):
        alone = segment(row)
        assert alone.indices.tolist() == found.indices.tolist()
        np.testing.assert_array_equal(alone.p_values, found.p_values)


def test_the_input_is_left_as_it_was() -> None:
    y = stepped()
    copy = y.copy()
    segment(y)
    np.testing.assert_array_equal(y, copy)


# Calibration


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize(("steps", "n_series"), [(PYTHIA_27, 1500), (PYTHIA_154, 500)])
def test_false_alarms_are_three_to_seven_in_a_hundred(rho: float, steps: np.ndarray, n_series: int) -> None:
    y = ar1_noise(rho, n_series, len(steps), np.random.default_rng(11))[..., 0]
    alarms = np.mean([len(found) > 0 for found in segment_many(y, x=steps)])
    # The band of the true rate, and two standard errors of its estimate.
    assert abs(alarms - 0.05) < 0.02 + 2 * np.sqrt(0.05 * 0.95 / n_series)


@pytest.mark.slow
@pytest.mark.parametrize("cost", ["l2", "meanvar", "linear"])
def test_a_tenth_of_short_noise_series_alarms_when_a_tenth_may(cost: str) -> None:
    y = ar1_noise(0.3, 300, 20, np.random.default_rng(12))[..., 0]
    alarms = np.mean([len(found) > 0 for found in segment_many(y, cost=cost, false_alarm=0.1)])
    assert abs(alarms - 0.1) < 3 * np.sqrt(0.1 * 0.9 / 300)


@pytest.mark.slow
def test_p_values_against_no_change_are_even_on_noise() -> None:
    y = ar1_noise(0.5, 300, 27, np.random.default_rng(13))[..., 0]
    p = np.array([found.p_none for found in segment_many(y)])
    for level in (0.1, 0.25, 0.5):
        assert abs(np.mean(p <= level) - level) < 3 * np.sqrt(level * (1 - level) / 300)


@pytest.mark.slow
def test_a_change_is_kept_only_if_its_p_value_is_within_the_false_alarm_rate() -> None:
    y = np.random.default_rng(14).normal(size=(40, 60)) + np.repeat([0.0, 1.3, 0.0], 20)
    p = np.concatenate([found.p_values for found in segment_many(y)])
    assert len(p) > 10
    assert (p <= 0.05 + 1e-9).all()


@pytest.mark.slow
def test_intervals_hold_the_true_place() -> None:
    y = np.random.default_rng(15).normal(size=(300, 60)) + 1.5 * (np.arange(60) >= 30)
    found = [f for f in segment_many(y) if len(f) == 1]
    held = np.mean([f.intervals[0, 0] <= 30 <= f.intervals[0, 1] for f in found])
    assert len(found) > 200
    assert held > 0.93


@pytest.mark.slow
def test_replicates_tell_the_autocorrelation_of_a_short_series() -> None:
    rng = np.random.default_rng(16)
    y = ar1_noise(0.9, 150, 27, rng)[..., 0]
    others = ar1_noise(0.9, 9, 27, rng)[..., 0]
    alarms = np.mean([len(segment(row, replicates=others)) > 0 for row in y])
    assert alarms < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 150)


@pytest.mark.parametrize("cost", ["l2", "meanvar", "linear", "continuous"])
def test_tabulated_criteria_rise_as_alarms_get_rarer(cost: str) -> None:
    for n in (8, 27, 154, 1000, 10000):
        critical = tabulated(cost, n).critical
        assert critical.shape == (len(LEVELS), len(TRUE_RHOS))
        assert (np.diff(critical, axis=0) >= 0).all()


# Known answers


@pytest.mark.slow
@pytest.mark.skipif(not TCPD.exists(), reason="the labelled series of shared/data/tcpd are not here")
def test_labelled_series_are_segmented_better_than_by_published_defaults() -> None:
    annotations = json.loads((TCPD / "annotations.json").read_text())
    scores = []
    for name, marked in annotations.items():
        series = json.loads((TCPD / "datasets" / name / f"{name}.json").read_text())["series"]
        if len(series) > 1:
            continue
        y = np.array(series[0]["raw"], dtype=float)
        found = segment(y).indices.tolist()
        scores.append((change_point_f1(marked, found), covering(marked, found, len(y))))
    f1, cover = np.mean(scores, axis=0)
    assert f1 > 0.744  # best default of van den Burg and Williams 2020, https://doi.org/10.48550/arXiv.2003.06222
    assert cover > 0.706


# Glitches


@pytest.mark.parametrize("bad", [[20], [20, 21], [15, 60]])
def test_isolated_bad_points_are_glitches_and_no_changes(bad: list[int]) -> None:
    y = noise()
    y[bad] = 15.0
    found = segment(y)
    assert found.glitches.tolist() == bad
    assert len(found) == 0
    assert np.isnan(found.fitted[bad]).all()


def test_a_glitch_does_not_hide_a_step_nor_move_its_index() -> None:
    y = stepped(size=6.0)
    y[10] = -20.0
    found = segment(y)
    assert found.glitches.tolist() == [10]
    assert found.indices.tolist() == [40]


@pytest.mark.parametrize("width", [3, 5])
def test_what_lasts_three_points_is_no_glitch(width: int) -> None:
    y = noise()
    y[30 : 30 + width] += 15.0
    assert segment(y).glitches.tolist() == []
    assert segment(y).indices.tolist() == [30, 30 + width]


@pytest.mark.slow
def test_glitches_are_rare_on_gaussian_noise() -> None:
    y = ar1_noise(0.3, 400, 27, np.random.default_rng(17))[..., 0]
    assert np.mean([len(f.glitches) > 0 for f in segment_many(y)]) < 0.015


# Classical penalties


def test_a_number_is_the_penalty_of_ruptures() -> None:
    rpt = pytest.importorskip("ruptures")
    y = 100 * (noise(60, 5) + np.repeat([0.0, 2.0, 1.0], 20))
    found = segment(y, penalty=50000.0, min_size=2)
    peer = rpt.Pelt(model="l2", jump=1, min_size=2).fit(y)
    assert found.indices.tolist() == peer.predict(50000.0)[:-1]
    assert found.cost_path[0] == pytest.approx(peer.cost.sum_of_costs([60]))


@pytest.mark.parametrize("name", ["aic", "bic", "mbic"])
def test_named_criteria_find_a_clear_step(name: str) -> None:
    assert 40 in segment(stepped(size=6.0), penalty=name).indices


def test_named_criteria_are_ordered_by_how_much_they_ask() -> None:
    y = ar1_noise(0.5, 1, 100, np.random.default_rng(18))[0, :, 0]
    counts = [len(segment(y, penalty=name)) for name in ("aic", "bic", "mbic")]
    assert counts == sorted(counts, reverse=True)


# Odd input


def test_missing_and_infinite_points_are_left_out_and_indices_count_them() -> None:
    y = stepped(size=8.0)
    y[[5, 6, 40]] = np.nan
    y[70] = np.inf
    found = segment(y)
    assert found.indices.tolist() == [41]
    assert found.before.tolist() == [39]
    assert any("diverged" in note for note in found.notes)


@pytest.mark.parametrize(
    ("y", "why"),
    [
        ([1.0], "too few"),
        ([1.0, 2.0], "too few"),
        ([3.0] * 30, "equal"),
        ([1e9 + 0.0] * 30, "equal"),
        ([np.nan] * 30, "measured"),
        ([np.inf] * 30, "measured"),
    ],
)
def test_a_series_that_can_have_no_change_says_why(y: list[float], why: str) -> None:
    found = segment(y)
    assert len(found) == 0
    assert why in found.notes[0]


def test_two_values_without_noise_are_one_change() -> None:
    assert segment([0.0] * 10 + [1.0] * 10).indices.tolist() == [10]


def test_a_curve_of_one_value_with_an_isolated_other_one_has_a_glitch() -> None:
    found = segment([0.0] * 20 + [5.0] + [0.0] * 20)
    assert found.glitches.tolist() == [20]
    assert len(found) == 0


@pytest.mark.parametrize("scale", [1e-310, 1e-200, 1e300, 8e307])
@pytest.mark.parametrize("penalty", [None, 3.0, "bic"])
def test_sizes_at_the_ends_of_what_floats_can_hold_do_no_harm(scale: float, penalty: float | str | None) -> None:
    y = scale * np.where(np.arange(30) < 15, -2.0, 2.0) + scale * np.linspace(-0.1, 0.1, 30) ** 2
    assert len(segment(y, penalty=penalty)) <= 9


@pytest.mark.slow
def test_columns_without_change_or_noise_do_no_harm() -> None:
    y = np.random.default_rng(20).normal(size=(50, 3))
    y[:, 1] = 7.0
    y[25:, 0] += 8.0
    assert segment(y).indices.tolist() == [25]
    assert segment(y, cost="meanvar").indices.tolist() == [25]


def test_no_series_are_no_segmentations() -> None:
    assert segment_many(np.zeros((0, 20))) == []


@pytest.mark.slow
def test_ties_of_a_score_on_few_items_raise_no_alarm_of_their_own() -> None:
    y = np.random.default_rng(19).binomial(10, 0.5, size=(200, 40)) / 10
    assert np.mean([len(f) > 0 for f in segment_many(y)]) < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": [0, 1, 1, 2]}, "increase"),
        ({"x": [3, 2, 1, 0]}, "increase"),
        ({"x": [0, 1, 2]}, "4 points"),
        ({"x": [0, 1, 2, np.nan]}, "finite"),
        ({"cost": "linaer"}, "linear"),
        ({"penalty": "bicc"}, "bic"),
        ({"penalty": -1.0}, "finite number from 0"),
        ({"penalty": np.nan}, "finite number from 0"),
        ({"false_alarm": 0.0}, "above 0"),
        ({"false_alarm": 0.9}, "at most 0.5"),
        ({"min_size": 0}, "from 1"),
        ({"max_changes": 1.5}, "whole number"),
        ({"replicates": [[1, 2, 3, 4]]}, "two other runs"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_what_to_do(arguments: dict, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        segment([1.0, 2.0, 3.0, 4.0], **arguments)


@pytest.mark.parametrize("y", [[], [[[1.0]]], np.zeros((3, 0)), ["a", "b"], [1 + 2j, 2.0]])
def test_what_is_no_series_of_numbers_is_refused(y: object) -> None:
    with pytest.raises(AnalysisError):
        segment(y)


def test_curves_that_do_not_jump_are_taken_one_at_a_time() -> None:
    with pytest.raises(AnalysisError, match="one series at a time"):
        segment(np.zeros((20, 2)), cost="continuous")


@pytest.mark.slow
def test_the_same_rng_gives_the_same_answer() -> None:
    y = stepped(20, size=1.5)
    first, second = (segment(y, min_size=2, rng=3) for _ in range(2))
    np.testing.assert_array_equal(first.p_values, second.p_values)
