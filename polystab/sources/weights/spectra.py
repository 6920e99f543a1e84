"""Singular values of weight matrices, fast and as exact as asked for, and what is read off them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from polystab.sources.checkpoint_errors import CheckpointError, library

if TYPE_CHECKING:
    import torch

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Array = npt.NDArray[np.floating]
Tridiagonal = tuple[Floats, Floats]

PowerLaw = Literal["ks", "weightwatcher"]
POWER_LAWS: tuple[PowerLaw, ...] = ("ks", "weightwatcher")

# Up to this shorter side a true SVD costs nothing worth saving.
_SMALL = 128
# Rows whose products are summed in single precision before they are added up in double.
_ROWS = 4096
# Rounding of an eigenvalue from a single-precision Gram matrix, over the largest one; measured: 0.5 to 2.
ROUNDING = 2 * float(np.finfo(np.float32).eps) / 2
# Eigenvalues below so many times that are lost in it.
LOST = 100
# The single-precision spectrum is used where its mean and its variance are this sure.
_SURE = 5e-6
# Single-precision squares neither overflow nor vanish within these.
_SMALLEST, _LARGEST = 1e-12, 1e12

MIN_TAIL = 10
# Ranks over which the slope of the spectrum is taken, as shares of the number of singular values.
SLOPE_RANKS = (0.02, 0.5)

# Median of the Tracy-Widom law of real matrices is -1.27; 1 % lies above 2.02 (Prahofer and Spohn's tables).
_TRACY_WIDOM_99 = 2.02


def singular_values(matrix: Array, *, exact: bool = False) -> Floats:
    """Singular values of a matrix, largest first.

    Parameters
    ----------
    matrix : (m, n) array
        Finite; float32 or float64.
    exact : bool, optional
        By a singular value decomposition in double precision.

    Returns
    -------
    (min(m, n),) array
        In double precision.

    Notes
    -----
    Eigenvalues of the Gram matrix of the shorter side, which take a tenth of the time of a
    decomposition. First in single precision, as one symmetric product, reduced to a
    tridiagonal matrix whose eigenvalues are found in double precision; where the spectrum
    shows that rounding could change the mean of the singular values or their variance by
    more than 5e-6, once more in double precision. Singular values below 1e-8 of the
    largest are then still lost in rounding; those of small matrices are not, which are
    decomposed.
    """
    tridiagonal = None if exact else reduced(matrix)
    s = None if tridiagonal is None else sure_roots(*tridiagonal)
    return double_singular_values(matrix, exact=exact) if s is None else s


def reduced(matrix: Array) -> Tridiagonal | None:
    """Diagonal and what is beside it of a tridiagonal matrix with the squares of the singular values as eigenvalues.

    Reduced in single precision. None for double precision, for small matrices and where the squares are too large or
    too small.
    """
    if matrix.dtype != np.float32 or min(matrix.shape) <= _SMALL:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        products = gram(matrix)
    if not _SMALLEST**2 < np.trace(products, dtype=np.float64) < _LARGEST**2:
        return None
    return _tridiagonal(products)


def sure_roots(diagonal: Floats, beside: Floats) -> Floats | None:
    """Singular values, largest first, of :func:`reduced`; None if rounding could have changed their mean or variance."""
    eigenvalues = _eigenvalues(diagonal, beside)
    noise = ROUNDING * eigenvalues[-1]
    root = np.sqrt(np.maximum(eigenvalues, noise))
    # Each eigenvalue is off by about the noise. Where it is well above that, its root is off by noise / (2 root), at
    # random; where it is not, roots of noise add up with one sign.
    off = noise / (2 * root)
    lost = eigenvalues < LOST * noise
    error = off[lost].sum() + math.sqrt(float((off[~lost] ** 2).sum()))
    if not is_sure(error, root.mean(), root.var(), len(root)):
        return None
    return np.asarray(np.sqrt(np.maximum(eigenvalues, 0.0))[::-1])


def is_sure(error: float, mean: float, variance: float, n: int) -> bool:
    """Whether n singular values that are off by ``error`` in sum have their mean and their variance all the same."""
    worst = error / (n * mean) * max(1.0, 2 * mean**2 / variance if variance > 0 else math.inf)
    return bool(worst < _SURE)


def double_singular_values(matrix: Array, *, exact: bool = False) -> Floats:
    """Singular values, largest first, in double precision: through the Gram matrix, or by a decomposition."""
    if not min(matrix.shape):
        return np.empty(0)
    largest = max(float(matrix.max()), -float(matrix.min()))
    if not largest:
        return np.zeros(min(matrix.shape))
    if exact or min(matrix.shape) <= _SMALL:
        s = np.linalg.svd(matrix.astype(np.float64) / largest, compute_uv=False) * largest
        return np.asarray(s, dtype=np.float64)
    scale = 1.0 if _SMALLEST < largest < _LARGEST else 2.0 ** math.frexp(largest)[1]
    wide = matrix.astype(np.float64)
    if scale != 1:
        wide /= scale
    eigenvalues = _eigenvalues(*_tridiagonal(gram(wide)))
    return np.asarray(np.sqrt(np.maximum(eigenvalues, 0.0))[::-1] * scale)


def gram(matrix: Array) -> Array:
    """Products of the columns with each other, or of the rows if there are fewer: (r, r) in the precision of the matrix."""
    if matrix.shape[0] < matrix.shape[1]:
        matrix = matrix.T
    if matrix.shape[0] <= _ROWS:
        return matrix.T @ matrix  # numpy computes half of a product with the own transpose
    total = np.zeros((matrix.shape[1],) * 2)
    for start in range(0, matrix.shape[0], _ROWS):
        part = matrix[start : start + _ROWS]
        total += part.T @ part
    return total.astype(matrix.dtype)


def _tridiagonal(symmetric: Array) -> Tridiagonal:
    """Reduced in the precision of the matrix, which is used up."""
    from scipy.linalg import lapack

    name = "ssytrd" if symmetric.dtype == np.float32 else "dsytrd"
    # The transpose has the order of memory that LAPACK wants; its upper triangle is the faster one to reduce.
    reduce, work = getattr(lapack, name), 64 * len(symmetric)
    _, diagonal, beside, _, _ = reduce(symmetric.T, lower=0, lwork=work, overwrite_a=1)
    return diagonal.astype(np.float64), beside.astype(np.float64)


def _eigenvalues(diagonal: Floats, beside: Floats) -> Floats:
    """Of a tridiagonal matrix, ascending."""
    from scipy.linalg import eigh_tridiagonal, lapack

    found, failed = lapack.dsterf(diagonal, beside)
    return np.asarray(eigh_tridiagonal(diagonal, beside, eigvals_only=True) if failed else found)


def device_of(name: str) -> str:
    """The device that singular values are computed on, of the options' name for it."""
    torch = library("torch")
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = str(error).partition("\n")[0]
        raise CheckpointError("no-device", f"torch cannot use the device {name!r}: {said}") from error
    return name


