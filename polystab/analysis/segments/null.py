"""How strong the strongest change of a series without changes is: criteria and p-values.

The strength of the changes of a series (:func:`polystab.analysis.segments.profile.strength`)
does not depend on its level and scale, and little on its autocorrelation, which is fitted.
What dependence is left is taken out by letting the criterion follow the lag-1
autocorrelation of the residuals: it is chosen so that the share of false alarms is right at
every true coefficient of :data:`TRUE_RHOS`, whatever the estimate happens to be.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from polystab.analysis.arrays import Floats
from polystab.analysis.segments.continuous import best_gains
from polystab.analysis.segments.profile import RHOS, Model, autocorrelation, batches, best_paths, strength
from polystab.progress_bars import tracked

TRUE_RHOS = np.array([0.0, 0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.97])
LEVELS = np.array([0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005])

# The strongest change is hardly ever one that needs more neighbours than these.
SIMULATED_CHANGES = 4

# Longer series than this are not simulated on the spot; the table says how criteria grow with length.
LONGEST_SIMULATED = 160
SIMULATED_SERIES = 400


@dataclass(frozen=True)
class Null:
    """Critical strengths.

    Attributes
    ----------
    knots : numpy.ndarray
        Lag-1 autocorrelations of residuals, increasing.
    critical : numpy.ndarray
        Strength that a share :data:`LEVELS` of series without changes exceeds, (levels, knots).
    """

    knots: Floats
    critical: Floats

    def at(self, autocorrelation: Floats) -> Floats:
        """Critical strengths for some series, (series, levels)."""
        return np.stack([np.interp(autocorrelation, self.knots, row) for row in self.critical], axis=-1)

    def criterion(self, level: float, autocorrelation: Floats) -> Floats:
        """The strength that a share ``level`` of series without changes exceeds, (series,)."""
        return np.array([_strength_at(level, row) for row in self.at(autocorrelation)])

    def p_value(self, strengths: Floats, autocorrelation: float) -> Floats:
        """Share of series without changes whose strongest change is at least as strong."""
        row = self.at(np.array([autocorrelation]))[0]
        return np.array([_level_at(value, row) for value in strengths])


def _tail(row: Floats) -> float:
    """How fast the log of the level falls with strength beyond the last one."""
    return float(np.log(LEVELS[3] / LEVELS[-1]) / max(row[-1] - row[3], 1e-6))


def _strength_at(level: float, row: Floats) -> float:
    if level < LEVELS[-1]:
        return float(row[-1] + np.log(LEVELS[-1] / level) / _tail(row))
    return float(np.interp(-np.log(level), np.append(0.0, -np.log(LEVELS)), np.append(0.0, row)))


def _level_at(value: float, row: Floats) -> float:
    if value > row[-1]:
        return float(LEVELS[-1] * np.exp(-_tail(row) * (value - row[-1])))
    return float(np.exp(np.interp(value, np.append(0.0, row), np.append(0.0, np.log(LEVELS)))))


def ar1_noise(rho: float, n_series: int, n: int, rng: np.random.Generator, *, mixing: Floats | None = None) -> Floats:
    """Stationary Gaussian AR(1) noise of unit variance, (series, n, columns); ``mixing`` correlates the columns."""
    mixing = np.ones((1, 1)) if mixing is None else mixing
    noise = rng.standard_normal((n, n_series, len(mixing))) @ mixing.T
    for t in range(1, n):
        noise[t] = rho * noise[t - 1] + np.sqrt(1 - rho**2) * noise[t]
    return np.moveaxis(noise, 0, 1)


def null_strengths(model: Model, y: Floats, n_changes: int = SIMULATED_CHANGES) -> Floats:
    """Strength of the strongest changes of many series of shape (series, n, columns)."""
    if model.kind == "continuous":
        cost = np.stack([best_gains(y[..., 0], model.x, rho, model.min_size) for rho in RHOS])
        return strength(model.deviance(cost, np.arange(3), RHOS[:, None, None], 1).min(axis=0))
    n = len(model.x)
    parts = [strength(best_paths(model, y[part], n_changes).deviance) for part in batches(len(y), n, n_changes)]
    return np.concatenate(parts)


def solved(strengths: Floats, estimates: Floats, rounds: int = 5) -> Null:
    """Criteria that follow the estimated autocorrelation and hold their level at every true one.

    Parameters
    ----------
    strengths, estimates : numpy.ndarray
        Strength and lag-1 autocorrelation of simulated series, (true coefficients, series).
    rounds : int, optional
        Corrections towards the wanted level; a few, so that simulation noise is not fitted.
    """
    knots = np.maximum.accumulate(np.median(estimates, axis=1) + 1e-6 * np.arange(len(estimates)))
    critical = np.quantile(strengths, 1 - LEVELS, axis=1)
    for _ in range(rounds if len(knots) > 1 else 0):
        for level, row in zip(LEVELS, critical, strict=True):
            followed = np.interp(estimates, knots, row)
            row += 0.6 * np.quantile(strengths - followed, 1 - level, axis=1)
    return Null(knots, np.maximum.accumulate(critical, axis=0))


def tabulated(kind: str, n: int) -> Null:
    """Criteria out of the table that comes with the package, for the default shortest segment."""
    from polystab.analysis.segments.table import TABLE

    lengths, knots, critical = TABLE[kind]
    place = np.log(lengths)
    if n <= lengths[-1]:
        at = np.clip(np.log(n), place[0], place[-1])
        high = int(np.clip(np.searchsorted(place, at), 1, len(place) - 1))
        share = (at - place[high - 1]) / (place[high] - place[high - 1])
        return Null(
            (1 - share) * knots[high - 1] + share * knots[high],
            (1 - share) * critical[high - 1] + share * critical[high],
        )
    # Beyond the table criteria grow as they do over all of it, and the estimates have lost their bias.
    slope = np.polyfit(place, critical[:, LEVELS.tolist().index(0.05)].mean(axis=1), 1)[0]
    return Null(TRUE_RHOS, critical[-1] + slope * (np.log(n) - place[-1]))


@lru_cache(maxsize=256)
def _simulated(
    kind: str, x: bytes, min_size: int, rho: float, n_series: int, seed: int, mixing: bytes, n_columns: int
) -> tuple[Floats, Floats]:
    model = Model(kind, np.frombuffer(x), min_size)
    rng = np.random.default_rng(seed)
    y = ar1_noise(rho, n_series, len(model.x), rng, mixing=np.frombuffer(mixing).reshape(n_columns, n_columns))
    return null_strengths(model, y, 2), autocorrelation(model, y)


def simulated(
    model: Model,
    *,
    seed: int = 0,
    rho: float | None = None,
    mixing: Floats | None = None,
    n_series: int = SIMULATED_SERIES,
) -> Null:
    """Criteria by simulation, kept for the next series like this one.

    Parameters
    ----------
    model : Model
        What is fitted.
    seed : int, optional
        Of the simulation.
    rho : float, optional
        The true coefficient where it is known, between two of :data:`TRUE_RHOS`; the
        criterion does not follow the estimate then.
    mixing : numpy.ndarray, optional
        A root of the correlation matrix of the columns.
    n_series : int, optional
        How many series are simulated for each true coefficient.
    """
    n = len(model.x)
    if n > LONGEST_SIMULATED:
        at = np.linspace(0, n - 1, LONGEST_SIMULATED).round().astype(int)
        short = simulated(
            Model(model.kind, model.x[at], min(model.min_size, LONGEST_SIMULATED // 4)),
            seed=seed, rho=rho, mixing=mixing, n_series=n_series,
        )  # fmt: skip
        growth = tabulated(model.kind, n).critical[:, :1] - tabulated(model.kind, LONGEST_SIMULATED).critical[:, :1]
        return Null(short.knots, short.critical + growth.mean())
    mixing = np.ones((1, 1)) if mixing is None else mixing
    key = (model.kind, np.ascontiguousarray(model.x).tobytes(), model.min_size)
    rest = (n_series, seed, np.ascontiguousarray(mixing).tobytes(), len(mixing))
    if rho is None:
        rhos = tracked(TRUE_RHOS.tolist(), "simulating curves without changes", unit="noise")
        runs = [_simulated(*key, r, *rest) for r in rhos]
        return solved(np.array([t for t, _ in runs]), np.array([e for _, e in runs]))
    rho = float(np.clip(rho, TRUE_RHOS[0], TRUE_RHOS[-1]))
    high = int(np.clip(np.searchsorted(TRUE_RHOS, rho), 1, len(TRUE_RHOS) - 1))
    share = (rho - TRUE_RHOS[high - 1]) / (TRUE_RHOS[high] - TRUE_RHOS[high - 1])
    below, above = (np.quantile(_simulated(*key, float(TRUE_RHOS[i]), *rest)[0], 1 - LEVELS) for i in (high - 1, high))
    return Null(np.zeros(1), ((1 - share) * below + share * above)[:, None])
