"""Who is responsible for the spread: variance components of every step and metric."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Floats, Ints, cells, described, finite, labels, scaled, unscaled
from polystab.analysis.audit.exclude import Exclude, leave_out, leave_out_items
from polystab.analysis.audit.runs import check_not_empty, counted_cells
from polystab.analysis.chunked import in_parts
from polystab.analysis.components.bootstrap import Resample, bootstrap_intervals, resamples
from polystab.analysis.components.designs import ITEMS, TOTAL, WITHIN, Design, choose_design
from polystab.analysis.components.fixed import Fixed, coded_rows, with_fixed
from polystab.analysis.components.items import item_design
from polystab.analysis.components.kernels import Strata, f_test, from_first, nested_strata, table_strata, total_interval
from polystab.analysis.components.kernels import intervals as exact_intervals
from polystab.analysis.components.mixed import profile_intervals, reml_variances
from polystab.analysis.components.rows import Row, mean_square_error, split_items, total_row
from polystab.analysis.multiplicity import adjusted_p
from polystab.analysis.options import check_choice, check_shares, check_whole, flagged, generator_of
from polystab.errors import AnalysisError

# Why a component is not estimated, as a code and a word.
REASONS = ("estimated", "not_measured", "one_model", "one_seed", "no_stderr", "not_identifiable")
METHODS = ("none", "anova", "reml")

INTERVALS = ("exact", "profile", "bootstrap")

# Values taken at a time, so that the work space stays small beside a large cube.
_BLOCK = 500_000

_DOCS = {
    "variance": "variance component, never below zero",
    "estimate": "unbiased estimate of the component, which may be below zero",
    "lower": "lower end of the interval of the component",
    "upper": "upper end of the interval of the component",
    "p": "chance of so large a component, were it zero; not corrected for many tests",
    "p_adjusted": "p corrected for the number of tests (false discovery rate)",
    "n_tests": "tests of the component, over steps and metrics",
    "df": "degrees of freedom of the component's mean square",
    "mean_square": "mean square of the component; of items, the mean squared standard error",
    "size": "how often the component is in the expectation of its mean square",
    "reason": "why there is no estimate",
    "n_runs": "runs that count: measured, finite, and no copy of another",
    "n_models": "models with such a run",
    "method": "how variance was estimated",
}


def variance_components(
    cube: xr.Dataset | xr.DataTree,
    *,
    design: str = "auto",
    fixed: Fixed = None,
    level: float = 0.95,
    intervals: str = "exact",
    n_resamples: int = 999,
    rng: int | np.random.Generator | None = None,
    exclude: Exclude = None,
) -> xr.Dataset:
    """Split the variance of the scores into components, at every step and for every metric.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    design : {'auto', 'nested', 'crossed', 'factorial', 'items'}, optional
        ``nested``: seed 3 of one model has nothing to do with seed 3 of another;
        components ``model`` and ``seed``, and ``items`` where the cube has ``stderr``.
        ``crossed``: a seed is the same in all models (the same data order, say);
        ``model``, ``seed`` and ``residual``. ``factorial``: initialisations crossed with
        data orders, from ``weight_seed`` and ``data_seed``, within each model and pooled
        over models; ``initialisation``, ``order`` and ``residual``, or ``interaction``
        and ``run`` where combinations were run more than once. ``auto`` is ``factorial``
        where every model with several runs is crossed so, else ``nested``. ``items``, of a
        tree with the group ``items``: single answers, ``model``, ``seed``, ``item``,
        ``model:item`` and ``residual`` (seed x item), see :func:`item_components`.
    fixed : str, sequence of str, or mapping of str to array, optional
        What is known of the models or runs and taken out before the spread is split:
        names of coordinates along ``model`` or (``model``, ``seed``), such as
        ``"n_parameters"``, or names with values (a DataArray, or an array over models or
        over (model, seed)), such as ``{"log size": np.log(cube["n_parameters"])}``. Numbers
        enter as they are, text as groups. ``model`` is then what is left between models.
        Runs for which one is not known are left out.
    level : float, optional
        Confidence level of the intervals, between 0 and 1.
    intervals : {'exact', 'profile', 'bootstrap'}, optional
        ``exact``: from the distribution of the mean squares. ``profile``: profile
        likelihood of the REML fit (tens of milliseconds a cell). ``bootstrap``: percentiles
        over runs drawn again; too short for few seeds, see Notes.
    n_resamples : int, optional
        Draws of the bootstrap.
    rng : int, numpy.random.Generator or None, optional
        Source of chance of the bootstrap.
    exclude : 'audit', xarray.Dataset or None, optional
        Leave out the values that an audit says do not belong where they stand: ``audit`` makes one, a
        Dataset holds the findings of one. See :func:`polystab.analysis.excluded_cells`; how much was
        left out is in ``attrs`` (``excluded_values``, ``excluded_share``, ``excluded_by``).

    Returns
    -------
    xarray.Dataset
        Over (component, step, metric), in squared units of the metric: ``variance``,
        truncated at zero; ``estimate``, not truncated; ``lower`` and ``upper``; ``p``, and
        ``p_adjusted`` for the number of steps and metrics, which is ``n_tests(component)``;
        ``df``; ``mean_square`` and ``size`` (without unit): the mean square has expectation
        ``size x component +`` that of the component named by the coordinate ``below``;
        and ``reason``, an integer code (``attrs["flag_meanings"]``) that is 0 where
        there is an estimate. Over (step, metric): ``n_runs``, ``n_models`` and ``method``
        (1 analysis of variance, 2 REML). The coordinate ``part`` is true for components
        that add up to ``total``, ``meaning`` says in words what each one is. The design
        used and what it cannot tell apart are in ``attrs``.

    Raises
    ------
    AnalysisError
        No such design, or the cube does not allow it (the message says which components
        are confounded); a fixed effect that is not there, cannot be estimated or leaves a
        component no degrees of freedom; ``level`` is not between 0 and 1; no such
        intervals.

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

    *Other intervals.* ``profile`` leaves ``total`` as it is and gives ``model`` none below
    three models. The bootstrap draws models and runs in them (nested), models and seeds
    (crossed), or initialisations and orders within models (factorial). A run that is drawn
    twice spreads as little as one, so it falls short where runs are few: in simulations of
    normal scores of 5 models, 95 % intervals of ``seed`` covered 72, 84 and 93 % with 3, 5 and
    10 seeds, those of ``model`` 93, 86 and 79 %; the residual of crossed and factorial designs
    58-88 %. It is offered for scores that are far from normal, and is not the default.

    *Tests.* ``p`` is the exact F test of a zero component, in unbalanced cells too (after
    Wald), except for main effects of an unbalanced factorial with replicates: NaN. For
    ``seed`` it is the chi-square test that the spread within models is no more than
    ``items``; without ``stderr`` there is none. ``p_adjusted`` is after Benjamini and
    Hochberg (:func:`polystab.analysis.multiplicity.adjusted_p`). :func:`permutation_test` does
    without normal scores, and :meth:`RemlFit.zero_test` tests any factor of any design.

    *Fixed effects* take their degrees of freedom from the component that they vary with:
    one number for every model from ``model``. In cells whose gaps leave a fixed effect
    nothing to vary with, the moments stand in for REML.

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
    if design == "items":
        if fixed is not None or intervals != "exact":
            raise AnalysisError(
                "design 'items' takes neither fixed effects nor other intervals; for those of answers 0 and 1 see "
                "polystab.analysis.item_components."
            )
        answers, left_out = leave_out_items(cube, exclude)
        return item_design(answers, level=level).assign_attrs(left_out)
    cube, left_out = leave_out(cube, exclude)
    check_shares(level=level)
    check_not_empty(cube)
    plan = with_fixed(choose_design(cube, design), cube, fixed)
    ask = _asked(plan, intervals, level, n_resamples, rng)
    width = _metrics_at_a_time(cube.sizes["model"] * cube.sizes["seed"], cube.sizes["step"])
    result = in_parts(functools.partial(_of_metrics, plan=plan, ask=ask), cube, multiple=width).assign_attrs(left_out)
    adjusted, n_tests = adjusted_p(result["p"].values, axis=(1, 2))
    result = result.assign(p_adjusted=(result["p"].dims, adjusted), n_tests=("component", n_tests))
    return flagged(described(result, _DOCS), {"reason": REASONS, "method": METHODS})


def _of_metrics(cube: xr.Dataset, *, plan: Design, ask: _Intervals) -> xr.Dataset:
    """What needs no other metrics, of a design that was chosen by all of them."""
    n_model, n_run = cube.sizes["model"], cube.sizes["model"] * cube.sizes["seed"]
    shape = (cube.sizes["step"], cube.sizes["metric"])
    values = counted_cells(cube)[0].reshape(n_run, *shape)
    stderr = None
    if plan.name == "nested" and "stderr" in cube.data_vars:
        stderr = cells(cube, "stderr").reshape(values.shape)
    columns: dict[str, npt.NDArray[np.generic]] = {}
    for place in _blocks(n_run, *shape):
        errors = None if stderr is None else _flat(stderr, place)
        for name, column in _block(plan, _flat(values, place)[plan.rows], errors, n_model, ask).items():
            # Filled in place: the parts and their sum together would take twice the space.
            whole = columns.setdefault(name, np.empty((*column.shape[:-1], *shape), column.dtype))
            target = whole[..., place[0], place[1]]
            target[...] = column.reshape(target.shape)
    names = (*plan.components, *((ITEMS, WITHIN) if stderr is not None else ()), TOTAL)
    return xr.Dataset(
        {
            name: ((("component",) if column.ndim == 3 else ()) + ("step", "metric"), column)
            for name, column in columns.items()
        },
        coords={
            **labels(cube, "step", "metric"),
            "component": np.array(names),
            "part": ("component", np.array([name not in (WITHIN, TOTAL) for name in names])),
            "below": ("component", np.array(_below(plan, names))),
            "meaning": ("component", np.array([plan.meaning(name) for name in names])),
        },
        attrs={
            "design": plan.name,
            "confounded": plan.confounded,
            "fixed": ", ".join(plan.covariates),
            "level": float(ask.level),
            "intervals": ask.kind,
        },
    )


