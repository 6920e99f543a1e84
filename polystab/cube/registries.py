"""Registries: lists of released cubes, and those of them that the user added.

A registry is a JSON file, ``{"polystab_registry": 1, "cubes": [...]}``, with one object a cube: ``name``, ``address``,
``sha256``, ``size``, ``license``, ``summary``, and where known ``version``, ``card`` and ``card_sha256``. Addresses
count from where the registry lies, so that a folder that :func:`polystab.cube.release.release` wrote can be served,
or copied, as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit
from urllib.request import url2pathname

from polystab.cube.addresses import holds_secrets, is_web, public_address, split_address
from polystab.cube.fetching import fetch_bytes
from polystab.errors import PolystabError, ReadError, shown
from polystab.files import one_at_a_time, write_text

PathLike = str | os.PathLike[str]

FORMAT_KEY, FORMAT = "polystab_registry", 1
REGISTRY_NAME = "registry.json"
# Bytes of a registry; it is text of some 500 bytes a cube.
LONGEST_REGISTRY = 10_000_000
LARGEST_CUBE = 10**13
# Held while registries are added: which of them has a name is decided by all of them.
_LOCK = ".adding.lock"

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,39}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Segments that begin with a letter or digit: never "..", a hidden file, a drive or an address of a scheme.
_RELATIVE = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._+-]{0,199}/){0,8}[A-Za-z0-9][A-Za-z0-9._+-]{0,199}")
# What the commands of `polystab cubes` are called.
RESERVED = ("add", "remove")


class RegistryError(ReadError):
    """A registry cannot be used."""


@dataclass(frozen=True)
class CatalogEntry:
    """One line of a registry.

    Attributes
    ----------
    name, version : str
        ``version`` is empty where there is none.
    address : str
        ``package:FILE`` for a cube inside the package, ``file:`` for one beside a registry on this machine,
        else an address of the web.
    sha256, size : str, int
        Of the file; size in bytes.
    license, summary : str
        One line each.
    card, card_sha256 : str
        Address and checksum of the data card; empty where there is none.
    """

    name: str
    address: str
    sha256: str
    size: int
    license: str
    summary: str
    version: str = ""
    card: str = ""
    card_sha256: str = ""

    @property
    def label(self) -> str:
        """``name@version``, or the name alone."""
        return f"{self.name}@{self.version}" if self.version else self.name


@dataclass(frozen=True)
class Registry:
    """A registry that was read: where from, and its cubes, with absolute addresses."""

    source: str
    entries: tuple[CatalogEntry, ...]


def read_registry(source: PathLike) -> Registry:
    """Read a registry from a file, a folder with a ``registry.json``, or an address of the web.

    Raises
    ------
    RegistryError
        It is none, is of a later format, or says something that is not sound; every mistake is listed.
    ReadError
        It cannot be read or fetched.
    """
    text = os.fspath(source)
    if is_web(text):
        text = _in_folder(text)
        try:
            content = fetch_bytes(text, limit=LONGEST_REGISTRY)
        except ReadError as error:
            raise RegistryError(f"the registry {public_address(text)} could not be fetched: {error}") from error
        return _parsed(content, public_address(text))
    content, path = _content(Path(text).expanduser())
    return _parsed(content, path.resolve().as_uri())


def add_registry(source: PathLike, folder: Path, *, taken: Iterable[str], replace: bool = False) -> Registry:
    """Read a registry and keep a copy of it in ``folder``, where :func:`added_registries` finds it.

    Parameters
    ----------
    source : path or address
        As :func:`read_registry`. A name and password in it are used now, and not kept.
    folder : path
        Of the copies; made if need be.
    taken : iterable of str
        Names that no registry may use: those of bundled cubes.
    replace : bool, optional
        Where another registry has a cube of the same name, take this one; and where this registry, added
        before, has changed what a released version is. Refused without it.

    Raises
    ------
    RegistryError
        As :func:`read_registry`; or names clash.
    OutputError
        The folder cannot be written.
    """
    registry = read_registry(source)
    names = {entry.name for entry in registry.entries}
    if bundled := sorted(names & {*taken, *RESERVED}):
        raise RegistryError(
            f"the registry {registry.source} has cubes called {shown(bundled)}, which are names of polystab's own; "
            "they cannot be replaced, so they need other names there."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder / _LOCK):
        others = _others(registry, folder, replace=replace)
        # The new names first: a process that is killed in between leaves a cube in two registries, and never in none.
        write_text(_place(folder, registry.source), registry_text(registry.entries, source=registry.source))
        for path, known in others.items():
            left = tuple(entry for entry in known.entries if entry.name not in names)
            if len(left) < len(known.entries):
                write_text(path, registry_text(left, source=known.source))
    return registry


def _others(registry: Registry, folder: Path, *, replace: bool) -> dict[Path, Registry]:
    """The registries that were added before, but this one, with which it must not clash unless it replaces."""
    names = {entry.name for entry in registry.entries}
    stored = _stored(folder)
    others = {path: known for path, known in stored if known.source != registry.source}
    before = [known for _, known in stored if known.source == registry.source]
    clashes = sorted(names & {entry.name for known in others.values() for entry in known.entries})
    changed = sorted(_changed(before, registry))
    if clashes and not replace:
        where = sorted(known.source for known in others.values() if names & {entry.name for entry in known.entries})
        raise RegistryError(
            f"cubes called {shown(clashes)} are in {shown(where)} already; pass replace (--replace) to take those "
            f"of {registry.source} instead."
        )
    if changed and not replace:
        raise RegistryError(
            f"{registry.source} now has other files under {shown(changed)} than when it was added: a version that "
            "was released does not change. If you know why, pass replace (--replace)."
        )
    return others


def remove_registry(source: PathLike, folder: Path) -> Registry:
    """Forget a registry that was added, by its address; files that were fetched stay.

    Raises
    ------
    RegistryError
        It was not added.
    """
    text = os.fspath(source)
    wanted = {public_address(_in_folder(text))} if is_web(text) else _uris(text)
    for path, known in _stored(folder):
        if known.source in wanted:
            path.unlink()
            return known
    added = [known.source for _, known in _stored(folder)]
    raise RegistryError(f"{shown(sorted(wanted))} was not added. Added: {shown(added, 12) or 'none'}.")


def added_registries(folder: Path) -> list[Registry]:
    """The registries that were added, in the order of their file names.

    Raises
    ------
    RegistryError
        A kept copy cannot be read; the message says which to remove.
    """
    return [registry for _, registry in _stored(folder)]


def registry_text(entries: Iterable[CatalogEntry], *, source: str = "") -> str:
    """A registry as JSON; what is empty is left out."""
    lines = [{name: value for name, value in asdict(entry).items() if value != ""} for entry in entries]
    return json.dumps({FORMAT_KEY: FORMAT, **({"source": source} if source else {}), "cubes": lines}, indent=2) + "\n"


def local_path(address: str) -> Path:
    """The path of a ``file:`` address."""
    return Path(url2pathname(urlsplit(address).path))


def _stored(folder: Path) -> list[tuple[Path, Registry]]:
    found = []
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            found.append((path, _parsed(_content(path)[0], "", stored=True)))
        except ReadError as error:
            raise RegistryError(
                f"{error} It was kept at {path}; remove that file, and add the registry again."
            ) from error
    return found


def _changed(before: Iterable[Registry], now: Registry) -> set[str]:
    """Released versions whose file is another than before."""
    known = {entry.label: entry.sha256 for registry in before for entry in registry.entries if entry.version}
    return {entry.label for entry in now.entries if known.get(entry.label, entry.sha256) != entry.sha256}


def _place(folder: Path, source: str) -> Path:
    host = re.sub(r"[^A-Za-z0-9.-]+", "-", urlsplit(source).netloc or "local")[:60]
    return folder / f"{host}-{hashlib.sha256(source.encode()).hexdigest()[:12]}.json"


def _in_folder(address: str) -> str:
    """The address of the registry in a folder of the web; other addresses as they are."""
    parts = split_address(address)
    return parts._replace(path=parts.path + REGISTRY_NAME).geturl() if parts.path.endswith("/") else address


def _uris(path: str) -> set[str]:
    if path.startswith("file:"):
        return {path}
    whole = Path(path).expanduser().resolve()
    return {whole.as_uri(), (whole / REGISTRY_NAME).as_uri()}


def _content(path: Path) -> tuple[bytes, Path]:
    """The bytes of a registry, or of that in a folder, and where they lie."""
    try:
        if path.is_dir():
            path /= REGISTRY_NAME
        if not path.is_file():
            raise RegistryError(
                f"{path} does not exist, or is no file; name a registry ({REGISTRY_NAME}) or its address."
            )
        if path.stat().st_size > LONGEST_REGISTRY:
            raise RegistryError(f"{path} is longer than {LONGEST_REGISTRY:,} bytes: it is no registry.")
        return path.read_bytes(), path
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise RegistryError(f"the registry {str(path)[:200]!r} cannot be read: {said}.") from error


def _parsed(content: bytes, source: str, *, stored: bool = False) -> Registry:
    """The registry in the bytes of a file that lies at ``source``, or that we keep (and which then says its source)."""
    where = "a registry that was added" if stored else f"the registry {source}"
    try:
        said = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError):
        raise RegistryError(f"{where} is not JSON.") from None
    if not isinstance(said, dict) or FORMAT_KEY not in said:
        raise RegistryError(f"{where} is no registry of cubes: it does not say {FORMAT_KEY!r}.")
    version = said[FORMAT_KEY]
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise RegistryError(f"{where} has the format {version!r}, which is none.")
    if version > FORMAT:
        raise RegistryError(
            f"{where} has format {version}; this polystab reads formats up to {FORMAT}. Upgrade: pip install -U polystab."
        )
    if stored:
        source = str(said.get("source", ""))
    lines = said.get("cubes")
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise RegistryError(f"{where} has no list of objects under 'cubes'.")
    entries, mistakes = [], []
    for number, line in enumerate(lines, 1):
        found = _entry_mistakes(line, source, stored=stored)
        mistakes += [f"cube {number}: {mistake}" for mistake in found]
        if not found:
            entries.append(_entry(line, source))
    labels = [entry.label for entry in entries]
    mistakes += [f"{label!r} is there twice" for label in dict.fromkeys(labels) if labels.count(label) > 1]
    if mistakes:
        listed = "".join(f"\n  {mistake}." for mistake in mistakes[:20])
        more = f"\n  and {len(mistakes) - 20:,} more." if len(mistakes) > 20 else ""
        raise RegistryError(f"{where} cannot be used ({len(mistakes):,} mistakes):{listed}{more}")
    return Registry(source, tuple(entries))


def _entry(line: Mapping[str, Any], source: str) -> CatalogEntry:
    known = {field.name for field in fields(CatalogEntry)}
    entry = {name: value for name, value in line.items() if name in known}
    for name in ("address", "card"):
        if entry.get(name) and _RELATIVE.fullmatch(entry[name]):
            entry[name] = urljoin(source, entry[name])
    return CatalogEntry(**entry)


def _entry_mistakes(line: Mapping[str, Any], source: str, *, stored: bool) -> list[str]:
    mistakes = []
    for name, pattern, like in (
        ("name", NAME, "letters, digits, dots, dashes and underscores"),
        ("sha256", _SHA256, "64 hexadecimal digits in lower case"),
    ):
        if not (isinstance(line.get(name), str) and pattern.fullmatch(line[name])):
            mistakes.append(f"{name!r} is not {like}")
    if "version" in line and not (isinstance(line["version"], str) and VERSION.fullmatch(line["version"])):
        mistakes.append("'version' is not like 1.0 or 2026-11-22")
    size = line.get("size")
    if isinstance(size, bool) or not isinstance(size, int) or not 0 < size <= LARGEST_CUBE:
        mistakes.append(f"'size' is not a number of bytes from 1 to {LARGEST_CUBE:,}")
    mistakes += [f"{name!r} {fault}" for name in ("license", "summary") if (fault := line_mistake(line.get(name)))]
    mistakes += _address_mistakes("address", line.get("address"), source, stored=stored)
    if line.get("card") or line.get("card_sha256"):
        mistakes += _address_mistakes("card", line.get("card"), source, stored=stored)
        if not (isinstance(line.get("card_sha256"), str) and _SHA256.fullmatch(line["card_sha256"])):
            mistakes.append("'card_sha256' is not 64 hexadecimal digits in lower case")
    return mistakes


def line_mistake(text: object) -> str:
    """What is wrong with a text that must be one line which a terminal can show; empty if nothing is."""
    if not isinstance(text, str) or not text.strip():
        return "is missing or empty"
    if len(text) > 500:
        return "is longer than 500 characters"
    return "" if text.isprintable() else "has line breaks or control characters; write one line"


def _address_mistakes(name: str, address: object, source: str, *, stored: bool) -> list[str]:
    if not isinstance(address, str) or not address:
        return [f"{name!r} is missing"]
    if _RELATIVE.fullmatch(address) and not stored:
        return []
    if stored and address.startswith("file:") and source.startswith("file:"):
        return []
    if not is_web(address):
        return [f"{name!r} is neither an address of the web nor the name of a file beside or below the registry"]
    try:
        if holds_secrets(address):
            return [f"{name!r} holds a name, a password or a token, which a registry may not; put them into ~/.netrc"]
    except PolystabError as error:
        return [f"{name!r}: {str(error).rstrip('.')}"]
    return []
