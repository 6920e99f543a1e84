"""Analysis of variance of runs x checkpoints on plain arrays: mean squares and what they are expected to be.

A component stands for a set of factors (``m`` model, ``s`` seed, ``t`` step); its effects are
the same wherever those agree. Cells (metrics) lie along the last axis. NaN is not measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from polystab.analysis.arrays import Bools, Floats, Ints, divided
from polystab.analysis.components.window_noise import NoiseTable, lag_ratio, noise_table, two_way_residuals

# Factors of each component, the lowest last. Seeds that are nested in models have no effect of their own.
DESIGNS: dict[str, dict[str, str]] = {
    "nested": {"model": "m", "seed": "ms", "step": "t", "model:step": "mt", "seed:step": "mst"},
    "crossed": {
        "model": "m",
        "seed": "s",
        "model:seed": "ms",
        "step": "t",
        "model:step": "mt",
        "seed:step": "st",
        "residual": "mst",
    },
}

# With gaps: what every component but the lowest explains beyond the factors that stand first, and all factors.
_ADJUSTED: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    "nested": ((("t",), "m"), (("mt",), "ms"), (("ms",), "t"), (("ms", "t"), "mt")),
    "crossed": (
        (("st",), "m"),
        (("mt",), "s"),
        (("st", "mt"), "ms"),
        (("ms",), "t"),
        (("st", "ms"), "mt"),
        (("mt", "ms"), "st"),
    ),
}
_WHOLE = {"nested": ("mt", "ms"), "crossed": ("st", "mt", "ms")}

# Root mean squares below this share of the largest value are rounding error, not spread.
_ROUNDING = 1e-14

# Eigenvalues below this share of the number of rows belong to effects that are not independent.
_RANK = 1e-8


@dataclass(frozen=True)
class Squares:
    """Mean squares (stratum, cell) of cells that share a pattern of measured checkpoints.

    ``mix[k, j]`` is the weight of component j in the expectation of mean square k where all
    noise is white; the last column is that of the lowest component. ``ratio`` is the lag-1 ratio
    of the residuals, ``table`` what noise does in such series, of which ``n_series`` are there.
    """

    mean_square: Floats
    df: Ints
    mix: Floats
    balanced: bool
    ratio: Floats
    table: NoiseTable | None
    n_series: int


def squares(values: Floats, design: str, positions: Floats | None) -> Squares:
    """Analysis of variance of (model, seed, step, cell); all cells have the same gaps.

    Parameters
    ----------
    values : (model, seed, step, cell) array
    design : {'nested', 'crossed'}
    positions : (step,) array or None
        Where the checkpoints lie, for the correlation of the noise; None for white noise.
    """
    known: Bools = ~np.isnan(values[..., 0])
    models, seeds, steps = known.any(axis=(1, 2)), known.any(axis=(0, 2)), known.any(axis=(0, 1))
    if design == "nested":
        full = _same_runs(values[models][:, :, steps], known[models][:, :, steps])
        box = full if full is not None else values[models][:, :, steps]
    else:
        box = values[np.ix_(models, seeds, steps)]
        full = box if not np.isnan(box[..., 0]).any() else None
    mean_square, df, mix = _balanced(box, design) if full is not None else _adjusted(box, design)
    table = noise_table(positions[steps]) if positions is not None else None
    n_series = _n_series(box, design)
    ratio = np.full(values.shape[-1], np.nan)
    if table is not None and n_series > 0 and df[-1] > 0:
        ratio = np.where(mean_square[-1] > 0, lag_ratio(_noise_of(box, design), axis=2), np.nan)
    return Squares(mean_square, df, mix, full is not None, ratio, table, n_series)


def _same_runs(values: Floats, known: Bools) -> Floats | None:
    """The runs of every model side by side, if all have the same number and no gaps."""
    runs = known.any(axis=2)
    count = runs.sum(axis=1)
    if (count != count[0]).any() or not known[runs].all():
        return None
    order = np.argsort(~runs, axis=1, kind="stable")[:, : count[0]]
    return np.take_along_axis(values, order[:, :, None, None], axis=1)


def _balanced(values: Floats, design: str) -> tuple[Floats, Ints, Floats]:
    """Mean squares, degrees of freedom and weights of a full box."""
    size = dict(zip("mst", values.shape[:3], strict=True))
    axis = {name: i for i, name in enumerate("mst")}

    def mean(factors: str) -> Floats:
        return np.asarray(values.mean(axis=tuple(axis[f] for f in "mst" if f not in factors), keepdims=True))

    def sum_of_squares(factors: str) -> tuple[Floats, int]:
        """Of the effects of exactly these factors, by inclusion and exclusion."""
        parts = [sub for sub in _subsets("mst") if set(sub) <= set(factors)]
        effect = np.zeros_like(mean(factors))
        for sub in parts:
            effect += (-1) ** (len(factors) - len(sub)) * (values if sub == "mst" else means[sub])
        repeats = math.prod(size[f] for f in "mst" if f not in factors)
        flat = effect.reshape(-1, effect.shape[-1])
        return repeats * np.einsum("ij,ij->j", flat, flat), math.prod(size[f] - 1 for f in factors)

    means = {sub: mean(sub) for sub in _subsets("mst") if sub != "mst"}
    strata = list(DESIGNS[design].values())
    found = {factors: sum_of_squares(factors) for factors in _subsets("mst") if factors}
    if design == "nested":  # seeds and their interactions with models are one and the same
        for inner, outer in (("s", "ms"), ("st", "mst")):
            found[outer] = (found[inner][0] + found[outer][0], found[inner][1] + found[outer][1])
    df = np.array([found[factors][1] for factors in strata], dtype=np.int64)
    mean_square = _cleaned(
        np.stack([divided(found[factors][0], float(n)) for factors, n in zip(strata, df, strict=True)]), values
    )
    mix = np.array(
        [[math.prod(size[f] for f in "mst" if f not in b) if set(a) <= set(b) else 0 for b in strata] for a in strata],
        dtype=np.float64,
    )
    return mean_square, df, mix


def _adjusted(values: Floats, design: str) -> tuple[Floats, Ints, Floats]:
    """The same for a box with gaps, from projections on the levels that are there."""
    rows = np.flatnonzero(~np.isnan(values[..., 0]).ravel())
    y = values.reshape(-1, values.shape[-1])[rows]
    index = dict(zip("mst", np.unravel_index(rows, values.shape[:3]), strict=True))
    shape = dict(zip("mst", values.shape[:3], strict=True))

    def indicators(factors: str) -> Floats:
        codes = np.zeros(len(rows), dtype=np.int64)
        for f in factors:
            codes = codes * shape[f] + index[f]
        return np.equal.outer(codes, np.unique(codes)).astype(np.float64)

    strata = list(DESIGNS[design].values())
    blocks = {factors: indicators(factors) for factors in ("m", "s", "t", "ms", "mt", "st")}
    bases: dict[tuple[str, ...], Floats] = {}

    def basis(factors: tuple[str, ...]) -> Floats:
        """Orthonormal, of all that these factors explain."""
        if factors not in bases:
            block = blocks[factors[-1]]
            if len(factors) == 1:
                bases[factors] = block / np.sqrt(block.sum(axis=0))
            else:
                bases[factors] = np.hstack([basis(factors[:-1]), _beyond(basis(factors[:-1]), block)])
        return bases[factors]

    mean_square, df, mix = [], [], []
    for others, factors in _ADJUSTED[design]:
        own = _beyond(basis(others), blocks[factors])
        n = own.shape[1]
        mean_square.append(divided(np.sum((own.T @ y) ** 2, axis=0), float(n)))
        df.append(n)
        shares = [float(np.sum((own.T @ blocks[f]) ** 2)) / max(n, 1) for f in strata[:-1]]
        mix.append([*(share if share > _RANK else 0.0 for share in shares), 1.0])
    whole = basis(_WHOLE[design])
    rest = y - whole @ (whole.T @ y)
    rest -= whole @ (whole.T @ rest)  # twice is enough: what is left is left
    df.append(len(rows) - whole.shape[1])
    mean_square.append(divided(np.sum(rest**2, axis=0), float(df[-1])))
    mix.append([*(0.0 for _ in strata[:-1]), 1.0])
    return _cleaned(np.stack(mean_square), y), np.array(df, dtype=np.int64), np.array(mix)


def _beyond(base: Floats, columns: Floats) -> Floats:
    """Orthonormal basis of what the columns span beyond an orthonormal base."""
    rest = columns - base @ (base.T @ columns)
    sizes, vectors = np.linalg.eigh(rest.T @ rest)
    kept = sizes > _RANK * len(columns)
    return np.asarray(rest @ (vectors[:, kept] / np.sqrt(sizes[kept])))


def _noise_of(values: Floats, design: str) -> Floats:
    """The lowest residuals: after model and step means and, where seeds are crossed, those of seeds and steps."""
    if design == "crossed":
        values = _without_shared_seeds(values)
    return two_way_residuals(values)


def _without_shared_seeds(values: Floats) -> Floats:
    """Less the mean over models at every seed and step; gaps make this approximate."""
    known = ~np.isnan(values)
    return values - divided(np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0))


def _n_series(values: Floats, design: str) -> int:
    """Independent contrasts among the runs, each a series over the checkpoints."""
    runs = np.any(~np.isnan(values[..., 0]), axis=2)
    if design == "nested":
        return int(np.maximum(runs.sum(axis=1) - 1, 0).sum())
    return int(runs.sum() - runs.any(axis=1).sum() - runs.any(axis=0).sum() + 1)


def _subsets(factors: str) -> list[str]:
    result = [""]
    for factor in factors:
        result += [sub + factor for sub in result]
    return sorted(result, key=lambda sub: (len(sub), sub))


def _cleaned(mean_square: Floats, values: Floats) -> Floats:
    largest = np.nanmax(np.abs(values.reshape(-1, values.shape[-1])), axis=0, initial=0.0)
    return np.where(
        mean_square <= (_ROUNDING * largest) ** 2, np.where(np.isnan(mean_square), np.nan, 0.0), mean_square
    )
