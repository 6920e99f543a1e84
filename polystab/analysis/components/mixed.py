"""Variance components of a cube's cells by REML, and their profile likelihood intervals."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Floats, Ints
from polystab.analysis.components.designs import Design
from polystab.analysis.components.kernels import Strata, patterns
from polystab.analysis.reml.model import RemlFit, fit_reml
from polystab.errors import AnalysisError
from polystab.progress_bars import tracked


def reml_variances(plan: Design, values: Floats, strata: Strata) -> tuple[Floats, npt.NDArray[np.int8]]:
    """Truncated variances (component, cell): REML where a cell is unbalanced and allows it."""
    variance = np.where(np.isnan(strata.estimate), np.nan, np.maximum(strata.estimate, 0.0))
    method = np.where(np.isnan(strata.estimate).all(axis=0), 0, 1).astype(np.int8)
    for cells, fit in _fits(plan, values, np.flatnonzero(~strata.balanced & _estimable(strata))):
        found = np.stack([np.asarray(part) for part in fit.variance.values()])
        usable = np.isfinite(found).all(axis=0) & np.asarray(fit.converged)
        variance[:, cells[usable]] = found[:, usable]
        method[cells[usable]] = 2
    return variance, method


def profile_intervals(plan: Design, values: Floats, strata: Strata, level: float) -> tuple[Floats, Floats]:
    """Profile likelihood interval of every component, (component, cell); NaN where REML gives none."""
    ends = np.full((2, *strata.estimate.shape), np.nan)
    for cells, fit in _fits(plan, values, np.flatnonzero(_estimable(strata))):
        for k, name in enumerate(fit.variance):
            ends[:, k, cells] = fit.profile_interval(name, level=level)
    return ends[0], ends[1]


def _estimable(strata: Strata) -> npt.NDArray[np.bool_]:
    return np.asarray(~np.isnan(strata.estimate).any(axis=0) & (strata.mean_square[-1] > 0))


def _fits(plan: Design, values: Floats, wanted: Ints) -> Iterator[tuple[Ints, RemlFit]]:
    """Fits of the wanted cells. Those that lack a whole group are apart: its fixed effect has no rows there."""
    if not len(wanted):
        return
    groups = np.unique(plan.fixed)
    there = np.stack([(~np.isnan(values[plan.fixed == g][:, wanted])).any(axis=0) for g in groups])
    for present, columns in tracked(list(patterns(there)), "fitting mixed models", unit="pattern"):
        rows = np.isin(plan.fixed, groups[present])
        cells = wanted[columns]
        fixed = {name: column[rows] for name, column in plan.covariates.items()}
        if len(present) > 1:
            fixed["mean of the model"] = plan.fixed[rows].astype(str)
        factors = {name: codes[rows] for name, codes in zip(plan.components[:-1], plan.factors, strict=True)}
        try:
            fit = fit_reml(values[np.ix_(rows, cells)], factors, fixed or None)
        except AnalysisError:
            continue  # none of these cells allows a fit
        yield cells, fit
