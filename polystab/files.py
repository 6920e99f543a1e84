"""Writing files so that a failure never costs the old one."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from polystab.errors import OutputError

# What Windows takes for a device, whatever its ending; a name for other systems may travel there.
RESERVED_NAMES = frozenset({"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(10))})

# Temporary files are called .NAME.KERNEL.*.part, or .NAME.unlocked.*.part where there are no locks.
_PART, _UNKNOWN = ".part", "unlocked"
_TEMPORARY = re.compile(rf"\.(.{{1,40}})\.(?:[0-9a-f]{{12}}|{_UNKNOWN})\.[^.]+{re.escape(_PART)}", re.DOTALL)
_LEFTOVER_SECONDS = 86_400


@contextmanager
def atomic_path(path: str | os.PathLike[str], *, overwrite: bool = True, follow: bool = True) -> Iterator[Path]:
    """Give a temporary path beside ``path``; move it into place if the block succeeds.

    The file is flushed to disk before the move, so that after a crash either the
    old or the new content stands there, never half of one; the folder is flushed after
    it, so that what was written first is not lost while what was written next is there.
    On failure the temporary file is removed and the old file is untouched. A process that is
    killed leaves its temporary file, ``.NAME.*.part``, which nothing reads and the next writing of
    the same file removes, see :func:`remove_leftovers`. A link is followed, and stays, unless
    ``follow`` is false: then the file takes its place.

    Raises
    ------
    OutputError
        The path exists (with ``overwrite=False``), is a folder or a device, lies in a
        folder that is missing or read-only, or the disk is full.
    """
    target = require_writable(path, overwrite=overwrite)
    if not follow:
        link = Path(path).expanduser()
        target = Path(os.path.realpath(link.parent)) / link.name
    remove_leftovers(target)
    temporary: Path | None = None
    with _folder_lock(target.parent, alone=False) as held:
        owner = _kernel() if held else _UNKNOWN
        try:
            handle, name = tempfile.mkstemp(prefix=f"{_beginning(target)}{owner}.", suffix=_PART, dir=target.parent)
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


def remove_leftovers(target: Path) -> None:
    """Remove the temporary files of a file whose writers were killed; those of live writers stay.

    While it writes, a writer holds a lock on the folder that it shares with other writers, and its temporary file names
    the running kernel. Whoever gets the lock alone knows that no writer of this kernel is alive. Files of other machines, which
    locks may not reach, of former boots, and of writers that could not lock, are removed when nobody has written to them
    for a day.
    """
    beginning = _beginning(target)
    try:
        names = os.listdir(target.parent)  # noqa: PTH208  a folder may hold thousands, and every writing looks
    except OSError:
        return
    found = [target.with_name(name) for name in names if name.startswith(beginning) and name.endswith(_PART)]
    if not found:
        return
    with _folder_lock(target.parent, alone=True) as alone:
        for path in found:
            with suppress(OSError):
                dead = alone and path.name.startswith(f"{beginning}{_kernel()}.")
                if dead or time.time() - path.lstat().st_mtime > _LEFTOVER_SECONDS:
                    path.unlink()


def _beginning(target: Path) -> str:
    """How the temporary files of a file begin; those of a temporary file are taken for others of the same file."""
    again = _TEMPORARY.fullmatch(target.name)
    return f".{again[1] if again else target.name[:40]}."


@cache
def _kernel() -> str:
    """The running kernel in 12 digits: that of all processes which see each other's locks, also from containers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except (OSError, ValueError):
        boot = platform.node()
    return hashlib.sha256(boot.encode()).hexdigest()[:12]


@contextmanager
def _folder_lock(folder: Path, *, alone: bool) -> Iterator[bool]:
    """Hold a lock on a folder, ``alone`` or with others; gives whether we have it. Never waits."""
    handle: int | None = None
    held = False
    try:
        import fcntl  # late: Windows has none

        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        held = True
    except (ModuleNotFoundError, OSError):
        pass  # no locks here, no leave to look into the folder, or another has it
    try:
        yield held
    finally:
        if held and handle is not None:
            unlock(handle)
        elif handle is not None:
            os.close(handle)


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
        if is_reserved(base):
            base = f"_{base}"
        name, number = base, 2
        while name.lower() in taken:
            name, number = f"{base}-{number}", number + 1
        taken.add(name.lower())
        names[label] = name
    return names


def is_reserved(name: str) -> bool:
    """Whether Windows takes the name for a device."""
    return name.partition(".")[0].rstrip(" ").lower() in RESERVED_NAMES


def _discard(temporary: Path) -> None:
    """Remove a file, and free its space now: HDF5 keeps a file open that it could not flush to a full disk."""
    with suppress(OSError):
        os.truncate(temporary, 0)
    with suppress(OSError):
        temporary.unlink(missing_ok=True)


def _finish(temporary: Path, target: Path) -> None:
    flush(temporary)
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)
    temporary.replace(target)
    with suppress(OSError):  # some file systems cannot; the new content stands there all the same
        flush(target.parent)


def flush(path: Path) -> None:
    """Have what was written to a file, or the names in a folder, on the disk before going on.

    For a file of some kilobytes it takes 2 to 10 ms on a disk, once for the file and once for its folder: much less than it
    takes to measure what stands in it.
    """
    if os.name == "nt" and path.is_dir():
        return  # Windows does not open folders, and keeps their names in order by itself
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Wait until no other process is in such a block with the same lock file; its folder must be there.

    The lock is one of the operating system: it ends with the process, however that ends. The file is removed at the
    end of the block; one that a killed process left locks nothing. Where there are no locks, nobody waits.

    Raises
    ------
    OutputError
        The lock file cannot be made, e.g. because its folder is read-only.
    """
    try:
        handle = locked(lock, wait=True)
    except NoLocksError:
        handle = None
    try:
        yield
    finally:
        if handle is not None:
            with suppress(OSError):
                lock.unlink()  # while it is held: whoever opened it meanwhile sees that it is another file
            unlock(handle)


class NoLocksError(OutputError):
    """A file cannot be locked here."""


def locked(path: Path, *, wait: bool) -> int | None:
    """An open file that is locked for this process alone; None if another has it and we do not wait.

    Raises
    ------
    NoLocksError
        The operating system, or the file system, has no such locks.
    OutputError
        The file cannot be made.
    """
    try:
        import fcntl  # late: Windows has none
    except ModuleNotFoundError as error:
        raise NoLocksError(f"cannot lock {path}: that takes the file locks of Linux or macOS.") from error
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise OutputError(f"cannot write {path}: {error.strerror}.") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _still_there(path, handle):
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except OSError as error:
            os.close(handle)
            raise NoLocksError(f"cannot lock {path}: {error.strerror}.") from error
        os.close(handle)


def unlock(handle: int) -> None:
    """Give a lock back, also where a process that was forked meanwhile has the file open too."""
    import fcntl

    fcntl.flock(handle, fcntl.LOCK_UN)
    os.close(handle)


def _still_there(path: Path, handle: int) -> bool:
    """Whether the open file is the one at the path: its last owner removes it."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def write_text(path: str | os.PathLike[str], text: str, *, overwrite: bool = True) -> None:
    """Write UTF-8 text atomically; see :func:`atomic_path`.

    What UTF-8 cannot say (half of a surrogate pair, as in a file name that is not
    text) is written as an escape.
    """
    with atomic_path(path, overwrite=overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="\n")
