"""Tabular text files as columns of cells, whatever state they are in.

CSV, TSV, JSON lines, JSON (an array of rows, or a Hugging Face ``trainer_state.json``),
each plain or gzipped. Nothing is interpreted here: a cell is text, or what JSON said.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import itertools
import json
import os
import stat
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Final, TextIO

from polystab.errors import RefusedFileError, shown

SUFFIXES = tuple(suffix + packed for suffix in (".csv", ".tsv", ".tab", ".jsonl", ".ndjson") for packed in ("", ".gz"))
TRAINER_STATE = "trainer_state.json"

# A line of a table is kilobytes at most; a longer one is something else.
MAX_LINE = 2**24
# JSON that is not line by line has to be parsed as a whole, at several times its size.
MAX_JSON = 2**27
# Values in it: a bracket of two characters becomes an object of sixty bytes.
MAX_JSON_VALUES = 2**24
# A gzip file that unpacks to more than so many times its size, and as a table takes more than so many bytes of memory,
# is made to fill it. Honest logs reach ratios over 500, where nearly all columns stay the same, but no such length.
MAX_RATIO, MAX_MEMORY = 100, 2**31
# Bytes that a table takes for each of these in its text, a little more than measured; with the text itself.
_COSTS = {b"\n": 64, b",": 16, b";": 16, b"\t": 16, b"{": 256, b"[": 64}

_PEEKED = 2**16
_CHUNK = 2**16
_GZIP = b"\x1f\x8b"


class _Absent(Enum):
    ABSENT = "absent"


# A key that a row of JSON does not have, unlike one that is null.
ABSENT: Final = _Absent.ABSENT

Row = dict[str, Any]


@dataclass(slots=True)
class Table:
    """The cells of one file, by column.

    ``lines[i]`` is where row ``i`` stands in the file, counted in ``unit``. ``run_column``
    names the column with run names if the format itself has one. ``notes`` are pairs of
    reason and detail for the audit.
    """

    kind: str
    columns: dict[str, list[Any]]
    lines: list[int]
    unit: str = "line"
    run_column: str = ""
    notes: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.lines)


def read_tabular(path: Path) -> tuple[Table, str]:
    """The table in a file, and the SHA-256 of the bytes it was read from.

    Raises
    ------
    RefusedFileError
        The file cannot be used: ``unreadable``, ``empty``, ``binary``, ``not-utf8``,
        ``truncated-gzip``, ``damaged-gzip``, ``archive-bomb``, ``line-too-long``, ``too-large``,
        ``too-deep``, ``invalid-json``, ``malformed-csv``, ``duplicate-columns``,
        ``no-rows``, ``unknown-format``.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise RefusedFileError("unreadable", "not a regular file.")
        with path.open("rb", buffering=0) as raw:
            hashed = _HashedReader(raw)
            try:
                return _parse(hashed, path.name.lower(), path), hashed.sha256()
            except RefusedFileError as refusal:
                refusal.sha256 = hashed.sha256()
                raise
    except OSError as error:
        raise RefusedFileError("unreadable", f"{error.strerror or error}.") from error


def peek_columns(path: str | os.PathLike[str]) -> list[str]:
    """The names of a file's columns as far as its first bytes tell; empty if they do not.

    A ``trainer_state.json`` answers ``["log_history"]``.
    """
    source = Path(path)
    try:
        if not stat.S_ISREG(source.stat().st_mode):
            return []
        with source.open("rb") as raw:
            head = raw.read(_PEEKED)
        if head.startswith(_GZIP):
            head = zlib.decompressobj(wbits=31).decompress(head, _PEEKED)
    except (OSError, zlib.error):
        return []
    text = head.decode("utf-8-sig", errors="replace").lstrip()
    first = text.split("\n", 1)[0]
    if not first or "\0" in first:
        return []
    if first[0] in "{[":
        if '"log_history"' in text:
            return ["log_history"]
        try:
            row = json.loads(first)
        except (ValueError, RecursionError):
            return []
        return list(row) if isinstance(row, dict) else []
    try:
        return [name.strip() for name in next(csv.reader([first], delimiter=_delimiter(first, source.name)), [])]
    except csv.Error:
        return []


class _HashedReader(io.RawIOBase):
    """Hashes bytes as they pass, so that the hash is of exactly what was read."""

    def __init__(self, raw: io.FileIO) -> None:
        self._raw = raw
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count = self._raw.readinto(buffer)
        self._hash.update(memoryview(buffer)[:count])
        return count

    def sha256(self) -> str:
        """The hash of the whole file: reads what is left of it."""
        while block := self._raw.read(2**20):
            self._hash.update(block)
        return self._hash.hexdigest()


