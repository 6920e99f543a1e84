"""The elements of one parameter over its runs, as lines to draw: densities, quantiles, singular values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes

from polystab.analysis.arrays import Floats, divided
from polystab.analysis.representations.groups import read_group
from polystab.errors import AnalysisError
from polystab.plots.bands import Series, largest_model, ordered_inks, place_of, texts_of
from polystab.plots.style import MUTED, log_axis
from polystab.words import count, number, plural

# Bins are joined until they are at least this share of the range wide: near 0 they are far finer than a picture.
_FINEST = 1 / 60

# Quantiles of the normal distribution at which a QQ plot has points: 1/8 of a standard deviation apart.
NORMAL_QUANTILES = np.arange(-48, 49) / 8

# The upper quartile of the normal distribution.
_QUARTILE = 0.6744897501960817


@dataclass(frozen=True)
class Part:
    """One parameter of one model: a value for each run, step and place along the group's own dimension."""

    name: str
    model: str
    values: Floats
    steps: npt.NDArray[np.integer]
    group: xr.Dataset
    seed: int | None

    @property
    def measured(self) -> npt.NDArray[np.integer]:
        """Steps at which some run is measured."""
        return np.asarray(self.steps[~np.isnan(self.values).all(axis=(0, 2))])

    @property
    def head(self) -> str:
        """What the picture is of."""
        return f"{self.name}, {self.model}" + ("" if self.seed is None else f" seed {self.seed}")

    def at(self, step: int) -> Floats:
        """Values (run, place) at a step."""
        return np.asarray(self.values[:, self.steps.tolist().index(step)])


def read_part(
    data: xr.Dataset | xr.DataTree,
    group: str,
    variable: str,
    dim: str,
    *,
    subject: str,
    model: str | None,
    seed: int | None,
) -> Part:
    """A parameter of a detail group: all runs of a model that are no copies, or the one asked for.

    Raises
    ------
    AnalysisError
        There is no such group.
    SelectionError
        It has no such parameter, model or seed.
    """
    edges = ("low", "high") if group == "histograms" else ()
    found, copies = read_group(data, group, (variable, "subject", dim, *edges))
    name = largest_model(found, model)
    m = texts_of(found["model"]).index(name)
    i = place_of(subject, texts_of(found["subject"]), f"parameter of the group {group}")
    chosen = found[variable].isel(model=m, subject=i).transpose("seed", "step", dim)
    values = np.asarray(chosen.values, dtype=np.float64)
    values = np.where(values < 0, np.nan, values)  # whole numbers have no NaN
    values = values[~copies[m] if seed is None else [place_of(seed, found["seed"].values.tolist(), "seed")]]
    if np.isnan(values).all():
        raise AnalysisError(f"{subject} of {name} was not measured{'' if seed is None else f' in seed {seed}'}.")
    return Part(subject, name, values, found["step"].values, found, seed)


def density_series(part: Part, steps: Sequence[int]) -> tuple[list[Series], str]:
    """Densities of the elements at some steps on bins that they share, and how many elements lie beyond all bins."""
    low, high = (np.asarray(part.group[name].values, dtype=np.float64) for name in ("low", "high"))
    edges = np.append(low, high[-1])
    at = [part.at(step) for step in steps]
    drawn = joined_edges(edges, np.nansum(np.concatenate(at), axis=0))
    infinite = ~np.isfinite(edges[:-1]) | ~np.isfinite(edges[1:])
    outside = max(int(np.nansum(counts[:, infinite], axis=1).max(initial=0)) for counts in at)
    largest = number(float(np.abs(edges[np.isfinite(edges)]).max()))
    series = [
        Series(f"step {count(step)}", (drawn[1:] + drawn[:-1]) / 2, density(counts, edges, drawn), ink)
        for step, counts, ink in zip(steps, at, ordered_inks(len(steps)), strict=True)
    ]
    return series, f"up to {plural(outside, 'element')} of a run beyond ±{largest}" if outside else ""


def density_axes(ax: Axes, series: Sequence[Series]) -> None:
    """Density on a logarithmic axis, down to a single element."""
    there = np.concatenate([one.runs[one.runs > 0] for one in series])
    ax.set_yscale("log", nonpositive="clip")
    log_axis(ax, "y")
    if len(there):
        ax.set_ylim(there.min() / 1.5, there.max() * 1.5)
    ax.set_xlabel("weight")
    ax.set_ylabel("density")


def joined_edges(edges: npt.NDArray[Any], counts: npt.NDArray[Any]) -> Floats:
    """Those of the bins' edges that a picture needs: from the first to the last element, and not too near one another.

    Both sides of 0 are thinned alike, so that a symmetric distribution looks symmetric.

    Examples
    --------
    >>> joined_edges(np.array([-2.0, -1.0, -0.1, -0.01, 0.01, 0.1, 1.0, 2.0]), np.array([0, 1, 1, 5, 1, 1, 0])).tolist()
    [-1.0, -0.1, 0.1, 1.0]
    """
    used = np.flatnonzero((counts > 0) & np.isfinite(edges[:-1]) & np.isfinite(edges[1:]))
    if not len(used):
        return np.asarray(edges[np.isfinite(edges)], dtype=np.float64)
    first, last = float(edges[used[0]]), float(edges[used[-1] + 1])
    width = _FINEST * (last - first)
    inside = edges[(edges >= first) & (edges <= last)]
    kept = [-edge for edge in reversed(_apart(-inside[inside < 0][::-1], width))] + _apart(inside[inside >= 0], width)
    # The ends stay, so that every element is in some bin.
    return np.unique([first, *(edge for edge in kept if first + width / 2 < edge < last - width / 2), last])


