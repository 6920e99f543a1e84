"""Hidden states of labelled places: texts to tokens, places to sub-words, one forward pass for all layers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from polystab.errors import ReasonedError, shown
from polystab.sources.checkpoint_errors import library, memory_errors

if TYPE_CHECKING:
    from torch import Tensor

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Spans = Sequence[tuple[int, int]]

POOLS = ("first", "last", "mean")

# Tokenizers without a limit of their own say a number like 10^30.
_NO_LIMIT = 10**9


class ProbeError(ReasonedError):
    """A checkpoint cannot be probed.

    Reasons: ``no-offsets``, ``unknown-tokens``, ``non-finite-output``, ``no-labels``, ``no-hidden-states``.
    """


@dataclass(frozen=True)
class States:
    """Hidden states of places in texts.

    Attributes
    ----------
    hidden : torch.Tensor, shape (layers + 1, places, d)
        float32; the embeddings first. Zero where a place was not measured.
    measured : ndarray of bool, shape (places,)
        False where the tokenizer made nothing of a place, or the context ended before it.
    fingerprint : str
        SHA-256 of the token ids, which two tokenizers that cut alike have in common.
    notes : list of (reason, detail)
    """

    hidden: Tensor
    measured: Bools
    fingerprint: str
    notes: list[tuple[str, str]]


def aligned(offsets: Sequence[tuple[int, int]], spans: Spans) -> Ints:
    """First and last token that share a character with each place.

    Parameters
    ----------
    offsets : sequence of (int, int)
        From and to which character each token goes, in the order of the text; equal for
        tokens that stand for no text.
    spans : sequence of (int, int)
        The places.

    Returns
    -------
    ndarray of int, shape (places, 2)
        Both -1 where no token covers any of a place.

    Examples
    --------
    >>> aligned([(0, 2), (2, 5), (5, 9)], [(0, 5), (6, 9), (9, 10)]).tolist()
    [[0, 1], [2, 2], [-1, -1]]
    """
    where = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    places = np.array(spans, dtype=np.int64).reshape(-1, 2)
    real = np.flatnonzero(where[:, 1] > where[:, 0])
    first = np.searchsorted(where[real, 1], places[:, 0], side="right")
    last = np.searchsorted(where[real, 0], places[:, 1], side="left") - 1
    found = (first <= last) & (places[:, 1] > places[:, 0])
    result = np.full(places.shape, -1, dtype=np.int64)
    result[found] = np.stack((real[first[found]], real[last[found]]), axis=1)
    return result


def hidden_states(
    model: Any, tokenizer: Any, texts: Sequence[str], spans: Sequence[Spans], *, pool: str, whole: bool, batch_size: int
) -> States:
    """Hidden states of all layers at places of texts.

    Parameters
    ----------
    model, tokenizer
        Of ``transformers``; the tokenizer a fast one, which tells where its tokens lie.
    texts : sequence of str
    spans : sequence of sequences of (int, int)
        Places in each text.
    pool : str
        ``first``, ``last`` or ``mean`` of the sub-words of a place.
    whole : bool
        Whether places are whole texts, of which what fits the context is then taken.
    batch_size : int
        Texts in one forward pass.

    Raises
    ------
    ProbeError
        ``no-offsets``, ``unknown-tokens``, ``no-hidden-states`` or ``non-finite-output``.
    CheckpointError
        ``out-of-memory``.
    """
    torch = library("torch")
    ids, ends = _tokens(tokenizer, texts, spans)
    context = _context(model, tokenizer)
    cut = [i for i, tokens in enumerate(ids) if len(tokens) > context]
    for i in cut:
        if whole:
            ends[i] = np.minimum(ends[i], context - 1)
        else:
            ends[i][ends[i][:, 1] >= context] = -1
    measured = np.concatenate([found[:, 1] >= 0 for found in ends])
    _require_known(model, ids)
    notes = _notes(texts, cut, context, measured, whole)
    starts = np.concatenate([[0], np.cumsum([len(found) for found in ends])])
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    hidden: Tensor | None = None
    with torch.no_grad(), memory_errors(f"running the model on {batch_size} texts at once"):
        for at in range(0, len(order), batch_size):
            part = order[at : at + batch_size]
            states = _forward(model, [ids[i][:context] for i in part])
            for row, i in enumerate(part):
                if hidden is None:
                    hidden = states.new_zeros((states.shape[0], len(measured), states.shape[3]))
                known = ends[i][:, 1] >= 0
                places = torch.from_numpy(starts[i] + np.flatnonzero(known)).to(states.device)
                hidden[:, places] = _pooled(states[:, row], ends[i][known], pool)
    assert hidden is not None  # noqa: S101  there is a text, or the data would have been refused
    finite = torch.isfinite(hidden).all(2).all(1)
    if not bool(finite.all()):
        layers = torch.nonzero(~finite)[:, 0].tolist()
        raise ProbeError(
            "non-finite-output",
            f"hidden states of layers {shown(layers)} hold NaN or infinity: the weights are finite but what they "
            "compute overflows, as in a run that diverged.",
        )
    digest = hashlib.sha256()
    for tokens in ids:
        digest.update(np.array([len(tokens), *tokens], dtype="<i8").tobytes())
    return States(hidden, measured, digest.hexdigest(), notes)


def _tokens(tokenizer: Any, texts: Sequence[str], spans: Sequence[Spans]) -> tuple[list[list[int]], list[Ints]]:
    if not getattr(tokenizer, "is_fast", False):
        raise ProbeError(
            "no-offsets",
            f"{type(tokenizer).__name__} does not tell which characters its tokens stand for, so that words cannot be "
            "found again; save a fast tokenizer (tokenizer.json) with the checkpoint.",
        )
    # Texts are cut here, where it is counted; a tokenizer would warn of each that is long.
    encoded = tokenizer(list(texts), return_offsets_mapping=True, truncation=False, padding=False, verbose=False)
    ends = [aligned(offsets, places) for offsets, places in zip(encoded["offset_mapping"], spans, strict=True)]
    return [list(tokens) for tokens in encoded["input_ids"]], ends


def _context(model: Any, tokenizer: Any) -> int:
    config = model.config
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "n_ctx")]
    limits.append(getattr(tokenizer, "model_max_length", None))
    return min([int(n) for n in limits if isinstance(n, (int, float)) and 0 < n < _NO_LIMIT], default=_NO_LIMIT)


def _require_known(model: Any, ids: Sequence[Sequence[int]]) -> None:
    rows = int(model.get_input_embeddings().weight.shape[0])
    highest = max((max(tokens, default=0) for tokens in ids), default=0)
    if highest >= rows:
        raise ProbeError(
            "unknown-tokens",
            f"the tokenizer gives the token {highest}, the model has embeddings for {rows}: they do not belong together.",
        )


def _notes(
    texts: Sequence[str], cut: Sequence[int], context: int, measured: Bools, whole: bool
) -> list[tuple[str, str]]:
    notes = []
    lost = int((~measured).sum())
    if cut:
        what = "what follows is not read" if whole else "words beyond are left out"
        notes.append(("truncated", f"{len(cut)} of {len(texts)} texts exceed the context of {context} tokens; {what}."))
    if lost:
        notes.append(
            (
                "no-state",
                f"{lost} of {len(measured)} labelled places have no hidden state, and so no part in the codes.",
            )
        )
    return notes


def _forward(model: Any, ids: Sequence[Sequence[int]]) -> Tensor:
    """Hidden states, float32, shape (layers + 1, texts, tokens, d)."""
    torch = library("torch")
    width = max(1, max(len(tokens) for tokens in ids))
    padded = np.zeros((len(ids), width), dtype=np.int64)
    mask = np.zeros_like(padded)
    for row, tokens in enumerate(ids):
        padded[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    # A text of no tokens has no places either; it only must not make the attention divide by nothing.
    mask[:, 0] = 1
    device = next(iter(model.parameters())).device
    out = model(
        input_ids=torch.from_numpy(padded).to(device),
        attention_mask=torch.from_numpy(mask).to(device),
        output_hidden_states=True,
        use_cache=False,
    )
    found = getattr(out, "hidden_states", None)
    if not found:
        raise ProbeError("no-hidden-states", f"{type(model).__name__} gives no hidden states of its layers.")
    states: Tensor = torch.stack([layer.float() for layer in found])
    return states


def _pooled(states: Tensor, ends: Ints, pool: str) -> Tensor:
    """States of one text, shape (layers, tokens, d), at the places with these first and last tokens."""
    torch = library("torch")
    first, last = (torch.from_numpy(np.ascontiguousarray(ends[:, side])).to(states.device) for side in (0, 1))
    if pool != "mean":
        chosen: Tensor = states[:, first if pool == "first" else last]
        return chosen
    total = torch.nn.functional.pad(states.double().cumsum(1), (0, 0, 1, 0))
    mean: Tensor = (total[:, last + 1] - total[:, first]) / (last + 1 - first)[:, None]
    return mean.float()
