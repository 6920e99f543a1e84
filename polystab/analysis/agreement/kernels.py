"""Agreement of answers on plain arrays: counts of pairs and of raters, and what each item adds to a statistic.

Answers are whole numbers, (..., run, item), negative where there is none. Every
statistic here is ``1 - D / E``: disagreement over the disagreement expected by chance,
both as sums over items. So the statistic of several tasks is that of the sums of their
D and E. What an item adds (its influence, a derivative by its weight) follows from what
it adds to D and to E.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Bools, Floats, divided

# Chance disagreement below this share of the items is rounding error: both sides always say the same.
_NONE = 1e-12

# Numbers of options below this are counted; a larger one is more likely a label than an index.
_FEW = 1000


@dataclass(frozen=True)
class PairCounts:
    """Counts of items for every run of a first and of a second group, (..., run, run).

    ``n`` both answered, at ``agree`` of them alike, at ``chance`` were it by chance. Of those
    both answered, at ``margins[option]`` the first chose the option, and the second did.
    """

    n: Floats
    agree: Floats
    chance: Floats
    margins: dict[int, tuple[Floats, Floats]]

    @property
    def disagree(self) -> Floats:
        return self.n - self.agree

    @property
    def expected(self) -> Floats:
        return no_rounding(self.n - self.chance, self.n)


def some(known: npt.NDArray[np.bool_], axis: int = -1) -> Bools:
    """Whether any is true along an axis."""
    return np.asarray(np.any(known, axis=axis), dtype=bool)


def no_rounding(expected: Floats, n: Floats) -> Floats:
    """Expected disagreement, exactly 0 where both sides always say the same."""
    return np.where(expected > _NONE * n, expected, 0.0)


def options(codes: npt.NDArray[np.integer]) -> list[int]:
    """The different answers there are."""
    most = int(codes.max(initial=-1))
    if most < _FEW:  # counting is ten times quicker than sorting
        return np.flatnonzero(np.bincount(codes.ravel().astype(np.intp) + 1, minlength=1)[1:]).tolist()
    found = np.unique(codes)
    return [int(option) for option in found[found >= 0]]


def pair_counts(first: npt.NDArray[np.integer], second: npt.NDArray[np.integer]) -> PairCounts:
    """Counts for all pairs of a run of one group and a run of another, by matrix products for each option."""
    # float32 holds whole numbers to 2**24, more than there are items, and multiplies twice as fast.
    here, there = ((codes >= 0).astype(np.float32) for codes in (first, second))
    n = (here @ _turned(there)).astype(np.float64)
    agree, chance, margins = np.zeros_like(n), np.zeros_like(n), {}
    for option in sorted({*options(first), *options(second)}):
        chose, chosen = ((codes == option).astype(np.float32) for codes in (first, second))
        agree += chose @ _turned(chosen)
        margin = (chose @ _turned(there)).astype(np.float64), (here @ _turned(chosen)).astype(np.float64)
        chance += margin[0] * margin[1]
        margins[option] = margin
    return PairCounts(n, agree, np.where(n > 0, divided(chance, n), 0.0), margins)


def _turned(array: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    return np.swapaxes(array, -1, -2)


def slopes(disagree: Floats, expected: Floats) -> tuple[Floats, Floats]:
    """Derivatives of ``1 - D / E`` by -D and by E; 0 where E is."""
    return (
        np.nan_to_num(divided(1.0, expected), nan=0.0),
        np.nan_to_num(divided(disagree, expected**2), nan=0.0),
    )


def pair_influence(
    first: npt.NDArray[np.integer],
    second: npt.NDArray[np.integer],
    counts: PairCounts,
    slope: tuple[Floats, Floats],
    weight: Floats,
) -> Floats:
    """What each item adds to ``sum_b weight[a, b] kappa[a, b]`` of each run of the first group, (..., run, item).

    For one pair that is ``(agree_i - p_o) / E - (p_b(a_i) + p_a(b_i) - 2 p_e) D / E^2``,
    whose sum of squares is the variance of Fleiss, Cohen and Everitt (1969). All pairs of
    a run are summed by matrix products, one for each option.
    """
    rise, fall = weight * slope[0], weight * slope[1]
    share = np.nan_to_num(divided(1.0, counts.n), nan=0.0)
    here, there = ((codes >= 0).astype(np.float64) for codes in (first, second))
    result = here * (((2 * fall * counts.chance - rise * counts.agree) * share) @ there)
    fall = fall * share
    for option, (ours, theirs) in counts.margins.items():
        chose, chosen = ((codes == option).astype(np.float64) for codes in (first, second))
        result += chose * (rise @ chosen - (fall * theirs) @ there)
        result -= here * ((fall * ours) @ chosen)
    return result


@dataclass(frozen=True)
class RaterCounts:
    """D and E (..., set of runs) of a statistic over many runs, and what each item adds (..., set, item)."""

    n: Floats
    disagree: Floats
    expected: Floats
    used: npt.NDArray[np.bool_]
    item_disagree: Floats
    item_expected: Floats

    def influence(self, slope: tuple[Floats, Floats]) -> Floats:
        """What each item adds to the statistic with these slopes, less the mean over the task's items."""
        added = slope[1][..., None] * self.item_expected - slope[0][..., None] * self.item_disagree
        mean = divided(added.sum(axis=-1), self.used.sum(axis=-1))[..., None]
        return np.where(self.used, added - mean, 0.0)


