"""Coverage-guided fuzzing with atheris of the readers that are written in Python: `scripts/fuzz.py --engine atheris`.

Files are bytes here, seeded with valid ones; libFuzzer keeps what reaches new code in the folder of the corpus, from
which the next run goes on. It also keeps time and memory.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

SECONDS, MEGABYTES = 10, 2048


def guided(name: str, seconds: int, keep: Path) -> int:
    """Fuzz one reader for some time, in a process that libFuzzer may end."""
    corpus = keep / "corpus" / name
    corpus.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, name, str(keep), f"-max_total_time={seconds}", f"-timeout={SECONDS}"]
    command += [f"-malloc_limit_mb={MEGABYTES}", "-rss_limit_mb=4096", "-max_len=20000", "-print_final_stats=1"]
    command += [f"-artifact_prefix={keep / name}-", str(corpus)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603
    reached = [(int(cov), int(features)) for cov, features in re.findall(r"cov: (\d+) ft: (\d+)", done.stderr)]
    runs = re.findall(r"stat::number_of_executed_units: *(\d+)", done.stderr)
    found = re.findall(r"^found: (.*)$", done.stdout, re.MULTILINE)
    growth = f"{reached[0][0]:,} -> {reached[-1][0]:,} edges" if reached else "nothing was reached"
    print(
        f"{name:8} {int(runs[-1]) if runs else 0:>7,} cases {seconds:>7} s {len(found):>5} crashes, {growth}",
        flush=True,
    )
    for what in found:
        print(f"         {what}", flush=True)
    if done.returncode:
        print(done.stdout[-2000:] + done.stderr[-4000:], flush=True)
    return int(bool(found or done.returncode))


def _fuzz(name: str, keep: Path, arguments: list[str]) -> None:
    """Runs until libFuzzer ends the process."""
    import atheris

    atheris.instrument_imports(include=["polystab"]).__enter__()  # for good: readers import late
    from fuzz_cases import Crash, run_case
    from fuzz_readers import AS_BYTES, READERS

    seeds, files_of = AS_BYTES[name]
    corpus = Path(arguments[-1])
    folder = Path(os.path.realpath(tempfile.mkdtemp(prefix="polystab-fuzz-")))
    for number, content in enumerate(seeds()):
        (corpus / f"seed{number}").write_bytes(content)
        run_case(READERS[name], files_of(content), folder, limits=False)  # imports take longer than a case may
    crashes: Counter[str] = Counter()

    def feed(content: bytes) -> None:
        try:
            run_case(READERS[name], files_of(content), folder, limits=False)
        except Crash as crash:
            crashes[str(crash)] += 1
            if crashes[str(crash)] == 1:
                (keep / f"{name}-guided-{len(crashes)}").write_bytes(content)
                print(f"found: {crash} ({name}-guided-{len(crashes)})", flush=True)

    atheris.Setup([__file__, *arguments], feed)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "fuzz"))
    _fuzz(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
