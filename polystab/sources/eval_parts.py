"""Parsing the files of a tree, on all cores where there are many.

The other processes are new interpreters that import only this module and what it
needs, none of it heavy, so they start in a tenth of a second; forking this one,
with everything it has loaded, was measured to be slower. Should one fail, its files
are parsed here, so that the result never depends on it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from polystab.cube.audit import AuditLog
from polystab.errors import RefusedFileError, shown
from polystab.progress_bars import tracked
from polystab.sources.eval_files import EvalReader, Options
from polystab.sources.eval_table import Table
from polystab.sources.walk import paused_collection, read_bytes, walk_files

# A results file holds scores, not samples; the largest real ones are below 5 MiB.
MAX_BYTES = 64 * 2**20

# With fewer, another process costs more than it saves.
ENOUGH_FILES = 2000
MOST_PROCESSES = 8

# This process has its interpreter already, so it takes so many parts of the work more than the others.
HEAD_START = 0.3

_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from polystab.sources.eval_parts import serve; serve()"


def read_parts(tree: str | os.PathLike[str], options: Options, log: AuditLog) -> Table:
    """Parse every results file below ``tree``; what cannot be used goes to the audit.

    Raises
    ------
    ReadError
        ``tree`` does not exist.
    """
    parts = min(MOST_PROCESSES, _cores())
    files: list[tuple[str, str]] = []
    others: list[subprocess.Popen[bytes] | None] = []
    for file in walk_files(tree, ".json", on_error=lambda where, why: log.refuse(where, "unreadable", why)):
        files.append(file)
        if len(files) == ENOUGH_FILES:
            others = [_start(tree, options, part, parts) for part in range(1, parts)]
    parts = 1 + len(others)
    table = Table()
    # Without a length: this process has the first part of the files, and the others tell only when they are done.
    _parse(tracked(_of_part(files, 0, parts), "reading results", unit="file"), options, table, log)
    for part, process in enumerate(others, 1):
        packed = _finish(process)
        if packed:
            log.entries.extend(table.extend(packed))
        else:
            _parse(_of_part(files, part, parts), options, table, log)
    return table


def serve() -> None:
    """What another process runs: parse one part of a tree, write it packed to standard output."""
    given = json.loads(sys.argv[2])
    pattern = re.compile(given["pattern"]) if given["pattern"] is not None else None
    steps = tuple((name, step) for name, step in given["revision_steps"])
    table, log = Table(), AuditLog()
    with paused_collection():
        files = walk_files(given["tree"], ".json", on_error=lambda _where, _why: None)
        _parse(
            _of_part(files, given["part"], given["parts"]), Options(pattern, steps, given["allow_limit"]), table, log
        )
        sys.stdout.buffer.write(table.packed(log.entries))


def _parse(files: Iterable[tuple[str, str]], options: Options, table: Table, log: AuditLog) -> None:
    reader = EvalReader(options)
    for path, name in files:
        digest = ""
        try:
            content = _content(path)
            digest = hashlib.sha256(content).hexdigest()
            parsed = reader.parse(content, name)
        except RefusedFileError as refusal:
            log.refuse(name, refusal.reason, refusal.detail, sha256=digest)
            continue
        unusable = table.add(name, digest, parsed)
        if not table.sources[-1].kept:
            log.refuse(name, "no-values", f"nothing in it is a number: {shown(unusable)}.", sha256=digest)
        elif unusable:
            log.note(name, "not-a-number", f"left out: {shown(unusable)}.", sha256=digest)


def _content(path: str) -> bytes:
    try:
        content = read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise RefusedFileError("unreadable", f"{error.strerror or error}.") from error
    if content is None:
        raise RefusedFileError(
            "too-large", f"over {MAX_BYTES >> 20} MiB; results hold scores, samples belong elsewhere."
        )
    return content


def _of_part(files: Iterable[tuple[str, str]], part: int, parts: int) -> Iterable[tuple[str, str]]:
    """The files of one part. It depends on the name alone, so that processes agree while files come and go."""
    if parts == 1:
        return files
    share = (parts + HEAD_START) / 2**32
    return (file for file in files if max(0, int(zlib.crc32(os.fsencode(file[1])) * share - HEAD_START)) == part)


def _start(tree: str | os.PathLike[str], options: Options, part: int, parts: int) -> subprocess.Popen[bytes] | None:
    given = {
        "tree": os.fspath(Path(tree).absolute()),
        "pattern": options.pattern.pattern if options.pattern else None,
        "revision_steps": options.revision_steps,
        "allow_limit": options.allow_limit,
        "part": part,
        "parts": parts,
    }
    package = os.fspath(Path(__file__).parents[2])
    command = [sys.executable, "-I", "-S", "-c", _CODE, package, json.dumps(given)]
    with suppress(OSError, TypeError):  # no interpreter to start, e.g. where Python is embedded
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # noqa: S603
    return None


def _finish(process: subprocess.Popen[bytes] | None) -> bytes | None:
    """What a process wrote, or None if it failed."""
    if process is None:
        return None
    packed, _ = process.communicate()
    return packed if process.returncode == 0 else None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
