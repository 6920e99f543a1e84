"""The files that a user means by a path, a list of paths, or a folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from polystab.cube.audit import AuditLog
from polystab.cube.labels import natural_order
from polystab.errors import ReadError
from polystab.sources.walk import walk_files

PathLike = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file to read.

    Attributes
    ----------
    path : pathlib.Path
        Where it is.
    shown : str
        The same relative to what was given, so that an audit is the same on every machine.
    within : str
        ``shown`` behind the name of the folder it was given in: what a run's name is
        looked for in when ``shown`` does not hold it.
    """

    path: Path
    shown: str
    within: str


def find_files(paths: PathLike | Iterable[PathLike], suffixes: tuple[str, ...], log: AuditLog) -> list[InputFile]:
    """Files in the order given, those of a folder in natural order of their paths.

    A file is taken whatever its suffix if it is named, and by its suffix below a folder,
    where hidden files are passed over. A second way to the same file (a link, a path
    given twice) is refused as ``same-file``.

    Raises
    ------
    ReadError
        No path was given, or no file was found and nothing refused.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    if not given:
        raise ReadError("no path was given; name a file, several, or a folder.")
    # Not resolved: the name of a link may be what says which run it is.
    roots = [Path(os.path.abspath(Path(path).expanduser())) for path in given]  # noqa: PTH100
    base = _base(roots)
    found: list[Path] = []
    for root in roots:
        found.extend(_below(root, base, suffixes, log))
    files = [InputFile(path, _shown(path, base), _within(path, base)) for path in found]
    kept = list(_once(files, log))
    if not kept and not log.entries:
        raise ReadError(f"no file below {roots[0]} ends in {', '.join(suffixes)}.")
    return kept


def any_file(path: PathLike, suffixes: tuple[str, ...], wanted: Callable[[Path], bool], *, limit: int = 50) -> bool:
    """Whether a file, or one of the first files below a folder, is ``wanted``."""
    source = Path(path)
    if not _is_folder(source):
        return wanted(source)
    walked = walk_files(source, suffixes, on_error=lambda *_: None)
    return any(wanted(Path(found)) for found, _ in islice(walked, limit))


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a folder above may not be entered
        return False


def _base(roots: list[Path]) -> Path:
    if len(roots) == 1 and _is_folder(roots[0]):
        return roots[0]
    return Path(os.path.commonpath([root.parent for root in roots]))


def _below(root: Path, base: Path, suffixes: tuple[str, ...], log: AuditLog) -> list[Path]:
    if not _is_folder(root):
        return [root]  # a file that is not there is refused when it is opened

    def refuse(where: str, why: str) -> None:
        log.refuse(_shown(root / where, base), "unreadable", why)

    walked = [(relative, path) for path, relative in walk_files(root, suffixes, on_error=refuse)]
    visible = [item for item in walked if not any(part.startswith(".") for part in item[0].split("/"))]
    return [Path(path) for _, path in sorted(visible, key=lambda item: (natural_order(item[0]), item[0]))]


def _shown(path: Path, base: Path) -> str:
    # A name that is not UTF-8 could not be written into a cube.
    return os.fsencode(path.relative_to(base).as_posix()).decode("utf-8", "backslashreplace")


def _within(path: Path, base: Path) -> str:
    folder = base
    while folder.name.startswith("checkpoint-"):
        folder = folder.parent
    return _shown(path, folder.parent)


def _once(files: list[InputFile], log: AuditLog) -> Iterator[InputFile]:
    """Each file once, under a name that is no link if it has one."""
    owner: dict[object, InputFile] = {}
    identities: list[object] = []
    for file in files:
        identity = _identity(file)
        identities.append(identity)
        if identity not in owner or (owner[identity].path.is_symlink() and not file.path.is_symlink()):
            owner[identity] = file
    for file, identity in zip(files, identities, strict=True):
        if owner[identity] is file:
            yield file
        else:
            log.refuse(file.shown, "same-file", f"the same file as {owner[identity].shown}, which is read.")


def _identity(file: InputFile) -> object:
    try:
        status = file.path.stat()
    except OSError:
        return file.path
    return status.st_dev, status.st_ino
