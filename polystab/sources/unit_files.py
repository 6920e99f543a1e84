"""Opening unit files: the checksum first, then the members that are asked for."""

from __future__ import annotations

import ast
import hashlib
import io
import json
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from polystab.errors import RefusedFileError, shown
from polystab.sources.measuring import Measurement
from polystab.sources.unit_content import FORMAT, MOST_BYTES, SEAL, SEAL_LENGTH
from polystab.sources.unit_keys import UnitKey

if TYPE_CHECKING:
    import xarray as xr

Array = npt.NDArray[Any]

_NPY = b"\x93NUMPY\x01\x00"
_FACTS = frozenset({"weight_seed", "data_seed", "location", "revision", "sha", "run"})
# What reading a file can raise that has the right checksum and was not made by polystab.
_NOT_OURS = (
    *(ArithmeticError, AttributeError, EOFError, LookupError, MemoryError, RuntimeError, SyntaxError, TypeError),
    *(ValueError, struct.error, zipfile.BadZipFile, zlib.error),
)


@contextmanager
def _sound() -> Iterator[None]:
    """Raise RefusedFileError over what no unit file of polystab holds."""
    try:
        yield
    except _NOT_OURS as error:
        said = f"{type(error).__name__}: {str(error)[:200]}"
        raise RefusedFileError(
            "damaged-unit", f"it is not a unit file, though its checksum is right ({said})."
        ) from error


@dataclass(frozen=True)
class Metrics:
    """The metrics of a unit: sorted ids, and what is known about each."""

    ids: tuple[str, ...]
    known: Mapping[str, Mapping[str, Any]]


@dataclass
class UnitFile:
    """An opened unit file, whose members are read when they are asked for.

    ``settings`` and ``facts`` are as in :class:`Unit`. All of its members raise
    RefusedFileError where the file is not one that polystab writes.
    """

    content: bytes = field(repr=False)

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    @_sound()
    def _archive(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(io.BytesIO(self.content))

    @cached_property
    @_sound()
    def _head(self) -> dict[str, Any]:
        head: dict[str, Any] = json.loads(self.member("unit.json"))
        return head

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(self._archive.namelist())

    @_sound()
    def member(self, name: str) -> bytes:
        if (size := self._archive.getinfo(name).file_size) > MOST_BYTES:
            raise ValueError(f"{name} would unpack to {size:,} bytes")
        return self._archive.read(name)

    @property
    @_sound()
    def format(self) -> int:
        return int(self._head["format"])

    @cached_property
    @_sound()
    def key(self) -> UnitKey:
        source, model, seed, step = self._head["key"]
        return UnitKey(str(source), str(model), int(seed), int(step))

    @property
    @_sound()
    def facts(self) -> dict[str, Any]:
        facts = dict(self._head["facts"])
        if lacking := sorted(_FACTS - set(facts)):
            raise ValueError(f"its facts lack {shown(lacking)}")
        return facts

    @property
    @_sound()
    def settings(self) -> str:
        return str(self._head["settings"])

    @property
    @_sound()
    def notes(self) -> list[tuple[str, str]]:
        return [(str(reason), str(detail)) for reason, detail in self._head["notes"]]

    @property
    @_sound()
    def provenance(self) -> dict[str, str]:
        return dict(self._head["provenance"])

    @property
    @_sound()
    def metrics(self) -> Metrics:
        return _parse_metrics(self.member("metrics.json"))

    @property
    @_sound()
    def values(self) -> npt.NDArray[np.float64]:
        return self._column("values.npy")

    @property
    @_sound()
    def stderr(self) -> npt.NDArray[np.float64] | None:
        return self._column("stderr.npy") if "stderr.npy" in self.names else None

    def _column(self, name: str) -> npt.NDArray[np.float64]:
        column = _array(self.member(name))
        if column.dtype != np.float64 or column.shape != (len(self.metrics.ids),):
            raise ValueError(f"{name} does not hold one number for each metric")
        return column

    @cached_property
    @_sound()
    def details(self) -> dict[str, dict[str, Any]]:
        """Group name to its description: ``attrs`` and ``variables``."""
        found: dict[str, dict[str, Any]] = (
            json.loads(self.member("details.json")) if "details.json" in self.names else {}
        )
        for group in found.values():
            dict(group["attrs"])
            for variable in group["variables"].values():
                texts, numbers = [*variable["dims"], variable["dtype"]], [*variable["shape"], variable["coordinate"]]
                if not _all_of(str, texts) or not _all_of(int, numbers) or not _all_of(str, dict(variable["attrs"])):
                    raise TypeError("a variable of a detail group is not described as it should be")
        return found

    @_sound()
    def detail_bytes(self, group: str, name: str) -> bytes:
        """The member of a variable as it is stored."""
        text = self.details[group]["variables"][name]["dtype"] == "U"
        return self.member(f"details/{group}/{name}.{'json' if text else 'npy'}")

    @_sound()
    def detail(self, group: str, name: str) -> Array:
        """A variable of a detail group; texts as objects."""
        described = self.details[group]["variables"][name]
        raw = self.detail_bytes(group, name)
        if described["dtype"] != "U":
            return _array(raw)
        return np.array(json.loads(raw), dtype=object).reshape(described["shape"])

    @_sound()
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
    except RefusedFileError as error:
        raise _damaged(content, f"{path} cannot be used: {error.detail}") from error
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
    """The array of a ``.npy`` member, whose size is looked at before anything of that size is made."""
    start = 10 + int.from_bytes(raw[8:10], "little")
    header = ast.literal_eval(raw[10:start].decode("ascii").strip())
    dtype, shape = np.dtype(header["descr"]), tuple(header["shape"])
    if not raw.startswith(_NPY) or dtype.kind not in "biuf" or any(size < 0 for size in shape):
        raise ValueError("an array is not written as polystab writes it")
    if math.prod(shape) * dtype.itemsize != len(raw) - start:
        raise ValueError(f"an array of {shown(shape)} numbers has {len(raw) - start} bytes")
    order: Literal["C", "F"] = "F" if header["fortran_order"] else "C"
    return np.frombuffer(raw, dtype, offset=start).reshape(shape, order=order).copy()


def _all_of(kind: type, values: Iterable[object]) -> bool:
    return all(isinstance(value, kind) for value in values)


@lru_cache(maxsize=256)
def _parse_metrics(raw: bytes) -> Metrics:
    """Many units have the same metrics, so that this is mostly looked up."""
    content = json.loads(raw)
    ids, known = tuple(content["ids"]), content["metrics"]
    if (
        not _all_of(str, ids)
        or len({*ids}) < len(ids)
        or not _all_of(dict, known.values())
        or not known.keys() <= {*ids}
    ):
        raise ValueError("its metrics are not listed as they should be")
    return Metrics(ids, known)
