"""Two cubes brought into line: which models, metrics and steps stand against each other, and which runs count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, better_of, cells
from polystab.analysis.audit.equality import varied
from polystab.analysis.audit.runs import counted_cells
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, did_you_mean, shown

Models = Mapping[str, str] | Sequence[str] | None

SIDES = ("this", "other")


@dataclass(frozen=True)
class Matched:
    """Two cubes and what they have in common: pairs of models, metrics, steps in increasing order, seeds.

    The seeds are those of either side, or the common ones where they are pairs. ``alone`` counts the models and
    metrics of either cube that are not compared.
    """

    this: xr.Dataset
    other: xr.Dataset
    models: tuple[tuple[str, str], ...]
    metrics: tuple[str, ...]
    steps: Ints
    better: tuple[str, ...]
    seeds: tuple[Ints, Ints]
    notes: tuple[str, ...]
    alone: tuple[int, int]

    def read(self, place: int) -> Sides:
        """The runs of one pair of models, in memory."""
        names = self.models[place]
        loaded = [
            self._side(cube, name, seeds)
            for cube, name, seeds in zip((self.this, self.other), names, self.seeds, strict=True)
        ]
        values, raw = [one[0] for one in loaded], [one[1] for one in loaded]
        common_a, common_b = common_trajectories(*raw)
        measured = [~np.isnan(one) for one in values]
        most = [one[2] for one in loaded]
        return Sides(values[0], values[1], common_a, common_b, (measured[0], measured[1]), (most[0], most[1]))

    def _side(self, cube: xr.Dataset, model: str, seeds: Ints) -> tuple[Floats, Floats, Ints]:
        """Counted and raw values (seed, step, metric) of what is common, and runs at each metric's fullest step."""
        part = cube.sel(model=[model]).load()
        rows = _places(part, "seed", seeds)
        counted = counted_cells(part)[0][0][rows]
        most = (~np.isnan(counted)).sum(axis=0).max(axis=0)
        metrics, steps = _places(part, "metric", self.metrics), _places(part, "step", self.steps)
        common = np.ix_(np.arange(len(rows)), steps, metrics)
        return counted[common], cells(part)[0][np.ix_(rows, steps, metrics)], most[metrics]


@dataclass(frozen=True)
class Sides:
    """Values (seed, step, metric) of two models, copies within each not measured.

    ``common_this`` and ``common_other`` (seed, metric) are trajectories that stand on both sides; ``measured``
    is where a run has a value, and ``most`` (metric) how many have one at the fullest step of each side.
    """

    this: Floats
    other: Floats
    common_this: Bools
    common_other: Bools
    measured: tuple[Bools, Bools]
    most: tuple[Ints, Ints]

    def last_steps(self) -> Ints:
        """Position of the last step at which more than half of the runs of either side are measured, -1 for none."""
        full = [
            2 * known.sum(axis=0) > np.maximum(most, 1) for known, most in zip(self.measured, self.most, strict=True)
        ]
        both = full[0] & full[1]
        return np.where(both.any(axis=0), both.shape[0] - 1 - both[::-1].argmax(axis=0), -1)

    def own(self, this: Floats, other: Floats) -> tuple[Floats, Floats, Ints, Bools]:
        """Values (seed, ..., metric) in which every run counts once, how many did twice, and where nothing else is left.

        A run on both sides says nothing about their difference and is left out of both. Where a side has no other
        run it keeps it, and the other side alone goes without. Where neither has, all of them stay.
        """
        shape = (-1, *(1,) * (this.ndim - 2), this.shape[-1])
        common = [flags.reshape(shape) for flags in (self.common_this, self.common_other)]
        known = ~np.isnan(this), ~np.isnan(other)
        twice = [(flags & have).sum(axis=0) for flags, have in zip(common, known, strict=True)]
        left = [(~flags & have).sum(axis=0) for flags, have in zip(common, known, strict=True)]
        same = (left[0] == 0) & (left[1] == 0) & (twice[0] > 0) & (twice[1] > 0)
        kept = [left[side] == 0 for side in (0, 1)]
        this, other = (
            np.where(flags & ~keep, np.nan, side) for flags, keep, side in zip(common, kept, (this, other), strict=True)
        )
        return this, other, np.maximum(*twice), same


