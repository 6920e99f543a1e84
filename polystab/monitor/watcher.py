"""One live run, value by value: compared with past runs, and with its own past."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from polystab.analysis.arrays import Floats
from polystab.errors import AnalysisError
from polystab.monitor.contest import Bands, anticipated, bands, furthest, held
from polystab.monitor.past import OwnPast, Said
from polystab.monitor.reference import GRADIENT_NORM, Curves, Reference

# Measured from the weights or logits themselves: what is not finite there stays so.
_IMMEDIATE = ("spectral_norm", "max_abs")

# Values without a step in common after which it is said.
_PATIENCE = 20


@dataclass(frozen=True)
class Finding:
    """Something to say about a run.

    Attributes
    ----------
    rule : {'band', 'spike', 'climb', 'non-finite', 'restart', 'no-common-step'}
    alarm : bool
        Whether it is an alarm; if not, it is only worth a line.
    step : int
        When it was said.
    since : int
        From which step on it holds.
    metric : str
    value : float
        At ``step``.
    message : str
    """

    rule: str
    alarm: bool
    step: int
    since: int
    metric: str
    value: float
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; a value that is not finite as text."""
        return asdict(self) | {"value": self.value if math.isfinite(self.value) else str(self.value)}


class RunWatcher:
    """Says when a run goes wrong, from the values it logs.

    Parameters
    ----------
    reference : Reference, optional
        Past runs of the recipe. Without it the run is compared with its own past only.
    own_past : bool, optional
        Whether the rules about the run's own past (:class:`OwnPast`) hold, for training losses and the gradient norm.
        What is not finite is always an alarm.
    window, sd : int, float
        Of :class:`OwnPast`.
    sustain : int, optional
        How many values in a row; by default that of the reference, or 3.

    Attributes
    ----------
    findings : list of Finding
        All that was said so far.
    alarms : list of Finding
        Those that are alarms.

    Notes
    -----
    *band*: the run stayed outside of the band of the past runs for ``sustain`` values, further than (all of) the
    past runs ever did, each compared with the others. The rate of false alarms is ``reference.false_alarm`` for a
    whole training and all metrics together. Said once, until the run restarts.

    A metric at an earlier step than its last means that the run went back to a checkpoint: all from there on is forgotten,
    and it is said (rule ``restart``). The same step again replaces nothing and is passed over.

    Examples
    --------
    >>> from polystab.monitor import Reference, RunWatcher
    >>> watcher = RunWatcher(Reference("nano", model="nano-96k"))
    >>> found = [watcher.update(step, {"loss/train/cross_entropy": 6.0}) for step in range(1, 201)]
    >>> watcher.alarms[0].rule, watcher.alarms[0].step < 100
    ('band', True)
    """

    def __init__(
        self,
        reference: Reference | None = None,
        *,
        own_past: bool = True,
        window: int = 128,
        sd: float = 6.0,
        sustain: int | None = None,
    ) -> None:
        self.reference = reference
        if reference is not None and sustain not in (None, reference.sustain):
            raise AnalysisError(f"sustain is {sustain} here and {reference.sustain} in the reference; give it there.")
        self.sustain = sustain if sustain is not None else reference.sustain if reference is not None else 3
        self.own_past = own_past
        self._arguments: dict[str, Any] = {"window": window, "sd": sd, "sustain": self.sustain}
        OwnPast(**self._arguments)  # says now what is wrong with them
        self._band = None if reference is None else _Band(reference)
        self._history: dict[str, list[tuple[int, float]]] = {}
        self._past: dict[str, OwnPast] = {}
        self.findings: list[Finding] = []
        self.n_unmatched = 0

    @property
    def alarms(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.alarm]

    @property
    def last_step(self) -> int:
        """The last step that anything was logged for; -1 before."""
        return max((history[-1][0] for history in self._history.values() if history), default=-1)

    def update(self, step: int, values: Mapping[str, float]) -> list[Finding]:
        """Take what was logged at a step.

        Parameters
        ----------
        step : int
            Optimizer steps taken.
        values : mapping of str to float
            By metric id, as a cube has them. Leave out what was not measured: NaN means that NaN was logged.

        Returns
        -------
        list of Finding
            What there is to say now, alarms first.
        """
        found: list[Finding] = []
        for metric, value in values.items():
            found += self._one(int(step), metric, float(value))
        found.sort(key=lambda finding: not finding.alarm)
        self.findings += found
        return found

    def _one(self, step: int, metric: str, value: float) -> list[Finding]:
        history = self._history.setdefault(metric, [])
        found: list[Finding] = []
        if history and step <= history[-1][0]:
            if step == history[-1][0]:
                return []
            found.append(self._rewound(step, metric))
            history = self._history[metric]
        history.append((step, value))
        found += [self._finding(said, metric) for said in self._by_own_past(metric, value)]
        if self._band is not None and math.isfinite(value):
            found += self._by_band(step, metric, value)
        return found

    def _rewound(self, step: int, metric: str) -> Finding:
        """Forget what came from ``step`` on, of all metrics, by going through the rest again."""
        last = self.last_step
        history, self._history, self._past = self._history, {}, {}
        for name, values in history.items():
            kept = self._history[name] = []
            for at, value in values:
                if at < step:
                    kept.append((at, value))
                    self._by_own_past(name, value)
        if self._band is not None:
            self._band.rewind(step)
        message = f"{metric} goes back from step {last:,} to {step:,}: restarted; what came after is forgotten."
        return Finding("restart", False, step, step, metric, math.nan, message)

    def _by_own_past(self, metric: str, value: float) -> list[Said]:
        immediate = metric.rsplit("/", 1)[-1] in _IMMEDIATE and not math.isfinite(value)
        if immediate or (metric.startswith("loss/train/") and math.isinf(value)):
            history = self._history[metric]
            known = len(history) > 1 and not math.isfinite(history[-2][1])
            return [] if known else [Said("non-finite", True, 0, math.inf)]
        if metric != GRADIENT_NORM and not metric.startswith("loss/train/"):
            return []
        if metric not in self._past:
            self._past[metric] = OwnPast(**self._arguments, climbs=metric != GRADIENT_NORM)
        said = self._past[metric].add(value)
        return said if self.own_past else [one for one in said if one.rule == "non-finite"]

    def _finding(self, said: Said, metric: str) -> Finding:
        history = self._history[metric]
        (step, value), since = history[-1], history[-1 - said.since][0]
        if said.rule == "non-finite":
            text = f"is {value:g}, since step {since:,}"
        elif said.rule == "climb":
            text = f"has climbed: the middle of the values since step {since:,} is above {said.limit:.4g}, given its lowest level before"
        else:
            rows = f"{said.since + 1} values in a row" if said.since else "one value"
            text = f"is {value:.4g}, {rows} above {said.limit:.4g}, {self._arguments['sd']:g} sd over the {self._arguments['window']} before"
        return Finding(said.rule, said.alarm, step, since, metric, value, f"{metric} {text}.")

    def _by_band(self, step: int, metric: str, value: float) -> list[Finding]:
        if self._band is None or self.reference is None or metric not in self._band.lives:
            return []
        if not self._band.add(metric, step, value):
            self.n_unmatched += 1
            if self.n_unmatched == _PATIENCE and not self._band.n_compared:
                text = f"none of the {_PATIENCE} steps so far is in the reference; log at the steps that it has."
                return [Finding("no-common-step", False, step, step, metric, value, text)]
            return []
        furthest_out = self._band.verdict()
        if furthest_out is None:
            return []
        live = self._band.lives[furthest_out]
        at, since = live.steps[-1], live.steps[-min(self.sustain, len(live.steps))]
        low, middle, high = live.range_of_past()
        n = len(self.reference.runs)
        whom = f"all {n} past runs" if not self.reference.allowed else f"{n - self.reference.allowed} of {n} past runs"
        last = live.plain[-1]
        text = (
            f"{furthest_out} {last:.4g} at step {at:,}: outside for {self.sustain} values since step {since:,}, "
            f"further than {whom} ever were. There they had {low:.4g} to {high:.4g}, median {middle:.4g}. "
            f"At most {100 * self.reference.false_alarm:.2g} % of healthy runs do so at any time."
        )
        return [Finding("band", True, step, since, furthest_out, last, text)]


