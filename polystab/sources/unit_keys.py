"""Which units there are: their keys, and the names of their files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from polystab.errors import RecordsError
from polystab.files import is_reserved

UNITS = "units"
FAILED = "failed"


class UnitKey(NamedTuple):
    """Which unit: what was measured, of which run, at which step."""

    source: str
    model: str
    seed: int
    step: int

    def __str__(self) -> str:
        return f"{self.source} of {self.model} seed {self.seed} step {self.step}"

    def place(self, kind: str = UNITS, ending: str = ".npz") -> PurePosixPath:
        """Path of the unit's file relative to the output folder."""
        return PurePosixPath(
            kind, folder_name(self.source), folder_name(self.model), f"seed{self.seed}", f"step{self.step}{ending}"
        )


def folder_name(label: str) -> str:
    """A label as the name of one folder: percent-quoted, never hidden, ``.`` or ``..``, nor a name that Windows changes.

    Two labels are two names; but some systems do not tell ``A`` from ``a``, see :class:`polystab.sources.runs.RunTable`.
    """
    quoted = quote(label, safe=" +,=@", errors="backslashreplace")
    if quoted.startswith(".") or is_reserved(quoted):
        quoted = f"%{ord(quoted[0]):02X}{quoted[1:]}"
    if quoted.endswith((".", " ")):
        quoted = f"{quoted[:-1]}%{ord(quoted[-1]):02X}"
    return quoted


def settings_digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of the settings as canonical JSON."""
    return hashlib.sha256(canonical(settings)).hexdigest()


def canonical(content: Any) -> bytes:
    """JSON with sorted keys; the same content always gives the same bytes.

    Raises
    ------
    RecordsError
        JSON cannot hold it.
    """
    try:
        text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=_plain)
    except (TypeError, ValueError) as error:
        raise RecordsError(
            f"JSON cannot hold {str(content)[:200]}: {error}. Use text, numbers, lists, dicts."
        ) from error
    return text.encode("ascii")


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays as Python's; anything else is refused."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not plain data")
