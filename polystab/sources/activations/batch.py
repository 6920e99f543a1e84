"""The fixed batch of text that activations and gradients are measured on."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from polystab.errors import ReadError, ReasonedError, UnknownNameError, did_you_mean
from polystab.sources.checkpoint_errors import quiet

Ints = npt.NDArray[np.int64]

# Built-in texts: a module with corpus() and vocabulary(), and which documents are taken of it.
BUILT_IN = {"nano": ("polystab.suites.grammar", 256, 64, 20261124)}
TABLES = (".npy", ".csv", ".tsv")

# Tokenizers without a limit of their own say a number like 10^30.
_NO_LIMIT = 10**9


class ActivationError(ReasonedError):
    """Activations of a checkpoint cannot be measured.

    Reasons: ``empty-batch``, ``unknown-tokens``, ``no-blocks``, ``no-text-model``.
    """


@dataclass(frozen=True, eq=False)
class BatchText:
    """What batches are cut from.

    Attributes
    ----------
    texts : tuple of str
        Empty where ``table`` is given.
    table : ndarray of int, shape (rows, tokens), or None
        Token ids, where no tokenizer is to be asked.
    digest : str
        SHA-256 of the content.
    """

    texts: tuple[str, ...]
    table: Ints | None
    digest: str


@dataclass(frozen=True, eq=False)
class Batch:
    """Token ids, all rows of one length, and the SHA-256 of them."""

    tokens: Ints
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def digest(self) -> str:
        shape = np.array(self.tokens.shape, dtype="<i8").tobytes()
        return hashlib.sha256(shape + self.tokens.astype("<i8").tobytes()).hexdigest()


@lru_cache(maxsize=8)
def load_text(spec: str) -> BatchText:
    """Text by name or from a file; read once a process.

    Parameters
    ----------
    spec : str
        ``nano``: documents of the built-in language that no run was trained on. Else a file:
        ``.npy``, ``.csv`` or ``.tsv`` are tables of token ids, a row for each sequence; any
        other is text in UTF-8.

    Raises
    ------
    ReadError, UnknownNameError
        There is no such name or file, or what is in it is neither.
    """
    if spec in BUILT_IN:
        return _built_in(*BUILT_IN[spec])
    path = Path(spec).expanduser()
    if not path.is_file():
        if not path.suffix and path.name == spec:
            raise UnknownNameError(f"no text is called {spec!r}, and no file. {did_you_mean(spec, BUILT_IN)}")
        raise ReadError(f"there is no file {path} to take a batch of text from.")
    if path.suffix.lower() in TABLES:
        table = _table(path)
        return BatchText((), table, hashlib.sha256(repr(table.shape).encode() + table.tobytes()).hexdigest())
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ReadError(
            f"{path} is no text in UTF-8 (byte {error.start}); token ids go into one of {TABLES}."
        ) from error
    return BatchText((text,), None, hashlib.sha256(content).hexdigest())


def _built_in(module: str, n: int, length: int, seed: int) -> BatchText:
    source = importlib.import_module(module)
    words = source.vocabulary()
    texts = tuple(" ".join(words[token] for token in row) for row in source.corpus(n, length, rng=seed).tolist())
    return BatchText(texts, None, hashlib.sha256("\n".join(texts).encode()).hexdigest())


def _table(path: Path) -> Ints:
    try:
        if path.suffix.lower() == ".npy":
            found: Any = np.load(path, allow_pickle=False)
        else:
            found = np.loadtxt(path, dtype=np.int64, ndmin=2, delimiter="," if path.suffix.lower() == ".csv" else None)
    except (OSError, ValueError) as error:
        raise ReadError(f"{path} is no table of token ids, with as many in each row: {error}.") from error
    if found.dtype.kind not in "iu" or found.ndim != 2 or (found.size and found.min() < 0):
        raise ReadError(
            f"{path} holds {found.dtype} of shape {found.shape}; token ids are whole numbers from 0, a row a sequence."
        )
    return np.ascontiguousarray(found, dtype=np.int64)


def make_batch(text: BatchText, model: Any, tokenizer: Any, *, sequences: int, length: int) -> Batch:
    """The first rows of tokens that a text gives for a model.

    Each text is cut into rows of ``length`` tokens, or as many as the model's context
    holds; what is left at its end is not used. Only where no text has that many are
    rows shorter.

    Parameters
    ----------
    text : BatchText
    model, tokenizer
        Of ``transformers``. The tokenizer may be None for a table of token ids.
    sequences, length : int
        Rows at most, and tokens in each.

    Raises
    ------
    ActivationError
        ``empty-batch``: not even two tokens. ``unknown-tokens``: the model has no embedding for one.
    """
    context = context_length(model, tokenizer)
    wanted = min(length, context)
    notes = []
    if wanted < length:
        notes.append(("short-context", f"rows have {wanted} tokens, which is the model's context, not {length}."))
    tokens = text.table[:sequences, :wanted] if text.table is not None else _cut(text, tokenizer, sequences, wanted)
    if tokens.shape[0] < 1 or tokens.shape[1] < 2:
        raise ActivationError(
            "empty-batch",
            f"the text gives {tokens.shape[0]} rows of {tokens.shape[1]} tokens; activations need one row of two.",
        )
    known = int(model.get_input_embeddings().weight.shape[0])
    if int(tokens.max()) >= known:
        raise ActivationError(
            "unknown-tokens",
            f"the batch has the token {int(tokens.max())}, the model has embeddings for {known}: they do not belong "
            "together.",
        )
    if tokens.shape[0] < sequences or tokens.shape[1] < wanted:
        notes.append(
            (
                "short-text",
                f"the text gives {tokens.shape[0]} rows of {tokens.shape[1]} tokens, not {sequences} of {wanted}.",
            )
        )
    return Batch(np.ascontiguousarray(tokens), tuple(notes))


def _cut(text: BatchText, tokenizer: Any, sequences: int, length: int) -> Ints:
    """Rows of equal length from the texts, in their order, without special tokens around them."""
    rows: list[list[int]] = []
    longest: list[int] = []
    with quiet():
        for part in text.texts:
            # Of a long text only the beginning is needed; a token has fewer than 64 characters.
            beginning = part[: 64 * sequences * length]
            ids = list(tokenizer(beginning, add_special_tokens=False, truncation=False)["input_ids"])
            longest = max(longest, ids, key=len)
            rows += [ids[at : at + length] for at in range(0, len(ids) - length + 1, length)]
            if len(rows) >= sequences:
                break
    chosen = rows[:sequences] or [longest]
    return np.array(chosen, dtype=np.int64).reshape(len(chosen), -1)


def context_length(model: Any, tokenizer: Any) -> int:
    """Tokens that a model can read at once."""
    limits = [getattr(model.config, name, None) for name in ("max_position_embeddings", "n_positions", "n_ctx")]
    limits.append(getattr(tokenizer, "model_max_length", None))
    return min([int(n) for n in limits if isinstance(n, (int, float)) and 0 < n < _NO_LIMIT], default=_NO_LIMIT)
