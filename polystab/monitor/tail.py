"""Reading a training log while it is written."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from polystab.errors import ReadError, shown
from polystab.monitor.logbook import ENDED, SAID
from polystab.sources.columns import LABELS, checked_mapping, find_source
from polystab.sources.metric_names import checked_metrics, training_metric
from polystab.sources.tabular_files import TRAINER_STATE, flat

# Lines without anything that can be used after which the file is refused.
_PATIENCE = 20

# The start of a file, by which it is known again.
_HEAD = 256


@dataclass(frozen=True)
class LogRow:
    """What was logged at a step, by metric id; NaN is what the log calls NaN."""

    step: int
    values: dict[str, float]


class LogTail:
    """The new rows of a log, each time it is asked.

    Parameters
    ----------
    path : path
        CSV, TSV or JSON lines to which a job appends, a ``trainer_state.json``, or a folder: its
        ``polystab_log.jsonl``, or else the ``trainer_state.json`` of its last checkpoint. It need not be there yet.
    columns : mapping, optional
        ``{"step": COLUMN}`` and ``{"seed": COLUMN}``, as for :func:`polystab.read_training_log`.
    metrics : mapping, optional
        Metric ids of columns whose names do not tell.

    Attributes
    ----------
    n_rows, n_broken : int
        Rows with values so far, and lines that could not be read.
    n_rotated : int
        How often the file was replaced, cut or written anew.
    ended : bool
        The log says that training is over: the trainer's closing summary, or the monitor's last row.

    Notes
    -----
    A last line without an end waits until it has one. If another file takes the name (rotation), the old one is read to its end and then
    the new one from its start, with the old header where it has none. What was given before is not given
    again: a file that is written anew in whole brings only what is new or different. Empty cells, null and text are
    not measured. One run a log.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        columns: Mapping[str, str] | None = None,
        metrics: Mapping[str, str] | None = None,
    ) -> None:
        self._file: BinaryIO | None = None
        self.path = Path(path).expanduser()
        if self.path.suffix == ".gz":
            raise ReadError(
                f"{self.path} is compressed; a log that grows is not. Read it with polystab read training-log."
            )
        self._columns, self._metrics = checked_mapping(columns, LABELS, model=None), checked_metrics(metrics)
        self.n_rows = self.n_broken = self.n_rotated = 0
        self.ended = False
        self._head = self._pending = b""
        self._header: list[str] = []
        self._delimiter = ","
        self._state_seen: tuple[Path, bytes] | None = None
        self._given: dict[tuple[str, int], float] = {}
        self._run = ""
        self._n_useless = 0
        self._names: dict[str, str | None] = {}

    def read(self, *, last: bool = False) -> list[LogRow]:
        """Rows since the last call; with ``last``, also a final line that has no end.

        Raises
        ------
        ReadError
            The file cannot be read, holds several runs, or nothing that could be used.
        """
        path = self._found()
        if path is None:
            return []
        try:
            rows = list(self._entries(path, last) if path.name == TRAINER_STATE else self._lines(path, last))
        except OSError as error:
            raise ReadError(f"cannot read {path}: {error.strerror or error}.") from error
        return [row for cells in rows if (row := self._row(cells)) is not None]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def __del__(self) -> None:
        self.close()

    def _found(self) -> Path | None:
        if not self.path.is_dir():
            return self.path if self.path.exists() else None
        own = sorted(self.path.glob("polystab_log.jsonl"))
        states = sorted(self.path.glob(f"checkpoint-*/{TRAINER_STATE}"), key=lambda state: (_number(state), state))
        return next(iter([*own, *states[-1:], *self.path.glob(TRAINER_STATE)]), None)

    def _entries(self, path: Path, last: bool) -> Iterator[dict[str, Any]]:
        """All entries of a trainer state, if it is another than before and whole."""
        content = path.read_bytes()
        # Neither size nor time tells: two saves may fall into one tick of the clock, and numbers may be of one length.
        seen = path, hashlib.sha256(content).digest()
        if seen == self._state_seen:
            return
        try:
            document = json.loads(content)
        except ValueError as error:
            if last:
                raise ReadError(f"{path} is not JSON: {error}.") from error
            return  # being written
        entries = document.get("log_history") if isinstance(document, dict) else None
        if not isinstance(entries, list):
            raise ReadError(f"{path} has no 'log_history'; is it the state of a Hugging Face trainer?")
        self._state_seen = seen
        for entry in entries:
            if isinstance(entry, dict):
                # The trainer's closing summary has a mean over training as its loss.
                yield {name: cell for name, cell in entry.items() if name != "train_loss"}

    def _lines(self, path: Path, last: bool) -> Iterator[dict[str, Any]]:
        """Cells of the lines that have come since."""
        if self._file is None:
            self._file = path.open("rb")
        yield from self._parsed(self._file.read())
        replaced, anew = self._changed(path)
        if replaced or anew:
            self.n_rotated += 1
            self._pending = self._head = b""
            if replaced:
                self._file.close()
                self._file = path.open("rb")
            self._file.seek(0)
            yield from self._parsed(self._file.read())
        if last and self._pending:
            yield from self._parsed(b"\n")

    def _changed(self, path: Path) -> tuple[bool, bool]:
        """Whether another file has the name now, and whether this one was cut or written anew."""
        assert self._file is not None  # noqa: S101
        here = os.fstat(self._file.fileno())
        try:
            there = path.stat()
        except FileNotFoundError:
            return False, False  # moved away, and the new one is not there yet
        if (here.st_dev, here.st_ino) != (there.st_dev, there.st_ino):
            return True, False
        place = self._file.tell()
        self._file.seek(0)
        head = self._file.read(len(self._head))
        self._file.seek(place)
        return False, here.st_size < place or head != self._head

    def _parsed(self, new: bytes) -> Iterator[dict[str, Any]]:
        if not self.n_rows and b"\0" in new:
            raise ReadError(f"{self.path} is not text; a log is CSV, TSV or JSON lines.")
        if len(self._head) < _HEAD:
            self._head += new[: _HEAD - len(self._head)]
        *lines, self._pending = (self._pending + new).split(b"\n")
        for line in lines:
            text = line.decode("utf-8-sig", errors="replace").strip("\r")
            if text.strip():
                cells = self._json(text) if text.lstrip().startswith("{") else self._delimited(text)
                if cells is not None:
                    yield cells

    def _json(self, text: str) -> dict[str, Any] | None:
        try:
            entry = json.loads(text)
            if not isinstance(entry, dict):
                raise ValueError("no object")
            return dict(flat(entry))
        except (ValueError, RecursionError):
            self._broken(text)
            return None

    def _delimited(self, text: str) -> dict[str, Any] | None:
        if not self._header:
            self._delimiter = max(",;\t", key=text.count)
        try:
            cells = [cell.strip() for cell in next(csv.reader([text], delimiter=self._delimiter, strict=True))]
        except csv.Error:
            self._broken(text)
            return None
        if not any(_cell(cell) is not None for cell in cells):
            # Names: the first line, or those of a file that took the place, or grew columns.
            if not self._header or set(cells) & set(self._header):
                self._header = cells
                return None
        elif not self._header:
            raise ReadError(f"{self.path} begins with numbers; its first line must name the columns: {text[:80]!r}.")
        if len(cells) != len(self._header):
            self._broken(text)
            return None
        return dict(zip(self._header, cells, strict=True))

    def _broken(self, text: str) -> None:
        self.n_broken += 1
        self._useless(f"line {text[:60]!r} is neither JSON nor a row of the table")

    def _useless(self, why: str) -> None:
        """Count what cannot be used, and refuse a file that has nothing else."""
        self._n_useless += 1
        if not self.n_rows and self._n_useless >= _PATIENCE:
            raise ReadError(f"nothing in the first {_PATIENCE} lines of {self.path} can be used: {why}.")

    def check_used(self) -> None:
        """Raise unless there was anything to use.

        Raises
        ------
        ReadError
            No file, no rows, or no column that is known.
        """
        if self.n_rows:
            return
        if self._found() is None:
            raise ReadError(f"there is no log {self.path}.")
        if not self._names and not self._header and not self.n_broken:
            raise ReadError(f"there is nothing in {self.path}.")
        names = f" Columns: {shown(self._names or self._header, 12)}."
        raise ReadError(
            f"{self.path} has no row with a step and a loss, gradient norm or evaluation. Say which columns they are: "
            f"--columns step=COLUMN, --metrics COLUMN=loss/train/cross_entropy.{names}"
        )

    def _row(self, cells: dict[str, Any]) -> LogRow | None:
        """The row's step and what is new in it; None if there is nothing."""
        self.ended = "train_runtime" in cells or cells.get(SAID) == ENDED
        self._names |= {name: self._metric(name) for name in cells if name not in self._names}
        source = find_source("step", self._columns, cells)
        step = _cell(cells[source.columns[0]]) if source is not None and source.columns else None
        if step is None or not (math.isfinite(step) and step >= 0 and step == int(step)):
            self._useless("no column with a step")
            return None
        self._check_run(cells)
        values = {
            metric: value
            for name, cell in cells.items()
            if (metric := self._names[name]) and (value := _cell(cell)) is not None
        }
        if not values and SAID not in cells:
            self._useless(f"no column that is known to be a loss or gradient norm among {shown(cells, 12)}")
        new = {m: value for m, value in values.items() if not _same(self._given.get((m, int(step))), value)}
        if not new:
            return None
        self._given |= {(metric, int(step)): value for metric, value in new.items()}
        self.n_rows += 1
        return LogRow(int(step), new)

    def _metric(self, name: str) -> str | None:
        return self._metrics[name] if name in self._metrics else training_metric(name)

    def _check_run(self, cells: dict[str, Any]) -> None:
        source = find_source("seed", self._columns, cells)
        label = "" if source is None else "/".join(str(cells[name]) for name in source.columns)
        if label and self._run and label != self._run:
            raise ReadError(f"{self.path} holds several runs, {self._run!r} and {label!r}; watch a log of one run.")
        self._run = self._run or label


def _cell(cell: Any) -> float | None:
    """A cell as a number, NaN if it says so; None if it holds none."""
    if isinstance(cell, bool) or cell is None:
        return None
    if isinstance(cell, str) and (not cell or "_" in cell):
        return None
    try:
        return float(cell)
    except (TypeError, ValueError, OverflowError):
        return None


def _same(one: float | None, other: float) -> bool:
    return one is not None and (one == other or (math.isnan(one) and math.isnan(other)))


def _number(state: Path) -> int:
    found = re.search(r"\d+$", state.parent.name)
    return int(found[0]) if found else -1
