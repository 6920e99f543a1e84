"""Releasing a cube: the file, its data card, checksums, and the line of the registry."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from polystab.cube.cards import release_card
from polystab.cube.fetching import file_sha256
from polystab.cube.registries import (
    NAME,
    REGISTRY_NAME,
    RESERVED,
    VERSION,
    CatalogEntry,
    line_mistake,
    local_path,
    read_registry,
    registry_text,
)
from polystab.cube.store import save_cube
from polystab.cube.validate import as_cube
from polystab.errors import OutputError, PolystabError, shown
from polystab.files import atomic_path, one_at_a_time, require_writable, write_text
from polystab.redaction import without_secrets

PathLike = str | os.PathLike[str]

AUDIT_PATH = "/audit"
# Held while a release is written: two at once must not lose a line of the registry.
_LOCK = ".releasing.lock"


class ReleaseError(PolystabError):
    """A cube cannot be released as it was asked for."""


@dataclass(frozen=True)
class Release:
    """What was released.

    Attributes
    ----------
    entry : CatalogEntry
        The line of the registry, with addresses relative to it.
    cube, card, checksums, registry : path
        The files.
    cleaned : tuple of str
        Where names, passwords or tokens stood in texts of the cube, which are not in the released one.
    """

    entry: CatalogEntry
    cube: Path
    card: Path
    checksums: Path
    registry: Path
    cleaned: tuple[str, ...]


def release(
    cube: xr.Dataset | xr.DataTree,
    output: PathLike,
    *,
    name: str,
    version: str,
    license: str = "",
    title: str = "",
    summary: str = "",
    references: str = "",
    checks: Mapping[str, Sequence[str]] | None = None,
    overwrite: bool = False,
) -> Release:
    """Write a cube, with its detail groups if it is a tree, as others can load it by name.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A valid cube; not changed.
    output : path
        Folder, made if it is not there. It gets ``NAME-VERSION.nc``, its data card ``NAME-VERSION.md``,
        ``NAME-VERSION.sha256`` (as ``sha256sum -c`` reads it), and a line in its ``registry.json``. Served by any web
        server, or copied, it can be added with ``polystab cubes add``.
    name, version : str
        What it is loaded by: letters, digits, dots, dashes, underscores (``+`` in a version).
    license : str, optional
        Licence of the data, by its SPDX name where it has one, e.g. ``CC-BY-4.0``; by default what the cube says.
    title, summary, references : str, optional
        One line each: by default what the cube says. ``references`` is what to cite.
    checks : mapping of str to sequence of str, optional
        Findings about the data, by severity, for the card: see ``polystab audit``.
    overwrite : bool, optional
        Replace files of the same name and version.

    Returns
    -------
    Release

    Raises
    ------
    ReleaseError
        A name, version or text cannot be used; the licence is unknown, or not the one that the cube says.
    InvalidCubeError
        The cube breaks a rule.
    OutputError
        The folder cannot be written, or has that version and ``overwrite`` is false.
    RegistryError
        The registry of the folder is damaged, or of a later format.

    Notes
    -----
    The same cube and arguments give the same bytes. The registry is written last, and a version that is replaced is
    withdrawn from it first, so that it never names a file that is not there. Whoever is killed in between, calls it
    again. Two releases into one folder wait for each other. Names and passwords in addresses, and what looks like a token, are removed from all texts.
    """
    _require_sound(name, version)
    said = as_cube(cube).attrs
    texts = {
        "title": title or str(said.get("title") or "") or name,
        "summary": summary or str(said.get("summary") or ""),
        "license": _license(license, str(said.get("license") or "")),
        "references": references or str(said.get("references") or ""),
    }
    for what in ("title", "license"):
        if fault := line_mistake(texts[what]):
            raise ReleaseError(f"the {what} {fault}.")
    folder = _folder(output)
    with one_at_a_time(folder / _LOCK):
        return _released(cube, folder, texts, name, version, checks=checks, overwrite=overwrite)


def _released(
    cube: xr.Dataset | xr.DataTree,
    folder: Path,
    texts: Mapping[str, str],
    name: str,
    version: str,
    *,
    checks: Mapping[str, Sequence[str]] | None,
    overwrite: bool,
) -> Release:
    """Write everything, now that nobody else writes in the folder."""
    stem, label, registry = f"{name}-{version}", f"{name}@{version}", folder / REGISTRY_NAME
    paths = {ending: folder / f"{stem}.{ending}" for ending in ("nc", "md", "sha256")}
    known = _known(registry)
    if taken := [other.label for other in known if other.address == f"{stem}.nc" and other.label != label]:
        raise ReleaseError(f"{stem}.nc is the file of {shown(taken)} in {folder}; use another name, version or folder.")
    others = [other for other in known if other.label != label]
    listed = len(others) < len(known)
    for path in paths.values():
        # What is not listed may be of a release that was killed: it must then be what is written now.
        require_writable(path, overwrite=overwrite or not listed)
    tree, cleaned = _cleaned(cube, {**texts, "id": name, "product_version": version})

    def write_cube(path: Path) -> None:
        save_cube(tree, path)
        if listed:  # withdrawn, so that the registry at no moment lists another file than the one that is there
            write_text(registry, registry_text(others))

    _place(paths["nc"], write_cube, overwrite=overwrite)
    entry = CatalogEntry(
        name, paths["nc"].name, file_sha256(paths["nc"]), paths["nc"].stat().st_size, tree.attrs["license"],
        _first_line(tree.attrs["summary"]) or tree.attrs["title"], version, paths["md"].name,
    )  # fmt: skip
    _place(paths["md"], lambda path: write_text(path, release_card(tree, entry, checks=checks)), overwrite=overwrite)
    entry = CatalogEntry(**{**vars(entry), "card_sha256": file_sha256(paths["md"])})
    sums = f"{entry.sha256}  {paths['nc'].name}\n{entry.card_sha256}  {paths['md'].name}\n"
    _place(paths["sha256"], lambda path: write_text(path, sums), overwrite=overwrite)
    write_text(registry, registry_text([*others, entry]))
    return Release(entry, paths["nc"], paths["md"], paths["sha256"], registry, cleaned)


def _place(path: Path, write: Callable[[Path], None], *, overwrite: bool) -> None:
    """Put a file in its place; without ``overwrite`` another one that stands there stays."""
    with atomic_path(path) as temporary:
        write(temporary)
        if not overwrite and path.exists() and file_sha256(path) != file_sha256(temporary):
            raise OutputError(
                f"{path} exists, is another file than the one to be released, and was left as it is; pass overwrite "
                "(--overwrite) to replace it."
            )


def _license(given: str, said: str) -> str:
    if given and said and given != said:
        raise ReleaseError(
            f"the cube says that its licence is {said!r}, not {given!r}. Leave the licence out to keep it; if the other "
            "one is right, correct cube.attrs['license'] first."
        )
    if not (given or said):
        raise ReleaseError(
            "the licence of the data is not known; name it (--license), by its SPDX name where it has one, e.g. CC-BY-4.0."
        )
    return given or said


def _require_sound(name: str, version: str) -> None:
    if not NAME.fullmatch(name) or name in RESERVED:
        raise ReleaseError(
            f"{name!r} cannot be the name of a cube: write up to 100 letters, digits, dots, dashes and underscores, "
            f"a letter or digit first, and not {' or '.join(RESERVED)}."
        )
    if not VERSION.fullmatch(version):
        raise ReleaseError(f"{version!r} cannot be a version; write it like 1.0 or 2026-11-22.")


def _first_line(text: str) -> str:
    """The first line that says something, without what a terminal cannot show."""
    lines = ("".join(letter for letter in line if letter.isprintable()).strip() for line in text.splitlines())
    return next((line for line in lines if line), "")[:500]


def _folder(output: PathLike) -> Path:
    folder = Path(output).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {folder} cannot be made: {error.strerror or error}.") from error
    return folder


def _known(registry: Path) -> list[CatalogEntry]:
    """What the registry of the folder lists, with addresses relative to it again."""
    if not registry.exists():
        return []
    beside = registry.resolve().parent
    found = []
    for entry in read_registry(registry).entries:
        fields = vars(entry) | {
            name: local_path(getattr(entry, name)).relative_to(beside).as_posix()
            for name in ("address", "card")
            if getattr(entry, name).startswith("file:")
        }
        found.append(CatalogEntry(**fields))
    return found


def _cleaned(cube: xr.Dataset | xr.DataTree, attrs: Mapping[str, str]) -> tuple[xr.DataTree, tuple[str, ...]]:
    """A tree with these attributes, and no names, passwords and tokens in any attribute or in the audit."""
    nodes = {"/": as_cube(cube).assign_attrs(attrs)}
    if isinstance(cube, xr.DataTree):
        nodes |= {node.path: node.to_dataset(inherit=False) for node in cube.subtree if node.path != "/"}
    places: list[str] = []
    clean: dict[str, xr.Dataset] = {}
    for path, data in nodes.items():
        place = "" if path == "/" else f"group {path.strip('/')}, "
        kept = data.copy(deep=False)
        kept.attrs = {key: _clean_text(text, f"{place}attribute {key}", places) for key, text in data.attrs.items()}
        if path == AUDIT_PATH:
            for key, variable in data.data_vars.items():
                texts = variable.values.tolist()
                cleaned = [_clean_text(text, f"{place}variable {key}", places) for text in texts]
                if cleaned != texts:
                    kept[key] = (variable.dims, np.array(cleaned, dtype=object), dict(variable.attrs))
        clean[path] = kept
    return xr.DataTree.from_dict(clean), tuple(dict.fromkeys(places))


def _clean_text(text: Any, place: str, places: list[str]) -> Any:
    clean = without_secrets(text) if isinstance(text, str) else text
    if clean is not text and clean != text:
        places.append(place)
    return clean
