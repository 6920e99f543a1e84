"""Statistics of agreement for a block of checkpoints, task by task and pooled; arrays only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polystab.analysis.agreement.inputs import Codes
from polystab.analysis.agreement.intervals import (
    item_interval,
    item_variances,
    jackknife_of_items,
    means,
    run_interval,
    run_jackknife,
)
from polystab.analysis.agreement.kernels import (
    PairCounts,
    RaterCounts,
    fleiss_counts,
    krippendorff_counts,
    leave_one_out,
    pair_counts,
    pair_influence,
    slopes,
    some,
)
from polystab.analysis.arrays import Bools, Floats, divided

# Why there is no value, as a code and a word.
REASONS = (
    "estimated",
    "not_measured",
    "copy",
    "is_reference",
    "no_reference",
    "one_run",
    "no_overlap",
    "constant",
    "by_definition",
)
CODE = {name: code for code, name in enumerate(REASONS)}

COMPARISONS = ("last_step", "reference", "all_pairs")
STATISTICS = (*COMPARISONS, "fleiss", "krippendorff")

Columns = dict[str, Floats]


@dataclass(frozen=True)
class Pairs:
    """Counts of all pairs of runs, (task, block, run, run); the last row is all tasks together."""

    first: Sequence[Codes]
    second: Sequence[Codes]
    counts: list[PairCounts]
    n: Floats
    agree: Floats
    chance: Floats
    disagree: Floats
    expected: Floats

    @classmethod
    def of(cls, first: Sequence[Codes], second: Sequence[Codes]) -> Pairs:
        counts = [pair_counts(ours, theirs) for ours, theirs in zip(first, second, strict=True)]
        names = ("n", "agree", "chance", "disagree", "expected")
        return cls(first, second, counts, *(_with_sum([getattr(count, name) for count in counts]) for name in names))

    @property
    def kappa(self) -> Floats:
        return 1 - divided(self.disagree, self.expected)


def _with_sum(parts: list[Floats]) -> Floats:
    return np.stack([*parts, np.sum(parts, axis=0)])


def _compared(pairs: Pairs, wanted: Bools, factor: int, level: float | None) -> tuple[Columns, Columns]:
    """Means of kappa over some of the pairs: for each run (task, block, run) and over all (task, block).

    Parameters
    ----------
    wanted : (run, run) or (task, block, run, run) array of bool
        Which pairs; those of the first run are in its row.
    factor : int
        2 where every pair stands in two rows, else 1.
    level : float or None
        Confidence level; without one there are no intervals.
    """
    kappa = pairs.kappa
    weight = (wanted & ~np.isnan(kappa)).astype(np.float64)
    count = weight.sum(axis=-1)
    p_o, p_e = divided(pairs.agree, pairs.n), divided(pairs.chance, pairs.n)
    of_run = {"n_compared": count, "n_wanted": (wanted & (pairs.n > 0)).sum(axis=-1).astype(np.float64)}
    overall = {name: array.sum(axis=-1) / factor for name, array in of_run.items()}
    left_out = np.zeros(0)
    for name, array in (("value", kappa), ("p_o", p_o), ("p_e", p_e)):
        sums = np.sum(array, axis=-1, where=weight > 0)
        of_run[name] = divided(sums, count)
        overall[name], without = means(sums, count, factor)
        left_out = without if name == "value" else left_out
    of_run["n_items"] = np.max(pairs.n, axis=-1, initial=0, where=np.broadcast_to(wanted, pairs.n.shape))
    overall["n_runs"] = (count > 0).sum(axis=-1).astype(np.float64)
    if level is not None:
        variances = _pair_variances(pairs, weight, factor)
        of_run["by_items"], overall["by_items"], overall["shared"] = variances
        overall["by_runs"] = run_jackknife(left_out, count > 0)
    return of_run, overall


def _pair_variances(pairs: Pairs, weight: Floats, factor: int) -> list[Floats]:
    """Variances by items, see ``item_variances``; those of all tasks are sums over the tasks."""
    count = weight.sum(axis=-1)
    slope = slopes(pairs.disagree, pairs.expected)
    last = len(pairs.counts)
    result = [np.zeros(count.shape), np.zeros(count.shape[:-1]), np.zeros(count.shape[:-1])]
    for row, part in enumerate(zip(pairs.first, pairs.second, pairs.counts, strict=True)):
        for into in (row, last) if last > 1 else (row,):
            added = pair_influence(*part, (slope[0][into], slope[1][into]), weight[into])
            for total, variance in zip(result, item_variances(added, count[into], factor), strict=True):
                total[into] += np.nan_to_num(variance)
    if last == 1:
        for total in result:
            total[1] = total[0]
    return result


def _raters(codes: Sequence[Codes], kind: str, level: float | None) -> Columns:
    """Fleiss' kappa or Krippendorff's alpha over all runs, (task, block)."""
    n_run = codes[0].shape[-2]
    sets = leave_one_out(n_run) if level is not None else np.ones((1, n_run))
    of = fleiss_counts if kind == "fleiss" else krippendorff_counts
    counts = [of(part, sets) for part in codes]
    n, disagree, expected = (
        _with_sum([getattr(count, name) for count in counts]) for name in ("n", "disagree", "expected")
    )
    measured = _with_any([some(part >= 0) for part in codes])
    value = np.where(measured.sum(axis=-1)[..., None] >= 2, 1 - divided(disagree, expected), np.nan)
    n_runs = measured.sum(axis=-1).astype(np.float64)
    result = {
        "value": value[..., 0],
        "p_o": 1 - divided(disagree, n)[..., 0],
        "p_e": 1 - divided(expected, n)[..., 0],
        "n_runs": n_runs,
        "n_compared": n_runs * (n_runs - 1) / 2,
    }
    if level is not None:
        result["by_items"], result["shared"] = _rater_variances(counts, disagree, expected, measured)
        result["by_runs"] = run_jackknife(value[..., 1:], measured)
    return result


def _with_any(parts: list[Bools]) -> Bools:
    return np.stack([*parts, np.any(parts, axis=0)])


def _rater_variances(
    counts: Sequence[RaterCounts], disagree: Floats, expected: Floats, measured: Bools
) -> tuple[Floats, Floats]:
    slope = slopes(disagree, expected)
    by_items, shared = np.zeros(disagree.shape[:-1]), np.zeros(disagree.shape[:-1])
    last = len(counts)
    for row, count in enumerate(counts):
        for into in (row, last):
            added = count.influence((slope[0][into], slope[1][into]))
            by_items[into] += np.sum(added[..., 0, :] ** 2, axis=-1)
            shared[into] += jackknife_of_items(added[..., 1:, :], measured[into])
    return by_items, shared


def _add_intervals(of_run: Columns | None, overall: Columns, level: float | None) -> None:
    """Put ``lower`` and ``upper`` in place of the variances."""
    if level is None:
        for columns in (of_run, overall):
            if columns is not None:
                columns["lower"] = columns["upper"] = np.full(columns["value"].shape, np.nan)
        return
    if of_run is not None:
        own = (of_run[name] for name in ("value", "by_items", "n_items", "p_e"))
        of_run["lower"], of_run["upper"] = item_interval(*own, level=level)
    names = ("value", "by_items", "by_runs", "shared", "n_runs", "n_items", "p_e")
    overall["lower"], overall["upper"] = run_interval(*(overall[name] for name in names), level=level)


def block_columns(
    codes: list[Codes], last: list[Codes], at_last: list[Bools], reference: int, pairs: bool, level: float | None
) -> Columns:
    """All columns for some checkpoints, (..., task, checkpoint).

    Task by task, ``codes`` are the answers (checkpoint, run, item), ``last`` those of the same
    run at its last step, none where that is this very one, ``at_last`` (checkpoint, run).
    """
    n_run = codes[0].shape[1]
    known = [np.asarray(part >= 0) for part in codes]
    measured = _with_any([some(part) for part in known])  # task, checkpoint, run
    together, before = Pairs.of(codes, codes), Pairs.of(codes, last)
    to_reference = np.zeros((n_run, n_run), dtype=bool)
    to_reference[:, reference] = np.arange(n_run) != reference
    n_measured, there = measured.sum(axis=-1), measured[..., [reference]]
    is_reference = np.arange(n_run) == reference
    wanted = {
        "last_step": (before, np.eye(n_run, dtype=bool), 1),
        "reference": (together, to_reference, 1),
        "all_pairs": (together, ~np.eye(n_run, dtype=bool), 2),
    }
    n_items = _item_counts(known, last, reference)
    of_runs, overall = [], []
    for name in STATISTICS:
        of_run: Columns | None = None
        if name in wanted:
            of_run, total = _compared(*wanted[name], level)
        else:
            total = _raters(codes, name, level)
        total["n_items"] = n_items[name]
        _add_intervals(of_run, total, level)
        if name == "last_step" and of_run is not None:
            _by_definition(of_run, total, together, _at_last(at_last, measured))
        if of_run is not None:
            of_run["reason"] = _reasons(name, of_run, measured, n_measured[..., None], there, is_reference)
            of_runs.append(of_run)
        total["reason"] = _reasons(name, total, some(measured), n_measured, there[..., 0], np.zeros(1, dtype=bool))
        overall.append(total)
    columns = _gathered(of_runs, overall)
    columns["n_missing"] = n_items["any"] - n_items["fleiss"]
    if pairs:
        shares = {"p_o": divided(together.agree, together.n), "p_e": divided(together.chance, together.n)}
        for key, array in {"kappa": together.kappa, "n_items": together.n, **shares}.items():
            columns[f"pair_{key}"] = np.moveaxis(array, (2, 3), (0, 1))
    return columns


def _item_counts(known: list[Bools], last: list[Codes], reference: int) -> Columns:
    """Items that enter each statistic, and those that any run answered (task, block)."""
    runs = [part.sum(axis=1) for part in known]
    parts = {
        "last_step": [some(here & (end >= 0), axis=1) for here, end in zip(known, last, strict=True)],
        "reference": [np.asarray((count >= 2) & part[:, reference]) for count, part in zip(runs, known, strict=True)],
        "all_pairs": [np.asarray(count >= 2) for count in runs],
        "krippendorff": [np.asarray(count >= 2) for count in runs],
        "fleiss": [_answered_by_all(part) for part in known],
        "any": [some(part, axis=1) for part in known],
    }
    return {name: _with_sum([items.sum(axis=-1).astype(np.float64) for items in part]) for name, part in parts.items()}


def _answered_by_all(known: Bools) -> Bools:
    """Items (block, item) that all runs with any answer of the task at this step answered."""
    measured = some(known)
    return np.asarray((known | ~measured[..., None]).all(axis=1) & some(measured)[:, None])


def _at_last(parts: list[Bools], measured: Bools) -> Bools:
    """Runs at their own last step of each task, and of all tasks that they answered."""
    own = np.stack(parts)
    return np.concatenate([own, [(own | ~measured[:-1]).all(axis=0)]]) & measured


def _by_definition(of_run: Columns, overall: Columns, now: Pairs, own: Bools) -> None:
    """At its own last step a run agrees with itself; means over runs say so only where there is nothing else."""
    itself = {"value": now.kappa, "n_items": now.n, "p_o": divided(now.agree, now.n), "p_e": divided(now.chance, now.n)}
    itself = {name: np.diagonal(array, axis1=-2, axis2=-1) for name, array in itself.items()}
    for name, array in itself.items():
        of_run[name] = np.where(own, array, of_run[name])
    of_run["own"] = own.astype(np.float64)
    alone = (overall["n_wanted"] == 0) & own.any(axis=-1)
    entering = own & ~np.isnan(itself["value"])
    overall["n_runs"] = np.where(alone, entering.sum(axis=-1), overall["n_runs"])
    for name in ("value", "p_o", "p_e"):
        mean = divided(np.sum(itself[name], axis=-1, where=entering), entering.sum(axis=-1))
        overall[name] = np.where(alone, mean, overall[name])
    overall["n_items"] = np.where(alone, itself["n_items"].max(axis=-1), overall["n_items"])
    overall["own"] = alone.astype(np.float64)


def _reasons(
    name: str, columns: Columns, here: Bools, n_measured: npt.NDArray[np.int_], reference: Bools, is_reference: Bools
) -> Floats:
    """Codes of ``REASONS``, of runs or over runs.

    ``here`` says where there are answers, ``n_measured`` of how many runs, ``reference`` whether
    of the reference too, which is this very run where ``is_reference``.
    """
    given = ~np.isnan(columns["value"])
    checks: list[tuple[npt.NDArray[np.bool_], str]] = []
    if "own" in columns:
        checks.append((np.asarray(given & (columns["own"] > 0)), "by_definition"))
    checks += [(given, "estimated"), (~here, "not_measured")]
    if name == "reference":
        checks += [(is_reference, "is_reference"), (~reference, "no_reference")]
    if name != "last_step":
        checks.append((np.asarray(n_measured < 2), "one_run"))
    checks.append((np.asarray(columns["n_items"] == 0), "no_overlap"))
    holds = [np.broadcast_to(where, given.shape) for where, _ in checks]
    return np.select(holds, [float(CODE[why]) for _, why in checks], float(CODE["constant"]))


def _gathered(of_runs: list[Columns], overall: list[Columns]) -> Columns:
    """Columns (statistic, task, block) and (comparison, run, task, block)."""
    columns = {
        f"run_{name if name != 'value' else 'kappa'}": np.stack(
            [np.moveaxis(of_run[name], -1, 0) for of_run in of_runs]
        )
        for name in ("value", "lower", "upper", "p_o", "p_e", "n_items", "reason")
    }
    for total in overall:
        total["n_undefined"] = total.get("n_wanted", total["n_compared"]) - total["n_compared"]
    names = ("value", "lower", "upper", "p_o", "p_e", "n_runs", "n_compared", "n_undefined", "n_items", "reason")
    return columns | {
        name if name != "value" else "agreement": np.stack([total[name] for total in overall]) for name in names
    }
