"""Profile likelihood intervals of variance components."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np

from polystab.analysis.arrays import Floats, scaled
from polystab.analysis.reml.fit import dense_problem, is_dense, sparse_design, sparse_engine
from polystab.analysis.reml.inputs import Inputs
from polystab.analysis.reml.optimum import Engine
from polystab.analysis.reml.sparse import one_thread

# How far from the estimate an end is looked for, in doublings.
_DOUBLINGS = 200


def interval(inputs: Inputs, response: int, place: int, estimates: Floats, level: float) -> tuple[float, float]:
    """Interval of component ``place`` (the residual is last) of one response.

    ``estimates`` are the variances in the units of y.
    """
    with nullcontext() if is_dense(inputs) else one_thread():
        return _interval(inputs, response, place, estimates, level)


def _interval(inputs: Inputs, response: int, place: int, estimates: Floats, level: float) -> tuple[float, float]:
    from scipy.special import gammaincinv

    engine, spread = _engine(inputs, response)
    allowed = 2 * float(gammaincinv(0.5, level))  # quantile of chi-square with one degree of freedom
    profile = _Profile(engine, place, estimates / spread**2)

    def excess(variance: float) -> float:
        return profile(variance) - profile.least - allowed

    middle = float(profile.estimates[place])
    typical = float(profile.estimates[-1])
    upper = _crossing(excess, max(middle, 1e-6 * typical), 2.0)
    lower = 0.0
    if middle > 0 and (place == len(estimates) - 1 or excess(0.0) > 0):
        lower = _crossing(excess, middle, 0.5)
    with np.errstate(over="ignore"):
        square = np.square(spread)
    return float(lower * square), float(upper * square)


def _engine(inputs: Inputs, response: int) -> tuple[Engine, float]:
    """The criterion of one response in units of its spread, and the spread."""
    if is_dense(inputs):
        made = dense_problem(inputs, np.array([response]), np.zeros(1, dtype=int))
        return made.engine, float(made.scale[0])
    rows = ~np.isnan(inputs.y[:, response])
    small, exponent = scaled(inputs.y[rows, response], axis=0)
    design = sparse_design(inputs, rows)
    assert not isinstance(design, str)  # noqa: S101 - the fit went through the same design
    engine, scale, _ = sparse_engine(design, small)
    return engine, float(np.ldexp(scale, int(exponent)))


class _Profile:
    """The criterion at a given variance of one component, minimised over the other components."""

    def __init__(self, engine: Engine, place: int, estimates: Floats) -> None:
        self.engine, self.place, self.estimates = engine, place, estimates
        self.df = float(engine.df[0])
        self.residual = place == len(estimates) - 1
        self.others = [k for k in range(len(estimates) - 1) if k != place]
        # The other ratios are searched in units of their size, from where the last search ended.
        ratio = estimates[:-1] / estimates[-1]
        self.unit = np.maximum(ratio[self.others], 1e-3)
        self.start = np.concatenate([ratio[self.others] / self.unit, [] if self.residual else [np.log(estimates[-1])]])
        self.least = self._value(self.start, float(estimates[place]))[0]

    def _value(self, x: Floats, variance: float) -> tuple[float, Floats]:
        """log det W + df log s2 + y'W^-1 y / s2 and its derivative by ratios and log s2."""
        log_residual = float(np.log(variance)) if self.residual else float(x[-1])
        residual = float(np.exp(log_residual))
        ratio = np.zeros(len(self.estimates) - 1)
        ratio[self.others] = x[: len(self.others)] * self.unit
        if not self.residual:
            ratio[self.place] = variance / residual
        pieces = self.engine.evaluate(ratio[None], np.zeros(1, dtype=int))
        rest = float(pieces.rest[0]) / residual
        slope = pieces.trace[0] - pieces.score[0] / residual
        gradient = slope[self.others] * self.unit
        if not self.residual:
            gradient = np.append(gradient, self.df - rest - slope[self.place] * ratio[self.place])
        return float(pieces.logdet[0]) + self.df * log_residual + rest, gradient

    def __call__(self, variance: float) -> float:
        from scipy.optimize import minimize

        if not len(self.start):
            return self._value(self.start, variance)[0]
        bounds: list[tuple[float | None, float | None]] = [(0.0, None)] * len(self.others)
        if not self.residual:
            bounds.append((float(np.log(self.estimates[-1])) - 50, float(np.log(self.estimates[-1])) + 50))
        found = minimize(
            self._value,
            self.start,
            args=(variance,),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"ftol": 1e-14, "gtol": 1e-7, "maxiter": 500},
        )
        self.start = found.x
        return float(found.fun)


def _crossing(excess: Callable[[float], float], inside: float, factor: float) -> float:
    """Where ``excess`` turns positive when ``inside`` is multiplied by ``factor`` again and again."""
    from scipy.optimize import brentq

    outside = inside * factor
    for _ in range(_DOUBLINGS):
        if excess(outside) > 0:
            low, high = sorted([math.log(inside), math.log(outside)])
            return math.exp(brentq(lambda log: excess(math.exp(log)), low, high, xtol=1e-9, rtol=1e-12))
        inside, outside = outside, outside * factor
    return float("nan")
