"""How alike the embeddings of the first tokens are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from polystab.errors import ReadError, ReasonedError, shown
from polystab.sources.activations.directions import checked_steps
from polystab.sources.measuring import Measurement
from polystab.sources.weights.names import parameter

if TYPE_CHECKING:
    import xarray as xr

    from polystab.sources.checkpoints import Checkpoint

Floats = npt.NDArray[np.float64]

# Correlations are kept as multiples of this, finer than their sampling error over 1,000 dimensions: files compress well.
STEP = 1 / 256


class EmbeddingError(ReasonedError):
    """A checkpoint's embedding cannot be measured. Reason: ``no-embedding``."""


@dataclass(frozen=True)
class Embedding:
    """Correlations between the embeddings of the first tokens.

    Parameters
    ----------
    n_tokens : int, optional
        How many; all that there are, where there are fewer.
    steps : sequence of int, optional
        Keep the correlations, as the group ``embedding``, at these steps only; by default at all.

    Notes
    -----
    Pearson's correlation over the dimensions of two rows of the embedding, for each pair
    of tokens; NaN for a row that is constant or not finite. The group has each pair
    once, to 1/256; :func:`~polystab.analysis.representations.embedding.embedding_matrix` makes the square.
    The cube gets, over all pairs, ``weight/embed_in/correlation_mean`` and
    ``correlation_rms`` (root mean square; 1/sqrt(d - 1) expected of d independent numbers),
    not rounded.

    Examples
    --------
    >>> Embedding().settings()["n_tokens"]
    256
    """

    n_tokens: int = 256
    steps: Sequence[int] = ()

    def __post_init__(self) -> None:
        n = self.n_tokens
        if isinstance(n, bool) or not isinstance(n, int) or n < 2:
            raise ReadError(f"n_tokens is {n!r}; it must be a whole number from 2.")
        object.__setattr__(self, "steps", checked_steps(self.steps))

    @property
    def name(self) -> str:
        """As on the command line: ``polystab fill embedding``."""
        return "embedding"

    def settings(self) -> dict[str, Any]:
        """What decides the numbers."""
        return {"n_tokens": self.n_tokens, "steps": list(self.steps)}

    def measure(self, checkpoint: Checkpoint) -> Measurement:
        """Measure one checkpoint.

        Returns
        -------
        Measurement
            Values as above, and the group ``embedding``. Noted: ``no-correlation``, rows
            that are constant or not finite.

        Raises
        ------
        EmbeddingError
            ``no-embedding``: no tensor has a name that is known as an embedding's.
        """
        rows = _rows(checkpoint, self.n_tokens)
        correlation = token_correlation(rows)
        second, first = np.tril_indices(len(rows), -1)
        pairs = correlation[first, second]
        known = pairs[~np.isnan(pairs)]
        found = Measurement()
        for measure, value in (
            ("correlation_mean", known.mean() if known.size else math.nan),
            ("correlation_rms", np.sqrt(np.mean(known**2)) if known.size else math.nan),
        ):
            metric = f"weight/embed_in/{measure}"
            found.values[metric] = float(value)
            found.metrics[metric] = {"units": "1", "component": "embed_in", "layer": -1}
        if lost := np.flatnonzero(np.isnan(np.diag(correlation))).tolist():
            found.notes.append(("no-correlation", f"embeddings are constant or not finite, of tokens {shown(lost)}."))
        if not self.steps or checkpoint.step in self.steps:
            found.details["embedding"] = _dataset(pairs, first, second)
        return found


def token_correlation(rows: npt.NDArray[np.floating]) -> Floats:
    """Pearson's correlation of each pair of rows; NaN for rows that are constant or not finite.

    Parameters
    ----------
    rows : ndarray, shape (tokens, d)

    Returns
    -------
    ndarray, shape (tokens, tokens)
    """
    wide = np.asarray(rows, dtype=np.float64)
    usable: npt.NDArray[np.bool_] = np.all(np.isfinite(wide), axis=1)
    wide = np.where(usable[:, None], wide, 0.0)
    largest = np.abs(wide).max(axis=1, keepdims=True)
    wide = wide / np.where(largest > 0, largest, 1.0)  # so that squares neither overflow nor vanish
    centred = wide - wide.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    usable &= length[:, 0] > 1e-12 * math.sqrt(wide.shape[1])
    unit = centred / np.where(length > 0, length, 1.0)
    result: Floats = np.clip(unit @ unit.T, -1.0, 1.0)
    np.fill_diagonal(result, 1.0)
    result[~usable], result[:, ~usable] = np.nan, np.nan
    return result


def _rows(checkpoint: Checkpoint, n: int) -> npt.NDArray[np.floating]:
    """The first rows of the embedding; tensors after it are not read."""
    for name, tensor in checkpoint.tensors():
        if parameter(name).kind == "embedding" and tensor.ndim == 2:
            rows: npt.NDArray[np.floating] = tensor[:n].detach().float().cpu().numpy()
            if len(rows) > 1:
                return rows
    raise EmbeddingError("no-embedding", "no matrix of two rows or more has a name that is known as an embedding's.")


def _dataset(pairs: Floats, first: npt.NDArray[np.intp], second: npt.NDArray[np.intp]) -> xr.Dataset:
    """The group ``embedding``."""
    import xarray as xr

    rounded = (np.round(pairs / STEP) * STEP).astype(np.float32)
    doc = "correlation of the embeddings of two tokens, to 1/256"
    return xr.Dataset(
        {"correlation": ("pair", rounded, {"long_name": doc, "units": "1"})},
        coords={
            "pair": np.arange(len(pairs)),  # (0, 1), (0, 2), (1, 2), (0, 3), ...: the same for any number of tokens
            "first_token": ("pair", first.astype(np.int32)),
            "second_token": ("pair", second.astype(np.int32)),
        },
        attrs={"summary": "correlation of token embeddings"},
    )
