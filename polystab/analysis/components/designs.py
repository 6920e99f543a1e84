"""Which components a cube can be split into: the named designs and what each confounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints
from polystab.cube.parts import measured_runs
from polystab.errors import AnalysisError, did_you_mean, shown

# Rows of a result that are no stratum of every design.
ITEMS, WITHIN, TOTAL = "items", "within", "total"

DESIGNS = ("auto", "nested", "crossed", "factorial")

_MEANING = {
    "nested": {
        "model": "between models",
        "seed": "between seeds within a model, net of test items where their error is known",
        "items": "test items: mean squared standard error, at most all of within",
        "within": "between runs within a model: seed and items together",
    },
    "crossed": {
        "model": "between models",
        "seed": "between seeds, the same in every model",
        "residual": "model x seed, run noise and test items",
    },
    "factorial": {
        "initialisation": "between initialisations within a model",
        "order": "between data orders within a model",
        "interaction": "initialisation x order",
        "run": "between runs of one initialisation and order, test items included",
        "residual": "initialisation x order, run noise and test items",
    },
}


@dataclass(frozen=True)
class Design:
    """A model of the spread: its components, lowest last, and the labels behind them.

    ``rows`` are the runs that take part, as positions in the flattened (model, seed), and
    ``model`` is the model of each; ``factors`` (one for every component but the lowest)
    and ``fixed`` are their labels. ``covariates`` are the fixed effects that the caller
    named, one value for every row; ``matrix`` is what they are coded to, NaN where a run
    has none (see :mod:`polystab.analysis.components.fixed`).
    """

    name: str
    components: tuple[str, ...]
    below: tuple[int, ...]
    rows: Ints
    model: Ints
    factors: tuple[Ints, ...]
    fixed: Ints
    confounded: str = ""
    covariates: Mapping[str, Any] = field(default_factory=dict)
    matrix: Floats | None = None

    def meaning(self, component: str) -> str:
        """What a component is, in words."""
        return _MEANING[self.name].get(component, "sum of the parts")


def choose_design(cube: xr.Dataset, name: str) -> Design:
    """The design called ``name``; ``auto`` is factorial where the seeds are crossed, else nested.

    Raises
    ------
    AnalysisError
        No such design, or the cube does not allow it.
    """
    if name not in DESIGNS:
        raise AnalysisError(f"no design is called {name!r}. {did_you_mean(str(name), DESIGNS)}")
    n_model, n_seed = cube.sizes["model"], cube.sizes["seed"]
    rows = np.arange(n_model * n_seed)
    model, seed = np.divmod(rows, max(n_seed, 1))
    if name in ("auto", "factorial"):
        measured = measured_runs(cube)
        if name == "factorial" or _all_crossed(cube, measured):
            return _factorial(cube, measured)
        name = "nested"
    if name == "nested":
        confounded = "seed: initialisation, data order and run noise"
        return Design(name, ("model", "seed"), (1, -1), rows, model, (model,), np.zeros_like(rows), confounded)
    confounded = "residual: model x seed, run noise and test items"
    return Design(
        name, ("model", "seed", "residual"), (2, 2, -1), rows, model, (model, seed), np.zeros_like(rows), confounded
    )


def _factorial(cube: xr.Dataset, measured: Bools) -> Design:
    missing = [name for name in ("weight_seed", "data_seed") if name not in cube]
    if missing:
        raise AnalysisError(
            f"the cube has no {' and no '.join(missing)}, which the factorial design needs; "
            "initialisation and data order are confounded. Use design='nested'."
        )
    weight, data = _seeds(cube)
    rows = np.flatnonzero(measured.ravel() & (weight >= 0) & (data >= 0))
    if not len(rows):
        raise AnalysisError("no measured run has both a weight_seed and a data_seed. Use design='nested'.")
    model = rows // cube.sizes["seed"]
    pair = _codes(model, weight[rows], data[rows])
    crossed = [m for m in np.unique(model) if _is_crossed(weight[rows[model == m]], data[rows[model == m]])]
    if not crossed:
        names = cube["model"].values[np.unique(model)].tolist()
        raise AnalysisError(
            f"in {shown(names)} weight_seed and data_seed are not crossed, so initialisation, order and their "
            "interaction are confounded. The factorial design needs at least two initialisations, each run with "
            "the same two data orders. Use design='nested'."
        )
    factors = (_codes(model, weight[rows]), _codes(model, data[rows]))
    if len(np.unique(pair)) == len(pair):
        confounded = "residual: initialisation x order, run noise and test items (one run for each combination)"
        return Design(
            "factorial", ("initialisation", "order", "residual"), (2, 2, -1), rows, model, factors, model, confounded
        )
    components = ("initialisation", "order", "interaction", "run")
    return Design(
        "factorial", components, (2, 2, 3, -1), rows, model, (*factors, pair), model, "run: run noise and test items"
    )


def _all_crossed(cube: xr.Dataset, measured: Bools) -> bool:
    """Whether every model with more than one run has its two kinds of seed crossed."""
    if "weight_seed" not in cube or "data_seed" not in cube:
        return False
    weight, data = (seeds.reshape(measured.shape) for seeds in _seeds(cube))
    several = np.flatnonzero(measured.sum(axis=1) > 1)
    return bool(len(several)) and all(_is_crossed(weight[m, measured[m]], data[m, measured[m]]) for m in several)


def _is_crossed(weight: Ints, data: Ints) -> bool:
    """Whether some initialisations were run with the same several orders: something is left beyond both."""
    known = (weight >= 0) & (data >= 0)
    edges = {(("w", w), ("d", d)) for w, d in zip(weight[known].tolist(), data[known].tolist(), strict=True)}
    # More pairs than a forest on both kinds of seed can have means that a cycle, a crossing, exists.
    parent: dict[tuple[str, int], tuple[str, int]] = {}

    def root(node: tuple[str, int]) -> tuple[str, int]:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for one, other in sorted(edges):
        if root(one) == root(other):
            return True
        parent[root(one)] = root(other)
    return False


def _seeds(cube: xr.Dataset) -> tuple[Ints, Ints]:
    """Weight and data seed of every run, flattened over (model, seed); -1 where unknown."""
    weight, data = (
        np.asarray(cube[name].transpose("model", "seed").values).ravel() for name in ("weight_seed", "data_seed")
    )
    return weight.astype(np.int64), data.astype(np.int64)


def _codes(*labels: Ints) -> Ints:
    """One integer for every distinct combination of labels."""
    return np.unique(np.stack(labels, axis=1), axis=0, return_inverse=True)[1].ravel().astype(np.int64)
