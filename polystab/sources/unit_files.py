"""Opening unit files: the checksum first, then the members that are asked for."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from polystab.errors import RefusedFileError
from polystab.sources.measuring import Measurement
from polystab.sources.unit_content import FORMAT, SEAL, SEAL_LENGTH
from polystab.sources.unit_keys import UnitKey

if TYPE_CHECKING:
    import xarray as xr

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Metrics:
    """The metrics of a unit: sorted ids, and what is known about each."""

    ids: tuple[str, ...]
    known: Mapping[str, Mapping[str, Any]]


@dataclass
class UnitFile:
    """An opened unit file, whose members are read when they are asked for.

    ``settings`` and ``facts`` are as in :class:`Unit`.
    """

    content: bytes = field(repr=False)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(io.BytesIO(self.content))

    @cached_property
    def _head(self) -> dict[str, Any]:
        head: dict[str, Any] = json.loads(self.member("unit.json"))
        return head

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(self._archive.namelist())

    def member(self, name: str) -> bytes:
        return self._archive.read(name)

    @property
    def format(self) -> int:
        return int(self._head["format"])

    @cached_property
    def key(self) -> UnitKey:
        source, model, seed, step = self._head["key"]
        return UnitKey(str(source), str(model), int(seed), int(step))

    @property
    def facts(self) -> dict[str, Any]:
        return dict(self._head["facts"])

    @property
    def settings(self) -> str:
        return str(self._head["settings"])

    @property
    def notes(self) -> list[tuple[str, str]]:
        return [(str(reason), str(detail)) for reason, detail in self._head["notes"]]

    @property
    def provenance(self) -> dict[str, str]:
        return dict(self._head["provenance"])

    @property
    def metrics(self) -> Metrics:
        return _parse_metrics(self.member("metrics.json"))

    @property
    def values(self) -> npt.NDArray[np.float64]:
        return _array(self.member("values.npy"))

    @property
    def stderr(self) -> npt.NDArray[np.float64] | None:
        return _array(self.member("stderr.npy")) if "stderr.npy" in self.names else None

    @cached_property
    def details(self) -> dict[str, dict[str, Any]]:
        """Group name to its description: ``attrs`` and ``variables``."""
        found: dict[str, dict[str, Any]] = (
            json.loads(self.member("details.json")) if "details.json" in self.names else {}
        )
        return found

    def detail_bytes(self, group: str, name: str) -> bytes:
        """The member of a variable as it is stored."""
        text = self.details[group]["variables"][name]["dtype"] == "U"
        return self.member(f"details/{group}/{name}.{'json' if text else 'npy'}")

    def detail(self, group: str, name: str) -> Array:
        """A variable of a detail group; texts as objects."""
        described = self.details[group]["variables"][name]
        raw = self.detail_bytes(group, name)
        if described["dtype"] != "U":
            return _array(raw)
        return np.array(json.loads(raw), dtype=object).reshape(described["shape"])

    def measurement(self) -> Measurement:
        """Everything, as the measurer returned it (texts as numpy text)."""
        import xarray as xr

        metrics, stderr = self.metrics, self.stderr
        details: dict[str, xr.Dataset] = {}
        for group, described in self.details.items():
            made: dict[str, dict[str, Any]] = {"coords": {}, "data": {}}
            for name, variable in described["variables"].items():
                array = self.detail(group, name)
                array = array.astype(np.str_) if variable["dtype"] == "U" else array
                place = made["coords" if variable["coordinate"] else "data"]
                place[name] = (tuple(variable["dims"]), array, variable["attrs"])
            details[group] = xr.Dataset(made["data"], coords=made["coords"], attrs=described["attrs"])
        errors = {} if stderr is None else dict(zip(metrics.ids, stderr.tolist(), strict=True))
        return Measurement(
            values=dict(zip(metrics.ids, self.values.tolist(), strict=True)),
            stderr={name: error for name, error in errors.items() if error == error},
            metrics={name: dict(said) for name, said in metrics.known.items()},
            details=details,
            notes=self.notes,
            provenance=self.provenance,
        )


def open_unit(path: str | Path) -> UnitFile:
    """Open a unit file after looking at its checksum.

    Raises
    ------
    RefusedFileError
        It is missing, damaged, or of a newer polystab; ``reason`` says which.
    """
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise RefusedFileError("unreadable-unit", f"{path} cannot be read: {error.strerror}.") from error
    if content[-SEAL_LENGTH:] != SEAL % zlib.crc32(content[:-SEAL_LENGTH]):
        raise _damaged(content, f"{path} is damaged: its checksum does not match its content ({len(content)} bytes).")
    unit = UnitFile(content)
    try:
        unit.key  # noqa: B018
        newer = unit.format > FORMAT
    except (KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise _damaged(content, f"{path} is not a unit file: {error!r}.") from error
    if newer:
        raise RefusedFileError(
            "newer-unit",
            f"{path} has unit format {unit.format}; this polystab reads up to {FORMAT}. Upgrade: pip install -U polystab.",
            sha256=unit.sha256,
        )
    return unit


def _damaged(content: bytes, detail: str) -> RefusedFileError:
    return RefusedFileError("damaged-unit", detail, sha256=hashlib.sha256(content).hexdigest())


def _array(raw: bytes) -> Array:
    array: Array = np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
    return array


@lru_cache(maxsize=256)
def _parse_metrics(raw: bytes) -> Metrics:
    """Many units have the same metrics, so that this is mostly looked up."""
    content = json.loads(raw)
    return Metrics(tuple(content["ids"]), content["metrics"])
