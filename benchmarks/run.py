"""Run the benchmarks and write RESULTS.md: every ratio that an issue asks for, the machine and the command.

``run.py`` runs all, ``run.py bench_open bench_start`` these; what the others gave before stays as it was. What
each printed is kept in ``results/NAME.json``, from which the page is made. Ends with 1 where a benchmark failed;
a ratio that is missed is no failure, it is marked in the page.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from harness import RECORD

HERE = Path(__file__).resolve().parent
RESULTS, PAGE = HERE / "results", HERE / "RESULTS.md"
LIBRARIES = ("numpy", "scipy", "pandas", "xarray", "netCDF4", "statsmodels", "scikit-learn", "hmmlearn", "torch")
BOUND = re.compile(r"(at least|above|over|at most|under|below) ([\d.]+)x?")


def main() -> int:
    names = sorted(path.stem for path in HERE.glob("bench_*.py"))
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one or more of {', '.join(names)}; all by default")
    wanted = parser.parse_args().names or names
    if unknown := sorted(set(wanted) - set(names)):
        parser.error(f"no benchmark is called {', '.join(unknown)}")
    RESULTS.mkdir(exist_ok=True)
    failed = []
    for name in wanted:
        print(f"== {name}", flush=True)
        done = run(name)
        if done.pop("status"):
            failed.append(name)
            continue
        (RESULTS / f"{name}.json").write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        PAGE.write_text(page(known_results(names)), encoding="utf-8")
    if failed:
        print(f"failed, and left as they were in {PAGE.name}: {', '.join(failed)}", file=sys.stderr)
    return len(failed) > 0


def run(name: str) -> dict[str, Any]:
    """One benchmark in a process of its own, its lines shown as they come."""
    lines = []
    threads = os.environ.get("OMP_NUM_THREADS", "1")  # one, as peers mostly gain nothing from more
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record"
        began = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, HERE / f"{name}.py"],
            env={**os.environ, "OMP_NUM_THREADS": threads, RECORD: str(record), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            text=True,
            cwd=HERE,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                print(line, end="", flush=True)
                lines.append(line.rstrip())
        seconds = time.perf_counter() - began
        rows = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    return {
        "status": process.returncode,
        "command": f"OMP_NUM_THREADS={threads} python benchmarks/{name}.py",
        "date": datetime.now(UTC).date().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "seconds": round(seconds),
        "asked": rows,
        "printed": lines,
    }


def commit() -> str:
    """Which state of the code was measured."""
    git = ["git", "-C", str(HERE)]
    at = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--", "../polystab", f"{HERE}/*.py"],
        capture_output=True,
        text=True,
        check=False,
    ).stdout
    return (at.strip() or "unknown") + (" and changes" if changed.strip() else "")


def machine() -> str:
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())
    return (
        f"{len(os.sched_getaffinity(0))} cores of {cpu[1] if cpu else platform.machine()}, "
        f"{int(memory[1]) / 2**20 if memory else float('nan'):.0f} GiB, {platform.system()}, "
        f"Python {platform.python_version()}, " + ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    )


def known_results(names: list[str]) -> dict[str, dict[str, Any]]:
    paths = {name: RESULTS / f"{name}.json" for name in names}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()}


def met(ratio: float, wanted: str) -> str:
    """Whether a ratio is as asked for; empty where that is no number."""
    bound = BOUND.fullmatch(wanted)
    if bound is None:
        return ""
    least = bound[1] in ("at least", "above", "over")
    return "yes" if (ratio >= float(bound[2]) if least else ratio <= float(bound[2])) else "**no**"


def page(results: dict[str, dict[str, Any]]) -> str:
    """RESULTS.md as text."""
    rows = sorted(
        ((row["place"], name, row) for name, one in results.items() for row in one["asked"]), key=lambda row: row[:2]
    )
    lines = [
        "# Results of the benchmarks",
        "",
        "Written by `make bench` (`python benchmarks/run.py`; with names, only those are run again). Ratios are taken within one",
        "run: the first over the second of the two measurements in brackets, medians. A place is that of the issue which asks for the ratio.",
        "",
        "## Asked for",
        "",
        f"{sum(met(row['ratio'], row['wanted']) == 'yes' for _, _, row in rows)} of {len(rows)} are met.",
        "",
        "| place | what | ratio | of | wanted | met |",
        "|---|---|---|---|---|---|",
    ]
    for place, name, row in rows:
        what = row["what"].replace("|", "\\|")
        lines.append(
            f"| {place} | {what} ([{name}](#{name})) | {row['ratio']:.2f} | {row['behind']} | {row['wanted']} | "
            f"{met(row['ratio'], row['wanted'])} |"
        )
    lines += ["", "## All that was printed", ""]
    for name, one in results.items():
        lines += [
            f"### {name}",
            "",
            f"`{one.get('command', f'python benchmarks/{name}.py')}`, {one['date']}, {one['seconds']} s, commit {one['commit']}; {one['machine']}.",
            "",
            "```text",
            *one["printed"],
            "```",
            "",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
