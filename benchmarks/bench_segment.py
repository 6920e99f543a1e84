"""Change points: speed against ruptures, false alarms and power against ruptures' and skchange's defaults."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from harness import print_ratio, report_line

PYTHIA = np.array([0, *2.0 ** np.arange(10), *range(1000, 143001, 1000)])


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def curve(n: int, n_changes: int, seed: int = 0) -> Any:
    rng = np.random.default_rng(seed)
    levels = np.arange(n_changes + 1) * n // (n_changes + 1)
    return (
        rng.normal(size=n) + 2 * rng.normal(size=n_changes + 1)[np.searchsorted(levels, np.arange(n), side="right") - 1]
    )


def compare_path(n: int = 1000, n_changes: int = 5) -> None:
    """All segmentations with up to some number of changes; ruptures is asked for that number only."""
    import ruptures as rpt

    from polystab.analysis.segments.costs import level_costs
    from polystab.analysis.segments.search import best_costs, traced

    y = curve(n, n_changes)

    def ours() -> Any:
        cost, starts = best_costs(level_costs(y[None, :, None], np.zeros(1)), n_changes, 3)
        return cost[0, n_changes], traced(starts, 0, n_changes).tolist()

    peer = rpt.Dynp(model="l2", jump=1, min_size=3).fit(y)
    theirs, found = timed(lambda: peer.predict(n_changes))
    runs = [timed(ours) for _ in range(3)]
    print_ratio(
        f"{n} points, {n_changes} changes, ruptures Dynp over ours",
        [theirs],
        [s for s, _ in runs],
        wanted="at least 100",
        place=6,
    )
    cost, changes = runs[0][1]
    report_line(
        f"  same changes: {changes == found[:-1]}; costs differ by {abs(cost / peer.cost.sum_of_costs(found) - 1):.0e}"
    )


def compare_penalty(n: int, n_changes: int, penalty: float, rounds: int = 3) -> None:
    """One penalty."""
    import ruptures as rpt

    from polystab.analysis.segments.costs import level_costs
    from polystab.analysis.segments.search import best_for_penalty

    y = curve(n, n_changes, seed=1)
    theirs, ours, same = [], [], True
    for _ in range(rounds):
        peer = rpt.Pelt(model="l2", jump=1, min_size=3).fit(y)
        seconds, found = timed(lambda peer=peer: peer.predict(penalty))
        theirs.append(seconds)
        seconds, changes = timed(lambda: best_for_penalty(level_costs(y[None, :, None], np.zeros(1)), penalty, 3))
        ours.append(seconds)
        same &= changes.tolist() == found[:-1]
    print_ratio(
        f"{n} points, about {n_changes} changes, penalty {penalty}, ruptures Pelt over ours",
        theirs,
        ours,
        wanted="at least 20",
        place=6,
    )
    report_line(f"  same changes: {same}")


def many_curves(n_curves: int = 10_000, sample: int = 1000) -> None:
    """Every curve of 5 models x 10 seeds x 200 metrics at 154 checkpoints, calibrated."""
    from polystab.analysis.change_points import segment_many

    y = np.random.default_rng(2).normal(size=(sample, 154))
    y[: sample // 2, 80:] += 2
    seconds, _ = timed(lambda: segment_many(y, x=PYTHIA))
    print_ratio(
        f"{n_curves} curves of 154 points on one core, limit of 120 s on two over ours",
        [240.0],
        [seconds / sample * n_curves],
        wanted="above 1",
        names=("limit", "ours"),
        place=6,
    )


def long_series() -> None:
    """10,000 points."""
    from polystab.analysis.change_points import segment

    y = curve(10_000, 5, seed=3)
    for what, options in (("calibrated", {}), ("by a penalty", {"penalty": 30.0})):
        seconds, found = timed(lambda options=options: segment(y, **options))
        limit = 60.0 if what == "calibrated" else 10.0
        print_ratio(
            f"10,000 points {what}, limit over ours ({len(found)} changes)",
            [limit], [seconds], wanted="above 1", names=("limit", "ours"), place=6,
        )  # fmt: skip


def detectors() -> dict[str, Callable[[Any], list[bool]]]:
    """Name to a function that says for each row whether there is any change."""
    import ruptures as rpt

    from polystab.analysis.change_points import segment_many

    def usual(y: Any) -> list[bool]:
        # ruptures has no default penalty; sigma^2 log n per change is what its documentation and users take.
        sd = np.median(np.abs(np.diff(y, axis=1)), axis=1) / 0.6745 / np.sqrt(2)
        return [
            len(rpt.Pelt(model="l2", jump=1, min_size=3).fit(row).predict(2 * s**2 * np.log(len(row)))) > 1
            for row, s in zip(y, sd, strict=True)
        ]

    result = {"polystab": lambda y: [len(f) > 0 for f in segment_many(y)], "ruptures, 2 s^2 log n": usual}
    try:
        from skchange.detectors import PELT
    except ImportError:
        report_line("skchange is not installed: left out of the table")
        return result

    def theirs(y: Any) -> list[bool]:
        # Its cost takes unit variance as given; standardised as its examples do.
        sd = np.median(np.abs(np.diff(y, axis=1)), axis=1, keepdims=True) / 0.6745 / np.sqrt(2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [len(PELT().fit_predict(row)) > 0 for row in (y / sd)[:, :, None]]

    return result | {"skchange PELT()": theirs}


def power_table(n_series: int = 200) -> None:
    """Share of series in which any change is found."""
    from polystab.analysis.segments.null import ar1_noise

    report_line(f"share of {n_series} series with any change; step in the middle, in sd of the noise")
    report_line(f"{'':24}{'n':>5}{'rho':>6}" + "".join(f"{s:>7}" for s in ("none", "1", "2", "4")))
    found = detectors()
    for n in (27, 154):
        for rho in (0.0, 0.6, 0.9):
            noise = ar1_noise(rho, n_series, n, np.random.default_rng([n, int(10 * rho)]))[..., 0]
            for name, any_change in found.items():
                shares = [np.mean(any_change(noise + size * (np.arange(n) >= n // 2))) for size in (0, 1, 2, 4)]
                report_line(f"{name:24}{n:>5}{rho:>6}" + "".join(f"{s:>7.0%}" for s in shares))


def main() -> None:
    compare_path()
    compare_penalty(1000, 5, 10.0)
    compare_penalty(1000, 40, 10.0)
    many_curves()
    long_series()
    power_table()


if __name__ == "__main__":
    main()
