"""Feed broken input to every reader: `make fuzz`, at least 10,000 cases each, one process a reader.

A case is fixed by reader, batch and place in the batch, so that a run that was stopped goes on
where it was (`--resume`), and a crash comes again with `--reader NAME --start BATCH --cases 1`. Files of
cases that crash are kept in the folder of `--keep`. The readers and what they are fed stand in
tests/fuzz. A batch runs in a process of its own, which may crash. Ends with 1 where anything crashed.

`--engine atheris` mutates files as bytes instead, and keeps what reaches new code (`pip install polystab[fuzz]`):
`--seconds` for each reader, those that are written in Python.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import mmap
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tests" / "fuzz"), str(ROOT / "scripts")]

BATCH = 500
NAMES = ["evals", "logs", "netcdf", "runs", "samples", "tables", "texts", "units", "weights"]
# netCDF-C is no Python: nothing can be told about what its code has been reached.
GUIDED = [name for name in NAMES if name != "netcdf"]
# Seconds after which a case that nothing interrupts, as it is not in Python code, ends its batch.
STUCK = 90


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--reader", choices=NAMES, action="append", help="only this one; may be repeated")
    parser.add_argument("--engine", choices=["hypothesis", "atheris"], default="hypothesis")
    parser.add_argument("--cases", type=int, default=10_000, help="cases for each reader, at least")
    parser.add_argument("--seconds", type=int, default=120, help="for each reader, with atheris")
    parser.add_argument("--start", type=int, default=0, help="first batch; each is of other cases")
    parser.add_argument("--jobs", type=int, default=2, help="readers at a time")
    parser.add_argument("--keep", type=Path, default=ROOT / ".fuzz", help="folder for crashes and for what is done")
    parser.add_argument("--resume", action="store_true", help="go on where the last run in that folder was stopped")
    given_options = parser.parse_args()
    given_options.keep.mkdir(parents=True, exist_ok=True)
    names = given_options.reader or (NAMES if given_options.engine == "hypothesis" else GUIDED)
    if len(names) > 1:
        return _several(names, given_options)
    if given_options.engine == "hypothesis":
        return _one(names[0], given_options)
    from fuzz_guided import guided  # imported late: instruments what is imported after it

    return guided(names[0], given_options.seconds, given_options.keep)


def _several(names: list[str], options: argparse.Namespace) -> int:
    """Each reader in a process of its own, some at a time."""
    waiting, running, worst = list(names), list[subprocess.Popen[bytes]](), 0
    rest = ["--cases", str(options.cases), "--start", str(options.start), "--keep", str(options.keep)]
    rest += ["--engine", options.engine, "--seconds", str(options.seconds), *["--resume"] * options.resume]
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


def _one(name: str, options: argparse.Namespace) -> int:
    """Batches of one reader until there are enough cases; what is done is written down after each."""
    record = options.keep / f"{name}.json"
    done = {"batch": options.start, "cases": 0, "seconds": 0.0, "crashes": {}}
    if options.resume and record.exists():
        done = json.loads(record.read_text())
    crashes = Counter(done["crashes"])
    with tempfile.TemporaryDirectory(prefix="polystab-fuzz-") as scratch:
        folder = Path(os.path.realpath(scratch))
        while done["cases"] < options.cases:
            began = time.perf_counter()
            size = min(BATCH, options.cases)
            count, found = run_batch(name, done["batch"], size, folder, options.keep)
            crashes.update(found)
            done["cases"] += count
            done["seconds"] += time.perf_counter() - began
            done["batch"] += 1
            done["crashes"] = dict(crashes)
            record.write_text(json.dumps(done, indent=2))
    total = sum(crashes.values())
    print(f"{name:8} {done['cases']:>7,} cases {done['seconds']:>7.0f} s {total:>5} crashes", flush=True)
    for what, number in crashes.most_common():
        print(f"         {number:>5} x {what}", flush=True)
    return min(total, 1)


def run_batch(name: str, number: int, size: int, folder: Path, keep: Path) -> tuple[int, Counter[str]]:
    """The cases of one batch, in a process of its own: how many there were, and what was found.

    Where that process dies, so did the reader, over the files that still lie in ``folder``.
    """
    from fuzz_readers import READERS

    counter = mmap.mmap(-1, 8)  # shared with the other process
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            result.write_text(json.dumps(_batch(READERS[name], number, size, folder, keep, counter)))
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    count = int.from_bytes(counter[:], "little")
    if status == 0:
        return count, Counter(json.loads(result.read_text()))
    inputs = {path.relative_to(folder / "in").as_posix(): path.read_bytes() for path in (folder / "in").rglob("*.*")}
    _save(inputs, keep / f"{name}-{number}-{count}")
    what = f"killed by signal {-status}" if status < 0 else f"no answer after {STUCK} s, or the harness failed"
    return max(count, 1), Counter([what])


def _batch(reader: Any, number: int, size: int, folder: Path, keep: Path, counter: mmap.mmap) -> dict[str, int]:
    """Feed a batch; gives what was found, and counts as it goes on."""
    from fuzz_cases import Crash, Files, run_case
    from hypothesis import HealthCheck, Phase, given, seed, settings

    crashes: Counter[str] = Counter()
    count = 0

    def fails(files: Files) -> str:
        faulthandler.dump_traceback_later(STUCK, exit=True)
        try:
            run_case(reader, files, folder)
        except Crash as crash:
            return str(crash)
        finally:
            faulthandler.cancel_dump_traceback_later()
        return ""

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
        counter[:] = count.to_bytes(8, "little")
        what = fails(files)
        if what.startswith("no answer"):  # on a busy machine it may only have been slow
            what = fails(files)
        if what and not crashes[what]:
            _save(files, keep / f"{reader.name}-{number}-{count}")
        crashes[what] += 1

    feed()
    return {what: times for what, times in crashes.items() if what}


def _save(files: Any, folder: Path) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    raise SystemExit(main())
