"""Does the seed change which model wins: agreement of the rankings of models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.agreement.rank_kernels import RankCounts, crossed_ranks, nested_ranks, share_interval
from polystab.analysis.arrays import Floats, better_of, described, divided, finite, labels, moments
from polystab.analysis.audit.runs import counted_cells
from polystab.analysis.options import check_choice, check_shares, flagged
from polystab.analysis.variance import MIN_RUNS
from polystab.cube.validate import as_cube

RANK_REASONS = ("estimated", "not_measured", "one_model", "too_few_runs", "no_common_seed", "no_direction", "all_tied")
_CODE = {name: code for code, name in enumerate(RANK_REASONS)}

DESIGNS = ("nested", "crossed")

# Comparisons of two runs looked at together.
_BLOCK = 2_000_000

_DOCS = {
    "tau": "Kendall's tau between the rankings of models by two draws of seeds",
    "tau_lower": "lower end of the interval of tau, over runs",
    "tau_upper": "upper end of the interval of tau, over runs",
    "tau_reason": "why there is no tau",
    "flips": "share of draws of seeds in which another model wins than the one with the best mean",
    "flips_lower": "lower end of the interval of flips, over runs",
    "flips_upper": "upper end of the interval of flips, over runs",
    "flips_reason": "why there are no flips",
    "flips_by_chance": "flips if the models did not differ",
    "winner": "model with the best mean over its runs, empty for none",
    "win_share": "share of draws of seeds in which the model wins; equal bests share",
    "n_runs": "runs that count: measured, finite, and no copy of another",
    "n_models": "models ranked",
    "n_draws": "draws of seeds that have no run in common",
}


def rank_agreement(cube: xr.Dataset | xr.DataTree, *, design: str = "nested", level: float = 0.95) -> xr.Dataset:
    """Whether seeds agree on the ranking of the models, and on the winner, at every step and for every metric.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    design : {'nested', 'crossed'}, optional
        What a draw of seeds is. ``nested``: one run of each model, independent of each
        other; seed 3 of one model has nothing to do with seed 3 of another. ``crossed``:
        the runs of all models with the same seed (the same data order, say); seeds that
        some model lacks are left out.
    level : float, optional
        Confidence level of the intervals, between 0 and 1.

    Returns
    -------
    xarray.Dataset
        Without units. Over (step, metric): ``tau``, ``tau_lower``, ``tau_upper``; ``flips``,
        ``flips_lower``, ``flips_upper`` and ``flips_by_chance``; ``winner``; ``n_models``, ``n_draws``;
        ``tau_reason`` and ``flips_reason``, codes (``attrs["flag_meanings"]``) that are 0 where
        there is a value. Over (model, step, metric): ``win_share`` and ``n_runs``.

    Raises
    ------
    AnalysisError
        No such design, or ``level`` is not between 0 and 1.

    Notes
    -----
    *tau* compares the rankings by two draws without a common run. ``crossed``: the mean of
    tau-b over all pairs of seeds. ``nested``: the mean, over all such pairs of draws and all
    pairs of models, of +1 where both draws order the two models alike, -1 where not and 0
    where one of them ties, over the share of pairs of runs that do not tie; without
    ties that is the mean of Kendall's tau. All draws are counted, none is drawn at random.
    In ``nested``, models with one run do not enter tau.

    *flips* takes a draw as all that somebody with one seed would see, and the model with the best
    mean as the right answer. Best is what the metric's ``better`` says; metrics without it have
    no winner (``no_direction``). With M models that do not differ it is ``1 - 1 / M``, and
    not 0: read it beside ``flips_by_chance``. Where models hardly differ, the best mean is
    itself an accident of the seeds, and flips come out a little low.

    *Intervals* resample runs: the delete-one jackknife, over the runs of every model
    (``nested``) or over seeds (``crossed``), gives a variance, and that an effective number of
    draws, for which the exact interval of a share is taken (Korn and Graubard); of
    (1 - tau) / 2 likewise. It never counts as fewer draws than have no run in common
    (``n_draws``; for tau half as many), so that ten runs that all agree do not prove that
    an eleventh will: no flip in 10 draws leaves up to 31 %. No interval with fewer than three
    runs of any model.

    In simulations of 2 to 5 models with 3 to 10 runs, alike to far apart, 95 % intervals cover
    94-100 % for flips and for tau: with few runs they are too long rather than too short.

    Infinite values are runs that diverged, and not ranked; copies of other runs
    (:func:`duplicate_runs`) count once.

    References
    ----------
    Kendall, M. G. (1945). The treatment of ties in ranking problems. Biometrika 33, 239-251.
    https://doi.org/10.1093/biomet/33.3.239

    Korn, E. L. and Graubard, B. I. (1998). Confidence intervals for proportions with small
    expected number of positive counts estimated from survey data. Survey Methodology 24, 193-201.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis.agreement import rank_agreement
    >>> found = rank_agreement(ps.load_cube("nano")).sel(step=1000, metric="eval/nano_recall/acc")
    >>> str(found["winner"].values), round(float(found["flips"]), 2)
    ('nano-215k', 0.4)
    """
    cube = as_cube(cube)
    check_choice("design", design, DESIGNS)
    check_shares(level=level)
    shape = (cube.sizes["step"], cube.sizes["metric"])
    better = np.tile(better_of(cube), shape[0])
    values = finite(counted_cells(cube)[0])
    values = values.reshape(*values.shape[:2], shape[0] * shape[1])
    values = np.where(better == "lower", -values, values)
    average, _, n_runs = moments(values, axis=1)
    winner = np.where(np.isnan(average).all(axis=0) | (better == ""), np.nan, _best_mean(average))
    counts = _counted(values, winner, nested_ranks if design == "nested" else crossed_ranks)
    columns = _columns(counts, n_runs.astype(np.float64), better, level, design)
    names = np.append(cube["model"].values.astype(str), "")
    columns["winner"] = names[
        np.where(np.isnan(winner) | (counts.n_models < 2), len(names) - 1, winner).astype(np.intp)
    ]
    result = xr.Dataset(
        {
            name: (
                (*(("model",) if array.ndim == 2 else ()), "step", "metric"),
                array.reshape(*array.shape[:-1], *shape),
            )
            for name, array in columns.items()
        },
        coords=labels(cube, "model", "step", "metric"),
        attrs={"design": design, "level": float(level), "min_runs": MIN_RUNS},
    )
    result = described(result, {name: _DOCS[name] for name in columns})
    return flagged(result, dict.fromkeys(("tau_reason", "flips_reason"), RANK_REASONS))


def _counted(values: Floats, winner: Floats, ranks: Callable[[Floats, Floats], RankCounts]) -> RankCounts:
    """The statistics of all cells, some at a time."""
    width = max(_BLOCK // max((values.shape[0] * values.shape[1]) ** 2, 1), 1)
    starts = range(0, max(values.shape[2], 1), width)
    found = [ranks(values[..., start : start + width], winner[start : start + width]) for start in starts]
    parts = ([getattr(one, field.name) for one in found] for field in fields(RankCounts))
    return RankCounts(*(np.concatenate(part, axis=-1) for part in parts))


def _best_mean(average: Floats) -> Floats:
    """Number of the model with the highest mean (cell,); of equal ones the first."""
    return np.asarray(np.argmax(np.where(np.isnan(average), -np.inf, average), axis=0), dtype=np.float64)


def _columns(
    counts: RankCounts, n_runs: Floats, better: npt.NDArray[np.str_], level: float, design: str
) -> dict[str, npt.NDArray[np.generic]]:
    """The columns of the result, (cell,) and (model, cell)."""
    runs = np.where(n_runs > 0, n_runs, np.inf).min(axis=0)
    draws = counts.n_draws
    most = n_runs.sum(axis=0) if design == "nested" else draws
    compared = most * counts.n_models * (counts.n_models - 1) / 2
    enough = (draws if design == "crossed" else runs) >= MIN_RUNS
    known = (counts.n_models >= 2) & enough
    flips = share_interval(np.where(known, counts.flips, np.nan), counts.flips_variance, draws, most, level)
    discordant = share_interval(
        np.where(known, (1 - counts.tau) / 2, np.nan), counts.tau_variance / 4, np.floor(draws / 2), compared, level
    )
    reasons = [
        (counts.n_models == 0, "not_measured"),
        (counts.n_models == 1, "one_model"),
        (draws == 0, "no_common_seed"),
    ]
    tau_reasons = [(~np.isnan(counts.tau), "estimated"), *reasons, (draws < 2, "too_few_runs")]
    flip_reasons = [(~np.isnan(counts.flips), "estimated"), *reasons, (better == "", "no_direction")]
    return {
        "tau": counts.tau,
        "tau_lower": 1 - 2 * discordant[1],
        "tau_upper": 1 - 2 * discordant[0],
        "tau_reason": _coded(tau_reasons),
        "flips": counts.flips,
        "flips_lower": flips[0],
        "flips_upper": flips[1],
        "flips_reason": _coded(flip_reasons),
        "flips_by_chance": np.where(np.isnan(counts.flips), np.nan, 1 - divided(1.0, counts.n_models)),
        "win_share": np.where(better == "", np.nan, counts.win),
        "n_runs": n_runs.astype(np.int64),
        "n_models": counts.n_models.astype(np.int64),
        "n_draws": draws.astype(np.int64),
    }


def _coded(checks: list[tuple[npt.NDArray[np.bool_], str]]) -> npt.NDArray[np.int8]:
    codes = [_CODE[why] for _, why in checks]
    return np.select([where for where, _ in checks], codes, _CODE["all_tied"]).astype(np.int8)
