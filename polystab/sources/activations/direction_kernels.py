"""Singular directions of a model's matrices, and the tokens they stand for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# A singular value below this share of the largest has a direction that rounding made.
_SMALLEST = 1e-6

READS = ("mlp.dense_h_to_4h", "mlp.gate")
WRITES = ("mlp.dense_4h_to_h",)
ATTENTION = ("attention.query_key_value", "attention.value", "attention.dense")
PARTS = (*READS, *WRITES, *ATTENTION)


@dataclass(frozen=True)
class Heads:
    """How many heads attention has, and how many of keys and values."""

    queries: int
    values: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Heads | None:
        """As a configuration of ``transformers`` says; None where it does not."""
        n = config.get("num_attention_heads") or config.get("n_head")
        if not isinstance(n, int):
            return None
        return cls(n, config.get("num_key_value_heads") or n)


def layer_products(
    matrices: Mapping[str, Array], heads: Heads | None, *, per_head: bool
) -> Iterator[tuple[str, int, Array, Array]]:
    """The matrices of one layer whose directions lie in the residual stream.

    Parameters
    ----------
    matrices : mapping of str to ndarray, shape (out, in)
        By component: those of ``PARTS`` that the layer has. A fused
        ``attention.query_key_value`` holds the rows of one head after another, as GPT-NeoX
        has it; of other layouts ``attention.value`` must have been cut out.
    heads : Heads or None
        None: the product of values and outputs is left out.
    per_head : bool
        Whether that product is given for each head, or summed over them.

    Yields
    ------
    (str, int, ndarray, ndarray)
        Component, head (-1 for none), and two factors ``left``, ``right``: the directions
        are the left singular vectors of ``left @ right``, in the stream. An MLP matrix
        that reads is given transposed.
    """
    for name in READS:
        if name in matrices:
            yield name, -1, matrices[name].T, np.eye(0)
    for name in WRITES:
        if name in matrices:
            yield name, -1, matrices[name], np.eye(0)
    value = _values(matrices, heads)
    out = matrices.get("attention.dense")
    if value is None or out is None or heads is None or out.shape[1] % heads.queries:
        return
    width = out.shape[1] // heads.queries
    if value.shape[0] != width * heads.values or heads.queries % heads.values:
        return
    by_head = np.repeat(value.reshape(heads.values, width, -1), heads.queries // heads.values, axis=0)
    if not per_head:
        yield "attention.ov", -1, out, by_head.reshape(-1, value.shape[1])
        return
    for head in range(heads.queries):
        yield "attention.ov", head, out[:, head * width : (head + 1) * width], by_head[head]


def _values(matrices: Mapping[str, Array], heads: Heads | None) -> Array | None:
    """The matrix of values, shape (heads * width, in)."""
    if "attention.value" in matrices:
        return matrices["attention.value"]
    fused = matrices.get("attention.query_key_value")
    if fused is None or heads is None or fused.shape[0] % (3 * heads.queries):
        return None
    each = fused.reshape(heads.queries, 3, -1, fused.shape[1])
    return np.ascontiguousarray(each[:, 2].reshape(-1, fused.shape[1]))


def left_directions(left: Array, right: Array, n: int) -> tuple[Floats, Floats]:
    """The first left singular vectors of ``left @ right``, or of ``left`` where ``right`` is empty.

    Returns
    -------
    vectors : ndarray, shape (rows, k)
        k is n, or fewer where the product has no more of which rounding is not the cause.
    singular : ndarray, shape (k,)

    Notes
    -----
    From the eigenvectors of the smaller Gram matrix in double precision: the upper
    spectrum, which is wanted here, loses nothing by it.
    """
    scale = float(np.abs(left).max(initial=0)) * (float(np.abs(right).max(initial=0)) if right.size else 1.0)
    if not 0 < scale < math.inf:
        return np.empty((left.shape[0], 0)), np.empty(0)
    a = np.asarray(left, dtype=np.float64) / np.abs(left).max()
    if right.size:
        b = np.asarray(right, dtype=np.float64) / np.abs(right).max()
        # left @ right = (left R^T) Q^T with right^T = Q R: a narrow product has a narrow spectrum.
        a = a @ np.linalg.qr(b.T)[1].T if b.shape[0] < b.shape[1] else a @ b
    if a.shape[0] <= a.shape[1]:
        squares, vectors = np.linalg.eigh(a @ a.T)
        squares, vectors = squares[::-1][:n], vectors[:, ::-1][:, :n]
    else:
        squares, inner = np.linalg.eigh(a.T @ a)
        squares, inner = squares[::-1][:n], inner[:, ::-1][:, :n]
        vectors = a @ inner
        vectors /= np.maximum(np.linalg.norm(vectors, axis=0), 1e-300)
    singular = np.sqrt(np.maximum(squares, 0))
    real = singular > _SMALLEST * singular[0] if singular.size and singular[0] > 0 else np.zeros(singular.size, bool)
    return vectors[:, real], singular[real] * scale


def top_tokens(vectors: Floats, unembedding: Array, n: int) -> tuple[Ints, Floats]:
    """The tokens that directions point to most.

    Parameters
    ----------
    vectors : ndarray, shape (width, directions)
    unembedding : ndarray, shape (tokens, width)
    n : int
        Tokens at most.

    Returns
    -------
    tokens : ndarray of int, shape (directions, n)
        Highest score first. A singular vector has no sign: that end is taken to which the
        scores have the longer tail (positive third moment). -1 where there are fewer tokens.
    kurtosis : ndarray, shape (directions,)
        Excess kurtosis of the scores over all tokens (ddof 0): high where a direction
        speaks of few tokens.
    """
    scores = np.asarray(vectors.astype(unembedding.dtype).T @ unembedding.T, dtype=np.float64)
    centred = scores - scores.mean(axis=1, keepdims=True)
    square = centred * centred
    scores *= np.where(np.einsum("dt,dt->d", square, centred) < 0, -1.0, 1.0)[:, None]
    second = square.mean(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        fourth = np.einsum("dt,dt->d", square, square) / square.shape[1]
        kurtosis = np.where(second > 0, fourth / second**2 - 3, np.nan)
    k = min(n, scores.shape[1])
    near = np.sort(np.argpartition(-scores, k - 1, axis=1)[:, :k], axis=1)
    order = np.argsort(-np.take_along_axis(scores, near, axis=1), axis=1, kind="stable")
    tokens = np.full((len(scores), n), -1, dtype=np.int64)
    tokens[:, :k] = np.take_along_axis(near, order, axis=1)
    return tokens, kurtosis
