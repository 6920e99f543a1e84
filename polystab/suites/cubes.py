"""The cube of a trained suite: its units joined, with the log of every update."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from polystab.cube.specs import GROUPS
from polystab.errors import ReadError, UnknownNameError
from polystab.sources.joining import join_units
from polystab.sources.outputs import read_settings
from polystab.sources.unit_keys import folder_name
from polystab.suites.beginnings import begun_by_recipe
from polystab.suites.initialisation import VECTORS
from polystab.suites.recipes import suite, suites
from polystab.suites.train import ABOUT

LOG = next(group for group in GROUPS if group.name == "log")


def suite_cube(folder: str | os.PathLike[str]) -> xr.DataTree:
    """The cube of a folder that :func:`polystab.suites.train.train` made.

    Returns
    -------
    xarray.DataTree
        What :func:`~polystab.sources.joining.join_units` gives, with title, summary and
        licence of the suite, and the group ``log``: ``loss`` (nats per token) and
        ``grad_norm`` (before clipping) over ``(model, seed, update)``, float32, NaN where
        there was no such run or update. Runs that are not finished have no log.

    Raises
    ------
    ReadError
        The folder holds no suite, or nothing of it was measured yet, or a file was damaged.
    """
    root = Path(folder).expanduser()
    settings = read_settings(root, "suite")
    if settings is None:
        raise ReadError(f"{root} holds no suite; make one with: polystab train nano -o {root}.")
    try:
        name, longest = str(settings["suite"]), max(int(recipe["steps"]) for recipe in settings["recipes"])
    except (KeyError, TypeError, ValueError) as error:
        raise ReadError(
            f"the settings of the suite in {root} are damaged; train it again in another folder."
        ) from error
    title, summary = _words(root, name)
    tree = join_units(root, title=title)
    source = _source(name) + _beginning(name, settings)
    cube = tree.to_dataset().assign_attrs(summary=summary, license="Apache-2.0", source=source)
    groups: dict[str, xr.Dataset] = {str(name): node.to_dataset() for name, node in tree.children.items()}
    return xr.DataTree.from_dict({"/": cube, **groups, "log": _log(root, longest, cube)})


def _words(root: Path, name: str) -> tuple[str, str]:
    """Title and summary that the folder keeps; else those of the suite of that name, or only its name."""
    try:
        about: dict[str, Any] = json.loads((root / ABOUT).read_text(encoding="utf-8"))
        return str(about["title"]), str(about["summary"])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ReadError(
            f"{root / ABOUT} cannot be read: {error}. Remove it; polystab train writes it again."
        ) from error
    try:
        known = suite(name.removesuffix("-quick"), quick=name.endswith("-quick"))
    except UnknownNameError:
        return name, ""
    return known.title, known.summary


def _source(name: str) -> str:
    plain = name.removesuffix("-quick")
    if plain not in suites():
        return f"polystab.suites.train.train, suite {name}"
    return f"polystab train {plain}{' --quick' * (name != plain)}"


def _beginning(name: str, settings: Mapping[str, Any]) -> str:
    """The options that had all runs begin with finished weights; the weights have no other name than their digest."""
    begun = settings.get("beginnings", [])
    plain = name.removesuffix("-quick")
    if not begun or (plain in suites() and begun_by_recipe(suite(plain))):
        return ""
    _, _, said = begun[0]
    fresh = f" --init-vectors {said['vectors']}" if said["vectors"] != VECTORS[0] else ""
    return f" --init-from CHECKPOINT --init-how {said['how']}{fresh} (weights {said['weights'][:16]})"


def _log(root: Path, longest: int, cube: xr.Dataset) -> xr.Dataset:
    models, seeds = cube["model"].values.tolist(), cube["seed"].values.tolist()
    found = {spec.name: np.full((len(models), len(seeds), longest), np.nan, np.float32) for spec in LOG.variables}
    for i, model in enumerate(models):
        for j, seed in enumerate(seeds):
            path = root / "logs" / folder_name(model) / f"seed{seed}.csv"
            if path.exists():
                rows = _rows(path)
                for name, array in found.items():
                    array[i, j, : len(rows)] = rows[name]
    return xr.Dataset(
        {
            spec.name: (spec.dims, found[spec.name], {"long_name": spec.doc, "units": spec.units})
            for spec in LOG.variables
        },
        coords={"model": models, "seed": seeds, "update": np.arange(1, longest + 1)},
        attrs={"summary": LOG.doc},
    )


def _rows(path: Path) -> pd.DataFrame:
    """The log of one run, as float32."""
    try:
        return pd.read_csv(path, usecols=[spec.name for spec in LOG.variables], dtype=np.float32)
    except (OSError, ValueError) as error:
        raise ReadError(f"{path} is no log of a run: {error}. Remove it and train again.") from error
