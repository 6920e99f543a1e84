"""Writers of cubes, pages and other single files; see ``fault_writers.py``."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

import polystab as ps
from polystab.cube.store import open_tree, validate_file
from polystab.files import write_text
from polystab.testing import synthetic_cube

OLD, NEW = "old", "new"
NUMBER = {OLD: 0, NEW: 1}


@cache
def cube_of(which: str) -> xr.Dataset:
    cube = synthetic_cube(n_models=1, n_seeds=3, rng=NUMBER[which]).load()
    return cube.assign_attrs(created="2026-01-01T00:00:00+00:00", license="CC0-1.0")


@cache
def tree_of(which: str) -> xr.DataTree:
    """A cube with groups, large enough that most of the time goes into writing it."""
    rng = np.random.default_rng(NUMBER[which])
    group = xr.Dataset(
        {
            "noise": (("item", "draw"), rng.normal(size=(200, 2000))),
            "text": ("item", [f"item {n}" for n in range(200)]),
        },
        coords={"item": np.arange(200)},
    )
    return xr.DataTree.from_dict({"/": cube_of(which), "/mine": group, "/other/deep": group.isel(draw=slice(3))})


def seen(found: Any, of: Callable[[str], Any]) -> str:
    return next((which for which in (OLD, NEW) if found.identical(of(which))), "neither the old nor the new")


def look_at_file(path: Path, of: Callable[[str], Any]) -> str:
    """Which cube a file holds, once it is opened both ways, read and validated."""
    if not path.exists():
        return "none"
    if violations := validate_file(path):
        return f"violations: {violations}"
    with ps.open_cube(path) as cube, open_tree(path) as tree:
        found = tree.load() if isinstance(of(OLD), xr.DataTree) else cube.load()
        return seen(found, of) if cube.load().identical(tree.to_dataset().load()) else "opens in two ways"


def save(folder: Path, which: str) -> None:
    ps.save_cube(cube_of(which), folder / "cube.nc")


def save_tree(folder: Path, which: str) -> None:
    ps.save_cube(tree_of(which), folder / "cube.nc")


# Pages and other texts


def write_report(folder: Path, which: str) -> None:
    ps.report(cube_of(which), folder / "page.md", sections=["final"])


@cache
def page_of(which: str) -> str:
    return str(ps.report(cube_of(which), format="md", sections=["final"]))


def look_at_text(name: str, of: Callable[[str], str]) -> Callable[[Path], str]:
    def look(folder: Path) -> str:
        if not (folder / name).exists():
            return "none"
        text = (folder / name).read_text()
        return next((which for which in (OLD, NEW) if text == of(which)), "neither the old nor the new")

    return look


def run_command(folder: Path, which: str) -> int:
    """The command line: ``merge -o``, as a user would call it; gives the exit code."""
    from polystab.cli import main

    try:
        main(["merge", str(folder / f"given-{which}.nc"), "-o", str(folder / "cube.nc"), "--overwrite"])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def prepare_command(folder: Path) -> None:
    for which in (OLD, NEW):
        ps.save_cube(cube_of(which), folder / f"given-{which}.nc")


def look_at_command(folder: Path) -> str:
    if not (folder / "cube.nc").exists():
        return "none"
    with ps.open_cube(folder / "cube.nc") as cube:
        found = cube["value"].load()
    return next((w for w in (OLD, NEW) if found.equals(cube_of(w)["value"])), "neither the old nor the new")


def write_plain(folder: Path, which: str) -> None:
    write_text(folder / "plain.txt", plain_of(which))


def plain_of(which: str) -> str:
    return json.dumps({"which": which, "much": list(range(5000))})
