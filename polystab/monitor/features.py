"""Cheap numbers from a model in training: spectral norms by power iteration, the largest output logit."""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polystab.analysis.options import check_whole
from polystab.errors import AnalysisError, shown
from polystab.monitor.reference import LOGIT_MAX
from polystab.sources.weights.names import parameter

if TYPE_CHECKING:
    import torch

#: Matrices that are followed where none are chosen: enough to see first, middle and last layers.
MOST_MATRICES = 12

# Power iterations at the first look; later ones start from the vector that the one before found.
_FIRST_ITERATIONS = 8


@dataclass
class _Followed:
    metric: str
    weight: torch.Tensor
    vector: torch.Tensor | None = None


class SpectralNorms:
    """Estimates of the largest singular values of some matrices of a model.

    Parameters
    ----------
    model : torch.nn.Module
    matrices : str, optional
        Regular expression searched in the names of parameters, their own and those that metrics have (``embed_out``,
        ``layers.3.attention.dense``); all matrices that it finds are followed. By default up to
        12: the matrices of the first, middle and last layer and the one that names words.
    iterations : int, optional
        Power iterations at each look, which start from the vector of the look before; 8 at the first.

    Attributes
    ----------
    left_out : list of str
        Matrices that cannot be followed: parts of them live on other devices (FSDP, ZeRO 3).

    Raises
    ------
    AnalysisError
        The expression is none, or finds no matrix.

    Notes
    -----
    ``v <- W' W v / |W' W v|``, and ``|W v|``: never above the spectral norm, usually within a few per cent of it from the
    second look on. Two products of a matrix and a vector an iteration: with T tokens in a batch, about ``2 / (3 T)`` of the work
    of a training step if all matrices were followed at every step. Weights in half precision are multiplied in float32, one
    matrix at a time. The start is drawn from a generator of its own: training is not disturbed.
    """

    def __init__(self, model: torch.nn.Module, *, matrices: str | None = None, iterations: int = 2) -> None:
        check_whole("iterations", iterations, 1)
        self.iterations = iterations
        self.left_out: list[str] = []
        found = [(name, weight) for name, weight in model.named_parameters() if self._is_matrix(name, weight)]
        chosen = _chosen([name for name, _ in found], matrices)
        if matrices is not None and not chosen and not self.left_out:
            raise AnalysisError(
                f"no matrix has a name that {matrices!r} finds. Names: {shown(name for name, _ in found)}."
            )
        self._followed = [
            _Followed(f"weight/{_subject(name)}/spectral_norm", weight) for name, weight in found if name in chosen
        ]

    @property
    def metrics(self) -> list[str]:
        return [one.metric for one in self._followed]

    def measure(self) -> dict[str, float]:
        """The estimates now, by metric id; NaN or infinite where the weights are."""
        import torch

        sizes = []
        with torch.no_grad():
            for one in self._followed:
                weight = one.weight.detach()
                if weight.dtype not in (torch.float32, torch.float64):
                    weight = weight.float()
                rounds = self.iterations
                if one.vector is None or not bool(torch.isfinite(one.vector).all()):
                    generator = torch.Generator().manual_seed(0)
                    start = torch.randn(weight.shape[1], generator=generator, dtype=torch.float32)
                    one.vector, rounds = start.to(weight), _FIRST_ITERATIONS
                size, one.vector = _iterated(weight, one.vector, rounds)
                sizes.append(size.double())
            values = torch.stack(sizes).tolist() if sizes else []
        return dict(zip(self.metrics, values, strict=True))

    def _is_matrix(self, name: str, weight: torch.Tensor) -> bool:
        if hasattr(weight, "full_tensor") or (not weight.numel() and name.endswith("weight")):
            # Looking at it would wait for the other processes.
            self.left_out.append(name)
            return False
        return weight.ndim == 2 and min(weight.shape) > 1


def _iterated(weight: torch.Tensor, vector: torch.Tensor, rounds: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The size of ``W v`` for the unit vector that some power iterations lead to, and that vector."""
    tiny = 1e-30
    unit = vector / vector.norm().clamp_min(tiny)
    for _ in range(rounds):
        unit = weight.T @ (weight @ unit)
        unit = unit / unit.norm().clamp_min(tiny)
    return (weight @ unit).norm(), unit


def _chosen(names: list[str], matrices: str | None) -> set[str]:
    if matrices is not None:
        try:
            pattern = re.compile(matrices)
        except re.error as error:
            raise AnalysisError(f"matrices is {matrices!r}, no regular expression: {error}.") from error
        return {name for name in names if pattern.search(name) or pattern.search(_subject(name))}
    layers = sorted({layer for name in names if (layer := parameter(name).layer) >= 0})
    looked = {layers[0], layers[len(layers) // 2], layers[-1]} if layers else set()
    kinds = {name: parameter(name) for name in names}
    chosen = [n for n, p in kinds.items() if p.kind == "unembedding" or (p.kind == "matrix" and p.layer in looked)]
    # Names of an unknown architecture: whatever is a matrix, evenly.
    chosen = chosen or names
    step = math.ceil(len(chosen) / MOST_MATRICES) or 1
    return set(chosen[-1::-step])


def _subject(name: str) -> str:
    """As metric ids have it; dots stay, slashes would end the subject."""
    return parameter(name).subject.replace("/", ".")


class LogitSize:
    """The largest logit in size that a model gives, taken from a forward pass of training itself.

    Only while :attr:`due` the hook looks, once over the logits and without a copy of them; what it finds stays on the
    device until :meth:`measure`. A model that never makes logits (fused losses) has none.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self.due = False
        self.seconds = 0.0
        self._found: list[torch.Tensor] = []
        head = _head(model)
        self._hook = head.register_forward_hook(self._look) if head is not None else None

    def measure(self) -> dict[str, float]:
        """The largest since it was due, by metric id; NaN if any logit was."""
        found, self._found, self.due = self._found, [], False
        if not found:
            return {}
        sizes = [float(value) for value in found]
        return {LOGIT_MAX: math.nan if any(map(math.isnan, sizes)) else max(sizes)}

    def close(self) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = None

    def _look(self, module: Any, inputs: Any, output: Any) -> None:  # noqa: ARG002
        if not self.due or not module.training:
            return
        import torch

        began = time.perf_counter()
        if isinstance(output, torch.Tensor) and output.numel():
            low, high = torch.aminmax(output.detach())
            self._found.append(torch.maximum(high, -low))
        self.seconds += time.perf_counter() - began


def _head(model: Any) -> Any:
    """The layer that names words, where the model tells."""
    inner = getattr(model, "module", model)  # DistributedDataParallel
    find = getattr(inner, "get_output_embeddings", None)
    return find() if find is not None else None