def common_trajectories(this: Floats, other: Floats) -> tuple[Bools, Bools]:
    """Trajectories (seed, metric) of each side that the other has too, from values (seed, step, metric).

    Two are the same if they are equal to the last bit wherever both are measured, with enough different values
    to be no coincidence; so are all of two runs that are equal in all metrics together.
    """
    found = np.zeros((len(this), this.shape[2]), dtype=bool), np.zeros((len(other), other.shape[2]), dtype=bool)
    known = ~np.isnan(other)
    for i, run in enumerate(this):
        both = known & ~np.isnan(run)
        compared = both.any(axis=1)
        alike = compared & ~(both & (other != run)).any(axis=1)  # run of the other side, metric
        for j in np.flatnonzero(alike.any(axis=1)).tolist():
            if alike[j][compared[j]].all() and varied(run[both[j]]):
                same = np.ones_like(alike[j])
            else:
                same = alike[j].copy()
                same[alike[j]] = [varied(run[both[j][:, k], k]) for k in np.flatnonzero(alike[j])]
            found[0][i] |= same
            found[1][j] |= same
    return found


def match(
    cube: xr.Dataset | xr.DataTree,
    other: xr.Dataset | xr.DataTree,
    *,
    models: Models = None,
    metrics: Sequence[str] | None = None,
    paired: bool = False,
) -> Matched:
    """What of two cubes can be compared.

    Raises
    ------
    AnalysisError
        They have no model, metric, step or (of pairs) seed in common; a metric has other units, or is better in
        another direction.
    """
    this, that = as_cube(cube), as_cube(other)
    for side, one in zip(("the cube", "the other cube"), (this, that), strict=True):
        if empty := [dim for dim in ("model", "seed", "step", "metric") if not one.sizes[dim]]:
            raise AnalysisError(f"{side} has nothing along {shown(empty)}; was nothing left by a selection?")
    pairs = _model_pairs(this["model"].values.tolist(), that["model"].values.tolist(), models)
    names = _metrics(this, that, metrics)
    alone = (
        this.sizes["model"] + that.sizes["model"] - len({a for a, _ in pairs}) - len({b for _, b in pairs}),
        this.sizes["metric"] + that.sizes["metric"] - 2 * len(names),
    )
    better = _better(this, that, names)
    _check_units(this, that, names)
    steps = np.intersect1d(this["step"].values, that["step"].values).astype(np.int64)
    if not len(steps):
        raise AnalysisError(
            f"the cubes have no step in common: {_range(this)} here, {_range(that)} there. Give them the same steps, "
            "e.g. cube.sel(step=[...]).assign_coords(step=[...])."
        )
    notes = _notes_on_steps(this, that, steps) + _notes_on_items(this, that, names)
    notes += _notes_on_seeds(this, [a for a, _ in pairs], "this") + _notes_on_seeds(
        that, [b for _, b in pairs], "other"
    )
    seeds = _seeds(this, that, paired)
    return Matched(this, that, tuple(pairs), tuple(names), steps, tuple(better), seeds, tuple(notes), alone)


def _model_pairs(here: list[str], there: list[str], models: Models) -> list[tuple[str, str]]:
    if models is None:
        if len(here) == 1 and len(there) == 1:
            return [(here[0], there[0])]
        both = [(name, name) for name in here if name in there]
        if not both:
            raise AnalysisError(
                f"the cubes have no model in common: {shown(here)} here, {shown(there)} there. Say which stand against "
                f"each other: models={{{here[0]!r}: {there[0]!r}}}."
            )
        return both
    if isinstance(models, str):
        models = [models]
    if not isinstance(models, Mapping | Sequence) or not models:
        raise AnalysisError(f"models={models!r} names none; give {{'here': 'there'}}, or names that both cubes have.")
    pairs = list(models.items()) if isinstance(models, Mapping) else [(name, name) for name in models]
    for pair in pairs:
        for side, names, name in (("the cube", here, pair[0]), ("the other cube", there, pair[1])):
            if name not in names:
                raise AnalysisError(f"{side} has no model {name!r}. {did_you_mean(str(name), names)}")
    if len({pair[0] for pair in pairs}) < len(pairs):
        raise AnalysisError("a model stands in models twice; compare it with one at a time.")
    return [(str(a), str(b)) for a, b in pairs]


def _metrics(this: xr.Dataset, other: xr.Dataset, wanted: Sequence[str] | None) -> list[str]:
    here, there = this["metric"].values.tolist(), other["metric"].values.tolist()
    if wanted is not None:
        asked = [wanted] if isinstance(wanted, str) else list(wanted)
        for side, names in (("the cube", here), ("the other cube", there)):
            if absent := [name for name in asked if name not in names]:
                raise AnalysisError(f"{side} has no metric {absent[0]!r}. {did_you_mean(str(absent[0]), names)}")
        if not asked:
            raise AnalysisError("metrics lists none; leave it out to compare every metric that both cubes have.")
        return list(dict.fromkeys(asked))
    known = set(there)
    both = [name for name in here if name in known]
    if not both:
        raise AnalysisError(
            f"the cubes have no metric in common: {shown(here, 3)} here, {shown(there, 3)} there. Ids include shots and "
            "filters; rename them with cube.assign_coords(metric=[...])."
        )
    return both


