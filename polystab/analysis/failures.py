"""Which runs went wrong, by rules that are written down: what later methods are judged against."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, described
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError

RULES = ("non-finite", "spike", "high-loss", "missing-ability")

# The mean of so many last values is the final loss: single batches are noisy.
FINAL_UPDATES = 50

# Updates whose windows are looked at together: one window each would fill the memory for long curves.
_BLOCK = 4096


def loss_spikes(loss: npt.ArrayLike, *, window: int = 128, sd: float = 6.0) -> Bools:
    """Where a loss curve spikes: above the mean of the previous values by ``sd`` standard deviations.

    Parameters
    ----------
    loss : array_like, shape (..., n)
        One value an update along the last axis.
    window : int
        How many values before are looked at. There is no spike before that many are there.
    sd : float
        How many standard deviations (ddof 0) above their mean.

    Returns
    -------
    ndarray of bool, shape (..., n)
        NaN and infinite values are not spikes, and none follows while one is in the window.

    Raises
    ------
    AnalysisError
        ``window`` is less than 2, ``sd`` is not positive, or ``loss`` is a single number.

    Notes
    -----
    The rule of the OLMo-core ``StabilityMonitor``: spike if value > mean + 6 sd of the
    previous 128 values. Of clean curves of 1,000 updates, flat or falling, whose normal noise
    has a lag-1 correlation of 0 to 0.99, it flags at most 1 in 5,000.

    Examples
    --------
    >>> import numpy as np
    >>> loss = np.tile([2.0, 2.1], 100)
    >>> loss[150] = 3.0
    >>> np.flatnonzero(loss_spikes(loss)).tolist()
    [150]
    """
    if window < 2 or not sd > 0:
        raise AnalysisError(f"window is {window} and sd is {sd}; they must be at least 2, and above 0.")
    values = np.asarray(loss, dtype=np.float64)
    if not values.ndim:
        raise AnalysisError("loss is a single number; give one value for each update.")
    found = np.zeros(values.shape, dtype=bool)
    for curve in np.ndindex(values.shape[:-1]):
        for start in range(window, values.shape[-1], _BLOCK):
            block = values[curve][start - window : start + _BLOCK]
            found[curve][start : start + _BLOCK] = _spikes(block, window, sd)
    return found


def _spikes(values: Floats, window: int, sd: float) -> Bools:
    """Whether each value after the first ``window`` ones is a spike."""
    before, now = np.lib.stride_tricks.sliding_window_view(values, window)[:-1], values[window:]
    with np.errstate(invalid="ignore", over="ignore"):
        limit = before.mean(axis=-1) + sd * before.std(axis=-1)
        return np.asarray(np.isfinite(now) & np.isfinite(limit) & (now > limit))


def failed_runs(
    tree: xr.DataTree,
    *,
    window: int = 128,
    sd: float = 6.0,
    margin: float = 0.1,
    siblings: float = 0.8,
    level: float = 0.5,
) -> xr.Dataset:
    """Which runs went wrong, and by which rule.

    Parameters
    ----------
    tree : xarray.DataTree
        A cube with the group ``log``: ``loss(model, seed, update)``, and ``grad_norm`` if there is one.
    window, sd : int, float
        Of :func:`loss_spikes`.
    margin : float
        Nats above the median of the good runs of its model from which a final loss is high.
    siblings : float
        Share of the other runs of its model that must have an ability for a run that
        lacks it to have failed.
    level : float
        An ability is acquired if the last score is at least this far from chance to 1.

    Returns
    -------
    xarray.Dataset
        ``failed(model, seed, rule)``, bool; ``wrong(model, seed)``, whether any rule
        holds; ``known(model, seed)``, whether the run has a log (no rule holds for one
        without, and it is nobody's sibling); ``seen_at(model, seed)``,
        the update at which the first of the rules could have said so, NaN for good runs;
        ``n_spikes(model, seed)``; ``final_loss(model, seed)`` in nats, NaN if training did not end.

    Raises
    ------
    AnalysisError
        There is no group ``log``, or an argument is out of range.

    Notes
    -----
    The rules, for one run among its siblings, the runs of its model:

    - ``non-finite``: a loss or gradient norm in its log is infinite, or its losses become
      NaN before those of a sibling do; seen at that update. Where no sibling goes on,
      NaN may as well mean that no more was logged.
    - ``spike``: :func:`loss_spikes`; seen at the first spike.
    - ``high-loss``: its final loss, the mean of the last 50 updates, is more than
      ``margin`` above the median of the good runs, those of its model that none of the
      other rules flags; seen at the end. With no good run there is nothing to compare with.
    - ``missing-ability``: an evaluation with a known chance level that it did not
      acquire by its last step, and at least ``siblings`` of its siblings did; seen at the end.

    A run without siblings cannot fail the last two.
    """
    if "log" not in tree.children:
        raise AnalysisError("the cube has no group 'log' with the loss of every update; polystab train keeps one.")
    if not (0 <= siblings <= 1 and 0 < level <= 1 and margin >= 0):
        raise AnalysisError("siblings must lie in 0 to 1, level above 0 up to 1, and margin not below 0.")
    cube, log = as_cube(tree), tree["log"].to_dataset()
    loss = np.asarray(log["loss"].transpose("model", "seed", "update").values, dtype=np.float64)
    updates = np.asarray(log["update"].values, dtype=np.float64)
    known: Bools = np.asarray(~np.isnan(loss).all(axis=-1))
    failed = np.zeros((*known.shape, len(RULES)), dtype=bool)
    infinite = _infinite(log, loss)
    ends = _ends(np.isnan(loss) | infinite)
    failed[..., 0] = known & (infinite.any(axis=-1) | (ends < ends.max(axis=1, keepdims=True)))
    spikes = loss_spikes(loss, window=window, sd=sd)
    failed[..., 1] = spikes.any(axis=-1)
    final = np.where(known & ~failed[..., 0], _final(loss, ends), np.nan)
    failed[..., 3] = known & _missing_ability(cube, known, siblings, level)
    good: Bools = np.asarray(known & ~failed.any(axis=-1))
    failed[..., 2] = _high(final, good, margin)
    wrong = failed.any(axis=-1)
    # The first value that is not finite, or else the last.
    last = updates[np.minimum(np.where(failed[..., 0], ends, np.maximum(ends - 1, 0)), len(updates) - 1)]
    first_spike = np.where(spikes.any(axis=-1), updates[spikes.argmax(axis=-1)], np.inf)
    seen_at = np.where(wrong, np.minimum(last, first_spike), np.nan)
    runs = {name: cube[name] for name in ("model", "seed")}
    result = xr.Dataset(
        {
            "failed": (("model", "seed", "rule"), failed),
            "wrong": (("model", "seed"), wrong),
            "known": (("model", "seed"), known),
            "seen_at": (("model", "seed"), seen_at),
            "n_spikes": (("model", "seed"), spikes.sum(axis=-1)),
            "final_loss": (("model", "seed"), final),
        },
        coords={**runs, "rule": list(RULES)},
    )
    return described(
        result,
        {
            "failed": "whether a rule holds for the run",
            "wrong": "whether any rule holds",
            "known": "whether the run has a log",
            "seen_at": "update at which a rule could first have said so",
            "n_spikes": "updates whose loss spikes",
            "final_loss": f"mean loss of the last {FINAL_UPDATES} updates",
        },
        {"final_loss": "nat", "seen_at": "1", "n_spikes": "1"},
    )


def _infinite(log: xr.Dataset, loss: Floats) -> Bools:
    """Where a loss or gradient norm is infinite."""
    found: Bools = np.isinf(loss)
    if "grad_norm" in log:
        found |= np.isinf(log["grad_norm"].transpose("model", "seed", "update").values)
    return found


def _ends(bad: Bools) -> Ints:
    """How many values of each run come before the first that is bad."""
    return np.asarray(np.where(bad.any(axis=-1), bad.argmax(axis=-1), bad.shape[-1]), dtype=np.int64)


def _final(loss: Floats, ends: Ints) -> Floats:
    """Mean of the last finite values before each run's end."""
    places = np.arange(loss.shape[-1])
    used = (places < ends[..., None]) & (places >= ends[..., None] - FINAL_UPDATES)
    total = np.sum(loss, axis=-1, where=used)
    n = used.sum(axis=-1)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def _high(final: Floats, good: Bools, margin: float) -> Bools:
    """Runs whose final loss is more than ``margin`` above the median of the good runs of their model."""
    high = np.zeros(final.shape, dtype=bool)
    for model in range(len(final)):
        if good[model].any():
            high[model] = final[model] > np.median(final[model, good[model]]) + margin
    return high


def _missing_ability(cube: xr.Dataset, known: Bools, siblings: float, level: float) -> Bools:
    """Runs that lack an ability which enough of their siblings have."""
    missing = np.zeros(known.shape, dtype=bool)
    if "chance" not in cube.coords:
        return missing
    chance = np.asarray(cube["chance"].values, dtype=np.float64)
    values = np.asarray(cube["value"].transpose("model", "seed", "step", "metric").values, dtype=np.float64)
    for m in np.flatnonzero(np.isfinite(chance) & (cube["family"].values == "eval")):
        last, measured = _last(values[..., m])
        measured &= known
        acquired = measured & (last >= chance[m] + level * (1 - chance[m]))
        others = measured.sum(axis=1, keepdims=True) - measured
        having = acquired.sum(axis=1, keepdims=True) - acquired
        missing |= measured & ~acquired & (others > 0) & (having >= siblings * others - 1e-9)
    return missing


def _last(values: Floats) -> tuple[Floats, Bools]:
    """The last measured value along the last axis, and whether there is one."""
    measured: Bools = ~np.isnan(values)
    place = values.shape[-1] - 1 - measured[..., ::-1].argmax(axis=-1)
    return np.take_along_axis(values, place[..., None], axis=-1)[..., 0], np.asarray(measured.any(axis=-1))
