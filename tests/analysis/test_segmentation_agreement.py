"""Agreement of segmentations: cases worked by hand, published scores, and scikit-learn."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from polystab.analysis.phases.agreement import adjusted_rand, change_point_f1, covering, hausdorff
from polystab.errors import AnalysisError

N = 30
POINTS = st.lists(st.integers(0, N - 1), max_size=6)


def labels_of(points: list[int], n: int = N) -> list[int]:
    return [sum(point <= i for point in set(points) - {0}) for i in range(n)]


# F1, by hand. Index 0 is a change point on both sides.


@pytest.mark.parametrize(
    ("annotations", "predictions", "expected"),
    [
        ([], [], 1.0),  # nothing to find, nothing found
        ([], [50], 2 * (1 / 2) / (3 / 2)),  # precision 1/2, recall 1
        ([50], [], 2 * (1 / 2) / (3 / 2)),  # precision 1, recall 1/2
        ([50], [55], 1.0),  # at the margin
        ([50], [56], 0.5),  # beyond it: precision and recall 1/2
        ([50, 52], [51], 2 * (2 / 3) / (5 / 3)),  # one prediction serves one annotation only: recall 2/3
        ([50], [48, 52], 2 * (2 / 3) / (5 / 3)),  # and one annotation one prediction: precision 2/3
        ([3], [], 2 * (1 / 2) / (3 / 2)),  # the trivial point is used up by the trivial point
        ([0, 50], [0, 50], 1.0),  # a 0 that is written out changes nothing
        ({"a": [28], "b": []}, [28], 1.0),  # precision against the union, recall 1 for each
        ({"a": [28], "b": []}, [], 2 * 0.75 / 1.75),  # recall (1/2 + 1) / 2
        ({"a": [20], "b": [60]}, [20, 60], 1.0),
        ({"a": [20], "b": [60]}, [20], 2 * 0.75 / 1.75),  # precision 1, recall (1 + 1/2) / 2
        ({"a": [20], "b": [60]}, [20, 40], 2 * (2 / 3 * 3 / 4) / (2 / 3 + 3 / 4)),
    ],
)
def test_f1_by_hand(annotations: object, predictions: list[int], expected: float) -> None:
    assert change_point_f1(annotations, predictions) == pytest.approx(expected)  # type: ignore[arg-type]


def test_margin_0_asks_for_the_very_index() -> None:
    assert change_point_f1([50], [51], margin=0) == 0.5


def test_a_point_takes_the_nearest_prediction() -> None:
    # 50 takes 51, so 54 is left with 47, which is too far: matched are 0 and 50 of three.
    assert change_point_f1([50, 54], [47, 51]) == pytest.approx(2 / 3)


# Covering, by hand.


@pytest.mark.parametrize(
    ("annotations", "predictions", "expected"),
    [
        ([], [], 1.0),
        ([5], [5], 1.0),
        ([5], [], 0.5),  # each half has Jaccard 1/2 with the whole
        ([], [5], 0.5),
        ([2], [5], (2 * 2 / 5 + 8 * 5 / 8) / 10),
        ({"a": [5], "b": []}, [5], 0.75),
    ],
)
def test_covering_by_hand(annotations: object, predictions: list[int], expected: float) -> None:
    assert covering(annotations, predictions, 10) == pytest.approx(expected)  # type: ignore[arg-type]


# Scores published with the paper's code (github.com/alan-turing-institute/TCPDBench,
# analysis/output/summaries and scores): of the method that never finds a change, and of AMOC.
PUBLISHED = [
    ("nile", 100, [], 0.8235294117647058, 0.75808),
    ("seatbelts", 192, [], 0.6206896551724138, 0.5283637152777778),
    ("seatbelts", 192, [71], 0.4736842105263158, 0.6825404441929043),
    ("seatbelts", 192, [72], 0.4736842105263158, 0.6769441668584173),
    ("gdp_japan", 58, [], 0.888888888888889, 0.802140309155767),
    ("global_co2", 104, [], 0.8461538461538461, 0.7583210059171598),
    ("ozone", 54, [], 0.723404255319149, 0.5736625514403293),
    ("quality_control_1", 313, [], 0.6666666666666666, 0.5031081260398699),
    ("rail_lines", 37, [], 0.5365853658536586, 0.4281957633308984),
    ("run_log", 376, [], 0.4455958549222798, 0.3035168628338615),
]


@pytest.mark.parametrize(("series", "n", "predictions", "f1", "cover"), PUBLISHED)
def test_published_scores_of_the_labelled_series(
    shared_data: Path, series: str, n: int, predictions: list[int], f1: float, cover: float
) -> None:
    marked = json.loads((shared_data / "tcpd" / "annotations.json").read_text())[series]
    assert change_point_f1(marked, predictions) == pytest.approx(f1, rel=1e-14)
    assert covering(marked, predictions, n) == pytest.approx(cover, rel=1e-14)


# Adjusted Rand index and Hausdorff distance.


@pytest.mark.slow
@given(POINTS, POINTS)
def test_adjusted_rand_is_that_of_scikit_learn(a: list[int], b: list[int]) -> None:
    assert adjusted_rand(a, b, N) == pytest.approx(adjusted_rand_score(labels_of(a), labels_of(b)))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [([], [], 0.0), ([0], [], 0.0), ([10], [10], 0.0), ([10], [12, 50], 40.0), ([12, 50], [10], 40.0)],
)
def test_hausdorff_by_hand(a: list[int], b: list[int], expected: float) -> None:
    assert hausdorff(a, b) == expected


def test_hausdorff_to_no_change_is_unknown() -> None:
    assert math.isnan(hausdorff([10], []))


@pytest.mark.slow
@given(POINTS, POINTS)
def test_symmetric_ones_are_symmetric(a: list[int], b: list[int]) -> None:
    assert adjusted_rand(a, b, N) == adjusted_rand(b, a, N)
    assert np.array_equal(hausdorff(a, b), hausdorff(b, a), equal_nan=True)


@pytest.mark.slow
@given(POINTS)
def test_a_segmentation_agrees_with_itself(a: list[int]) -> None:
    assert change_point_f1(a, a) == covering(a, a, N) == adjusted_rand(a, a, N) == 1.0
    assert hausdorff(a, a) == 0.0


@pytest.mark.slow
@given(POINTS, POINTS)
def test_scores_lie_between_0_and_1(a: list[int], b: list[int]) -> None:
    assert 0 < change_point_f1(a, b) <= 1
    assert 0 < covering(a, b, N) <= 1


@pytest.mark.slow
@given(POINTS)
def test_reversing_the_series_changes_no_covering(a: list[int]) -> None:
    back = [N - point for point in set(a) - {0}]
    assert covering(back, [N - 10], N) == pytest.approx(covering(a, [10], N))


@pytest.mark.parametrize("n", [1, 2])
def test_the_shortest_series_have_one_segmentation_or_two(n: int) -> None:
    assert covering([], [], n) == adjusted_rand([], [], n) == 1.0


# Refusals.


def test_no_annotators_are_refused() -> None:
    with pytest.raises(AnalysisError, match="no annotators"):
        change_point_f1({}, [3])


def test_a_fractional_index_is_refused_with_its_annotator() -> None:
    with pytest.raises(AnalysisError, match=r"annotator 'ann' are whole indices, got 2\.5"):
        covering({"ann": [2.5]}, [3], 10)  # type: ignore[list-item]


def test_negative_indices_are_refused() -> None:
    with pytest.raises(AnalysisError, match="from 0, got -3"):
        hausdorff([-3, 5], [])


def test_an_index_at_the_end_is_refused() -> None:
    with pytest.raises(AnalysisError, match="below the length 10 of the series, got 10"):
        covering([5], [10], 10)


def test_an_empty_series_is_refused() -> None:
    with pytest.raises(AnalysisError, match="at least one observation"):
        adjusted_rand([], [], 0)


def test_a_negative_margin_is_refused() -> None:
    with pytest.raises(AnalysisError, match="margin is -1"):
        change_point_f1([], [], margin=-1)
