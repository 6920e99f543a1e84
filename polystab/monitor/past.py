"""What a run's own past says about its loss and gradient norm: no other run is needed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from polystab.analysis.options import check_whole
from polystab.errors import AnalysisError

# A level is the median of a quarter of a window; four to sixteen quarters before it say how much values scatter.
_QUARTERS = 4
_MOST_BLOCKS = 16
_LEAST_BLOCK = 8

# What is never finite is broken after so many values; a gradient scaler in half precision needs up to 16 to settle.
_NEVER = 20


@dataclass(frozen=True)
class Said:
    """One thing that a rule has to say: ``alarm`` or only worth a line, from place ``since`` on, over ``limit``."""

    rule: str
    alarm: bool
    since: int
    limit: float


class OwnPast:
    """Spikes, a lost level and non-finite values in one series, value by value.

    Parameters
    ----------
    window : int, optional
        How many values before are looked at for a spike; none can be told before that many are there.
    sd : float, optional
        How many standard deviations (ddof 0) above their mean is a spike.
    sustain : int, optional
        So many values in a row above that limit are an alarm; fewer are a spike that passed.
    climbs : bool, optional
        Whether a level that is lost slowly counts: for a training loss, not for a gradient norm.

    Notes
    -----
    *spike*: value > mean + 6 sd of the previous 128 (:func:`polystab.analysis.loss_spikes`, the rule of the
    OLMo-core ``StabilityMonitor``). The limit stands still from the first value above it on.

    *climb*: the median of the last quarter of a window (32 values) is more than 6 sd above the lowest such median of
    earlier, where sd is the robust scatter of values about the medians of the four to sixteen quarters before, and of these
    medians from one to the next. Told from 160 values on.

    *non-finite*: the series ends in so many NaN or infinite values as ``sustain``, and more than twice as many as
    ever before, after as many finite ones in a row; or its first 20 values are all not finite. A gradient scaler that starts
    in half precision, or a table that has NaN where it has no value, is no alarm.

    Of 1,600 simulated healthy curves of 1,000 values, falling or flat, with normal noise whose lag-1 correlation was 0, 0.5
    or 0.9, none raised an alarm (``benchmarks/bench_monitor.py``), nor did any of the 70 good runs of ``nano`` and ``nano-edge``.

    Examples
    --------
    >>> from polystab.monitor import OwnPast
    >>> past = OwnPast(window=20)
    >>> calm = [past.add(value) for value in [2.0, 2.1] * 20]
    >>> [said.rule for value in (4.0, 4.1, 4.2) for said in past.add(value) if said.alarm]
    ['spike']
    """

    def __init__(self, *, window: int = 128, sd: float = 6.0, sustain: int = 3, climbs: bool = True) -> None:
        check_whole("window", window, 2)
        check_whole("sustain", sustain, 1)
        if not sd > 0:
            raise AnalysisError(f"sd is {sd}; it must be above 0.")
        self.window, self.sd, self.sustain, self.climbs = window, sd, sustain, climbs
        self._values: list[float] = []
        self._limit = math.inf  # while values are above it, they are held back
        self._held: list[float] = []
        self._lowest = math.inf
        self._calm = math.inf
        self._noise = 0.0
        self._block = max(_LEAST_BLOCK, window // _QUARTERS)
        self._bad, self._longest_bad = 0, 0
        self._good, self._longest_good = 0, 0

    def add(self, value: float) -> list[Said]:
        """Take the next value; returns what there is to say about it now, once for each event."""
        if not math.isfinite(value):
            return self._broken()
        self._longest_bad, self._bad = max(self._longest_bad, self._bad), 0
        self._good += 1
        self._longest_good = max(self._longest_good, self._good)
        said = self._spike(value)
        if self.climbs and not self._held:
            said += self._climb()
        return said

    def _broken(self) -> list[Said]:
        self._bad, self._good = self._bad + 1, 0
        needed = max(self.sustain, 2 * self._longest_bad + 1) if self._longest_good >= self.sustain else _NEVER
        return [Said("non-finite", True, self._bad - 1, math.inf)] if self._bad == needed else []

    def _spike(self, value: float) -> list[Said]:
        if self._held and value > self._limit:
            self._held.append(value)
            if len(self._held) == self.sustain:
                return [Said("spike", True, self.sustain - 1, self._limit)]
            return []
        self._values += self._held
        self._held = []
        if len(self._values) >= self.window:
            before = np.array(self._values[-self.window :])
            limit = float(before.mean() + self.sd * before.std() + 1e-9 * np.abs(before).max())
            if value > limit:
                self._limit, self._held = limit, [value]
                return [Said("spike", self.sustain == 1, 0, limit)]
        self._values.append(value)
        return []

    def _climb(self) -> list[Said]:
        if len(self._values) < self._block:
            return []
        level = float(np.median(self._values[-self._block :]))
        self._lowest = min(self._lowest, level)
        if len(self._values) < self._block * (_QUARTERS + 1):
            return []
        if level <= self._calm:
            self._calm = math.inf
        if len(self._values) % self._block == 0 or self._noise == 0:
            self._noise = _scatter(self._values[-self._block * (_MOST_BLOCKS + 1) : -self._block], self._block)
        limit = self._lowest + self.sd * self._noise
        if level <= limit or self._calm < math.inf:
            return []
        # Said once, until half of what was lost is made good.
        self._calm = (self._lowest + limit) / 2
        return [Said("climb", True, self._block - 1, limit)]


def _scatter(values: list[float], block: int) -> float:
    """Robust standard deviation of values about the levels of their blocks, and of these from one to the next."""
    blocks = np.array(values[len(values) % block :]).reshape(-1, block)
    levels = np.median(blocks, axis=1)
    within = np.median(np.abs(blocks - levels[:, None]))
    between = np.median(np.abs(np.diff(levels)))
    return 1.4826 * math.hypot(within, between) + 1e-9 * float(np.abs(blocks).max())
