"""Features that mean the same for every recipe and at every step: robust distances to other runs at the same step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Floats, divided, mean, median
from polystab.analysis.early_warning.curves import POSITIVE
from polystab.analysis.early_warning.features import SHIFTLESS, Table
from polystab.analysis.outliers.zscores import NORMAL_MAD, NORMAL_MEAN_AD

# Fewer siblings say nothing about how far apart siblings are.
MIN_SIBLINGS = 3
# From so many on, a run that is among them is not left out.
MANY_SIBLINGS = 20
# Beyond this many robust standard deviations it does not matter how many.
FARTHEST = 6.0

# Among the runs of the same model, and among those of all models.
VIEWS = ("siblings", "all")

Texts = npt.NDArray[np.str_]


@dataclass(frozen=True, eq=False)
class Reference:
    """Statistics of the runs that others are compared with.

    Attributes
    ----------
    values : (run, step, feature) array
    model, key : (run,) array of str
        The model of each run, and which run it is: none is compared with itself.
    """

    values: Floats
    model: Texts
    key: Texts


def sibling_distances(table: Table, model: Texts, key: Texts, reference: Reference) -> Floats:
    """Robust z of every statistic among the siblings, (run, step, feature); NaN without enough of them.

    The siblings of a run are the reference runs of its model, itself left out. A model of which the
    reference has fewer than 3 is compared with the other runs of the table, up to the same step.
    """
    z = np.full(table.values.shape, np.nan)
    for name in np.unique(model):
        own, known = model == name, reference.model == name
        if known.sum() >= MIN_SIBLINGS:
            siblings = Reference(reference.values[known], reference.model[known], reference.key[known])
        else:
            siblings = Reference(table.values[own], model[own], key[own])
        z[own] = _distances(table.values[own], key[own], siblings)
    return z


def overall_distances(table: Table, key: Texts, reference: Reference) -> Floats:
    """Robust z of every statistic among the reference runs of all models, (run, step, feature)."""
    return _distances(table.values, key, reference)


def _distances(x: Floats, key: Texts, siblings: Reference) -> Floats:
    z = np.empty(x.shape)
    # One run of many hardly moves a median, and leaving each out in turn takes as many times as long.
    strangers = ~np.isin(key, siblings.key) | (len(siblings.key) >= MANY_SIBLINGS)
    z[strangers] = _robust_z(x[strangers], siblings.values)
    for r in np.flatnonzero(~strangers):
        z[r] = _robust_z(x[r], siblings.values[siblings.key != key[r]])
    return z


def _robust_z(x: Floats, siblings: Floats) -> Floats:
    """Deviation from the siblings' median in robust standard deviations, within +-6; NaN with fewer than 3 of them."""
    centre = median(siblings, axis=0)
    away = np.abs(siblings - centre)
    # The MAD of a dozen runs is at times far too small; half of the mean deviation bounds it.
    known = ~np.isnan(siblings)
    n = known.sum(axis=0)
    usual = divided(np.sum(away, axis=0, where=known), n)
    spread = np.fmax(median(away, axis=0) / NORMAL_MAD, 0.5 * NORMAL_MEAN_AD * usual)
    enough = n >= MIN_SIBLINGS
    deviation = x - centre
    z = np.where(spread > 0, divided(deviation, spread), np.sign(deviation) * FARTHEST)
    return np.where(enough & ~np.isnan(deviation), np.clip(z, -FARTHEST, FARTHEST), np.nan)


def columns(table: Table, near: Floats, far: Floats, views: Sequence[str]) -> tuple[Floats, tuple[str, ...]]:
    """What a classifier sees, (run, step, column), 0 where nothing can be told; and the names of the columns.

    ``near`` are distances to siblings, ``far`` those to the runs of all models, of which levels count only for
    losses and gradient norms, whose units are the same everywhere. Curves of one group (a measure over the
    parameters of a network) are pooled to their mean, of ``near`` also to the largest size, so that networks of
    different size have the same columns.
    """
    found, names = [], []
    kinds, groups = np.asarray(table.statistics), np.asarray(table.groups)
    for group, kind in dict.fromkeys(zip(table.groups, table.statistics, strict=True)):
        chosen = np.flatnonzero((groups == group) & (kinds == kind))
        if "siblings" in views:
            found.append(_pooled(near, chosen))
            names.append(f"siblings:{group}:{kind}")
            if len(chosen) > 1:
                found.append(np.abs(np.nan_to_num(near[:, :, chosen])).max(axis=2))
                names.append(f"siblings:{group}:{kind}:largest")
        if "all" in views and (kind in SHIFTLESS or group.split("/")[0] in POSITIVE):
            found.append(_pooled(far, chosen))
            names.append(f"all:{group}:{kind}")
    return np.nan_to_num(np.stack(found, axis=-1)), tuple(names)


def _pooled(z: Floats, chosen: npt.NDArray[np.intp]) -> Floats:
    return z[:, :, chosen[0]] if len(chosen) == 1 else mean(z[:, :, chosen], axis=2)
