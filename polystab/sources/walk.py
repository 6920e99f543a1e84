"""Finding files below a folder, and reading them, whatever state they are in."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from polystab.errors import ReadError


def walk_files(
    tree: str | os.PathLike[str], suffixes: str | tuple[str, ...], *, on_error: Callable[[str, str], None]
) -> Iterator[tuple[str, str]]:
    """Files below ``tree`` that end in one of ``suffixes``, in alphabetical order.

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
    if Path(root).is_dir():
        yield from _walk(root, "", suffixes, on_error, set())
    else:
        yield root, Path(root).name


def _walk(
    folder: str,
    prefix: str,
    suffixes: str | tuple[str, ...],
    on_error: Callable[[str, str], None],
    seen: set[tuple[int, int]],
) -> Iterator[tuple[str, str]]:
    try:
        status = os.stat(folder)  # noqa: PTH116 (os.scandir's own currency; thousands of folders)
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        on_error(prefix.rstrip("/") or ".", f"folder cannot be read: {error.strerror}.")
        return
    for entry in entries:
        try:
            if entry.is_dir():
                yield from _walk(entry.path, f"{prefix}{entry.name}/", suffixes, on_error, seen)
            elif entry.name.endswith(suffixes):
                if entry.is_file():
                    yield entry.path, prefix + entry.name
                else:
                    on_error(prefix + entry.name, "not a regular file, or a link to nothing.")
        except OSError as error:
            on_error(prefix + entry.name, f"{error.strerror}.")


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