def _apart(edges: npt.NDArray[Any], width: float) -> list[float]:
    """Ascending edges that are at least so far apart, the first half as far from 0."""
    kept: list[float] = []
    for edge in edges.tolist():
        if 2 * edge >= width if not kept else edge - kept[-1] >= width:
            kept.append(edge)
    return kept


def density(counts: Floats, edges: npt.NDArray[Any], drawn: npt.NDArray[Any]) -> Floats:
    """Density (run, drawn bin) of elements counted in the bins (run, bin); edges drawn are some of the edges.

    Examples
    --------
    >>> density(np.array([[1.0, 1.0, 2.0]]), np.array([0.0, 1.0, 2.0, 4.0]), np.array([0.0, 2.0, 4.0])).tolist()
    [[0.25, 0.25]]
    """
    total = counts.sum(axis=1, keepdims=True)
    below = np.concatenate([np.zeros_like(total), np.cumsum(counts, axis=1)], axis=1)
    at = np.searchsorted(edges, drawn)
    return divided(np.diff(below[:, at], axis=1), total * np.diff(drawn))


def quantile_series(part: Part, steps: Sequence[int]) -> list[Series]:
    """Scaled quantiles of the elements at some steps."""
    upper = np.asarray(part.group["high"].values, dtype=np.float64)[:-1]
    return [
        Series(f"step {count(step)}", NORMAL_QUANTILES, _binned_quantiles(part.at(step), upper), ink)
        for step, ink in zip(steps, ordered_inks(len(steps)), strict=True)
    ]


def quantile_axes(ax: Axes, series: Sequence[Series]) -> None:
    """The line that a normal distribution lies on, and the names of the axes."""
    there = NORMAL_QUANTILES[np.any([np.isfinite(one.runs).any(axis=0) for one in series], axis=0)]
    ends = there[[0, -1]] if len(there) else there
    ax.plot(ends, ends, color=MUTED.light, linewidth=1.0, linestyle=(0, (4, 2)), zorder=2, label="normal")
    ax.set_xlabel("quantile of the normal distribution")
    ax.set_ylabel("quantile of the elements, scaled")


def _binned_quantiles(counts: Floats, upper: Floats) -> Floats:
    """Scaled quantiles (run, z) of elements counted in bins (run, bin), from the upper edges of all but the last."""
    result = np.full((len(counts), len(NORMAL_QUANTILES)), np.nan)
    for run, row in enumerate(counts):
        total = row.sum()
        if total > 0:  # and not NaN
            result[run] = scaled_quantiles(np.cumsum(row)[:-1] / total, upper)
    return result


def scaled_quantiles(share: npt.NDArray[Any], value: npt.NDArray[Any]) -> Floats:
    """Quantiles at the points of a QQ plot, less the median and over the normal's interquartile range.

    Parameters
    ----------
    share : array
        Share of elements below each value, ascending; those of 0 and 1 say nothing of where elements are.
    value : array
        Ascending; infinite ones are left out.

    Returns
    -------
    array
        NaN beyond the first and last share, and everywhere if the quartiles are equal.
    """
    from scipy.special import ndtri

    inside = (share > 0) & (share < 1) & np.isfinite(value)
    # Several edges with no element between them split the elements alike: the middle one stands for them.
    places, first, n = np.unique(share[inside], return_index=True, return_counts=True)
    if len(places) < 3:
        return np.full(len(NORMAL_QUANTILES), np.nan)
    middle = (value[inside][first] + value[inside][first + n - 1]) / 2
    z = ndtri(places)
    low, median, high = np.interp([-_QUARTILE, 0.0, _QUARTILE], z, middle)
    found = np.interp(NORMAL_QUANTILES, z, middle, left=np.nan, right=np.nan)
    return divided(found - median, (high - low) / (2 * _QUARTILE))


def spectrum_series(part: Part, steps: Sequence[int]) -> list[Series]:
    """Singular values by rank at some steps, without zeros, which have no logarithm."""
    ranks = np.asarray(part.group["rank"].values)
    return [
        Series(f"step {count(step)}", ranks, np.where(part.at(step) > 0, part.at(step), np.nan), ink)
        for step, ink in zip(steps, ordered_inks(len(steps)), strict=True)
    ]


def spectrum_axes(ax: Axes) -> None:
    """Logarithmic both ways."""
    log_axis(ax, "x")
    log_axis(ax, "y")
    ax.set_xlabel("rank")
    ax.set_ylabel("singular value")
