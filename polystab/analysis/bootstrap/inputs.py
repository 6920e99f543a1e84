"""Scores of two recipes on the same test items, brought into line before they are resampled."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, finite
from polystab.analysis.options import numbers
from polystab.errors import AnalysisError, shown

Scores = npt.ArrayLike | xr.DataArray

DESIGNS = ("unpaired", "paired", "fixed")
RESAMPLES = ("both", "seeds", "items")


@dataclass(frozen=True)
class Matched:
    """Two sides with the same items, (cell, seed, item[, part]), and what the cells are.

    ``n_joined`` items have the same label on both sides, ``n_apart`` stand on one side only.
    """

    base: Floats
    other: Floats
    dims: tuple[Hashable, ...]
    shape: tuple[int, ...]
    coords: dict[Hashable, Any]
    n_joined: int
    n_apart: int


def matched(base: Scores, other: Scores, design: str, parts: str | None) -> Matched:
    """Join two sides on their items, and in a paired design on their seeds."""
    sides = [_labelled(scores, name, design, parts) for scores, name in ((base, "base"), (other, "other"))]
    joined, n_joined, n_apart = _joined_items(*sides)
    a, b = _paired_seeds(*joined) if design == "paired" else joined
    a, b = _same_cells(a, b, parts)
    last = ["seed", "item"] + ([parts] if parts else [])
    dims = tuple(dim for dim in a.dims if dim not in last)
    shape = tuple(a.sizes[dim] for dim in dims)
    coords = {name: coord.variable for name, coord in a.coords.items() if set(coord.dims) <= set(dims)}
    values = [
        np.asarray(side.transpose(*dims, *last).values, dtype=np.float64).reshape(
            -1, *(side.sizes[dim] for dim in last)
        )
        for side in (a, b)
    ]
    return Matched(finite(values[0]), finite(values[1]), dims, shape, coords, n_joined, n_apart)


def known_answers(values: Floats) -> Bools:
    """Which answers are known, (cell, seed, item): all parts of them, where there are parts."""
    known: Bools = ~np.isnan(values)
    return np.asarray(known.all(axis=3)) if known.ndim == 4 else known


def complete_items(known: Bools, runs: Bools) -> Bools:
    """Items (cell, item) that all of the runs (cell, seed) answered."""
    answered = np.asarray((known | ~runs[:, :, None]).all(axis=1))
    return answered & np.asarray(runs.any(axis=1))[:, None]


def _labelled(scores: Scores, name: str, design: str, parts: str | None) -> xr.DataArray:
    """A DataArray with ``seed`` and ``item``; numbers only, not measured as NaN."""
    if isinstance(scores, xr.Dataset | xr.DataTree):
        raise AnalysisError(
            f"{name} is a whole {type(scores).__name__}; pass scores of items, "
            "e.g. tree['items']['correct'].sel(model='...', step=...)."
        )
    alone = design == "fixed" and name == "base"
    if not isinstance(scores, xr.DataArray):
        plain = numbers(scores, name)
        if alone and plain.ndim == 1 + bool(parts):
            plain = plain[None]
        wanted = ["seed", "item"] + ([parts] if parts else [])
        if plain.ndim != len(wanted):
            raise AnalysisError(
                f"{name} has {plain.ndim} dimensions; a plain array is ({', '.join(wanted)}). "
                "For more, pass an xarray.DataArray with named dimensions."
            )
        scores = xr.DataArray(plain, dims=wanted)
    if scores.dtype.kind not in "fiub":
        raise AnalysisError(f"{name} holds {scores.dtype}, not numbers.")
    if alone and "seed" not in scores.dims:
        scores = scores.drop_vars("seed", errors="ignore").expand_dims("seed")
    for dim in ("seed", "item", *([parts] if parts else [])):
        if dim not in scores.dims:
            raise AnalysisError(
                f"{name} has no dimension {dim!r} (it has {shown(scores.dims)}); rename one: scores.rename(old={dim!r})."
            )
        if scores.sizes[dim] == 0:
            raise AnalysisError(f"{name} has nothing along {dim!r}.")
    if scores.name == "correct" and scores.dtype.kind == "i":  # a cube's items: -1 is not evaluated
        scores = scores.where(scores >= 0)
    return scores


def _joined_items(base: xr.DataArray, other: xr.DataArray) -> tuple[tuple[xr.DataArray, xr.DataArray], int, int]:
    """Both sides on the items that they share, in base's order; how many those are and how many are not."""
    if "item" not in base.indexes or "item" not in other.indexes:
        if base.sizes["item"] != other.sizes["item"]:
            raise AnalysisError(
                f"base has {base.sizes['item']} items and other {other.sizes['item']}, and not both label them; "
                "give both a coordinate 'item' so that they can be joined."
            )
        return (base, other), base.sizes["item"], 0
    a, b = base.indexes["item"], other.indexes["item"]
    for name, index in (("base", a), ("other", b)):
        if index.has_duplicates:
            twice = index[index.duplicated()].unique().tolist()
            raise AnalysisError(f"{name} has more than one item {shown(twice)}; keep one of each.")
    shared = a[a.isin(b)]
    if shared.empty:
        raise AnalysisError(
            f"base and other have no item in common (base {shown(a.tolist(), 2)}; other {shown(b.tolist(), 2)}); "
            "scores of different items cannot be compared."
        )
    n_apart = len(a) + len(b) - 2 * len(shared)
    return (base.sel(item=shared), other.sel(item=shared)), len(shared), n_apart


