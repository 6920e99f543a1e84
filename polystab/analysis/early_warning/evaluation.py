"""How well an early warning works, on runs it has not seen, against baselines, with intervals over runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, described
from polystab.analysis.early_warning.classifier import Data, EarlyWarning, Given
from polystab.analysis.early_warning.conformal import folds_of
from polystab.analysis.early_warning.curves import texts
from polystab.analysis.early_warning.labels import Labels, read_labels
from polystab.analysis.early_warning.material import ENDED, Material
from polystab.analysis.early_warning.outcomes import BINS, Told, alarms, calibration, lead
from polystab.analysis.early_warning.ranking import auroc, average_precision, limits, run_weights
from polystab.analysis.early_warning.scorers import BASELINES, loss_feature
from polystab.analysis.options import Rng, check_choice, check_shares, check_whole, generator_of
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError
from polystab.progress_bars import Bar

Leave = Literal["runs", "learning_rate", "size"]
LEAVE = ("runs", "learning_rate", "size")
MEASURES = ("auroc", "auroc_within", "average_precision")

_DOCS = {
    "value": "how well scores tell runs that will go wrong from those that will not",
    "lower": "lower end of the interval over runs",
    "upper": "upper end of the interval over runs",
    "difference": "value of the first method minus that of the baseline",
    "difference_lower": "lower end of the paired interval over runs",
    "difference_upper": "upper end of the paired interval over runs",
    "best_baseline": "baseline with the largest value at the step",
    "gain": "value of the first method minus that of the best baseline",
    "gain_lower": "lower end of its paired interval over runs",
    "gain_upper": "upper end of its paired interval over runs",
    "n_wrong": "runs that will go wrong and were not seen to have done so by the step",
    "n_good": "runs that do not go wrong and are scored at the step",
    "n_already": "runs the rule had seen to have gone wrong by the step; they are left out",
    "n_pairs": "pairs of both kinds within a model",
    "false_alarms": "share of good runs that ever had an alarm",
    "false_alarms_lower": "lower end of its interval (Clopper-Pearson)",
    "false_alarms_upper": "upper end of its interval (Clopper-Pearson)",
    "caught": "share of the runs that went wrong that had an alarm before the rule could see it",
    "caught_lower": "lower end of its interval (Clopper-Pearson)",
    "caught_upper": "upper end of its interval (Clopper-Pearson)",
    "caught_matched": "the same with a threshold that gives at most the budget of false alarms on these very runs",
    "caught_by": "share of the runs that went wrong with an alarm by the step and before the rule could see it",
    "false_alarms_by": "share of good runs with an alarm by the step",
    "median_lead": "median lead of the runs that were caught",
    "predicted": "mean predicted probability in the bin",
    "observed": "share that went wrong in the bin",
    "observed_lower": "lower end of its interval (Clopper-Pearson)",
    "observed_upper": "upper end of its interval (Clopper-Pearson)",
    "n_in_bin": "runs in the bin",
    "brier": "mean squared error of predicted probabilities",
    "brier_base": "the same if all runs had the share that goes wrong among those evaluated",
    "score": "score of the held-out run",
    "probability": "probability of going wrong of the held-out run",
    "first_alarm": "step of the first alarm, -1 for none",
    "lead": "steps from the first alarm until the rule could see it; NaN if never caught",
    "evaluated": "the run is labelled, no copy, and was held out",
    "wrong": "the run went wrong",
}


def evaluate_warning(
    data: Data,
    labels: Given,
    *,
    methods: Mapping[str, EarlyWarning] | None = None,
    baselines: Sequence[str] | None = None,
    leave: Leave = "runs",
    n_splits: int = 12,
    level: float = 0.95,
    n_resamples: int = 2000,
    rng: Rng = 0,
) -> xr.Dataset:
    """How well early warnings work on runs they have not seen, against simple baselines.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        A cube of whole runs; of a tree, the group ``log`` too.
    labels : xarray.Dataset, xarray.DataArray or array
        As for :meth:`EarlyWarning.fit`; best what :func:`polystab.analysis.failed_runs` gives, since it has
        ``seen_at``.
    methods : mapping of str to EarlyWarning, optional
        What to evaluate; only their arguments matter. The first is compared with the baselines. By default one
        ``EarlyWarning()``, called ``logistic``.
    baselines : sequence of str, optional
        By default all of which the loss curve is there.
    leave : {'runs', 'learning_rate', 'size'}, optional
        What is held out: parts of the seeds, all models together, since seeds of one number often have the same
        data order; all runs of a learning rate (coordinate ``learning_rate`` along model, or else each model is
        one of its own); all runs of a size (``n_parameters``), warned by smaller ones only, so that the
        smallest is not evaluated.
    n_splits : int, optional
        Parts, for ``runs``; at most one for each seed.
    level : float, optional
        Of intervals.
    n_resamples : int, optional
        Resamples of runs, drawn within models.
    rng : int, numpy.random.Generator or None, optional
        Source of chance for splits and resamples.

    Returns
    -------
    xarray.Dataset
        Over (measure, warning, step), ``warning`` being the name of a method or baseline, for a curve against
        step: ``value``, ``lower``, ``upper``; measures are ``auroc``, ``auroc_within`` (only runs of the same
        model are compared) and ``average_precision``. Over (measure, baseline, step): ``difference`` with
        ``_lower`` and ``_upper``, of the first method to each baseline; over (measure, step) ``best_baseline``
        and ``gain`` over it, with its bounds. Over step: ``n_wrong``, ``n_good``, ``n_already``, ``n_pairs``.

        Alarms, over warning: ``false_alarms``, ``caught`` (each with ``_lower`` and ``_upper``),
        ``caught_matched``, ``median_lead``; over (warning, step): ``caught_by``, ``false_alarms_by``; over
        (warning, model, seed): ``first_alarm``, ``lead``.

        Calibration of probabilities, over (warning, step, bin): ``predicted``, ``observed`` with bounds,
        ``n_in_bin``; over (warning, step) ``brier`` and ``brier_base``. Over (warning, model, seed, step):
        ``score``, ``probability``. Over (model, seed): ``evaluated``, ``wrong``.

    Raises
    ------
    AnalysisError
        Labels are missing or of one kind, nothing is left to learn from in some split, or an argument is out of
        range.

    Notes
    -----
    A run that the rule has already seen at a step (``seen_at`` <= step) is neither trained on nor evaluated
    there (the risk set of landmarking), so late steps have fewer runs that will go wrong: no method gains by
    telling what is known. Intervals are percentile intervals of resamples of runs within models (whole runs,
    all steps and methods together, so that differences are paired); they hold the trained methods fixed, and
    leave out the chance of training again. ``gain`` compares with the baseline that is best on the data at hand
    at that step, which favours the baseline. ``caught_matched`` chooses its threshold on the evaluated good
    runs: compare methods by it, do not expect it.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis import failed_runs
    >>> from polystab.analysis.early_warning import EarlyWarning, evaluate_warning
    >>> tree = ps.load_tree("nano-edge")
    >>> novel = EarlyWarning(method="novelty", families=["log"], steps=[200, 400], n_folds=2)
    >>> found = evaluate_warning(
    ...     tree, failed_runs(tree), methods={"novelty": novel}, baselines=["last_loss"], n_splits=2, n_resamples=50
    ... )
    >>> found["value"].dims, int(found["n_already"].sel(step=200))
    (('measure', 'warning', 'step'), 3)
    """
    check_choice("way to leave runs out", leave, LEAVE)
    check_shares(level=level)
    check_whole("n_resamples", n_resamples, 1)
    check_whole("n_splits", n_splits, 2)
    known = read_labels(labels, data)
    if known is None:
        raise AnalysisError("there are no labels to evaluate against; give failed_runs(tree).")
    if not (known.wrong.any() and known.stable.any()):
        raise AnalysisError("all labelled runs are of one kind; there is nothing to tell apart.")
    chosen = {"logistic": EarlyWarning()} if methods is None else dict(methods)
    if not chosen:
        raise AnalysisError("methods is empty; give at least one EarlyWarning.")
    first = next(iter(chosen.values()))
    material = first.gather(data)
    names = _baselines(material, first) if baselines is None else list(baselines)
    for name in names:
        check_choice("baseline", name, BASELINES)
        if name in chosen:
            raise AnalysisError(f"a method has the name of the baseline {name!r}; call it otherwise.")
        chosen[name] = EarlyWarning(**{**first.get_params(), "method": name})
    generator = generator_of(rng)
    splits = _splits(data, material, known, leave, n_splits, generator)
    told: dict[str, Told] = {}
    read = {_reading(first): material}
    with Bar("judging early warnings", unit="fit", total=len(chosen) * len(splits)) as bar:
        for name, method in chosen.items():
            if _reading(method) not in read:
                read[_reading(method)] = method.gather(data)
            told[name] = _held_out(method, read[_reading(method)], material.steps, known, splits, bar)
    evaluated = np.zeros(len(material.key), dtype=bool)
    evaluated[np.concatenate([held for _, held in splits])] = True
    weights = run_weights(material.model, n_resamples, generator)
    result = xr.Dataset(
        {
            **_against_step(told, chosen, names, material, known, evaluated, weights, level),
            **alarms(told, chosen, material, known, evaluated, level),
            **calibration(told, material, known, evaluated, level),
            **_runs(told, data, known, evaluated),
        },
        coords={
            "measure": list(MEASURES),
            "warning": texts(list(chosen)),
            "baseline": texts(names),
            "step": material.steps.astype(np.int64),
            "model": as_cube(data)["model"].values,
            "seed": as_cube(data)["seed"].values,
            "bin": (BINS[1:] + BINS[:-1]) / 2,
        },
        attrs={
            "leave": leave,
            "level": level,
            "n_resamples": n_resamples,
            "n_splits": len(splits),
            "false_alarm": first.false_alarm,
        },
    )
    return described(
        result, {str(name): _DOCS[str(name)] for name in result.data_vars}, {"lead": "1", "median_lead": "1"}
    )


def _baselines(material: Material, like: EarlyWarning) -> list[str]:
    """Those whose curve is there."""
    found = []
    for name in BASELINES:
        method = EarlyWarning(**{**like.get_params(), "method": name})
        try:
            loss_feature(material, method.options())
        except AnalysisError:
            continue
        found.append(name)
    return found


def _splits(
    data: Data, material: Material, labels: Labels, leave: Leave, n_splits: int, rng: np.random.Generator
) -> list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
    """Runs to learn from and runs to be warned of, a pair of arrays for each split."""
    cube = as_cube(data)
    usable = labels.known & ~material.copies & (material.status != ENDED).any(axis=1)
    n_model, n_seed = cube.sizes["model"], cube.sizes["seed"]
    if leave == "runs":
        fold = np.tile(folds_of(np.zeros(n_seed, dtype=np.str_), min(n_splits, n_seed), rng), n_model)
        parts = [(fold != k, fold == k) for k in range(fold.max() + 1)]
    elif leave == "learning_rate":
        along = np.asarray(cube["learning_rate"].values) if "learning_rate" in cube.coords else np.arange(n_model)
        own = np.repeat(along, n_seed)
        parts = [(own != value, own == value) for value in np.unique(along)]
    else:
        if "n_parameters" not in cube.coords:
            raise AnalysisError(
                "leaving sizes out needs the coordinate n_parameters along model, and the cube has none."
            )
        size = np.repeat(np.asarray(cube["n_parameters"].values, dtype=np.float64), n_seed)
        parts = [(size < value, size == value) for value in np.unique(size)[1:]]
    if len(parts) < 2 and not (leave == "size" and parts):
        raise AnalysisError(
            f"leave={leave!r} leaves one part only; there is nothing to learn from or nothing to judge by."
        )
    return [(np.flatnonzero(a & usable), np.flatnonzero(b & usable)) for a, b in parts if (b & usable).any()]


def _reading(method: EarlyWarning) -> tuple[Any, ...]:
    """The same for methods that read the same prefixes, which takes a while."""
    given = (method.steps, method.families, method.metrics)
    return (*(None if part is None else tuple(part) for part in given), method.min_points)


def _held_out(
    method: EarlyWarning,
    own: Material,
    steps: Floats,
    labels: Labels,
    splits: list[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]],
    bar: Bar,
) -> Told:
    """What a method says of each run when that is held out, over all runs."""
    if not np.array_equal(own.steps, steps):
        raise AnalysisError("the methods look at different steps; give all of them the same steps and min_points.")
    result: Told = {}
    for rest, held in splits:
        fitted = EarlyWarning(**method.get_params()).fit_material(own.take(rest), labels.take(rest))
        for name, values in fitted.warn_material(own.take(held)).items():
            if name not in result:
                shape = (len(own.key), *values.shape[1:])
                empty: Any = np.nan if values.dtype.kind == "f" else False if values.dtype.kind == "b" else -1
                result[name] = np.full(shape, empty, dtype=values.dtype)
            result[name][held] = values
        bar.advance()
    return result


def _against_step(
    told: dict[str, Told],
    chosen: Mapping[str, EarlyWarning],
    baselines: list[str],
    material: Material,
    labels: Labels,
    evaluated: Bools,
    weights: Floats,
    level: float,
) -> dict[str, Any]:
    """How well scores tell runs apart, at every step."""
    n_step, n_draw = len(material.steps), len(weights)
    point = np.full((len(MEASURES), len(chosen), n_step), np.nan)
    draws = np.full((n_draw, *point.shape), np.nan)
    counts = np.zeros((4, n_step), dtype=np.int64)
    both = np.concatenate([np.ones((1, weights.shape[1])), weights])
    for t, step in enumerate(material.steps):
        at_risk = evaluated & (labels.seen_at > step) & material.scored[:, t]
        wrong = labels.wrong & at_risk
        same = material.model[wrong][:, None] == material.model[at_risk & ~wrong]
        counts[:, t] = wrong.sum(), (at_risk & ~wrong).sum(), (evaluated & (labels.seen_at <= step)).sum(), same.sum()
        for i, name in enumerate(chosen):
            # Trained scores are put on one scale over the splits; a baseline is what it is.
            kind = "statistic" if name in baselines else "score"
            score = np.where(at_risk, told[name][kind][:, t], np.nan)
            for j, within in enumerate((False, True)):
                found = auroc(score, wrong, material.model, both, within=within)
                point[j, i, t], draws[:, j, i, t] = found[0], found[1:]
            found = average_precision(score, wrong, both)
            point[2, i, t], draws[:, 2, i, t] = found[0], found[1:]
    lower, upper = limits(draws, level)
    cell, pair = ("measure", "warning", "step"), ("measure", "baseline", "step")
    result: dict[str, Any] = {"value": (cell, point), "lower": (cell, lower), "upper": (cell, upper)}
    for name, values in zip(("n_wrong", "n_good", "n_already", "n_pairs"), counts, strict=True):
        result[name] = ("step", values)
    if baselines:
        place = [list(chosen).index(name) for name in baselines]
        difference = point[:, :1] - point[:, place]
        low, high = limits(draws[:, :, :1] - draws[:, :, place], level)
        result |= {"difference": (pair, difference), "difference_lower": (pair, low), "difference_upper": (pair, high)}
        best = np.argmax(np.nan_to_num(point[:, place], nan=-1.0), axis=1)
        result["best_baseline"] = (("measure", "step"), np.array(baselines, dtype=np.str_)[best])
        for name, bound in (("gain", difference), ("gain_lower", low), ("gain_upper", high)):
            result[name] = (("measure", "step"), np.take_along_axis(bound, best[:, None], axis=1)[:, 0])
    return result


def _runs(told: dict[str, Told], data: Data, labels: Labels, evaluated: Bools) -> dict[str, Any]:
    cube = as_cube(data)
    shape = cube.sizes["model"], cube.sizes["seed"]
    run, cell = ("model", "seed"), ("warning", "model", "seed", "step")

    def stacked(name: str) -> npt.NDArray[Any]:
        values = np.stack([found[name] for found in told.values()])
        return values.reshape(len(told), *shape, *values.shape[2:])

    ahead = np.stack([np.where(labels.wrong & evaluated, lead(found, labels), np.nan) for found in told.values()])
    return {
        "score": (cell, stacked("score")),
        "probability": (cell, stacked("probability")),
        "first_alarm": (cell[:3], stacked("first_alarm")),
        "lead": (cell[:3], ahead.reshape(len(told), *shape)),
        "evaluated": (run, evaluated.reshape(shape)),
        "wrong": (run, labels.wrong.reshape(shape)),
    }
