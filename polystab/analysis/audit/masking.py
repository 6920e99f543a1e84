"""A variable of a large cube without the cells that an audit takes out: they become NaN as it is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from polystab.analysis.arrays import Bools
from polystab.cube.specs import DIMS

# Models, seeds, steps and metrics whose combinations are left out: places of one array of bool along each dimension.
Box = tuple[Bools, Bools, Bools, Bools]


class _Masked(BackendArray):  # type: ignore[misc, unused-ignore]
    """Read like a file, part by part."""

    def __init__(self, variable: xr.Variable, boxes: list[Box]) -> None:
        self.variable, self.boxes = variable, boxes
        self.shape, self.dtype = variable.shape, np.dtype(np.float64)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )
        return found

    def _read(self, key: tuple[Any, ...]) -> npt.NDArray[np.float64]:
        # A number takes its dimension away, which the marks need.
        kept = tuple(slice(k, k + 1) if isinstance(k, (int, np.integer)) else k for k in key)
        part = self.variable[kept]
        values = np.array(part.values, dtype=np.float64)
        along = dict(zip(self.variable.dims, kept, strict=True))
        for box in self.boxes:
            marks = [mark[along[dim]] for dim, mark in zip(DIMS, box, strict=True)]
            if all(mark.any() for mark in marks):
                order = [DIMS.index(dim) for dim in part.dims]
                values[np.ix_(*(marks[i] for i in order))] = np.nan
        single = tuple(0 if isinstance(k, (int, np.integer)) else slice(None) for k in key)
        return values[single]


def masked(variable: xr.Variable, boxes: list[Box]) -> xr.Variable:
    """The variable with NaN in the boxes, nothing of which is read before it is asked for."""
    lazy = indexing.LazilyIndexedArray(_Masked(variable, boxes))
    return xr.Variable(variable.dims, lazy, variable.attrs, variable.encoding)


def mask_of(boxes: list[Box], metrics: slice, shape: tuple[int, ...]) -> Bools:
    """The boxes as (model, seed, step, metric) array, of a stretch of metrics."""
    mask: Bools = np.zeros(shape, dtype=bool)
    for models, seeds, steps, which in boxes:
        mask[np.ix_(models, seeds, steps, which[metrics])] = True
    return mask
