"""How the checkpoints of a run descend from each other, measured on their weights.

Every checkpoint is read once, tensor by tensor; no model is built. Of each weight matrix a
few thousand elements are kept, always the same ones, and the correlations between
checkpoints are taken over those; so 154 checkpoints fit into memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.errors import ReadError
from polystab.progress_bars import Bar
from polystab.sources.checkpoint_errors import CheckpointError, library
from polystab.sources.checkpoints import Checkpoint, CheckpointOptions, open_checkpoint

if TYPE_CHECKING:
    import torch

    from polystab.sources.runs import Run, RunTable

Floats = npt.NDArray[np.float64]

# Elements kept of each matrix: a correlation is then known to about (1 - r^2) / 64.
SAMPLE = 4096

_DOCS = {
    "correlation": "correlation of the weights, element by element: median over matrices",
    "content": "hash of all weights; empty where there is no such checkpoint",
    "relative_change": "||W - W_before|| / ||W_before|| since the kept checkpoint before: largest over matrices",
    "allowed_change": "the same if every update moved every weight by the learning rate: at that matrix",
    "tokenizer": "hash of tokenizer.json; empty where there is none",
    "half_precision": "whether all weights are stored in 16 bits",
    "n_matrices": "matrices that were compared",
}


@dataclass
class _Kept:
    """What is kept of one checkpoint."""

    samples: dict[str, Floats] = field(default_factory=dict)
    content: str = ""
    tokenizer: str = ""
    half: bool = False


def weight_lineage(
    table: RunTable,
    *,
    options: CheckpointOptions | None = None,
    warmup: int | None = None,
    sample: int = SAMPLE,
    progress: Callable[[Run, int], None] | None = None,
) -> xr.Dataset:
    """Compare every kept checkpoint of each run with every other one.

    Parameters
    ----------
    table : RunTable
        The runs, with the steps to compare; ``table.select`` narrows them. Two steps are
        enough for the change at the start of training, restarts need three.
    options : CheckpointOptions, optional
        How checkpoints are fetched.
    warmup : int, optional
        Updates over which the learning rate rises linearly to the peak that the table
        gives (``learning_rate``); without it the fact ``warmup_steps`` of the table, or none.
    sample : int, optional
        Elements kept of each matrix; smaller ones are kept whole.
    progress : callable, optional
        Called with run and step before each checkpoint.

    Returns
    -------
    xarray.Dataset
        ``correlation(model, seed, step, other_step)``: of the weights element by element,
        the median over all matrices (tensors with two dimensions or more; vectors are left
        out, since gains and biases begin equal), NaN where a checkpoint is not there or its
        weights are not finite. ``content(model, seed, step)``: equal where all tensors are
        equal, whatever the precision and the sign of zero. ``relative_change``: Frobenius
        norm of the change since the kept checkpoint before over the norm there, for the
        matrix with the largest; ``allowed_change``: the sum of learning rates in between
        over the root mean square of that matrix, NaN without a learning rate.
        ``tokenizer``, ``half_precision(model, seed, step)`` and ``n_matrices(model, seed)``.
        ``missing`` in the attributes counts checkpoints that could not be read.

    Raises
    ------
    ReadError
        No checkpoint could be read, or ``sample`` is below 2.

    Notes
    -----
    :func:`polystab.analysis.audit_cube` judges the result. Norms are those of the kept
    elements, which for 4,096 of them are off by about 1 %.
    """
    if sample < 2:
        raise ReadError(f"sample={sample}: a correlation needs at least 2 elements of each matrix.")
    table = table.with_steps(options)
    models, seeds = list(dict.fromkeys(run.model for run in table)), sorted({run.seed for run in table})
    steps = sorted({step for run in table for step in run.steps})
    result = _empty(models, seeds, steps)
    unread: list[str] = []
    with Bar("Reading weights", unit="checkpoint", total=sum(len(run.steps) for run in table)) as bar:
        for run in table:
            kept: dict[int, _Kept] = {}
            for step in run.steps:
                if progress is not None:
                    progress(run, step)
                try:
                    with open_checkpoint(run, step, options=options) as checkpoint:
                        kept[step] = _read(checkpoint, sample)
                except CheckpointError as error:
                    # A checkpoint that is missing or damaged leaves a hole, as in filling a cube.
                    unread.append(f"{run} step {step}: {error}")
                bar.advance()
            if kept:
                _put(result, (models.index(run.model), seeds.index(run.seed)), steps, kept, _rates(run, warmup))
    if not (result["content"] != "").any():
        raise ReadError(f"no checkpoint could be read; first, {unread[0]}")
    result.attrs["missing"] = len(unread)
    for name, text in _DOCS.items():
        result[name].attrs["long_name"] = text
    return result


def _empty(models: list[str], seeds: list[int], steps: list[int]) -> xr.Dataset:
    shape = (len(models), len(seeds), len(steps))
    dims = ("model", "seed", "step")
    return xr.Dataset(
        {
            "correlation": ((*dims, "other_step"), np.full((*shape, len(steps)), np.nan)),
            "content": (dims, np.full(shape, "", dtype="<U32")),
            "relative_change": (dims, np.full(shape, np.nan)),
            "allowed_change": (dims, np.full(shape, np.nan)),
            "tokenizer": (dims, np.full(shape, "", dtype="<U32")),
            "half_precision": (dims, np.zeros(shape, dtype=bool)),
            "n_matrices": (dims[:2], np.zeros(shape[:2], dtype=np.int64)),
        },
        coords={
            "model": np.array(models, dtype=np.str_),
            "seed": np.array(seeds),
            "step": np.array(steps),
            "other_step": np.array(steps),
        },
    )


def _read(checkpoint: Checkpoint, sample: int) -> _Kept:
    """One pass over the tensors."""
    torch = library("torch")
    kept, parts, half = _Kept(), {}, True
    for name, tensor in checkpoint.tensors():
        if not tensor.is_floating_point():
            continue
        half &= tensor.element_size() == 2
        # Adding zero makes +0 of -0, which are one number.
        flat = tensor.detach().reshape(-1).to(torch.float32) + 0.0
        parts[name] = hashlib.blake2b(flat.numpy().tobytes(), digest_size=16).hexdigest()
        if tensor.dim() >= 2:
            kept.samples[name] = _sampled(flat, name, sample)
    kept.content = hashlib.blake2b(repr(sorted(parts.items())).encode(), digest_size=16).hexdigest()
    kept.half = half and bool(parts)
    file = None if checkpoint.folder is None else checkpoint.folder / "tokenizer.json"
    if file is not None and file.is_file():
        kept.tokenizer = hashlib.blake2b(file.read_bytes(), digest_size=16).hexdigest()
    return kept


def _sampled(flat: torch.Tensor, name: str, sample: int) -> Floats:
    """The same elements of a matrix at every checkpoint."""
    if flat.numel() <= sample:
        return np.asarray(flat.numpy(), dtype=np.float64)
    # The name decides, so that matrices of one shape are not sampled in one pattern.
    seed = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
    places = np.random.default_rng(seed).integers(0, flat.numel(), sample)
    return np.asarray(flat.numpy()[places], dtype=np.float64)


def _rates(run: Run, warmup: int | None) -> Callable[[int, int], float]:
    """The sum of learning rates of the updates from one step to another; NaN where unknown."""
    peak = _number(run.facts.get("learning_rate"))
    rising = warmup if warmup is not None else _number(run.facts.get("warmup_steps"))
    rising = 0.0 if np.isnan(rising) else float(rising)

    def total(step: int) -> float:
        within = min(float(step), rising)
        # Update u of the warm-up has the rate peak u / rising.
        return (within * (within + 1) / (2 * rising) if rising else 0.0) + step - within

    return lambda before, after: peak * (total(after) - total(before))


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _put(
    result: xr.Dataset,
    at: tuple[int, int],
    steps: list[int],
    kept: dict[int, _Kept],
    rates: Callable[[int, int], float],
) -> None:
    """The numbers of one run."""
    order = sorted(kept)
    where = [steps.index(step) for step in order]
    # Only matrices that every checkpoint has, in one shape, can be followed.
    first = kept[order[0]].samples
    names = [
        name
        for name in first
        if all(name in k.samples and k.samples[name].size == first[name].size for k in kept.values())
    ]
    result["n_matrices"].values[at] = len(names)
    for name, column in (("content", "content"), ("tokenizer", "tokenizer"), ("half_precision", "half")):
        for place, step in zip(where, order, strict=True):
            result[name].values[(*at, place)] = getattr(kept[step], column)
    if not names:
        return
    tables = [np.stack([kept[step].samples[name] for step in order]) for name in names]
    correlations = np.stack([_correlations(table) for table in tables])
    result["correlation"].values[at][np.ix_(where, where)] = _median(correlations)
    for number in range(1, len(order)):
        change, allowed = _changes(tables, number, rates(order[number - 1], order[number]))
        result["relative_change"].values[(*at, where[number])] = change
        result["allowed_change"].values[(*at, where[number])] = allowed


def _correlations(table: Floats) -> Floats:
    """Pearson correlations of the rows; NaN for a row that is constant or not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        centred = table - table.mean(axis=1, keepdims=True)
        size = np.sqrt((centred**2).sum(axis=1, keepdims=True))
        unit = centred / np.where(size > 0, size, np.nan)
        return np.asarray(np.clip(unit @ unit.T, -1.0, 1.0))


def _median(stacked: Floats) -> Floats:
    """Median over matrices, without those that have no correlation; NaN if none has."""
    ordered = np.sort(stacked, axis=0)  # NaN last
    n = (~np.isnan(stacked)).sum(axis=0)
    low, high = np.maximum((n - 1) // 2, 0), np.maximum(n // 2, 0)
    pick = [np.take_along_axis(ordered, np.minimum(i, len(ordered) - 1)[None], axis=0)[0] for i in (low, high)]
    return np.where(n > 0, (pick[0] + pick[1]) / 2, np.nan)


def _changes(tables: list[Floats], number: int, rate: float) -> tuple[float, float]:
    """Largest relative change over the matrices, and what the learning rate allows of that one."""
    changes, allowed = [], []
    for table in tables:
        before, after = table[number - 1], table[number]
        size = float(np.sqrt((before**2).sum()))
        # A matrix that begins at zero has no relative change.
        if size > 0 and np.isfinite(size) and np.isfinite(after).all():
            changes.append(float(np.sqrt(((after - before) ** 2).sum())) / size)
            allowed.append(rate * np.sqrt(len(before)) / size)
    if not changes:
        return float("nan"), float("nan")
    largest = int(np.argmax(changes))
    return changes[largest], float(allowed[largest])
