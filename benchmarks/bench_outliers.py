"""Verdicts on runs: how often clean sets have one, what is found, how long it takes; against mean plus-minus 2 SD."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from harness import in_fresh_process, print_ratio, report_line

LIMIT_SECONDS = 30.0
SHAPE = (5, 10, 154, 1000)


def curves(runs: int, steps: int, metrics: int, rng: Any, *, rho: float, df: float) -> Any:
    """AR(1) deviations (run, step, metric), half of their variance common to all metrics; t noise with ``df``."""

    def noise(columns: int) -> Any:
        burn = int(5 / (1 - rho))
        size = (runs, steps + burn, columns)
        value = rng.standard_normal(size) if np.isinf(df) else rng.standard_t(df, size) / np.sqrt(df / (df - 2))
        for t in range(1, steps + burn):
            value[:, t] = rho * value[:, t - 1] + np.sqrt(1 - rho**2) * value[:, t]
        return value[:, burn:]

    return np.sqrt(0.5) * (noise(metrics) + rng.choice([-1.0, 1.0], metrics) * noise(1))


def cube_of(value: Any) -> Any:
    import polystab as ps  # noqa: F401
    from polystab.testing.drawing import bare_cube

    models = [f"m{i}" for i in range(value.shape[0])]
    return bare_cube(value, models, np.arange(value.shape[2]) * 1000, [f"eval/t{i}/acc" for i in range(value.shape[3])])


def beyond_two_sd(value: Any) -> Any:
    """The rule of the paper: outside mean plus-minus 2 SD of the seeds at the last step, in most metrics."""
    last = value[:, -1]
    z = np.abs(last - last.mean(axis=0)) / last.std(axis=0, ddof=1)
    return (z > 2).mean(axis=1) >= 0.5


def calibrate(sets: int) -> None:
    from polystab.analysis.outliers.verdicts import outlier_runs

    for runs in (5, 10, 20):
        for rho, df, steps, metrics in (
            (0.8, np.inf, 27, 4),
            (0.95, np.inf, 27, 1),
            (0.8, 8.0, 27, 4),
            (0.8, 5.0, 60, 4),
        ):
            ours = plain = 0
            for i in range(sets):
                value = curves(runs, steps, metrics, np.random.default_rng([runs, i]), rho=rho, df=df)
                ours += bool(outlier_runs(cube_of(value[None]), draws=99, rng=i)["outlier"].any())
                plain += bool(beyond_two_sd(value).any())
            report_line(
                f"clean, {runs} runs, {steps} steps, {metrics} metrics, rho {rho}, t with {df:g} df: "
                f"{ours / sets:.1%} of {sets} sets have a verdict at 5 %; mean +- 2 SD {plain / sets:.1%}"
            )


def power(sets: int) -> None:
    from polystab.analysis.outliers.verdicts import outlier_runs

    for runs in (5, 10, 20):
        for outliers in (1, 2):
            for metrics in (1, 4):
                line = []
                for size in (3, 5, 8):
                    caught = false = 0
                    for i in range(sets):
                        value = curves(runs, 27, metrics, np.random.default_rng([runs, i]), rho=0.8, df=np.inf)
                        value[:outliers, 18:] += size
                        found = outlier_runs(cube_of(value[None]), draws=99, rng=i)["outlier"].values[0]
                        caught, false = caught + found[:outliers].sum(), false + found[outliers:].any()
                    line.append(f"{size} SD {caught / sets / outliers:.0%} (another too: {false / sets:.0%})")
                report_line(
                    f"planted in the last third: {outliers} of {runs} runs, {metrics} metrics: " + ", ".join(line)
                )


def time_of(name: str) -> float:
    from polystab.analysis.outliers import outlier_scores
    from polystab.analysis.outliers.verdicts import outlier_runs

    value = np.random.default_rng(0).normal(size=SHAPE).cumsum(axis=2)
    cube = cube_of(value)
    start = time.process_time()
    {"outlier_scores": outlier_scores, "outlier_runs": outlier_runs}[name](cube)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=1000, help="sets for each share of false alarms")
    sets = parser.parse_args().sets
    for name in ("outlier_scores", "outlier_runs"):
        done = in_fresh_process(__file__, "time_of", name)
        print_ratio(
            f"{name} of {' x '.join(map(str, SHAPE))} values, limit over ours (processor time)",
            [LIMIT_SECONDS],
            [done.result],
            wanted="above 1",
            names=("limit", "ours"),
            place=7,
        )
    calibrate(sets)
    power(max(sets // 5, 20))


if __name__ == "__main__":
    main()
