"""A process that forks a child for each order, so that the children share its imports, and harms them as it is told.

Orders and answers are lines of JSON on standard input and output. Where it may, it lives in a mount namespace of its
own: disks that it mounts end with it.

A fault is ``{"kind": ...}``: ``kill`` (SIGKILL before or after the n-th call that changes the file system),
``error`` (such a call raises instead), ``timer`` (SIGKILL after so many seconds), ``room`` (no file may grow
beyond so many bytes), ``clock`` (``time.time`` tells another time, from the n-th call on); none counts the calls.
"""

from __future__ import annotations

import builtins
import ctypes
import errno
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fault_writers import WRITERS, warm

from polystab.errors import PolystabError

CLONE_NEWNS, CLONE_NEWUSER = 0x00020000, 0x10000000
# Every call of Python that changes the file system; what C libraries write is met by timers and small disks.
HOOKED = ("open", "replace", "rename", "link", "unlink", "remove", "fsync", "chmod", "truncate", "mkdir", "rmdir",
          "utime", "write", "pwrite")  # fmt: skip
SECONDS = 120


class Hooks:
    """Counts the calls that change the file system, and does something at one of them."""

    def __init__(self, fault: dict[str, Any]) -> None:
        self.fault, self.count = fault, 0
        self.names: list[str] = []

    def install(self) -> None:
        for name in HOOKED:
            setattr(os, name, self.around(name, getattr(os, name)))
        changed = self.around("open file", io.open)
        io.open = builtins.open = changed

    def around(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            if not self.changes(name, args, options):
                return real(*args, **options)
            self.count += 1
            self.names.append(name)
            mine = self.count == self.fault.get("at")
            if mine and self.fault["kind"] == "error":
                code = getattr(errno, self.fault["errno"])
                raise OSError(code, os.strerror(code))
            if mine and self.fault["kind"] == "kill" and self.fault["when"] == "before":
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                return real(*args, **options)
            finally:
                if mine and self.fault["kind"] == "kill":
                    os.kill(os.getpid(), signal.SIGKILL)

        return call

    def changes(self, name: str, args: tuple[Any, ...], options: dict[str, Any]) -> bool:
        if name == "open file":
            mode = args[1] if len(args) > 1 else options.get("mode", "r")
            return isinstance(args[0], (str, os.PathLike)) and any(letter in mode for letter in "wax+")
        if name == "open":
            flags = args[1] if len(args) > 1 else options.get("flags", 0)
            return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        return not (name in ("write", "pwrite") and args[0] in (1, 2, self.fault.get("pipe")))


def harm(fault: dict[str, Any]) -> Hooks:
    hooks = Hooks(fault)
    if fault["kind"] == "room":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["bytes"], resource.RLIM_INFINITY))
    elif fault["kind"] == "clock":
        shifted(fault["seconds"], after=fault.get("after", 0))
    hooks.install()
    return hooks


def shifted(seconds: float, *, after: int) -> None:
    """From the call number ``after`` on, the clock tells another time; so do the times that it gives to files."""
    real, calls = time.time, [0]

    def now() -> float:
        calls[0] += 1
        return real() + (seconds if calls[0] > after else 0.0)

    time.time = now
    time.time_ns = lambda: int(now() * 1e9)


