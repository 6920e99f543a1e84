"""The 14 features of the training maps of PolyPythias, and the same with its selection of parameters put right."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from polystab.sources.weights.moments import Moments, array_moments, lower_median, pooled
from polystab.sources.weights.names import parameter
from polystab.sources.weights.spectra import (
    LOST,
    ROUNDING,
    double_singular_values,
    is_sure,
    reduced,
    sure_roots,
    trace,
)

Array = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]
Named = Callable[[], Iterable[tuple[str, Array]]]

# The columns of the published tables, in their order, as measures of metric ids, where a slash cannot stand.
FEATURES = (
    "L1", "L2", "L1_over_L2", "mu_w", "median_w", "sigma_w", "mu_b", "median_b", "sigma_b",
    "trace", "lambda_max", "trace_over_lambda", "mu_lambda", "sigma_lambda",
)  # fmt: skip
_OF_MATRICES = ("L1", "L2", "L1_over_L2", "trace", "lambda_max", "trace_over_lambda", "mu_lambda", "sigma_lambda")

# Singular values below this count as 0, as in their code.
ZERO = 1e-5

# The integral that gives the sum of the singular values is taken at points this far apart in log t, from so far below
# the smallest to so far above the largest; beyond them the series that the integrand follows are added up.
_STEP, _BELOW, _ABOVE = 0.4, 1e-3, 1e2


def kept(name: str, *, corrected: bool = False) -> str:
    """Whether a parameter counts, as ``"weight"`` or ``"bias"``; empty if it does not.

    Parameters
    ----------
    name : str
        As the checkpoint has it.
    corrected : bool, optional
        By what the parameter is: matrices within the blocks, and their biases. Otherwise by its
        name, as their code did: not if it starts with "embed" or has "norm" in it. Under the
        names of Pythia that leaves the unembedding and the layer norms out, and the input
        embedding, which is called ``gpt_neox.embed_in.weight``, in.

    Examples
    --------
    >>> [kept(f"{part}.weight") for part in ("gpt_neox.embed_in", "embed_out", "gpt_neox.final_layer_norm")]
    ['weight', '', '']
    >>> kept("gpt_neox.embed_in.weight", corrected=True)
    ''
    """
    if corrected:
        known = parameter(name)
        return "" if known.layer < 0 else {"matrix": "weight", "bias": "bias"}.get(known.kind, "")
    if name.startswith("embed") or "norm" in name.lower():
        return ""
    return next((part for part in ("weight", "bias") if name.endswith(f".{part}")), "")


class Singular(NamedTuple):
    """What the features need of the singular values of a matrix: the largest, their mean and their variance (ddof 1)."""

    largest: float
    mean: float
    variance: float


def singular(s: Floats) -> Singular:
    """Of singular values, largest first; those below ``ZERO`` count as 0."""
    s = np.where(s < ZERO, 0.0, s)
    variance = float(s.var(ddof=1)) if len(s) > 1 else math.nan
    return Singular(float(s[0]) if len(s) else math.nan, float(s.mean()) if len(s) else math.nan, variance)


def matrix_singular(x: Array) -> Singular:
    """The same of a matrix, where it can be without looking for each singular value, which takes a third of the time.

    Parameters
    ----------
    x : (m, n) array
        Finite; float32 or float64.

    Notes
    -----
    See :func:`nuclear_norm`. Where singular values are below ``ZERO``, or so small that they are lost in
    rounding, and in double precision, they are looked for one by one.

    Examples
    --------
    >>> import numpy as np
    >>> matrix_singular(np.diag([3.0, 4.0]))
    Singular(largest=4.0, mean=3.5, variance=0.5)
    """
    tridiagonal = reduced(x)
    if tridiagonal is None:
        return singular(double_singular_values(x))
    found = _without_each(*tridiagonal)
    if found is None:
        s = sure_roots(*tridiagonal)
        found = singular(double_singular_values(x) if s is None else s)
    return found


def _without_each(diagonal: Floats, beside: Floats) -> Singular | None:
    """From the tridiagonal matrix whose eigenvalues are the squares; None where each of them has to be known."""
    from scipy.linalg import lapack

    n = len(diagonal)
    largest = float(lapack.dstebz(diagonal, beside, 2, 0.0, 0.0, n, n, 0.0, "E")[1][0])
    noise = ROUNDING * largest
    smallest = max(LOST * noise, ZERO**2)
    # All eigenvalues are above a number if the matrix less that number has a Cholesky decomposition.
    if lapack.dpttrf(diagonal - smallest, beside)[2]:
        return None
    mean = nuclear_norm(diagonal, beside, math.sqrt(smallest), math.sqrt(largest)) / n
    total = float(diagonal.sum())
    # The diagonal of the inverse, from the pivots of an elimination from above and of one from below.
    down, up = lapack.dpttrf(diagonal, beside)[0], lapack.dpttrf(diagonal[::-1], beside[::-1])[0][::-1]
    inverse = float((1 / (down + up - diagonal)).sum())
    error = noise / 2 * math.sqrt(inverse)
    variance = total / n - mean**2
    if not is_sure(error, mean, variance, n):
        return None
    return Singular(math.sqrt(largest), mean, variance * n / (n - 1))


def nuclear_norm(diagonal: Floats, beside: Floats, smallest: float, largest: float) -> float:
    """Sum of the roots of the eigenvalues of a symmetric tridiagonal matrix.

    Parameters
    ----------
    diagonal, beside : (n,) and (n - 1,) array
        The matrix.
    smallest, largest : float
        Above 0; all roots lie between them.

    Notes
    -----
    As the root of a number c is the integral of log(1 + c / t^2) over t from 0, over pi, the
    sum is that of log det(I + T / t^2), which takes n divisions. The trapezoidal rule over
    log t is off by exp(-pi^2 / step) of the sum: 2e-11. Below the first point the integrand is
    log det T - 2 n log t, above the last tr T / t^2 - tr T^2 / (2 t^4): their sums over all
    further points are known.

    References
    ----------
    Trefethen and Weideman (2014), The exponentially convergent trapezoidal rule, SIAM Review 56,
    doi:10.1137/130932132.

    Examples
    --------
    >>> import numpy as np
    >>> round(nuclear_norm(np.array([4.0, 9.0, 25.0]), np.zeros(2), 2.0, 5.0), 8)
    10.0
    """
    from scipy.linalg import lapack

    n = len(diagonal)
    points = np.exp(np.arange(math.log(smallest * _BELOW), math.log(largest * _ABOVE), _STEP))
    pivots = np.array([lapack.dpttrf(diagonal + t * t, beside)[0] / (t * t) for t in points])
    logs = np.log(pivots).sum(axis=1)
    first, last, ratio = points[0], points[-1], math.exp(-_STEP)
    below = first * ratio / (1 - ratio) * (logs[0] + 2 * n * _STEP / (1 - ratio))
    square = float(np.dot(diagonal, diagonal) + 2 * np.dot(beside, beside))
    above = diagonal.sum() / last * ratio / (1 - ratio) - square / (2 * last**3) * ratio**3 / (1 - ratio**3)
    return float((np.dot(points, logs) + below + above) * _STEP / math.pi)


def matrix_features(x: Array, moments: Moments, s: Singular) -> tuple[float, ...]:
    """The features of one matrix, in the order they have among the 14."""
    l1, l2, diagonal = moments.l1, math.sqrt(moments.square), trace(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, relative = np.divide([l1, diagonal], [l2, s.largest])
    return l1, l2, float(ratio), diagonal, s.largest, float(relative), s.mean, s.variance


@dataclass
class Collected:
    """What has been seen of a checkpoint, of one selection of its parameters."""

    corrected: bool = False
    matrices: list[tuple[float, ...]] = field(default_factory=list)
    sums: dict[str, list[Moments]] = field(default_factory=lambda: {"weight": [], "bias": []})

    def add(self, name: str, x: Array, moments: Moments, s: Floats | Singular | None) -> None:
        """One tensor; ``s`` are its singular values, or what the features need of them, where it is a matrix."""
        part = kept(name, corrected=self.corrected)
        if not part:
            return
        self.sums[part].append(moments)
        if part == "weight":
            nothing = (math.nan,) * len(_OF_MATRICES)
            known = singular(s) if isinstance(s, np.ndarray) else s
            self.matrices.append(nothing if known is None else matrix_features(as_matrix(x), moments, known))

    def features(self, again: Named) -> dict[str, float]:
        """The 14 features; ``again`` gives the tensors once more, for the medians."""
        found = {}
        if self.matrices:
            found = dict(zip(_OF_MATRICES, np.mean(self.matrices, axis=0).tolist(), strict=True))
        for part, letter in (("weight", "w"), ("bias", "b")):
            total = pooled(self.sums[part])
            found[f"mu_{letter}"], found[f"sigma_{letter}"] = total.mean, total.variance
            found[f"median_{letter}"] = math.nan
            if math.isfinite(total.l1):

                def arrays(part: str = part) -> Iterable[Array]:
                    return (x for name, x in again() if kept(name, corrected=self.corrected) == part)

                found[f"median_{letter}"] = lower_median(arrays)
        return {name: found.get(name, math.nan) for name in FEATURES}


def hu2023(tensors: Named, *, corrected: bool = False) -> dict[str, float]:
    """The 14 features of the PolyPythias training maps, of one checkpoint.

    Parameters
    ----------
    tensors : callable
        Gives name and array of every parameter, float32 or float64 and contiguous; called
        more than once.
    corrected : bool, optional
        Choose parameters by what they are, see :func:`kept`.

    Returns
    -------
    dict
        By name, in the order of ``FEATURES``. ``L1``, ``L2``, ``trace``, ``lambda_max``
        (spectral norm) and their ratios, mean (``mu_lambda``) and variance (``sigma_lambda``,
        ddof 1) of the singular values, with those below 1e-5 set to 0, are means over
        matrices; mean, lower median and variance (``sigma_``, ddof 1) are those of all
        weights, and of all biases, together. NaN where there is nothing, and where a
        parameter that counts is not finite.

    Notes
    -----
    Sums are good to 1e-6. Those of the published tables are not: ``torch.norm`` adds up in
    single precision, so that ``L1`` of Pythia-70M is 2.8 % too low there at step 0 (the
    embedding has 25 million elements), ``L1_over_L2`` 0.9 % and ``L2`` 0.04 %, by how many
    threads there were.

    References
    ----------
    Hu, Chen, Saphra and Cho (2023), Latent State Models of Training Dynamics,
    doi:10.48550/arXiv.2308.09543. van der Wal et al. (2025), PolyPythias,
    doi:10.48550/arXiv.2503.09543.

    Examples
    --------
    >>> import numpy as np
    >>> weights = {"gpt_neox.layers.0.mlp.dense_h_to_4h.weight": np.diag([3.0, 4.0])}
    >>> found = hu2023(weights.items)
    >>> found["L2"], found["mu_lambda"], found["sigma_lambda"]
    (5.0, 3.5, 0.5)
    """
    collected = Collected(corrected)
    for name, x in tensors():
        part = kept(name, corrected=corrected)
        if part:
            moments = array_moments(x, higher=False)
            use = part == "weight" and moments.finite and x.size
            collected.add(name, x, moments, matrix_singular(as_matrix(x)) if use else None)
    return collected.features(tensors)


def as_matrix(x: Array) -> Array:
    """Two dimensions, as their code has it: the first one kept; a list of numbers is one column."""
    return x.reshape(x.shape[0], -1) if x.ndim else x.reshape(1, 1)
