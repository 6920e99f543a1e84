"""Cubes by name: bundled with the package, or released at an address."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import pandas as pd
import xarray as xr

from polystab.cube.store import open_cube, open_tree
from polystab.errors import NotACubeError, ReadError, UnknownNameError, did_you_mean

BUNDLED = "package:"


@dataclass(frozen=True)
class CatalogEntry:
    """One line of the registry.

    ``address`` is ``package:FILE`` for a cube inside the package, else an address
    that pooch can fetch.
    """

    name: str
    address: str
    sha256: str
    size: int
    license: str
    summary: str


def list_cubes() -> pd.DataFrame:
    """The cubes that :func:`load_cube` knows.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``name``, with columns ``address``, ``sha256``, ``size`` (bytes),
        ``license`` and ``summary`` (one line).
    """
    return pd.DataFrame([vars(entry) for entry in _registry().values()]).set_index("name")


def load_cube(name: str = "nano") -> xr.Dataset:
    """Open a cube by name, fetching it once if it does not come with the package.

    Parameters
    ----------
    name : str
        A name from :func:`list_cubes`; without one, ``nano``.

    Returns
    -------
    xarray.Dataset
        The cube, opened lazily; :func:`load_tree` brings its detail groups along.

    Raises
    ------
    UnknownNameError
        No such cube; close names are suggested.
    ReadError
        It cannot be fetched, or its checksum is wrong. Nothing damaged is kept.

    Notes
    -----
    Released cubes are kept in the folder ``POLYSTAB_DATA`` or else in the user's
    cache folder, and verified by SHA-256 before they are opened.
    """
    return open_cube(cube_file(name))


def load_tree(name: str = "nano") -> xr.DataTree:
    """Open a cube by name with its detail groups, such as ``items``: like :func:`load_cube`, but the whole file.

    Parameters
    ----------
    name : str
        A name from :func:`list_cubes`; without one, ``nano``.

    Returns
    -------
    xarray.DataTree
        The cube at the root, its groups below; opened lazily.

    Raises
    ------
    UnknownNameError
        No such cube; close names are suggested.
    ReadError
        It cannot be fetched, or its checksum is wrong.
    """
    return open_tree(cube_file(name))


def data_card(name: str) -> str:
    """What a bundled cube is, how it was made and what to know before using it, in Markdown.

    Raises
    ------
    UnknownNameError
        No such cube, or it comes without a card; close names are suggested.
    """
    folder = files("polystab.cube") / "data"
    carded = [known for known in _registry() if (folder / f"{known}.md").is_file()]
    if name not in carded:
        raise UnknownNameError(f"no data card of a cube called {name!r}. {did_you_mean(name, carded)}")
    return (folder / f"{name}.md").read_text(encoding="utf-8")


def cube_file(name: str) -> Path:
    """The verified file of a cube by name; see :func:`load_cube`."""
    registry = _registry()
    if name not in registry:
        raise UnknownNameError(f"no cube is called {name!r}. {did_you_mean(name, registry)}")
    entry = registry[name]
    if entry.address.startswith(BUNDLED):
        path = Path(str(files("polystab.cube") / "data" / entry.address.removeprefix(BUNDLED)))
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != entry.sha256:
            raise ReadError(f"the bundled cube {name!r} is missing or damaged; reinstall polystab.")
        return path
    return _fetched(entry)


def find_cube(path_or_name: str) -> Path:
    """A file as it is, or else the file of the cube of that name."""
    path = Path(path_or_name).expanduser()
    if path.exists():
        return path
    if path_or_name in _registry():
        return cube_file(path_or_name)
    raise NotACubeError(
        f"{path_or_name!r} is neither a file nor the name of a cube. {did_you_mean(path_or_name, _registry())}"
    )


def open_any(path_or_name: str) -> xr.DataTree:
    """The tree of a file or of a named cube."""
    return open_tree(find_cube(path_or_name))


def _fetched(entry: CatalogEntry) -> Path:
    import pooch  # imported late: most cubes are files

    folder = os.environ.get("POLYSTAB_DATA") or pooch.os_cache("polystab")
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("WARNING")  # it announces each download on stderr
    try:
        path = pooch.retrieve(
            entry.address,
            known_hash=f"sha256:{entry.sha256}",
            path=folder,
            fname=f"{entry.name}-{entry.sha256[:12]}.nc",
        )
    except Exception as error:  # pooch hands on whatever its downloader raises (requests, ftplib, OSError)
        raise ReadError(f"cube {entry.name!r} could not be fetched from {entry.address}: {error}") from error
    finally:
        logger.setLevel(level)
    return Path(path)


@cache
def _registry() -> dict[str, CatalogEntry]:
    lines = json.loads((files("polystab.cube") / "registry.json").read_text(encoding="utf-8"))
    return {line["name"]: CatalogEntry(**line) for line in lines}
