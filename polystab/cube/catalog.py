"""Cubes by name: bundled with the package, or released and listed in a registry that was added."""

from __future__ import annotations

import json
import os
from functools import cache
from importlib.resources import files
from pathlib import Path

import pandas as pd
import xarray as xr

from polystab.cube.addresses import public_address
from polystab.cube.fetching import fetch_file, file_sha256
from polystab.cube.registries import (
    CatalogEntry,
    Registry,
    add_registry,
    added_registries,
    local_path,
    remove_registry,
)
from polystab.cube.store import open_cube, open_tree
from polystab.errors import NotACubeError, OutputError, ReadError, UnknownNameError, did_you_mean, printable

BUNDLED = "package:"
PathLike = str | os.PathLike[str]


def list_cubes() -> pd.DataFrame:
    """The cubes that :func:`load_cube` knows.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``name``, with columns ``address``, ``sha256``, ``size`` (bytes), ``license``,
        ``summary`` (one line) and ``version`` (empty for bundled cubes; the last one listed, where a
        registry has several, of which ``name@version`` loads each).

    Raises
    ------
    ReadError
        A registry that was added is damaged, or of a later format.
    """
    registry = _registry()
    rows = [vars(entry) for label, entry in registry.items() if label == entry.name]
    columns = ["address", "sha256", "size", "license", "summary", "version"]
    return pd.DataFrame(rows).set_index("name")[columns]


def load_cube(name: str = "nano") -> xr.Dataset:
    """Open a cube by name, fetching it once if it does not come with the package.

    Parameters
    ----------
    name : str
        A name from :func:`list_cubes`, or ``name@version``; without one, ``nano``.

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
    cache folder, and verified by SHA-256 each time before they are opened. They become known
    with :func:`add_cubes`. See :mod:`polystab.cube.fetching` for timeouts and retries.
    """
    return open_cube(cube_file(name))


