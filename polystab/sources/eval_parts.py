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
from collections.abc import Iterable
from contextlib import suppress
from itertools import pairwise
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

# A path, and what it is called in the audit.
File = tuple[str, str]

_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from polystab.sources.eval_parts import serve; serve()"


def read_parts(tree: str | os.PathLike[str], options: Options, log: AuditLog) -> Table:
    """Parse every results file below ``tree``; what cannot be used goes to the audit.

    Raises
    ------
    ReadError
        ``tree`` does not exist.
    """
    files: list[File] = []
    others: list[subprocess.Popen[bytes] | None] = []
    for file in walk_files(tree, ".json", on_error=lambda where, why: log.refuse(where, "unreadable", why)):
        files.append(file)
        if len(files) == ENOUGH_FILES:  # they start while this one still looks for files
            others = [_start() for _ in range(1, min(MOST_PROCESSES, _cores()))]
    parts = _split(files, 1 + len(others))
    for process, part in zip(others, parts[1:], strict=True):
        _send(process, part, options)
    table = Table()
    # Without a length: this process has the first part of the files, and the others tell only when they are done.
    _parse(tracked(parts[0], "reading results", unit="file"), options, table, log)
    for process, part in zip(others, parts[1:], strict=True):
        packed = _finish(process)
        if packed:
            log.entries.extend(table.extend(packed))
        else:
            _parse(part, options, table, log)
    return table


def serve() -> None:
    """What another process runs: parse the files that standard input names, write them packed to standard output."""
    given = json.load(sys.stdin.buffer)
    pattern = re.compile(given["pattern"]) if given["pattern"] is not None else None
    steps = tuple((name, step) for name, step in given["revision_steps"])
    table, log = Table(), AuditLog()
    with paused_collection():
        _parse(given["files"], Options(pattern, steps, given["allow_limit"]), table, log)
        sys.stdout.buffer.write(table.packed(log.entries))


def _parse(files: Iterable[File], options: Options, table: Table, log: AuditLog) -> None:
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


def _split(files: list[File], parts: int) -> list[list[File]]:
    """Files in order, about as many in each part: those of one checkpoint mostly stay together, and are alike."""
    ends = [len(files) * part // parts for part in range(parts + 1)]
    return [files[start:end] for start, end in pairwise(ends)]


def _start() -> subprocess.Popen[bytes] | None:
    package = os.fspath(Path(__file__).parents[2])
    command = [sys.executable, "-I", "-S", "-c", _CODE, package]
    with suppress(OSError, TypeError):  # no interpreter to start, e.g. where Python is embedded
        return subprocess.Popen(  # noqa: S603
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
    return None


def _send(process: subprocess.Popen[bytes] | None, files: list[File], options: Options) -> None:
    """Tell a process its work. Should it be gone, :func:`_finish` notices."""
    if process is None or process.stdin is None:
        return
    work = {
        "files": [(os.path.abspath(path), name) for path, name in files],  # noqa: PTH100 (links stay as they are)
        "pattern": options.pattern.pattern if options.pattern else None,
        "revision_steps": options.revision_steps,
        "allow_limit": options.allow_limit,
    }
    with suppress(OSError), process.stdin as stream:
        stream.write(json.dumps(work).encode())


def _finish(process: subprocess.Popen[bytes] | None) -> bytes | None:
    """What a process wrote, or None if it failed."""
    if process is None or process.stdout is None:
        return None
    with process.stdout as stream:
        packed = stream.read()
    return packed if process.wait() == 0 else None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
