"""Training maps: the states that runs pass through, by a hidden Markov model over their metrics.

A training map says which states training goes through, in which order, and which runs take
another way (Hu et al. 2023; PolyPythias, section 5). It is a Gaussian hidden Markov model: each
run is a sequence of checkpoints, each checkpoint is in one state, and a state is a mean and a
covariance of the metrics.

**Scale.** The models need metrics on one scale, and the choice decides what a state at one
checkpoint may depend on.

- ``normalise="reference"``, the default: minus the mean, over the standard deviation, of the
  checkpoints of a set of reference runs, pooled; by default the runs that are fitted. What a run
  that is decoded with the map does later, or how long it trains, moves none of its earlier
  values, and a run that differs from the reference shows it. A run that went wrong should be
  neither reference nor fitted: name the healthy ones in ``reference``, hold the others out.
- ``normalise="causal"``: z-score of each checkpoint among those of its own run so far. Needs no
  other runs; says what is new in a run, not where it stands.
- ``normalise="run"``: z-score over the run's whole trajectory, as in the papers. **It leaks the
  future**: the value of an early checkpoint depends on how the run ends, and a run that goes
  wrong late shifts all its earlier states. In Pythia 70m, seed 0, put the weights of steps 0 to
  33000 in place of those from step 100000 on, as a restart would, and decode with a map of four
  states fitted to the five healthy runs: under ``"run"`` 33 of the 110 checkpoints before it
  change their state, under ``"reference"`` none. States on that scale cannot serve as early
  warning, and that outlier runs "deviate long before their scores do" cannot be concluded from
  them. Fitting anew with such a run among the others may move the states under any scale.

**Looking ahead.** ``state`` is the most likely path given the whole sequence, so a checkpoint's
neighbours on both sides speak for it. ``state_online`` uses only checkpoints up to there: with
``"reference"`` or ``"causal"`` it is the same whatever follows.

**Where the default differs from the papers'** (``recipe="polypythias"``,
:mod:`polystab.analysis.maps.recipe`), and why:

- the scale, as above;
- fits start from stretches of training and from random checkpoints as well as from k-means
  centres, which alone end 650 units of log-likelihood lower with five states on Pythia 70m;
- variances have a floor, or a state closes on a few equal checkpoints;
- starts and transitions that never happened stay possible (one in a million), or a run that goes
  back could not be read;
- AIC and BIC count the fitted checkpoints, and held-out likelihood is that of whole runs, not of
  checkpoints whose neighbours were fitted;
- runs are decoded one by one, not as one long run. At five states on Pythia 70m that gives three
  of five runs a single state, since no transition leads from the end of training to its beginning;
- copies of other runs are not fitted;
- states are numbered by first visit.

**How far to trust it.** Checkpoints of a run are not independent and a drift is no set of
plateaus, so AIC and BIC go on asking for more states: on smooth trajectories the number of
states is a choice of resolution, not a discovery. A note says so where the largest number tried
came out best. On Pythia 70m BIC takes 8 of 8 states, and runs left out in turn are predicted best
with 3 or with 5, depending on where the fits began. Prefer a boundary that other seeds, another number of states and the held-out
likelihood agree on (:func:`polystab.analysis.maps.reading.run_agreement`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from polystab.analysis.arrays import cells
from polystab.analysis.maps import recipe as map_recipe
from polystab.analysis.maps.choice import (
    Criterion,
    HeldOut,
    Split,
    Trial,
    Tried,
    best_count,
    counts_of,
    split_runs,
    try_counts,
    varying,
)
from polystab.analysis.maps.fit import Options, first_visit_order
from polystab.analysis.maps.inputs import Normalise, Rows, Scale, choose_metrics, gather, normalised, reference_scale
from polystab.analysis.maps.kernels import Covariance
from polystab.analysis.maps.model import TrainingMap as TrainingMap
from polystab.analysis.maps.model import seed_mask
from polystab.analysis.maps.results import (
    decoded,
    labelled_parameters,
    labelled_states,
    note_on_joining,
    notes_on_fit,
    notes_on_rows,
    roles,
)
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, did_you_mean, shown

Recipe = Literal["polypythias"]


def fit_training_map(
    cube: xr.Dataset | xr.DataTree,
    *,
    metrics: Sequence[str] | None = None,
    n_states: int | Sequence[int] | None = None,
    covariance: Covariance = "diag",
    normalise: Normalise = "reference",
    reference: Sequence[int] | None = None,
    criterion: Criterion = "bic",
    held_out: HeldOut = None,
    n_restarts: int = 10,
    variance_floor: float = 1e-3,
    left_to_right: bool = False,
    recipe: Recipe | None = None,
    rng: int | np.random.Generator | None = 0,
) -> TrainingMap:
    """Fit a training map: the states that runs pass through, by a Gaussian hidden Markov model.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    metrics : sequence of str, optional
        Ids of the metrics. By default the 14 weight features of Hu et al. (2023), if the cube has
        them under one subject of family ``weight``; else all its metrics.
    n_states : int or sequence of int, optional
        Number of states, or several to choose from; 1 to 8 by default.
    covariance : {'diag', 'full', 'tied'}, optional
        Variances of each state; a covariance matrix of each; one matrix for all.
    normalise : {'reference', 'causal', 'run'}, optional
        How metrics are put on one scale: see :mod:`polystab.analysis.training_maps`.
    reference : sequence of int, optional
        Seeds whose checkpoints set the scale of their model, under ``normalise="reference"``; by
        default all runs that are fitted.
    criterion : {'bic', 'aic', 'heldout'}, optional
        What chooses the number of states.
    held_out : optional
        What is held out to judge by: a list of seeds; a share of the runs (a float), drawn at
        random; ``"each"``, every run in its turn (in five groups where there are more than five
        runs; the map itself is then fitted to all); or ``"checkpoints"``, a fifth of all
        checkpoints, which flatters the map, since their neighbours are fitted. None by default,
        and ``"each"`` for ``criterion="heldout"``.
    n_restarts : int, optional
        Fits from different beginnings for each number of states; the most likely is kept.
    variance_floor : float, optional
        Least variance of a state in any direction, on the scale of the map (squared reference
        standard deviations): it keeps a state from closing on a few equal checkpoints.
    left_to_right : bool, optional
        States are passed in order and never again (they may be skipped).
    recipe : {'polypythias'}, optional
        Do as the code of that paper does, to the letter: :mod:`polystab.analysis.maps.recipe`. It
        settles everything but ``metrics`` and ``n_states``.
    rng : int, numpy.random.Generator or None, optional
        For restarts and for what is held out.

    Returns
    -------
    TrainingMap

    Raises
    ------
    AnalysisError
        An argument makes no sense, no metric varies, or there are fewer checkpoints than
        parameters.

    Notes
    -----
    With starts p, transitions A and normal densities f_k of the scaled checkpoint in state k, the
    likelihood of a run is the sum over all paths s of ``p[s_1] f_{s_1}(x_1) prod_t A[s_{t-1},
    s_t] f_{s_t}(x_t)``; runs are independent. It is maximised by expectation maximisation
    (hmmlearn), with variances, or eigenvalues of covariances, of at least ``variance_floor``.
    ``AIC = -2 L + 2 k`` and ``BIC = -2 L + k ln N`` with N fitted checkpoints and k = (n - 1) +
    n (n - 1) + n d + covariances free parameters of n states over d metrics (diag n d, full
    n d (d + 1) / 2, tied d (d + 1) / 2).

    Checkpoints at which a metric is not measured or infinite are left out and counted; metrics
    that do not vary are left out and named in ``notes``; copies of other runs are decoded, not
    fitted. A single run can be fitted, and a note says that nothing tells its own ways from those
    of training. The order of runs changes nothing, and neither do units (the last digits aside).

    References
    ----------
    Hu, M. Y., Chen, A., Saphra, N. and Cho, K. (2023). Latent state models of training dynamics.
    Transactions on Machine Learning Research. https://doi.org/10.48550/arXiv.2308.09543

    van der Wal, O. et al. (2025). PolyPythias: stability and outliers across fifty language model
    pre-training runs. ICLR. https://doi.org/10.48550/arXiv.2503.09543

    Rabiner, L. R. (1989). A tutorial on hidden Markov models and selected applications in speech
    recognition. Proceedings of the IEEE 77, 257-286. https://doi.org/10.1109/5.18626

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis.training_maps import fit_training_map
    >>> cube = polystab.testing.phase_cube(rng=0)
    >>> fitted = fit_training_map(cube, n_states=[2, 3], n_restarts=3)
    >>> fitted.selection["n_parameters"].dims, fitted.states["state"].dims
    (('n_states',), ('model', 'seed', 'step'))
    """
    cube = as_cube(cube)
    _check_choice("normalise", normalise, get_args(Normalise))
    _check_choice("covariance", covariance, get_args(Covariance))
    _check_choice("criterion", criterion, get_args(Criterion))
    counts = counts_of(n_states)
    if not isinstance(n_restarts, (int, np.integer)) or n_restarts < 1:
        raise AnalysisError(f"n_restarts={n_restarts!r} is not a number of fits, 1 or more.")
    if not variance_floor > 0:
        raise AnalysisError(f"variance_floor={variance_floor} is not above 0.")
    if reference is not None and normalise != "reference":
        raise AnalysisError(f"normalise={normalise!r} takes no reference; leave it out.")
    if recipe is not None:
        _check_choice("recipe", recipe, get_args(Recipe))
        _check_recipe_alone(covariance, normalise, reference, held_out, left_to_right)
        normalise = "run"
    generator = np.random.default_rng(rng)
    options = Options(covariance, n_restarts, variance_floor, left_to_right, int(generator.integers(2**31)))
    notes: list[str] = []
    rows = gather(cube, choose_metrics(cube, metrics))
    _check_rows(cube, rows)
    notes += notes_on_rows(rows)
    if recipe is not None:
        main = map_recipe.split_checkpoints(rows)
        chosen = None
    else:
        seeds = [int(seed) for seed in cube["seed"].values.tolist()]
        rule = "each" if held_out is None and criterion == "heldout" else held_out
        main, folds = split_runs(rows, seeds, rule, generator)
        chosen = None if reference is None else seed_mask(cube, rows, reference)
    rows = varying(rows, main, normalise, chosen, notes)
    if recipe is not None:
        tried = map_recipe.try_counts(rows, main, counts)
    else:
        tried = try_counts(Trial(rows, normalise, chosen, options), main, folds, counts)
    best = best_count(tried.table, criterion)
    notes += notes_on_fit(tried, best, len(counts) > 1, main)
    attrs: dict[str, Any] = {
        "covariance": covariance,
        "normalise": normalise,
        "criterion": criterion,
        "left_to_right": int(left_to_right),
        "recipe": recipe or "",
        "n_restarts": len(map_recipe.RANDOM_STATES) if recipe else n_restarts,
        "variance_floor": 0.0 if recipe else float(variance_floor),
    }
    scale = reference_scale(rows, main.fitted_runs if chosen is None else chosen)
    return _finished(cube, rows, main, scale, tried, best, attrs, notes)


def _finished(
    cube: xr.Dataset,
    rows: Rows,
    main: Split,
    scale: Scale,
    tried: Tried,
    best: int,
    attrs: dict[str, Any],
    notes: list[str],
) -> TrainingMap:
    """Number the states by first visit, decode everything, put labels on."""
    z = normalised(rows, attrs["normalise"], scale)
    joined = bool(attrs["recipe"])
    found = tried.fits[best].parameters
    # Of the runs that were fitted, all checkpoints, so that a split by checkpoints does not hide a first visit.
    paths = np.where(main.fitted_runs[:, None], decoded(rows, z, found, joined=False).viterbi, -1)
    model = found.reordered(first_visit_order(paths, best, found.mean))
    states = labelled_states(cube, rows, z, model, joined=joined, role=roles(rows, main))
    if joined:
        notes = [*notes, note_on_joining(states, labelled_states(cube, rows, z, model, joined=False))]
    if attrs["normalise"] != "reference":
        scale = Scale(np.full_like(scale.centre, np.nan), np.full_like(scale.spread, np.nan))
    return TrainingMap(labelled_parameters(cube, rows, scale, model, attrs), tried.table, states, tuple(notes))


def _check_rows(cube: xr.Dataset, rows: Rows) -> None:
    if rows.used.any():
        return
    finite = np.isfinite(cells(cube.sel(metric=list(rows.metrics))))
    count = finite.sum(axis=(0, 1, 2))
    rarest = rows.metrics[int(np.argmin(count))]
    raise AnalysisError(
        f"no checkpoint has a finite value for all {len(rows.metrics)} metrics; {rarest!r} is measured at {int(count.min())}. "
        "Choose metrics that are measured at the same steps."
    )


def _check_choice(argument: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise AnalysisError(f"no {argument} {value!r}. {did_you_mean(str(value), allowed)}")


def _check_recipe_alone(
    covariance: str, normalise: str, reference: object, held_out: object, left_to_right: bool
) -> None:
    """A recipe settles these; saying something else beside it is a mistake."""
    given = {
        "covariance": covariance != "diag",
        "normalise": normalise not in ("reference", "run"),
        "reference": reference is not None,
        "held_out": held_out is not None,
        "left_to_right": left_to_right,
    }
    if clash := [name for name, is_given in given.items() if is_given]:
        raise AnalysisError(f"the recipe settles {shown(clash)}; leave that out, or leave the recipe out.")
