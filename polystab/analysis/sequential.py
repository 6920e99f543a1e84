"""Watching one number while training runs: a detector of changed levels with a stated rate of false alarms."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, Self

import numpy as np

from polystab.analysis.arrays import Floats
from polystab.errors import AnalysisError, did_you_mean

DIRECTIONS = ("both", "up", "down")

# States of the Markov chain behind the run lengths; with 200 they agree with published ones to 0.1 %.
_STATES = 200

_ARGUMENTS = ("average_run_length", "shift", "direction", "limit", "autocorrelation")
_STATE = ("n_seen", "n_learnt", "mean", "squares", "previous", "high", "low", "high_since", "low_since", "diverged")


class SequentialDetector:
    """Alarm when the level of a series changes, value by value, after Page's cumulative sum.

    Parameters
    ----------
    average_run_length : float, optional
        How many values a series without change lasts on average until the first (false)
        alarm: at least 10. A run with 154 checkpoints and the default of 1,000 gives a
        false alarm in about one of seven cases.
    shift : float, optional
        The change, in standard deviations, that is to be found soonest.
    direction : {'both', 'up', 'down'}, optional
        Which changes count.
    limit : float, optional
        Values further than this many standard deviations out count as if they were
        this far out, so that one bad value alone is no alarm (where the threshold is above
        ``limit - shift / 2``, as by default). ``inf`` for no limit.
    autocorrelation : float or 'reference', optional
        Correlation of successive values around their level, between -1 and 1; or it is
        estimated from ``reference`` (30 values or more).
    reference : iterable of float, optional
        Values of the same series, in order, known to be without change. The detector starts
        with what they say about level and spread.

    Attributes
    ----------
    threshold : float
        The alarm is raised when a cumulative sum exceeds this.
    statistic : float
        The larger of the cumulative sums; infinite after an infinite value.
    alarmed : bool
        Whether the statistic exceeds the threshold.
    since : int or None
        The number of values, missing ones not counted, since the larger sum was zero: the
        first of them is where the change began, if there is one. None while both are zero.

    Raises
    ------
    AnalysisError
        An argument outside its range, or a reference too short to estimate from.

    Notes
    -----
    *Standardised.* A value is compared with the mean and standard deviation of all before
    it, ``t = (x - mean) / sd * sqrt(n / (n + 1))``, and the t distribution with n - 1
    degrees of freedom turns this into a normal score (Hawkins's self-starting chart). For
    independent normal values these scores are independent standard normal from the third
    value on, however short the past, so the run length holds from the start; no warm-up
    is guessed, no parameter taken as known. The first two values (less any reference)
    never alarm.

    *Alarm.* ``high = max(0, high + score - shift / 2)`` and the same downwards; alarm when
    either exceeds the threshold, which is solved from a Markov chain of the sum (Brook and
    Evans), the limit included. Siegmund's closed form agrees within 1 % for shifts up to 1
    and no limit. Simulated run lengths are within 2 % of those stated, with and without a
    reference. At a stated 1,000 a step of 2 sd is found after 4.6 values on average where
    100 came before it and 6.4 where 20 did; a step of 1 sd after 13, and where only 20
    came before it, in three cases of ten not at all: the level is soon learnt anew.

    *What changes the rate.* Autocorrelation that is not stated: at 0.3 the average run is
    7 times, at 0.6 23 times and at 0.9 49 times shorter than the 1,000 stated. Stated, the
    series is whitened first (``x - a * previous``) and the rate holds; a change then shows
    with its full size once and ``1 - a`` of it later (2 sd at 0.6 after 12 values).
    Estimated from 100 values, alarms within 154 values are 19-24 % and not 14 %. A trend is
    a change: pass a residual, such as the difference from the median of reference runs at
    that step. Heavy tails shorten runs; the limit bounds by how much.

    *Bad values.* NaN is passed over (with autocorrelation so is the value after it). An
    infinite value is a diverged run: alarm until :meth:`restart`. While alarmed
    nothing is learnt, so that the new level does not become the normal one. A series
    that was constant gives any other value the score ``limit``.

    References
    ----------
    Page, E. S. (1954). Continuous inspection schemes. Biometrika 41, 100-115.
    https://doi.org/10.1093/biomet/41.1-2.100

    Brook, D. and Evans, D. A. (1972). An approach to the probability distribution of cusum
    run length. Biometrika 59, 539-549. https://doi.org/10.1093/biomet/59.3.539

    Hawkins, D. M. (1987). Self-starting cusum charts for location and scale. The
    Statistician 36, 299-316. https://doi.org/10.2307/2348827

    Siegmund, D. (1985). Sequential Analysis. Springer.
    https://doi.org/10.1007/978-1-4757-1862-1

    Examples
    --------
    >>> from polystab.analysis.sequential import SequentialDetector
    >>> detector = SequentialDetector(average_run_length=500)
    >>> calm = [detector.update(x) for x in [1.1, 0.9, 1.0, 1.2, 0.8, 1.0, 1.1, 0.9]]
    >>> later = [detector.update(x) for x in [1.9, 2.1, 2.0]]
    >>> any(calm), later, detector.since
    (False, [False, False, True], 3)
    """

    def __init__(
        self,
        *,
        average_run_length: float = 1000.0,
        shift: float = 1.0,
        direction: str = "both",
        limit: float = 3.0,
        autocorrelation: float | str = 0.0,
        reference: Iterable[float] = (),
    ) -> None:
        self.average_run_length = _number("average_run_length", average_run_length, 10.0, math.inf)
        self.shift = _number("shift", shift, 0.1, 10.0)
        self.limit = _number("limit", limit, 1.0, math.inf, closed=True)
        if direction not in DIRECTIONS:
            raise AnalysisError(f"there is no direction {direction!r}. {did_you_mean(str(direction), DIRECTIONS)}")
        self.direction = direction
        if self.limit <= self.shift / 2:
            raise AnalysisError(f"limit {limit} is not above half the shift {shift}; no sum could ever grow.")
        past = np.fromiter((float(value) for value in reference), dtype=np.float64)
        if autocorrelation == "reference":
            autocorrelation = _lag_one(past)
        elif isinstance(autocorrelation, str):
            raise AnalysisError(f"autocorrelation is {autocorrelation!r}; pass a number or 'reference'.")
        self.autocorrelation = _number("autocorrelation", autocorrelation, -1.0, 1.0)
        self.threshold = threshold_of(
            self.average_run_length, shift=self.shift, limit=self.limit, sides=2 if direction == "both" else 1
        )
        self._start(forget=True)
        for value in past:
            if np.isfinite(value):
                innovation = self._innovation(float(value))
                if innovation is not None:
                    self._learn(innovation)
            else:
                self.previous = math.nan

    @property
    def statistic(self) -> float:
        return math.inf if self.diverged else max(self.high, self.low)

    @property
    def alarmed(self) -> bool:
        return self.statistic > self.threshold

    @property
    def since(self) -> int | None:
        if self.statistic == 0:
            return None
        return self.n_seen - (self.high_since if self.high >= self.low else self.low_since)

    def update(self, value: float) -> bool:
        """Take the next value; returns whether the detector is in alarm now.

        Parameters
        ----------
        value : float
            NaN for a missing value, infinite for a diverged run.

        Returns
        -------
        bool
            Stays true until :meth:`restart` or until the sum has fallen below the threshold.
        """
        value = float(value)
        if math.isnan(value):
            self.previous = math.nan
            return self.alarmed
        self.n_seen += 1
        if math.isinf(value):
            self.diverged, self.previous = True, math.nan
            return True
        innovation = self._innovation(value)
        if innovation is None:
            return self.alarmed
        self._add(self._score(innovation))
        if not self.alarmed:
            self._learn(innovation)
        return self.alarmed

    def restart(self, *, forget: bool = True) -> None:
        """Begin again, after an alarm that was dealt with.

        Parameters
        ----------
        forget : bool, optional
            Learn level and spread anew; if False, those learnt so far still hold.
        """
        self._start(forget=forget)

    def to_dict(self) -> dict[str, Any]:
        """Arguments and state, a dozen plain values that JSON keeps (NaN and infinities as text)."""
        return {name: _plain(getattr(self, name)) for name in (*_ARGUMENTS, *_STATE)}

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """The detector that :meth:`to_dict` described; it goes on where that one stopped.

        Raises
        ------
        AnalysisError
            Something is missing from ``state``.
        """
        missing = [name for name in (*_ARGUMENTS, *_STATE) if name not in state]
        if missing:
            raise AnalysisError(f"the state lacks {', '.join(missing)}; pass what to_dict returned.")
        values: dict[str, Any] = {
            name: float(text) if (text := state[name]) in ("nan", "inf") else text for name in state
        }
        detector = cls(**{name: values[name] for name in _ARGUMENTS})
        for name in _STATE:
            setattr(detector, name, values[name])
        return detector

    def __repr__(self) -> str:
        arguments = ", ".join(f"{name}={getattr(self, name)!r}" for name in _ARGUMENTS)
        return f"SequentialDetector({arguments})"

    def _start(self, *, forget: bool) -> None:
        if forget:
            self.n_learnt, self.mean, self.squares = 0, 0.0, 0.0
        self.n_seen, self.previous = 0, math.nan
        self.high = self.low = 0.0
        self.high_since = self.low_since = 0  # how many values had been seen when the sum was last zero
        self.diverged = False

    def _innovation(self, value: float) -> float | None:
        """The value less what the one before it foretells; None where that is unknown."""
        if self.autocorrelation == 0:
            return value
        previous, self.previous = self.previous, value
        return None if math.isnan(previous) else value - self.autocorrelation * previous

    def _score(self, value: float) -> float:
        """Normal score of a value against those learnt so far; 0 before there are two."""
        from scipy.special import ndtri, stdtr

        n = self.n_learnt
        if n < 2:
            return 0.0
        off = value - self.mean
        sd = math.sqrt(self.squares / (n - 1))
        # Adding up equal numbers leaves rounding; that is no deviation.
        if abs(off) <= 1e-12 * abs(self.mean):
            return 0.0
        if sd == 0:
            return math.copysign(min(self.limit, 10.0), off)
        t = abs(off) / sd * math.sqrt(n / (n + 1))
        return math.copysign(min(-float(ndtri(stdtr(n - 1, -t))), self.limit), off)

    def _add(self, score: float) -> None:
        slack = self.shift / 2
        before = self.n_seen - 1
        if self.direction != "down":
            self.high_since = before if self.high == 0 else self.high_since
            self.high = max(0.0, self.high + score - slack)
        if self.direction != "up":
            self.low_since = before if self.low == 0 else self.low_since
            self.low = max(0.0, self.low - score - slack)

    def _learn(self, value: float) -> None:
        self.n_learnt += 1
        off = value - self.mean
        self.mean += off / self.n_learnt
        self.squares += off * (value - self.mean)


def run_length(
    threshold: float, *, shift: float = 1.0, limit: float = math.inf, mean: float = 0.0, sides: int = 1
) -> float:
    """Average number of normal scores until a cumulative sum, started at zero, exceeds a threshold.

    Parameters
    ----------
    threshold : float
        In standard deviations.
    shift : float, optional
        Twice the slack that is subtracted from every score.
    limit : float, optional
        Scores are cut at plus and minus this.
    mean : float, optional
        Mean of the scores: 0 without change.
    sides : {1, 2}, optional
        Upward sum only, or upward and downward.

    Returns
    -------
    float

    Notes
    -----
    Brook and Evans: the sum is put into 200 equal cells below the threshold, and the
    average number of steps to leave them solves a linear system. Two sides combine
    by the sum of their rates.

    Examples
    --------
    >>> from polystab.analysis.sequential import run_length
    >>> round(run_length(4.0, sides=2)), round(run_length(5.0, sides=2))  # 168 and 465 in Lucas and Crosier
    (168, 465)
    """
    up = _one_sided(threshold, shift / 2 - mean, limit - mean, -limit - mean)
    if sides == 1:
        return up
    down = _one_sided(threshold, shift / 2 + mean, limit + mean, -limit + mean)
    return 1 / (1 / up + 1 / down)


def threshold_of(average_run_length: float, *, shift: float = 1.0, limit: float = math.inf, sides: int = 2) -> float:
    """The threshold at which noise raises an alarm once in ``average_run_length`` values.

    The arguments are those of :func:`run_length`; solved by bisection to a part in a million.
    """
    return _solved(float(average_run_length), float(shift), float(limit), sides)


@functools.lru_cache(maxsize=256)
def _solved(average_run_length: float, shift: float, limit: float, sides: int) -> float:
    low, high = 0.0, 1.0
    while run_length(high, shift=shift, limit=limit, sides=sides) < average_run_length:
        low, high = high, 2 * high
    while high - low > 1e-6 * high:
        middle = (low + high) / 2
        if run_length(middle, shift=shift, limit=limit, sides=sides) < average_run_length:
            low = middle
        else:
            high = middle
    return high


def _one_sided(threshold: float, slack: float, top: float, bottom: float) -> float:
    """Mean steps until the upward sum of ``score - slack``, scores cut at ``bottom`` and ``top``, is too large."""
    from scipy.special import ndtr

    # The cell around zero is half as wide: the sum rests at exactly zero.
    width = 2 * threshold / (2 * _STATES - 1)
    centres = np.arange(_STATES) * width
    edges = centres[None, :] + width / 2 - centres[:, None] + slack
    below = np.where(edges >= top, 1.0, np.where(edges < bottom, 0.0, ndtr(edges)))
    moves: Floats = np.diff(below, axis=1, prepend=0.0)
    return float(np.linalg.solve(np.eye(_STATES) - moves, np.ones(_STATES))[0])


def _lag_one(past: Floats) -> float:
    """Correlation of successive values, corrected for the bias that an unknown mean gives it."""
    known = past[np.isfinite(past)]
    if known.size < 30:
        raise AnalysisError(
            f"reference has {known.size} finite values; an autocorrelation is estimated from 30 or more. "
            "Pass autocorrelation as a number."
        )
    off = past - known.mean()
    pairs = np.isfinite(off[1:]) & np.isfinite(off[:-1])
    squares = float(np.mean((known - known.mean()) ** 2))
    if squares == 0 or not pairs.any():
        return 0.0
    raw = float(np.mean(off[1:][pairs] * off[:-1][pairs])) / squares
    # Marriott and Pope (1954): E r = a - (1 + 3 a) / n.
    return min(max(raw + (1 + 3 * raw) / known.size, 0.0), 0.99)


def _number(name: str, value: object, low: float, high: float, *, closed: bool = False) -> float:
    """A number strictly between bounds, or up to and including the upper one."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise AnalysisError(f"{name} is {value!r}, not a number.") from error
    inside = low <= number < high if high == math.inf or low > 0 else low < number < high
    if not (inside or (closed and number == high)):
        raise AnalysisError(f"{name} is {value}; it lies between {low:g} and {high:g}.")
    return number


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
