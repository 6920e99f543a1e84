"""How full a cube is, and its fingerprint."""

from __future__ import annotations

import hashlib

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Ints, described, divided, labels
from polystab.cube.parts import value_parts
from polystab.cube.specs import DIMS, FAMILIES
from polystab.cube.validate import as_cube


def cube_coverage(cube: xr.Dataset | xr.DataTree) -> xr.Dataset:
    """How full a cube is: overall, per family, and per model x step x family.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube. An infinite value counts as measured: a run that diverged was there.

    Returns
    -------
    xarray.Dataset
        Over the whole cube ``n_cells``, ``n_measured`` and ``share`` (of all cells).
        Along ``family``: ``n_metrics_family``, ``n_measured_family`` and
        ``share_family`` (of all cells of that family). Along ``model``: ``n_runs``
        (seeds with any value), ``n_steps``, ``first_step``, ``last_step`` (-1 without
        a value), ``n_metrics`` and ``share_model``. Along (model, step): ``n_runs_at``
        (runs with any value there) and ``share_at``; along (model, step, family):
        ``share_at_family``.

    Notes
    -----
    ``share_model``, ``share_at`` and ``share_at_family`` are relative to what the
    model could have: its own runs, its own steps (for ``share_model``) and the metrics
    it was measured on at all. They answer "what is missing here", where ``share``
    answers "how much of the array is empty". They are NaN for a model without runs and
    a family it was never measured on.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis import cube_coverage
    >>> cover = cube_coverage(polystab.testing.synthetic_cube(n_models=2, n_seeds=4, rng=0))
    >>> cover["n_runs"].values.tolist()
    [4, 4]
    """
    cube = as_cube(cube)
    said = cube["family"].values.astype(str)
    family = np.array([name for name in FAMILIES if name in said], dtype=np.str_)
    belongs = said == family[:, None]  # family, metric
    n_model, n_seed, n_step, n_metric = (cube.sizes[dim] for dim in DIMS)
    there: Bools = np.zeros((n_model, n_seed, n_step), dtype=np.bool_)
    has_metric: Bools = np.zeros((n_model, n_metric), dtype=np.bool_)
    measured: Ints = np.zeros((n_model, n_step), dtype=np.int64)
    by_family: Ints = np.zeros((n_model, n_step, len(family)), dtype=np.int64)
    for place, values in value_parts(cube):
        present = ~np.isnan(values)
        there |= present.any(axis=3)
        counts = present.sum(axis=1)  # model, step, metric
        has_metric[:, place] = counts.any(axis=1)
        measured += counts.sum(axis=2)
        by_family += np.einsum("mtk,fk->mtf", counts, belongs[:, place].astype(np.int64))
    runs, at = there.any(axis=2), there.sum(axis=1)
    n_cells, n_measured = n_model * n_seed * n_step * n_metric, int(measured.sum())
    has_step = at > 0
    n_runs, n_metrics, n_steps = runs.sum(axis=1), has_metric.sum(axis=1), has_step.sum(axis=1)
    metrics_by_family = np.einsum("mk,fk->mf", has_metric.astype(np.int64), belongs.astype(np.int64))
    family_cells = belongs.sum(axis=1) * (n_cells // n_metric)
    step = cube["step"].values
    ends = np.full((2, n_model), -1, dtype=np.int64)
    any_step = has_step.any(axis=1)
    ends[0, any_step] = step[np.argmax(has_step, axis=1)][any_step]
    ends[1, any_step] = step[n_step - 1 - np.argmax(has_step[:, ::-1], axis=1)][any_step]
    result = xr.Dataset(
        {
            "n_cells": ((), n_cells),
            "n_measured": ((), n_measured),
            "share": ((), n_measured / n_cells),
            "n_metrics_family": ("family", belongs.sum(axis=1)),
            "n_measured_family": ("family", by_family.sum(axis=(0, 1))),
            "share_family": ("family", divided(by_family.sum(axis=(0, 1)), family_cells)),
            "n_runs": ("model", n_runs),
            "n_steps": ("model", n_steps),
            "first_step": ("model", ends[0]),
            "last_step": ("model", ends[1]),
            "n_metrics": ("model", n_metrics),
            "share_model": ("model", divided(measured.sum(axis=1), n_runs * n_metrics * n_steps)),
            "n_runs_at": (("model", "step"), at),
            "share_at": (("model", "step"), divided(measured, (n_runs * n_metrics)[:, None])),
            "share_at_family": (
                ("model", "step", "family"),
                divided(by_family, (n_runs[:, None] * metrics_by_family)[:, None, :]),
            ),
        },
        coords={**labels(cube, "model", "step"), "family": family},
    )
    return described(
        result,
        {
            "n_cells": "cells of the cube",
            "n_measured": "measured cells",
            "share": "share of all cells that is measured",
            "n_metrics_family": "metrics of the family",
            "n_measured_family": "measured cells of the family",
            "share_family": "share of all cells of the family that is measured",
            "n_runs": "runs of the model with any value",
            "n_steps": "steps at which any run of the model is measured",
            "first_step": "first step of the model with a value, -1 for none",
            "last_step": "last step of the model with a value, -1 for none",
            "n_metrics": "metrics that the model was measured on",
            "share_model": "measured share of the model's runs x steps x metrics",
            "n_runs_at": "runs of the model with any value at the step",
            "share_at": "measured share of the model's runs x metrics at the step",
            "share_at_family": "measured share of the model's runs x metrics of the family at the step",
        },
        dict.fromkeys(("share", "share_family", "share_model", "share_at", "share_at_family"), "1"),
    )


def fingerprint(cube: xr.Dataset | xr.DataTree) -> str:
    """SHA-256 over the labels, values and standard errors of a cube.

    Attributes and detail groups do not enter: the same numbers under the same labels
    have the same fingerprint, whoever made the file. Every NaN counts as the same.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.

    Returns
    -------
    str
        64 hexadecimal digits.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis import fingerprint
    >>> cube = polystab.testing.synthetic_cube(rng=0)
    >>> fingerprint(cube) == fingerprint(cube.assign_attrs(title="another"))
    True
    """
    cube = as_cube(cube)
    digest = hashlib.sha256()
    for dim in DIMS:
        texts = "\x1f".join(str(label) for label in cube[dim].values.tolist())
        digest.update(f"{dim}\x1e{texts}\x1d".encode())
    for name in ("value", "stderr"):
        if name in cube.data_vars:
            digest.update(name.encode())
            # Metric by metric, as large cubes are read.
            for _, values in value_parts(cube, name):
                ordered = np.moveaxis(np.where(np.isnan(values), np.nan, values), 3, 0)
                digest.update(ordered.astype("<f8").tobytes())
    return digest.hexdigest()
