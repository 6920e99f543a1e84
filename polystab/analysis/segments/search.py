"""The best segmentations: for every number of changes by dynamic programming, for a penalty by pruning.

Both are exact: no point is skipped, and pruning only drops what cannot win.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Floats, Ints
from polystab.analysis.segments.costs import Costs


def best_costs(costs: Costs, n_changes: int, min_size: int) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Least cost with 0 to ``n_changes`` changes, for many series at once.

    Returns
    -------
    cost : numpy.ndarray
        (series, n_changes + 1); infinite where so many changes do not fit.
    starts : numpy.ndarray
        (n + 1, series, n_changes): where the last segment of the best segmentation of
        the first ``i`` points begins; for :func:`traced`.
    """
    n = costs.n
    first = costs.ending(n, 0, 1)
    best = np.full((len(first), n_changes + 1, n + 1), np.inf)
    starts = np.zeros((n + 1, len(first), n_changes), dtype=np.int32)
    rows, columns = np.arange(len(first))[:, None], np.arange(n_changes)
    # A stretch that begins at 0 has no change before it; one that begins earlier than min_size is too close to it.
    for end in range(min_size, n + 1):
        last = costs.ending(end, 0, end - min_size + 1)
        best[:, 0, end] = last[:, 0]
        if n_changes and end >= 2 * min_size:
            candidates = best[:, :n_changes, min_size : end - min_size + 1] + last[:, None, min_size:]
            chosen = candidates.argmin(axis=-1)
            best[:, 1:, end] = candidates[rows, columns, chosen]
            starts[end] = chosen + min_size
    return best[:, :, n], starts


def traced(starts: npt.NDArray[np.int32], series: int, n_changes: int) -> Ints:
    """First indices of the segments after the first, for one series and number of changes."""
    result = np.empty(n_changes, dtype=np.int64)
    end = len(starts) - 1
    for k in range(n_changes - 1, -1, -1):
        end = result[k] = int(starts[end, series, k])
    return result


def best_for_penalty(costs: Costs, penalty: float, min_size: int) -> Ints:
    """The changes that minimise cost + ``penalty`` x their number, for a single series.

    PELT (Killick, Fearnhead and Eckley 2012, https://doi.org/10.1080/01621459.2012.737745):
    a start that is worse than the best by now can never win again. It is dropped only
    ``min_size`` points later, when the rival can be a start itself. Only for costs that
    a split never raises.
    """
    n = costs.n
    best = np.full(n + 1, np.inf)
    best[0] = -penalty
    before = np.zeros(n + 1, dtype=np.int64)
    leaves = np.full(n + 1, n + 1, dtype=np.int64)  # the end from which a start is not needed any more
    low = 0
    for end in range(min_size, n + 1):
        high = end - min_size + 1
        total = best[low:high] + costs.ending(end, low, high)[0]
        at = int(total.argmin())
        best[end] = total[at] + penalty
        before[end] = low + at
        np.minimum(leaves[low:high], np.where(total > best[end], end + min_size, n + 1), out=leaves[low:high])
        # Dropping from the left alone keeps the candidates a slice, which is quicker than the fewest candidates.
        while low < high - 1 and leaves[low] <= end + 1:
            low += 1
    changes = []
    end = int(before[n])
    while end > 0:
        changes.append(end)
        end = int(before[end])
    return np.array(changes[::-1], dtype=np.int64)
