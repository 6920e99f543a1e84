"""Who is responsible for the spread: variance components of every step and metric."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, cells, described, divided, finite, labels, scaled
from polystab.analysis.audit import counted_cells
from polystab.analysis.component_designs import Design, choose_design
from polystab.analysis.component_kernels import (
    Strata,
    f_test,
    intervals,
    nested_strata,
    patterns,
    table_strata,
    total_interval,
)
from polystab.analysis.reml import fit_reml
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError

ITEMS, WITHIN, TOTAL = "items", "within", "total"

# Why a component is not estimated, as a code and a word.
REASONS = ("estimated", "not_measured", "one_model", "one_seed", "no_stderr", "not_identifiable")
METHODS = ("none", "anova", "reml")

# Values taken at a time, so that the work space stays small beside a large cube.
_BLOCK = 2_000_000

_DOCS = {
    "variance": "variance component, never below zero",
    "estimate": "unbiased estimate of the component, which may be below zero",
    "lower": "lower end of the interval of the component",
    "upper": "upper end of the interval of the component",
    "p": "chance of so large a component, were it zero; not corrected for many tests",
    "df": "degrees of freedom of the component's mean square",
    "reason": "why there is no estimate",
    "n_runs": "runs that count: measured, finite, and no copy of another",
    "n_models": "models with such a run",
    "method": "how variance was estimated",
}


def variance_components(cube: xr.Dataset | xr.DataTree, *, design: str = "auto", level: float = 0.95) -> xr.Dataset:
    """Split the variance of the scores into components, at every step and for every metric.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    design : {'auto', 'nested', 'crossed', 'factorial'}, optional
        ``nested``: seed 3 of one model has nothing to do with seed 3 of another;
        components ``model`` and ``seed``, and ``items`` where the cube has ``stderr``.
        ``crossed``: a seed is the same in all models (the same data order, say);
        ``model``, ``seed`` and ``residual``. ``factorial``: initialisations crossed with
        data orders, from ``weight_seed`` and ``data_seed``, within each model and pooled
        over models; ``initialisation``, ``order`` and ``residual``, or ``interaction``
        and ``run`` where combinations were run more than once. ``auto`` is ``factorial``
        where every model with several runs is crossed so, else ``nested``.
    level : float, optional
        Confidence level of the intervals, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        Over (component, step, metric), in squared units of the metric: ``variance``,
        truncated at zero; ``estimate``, not truncated; ``lower`` and ``upper``; ``p``;
        ``df``; and ``reason``, an integer code (``attrs["flag_meanings"]``) that is 0 where
        there is an estimate. Over (step, metric): ``n_runs``, ``n_models`` and ``method``
        (1 analysis of variance, 2 REML). The coordinate ``part`` is true for components
        that add up to ``total``, ``meaning`` says in words what each one is. The design
        used and what it cannot tell apart are in ``attrs``.

    Raises
    ------
    AnalysisError
        No such design, or the cube does not allow it (the message says which components
        are confounded); ``level`` is not between 0 and 1.

    Notes
    -----
    Effects are taken as independent and normal, with one variance for each component.

    *Estimates.* Where the measured runs are balanced: mean squares solved for the
    components. Elsewhere ``variance`` is REML (:func:`fit_reml`), which cannot fall below
    zero, and ``estimate`` is from unweighted means (nested) or from sums of squares
    adjusted for the other factors (crossed, factorial). If REML cannot be fitted the
    truncated ``estimate`` stands in, and ``method`` says so.

    *Intervals.* The lowest stratum (``within``, ``residual``, ``run``) has the exact
    chi-square interval; ``seed`` is that less ``items``, taken as known. The others have
    the modified large-sample interval of Ting et al., built on the mean square of the
    component and the one below; ``total`` that of Graybill and Wang for a sum. All are
    cut at zero. In unbalanced cells those above the lowest are approximate. In
    simulations with 3, 5 and 10 seeds and 3 to 10 models, 95 % intervals cover 93-97 % for
    components away from zero, and the part that is missed lies below and above alike (that
    of ``total`` errs low more rarely than high); so do those that are given where 10 %
    (nested) or 5 % (crossed) of the runs are missing. None is given below two degrees of
    freedom (three runs of one model, three models): small designs with gaps lose some.

    *Tests.* ``p`` is the exact F test of a zero component, in unbalanced cells too (after
    Wald), except for main effects of an unbalanced factorial with replicates: NaN. For
    ``seed`` it is the chi-square test that the spread within models is no more than
    ``items``; without ``stderr`` there is none.

    *Test items.* ``items`` is the mean squared standard error. It counts the difficulty
    of the items too, which does not make runs differ if all answer the same items. Then
    ``items`` is too large, and ``seed`` and its test are too small: read ``seed`` as the
    least that the seeds contribute and ``within`` as the most. Where ``items`` exceeds
    ``within``, its ``variance`` is cut to ``within`` and that of ``seed`` is 0.

    *What is left out.* NaN is not measured. An infinite value counts as not measured:
    the run diverged. Copies of other runs (:func:`duplicate_runs`) count once. With one
    seed for each model neither ``seed`` nor ``model`` can be estimated, with one model
    there is no ``model``; they are NaN, not zero, and ``total`` adds up the parts that are
    there. Runs that are all equal have zero variances and no ``p``.

    References
    ----------
    Searle, S. R., Casella, G. and McCulloch, C. E. (1992). Variance Components. Wiley.
    https://doi.org/10.1002/9780470316856

    Ting, N., Burdick, R. K., Graybill, F. A., Jeyaratnam, S. and Lu, T.-F. C. (1990).
    Confidence intervals on linear combinations of variance components that are
    unrestricted in sign. Journal of Statistical Computation and Simulation 35, 135-143.

    Burdick, R. K. and Graybill, F. A. (1992). Confidence Intervals on Variance Components.
    Dekker. https://doi.org/10.1201/9781482277142

    Graybill, F. A. and Wang, C.-M. (1980). Confidence intervals on nonnegative linear
    combinations of variances. Journal of the American Statistical Association 75,
    869-873. https://doi.org/10.1080/01621459.1980.10477565

    Examples
    --------
    >>> import polystab as ps, polystab.testing
    >>> cube = polystab.testing.variance_cube(n_models=8, sd_model=3.0, n_steps=1, rng=0)
    >>> found = ps.variance_components(cube).squeeze()
    >>> [(str(name), round(float(found["variance"].sel(component=name)), 2)) for name in found["component"].values]
    [('model', 3.78), ('seed', 2.02), ('total', 5.8)]
    """
    cube = as_cube(cube)
    if not 0 < level < 1:
        raise AnalysisError(f"level is {level}; a confidence level lies between 0 and 1, e.g. 0.95.")
    plan = choose_design(cube, design)
    shape = (cube.sizes["step"], cube.sizes["metric"])
    values = counted_cells(cube)[0].reshape(cube.sizes["model"] * cube.sizes["seed"], shape[0] * shape[1])
    stderr = None
    if plan.name == "nested" and "stderr" in cube.data_vars:
        stderr = cells(cube, "stderr").reshape(values.shape)
    width = max(_BLOCK // max(len(values), 1), 1)
    blocks = [
        _block(
            plan,
            values[plan.rows, start : start + width],
            None if stderr is None else stderr[:, start : start + width],
            cube.sizes["model"],
            level,
        )
        for start in range(0, max(values.shape[1], 1), width)
    ]
    columns = {name: np.concatenate([block[name] for block in blocks], axis=-1) for name in blocks[0]}
    names = (*plan.components, *((ITEMS, WITHIN) if stderr is not None else ()), TOTAL)
    result = xr.Dataset(
        {
            name: (
                (("component",) if column.ndim == 2 else ()) + ("step", "metric"),
                column.reshape(*column.shape[:-1], *shape),
            )
            for name, column in columns.items()
        },
        coords={
            **labels(cube, "step", "metric"),
            "component": np.array(names),
            "part": ("component", np.array([name not in (WITHIN, TOTAL) for name in names])),
            "meaning": ("component", np.array([plan.meaning(name) for name in names])),
        },
        attrs={"design": plan.name, "confounded": plan.confounded, "level": float(level)},
    )
    return _flagged(described(result, _DOCS))


def variance_fractions(components: xr.Dataset) -> xr.DataArray:
    """Each variance component as a share of the total.

    Parameters
    ----------
    components : xarray.Dataset
        Result of :func:`variance_components`.

    Returns
    -------
    xarray.DataArray
        ``fraction(component, step, metric)``, without unit, 0 to 1, from the truncated
        variances: the parts of a cell add up to 1. NaN where the component is not
        estimated and where the total is zero.

    Examples
    --------
    >>> import polystab as ps, polystab.testing
    >>> from polystab.analysis import variance_fractions
    >>> cube = polystab.testing.variance_cube(n_steps=1, rng=0)
    >>> fraction = variance_fractions(ps.variance_components(cube))
    >>> round(float(fraction.where(fraction["part"]).sum()), 6)
    1.0
    """
    variance = components["variance"]
    total = variance.sel(component=TOTAL, drop=True).values
    result = variance.copy(data=divided(variance.values, np.broadcast_to(total, variance.shape))).rename("fraction")
    result.attrs = {"long_name": "share of the total variance", "units": "1"}
    return result


@dataclass(frozen=True)
class _Item:
    """One row of the result that is no stratum of the analysis of variance."""

    variance: Floats
    estimate: Floats
    lower: Floats
    upper: Floats
    p: Floats
    df: Floats


def _block(
    plan: Design, values: Floats, stderr: Floats | None, n_model: int, level: float
) -> dict[str, npt.NDArray[np.generic]]:
    """All columns of the result for some cells, (component, cell) or (cell,)."""
    small, exponent = scaled(finite(values), axis=0)
    if stderr is not None:
        larger = np.maximum(exponent, scaled(finite(stderr), axis=0)[1])
        small, exponent = np.ldexp(small, exponent - larger), larger
    known = ~np.isnan(small)
    # From the first run on, so that a large common part costs no digits and equal runs differ by exactly 0.
    first = np.take_along_axis(small, np.argmax(known, axis=0)[None], axis=0)
    small = small - first
    strata = (
        nested_strata(small.reshape(n_model, len(small) // max(n_model, 1), small.shape[1]))
        if plan.name == "nested"
        else table_strata(small, plan.factors, plan.fixed, plan.below)
    )
    variance, method = _variances(plan, small, strata)
    lower, upper = (np.maximum(end, 0.0) for end in intervals(strata, level))
    df = np.where(strata.df > 0, strata.df, np.nan)
    p = f_test(strata)
    rows = [
        _Item(variance[k], strata.estimate[k], lower[k], upper[k], p[k], df[k]) for k in range(len(plan.components))
    ]
    if stderr is not None:
        items = _mean_square_error(np.ldexp(stderr, -exponent), known, n_model)
        rows[-1:] = _split_items(rows[-1], items)
    rows.append(_total(rows, strata, level, with_items=stderr is not None))
    n_models = np.stack([known[plan.model == m].any(axis=0) for m in np.unique(plan.model)]).sum(axis=0)
    with np.errstate(over="ignore"):  # the square of 1e200 is infinite
        columns: dict[str, npt.NDArray[np.generic]] = {
            name: np.ldexp(np.stack([getattr(row, name) for row in rows]), 2 * exponent)
            for name in ("variance", "estimate", "lower", "upper")
        }
    columns |= {"p": np.stack([row.p for row in rows]), "df": np.stack([row.df for row in rows])}
    columns["reason"] = _reasons(plan, np.stack([row.estimate for row in rows]), known.sum(axis=0), n_models)
    columns |= {"n_runs": known.sum(axis=0), "n_models": n_models, "method": method}
    return columns


def _variances(plan: Design, values: Floats, strata: Strata) -> tuple[Floats, npt.NDArray[np.int8]]:
    """Truncated variances (component, cell): REML where a cell is unbalanced and allows it."""
    variance = np.where(np.isnan(strata.estimate), np.nan, np.maximum(strata.estimate, 0.0))
    method = np.where(np.isnan(strata.estimate).all(axis=0), 0, 1).astype(np.int8)
    wanted = ~strata.balanced & ~np.isnan(strata.estimate).any(axis=0) & (strata.mean_square[-1] > 0)
    cell = np.flatnonzero(wanted)
    if not len(cell):
        return variance, method
    # Cells that lack a whole group are fitted apart: its fixed effect has no rows there.
    groups = np.unique(plan.fixed)
    there = np.stack([(~np.isnan(values[plan.fixed == g][:, cell])).any(axis=0) for g in groups])
    for present, columns in patterns(there):
        rows = np.isin(plan.fixed, groups[present])
        chosen = cell[columns]
        fixed = {"group": plan.fixed[rows].astype(str)} if len(present) > 1 else None
        factors = {name: codes[rows] for name, codes in zip(plan.components[:-1], plan.factors, strict=True)}
        try:
            fit = fit_reml(values[np.ix_(rows, chosen)], factors, fixed)
        except AnalysisError:
            continue  # none of these cells allows a fit; method says that the moments stand in
        found = np.stack([np.asarray(part) for part in fit.variance.values()])
        usable = np.isfinite(found).all(axis=0) & np.asarray(fit.converged)
        variance[:, chosen[usable]] = found[:, usable]
        method[chosen[usable]] = 2
    return variance, method


def _mean_square_error(stderr: Floats, known: Bools, n_model: int) -> Floats:
    """Mean squared standard error of the runs, weighted as their spread within models is."""
    square = np.where(known & np.isfinite(stderr), stderr, np.nan) ** 2
    square = square.reshape(n_model, len(square) // max(n_model, 1), square.shape[1])
    count = known.reshape(square.shape).sum(axis=1)
    per_model = divided(np.nansum(square, axis=1), (~np.isnan(square)).sum(axis=1))
    weight = np.maximum(count - 1, 0)
    weight = np.where(weight.sum(axis=0) > 0, weight, count)
    counted = np.where(weight > 0, weight * per_model, 0.0)
    return divided(counted.sum(axis=0), weight.sum(axis=0))


def _split_items(within: _Item, items: Floats) -> list[_Item]:
    """Seed net of items, items, and the two together; where items are unknown, seed is all of it."""
    from scipy.special import gammaincc

    nan = np.full(items.shape, np.nan)
    taken = np.where(np.isnan(items), 0.0, items)
    estimate = within.estimate - taken
    known = ~np.isnan(items) & ~np.isnan(within.estimate)
    half = np.where(known, within.df, 2.0) / 2
    with np.errstate(over="ignore"):
        ratio = np.where((items == 0) & (within.estimate > 0), np.inf, divided(within.estimate, items))
    usable = known & ~np.isnan(ratio)
    p = np.full(items.shape, np.nan)
    p[usable] = gammaincc(half[usable], half[usable] * ratio[usable])
    seed = _Item(
        np.maximum(within.variance - taken, 0.0),
        estimate,
        np.maximum(within.lower - taken, 0.0),
        np.maximum(within.upper - taken, 0.0),
        p,
        within.df,
    )
    shown = np.fmin(items, np.where(np.isnan(items), np.nan, within.variance))
    return [seed, _Item(shown, items, nan, nan, nan, nan), within]


def _total(rows: list[_Item], strata: Strata, level: float, *, with_items: bool) -> _Item:
    """The sum of the parts that are known, where the lowest is."""
    parts = [*rows[: len(strata.below) - 1], rows[-1]] if with_items else rows
    known = ~np.isnan(parts[-1].estimate)
    estimate, variance = (
        np.where(known, np.nansum(np.stack([getattr(row, name) for row in parts]), axis=0), np.nan)
        for name in ("estimate", "variance")
    )
    lower, upper = total_interval(strata, level)
    nan = np.full(estimate.shape, np.nan)
    return _Item(variance, estimate, lower, upper, nan, nan)


def _reasons(plan: Design, estimate: Floats, n_runs: Ints, n_models: Ints) -> npt.NDArray[np.int8]:
    """Codes of ``REASONS`` for every component and cell."""
    result = np.zeros(estimate.shape, dtype=np.int8)
    for k in range(len(estimate)):
        lone = (n_models == 1) & (k == 0) & (plan.components[0] == "model")
        single = (n_runs <= n_models) if plan.name == "nested" else (n_runs < 2)
        why = np.where(lone, 2, np.where(single, 3, 5))
        if len(estimate) > len(plan.components) + 1 and k == len(plan.components):
            why = np.full(why.shape, 4)
        result[k] = np.where(np.isnan(estimate[k]), np.where(n_runs == 0, 1, why), 0)
    return result


def _flagged(result: xr.Dataset) -> xr.Dataset:
    for name, words in (("reason", REASONS), ("method", METHODS)):
        result[name].attrs |= {"flag_values": np.arange(len(words), dtype=np.int8), "flag_meanings": " ".join(words)}
    return result
