"""What benchmarks share: fresh processes, added memory, ratios."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Names the file that ratios asked for are written to, a line of JSON each.
RECORD = "POLYSTAB_BENCH_RECORD"

_CHILD = """
import json, re, runpy, sys, time
{warm}
function = runpy.run_path({script!r}, run_name="benchmark")[{name!r}]

def memory(field):
    with open("/proc/self/status") as status:
        return int(re.search(field + r":\\s+(\\d+) kB", status.read())[1]) * 1024

with open("/proc/self/clear_refs", "w") as refs:
    refs.write("5")  # forget the peak so far
before = memory("VmRSS")
start = time.perf_counter()
result = function(*json.loads({arguments!r}))
seconds = time.perf_counter() - start
print(json.dumps([seconds, memory("VmHWM") - before, result]))
"""


@dataclass(frozen=True)
class Measured:
    """One run of a function in a fresh process."""

    seconds: float
    added_bytes: int
    result: Any


def in_fresh_process(script: str, name: str, *arguments: Any, warm: str = "") -> Measured:
    """Run ``name`` of ``script`` in a new interpreter; imports in ``warm`` are not counted.

    Memory is the peak of resident memory over what was resident before, from Linux's
    ``/proc``; ``getrusage`` would count the peak of the process that started this one.
    """
    code = _CHILD.format(script=script, name=name, arguments=json.dumps(arguments), warm=warm)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(script).parent
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Measured(*json.loads(done.stdout.strip().splitlines()[-1]))


def report_line(text: str) -> None:
    print(text, flush=True)


def print_ratio(
    what: str,
    peer: list[float],
    ours: list[float],
    *,
    wanted: str,
    unit: str = "s",
    names: tuple[str, str] = ("peer", "ours"),
    place: int | None = None,
) -> None:
    """Print the ratio of two sets of measurements, the first over the second, and the medians behind it.

    Measured in turn, they are compared pair by pair (median of the ratios), so that a
    machine whose speed drifts meanwhile does not decide. ``place`` is that of the issue that asks
    for the ratio, if one does: ``run.py`` lists those.
    """
    p, o = statistics.median(peer), statistics.median(ours)
    pairs = zip(peer, ours, strict=True) if len(peer) == len(ours) else [(p, o)]
    ratio = statistics.median(a / b if b else float("inf") for a, b in pairs)
    behind = f"{names[0]} {p:.3g} {unit}, {names[1]} {o:.3g} {unit}"
    report_line(f"{what}: {ratio:.2f}x ({behind}; wanted {wanted})")
    if place is not None and RECORD in os.environ:
        row = {"place": place, "what": what.strip(), "ratio": ratio, "behind": behind, "wanted": wanted}
        with Path(os.environ[RECORD]).open("a", encoding="utf-8") as record:
            record.write(json.dumps(row) + "\n")
