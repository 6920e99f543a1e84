"""The answers of a group ``items`` as plain arrays: joined on documents, copies of runs left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, Ints
from polystab.analysis.audit.runs import duplicate_runs, first_alike
from polystab.errors import AnalysisError, did_you_mean, shown

# Signed integers as they come, of at most 32 bits: there may be very many.
Codes = npt.NDArray[np.signedinteger]

ANSWERS = ("choice", "correct")
POOLED = "pooled"

# Fewer items may well be answered alike at every step by honest runs.
_COPY_ITEMS = 20

_RUN_DIMS = ("model", "seed", "step")
_DIMS = (*_RUN_DIMS, "item")


@dataclass(frozen=True)
class ItemTable:
    """What was answered to every item, -1 where nothing was.

    ``codes[answer]`` is (model, seed, step, item) with the items of a task side by side;
    ``parts`` are the tasks and where their items stand. Runs in ``copies`` (task, model, seed)
    have no answers left; the last row of ``copies`` is for all tasks together.
    ``n_joined`` labels were of a document that stands under another label too.
    """

    codes: dict[str, Codes]
    parts: tuple[tuple[str, slice], ...]
    copies: Bools
    n_joined: int
    coords: dict[str, npt.NDArray[np.generic]]

    @property
    def tasks(self) -> list[str]:
        """The tasks, and last all of them together."""
        return [*(task for task, _ in self.parts), POOLED]

    @property
    def n_items(self) -> list[int]:
        """Items of every task, and last of all."""
        sizes = [part.stop - part.start for _, part in self.parts]
        return [*sizes, sum(sizes)]


def read_items(items: xr.Dataset | xr.DataTree, answers: str | Iterable[str] | None = None) -> ItemTable:
    """The answers of a group ``items``, from the group itself or from a tree that has it.

    Parameters
    ----------
    items : xarray.Dataset or xarray.DataTree
        With ``choice``, ``correct`` or both over (model, seed, step, item), and ``task``
        and ``doc_hash`` along ``item``. A single model, seed, step or item may have been
        selected. Of a tree with a cube at its root the copies that
        :func:`duplicate_runs` finds there are left out too.
    answers : str or iterable of str, optional
        Which variables; by default those of ``choice`` and ``correct`` that there are.

    Raises
    ------
    AnalysisError
        There is no such group or variable, or what is in it are not answers.
    """
    data, root = _group(items)
    wanted = _wanted(data, answers)
    data = _with_dimensions(data)
    tasks, hashes = (np.array([str(x) for x in data[name].values.tolist()]) for name in ("task", "doc_hash"))
    if POOLED in tasks:
        raise AnalysisError(f"a task is called {POOLED!r}, which is the name of all tasks together; rename it.")
    names = np.array([str(x) for x in data["item"].values.tolist()])
    plain = {name: _codes(data[name]) for name in wanted}
    first, folds = _joined(tasks, np.where(hashes == "", names, hashes), plain)
    kept = first[np.argsort(np.unique(tasks[first], return_inverse=True)[1], kind="stable")]
    ordered = tasks[kept]
    edges = [0, *(np.flatnonzero(ordered[1:] != ordered[:-1]) + 1).tolist(), len(ordered)]
    parts = tuple((str(ordered[a]), slice(a, b)) for a, b in pairwise(edges))
    codes = {name: _folded(array, folds)[..., kept] for name, array in plain.items()}
    copies = _copies(codes, parts, _known_copies(root, data))
    for array in codes.values():
        for row, (_, part) in enumerate(parts):
            array[..., part][copies[row]] = -1
    return ItemTable(
        codes,
        parts,
        copies,
        len(tasks) - len(kept),
        {name: data[name].values for name in _RUN_DIMS}
        | {"item": names[kept], "task": ordered, "doc_hash": hashes[kept]},
    )


def _group(items: xr.Dataset | xr.DataTree) -> tuple[xr.Dataset, xr.Dataset | None]:
    """The group, and the cube at the root of its tree."""
    root = None
    if isinstance(items, xr.DataTree):
        top = items.root.to_dataset()
        root = top if "value" in top.data_vars else None
        items = (items["items"] if "items" in items.children else items).to_dataset()
    if not isinstance(items, xr.Dataset):
        raise AnalysisError(f"expected the group items (xarray Dataset or DataTree), got {type(items).__name__}.")
    if "item" not in items.variables or not set(ANSWERS) & set(items.data_vars):
        hint = (
            "A cube without its groups has no answers: open the file with ps.open_tree(path). If there is no such "
            "group in it, ps.fill with the source evals, or reading samples files, makes one."
        )
        raise AnalysisError(f"no group 'items' here (found {shown(list(items.data_vars)) or 'nothing'}). {hint}")
    return items, root


def _wanted(data: xr.Dataset, answers: str | Iterable[str] | None) -> list[str]:
    if answers is None:
        return [name for name in ANSWERS if name in data.data_vars]
    wanted = [answers] if isinstance(answers, str) else list(answers)
    if unknown := [name for name in wanted if name not in ANSWERS]:
        raise AnalysisError(f"answers has {shown(unknown)}. {did_you_mean(str(unknown[0]), ANSWERS)}")
    if not wanted or len(set(wanted)) < len(wanted):
        raise AnalysisError(f"answers is {wanted!r}; give 'choice', 'correct', or both once.")
    if missing := [name for name in wanted if name not in data.data_vars]:
        raise AnalysisError(f"the group items has no variable {missing[0]!r}; it has {shown(list(data.data_vars))}.")
    return wanted


def _with_dimensions(data: xr.Dataset) -> xr.Dataset:
    """The group with the dimensions that selecting one label took away."""
    for name in ("task", "doc_hash", *_RUN_DIMS):
        if name not in data.variables:
            raise AnalysisError(f"the group items has no {name!r}; it is needed along {shown(_DIMS)}.")
    lost = [name for name in _DIMS if name not in data.dims]
    data = data.reset_coords([name for name in ("task", "doc_hash") if name in data.coords]).expand_dims(lost)
    for name in ("task", "doc_hash"):
        data[name] = data[name].isel({dim: 0 for dim in data[name].dims if dim != "item"})
    for name in ("model", "seed", "step"):
        labels = data[name].values
        if len(np.unique(labels)) < len(labels):
            raise AnalysisError(f"labels stand twice along {name} of the group items; keep one entry for each.")
    if empty := [name for name in _DIMS if not data.sizes[name]]:
        raise AnalysisError(f"nothing along {shown(empty)} of the group items.")
    if not (np.diff(data["step"].values) > 0).all():
        raise AnalysisError("steps of the group items do not increase; use items.sortby('step').")
    return data


def _codes(variable: xr.DataArray) -> Codes:
    """Answers as integers, -1 for none."""
    if set(variable.dims) != set(_DIMS):
        raise AnalysisError(f"items {variable.name!r} lies along {variable.dims}, not along {_DIMS}.")
    values = np.asarray(variable.transpose(*_DIMS).values)
    if values.dtype.kind == "f":  # as xarray decodes integers with a fill value
        values = np.where(np.isfinite(values), values, -1)
        if (values != np.floor(values)).any():
            raise AnalysisError(f"items {variable.name!r} has fractions; an answer is the number of an option.")
    elif values.dtype.kind not in "iub":
        raise AnalysisError(f"items {variable.name!r} is {values.dtype}; answers are whole numbers, -1 for none.")
    most = int(values.max(initial=0))
    if variable.name == "correct" and most > 1:
        raise AnalysisError(f"items 'correct' holds {most}; it is 1, 0, or -1 for not evaluated.")
    if most > np.iinfo(np.int32).max:
        raise AnalysisError(f"items {variable.name!r} holds {most}, which is no number of an option.")
    small = values if values.dtype.kind == "i" and values.dtype.itemsize <= 4 else values.astype(np.int64)
    codes: Codes = np.maximum(small, -1).astype(small.dtype if small is values else np.int32)
    return codes


def _joined(
    tasks: npt.NDArray[np.str_], hashes: npt.NDArray[np.str_], codes: dict[str, Codes]
) -> tuple[Ints, list[list[int]]]:
    """Items to keep, and those of one document that stand in several places.

    Runs read at different times may have their answers to a document under two labels.
    They are one item if no checkpoint answered at both; otherwise the document is in the
    task twice.
    """
    places: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, key in enumerate(zip(tasks.tolist(), hashes.tolist(), strict=True)):
        places[key].append(i)
    folds = [
        spots
        for spots in places.values()
        if len(spots) > 1 and all(((array[..., spots] >= 0).sum(axis=-1) <= 1).all() for array in codes.values())
    ]
    gone = {i for spots in folds for i in spots[1:]}
    return np.array([i for i in range(len(tasks)) if i not in gone], dtype=np.int64), folds


def _folded(array: Codes, folds: list[list[int]]) -> Codes:
    if folds:
        array = array.copy()
        for spots in folds:
            array[..., spots[0]] = array[..., spots].max(axis=-1)
    return array


def _copies(codes: dict[str, Codes], parts: Sequence[tuple[str, slice]], found: Bools) -> Bools:
    """Runs (task, model, seed) whose answers are those of an earlier seed, the last row for whole runs.

    ``found`` are the runs (model, seed) that are known as copies already.
    """
    result = np.zeros((len(parts) + 1, *found.shape), dtype=bool)
    whole = slice(0, parts[-1][1].stop)
    for row, part in enumerate([*(part for _, part in parts), whole]):
        if part.stop - part.start >= _COPY_ITEMS:
            keys = _step_keys([array[..., part] for array in codes.values()])
            result[row] = first_alike(keys) != np.arange(found.shape[1])
    result[-1] |= found
    return np.asarray(result | result[-1])


def _known_copies(root: xr.Dataset | None, data: xr.Dataset) -> Bools:
    """Runs of the group (model, seed) that the cube says are copies."""
    if root is None:
        return np.zeros((data.sizes["model"], data.sizes["seed"]), dtype=bool)
    found = duplicate_runs(root)["duplicate_run"]
    found = found.reindex(model=data["model"].values, seed=data["seed"].values, fill_value=False)
    return np.asarray(found.transpose("model", "seed").values, dtype=bool)


def _step_keys(answers: Sequence[Codes]) -> npt.NDArray[np.float64]:
    """A number for the answers of each checkpoint (model, seed, step), equal where all are; NaN for none.

    Whole trajectories are then compared as those of a metric are: at one step two honest
    runs may well answer alike (all items right, or one option always), at five not.
    """
    rng = np.random.default_rng(0)
    keys = np.zeros(answers[0].shape[:-1])
    for codes in answers:  # whole numbers below 2**53: exact, whatever the order of the sum
        weight = rng.integers(1, 2**20, codes.shape[-1]).astype(np.float64)
        for row, part in zip(keys, codes, strict=True):  # a model at a time, to hold little beside the answers
            row += (part + 1.0) @ weight
    return np.where(keys > 0, keys, np.nan)


def blocks(table: ItemTable, most_cells: int) -> Iterator[slice]:
    """Slices of steps, so that no more than ``most_cells`` answers are looked at together."""
    n_model, n_seed, n_step, n_item = next(iter(table.codes.values())).shape
    width = max(most_cells // max(n_model * n_seed * n_item, 1), 1)
    for start in range(0, n_step, width):
        yield slice(start, min(start + width, n_step))
