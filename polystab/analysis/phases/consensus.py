"""Which change points the seeds of a model share, how well seeds agree, and whether size matters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Ints, described, labels, mean
from polystab.analysis.phases.agreement import adjusted_rand, change_point_f1, covering, hausdorff
from polystab.analysis.phases.curves import change_points
from polystab.analysis.phases.scan import densest
from polystab.errors import AnalysisError

# Nothing with fewer runs gets an interval.
MIN_RUNS = 3

# The one "metric" of a joint segmentation, while it is worked on.
_JOINT = "all jointly"

_SHARED_DOCS = {
    "step": "median over the seeds of the step at which the new phase begins (the lower one of two)",
    "lower": "lower end of the interval of that median",
    "upper": "upper end of the interval of that median",
    "coverage": "confidence that the interval has",
    "first": "earliest seed",
    "last": "latest seed",
    "sd": "standard deviation over the seeds, ddof 1",
    "n_runs": "seeds that change here",
    "share": "seeds that change here, of those that could be looked at",
    "expected": "seeds that would by chance change in so long a stretch",
    "p": "chance that changes at unrelated steps stand as close together anywhere in training",
    "size": "median over the seeds of the size of the change",
    "member_step": "step at which this seed changes, -1 where it lacks the change",
    "lacks": "the seed was looked at and lacks the change",
    "n_extra": "changes of this seed that are not shared, -1 where it was not looked at",
    "n_changes": "shared changes",
    "n_looked_at": "seeds that could be looked at",
}
_AGREEMENT_DOCS = {
    "adjusted_rand": "adjusted Rand index, mean over pairs of seeds",
    "covering": "covering, mean over pairs of seeds and both directions",
    "f1": "F1 of change points, mean over pairs of seeds and both directions",
    "hausdorff": "Hausdorff distance in checkpoints, mean over the pairs in which both or neither change",
    "n_pairs": "pairs of seeds that could be looked at",
    "n_pairs_hausdorff": "pairs in which both or neither change",
}


@dataclass(frozen=True)
class _Found:
    """Change points of one model and metric: a list of places on its own grid of checkpoints for each run."""

    seeds: list[int]  # positions along seed of the runs looked at
    grid: Ints  # steps
    places: list[Ints]
    low: list[Ints]
    high: list[Ints]
    changes: list[Ints]  # which change of the run each is


@dataclass(frozen=True)
class _Change:
    """A shared change: for each run of it, the run's position in ``_Found`` and which of its places it is."""

    members: dict[int, int]
    expected: float
    p: float


