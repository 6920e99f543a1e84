"""All numbers of one window of steps, for some metrics, as plain arrays."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Floats, Ints, divided, finite, scaled, unscaled
from polystab.analysis.components.kernels import patterns
from polystab.analysis.components.window_kernels import Parts, components, truncated
from polystab.analysis.components.window_squares import DESIGNS, squares

# Why a component is not estimated, and how the others are, as a code and a word.
REASONS = ("estimated", "not_measured", "one_model", "one_seed", "one_step", "no_stderr", "not_identifiable")
METHODS = ("none", "anova", "adjusted")

Columns = dict[str, npt.NDArray[np.generic]]


def columns_of(values: Floats, stderr: Floats | None, positions: Floats | None, design: str, level: float) -> Columns:
    """Components (component, metric) with the total last, and what else is known of each metric.

    Parameters
    ----------
    values : (model, seed, step, metric) array
        NaN and infinite values are not measured.
    stderr : array of the same shape or None
        With it, a row of the test items comes before the total.
    positions : (step,) array or None
        Where the checkpoints lie, for the correlation of the noise; None for white noise.
    design : {'nested', 'crossed'}
    level : float
    """
    shape = values.shape
    flat, exponent = scaled(finite(values).reshape(math.prod(shape[:3]), shape[3]), axis=0)
    known = ~np.isnan(flat)
    if flat.size:
        # From one value on, so that a large common part costs no digits and equal values differ by exactly 0.
        flat -= np.take_along_axis(flat, np.argmax(known, axis=0)[None], axis=0)
    n_rows, n_cells = len(DESIGNS[design]) + 1, shape[-1]
    parts = Parts(
        *(np.full((n_rows, n_cells), np.nan) for _ in range(5)), *(np.full(n_cells, np.nan) for _ in range(2))
    )
    error = np.full(n_cells, np.nan)
    method = np.zeros(n_cells, dtype=np.int8)
    there = known.reshape(shape)
    counts = {
        "n_runs": there.any(axis=2).sum(axis=(0, 1)),
        "n_models": there.any(axis=(1, 2)).sum(axis=0),
        "n_steps": there.any(axis=(0, 1)).sum(axis=0),
    }
    for rows, where in patterns(known) if known.size else ():
        if not len(rows):
            continue
        n_steps = int(counts["n_steps"][where[0]])
        found = squares(flat[:, where].reshape(*shape[:3], -1), design, positions)
        done = components(found, design, n_steps, level)
        for name in ("estimate", "lower", "upper", "p", "df"):
            getattr(parts, name)[:, where] = getattr(done, name)
        parts.rho[where], parts.n_effective[where] = done.rho, done.n_effective
        if found.table is not None and found.n_series:
            error[where] = found.table.at("error", done.rho) / np.sqrt(found.n_series)
        method[where] = 1 if found.balanced else 2
    method[np.isnan(parts.estimate).all(axis=0)] = 0
    variance = truncated(parts.estimate, design)
    squared = {"variance": variance, "estimate": parts.estimate, "lower": parts.lower, "upper": parts.upper}
    columns: Columns = {name: unscaled(column, 2 * exponent) for name, column in squared.items()}
    columns |= {
        "p": parts.p,
        "df": parts.df,
        "fraction": divided(variance, np.broadcast_to(variance[-1], variance.shape)),
        "reason": _reasons(design, parts.estimate, counts),
    }
    if stderr is not None:
        _insert_items(columns, _mean_square(np.where(there, stderr, np.nan)), counts["n_runs"])
    return {
        **columns,
        **counts,
        "method": method,
        "autocorrelation": parts.rho,
        "autocorrelation_stderr": error,
        "n_effective": parts.n_effective,
    }


def _reasons(design: str, estimate: Floats, counts: dict[str, Ints]) -> npt.NDArray[np.int8]:
    """Codes of ``REASONS`` for every component and cell."""
    result = np.zeros(estimate.shape, dtype=np.int8)
    n_runs, n_models, n_steps = counts["n_runs"], counts["n_models"], counts["n_steps"]
    for k, factors in enumerate([*DESIGNS[design].values(), "mst"]):
        last = k == len(estimate) - 1
        code = np.full(n_runs.shape, REASONS.index("not_identifiable"))
        code[(n_runs <= n_models)] = REASONS.index("one_seed")
        if "t" in factors and not last:
            code[n_steps == 1] = REASONS.index("one_step")
        if "s" not in factors and "m" in factors:
            code[n_models == 1] = REASONS.index("one_model")
        code[n_runs == 0] = REASONS.index("not_measured")
        result[k] = np.where(np.isnan(estimate[k]), code, 0)
    return result


def _mean_square(stderr: Floats) -> Floats:
    """Mean over checkpoints of the squared standard error, NaN where none is known."""
    flat, exponent = scaled(finite(stderr).reshape(math.prod(stderr.shape[:3]), stderr.shape[3]), axis=0)
    known = ~np.isnan(flat)
    mean = divided(np.sum(flat**2, axis=0, where=known), known.sum(axis=0))
    return unscaled(mean, 2 * exponent)


def _insert_items(columns: Columns, items: Floats, n_runs: Ints) -> None:
    """The row of the test items before that of the total."""
    nan = np.full(items.shape, np.nan)
    reason = np.where(n_runs == 0, REASONS.index("not_measured"), REASONS.index("no_stderr"))
    rows: Columns = {
        "variance": items,
        "estimate": items,
        "reason": np.where(np.isnan(items), reason, 0).astype(np.int8),
    }
    for name, column in columns.items():
        row = rows.get(name, nan)[None]
        columns[name] = np.concatenate([column[:-1], row, column[-1:]])
