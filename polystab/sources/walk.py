"""Finding files below a folder, and reading them, whatever state they are in."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path

from polystab.errors import ReadError


def walk_files(
    tree: str | os.PathLike[str], suffixes: str | tuple[str, ...], *, on_error: Callable[[str, str], None]
) -> Iterator[tuple[str, str]]:
    """Files below ``tree`` that end in one of ``suffixes``: those of a folder, then its folders, by name.

    Symbolic links are followed, and each folder is visited once, so that a loop of
    links ends. ``tree`` may also be a single file, which is given whatever its suffix.

    Yields
    ------
    (str, str)
        The path, and the same relative to ``tree`` with ``/`` between its parts.

    Raises
    ------
    ReadError
        ``tree`` does not exist.
    """
    root = os.fspath(Path(tree).expanduser())
    if not Path(root).exists():
        raise ReadError(f"{root} does not exist.")
    if not Path(root).is_dir():
        yield root, Path(root).name
        return
    seen: set[tuple[int, int]] = set()
    waiting = [(root, "")]
    while waiting:
        folder, prefix = waiting.pop()
        files, folders = _listed(folder, prefix, suffixes, on_error, seen)
        yield from files
        waiting.extend(reversed(folders))


def _listed(
    folder: str,
    prefix: str,
    suffixes: str | tuple[str, ...],
    on_error: Callable[[str, str], None],
    seen: set[tuple[int, int]],
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The wanted files in one folder, and its folders, each with its path relative to the tree."""
    files: list[tuple[str, str]] = []
    folders: list[tuple[str, str]] = []
    try:
        status = os.stat(folder)  # noqa: PTH116 (os.scandir's own currency; thousands of folders)
        if (status.st_dev, status.st_ino) in seen:
            return files, folders
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as found:
            entries = sorted(found, key=_entry_name)
    except OSError as error:
        on_error(prefix.rstrip("/") or ".", f"folder cannot be read: {error.strerror}.")
        return files, folders
    for entry in entries:
        name = entry.name
        try:
            wanted = name.endswith(suffixes)
            if wanted and entry.is_file():
                files.append((entry.path, prefix + name))
            elif entry.is_dir():
                folders.append((entry.path, f"{prefix}{name}/"))
            elif wanted:
                on_error(prefix + name, "not a regular file, or a link to nothing.")
        except OSError as error:
            on_error(prefix + name, f"{error.strerror}.")
    return files, folders


_entry_name = attrgetter("name")


def read_bytes(path: str, limit: int) -> bytes | None:
    """The content of a file, or None if it is longer than ``limit`` bytes."""
    # os.open and one read of the right size take half the time of open(): there are thousands of files.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        size = os.fstat(handle).st_size
        if size > limit:
            return None
        content = os.read(handle, size + 1)
        if len(content) > size:  # it grew meanwhile
            while len(content) <= limit and (more := os.read(handle, 2**20)):
                content += more
        return content if len(content) <= limit else None
    finally:
        os.close(handle)


@contextmanager
def paused_collection() -> Iterator[None]:
    """No cyclic garbage collection while very many small objects, none in a cycle, are made.

    Each collection walks everything that is loaded, which costs a fifth of the time
    of reading thousands of files.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
