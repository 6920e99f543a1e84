"""What the fill engine costs above the measuring itself, and how much two processes gain over one.

Overhead: units that sleep 0.5 s and give 1,200 items each; the time of the whole fill over the time spent in the
measurer. Speed-up: units of a fixed amount of arithmetic, about 0.5 s, by one and by two processes in turn, and the
same arithmetic by one and by two bare interpreters, which is what the machine allows at that moment.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from harness import print_ratio, report_line

import polystab as ps
from polystab.sources.checkpoints import Checkpoint
from polystab.sources.joining import join_units
from polystab.sources.measuring import Measurement
from polystab.sources.runs import Run, RunTable

SECONDS = 0.5
N_ITEMS = 1200


@dataclass
class Worker:
    """Sleeps, or counts, and says how many seconds that took."""

    name: str = "worker"
    counts: int = 0

    def settings(self) -> dict[str, Any]:
        return {"counts": self.counts}

    def measure(self, checkpoint: Checkpoint) -> Measurement:  # noqa: ARG002
        start = time.perf_counter()
        if self.counts:
            count(self.counts)
        else:
            time.sleep(SECONDS)
        correct = np.arange(N_ITEMS) % 2
        items = xr.Dataset(
            {"choice": ("item", correct), "correct": ("item", correct)},
            coords={
                "item": [f"task/{number}" for number in range(N_ITEMS)],
                "task": ("item", ["task"] * N_ITEMS),
                "doc_hash": ("item", [f"{number:064x}" for number in range(N_ITEMS)]),
            },
        )
        return Measurement({"eval/worker/seconds": time.perf_counter() - start}, details={"items": items})


def count(number: int) -> float:
    total = 0.0
    for i in range(number):
        total += math.sqrt(i)
    return total


def made_runs(folder: Path, n_steps: int) -> RunTable:
    """Local checkpoints of one small tensor each."""
    for step in range(n_steps):
        place = folder / f"step{step}"
        place.mkdir(parents=True)
        (place / "config.json").write_text("{}")
        header = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
        header += b" " * (-len(header) % 8)
        (place / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    return RunTable((Run("toy", 0, location=str(folder / "step{step}"), steps=tuple(range(n_steps))),))


def overhead(folder: Path, runs: RunTable) -> tuple[float, float]:
    """Seconds of the whole fill, and of the measuring in it."""
    result = ps.fill(Worker(), runs=runs, output=folder / "overhead")
    return result.seconds, float(join_units(folder / "overhead")["value"].sum())


def seconds_with(jobs: int, counts: int, folder: Path, runs: RunTable) -> float:
    output = folder / f"jobs{jobs}"
    shutil.rmtree(output, ignore_errors=True)
    return ps.fill(Worker(counts=counts), runs=runs, output=output, jobs=jobs).seconds


def bare_seconds(processes: int, counts: int, n_units: int) -> float:
    """Seconds of the same arithmetic in interpreters that do nothing else."""
    code = f"import math\nfor _ in range({n_units // processes}):\n total = 0.0\n for i in range({counts}): total += math.sqrt(i)"
    start = time.perf_counter()
    running = [
        subprocess.Popen([sys.executable, "-c", f"def main():\n {code.replace(chr(10), chr(10) + ' ')}\nmain()"])
        for _ in range(processes)
    ]
    for process in running:
        process.wait()
    return time.perf_counter() - start


def main() -> None:
    n_units = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        runs = made_runs(folder / "checkpoints", n_units)
        ps.fill(Worker(counts=1), runs=runs, output=folder / "warm", steps=0)  # imports are not counted
        whole, inside = overhead(folder, runs.select(steps=range(min(40, n_units))))
        print_ratio(
            f"fill of units of {SECONDS} s over its measuring",
            [whole], [inside], wanted="at most 1.05x", names=("fill", "measuring"), place=2,
        )  # fmt: skip
        count(10**6)
        start = time.perf_counter()
        count(10**7)
        counts = round(10**7 * SECONDS / (time.perf_counter() - start))
        one, two = seconds_with(1, counts, folder, runs), seconds_with(2, counts, folder, runs)
        bare_one, bare_two = bare_seconds(1, counts, n_units), bare_seconds(2, counts, n_units)
        print_ratio(
            f"fill of {n_units} units: two processes over one",
            [one], [two], wanted="at least 1.7x", names=("one", "two"), place=2,
        )  # fmt: skip
        print_ratio(
            "  bare: two interpreters over one", [bare_one], [bare_two], wanted="the limit", names=("one", "two")
        )
        load = os.getloadavg()[0]
        report_line(f"  (on {len(os.sched_getaffinity(0))} cores with a load of {load:.1f}, of which 1 to 2 is ours)")


if __name__ == "__main__":
    main()
