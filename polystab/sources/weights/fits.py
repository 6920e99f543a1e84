"""Distributions fitted to the elements of weight matrices, many matrices at a time.

Millions of elements are ordered once and put into one or two thousand groups: every
element of the tails by itself, and the larger groups the further inside. The likelihood of a group is that of
its mean, so that fits cost the same however large the matrix is, and log-likelihoods are good to a few
millionths. Up to 1,024 elements are not grouped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]
Fit = tuple[Floats, int, dict[str, Floats], Floats]

FAMILIES = ("normal", "logistic", "t", "gennorm")

# Matrices of fewer elements, or with fewer different ones, are not fitted.
LEAST = 30
UNGROUPED = 1024
# Size of a group over its distance, in elements, from the nearer end.
_GROWTH = 1 / 96

# A t distribution with more degrees of freedom cannot be told from the normal one.
LARGEST_NU, SMALLEST_NU = 1e4, 0.05
_BETAS = (0.1, 20.0)

# Share of the elements, the largest in size, that the Hill index is taken of.
TAIL_SHARE = 0.01
_LEAST_TAIL = 10

_STEPS = 60


@dataclass(frozen=True)
class Groups:
    """Elements of one array, standardised and in order, in groups: means, sizes and ranks (of their middles, from 0)."""

    value: Floats
    weight: Floats
    rank: Floats
    n: int
    centre: float
    scale: float
    hill: float


def grouped(ordered: Array) -> Groups | None:
    """Elements in ascending order as groups; None where there is too little to fit: fewer than 30, or no spread."""
    n = ordered.size
    if n < LEAST or ordered[0] == ordered[-1]:
        return None
    bounds = _bounds(n)
    size = np.diff(bounds)
    value = np.add.reduceat(ordered, bounds[:-1], dtype=np.float64) / size
    largest = max(abs(float(ordered[0])), abs(float(ordered[-1])))
    value /= largest  # so that squares neither overflow nor vanish
    centre = float(np.dot(size, value) / n)
    spread = math.sqrt(float(np.dot(size, (value - centre) ** 2) / n))
    if spread <= 1e-12 * abs(centre) or not np.count_nonzero(np.diff(value)) > 2:
        return None
    rank = (bounds[:-1] + bounds[1:] - 1) / 2
    hill = hill_index(ordered)
    return Groups((value - centre) / spread, size.astype(float), rank, n, centre * largest, spread * largest, hill)


def merged(several: Sequence[Groups]) -> Groups:
    """The elements of several arrays as one, from their groups, which are cut anew."""
    raw = np.concatenate([one.centre + one.scale * one.value for one in several])
    weight = np.concatenate([one.weight for one in several])
    order = np.argsort(raw, kind="stable")
    raw, weight = raw[order], weight[order]
    n = sum(one.n for one in several)
    middle = np.cumsum(weight) - (weight + 1) / 2
    first = np.flatnonzero(np.diff(np.searchsorted(_bounds(n), middle, side="right"), prepend=-1))
    size = np.add.reduceat(weight, first)
    value = np.add.reduceat(weight * raw, first) / size
    centre = float(np.dot(size, value) / n)
    scale = math.sqrt(float(np.dot(size, (value - centre) ** 2) / n))
    rank = np.cumsum(size) - (size + 1) / 2
    order = np.argsort(np.abs(raw))[::-1]
    top = np.searchsorted(np.cumsum(weight[order]), max(_LEAST_TAIL, int(n * TAIL_SHARE)), side="right")
    logs = np.log(np.abs(raw[order][: top + 1]))
    hill = 1 / float(np.average(logs[:-1] - logs[-1], weights=weight[order][:top])) if top > 1 else math.nan
    return Groups((value - centre) / scale, size, rank, n, centre, scale, hill)


@lru_cache(maxsize=256)
def _bounds(n: int) -> npt.NDArray[np.intp]:
    if n <= UNGROUPED:
        return np.arange(n + 1)
    start = [0]
    while start[-1] < n / 2:
        start.append(start[-1] + max(1, int(start[-1] * _GROWTH)))
    left = np.array([place for place in start if place < n / 2], dtype=np.intp)
    return np.unique(np.concatenate([left, n - left]))


def hill_index(ordered: Array) -> float:
    """Hill's estimate of the tail index of |x|, from its largest 1 % (at least 10 elements).

    NaN where these are not all above 0, or all equal.

    References
    ----------
    Hill (1975), Annals of Statistics 3(5), doi:10.1214/aos/1176343247.
    """
    k = max(_LEAST_TAIL, int(ordered.size * TAIL_SHARE))
    if k + 1 > ordered.size:
        return math.nan
    ends = np.concatenate([-ordered[: k + 1], ordered[-k - 1 :]]) if 2 * k + 2 <= ordered.size else np.abs(ordered)
    top = np.sort(ends)[-k - 1 :].astype(np.float64)
    if top[0] <= 0 or top[0] == top[-1]:
        return math.nan
    return 1 / float(np.log(top[1:] / top[0]).mean())


def fit_all(several: Sequence[Groups], families: Collection[str] = FAMILIES) -> list[dict[str, float]]:
    """Fits of normal, logistic, Student-t and generalised normal distributions by maximum likelihood.

    Parameters
    ----------
    several : sequence of Groups
        One for each matrix.
    families : collection of str, optional
        Which of ``normal``, ``logistic``, ``t`` and ``gennorm``.

    Returns
    -------
    list of dict
        For each: ``normal_loglik``, ``logistic_loglik``, ``t_loglik``, ``gennorm_loglik`` (natural
        logarithm, of all elements); the same with ``_aic``, 2k - 2 loglik with k of 2, 2, 3 and
        3; ``normal_scale``, ``logistic_scale``, ``t_nu`` and ``t_scale``, ``gennorm_beta`` (2: normal, 1: Laplace)
        and ``gennorm_scale``; ``qq_correlation`` of the ordered elements with normal
        quantiles (Filliben's positions); ``hill_index``.

    Notes
    -----
    Location, scale and shape are all estimated. ``t_nu`` ends at 10,000, which cannot be told
    from infinity: the elements are then not heavier in the tails than the normal
    distribution. Elements are taken as independent, which weights of a trained matrix
    are not; AIC ranks shapes and is no test.

    References
    ----------
    Akaike (1974), doi:10.1109/TAC.1974.1100705. Liu and Rubin (1995), Statistica Sinica 5
    (maximum likelihood of t). Nadarajah (2005), doi:10.1080/02664760500079464 (generalised
    normal). Filliben (1975), doi:10.1080/00401706.1975.10489279.
    """
    if not several:
        return []
    x, w = _stacked(several)
    # Of each: log-likelihood, number of parameters, shape and scale of the standardised elements.
    fits = {name: _FITS[name](x, w) for name in FAMILIES if name in families}
    found = []
    for i, one in enumerate(several):
        said = {"qq_correlation": qq_correlation(one), "hill_index": one.hill}
        for name, (value, k, shape, scale) in fits.items():
            loglik = float(value[i]) - one.n * math.log(one.scale)
            said |= {f"{name}_loglik": loglik, f"{name}_aic": 2 * k - 2 * loglik}
            said |= {f"{name}_{what}": float(number[i]) for what, number in shape.items()}
            said[f"{name}_scale"] = float(scale[i]) * one.scale
        found.append(said)
    return found


def qq_correlation(groups: Groups) -> float:
    """Correlation of the ordered elements with the quantiles of the normal distribution at their ranks."""
    from scipy.special import ndtri

    n = groups.n
    place = (groups.rank + 1 - 0.3175) / (n + 0.365)
    place[groups.rank == 0] = 1 - 0.5 ** (1 / n)
    place[groups.rank == n - 1] = 0.5 ** (1 / n)
    q = ndtri(place)
    q -= np.dot(groups.weight, q) / n
    covariance = np.dot(groups.weight, groups.value * q)
    # The elements have variance 1 and mean 0.
    return float(covariance / math.sqrt(n * float(np.dot(groups.weight, q * q))))


def _stacked(several: Sequence[Groups]) -> tuple[Floats, Floats]:
    """Values and weights as (matrix, group); groups that fill up weigh nothing."""
    width = max(len(one.value) for one in several)
    x, w = np.zeros((len(several), width)), np.zeros((len(several), width))
    for i, one in enumerate(several):
        x[i, : len(one.value)], w[i, : len(one.value)] = one.value, one.weight
    return x, w


def _fit_normal(x: Floats, w: Floats) -> Fit:
    n = w.sum(axis=1)
    return -n / 2 * (math.log(2 * math.pi) + 1), 2, {}, np.ones(len(x))  # standardised: variance 1


def _fit_logistic(x: Floats, w: Floats) -> Fit:
    """Newton in location and 1 / scale, in which the likelihood is concave."""

    def look(theta: Floats, *, slopes: bool) -> tuple[Floats, Floats, Floats]:
        a, b = theta[:, :1], theta[:, 1:]
        z = b * x - a
        size = np.abs(z)
        small = np.exp(-size)
        value = (w * (np.log(np.maximum(b, 1e-300)) - size - 2 * np.log1p(small))).sum(axis=1)
        if not slopes:
            return value, value, value
        half = np.sign(z) * (1 - small) / (1 + small)  # tanh(z / 2)
        bend = (1 - half**2) / 2
        gradient = np.stack([(w * half).sum(axis=1), (w * (1 / b - half * x)).sum(axis=1)], axis=1)
        cross = (w * bend * x).sum(axis=1)
        hessian = np.empty((len(x), 2, 2))
        hessian[:, 0, 0] = -(w * bend).sum(axis=1)
        hessian[:, 1, 1] = -(w * (1 / b**2 + bend * x**2)).sum(axis=1)
        hessian[:, 0, 1] = hessian[:, 1, 0] = cross
        return value, gradient, hessian

    theta = np.tile([0.0, math.pi / math.sqrt(3)], (len(x), 1))
    value, theta = _climb(look, theta, lowest=np.array([-math.inf, 1e-6]), highest=np.array([math.inf, math.inf]))
    return value, 2, {}, 1 / theta[:, 1]


def _fit_t(x: Floats, w: Floats) -> Fit:
    """Newton in location, log scale and 1 / nu, with the expected slope."""
    from scipy.special import gammaln, psi

    n = w.sum(axis=1)

    def look(theta: Floats, *, slopes: bool) -> tuple[Floats, Floats, Floats]:
        mu, sigma, k = theta[:, 0], np.exp(theta[:, 1]), theta[:, 2]
        nu = 1 / k
        z = (x - mu[:, None]) / sigma[:, None]
        square = z * z
        inner = np.log1p(square * k[:, None])
        logs = (w * inner).sum(axis=1)
        constant = gammaln((nu + 1) / 2) - gammaln(nu / 2) - 0.5 * np.log(math.pi * nu) - theta[:, 1]
        value = n * constant - (nu + 1) / 2 * logs
        if not slopes:
            return value, value, value
        weight = w * ((nu + 1)[:, None] / (nu[:, None] + square))
        first = (weight * z).sum(axis=1) / sigma
        second = (weight * square).sum(axis=1) - n
        by_nu = n / 2 * (psi((nu + 1) / 2) - psi(nu / 2) - k) - logs / 2 + (weight * square).sum(axis=1) * k / 2
        gradient = np.stack([first, second, -by_nu * nu**2], axis=1)
        return value, gradient, _t_information(n, sigma, nu)

    theta = np.tile([0.0, 0.0, 0.0], (len(x), 1))
    kurtosis = np.minimum((w * x**4).sum(axis=1) / n - 3, 60.0)
    theta[:, 2] = np.clip(kurtosis / (4 * kurtosis + 6), 0.01, 0.6)  # that of a t distribution
    theta[:, 1] = 0.5 * np.log(np.clip(1 - 2 * theta[:, 2], 0.1, 1.0))
    lowest = np.array([-math.inf, -60.0, 1 / LARGEST_NU])
    highest = np.array([math.inf, 60.0, 1 / SMALLEST_NU])
    value, theta = _climb(look, theta, lowest=lowest, highest=highest)
    return value, 3, {"nu": 1 / theta[:, 2]}, np.exp(theta[:, 1])


def _t_information(n: Floats, sigma: Floats, nu: Floats) -> Floats:
    """Minus the Fisher information in location, log scale and 1 / nu (Lange, Little and Taylor 1989, JASA 84)."""
    from scipy.special import polygamma

    hessian = np.zeros((len(n), 3, 3))
    hessian[:, 0, 0] = -n * (nu + 1) / (nu + 3) / sigma**2
    hessian[:, 1, 1] = -n * 2 * nu / (nu + 3)
    cross = 2 / ((nu + 1) * (nu + 3)) * nu**2
    hessian[:, 1, 2] = hessian[:, 2, 1] = -n * cross
    by_nu = 0.25 * (polygamma(1, nu / 2) - polygamma(1, (nu + 1) / 2)) - (nu + 5) / (2 * nu * (nu + 1) * (nu + 3))
    # For large nu the difference of trigammas cancels to nothing; its limit in 1 / nu is 3/2.
    hessian[:, 2, 2] = -n * np.where(nu < 200, by_nu * nu**4, 1.5)
    return hessian


def _fit_gennorm(x: Floats, w: Floats) -> Fit:
    """The scale follows from the others; location and shape take turns."""
    from scipy.special import gammaln

    n = w.sum(axis=1)
    mu, beta = np.zeros(len(x)), np.full(len(x), 2.0)

    def shape_profile(logs: Floats, log_beta: Floats) -> Floats:
        beta = np.exp(log_beta)
        power = np.log((w * np.exp(beta[:, None] * logs)).sum(axis=1) * beta / n)  # beta log scale
        return np.asarray(n * (np.log(beta / 2) - gammaln(1 / beta) - power / beta - 1 / beta))

    def size(mu: Floats) -> Floats:
        return np.log(np.maximum(np.abs(x - mu[:, None]), 1e-12))

    for width in (math.inf, 0.2, 0.02, 0.002):
        logs = size(mu)
        low, high = (
            np.maximum(np.log(_BETAS[0]), np.log(beta) - width),
            np.minimum(np.log(_BETAS[1]), np.log(beta) + width),
        )
        beta = np.exp(_golden(partial(shape_profile, logs), low, high))
        for _ in range(4):
            mu = _centred(x, w, mu, beta)
    logs = size(mu)
    value = shape_profile(logs, np.log(beta))
    scale = np.exp(np.log((w * np.exp(beta[:, None] * logs)).sum(axis=1) * beta / n) / beta)
    return value, 3, {"beta": beta}, scale


def _centred(x: Floats, w: Floats, mu: Floats, beta: Floats) -> Floats:
    """A step of iteratively reweighted least squares towards the location that minimises sum |x - mu|^beta."""
    away = np.maximum(np.abs(x - mu[:, None]), 1e-3)
    weight: Floats = w * away ** (beta[:, None] - 2)
    moved = (weight * x).sum(axis=1) / weight.sum(axis=1)
    # Above 2 a full step swings to and fro; this is the Newton step.
    step = (moved - mu) / np.maximum(beta - 1, 1.0)
    before = (w * np.abs(x - mu[:, None]) ** beta[:, None]).sum(axis=1)
    after = (w * np.abs(x - (mu + step)[:, None]) ** beta[:, None]).sum(axis=1)
    return np.asarray(np.where(after < before, mu + step, mu))


def _golden(function: Callable[[Floats], Floats], low: Floats, high: Floats) -> Floats:
    """Where a function of one variable with one maximum has it, for many at a time."""
    ratio = (math.sqrt(5) - 1) / 2
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    at_left, at_right = function(left), function(right)
    for _ in range(max(1, math.ceil(math.log(float((high - low).max()) / 1e-5) / -math.log(ratio)))):
        up = at_left < at_right
        low, high = np.where(up, left, low), np.where(up, high, right)
        new_left, new_right = high - ratio * (high - low), low + ratio * (high - low)
        at_new = function(np.where(up, new_right, new_left))
        at_left, at_right = np.where(up, at_right, at_new), np.where(up, at_new, at_left)
        left, right = new_left, new_right
    return (low + high) / 2


def _climb(
    look: Callable[..., tuple[Floats, Floats, Floats]], theta: Floats, *, lowest: Floats, highest: Floats
) -> tuple[Floats, Floats]:
    """Maximise many likelihoods with Newton steps that are shortened until they help; bounds are kept to."""
    value, gradient, hessian = look(theta, slopes=True)
    for _ in range(_STEPS):
        # At a bound, and pushed against it: the others move without it.
        stuck = ((theta <= lowest) & (gradient < 0)) | ((theta >= highest) & (gradient > 0))
        slope = np.where(stuck, 0.0, gradient)
        curve = np.where(stuck[:, :, None] | stuck[:, None, :], 0.0, hessian)
        curve -= np.eye(theta.shape[1]) * np.where(stuck, 1.0, 0.0)[:, :, None]
        step = -np.linalg.solve(curve, slope[:, :, None])[:, :, 0]
        gain = (step * slope).sum(axis=1)
        if not (gain > 1e-7).any():
            break
        length = np.ones(len(theta))
        for _ in range(12):
            new = np.clip(theta + length[:, None] * step, lowest, highest)
            reached = look(new, slopes=False)[0]
            worse = ~(reached >= value - 1e-9 * np.abs(value)) & (gain > 1e-7)
            if not worse.any():
                break
            length[worse] /= 3
        theta = np.where((~worse & (gain > 1e-7))[:, None], new, theta)
        value, gradient, hessian = look(theta, slopes=True)
    return value, theta


_FITS: dict[str, Callable[[Floats, Floats], Fit]] = {
    "normal": _fit_normal,
    "logistic": _fit_logistic,
    "t": _fit_t,
    "gennorm": _fit_gennorm,
}
