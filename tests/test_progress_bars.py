"""Progress bars: where they are shown, where not, and what they leave behind."""

from __future__ import annotations

import multiprocessing
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import xarray as xr

import polystab as ps
import polystab.testing
from polystab import progress_bars
from polystab.progress_bars import Bar, progress, tracked, wanted


@pytest.fixture(autouse=True)
def as_at_the_start(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(progress_bars.VARIABLE, raising=False)
    monkeypatch.setattr(progress_bars, "DELAY", 0.0)
    monkeypatch.setattr(progress_bars, "INTERVAL", 0.0)
    yield
    progress(None)


def on_terminal(code: str, **environment: str) -> tuple[str, str]:
    """Standard output (a pipe) and standard error (a terminal of 80 columns) of a script."""
    ours, theirs = pty.openpty()
    subprocess.run(["stty", "cols", "80", "rows", "24"], stdin=theirs, check=True)
    process = subprocess.Popen(
        [sys.executable, "-c", "from polystab import progress_bars as bars\nbars.DELAY = 0.05\n" + code],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        env={**os.environ, **environment},
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    told, _ = process.communicate()
    assert process.returncode == 0, shown.decode()
    return told, shown.decode()


WORK = "import time\nfor i in bars.tracked(range(4), 'reading', unit='file'): time.sleep(0.06)\nprint('end')\n"


def test_a_pipe_gets_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(tracked(range(3), "reading")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_where_nothing_is_shown_nothing_stands_between_items_and_loop() -> None:
    assert type(tracked([1, 2], "reading")) is type(iter([]))


@pytest.mark.slow
def test_a_terminal_gets_a_bar_on_standard_error_only() -> None:
    told, shown = on_terminal(WORK)
    assert told == "end\n"
    assert "reading:" in shown
    assert "/4 [" in shown


@pytest.mark.slow
def test_a_bar_is_wiped_at_the_end() -> None:
    _, shown = on_terminal(WORK)
    assert shown.split("\r")[-2].strip() == ""


@pytest.mark.slow
def test_short_work_has_no_bar() -> None:
    assert on_terminal(WORK.replace("import time", "import time; bars.DELAY = 5")) == ("end\n", "")


@pytest.mark.slow
def test_the_environment_switches_bars_off() -> None:
    assert on_terminal(WORK, POLYSTAB_PROGRESS="0") == ("end\n", "")


@pytest.mark.slow
def test_work_within_work_has_no_bar_of_its_own() -> None:
    _, shown = on_terminal("import time\nfor _ in bars.tracked('ab', 'outer'):\n    " + WORK.replace("\n", "\n    "))
    assert "outer" in shown
    assert "reading" not in shown


@pytest.mark.slow
def test_a_bar_can_follow_one_that_failed() -> None:
    failing = (
        "import time\ntry:\n    for _ in bars.tracked(range(4), 'failing'):\n        time.sleep(0.06); raise ValueError\n"
        "except ValueError as error: kept = error\n"
    )
    assert "reading" in on_terminal(failing + WORK)[1]


def test_progress_can_be_forced(capsys: pytest.CaptureFixture[str]) -> None:
    progress(True)
    assert list(tracked(range(3), "reading")) == [0, 1, 2]
    told, shown = capsys.readouterr()
    assert told == ""
    assert "reading" in shown


def test_the_call_outdoes_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(progress_bars.VARIABLE, "1")
    assert wanted()
    progress(False)
    assert not wanted()


def test_a_word_that_means_nothing_is_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(progress_bars.VARIABLE, "perhaps")
    assert not wanted()


def test_closed_standard_error_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    with open(os.devnull, "w") as closed:  # noqa: PTH123
        pass
    monkeypatch.setattr(sys, "stderr", closed)
    assert not progress_bars.on_terminal()


def test_missing_standard_error_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    assert not progress_bars.on_terminal()


def test_another_thread_shows_nothing() -> None:
    progress(True)
    seen: list[bool] = []
    thread = threading.Thread(target=lambda: seen.append(wanted()))
    thread.start()
    thread.join()
    assert seen == [False]


def test_a_worker_process_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    progress(True)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: SimpleNamespace(pid=1))
    assert not wanted()


def test_a_notebook_shows_one_output_and_empties_it(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def display(content: dict[str, str], **how: Any) -> Any:
        assert how == {"raw": True, "display_id": True}
        shown.append(content["text/plain"])
        return SimpleNamespace(update=lambda new, raw: shown.append(new["text/plain"]))

    fake = SimpleNamespace(get_ipython=lambda: SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", fake)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    for _ in tracked(range(3), "reading", unit="file"):
        pass
    assert "reading" in shown[0]
    assert "3/3" in next(text for text in reversed(shown) if text)
    assert shown[-1] == ""


def test_a_terminals_ipython_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(get_ipython=lambda: SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython", fake)
    assert not wanted()


def test_a_kept_bar_ends_with_all_that_was_done(capsys: pytest.CaptureFixture[str]) -> None:
    progress(True)
    with Bar("filling", total=8, done=2, keep=True) as bar:
        bar.to(5)
        bar.to(8, "1 failed")
    assert capsys.readouterr().err.rstrip().split("\r")[-1].startswith("filling: 100%")


def test_a_bar_says_the_note(capsys: pytest.CaptureFixture[str]) -> None:
    progress(True)
    with Bar("filling", total=8) as bar:
        bar.to(5, "1 failed")
    assert "1 failed" in capsys.readouterr().err


def test_items_without_a_length_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    progress(True)
    assert sum(tracked((i for i in range(3)), "reading", unit="file")) == 3
    assert "3 file" in capsys.readouterr().err


def test_no_thread_is_left(capsys: pytest.CaptureFixture[str]) -> None:
    before = threading.active_count()
    progress(True)
    list(tracked(range(3), "reading"))
    assert threading.active_count() == before


LONG: dict[str, tuple[str, Callable[[xr.Dataset], Any]]] = {
    "change_points": ("looking for change points", lambda cube: ps.change_points(cube, rng=0)),
    "audit_cube": ("auditing", ps.audit_cube),
    "fit_training_map": (
        "fitting training maps",
        lambda cube: ps.fit_training_map(cube, n_states=[1, 2], n_restarts=1),
    ),
    "outlier_runs": ("looking for outliers", lambda cube: ps.outlier_runs(cube, draws=19, rng=0)),
    "multibootstrap": ("resampling", lambda cube: ps.multibootstrap(*halves(cube), n_resamples=100, rng=0)),
    "report": ("analysing the cube", lambda cube: ps.report(cube, format="json", sections=["audit"])),
}


def halves(cube: xr.Dataset) -> tuple[xr.DataArray, xr.DataArray]:
    scores = cube["value"].isel(model=0, step=-1).rename(metric="item").reset_coords(drop=True)
    return scores, scores + 0.5


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    return polystab.testing.synthetic_cube(n_models=1, n_seeds=5, rng=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_long_work_tells_how_far_it_is(name: str, cube: xr.Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    text, work = LONG[name]
    progress(True)
    work(cube)
    told, shown = capsys.readouterr()
    assert text in shown
    assert told == ""


@pytest.mark.slow
def test_a_bar_changes_no_result(cube: xr.Dataset) -> None:
    without = ps.change_points(cube, rng=0)
    progress(True)
    xr.testing.assert_identical(ps.change_points(cube, rng=0), without)


@pytest.mark.slow
def test_reading_files_tells_how_far_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        (tmp_path / f"tiny-seed{seed}.csv").write_text("step,loss\n0,2.5\n1,2.25\n", encoding="utf-8")
    progress(True)
    ps.read_training_log(tmp_path, model="tiny", run_pattern=r"seed(?P<seed>\d+)")
    assert "3/3" in capsys.readouterr().err
