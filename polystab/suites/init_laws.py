"""The distributions that first weights are drawn from: those of finished weights, or of what a cube says about them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from polystab.cube.validate import as_cube
from polystab.errors import ReadError, shown
from polystab.sources.weights.fits import fit_all, grouped
from polystab.sources.weights.histograms import LARGEST, bin_edges, counts

if TYPE_CHECKING:
    import xarray as xr

Array = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]
# Gives so many numbers.
Law = Callable[[int, np.random.Generator], Array]

NEEDS = {
    "histogram": "the group histograms: polystab fill weights --sets histograms,moments",
    "fit": "t_nu, and t_scale or std, of every matrix, mean and l2 of every vector: polystab fill weights --sets moments,fits",
    "normal": "std of every matrix, mean and l2 of every vector: polystab fill weights --sets core",
}


class InitError(ReadError):
    """A model cannot start from these weights."""


def from_counts(count: npt.NDArray[np.integer], edges: Floats, n: int, rng: np.random.Generator) -> Floats:
    """Draws from a histogram, uniform within each bin; the outermost bins are points at their finite edges."""
    finite = np.clip(edges, -LARGEST, LARGEST)
    chosen = rng.choice(len(count), size=n, p=count / count.sum())
    return rng.uniform(finite[:-1][chosen], finite[1:][chosen])


def normal(mean: float, sd: float) -> Law:
    """Normal numbers."""
    return lambda n, rng: rng.normal(mean, sd, size=n)


def student(nu: float, scale: float, centre: float) -> Law:
    """Numbers from a t distribution."""
    return lambda n, rng: centre + scale * rng.standard_t(nu, size=n)


def law_of(x: Array, how: str) -> Law:
    """What gives numbers like those of ``x``, see :func:`polystab.suites.init_from`."""
    flat = x.reshape(-1)
    if how == "permute" or not x.size:
        return lambda n, rng: rng.permutation(flat)  # noqa: ARG005  there are n
    if how == "histogram" and x.ndim < 2:
        return lambda n, rng: rng.choice(flat, size=n)
    ordered = np.sort(flat)
    if how == "histogram":
        count = counts(ordered)
        return lambda n, rng: from_counts(count, bin_edges(), n, rng)
    mean = float(flat.mean(dtype=np.float64))
    groups = grouped(ordered) if how == "fit" and x.ndim > 1 else None
    if groups is not None:
        fit = fit_all([groups], ("t",))[0]
        return student(fit["t_nu"], fit["t_scale"], mean)
    return normal(mean, float(flat.std(dtype=np.float64, ddof=1)) if x.size > 1 else 0.0)


@dataclass(frozen=True)
class MeasuredWeights:
    """What a cube says about the weights of one checkpoint.

    Attributes
    ----------
    where : str
        Which, in words.
    values : mapping
        Measures by subject.
    histograms : mapping
        By subject, counts and the edges of their bins.
    """

    where: str
    values: Mapping[str, Mapping[str, float]]
    histograms: Mapping[str, tuple[npt.NDArray[np.integer], Floats]]

    def law(self, subject: str, n: int, how: str) -> Law | None:
        """What gives numbers like those of a parameter with ``n`` elements; None if too little was measured."""
        said = self.values.get(subject, {})
        # Means of matrices are next to nothing, and the set `core` goes without them.
        mean, sd = said.get("mean", 0.0), _spread(said, n)
        if how == "histogram":
            if subject not in self.histograms:
                return None
            count, edges = self.histograms[subject]
            return lambda n, rng: from_counts(count, edges, n, rng)
        if how == "normal":
            return None if math.isnan(sd) else normal(mean, sd)
        nu = said.get("t_nu", math.nan)
        scale = said.get("t_scale", sd * math.sqrt((nu - 2) / nu) if nu > 2 else math.nan)
        return None if math.isnan(nu + scale) else student(nu, scale, mean)


def measured_weights(
    cube: xr.Dataset | xr.DataTree, run: tuple[str, int] | None, step: int | None, *, histograms: bool
) -> MeasuredWeights:
    """What a cube says about one checkpoint, by default the last of its only run with weights.

    Raises
    ------
    InitError
        There is no such checkpoint, or several runs to choose from, or no histograms.
    """
    found = as_cube(cube)
    found = found.isel(metric=np.flatnonzero(found["family"].values == "weight"))
    there = np.isfinite(found["value"].transpose("model", "seed", "step", "metric").values).any(axis=-1)
    models, seeds = found["model"].values.tolist(), found["seed"].values.tolist()
    runs = [(models[i], seeds[j]) for i, j in np.argwhere(there.any(axis=-1))]
    if not runs:
        raise InitError("the cube has no measures of weights; polystab fill weights makes them.")
    if run is None and len(runs) != 1:
        raise InitError(f"the cube has weights of {len(runs)} runs: {shown(runs)}. Choose one: run=(model, seed).")
    model, seed = runs[0] if run is None else run
    if (model, seed) not in runs:
        raise InitError(f"the cube has no weights of the run {(model, seed)!r}; it has those of {shown(runs)}.")
    steps = found["step"].values[there[models.index(model), seeds.index(seed)]].tolist()
    chosen = steps[-1] if step is None else step
    if chosen not in steps:
        raise InitError(f"weights of {model} seed {seed} were measured at the steps {shown(steps)}, not at {step}.")
    place = {"model": model, "seed": seed, "step": chosen}
    values: dict[str, dict[str, float]] = {}
    row = found["value"].sel(place).values.tolist()
    for subject, measure, value in zip(found["subject"].values, found["measure"].values, row, strict=True):
        if math.isfinite(value):
            values.setdefault(str(subject), {})[str(measure)] = value
    counted = _histograms(cube, place) if histograms else {}
    return MeasuredWeights(f"{model} seed {seed} step {chosen}", values, counted)


def _histograms(
    cube: xr.Dataset | xr.DataTree, place: Mapping[str, str | int]
) -> dict[str, tuple[npt.NDArray[np.integer], Floats]]:
    groups = getattr(cube, "children", {})
    if "histograms" not in groups:
        raise InitError(
            f"the cube has no group histograms (a Dataset has no groups: open_tree, load_tree). How 'histogram' needs "
            f"{NEEDS['histogram']}; 'fit' and 'normal' need only numbers."
        )
    group = groups["histograms"].to_dataset()
    edges = np.append(group["low"].values, group["high"].values[-1]).astype(np.float64)
    table = group["count"].sel(place).transpose("subject", "bin").values
    # Where a parameter was not counted there is a fill value, which is not above 0.
    return {
        str(subject): (count, edges)
        for subject, count in zip(group["subject"].values, table, strict=True)
        if (count > 0).any()
    }


def _spread(said: Mapping[str, float], n: int) -> float:
    """The standard deviation (ddof 1), measured or from mean and norm; NaN if neither is known."""
    if "std" in said:
        return said["std"]
    if "variance" in said:
        return math.sqrt(said["variance"])
    if "l2" not in said or "mean" not in said:
        return math.nan
    return math.sqrt(max(0.0, said["l2"] ** 2 - n * said["mean"] ** 2) / max(1, n - 1))
