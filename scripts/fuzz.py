"""Feed broken input to every reader: `make fuzz`, at least 10,000 cases each, one process a reader.

A case is fixed by reader, batch and place in the batch, so that a run that was stopped goes on
where it was (`--resume`), and a crash comes again with `--reader NAME --start BATCH --cases 1`. Files of
cases that crash are kept in the folder of `--keep`. The readers and what they are fed stand in
tests/fuzz. Ends with 1 where anything crashed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "fuzz"))

from fuzz_cases import Crash, Files, Reader, run_case  # noqa: E402
from fuzz_readers import READERS  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402

BATCH = 500


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reader", choices=sorted(READERS), action="append", help="only this one; may be repeated")
    parser.add_argument("--cases", type=int, default=10_000, help="cases for each reader, at least")
    parser.add_argument("--start", type=int, default=0, help="first batch; each is of other cases")
    parser.add_argument("--jobs", type=int, default=2, help="readers at a time")
    parser.add_argument("--keep", type=Path, default=ROOT / ".fuzz", help="folder for crashes and for what is done")
    parser.add_argument("--resume", action="store_true", help="go on where the last run in that folder was stopped")
    given_options = parser.parse_args()
    given_options.keep.mkdir(parents=True, exist_ok=True)
    names = given_options.reader or sorted(READERS)
    if len(names) == 1:
        return _one(READERS[names[0]], given_options)
    return _several(names, given_options)


def _several(names: list[str], options: argparse.Namespace) -> int:
    """Each reader in a process of its own, some at a time."""
    waiting, running, worst = list(names), list[subprocess.Popen[bytes]](), 0
    rest = ["--cases", str(options.cases), "--start", str(options.start), "--keep", str(options.keep)]
    rest += ["--resume"] * options.resume
    while waiting or running:
        while waiting and len(running) < options.jobs:
            command = [sys.executable, __file__, "--reader", waiting.pop(0), *rest]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            running.append(subprocess.Popen(command, env=environment))  # noqa: S603  our own words
        time.sleep(0.2)
        for process in [process for process in running if process.poll() is not None]:
            running.remove(process)
            worst = max(worst, abs(process.returncode))
    return worst


def _one(reader: Reader, options: argparse.Namespace) -> int:
    """Batches of one reader until there are enough cases; what is done is written down after each."""
    record = options.keep / f"{reader.name}.json"
    done = {"batch": options.start, "cases": 0, "seconds": 0.0, "crashes": {}}
    if options.resume and record.exists():
        done = json.loads(record.read_text())
    crashes = Counter(done["crashes"])
    with tempfile.TemporaryDirectory(prefix="polystab-fuzz-") as scratch:
        folder = Path(os.path.realpath(scratch))
        while done["cases"] < options.cases:
            began = time.perf_counter()
            done["cases"] += _batch(reader, done["batch"], min(BATCH, options.cases), folder, options.keep, crashes)
            done["seconds"] += time.perf_counter() - began
            done["batch"] += 1
            done["crashes"] = dict(crashes)
            record.write_text(json.dumps(done, indent=2))
    total = sum(crashes.values())
    print(f"{reader.name:8} {done['cases']:>7,} cases {done['seconds']:>7.0f} s {total:>5} crashes", flush=True)
    for what, count in crashes.most_common():
        print(f"         {count:>5} x {what}", flush=True)
    return min(total, 1)


def _batch(reader: Reader, number: int, size: int, folder: Path, keep: Path, crashes: Counter[str]) -> int:
    """The cases of one batch; gives how many there were."""
    count = 0

    @seed(number)
    @settings(
        max_examples=size,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(reader.files)
    def feed(files: Files) -> None:
        nonlocal count
        count += 1
        try:
            run_case(reader, files, folder)
        except Crash as crash:
            if not crashes[str(crash)]:
                _save(files, keep / f"{reader.name}-{number}-{count}")
            crashes[str(crash)] += 1

    feed()
    return count


def _save(files: Files, folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    raise SystemExit(main())
