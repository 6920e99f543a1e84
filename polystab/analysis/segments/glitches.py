"""Isolated bad checkpoints: one or two points off in one direction while those before and after agree."""

from __future__ import annotations

import numpy as np

from polystab.analysis.arrays import Bools, Floats, divided, median

# In units of the robust spread of differences over two points. In 0.1 to 0.7 % of series of Gaussian AR(1) noise of 8 to
# 500 points some point is that far off (20,000 series each at rho 0, 0.3, 0.6, 0.9, 0.97).
THRESHOLD = 3.5

# A side of a glitch is the median of so many points, and has at least two.
SIDE = 3

# More than this share of all points is no glitch but the noise itself.
MOST = 0.05


def glitches(y: Floats) -> Bools:
    """Which points of series of shape (series, n, columns) are glitches in any column, (series, n).

    A point (or each of two neighbours) is off if it lies on the same side of the median
    of three points before and of three points after, away from both by more than
    :data:`THRESHOLD` robust standard deviations of differences over two points. So a step
    is none (it agrees with what follows), nor the top of a slope. The first and last
    two points have too few neighbours to tell.
    """
    n_series, n, n_columns = y.shape
    flagged = np.zeros((n_series, n), dtype=np.bool_)
    if n < 2 * SIDE + 1:
        return flagged
    scale = median(np.abs(y[:, 2:] - y[:, :-2]), axis=1) / 0.6745
    # A curve of mostly equal values has a spread of 0: any isolated value is off.
    limit = np.sqrt(THRESHOLD**2 + 1.5 * np.log(n_columns)) * scale
    padded = np.concatenate(
        [np.full((n_series, SIDE, n_columns), np.nan), y, np.full((n_series, SIDE, n_columns), np.nan)], 1
    )
    windows = np.lib.stride_tricks.sliding_window_view(padded, SIDE, axis=1)
    sides = median(windows, axis=-1)  # sides[i] covers the points i - SIDE to i - 1
    before, after = sides[:, :n], sides[:, SIDE + 1 : SIDE + 1 + n]
    inner = np.zeros((n, 1), dtype=np.bool_)
    inner[2 : n - 2] = True
    for width in (1, 2):
        left, right = before[:, : n + 1 - width], after[:, width - 1 :]
        off = np.ones(left.shape, dtype=np.bool_)
        direction = np.sign(y[:, : n + 1 - width] - left)
        for i in range(width):
            value = y[:, i : n + 1 - width + i]
            nearest = np.minimum((value - left) * direction, (value - right) * direction)
            off &= (nearest > limit[:, None]) & inner[i : n + 1 - width + i]
        for i in range(width):
            flagged[:, i : n + 1 - width + i] |= off.any(axis=-1)
    # Three in a row are no longer isolated.
    long = np.zeros_like(flagged)
    run = flagged[:, 2:] & flagged[:, 1:-1] & flagged[:, :-2]
    for i in range(3):
        long[:, i : n - 2 + i] |= run
    flagged &= ~long
    many = divided(flagged.sum(axis=1), n) > max(MOST, 2 / n)
    flagged[many] = False
    return flagged