def consensus_change_points(
    data: xr.Dataset | xr.DataTree,
    *,
    min_share: float = 0.5,
    false_alarm: float = 0.05,
    level: float = 0.95,
    n_resamples: int = 999,
    rng: int | np.random.Generator | None = None,
) -> xr.Dataset:
    """Change points that the seeds of a model share, and which seeds lack or add some.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        Result of :func:`change_points`, or a cube, to which it is applied with its defaults.
    min_share : float, optional
        Share of a model's seeds, above 0 and up to 1, that a shared change needs (and two at least).
    false_alarm : float, optional
        How often, at most, a model and metric whose seeds change at unrelated steps is to
        be given a shared change.
    level : float, optional
        Confidence level of the interval of the median step.
    n_resamples : int, optional
        Random shifts behind ``p``.
    rng : int, numpy.random.Generator or None, optional
        Source of chance.

    Returns
    -------
    xarray.Dataset
        Over (model, metric, change), in the order of training: ``step``, ``lower``, ``upper``,
        ``first``, ``last`` and ``sd`` in steps; ``coverage``, ``n_runs``, ``share``,
        ``expected``, ``p``; ``size`` in the metric's units (not of a joint
        segmentation). Over (model, seed, metric, change): ``member_step`` and ``lacks``.
        ``n_extra(model, seed, metric)``, ``n_changes`` and ``n_looked_at(model, metric)``.
        A joint segmentation has no ``metric``. Steps are -1 and other numbers NaN where
        there is no such change.

    Raises
    ------
    AnalysisError
        An argument outside its range.

    Notes
    -----
    *Shared.* Of all stretches of neighbouring checkpoints, up to a quarter of them, the
    one is taken in which more runs change than chance would have it. Chance is:
    the changes of each run moved round in training by an amount of its own. ``p`` is how
    often any stretch of shifted changes stands out as much, so that trying all
    places and lengths is paid for. If ``p`` is at most ``false_alarm`` the change is
    shared; its runs' changes are taken out and the rest is looked at again, until nothing
    stands out. A change in every seed, but at steps that have nothing to do with one another,
    is no consensus. In simulations 1-6 % of models whose 3 to 10 seeds change at 1 to 5
    random steps each are given a shared change at ``false_alarm=0.05``.

    *Which seeds.* Each seed counts once, with its change nearest to the median. A seed
    whose change lies outside of the stretch belongs to it if the change's own interval
    (``lower`` to ``upper`` of :func:`change_points`) reaches into the stretch. All other
    changes are the seed's own: ``n_extra``.

    *Interval.* Between two order statistics of the seeds' steps, so that it holds for any
    distribution: it is what resampling the seeds estimates, without its error in small
    samples. ``coverage`` is what it attains, which is less than ``level`` for fewer than six
    seeds: 0.75 for three, 0.94 for five. With fewer than three there is none.

    *What it is not.* A smooth rise that all seeds share has to be cut into steps somewhere,
    and is cut at about the same places: it is a consensus too. Whether a change is
    abrupt shows in ``size`` beside the whole range of the metric, and in the number of
    shared changes. One seed alone shares nothing. Copies of runs count once. ``p`` is for
    one model and metric; ``attrs["n_curves"]`` says how many there are.

    References
    ----------
    Glaz, J., Naus, J. and Wallenstein, S. (2001). Scan Statistics. Springer.
    https://doi.org/10.1007/978-1-4757-3460-7

    Examples
    --------
    >>> import polystab as ps, polystab.testing
    >>> from polystab.analysis.phases.consensus import consensus_change_points
    >>> cube = polystab.testing.phase_cube(changes=[20_000, 40_000], n_metrics=1, jump=4.0, rng=0)
    >>> shared = consensus_change_points(cube, rng=0).squeeze()
    >>> shared["step"].values.tolist(), shared["n_runs"].values.tolist()
    ([20000, 40000], [10, 10])
    """
    for name, value in (("min_share", min_share), ("false_alarm", false_alarm), ("level", level)):
        if not 0 < value < 1 and (name, value) != ("min_share", 1):
            raise AnalysisError(f"{name} is {value}; it lies between 0 and 1.")
    if n_resamples < 1 / false_alarm - 1:
        raise AnalysisError(
            f"{n_resamples} resamples cannot show a p of {false_alarm}; take {math.ceil(1 / false_alarm - 1)} or more."
        )
    data = _result(data, rng := np.random.default_rng(rng))
    grids = {where: _found(data, *where) for where in _curves(data)}
    taken = {
        where: _shared_changes(found, int(data.attrs["min_size"]), min_share, false_alarm, n_resamples, rng)
        for where, found in grids.items()
    }
    result = _labelled_consensus(data, grids, taken, level)
    result.attrs = {"min_share": min_share, "false_alarm": false_alarm, "level": level, "n_curves": len(grids)}
    return result.squeeze("metric", drop=True) if _JOINT in data["metric"].values else result


def seed_agreement(
    data: xr.Dataset | xr.DataTree, *, margin: int = 5, rng: int | np.random.Generator | None = None
) -> xr.Dataset:
    """How alike the segmentations of a model's seeds are, on average over pairs.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        Result of :func:`change_points`, or a cube, to which it is applied with its defaults.
    margin : int, optional
        Checkpoints within which two change points are the same, for ``f1``.
    rng : int, numpy.random.Generator or None, optional
        Source of chance, if ``data`` is a cube.

    Returns
    -------
    xarray.Dataset
        Over (model, metric), or (model,) for a joint segmentation: ``adjusted_rand``, ``covering``, ``f1``
        and ``hausdorff`` (in checkpoints), see :mod:`polystab.analysis.phases.agreement`; ``n_pairs``, and
        ``n_pairs_hausdorff``: those in which both or neither change.

    Raises
    ------
    AnalysisError
        A negative margin.

    Notes
    -----
    Positions are those among the checkpoints that more than half of the seeds have.
    ``covering`` and ``f1`` take each of a pair as the truth in turn. Two seeds without any
    change agree fully. Pairs have seeds in common: the mean is a description, its spread
    over pairs is no standard error. NaN with one seed.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis.phases.consensus import seed_agreement
    >>> cube = polystab.testing.phase_cube(changes=[20_000], n_metrics=1, n_seeds=3, jump=9.0, rng=0)
    >>> seed_agreement(cube, rng=0)["adjusted_rand"].values.tolist()
    [[1.0]]
    """
    data = _result(data, np.random.default_rng(rng))
    shape = (data.sizes["model"], data.sizes["metric"])
    values = {name: np.full(shape, np.nan) for name in ("adjusted_rand", "covering", "f1", "hausdorff")}
    counts = {name: np.zeros(shape, dtype=np.int64) for name in ("n_pairs", "n_pairs_hausdorff")}
    for where in _curves(data):
        found = _found(data, *where)
        runs = [places.tolist() for places in found.places]
        pairs = np.array([_alike(a, b, len(found.grid), margin) for a, b in combinations(runs, 2)]).reshape(-1, 4)
        counts["n_pairs"][where] = len(pairs)
        counts["n_pairs_hausdorff"][where] = np.count_nonzero(~np.isnan(pairs[:, 3]))
        for column, name in enumerate(values):
            values[name][where] = mean(pairs[:, column], axis=0)
    result = xr.Dataset(
        {name: (("model", "metric"), array) for name, array in {**values, **counts}.items()},
        coords=labels(data, "model", "metric"),
        attrs={"margin": margin},
    )
    result = described(result, _AGREEMENT_DOCS)
    return result.squeeze("metric", drop=True) if _JOINT in data["metric"].values else result


