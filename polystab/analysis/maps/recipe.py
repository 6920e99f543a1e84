"""The training maps of PolyPythias as their code makes them, so that published tables can be checked.

To the letter of ``training_map.py`` on the branch ``polypythias`` of github.com/EleutherAI/pythia:

- checkpoints, not runs, are split: four fifths of the (run, step) rows to fit, one fifth to judge, drawn by
  ``sklearn.model_selection.train_test_split(test_size=0.2, random_state=2546)``. Neighbours of almost every judged
  checkpoint are among the fitted ones;
- z-scores (ddof 0) per run over its whole trajectory, in each part of the split separately: a checkpoint's value
  depends on what the run does later;
- ``GaussianHMM(covariance_type="diag", n_iter=10000)`` with hmmlearn's own defaults otherwise, restarts with random
  states 5329, 2332, 4642, 6432 and 4754, of which the one with the highest log-likelihood of the judged rows is kept.
  All begin at k-means centres;
- AIC and BIC are those of the judged rows, and are averaged over the restarts;
- states are decoded as if all runs were one long run: a note says how many that changes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from polystab.analysis.arrays import Bools, Floats, Ints, described
from polystab.analysis.maps.choice import Split, Tried, table_of
from polystab.analysis.maps.fit import SAME_OPTIMUM, Fit, parameters_of, quiet_hmmlearn
from polystab.analysis.maps.inputs import Rows, Scale, normalised
from polystab.analysis.maps.kernels import n_parameters
from polystab.errors import AnalysisError

RANDOM_STATES = (5329, 2332, 4642, 6432, 4754)
SPLIT_STATE = 2546
TEST_SIZE = 0.2
MAX_ITERATIONS = 10_000

# What these mean here and not in a map by default.
_DOCS = {
    "log_likelihood": "log-likelihood of the judged checkpoints under the best restart",
    "n_rows": "judged checkpoints",
    "aic": "AIC of the judged checkpoints, mean over restarts; lowest is best",
    "bic": "BIC of the judged checkpoints, mean over restarts; lowest is best",
    "restart_held_out": "log-likelihood of the judged checkpoints, each restart",
}


def split_checkpoints(rows: Rows) -> Split:
    """The split of PolyPythias, over the rows in the order of the runs and steps."""
    from sklearn.model_selection import train_test_split

    run, step = np.nonzero(rows.used)
    if len(run) < 2:
        raise AnalysisError(f"{len(run)} checkpoints cannot be split into some to fit and some to judge.")
    tested = np.zeros_like(rows.used)
    _, chosen = train_test_split(np.arange(len(run)), test_size=TEST_SIZE, random_state=SPLIT_STATE)
    tested[run[chosen], step[chosen]] = True
    return Split(rows.used & ~tested, tested)


def try_counts(rows: Rows, split: Split, counts: list[int]) -> Tried:
    """Fit every number of states, restart by restart, and judge it by the held-out checkpoints."""
    x, lengths = _parts(rows, split.fitted)
    judged, judged_lengths = _parts(rows, split.tested)
    fits, lines, scores = {}, [], np.full((len(counts), len(RANDOM_STATES)), np.nan)
    for i, n in enumerate(counts):
        if len(x) < n:
            raise AnalysisError(f"{len(x)} checkpoints to fit for {n} states; try fewer.")
        models = [_fitted(x, lengths, n, state) for state in RANDOM_STATES]
        scores[i] = [_score(model, judged, judged_lengths) for model in models]
        if np.isnan(scores[i]).all():
            raise AnalysisError(f"no restart with {n} states gave a valid model; the recipe has no guard against it.")
        fits[n] = _fit_of(models, scores[i], x, lengths)
        lines.append(_line(fits[n], scores[i], len(judged), x.shape[1], models, lengths, x))
    table = table_of(counts, lines)
    table["restart_held_out"] = (("n_states", "restart"), scores)
    table = table.assign_coords(restart=list(RANDOM_STATES))
    return Tried(fits, described(table, _DOCS))


def _parts(rows: Rows, part: Bools) -> tuple[Floats, list[int]]:
    nowhere = Scale(np.empty((0, 0)), np.empty((0, 0)))
    z = normalised(replace(rows, used=part), "run", nowhere)
    return z[part], [int(n) for n in part.sum(axis=1) if n]


def _fitted(x: Floats, lengths: list[int], n_states: int, state: int) -> Any:
    from hmmlearn.hmm import GaussianHMM

    model = GaussianHMM(n_components=n_states, covariance_type="diag", n_iter=MAX_ITERATIONS, random_state=state)
    with quiet_hmmlearn(), np.errstate(all="ignore"):
        return model.fit(x, lengths)


def _score(model: Any, x: Floats, lengths: list[int]) -> float:
    """Log-likelihood, NaN where hmmlearn refuses its own model (a state that no transition leaves)."""
    try:
        return float(model.score(x, lengths))
    except ValueError:
        return float("nan")


def _fit_of(models: list[Any], scores: Floats, x: Floats, lengths: list[int]) -> Fit:
    own = np.array([_score(model, x, lengths) for model in models])
    best = int(np.nanargmax(scores))
    done = np.array([model.monitor_.iter < MAX_ITERATIONS for model in models])
    return Fit(parameters_of(models[best]), own, done, best)


def _line(
    found: Fit, scores: Floats, n_judged: int, n_metrics: int, models: list[Any], lengths: list[int], x: Floats
) -> dict[str, Any]:
    n = found.parameters.n_states
    k = n_parameters(n, n_metrics, "diag")
    path: Ints = models[found.best].predict(x, lengths)
    top = float(np.nanmax(scores))
    return {
        "log_likelihood": top,
        "n_parameters": k,
        "n_rows": n_judged,
        "aic": float(np.nanmean(-2 * scores + 2 * k)),
        "bic": float(np.nanmean(-2 * scores + k * np.log(n_judged))),
        "held_out": top,
        "held_out_per_checkpoint": top / n_judged,
        "optimum_share": float(np.mean(np.nan_to_num(scores, nan=-np.inf) >= top - SAME_OPTIMUM)),
        "converged": bool(found.converged[found.best]),
        "converged_share": float(np.mean(found.converged)),
        "n_unvisited": n - len(np.unique(path)),
        "refused": "",
    }
