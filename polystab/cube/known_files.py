"""Files that need no second look: those that were looked at before, or written here, or came with the package.

A line of 64 digits for each, in a file of the user's own cache folder. Where that cannot be written, or where others
might have written to it, nothing is known, and every process looks for itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import sys
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path

from polystab.errors import OutputError
from polystab.files import write_text

# The number changes with what the look does, so that what an older one passed is looked at again.
RECORD = "known-files-1.txt"

# Bytes of the record; 16,000 files. The older half is forgotten when it is longer.
LONGEST_RECORD = 2**20

# Files up to this size are known by their content, so that a copy is known as well. To read larger ones would take
# longer than to open them; they are known by where they lie and when they last changed.
READ_WHOLE = 2**26 + 2**10


def record_path() -> Path:
    """Where the keys of known files are kept: not in ``POLYSTAB_DATA``, which several users may share."""
    import platformdirs  # imported late, though only some milliseconds: nothing else needs it

    return Path(platformdirs.user_cache_dir("polystab")) / RECORD


def file_key(path: Path) -> str:
    """What a file is known by: another one once it has changed.

    Raises
    ------
    OSError
        It cannot be read.
    """
    status = path.stat()
    if status.st_size <= READ_WHOLE:
        with path.open("rb") as stream:  # polystab.cube.fetching can do that too, but takes longer to import
            return hashlib.file_digest(stream, "sha256").hexdigest()
    facts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return hashlib.sha256(f"place {facts}".encode()).hexdigest()


def is_known(key: str) -> bool:
    """Whether the file of this key came with the package, or is in the record."""
    if key in _bundled_keys():
        return True
    try:
        with record_path().open("rb") as stream:
            return _is_own(os.fstat(stream.fileno())) and f"{key}\n".encode() in stream.read(2 * LONGEST_RECORD)
    except OSError:
        return False


def remember(key: str) -> None:
    """Add a file to the record; where that cannot be written, nothing happens."""
    path = record_path()
    with suppress(OSError, OutputError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # One short write at the end of a file is whole, whoever else writes.
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
        with open(handle, "wb", buffering=0) as stream:  # noqa: PTH123  of a handle
            status = os.fstat(handle)
            if not _is_own(status):
                return
            stream.write(f"{key}\n".encode())
        if status.st_size > LONGEST_RECORD:
            lines = path.read_text("ascii", errors="replace").splitlines()
            write_text(path, "\n".join(lines[len(lines) // 2 :]) + "\n")
            path.chmod(0o600)  # a file that others of a group may write to would not be believed


def _is_own(status: os.stat_result) -> bool:
    """Whether a file is a regular one that nobody but this user can have written."""
    if not stat.S_ISREG(status.st_mode):
        return False
    return sys.platform == "win32" or (status.st_uid == os.getuid() and not status.st_mode & 0o022)


@cache
def _bundled_keys() -> frozenset[str]:
    lines = json.loads((files("polystab.cube") / "registry.json").read_text(encoding="utf-8"))
    return frozenset(line["sha256"] for line in lines)