def _alike(a: list[int], b: list[int], n: int, margin: int) -> list[float]:
    return [
        adjusted_rand(a, b, n),
        (covering(a, b, n) + covering(b, a, n)) / 2,
        (change_point_f1(a, b, margin=margin) + change_point_f1(b, a, margin=margin)) / 2,
        hausdorff(a, b),
    ]


def _result(data: xr.Dataset | xr.DataTree, rng: np.random.Generator) -> xr.Dataset:
    """The change points of a cube or of a result, with a dimension ``metric``."""
    if not isinstance(data, xr.Dataset) or "n_changes" not in data.data_vars:
        data = change_points(data, rng=rng)
    if "metric" in data["n_changes"].dims:
        return data.transpose("model", "seed", "metric", "change", "checkpoint", missing_dims="ignore")
    plain = data.drop_vars(["size", "used"], errors="ignore").drop_dims("metric", errors="ignore")
    return _result(plain.expand_dims(metric=[_JOINT]), rng)


def _curves(data: xr.Dataset) -> list[tuple[int, int]]:
    return list(np.ndindex(data.sizes["model"], data.sizes["metric"]))


def _found(data: xr.Dataset, model: int, metric: int) -> _Found:
    here = {name: data[name].values[model, :, metric] for name in ("step", "lower", "upper", "measured", "n_changes")}
    seeds = np.flatnonzero(here["n_changes"] >= 0)
    measured = here["measured"][seeds]
    # Checkpoints of a few runs only would stretch the distances of all others.
    grid = data["checkpoint"].values[2 * measured.sum(axis=0) > len(seeds)]
    places = {
        name: [np.minimum(np.searchsorted(grid, own[own >= 0]), len(grid) - 1) for own in here[name][seeds]]
        for name in ("step", "lower", "upper")
    }
    which = [np.arange(own.size) for own in places["step"]]
    return _Found(seeds.tolist(), grid, places["step"], places["lower"], places["upper"], which)


def _shared_changes(
    found: _Found, min_size: int, min_share: float, false_alarm: float, n_resamples: int, rng: np.random.Generator
) -> list[_Change]:
    """Shared changes one after the other, each from what those before it left."""
    least = max(2, math.ceil(min_share * len(found.seeds) - 1e-9))
    free = [np.ones(own.size, dtype=np.bool_) for own in found.places]
    n_places = max(len(found.grid) - 2 * min_size + 1, 1)  # no phase is shorter
    taken: list[_Change] = []
    while len(found.seeds) >= least:
        rest = [np.clip(own[f] - min_size, 0, n_places - 1) for own, f in zip(found.places, free, strict=True)]
        stretch = densest(rest, n_places, least=least, n_resamples=n_resamples, rng=rng)
        if stretch is None or stretch.p > false_alarm:
            break
        # The first and the last place stand for all that the grid cuts off, too.
        first = stretch.first + min_size if stretch.first else 0
        last = stretch.last + min_size if stretch.last < n_places - 1 else len(found.grid) - 1
        members = _members(found, free, first, last)
        for run, change in members.items():
            free[run][change] = False
        taken.append(_Change(members, stretch.expected, stretch.p))
    return sorted(taken, key=lambda change: float(np.median(_places(found, change))))


