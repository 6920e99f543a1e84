"""More seeds or more test items: how sure a score would be with other numbers of both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import described, divided
from polystab.analysis.options import check_choice
from polystab.errors import AnalysisError, shown

OBJECTS = ("model", "run")

_DOCS = {
    "from_seeds": "error variance that more seeds make smaller",
    "from_items": "error variance that more items make smaller",
    "from_both": "error variance that more of either makes smaller",
    "relative_error": "error variance of a score compared with others on the same items",
    "absolute_error": "error variance of a score that stands for all items",
    "stderr_same_items": "root of relative_error",
    "stderr": "root of absolute_error",
    "generalizability": "share of what is to be told apart in the variance of scores on the same items",
    "dependability": "share of what is to be told apart in the variance of scores on any items",
}


def decision_study(
    components: xr.Dataset,
    *,
    n_seeds: int | Sequence[int] = (1, 2, 3, 5, 10, 20),
    n_items: int | Sequence[int] = (100, 300, 1000, 3000, 10000),
    of: str = "model",
) -> xr.Dataset:
    """How sure a score would be with other numbers of seeds and items (D study).

    Parameters
    ----------
    components : xarray.Dataset
        Result of :func:`item_components`.
    n_seeds, n_items : int or sequence of int, optional
        Runs that are averaged for each model, and items that each of them answers.
    of : {'model', 'run'}, optional
        What the scores are to tell apart: models, each the mean of ``n_seeds`` runs; or the
        runs of one model, each by itself (``n_seeds`` is then of no use).

    Returns
    -------
    xarray.Dataset
        Over (n_seeds, n_items) and the other dimensions of ``components``, without n_seeds for
        runs. Variances, in squared units of a score: ``from_seeds``, ``from_items`` and
        ``from_both``, which add up to ``absolute_error``; ``relative_error``. Standard errors:
        ``stderr`` (new runs and new items) and ``stderr_same_items`` (new runs, and items that
        all share; times the square root of 2 for the difference of two). Shares, 0 to 1:
        ``generalizability`` (E rho^2) and ``dependability`` (Phi).

    Raises
    ------
    AnalysisError
        ``components`` are others, a number is below 1, or ``of`` is none.

    Notes
    -----
    With variances of single answers (truncated at zero), s seeds and i items, the error of a
    model's mean has the variance ``seed / s + (item + model:item) / i + residual / (s i)``;
    ``item / i`` is no error where only models on the same items are compared. The share is
    ``model / (model + error)``, and NaN where ``components`` were taken model by model, which
    does not tell models apart. For runs, the error is ``(item + model:item + residual) / i``, or
    ``residual / i`` on the same items, and the share is ``seed / (seed + error)``. The numbers
    are as sure as the components are: look at their intervals. NaN where a component that
    counts is NaN.

    References
    ----------
    Brennan, R. L. (2001). Generalizability Theory. Springer.
    https://doi.org/10.1007/978-1-4757-3456-0

    Examples
    --------
    >>> import xarray as xr
    >>> from polystab.analysis.components.gtheory import decision_study
    >>> names = ["model", "seed", "item", "model:item", "residual"]
    >>> parts = xr.Dataset({"variance": ("component", [0.002, 0.0004, 0.06, 0.02, 0.16])}, {"component": names})
    >>> study = decision_study(parts, n_seeds=[1, 10], n_items=[500, 5000])
    >>> study["stderr_same_items"].round(4).values.tolist()
    [[0.0276, 0.0209], [0.0106, 0.0069]]
    """
    check_choice("object to tell apart (of)", of, OBJECTS)
    names = set(components["component"].values.tolist()) if "component" in components.coords else set()
    missing = sorted({"seed", "item", "residual"} - names)
    if missing or "variance" not in components:
        raise AnalysisError(
            f"a decision study needs components of items; these lack {shown(missing or ['variance'])}. "
            "Pass the result of item_components."
        )

    def part(name: str) -> xr.DataArray:
        if name in names:
            return components["variance"].sel(component=name, drop=True)
        return xr.zeros_like(components["variance"].isel(component=0, drop=True))

    items = _numbers("n_items", n_items)
    seeds = _numbers("n_seeds", n_seeds) if of == "model" else xr.DataArray(1)
    seed, item, crossed, residual = (part(name) for name in ("seed", "item", "model:item", "residual"))
    both = residual / (seeds * items)
    if of == "run":
        wanted, own = seed, seed * 0.0
        shared, relative = (item + crossed) / items, both
    else:
        wanted = part("model") if "model" in names else seed * np.nan
        own = seed / seeds
        shared, relative = (item + crossed) / items, own + crossed / items + both
    absolute = own + shared + both
    result = xr.Dataset(
        {
            "from_seeds": own,
            "from_items": shared,
            "from_both": both,
            "relative_error": relative,
            "absolute_error": absolute,
            "stderr_same_items": np.sqrt(relative),
            "stderr": np.sqrt(absolute),
            "generalizability": _share(wanted, relative),
            "dependability": _share(wanted, absolute),
        }
    )
    lead = [name for name in ("n_seeds", "n_items") if name in result.dims]
    rest = [name for name in components["variance"].dims if name != "component"]
    result = xr.broadcast(result)[0].transpose(*lead, *rest)
    result.attrs = {"of": of}
    return described(result, _DOCS)


def _numbers(name: str, given: int | Sequence[int]) -> xr.DataArray:
    numbers: npt.NDArray[np.generic] = np.atleast_1d(np.asarray(given))
    if numbers.dtype.kind not in "iu" or numbers.ndim != 1 or not len(numbers) or (numbers < 1).any():  # type: ignore[operator]
        raise AnalysisError(f"{name}={given!r} is not one or more whole numbers from 1 on.")
    return xr.DataArray(numbers, dims=name, coords={name: numbers})


def _share(wanted: xr.DataArray, error: xr.DataArray) -> xr.DataArray:
    top, whole = xr.broadcast(wanted, wanted + error)
    return top.copy(data=divided(top.values, whole.values))
