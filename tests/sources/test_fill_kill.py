"""A fill that is killed, or that meets another one: nothing is lost, doubled or half done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import polystab as ps
from polystab.sources.joining import join_units
from polystab.sources.runs import write_runs

HERE = Path(__file__).parent

# Fills again and again in a process group of its own, which is killed after the given number of seconds each time.
# Forked, so that the moments fall into the work and not into the import of numpy; nor of dask, which xarray imports
# where it is installed.
KILLED = """
    import os, signal, sys, time
    import polystab as ps
    from measurers_for_tests import Toy
    import polystab.sources.checkpoints, polystab.sources.fill, polystab.sources.runs

    ps.load_cube("demo").load()
    killed = 0
    for moment in map(float, sys.argv[4:]):
        child = os.fork()
        if not child:
            os.setpgid(0, 0)
            toys = [Toy(items=3000, log=sys.argv[3]), Toy(name="other", seconds=0.002)]
            ps.fill(toys, runs=sys.argv[1], output=sys.argv[2])
            os._exit(0)
        os.setpgid(child, child)  # whichever of the two comes first
        time.sleep(moment)
        os.killpg(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    print(killed)
    """

FILL = """
    import sys
    import polystab as ps
    from measurers_for_tests import Toy
    if __name__ == "__main__":
        print("ready", flush=True)
        sys.stdin.readline()
        result = ps.fill(
            Toy(seconds=float(sys.argv[4]), log=sys.argv[3]), runs=sys.argv[1], output=sys.argv[2], jobs=int(sys.argv[5])
        )
        print(result.planned, result.already_done, result.done, len(result.failed), flush=True)
    """


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """2 seeds x 20 steps."""
    from measurers_for_tests import make_checkpoints

    write_runs(make_checkpoints(tmp_path / "checkpoints", steps=tuple(range(20))), tmp_path / "runs.csv")
    return tmp_path / "runs.csv"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


def started(code: str, *arguments: object) -> subprocess.Popen[str]:
    """A fresh interpreter in a process group of its own that finds the measurers of the tests."""
    return subprocess.Popen(
        [sys.executable, "-B", "-c", textwrap.dedent(code), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(HERE)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=hear_ctrl_c,
    )  # fmt: skip


def hear_ctrl_c() -> None:
    """What a shell starts in the background, and all that it starts, is deaf to it."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def go(process: subprocess.Popen[str]) -> None:
    """Let a FILL begin."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def wait_until_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def measured(log: Path) -> Counter[str]:
    return Counter(line.rpartition(" ")[0] for line in log.read_text().splitlines())


def wait_for(condition: object, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def cube_bytes(folder: Path) -> bytes:
    ps.save_cube(join_units(folder), folder.parent / "cube.nc")
    return (folder.parent / "cube.nc").read_bytes()


@pytest.mark.slow
def test_a_fill_killed_at_20_moments_and_resumed_gives_the_same_bytes(
    table: Path, tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from measurers_for_tests import Toy

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    toys = [Toy(items=3000), Toy(name="other", seconds=0.002)]
    begin = time.monotonic()
    ps.fill(toys, runs=table, output=tmp_path / "whole")
    whole = time.monotonic() - begin
    # Moments over a small part of the time that the whole fill takes here and now, so that each attempt gets a little on.
    moments = np.random.default_rng(0).uniform(0, whole / 12, size=20) + 0.005
    with started(KILLED, table, tmp_path / "killed", log, *moments) as process:
        killed = int(process.communicate(timeout=120)[0])
    assert killed >= 15, "most kills should come before the fill is done"
    assert any((tmp_path / "killed").rglob("*.npz")), "some should come after it has begun"
    ps.fill(toys, runs=table, output=tmp_path / "killed")
    assert cube_bytes(tmp_path / "killed") == cube_bytes(tmp_path / "whole")
    assert list((tmp_path / "killed").rglob("*.part")) == []


@pytest.mark.slow
def test_workers_killed_with_their_parent_leave_a_fill_that_can_be_resumed(
    table: Path, tmp_path: Path, log: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from measurers_for_tests import Toy

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    ps.fill(Toy(), runs=table, output=tmp_path / "whole")
    for wanted in (5, 15):
        with started(FILL, table, tmp_path / "killed", log, 0.03, 2) as process:
            wait_until_ready(process)
            go(process)
            wait_for(lambda n=wanted: log.exists() and len(log.read_text().splitlines()) >= n)
            os.killpg(process.pid, signal.SIGKILL)
    assert ps.fill(Toy(), runs=table, output=tmp_path / "killed").already_done > 0
    assert cube_bytes(tmp_path / "killed") == cube_bytes(tmp_path / "whole")


@pytest.mark.slow
def test_two_fills_in_one_folder_share_the_work(table: Path, tmp_path: Path, log: Path) -> None:
    both = [started(FILL, table, tmp_path / "out", log, 0.02, 1) for _ in range(2)]
    for process in both:
        wait_until_ready(process)
    for process in both:
        go(process)
    said = [list(map(int, process.communicate(timeout=60)[0].split())) for process in both]
    assert set(measured(log).values()) == {1}
    assert len(measured(log)) == 40
    assert sum(done for _, _, done, _ in said) == 40
    assert all(planned == already + done for planned, already, done, _ in said)
    assert all(done > 0 for _, _, done, _ in said)


@pytest.mark.slow
def test_workers_in_the_middle_of_a_measurement_end_with_their_parent(table: Path, tmp_path: Path, log: Path) -> None:
    with started(FILL, table, tmp_path / "out", log, 600, 2) as process:
        wait_until_ready(process)
        go(process)
        wait_for(lambda: log.exists() and len(log.read_text().splitlines()) == 2)
        workers = [int(line.split()[-1]) for line in log.read_text().splitlines()]
        process.kill()  # the parent alone
    wait_for(lambda: not any(is_alive(worker) for worker in workers), seconds=10)


@pytest.mark.slow
def test_ctrl_c_ends_workers_without_a_word_of_theirs(table: Path, tmp_path: Path, log: Path) -> None:
    with started(FILL, table, tmp_path / "out", log, 600, 2) as process:
        wait_until_ready(process)
        go(process)
        wait_for(lambda: log.exists() and len(log.read_text().splitlines()) == 2)
        workers = [int(line.split()[-1]) for line in log.read_text().splitlines()]
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        try:
            process.wait(20)
        finally:
            process.kill()
    assert not any(is_alive(worker) for worker in workers)
    assert list((tmp_path / "out").rglob("*.part")) == []


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