def _members(found: _Found, free: list[Bools], first: int, last: int) -> dict[int, int]:
    """For each run its change that belongs to a stretch: the one in it nearest to the middle, else one that may be."""
    inside = [own[f & (own >= first) & (own <= last)] for own, f in zip(found.places, free, strict=True)]
    middle = float(np.median(np.concatenate(inside)))
    members = {}
    for run, own in enumerate(found.places):
        within = free[run] & (own >= first) & (own <= last)
        possible = within if within.any() else free[run] & (found.low[run] <= last) & (found.high[run] >= first)
        if possible.any():
            candidates = np.flatnonzero(possible)
            members[run] = int(candidates[np.argmin(np.abs(own[candidates] - middle))])
    return members


def _places(found: _Found, change: _Change) -> Ints:
    return np.array([found.places[run][which] for run, which in change.members.items()], dtype=np.int64)


def _labelled_consensus(
    data: xr.Dataset,
    grids: dict[tuple[int, int], _Found],
    taken: dict[tuple[int, int], list[_Change]],
    level: float,
) -> xr.Dataset:
    n_model, n_seed, n_metric = (data.sizes[name] for name in ("model", "seed", "metric"))
    most = max(map(len, taken.values()), default=0)
    steps = ("step", "lower", "upper", "first", "last")
    per_change = {
        name: np.full(
            (n_model, n_metric, most), -1 if name in steps else np.nan, np.int64 if name in steps else np.float64
        )
        for name in (*steps, "coverage", "sd", "share", "expected", "p", "size")
    }
    n_runs = np.zeros((n_model, n_metric, most), dtype=np.int64)
    member_step = np.full((n_model, n_seed, n_metric, most), -1, dtype=np.int64)
    lacks = np.zeros(member_step.shape, dtype=np.bool_)
    n_changes, n_looked_at = (np.zeros((n_model, n_metric), dtype=np.int64) for _ in range(2))
    n_extra = data["n_changes"].values.copy()
    for (model, metric), changes in taken.items():
        found = grids[model, metric]
        n_changes[model, metric], n_looked_at[model, metric] = len(changes), len(found.seeds)
        for i, change in enumerate(changes):
            here = (model, metric, i)
            seeds = [found.seeds[run] for run in change.members]
            which = list(change.members.values())
            own = data["step"].values[model, seeds, metric, which]
            for name, value in _about(own, len(found.seeds), level).items():
                per_change[name][here] = value
            per_change["expected"][here], per_change["p"][here] = change.expected, change.p
            if "size" in data:
                per_change["size"][here] = np.median(data["size"].values[model, seeds, metric, which])
            n_runs[here] = len(seeds)
            member_step[model, seeds, metric, i] = own
            n_extra[model, seeds, metric] -= 1
            lacks[model, found.seeds, metric, i] = True
            lacks[model, seeds, metric, i] = False
    if "size" not in data:
        del per_change["size"]
    dims = ("model", "seed", "metric", "change")
    variables: dict[str, tuple[tuple[str, ...], Any]] = {
        **{name: (("model", "metric", "change"), array) for name, array in {**per_change, "n_runs": n_runs}.items()},
        "member_step": (dims, member_step),
        "lacks": (dims, lacks),
        "n_extra": (dims[:3], n_extra),
        "n_changes": (("model", "metric"), n_changes),
        "n_looked_at": (("model", "metric"), n_looked_at),
    }
    result = xr.Dataset(variables, coords=labels(data, "model", "seed", "metric"))
    return described(result, {name: _SHARED_DOCS[name] for name in variables})


def _about(steps: Ints, n_looked_at: int, level: float) -> dict[str, float]:
    """What is said about the steps at which the seeds change."""
    ordered = np.sort(steps)
    n = ordered.size
    said: dict[str, float] = {
        "step": int(ordered[(n - 1) // 2]),  # a checkpoint, also of an even number
        "first": int(ordered[0]),
        "last": int(ordered[-1]),
        "share": n / n_looked_at,
    }
    if n >= MIN_RUNS:
        rank, coverage = median_interval(n, level)
        said |= {"lower": int(ordered[rank]), "upper": int(ordered[n - 1 - rank]), "coverage": coverage}
    if n >= 2:
        said["sd"] = float(np.std(ordered.astype(np.float64), ddof=1))
    return said


def median_interval(n: int, level: float) -> tuple[int, float]:
    """Rank from 0 of the order statistic, counted from either end, between which the median lies, and how surely.

    The narrowest interval that holds at ``level``; the whole range where none does.

    >>> median_interval(10, 0.95), median_interval(3, 0.95)
    ((1, 0.978515625), (0, 0.75))
    """
    below = np.cumsum([math.comb(n, k) / 2**n for k in range(n)])
    rank = max(int(np.searchsorted(2 * below, 1 - level, side="right")) - 1, 0)
    return rank, 1 - 2 * float(below[rank])
