"""What benchmarks share: fresh processes, added memory, ratios."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CHILD = """
import json, resource, runpy, sys, time
{warm}
function = runpy.run_path({script!r}, run_name="benchmark")[{name!r}]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
start = time.perf_counter()
result = function(*json.loads({arguments!r}))
seconds = time.perf_counter() - start
added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
print(json.dumps([seconds, added, result]))
"""


@dataclass(frozen=True)
class Measured:
    """One run of a function in a fresh process."""

    seconds: float
    added_bytes: int
    result: Any


def in_fresh_process(script: str, name: str, *arguments: Any, warm: str = "") -> Measured:
    """Run ``name`` of ``script`` in a new interpreter; imports in ``warm`` are not counted."""
    code = _CHILD.format(script=script, name=name, arguments=json.dumps(arguments), warm=warm)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=Path(script).parent
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Measured(*json.loads(done.stdout.strip().splitlines()[-1]))


def report_line(text: str) -> None:
    print(text, flush=True)


def print_ratio(what: str, peer: list[float], ours: list[float], *, wanted: str, unit: str = "s") -> None:
    """Print peer/ours with the medians behind it."""
    p, o = statistics.median(peer), statistics.median(ours)
    ratio = p / o if o else float("inf")
    report_line(f"{what}: {ratio:.2f}x (peer {p:.3g} {unit}, ours {o:.3g} {unit}; wanted {wanted})")
