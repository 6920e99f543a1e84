"""What goes into a unit file: a measurement is checked, and becomes bytes that depend on nothing else."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from polystab.cube.labels import is_writable, parse_metric_id
from polystab.cube.specs import DIMS, METRIC_COORDINATES
from polystab.errors import RecordsError, did_you_mean, shown
from polystab.redaction import without_secrets, without_secrets_in
from polystab.sources.measuring import Measurement
from polystab.sources.unit_keys import UnitKey, canonical

if TYPE_CHECKING:
    import xarray as xr

Array = npt.NDArray[Any]

FORMAT = 1

# The comment of the zip, and so the last bytes of the file: the CRC-32 of all that comes before them.
SEAL = b"polystab-unit-crc32=%08x"
SEAL_LENGTH = len(SEAL % 0)
# Of one member; more is refused before it is unpacked.
MOST_BYTES = 2**29
# Members smaller than this are stored as they are: compressing them saves nothing.
_COMPRESSED_FROM = 1024
_LEVEL = 6

# What a measurer may say about a metric; family, subject and measure stand in its id.
_SAID = {spec.name: spec for spec in METRIC_COORDINATES if spec.name not in ("family", "subject", "measure")}
_KINDS = {"i": int, "f": float, "U": str}


def unit_bytes(key: UnitKey, facts: Mapping[str, Any], measurement: Measurement, settings: str) -> bytes:
    """The content of a unit file.

    Raises
    ------
    RecordsError
        The measurement cannot become part of a cube.
    """
    ids, metrics = _checked(key, measurement)
    head = {
        "format": FORMAT,
        "key": list(key),
        "facts": facts,
        "settings": settings,
        "notes": [[str(reason), without_secrets(str(detail))] for reason, detail in measurement.notes],
        "provenance": {str(name): without_secrets(str(text)) for name, text in measurement.provenance.items()},
    }
    members = {
        "unit.json": canonical(head),
        "metrics.json": canonical({"ids": ids, "metrics": metrics}),
        "values.npy": _npy(np.array([measurement.values[name] for name in ids], dtype=np.float64)),
    }
    if measurement.stderr:
        nan = float("nan")
        members["stderr.npy"] = _npy(np.array([measurement.stderr.get(name, nan) for name in ids], dtype=np.float64))
    if measurement.details:
        described: dict[str, Any] = {}
        for group in sorted(measurement.details):
            described[group] = _group_members(key, group, measurement.details[group], members)
        members["details.json"] = canonical(described)
    return zipped(members)


def _checked(key: UnitKey, measurement: Measurement) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Sorted metric ids and what is known of each, or all mistakes at once."""
    wrong: list[str] = []
    ids = sorted(measurement.values)
    for name in ids:
        try:
            parse_metric_id(name)
        except RecordsError as error:
            wrong.append(str(error))
    for what, given in (("stderr", measurement.stderr), ("metrics", measurement.metrics)):
        if unknown := sorted(set(given) - set(ids)):
            wrong.append(f"{what} is about {shown(unknown)}, which values does not have.")
    if bad := [name for name, error in measurement.stderr.items() if error < 0 or error == float("inf")]:
        wrong.append(f"stderr of {shown(sorted(bad))} is negative or infinite; NaN where it is unknown.")
    metrics: dict[str, dict[str, Any]] = {}
    for name in sorted(measurement.metrics):
        metrics[name] = {}
        for field_name, value in measurement.metrics[name].items():
            if field_name not in _SAID:
                wrong.append(f"{name!r} has {field_name!r}. {did_you_mean(field_name, _SAID)}")
                continue
            try:
                metrics[name][field_name] = _KINDS[_SAID[field_name].kind](value)
            except (TypeError, ValueError):
                wrong.append(f"{field_name} of {name!r} is {value!r}, not {_SAID[field_name].doc}.")
    texts = [*ids, *(text for said in metrics.values() for text in said.values() if isinstance(text, str))]
    if bad := [text for text in texts if not is_writable(text)]:
        wrong.append(f"{shown(bad)} hold what netCDF does not keep.")
    if wrong:
        raise RecordsError(f"{key} cannot be kept: " + " ".join(wrong[:5]))
    return ids, metrics


def _group_members(key: UnitKey, group: str, data: xr.Dataset, members: dict[str, bytes]) -> dict[str, Any]:
    """Describe a detail group, and add its arrays to ``members``."""
    where = f"detail group {group!r} of {key}"
    if not re.fullmatch(r"[^/\0]+(/[^/\0]+)*", group) or group.split("/")[0] == "audit":
        raise RecordsError(f"{where} has a name that cannot be kept; use one such as 'items'.")
    if reserved := [str(dim) for dim in data.dims if dim in DIMS]:
        raise RecordsError(f"{where} has dimensions {shown(reserved)}, which joining the units adds; squeeze them out.")
    if bare := sorted(str(dim) for dim in data.dims if dim not in data.coords):
        raise RecordsError(f"{where} has no labels along {shown(bare)}; assign_coords, so that units can be joined.")
    variables: dict[str, Any] = {}
    for name in sorted(data.variables, key=str):
        if not isinstance(name, str) or "/" in name or not is_writable(name):
            raise RecordsError(f"{where} has a variable {name!r}; use a name without a slash.")
        array = np.asarray(data[name].values)
        kind = _store(array, f"details/{group}/{name}", members, f"variable {name!r} of {where}")
        variables[name] = {
            "dims": [str(dim) for dim in data[name].dims],
            "shape": list(array.shape),
            "dtype": kind,
            "coordinate": name in data.coords,
            "attrs": without_secrets_in(data[name].attrs),
        }
    return {"attrs": without_secrets_in(data.attrs), "variables": variables}


def _store(array: Array, name: str, members: dict[str, bytes], where: str) -> str:
    """Add an array as a member; numbers as .npy, texts as JSON. Returns its dtype, ``U`` for text."""
    if array.nbytes > MOST_BYTES // 2:
        raise RecordsError(f"{where} has {array.nbytes:,} bytes; one variable of a unit may have {MOST_BYTES // 2:,}.")
    if array.dtype.kind in "biuf":
        members[f"{name}.npy"] = _npy(array)
        return array.dtype.newbyteorder("=").str
    texts = array.ravel().tolist()
    if array.dtype.kind not in "OUT" or not all(isinstance(text, str) for text in texts):
        raise RecordsError(f"{where} is {array.dtype}; details hold numbers, true or false, and text.")
    if bad := [text for text in texts if not is_writable(text)]:
        raise RecordsError(f"{where}: {shown(bad)} hold what netCDF does not keep; see polystab.cube.labels.writable.")
    members[f"{name}.json"] = canonical(texts)
    return "U"


def _npy(array: Array) -> bytes:
    stream = io.BytesIO()
    little = np.ascontiguousarray(array).reshape(array.shape)
    np.lib.format.write_array(stream, little.astype(little.dtype.newbyteorder("<")), allow_pickle=False)
    return stream.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    """A zip with fixed dates and order that ends in the checksum of what comes before it."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.create_system, info.external_attr = 3, 0o644 << 16
            small = len(content) < _COMPRESSED_FROM
            info.compress_type = zipfile.ZIP_STORED if small else zipfile.ZIP_DEFLATED
            archive.writestr(info, content, compresslevel=None if small else _LEVEL)
        archive.comment = SEAL % 0
    body = stream.getvalue()[:-SEAL_LENGTH]
    return body + SEAL % zlib.crc32(body)
