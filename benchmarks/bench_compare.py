"""Two cubes against each other: coverage, false alarms and power of the verdicts, and processor time against scipy row by row."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from harness import in_fresh_process, print_ratio, report_line

SHAPE = (5, 10, 154, 500)
LEVEL = 0.95
DRAWS = 9999


def coverage(rounds: int) -> None:
    from polystab.analysis.comparisons.kernels import contrast, effect_size, t_interval

    few = min(rounds, 5000)
    for n, m in ((3, 3), (5, 5), (10, 10), (3, 10)):
        for law in ("normal", "t with 4 df", "lognormal"):
            for sd in (1.0, 4.0):
                rng = np.random.default_rng([n, m, int(sd)])
                a, b = draws(law, rng, (n, rounds)), 1 + sd * draws(law, rng, (m, rounds))
                low, high = t_interval(contrast(a, b), LEVEL)
                covered = np.mean((low <= 1) & (high >= 1))
                _, low, high = effect_size(contrast(a[:, :few], b[:, :few]), LEVEL)
                truth = 1 / np.sqrt((1 + sd**2) / 2)
                effect = np.mean((low <= truth) & (truth <= high))
                report_line(
                    f"{n} against {m} runs, {law}, spread 1 and {sd:g}: the {LEVEL:.0%} interval of the difference covers {covered:.1%}, "
                    f"that of the effect {effect:.1%}"
                )


def draws(law: str, rng: Any, shape: tuple[int, ...]) -> Any:
    """Independent values of mean 0 and variance 1."""
    if law == "normal":
        return rng.standard_normal(shape)
    if law == "lognormal":
        value = np.exp(rng.standard_normal(shape))
        return (value - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e)
    return rng.standard_t(4, shape) / np.sqrt(2)


def verdicts(rounds: int) -> None:
    """Shares of comparisons of 30 metrics, half of their variance common to all, with any row that differs or is called alike."""
    from polystab.analysis.comparisons.kernels import contrast, equivalence_p, t_p
    from polystab.analysis.comparisons.verdicts import corrected

    judged = np.ones(30, dtype=bool)
    for n in (3, 5, 10):
        for law in ("normal", "t with 4 df"):
            rng = np.random.default_rng([n, 7])
            sides = [
                np.sqrt(0.5) * (draws(law, rng, (n, rounds, 30)) + draws(law, rng, (n, rounds, 1))) for _ in range(2)
            ]
            line = []
            for shift in (0.0, 1.0, 2.0, 3.0):
                found = contrast(sides[0], sides[1] + shift)
                q = np.array([corrected(p, judged)[0] for p in t_p(found)])
                small = equivalence_p(found, found.spread, standardised=np.ones(found.spread.shape, dtype=bool))
                alike = np.array([corrected(p, judged)[0] for p in small])
                rows, reports = np.mean(q <= 0.05), np.mean((q <= 0.05).any(axis=1))
                line.append(
                    f"{shift:g} SD: {rows:.1%} of rows, {reports:.1%} of reports, alike {np.mean(alike <= 0.05):.1%}"
                )
            report_line(f"{n} against {n} runs, 30 metrics, {law}, differs at a true difference of " + "; ".join(line))


def cubes() -> tuple[Any, Any]:
    from polystab.testing.drawing import bare_cube

    rng = np.random.default_rng(0)
    names = [f"m{i}" for i in range(SHAPE[0])], np.arange(SHAPE[2]) * 1000, [f"eval/t{i}/acc" for i in range(SHAPE[3])]
    one, two = (bare_cube(rng.normal(size=SHAPE), *names) for _ in range(2))
    return one, two


def ours(function: str) -> float:
    from polystab.analysis.comparisons import compare_cubes, compare_curves

    pair = cubes()
    start = time.process_time()
    if function == "compare_cubes":
        compare_cubes(*pair, n_permutations=DRAWS, rng=0)
    else:
        compare_curves(*pair)
    return time.process_time() - start


def scipys(rows: int) -> float:
    """Welch's test, its interval and a permutation test of some rows, one by one, scaled to all of them."""
    from scipy import stats

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, SHAPE[1], rows))
    start = time.process_time()
    for k in range(rows):
        stats.ttest_ind(b[:, k], a[:, k], equal_var=False).confidence_interval(LEVEL)
        stats.permutation_test(
            (a[:, k], b[:, k]), welch, vectorized=True, n_resamples=DRAWS, alternative="greater", axis=0, rng=rng
        )
    return (time.process_time() - start) * SHAPE[0] * SHAPE[3] / rows


def welch(a: Any, b: Any, axis: int) -> Any:
    n, m = a.shape[axis], b.shape[axis]
    return np.abs(a.mean(axis) - b.mean(axis)) / np.sqrt(a.var(axis, ddof=1) / n + b.var(axis, ddof=1) / m)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20_000, help="simulated comparisons for each share")
    rounds = parser.parse_args().rounds
    size = " x ".join(map(str, SHAPE))
    warm = "import scipy.stats, polystab.testing.drawing, polystab.analysis.comparisons.cubes, polystab.analysis.comparisons.curves"
    mine = in_fresh_process(__file__, "ours", "compare_cubes", warm=warm)
    peer = in_fresh_process(__file__, "scipys", 20, warm=warm)
    print_ratio(
        f"compare_cubes of two cubes of {size}, scipy row by row over ours (processor time)",
        [peer.result], [mine.result], wanted="above 1", names=("scipy", "ours"),
    )  # fmt: skip
    curves = in_fresh_process(__file__, "ours", "compare_curves", warm=warm)
    values = 2 * 8 * float(np.prod(SHAPE))
    for name, done in (("compare_cubes", mine), ("compare_curves", curves)):
        print_ratio(
            f"{name} of two cubes of {size}, added memory over that of their values",
            [done.added_bytes / 2**20], [values / 2**20], wanted="below 4", unit="MiB", names=("added", "values"),
        )  # fmt: skip
    report_line(f"compare_curves of two cubes of {size}: {curves.result:.1f} s of processor time")
    coverage(rounds)
    verdicts(rounds // 10)


if __name__ == "__main__":
    main()
