"""From map to performance: does the time spent in each state tell how well a run ends?

An R squared of such a regression says little by itself: ten runs and five states give 0.44 by
chance, and two runs that went wrong, each in its own way, give nearly 1. So it never stands alone
here: with it go the value expected by chance, a permutation p-value, the leave-one-run-out Q
squared, and what is left of it without each run and each pair of runs.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, described
from polystab.analysis.maps.reading import state_occupancy
from polystab.analysis.maps.states import States, as_states
from polystab.errors import AnalysisError, shown

MIN_RUNS = 3
# With more runs than this no pair of them decides, and there are too many pairs.
MOST_RUNS_IN_PAIRS = 100
# Singular values below this share of the largest are rounding of occupancies that depend on each other.
RANK_TOLERANCE = 1e-9

_DOCS = {
    "r2": "share of the variance over runs that a regression on occupancy explains",
    "q2": "the same for runs left out of the regression, one by one; below 0 it is worse than the mean",
    "expected_r2": "R squared expected if scores were dealt to runs at random",
    "p_value": "share of random deals of the scores with an R squared as large",
    "n_runs": "runs in the regression",
    "rank": "independent states in the regression",
    "coefficient": "score of a run that is in this state only, least squares of smallest norm",
    "score": "score of the run",
    "fitted": "fitted score of the run",
    "left_out": "score predicted from the other runs",
    "determined": "the other runs determine that prediction; else it takes an unseen state for 0",
    "r2_without": "R squared without the two runs (without the one, where they are the same)",
    "smallest_without_two": "smallest R squared without two runs",
    "without_two": "the seeds of those two runs, -1 for none",
}


@dataclass(frozen=True)
class Regression:
    """Least squares of scores on occupancies; see the documentation of the variables of the result."""

    r2: float
    q2: float
    expected_r2: float
    p_value: float
    rank: int
    coefficient: Floats
    fitted: Floats
    left_out: Floats
    determined: Bools
    r2_without: Floats


def performance_from_occupancy(
    states: States,
    score: xr.DataArray,
    *,
    n_states: int | None = None,
    n_permutations: int = 9_999,
    rng: int | np.random.Generator | None = 0,
) -> xr.Dataset:
    """Regress a score of each run on how much of it is spent in each state, and say what that is worth.

    Parameters
    ----------
    states : xarray.Dataset or xarray.DataArray
        Decoded runs, or states over (seed, step), with or without ``model``. To ask what the
        beginning of training tells, select steps first.
    score : xarray.DataArray
        Score of each run over (seed), or (model, seed); NaN where there is none.
    n_states : int, optional
        How many states there are, where ``states`` does not say.
    n_permutations : int, optional
        Random deals behind ``p_value``, which is a multiple of 1 / (n_permutations + 1).
    rng : int, numpy.random.Generator or None, optional
        For the permutations.

    Returns
    -------
    xarray.Dataset
        Along ``model`` (without it if ``states`` has none): ``r2``, ``q2``, ``expected_r2``,
        ``p_value``, ``n_runs``, ``rank``; ``coefficient(map_state)`` in units of the score;
        ``score``, ``fitted``, ``left_out`` and ``determined`` over seed; ``r2_without(seed,
        other_seed)``: on the diagonal without that run, elsewhere without those two;
        ``smallest_without_two`` and the seeds ``without_two(pick)`` that it leaves out.

    Raises
    ------
    AnalysisError
        States and score share no run, or ``n_permutations`` is below 1.

    Notes
    -----
    The papers' model: score = sum over states of coefficient x occupancy. Occupancies sum to 1,
    so it contains the constant, and R squared is about the mean. With n runs and occupancies of
    rank r, dealing the scores to runs at random gives an R squared of (r - 1) / (n - 1) on
    average, whatever the scores. ``Q2 = 1 - sum (y - left_out)^2 / sum (y - mean)^2``, the mean
    being that of all runs. Where occupancies depend on each other (a state that nobody visits,
    a run that alone visits a state) the coefficients of smallest norm are taken; a left-out run
    that the others do not determine is then predicted as if its unseen state gave 0.

    Runs without a score or without states are left out, and so are copies of other runs where
    ``states`` marks them. Fewer than three runs, or scores that are all equal, give NaN.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> from polystab.analysis.maps.performance import performance_from_occupancy
    >>> rng = np.random.default_rng(0)
    >>> seeds = {"seed": range(12)}
    >>> states = xr.DataArray(np.sort(rng.integers(3, size=(12, 40))), dims=("seed", "step"), coords=seeds | {"step": range(40)})
    >>> score = xr.DataArray(rng.normal(size=12), dims="seed", coords=seeds)
    >>> result = performance_from_occupancy(states, score)
    >>> round(float(result["expected_r2"]), 3), bool(result["q2"] < result["r2"])
    (0.182, True)
    """
    if n_permutations < 1:
        raise AnalysisError(f"n_permutations={n_permutations}: at least one is needed for a p-value.")
    table, _ = as_states(states, n_states=n_states)
    read = state_occupancy(states, n_states=n_states)
    known = _scores(table, score)
    occupancy = read["occupancy"].values
    usable = np.isfinite(known) & (read["n_checkpoints"].values > 0)
    if isinstance(states, xr.Dataset) and "role" in states:
        usable &= states["role"].transpose("model", "seed").values != "copy"
    if not usable.any():
        raise AnalysisError("no run has both states and a score; do the two have the same labels?")
    generator = np.random.default_rng(rng)
    parts = [
        _placed(occupancy[m], known[m], usable[m], table["seed"].values, n_permutations, generator)
        for m in range(len(known))
    ]
    result = xr.concat(parts, dim="model").assign_coords(
        model=table["model"].values, seed=table["seed"].values, other_seed=table["seed"].values,
        map_state=read["map_state"].values,
    )  # fmt: skip
    has_model = isinstance(states, xr.Dataset) or "model" in states.dims
    return described(result if has_model else result.isel(model=0, drop=True), _DOCS)


def _scores(table: xr.DataArray, score: xr.DataArray) -> Floats:
    """The score of each run of the table, (model, seed), NaN for none."""
    if not isinstance(score, xr.DataArray) or not {"seed"} <= set(score.dims) <= {"model", "seed"}:
        dims = tuple(getattr(score, "dims", ()))
        raise AnalysisError(
            f"score has dimensions {dims}; one number per run, over (seed) or (model, seed), is needed."
        )
    for name in score.dims:
        if name not in score.coords:
            raise AnalysisError(f"score has no labels along {name!r}; without them runs cannot be told apart.")
        if len(set(score[name].values.tolist())) < score.sizes[name]:
            raise AnalysisError(
                f"score has labels along {name!r} more than once: {shown(score[name].values.tolist())}."
            )
    if "model" not in score.dims:
        score = score.drop_vars("model", errors="ignore").expand_dims(model=table["model"].values)
    score = score.transpose("model", "seed").reindex(model=table["model"].values, seed=table["seed"].values)
    return np.asarray(score.values, dtype=np.float64)


def _placed(
    occupancy: Floats, score: Floats, usable: Bools, seeds: Floats, n_permutations: int, rng: np.random.Generator
) -> xr.Dataset:
    """One model's regression, back at the places of its seeds."""
    there = np.flatnonzero(usable)
    found = regress(occupancy[there], score[there], n_permutations=n_permutations, rng=rng)
    n = len(score)

    def placed(values: Floats) -> Floats:
        full = np.full((n,) * values.ndim, np.nan)
        full[np.ix_(*[there] * values.ndim)] = values
        return full

    pairs = found.r2_without.copy()
    np.fill_diagonal(pairs, np.nan)
    some = bool(np.isfinite(pairs).any())
    low = np.unravel_index(np.nanargmin(pairs), pairs.shape) if some else None
    return xr.Dataset(
        {
            "r2": found.r2,
            "q2": found.q2,
            "expected_r2": found.expected_r2,
            "p_value": found.p_value,
            "n_runs": len(there),
            "rank": found.rank,
            "coefficient": ("map_state", found.coefficient),
            "score": ("seed", np.where(usable, score, np.nan)),
            "fitted": ("seed", placed(found.fitted)),
            "left_out": ("seed", placed(found.left_out)),
            "determined": ("seed", placed(found.determined.astype(np.float64)) == 1),
            "r2_without": (("seed", "other_seed"), placed(found.r2_without)),
            "smallest_without_two": pairs[low] if low is not None else np.nan,
            "without_two": ("pick", seeds[there[list(low)]] if low is not None else np.array([-1, -1])),
        }
    )


