"""What the beginning of a run says: statistics of each curve up to a step, and nothing after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, described, divided, scaled, unscaled
from polystab.analysis.early_warning.curves import LOG, Block, Curves, read_curves, texts
from polystab.analysis.failures import loss_spikes
from polystab.errors import AnalysisError, shown

STATISTICS = ("level", "last", "slope", "roughness", "peak", "growth", "memory", "spikes")
# Those that do not depend on where the curve stands, so that runs of different recipes can be compared.
SHIFTLESS = ("slope", "roughness", "peak", "growth", "memory", "spikes")

# Neighbouring entries tell how fast a curve forgets only where there are this many.
MEMORY_POINTS = 16
MIN_POINTS = 3

_WHAT = {
    "level": "mean over the last quarter of the prefix",
    "last": "last value",
    "slope": "least-squares slope over the last half, per length of the prefix",
    "roughness": "root mean square of successive differences over the last half, over the root of 2",
    "peak": "largest minus median value of the last half",
    "growth": "level minus the mean over the second quarter",
    "memory": "lag-1 autocorrelation around the line over the last half",
    "spikes": "loss spikes so far (loss_spikes)",
}


@dataclass(frozen=True, eq=False)
class Table:
    """Statistics of curves, by run and step.

    Attributes
    ----------
    values : (run, step, feature) array
        NaN where the statistic cannot be told.
    steps : (step,) array
    curves, statistics, groups : tuple of str
        Of each feature: the id of its curve, the statistic, and the curve's group.
    """

    values: Floats
    steps: Floats
    curves: tuple[str, ...]
    statistics: tuple[str, ...]
    groups: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{curve}:{what}" for curve, what in zip(self.curves, self.statistics, strict=True))


def prefix_features(
    data: xr.Dataset | xr.DataTree,
    *,
    steps: Sequence[int] | None = None,
    families: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
) -> xr.Dataset:
    """What each run has told by each step, from values up to that step only.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        A cube; of a tree, the group ``log`` too, which has one value an update.
    steps : sequence of int, optional
        Ends of the prefixes; the steps of the cube by default.
    families, metrics : sequence of str, optional
        What to look at; ``log`` is the family of the log, ``log/loss`` one of its ids.

    Returns
    -------
    xarray.Dataset
        ``feature_value(model, seed, step, feature)``; ``diverged(model, seed, step)``, whether the
        run is known to have diverged by then; ``ended(model, seed, step)``, whether nothing of it
        is measured after the step before. Along ``feature``: ``curve``, ``statistic``.

    Raises
    ------
    AnalysisError
        Nothing that is wanted is in the cube, or ``steps`` do not increase.

    Notes
    -----
    With a prefix of length t, for each curve: ``level``, the mean over (3t/4, t], or the last value
    if none lies there; ``last``; ``slope`` by least squares over (t/2, t], times t; ``roughness``,
    the root mean square of successive differences there, divided by sqrt(2), which is the SD of
    white noise; ``peak``, the largest value minus the median there; ``growth``, level minus the mean
    over (t/4, t/2]; ``memory``, the lag-1 autocorrelation of residuals from that line, from 16 values on;
    of the losses in the log ``spikes``, how many there were. Losses, gradient norms and
    the log are read as natural logarithms. Infinite and missing values are left out; a statistic
    of fewer than 3 values (1 for levels) is NaN.

    A rising lag-1 autocorrelation precedes many abrupt changes of dynamical systems: Scheffer, M. et
    al. (2009). Early-warning signals for critical transitions. Nature 461, 53-59.
    https://doi.org/10.1038/nature08227

    Examples
    --------
    >>> import polystab as ps
    >>> told = prefix_features(ps.load_cube("nano-edge"), steps=[100, 200], families=["loss"])
    >>> told["feature_value"].sel(feature="loss/validation/cross_entropy:level").dims
    ('model', 'seed', 'step')
    """
    curves = read_curves(data, families=families, metrics=metrics)
    wanted = curves.blocks[0].times if steps is None else np.asarray(list(steps), dtype=np.float64)
    table = tabulate(curves, wanted)
    n_model, n_seed = len(curves.models), len(curves.seeds)
    cells = ("model", "seed", "step")
    diverged = curves.diverged_at()[:, None] <= wanted
    ended = ended_by(curves, wanted)
    return described(
        xr.Dataset(
            {
                "feature_value": ((*cells, "feature"), table.values.reshape(n_model, n_seed, len(wanted), -1)),
                "diverged": (cells, diverged.reshape(n_model, n_seed, -1)),
                "ended": (cells, ended.reshape(n_model, n_seed, -1)),
            },
            coords={
                "model": texts(curves.models),
                "seed": np.asarray(curves.seeds),
                "step": wanted.astype(np.int64),
                "feature": texts(table.names),
                "curve": ("feature", texts(table.curves)),
                "statistic": ("feature", texts(table.statistics)),
            },
        ),
        {
            "feature_value": "; ".join(f"{name}: {_WHAT[name]}" for name in STATISTICS),
            "diverged": "the run is known to have diverged",
            "ended": "nothing of the run is measured after the step before",
        },
    )


def ended_by(curves: Curves, steps: Floats) -> Bools:
    """Whether nothing of a run is measured after the step before and up to the step, (run, step)."""
    before = np.concatenate([[-np.inf], steps[:-1]])
    return np.stack([curves.ends(t) <= b for t, b in zip(steps, before, strict=True)], axis=1)


def tabulate(curves: Curves, steps: Floats) -> Table:
    """Statistics of all curves at each of the steps; only values up to a step enter what is told at it."""
    if not len(steps) or (np.diff(steps) <= 0).any():
        raise AnalysisError(f"steps {shown(steps.tolist())} do not increase, or there are none.")
    parts, names, kinds, groups = [], [], [], []
    for block in curves.blocks:
        logged = block.families[0] == LOG
        kept = [name for name in STATISTICS if name != "spikes" or logged]
        values = _readable(block)
        # By the rule, which is about the values themselves.
        spikes = loss_spikes(np.moveaxis(block.values, 1, 2)) if logged else None
        told = np.stack([_statistics(values, block.times, spikes, step) for step in steps], axis=1)
        parts.append(told.reshape(*told.shape[:2], -1))
        names += [name for name in block.names for _ in kept]
        groups += [name for name in block.groups for _ in kept]
        kinds += kept * len(block.names)
    return Table(np.concatenate(parts, axis=2), steps, tuple(names), tuple(kinds), tuple(groups))


def _readable(block: Block) -> Floats:
    """Finite values, on a logarithmic scale where the curve is positive by nature; NaN for all others."""
    values = np.where(np.isfinite(block.values), block.values, np.nan)
    positive = block.positive
    if positive.any():
        part = values[:, :, positive]
        with np.errstate(divide="ignore", invalid="ignore"):
            values[:, :, positive] = np.where(part > 0, np.log(part), np.nan)
    return values


def _statistics(values: Floats, times: Floats, spikes: Bools | None, t: float) -> Floats:
    """The statistics (run, curve, statistic) of curves (run, time, curve) up to time ``t``."""
    n = int(np.searchsorted(times, t, side="right"))
    x, at = values[:, :n], times[:n]
    last = _last(x)
    # From the last value on a common scale: neither a large offset nor an extreme unit can spoil squares.
    with np.errstate(over="ignore"):
        away = x - last[:, None]
    away = np.where(np.isfinite(away), away, np.nan)
    small, exponent = scaled(away, axis=1)
    level = _mean(small[:, at > 0.75 * t])
    level = np.where(np.isnan(level), np.where(np.isnan(last), np.nan, 0.0), level)
    growth = level - _mean(small[:, (at > 0.25 * t) & (at <= 0.5 * t)])
    half = at > 0.5 * t
    slope, roughness, memory = _line(small[:, half], at[half] / max(t, 1.0))
    found = [
        last + unscaled(level, exponent),
        last,
        unscaled(slope, exponent),
        unscaled(roughness, exponent),
        unscaled(_peak(small[:, half]), exponent),
        unscaled(growth, exponent),
        memory,
    ]
    if spikes is not None:
        found.append(spikes[:, :, :n].sum(axis=2).astype(np.float64))
    return np.stack(found, axis=-1)


def _last(x: Floats) -> Floats:
    """The last number of each curve (run, time, curve); NaN for none."""
    if not x.shape[1]:
        return np.full((x.shape[0], x.shape[2]), np.nan)
    known = ~np.isnan(x)
    place = x.shape[1] - 1 - known[:, ::-1].argmax(axis=1)
    return np.take_along_axis(x, place[:, None], axis=1)[:, 0]


def _mean(x: Floats) -> Floats:
    known = ~np.isnan(x)
    return divided(np.sum(x, axis=1, where=known), known.sum(axis=1))


def _peak(x: Floats) -> Floats:
    known = ~np.isnan(x)
    enough = known.sum(axis=1) >= MIN_POINTS
    ordered = np.sort(x, axis=1)  # NaN last
    count = known.sum(axis=1)
    middle = np.maximum(count - 1, 0) / 2
    low, high = (np.asarray(end(middle), dtype=np.int64)[:, None] for end in (np.floor, np.ceil))
    if not x.shape[1]:
        return np.full(enough.shape, np.nan)
    centre = (np.take_along_axis(ordered, low, 1) + np.take_along_axis(ordered, high, 1))[:, 0] / 2
    top = np.max(x, axis=1, initial=-np.inf, where=known)
    return np.where(enough, top - centre, np.nan)


def _line(x: Floats, at: Floats) -> tuple[Floats, Floats, Floats]:
    """Slope of a least-squares line, RMS successive difference over sqrt(2), lag-1 autocorrelation around the line."""
    known = ~np.isnan(x)
    n = known.sum(axis=1)
    enough = n >= MIN_POINTS
    time = np.where(known, at[None, :, None], 0.0)
    value = np.where(known, x, 0.0)
    centred_time = np.where(known, time - divided(time.sum(axis=1), n)[:, None], 0.0)
    centred = np.where(known, value - divided(value.sum(axis=1), n)[:, None], 0.0)
    slope = divided((centred_time * centred).sum(axis=1), (centred_time**2).sum(axis=1))
    rest = np.where(known, centred - np.nan_to_num(slope)[:, None] * centred_time, 0.0)
    step = np.diff(x, axis=1)
    pairs = ~np.isnan(step)
    squares = divided(np.sum(step**2, axis=1, where=pairs), pairs.sum(axis=1))
    memory = divided(np.sum(rest[:, 1:] * rest[:, :-1], axis=1), (rest**2).sum(axis=1))
    return (
        np.where(enough, slope, np.nan),
        np.where(enough, np.sqrt(squares / 2), np.nan),
        np.where(n >= MEMORY_POINTS, memory, np.nan),
    )