def _seeds(this: xr.Dataset, other: xr.Dataset, paired: bool) -> tuple[Ints, Ints]:
    """The seeds of either side, or those of both in one order."""
    if not isinstance(paired, bool | np.bool_):
        raise AnalysisError(
            f"paired is {paired!r}; it is True where seed k of one cube belongs to seed k of the other, else False."
        )
    here, there = (one["seed"].values.astype(np.int64) for one in (this, other))
    if not paired:
        return here, there
    both = np.intersect1d(here, there)
    if not len(both):
        raise AnalysisError(
            f"the cubes have no seed in common ({shown(here.tolist())} here, {shown(there.tolist())} there), so there are "
            "no pairs; leave out paired=True, or give pairs the same seed."
        )
    return both, both


def _better(this: xr.Dataset, other: xr.Dataset, names: list[str]) -> list[str]:
    here, there = (
        dict(zip(one["metric"].values.tolist(), better_of(one).tolist(), strict=True)) for one in (this, other)
    )
    odd = [name for name in names if here[name] and there[name] and here[name] != there[name]]
    if odd:
        raise AnalysisError(
            f"one cube says that {shown(odd)} is better higher and the other lower. Set the coordinate 'better' of one "
            "of them right, or choose others with metrics=[...]."
        )
    return [here[name] or there[name] for name in names]


def _check_units(this: xr.Dataset, other: xr.Dataset, names: list[str]) -> None:
    if "units" not in this.coords or "units" not in other.coords:
        return
    here, there = (
        dict(zip(one["metric"].values.tolist(), one["units"].values.tolist(), strict=True)) for one in (this, other)
    )
    odd = [
        f"{name}: {here[name]} and {there[name]}"
        for name in names
        if here[name] and there[name] and here[name] != there[name]
    ]
    if odd:
        raise AnalysisError(
            f"metrics have other units in the two cubes: {shown(odd)}. Convert one of them and set its coordinate "
            "'units', or choose others with metrics=[...]."
        )


def _notes_on_steps(this: xr.Dataset, other: xr.Dataset, steps: Ints) -> list[str]:
    if "tokens" not in this.coords or "tokens" not in other.coords:
        return []
    here, there = (one["tokens"].sel(step=steps).values.astype(np.int64) for one in (this, other))
    if ((here != there) & (here >= 0) & (there >= 0)).any():
        return ["the same step is not the same number of tokens in the two cubes"]
    return []


def _notes_on_items(this: xr.Dataset, other: xr.Dataset, names: list[str]) -> list[str]:
    if "n_items" not in this.coords or "n_items" not in other.coords:
        return []
    here, there = (one["n_items"].sel(metric=names).values for one in (this, other))
    odd = np.flatnonzero((here != there) & (here > 0) & (there > 0))
    if not len(odd):
        return []
    return [f"measured on another number of test items in the two cubes: {shown([names[i] for i in odd], 3)}"]


def _notes_on_seeds(cube: xr.Dataset, models: list[str], where: str) -> list[str]:
    """Runs of one initialisation or data order are not independent, whatever their number."""
    notes = []
    part = cube.sel(model=list(dict.fromkeys(models)))
    runs = part["value"].notnull().any(("step", "metric")).transpose("model", "seed").values
    for name, word in (("weight_seed", "initialisation"), ("data_seed", "data order")):
        if name not in part:
            continue
        seeds = part[name].transpose("model", "seed").values
        for model, have, said in zip(part["model"].values.tolist(), runs, seeds, strict=True):
            known = said[have & (said >= 0)]
            if 1 < len(np.unique(known)) < len(known):
                notes.append(
                    f"{model} ({where}): {len(known)} runs have {len(np.unique(known))} {word}s between them, so they are "
                    "not independent and their intervals are too short"
                )
    return notes


def _places(cube: xr.Dataset, dim: str, wanted: Sequence[str] | Ints) -> Ints:
    """Where labels stand along a dimension that has them all."""
    return np.asarray(cube.indexes[dim].get_indexer(pd.Index(wanted)), dtype=np.int64)


def _range(cube: xr.Dataset) -> str:
    steps = cube["step"].values
    return f"{len(steps)} from {steps[0]} to {steps[-1]}"
