"""Who is responsible for the spread over a window of steps, checkpoint noise included."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Floats, Ints, cells, described, labels
from polystab.analysis.audit.runs import check_not_empty, counted_cells
from polystab.analysis.chunked import in_fixed_parts
from polystab.analysis.components.window_columns import METHODS, REASONS, columns_of
from polystab.analysis.components.window_squares import DESIGNS
from polystab.analysis.options import check_choice, check_shares, flagged
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, shown

ITEMS, TOTAL = "items", "total"
NOISE = ("correlated", "white")
SPACING = ("checkpoint", "step")

# A default window has at least this many checkpoints.
_DEFAULT_WINDOWS, _LEAST_STEPS = 3, 3

# Values taken at a time, so that the work space stays small beside a large cube.
_BLOCK = 400_000

_MEANING = {
    "nested": {
        "model": "between models, the same at all steps of the window",
        "seed": "between seeds within a model, the same at all steps of the window",
        "step": "between steps, the same for all runs",
        "model:step": "between steps, the same for all seeds of a model, beyond what all models share",
        "seed:step": "checkpoint noise: what a run does at a step that its siblings do not",
    },
    "crossed": {
        "model": "between models, the same at all steps of the window",
        "seed": "between seeds, the same in all models and at all steps of the window",
        "model:seed": "between runs beyond their model and seed, the same at all steps of the window",
        "step": "between steps, the same for all runs",
        "model:step": "between steps, the same for all seeds of a model, beyond what all models share",
        "seed:step": "between steps, the same in all models for a seed (its data order), beyond what all runs share",
        "residual": "checkpoint noise: what a run does at a step that nothing else explains",
    },
}
_ITEMS_MEANING = (
    "test items: mean squared standard error, beside the parts and not taken out of them; "
    "it sits in those of seeds and checkpoints in shares that standard errors cannot tell"
)

_DOCS = {
    "variance": "variance component, never below zero",
    "estimate": "estimate of the component, which may be below zero",
    "lower": "lower end of the interval of the component",
    "upper": "upper end of the interval of the component",
    "p": "chance of so large a component, were it zero; not corrected for many tests",
    "df": "degrees of freedom of the component's mean square",
    "fraction": "share of the total, from truncated variances",
    "reason": "why there is no estimate",
    "n_runs": "runs that count: measured, finite, and no copy of another",
    "n_models": "models with such a run",
    "n_steps": "checkpoints of the window at which a run is measured",
    "method": "how the components were estimated",
    "autocorrelation": "correlation of the noise of a run between neighbouring checkpoints",
    "autocorrelation_stderr": "standard error of the autocorrelation",
    "n_effective": "independent checkpoints that would know the mean of a run as well as those measured",
}


def variance_over_windows(
    cube: xr.Dataset | xr.DataTree,
    *,
    windows: int | Sequence[tuple[int, int]] | None = None,
    design: str = "nested",
    level: float = 0.95,
    noise: str = "correlated",
    spacing: str = "checkpoint",
) -> xr.Dataset:
    """Split the variance of the scores over windows of steps into components, checkpoint noise among them.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    windows : int or sequence of (first, last), optional
        A number of windows that together hold all checkpoints, with equal numbers of them;
        or pairs of steps, both included, which may overlap and need not be checkpoints.
        By default three: the early, middle and late third of the checkpoints (a single
        window where there are fewer than nine).
    design : {'nested', 'crossed'}, optional
        ``nested``: seed 3 of one model has nothing to do with seed 3 of another; components
        ``model``, ``seed``, ``step``, ``model:step`` and ``seed:step``. ``crossed``: a seed
        is the same in all models (the same data order); ``model``, ``seed``,
        ``model:seed``, ``step``, ``model:step``, ``seed:step`` and ``residual``.
    level : float, optional
        Confidence level of the intervals, between 0 and 1.
    noise : {'correlated', 'white'}, optional
        ``correlated``: what a run does at one checkpoint may linger at the next; the
        correlation is estimated. ``white``: every checkpoint is independent, as classical
        analysis of variance has it.
    spacing : {'checkpoint', 'step'}, optional
        What the correlation falls with: the number of checkpoints between two, or the
        number of steps in units of the window's median spacing.

    Returns
    -------
    xarray.Dataset
        Over (component, window, metric), in squared units of the metric: ``variance``,
        truncated at zero; ``estimate``, not truncated; ``lower`` and ``upper``; ``p``;
        ``df``; ``fraction``, the share of the total, from ``variance``; and ``reason``, an
        integer code (``attrs["flag_meanings"]``) that is 0 where there is an estimate. Over
        (window, metric): ``autocorrelation`` of the noise,
        ``autocorrelation_stderr`` and ``n_effective``; ``n_runs``, ``n_models``,
        ``n_steps`` and ``method`` (1 balanced, 2 adjusted for gaps). Coordinates
        ``first_step``, ``last_step`` and ``n_checkpoints`` along ``window``; ``part`` and
        ``meaning`` along ``component``: the parts add up to ``total``.

    Raises
    ------
    AnalysisError
        No such design, noise or spacing; ``level`` is not between 0 and 1; a window is
        empty or no window.

    Notes
    -----
    ``y = mean + model + seed(model) + step + model:step + seed:step``, all effects normal
    with one variance each, and independent but for the last one, the checkpoint noise.

    *Correlated noise.* Noise of variance s^2 and correlation ``rho^|d|`` at distance d
    adds ``s^2 a`` to the mean square of the runs' means over K checkpoints and ``s^2 b`` to
    those about them, a = 1 + 2 sum (1 - d / K) rho^d and b = (K - a) / (K - 1). ``seed`` is
    what the mean square of the runs has beyond a / b times that of the noise; testing it
    against the noise itself would call slow wandering a seed effect. K / a is
    ``n_effective``. The lag-1 products of the residuals of all runs over their squares give
    ``rho``, as that at which their expectations, means of runs taken out, have this ratio;
    so short windows are not biased (by -(1 + rho) / (K - 1) or so: Nickell). It is looked
    for from -0.9 to 0.98, and needs three checkpoints. Its error and the dependence within
    a run enter through degrees of freedom (Box; Satterthwaite). In crossed designs
    ``seed:step`` is taken to be as correlated as ``residual``.

    What outlasts the window is ``seed``, and what comes close cannot be told from it: near
    ``rho`` = 1, as where seeds learn at different times, ``seed`` is 0 with an upper end and
    ``seed:step`` is cut to all of the spread between siblings (their sum is known all the
    same). Slow noise under fast noise escapes: rho of the two together is small, and the
    slow part counts as ``seed``. Where half of the noise of ten checkpoints was correlated
    0.95, the interval of ``seed`` (5 seeds) covered 85 %, and that of ``seed:step`` 5 %.

    *Estimates* are from analysis of variance. With gaps, from sums of squares adjusted for
    the other components (Henderson's method 3), and as if noise had no gaps: good while most
    checkpoints are there. For full tables, ``noise="white"`` and positive components this
    is REML.

    *Intervals* are the modified large-sample ones of Ting et al. for sums and differences of
    mean squares (chi-square for a single one), cut at zero; none where a mean square that
    enters has fewer than two degrees of freedom. *Tests* are F tests: exact with white noise,
    but for ``model`` and, where crossed, ``seed`` and ``step``, which compare sums of mean
    squares with Satterthwaite's degrees of freedom. In simulations with 4 models, 3, 5 and 10
    seeds, 5, 10 and 50 checkpoints and ``rho`` of 0, 0.3 and 0.6, 95 % intervals of components
    away from zero covered 93-97 % and tests of zero ones rejected 3-6 %; at 0.9, 93-97 % and
    up to 7 %.

    *Steps.* Every checkpoint counts once, however far apart, so a window over the early,
    logarithmic part of training weighs it as its checkpoints do. ``step`` and
    ``model:step`` hold learning curves as well as jitter: their estimates describe the
    checkpoints measured, their intervals and tests take these for independent draws. Take
    narrow windows where curves are steep.

    *Test items.* ``items``, the mean squared standard error, is no part. All checkpoints
    answer the same items, so their luck is partly the same for all runs (in no component),
    partly a run's own at all steps (in ``seed``) and partly new at every checkpoint (in
    ``seed:step``); a standard error does not know the shares. It bounds none of them.

    *What is left out.* As in :func:`variance_components`: NaN and infinite values are not
    measured, copies of runs count once. With one seed ``seed``, ``seed:step``, ``model``
    and ``model:step`` are unknown (NaN, not zero); with one model ``model`` and
    ``model:step`` are, and ``step`` holds the latter. In a window with one checkpoint
    nothing along the steps is known, and ``model`` and ``seed`` are those of
    :func:`variance_components` (``seed`` its ``within``, ``model:seed`` its ``residual``).

    References
    ----------
    Ting, N., Burdick, R. K., Graybill, F. A., Jeyaratnam, S. and Lu, T.-F. C. (1990).
    Confidence intervals on linear combinations of variance components that are
    unrestricted in sign. Journal of Statistical Computation and Simulation 35, 135-143.

    Burdick, R. K. and Graybill, F. A. (1992). Confidence Intervals on Variance Components.
    Dekker. https://doi.org/10.1201/9781482277142

    Box, G. E. P. (1954). Some theorems on quadratic forms applied in the study of analysis
    of variance problems, II. Annals of Mathematical Statistics 25, 484-498.
    https://doi.org/10.1214/aoms/1177728717

    Nickell, S. (1981). Biases in dynamic models with fixed effects. Econometrica 49,
    1417-1426. https://doi.org/10.2307/1911408

    Searle, S. R., Casella, G. and McCulloch, C. E. (1992). Variance Components. Wiley.
    https://doi.org/10.1002/9780470316856

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis import variance_over_windows
    >>> cube = polystab.testing.variance_cube(n_steps=30, sd_seed=2.0, rng=0)
    >>> found = variance_over_windows(cube, windows=[(21_000, 30_000)]).squeeze()
    >>> noise = found.sel(component="seed:step")
    >>> [round(float(noise[name]), 2) for name in ("lower", "variance", "upper")]
    [0.82, 0.97, 1.18]
    """
    cube = as_cube(cube)
    check_shares(level=level)
    check_choice("design", design, DESIGNS)
    check_choice("noise", noise, NOISE)
    check_choice("spacing", spacing, SPACING)
    check_not_empty(cube)
    spans = _spans(np.asarray(cube["step"].values, dtype=np.int64), windows)
    found = functools.partial(_of_metrics, spans=spans, design=design, level=level, noise=noise, spacing=spacing)
    return in_fixed_parts(found, cube)


def _of_metrics(
    cube: xr.Dataset, *, spans: list[slice], design: str, level: float, noise: str, spacing: str
) -> xr.Dataset:
    values = counted_cells(cube)[0]
    steps = np.asarray(cube["step"].values, dtype=np.int64)
    stderr = cells(cube, "stderr") if "stderr" in cube.data_vars else None
    found = [
        _window(
            values[:, :, span],
            None if stderr is None else stderr[:, :, span],
            steps[span],
            design,
            level,
            noise,
            spacing,
        )
        for span in spans
    ]
    names = (*DESIGNS[design], *((ITEMS,) if stderr is not None else ()), TOTAL)
    meaning = _MEANING[design] | {ITEMS: _ITEMS_MEANING, TOTAL: "sum of the parts"}
    columns = {name: np.stack([window[name] for window in found], axis=-2) for name in found[0]}
    result = xr.Dataset(
        {
            name: ((("component",) if column.ndim == 3 else ()) + ("window", "metric"), column)
            for name, column in columns.items()
        },
        coords={
            **labels(cube, "metric"),
            "window": np.arange(len(spans)),
            "first_step": ("window", np.array([steps[span][0] for span in spans])),
            "last_step": ("window", np.array([steps[span][-1] for span in spans])),
            "n_checkpoints": ("window", np.array([len(steps[span]) for span in spans])),
            "component": np.array(names),
            "part": ("component", np.array([name in DESIGNS[design] for name in names])),
            "meaning": ("component", np.array([meaning[name] for name in names])),
        },
        attrs={"design": design, "noise": noise, "spacing": spacing, "level": float(level)},
    )
    return flagged(described(result, _DOCS), {"reason": REASONS, "method": METHODS})


def _spans(steps: Ints, windows: int | Sequence[tuple[int, int]] | None) -> list[slice]:
    """The checkpoints of every window."""
    if windows is None:
        windows = _DEFAULT_WINDOWS if len(steps) >= _DEFAULT_WINDOWS * _LEAST_STEPS else 1
    if isinstance(windows, (bool, str)) or not isinstance(windows, (int, np.integer, Sequence, np.ndarray)):
        raise AnalysisError(f"windows is {windows!r}; give a number of windows or pairs (first step, last step).")
    if isinstance(windows, (int, np.integer)):
        if not 1 <= windows <= len(steps):
            raise AnalysisError(f"windows is {windows}; the {len(steps)} checkpoints allow 1 to {len(steps)} windows.")
        ends = [part[0] for part in np.array_split(np.arange(len(steps)), windows)]
        return [slice(int(a), int(b)) for a, b in pairwise([*ends, len(steps)])]
    pairs = [tuple(pair) if isinstance(pair, (Sequence, np.ndarray)) else (pair,) for pair in windows]
    wrong = [pair for pair in pairs if not _is_window(pair)]
    if wrong or not pairs:
        what = f"{shown(wrong)} is no window" if wrong else "windows is empty"
        raise AnalysisError(f"{what}; give pairs (first step, last step), the first not above the last.")
    low, high = np.array(pairs, dtype=np.float64).T
    starts, stops = np.searchsorted(steps, low, "left"), np.searchsorted(steps, high, "right")
    result = [slice(a, b) for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]
    empty = [pair for pair, span in zip(pairs, result, strict=True) if span.start == span.stop]
    if empty:
        raise AnalysisError(
            f"no checkpoint lies in the window {shown(empty)}; the cube has {len(steps)} from step {steps[0]} to {steps[-1]}."
        )
    return result


def _is_window(pair: tuple[object, ...]) -> bool:
    numbers = [end for end in pair if isinstance(end, (int, float, np.integer, np.floating))]
    return len(pair) == len(numbers) == 2 and bool(numbers[0] <= numbers[1])


def _window(
    values: Floats, stderr: Floats | None, steps: Ints, design: str, level: float, noise: str, spacing: str
) -> dict[str, npt.NDArray[np.generic]]:
    """All columns of one window, (component, metric) or (metric,)."""
    positions = None
    if noise == "correlated":
        positions = np.arange(len(steps), dtype=np.float64)
        if spacing == "step" and len(steps) > 1:
            positions = (steps - steps[0]) / np.median(np.diff(steps))
    width = max(_BLOCK // max(values[..., 0].size if values.shape[-1] else 1, 1), 1)
    blocks = [
        columns_of(
            values[..., start : start + width],
            None if stderr is None else stderr[..., start : start + width],
            positions,
            design,
            level,
        )
        for start in range(0, max(values.shape[-1], 1), width)
    ]
    return {name: np.concatenate([block[name] for block in blocks], axis=-1) for name in blocks[0]}
