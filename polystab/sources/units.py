"""Units on disk: one small file for what one source measured in one checkpoint.

A unit file is a zip of JSON and ``.npy`` members that ends in a checksum. Nothing
in it depends on the clock or the machine, so that equal measurements are equal
files; it is written beside its place and moved there, so that it is whole or absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polystab.errors import OutputError, RefusedFileError
from polystab.files import atomic_path
from polystab.redaction import without_secrets
from polystab.sources.measuring import Measurement
from polystab.sources.unit_content import unit_bytes
from polystab.sources.unit_files import open_unit
from polystab.sources.unit_keys import UnitKey, settings_digest

if TYPE_CHECKING:
    from polystab.sources.runs import Run


@dataclass(frozen=True)
class Unit:
    """A finished unit.

    Attributes
    ----------
    key : UnitKey
        Source, model, seed and step.
    facts : dict
        What the run table says: ``weight_seed``, ``data_seed`` (-1 unknown),
        ``location``, ``revision``, ``sha`` (commit of the checkpoint, empty for a
        local one), and under ``run`` whatever else is known, e.g. ``n_parameters``.
    measurement : Measurement
        What was measured.
    settings : str
        Digest of the measurer's settings; see :func:`settings_digest`.
    sha256 : str
        Of the file.
    """

    key: UnitKey
    facts: dict[str, Any]
    measurement: Measurement
    settings: str
    sha256: str


def write_unit(
    folder: str | Path,
    source: str,
    run: Run,
    step: int,
    measurement: Measurement,
    settings: Mapping[str, Any],
    *,
    sha: str = "",
) -> Path:
    """Write what ``source`` measured in one checkpoint as a unit file below ``folder``.

    Parameters
    ----------
    folder : path
        The output folder; folders below it are made as needed.
    source : str
        Name of the measurer.
    run : Run
        The run that the checkpoint is of; its facts are kept with the unit.
    step : int
        Step of the checkpoint.
    measurement : Measurement
        NaN values are kept as "not measured".
    settings : mapping
        The measurer's settings; only their digest is kept here.
    sha : str, optional
        Commit of the checkpoint, empty for a local one.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    RecordsError
        The measurement cannot become part of a cube; every mistake is listed.
    OutputError
        The file cannot be written; an earlier one is untouched.
    """
    key = UnitKey(source, run.model, int(run.seed), int(step))
    content = unit_bytes(key, run_facts(run, sha), measurement, settings_digest(settings))
    target = Path(folder) / key.place()
    make_folder(target.parent)
    with atomic_path(target) as temporary:
        temporary.write_bytes(content)
    return target


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, or raise OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}.") from error


def run_facts(run: Run, sha: str = "") -> dict[str, Any]:
    """What a unit keeps about its run; a local location loses the part that is this machine's."""
    location = without_secrets(str(run.location))
    if not run.revision and Path(location).is_absolute():
        location = "/".join(Path(location).parts[-2:])
    return {
        "weight_seed": int(run.weight_seed),
        "data_seed": int(run.data_seed),
        "location": location,
        "revision": str(run.revision),
        "sha": sha,
        "run": dict(run.facts),
    }


def read_unit(path: str | Path) -> Unit:
    """Read a unit file written by :func:`write_unit`.

    Raises
    ------
    RefusedFileError
        It is missing, damaged, or of a newer polystab.
    """
    unit = open_unit(path)
    return Unit(unit.key, unit.facts, unit.measurement(), unit.settings, unit.sha256)


def is_done(folder: str | Path, key: UnitKey) -> bool:
    """Whether the unit's file is there and whole."""
    try:
        return open_unit(Path(folder) / key.place()).key == key
    except RefusedFileError:
        return False
