"""How far two segmentations of the same series agree, and how well one fits what people marked."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping

import numpy as np

from polystab.analysis.arrays import Floats, Ints
from polystab.analysis.partitions import rand_of_counts
from polystab.errors import AnalysisError, shown

Annotations = Mapping[str, Iterable[int]] | Iterable[int]


def change_point_f1(annotations: Annotations, predictions: Iterable[int], *, margin: int = 5) -> float:
    """F1 score of change points against those of one or several annotators.

    Parameters
    ----------
    annotations : mapping of str to iterable of int, or iterable of int
        For each annotator the first indices (from 0) of the new segments; an empty list
        says that there is no change. Plain indices are those of one annotator.
    predictions : iterable of int
        First indices of the new segments, as found.
    margin : int, optional
        Largest distance, in observations, at which two change points are the same.

    Returns
    -------
    float
        Between 0 and 1; 1 where all is found and nothing else.

    Raises
    ------
    AnalysisError
        No annotators, a negative or fractional index, or a negative margin.

    Notes
    -----
    As in van den Burg and Williams: index 0 counts as a change point on both sides, so
    that finding nothing where there is nothing scores 1. Precision is the share of the
    predictions that match one of the union of all annotations; recall is the share of an
    annotator's change points that are matched, averaged over the annotators. F1 is
    their harmonic mean. A prediction is used up by the first annotated point it matches:
    in rising order each takes the nearest free prediction (the earlier of two equally
    near), as in the authors' code. That is not always the largest matching.

    References
    ----------
    van den Burg, G. J. J. and Williams, C. K. I. (2020). An evaluation of change point
    detection algorithms. https://doi.org/10.48550/arXiv.2003.06222

    Examples
    --------
    >>> from polystab.analysis.phases.agreement import change_point_f1
    >>> change_point_f1({"anna": [28], "ben": []}, [30])
    1.0
    >>> round(change_point_f1({"anna": [28], "ben": []}, []), 3)
    0.857
    """
    if margin < 0:
        raise AnalysisError(f"margin is {margin}; it is a number of observations, zero or more.")
    marked = [{0, *points} for points in _annotators(annotations)]
    found = {0, *_indices(predictions, "predictions")}
    precision = _n_matched(set().union(*marked), found, margin) / len(found)
    recall = sum(_n_matched(points, found, margin) / len(points) for points in marked) / len(marked)
    return 2 * precision * recall / (precision + recall)  # never 0 / 0: the index 0 matches itself


def covering(annotations: Annotations, predictions: Iterable[int], n: int) -> float:
    """Covering of the annotated segments by the predicted ones.

    Parameters
    ----------
    annotations, predictions
        As for :func:`change_point_f1`.
    n : int
        Length of the series.

    Returns
    -------
    float
        Between 0 and 1; 1 where all segments are the same.

    Raises
    ------
    AnalysisError
        As for :func:`change_point_f1`, or an index that is not below ``n``.

    Notes
    -----
    For every annotated segment the largest Jaccard index (observations in both over
    observations in either) with a predicted segment, averaged over observations, and
    then over annotators.

    References
    ----------
    Arbelaez, P., Maire, M., Fowlkes, C. and Malik, J. (2011). Contour detection and
    hierarchical image segmentation. IEEE Transactions on Pattern Analysis and Machine
    Intelligence 33, 898-916. https://doi.org/10.1109/TPAMI.2010.161

    van den Burg, G. J. J. and Williams, C. K. I. (2020). An evaluation of change point
    detection algorithms. https://doi.org/10.48550/arXiv.2003.06222

    Examples
    --------
    >>> from polystab.analysis.phases.agreement import covering
    >>> covering([5], [], 10)
    0.5
    """
    found = _edges(predictions, n, "predictions")
    return float(np.mean([_covered(_edges(points, n), found) for points in _annotators(annotations)]))


def adjusted_rand(a: Iterable[int], b: Iterable[int], n: int) -> float:
    """Adjusted Rand index of two segmentations of a series.

    Parameters
    ----------
    a, b : iterable of int
        First indices of the new segments.
    n : int
        Length of the series.

    Returns
    -------
    float
        1 for equal segmentations, about 0 for unrelated partitions of the same sizes.

    Raises
    ------
    AnalysisError
        An index that is negative, fractional or not below ``n``.

    Notes
    -----
    The correction for chance (Hubert and Arabie) shuffles observations freely. Segments
    are in one piece, so that unrelated segmentations score above 0, and a segmentation
    without changes scores 0 against any other: compare with other pairs, not with 0.

    References
    ----------
    Hubert, L. and Arabie, P. (1985). Comparing partitions. Journal of Classification 2,
    193-218. https://doi.org/10.1007/BF01908075

    Examples
    --------
    >>> from polystab.analysis.phases.agreement import adjusted_rand
    >>> adjusted_rand([5], [5], 10), adjusted_rand([5], [], 10)
    (1.0, 0.0)
    """
    return float(rand_of_counts(_overlaps(_edges(a, n), _edges(b, n))))


def hausdorff(a: Iterable[int], b: Iterable[int]) -> float:
    """Largest distance from a change point of one segmentation to the nearest of the other.

    Parameters
    ----------
    a, b : iterable of int
        First indices of the new segments; a leading 0 is not a change and is left out.

    Returns
    -------
    float
        In observations; 0 where neither has a change, NaN where only one has.

    Raises
    ------
    AnalysisError
        A negative or fractional index.

    Examples
    --------
    >>> from polystab.analysis.phases.agreement import hausdorff
    >>> hausdorff([10, 50], [12])
    38.0
    """
    first, second = (np.array(sorted({*_indices(points)} - {0}), dtype=np.float64) for points in (a, b))
    if not (first.size and second.size):
        return 0.0 if first.size == second.size else np.nan
    distance = np.abs(first[:, None] - second)
    return float(max(distance.min(axis=0).max(), distance.min(axis=1).max()))


def _annotators(annotations: Annotations) -> list[list[int]]:
    if not isinstance(annotations, Mapping):
        return [_indices(annotations)]
    if not annotations:
        raise AnalysisError("there are no annotators; pass at least one, with an empty list where it saw no change.")
    return [_indices(points, f"annotator {name!r}") for name, points in annotations.items()]


def _indices(points: Iterable[int], what: str = "change points") -> list[int]:
    listed = list(points)
    try:
        checked = [operator.index(point) for point in listed]
    except TypeError as error:
        raise AnalysisError(f"{what} are whole indices, got {shown(listed)}.") from error
    if any(point < 0 for point in checked):
        raise AnalysisError(f"{what} are indices from 0, got {shown(p for p in checked if p < 0)}.")
    return checked


def _n_matched(marked: set[int], found: set[int], margin: int) -> int:
    """How many of the marked points have a found point of their own within the margin."""
    free, matched = sorted(found), 0
    for point in sorted(marked):
        near = min(free, key=lambda other: (abs(other - point), other), default=None)
        if near is not None and abs(near - point) <= margin:
            free.remove(near)
            matched += 1
    return matched


def _edges(points: Iterable[int], n: int, what: str = "change points") -> Ints:
    """0, the change points, n: where segments begin and end."""
    if n < 1:
        raise AnalysisError(f"n is {n}; a series has at least one observation.")
    checked = _indices(points, what)
    outside = [point for point in checked if point >= n]
    if outside:
        raise AnalysisError(f"{what} lie below the length {n} of the series, got {shown(outside)}.")
    return np.array(sorted({0, *checked, n}), dtype=np.int64)


def _overlaps(a: Ints, b: Ints) -> Floats:
    """Observations that a segment of ``a`` (rows) has in common with one of ``b``."""
    ends, starts = np.minimum(a[1:, None], b[1:]), np.maximum(a[:-1, None], b[:-1])
    return np.asarray(np.maximum(ends - starts, 0), dtype=np.float64)


def _covered(a: Ints, b: Ints) -> float:
    common = _overlaps(a, b)
    sizes = np.diff(a)
    return float(sizes @ (common / (sizes[:, None] + np.diff(b) - common)).max(axis=1) / a[-1])
