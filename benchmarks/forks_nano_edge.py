"""Does the state at a quarter of training decide which runs of nano-edge go wrong?

Fresh runs of one learning rate are trained to step 200. From each of these states (weights and optimizer) training goes
on several times, every time on other documents. If the state decides, the continuations of one state end alike; if it
does not, no early warning can do better at that step than the rate alone, whatever it measures.

Usage: python benchmarks/forks_nano_edge.py [--rate 0.4] [--states 12] [--forks 6]        some 10 minutes of one core

It is no part of `make bench`.
"""

from __future__ import annotations

import argparse
import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr
from harness import report_line

import polystab as ps
from polystab.analysis import failed_runs
from polystab.suites.recipes import SuiteRun, suite
from polystab.suites.training import Training, TrainingLog, advance, start

QUARTER = 200
FIRST_SEED = 300  # no run of the suite has it
OTHER_DOCUMENTS = 10_000  # added to a data seed, once for each continuation
SHUFFLES = 20_000


def continuations(rate: str, states: int, forks: int) -> xr.DataTree:
    """Logs of all continuations as one model; seed ``s * forks + j`` is continuation j of state s."""
    recipe = next(run.recipe for run in suite("nano-edge").runs if run.recipe.model.endswith(f"-lr{rate}"))
    losses, norms = [], []
    for seed in range(FIRST_SEED, FIRST_SEED + states):
        begun = start(SuiteRun(recipe, seed, seed, seed))
        for _ in advance(begun, QUARTER):
            pass
        for fork in range(1, forks + 1):
            training = continued(begun, fork)
            for _ in advance(training, recipe.steps):
                pass
            for kept, logged in ((losses, training.log.loss), (norms, training.log.grad_norm)):
                kept.append(np.r_[logged, np.full(recipe.steps - len(logged), np.nan)])
    return logs(np.array(losses), np.array(norms))


def continued(begun: Training, fork: int) -> Training:
    """A copy of a run, which goes on with the documents that another data seed puts there."""
    run = replace(begun.run, data_seed=begun.run.data_seed + fork * OTHER_DOCUMENTS)
    training = start(run)
    training.model.load_state_dict(begun.model.state_dict())
    training.optimizer.load_state_dict(copy.deepcopy(begun.optimizer.state_dict()))
    training.log = TrainingLog(list(begun.log.loss), list(begun.log.grad_norm))
    return training


def logs(losses: np.ndarray, norms: np.ndarray) -> xr.DataTree:
    """A cube with the group ``log``, for :func:`failed_runs`."""
    n, steps = losses.shape
    frame = pd.DataFrame({"model": "forks", "seed": range(n), "step": steps, "metric": "loss/training/cross_entropy"})
    cube = ps.cube_from_records(frame.assign(value=losses[:, -1]))
    cells = ("model", "seed", "update")
    log = xr.Dataset({"loss": (cells, losses[None]), "grad_norm": (cells, norms[None])})
    coords = {"model": ["forks"], "seed": np.arange(n), "update": np.arange(1, steps + 1)}
    return xr.DataTree.from_dict({"/": cube, "/log": log.assign_coords(coords)})


def variance_of_counts(wrong: np.ndarray) -> float:
    return float(wrong.sum(axis=1).var())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", default="0.4")
    parser.add_argument("--states", type=int, default=12)
    parser.add_argument("--forks", type=int, default=6)
    given = parser.parse_args()
    found = failed_runs(continuations(given.rate, given.states, given.forks))
    wrong = found["wrong"].values.reshape(given.states, given.forks)
    already = (found["seen_at"].values.reshape(wrong.shape) <= QUARTER).any(axis=1)
    wrong = wrong[~already]
    n, k = wrong.shape
    rates = wrong.mean(axis=1)
    report_line(
        f"learning rate {given.rate}: {n} states at step {QUARTER} ({already.sum()} more were wrong already), {k} continuations each"
    )
    report_line(
        f"went wrong, by state: {' '.join(f'{count}/{k}' for count in wrong.sum(axis=1))}; {wrong.mean():.0%} in all"
    )
    between = k * rates.var(ddof=1)
    within = wrong.var(axis=1, ddof=1).mean()
    lower, upper = (limit(between / within, n, k, q) for q in (0.975, 0.025))
    report_line(f"95 % interval of the next number, of normal data and so approximate: {lower:.2f} to {upper:.2f}")
    report_line(
        f"intraclass correlation {(between - within) / (between + (k - 1) * within):.2f} (0: the state decides nothing, 1: all)"
    )
    dice = np.random.default_rng(0)
    shuffled = [variance_of_counts(dice.permutation(wrong.ravel()).reshape(n, k)) for _ in range(SHUFFLES)]
    p = (1 + np.sum(np.array(shuffled) >= variance_of_counts(wrong) - 1e-12)) / (SHUFFLES + 1)
    report_line(f"p of no difference between states, by {SHUFFLES} shuffles: {p:.2f}")
    report_line(f"AUROC of knowing the other {k - 1} continuations of the state: {auroc_of_others(wrong):.2f}")


def limit(ratio: float, n: int, k: int, q: float) -> float:
    """Limit of the intraclass correlation of a one-way layout, n groups of k, from the ratio of its mean squares."""
    from scipy.stats import f

    exact = ratio / float(f.ppf(q, n - 1, n * (k - 1)))
    return (exact - 1) / (exact + k - 1)


def auroc_of_others(wrong: np.ndarray) -> float:
    """How well the share of the other continuations ranks a continuation above one of another state."""
    n, k = wrong.shape
    score = ((wrong.sum(axis=1, keepdims=True) - wrong) / (k - 1)).ravel()
    state, bad = np.repeat(np.arange(n), k), wrong.ravel()
    pairs = bad[:, None] & ~bad[None, :] & (state[:, None] != state[None, :])
    better = (score[:, None] > score[None, :]) + 0.5 * (score[:, None] == score[None, :])
    return float(better[pairs].mean())


if __name__ == "__main__":
    main()