def device_singular_values(matrix: torch.Tensor) -> Floats:
    """Singular values, largest first, of a finite (m, n) tensor where it is; in double precision all along."""
    import torch

    wide = matrix.double()
    wide = wide if wide.shape[0] >= wide.shape[1] else wide.T
    eigenvalues = torch.linalg.eigvalsh(wide.T @ wide).clamp_min(0.0)
    return np.asarray(eigenvalues.sqrt().flip(0).cpu().numpy(), dtype=np.float64)


def spectrum_measures(s: Floats, shape: tuple[int, int], *, power_law: PowerLaw = "ks") -> dict[str, float]:
    """What the singular values of one matrix say.

    Parameters
    ----------
    s : (r,) array
        Singular values, largest first.
    shape : (int, int)
        Of the matrix.
    power_law : {"ks", "weightwatcher"}, optional
        See :func:`fit_power_law`.

    Returns
    -------
    dict
        ``spectral_norm``; ``singular_mean`` and ``singular_variance`` (ddof 1);
        ``stable_rank``, sum of squares over the largest square; ``effective_rank``, exp of
        the entropy of s / sum s; ``participation_ratio``, (sum s^2)^2 / sum s^4;
        ``rank_slope``, of log s against log rank, for the ranks between ``SLOPE_RANKS`` of
        all; ``mp_outliers``, see :func:`outliers`; ``power_law_alpha``, ``_from``, ``_n`` and
        ``_ks`` of :func:`fit_power_law` for the eigenvalues s^2, whose range starts at the
        singular value ``power_law_from`` and has ``power_law_n`` of them. NaN for a matrix
        of zeros, and for fits with too few values.

    References
    ----------
    Roy and Vetterli (2007), The effective rank, EUSIPCO. Rudelson and Vershynin (2007),
    Sampling from large matrices, doi:10.1145/1255443.1255449 (stable rank).
    """
    found = {"spectral_norm": float(s[0]) if len(s) else math.nan}
    found["singular_mean"] = float(s.mean()) if len(s) else math.nan
    found["singular_variance"] = float(s.var(ddof=1)) if len(s) > 1 else math.nan
    if not len(s) or not s[0]:
        return found
    share = s / s[0]
    square = share**2
    entropy_of = share[share > 0] / share.sum()
    alpha, start, count, distance = fit_power_law(square, method=power_law)
    return found | {
        "stable_rank": float(square.sum()),
        "effective_rank": float(np.exp(-(entropy_of * np.log(entropy_of)).sum())),
        "participation_ratio": float(square.sum() ** 2 / (square**2).sum()),
        "rank_slope": _rank_slope(share),
        "mp_outliers": outliers(s, shape),
        "power_law_alpha": alpha,
        "power_law_from": math.sqrt(start) * float(s[0]),
        "power_law_n": float(count) if count else math.nan,
        "power_law_ks": distance,
    }