def fleiss_counts(codes: npt.NDArray[np.integer], sets: Floats) -> RaterCounts:
    """Fleiss' kappa of the runs in each of ``sets`` (set, run), over items that every measured run answered."""
    answered = codes >= 0
    measured = some(answered)
    raters = (measured.astype(np.float64) @ sets.T)[..., None]
    whole = (answered | ~measured[..., None]).all(axis=-2) & some(measured)[..., None]
    used = whole[..., None, :] & (raters >= 2)
    n = used.sum(axis=-1).astype(np.float64)
    safe = np.maximum(raters, 2.0)
    squares, chance = np.zeros(used.shape), np.zeros(used.shape)
    total = np.zeros(n.shape)
    for option in options(codes):
        votes = sets @ (codes == option).astype(np.float64)
        share = np.where(used, votes / safe, 0.0)
        squares += votes**2
        p = np.nan_to_num(divided(share.sum(axis=-1), n), nan=0.0)
        chance += p[..., None] * share
        total += p**2
    alike = (squares - safe) / (safe * (safe - 1))
    item_disagree = np.where(used, 1 - alike, 0.0)
    item_expected = np.where(used, 1 - 2 * chance + total[..., None], 0.0)
    expected = no_rounding(n * (1 - total), n)
    return RaterCounts(n, item_disagree.sum(axis=-1), expected, used, item_disagree, item_expected)


def krippendorff_counts(codes: npt.NDArray[np.integer], sets: Floats) -> RaterCounts:
    """Krippendorff's alpha (nominal) of the runs in each of ``sets`` (set, run), over items with two answers or more.

    ``n`` counts answers that can be paired, as his formula does.
    """
    votes = [sets @ (codes == option).astype(np.float64) for option in options(codes)]
    size = sum(votes, np.zeros((*codes.shape[:-2], len(sets), codes.shape[-1])))
    used = size >= 2
    size = np.where(used, size, 0.0)
    n = size.sum(axis=-1)
    pairs = np.maximum(n - 1, 1.0)
    equal, chosen = np.zeros(size.shape), np.zeros(size.shape)
    chance = np.zeros(n.shape)
    for vote in votes:
        vote = np.where(used, vote, 0.0)
        count = vote.sum(axis=-1)
        equal += vote * (vote - 1) / np.maximum(size - 1, 1.0)
        chosen += (2 * count - 1)[..., None] * vote
        chance += count * (count - 1)
    item_disagree = size - equal
    item_expected = size - chosen / pairs[..., None] + (chance / pairs**2)[..., None] * size
    expected = no_rounding(n - chance / pairs, n)
    return RaterCounts(n, item_disagree.sum(axis=-1), expected, used, item_disagree, item_expected)


def leave_one_out(n_run: int) -> Floats:
    """Sets of runs: all of them, then all but each one, (1 + run, run)."""
    return np.concatenate([np.ones((1, n_run)), 1.0 - np.eye(n_run)])
