"""Curves over training: the band of the seeds, where a curve ends, and which curves say most."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import (
    Bools,
    Floats,
    cells,
    described,
    divided,
    finite,
    labels,
    mean,
    median,
    moments,
    quantiles,
)
from polystab.analysis.audit.runs import counted_cells
from polystab.analysis.chunked import by_metric, in_parts
from polystab.cube.specs import FAMILIES
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError

QUARTILES = (0.25, 0.5, 0.75)

# A band is an interval, and nothing with fewer runs gets one.
MIN_RUNS = 3


@by_metric()
def seed_band(cube: xr.Dataset | xr.DataTree, *, q: Sequence[float] = QUARTILES) -> xr.Dataset:
    """Quantiles over the seeds at every step: the median and the middle half.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    q : sequence of float, optional
        Quantiles between 0 and 1.

    Returns
    -------
    xarray.Dataset
        ``value(model, step, metric, quantile)`` in the metric's units; ``n(model, step,
        metric)``, the number of runs behind it; ``n_nonfinite``, runs left out because
        they diverged (infinite value); ``shared``, bool: more than half of the runs that
        the metric has at its fullest step are measured here.

    Raises
    ------
    AnalysisError
        A quantile outside 0 to 1.

    Notes
    -----
    Quantiles interpolate linearly between order statistics (type 7 of Hyndman and Fan).
    With one or two runs only the quantile 0.5 is given, the others are NaN; without
    runs all are. Copies of other runs (:func:`polystab.analysis.duplicate_runs`) count
    once. The middle half of few seeds is itself uncertain; it shows how the seeds
    scatter, it is not a confidence interval of the median.

    References
    ----------
    Hyndman, R. J. and Fan, Y. (1996). Sample quantiles in statistical packages. The
    American Statistician 50, 361-365. https://doi.org/10.1080/00031305.1996.10473566

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis import seed_band
    >>> band = seed_band(polystab.testing.synthetic_cube(n_seeds=5, rng=0))
    >>> band["value"].dims, int(band["n"].max())
    (('model', 'step', 'metric', 'quantile'), 5)
    """
    cube = as_cube(cube)
    wanted = np.asarray(q, dtype=np.float64)
    if wanted.ndim != 1 or not ((wanted >= 0) & (wanted <= 1)).all():
        raise AnalysisError(f"quantiles lie between 0 and 1, got {list(q)}.")
    values, _ = counted_cells(cube)
    found, n = quantiles(values, wanted.tolist(), axis=1)
    found[np.ix_(wanted != 0.5)] = np.where(n >= MIN_RUNS, found[np.ix_(wanted != 0.5)], np.nan)
    result = xr.Dataset(
        {
            "value": (("model", "step", "metric", "quantile"), np.moveaxis(found, 0, -1)),
            "n": (("model", "step", "metric"), n),
            "n_nonfinite": (("model", "step", "metric"), np.isinf(values).sum(axis=1)),
            "shared": (("model", "step", "metric"), _shared(~np.isnan(values))),
        },
        coords={**labels(cube, "model", "step", "metric"), "quantile": wanted},
    )
    return described(
        result,
        {
            "value": "quantile over runs",
            "n": "runs with a finite value",
            "n_nonfinite": "runs with an infinite value: they diverged",
            "shared": "more than half of the metric's runs are measured here",
        },
    )


@by_metric()
def final_steps(cube: xr.Dataset | xr.DataTree) -> xr.Dataset:
    """The step at which the runs of a model are compared at the end of training.

    It is the last step at which more than half of the runs are measured, out of as many
    as are measured at the metric's fullest step. So neither a single run that went on
    for longer decides, nor a single run that broke off.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.

    Returns
    -------
    xarray.Dataset
        ``step(model, metric)``, -1 where a model was never measured on a metric, and
        ``n(model, metric)``, the runs measured there, infinite values included. Copies of
        other runs count once. A single run ends where it was last measured.

    Examples
    --------
    >>> import pandas as pd, polystab as ps
    >>> from polystab.analysis import final_steps
    >>> cube = ps.cube_from_records(pd.DataFrame({
    ...     "model": "a", "seed": [0, 1, 2, 0, 1, 0], "step": [10, 10, 10, 20, 20, 30],
    ...     "metric": "loss/val/ce", "value": 1.0}))
    >>> final_steps(cube)["step"].values.tolist()
    [[20]]
    """
    cube = as_cube(cube)
    measured = ~np.isnan(counted_cells(cube)[0])
    shared = _shared(measured)
    last = shared.shape[1] - 1 - np.argmax(shared[:, ::-1], axis=1)
    ever = shared.any(axis=1)
    n = np.take_along_axis(measured.sum(axis=1), last[:, None, :], axis=1)[:, 0]
    result = xr.Dataset(
        {
            "step": (("model", "metric"), np.where(ever, cube["step"].values[last], -1).astype(np.int64)),
            "n": (("model", "metric"), np.where(ever, n, 0)),
        },
        coords=labels(cube, "model", "metric"),
    )
    return described(
        result, {"step": "last step that more than half of the runs share, -1 for none", "n": "runs measured there"}
    )


def rank_metrics(cube: xr.Dataset | xr.DataTree) -> xr.Dataset:
    """In which order metrics deserve a panel: those that training moves most, and of every kind.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.

    Returns
    -------
    xarray.Dataset
        Over (model, metric): ``movement``, how far the median over seeds ranges over
        training, and ``noise``, both in the metric's units. Along ``metric``, in the cube's
        order: ``signal`` (their ratio, median over models; NaN with fewer than two steps),
        ``group`` (text: metrics of one kind) and ``rank`` (0 is shown first).

    Notes
    -----
    Per model, ``movement`` is the largest minus the smallest median at steps that more
    than half of the runs share. ``noise`` is the first of these that is known and above
    zero: the median over steps of the item-sampling standard error; of the standard
    deviation over seeds (three or more); or the mean absolute change from one checkpoint
    to the next. ``signal`` is their ratio, and what is returned is the median over
    models. A metric that moves although its noise is zero has an infinite ``signal``, one
    that does not move has 0.

    The order is by turns: families alternate in the order of the specification; within a
    family the best metric of each group comes before the second best of any. A group is
    the network component where there is one, or else the first word of the subject, so
    that 57 tasks called ``hendrycksTest-...`` do not fill the page; within a group the
    subjects take turns as well.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis import rank_metrics
    >>> ranked = rank_metrics(polystab.testing.synthetic_cube(rng=0))
    >>> sorted(ranked["rank"].values.tolist()) == list(range(ranked.sizes["metric"]))
    True
    """
    cube = as_cube(cube)
    result = in_parts(_movements, cube)
    overall = _median_with_infinities(result["signal"].values)
    groups = [
        metric_group(*parts)
        for parts in zip(cube["component"].values.tolist(), cube["subject"].values.tolist(), strict=True)
    ]
    rank = _take_turns(
        cube["family"].values.tolist(), groups, cube["subject"].values.tolist(), np.nan_to_num(overall, nan=-1.0)
    )
    result = result.assign(
        signal=("metric", overall), group=("metric", np.array(groups, dtype=np.str_)), rank=("metric", rank)
    )
    return described(
        result,
        {
            "movement": "range over training of the median over seeds",
            "noise": "item-sampling error, seed SD, or change between checkpoints",
            "signal": "movement / noise; median over models",
            "group": "metrics of one kind",
            "rank": "order in which metrics are shown, 0 first",
        },
    )


def _movements(cube: xr.Dataset) -> xr.Dataset:
    """Movement, noise and their ratio, each (model, metric)."""
    values, _ = counted_cells(cube)
    shared = _shared(~np.isnan(values))
    middle = np.where(shared, median(values, axis=1), np.nan)  # model, step, metric
    movement = _range(middle)
    noise = _noise(cube, values, middle)
    signal = np.where(movement == 0, 0.0, divided(movement, noise))
    signal = np.where((movement > 0) & (noise == 0), np.inf, signal)
    signal[np.sum(~np.isnan(middle), axis=1) < 2] = np.nan
    columns = {"movement": movement, "noise": noise, "signal": signal}
    return xr.Dataset(
        {name: (("model", "metric"), column) for name, column in columns.items()},
        coords=labels(cube, "model", "metric"),
    )


def pick_models(spread: xr.Dataset, *, limit: int) -> list[str]:
    """Which models to draw where there are too many: those whose seeds differ most.

    Parameters
    ----------
    spread : xarray.Dataset
        Result of :func:`polystab.analysis.seed_spread`.
    limit : int
        How many to draw.

    Returns
    -------
    list of str
        Names in the order of the cube. All models if they are no more than ``limit``;
        else those with the largest ``sd_c4`` relative to the metric's median ``sd_c4``
        (median over metrics), of at least three runs; models with fewer runs only where
        places are left, those with more runs first.
    """
    names = [str(name) for name in spread["model"].values.tolist()]
    if len(names) <= limit:
        return names
    sd = np.where(spread["n_seeds"].values >= MIN_RUNS, spread["sd_c4"].values, np.nan)
    relative = median(divided(sd, median(sd, axis=0)), axis=1)
    runs = spread["n_seeds"].values.max(axis=1)
    score = np.nan_to_num(relative, nan=-1.0)
    chosen = sorted(range(len(names)), key=lambda i: (-score[i], -runs[i], i))[:limit]
    return [names[i] for i in sorted(chosen)]


def metric_group(component: str, subject: str) -> str:
    """The kind of a metric: its network component, or the first word of its subject."""
    if component:
        return component
    return re.split(r"[-_./:]", subject, maxsplit=1)[0] or subject


def _shared(measured: Bools) -> Bools:
    """Where more than half of the runs are measured, per (model, step, metric)."""
    count = measured.sum(axis=1)
    return np.asarray((count > 0) & (2 * count > count.max(axis=1, keepdims=True)))


def _range(middle: Floats) -> Floats:
    """Largest minus smallest number over steps, (model, metric); NaN without numbers."""
    known = ~np.isnan(middle)
    high = np.max(middle, axis=1, initial=-np.inf, where=known)
    low = np.min(middle, axis=1, initial=np.inf, where=known)
    with np.errstate(over="ignore"):  # a range beyond the largest float is infinite, as it should be
        return np.where(known.any(axis=1), high - low, np.nan)


def _noise(cube: xr.Dataset, values: Floats, middle: Floats) -> Floats:
    """The noise of each (model, metric): the first measure of it that is known and not zero."""
    _, sd, n = moments(values, axis=1)
    options = [median(np.where(n >= MIN_RUNS, sd, np.nan), axis=1), mean(_changes(middle), axis=1)]
    if "stderr" in cube.data_vars:
        options.insert(0, median(median(cells(cube, "stderr"), axis=1), axis=1))
    noise = options[-1]
    for option in reversed(options[:-1]):
        noise = np.where(option > 0, option, noise)
    return noise


def _changes(middle: Floats) -> Floats:
    """Absolute change of each number since the number before it, skipping steps without one."""
    known = ~np.isnan(middle)
    index = np.where(known, np.arange(middle.shape[1])[None, :, None], -1)
    before = np.maximum.accumulate(index, axis=1)[:, :-1]
    previous = np.take_along_axis(middle, np.maximum(before, 0), axis=1)
    with np.errstate(over="ignore"):
        return np.where(before >= 0, np.abs(middle[:, 1:] - previous), np.nan)


def _median_with_infinities(signal: Floats) -> Floats:
    """Median over models where an infinite ratio is larger than every other one."""
    top = np.nanmax(finite(signal), initial=1.0)
    result = median(np.where(np.isinf(signal), 2 * top, signal), axis=0)
    return np.where(result > top, np.inf, result)


def _take_turns(family: list[str], group: list[str], subject: list[str], signal: Floats) -> npt.NDArray[np.int64]:
    """Ranks that let families, groups within them and subjects within those take turns."""
    order = sorted(range(len(signal)), key=lambda i: (-signal[i], i))
    turn: dict[tuple[str, ...], int] = {}

    def place(*key: str) -> int:
        turn[key] = turn.get(key, -1) + 1
        return turn[key]

    in_subject = {i: place("subject", family[i], group[i], subject[i]) for i in order}
    order.sort(key=lambda i: in_subject[i])  # stable: best of each subject, then second best
    in_group = {i: place("group", family[i], group[i]) for i in order}
    order.sort(key=lambda i: (in_group[i], in_subject[i], -signal[i], i))
    in_family = {i: place("family", family[i]) for i in order}
    order.sort(key=lambda i: (in_family[i], FAMILIES.index(family[i])))
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank
