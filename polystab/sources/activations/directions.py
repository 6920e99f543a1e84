"""Singular directions of MLP and attention matrices, told by the tokens that they point to."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from polystab.errors import ReadError, ReasonedError, shown
from polystab.sources.activations.direction_kernels import (
    PARTS,
    Array,
    Heads,
    Ints,
    layer_products,
    left_directions,
    top_tokens,
)
from polystab.sources.measuring import Measurement
from polystab.sources.weights.names import Parameter, parameter

if TYPE_CHECKING:
    import xarray as xr

    from polystab.sources.checkpoints import Checkpoint

__all__ = ["DirectionError", "Directions"]


class DirectionError(ReasonedError):
    """Directions of a checkpoint cannot be told. Reasons: ``no-unembedding``, ``no-matrices``."""


@dataclass(frozen=True)
class Directions:
    """Which tokens the singular directions of each MLP and attention matrix point to.

    Parameters
    ----------
    n_directions, n_tokens : int, optional
        Singular vectors of each matrix, and tokens of each.
    per_head : bool, optional
        Values and outputs of attention for each head, or all heads of a layer together.
    steps : sequence of int, optional
        Keep the tokens, as the group ``directions``, at these steps only; by default at all.

    Notes
    -----
    Directions lie in the residual stream: right singular vectors of matrices that read
    from it (``mlp.dense_h_to_4h``, ``mlp.gate``), left ones of those that write to it
    (``mlp.dense_4h_to_h``; ``attention.ov``, the product of a head's values and its part of
    the output matrix). A direction's score of a token is its product with the token's row of
    the unembedding, without the final layer norm [1]_. See
    :func:`~polystab.analysis.representations.directions.direction_overlap` for what is made of them.

    The cube gets ``weight/layers.<i>.<matrix>/direction_kurtosis``, the mean over
    directions (and heads) of the excess kurtosis of scores over tokens: near that of the
    unembedding for directions without meaning, high for those of few tokens.

    References
    ----------
    .. [1] B. Millidge, S. Black, The singular value decompositions of transformer weight
       matrices are highly interpretable, AI Alignment Forum, 2022.

    Examples
    --------
    >>> Directions().settings()["n_tokens"]
    20
    """

    n_directions: int = 30
    n_tokens: int = 20
    per_head: bool = True
    steps: Sequence[int] = ()

    def __post_init__(self) -> None:
        for name in ("n_directions", "n_tokens"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ReadError(f"{name} is {value!r}; it must be a whole number from 1.")
        object.__setattr__(self, "steps", checked_steps(self.steps))

    @property
    def name(self) -> str:
        """As on the command line: ``polystab fill directions``."""
        return "directions"

    def settings(self) -> dict[str, Any]:
        """What decides the numbers."""
        return {
            "n_directions": self.n_directions,
            "n_tokens": self.n_tokens,
            "per_head": self.per_head,
            "steps": list(self.steps),
        }

    def measure(self, checkpoint: Checkpoint) -> Measurement:
        """Measure one checkpoint.

        Returns
        -------
        Measurement
            Values as above, and the group ``directions``. Noted: ``non-finite`` matrices,
            which are left out; ``no-heads``, attention is left out as the number or layout
            of heads is not known; ``unknown-names``, matrices that no table lists.

        Raises
        ------
        DirectionError
            ``no-unembedding``, or one that is not finite; ``no-matrices``.
        """
        layers, unembedding, notes = _read(checkpoint)
        heads = Heads.of(checkpoint.config)
        found = Measurement(notes=notes)
        tokens: dict[tuple[str, int, int], Ints] = {}
        without = []
        kurtosis: dict[tuple[str, int], list[float]] = {}
        for layer, matrices in sorted(layers.items()):
            products = [(*part, layer) for part in layer_products(matrices, heads, per_head=self.per_head)]
            if not any(component == "attention.ov" for component, *_ in products):
                without.append(layer)
            for component, head, left, right, _ in products:
                vectors, _singular = left_directions(left, right, self.n_directions)
                best, spread = top_tokens(vectors, unembedding, self.n_tokens)
                held = np.full((self.n_directions, self.n_tokens), -1, dtype=np.int64)
                held[: len(best)] = best
                tokens[component, layer, head] = held
                kurtosis.setdefault((component, layer), []).extend(spread.tolist())
        if without:
            found.notes.append(
                (
                    "no-heads",
                    f"layers {shown(without)} have no attention that could be cut into values and outputs of heads.",
                )
            )
        for (component, layer), values in kurtosis.items():
            metric = f"weight/layers.{layer}.{component}/direction_kurtosis"
            known = [value for value in values if not math.isnan(value)]
            found.values[metric] = float(np.mean(known)) if known else math.nan
            found.metrics[metric] = {"units": "1", "component": component, "layer": layer}
        if not self.steps or checkpoint.step in self.steps:
            found.details["directions"] = _dataset(tokens, len(unembedding))
        return found


def checked_steps(steps: Sequence[int] | int | str) -> tuple[int, ...]:
    """Steps as distinct whole numbers, ascending; text, as the command line gives it, has commas between them.

    Raises
    ------
    ReadError
        One is not a step.
    """
    if isinstance(steps, str):
        steps = [int(part) if part.strip().isdecimal() else -1 for part in steps.split(",")]
    listed = [steps] if isinstance(steps, int) else list(steps)
    try:
        found = sorted({int(step) for step in listed if not isinstance(step, bool)})
    except (TypeError, ValueError):
        found = [-1]
    if any(step < 0 for step in found) or any(isinstance(step, (bool, float)) for step in listed):
        raise ReadError(f"steps are {shown(listed)}; they must be whole numbers from 0.")
    return tuple(found)


def _read(checkpoint: Checkpoint) -> tuple[dict[int, dict[str, Array]], Array, list[tuple[str, str]]]:
    """The matrices that are needed by layer and component, as (out, in), and the unembedding."""
    layers: dict[int, dict[str, Array]] = {}
    ends: dict[str, Array] = {}
    bad, unknown = [], []
    for name, tensor in checkpoint.tensors():
        said = parameter(name)
        if said.kind == "other" and tensor.ndim == 2:
            unknown.append(name)
        wanted = said.kind == "matrix" and said.layer >= 0 and said.component in PARTS
        if tensor.ndim != 2 or not (wanted or said.kind in ("embedding", "unembedding")):
            continue
        array: Array = tensor.detach().float().cpu().numpy()
        if not np.isfinite(array).all():
            bad.append(name)
        elif wanted:
            layers.setdefault(said.layer, {}).update(_oriented(said, array))
        else:
            ends[said.kind] = array
    notes = []
    if bad:
        notes.append(("non-finite", f"hold NaN or infinity, and have no directions: {shown(bad)}."))
    if unknown:
        notes.append(("unknown-names", f"matrices of unknown names are left out: {shown(unknown)}."))
    tied = bool(checkpoint.config.get("tie_word_embeddings", True))
    unembedding = ends.get("unembedding", ends.get("embedding") if tied else None)
    if unembedding is None or not unembedding.size:
        raise DirectionError(
            "no-unembedding",
            "the checkpoint has no finite unembedding, and none that is tied to the embedding: directions have no tokens.",
        )
    layers = {n: {k: m for k, m in parts.items() if unembedding.shape[1] in m.shape} for n, parts in layers.items()}
    if not any(layers.values()):
        raise DirectionError(
            "no-matrices", f"no finite MLP or attention matrix has a known name and the width {unembedding.shape[1]}."
        )
    return layers, unembedding, notes


def _oriented(said: Parameter, array: Array) -> Iterator[tuple[str, Array]]:
    """A matrix as (out, in); of GPT-2's fused one, whose thirds are queries, keys and values, the values."""
    if not said.transposed:
        yield said.component, array
    elif said.component == "attention.query_key_value":
        yield "attention.value", np.ascontiguousarray(array.T[2 * (array.shape[1] // 3) :])
    else:
        yield said.component, np.ascontiguousarray(array.T)


def _dataset(tokens: Mapping[tuple[str, int, int], Ints], vocabulary: int) -> xr.Dataset:
    """The group ``directions``."""
    import xarray as xr

    labels = [
        f"layers.{layer}.{component}" + (f".head{head}" if head >= 0 else "") for component, layer, head in tokens
    ]
    small = next(t for t in (np.int8, np.int16, np.int32) if vocabulary <= np.iinfo(t).max)
    stacked = np.stack(list(tokens.values())).astype(small)
    doc = "tokens with the highest scores of each singular direction; -1: none"
    return xr.Dataset(
        {
            "token": (("matrix", "direction", "place"), stacked, {"long_name": doc}),
            "vocabulary": ((), np.int32(vocabulary), {"long_name": "tokens that the unembedding has"}),
        },
        coords={
            "matrix": np.array(labels),
            "direction": np.arange(stacked.shape[1]),
            "place": np.arange(stacked.shape[2]),
            "matrix_component": ("matrix", np.array([component for component, *_ in tokens])),
            "matrix_layer": ("matrix", np.array([layer for _, layer, _ in tokens])),
            "matrix_head": ("matrix", np.array([head for *_, head in tokens])),
        },
        attrs={"summary": "top tokens of singular directions"},
    )