def load_tree(name: str = "nano") -> xr.DataTree:
    """Open a cube by name with its detail groups, such as ``items``: like :func:`load_cube`, but the whole file.

    Parameters
    ----------
    name : str
        A name from :func:`list_cubes`, or ``name@version``; without one, ``nano``.

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


def add_cubes(source: PathLike, *, replace: bool = False) -> Registry:
    """Make the released cubes of a registry known to :func:`load_cube`; none is fetched yet.

    Parameters
    ----------
    source : path or address
        A registry, as :func:`polystab.cube.release.release` writes it, or a folder with one; a copy is kept in the
        folder ``POLYSTAB_DATA`` or else in the user's cache folder. Adding it again brings it up to date.
        A name and password in the address are used now, and not kept: ``~/.netrc`` keeps them.
    replace : bool, optional
        Let its cubes take the place of those of the same names in other registries, and of files
        that it had itself under the same version.

    Returns
    -------
    Registry
        Its address and entries.

    Raises
    ------
    RegistryError
        It cannot be fetched or used, is of a later format, or names clash. Names of bundled cubes are never
        replaced.
    OutputError
        The copy cannot be written.
    """
    try:
        return add_registry(source, registry_folder(), taken=_bundled(), replace=replace)
    except OSError as error:
        raise OutputError(f"the registry cannot be kept in {registry_folder()}: {error.strerror or error}.") from error


def remove_cubes(source: PathLike) -> Registry:
    """Forget a registry that :func:`add_cubes` added; files that were fetched stay in the cache.

    Raises
    ------
    RegistryError
        It was not added.
    OutputError
        The copy cannot be removed.
    """
    try:
        return remove_registry(source, registry_folder())
    except OSError as error:
        raise OutputError(f"the registry cannot be removed from {registry_folder()}: {error.strerror}.") from error


def data_card(name: str) -> str:
    """What a cube is, how it was made and what to know before using it, in Markdown.

    Parameters
    ----------
    name : str
        Of a bundled cube, or of a released one, whose card is fetched and verified.

    Raises
    ------
    UnknownNameError
        No such cube, or it comes without a card; close names are suggested.
    ReadError
        The card cannot be fetched, or its checksum is wrong.
    """
    folder = files("polystab.cube") / "data"
    carded = [known for known in _bundled() if (folder / f"{known}.md").is_file()]
    if name in carded:
        return (folder / f"{name}.md").read_text(encoding="utf-8")
    entry = _registry().get(name)
    if entry is None or not entry.card:
        carded += [label for label, known in _registry().items() if known.card]
        raise UnknownNameError(f"no data card of a cube called {name!r}. {did_you_mean(name, carded)}")
    path = _verified(entry, entry.card, f"{entry.name}-{entry.card_sha256[:12]}.md", entry.card_sha256, None)
    return printable(path.read_text(encoding="utf-8", errors="replace"))


def cube_file(name: str) -> Path:
    """The verified file of a cube by name; see :func:`load_cube`."""
    registry = _bundled() if name in _bundled() else _registry()  # a damaged registry keeps no bundled cube away
    if name not in registry:
        raise UnknownNameError(f"no cube is called {name!r}. {did_you_mean(name, registry)}")
    entry = registry[name]
    if entry.address.startswith(BUNDLED):
        path = Path(str(files("polystab.cube") / "data" / entry.address.removeprefix(BUNDLED)))
        if not path.is_file() or file_sha256(path) != entry.sha256:
            raise ReadError(f"the bundled cube {name!r} is missing or damaged; reinstall polystab.")
        return path
    return _verified(entry, entry.address, f"{entry.name}-{entry.sha256[:12]}.nc", entry.sha256, entry.size)


def find_cube(path_or_name: str) -> Path:
    """A file as it is, or else the file of the cube of that name."""
    path = Path(path_or_name).expanduser()
    if path.exists():
        return path
    if path_or_name in _bundled() or path_or_name in _registry():
        return cube_file(path_or_name)
    raise NotACubeError(
        f"{path_or_name!r} is neither a file nor the name of a cube. {did_you_mean(path_or_name, _registry())}"
    )


def open_any(path_or_name: str) -> xr.DataTree:
    """The tree of a file or of a named cube."""
    return open_tree(find_cube(path_or_name))


def data_folder() -> Path:
    """Where released cubes are kept: ``POLYSTAB_DATA``, or the user's cache folder."""
    import pooch  # imported late: most cubes are files

    return Path(os.environ.get("POLYSTAB_DATA") or pooch.os_cache("polystab")).expanduser()


def registry_folder() -> Path:
    """Where copies of the registries that were added are kept."""
    return data_folder() / "registries"


def _verified(entry: CatalogEntry, address: str, file_name: str, sha256: str, size: int | None) -> Path:
    """A file of a released cube: beside its registry on this machine, or in the cache, where it is fetched if need be."""
    if address.startswith("file:"):
        path = local_path(address)
        if not path.is_file() or file_sha256(path) != sha256:
            raise ReadError(
                f"{path} of the cube {entry.name!r} is missing, or is not the file that was released; get it again "
                "from where the registry came."
            )
        return path
    path = data_folder() / file_name
    try:
        if path.is_file() and file_sha256(path) == sha256:
            return path
        fetch_file(address, path, sha256=sha256, size=size)
    except (ReadError, OutputError) as error:
        raise ReadError(
            f"cube {entry.name!r} could not be fetched from {public_address(address)}: {error} Nothing half was kept."
        ) from error
    except OSError as error:
        raise ReadError(
            f"cube {entry.name!r} could not be fetched: {data_folder()} cannot be used ({error.strerror or error}). "
            "Name another folder in POLYSTAB_DATA."
        ) from error
    return path


def _registry() -> dict[str, CatalogEntry]:
    """Every cube by name and by ``name@version``; of several versions, the name is that of the last one."""
    found = dict(_bundled())
    for registry in added_registries(registry_folder()):
        for entry in registry.entries:
            found[entry.name] = found[entry.label] = entry
    return found


@cache
def _bundled() -> dict[str, CatalogEntry]:
    lines = json.loads((files("polystab.cube") / "registry.json").read_text(encoding="utf-8"))
    return {line["name"]: CatalogEntry(**line) for line in lines}
