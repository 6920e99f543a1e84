"""The 14 features of the training maps of PolyPythias, and the same with its selection of parameters put right."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from polystab.sources.weights.moments import Moments, array_moments, lower_median, pooled
from polystab.sources.weights.names import parameter
from polystab.sources.weights.spectra import singular_values, trace

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


def matrix_features(x: Array, moments: Moments, s: Floats) -> tuple[float, ...]:
    """The features of one matrix, in the order they have among the 14; ``s`` are its singular values."""
    s = np.where(s < ZERO, 0.0, s)
    l1, l2, diagonal = moments.l1, math.sqrt(moments.square), trace(x)
    largest = float(s[0]) if len(s) else math.nan
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio, relative = np.divide([l1, diagonal], [l2, largest])
    variance = float(s.var(ddof=1)) if len(s) > 1 else math.nan
    return l1, l2, float(ratio), diagonal, largest, float(relative), float(s.mean()), variance


@dataclass
class Collected:
    """What has been seen of a checkpoint, of one selection of its parameters."""

    corrected: bool = False
    matrices: list[tuple[float, ...]] = field(default_factory=list)
    sums: dict[str, list[Moments]] = field(default_factory=lambda: {"weight": [], "bias": []})

    def add(self, name: str, x: Array, moments: Moments, s: Floats | None) -> None:
        """One tensor; ``s`` are its singular values where it is a matrix."""
        part = kept(name, corrected=self.corrected)
        if not part:
            return
        self.sums[part].append(moments)
        if part == "weight":
            nothing = (math.nan,) * len(_OF_MATRICES)
            self.matrices.append(nothing if s is None else matrix_features(as_matrix(x), moments, s))

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
            collected.add(name, x, moments, singular_values(as_matrix(x)) if use else None)
    return collected.features(tensors)


def as_matrix(x: Array) -> Array:
    """Two dimensions, as their code has it: the first one kept; a list of numbers is one column."""
    return x.reshape(x.shape[0], -1) if x.ndim else x.reshape(1, 1)