class _Band:
    """A live run's contests with the past runs, over all metrics."""

    def __init__(self, reference: Reference) -> None:
        self.lives = {name: _Live(curves, reference.sustain) for name, curves in reference.curves.items()}
        self.allowed = reference.allowed
        self.n_compared = 0
        self.said = False

    def add(self, metric: str, step: int, value: float) -> bool:
        """Take a value; returns whether the reference has that step."""
        compared = self.lives[metric].add(step, value)
        self.n_compared += compared
        return compared

    def rewind(self, step: int) -> None:
        self.said = False
        for live in self.lives.values():
            live.rewind(step)

    def verdict(self) -> str | None:
        """The metric because of which the run is now, for the first time, out of the band."""
        if self.said:
            return None
        out = np.array([live.out for live in self.lives.values()])
        reached = np.max([live.bands.reached for live in self.lives.values()], axis=0)
        if np.sum(reached >= out.max(axis=0)) > self.allowed:
            return None
        self.said = True
        return list(self.lives)[int(np.argmax(np.median(out, axis=1)))]


class _Live:
    """One metric of a live run against the bands of the past runs."""

    def __init__(self, curves: Curves, sustain: int) -> None:
        self.curves, self.sustain = curves, sustain
        self.places: list[int] = []
        self.steps: list[int] = []
        self.plain: list[float] = []
        self.out: Floats = np.empty(0)
        self._compare_all()

    def rewind(self, step: int) -> None:
        """Keep what came before ``step``."""
        kept = [i for i, at in enumerate(self.steps) if at < step]
        self.places = [self.places[i] for i in kept]
        self.steps = [self.steps[i] for i in kept]
        self.plain = [self.plain[i] for i in kept]
        self._compare_all()

    def add(self, step: int, value: float) -> bool:
        place = int(np.searchsorted(self.curves.steps, step))
        if place == len(self.curves.steps) or self.curves.steps[place] != step:
            return False
        n = len(self.places)
        as_foreseen = n < len(self.grid) and self.grid[n] == place
        self.places.append(place)
        self.steps.append(step)
        self.plain.append(value)
        if not as_foreseen:
            self._compare_all()
            return True
        self.recent.append((self.curves.scale(value) - self.bands.centre[:, n]) / self.bands.spread[:, n])
        if len(self.recent) == self.sustain:
            out = held(np.stack(self.recent, axis=-1), side=self.curves.side)
            self.out = np.maximum(self.out, out / self.bands.unit)
        return True

    def range_of_past(self) -> tuple[float, float, float]:
        """Lowest, median and highest of the past runs at the last step that was compared."""
        past = self.curves.plain(self.curves.values[:, self.places[-1]])
        return float(np.nanmin(past)), float(np.nanmedian(past)), float(np.nanmax(past))

    def _compare_all(self) -> None:
        """Bands at the steps where the run is, and foreseeably will be, measured; all its values against them."""
        n_step = len(self.curves.steps)
        self.grid = anticipated(np.array(self.places, dtype=np.intp), n_step) if self.places else np.arange(n_step)
        self.bands: Bands = bands(self.curves.values[:, self.grid], side=self.curves.side, sustain=self.sustain)
        n = len(self.places)
        values = np.array([self.curves.scale(value) for value in self.plain], dtype=np.float64)
        scores: Floats = (values - self.bands.centre[:, :n]) / self.bands.spread[:, :n]
        self.recent = deque(scores.T[-self.sustain :], maxlen=self.sustain)
        self.out = furthest(scores, side=self.curves.side, sustain=self.sustain) / self.bands.unit