def regress(x: Floats, y: Floats, *, n_permutations: int, rng: np.random.Generator) -> Regression:
    """Least squares of smallest norm of ``y`` (run,) on ``x`` (run, state), whose rows sum to 1."""
    n, k = x.shape
    nothing = np.full(n, np.nan)
    about = y - y.mean() if n else y
    total = float(about @ about)
    if n < MIN_RUNS or np.ptp(y) == 0:
        return Regression(
            np.nan, np.nan, np.nan, np.nan, 0, np.full(k, np.nan), nothing, nothing,
            np.zeros(n, dtype=np.bool_), np.full((n, n), np.nan),
        )  # fmt: skip
    basis = _basis(x)
    rank = basis.shape[1]
    coefficient = _solved(x, y)
    fitted = x @ coefficient
    left_out, determined = _left_out(x, y)
    r2 = _r2(basis, about[:, None], total)[0]
    deals = rng.permuted(np.tile(about, (n_permutations, 1)), axis=1).T
    as_large = np.sum(_r2(basis, deals, total) >= r2 - 1e-9)
    return Regression(
        r2=float(r2),
        q2=float(1 - np.sum((y - left_out) ** 2) / total),
        expected_r2=(rank - 1) / (n - 1),
        p_value=float((1 + as_large) / (1 + n_permutations)),
        rank=rank,
        coefficient=coefficient,
        fitted=fitted,
        left_out=left_out,
        determined=determined,
        r2_without=_without(x, y),
    )


