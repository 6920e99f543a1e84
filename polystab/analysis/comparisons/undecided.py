"""How large a difference would have to be, where a comparison cannot tell."""

from __future__ import annotations

import numpy as np
import xarray as xr

from polystab.analysis.arrays import described, quantiles
from polystab.analysis.comparisons.verdicts import CANNOT_TELL
from polystab.errors import AnalysisError, shown

_NEEDED = ("verdict", "detectable", "detectable_alone", "margin", "n_seeds")

_DOCS = {
    "n_rows": "rows that stay open",
    "n_known": "of these, rows with runs enough to say what difference they would find",
    "n_seeds_least": "fewest runs of that side in these rows, 0 without one",
    "n_seeds_most": "most runs of that side in these rows, 0 without one",
    "detectable": "true difference that is found in a single test, in margins, median over these rows",
    "detectable_alone": "the same among all tests if nothing else differs",
}


def undecided_overview(compared: xr.Dataset) -> xr.Dataset:
    """What the rows of a comparison in which the runs cannot tell would have found.

    Parameters
    ----------
    compared : xarray.Dataset
        Result of :func:`compare_cubes`.

    Returns
    -------
    xarray.Dataset
        ``n_rows``, rows (model, metric) whose verdict is ``cannot_tell``, and ``n_known``, those of them with a power.
        Over these: ``detectable`` and ``detectable_alone``, medians of the true difference that is found with the power in
        ``attrs``, as multiples of the margin (seed standard deviations by default), NaN without a row;
        ``n_seeds_least`` and ``n_seeds_most`` along ``side``, runs behind them.

    Raises
    ------
    AnalysisError
        It is no result of :func:`compare_cubes`.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis.comparisons import compare_cubes, undecided_overview
    >>> pair = {"nano-33k": "nano-33k-permute"}
    >>> found = compare_cubes(ps.load_cube("nano"), ps.load_cube("nano-init"), models=pair, n_permutations=99, rng=0)
    >>> open_rows = undecided_overview(found)
    >>> open_rows["n_seeds_least"].values.tolist(), bool(open_rows["detectable"] < open_rows["detectable_alone"])
    ([10, 5], True)
    """
    if missing := [name for name in _NEEDED if name not in compared.data_vars]:
        raise AnalysisError(f"there is no {shown(missing)}; give the result of compare_cubes.")
    undecided = compared["verdict"] == CANNOT_TELL
    known = undecided & (compared["detectable"] > 0) & (compared["detectable_alone"] > 0) & (compared["margin"] > 0)
    runs = compared["n_seeds"].where(known)
    result = xr.Dataset(
        {"n_rows": undecided.sum(), "n_known": known.sum()}
        | {"n_seeds_least": runs.min(("model", "metric")), "n_seeds_most": runs.max(("model", "metric"))},
        attrs={name: compared.attrs[name] for name in ("level", "power") if name in compared.attrs},
    )
    for name in ("n_seeds_least", "n_seeds_most"):
        result[name] = result[name].fillna(0).astype(np.int64)
    for name in ("detectable", "detectable_alone"):
        multiples = (compared[name] / compared["margin"]).where(known).values
        result[name] = ((), quantiles(multiples.reshape(-1), (0.5,), axis=0)[0][0])
    return described(result, _DOCS)
