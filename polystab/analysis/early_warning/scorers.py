"""From prefixes to scores: learned with or without labels, and the baselines that any of this must beat."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, Floats
from polystab.analysis.early_warning.labels import Labels
from polystab.analysis.early_warning.material import Material
from polystab.analysis.early_warning.relative import (
    MIN_SIBLINGS,
    Reference,
    columns,
    overall_distances,
    sibling_distances,
)
from polystab.analysis.maps.model import TrainingMap
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, did_you_mean

LEARNED = ("logistic", "gradient_boosting")
BASELINES = ("last_loss", "loss_slope", "spike_count", "robust_z")
METHODS = (*LEARNED, "novelty", *BASELINES)

# Where the baselines look for the loss, in this order.
LOSSES = ("log/loss", "loss/train/cross_entropy", "loss/validation/cross_entropy")

_STATISTIC = {"last_loss": "last", "loss_slope": "slope", "spike_count": "spikes", "robust_z": "last"}


@dataclass(frozen=True)
class Options:
    """How scores are made; see :class:`EarlyWarning`."""

    method: str
    views: tuple[str, ...]
    penalty: float
    loss: str | None
    map_states: int
    map_metrics: tuple[str, ...] | None


class Scorer(Protocol):
    """Something that gives each prefix a number, higher for worse."""

    def scores(self, material: Material) -> Floats:
        """Of each (run, step); not of use where the status is not ``scored``."""


@dataclass(frozen=True, eq=False)
class Baseline:
    """One statistic of the loss, as it is; ``robust_z`` is its distance to the siblings, of either sign.

    ``reference``, of ``robust_z`` alone, has that statistic only: the distances of all others would take most of the time.
    """

    feature: int
    reference: Reference | None

    def scores(self, material: Material) -> Floats:
        if self.reference is None:
            return np.asarray(material.table.values[:, :, self.feature])
        own = replace(material.table, values=material.table.values[:, :, [self.feature]])
        return np.abs(np.nan_to_num(sibling_distances(own, material.model, material.key, self.reference)))[:, :, 0]


@dataclass(frozen=True, eq=False)
class Learned:
    """A classifier or a measure of novelty on distances to other runs."""

    options: Options
    reference: Reference
    training_map: TrainingMap | None
    classifier: Any

    def design(self, material: Material) -> tuple[Floats, tuple[str, ...]]:
        """What the classifier sees, (run, step, column)."""
        table, views = material.table, self.options.views
        nothing = np.empty(table.values.shape)
        near = (
            sibling_distances(table, material.model, material.key, self.reference) if "siblings" in views else nothing
        )
        far = overall_distances(table, material.key, self.reference) if "all" in views else nothing
        found, names = columns(table, near, far, views)
        if self.training_map is None:
            return found, names
        posterior = _posteriors(self.training_map, material)
        states = tuple(f"map:state {k}" for k in range(posterior.shape[-1]))
        return np.concatenate([found, posterior], axis=-1), (*names, *states)

    def scores(self, material: Material) -> Floats:
        x, _ = self.design(material)
        if self.classifier is None:
            return np.asarray(np.sqrt(np.mean(x**2, axis=-1)))
        flat = self.classifier.decision_function(x.reshape(-1, x.shape[-1]))
        return np.asarray(flat, dtype=np.float64).reshape(x.shape[:2])


def fit_scorer(material: Material, labels: Labels, options: Options, seed: int) -> Scorer:
    """Learn from runs all of which are given; of those that already are wrong at a step only their past counts."""
    used = labels.known & ~material.copies
    if options.method in BASELINES:
        feature = loss_feature(material, options)
        if options.method != "robust_z":
            return Baseline(feature, None)
        read = replace(material, table=replace(material.table, values=material.table.values[:, :, [feature]]))
        return Baseline(feature, reference_of(read, labels))
    reference = reference_of(material, labels)
    fitted = _fit_map(material, used, options, seed)
    bare = Learned(options, reference, fitted, None)
    if options.method == "novelty":
        return bare
    x, _ = bare.design(material)
    at_risk = material.scored & used[:, None] & (labels.seen_at[:, None] > material.steps)
    y = np.broadcast_to(labels.wrong[:, None], at_risk.shape)[at_risk]
    if len(np.unique(y)) < 2:
        raise AnalysisError(
            "at no step are there runs that will go wrong and runs that will not: those that do were seen before the "
            "first prefix that can be scored. Give earlier steps, or lower min_points."
        )
    # A run counts once, however many of its prefixes are looked at.
    own = _run_weights(material, labels)[:, None]
    weight = (own * at_risk / np.maximum(at_risk.sum(axis=1, keepdims=True), 1))[at_risk]
    return Learned(options, reference, fitted, _classifier(options, seed).fit(x[at_risk], y, sample_weight=weight))


def fit_probability(held_out: Floats, labels: Labels, steps: Floats) -> tuple[float, float]:
    """Intercept and slope that make probabilities of log-odds of runs that were not learned from (run, step).

    The slope is never below zero: log-odds that mislead tell nothing but the share that goes wrong.
    """
    from sklearn.linear_model import LogisticRegression

    there: Bools = ~np.isnan(held_out) & (labels.seen_at[:, None] > steps) & labels.known[:, None]
    weight = (there / np.maximum(there.sum(axis=1, keepdims=True), 1))[there]
    y = np.broadcast_to(labels.wrong[:, None], there.shape)[there]
    fitted = LogisticRegression(C=100.0).fit(held_out[there][:, None], y, sample_weight=weight)
    slope = float(fitted.coef_[0, 0])
    if slope > 0:
        return float(fitted.intercept_[0]), slope
    share = float(np.average(y, weights=weight))
    return float(np.log(share / (1 - share))), 0.0


def probability(log_odds: Floats, scale: tuple[float, float]) -> Floats:
    """The probabilities that :func:`fit_probability` makes of log-odds."""
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-(scale[0] + scale[1] * log_odds))))


def _run_weights(material: Material, labels: Labels) -> Floats:
    """Weights of runs such that in each model that has both, those that go wrong weigh as much as the others.

    Else telling models apart would be learned where telling runs apart is wanted; and since the share that goes
    wrong in the rest of a model is lower when a run that does is held out, what is learned of it would mislead.
    """
    weight = np.ones(len(labels.wrong))
    for name in np.unique(material.model):
        own = (material.model == name) & labels.known
        n_wrong, n = (own & labels.wrong).sum(), own.sum()
        if 0 < n_wrong < n:
            weight[own] = np.where(labels.wrong[own], n / (2 * n_wrong), n / (2 * (n - n_wrong)))
    return weight


def reference_of(material: Material, labels: Labels) -> Reference:
    """The stable runs, or all known ones of a model that has fewer than three stable runs."""
    used = labels.known & ~material.copies
    chosen = used & labels.stable
    for name in np.unique(material.model):
        own = material.model == name
        if (chosen & own).sum() < MIN_SIBLINGS:
            chosen |= used & own
    values = np.where(material.scored[:, :, None], material.table.values, np.nan)
    return Reference(values[chosen], material.model[chosen], material.key[chosen])


def loss_feature(material: Material, options: Options) -> int:
    """The feature that a baseline reads."""
    table, what = material.table, _STATISTIC[options.method]
    for curve in LOSSES if options.loss is None else (options.loss,):
        for i, (name, kind) in enumerate(zip(table.curves, table.statistics, strict=True)):
            if name == curve and kind == what:
                return i
    asked = options.loss or LOSSES[0]
    if asked in table.curves:
        raise AnalysisError(f"{options.method} counts spikes in the loss of every update (log/loss), not in {asked!r}.")
    raise AnalysisError(
        f"{options.method} needs a loss curve and there is no {asked!r}. {did_you_mean(asked, table.curves)}"
    )


def _classifier(options: Options, seed: int) -> Any:
    if options.method == "logistic":
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=options.penalty, max_iter=2000)
    from sklearn.ensemble import GradientBoostingClassifier

    return GradientBoostingClassifier(
        n_estimators=60, learning_rate=0.1, max_depth=2, subsample=0.7, max_features="sqrt", random_state=seed
    )


def _fit_map(material: Material, used: Bools, options: Options, seed: int) -> TrainingMap | None:
    if not options.map_states:
        return None
    from polystab.analysis.training_maps import fit_training_map

    cube = as_cube(material.data)
    keep = np.zeros(cube.sizes["model"] * cube.sizes["seed"], dtype=bool)
    keep[material.rows[used]] = True
    mask = xr.DataArray(keep.reshape(cube.sizes["model"], -1), dims=("model", "seed"))
    return fit_training_map(
        cube.assign(value=cube["value"].where(mask)),
        metrics=options.map_metrics,
        n_states=options.map_states,
        normalise="causal",
        n_restarts=4,
        rng=seed,
    )


def _posteriors(fitted: TrainingMap, material: Material) -> Floats:
    """Probabilities of the map's states given the checkpoints so far, minus their even share; 0 before the first."""
    decoded = fitted.decode(as_cube(material.data))["posterior_online"].transpose("model", "seed", "step", "map_state")
    values = np.asarray(decoded.values, dtype=np.float64)
    values = values.reshape(-1, *values.shape[2:])[material.rows]
    steps = np.asarray(decoded["step"].values, dtype=np.float64)
    known = ~np.isnan(values[:, :, 0])
    place: npt.NDArray[np.intp] = np.maximum.accumulate(np.where(known, np.arange(len(steps)), -1), axis=1)
    upto = np.searchsorted(steps, material.steps, side="right") - 1
    latest = np.where(upto >= 0, place[:, np.maximum(upto, 0)], -1)
    taken = np.take_along_axis(values, np.maximum(latest, 0)[:, :, None], axis=1)
    return np.where((latest >= 0)[:, :, None], taken - 1 / values.shape[-1], 0.0)
