"""Histograms of weights on bins that are the same for all checkpoints."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Fine enough to see a distribution change shape, and, from both ends, signed and logarithmic: weights of all sizes of
# model, gains near 1 and outliers of 100 fall on the same bins without a choice that depends on the data.
SMALLEST, LARGEST = 1e-4, 1e2
PER_DECADE = 12


def bin_edges() -> npt.NDArray[np.float64]:
    """Edges of the bins, ascending: logarithmic on both sides of one bin around zero; the outermost are infinite."""
    decades = round(np.log10(LARGEST / SMALLEST))
    positive = np.logspace(np.log10(SMALLEST), np.log10(LARGEST), PER_DECADE * decades + 1)
    return np.concatenate([[-np.inf], -positive[::-1], positive, [np.inf]])


def bin_centres() -> npt.NDArray[np.float64]:
    """A number in each bin, to label it by: geometric means, 0 for the middle, and beyond the ends the ends."""
    decades = round(np.log10(LARGEST / SMALLEST))
    half = np.logspace(np.log10(SMALLEST), np.log10(LARGEST), 2 * PER_DECADE * decades + 1)
    positive = np.append(half[1::2], LARGEST)
    return np.concatenate([-positive[::-1], [0.0], positive])


def counts(x: npt.NDArray[np.floating]) -> npt.NDArray[np.int64]:
    """Number of elements in each bin, which includes its lower edge; of sorted elements in no time.

    Parameters
    ----------
    x : array
        Finite values, sorted ascending.
    """
    inner = np.searchsorted(x.reshape(-1), bin_edges()[1:-1].astype(x.dtype), side="left")
    return np.diff(np.concatenate([[0], inner, [x.size]])).astype(np.int64)
