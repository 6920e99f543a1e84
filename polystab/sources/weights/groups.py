"""Spectra and histograms of the weights of one checkpoint as detail groups."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from polystab.sources.weights.histograms import bin_centres, bin_edges
from polystab.sources.weights.names import Parameter

if TYPE_CHECKING:
    import xarray as xr

# Ranks of the ladder each time the rank doubles.
_PER_OCTAVE = 8


def ranks_of(longest: int) -> npt.NDArray[np.int64]:
    """Ranks 1, 2, 3, ... and then ever further apart, the same for all sizes of matrix, up to ``longest``."""
    steps = np.arange(int(np.log2(max(longest, 1)) * _PER_OCTAVE) + 1)
    return np.unique(np.rint(2 ** (steps / _PER_OCTAVE)).astype(np.int64))


def spectra_group(spectra: Mapping[Parameter, npt.NDArray[np.float64]], *, ladder: bool) -> xr.Dataset:
    """``singular_value(subject, rank)``, largest at rank 1; NaN beyond the smaller side of a matrix."""
    import xarray as xr

    longest = max(len(s) for s in spectra.values())
    ranks = ranks_of(longest) if ladder else np.arange(1, longest + 1)
    table = np.full((len(spectra), len(ranks)), np.nan, dtype=np.float32)
    for row, s in zip(table, spectra.values(), strict=True):
        there = ranks <= len(s)
        row[there] = s[ranks[there] - 1]
    data = {"singular_value": (("subject", "rank"), table, {"long_name": "singular value", "units": "1"})}
    return xr.Dataset(data, coords={"rank": ("rank", ranks, {"long_name": "rank, 1 the largest"}), **_labels(spectra)})


def histogram_group(counts: Mapping[Parameter, npt.NDArray[np.int64]]) -> xr.Dataset:
    """``count(subject, bin)``: elements in each bin, on bins that are the same for all checkpoints."""
    import xarray as xr

    edges = bin_edges()
    table = np.stack(list(counts.values())).astype(
        np.int32 if max(c.max() for c in counts.values()) < 2**31 else np.int64
    )
    coordinates: dict[str, Any] = {
        "bin": ("bin", bin_centres(), {"long_name": "a value in the bin"}),
        "low": ("bin", edges[:-1], {"long_name": "lower edge, included"}),
        "high": ("bin", edges[1:], {"long_name": "upper edge"}),
    }
    data = {"count": (("subject", "bin"), table, {"long_name": "number of elements"})}
    return xr.Dataset(data, coords={**coordinates, **_labels(counts)})


def _labels(parameters: Mapping[Parameter, Any]) -> dict[str, Any]:
    return {
        "subject": ("subject", np.array([one.subject for one in parameters]), {"long_name": "parameter"}),
        "component": ("subject", np.array([one.component for one in parameters]), {"long_name": "part of the network"}),
        "layer": ("subject", np.array([one.layer for one in parameters]), {"long_name": "layer, -1 where none"}),
    }
