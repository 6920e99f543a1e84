"""Kappa of all pairs of runs against a loop over scikit-learn, and what the intervals cover."""

from __future__ import annotations

import time
from itertools import combinations, product
from typing import Any

import numpy as np
import xarray as xr
from harness import print_ratio, report_line

RUNS, STEPS, ITEMS, OPTIONS = 10, 27, 5_000, 4
LIMIT_SECONDS = 2.0

# Shared difficulty of items, spread of a run's favourite options, spread of the runs' ability, options.
SUITES = {
    "guessing": (0.0, 0.0, 0.0, 4),
    "alike runs": (1.0, 0.0, 0.0, 4),
    "favourite options": (1.0, 0.7, 0.0, 4),
    "unequal runs": (1.5, 0.2, 0.6, 4),
    "two options": (4.0, 0.2, 0.3, 2),
    "nearly all agree": (8.0, 0.1, 0.1, 2),
}
DIMS = ("model", "seed", "step", "item")


def group(codes: Any, correct: Any = None) -> xr.Dataset:
    n_model, n_seed, n_step, n_item = codes.shape
    variables = {"choice": (DIMS, codes)} | ({} if correct is None else {"correct": (DIMS, correct)})
    labels = [f"{i:x}" for i in range(n_item)]
    return xr.Dataset(
        variables,
        coords={
            "model": [f"m{i}" for i in range(n_model)],
            "seed": np.arange(n_seed),
            "step": np.arange(n_step),
            "item": labels,
            "task": ("item", ["task"] * n_item),
            "doc_hash": ("item", labels),
        },
    )