def in_child(work: Callable[[int], Any], fault: dict[str, Any]) -> dict[str, Any]:
    """Call ``work`` in a fork; what it gave, what it raised, or the signal that ended it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        os.close(reading)
        try:
            said = {"gave": work(writing)}
        except BaseException as error:  # noqa: BLE001  the test judges what was raised
            said = raised(error)
        os.write(writing, json.dumps(said).encode())
        os._exit(0)
    os.close(writing)
    began = time.monotonic()
    if fault["kind"] == "timer":
        time.sleep(fault["seconds"])
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    answer = json.loads(said) if said else {}
    return {**answer, "seconds": time.monotonic() - began, "signal": os.WTERMSIG(status)}


def raised(error: BaseException) -> dict[str, Any]:
    chain, cause = [], error
    while cause is not None and len(chain) < 20:
        chain.append(f"{type(cause).__name__}: {cause}")
        cause = cause.__cause__ or cause.__context__
    return {
        "error": type(error).__name__,
        "ours": isinstance(error, PolystabError),
        "message": str(error),
        "chain": chain,
        "traceback": "".join(traceback.format_exception(error))[-3000:],
    }


def write(order: dict[str, Any]) -> dict[str, Any]:
    writer, folder = WRITERS[order["writer"]], Path(order["folder"])
    fault = order.get("fault") or {"kind": "none"}

    def work(pipe: int) -> Any:
        real = os.write
        hooks = harm({**fault, "pipe": pipe})
        try:
            return {"result": writer.write(folder, order["which"]), "calls": hooks.count, "names": hooks.names}
        finally:
            os.write = real
            hooks.fault = {"kind": "none"}

    return in_child(work, fault)


def race(order: dict[str, Any]) -> dict[str, Any]:
    """Several children write at the same moment; what became of each."""
    reading, writing = os.pipe()
    children = []
    for writer, which in order["writers"]:
        answers = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(SECONDS)
            os.close(writing)
            os.read(reading, 1)  # until the starter closes it
            try:
                said = {"gave": WRITERS[writer].write(Path(order["folder"]), which) and None}
            except BaseException as error:  # noqa: BLE001  the test judges what was raised
                said = raised(error)
            os.write(answers[1], json.dumps(said).encode())
            os._exit(0)
        os.close(answers[1])
        children.append((child, answers[0]))
    os.close(writing)
    found = []
    for child, answer in children:
        with os.fdopen(answer, "rb") as stream:
            found.append(json.loads(stream.read() or "{}"))
        os.waitpid(child, 0)
    os.close(reading)
    return {"answers": found}


def look(order: dict[str, Any]) -> dict[str, Any]:
    return in_child(lambda _: WRITERS[order["writer"]].look(Path(order["folder"])), {"kind": "none"})


def prepare(order: dict[str, Any]) -> dict[str, Any]:
    return in_child(lambda _: WRITERS[order["writer"]].prepare(Path(order["folder"])), {"kind": "none"})


def copy(order: dict[str, Any]) -> dict[str, Any]:
    """A fresh copy of a prepared folder, in place of what stood there."""
    if not order.get("into"):
        shutil.rmtree(order["folder"], ignore_errors=True)
    shutil.copytree(order["of"], order["folder"], dirs_exist_ok=True)
    return {}


def files(order: dict[str, Any]) -> dict[str, Any]:
    root = Path(order["folder"])
    return {"files": sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())}


def mount(order: dict[str, Any]) -> dict[str, Any]:
    """A disk of ``size`` bytes on the folder; ``why`` where that is not allowed."""
    options = order.get("options") or f"size={order['size']}"
    try:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", order["folder"]], capture_output=True)
    except FileNotFoundError:
        return {"why": "there is no mount command"}
    return {"why": done.stderr.decode() if done.returncode else ""}


def fill_up(order: dict[str, Any]) -> dict[str, Any]:
    """Leave ``spare`` bytes of the disk."""
    free = os.statvfs(order["folder"])
    (Path(order["folder"]) / "ballast").write_bytes(bytes(max(0, free.f_bavail * free.f_bsize - order["spare"])))
    return {}


def make_room(order: dict[str, Any]) -> dict[str, Any]:
    (Path(order["folder"]) / "ballast").unlink()
    return {}


def age(order: dict[str, Any]) -> dict[str, Any]:
    """Give every file another time."""
    for path in Path(order["folder"]).rglob("*"):
        os.utime(path, (order["seconds"], order["seconds"]))
    return {}


def unmount(order: dict[str, Any]) -> dict[str, Any]:
    subprocess.run(["umount", "-l", order["folder"]], check=True)
    return {}


def own_mounts() -> None:
    """Go into a mount namespace; without leave to, mounting will be refused later."""
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    user = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNS) == 0:
        subprocess.run(["mount", "--make-rprivate", "/"], check=False, capture_output=True)
    elif libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user[0]} 1")
        Path("/proc/self/gid_map").write_text(f"0 {user[1]} 1")


ORDERS = {
    function.__name__: function
    for function in (write, race, look, prepare, copy, files, mount, unmount, fill_up, make_room, age)
}


def load(names: list[str]) -> None:
    """Import now what the children will need, so that their time goes into the work."""
    for name in names:
        __import__(name)


def main() -> None:
    load(sys.argv[1:])
    warm()
    own_mounts()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the children print is no answer
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(ORDERS[order.pop("order")](order)), file=answers, flush=True)


if __name__ == "__main__":
    main()
