"""Kappa and alpha of plain arrays of answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from polystab.analysis.agreement.kernels import RaterCounts, fleiss_counts, krippendorff_counts, pair_counts
from polystab.analysis.arrays import Floats, divided
from polystab.errors import AnalysisError


def cohen_kappa(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Cohen's kappa of two sequences of answers.

    Parameters
    ----------
    a, b : (item,) array of int
        Answers to the same items; a negative number is no answer, and the item is left out.

    Returns
    -------
    float
        (p_o - p_e) / (1 - p_e); NaN where both always say the same one thing, and without items.

    Raises
    ------
    AnalysisError
        The two are not of one length, or not whole numbers.

    References
    ----------
    Cohen, J. (1960). A coefficient of agreement for nominal scales. Educational and
    Psychological Measurement 20, 37-46. https://doi.org/10.1177/001316446002000104

    Examples
    --------
    >>> from polystab.analysis.agreement import cohen_kappa
    >>> round(cohen_kappa([1, 1, 0, 0, 1, 0, 1, 1, 0, 1], [1, 0, 0, 0, 1, 1, 1, 1, 0, 1]), 5)
    0.58333
    """
    first, second = _answers(a, 1), _answers(b, 1)
    if first.shape != second.shape:
        raise AnalysisError(f"{first.size} answers and {second.size}; give both runs' answers to the same items.")
    counts = pair_counts(first[None], second[None])
    return float(1 - divided(counts.disagree, counts.expected)[0, 0])


def fleiss_kappa(answers: npt.ArrayLike) -> float:
    """Fleiss' kappa of several runs, over the items that all of them answered.

    Parameters
    ----------
    answers : (run, item) array of int
        A negative number is no answer. A run without any is left out.

    Returns
    -------
    float
        NaN with fewer than two runs, without a common item, and where all answers are equal.

    References
    ----------
    Fleiss, J. L. (1971). Measuring nominal scale agreement among many raters.
    Psychological Bulletin 76, 378-382. https://doi.org/10.1037/h0031619

    Examples
    --------
    >>> from polystab.analysis.agreement import fleiss_kappa
    >>> round(fleiss_kappa([[0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 1, 0]]), 4)
    0.3333
    """
    return _of_all(answers, fleiss_counts)


def krippendorff_alpha(answers: npt.ArrayLike) -> float:
    """Krippendorff's alpha for nominal answers of several runs, over items with two answers or more.

    Parameters
    ----------
    answers : (run, item) array of int
        A negative number is no answer.

    Returns
    -------
    float
        NaN where no item has two answers, and where all answers are equal.

    References
    ----------
    Hayes, A. F. and Krippendorff, K. (2007). Answering the call for a standard reliability
    measure for coding data. Communication Methods and Measures 1, 77-89.
    https://doi.org/10.1080/19312450709336664

    Examples
    --------
    >>> from polystab.analysis.agreement import krippendorff_alpha
    >>> round(krippendorff_alpha([[0, 0, 1, -1], [0, 0, 1, 1], [0, 1, 1, -1]]), 4)
    0.6
    """
    return _of_all(answers, krippendorff_counts)


def _of_all(answers: npt.ArrayLike, counted: Callable[[npt.NDArray[np.integer], Floats], RaterCounts]) -> float:
    codes = _answers(answers, 2)
    counts = counted(codes, np.ones((1, len(codes))))
    return float(1 - divided(counts.disagree, counts.expected)[0])


def _answers(answers: npt.ArrayLike, ndim: int) -> npt.NDArray[np.integer]:
    try:
        codes = np.asarray(answers)
    except ValueError as error:
        raise AnalysisError(f"answers are no table: {error}.") from error
    if codes.ndim != ndim or (codes.size and codes.dtype.kind not in "iub"):
        shape = "(item,)" if ndim == 1 else "(run, item)"
        raise AnalysisError(f"answers are whole numbers {shape}, negative for none; got {codes.dtype} {codes.shape}.")
    return codes.astype(np.int64)
