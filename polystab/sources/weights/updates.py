"""Whether matrices change together: correlations of the updates of pairs of matrices."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from polystab.sources.weights.names import Parameter

if TYPE_CHECKING:
    import xarray as xr

Array = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]

# So many elements of each update are kept, so that memory does not grow with the size of the matrices. The
# correlation of unrelated updates then scatters by 1/256.
SAMPLE = 2**16


@lru_cache(maxsize=16)
def sampled_places(size: int) -> npt.NDArray[np.int64]:
    """Which elements of matrices of that size are kept: the same for all of them, in any run."""
    return np.sort(np.random.default_rng(size).choice(size, SAMPLE, replace=False))


def sampled(now: Array, then: Array) -> npt.NDArray[np.float32]:
    """The update of some elements of a matrix, of all if it has no more than ``SAMPLE``."""
    x, y = now.reshape(-1), then.reshape(-1)
    if x.size > SAMPLE:
        places = sampled_places(x.size)
        x, y = x[places], y[places]
    return (x - y).astype(np.float32)


@dataclass(frozen=True)
class Pair:
    """Two matrices of one shape and how alike their updates are.

    Units of the hidden layers have no order that layers share: correlations come along the residual stream only.

    Attributes
    ----------
    first, second : Parameter
    correlation : float
        Cosine between the updates, element by element.
    size_correlation : float
        Pearson correlation of the absolute updates: whether the same elements move, either way.
    n : int
        Elements compared. Of unrelated updates both scatter by about 1 / sqrt(n).
    """

    first: Parameter
    second: Parameter
    correlation: float
    size_correlation: float
    n: int


@dataclass
class Updates:
    """Updates of the matrices of one checkpoint."""

    kept: dict[tuple[int, ...], list[tuple[Parameter, npt.NDArray[np.float32]]]] = field(default_factory=dict)

    def add(self, parameter: Parameter, now: Array, then: Array) -> None:
        """Keep what is needed of one update, of finite matrices of one shape."""
        self.kept.setdefault(now.shape, []).append((parameter, sampled(now, then)))

    def pairs(self) -> list[Pair]:
        """Matrices of one shape that are the same part of two layers, or two parts of one layer.

        Matrices that did not change, or were not finite before, are in no pair.
        """
        found = []
        for several in self.kept.values():
            moved = [(known, update) for known, update in several if update.any() and np.isfinite(update).all()]
            if len(moved) < 2:
                continue
            signed = np.stack([update.astype(np.float64) for _, update in moved])
            correlation, sizes = _products(signed), _products(_centred(np.abs(signed)))
            for i, j in itertools.combinations(range(len(moved)), 2):
                a, b = moved[i][0], moved[j][0]
                if a.component == b.component or a.layer == b.layer >= 0:
                    found.append(Pair(a, b, float(correlation[i, j]), float(sizes[i, j]), signed.shape[1]))
        return found


def _centred(rows: Floats) -> Floats:
    return np.asarray(rows - rows.mean(axis=1, keepdims=True))


def _products(rows: Floats) -> Floats:
    """Cosines between rows; NaN with a row of zeros."""
    largest = np.max(np.abs(rows), axis=1, keepdims=True)
    small = np.divide(
        rows, largest, out=np.full_like(rows, np.nan), where=largest > 0
    )  # squares of tiny updates vanish
    small /= np.sqrt(np.sum(small**2, axis=1, keepdims=True))
    return np.asarray(small @ small.T)


def component_means(pairs: list[Pair]) -> dict[str, dict[str, float]]:
    """Means over the pairs of layers of each component."""
    parts: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.first.component == pair.second.component:
            parts.setdefault(pair.first.component, []).append(pair)
    return {
        component: {
            "update_correlation": float(np.mean([pair.correlation for pair in several])),
            "update_size_correlation": float(np.mean([pair.size_correlation for pair in several])),
        }
        for component, several in parts.items()
    }


def updates_group(pairs: list[Pair]) -> xr.Dataset:
    """``correlation(pair)`` and ``size_correlation(pair)``, with the two matrices as coordinates."""
    import xarray as xr

    columns = {
        "correlation": (np.array([p.correlation for p in pairs], np.float32), "cosine between the updates"),
        "size_correlation": (
            np.array([p.size_correlation for p in pairs], np.float32),
            "correlation of the absolute updates",
        ),
    }
    names = {
        "pair": ([f"{p.first.subject} ~ {p.second.subject}" for p in pairs], "two matrices of one shape"),
        "first": ([p.first.subject for p in pairs], "first matrix"),
        "second": ([p.second.subject for p in pairs], "second matrix"),
        "n_elements": ([p.n for p in pairs], "elements compared"),
    }
    return xr.Dataset(
        {name: ("pair", values, {"long_name": doc, "units": "1"}) for name, (values, doc) in columns.items()},
        coords={name: ("pair", np.array(values), {"long_name": doc}) for name, (values, doc) in names.items()},
    )
