"""Broken input to every reader: a result, or a PolystabError, and nothing else. `make fuzz` runs far more cases."""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fuzz_cases
import numpy as np
import pytest
from fuzz_cases import Crash, Files, Reader, run_case
from fuzz_readers import AS_BYTES, READERS
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from polystab.errors import PolystabError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory and time as Linux does")

QUICK = ["runs", "texts", "units"]
CASES = {"netcdf": 20, "evals": 100, "samples": 100}


def feed(name: str, folder: Path, cases: int) -> None:
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(READERS[name].files)
    def fed(files: Files) -> None:
        run_case(READERS[name], files, folder)

    fed()


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_few_broken_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    feed(name, tmp_path, 15)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(READERS))
def test_broken_files_are_read_or_refused(name: str, tmp_path: Path) -> None:
    if name == "weights":
        pytest.importorskip("torch")
        pytest.importorskip("safetensors")
    feed(name, tmp_path, CASES.get(name, 200))


def fails(_: Path) -> None:
    raise KeyError("x")


def allocates(_: Path) -> None:
    bytearray(3 * 2**30)


def allocates_in_c(_: Path) -> None:
    np.empty(3 * 2**27).fill(1.0)


def refuses_for_memory(_: Path) -> None:
    try:
        bytearray(3 * 2**30)
    except MemoryError as error:
        raise PolystabError("too large") from error


def loops(_: Path) -> None:
    while True:
        pass


def sleeps(_: Path) -> None:
    time.sleep(60)


def swallows(_: Path) -> None:
    """Refuses what the harness raises as if it were about the file."""
    try:
        time.sleep(60)
    except Exception as error:
        raise PolystabError("odd") from error


def dies(_: Path) -> None:
    faulthandler.disable()
    os.kill(os.getpid(), signal.SIGSEGV)


def strays(folder: Path) -> None:
    (folder.parent / "stray").write_text("x")


def strays_by_a_link(folder: Path) -> None:
    (folder / "out").symlink_to(folder.parent)
    (folder / "out" / "stray").write_text("x")


def strays_by_moving(folder: Path) -> None:
    (folder / "x").write_text("x")
    (folder / "x").rename(folder.parent / "stray")


def starts_a_program(_: Path) -> None:
    os.system("true")


@pytest.mark.parametrize(
    ("planted", "noticed"),
    [
        (fails, "KeyError"),
        (allocates, "MemoryError"),
        (allocates_in_c, "MemoryError"),
        (refuses_for_memory, "MemoryError"),
        (strays, "outside the folder"),
        (strays_by_a_link, "outside the folder"),
        (strays_by_moving, "outside the folder"),
        (starts_a_program, r"os\.system"),
        pytest.param(loops, "no answer", marks=pytest.mark.slow),
        pytest.param(sleeps, "no answer", marks=pytest.mark.slow),
        pytest.param(swallows, "no answer", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("forked", [False, True], ids=["here", "forked"])
def test_the_fuzzer_notices(
    planted: Callable[[Path], None], noticed: str, forked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fuzz_cases, "SECONDS", 1)
    monkeypatch.setattr(fuzz_cases, "BY_THE_CLOCK", 1)
    (tmp_path / "case").mkdir()
    with pytest.raises(Crash, match=noticed):
        run_case(Reader("bad", st.just({}), planted, forked=forked), {}, tmp_path / "case")


def test_the_fuzzer_notices_a_signal(tmp_path: Path) -> None:
    with pytest.raises(Crash, match="killed by signal 11"):
        run_case(Reader("bad", st.just({}), dies, forked=True), {}, tmp_path)


def test_the_fuzzer_leaves_the_limits_as_they_were(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGALRM)
    run_case(Reader("good", st.just({}), lambda _: None), {}, tmp_path)
    assert (resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGALRM)) == before


@pytest.mark.parametrize(("planted", "noticed"), [(dies, "killed by signal 11"), (fails, "KeyError")])
@pytest.mark.slow
def test_a_batch_goes_on_after_a_reader_that_ends_its_process(
    planted: Callable[[Path], None], noticed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "scripts"))
    fuzz = pytest.importorskip("fuzz", reason="the script lies in the repository")
    monkeypatch.setitem(READERS, "runs", Reader("runs", st.just({"a.csv": b"x"}), planted))
    (tmp_path / "case").mkdir()
    count, found = fuzz.run_batch("runs", 0, 5, tmp_path / "case", tmp_path / "kept")
    assert (count > 0, [noticed in what for what in found]) == (True, [True])
    assert [path.read_bytes() for path in (tmp_path / "kept").rglob("a.csv")] == [b"x"]


@pytest.mark.slow
def test_valid_files_are_read_by_every_reader_over_bytes(tmp_path: Path) -> None:
    refused = []
    for name, (seeds, files_of) in AS_BYTES.items():
        if name == "weights":
            continue
        for number, content in enumerate(seeds()):
            try:
                run_case(replace(READERS[name], read=says(READERS[name])), files_of(content), tmp_path)
            except Crash as crash:
                refused.append((name, number, str(crash)))
    assert refused == []


def says(reader: Reader) -> Callable[[Path], None]:
    """The reader, with its refusals as other exceptions."""

    def read(folder: Path) -> None:
        try:
            reader.read(folder)
        except PolystabError as error:
            raise ValueError(str(error)) from error

    return read
