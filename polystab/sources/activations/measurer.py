"""Activations and gradients of checkpoints on a fixed batch of text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from polystab.errors import ReadError, UnknownNameError, did_you_mean, shown
from polystab.sources.activations.batch import ActivationError, Batch, Ints, load_text, make_batch
from polystab.sources.activations.hooks import Recorded, record
from polystab.sources.activations.kernels import SIZES, Array, Outliers, outlier_dimensions, pooled_sizes, sizes
from polystab.sources.checkpoint_errors import library
from polystab.sources.measuring import Measurement
from polystab.sources.weights.names import MATRICES, parameter

if TYPE_CHECKING:
    import xarray as xr

    from polystab.sources.checkpoints import Checkpoint

__all__ = ["MEASURES", "ActivationError", "Activations"]

MEASURES = (*SIZES, "outlier_count", "outlier_ratio", "logit_max")
_USUAL = tuple(name for name in MEASURES if name != "norm")
# Of the stream, norm is that of one token's state.
_NO_UNITS = ("kurtosis", "t_nu", "outlier_count", "outlier_ratio")


@dataclass(frozen=True)
class Activations:
    """Measures the residual stream, attention logits and gradients on a fixed batch of text.

    Parameters
    ----------
    text : str, optional
        ``nano`` (the default): documents of the built-in language; or a file, see
        :func:`~polystab.sources.activations.batch.load_text`.
    sequences, length : int, optional
        Rows of the batch, and tokens in each; of fewer where the text, or the model's
        context, does not hold as many.
    measures : sequence of str, optional
        Which of the measures below; by default all but ``norm``.
    gradients : bool, optional
        Also those of the mean loss a token on the batch.
    outlier_factor : float, optional
        How many times as large as the median dimension an outlier is.
    keep_dimensions : int, optional
        How many of the largest dimensions of each site are kept by number, in the group
        ``dimensions``; 0 for no such group.
    batch_size : int, optional
        Rows in one pass. It decides no numbers, but for rounding.

    Notes
    -----
    ``activation/embed_in/...`` is what goes into the first block, and
    ``activation/layers.<i>.residual/...`` what comes out of block i, over all tokens and
    dimensions:

    ================= ==================================================================
    ``max_abs``       largest absolute value
    ``rms``           root mean square
    ``norm``          root mean square over tokens of the L2 norm of a token's state
    ``kurtosis``      in excess of the normal distribution, all values together
    ``t_nu``          degrees of freedom of Student's t, fitted to all values
    ``outlier_count`` dimensions whose root mean square over tokens is more than
                      ``outlier_factor`` times that of the median dimension
    ``outlier_ratio`` the largest of these ratios
    ================= ==================================================================

    [1]_ calls a dimension an outlier that reaches 6, in states whose scale is near 1. The
    scale of states changes during training, so here 6 is in units of the median.

    ``activation/layers.<i>.attention/logit_max`` is the largest logit of the softmax in
    block i, q.k / sqrt(d_head) after rotary embeddings and over the keys that a query sees
    [2]_. Biases that are added to it (ALiBi) and caps on it are not counted. Architectures
    that do not look their attention up by name in ``transformers`` have none; that is noted.

    ``gradient/<matrix>/...`` has ``max_abs``, ``rms``, ``norm`` (Frobenius), ``kurtosis`` and
    ``t_nu`` of the gradient of each matrix; ``gradient/all/...`` the first four over all
    matrices together, and ``total_norm``, the norm over all parameters, which is what clipping
    looks at (on this batch, not on that of training). ``rms`` is to be compared with Adam's
    epsilon: where it is not much larger, updates vanish [2]_. Of embeddings only rows of
    tokens, or positions, of the batch count where all others are zero, as they are unless tied.

    Values are rounded to the precision of the float32 arithmetic that they come from.

    References
    ----------
    .. [1] T. Dettmers, M. Lewis, Y. Belkada, L. Zettlemoyer, LLM.int8(): 8-bit matrix
       multiplication for transformers at scale, NeurIPS 2022, arXiv:2208.07339.
    .. [2] M. Wortsman et al., Small-scale proxies for large-scale transformer training
       instabilities, ICLR 2024, arXiv:2309.14322.

    Examples
    --------
    >>> Activations(sequences=8).settings()["length"]
    64
    """

    text: str = "nano"
    sequences: int = 32
    length: int = 64
    measures: Sequence[str] = _USUAL
    gradients: bool = True
    outlier_factor: float = 6.0
    keep_dimensions: int = 4
    batch_size: int = 8

    def __post_init__(self) -> None:
        # As the command line gives several: with commas between them.
        several = self.measures.split(",") if isinstance(self.measures, str) else self.measures
        given = tuple(str(name).strip() for name in several)
        if unknown := [name for name in given if name not in MEASURES]:
            raise UnknownNameError(f"there is no measure {unknown[0]!r}. {did_you_mean(unknown[0], MEASURES)}")
        if not given:
            raise ReadError(f"no measure to take; choose of {shown(MEASURES, len(MEASURES))}.")
        object.__setattr__(self, "measures", tuple(name for name in MEASURES if name in given))
        object.__setattr__(self, "text", str(self.text))
        for name, least in (("sequences", 1), ("length", 2), ("keep_dimensions", 0), ("batch_size", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ReadError(f"{name} is {value!r}; it must be a whole number from {least}.")
        factor = self.outlier_factor
        if isinstance(factor, bool) or not isinstance(factor, (int, float)) or not 1 < factor < math.inf:
            raise ReadError(f"outlier_factor is {factor!r}; it must be a number above 1.")

    @property
    def name(self) -> str:
        """As on the command line: ``polystab fill activations``."""
        return "activations"

    def settings(self) -> dict[str, Any]:
        """What decides the numbers. The text counts by its content, wherever it is.

        Raises
        ------
        ReadError, UnknownNameError
            There is no such text.
        """
        return {
            "text_sha256": load_text(self.text).digest,
            "sequences": self.sequences,
            "length": self.length,
            "measures": list(self.measures),
            "gradients": self.gradients,
            "outlier_factor": float(self.outlier_factor),
            "keep_dimensions": self.keep_dimensions,
        }

    def check(self) -> None:
        """Read the text before any checkpoint is loaded.

        Raises
        ------
        ReadError, UnknownNameError
            As :meth:`settings`; or torch is not installed.
        """
        library("torch")
        load_text(self.text)

    def measure(self, checkpoint: Checkpoint) -> Measurement:
        """Measure one checkpoint.

        Returns
        -------
        Measurement
            Values as above, and the group ``dimensions``. A block or matrix with NaN or infinity
            has an infinite ``max_abs``, NaN for all else, and is noted (``non-finite``).
            Noted as well: ``short-context``, ``short-text``: the batch is smaller than asked
            for; ``no-head``: there is no loss, and no gradients; ``no-attention-logits``.
            The provenance says what the batch was.

        Raises
        ------
        ActivationError
            By ``reason``: ``empty-batch``, ``unknown-tokens``, ``no-blocks``, ``no-text-model``.
        ReadError
            The checkpoint cannot be loaded.
        """
        model: Any = checkpoint.model()
        if not (hasattr(model, "config") and hasattr(model, "get_input_embeddings")):
            raise ActivationError("no-text-model", f"{type(model).__name__} is no language model of transformers.")
        text = load_text(self.text)
        tokenizer = checkpoint.tokenizer() if text.table is None else None
        batch = make_batch(text, model, tokenizer, sequences=self.sequences, length=self.length)
        masked = "MaskedLM" in type(model).__name__  # predicts no next token
        seen = record(model, batch.tokens, batch_size=self.batch_size, gradients=self.gradients and not masked)
        found = Measurement(notes=list(batch.notes))
        self._add_stream(found, seen)
        self._add_logits(found, seen)
        if self.gradients:
            self._add_gradients(found, seen, batch)
        found.provenance = {
            "batch_sha256": batch.digest,
            "batch_tokens": "{} rows of {}".format(*batch.tokens.shape),
            "batch_loss": f"{seen.loss:.6g}",
            "torch": version("torch"),
            "transformers": version("transformers"),
            "device": str(next(iter(model.parameters())).device),
            "dtype": str(model.dtype).removeprefix("torch."),
        }
        return found

    def _add_stream(self, found: Measurement, seen: Recorded) -> None:
        sites = {_site(number): states for number, states in enumerate(seen.stream)}
        measures = [name for name in self.measures if name in SIZES]
        outliers = {}
        for (site, said), layer in zip(sizes(sites, measures).items(), range(-1, len(sites) - 1), strict=True):
            if "norm" in said:
                said["norm"] /= math.sqrt(len(sites[site]))
            outliers[site] = outlier_dimensions(sites[site], factor=self.outlier_factor, keep=self.keep_dimensions)
            said |= {"outlier_count": outliers[site].count, "outlier_ratio": outliers[site].largest}
            kept = {name: value for name, value in said.items() if name in self.measures}
            _add(found, f"activation/{site}", kept, component="residual", layer=layer)
        _note_infinite(found, "activations", sites)
        if self.keep_dimensions:
            found.details["dimensions"] = _dimensions(outliers, seen.stream[0].shape[1])

    def _add_logits(self, found: Measurement, seen: Recorded) -> None:
        if "logit_max" not in self.measures:
            return
        for layer, value in sorted(seen.logits.items()):
            said = {"logit_max": value if math.isfinite(value) else math.inf}
            _add(found, f"activation/layers.{layer}.attention", said, component="attention", layer=layer)
        if not seen.logits:
            found.notes.append(
                ("no-attention-logits", "this architecture does not show its queries and keys; it has no logit_max.")
            )

    def _add_gradients(self, found: Measurement, seen: Recorded, batch: Batch) -> None:
        if not seen.gradients:
            found.notes.append(("no-head", "the model predicts no next token: there is no loss, and no gradients."))
            return
        matrices: dict[str, Array] = {}
        square, unused = 0.0, []
        for name, gradient in seen.gradients.items():
            if gradient is None:
                unused.append(name)
                continue
            array = gradient.float().cpu().numpy()
            square += float(np.square(array, dtype=np.float64).sum())
            said = parameter(name)
            if array.ndim < 2 or (said.kind != "other" and said.kind not in MATRICES):
                continue
            if said.kind == "embedding":
                array = _rows_met(array, np.unique(batch.tokens))
            elif said.kind == "position":
                array = _rows_met(array, np.arange(min(len(array), batch.tokens.shape[1])))
            matrices[name] = array
        measures = [name for name in self.measures if name in SIZES]
        for name, values in sizes(matrices, measures).items():
            said = parameter(name)
            _add(found, f"gradient/{said.subject}", values, component=said.component, layer=said.layer)
        norm = math.sqrt(square) if math.isfinite(square) else math.inf
        _add(found, "gradient/all", {**pooled_sizes(matrices, measures), "total_norm": norm}, component="", layer=-1)
        _note_infinite(found, "gradients", matrices)
        if unused:
            found.notes.append(("unused-parameters", f"have no part in the loss, and no gradient: {shown(unused)}."))


def _site(number: int) -> str:
    """The subject of what goes into block 0 (number 0), and of what comes out of block number - 1."""
    return f"layers.{number - 1}.residual" if number else "embed_in"


def _add(found: Measurement, start: str, values: Mapping[str, float], *, component: str, layer: int) -> None:
    family = start.partition("/")[0]
    for measure, value in values.items():
        units = "1" if measure in _NO_UNITS else "nat" if family == "gradient" else ""
        with np.errstate(over="ignore"):
            found.values[f"{start}/{measure}"] = float(np.float32(value))
        found.metrics[f"{start}/{measure}"] = {"units": units, "component": component, "layer": layer}


def _note_infinite(found: Measurement, what: str, arrays: Mapping[str, Array]) -> None:
    bad = {name: int(array.size - np.isfinite(array).sum()) for name, array in arrays.items()}
    bad = {name: count for name, count in bad.items() if count}
    if bad:
        n = sum(bad.values())
        found.notes.append(
            ("non-finite", f"{n} {what} are NaN or infinite, in {len(bad)} of {len(arrays)}: {shown(bad)}.")
        )


def _rows_met(gradient: Array, rows: Ints) -> Array:
    """The rows of what is in the batch, if all others are zero."""
    met = np.zeros(len(gradient), dtype=bool)
    met[rows] = True
    return gradient if gradient[~met].any() else gradient[met]


def _dimensions(outliers: Mapping[str, Outliers], width: int) -> xr.Dataset:
    """The group ``dimensions``."""
    import xarray as xr

    small = np.int16 if width <= np.iinfo(np.int16).max else np.int32
    ranks = len(next(iter(outliers.values())).dimensions)
    number = np.stack([found.dimensions for found in outliers.values()]).astype(small)
    # To 1 in 128, so that files compress well.
    mantissa, exponent = np.frexp(np.stack([found.ratios for found in outliers.values()]))
    ratio = np.ldexp(np.round(mantissa * 128) / 128, exponent)
    return xr.Dataset(
        {
            "dimension": (
                ("site", "rank"),
                number,
                {"long_name": "largest dimensions of the residual stream; -1: none"},
            ),
            "ratio": (
                ("site", "rank"),
                ratio.astype(np.float32),
                {"long_name": "root mean square over tokens, over that of the median dimension", "units": "1"},
            ),
        },
        coords={"site": np.array(list(outliers)), "rank": np.arange(ranks)},
        attrs={"summary": "largest dimensions of the residual stream on the batch"},
    )
