"""Training maps: time and optimum against hmmlearn's own fits, recovery of simulated states, what each scale leaks."""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from harness import print_ratio, report_line

RUNS, STEPS, METRICS, RESTARTS, MOST = 5, 154, 14, 5, 8


def cube_of(value: Any) -> xr.Dataset:
    """A cube of one model from values (seed, step, metric)."""
    import polystab as ps

    seed, step, metric = (index.ravel() for index in np.indices(value.shape))
    names = np.array([f"weight/all/m{i}" for i in range(value.shape[2])])
    frame = pd.DataFrame(
        {"model": "simulated", "seed": seed, "step": step, "metric": names[metric], "value": value.ravel()}
    )
    return ps.cube_from_records(frame)


def drifting(seed: int = 0) -> Any:
    """Runs of the size of Pythia 70m's weights: few shared directions that drift, and noise."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=(STEPS, 3)).cumsum(axis=0)
    own = shared + 0.1 * rng.normal(size=(RUNS, STEPS, 3)).cumsum(axis=1)
    return own @ rng.normal(size=(3, METRICS)) + 0.1 * rng.normal(size=(RUNS, STEPS, METRICS))


def against_hmmlearn() -> None:
    """All numbers of states: time of a fit, and how high the best of five restarts gets under hmmlearn's own rules."""
    from hmmlearn.hmm import GaussianHMM

    from polystab.analysis.training_maps import fit_training_map

    cube = cube_of(drifting())
    value = cube["value"].values[0]
    x = ((value - value.mean(axis=(0, 1))) / value.std(axis=(0, 1))).reshape(-1, METRICS)
    lengths = [STEPS] * RUNS
    fit_training_map(cube, n_states=2, n_restarts=1)  # imports
    theirs, ours, gain = [], [], []
    logging.getLogger("hmmlearn").setLevel(logging.CRITICAL)
    for n in range(1, MOST + 1):
        start = time.perf_counter()
        own = [
            GaussianHMM(n, n_iter=1000, tol=1e-3, random_state=i).fit(x, lengths).score(x, lengths)
            for i in range(RESTARTS)
        ]
        theirs.append(time.perf_counter() - start)
        start = time.perf_counter()
        found = fit_training_map(cube, n_states=n, n_restarts=RESTARTS).parameters
        ours.append(time.perf_counter() - start)
        go_on = GaussianHMM(n, n_iter=1000, tol=1e-3, init_params="")
        go_on.startprob_, go_on.transmat_, go_on.means_ = (found[p].values for p in ("start", "transition", "mean"))
        go_on.n_features, go_on.covars_ = METRICS, found["variance"].values
        gain.append(go_on.fit(x, lengths).score(x, lengths) - max(own))
    what = f"{RUNS} x {STEPS} x {METRICS}, 1 to {MOST} states, {RESTARTS} restarts, hmmlearn over ours"
    print_ratio(what, [sum(theirs)], [sum(ours)], wanted="above 1")
    report_line(f"  log-likelihood from our optimum minus best of hmmlearn's: {np.round(gain, 1).tolist()}")


def recovery(draws: int) -> None:
    """How often the criteria pick the true number of well separated states, and the agreement of the states."""
    from sklearn.metrics import adjusted_rand_score

    from polystab.analysis.training_maps import fit_training_map

    for k in (3, 4):
        for apart in (2.0, 5.0):
            right = {"bic": 0, "aic": 0, "heldout": 0}
            agreement = []
            for seed in range(draws):
                rng = np.random.default_rng(seed)
                moves = rng.random((RUNS, 60)) < 1.3 * k / 60
                moves[:, 0] = False
                state = moves.cumsum(axis=1) % k
                value = apart * np.eye(4, 3, k=-1)[state] + rng.normal(size=(RUNS, 60, 3))
                cube = cube_of(value)
                fitted = fit_training_map(cube, n_states=range(1, 7), held_out="each")
                table = fitted.selection
                right["bic"] += fitted.n_states == k
                right["aic"] += int(table["n_states"].values[np.argmin(table["aic"].values)]) == k
                right["heldout"] += int(table["n_states"].values[np.argmax(table["held_out"].values)]) == k
                at_truth = fit_training_map(cube, n_states=k).states["state"].values.ravel()
                agreement.append(adjusted_rand_score(state.ravel(), at_truth))
            picked = ", ".join(f"{name} {count}/{draws}" for name, count in right.items())
            report_line(
                f"{k} states {apart:g} sd apart: true number picked by {picked}; "
                f"ARI at it {np.median(agreement):.3f} (least {min(agreement):.3f})"
            )


def leaks() -> None:
    """Earlier states of a run that change when a restart is pasted in late, per scale."""
    from polystab.analysis.training_maps import fit_training_map

    value = drifting()
    at = 110
    for normalise in ("reference", "causal", "run"):
        changed = []
        for n in (3, 4, 5):
            fitted = fit_training_map(cube_of(value), n_states=n, normalise=normalise)  # type: ignore[arg-type]
            for run in range(RUNS):
                restarted = value.copy()
                restarted[run, at:] = value[run, : STEPS - at]
                states = fitted.decode(cube_of(restarted))["state"].values[0, run, :at]
                changed.append(int((states != fitted.states["state"].values[0, run, :at]).sum()))
        report_line(f"{normalise}: states of {at} earlier checkpoints that a late restart changes: {changed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=20)
    draws = parser.parse_args().draws
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        against_hmmlearn()
    leaks()
    recovery(draws)


if __name__ == "__main__":
    main()
