"""What can be said of each difference, with all the tests of a comparison in view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Bools, Floats, Ints
from polystab.analysis.comparisons.kernels import NO_SPREAD, SAME_RUNS, detectable
from polystab.analysis.multiplicity import adjusted_p

# What can be said of a row, as a code and a word.
VERDICTS = ("untested", "differs", "differs_slightly", "no_larger_difference", "cannot_tell")
UNTESTED, DIFFERS, DIFFERS_SLIGHTLY, NO_LARGER, CANNOT_TELL = range(5)

# Which way the other cube went, where it is known what is better.
CHANGES = ("unknown", "better", "worse")
UNKNOWN, BETTER, WORSE = range(3)

POWER = 0.8


Columns = dict[str, npt.NDArray[Any]]

# Numbers that mean nothing where both sides are the same runs.
_NOT_OF_SAME = (
    "p_permutation",
    "p_smallest",
    "variance_ratio",
    "ratio_lower",
    "ratio_upper",
    "items_lower",
    "items_upper",
)


def judged_rows(columns: Columns, better: Sequence[str], level: float) -> Columns:
    """The columns of all rows with what takes them all to tell: q, verdict, and which way it went."""
    same = columns["reason"] == SAME_RUNS
    columns = columns | {name: np.where(same, np.nan, columns[name]) for name in _NOT_OF_SAME}
    # Where nothing varies within the sides t has no value, but a permutation still has.
    exact = (columns["reason"] == NO_SPREAD) & (columns["difference"] != 0)
    p = np.where(exact, columns["p_permutation"], columns["p"])
    judged = np.array([name != "" for name in better])
    q, n_tests = corrected(p, judged)
    equivalent, _ = corrected(columns["p_equivalence"], judged)
    # What a row needs for its q if it is the only one that differs.
    alone = (1 - level) / np.maximum(n_tests, 1)
    differs, small = q <= 1 - level, equivalent <= 1 - level
    verdict = np.where(differs, np.where(small, DIFFERS_SLIGHTLY, DIFFERS), np.where(small, NO_LARGER, CANNOT_TELL))
    sign = np.sign(columns["difference"]) * [{"higher": 1, "lower": -1}.get(name, 0) for name in better]
    return columns | {
        "p": p,
        "q": q,
        "n_tests": n_tests,
        "detectable_alone": detectable(columns["df"], columns["stderr"], power=POWER, alpha=alone),
        "q_equivalence": equivalent,
        "verdict": np.where(np.isnan(p), UNTESTED, verdict).astype(np.int8),
        "change": np.select([sign > 0, sign < 0], [BETTER, WORSE], UNKNOWN).astype(np.int8),
        "method": columns["method"].astype(np.int8),
        "reason": columns["reason"].astype(np.int8),
    }


def corrected(p: Floats, judged: Bools) -> tuple[Floats, Ints]:
    """p corrected for the number of tests over (..., metric), and that number for each metric.

    Metrics that have a better and a worse are corrected by themselves, and all others by themselves: a hundred
    weight statistics that differ would otherwise make it easy for a score to differ by chance.
    """
    q, n_tests = np.full(p.shape, np.nan), np.zeros(len(judged), dtype=np.int64)
    for group in (judged, ~judged):
        if group.any():
            q[..., group], n = adjusted_p(p[..., group])
            n_tests[group] = int(n)
    return q, n_tests