def compare_all_pairs(rounds: int = 3) -> None:
    """Ours are all pairs at all steps; scikit-learn's loop is timed on some of them."""
    from sklearn.metrics import cohen_kappa_score

    from polystab.analysis.agreement import agreement

    rng = np.random.default_rng(0)
    key = rng.integers(0, OPTIONS, ITEMS)
    shape = (1, RUNS, STEPS, ITEMS)
    codes = np.where(rng.random(shape) < 0.5, key, rng.integers(0, OPTIONS, shape)).astype(np.int16)
    items = group(codes, (codes == key).astype(np.int8))
    pairs = list(combinations(range(RUNS), 2))
    sample = [0, STEPS // 2, STEPS - 1]
    theirs, ours, whole, worst = [], [], [], 0.0
    for _ in range(rounds):
        start = time.perf_counter()
        peer = {(s, a, b): cohen_kappa_score(codes[0, a, s], codes[0, b, s]) for s in sample for a, b in pairs}
        theirs.append((time.perf_counter() - start) * STEPS / len(sample))
        start = time.perf_counter()
        found = agreement(items, answers="choice", pairs=True, level=None)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        agreement(items, answers="choice")
        whole.append(time.perf_counter() - start)
        matrix = found["pair_kappa"].isel(answer=0, task=0, model=0).transpose("step", "seed", "seed_2").values
        worst = max(worst, *(abs(float(matrix[place]) - value) for place, value in peer.items()))
    table = f"{len(pairs)} pairs x {STEPS} steps x {ITEMS} items"
    print_ratio(f"{table}, scikit-learn's loop over ours", theirs, ours, wanted="above 1")
    print_ratio("  time limit over time", [LIMIT_SECONDS], ours, wanted="above 1", names=("limit", "ours"), place=4)
    report_line(f"  largest difference from scikit-learn {worst:.1e}")
    print_ratio("  the same over ours with all statistics and intervals", theirs, whole, wanted="above 1")


def answers(rng: np.random.Generator, steps: int, runs: int, items: int, suite: tuple[float, ...]) -> Any:
    """Options chosen (1, run, step, item): steps are repetitions of everything."""
    shared, favourite, ability, options = suite[0], suite[1], suite[2], int(suite[3])
    item = shared * rng.standard_normal((1, steps, items, options), dtype=np.float32)
    run = favourite * rng.standard_normal((runs, steps, 1, options), dtype=np.float32)
    skill = np.exp(ability * rng.standard_normal((runs, steps, 1, 1), dtype=np.float32))
    own = rng.standard_normal((runs, steps, items, options), dtype=np.float32)
    return np.argmax(item * skill + run + own, axis=-1).astype(np.int16)[None]


def cover_agreement(repeats: int = 1000) -> None:
    """Share of 95 % intervals of the mean over pairs that hold the value of all runs and items."""
    from polystab.analysis.agreement import agreement

    rng = np.random.default_rng(1)
    for name, suite in SUITES.items():
        at: dict[str, Any] = {"task": "task", "model": "m0", "answer": "choice"}
        many = [agreement(group(answers(rng, 10, 150, 1000, suite)), level=None) for _ in range(4)]
        truth = float(np.mean([part["agreement"].sel(**at, statistic="all_pairs").mean() for part in many]))
        said = []
        for runs, items in product((3, 5, 10), (100, 400)):
            hits, naive = [], []
            for _ in range(repeats // 250):
                found = agreement(group(answers(rng, 250, runs, items, suite)), pairs=True).sel(**at)
                mean = found.sel(statistic="all_pairs")
                hits.append(((mean["lower"] <= truth) & (truth <= mean["upper"])).values)
                upper = found["pair_kappa"].values[np.triu_indices(runs, 1)]
                half = 1.96 * upper.std(axis=0, ddof=1) / np.sqrt(len(upper))
                naive.append(np.abs(upper.mean(axis=0) - truth) <= half)
            said.append(f"{runs}x{items} {np.mean(hits):.3f} ({np.mean(naive):.2f})")
        report_line(f"  {name}, kappa {truth:.2f}: " + ", ".join(said))


def cover_ranks(repeats: int = 2000) -> None:
    """Share of 95 % intervals of flips and of tau that hold their value over all seeds, two to five models."""
    from polystab.analysis.agreement import rank_agreement

    rng = np.random.default_rng(2)
    for means, design in product(
        ((0.0, 0.0), (0.0, 1.0), (0.0, 3.0), (0.0, 1.0, 2.0), (0.0, 0.3, 0.6, 1.0, 2.0)), ("nested", "crossed")
    ):
        mean = np.array(means)
        # A draw of seeds of all models, twice; what models share with a seed moves no ranking.
        draws = [mean[:, None] + rng.standard_normal((len(mean), 200_000)) for _ in range(2)]
        win = np.bincount(np.argmax(draws[0], axis=0), minlength=len(mean)) / draws[0].shape[1]
        signs = [
            np.sign(draws[0][a] - draws[0][b]) * np.sign(draws[1][a] - draws[1][b])
            for a, b in combinations(range(len(mean)), 2)
        ]
        tau, said = float(np.mean(signs)), []
        for runs in (3, 5, 10):
            value = mean[:, None, None, None] + rng.standard_normal((len(mean), runs, 1, repeats))
            found = rank_agreement(scored(value), design=design).isel(step=0)
            flips = 1 - win[[int(str(name)[1:]) for name in found["winner"].values]]
            held = (found["flips_lower"] <= flips) & (flips <= found["flips_upper"])
            held_tau = (found["tau_lower"] <= tau) & (tau <= found["tau_upper"])
            said.append(f"{runs} runs {float(held.mean()):.3f}, {float(held_tau.mean()):.3f}")
        report_line(f"  {design}, means {means}: flips, tau: " + "; ".join(said))


def scored(value: Any) -> xr.Dataset:
    """A cube of scores, higher is better."""
    import pandas as pd

    import polystab as ps

    n_model, n_seed, _, n_metric = value.shape
    model, seed, metric = np.meshgrid(np.arange(n_model), np.arange(n_seed), np.arange(n_metric), indexing="ij")
    frame = pd.DataFrame(
        {
            "model": [f"m{i}" for i in model.ravel()],
            "seed": seed.ravel(),
            "step": 0,
            "metric": [f"eval/task{i}/acc" for i in metric.ravel()],
            "value": value.ravel(),
        }
    )
    cube = ps.cube_from_records(frame)
    return cube.assign_coords(better=("metric", ["higher"] * n_metric))


def main() -> None:
    compare_all_pairs()
    report_line("coverage of 95 % intervals, runs x items (in brackets: pairs taken as independent)")
    cover_agreement()
    report_line("coverage of 95 % intervals over runs")
    cover_ranks()


if __name__ == "__main__":
    main()
