"""Writing files so that a failure never costs the old one."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from polystab.errors import OutputError


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, overwrite: bool = True) -> Iterator[Path]:
    """Give a temporary path beside ``path``; move it into place if the block succeeds.

    The file is flushed to disk before the move, so that after a crash either the
    old or the new content stands there, never half of one. On failure the
    temporary file is removed and the old file is untouched.

    Raises
    ------
    OutputError
        The path exists (with ``overwrite=False``), is a folder or a device, lies in a
        folder that is missing or read-only, or the disk is full.
    """
    target = require_writable(path, overwrite=overwrite)
    temporary: Path | None = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name[:40]}.", suffix=".part", dir=target.parent)
        temporary = Path(name)
        os.close(handle)
        yield temporary
        _finish(temporary, target)
        temporary = None
    except OSError as error:
        raise OutputError(
            f"cannot write {target}: {error.strerror or error}. What stood there before is untouched."
        ) from error
    finally:
        if temporary is not None:
            _discard(temporary)


def require_writable(path: str | os.PathLike[str], *, overwrite: bool = True) -> Path:
    """The real path of an output file, or the error that writing it would end with.

    Raises
    ------
    OutputError
        As :func:`atomic_path`, as far as it can be told before writing.
    """
    target = Path(os.path.realpath(Path(path).expanduser()))
    try:
        target.exists()
    except OSError as error:  # a name that is too long, a folder that may not be looked into
        raise OutputError(f"cannot write {target}: {error.strerror}.") from error
    if target.is_dir():
        raise OutputError(f"cannot write {target}: it is a folder; name a file in it.")
    if target.exists() and not target.is_file():
        # Moving a file over a device such as /dev/null would replace the device.
        raise OutputError(f"cannot write {target}: it is not a regular file; name a file.")
    if not overwrite and target.exists():
        raise OutputError(f"{target} exists and was left as it is; pass overwrite (--overwrite) to replace it.")
    if not target.parent.is_dir():
        raise OutputError(f"cannot write {target}: the folder {target.parent} does not exist; create it first.")
    return target


def file_names(labels: Iterable[str]) -> dict[str, str]:
    """A distinct, portable file name (without ending) for each label.

    Whatever is not a letter, digit, dot, dash or underscore becomes a dash; names that
    then coincide get a number.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for label in labels:
        base = re.sub(r"[^A-Za-z0-9._-]+", "-", label).strip("-.")[:120] or "unnamed"
        name, number = base, 2
        while name.lower() in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name.lower())
        names[label] = name
    return names


def _discard(temporary: Path) -> None:
    """Remove a file, and free its space now: HDF5 keeps a file open that it could not flush to a full disk."""
    with suppress(OSError):
        os.truncate(temporary, 0)
    with suppress(OSError):
        temporary.unlink(missing_ok=True)


def _finish(temporary: Path, target: Path) -> None:
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    temporary.replace(target)


def write_text(path: str | os.PathLike[str], text: str, *, overwrite: bool = True) -> None:
    """Write UTF-8 text atomically; see :func:`atomic_path`.

    What UTF-8 cannot say (half of a surrogate pair, as in a file name that is not
    text) is written as an escape.
    """
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
