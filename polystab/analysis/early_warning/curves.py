"""The curves of a cube, one block for each grid of times, and what each run has told by a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, cells
from polystab.analysis.audit.runs import duplicate_runs
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, did_you_mean, shown

# Families whose curves are positive and change by factors; they are read on a logarithmic scale.
POSITIVE = ("loss", "gradient", "log")
# The detail group with one value an update, as a family of its own.
LOG = "log"


@dataclass(frozen=True, eq=False)
class Block:
    """Curves that share a grid.

    Attributes
    ----------
    values : (run, time, curve) array
        As measured; NaN is not measured, an infinite value is a divergence.
    times : (time,) array
        Steps or updates, increasing.
    names, families, groups : tuple of str
        Id of each curve, its family, and the group of curves it is pooled with.
    """

    values: Floats
    times: Floats
    names: tuple[str, ...]
    families: tuple[str, ...]
    groups: tuple[str, ...]

    @property
    def positive(self) -> Bools:
        """Which curves are read on a logarithmic scale."""
        return np.isin(np.asarray(self.families), POSITIVE)


@dataclass(frozen=True, eq=False)
class Curves:
    """All curves of a cube, runs along the first axis, model by model.

    Attributes
    ----------
    blocks : tuple of Block
    model, seed : (run,) array of int
        Positions of the run in the cube.
    models : tuple of str
    seeds : tuple of int
    copies : (run,) array of bool
        The run repeats another one from beginning to end; it counts for nothing that is learned.
    """

    blocks: tuple[Block, ...]
    model: Ints
    seed: Ints
    models: tuple[str, ...]
    seeds: tuple[int, ...]
    copies: Bools

    @property
    def n_runs(self) -> int:
        return len(self.model)

    def ends(self, until: float = np.inf) -> Floats:
        """The last time up to ``until`` at which anything of each run is measured; -inf for none."""
        last = np.full(self.n_runs, -np.inf)
        for block in self.blocks:
            there = (~np.isnan(block.values)).any(axis=2) & (block.times <= until)
            own = np.where(there, block.times, -np.inf).max(axis=1, initial=-np.inf)
            last = np.maximum(last, own)
        return last

    def points(self, until: float = np.inf) -> Ints:
        """How often the curve of each run that is measured most often is, up to ``until``."""
        most = np.zeros(self.n_runs, dtype=np.int64)
        for block in self.blocks:
            seen = block.values[:, block.times <= until]
            most = np.maximum(most, (~np.isnan(seen)).sum(axis=1).max(axis=1, initial=0))
        return most

    def diverged_at(self) -> Floats:
        """When each run first is known to have diverged; NaN for never. What comes later decides nothing.

        A run diverges at an infinite value, or where a loss, gradient norm or entry of the log that it had
        before is NaN, while most other runs of its model that are measured there have it. What is told by a gap
        in the log needs no others: it has every update, so the gap is known at the next entry.
        """
        first = np.full(self.n_runs, np.inf)
        for block in self.blocks:
            infinite: Bools = np.asarray(np.isinf(block.values).any(axis=2))
            first = np.minimum(first, _first(infinite, block.times))
            if block.families[0] == LOG:
                first = np.minimum(first, _first(_gaps(block.values), block.times))
            else:
                there: Bools = np.asarray((~np.isnan(block.values)).any(axis=2))
                lost = _lost(block.values[:, :, block.positive], there, self.model)
                first = np.minimum(first, _first(lost, block.times))
        return np.where(np.isfinite(first), first, np.nan)


def read_curves(
    data: xr.Dataset | xr.DataTree, *, families: Sequence[str] | None = None, metrics: Sequence[str] | None = None
) -> Curves:
    """The curves of a cube, and of its group ``log`` if it has one.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        A cube, or a tree with a cube at its root.
    families : sequence of str, optional
        Families to take, ``log`` among them; all by default.
    metrics : sequence of str, optional
        Ids to take of those; entries of the log are called ``log/<name>``.

    Raises
    ------
    AnalysisError
        No run, or nothing of what is wanted, is there.
    """
    cube = as_cube(data)
    if not cube.sizes.get("model") or not cube.sizes.get("seed"):
        raise AnalysisError("the cube has no runs; was nothing left by a selection?")
    blocks = [block for block in (_cube_block(cube), _log_block(data, cube)) if block is not None]
    blocks = [kept for block in blocks if (kept := _chosen(block, families, metrics)) is not None]
    if not blocks:
        there = sorted({str(name) for name in cube["family"].values.tolist()} if "family" in cube.coords else set())
        wanted = [*(families or ()), *(metrics or ())]
        raise AnalysisError(
            f"nothing to learn from: the cube has no curve of {shown(wanted)}. {did_you_mean(wanted[0], there)}"
            if wanted
            else "nothing to learn from: the cube has no metric and no step, and no group 'log'."
        )
    n_model, n_seed = cube.sizes["model"], cube.sizes["seed"]
    copies = np.asarray(duplicate_runs(cube)["duplicate_run"].values).reshape(-1)
    return Curves(
        tuple(blocks),
        np.repeat(np.arange(n_model), n_seed),
        np.tile(np.arange(n_seed), n_model),
        tuple(str(name) for name in cube["model"].values.tolist()),
        tuple(int(seed) for seed in cube["seed"].values.tolist()),
        copies,
    )


def prefix(data: xr.DataTree, step: float) -> xr.DataTree:
    """The tree as it stood at a step: checkpoints and entries of the log up to it, and no other group.

    Examples
    --------
    >>> import polystab as ps
    >>> begun = prefix(ps.load_tree("nano-edge"), 200)
    >>> int(begun["step"].max()), int(begun["log"]["update"].max())
    (200, 200)
    """
    cube = as_cube(data)
    parts = {"/": cube.isel(step=np.flatnonzero(cube["step"].values <= step))}
    if LOG in data.children:
        log = data.children[LOG].to_dataset(inherit=False)
        parts["/log"] = log.isel(update=np.flatnonzero(log["update"].values <= step))
    return xr.DataTree.from_dict(parts)


def last_time(data: xr.Dataset | xr.DataTree) -> float:
    """The last step of the cube or update of its log."""
    cube = as_cube(data)
    last = float(cube["step"].values.max(initial=0))
    if isinstance(data, xr.DataTree) and "log" in data.children:
        last = max(last, float(data.children["log"].to_dataset()["update"].values.max(initial=0)))
    return last


def _cube_block(cube: xr.Dataset) -> Block | None:
    if not cube.sizes["step"] or not cube.sizes["metric"]:
        return None
    values = cells(cube)
    names = tuple(str(name) for name in cube["metric"].values.tolist())
    families = tuple(name.split("/")[0] for name in names)
    # Parameters of a network differ between sizes; what is pooled over them can be carried over.
    groups = tuple(
        f"{family}/{name.rsplit('/', 1)[-1]}" if family in ("weight", "activation", "gradient") else name
        for name, family in zip(names, families, strict=True)
    )
    steps = np.asarray(cube["step"].values, dtype=np.float64)
    return Block(values.reshape(-1, *values.shape[2:]), steps, names, families, groups)


def _log_block(data: xr.Dataset | xr.DataTree, cube: xr.Dataset) -> Block | None:
    if not isinstance(data, xr.DataTree) or LOG not in data.children:
        return None
    log = data.children[LOG].to_dataset()
    dims = ("model", "seed", "update")
    names = [str(name) for name in log.data_vars if set(log[name].dims) == set(dims) and log[name].dtype.kind == "f"]
    if not names or not log.sizes["update"]:
        return None
    values = np.stack([np.asarray(log[name].transpose(*dims).values, dtype=np.float64) for name in names], axis=-1)
    if values.shape[:2] != (cube.sizes["model"], cube.sizes["seed"]):
        raise AnalysisError("the group 'log' has other models or seeds than the cube; align them with .sel first.")
    times = np.asarray(log["update"].values, dtype=np.float64)
    ids = tuple(f"{LOG}/{name}" for name in names)
    return Block(values.reshape(-1, *values.shape[2:]), times, ids, (LOG,) * len(ids), ids)


def _chosen(block: Block, families: Sequence[str] | None, metrics: Sequence[str] | None) -> Block | None:
    keep = np.ones(len(block.names), dtype=bool)
    if families is not None:
        keep &= np.isin(np.asarray(block.families), [families] if isinstance(families, str) else list(families))
    if metrics is not None:
        keep &= np.isin(np.asarray(block.names), [metrics] if isinstance(metrics, str) else list(metrics))
    if not keep.any():
        return None
    names, kept_families, groups = (
        tuple(text for text, kept in zip(texts, keep, strict=True) if kept)
        for texts in (block.names, block.families, block.groups)
    )
    return Block(block.values[:, :, keep], block.times, names, kept_families, groups)


def _first(found: Bools, times: Floats) -> Floats:
    """The first of the times at which it is found in each run; infinite for never."""
    return np.where(found.any(axis=1), times[found.argmax(axis=1)] if len(times) else np.inf, np.inf)


def _gaps(values: Floats) -> Bools:
    """Where an entry is measured after a gap, or another is where it is not, in a curve that had begun."""
    measured: Bools = ~np.isnan(values)
    begun = np.logical_or.accumulate(measured, axis=1)
    some = measured.any(axis=2)
    lost = begun & ~measured
    so_far = np.logical_or.accumulate(lost.any(axis=2), axis=1)
    return np.asarray(some & so_far)


def _lost(values: Floats, present: Bools, model: Ints) -> Bools:
    """Where a curve that had begun is NaN, the run is there, and most others of the model that are there have it."""
    measured: Bools = ~np.isnan(values)
    begun = np.logical_or.accumulate(measured, axis=1)
    found = np.zeros(values.shape[:2], dtype=bool)
    for m in np.unique(model):
        own = model == m
        others = measured[own].sum(axis=0) - measured[own]
        rest = present[own].sum(axis=0)[:, None] - present[own][:, :, None]
        gone = begun[own] & ~measured[own] & present[own][:, :, None]
        found[own] = (gone & (2 * others > rest) & (others > 0)).any(axis=2)
    return found


def texts(names: Sequence[str]) -> npt.NDArray[np.str_]:
    """Labels as an array of text, also where there are none."""
    return np.array(list(names), dtype=np.str_)