def fit_power_law(values: Floats, *, method: PowerLaw = "ks") -> tuple[float, float, int, float]:
    """Exponent of a power law of the largest values, where it starts, how many follow it, and how far they are from it.

    Parameters
    ----------
    values : (n,) array
        Eigenvalues; those that are zero or less than 1e-10 of the largest are left out.
    method : {"ks", "weightwatcher"}, optional
        ``"ks"``: the Kolmogorov-Smirnov distance takes both ends of each step of the
        empirical distribution, and a tail has at least ``MIN_TAIL`` values.
        ``"weightwatcher"``: the upper ends are left out, and any tail of two counts, as
        that package does (for 20 values and more).

    Returns
    -------
    (alpha, start, n, distance)
        ``p(x) ~ x^-alpha`` for the ``n`` values from ``start``. NaN and 0 if there are too few.

    Notes
    -----
    For every start the maximum likelihood exponent ``1 + n / sum log(x / start)``, and of
    all starts the one with the smallest distance. A fit is always found: see the
    distance, and compare with other distributions before calling it a power law.

    References
    ----------
    Clauset, Shalizi and Newman (2009), SIAM Review 51, doi:10.1137/070710111. Martin and
    Mahoney (2021), JMLR 22(165) (its use for weights).
    """
    x = np.sort(values[values > 1e-10 * values.max(initial=0.0)])
    least = MIN_TAIL if method == "ks" else 2
    starts = len(x) - least + 1
    if starts < 1:
        return math.nan, math.nan, 0, math.nan
    logs = np.log(x)
    tail = np.cumsum(logs[::-1])[::-1]
    count = np.arange(len(x), 0, -1.0)
    excess = tail - count * logs
    excess = excess[:starts]
    with np.errstate(divide="ignore", over="ignore"):
        slope = np.where(excess > 0, count[:starts] / excess, math.inf)
    both = method == "ks"
    # A distance over some of the values is no more than that over all of them: so starts that are worse already
    # than the best of the promising ones need not be looked at closely.
    rows = np.arange(starts)
    least_distance = _distances(logs, rows, slope, stride=max(1, len(x) // 48), both=both)
    promising = np.argsort(least_distance, kind="stable")
    best, distance = -1, math.inf
    for begin in range(0, starts, 16):
        chosen = promising[begin : begin + 16]
        if least_distance[chosen[0]] > distance:
            break
        exact = _distances(logs, chosen, slope[chosen], stride=1, both=both)
        nearest = int(np.lexsort((chosen, exact))[0])
        if (exact[nearest], chosen[nearest]) < (distance, best if best >= 0 else starts):
            best, distance = int(chosen[nearest]), float(exact[nearest])
    if best < 0 or not math.isfinite(distance):
        return math.nan, math.nan, 0, math.nan
    return 1 + float(slope[best]), float(x[best]), int(count[best]), distance


def _distances(logs: Floats, starts: Ints, slope: Floats, *, stride: int, both: bool) -> Floats:
    """Kolmogorov-Smirnov distance of the tails from some starts, over every so many of the values."""
    finite = np.isfinite(slope)
    at = np.arange(0, len(logs), stride)
    place = at - starts[:, None]
    count = (len(logs) - starts)[:, None]
    with np.errstate(over="ignore"):
        model = -np.expm1(-np.where(finite, slope, 0.0)[:, None] * (logs[at] - logs[starts][:, None]))
    off = np.abs(model - place / count)
    if both:
        off = np.maximum(off, np.abs(model - (place + 1) / count))
    off[place < 0] = 0.0
    return np.where(finite, off.max(axis=1), math.inf)


def outliers(s: Floats, shape: tuple[int, int]) -> float:
    """Number of singular values beyond the bulk that a matrix of independent entries would have.

    Notes
    -----
    The scale of the entries is that at which the median of the Marchenko-Pastur law is the
    median of the squared singular values, so that outliers do not move it. The edge
    ``sigma (sqrt m + sqrt n)`` is widened to the 99 % point of the Tracy-Widom law of the
    largest value: a Gaussian matrix has an outlier in about one of a hundred cases.
    NaN where the median is 0.

    References
    ----------
    Marchenko and Pastur (1967), doi:10.1070/SM1967v001n04ABEH001994. Gavish and Donoho (2014),
    doi:10.1109/TIT.2014.2323359 (scale from the median). Johnstone (2001),
    doi:10.1214/aos/1009210544 (edge).
    """
    m, n = max(shape), min(shape)
    middle = float(np.median(s)) ** 2
    if not middle:
        return math.nan
    variance = middle / (m * _marchenko_pastur_median(n / m))
    centre = (math.sqrt(m) + math.sqrt(n)) ** 2
    width = (math.sqrt(m) + math.sqrt(n)) * (1 / math.sqrt(m) + 1 / math.sqrt(n)) ** (1 / 3)
    return float(np.count_nonzero(s**2 > variance * (centre + _TRACY_WIDOM_99 * width)))


@lru_cache(maxsize=256)
def _marchenko_pastur_median(ratio: float) -> float:
    """Median of the Marchenko-Pastur law of unit variance, for a ratio of sides up to 1."""
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2
    # With x = middle - half cos(angle) the density has no singular ends.
    angle = np.linspace(0.0, math.pi, 4001)
    x = (low + high) / 2 - (high - low) / 2 * np.cos(angle)
    with np.errstate(divide="ignore", invalid="ignore"):
        density = ((high - low) / 2 * np.sin(angle)) ** 2 / (2 * math.pi * ratio * x)
    if ratio == 1:
        density[0] = (high - low) / 2 / math.pi  # the limit where x and the sine vanish together
    density = np.nan_to_num(density)
    reached = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return float(np.interp(reached[-1] / 2, reached, x))


def _rank_slope(s: Floats) -> float:
    """Least-squares slope of log s against log rank."""
    first, last = (math.ceil(share * len(s)) for share in SLOPE_RANKS)
    chosen = s[max(first, 1) - 1 : last]
    chosen = chosen[chosen > 1e-10]
    if len(chosen) < 3:
        return math.nan
    x = np.log(np.arange(max(first, 1), max(first, 1) + len(chosen)))
    x -= x.mean()
    return float(np.dot(x, np.log(chosen)) / np.dot(x, x))


def trace(matrix: Any) -> float:
    """Sum of the diagonal of the leading square block."""
    return float(np.trace(matrix, dtype=np.float64))