def _metrics_at_a_time(n_run: int, n_step: int) -> int:
    return max(_BLOCK // max(n_run * n_step, 1), 1)


def _blocks(n_run: int, n_step: int, n_metric: int) -> Iterator[tuple[slice, slice]]:
    """Steps and metrics that are split up at a time."""
    width = _metrics_at_a_time(n_run, n_step)
    height = max(_BLOCK // max(n_run * width, 1), 1)
    for first in range(0, max(n_metric, 1), width):
        for start in range(0, max(n_step, 1), height):
            yield slice(start, start + height), slice(first, first + width)


def _flat(values: Floats, place: tuple[slice, slice]) -> Floats:
    """Some cells (run, cell) of (run, step, metric)."""
    part = values[:, place[0], place[1]]
    return part.reshape(len(part), math.prod(part.shape[1:]))


def _asked(
    plan: Design, kind: str, level: float, n_resamples: int, rng: int | np.random.Generator | None
) -> _Intervals:
    check_choice("interval", kind, INTERVALS)
    if kind != "bootstrap":
        return _Intervals(kind, level, [])
    check_whole("n_resamples", n_resamples, 1)
    least = math.ceil(2 / (1 - level))
    if n_resamples < least:
        raise AnalysisError(f"n_resamples is {n_resamples}; the ends of a {level:g} interval need at least {least}.")
    return _Intervals(kind, level, resamples(plan, n_resamples, generator_of(rng)))


@dataclass(frozen=True)
class _Intervals:
    """Which intervals are asked for; ``draws`` are those of the bootstrap."""

    kind: str
    level: float
    draws: list[Resample]

    def ends(self, plan: Design, values: Floats, matrix: Floats | None, strata: Strata) -> tuple[Floats, Floats]:
        """Both ends of every component and, last, of the total, cut at zero."""
        if self.kind == "bootstrap":
            lower, upper = bootstrap_intervals(plan, values, matrix, self.draws, self.level)
        else:
            of_parts = (
                profile_intervals(plan, values, strata, self.level)
                if self.kind == "profile"
                else exact_intervals(strata, self.level)
            )
            lower, upper = (
                np.vstack([part, whole])
                for part, whole in zip(of_parts, total_interval(strata, self.level), strict=True)
            )
        return np.maximum(lower, 0.0), np.maximum(upper, 0.0)


def _block(
    plan: Design, values: Floats, stderr: Floats | None, n_model: int, ask: _Intervals
) -> dict[str, npt.NDArray[np.generic]]:
    """All columns of the result for some cells, (component, cell) or (cell,)."""
    small, exponent = scaled(finite(values), axis=0)
    if stderr is not None:
        larger = np.maximum(exponent, scaled(finite(stderr), axis=0)[1])
        small, exponent = np.ldexp(small, exponent - larger), larger
    known = ~np.isnan(small)
    small, matrix = coded_rows(plan, from_first(small))
    known &= ~np.isnan(small)
    strata = (
        nested_strata(small.reshape(n_model, len(small) // max(n_model, 1), small.shape[1]))
        if plan.name == "nested" and matrix is None
        else table_strata(small, plan.factors, plan.fixed, plan.below, matrix)
    )
    variance, method = reml_variances(plan, small, strata)
    lower, upper = ask.ends(plan, small, matrix, strata)
    df = np.where(strata.df > 0, strata.df, np.nan)
    p = f_test(strata)
    rows = [
        Row(variance[k], strata.estimate[k], lower[k], upper[k], p[k], df[k], strata.mean_square[k], strata.size[k])
        for k in range(len(plan.components))
    ]
    if stderr is not None:
        items = mean_square_error(np.ldexp(stderr, -exponent), known, n_model)
        rows[-1:] = split_items(rows[-1], items)
    rows.append(total_row(rows[: len(plan.components) - 1] + rows[-1:], lower[-1], upper[-1]))
    n_models = np.stack([known[plan.model == m].any(axis=0) for m in np.unique(plan.model)]).sum(axis=0)
    columns: dict[str, npt.NDArray[np.generic]] = {
        name: unscaled(np.stack([getattr(row, name) for row in rows]), 2 * exponent)
        for name in ("variance", "estimate", "lower", "upper", "mean_square")
    }
    columns["size"] = np.stack([row.size for row in rows])
    columns |= {"p": np.stack([row.p for row in rows]), "df": np.stack([row.df for row in rows])}
    columns["reason"] = _reasons(plan, np.stack([row.estimate for row in rows]), known.sum(axis=0), n_models)
    columns |= {"n_runs": known.sum(axis=0), "n_models": n_models, "method": method}
    return columns


def _below(plan: Design, names: Sequence[str]) -> list[str]:
    """The component whose mean square each one's is compared with, empty where there is none."""
    lows = [plan.components[low] if low >= 0 else "" for low in plan.below]
    lows[-1] = ITEMS if ITEMS in names else ""
    return lows + [""] * (len(names) - len(lows))


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
