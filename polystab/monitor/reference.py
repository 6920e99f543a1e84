"""Past runs of a recipe, chosen and laid out so that a live run can be compared with them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, cells
from polystab.analysis.audit.runs import counted_cells, first_alike
from polystab.analysis.failures import failed_runs
from polystab.analysis.options import check_shares, check_whole
from polystab.cube.catalog import open_any
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, did_you_mean, shown
from polystab.monitor.contest import BOTH, DOWN, UP, allowed_losses, rate_of

TRAIN_LOSS, GRADIENT_NORM = "loss/train/cross_entropy", "gradient/all/norm"

MIN_RUNS = 3

#: The rate of false alarms aimed at, where there are runs enough for it.
FALSE_ALARM = 0.05

# Variables of the group `log`, and what a cube calls them.
_LOGGED = {"loss": TRAIN_LOSS, "grad_norm": GRADIENT_NORM}

# The largest logit in size, of the layer that names words.
LOGIT_MAX = "activation/embed_out/max_abs"

# A run that ended before this share of the longest did not train to the end; a metric with a smaller share of values is left out.
_COMPLETE = 0.9


@dataclass(frozen=True, eq=False)
class Curves:
    """One metric of the past runs: ``values`` (runs, steps), in logs if ``logs``; ``side`` is the bad one."""

    steps: Ints
    values: Floats
    side: int
    logs: bool

    def plain(self, values: Floats) -> Floats:
        return np.exp(values) if self.logs else values

    def scale(self, value: float) -> float:
        return float(np.log(max(value, np.finfo(np.float64).tiny))) if self.logs else value


class Reference:
    """Past runs of one recipe, to compare a live run with.

    Parameters
    ----------
    cube : xarray.Dataset, xarray.DataTree, str or path
        A cube of past runs, or the name or path of one. A group ``log`` (``loss(model, seed,
        update)``, ``grad_norm``) goes before the cube's own training loss and gradient norm.
    model : str, optional
        Which model of the cube, where it has several.
    metrics : iterable of str, optional
        What is compared. By default training and validation losses, the gradient norm, and the
        spectral norms and largest logits that :class:`StabilityCallback` measures, as far as the cube has them.
    false_alarm : float, optional
        Share of healthy runs, at most, that may raise an alarm at any time of training. By default 0.05, or what
        the number of runs allows: n runs give 1 / (n + 1) at best.
    sustain : int, optional
        How many values in a row must be outside.

    Attributes
    ----------
    runs : list of int
        The seeds that are compared with.
    false_alarm : float
        The rate that holds, ``(2 k + 1) / (n + 1)`` where k of the n runs may have been as far out.
    curves : dict of str to Curves
        By metric.
    notes : list of str
        What was left out and why.

    Raises
    ------
    AnalysisError
        No such model or metric, fewer than three runs that count, a rate that so few runs cannot give, or nothing to compare.

    Notes
    -----
    Left out are copies of other runs, runs that went wrong (:func:`polystab.analysis.failed_runs` where there is a
    log, else a value that is infinite) and runs that stopped before the end. Losses, and metrics that say
    ``better=lower``, are bad above the band, ``better=higher`` below it, others on both sides. Gradient norms, weights and
    activations that are all positive are compared in logs. Losses should be logged as those of the past runs were:
    single updates scatter more than means of ten. Steps that the reference lacks are not compared.

    The rate holds for runs that are exchangeable with the past ones (same recipe, other seed) and whatever the
    dependence of values over steps and metrics: see :mod:`polystab.monitor.contest`.

    Examples
    --------
    >>> from polystab.monitor import Reference
    >>> reference = Reference("nano", model="nano-96k")
    >>> reference
    <Reference nano-96k: 10 runs, steps 0 to 1,000, false alarms at most 9.1 %>
    >>> sorted(reference.curves)
    ['gradient/all/norm', 'loss/train/cross_entropy', 'loss/validation/cross_entropy']
    """

    def __init__(
        self,
        cube: xr.Dataset | xr.DataTree | str | os.PathLike[str],
        *,
        model: str | None = None,
        metrics: Iterable[str] | None = None,
        false_alarm: float | None = None,
        sustain: int = 3,
    ) -> None:
        check_whole("sustain", sustain, 1)
        if false_alarm is not None:
            check_shares(false_alarm=false_alarm)
        self.sustain = sustain
        self.notes: list[str] = []
        chosen = None if metrics is None else list(metrics)
        if isinstance(cube, str | os.PathLike):
            with open_any(os.fspath(cube)) as tree:
                self._read(tree, model, chosen)
        else:
            self._read(cube, model, chosen)
        self.allowed, self.false_alarm = self._rate(false_alarm)

    @property
    def last_step(self) -> int:
        """Where the past runs end; nothing is compared after it."""
        return max(int(curves.steps[-1]) for curves in self.curves.values())

    def __repr__(self) -> str:
        first = min(int(curves.steps[0]) for curves in self.curves.values())
        return (
            f"<Reference {self.model}: {len(self.runs)} runs, steps {first:,} to {self.last_step:,}, "
            f"false alarms at most {100 * self.false_alarm:.2g} %>"
        )

    def _read(self, tree: xr.Dataset | xr.DataTree, model: str | None, metrics: list[str] | None) -> None:
        self.model = _chosen_model([str(name) for name in as_cube(tree)["model"].values], model)
        tree = _of_model(tree, self.model)
        cube = as_cube(tree)
        found = _cube_curves(cube, metrics)
        if "log" in tree.children:
            found |= _log_curves(tree.children["log"].to_dataset(), metrics)
        if not found:
            raise AnalysisError(
                "the cube has no loss, gradient norm, spectral norm or largest logit to compare with; name metrics. "
                f"It has {shown(cube['metric'].values.tolist())}."
            )
        seeds = [int(seed) for seed in cube["seed"].values]
        counted = self._counted(tree, found, seeds)
        self.runs = [seed for seed, used in zip(seeds, counted, strict=True) if used]
        if len(self.runs) < MIN_RUNS:
            left = f" {' '.join(self.notes)}" if self.notes else ""
            raise AnalysisError(
                f"{self.model} has {len(self.runs)} runs to compare with; a band needs {MIN_RUNS}.{left} "
                "Without a reference, a run is compared with its own past."
            )
        self.curves = {}
        for name, (steps, values, better) in found.items():
            curves = _laid_out(name, steps, values[counted], better)
            if curves is None:
                self.notes.append(f"{name} is not measured in all runs, and left out.")
            else:
                self.curves[name] = curves
        if not self.curves:
            raise AnalysisError(f"no metric is measured in all runs that count. {' '.join(self.notes)}")

    def _counted(self, tree: xr.DataTree, found: dict[str, tuple[Ints, Floats, str]], seeds: list[int]) -> Bools:
        """Runs that are whole, went well and are no copies."""
        joined = np.concatenate([values for _, values, _ in found.values()], axis=1)
        last = np.max([_last_step(steps, values) for steps, values, _ in found.values()], axis=0)
        missing: Bools = (last < 0) | (last < _COMPLETE * last.max())
        wrong: Bools = np.isinf(joined).any(axis=1)
        if "log" in tree.children:
            wrong |= failed_runs(tree)["wrong"].values[0]
        copies: Bools = first_alike(joined[None])[0] != np.arange(len(joined))
        whole_copies = np.isnan(counted_cells(as_cube(tree))[0][0]).all(axis=(1, 2))
        copies |= whole_copies & ~np.isnan(cells(as_cube(tree))[0]).all(axis=(1, 2))
        why = {
            "went wrong": wrong & ~missing,
            "stopped before the end or have no values": missing,
            "are copies of others": copies & ~wrong & ~missing,
        }
        for reason, which in why.items():
            if which.any():
                self.notes.append(f"Seeds {shown(np.array(seeds)[which].tolist())} {reason}, and are left out.")
        return np.asarray(~(missing | wrong | copies))

    def _rate(self, wanted: float | None) -> tuple[int, float]:
        n = len(self.runs)
        if wanted is None:
            losses = max(0, allowed_losses(n, FALSE_ALARM))
        else:
            losses = allowed_losses(n, wanted)
            if losses < 0:
                raise AnalysisError(
                    f"false_alarm is {wanted:g}, but {n} runs give {rate_of(n, 0):.2g} at best; use {int(np.ceil(1 / wanted - 1e-9)) - 1} runs, "
                    "or leave it out."
                )
        return losses, rate_of(n, losses)


def _chosen_model(models: list[str], model: str | None) -> str:
    if model is None:
        if len(models) != 1:
            raise AnalysisError(f"the reference has {len(models)} models; pass model= (--model): {shown(models)}.")
        return models[0]
    if model not in models:
        raise AnalysisError(f"the reference has no model {model!r}. {did_you_mean(model, models)}")
    return model


def _of_model(tree: xr.Dataset | xr.DataTree, model: str) -> xr.DataTree:
    """The cube and the log of one model, read if they were lazy."""
    if isinstance(tree, xr.Dataset):
        return xr.DataTree(as_cube(tree.sel(model=[model])).load())
    parts = {"/": as_cube(tree)} | ({"/log": tree.children["log"].to_dataset()} if "log" in tree.children else {})
    return xr.DataTree.from_dict({name: part.sel(model=[model]).load() for name, part in parts.items()})


def _cube_curves(cube: xr.Dataset, metrics: list[str] | None) -> dict[str, tuple[Ints, Floats, str]]:
    names = [str(name) for name in cube["metric"].values]
    if metrics is None:
        wanted = [name for name in names if is_watched(name)]
    else:
        unknown = [name for name in metrics if name not in names and name not in _LOGGED.values()]
        if unknown:
            raise AnalysisError(f"the reference has no metric {shown(unknown)}. {did_you_mean(unknown[0], names)}")
        wanted = [name for name in names if name in metrics]
    better = dict(zip(names, cube["better"].values.tolist(), strict=True)) if "better" in cube.coords else {}
    values, steps = cells(cube)[0], np.asarray(cube["step"].values, dtype=np.int64)
    return {name: (steps, values[..., names.index(name)], str(better.get(name, ""))) for name in wanted}


def is_watched(metric: str) -> bool:
    """Whether a metric is compared without being asked for."""
    family, _, rest = metric.partition("/")
    measure = rest.rpartition("/")[2]
    return metric in (GRADIENT_NORM, LOGIT_MAX) or (family, measure) in (
        ("loss", "cross_entropy"),
        ("weight", "spectral_norm"),
    )


def _log_curves(log: xr.Dataset, metrics: list[str] | None) -> dict[str, tuple[Ints, Floats, str]]:
    steps = np.asarray(log["update"].values, dtype=np.int64)
    return {
        metric: (steps, np.asarray(log[name].transpose("model", "seed", "update").values[0], np.float64), "")
        for name, metric in _LOGGED.items()
        if name in log and (metrics is None or metric in metrics)
    }


def _last_step(steps: Ints, values: Floats) -> Ints:
    """The last step at which each run is measured, -1 for none."""
    known = ~np.isnan(values)
    place = known.shape[1] - 1 - np.argmax(known[:, ::-1], axis=1)
    return np.where(known.any(axis=1), steps[place], -1)


def _laid_out(metric: str, steps: Ints, values: Floats, better: str) -> Curves | None:
    """The curves at the steps where most runs are measured; None if there is none, or a run has hardly any of them."""
    known = ~np.isnan(values)
    kept = known.mean(axis=0) > 0.5
    if not kept.any() or known[:, kept].mean(axis=1).min() < _COMPLETE:
        return None
    values, family = values[:, kept], metric.split("/")[0]
    logs = family in ("gradient", "weight", "activation") and bool(np.nanmin(values) > 0)
    side = UP if better == "lower" or family == "loss" else DOWN if better == "higher" else BOTH
    return Curves(steps[kept], np.log(values) if logs else values, side, logs)
