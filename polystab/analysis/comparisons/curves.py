"""Two cubes against each other at every step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from polystab.analysis.arrays import described, labels
from polystab.analysis.comparisons.inputs import SIDES, Models, match
from polystab.analysis.comparisons.kernels import contrast, t_interval, t_p
from polystab.analysis.comparisons.verdicts import corrected
from polystab.analysis.options import check_shares

# Cells (run, step, metric) that are tested at a time.
_BLOCK = 2_000_000

_DOCS = {
    "mean": "mean over runs",
    "n_seeds": "runs that count: measured, finite, no copy of another, not on both sides",
    "difference": "mean of the other cube minus mean of this one",
    "lower": "lower end of the t interval of the difference",
    "upper": "upper end of the t interval of the difference",
    "p": "chance of so large a difference between runs of one recipe; two-sided, not corrected for many tests",
    "q": "p corrected for the number of tests (false discovery rate)",
}


def compare_curves(
    cube: xr.Dataset | xr.DataTree,
    other: xr.Dataset | xr.DataTree,
    *,
    models: Models = None,
    metrics: Sequence[str] | None = None,
    level: float = 0.95,
    paired: bool = False,
) -> xr.Dataset:
    """Where along training two cubes differ, given the seeds.

    Parameters
    ----------
    cube, other, models, metrics, level, paired
        As in :func:`compare_cubes`.

    Returns
    -------
    xarray.Dataset
        Over (model, step, metric), the steps being those of both cubes: ``difference`` (other minus this), ``lower``,
        ``upper`` in units of the metric, ``p``, ``q``; over (side, model, step, metric) ``mean`` and ``n_seeds``. The
        coordinate ``other_model`` names the model on the other side. In ``attrs``: ``level``, ``paired``,
        ``n_tests`` and ``notes``.

    Raises
    ------
    AnalysisError
        As :func:`compare_cubes`.

    Notes
    -----
    The test of :func:`compare_cubes` at each step by itself; ``q`` is corrected over all models and steps. Neighbouring
    steps are the same runs and no second proof. NaN where nothing can be tested.

    Models are read one pair at a time, and metrics are tested in blocks: beside the result it takes a few times the
    values of one model.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis.comparisons import compare_curves
    >>> cube = ps.load_cube("nano-edge")
    >>> found = compare_curves(cube, cube, models={"nano-96k-lr0.2": "nano-96k-lr0.3"})
    >>> found["difference"].dims
    ('model', 'step', 'metric')
    """
    check_shares(level=level)
    matched = match(cube, other, models=models, metrics=metrics, paired=paired)
    shape = (len(matched.models), len(matched.steps), len(matched.metrics))
    columns = {name: np.full(shape, np.nan) for name in ("difference", "lower", "upper", "p")}
    mean, n_seeds = np.full((2, *shape), np.nan), np.zeros((2, *shape), dtype=np.int64)
    for place in range(shape[0]):
        sides = matched.read(place)
        this, other_side, _, same = sides.own(sides.this, sides.other)
        width = max(_BLOCK // max((len(this) + len(other_side)) * shape[1], 1), 1)
        for start in range(0, shape[2], width):
            block = slice(start, start + width)
            found = contrast(this[:, :, block], other_side[:, :, block], paired=paired, same=same[:, block])
            at = (place, slice(None), block)
            mean[:, place, :, block], n_seeds[:, place, :, block] = found.mean, found.n
            columns["difference"][at], columns["p"][at] = found.difference, t_p(found)
            columns["lower"][at], columns["upper"][at] = t_interval(found, level)
    q, _ = corrected(columns["p"], np.array([name != "" for name in matched.better]))
    part = matched.this.sel(model=[a for a, _ in matched.models], step=matched.steps, metric=list(matched.metrics))
    dims = ("model", "step", "metric")
    result = xr.Dataset(
        {
            "mean": (("side", *dims), mean),
            "n_seeds": (("side", *dims), n_seeds),
            **{name: (dims, column) for name, column in columns.items()},
            "q": (dims, q),
        },
        coords={
            **labels(part, "model", "step", "metric"),
            "other_model": ("model", np.array([b for _, b in matched.models], dtype=np.str_)),
            "side": list(SIDES),
        },
        attrs={
            "level": float(level),
            "paired": int(paired),
            "n_tests": int(np.isfinite(columns["p"]).sum()),
            "notes": list(matched.notes),
        },
    )
    return described(result, _DOCS)
