"""What an output folder keeps beside its units: settings, failures, when it was made, and who is at work in it.

``settings/<source>.json`` are the settings of a source at its first use, ``settings/created.txt`` says when that was,
``failed/...json`` holds a unit's last failure, ``locks/...lock`` claims a checkpoint while it is measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from polystab.errors import ConflictError, OutputError, ReadError
from polystab.files import NoLocksError, locked, unlock, write_text
from polystab.sources.unit_keys import FAILED, UnitKey, canonical, folder_name
from polystab.sources.units import make_folder

SETTINGS = "settings"
LOCKS = "locks"
_CREATED = "created.txt"


@dataclass(frozen=True)
class UnitFailure:
    """A unit that could not be measured.

    Attributes
    ----------
    model, seed, step, source
        Which.
    reason : str
        A short code such as ``out-of-memory``, ``damaged-weights``, ``worker-died``.
    detail : str
        What exactly, for a person.
    """

    model: str
    seed: int
    step: int
    source: str
    reason: str
    detail: str

    @property
    def key(self) -> UnitKey:
        return UnitKey(self.source, self.model, self.seed, self.step)


def keep_settings(folder: Path, source: str, settings: Mapping[str, Any]) -> None:
    """Write the settings of a source down at its first use, or check that they are the same as then.

    Raises
    ------
    ConflictError
        The folder holds units of other settings; every key that differs is named.
    OutputError
        The folder cannot be written.
    """
    from polystab.cube.build import timestamp  # late: workers do without xarray until a measurer wants it

    make_folder(folder / SETTINGS)
    with _exclusive(folder / SETTINGS / ".lock"):
        if not (folder / SETTINGS / _CREATED).is_file():
            write_text(folder / SETTINGS / _CREATED, timestamp() + "\n")
        known = read_settings(folder, source)
        if known is None:
            text = json.dumps(json.loads(canonical(settings)), indent=2, sort_keys=True)
            write_text(_settings_path(folder, source), text + "\n")
            return
    given = json.loads(canonical(settings))
    if known != given:
        keys = [name for name in sorted({*known, *given}) if _said(known, name) != _said(given, name)]
        differences = "; ".join(f"{name} was {_said(known, name)}, now {_said(given, name)}" for name in keys[:5])
        more = f"; and {len(keys) - 5} more" if len(keys) > 5 else ""
        raise ConflictError(
            f"{folder} holds units of {source!r} with other settings: {differences}{more}. "
            "Values of different settings do not mix: use another folder, or the settings of this one."
        )


def read_settings(folder: Path, source: str) -> dict[str, Any] | None:
    """The settings that a folder was filled with; None if it does not say.

    Raises
    ------
    ReadError
        The file is not what :func:`keep_settings` wrote.
    """
    path = _settings_path(folder, source)
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ReadError(f"{path} cannot be read: {error}. Restore it, or fill into another folder.") from error
    if not isinstance(settings, dict):
        raise ReadError(f"{path} does not hold settings. Restore it, or fill into another folder.")
    return settings


def read_created(folder: Path) -> str:
    """When the folder was first filled; now if it does not say."""
    from polystab.cube.build import timestamp

    try:
        return (folder / SETTINGS / _CREATED).read_text(encoding="utf-8").strip() or timestamp()
    except OSError:
        return timestamp()


def write_failure(folder: Path, failure: UnitFailure, traceback: str = "") -> None:
    """Record why a unit failed; the next fill tries it again."""
    path = folder / failure.key.place(FAILED, ".json")
    make_folder(path.parent)
    content = {**asdict(failure), "traceback": traceback}
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def forget_failure(folder: Path, key: UnitKey) -> None:
    """Remove what :func:`write_failure` wrote, once the unit is done."""
    _remove(folder / key.place(FAILED, ".json"))


def read_failures(folder: Path) -> list[UnitFailure]:
    """Every recorded failure, sorted; a record that cannot be read is passed over, as its unit is missing anyway."""
    found: list[UnitFailure] = []
    for path in sorted((folder / FAILED).rglob("*.json")):
        try:
            said = json.loads(path.read_text(encoding="utf-8"))
            texts = {name: str(said[name]) for name in ("model", "source", "reason", "detail")}
            found.append(UnitFailure(seed=int(said["seed"]), step=int(said["step"]), **texts))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return found


@contextmanager
def claimed(folder: Path, model: str, seed: int, step: int) -> Iterator[bool]:
    """Claim a checkpoint for this process while the block runs; gives False if another process has it.

    The claim is a lock of the operating system: it ends with the process, however
    that ends. Whoever has it is the only one who writes the checkpoint's units, so
    that half-written files found then belong to a process that was killed.
    """
    path = folder / LOCKS / folder_name(model) / f"seed{seed}" / f"step{step}.lock"
    make_folder(path.parent)
    handle = _locked(path, wait=False)
    if handle is None:
        yield False
        return
    try:
        yield True
    finally:
        # Removed while it is held: whoever opened it meanwhile sees that it is another file, see _locked.
        with suppress(OSError):
            path.unlink()
        unlock(handle)


def remove_leftovers(folder: Path, key: UnitKey) -> None:
    """Remove half-written files of a unit; only who has claimed its checkpoint may."""
    for place in (key.place(), key.place(FAILED, ".json")):
        target = folder / place
        for path in target.parent.glob(f".{target.name}.*.part") if target.parent.is_dir() else ():
            _remove(path)


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror}.") from error


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    handle = _locked(path, wait=True)
    try:
        yield
    finally:
        if handle is not None:
            unlock(handle)


def _locked(path: Path, *, wait: bool) -> int | None:
    """As :func:`polystab.files.locked`; without locks there is no filling."""
    try:
        return locked(path, wait=wait)
    except NoLocksError as error:
        raise OutputError(
            f"{error} Two fills must not meet in one folder, so it has to lie on a file system with locks; use a local "
            "disk of Linux or macOS. Units can be joined anywhere."
        ) from error


def _settings_path(folder: Path, source: str) -> Path:
    return folder / SETTINGS / f"{folder_name(source)}.json"


def _said(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings:
        return "not set"
    text = json.dumps(settings[name], sort_keys=True)
    return text if len(text) <= 120 else f"{text[:120]}..."
