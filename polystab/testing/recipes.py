"""Recipes: everything about a synthetic training suite that is not left to chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import xarray as xr

from polystab.testing.drawing import (
    Rng,
    check,
    check_numbers,
    check_sds,
    check_shares,
    check_sizes,
    checked_steps,
    generator_of,
)

_POWERS = (0, *(2**k for k in range(10)))

#: The 27 steps at which Pythia was evaluated: 0, powers of two to 512, 1000, then every 10,000 from 3,000.
EVAL_STEPS = (*_POWERS, 1000, *range(3000, 143_001, 10_000))

#: The 154 steps at which Pythia's checkpoints were kept.
CHECKPOINT_STEPS = (*_POWERS, *range(1000, 143_001, 1000))

MAX_MODELS = 16


@dataclass(frozen=True)
class Event:
    """Something that happens to one run, or to all of them, from ``step`` to ``until``.

    Parameters
    ----------
    step : int
        First step affected.
    until : int, optional
        Last step affected; to the end of training if not given.
    model, seed : int, optional
        Number of the model and the seed; every one if not given.
    drop : float
        Logits of ability that every task loses.
    loss : float
        Nats added to the loss.
    norm : float
        Relative growth of the weight statistics.
    """

    step: int
    until: int | None = None
    model: int | None = None
    seed: int | None = None
    drop: float = 0.0
    loss: float = 0.0
    norm: float = 0.0

    @classmethod
    def outlier(cls, seed: int, step: int, *, model: int = 0, drop: float = 2.0) -> Event:
        """A run that goes wrong at ``step`` and does not recover."""
        return cls(step, model=model, seed=seed, drop=drop, loss=0.3 * drop, norm=0.2 * drop)

    @classmethod
    def spike(cls, step: int, *, model: int | None = None, seed: int | None = None, loss: float = 1.0) -> Event:
        """A loss spike at one checkpoint; of every run (its cause is shared) unless one is named."""
        return cls(step, step, model, seed, loss=loss)

    @classmethod
    def glitch(cls, seed: int, step: int, *, model: int = 0, drop: float = 2.0) -> Event:
        """One bad checkpoint whose neighbours are sound."""
        return cls(step, step, model, seed, drop=drop, loss=0.3 * drop)

    @property
    def is_outlier(self) -> bool:
        """Whether the event leaves one run different for good."""
        return self.until is None and self.seed is not None


class Made(NamedTuple):
    """A synthetic cube and the truth about it."""

    cube: xr.Dataset
    truth: xr.Dataset


@dataclass(frozen=True)
class Recipe:
    """Everything that decides a synthetic training suite, except chance.

    Effects are in logits of ability. A task's accuracy is ``chance + (1 - chance) *
    learnt(step) * sigmoid(ability + effects)``, where ``learnt`` rises from 0 to 1 in
    the logarithm of the step; so runs agree at step 0 and spread as they learn. The
    loss moves by ``LOSS_PER_LOGIT`` and the weight statistics by the share
    ``WEIGHT_PER_LOGIT`` for each logit.

    Parameters
    ----------
    n_models, n_seeds : int
        One is enough. Models are called ``toy-2m``, ``toy-8m``, ...; seeds count from 0.
    steps : sequence of int, optional
        Increasing; ``EVAL_STEPS`` if not given.
    tasks : sequence of str
        Each becomes ``eval/<task>/acc``. Later ones are harder and learnt later.
    chance : float or sequence of float
        Accuracy from guessing, of all tasks or of each.
    weights : sequence of str
        Each becomes ``weight/<subject>/l2_norm`` and ``weight/<subject>/kurtosis``;
        a subject such as ``layers.0.attention.dense`` sets layer and component.
    n_items : int
        Test items of each task: accuracies are binomial draws with a ``stderr``. 0
        leaves the exact accuracy and no ``stderr``.
    sd_seed : float
        SD over runs of an offset that a run keeps throughout.
    shared : float
        Share of that variance that all metrics of a run have in common.
    sd_seed_step : float
        SD of a slow wander of each run and metric (seed x step): autoregressive over
        checkpoints with ``correlation`` between neighbours, stationary.
    sd_checkpoint : float
        SD of noise that is independent at every checkpoint.
    correlation : float
        See ``sd_seed_step``; from 0 to below 1.
    phase_steps : sequence of int
        Steps at which the level of every metric changes by ``phase_size`` logits.
    phase_size : float
        Size of each change.
    sd_phase : float
        SD over runs of when a phase starts, in doublings of the step; each run's own
        step is rounded up to a checkpoint (the last one at most).
    events : sequence of Event
        Outlier runs, loss spikes, glitches.
    duplicates : sequence of (model, seed, of)
        Run ``(model, seed)`` is a copy of run ``(model, of)``.
    missing : float
        Share of checkpoints (all metrics of a run at a step) without values, rounded
        to whole checkpoints.
    """

    n_models: int = 3
    n_seeds: int = 10
    steps: Sequence[int] | None = None
    tasks: Sequence[str] = ("recall", "grammar", "arithmetic")
    chance: float | Sequence[float] = 0.25
    weights: Sequence[str] = ("all", "layers.0.attention.dense")
    n_items: int = 500
    sd_seed: float = 0.15
    shared: float = 0.5
    sd_seed_step: float = 0.0
    sd_checkpoint: float = 0.02
    correlation: float = 0.8
    phase_steps: Sequence[int] = ()
    phase_size: float = 1.0
    sd_phase: float = 0.0
    events: Sequence[Event] = ()
    duplicates: Sequence[tuple[int, int, int]] = ()
    missing: float = 0.0

    def __post_init__(self) -> None:
        for name in ("tasks", "weights", "events", "duplicates"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.steps is not None:
            object.__setattr__(self, "steps", checked_steps(self.steps))
        if len(self.phase_steps):
            object.__setattr__(self, "phase_steps", checked_steps(self.phase_steps, "phase_steps"))
        check_sizes(n_models=self.n_models, n_seeds=self.n_seeds)
        check(self.n_models <= MAX_MODELS, f"n_models={self.n_models} is over {MAX_MODELS}.")
        check_sizes(least=0, n_items=self.n_items)
        check_sds(
            sd_seed=self.sd_seed,
            sd_seed_step=self.sd_seed_step,
            sd_checkpoint=self.sd_checkpoint,
            sd_phase=self.sd_phase,
        )
        check_numbers(phase_size=self.phase_size, shared=self.shared)
        check_shares(correlation=self.correlation, missing=self.missing)
        check(0 <= self.shared <= 1, f"shared={self.shared!r} is not from 0 to 1.")
        self._check_metrics()
        self._check_runs()

    def _check_metrics(self) -> None:
        check(len(self.tasks) > 0, "tasks is empty; name at least one.")
        for name in ("tasks", "weights"):
            given = getattr(self, name)
            check(all(isinstance(label, str) and label for label in given), f"{name}={given!r} are not all names.")
            check(len(set(given)) == len(given), f"{name}={given!r} has a name twice.")
        check(len(self.chances) == len(self.tasks), f"{len(self.chances)} chances for {len(self.tasks)} tasks.")
        check_shares(**{f"chance[{i}]": chance for i, chance in enumerate(self.chances)})

    def _check_runs(self) -> None:
        for event in self.events:
            self._check_run(event.model or 0, event.seed or 0, str(event))
            check_numbers(drop=event.drop, loss=event.loss, norm=event.norm)
            last = self.grid[-1] if event.until is None else event.until
            check(event.step <= min(last, self.grid[-1]), f"{event} never happens: steps end at {self.grid[-1]}.")
        for model, seed, of in self.duplicates:
            where = f"duplicate {(model, seed, of)}"
            self._check_run(model, seed, where)
            self._check_run(model, of, where)
            check(seed != of, f"{where}: a run cannot be a copy of itself.")

    def _check_run(self, model: int, seed: int, where: str) -> None:
        known = 0 <= model < self.n_models and 0 <= seed < self.n_seeds
        check(known, f"{where} names a run outside {self.n_models} models x {self.n_seeds} seeds.")

    @property
    def grid(self) -> tuple[int, ...]:
        """The steps, as labelled."""
        return EVAL_STEPS if self.steps is None else tuple(self.steps)

    @property
    def chances(self) -> tuple[float, ...]:
        """Accuracy from guessing, of each task."""
        if isinstance(self.chance, (int, float, np.number)):
            return (float(self.chance),) * len(self.tasks)
        return tuple(float(chance) for chance in self.chance)

    def make(self, rng: Rng = None) -> Made:
        """Draw a cube, with the truth about it.

        Parameters
        ----------
        rng : int, numpy.random.Generator or None
            Source of chance; None differs from call to call.

        Returns
        -------
        Made
            ``cube``, and ``truth``: a Dataset with ``expected(model, seed, step,
            metric)``, what each value would be without checkpoint noise and item
            sampling; ``average(model, step, metric)``, the same for a run without
            seed effect, phase jitter and events of single runs; ``seed_effect(model,
            seed, metric)`` in logits; ``phase_step(model, seed, phase)``;
            ``outlier_step(model, seed)``, -1 for sound runs; ``duplicate_of(model,
            seed)``, -1 for runs of their own.
        """
        from polystab.testing.suites import made  # the maker needs the recipe

        return made(self, generator_of(rng), rng)
