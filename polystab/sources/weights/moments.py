"""Moments, norms and medians of arrays: one pass over the data, exact medians without sorting."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]

# Elements looked at together: these, and one product of them, stay in the cache of a core.
CHUNK = 131_072

# Within these, fourth powers of float32 neither overflow nor vanish.
_SMALLEST_RMS, _LARGEST = 1e-8, 1e8
# Below this share of the mean square, the variance is what is left of a difference: look again, from the mean.
_CANCELLED = 1e-3

# Of each so many elements, so many neighbours are in the sample that a median is looked for with.
_SAMPLE_STEP, _SAMPLE_BLOCK = CHUNK, 256
# So many elements are simply ordered.
_FEW = 2**18
# Neighbours that are added up in single precision; parts of CHUNK elements are whole rows of them.
_ROW = 1024


@dataclass(frozen=True)
class Moments:
    """Sums over an array, from which its moments follow; those of several arrays can be pooled.

    Attributes
    ----------
    n : int
        Elements.
    mean : float
    m2, m3, m4 : float
        Sums of the second to fourth powers of the deviations from the mean; the last two are
        NaN where they were not asked for.
    l1, square : float
        Sum of absolute values and of squares.
    largest : float
        Largest absolute value; NaN where it was not asked for.
    """

    n: int
    mean: float
    m2: float
    m3: float
    m4: float
    l1: float
    square: float
    largest: float

    @property
    def finite(self) -> bool:
        return math.isfinite(self.l1)

    @property
    def variance(self) -> float:
        """Unbiased; NaN for a single element."""
        return self.m2 / (self.n - 1) if self.n > 1 else math.nan

    def measures(self) -> dict[str, float]:
        """``mean``, ``variance`` and ``std`` (ddof 1), ``skewness``, excess ``kurtosis`` (both of ddof 0), ``max_abs``, ``l1``, ``l2``, ``l1_over_l2``."""
        variance, l2 = self.variance, math.sqrt(self.square)
        # A spread that rounding alone could make is that of a constant.
        spread = self.m2 > self.n * (1e-12 * self.mean) ** 2 and self.n > 1
        second = self.m2 / self.n if self.n else math.nan
        return {
            "mean": self.mean,
            "variance": variance,
            "std": math.sqrt(variance),
            "skewness": self.m3 / self.n / second / math.sqrt(second) if spread else math.nan,
            "kurtosis": self.m4 / self.n / second / second - 3 if spread else math.nan,
            "max_abs": self.largest,
            "l1": self.l1,
            "l2": l2,
            "l1_over_l2": self.l1 / l2 if l2 > 0 else math.nan,
        }


def array_moments(x: Array, *, higher: bool = True) -> Moments:
    """Moments of an array in one pass over it.

    Parameters
    ----------
    x : array
        Any shape, contiguous; float32 or float64.
    higher : bool, optional
        Also the third and fourth power and the largest absolute value, which take as much
        time again.

    Returns
    -------
    Moments
        In double precision from sums over chunks. NaN and infinity pass through: see ``finite``.

    Notes
    -----
    Powers are taken of the values as they are. Where that would lose digits (values that are
    large beside their spread, very small or very large ones), they are taken again of
    the scaled deviations from the mean, in double precision.
    """
    flat = x.reshape(-1)
    n = flat.size
    if not n:
        return Moments(0, math.nan, math.nan, math.nan, math.nan, 0.0, 0.0, math.nan)
    with np.errstate(all="ignore"):
        s1, l1, s2, s3, s4, largest = _power_sums(flat, higher)
        mean = s1 / n
        m2 = s2 - n * mean * mean
        rms = math.sqrt(s2 / n) if s2 >= 0 else math.nan
        plain = _SMALLEST_RMS < rms < _LARGEST and m2 >= _CANCELLED * s2 and not largest > _LARGEST
        if not plain:
            return _careful(flat)
        m3 = s3 - 3 * mean * s2 + 2 * n * mean**3
        m4 = s4 - 4 * mean * s3 + 6 * mean**2 * s2 - 3 * n * mean**4
    return Moments(n, mean, m2, m3, m4, l1, s2, largest)


def _power_sums(flat: Array, higher: bool) -> tuple[float, float, float, float, float, float]:
    from scipy.linalg.blas import dasum, sasum

    absolute = sasum if flat.dtype == np.float32 else dasum
    size = min(CHUNK, flat.size)
    ones, squares = np.ones(_ROW, flat.dtype), np.empty(size, flat.dtype)
    l1 = s2 = s3 = s4 = largest = 0.0
    rows = [flat[flat.size // _ROW * _ROW :]]
    for part in chunks(flat):
        s2 += float(np.dot(part, part))
        rows.append(part[: part.size // _ROW * _ROW].reshape(-1, _ROW) @ ones)
        l1 += float(absolute(part))
        if higher:
            second = np.multiply(part, part, out=squares[: part.size])
            s3 += float(np.dot(second, part))
            s4 += float(np.dot(second, second))
            largest = max(largest, float(second.max()))
    s1 = float(np.concatenate(rows).sum(dtype=np.float64))
    # The root of a rounded square is the number itself.
    largest = float(np.sqrt(flat.dtype.type(largest)))
    return (s1, l1, s2, s3, s4, largest) if higher else (s1, l1, s2, math.nan, math.nan, math.nan)


def _careful(flat: Array) -> Moments:
    """The same from the mean, and on the scale of the largest value, in double precision."""
    largest = max(max(float(part.max()), -float(part.min())) for part in chunks(flat))
    n = flat.size
    if not math.isfinite(largest):
        return Moments(n, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, largest)
    if not largest:
        return Moments(n, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    # A power of two, so that scaling rounds nothing.
    scale = 2.0 ** (math.frexp(largest)[1] - 1)

    def parts() -> Iterator[Floats]:
        return (part.astype(np.float64) / scale for part in chunks(flat))

    first = float(flat[0]) / scale
    mean = first + sum(float((part - first).sum()) for part in parts()) / n
    sums = np.zeros(5)
    for part in parts():
        d = part - mean
        square = d * d
        sums += [square.sum(), (square * d).sum(), (square * square).sum(), np.abs(part).sum(), np.dot(part, part)]
    m2, m3, m4, l1, total = (float(value) for value in sums)
    return Moments(n, mean * scale, m2 * scale**2, m3 * scale**3, m4 * scale**4, l1 * scale, total * scale**2, largest)


def pooled(several: Iterable[Moments]) -> Moments:
    """Moments of all arrays as if they were one.

    References
    ----------
    Pebay (2008), Formulas for robust, one-pass parallel computation of covariances and
    arbitrary-order statistical moments, Sandia report SAND2008-6212, doi:10.2172/1028931.
    """
    result = Moments(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    for other in several:
        if not other.n:
            continue
        a, b = result, other
        n = a.n + b.n
        d = b.mean - a.mean
        ab = a.n * b.n
        m3 = a.m3 + b.m3 + d**3 * ab * (a.n - b.n) / n**2 + 3 * d * (a.n * b.m2 - b.n * a.m2) / n
        m4 = (
            a.m4 + b.m4 + d**4 * ab * (a.n**2 - ab + b.n**2) / n**3
            + 6 * d**2 * (a.n**2 * b.m2 + b.n**2 * a.m2) / n**2 + 4 * d * (a.n * b.m3 - b.n * a.m3) / n
        )  # fmt: skip
        result = Moments(
            n, a.mean + d * b.n / n, a.m2 + b.m2 + d * d * ab / n, m3, m4,
            a.l1 + b.l1, a.square + b.square, max(a.largest, b.largest),
        )  # fmt: skip
    return result if result.n else array_moments(np.empty(0))


def chunks(flat: npt.NDArray[np.floating]) -> Iterator[npt.NDArray[np.floating]]:
    """An array in parts that fit into the cache."""
    for start in range(0, flat.size, CHUNK):
        yield flat[start : start + CHUNK]


def lower_median(arrays: Callable[[], Iterable[Array]]) -> float:
    """The element that half of all others, rounded down, precede in order; exact.

    Parameters
    ----------
    arrays : callable
        Gives the arrays, of any shape and contiguous. It is called at least twice and must
        give the same each time.

    Returns
    -------
    float
        NaN if there is no element. For an even number of elements the lower of the two in the
        middle, as ``torch.median`` has it. NaN and infinity must not be among them.

    Notes
    -----
    A sample gives an interval in which the median must lie; then elements below it are
    counted, and only those within are kept and ordered. Should the sample mislead, the
    interval is widened and the count repeated: the result never depends on the sample.
    """
    size = 0
    whole: list[Array] = []
    drawn: list[Array] = []
    weight: list[Floats] = []
    for x in arrays():
        flat = x.reshape(-1)
        size += flat.size
        whole = [*whole, flat] if size <= _FEW else []
        drawn.append(_sample(flat))
        weight.append(np.full(drawn[-1].size, flat.size / max(drawn[-1].size, 1)))
    if not size:
        return math.nan
    rank = (size - 1) // 2
    if size <= _FEW:
        return float(np.partition(np.concatenate(whole), rank)[rank])
    values = np.concatenate(drawn)
    order = np.argsort(values)
    values, reached = values[order], np.cumsum(np.concatenate(weight)[order]) / size
    for width in (0.005, 0.1, 1.0):
        inside = np.searchsorted(reached, [0.5 - width, 0.5 + width])
        low, high = values[np.minimum(inside, values.size - 1)]
        low, high = (-math.inf, math.inf) if width == 1 else (low, high)
        below, kept = _within(arrays(), low, high)
        if below <= rank < below + kept[1]:
            found = rank - below
            return float(low) if low == high else float(np.partition(np.concatenate(kept[0]), found)[found])
    return math.nan


def _within(arrays: Iterable[Array], low: float, high: float) -> tuple[int, tuple[list[Array], int]]:
    """How many elements are below an interval; those within it, and their number. Equal ones are only counted."""
    below, n, found = 0, 0, []
    for x in arrays:
        for part in chunks(x.reshape(-1)):
            under, up_to = part < low, part <= high
            less = int(np.count_nonzero(under))
            below += less
            n += int(np.count_nonzero(up_to)) - less
            if low < high:
                found.append(part[np.logical_xor(under, up_to, out=under)])
    return below, (found, n)


def _sample(flat: Array) -> Array:
    """Short stretches at even distances; all of a small array."""
    if flat.size < _SAMPLE_STEP:
        return flat[:: max(1, flat.size // 8192)]
    whole = flat.size // _SAMPLE_STEP
    return flat[: whole * _SAMPLE_STEP].reshape(whole, -1)[:, :_SAMPLE_BLOCK].reshape(-1)
