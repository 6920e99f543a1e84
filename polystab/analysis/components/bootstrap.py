"""Bootstrap of variance components: whole runs, models, initialisations and orders drawn again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from polystab.analysis.arrays import Floats, Ints, quantiles
from polystab.analysis.components.designs import Design
from polystab.analysis.components.kernels import nested_strata, table_strata

# Estimates held at a time.
_BLOCK = 1_000_000


@dataclass(frozen=True)
class Resample:
    """Runs drawn with replacement, as rows of the design, and what they are labelled with."""

    rows: Ints
    factors: tuple[Ints, ...]
    fixed: Ints


def resamples(plan: Design, count: int, rng: np.random.Generator) -> list[Resample]:
    """Draws of a design: models and runs in them (nested), models and seeds (crossed), or
    initialisations and orders within each model, their combinations whole (factorial)."""
    draw = _factorial_draw if plan.name == "factorial" else _grid_draw
    return [draw(plan, rng) for _ in range(count)]


def bootstrap_intervals(
    plan: Design, values: Floats, matrix: Floats | None, draws: list[Resample], level: float
) -> tuple[Floats, Floats]:
    """Percentile intervals of the untruncated estimates and, last, of their sum: (component + 1, cell)."""
    n_component, n_cell = len(plan.components), values.shape[1]
    ends = np.full((2, n_component + 1, n_cell), np.nan)
    width = max(_BLOCK // (len(draws) * (n_component + 1)), 1)
    for start in range(0, n_cell, width):
        part = slice(start, start + width)
        found = np.stack([_estimates(plan, values[:, part], matrix, draw) for draw in draws])
        total = np.where(np.isnan(found[:, -1]), np.nan, np.nansum(found, axis=1))
        every = np.concatenate([found, total[:, None]], axis=1)
        ends[:, :, part] = quantiles(every, ((1 - level) / 2, (1 + level) / 2), axis=0)[0]
    return ends[0], ends[1]


def _estimates(plan: Design, values: Floats, matrix: Floats | None, draw: Resample) -> Floats:
    drawn = values[draw.rows]
    if plan.name == "nested" and matrix is None:
        shape = (int(draw.factors[0][-1]) + 1, -1, values.shape[1])
        return nested_strata(drawn.reshape(shape)).estimate
    extra = None if matrix is None else matrix[draw.rows]
    return table_strata(drawn, draw.factors, draw.fixed, plan.below, extra).estimate


def _grid_draw(plan: Design, rng: np.random.Generator) -> Resample:
    n_model = int(plan.model[-1]) + 1
    n_seed = len(plan.rows) // n_model
    model = rng.integers(0, n_model, n_model)
    nested = plan.name == "nested"
    seed = rng.integers(0, n_seed, (n_model if nested else 1, n_seed))
    rows = (model[:, None] * n_seed + seed).ravel()
    first, second = np.divmod(np.arange(len(rows)), n_seed)
    return Resample(rows, (first,) if nested else (first, second), np.zeros_like(rows))


def _factorial_draw(plan: Design, rng: np.random.Generator) -> Resample:
    parts = list(_factorial_cells(plan, rng))
    rows = np.concatenate([rows for rows, _ in parts])
    labels = np.concatenate([np.tile(label, (len(rows), 1)) for rows, label in parts])
    model, first, second = labels.T
    pair = np.arange(len(parts)).repeat([len(rows) for rows, _ in parts])
    # Labels of initialisations and orders differ between models.
    factors = (model * len(plan.rows) + first, model * len(plan.rows) + second, pair)
    return Resample(rows, factors[: len(plan.factors)], model)


def _factorial_cells(plan: Design, rng: np.random.Generator) -> Iterator[tuple[Ints, Ints]]:
    """Rows drawn for every drawn combination, and its model, initialisation and order."""
    for group in np.unique(plan.fixed):
        here = plan.fixed == group
        levels = [np.unique(codes[here]) for codes in plan.factors[:2]]
        drawn = [rng.choice(found, len(found)) for found in levels]
        for i, weight in enumerate(drawn[0]):
            for j, data in enumerate(drawn[1]):
                rows = np.flatnonzero(here & (plan.factors[0] == weight) & (plan.factors[1] == data))
                if len(rows):
                    yield rows, np.array([group, i, j])