def _r2(basis: Floats, about: Floats, total: float) -> Floats:
    """R squared of each column of centred scores; ``basis`` spans the occupancies, and so the constant."""
    return np.asarray(np.clip(np.sum((basis.T @ about) ** 2, axis=0) / total, 0.0, 1.0))


def _basis(x: Floats) -> Floats:
    left, size, _ = np.linalg.svd(x, full_matrices=False)
    return np.asarray(left[:, size > RANK_TOLERANCE * size.max(initial=0.0)])


def _solved(x: Floats, y: Floats) -> Floats:
    return np.asarray(np.linalg.lstsq(x, y, rcond=RANK_TOLERANCE)[0])


def _left_out(x: Floats, y: Floats) -> tuple[Floats, Bools]:
    """Score of each run predicted from the others, and whether they determine it."""
    n = len(y)
    predicted, determined = np.empty(n), np.empty(n, dtype=np.bool_)
    for i in range(n):
        others = np.arange(n) != i
        predicted[i] = x[i] @ _solved(x[others], y[others])
        determined[i] = _basis(x[others].T).shape[1] == _basis(x.T).shape[1]
    return predicted, determined


def _without(x: Floats, y: Floats) -> Floats:
    """R squared without each run (diagonal) and each pair; NaN where fewer than three runs or equal scores are left."""
    n = len(y)
    result = np.full((n, n), np.nan)
    pairs = itertools.combinations(range(n), 2) if n <= MOST_RUNS_IN_PAIRS else iter(())
    for i, j in itertools.chain(((i, i) for i in range(n)), pairs):
        kept = np.ones(n, dtype=np.bool_)
        kept[[i, j]] = False
        rest = y[kept]
        if len(rest) < MIN_RUNS or np.ptp(rest) == 0:
            continue
        about = rest - rest.mean()
        result[i, j] = result[j, i] = _r2(_basis(x[kept]), about[:, None], float(about @ about))[0]
    return result
