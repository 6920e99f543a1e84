"""Broken input to every reader: a result, or a PolystabError, and nothing else. `make fuzz` runs far more cases."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from fuzz_cases import Crash, Files, Reader, run_case
from fuzz_readers import READERS
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

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


def test_the_fuzzer_notices_another_exception(tmp_path: Path) -> None:
    def fails(_: Path) -> None:
        raise KeyError("x")

    with pytest.raises(Crash, match="KeyError"):
        run_case(Reader("bad", st.just({}), fails), {}, tmp_path)


def test_the_fuzzer_notices_a_file_outside_the_folder(tmp_path: Path) -> None:
    def strays(folder: Path) -> None:
        (folder.parent / "stray").write_text("x")

    (tmp_path / "case").mkdir()
    with pytest.raises(Crash, match="outside the folder"):
        run_case(Reader("bad", st.just({}), strays), {}, tmp_path / "case")


def test_the_fuzzer_notices_a_signal(tmp_path: Path) -> None:
    def dies(_: Path) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    with pytest.raises(Crash, match="killed by signal 11"):
        run_case(Reader("bad", st.just({}), dies, forked=True), {}, tmp_path)
