"""More seeds or more test items? What a comparison of two recipes can find, from its variance parts."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Floats, described, divided
from polystab.analysis.options import check_shares, numbers
from polystab.errors import AnalysisError, shown

PARTS = ("seed", "item", "seed:item")

# More seeds than this are not counted: they are as good as never.
_MOST = 2**20

# So many that their part of the variance is nothing.
_ENDLESS = 1e15

Parts = xr.Dataset | xr.DataArray | dict[str, float]


def detectable_difference(
    parts: Parts,
    *,
    n_seeds: int | Sequence[int],
    n_items: int | Sequence[int],
    power: float = 0.8,
    alpha: float = 0.05,
) -> xr.Dataset:
    """The smallest true difference of two recipes that is found with given seeds and items.

    Parameters
    ----------
    parts : xarray.Dataset, xarray.DataArray or dict
        Variance parts of the *difference*: a result of
        :func:`polystab.analysis.multibootstrap`, an array along ``part``, or a dict with
        ``seed``, ``item`` and ``seed:item``. Negative and NaN parts count as 0 and as unknown.
    n_seeds, n_items : int or sequence of int
        Runs of each recipe, and test items.
    power : float, optional
        Wanted chance of finding it, above ``alpha``.
    alpha : float, optional
        Level of the two-sided test.

    Returns
    -------
    xarray.Dataset
        Over (n_seeds, n_items) and the further dimensions of ``parts``: ``difference``,
        in units of the score; ``stderr``, the standard error of the difference; ``df``. Over the
        further dimensions: ``limit_seeds`` (n_items), the difference that no number of
        seeds gets below, and ``limit_items`` (n_seeds), the same for items.

    Raises
    ------
    AnalysisError
        A part is missing, a number of seeds is below 2 or of items below 2, or ``power``
        and ``alpha`` make no sense.

    Notes
    -----
    The variance is ``seed / n_s + item / n_x + seed:item / (n_s n_x)``, with df by
    Satterthwaite from the mean squares that the parts would give, as the interval ``t`` of the
    multi-bootstrap has it; of an unpaired design seeds have ``2 (n_s - 1)`` degrees of
    freedom. The difference is the noncentrality of the t distribution at which the
    two-sided test has the power, times the standard error. The parts are taken as known; from few
    seeds they are not: :func:`polystab.analysis.components.needed` has intervals for that, where
    items play no part.

    In 5,000 simulated comparisons each, with 100 items, differences that are to be found with
    power 0.8 were found in 79 to 81 % of cases with 10 seeds (whatever makes most of the
    variance), 77 to 81 % with 5, and 69 to 80 % with 3: an unpaired test that does not know that
    both sides spread alike loses there.

    References
    ----------
    Satterthwaite, F. E. (1946). An approximate distribution of estimates of variance
    components. Biometrics Bulletin 2, 110-114. https://doi.org/10.2307/3002019

    Examples
    --------
    >>> from polystab.analysis.bootstrap.detectable import detectable_difference
    >>> found = detectable_difference(
    ...     {"seed": 1e-4, "item": 0.05, "seed:item": 0.2}, n_seeds=[5, 20], n_items=[500, 5000])
    >>> found["difference"].values.round(3).tolist()
    [[0.041, 0.019], [0.031, 0.012]]
    """
    parts_array, paired = _parts(parts)
    seeds, items = _sizes(n_seeds, 2, "n_seeds"), _sizes(n_items, 2, "n_items")
    _check_test(power, alpha)
    rest = tuple(dim for dim in parts_array.dims if dim != "part")
    values = np.moveaxis(np.asarray(parts_array.transpose("part", *rest).values, dtype=np.float64), 0, -1)
    by_items = items.reshape((-1,) + (1,) * (values.ndim - 1))
    by_seeds = seeds.reshape((-1, *by_items.shape[1:]))
    error, df = _error(values, by_seeds[:, None], by_items, paired)
    columns = {"difference": error * _noncentrality(df, power, alpha), "stderr": error, "df": df}
    infinite = np.full((), _ENDLESS)
    limits = {
        "limit_seeds": _error(values, infinite, by_items, paired),
        "limit_items": _error(values, by_seeds, infinite, paired),
    }
    found: dict[Hashable, Any] = {name: (("n_seeds", "n_items", *rest), column) for name, column in columns.items()}
    for name, (limit, freedom) in limits.items():
        own = "n_items" if name == "limit_seeds" else "n_seeds"
        found[name] = ((own, *rest), limit * _noncentrality(freedom, power, alpha))
    coords = {name: coord.variable for name, coord in parts_array.coords.items() if set(coord.dims) <= set(rest)}
    result = xr.Dataset(
        found, coords={**coords, "n_seeds": seeds, "n_items": items}, attrs={"power": power, "alpha": alpha}
    )
    return described(
        result,
        {
            "difference": "smallest true difference that is found with the power asked for",
            "stderr": "standard error of the difference",
            "df": "degrees of freedom of the t test",
            "limit_seeds": "difference that no number of seeds gets below",
            "limit_items": "difference that no number of items gets below",
        },
    )


def sizes_needed(
    parts: Parts,
    *,
    difference: float,
    n_items: int | Sequence[int],
    power: float = 0.8,
    alpha: float = 0.05,
) -> xr.Dataset:
    """How many seeds of each recipe it takes to find a difference, for given numbers of items.

    Parameters
    ----------
    parts
        As in :func:`detectable_difference`.
    difference : float
        True difference that is to be found, in units of the score.
    n_items : int or sequence of int
        Test items.
    power, alpha : float, optional
        As in :func:`detectable_difference`.

    Returns
    -------
    xarray.Dataset
        Over (n_items) and the further dimensions of ``parts``: ``n_seeds``, a whole number
        as a float: infinite where the items alone hide the difference, NaN where a part
        is unknown. Over the further dimensions: ``n_items_least``, the number of items
        below which no number of seeds is enough.

    Raises
    ------
    AnalysisError
        ``difference`` is zero or not finite, or as in :func:`detectable_difference`.

    Notes
    -----
    The smallest number from 2 at which :func:`detectable_difference` is at most
    ``difference``; beyond about a million it is called infinite.

    Examples
    --------
    >>> from polystab.analysis.bootstrap.detectable import sizes_needed
    >>> found = sizes_needed({"seed": 1e-4, "item": 0.05, "seed:item": 0.2}, difference=0.02, n_items=[500, 5000])
    >>> found["n_seeds"].values.tolist(), int(found["n_items_least"])
    ([inf, 5.0], 984)
    """
    parts_array, paired = _parts(parts)
    items = _sizes(n_items, 2, "n_items")
    _check_test(power, alpha)
    size = abs(float(numbers(difference, "difference")))
    if not 0 < size < np.inf:
        raise AnalysisError(f"difference is {difference}; give one that is finite and not zero.")
    rest = tuple(dim for dim in parts_array.dims if dim != "part")
    values = np.moveaxis(np.asarray(parts_array.transpose("part", *rest).values, dtype=np.float64), 0, -1)

    def enough(seeds: Floats, x: Floats) -> npt.NDArray[np.bool_]:
        error, df = _error(values, seeds, x, paired)
        return np.asarray(error * _noncentrality(df, power, alpha) <= size)

    by_items = items.reshape((-1,) + (1,) * (values.ndim - 1))
    shape = (len(items), *values.shape[:-1])
    seeds = _smallest(lambda n: enough(n, by_items), shape, 2)
    least = _smallest(lambda n: enough(np.full((), _ENDLESS), n), values.shape[:-1], 2)
    unknown = np.isnan(values).any(axis=-1)
    coords = {name: coord.variable for name, coord in parts_array.coords.items() if set(coord.dims) <= set(rest)}
    result = xr.Dataset(
        {
            "n_seeds": (("n_items", *rest), np.where(unknown, np.nan, seeds)),
            "n_items_least": (rest, np.where(unknown, np.nan, least)),
        },
        coords={**coords, "n_items": items},
        attrs={"difference": size, "power": power, "alpha": alpha},
    )
    return described(
        result,
        {
            "n_seeds": "runs of each recipe for the power asked for",
            "n_items_least": "items below which no number of runs is enough",
        },
    )


def _parts(parts: Parts) -> tuple[xr.DataArray, bool]:
    """Parts along ``part`` in a known order, never below zero, and whether seeds are one sample (not two)."""
    paired = False
    if isinstance(parts, xr.Dataset):
        paired = parts.attrs.get("design", "unpaired") != "unpaired"
        if "variance" not in parts:
            raise AnalysisError(
                f"no variable 'variance' here (there is {shown(parts.data_vars)}); pass a multibootstrap."
            )
        parts = parts["variance"]
        if "side" in parts.dims:
            parts = parts.sel(side="difference", drop=True)
    if isinstance(parts, dict):
        parts = xr.DataArray(list(parts.values()), dims="part", coords={"part": list(parts)})
    if not isinstance(parts, xr.DataArray) or "part" not in parts.indexes:
        raise AnalysisError(
            f"variance parts are a multibootstrap, an array along 'part' or a dict with {shown(PARTS)}."
        )
    missing = [name for name in PARTS if name not in parts.indexes["part"]]
    if missing:
        raise AnalysisError(f"variance parts lack {shown(missing)}; they need {shown(PARTS)}.")
    parts = parts.sel(part=list(PARTS))
    known = numbers(parts.values, "variance parts")
    if np.isinf(known).any():
        raise AnalysisError("variance parts are infinite; give finite ones, or NaN for those that are not known.")
    return parts.copy(data=np.maximum(known, 0.0)), paired


def _sizes(given: int | Sequence[int], least: int, name: str) -> Floats:
    sizes = np.atleast_1d(numbers(given, name))
    if sizes.ndim != 1 or not ((sizes >= least) & (sizes == np.floor(sizes)) & np.isfinite(sizes)).all():
        raise AnalysisError(f"{name} is {given!r}; give whole numbers from {least}.")
    return sizes


def _check_test(power: float, alpha: float) -> None:
    check_shares(alpha=alpha, power=power)
    if power <= alpha:
        raise AnalysisError(f"power={power} is not above alpha={alpha}, which no test falls below.")


def _error(values: Floats, seeds: Floats, items: Floats, paired: bool) -> tuple[Floats, Floats]:
    """Standard error and degrees of freedom, from parts (..., part) and sizes that broadcast against them."""
    seed, item, crossed = (values[..., k] for k in range(3))
    noise = crossed / (seeds * items)
    of_seeds, of_items = seed / seeds + noise, item / items + noise
    variance = of_seeds + of_items - noise
    samples = 1 if paired else 2  # of an unpaired design the two sides have half the variance each
    df_seeds = samples * (seeds - 1)
    squares = of_seeds**2 / df_seeds + of_items**2 / (items - 1) + noise**2 / (df_seeds * (items - 1))
    df = np.where(squares > 0, divided(variance**2, squares), np.inf)
    return np.sqrt(variance), np.where(np.isnan(variance), np.nan, df)


def _noncentrality(df: Floats, power: float, alpha: float) -> Floats:
    """The noncentrality at which a two-sided t test has the power; that of a normal test for large df."""
    from scipy.special import nctdtrinc, ndtri, stdtrit

    few = np.clip(np.nan_to_num(df, nan=1.0, posinf=1e6), 0.5, 1e6)
    critical = stdtrit(few, 1 - alpha / 2)
    # The far tail adds less than the accuracy of anything here, unless power is near alpha.
    with np.errstate(all="ignore"):
        exact = nctdtrinc(few, 1 - power, critical)
    plain = ndtri(1 - alpha / 2) + ndtri(power)
    return np.where(np.isnan(df), np.nan, np.where((few > 1e4) | ~np.isfinite(exact), plain, exact))


def _smallest(enough: Any, shape: tuple[int, ...], least: int) -> Floats:
    """The smallest whole number from ``least`` that is enough, by halving; infinite beyond a million."""
    low, high = np.full(shape, float(least)), np.full(shape, float(_MOST))
    never, at_once = ~enough(high), enough(low)
    while (high - low > 1).any():
        middle = np.floor((low + high) / 2)
        good = enough(middle)
        high, low = np.where(good, middle, high), np.where(good, low, middle)
    return np.where(never, np.inf, np.where(at_once, float(least), high))
