"""A classifier that says from the beginning of a run whether it will go wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, described
from polystab.analysis.early_warning.conformal import (
    conformal_p,
    exceeds,
    folds_of,
    highest_so_far,
    runs_needed,
    smallest_p,
    standardised,
)
from polystab.analysis.early_warning.curves import last_time
from polystab.analysis.early_warning.labels import Labels, check_classes, read_labels
from polystab.analysis.early_warning.material import DIVERGED, ENDED, STATUS, Material, gather
from polystab.analysis.early_warning.params import Parameters
from polystab.analysis.early_warning.relative import VIEWS
from polystab.analysis.early_warning.scorers import (
    LEARNED,
    METHODS,
    Options,
    Scorer,
    fit_probability,
    fit_scorer,
    probability,
)
from polystab.analysis.options import Rng, check_choice, check_shares, check_whole, flagged, generator_of
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, shown
from polystab.progress_bars import tracked

Data = xr.Dataset | xr.DataTree
Given = xr.Dataset | xr.DataArray | npt.ArrayLike | None

_DOCS = {
    "score": "log-odds, distance or statistic in robust SDs of held-out stable runs at the step; higher is worse",
    "statistic": "log-odds of going wrong (learned), root mean square distance (novelty), or the baseline itself",
    "probability": "probability of going wrong, of methods that learn from labels",
    "p": "share of stable runs whose highest score is at least as high as the run's so far",
    "alarm": "an alarm has been given by the step",
    "status": "whether the prefix is scored, and if not, why",
    "first_alarm": "step of the first alarm, -1 for none",
    "abstained": "no prefix of the run was long enough, and it did not diverge",
}


class EarlyWarning(Parameters):
    """Predict from the beginning of a run whether it will go wrong, with a budget for false alarms.

    In the manner of scikit-learn: ``fit`` on runs whose end is known, then ``warn`` (everything, step by
    step), ``predict`` (an alarm or none), ``predict_proba`` or ``decision_function`` (at the last step) for
    the beginnings of others. Instead of a matrix it takes cubes.

    Parameters
    ----------
    method : str, optional
        With labels: ``logistic`` (ridge-penalised) or ``gradient_boosting``. Without: ``novelty``, the distance
        from stable runs. Baselines: ``last_loss``, ``loss_slope``, ``spike_count`` and ``robust_z`` (of the last
        loss among the siblings, either sign).
    false_alarm : float, optional
        Budget: the probability that a stable run ever has an alarm, over all its steps together.
    steps : sequence of int, optional
        Ends of prefixes that are looked at; by default the steps of the cube, at most 40.
    min_points : int, optional
        A prefix with fewer values of its most often measured curve is too short, and not scored.
    families, metrics : sequence of str, optional
        What to look at; by default everything there is, the group ``log`` included (family ``log``).
    views : sequence of str, optional
        What each statistic is compared with: ``siblings`` (runs of the same model) and ``all`` (runs of all
        models; levels of losses, gradient norms and the log only, since other levels depend on the model).
    penalty : float, optional
        Of ``logistic``: inverse strength C of the ridge penalty.
    map_states : int, optional
        Adds the states of a training map with so many states, fitted to the training runs and filtered
        forward; 0 for none.
    map_metrics : sequence of str, optional
        Metrics of that map; see :func:`polystab.analysis.fit_training_map`.
    loss : str, optional
        The curve that baselines read; by default ``log/loss``, or else a loss of the cube.
    n_folds : int, optional
        Parts of the training runs for calibration. Few parts make alarms rarer than the budget allows.
    rng : int, numpy.random.Generator or None, optional
        Source of chance, for the folds and the boosting. An int gives the same result again.

    Attributes
    ----------
    steps_ : ndarray
        Ends of prefixes.
    features_ : tuple of str
        Statistics of curves that are used.
    scorer_ : object
        What gives prefixes their statistic; ``calibration_`` are the highest scores of the stable runs.
    n_stable_, n_wrong_ : int
        Runs that the budget is calibrated with, and runs known to have gone wrong.
    smallest_p_ : float
        No alarm but for a divergence is possible at a smaller budget.
    notes_ : tuple of str
        What a reader must know.

    Notes
    -----
    Features are those of :func:`prefix_features`, as robust distances from reference runs (the stable training
    runs, the run itself left out) at the same step; one classifier serves all steps (landmarking, van
    Houwelingen 2007), trained on all prefixes at which the rule had not seen a wrong run yet, each run with a
    total weight of 1. A model that the training runs do not have is compared with the other runs given along
    with it, of which at least four are needed.

    In each model, runs that go wrong weigh as much as the others in learning: else the share that goes wrong would be
    learned. Probabilities are log-odds on a scale on which held-out training runs are right on average (Platt 1999).

    **The budget.** The training runs are split into ``n_folds``, and those of each fold are scored by what is
    learned from the others. The highest score so far of a new run, by what is learned from all, is ranked among the
    highest scores that the stable runs had so, and there is an alarm once that p is at most ``false_alarm``. For
    exchangeable runs the share of stable runs with an alarm is then at or below it (calibration by cross-validation
    is no theorem: Barber et al. 2021; the tests simulate it). It is not kept for runs of another recipe. With fewer
    than 19 stable runs no alarm is possible at 5 %, which ``notes_`` says. A divergence (an infinite value, or a
    loss missing where it must be) is always an alarm.

    With some tens of runs fewer columns often do better: try ``families=["log", "loss", "gradient"], views=["all"]``,
    and let training runs choose, as ``benchmarks/bench_early_warning.py`` does.

    NaN is not measured. Copies of other runs teach nothing.

    References
    ----------
    van Houwelingen, H. C. (2007). Dynamic prediction by landmarking in event history analysis. Scandinavian Journal
    of Statistics 34, 70-85. https://doi.org/10.1111/j.1467-9469.2006.00529.x

    Platt, J. (1999). Probabilistic outputs for support vector machines and comparisons to regularized likelihood
    methods. Advances in Large Margin Classifiers, 61-74. MIT Press.

    Barber, R. F., Candes, E. J., Ramdas, A. and Tibshirani, R. J. (2021). Predictive inference with the jackknife+.
    Annals of Statistics 49, 486-507. https://doi.org/10.1214/20-AOS1965

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis.early_warning import EarlyWarning, prefix
    >>> from polystab.analysis import failed_runs
    >>> tree = ps.load_tree("nano-edge")
    >>> warning = EarlyWarning(method="last_loss", steps=[200, 400, 600, 800], rng=0).fit(tree, failed_runs(tree))
    >>> warning.warn(prefix(tree, 400))["alarm"].sizes["step"]
    2
    """

    def __init__(
        self,
        *,
        method: str = "logistic",
        false_alarm: float = 0.05,
        steps: Sequence[int] | None = None,
        min_points: int = 8,
        families: Sequence[str] | None = None,
        metrics: Sequence[str] | None = None,
        views: Sequence[str] = VIEWS,
        penalty: float = 0.03,
        map_states: int = 0,
        map_metrics: Sequence[str] | None = None,
        loss: str | None = None,
        n_folds: int = 10,
        rng: Rng = 0,
    ) -> None:
        self.method = method
        self.false_alarm = false_alarm
        self.steps = steps
        self.min_points = min_points
        self.families = families
        self.metrics = metrics
        self.views = views
        self.penalty = penalty
        self.map_states = map_states
        self.map_metrics = map_metrics
        self.loss = loss
        self.n_folds = n_folds
        self.rng = rng

    def fit(self, data: Data, labels: Given = None) -> EarlyWarning:
        """Learn from runs whose end is known.

        Parameters
        ----------
        data : xarray.Dataset or xarray.DataTree
            A cube of whole runs; of a tree, the group ``log`` too.
        labels : xarray.Dataset, xarray.DataArray or array, optional
            What :func:`polystab.analysis.failed_runs` gives, or true for runs that went wrong, over (model,
            seed), NaN where that is not known. ``seen_at`` says from when on it was no secret; without it all
            prefixes count. Without labels (only for ``novelty`` and baselines) all runs are taken to be stable.

        Returns
        -------
        EarlyWarning
            Itself.

        Raises
        ------
        AnalysisError
            An argument is out of range, labels are missing or all of one kind, or no prefix is long enough.
        """
        self._check()
        return self.fit_material(self.gather(data), read_labels(labels, data))

    def gather(self, data: Data) -> Material:
        """The prefixes that ``fit`` and ``warn`` would look at."""
        return gather(data, steps=self.steps, families=self.families, metrics=self.metrics, min_points=self.min_points)

    def fit_material(self, material: Material, labels: Labels | None) -> EarlyWarning:
        """Like :meth:`fit`, on prefixes that are read already."""
        if labels is None:
            if self.method in LEARNED:
                raise AnalysisError(
                    f"method={self.method!r} learns from labels and there are none: give failed_runs(tree), or an array that says "
                    "which runs went wrong. method='novelty' needs none."
                )
            there: Bools = np.asarray(material.scored.any(axis=1))
            labels = Labels(there, np.zeros(len(there), dtype=bool), np.full(len(there), np.inf))
        used: Bools = labels.known & ~material.copies & (material.status != ENDED).any(axis=1)
        if not material.scored[used].any():
            raise AnalysisError(
                f"no prefix is long enough: by step {material.steps[-1]:g} no labelled run has {self.min_points} values of any curve. "
                "Lower min_points, or give later steps."
            )
        if self.method in LEARNED:
            check_classes(labels, used, material.key)
        if (labels.stable & used).sum() < 2:
            raise AnalysisError(
                f"{int((labels.stable & used).sum())} stable runs; there is nothing to compare with. At least 2 are needed, "
                f"and {runs_needed(self.false_alarm)} for alarms at a budget of {self.false_alarm:g}."
            )
        generator = generator_of(self.rng)
        seed = int(generator.integers(2**31))
        material, labels = material.take(used), labels.take(used)
        # Those of each model and class are spread over the folds evenly.
        groups = np.char.add(np.where(labels.wrong, "wrong ", "stable "), material.model)
        fold = folds_of(groups, self.n_folds, generator)
        self.steps_ = material.steps
        self.features_ = material.table.names
        self._like = replace(material.table, values=material.table.values[:0])
        options = self.options()
        path = np.full((len(fold), len(self.steps_)), np.nan)
        for k in tracked(range(self.n_folds), "calibrating the early warning", unit="fold"):
            rest, held = np.flatnonzero(fold != k), np.flatnonzero(fold == k)
            told = material.take(held)
            scorer = fit_scorer(material.take(rest), labels.take(rest), options, seed)
            path[held] = np.where(told.scored, scorer.scores(told), np.nan)
        self.scorer_: Scorer = fit_scorer(material, labels, options, seed)
        if self.method in LEARNED:
            self.scale_ = fit_probability(path, labels, material.steps)
        self._stable_path = path[labels.stable]
        own = standardised(self._stable_path, self._stable_path, leave_one_out=True)
        self.calibration_ = np.nan_to_num(highest_so_far(own)[:, -1], nan=-np.inf)
        self.n_stable_, self.n_wrong_ = int(labels.stable.sum()), int(labels.wrong.sum())
        self.smallest_p_ = smallest_p(self.n_stable_)
        self.notes_ = self._notes()
        return self

    def warn(self, data: Data) -> xr.Dataset:
        """Everything about the beginnings of runs, step by step.

        Parameters
        ----------
        data : xarray.Dataset or xarray.DataTree
            A cube of whole runs or prefixes, on any grid. What is told at a step does not depend on what comes after.

        Returns
        -------
        xarray.Dataset
            Over (model, seed, step), steps being those of ``steps_`` that are in the data: ``score``,
            ``statistic``, ``probability``, ``p``, NaN where nothing is scored; ``alarm``, which stays once given;
            ``status``, a code (``attrs["flag_meanings"]``: scored, too_short, ended, diverged). Over (model,
            seed): ``first_alarm``, -1 for none, and ``abstained``. In ``attrs``: ``method``, ``false_alarm``,
            ``smallest_p``, ``n_stable``, and ``notes``.

        Raises
        ------
        AnalysisError
            It is not fitted, or the data have none of the features.
        """
        if not hasattr(self, "scorer_"):
            raise AnalysisError("this EarlyWarning is not fitted yet; call fit(tree, labels) first.")
        material = gather(
            data, steps=self.steps_, families=self.families, metrics=self.metrics, min_points=self.min_points
        )
        common = set(material.table.names) & set(self.features_)
        if not common:
            raise AnalysisError(
                f"the cube has none of the {len(self.features_)} features that this was fitted with, such as "
                f"{shown(self.features_[:2])}; its curves are {shown(dict.fromkeys(material.table.curves))}."
            )
        found = self.warn_material(material)
        cube = as_cube(data)
        shape = cube.sizes["model"], cube.sizes["seed"]
        reached = material.steps <= last_time(data)
        run, cell = ("model", "seed"), ("model", "seed", "step")
        result = xr.Dataset(
            {
                name: (cell, values.reshape(*shape, -1)) if values.ndim == 2 else (run, values.reshape(shape))
                for name, values in found.items()
            },
            coords={"model": cube["model"].values, "seed": cube["seed"].values, "step": self.steps_.astype(np.int64)},
        ).isel(step=np.flatnonzero(reached))
        notes = [*self.notes_]
        if missing := sorted({*self._like.curves} - {*material.table.curves}):
            notes.append(
                f"{len(missing)} curves seen in training are not there and were passed over: {shown(missing)}."
            )
        if new := sorted({*material.table.curves} - {*self._like.curves}):
            notes.append(f"{len(new)} curves are new and were passed over: {shown(new)}.")
        result.attrs = {
            "method": self.method,
            "false_alarm": self.false_alarm,
            "smallest_p": self.smallest_p_,
            "n_stable": self.n_stable_,
            "notes": "\n".join(notes),
        }
        return flagged(described(result, _DOCS, {"first_alarm": "1"}), {"status": STATUS})

    def warn_material(self, material: Material) -> dict[str, npt.NDArray[Any]]:
        """Like :meth:`warn`, as arrays over (run, step) and (run,)."""
        material = material.aligned(self.features_, self._like)
        scored = material.scored
        statistic = np.where(scored, self.scorer_.scores(material), np.nan)
        score = standardised(statistic, self._stable_path)
        p = conformal_p(highest_so_far(score), self.calibration_)
        diverged = material.status == DIVERGED
        struck = exceeds(p, self.false_alarm) | diverged
        alarm = np.logical_or.accumulate(struck, axis=1)
        first = np.where(alarm.any(axis=1), self.steps_[alarm.argmax(axis=1)], -1).astype(np.int64)
        if self.method in LEARNED:
            chance = np.where(diverged, 1.0, probability(statistic, self.scale_))
        else:
            chance = np.full(p.shape, np.nan)
        return {
            "score": score,
            "statistic": statistic,
            "probability": chance,
            "p": p,
            "alarm": alarm,
            "status": material.status,
            "first_alarm": first,
            "abstained": ~(scored | diverged).any(axis=1),
        }

    def predict(self, data: Data) -> xr.DataArray:
        """Whether there is an alarm by the end of what is given, over (model, seed); see :meth:`warn`."""
        return (self.warn(data)["first_alarm"] >= 0).rename("alarm")

    def decision_function(self, data: Data) -> xr.DataArray:
        """The last score of each run, over (model, seed); NaN where it was never scored."""
        return _latest(self.warn(data)["score"])

    def predict_proba(self, data: Data) -> xr.DataArray:
        """The last probability of going wrong of each run, over (model, seed), of methods that learn from labels."""
        if self.method not in LEARNED:
            raise AnalysisError(f"method={self.method!r} gives no probability; use p of warn(), or {shown(LEARNED)}.")
        return _latest(self.warn(data)["probability"])

    def _check(self) -> None:
        check_choice("method", self.method, METHODS)
        check_shares(false_alarm=self.false_alarm)
        check_whole("min_points", self.min_points, 1)
        check_whole("map_states", self.map_states, 0)
        check_whole("n_folds", self.n_folds, 2)
        for view in self.views:
            check_choice("view", view, VIEWS)
        if not self.views or not self.penalty > 0:
            raise AnalysisError(
                f"views are {self.views} and penalty is {self.penalty}; give a view, and a penalty above 0."
            )

    def options(self) -> Options:
        """The arguments that decide how scores are made."""
        metrics = None if self.map_metrics is None else tuple(self.map_metrics)
        return Options(self.method, tuple(self.views), self.penalty, self.loss, self.map_states, metrics)

    def _notes(self) -> tuple[str, ...]:
        notes = []
        if self.n_stable_ < (needed := runs_needed(self.false_alarm)):
            notes.append(
                f"{self.n_stable_} stable runs: p is at least {self.smallest_p_:.3g}, so that no alarm but for a divergence "
                f"is possible at a budget of {self.false_alarm:g}, which takes {needed} stable runs."
            )
        return tuple(notes)


def _latest(values: xr.DataArray) -> xr.DataArray:
    """The last number along ``step``; NaN for none."""
    last = xr.full_like(values.sum("step"), np.nan)
    for step in range(values.sizes["step"]):
        last = values.isel(step=step, drop=True).fillna(last)
    return last
