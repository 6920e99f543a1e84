"""Seeds and test items together: who is responsible for the spread of single answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, described, finite, scaled, unscaled
from polystab.analysis.audit.runs import duplicate_runs
from polystab.analysis.components.item_kernels import (
    OF_ITEMS,
    ItemStrata,
    component_tests,
    item_interval,
    item_strata,
    normal_interval,
)
from polystab.analysis.options import check_choice, check_shares, flagged
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, did_you_mean, shown

TOTAL = "total"

# Names of the rows of the kernels, and the order in which they are shown.
_KERNEL = ("model", "item", "model:item", "seed", "residual")
_JOINT = ("model", "seed", "item", "model:item", "residual")
_SINGLE = ("seed", "item", "residual")

_MEANING = {
    "model": "between models, over all runs and items",
    "seed": "between runs of a model, over all items",
    "item": "between test items: some are harder for every run",
    "model:item": "items that are harder for some models than for others",
    "residual": "seed x item, and the noise of a single answer",
    TOTAL: "sum of the parts: variance of a single answer",
}

# Why a component is not estimated, as a code and a word.
REASONS = ("estimated", "not_measured", "one_model", "one_seed", "one_item", "not_identifiable")
INTERVALS = ("auto", "normal", "items")

# Answers taken at a time, so that the work space stays small beside a large file.
_BLOCK = 4_000_000

_DOCS = {
    "variance": "variance component of a single answer, never below zero",
    "estimate": "unbiased estimate of the component, which may be below zero",
    "lower": "lower end of the interval of the component",
    "upper": "upper end of the interval of the component",
    "p": "chance of so large a component, were it zero; not corrected for many tests",
    "df": "degrees of freedom behind the interval",
    "mean_square": "mean square of the component in the analysis of variance",
    "reason": "why there is no estimate",
    "n_runs": "runs with any answer, no copy of another",
    "n_items": "items with any answer",
    "n_missing": "answers missing: of these runs to these items",
}


def item_components(
    items: xr.Dataset | xr.DataTree,
    *,
    by_model: bool = False,
    measure: str = "correct",
    intervals: str = "auto",
    level: float = 0.95,
) -> xr.Dataset:
    """Split the variance of answers to single test items, at every step and for every task.

    Parameters
    ----------
    items : xarray.DataTree or xarray.Dataset
        A cube with its group ``items`` (:func:`polystab.open_tree`), or that group alone.
    by_model : bool, optional
        One decomposition for each model, instead of one of all models together.
    measure : str, optional
        Variable of the group over (model, seed, step, item): ``correct`` (0 or 1), or any
        other, such as ``margin``.
    intervals : {'auto', 'normal', 'items'}, optional
        ``normal`` supposes that all effects are normal; ``items`` leaves the shape open of
        what differs between items, and needs some 50 of them. ``auto`` is ``items`` where
        all scores are 0 or 1, else ``normal``.
    level : float, optional
        Confidence level of the intervals, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        Over (component, step, task), or (component, model, step, task): ``variance``,
        truncated at zero; ``estimate``, not truncated; ``lower`` and ``upper``; ``p``; ``df``;
        ``mean_square``; ``reason``, an integer code (``attrs["flag_meanings"]``) that is 0 where
        there is an estimate. Components are ``seed``, ``item``, ``residual`` and ``total``; of
        all models together also ``model`` and ``model:item``. Without component: ``n_runs``,
        ``n_items``, ``n_missing``, and of all models together ``n_models``. Variances are
        those of a single answer: see :func:`decision_study` for scores.

    Raises
    ------
    AnalysisError
        There is no group ``items`` or no such measure; ``intervals`` or ``level`` is none.

    Notes
    -----
    The model is ``score = mean + model + item + model:item + seed + residual``, the seed
    within its model and all effects independent (generalizability theory). A standard error
    over items counts ``item``, ``model:item`` and ``residual``; only the latter two make scores
    differ where all answer the same items. An item answered once by a run cannot tell
    seed x item from noise.

    *Estimates* are those of the analysis of variance. Where answers are missing, runs are
    adjusted for the items that they answered, and all expectations are those of the
    answers given, so that estimates stay unbiased. ``variance`` is ``estimate`` cut at zero;
    that of ``total`` adds up the parts so cut, and its interval is widened to hold it.

    *Intervals* of ``model`` and ``seed`` are modified large-sample ones (Ting et al.), for
    normal effects; those of runs are means over many items and nearly so. With
    ``intervals="normal"`` so are the others. Scores of 0 and 1 are not normal: simulated
    logistic answers of 3, 5 and 10 seeds to 50 and 200 items gave that interval, at 95 %,
    93-97 % coverage of ``seed``, but 69-100 % of ``item`` and 48-100 % of ``residual``. With
    ``intervals="items"``, where the variance of the mean squares is taken from the items (as
    Shoemaker does to mend the F test), ``item`` is covered in 92-96 % and ``residual`` in
    89-96 % at accuracies of 30 to 50 %; at an accuracy of 90 % or so it is 83-92 % and 87-96 %,
    because few items carry the variance; ``total`` 84-100 %. Where seeds or models move the
    accuracy, so does the variance of an answer: ``item``, ``model:item``, ``residual`` and
    ``total`` hold for these models and runs, not for others (several models whose
    accuracies differ widely: 80-91 % for ``item``, 50-80 % for ``residual``). For normal scores
    all intervals cover 93-97 %, also with a tenth of the answers missing.

    *Tests* are exact F tests, for ``model`` Satterthwaite's approximation; that of ``seed``
    rejects 4-6 % at the 5 % level for scores of 0 and 1 too. With missing answers
    those of ``model``, and of ``item`` if there are several models, are approximate (4-6 % too
    with a tenth of the answers missing).

    *What is left out.* -1, NaN and infinite are not answered. Whole runs that the cube's
    audit finds to be copies (:func:`duplicate_runs`) count once; the group alone does not
    tell. One run of each model: ``seed`` and ``residual`` are NaN, not zero; so are ``model``
    and ``model:item`` for one model, whose ``item`` then holds both. A single item has no
    components. If all answers are alike, variances are zero and ``p`` NaN.

    References
    ----------
    Brennan, R. L. (2001). Generalizability Theory. Springer.
    https://doi.org/10.1007/978-1-4757-3456-0

    Searle, S. R., Casella, G. and McCulloch, C. E. (1992). Variance Components. Wiley.
    https://doi.org/10.1002/9780470316856

    Ting, N., Burdick, R. K., Graybill, F. A., Jeyaratnam, S. and Lu, T.-F. C. (1990).
    Confidence intervals on linear combinations of variance components that are
    unrestricted in sign. Journal of Statistical Computation and Simulation 35, 135-143.

    Shoemaker, L. H. (2003). Fixing the F test for equal variances. The American
    Statistician 57, 105-114. https://doi.org/10.1198/0003130031441

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis.components.items import item_components
    >>> with ps.load_tree("nano") as tree:
    ...     found = item_components(tree).isel(step=-1).sel(task="nano_recall")
    >>> found["component"].values.tolist()
    ['model', 'seed', 'item', 'model:item', 'residual', 'total']
    """
    check_shares(level=level)
    check_choice("interval", intervals, INTERVALS)
    data, copies = _group(items, measure)
    scores = data[measure].transpose("model", "seed", "item", "step")
    tasks, place = np.unique(data["task"].values.astype(str), return_inverse=True)
    single = _is_binary(scores) if intervals == "auto" else intervals == "items"
    names = _SINGLE if by_model else _JOINT
    blocks = [
        [
            _block(block, names, item_interval if single else normal_interval, level, by_model)
            for block in _steps(scores, np.flatnonzero(place == t), copies)
        ]
        for t in range(len(tasks))
    ]
    per_cell = ("model", "step", "task") if by_model else ("step", "task")
    coords: dict[str, Any] = {
        "component": np.array([*names, TOTAL]),
        "part": ("component", np.array([True] * len(names) + [False])),
        "meaning": ("component", np.array([_MEANING[name] for name in (*names, TOTAL)])),
        "step": data["step"].values,
        "task": tasks,
    } | ({"model": data["model"].values} if by_model else {})
    result = xr.Dataset(coords=coords)
    for name in ("variance", "estimate", "lower", "upper", "p", "df", "mean_square", "reason"):
        result[name] = (("component", *per_cell), _joined(blocks, name))
    for name in ("n_runs", "n_items", "n_missing") + (() if by_model else ("n_models",)):
        result[name] = (per_cell, _joined(blocks, name))
    result.attrs = {
        "design": "items",
        "confounded": "residual: seed x item and the noise of a single answer",
        "intervals": "items" if single else "normal",
        "measure": measure,
        "level": float(level),
    }
    docs = _DOCS if by_model else _DOCS | {"n_models": "models with such a run"}
    return flagged(described(result, docs), {"reason": REASONS})


def item_design(tree: xr.Dataset | xr.DataTree, *, level: float = 0.95) -> xr.Dataset:
    """Components of a cube's test items in the form of :func:`variance_components`.

    Parameters
    ----------
    tree : xarray.DataTree
        A cube with its group ``items``.
    level : float, optional
        Confidence level of the intervals.

    Returns
    -------
    xarray.Dataset
        What :func:`item_components` gives of all models, over (component, step, metric):
        the task ``sciq`` has become the metric ``eval/sciq/acc``, with its coordinates where
        the cube has it.
    """
    found = item_components(tree, level=level)
    metrics = np.array([f"eval/{task}/acc" for task in found["task"].values])
    found = found.rename(task="metric").assign_coords(metric=metrics)
    if isinstance(tree, xr.DataTree) and "metric" in tree.to_dataset().coords:
        cube = tree.to_dataset()
        if np.isin(metrics, cube["metric"].values).all():
            chosen = cube.sel(metric=metrics)
            taken = {"metric", *found.variables}
            along = {n: c.variable for n, c in chosen.coords.items() if c.dims == ("metric",) and n not in taken}
            found = found.assign_coords(along)
    return found


def _group(items: xr.Dataset | xr.DataTree, measure: str) -> tuple[xr.Dataset, Bools]:
    """The group of items, and which of its (model, seed) are copies of others."""
    copies = None
    if isinstance(items, xr.DataTree):
        if "items" not in items.children:
            if measure not in items.data_vars:
                raise AnalysisError(
                    f"the cube has no group 'items' (it has {shown(list(items.children)) or 'none'}), only scores of "
                    "whole tasks. Open the file with ps.open_tree(path); ps.read_lm_eval_samples reads single answers."
                )
            data = items.to_dataset()
        else:
            data = items.children["items"].to_dataset()
            if "value" in items.data_vars:
                copies = duplicate_runs(as_cube(items))["duplicate_run"]
    else:
        data = items
    if not isinstance(data, xr.Dataset):
        raise AnalysisError(f"expected a tree with a group 'items', or that group, got {type(data).__name__}.")
    if "value" in data.data_vars and measure not in data.data_vars:
        raise AnalysisError("this is the cube without its group 'items'. Pass the tree: ps.open_tree(path).")
    dims = {"model", "seed", "step", "item"}
    usable = [str(name) for name in data.data_vars if set(data[name].dims) == dims]
    if measure not in usable:
        raise AnalysisError(
            f"no measure {measure!r} over (model, seed, step, item) in the items. {did_you_mean(str(measure), usable)}"
        )
    empty = [str(name) for name in data[measure].dims if not data.sizes[name]]
    if empty:
        raise AnalysisError(f"there is nothing along {shown(empty)} in the items.")
    if "task" not in data.variables or data["task"].dims != ("item",):
        raise AnalysisError("the items do not say their task: assign a coordinate task along item.")
    if copies is None:
        return data, np.zeros((data.sizes["model"], data.sizes["seed"]), dtype=np.bool_)
    aligned = copies.reindex(model=data["model"].values, seed=data["seed"].values, fill_value=False)
    return data, np.asarray(aligned.transpose("model", "seed").values, dtype=np.bool_)


def _is_binary(scores: xr.DataArray) -> bool:
    """Whether every score is 0, 1 or none."""
    parts = (scores.isel(model=m).values for m in range(scores.sizes["model"]))
    if scores.dtype.kind == "i":
        return all(bool((part <= 1).all()) for part in parts)
    return all(bool(np.isin(part[np.isfinite(part)], (0.0, 1.0)).all()) for part in parts)


def _steps(scores: xr.DataArray, items: Ints, copies: Bools) -> Iterator[Floats]:
    """Scores of some items, (model, seed, item, step), some steps at a time; NaN where not answered."""
    width = max(_BLOCK // (scores.sizes["model"] * scores.sizes["seed"] * len(items)), 1)
    for start in range(0, scores.sizes["step"], width):
        raw = scores.isel(item=items, step=slice(start, start + width)).values
        values = raw.astype(np.float64)
        if raw.dtype.kind == "i":
            values[raw < 0] = np.nan
        values[copies] = np.nan
        yield finite(values)


_Interval = Callable[[ItemStrata, Floats, float], tuple[Floats, Floats, Floats]]


def _block(
    values: Floats, names: tuple[str, ...], interval: _Interval, level: float, by_model: bool
) -> dict[str, npt.NDArray[np.generic]]:
    """All columns of the result for some steps of a task, step last."""
    if not by_model:
        return _decomposed(values, names, interval, level)
    single = [_decomposed(values[m : m + 1], names, interval, level) for m in range(len(values))]
    return {name: np.stack([columns[name] for columns in single], axis=-2) for name in single[0]}


def _decomposed(
    values: Floats, names: tuple[str, ...], interval: _Interval, level: float
) -> dict[str, npt.NDArray[np.generic]]:
    flat, exponent = scaled(values.reshape(-1, values.shape[-1]), axis=0)
    known = ~np.isnan(flat)
    # From the first answer on, so that a large common part costs no digits and equal scores differ by exactly 0.
    flat = flat - np.take_along_axis(flat, np.argmax(known, axis=0)[None], axis=0)
    strata = item_strata(flat.reshape(values.shape))
    rows = [_KERNEL.index(name) for name in names]
    nominal = np.where(strata.df > 0, strata.df.astype(np.float64), np.nan)
    estimate = strata.estimate
    total_weights = np.where(np.isnan(strata.weights), 0.0, strata.weights).sum(axis=1).T
    there = ~np.isnan(estimate[_KERNEL.index("residual")])
    weights = [*(strata.weights[:, row].T for row in rows), np.where(there, total_weights, np.nan)]
    ends = [interval(strata, weight, level) for weight in weights]
    spread = np.where(there, np.nansum(estimate, axis=0), np.nan)
    nan = np.full(spread.shape, np.nan)
    variance = np.vstack([np.maximum(estimate[rows], 0.0), _sum(np.maximum(estimate[rows], 0.0), there)])
    columns: dict[str, Floats] = {
        "estimate": np.vstack([estimate[rows], spread]),
        "variance": variance,
        "lower": np.maximum([end[0] for end in ends], 0.0),
        # The sum of the parts is above the end of the total where parts below zero were cut.
        "upper": np.maximum([end[1] for end in ends], variance),
        "mean_square": np.vstack([strata.mean_square[rows], nan]),
    }
    result: dict[str, npt.NDArray[np.generic]] = {
        name: unscaled(column, 2 * exponent) for name, column in columns.items()
    }
    result["p"] = np.vstack([component_tests(strata)[rows], nan])
    found = [
        np.where(np.isnan(end[2]), nominal[row], end[2]) if row in OF_ITEMS else nominal[row]
        for row, end in zip(rows, ends, strict=False)
    ]
    result["df"] = np.vstack([*found, nan])
    runs = np.asarray(known.reshape(values.shape).any(axis=2))
    items = np.asarray(known.reshape(values.shape).any(axis=(0, 1)))
    n_runs, n_items, n_models = runs.sum((0, 1)), items.sum(0), runs.any(axis=1).sum(0)
    result |= {"n_runs": n_runs, "n_items": n_items, "n_missing": n_runs * n_items - known.sum(0)}
    result["n_models"] = n_models
    result["reason"] = _reasons(names, np.asarray(result["estimate"]), n_runs, n_items, n_models)
    return result


def _sum(parts: Floats, there: Bools) -> Floats:
    return np.where(there, np.nansum(parts, axis=0), np.nan)


def _reasons(
    names: tuple[str, ...], estimate: Floats, n_runs: Ints, n_items: Ints, n_models: Ints
) -> npt.NDArray[np.int8]:
    """Codes of ``REASONS`` for every component and cell."""
    result = np.zeros(estimate.shape, dtype=np.int8)
    for k, name in enumerate((*names, TOTAL)):
        lone = (n_models == 1) & (name in ("model", "model:item"))
        why = np.select([n_runs == 0, lone, n_runs <= n_models, n_items < 2], [1, 2, 3, 4], 5)
        result[k] = np.where(np.isnan(estimate[k]), why, 0)
    return result


def _joined(blocks: list[list[dict[str, npt.NDArray[np.generic]]]], name: str) -> npt.NDArray[np.generic]:
    """Blocks of steps put together, tasks as the last axis."""
    return np.stack([np.concatenate([part[name] for part in task], axis=-1) for task in blocks], axis=-1)