def _paired_seeds(base: xr.DataArray, other: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Other's seeds in the order of base's."""
    if "seed" not in base.indexes or "seed" not in other.indexes:
        if base.sizes["seed"] != other.sizes["seed"]:
            raise AnalysisError(
                f"a paired design needs the same seeds; base has {base.sizes['seed']} and other {other.sizes['seed']}. "
                "Label them with a coordinate 'seed' and select the common ones, or use design='unpaired'."
            )
        return base, other
    a, b = base.indexes["seed"], other.indexes["seed"]
    if a.has_duplicates or b.has_duplicates:
        raise AnalysisError("a paired design needs each seed once on a side; average repetitions of a seed first.")
    lone = [f"{seed} (base)" for seed in a.difference(b)] + [f"{seed} (other)" for seed in b.difference(a)]
    if lone:
        raise AnalysisError(
            f"a paired design needs the same seeds; on one side only: {shown(lone)}. "
            "Select the common ones, or use design='unpaired'."
        )
    return base, other.sel(seed=a)


def _same_cells(base: xr.DataArray, other: xr.DataArray, parts: str | None) -> tuple[xr.DataArray, xr.DataArray]:
    """Both sides over the same further dimensions."""
    for dim in set(base.dims) & set(other.dims) - {"seed", "item"}:
        same = base.sizes[dim] == other.sizes[dim]
        if same and dim in base.indexes and dim in other.indexes:
            same = base.indexes[dim].equals(other.indexes[dim])
        if not same:
            raise AnalysisError(
                f"base and other differ along {dim!r}; select the labels that both have, or drop a length of one "
                "with .squeeze(drop=True)."
            )
    if parts and base.sizes[parts] != other.sizes[parts]:
        raise AnalysisError(f"base and other differ along {parts!r}.")
    # One of them may lack a dimension: the other is then compared with it at every label.
    extra = [dim for dim in (*base.dims, *other.dims) if dim not in ("seed", "item", parts)]
    template = {dim: (base if dim in base.dims else other).sizes[dim] for dim in extra}
    labels = {dim: side.indexes[dim] for side in (other, base) for dim in extra if dim in side.indexes}
    return tuple(  # type: ignore[return-value]
        side.expand_dims({dim: labels.get(dim, size) for dim, size in template.items() if dim not in side.dims})
        for side in (base, other)
    )
