"""The report of a cube as one HTML page, whole command in a fresh process: time, memory, weight of the page, against the limits."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from harness import print_ratio, report_line

MIB = 2**20

# Seconds of wall clock on two cores, GiB and MiB of page that a report may take.
SMALL = (15.0, 4.0, 3.0)
LARGE = (90.0, 4.0, 15.0)

# Models, seeds, checkpoints, metrics of the cubes, and what their curves are like.
CUBES = {
    "5 x 10 x 154 x 500 of noise": ((5, 10, 154, 500), "noise"),
    "5 x 10 x 154 x 500 of smooth curves": ((5, 10, 154, 500), "smooth"),
    "5 x 10 x 154 x 1,000 of smooth curves": ((5, 10, 154, 1000), "smooth"),
    "50 x 2 x 154 x 100 of smooth curves": ((50, 2, 154, 100), "smooth"),
}


@dataclass(frozen=True)
class Cost:
    """What one command took; processor time is of all its threads."""

    seconds: float
    processor: float
    gib: float
    page: int


def values(shape: tuple[int, ...], kind: str, rng: np.random.Generator) -> Any:
    """Independent noise, or sigmoids whose place, height and noise differ from seed to seed."""
    noise = rng.standard_normal(shape)
    if kind == "noise":
        return 0.5 + 0.05 * noise
    models, seeds, steps, metrics = shape
    at = rng.uniform(0.2, 0.7, (models, 1, 1, metrics)) + 0.02 * rng.standard_normal((models, seeds, 1, metrics))
    height = rng.uniform(0.1, 0.6, (models, 1, 1, metrics)) + 0.01 * rng.standard_normal((models, seeds, 1, metrics))
    x = np.linspace(0, 1, steps)[:, None]
    return 0.25 + height / (1 + np.exp(-(x - at) / 0.06)) + 0.008 * noise


def write_cube(path: Path, shape: tuple[int, ...], kind: str) -> None:
    """A cube of evaluations and weight statistics in equal parts, at Pythia's checkpoints where there are as many."""
    import polystab as ps
    from polystab.cube.build import finished
    from polystab.testing.drawing import bare_cube

    models, _, steps, metrics = shape
    pythia = [0, *(2**k for k in range(10)), *range(1000, 143001, 1000)]
    names = [
        f"eval/task{i}/acc" if i % 2 else f"weight/layers.{i // 2}.attention.dense/kurtosis" for i in range(metrics)
    ]
    cube = bare_cube(
        values(shape, kind, np.random.default_rng(0)),
        [f"model-{i}" for i in range(models)],
        np.array(pythia if len(pythia) == steps else np.arange(steps) * 1000),
        names,
    )
    ps.save_cube(finished(cube, {"title": f"{kind} curves", "created": "2000-01-01T00:00:00Z"}), path)


def cost(cube: str, page: Path) -> Cost:
    """``polystab report CUBE -o PAGE`` in a process of its own."""
    command = [str(Path(sys.executable).with_name("polystab")), "report", cube, "-o", str(page), "--overwrite"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    # The command prints its own peak, since that of all children so far would be the largest of them.
    code = f"import resource, sys; sys.argv = {command!r}\nfrom polystab.cli import main\n" + (
        "try:\n    main()\nfinally:\n    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak = int(done.stderr.split()[-1]) * 1024
    return Cost(seconds, used, peak / 2**30, page.stat().st_size)


def judge(what: str, found: Cost, limits: tuple[float, float, float]) -> None:
    """Ratios of the limits over what it took."""
    seconds, gib, weight = limits
    for name, limit, ours, unit in (
        ("wall clock", seconds, found.seconds, "s"),
        ("processor time", seconds, found.processor, "s"),
        ("peak memory", gib, found.gib, "GiB"),
        ("weight of the page", weight, found.page / MIB, "MiB"),
    ):
        print_ratio(
            f"{what}: {name}, limit over ours",
            [limit],
            [ours],
            wanted="above 1",
            unit=unit,
            names=("limit", "ours"),
            place=8,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="cold starts of nano, of which the median counts")
    parser.add_argument("--only", metavar="TEXT", default="", help="cubes whose description contains it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        if args.only in "nano":
            found = sorted((cost("nano", page) for _ in range(args.runs)), key=lambda one: one.seconds)
            judge("report of nano", found[len(found) // 2], SMALL)
        for what, (shape, kind) in CUBES.items():
            if args.only in what:
                path = Path(folder) / "cube.nc"
                write_cube(path, shape, kind)
                report_line(f"a cube of {what}: {path.stat().st_size / MIB:.0f} MiB")
                judge(f"report of {what}", cost(str(path), page), LARGE)


if __name__ == "__main__":
    main()
