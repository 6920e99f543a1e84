"""One broken input to one reader: what counts as a crash, and how it is noticed.

A reader may return, or raise a PolystabError. Anything else is a crash: another exception,
a signal, more than ten seconds, more than two GiB, a file written outside its folder, a program started.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from polystab.cube import known_files
from polystab.errors import PolystabError

# Of the processor: a machine that is busy with something else is no hang. By the clock it may be so many times more.
SECONDS, BY_THE_CLOCK = 10, 6
MEMORY = 2 * 2**30

# Path in the folder -> content.
Files = Mapping[str, bytes]


@dataclass(frozen=True)
class Reader:
    """Files to draw, and what reads them; ``forked`` for one that a signal may kill.

    ``prepare`` is called before each case, for imports: they take seconds that are not the reader's.
    """

    name: str
    files: st.SearchStrategy[Files]
    read: Callable[[Path], object]
    forked: bool = False
    prepare: Callable[[], object] = bool


class Crash(BaseException):
    """A reader did what it must not; the text says what, the same for the same fault.

    No Exception, so that the reader does not take it for a fault of the file.
    """


def run_case(reader: Reader, files: Files, folder: Path, *, limits: bool = True) -> None:
    """Feed one case to a reader; without ``limits`` where somebody else keeps time and memory.

    Raises
    ------
    Crash
        It did something else than return or raise a PolystabError.
    """
    for name in ("in", "out"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name, content in files.items():
        path = folder / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    reader.prepare()
    if reader.forked:
        _forked(reader, folder)
        return
    with bounded() if limits else nullcontext():
        _judged(reader, folder)


def _judged(reader: Reader, folder: Path) -> None:
    try:
        with _writes_watched(folder):
            reader.read(folder)
    except PolystabError as refusal:
        cause: BaseException | None = refusal
        while cause is not None:
            if isinstance(cause, MemoryError):  # without the limit it would have taken the memory
                raise Crash(_place(cause)) from refusal
            cause = cause.__cause__ or cause.__context__
    except Crash:
        raise
    except BaseException as error:  # whatever it is, it is what is looked for
        raise Crash(_place(error)) from error


def _place(error: BaseException) -> str:
    """Kind of an exception and the last line of the package that it came through."""
    trace, last = error.__traceback__, "?"
    while trace is not None:
        code = trace.tb_frame.f_code
        if "polystab" in code.co_filename and "/tests/" not in code.co_filename:
            last = f"{Path(code.co_filename).name}:{code.co_name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return f"{type(error).__name__} in {last}"


def _forked(reader: Reader, folder: Path) -> None:
    """The case in a process of its own, which a signal may kill."""
    end, start = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        said = b""
        try:
            faulthandler.disable()
            # The defaults of both signals end the process, in C code too.
            signal.alarm(BY_THE_CLOCK * SECONDS)
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, resource.getrlimit(resource.RLIMIT_CPU)[1]))
            _limit_memory()
            _judged(reader, folder)
        except BaseException as error:  # noqa: BLE001
            said = str(error).encode("utf-8", "replace")[:1000]
        os.write(start, said)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with suppress(OSError):  # what it started itself, and has not ended
        os.killpg(child, signal.SIGKILL)
    os.close(start)
    with os.fdopen(end, "rb") as stream:
        said = stream.read()
    if -status in (signal.SIGALRM, signal.SIGXCPU):
        raise Crash(f"no answer after {SECONDS} s")
    if status < 0:
        raise Crash(f"killed by signal {-status}")
    if said:
        raise Crash(said.decode())


@contextmanager
def bounded() -> Iterator[None]:
    """Ten seconds of the processor and two GiB more than now."""

    def late(*_: object) -> None:
        raise Crash(f"no answer after {SECONDS} s")

    before = resource.getrlimit(resource.RLIMIT_AS)
    handlers = {number: signal.signal(number, late) for number in (signal.SIGALRM, signal.SIGPROF)}
    signal.alarm(BY_THE_CLOCK * SECONDS)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    _limit_memory()
    try:
        yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, hard))


_allowed: list[str] = []
_watching = False


@contextmanager
def _writes_watched(folder: Path) -> Iterator[None]:
    """Raise over a file that is opened for writing, made, moved or removed elsewhere."""
    global _watching
    if not _watching:  # an audit hook stays for good
        sys.addaudithook(_on_event)
        _watching = True
    _allowed[:] = [str(folder) + os.sep]
    record, known_files.record_path = known_files.record_path, lambda: folder / "out" / "known-files.txt"
    try:
        yield
    finally:
        known_files.record_path = record
        _allowed.clear()


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    if not _allowed:
        return
    if (
        event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    ) or event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate"):
        touched = arguments[:1]
    elif event in ("os.rename", "os.link", "os.symlink"):
        touched = arguments[:2]
    elif event == "subprocess.Popen" and arguments[0] == sys.executable:
        return  # our own look at netCDF
    elif event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect"):
        raise Crash(f"{event} {str(arguments)[:80]}")
    else:
        return
    for path in touched:
        if isinstance(path, (str, bytes, os.PathLike)):
            real = os.path.abspath(os.fsdecode(path))  # noqa: PTH100  a link must not be followed
            if not real.startswith(_allowed[0]) and "__pycache__" not in real and real != os.devnull:
                raise Crash(f"{event} outside the folder: {real[:80]}")
