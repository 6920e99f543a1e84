"""Multi-bootstrap of 10 seeds and 5,000 items, 1,000 resamples, against plain loops; memory against the chunk."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from harness import in_fresh_process, print_ratio, report_line

SEEDS, ITEMS, RESAMPLES = 10, 5_000, 1_000


def answers(seed: int) -> Any:
    """0 or 1 for every seed and item."""
    return (np.random.default_rng(seed).random((SEEDS, ITEMS)) < 0.6 + 0.02 * seed).astype(np.float64)


def by_score_function(score: Callable[[Any, Any], float], resamples: int) -> Any:
    """As the published method is written: draw, pick labels and predictions, score every run with a function."""
    rng = np.random.default_rng(0)
    labels = np.ones(ITEMS, dtype=np.int64)
    predictions = np.concatenate([answers(0), answers(1)]).astype(np.int64)
    result = np.empty(resamples)
    for k in range(resamples):
        base, other = rng.choice(SEEDS, SEEDS), SEEDS + rng.choice(SEEDS, SEEDS)
        items = rng.choice(ITEMS, ITEMS)
        truth = labels[items]
        means = [np.mean([score(truth, predictions[run, items]) for run in runs]) for runs in (base, other)]
        result[k] = means[1] - means[0]
    return result


def by_matrix(resamples: int) -> Any:
    """Draw, pick the drawn rows and columns at once, take the mean."""
    rng = np.random.default_rng(0)
    one, two = answers(0), answers(1)
    result = np.empty(resamples)
    for k in range(resamples):
        base, other, items = rng.integers(0, SEEDS, SEEDS), rng.integers(0, SEEDS, SEEDS), rng.integers(0, ITEMS, ITEMS)
        result[k] = two[np.ix_(other, items)].mean() - one[np.ix_(base, items)].mean()
    return result


def by_runs(resamples: int) -> Any:
    """The quickest plain loop: one drawn row at a time, which stays in cache."""
    rng = np.random.default_rng(0)
    one, two = answers(0), answers(1)
    result = np.empty(resamples)
    for k in range(resamples):
        base, other, items = rng.integers(0, SEEDS, SEEDS), rng.integers(0, SEEDS, SEEDS), rng.integers(0, ITEMS, ITEMS)
        result[k] = np.mean([two[run].take(items).mean() for run in other]) - np.mean(
            [one[run].take(items).mean() for run in base]
        )
    return result


def ours() -> Any:
    from polystab.analysis.bootstrap import multibootstrap

    return multibootstrap(answers(0), answers(1), n_resamples=RESAMPLES, rng=0)


def seconds(call: Callable[[], Any]) -> float:
    """Processor time, so that other work on the machine counts as little as may be."""
    start = time.process_time()
    call()
    return time.process_time() - start


def compare_time(rounds: int = 5) -> None:
    import sklearn.metrics

    loops: dict[str, tuple[Callable[[], Any], float]] = {
        "a loop that calls sklearn's accuracy_score": (
            lambda: by_score_function(sklearn.metrics.accuracy_score, 20),
            50,
        ),
        "a loop that calls a numpy score": (lambda: by_score_function(lambda t, p: (t == p).mean(), 100), 10),
        "a loop over resamples, rows and columns at once": (lambda: by_matrix(100), 10),
        "a loop over resamples and runs": (lambda: by_runs(100), 10),
    }
    ours()
    for name, (loop, share) in loops.items():
        theirs, own = [], []
        for _ in range(rounds):
            theirs.append(share * seconds(loop))
            own.append(min(seconds(ours) for _ in range(5)))
        print_ratio(f"{name}, over ours", theirs, own, wanted="at least 50", names=("loop", "ours"), place=4)


def compare_draws() -> None:
    from polystab.analysis.bootstrap.kernels import Side, all_counts, count_blocks, resampled

    rng = np.random.default_rng(1)
    n = 4000
    sides = Side(answers(0)[None], None, False), Side(answers(1)[None], None, False)
    runs = all_counts(SEEDS, n, rng), all_counts(SEEDS, n, rng)
    own = resampled(sides, runs, count_blocks(ITEMS, n, rng), n_resamples=n, chunk=200)[2, :, 0]
    loop = by_matrix(n)
    report_line(
        f"{n} resamples, loop and ours: mean {loop.mean():.5f} {own.mean():.5f}, SD {loop.std():.5f} {own.std():.5f} "
        f"(Monte Carlo error of the SD {loop.std() / np.sqrt(2 * n):.5f})"
    )
    for share in (0.025, 0.5, 0.975):
        report_line(f"  quantile {share}: {np.quantile(loop, share):.5f} {np.quantile(own, share):.5f}")


def compare_memory() -> None:
    warm = "import numpy, xarray, scipy.special, polystab.analysis.bootstrap.resampling"
    peaks = [in_fresh_process(__file__, "many_cells", chunk, warm=warm).added_bytes / 2**20 for chunk in (500, 10)]
    print_ratio(
        "memory of 2,000 cells, 500 resamples: chunk 500 over chunk 10",
        peaks[:1],
        peaks[1:],
        wanted="above 1",
        unit="MiB",
        names=("500", "10"),
    )


def many_cells(chunk: int) -> float:
    import xarray as xr

    from polystab.analysis.bootstrap import multibootstrap

    rng = np.random.default_rng(0)
    base, other = (xr.DataArray(rng.random((2000, 10, 50)), dims=("cell", "seed", "item")) for _ in range(2))
    found = multibootstrap(base, other, n_resamples=500, chunk=chunk, rng=0)
    return float(found["lower"].sum())


def main() -> None:
    compare_draws()
    compare_time()
    compare_memory()


if __name__ == "__main__":
    main()