class _Unpacked(io.RawIOBase):
    """What is in a gzip file, as long as it is not absurdly more than the file."""

    def __init__(self, packed: io.BufferedReader[Any], path: Path) -> None:
        self._stream = gzip.GzipFile(fileobj=packed)
        self._free = MAX_RATIO * path.stat().st_size
        self._memory = MAX_MEMORY

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        count = self._stream.readinto(buffer)
        text = bytes(memoryview(buffer)[:count])
        self._free -= count
        self._memory -= count + sum(text.count(mark) * cost for mark, cost in _COSTS.items())
        if self._free < 0 and self._memory < 0:
            raise RefusedFileError(
                "archive-bomb",
                f"it unpacks to over {MAX_RATIO} times its size, and would take over {MAX_MEMORY >> 20:,} MiB of memory; "
                "unpack it yourself if that is right, and read the result.",
            )
        return count


def _parse(hashed: _HashedReader, name: str, path: Path) -> Table:
    try:
        buffered = io.BufferedReader(hashed, 2**18)
        packed = buffered.peek(2)[:2] == _GZIP
        stream = io.BufferedReader(_Unpacked(buffered, path), 2**18) if packed else buffered
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        return _parse_text(text, name.removesuffix(".gz"))
    except UnicodeDecodeError as error:
        raise RefusedFileError("not-utf8", f"not UTF-8 text: {error.reason} at byte {error.start}.") from error
    except EOFError as error:
        raise RefusedFileError("truncated-gzip", "the gzip file ends too early; it was cut off.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise RefusedFileError("damaged-gzip", f"the gzip file is damaged: {error}.") from error
    except RecursionError as error:
        raise RefusedFileError("too-deep", "JSON is nested too deeply to be a table.") from error


def _parse_text(text: TextIO, name: str) -> Table:
    blank, first = 0, text.readline(MAX_LINE)
    while first and not first.strip():
        blank, first = blank + 1, text.readline(MAX_LINE)
    if not first:
        raise RefusedFileError("empty", "there is nothing in it.")
    if "\0" in first:
        raise RefusedFileError("binary", "not text; tables are CSV, TSV or JSON lines, plain or .gz.")
    lines = _lines(first, text)
    if name.endswith((".jsonl", ".ndjson")) or _is_row(first):
        return _json_lines(lines, blank)
    if name.endswith(".json") or first.lstrip()[0] in "{[":
        return _json_document(first, text)
    return _delimited(lines, _delimiter(first, name), blank)


def _is_row(line: str) -> bool:
    """Whether a line by itself is a row of JSON lines."""
    if not line.lstrip().startswith("{") or len(line) == MAX_LINE:
        return False
    try:
        row = json.loads(line)
    except ValueError:
        return False
    return "log_history" not in row


def _lines(first: str, text: TextIO) -> Iterator[str]:
    line = first
    while line:
        if len(line) == MAX_LINE and not line.endswith("\n"):
            raise RefusedFileError("line-too-long", f"a line is longer than {MAX_LINE:,} characters; not a table.")
        yield line
        line = text.readline(MAX_LINE)


def _delimiter(header: str, name: str) -> str:
    if name.removesuffix(".gz").endswith((".tsv", ".tab")):
        return "\t"
    return max(",;\t", key=header.count)


def _delimited(lines: Iterable[str], delimiter: str, blank: int) -> Table:
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = _header(next(reader))
    except csv.Error as error:
        raise RefusedFileError("malformed-csv", f"the header cannot be read: {error}.") from error
    broken: list[tuple[int, str]] = []
    cells: list[list[str]] = [[] for _ in header]
    numbers: list[int] = []
    # The same few labels come again and again: one text object each.
    known: list[dict[str, str]] = [{} for _ in header]
    good = _good_rows(reader, len(header), blank, numbers, broken)
    while chunk := list(itertools.islice(good, _CHUNK)):
        for column, seen, new in zip(cells, known, zip(*chunk, strict=True), strict=True):
            column.extend(map(seen.setdefault, new, new))
            if len(seen) > _CHUNK:
                seen.clear()
    table = Table("csv", dict(zip(header, cells, strict=True)), numbers)
    return _checked(table, broken)


def _header(names: Sequence[str]) -> list[str]:
    header = [name.strip() or f"column {i} (unnamed)" for i, name in enumerate(names, 1)]
    repeated = [name for name, count in Counter(header).items() if count > 1]
    if repeated:
        raise RefusedFileError(
            "duplicate-columns", f"columns {shown(repeated)} stand more than once; rename or remove all but one."
        )
    return header


def _good_rows(
    reader: Any, width: int, blank: int, numbers: list[int], broken: list[tuple[int, str]]
) -> Iterator[list[str]]:
    """Rows of the right width; where they stand goes to ``numbers``, the others to ``broken``."""
    before = reader.line_num + blank
    try:
        for row in reader:
            before = reader.line_num + blank
            if len(row) == width:
                numbers.append(before)
                yield row
            elif row:
                broken.append((before, f"{len(row)} fields where the header has {width}"))
    except csv.Error as error:
        # An open quote in the very last line is a log cut short; anywhere else it swallowed lines.
        if "unexpected end" not in str(error) or reader.line_num + blank > before + 1:
            raise RefusedFileError("malformed-csv", f"from line {before + 1} on it cannot be read: {error}.") from error
        broken.append((before + 1, str(error)))


def _checked(table: Table, broken: Sequence[tuple[int, str]]) -> Table:
    """The table with broken lines noted, or a refusal if nothing else is there."""
    first = f"first {table.unit} {broken[0][0]}: {broken[0][1]}" if broken else ""
    if not table.lines:
        what = f"all {len(broken):,} {table.unit}s are broken, {first}" if broken else "a header but no rows"
        raise RefusedFileError("no-rows", f"{what}.")
    if broken:
        table.notes.append(("broken-lines", f"{len(broken):,} left out, {first}."))
    return table


def _json_lines(lines: Iterable[str], blank: int = 0) -> Table:
    rows: list[Row] = []
    numbers: list[int] = []
    broken: list[tuple[int, str]] = []
    for number, line in enumerate(lines, blank + 1):
        if not line.strip():
            continue
        try:
            rows.append(_row(_loads(line)))
            numbers.append(number)
        except RecursionError:
            broken.append((number, "nested too deeply"))
        except ValueError as error:
            broken.append((number, str(error)))
    return _checked(Table("jsonl", _columns(rows), numbers), broken)


def _json_document(first: str, text: TextIO) -> Table:
    content = first + text.read(MAX_JSON)
    if len(content) > MAX_JSON:
        raise RefusedFileError(
            "too-large", f"JSON of over {MAX_JSON >> 20} Mi characters; write it as JSON lines (.jsonl)."
        )
    if sum(map(content.count, ",[{")) > MAX_JSON_VALUES:
        raise RefusedFileError(
            "too-large", f"JSON of over {MAX_JSON_VALUES >> 20} Mi values; write it as JSON lines (.jsonl)."
        )
    try:
        document = _loads(content)
    except ValueError as error:
        try:
            return _json_lines(io.StringIO(content))
        except RefusedFileError:
            raise RefusedFileError("invalid-json", f"not JSON ({error}); was it cut off?") from error
    if isinstance(document, dict) and isinstance(document.get("log_history"), list):
        return _entries("trainer-state", document["log_history"])
    if isinstance(document, list):
        return _entries("json", document)
    raise RefusedFileError("unknown-format", "JSON, but neither rows nor a trainer state with a 'log_history'.")


def _entries(kind: str, entries: Sequence[Any]) -> Table:
    rows: list[Row] = []
    numbers: list[int] = []
    broken: list[tuple[int, str]] = []
    for number, entry in enumerate(entries, 1):
        try:
            rows.append(_row(entry))
            numbers.append(number)
        except ValueError as error:
            broken.append((number, str(error)))
    where = "log_history" if kind == "trainer-state" else "list"
    if not rows and not broken:
        raise RefusedFileError("no-rows", f"its {where} is empty.")
    return _checked(Table(kind, _columns(rows), numbers, unit="entry"), broken)


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique_keys)


def _unique_keys(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        repeated = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
        raise ValueError(f"keys {shown(repeated)} stand more than once")
    return row


def _row(entry: Any) -> Row:
    """One object as a flat row: ``{"train": {"loss": 3}}`` has a cell ``train/loss``."""
    if not isinstance(entry, dict):
        raise ValueError(f"a {type(entry).__name__} where an object is expected")
    if not any(type(cell) is dict for cell in entry.values()):
        return entry
    return _unique_keys(list(flat(entry)))


def flat(entry: Row, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The cells of a nested object, by their keys joined with ``/``."""
    for key, cell in entry.items():
        if type(cell) is dict:
            yield from flat(cell, f"{prefix}{key}/")
        else:
            yield prefix + key, cell


def _columns(rows: Sequence[Row]) -> dict[str, list[Any]]:
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    return {name: [row.get(name, ABSENT) for row in rows] for name in names}
