"""Cells of a map as rectangles of one path, which is far smaller than one patch each."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from matplotlib.path import Path


def bars(level: npt.NDArray[np.integer], wanted: int) -> Path:
    """Rectangles that cover all cells (row, column) of one level, as a single path; neighbours in a row become one."""
    hit = np.pad(level == wanted, ((0, 0), (1, 1))).astype(np.int8)
    change = np.diff(hit, axis=1)
    row, start = np.nonzero(change == 1)
    stop = np.nonzero(change == -1)[1]
    x0, x1, y0, y1 = start - 0.5, stop - 0.5, row - 0.38, row + 0.38
    corners = np.stack(
        [
            np.stack([x0, y0], 1),
            np.stack([x1, y0], 1),
            np.stack([x1, y1], 1),
            np.stack([x0, y1], 1),
            np.stack([x0, y0], 1),
        ],
        axis=1,
    ).reshape(-1, 2)
    codes = np.tile([Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY], len(row))
    return Path(corners, codes) if len(row) else Path(np.zeros((1, 2)), [Path.MOVETO])
