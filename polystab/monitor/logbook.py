"""The log that a monitored run writes: JSON lines, as ``polystab read training-log`` reads them."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from polystab.errors import OutputError
from polystab.files import require_writable, write_text
from polystab.redaction import without_secrets

_logger = logging.getLogger(__name__)

# The key of rows that say something, and what the last row says.
SAID, ENDED = "said", "ended"


class Logbook:
    """A file with one JSON object a line, each written when it is known.

    Parameters
    ----------
    path : path
        What stands there from another run is kept as ``<path>.old``.

    Attributes
    ----------
    lost : int
        Rows that could not be written, as the disk was full. What watches a training must not end it: the
        first is a warning, and the next rows are tried.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.lost = 0
        self._cut = False
        self._file: TextIO | None = None

    def start(self, step: int) -> list[dict[str, Any]]:
        """Begin at a step: at 0 with an empty file, else after the rows up to it, which are returned.

        Raises
        ------
        OutputError
            The file cannot be written.
        """
        self.close()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror or error}.") from error
        require_writable(self.path)
        rows = _rows(self.path) if step and self.path.exists() else []
        kept = [
            row for row in rows if isinstance(row.get("step"), int) and row["step"] <= step and row.get(SAID) != ENDED
        ]
        if self.path.exists() and not step:
            self.path.replace(self.path.with_name(f"{self.path.name}.old"))
        write_text(self.path, "".join(f"{json.dumps(row)}\n" for row in kept))
        return kept

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a line. NaN and infinities are written as Python and JavaScript name them."""
        try:
            if self._file is None:
                self._file = self.path.open("a", encoding="utf-8")
            # What is left of a row that was cut short stays a line of its own.
            self._file.write("\n" * self._cut + f"{json.dumps(dict(row))}\n")
            self._file.flush()
            self._cut = False
        except OSError as error:
            self.close()
            if not self.lost:
                said = without_secrets(f"cannot write {self.path}: {error.strerror or error}")
                _logger.warning("%s. The training goes on.", said)
            self.lost += 1
            self._cut = True

    def close(self) -> None:
        """Close the file; a row that a full disk kept back is lost."""
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._file = None

    def __del__(self) -> None:
        # A trainer that raises never says that training is over.
        self.close()


def _rows(path: Path) -> list[dict[str, Any]]:
    """Rows of an earlier part of the run; a line that was cut short when it was killed is passed over."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows
