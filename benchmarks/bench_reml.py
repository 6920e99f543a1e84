"""REML of a table like lme4's InstEval, and of many cells, against the limits and against statsmodels."""

from __future__ import annotations

import statistics
import time
import warnings
from typing import Any

import numpy as np
from harness import in_fresh_process, print_ratio, report_line

ROWS, STUDENTS, LECTURERS, DEPARTMENTS = 73_421, 2_972, 1_128, 14
LIMIT_SECONDS, LIMIT_BYTES = 20.0, 2 * 2**30
TRUTH = {"student": 0.106, "lecturer": 0.262, "cell": 0.012, "residual": 1.385}


def ratings(rows: int, students: int, lecturers: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Ratings of lecturers by students, unbalanced, each level at least once, variances as in InstEval."""
    rng = np.random.default_rng(0)

    def levels(count: int) -> Any:
        share = rng.gamma(1.5, size=count)
        return rng.permutation(
            np.concatenate([np.arange(count), rng.choice(count, rows - count, p=share / share.sum())])
        )

    student, lecturer = levels(students), levels(lecturers)
    department, service = lecturer % DEPARTMENTS, rng.integers(0, 2, rows)
    cell = 2 * department + service
    y = 3.2 - 0.07 * service + rng.normal(0, TRUTH["residual"] ** 0.5, rows)
    for name, codes in (("student", student), ("lecturer", lecturer), ("cell", cell)):
        y += rng.normal(0, TRUTH[name] ** 0.5, codes.max() + 1)[codes]
    names = np.array([f"D{i:02}" for i in range(DEPARTMENTS)])
    return y, {"student": student, "lecturer": lecturer, "cell": cell}, {"service": service, "dept": names[department]}


def fit_ratings(three: bool) -> dict[str, float]:
    """Three factors and one fixed effect, or two factors and fifteen."""
    from polystab.analysis.variance import fit_reml

    y, factors, fixed = ratings(ROWS, STUDENTS, LECTURERS)
    if three:
        del fixed["dept"]
    else:
        del factors["cell"]
    fit = fit_reml(y, factors, fixed)
    assert fit.converged
    return {name: float(value) for name, value in fit.variance.items()}


def compare_crossed(rounds: int = 3) -> None:
    """Two crossed factors on a size that statsmodels can take: it holds n x n matrices."""
    import pandas as pd
    import statsmodels.formula.api as smf

    from polystab.analysis.variance import fit_reml

    y, factors, _ = ratings(500, 40, 20)
    data = pd.DataFrame({"y": y, "student": factors["student"], "lecturer": factors["lecturer"], "all": 1})
    crossed = {"student": "0 + C(student)", "lecturer": "0 + C(lecturer)"}
    theirs, ours = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = smf.mixedlm("y ~ 1", data, groups="all", vc_formula=crossed).fit()
        theirs.append(time.perf_counter() - start)
        start = time.perf_counter()
        fit = fit_reml(y, data[["student", "lecturer"]])
        ours.append(time.perf_counter() - start)
    print_ratio("500 ratings, 40 x 20 crossed, statsmodels over ours", theirs, ours, wanted="above 1")
    report_line(f"  criterion: statsmodels {-2 * peer.llf:.6f}, ours {fit.criterion:.6f}")


def compare_cells(missing: float, cells: int = 20_000, sample: int = 40) -> None:
    """Seeds within models, one response per cell, against a loop of MixedLM over some of the cells."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    from polystab.analysis.variance import fit_reml

    rng = np.random.default_rng(1)
    model = np.repeat(np.arange(5), 10)
    y = rng.normal(size=(5, cells))[model] + rng.normal(size=(50, cells))
    y[rng.random(y.shape) < missing] = np.nan
    start = time.perf_counter()
    fit = fit_reml(y, {"model": model})
    ours = (time.perf_counter() - start) / cells
    seconds, worst, failed = [], 0.0, 0
    for i in range(sample):
        kept = ~np.isnan(y[:, i])
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = MixedLM(y[kept, i], np.ones(kept.sum()), groups=model[kept]).fit()
        seconds.append(time.perf_counter() - start)
        failed += not peer.converged
        if peer.converged and not fit.singular[i]:
            worst = max(worst, abs(peer.scale / fit.variance["residual"][i] - 1))
    print_ratio(
        f"{cells} cells of 5 models x 10 seeds, {missing:.0%} missing, statsmodels over ours, per cell",
        [statistics.mean(seconds)],
        [ours],
        wanted="at least 500" if not missing else "at least 50",
    )
    report_line(
        f"  residual variance differs by at most {worst:.1e}; statsmodels did not converge in {failed} of {sample}"
    )


def main() -> None:
    report_line(f"true variances {TRUTH}")
    warm = "import numpy, pandas, scipy.sparse, scipy.linalg, polystab.analysis.variance"
    for three, what in ((True, "3 factors, 1 fixed effect"), (False, "2 factors, 15 fixed effects")):
        done = in_fresh_process(__file__, "fit_ratings", three, warm=warm)
        table = f"{ROWS} rows, {STUDENTS} x {LECTURERS} levels, {what}"
        report_line(f"{table}: " + ", ".join(f"{name} {value:.4f}" for name, value in done.result.items()))
        print_ratio(
            f"  limit of {LIMIT_SECONDS:g} s over ours, {what}",
            [LIMIT_SECONDS],
            [done.seconds],
            wanted="above 1",
            names=("limit", "ours"),
            place=5,
        )
        print_ratio(
            f"  limit of 2 GiB over added memory, {what}",
            [LIMIT_BYTES / 2**20],
            [done.added_bytes / 2**20],
            wanted="above 1",
            unit="MiB",
            names=("limit", "ours"),
            place=5,
        )
    compare_crossed()
    compare_cells(0.0)
    compare_cells(0.05)


if __name__ == "__main__":
    main()
