"""Clocks that jump, and files from 1970 or 2100: no decision about content rests on the time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

WRITERS = ("text", "cube", "release-again", "registry", "fill", "runs", "log", "branch")
CENTURY = 3.2e9
TIMES = {"1970": 0, "2100": 4_102_444_800}


@pytest.mark.parametrize("year", TIMES)
@pytest.mark.parametrize("writer", WRITERS)
def test_a_file_of_any_time_is_replaced_and_read(driver: Any, writer: str, year: str, memory: Path) -> None:
    folder = driver.prepared(writer, memory / "folder")
    driver.ask("age", folder=folder, seconds=TIMES[year])
    assert driver.look(writer, folder) == "old"
    assert "gave" in driver.ask("write", writer=writer, folder=folder, which="new")
    driver.ask("age", folder=folder, seconds=TIMES[year])
    assert driver.look(writer, folder) == "new"


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("jump", [-CENTURY, CENTURY / 2])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_clock_that_jumps_while_it_is_written_changes_nothing(
    driver: Any, writer: str, jump: float, after: int, memory: Path
) -> None:
    folder = driver.prepared(writer, memory / "folder")
    shutil.copytree(folder, memory / "other")
    fault = {"kind": "clock", "seconds": jump, "after": after}
    answers = [
        driver.ask("write", writer=writer, folder=folder, which="new", fault=fault),
        driver.ask("write", writer=writer, folder=memory / "other", which="new"),
    ]
    assert all("gave" in answer for answer in answers), answers
    assert driver.look(writer, folder) == "new"
    assert contents(folder) == contents(memory / "other")


def contents(folder: Path) -> dict[str, bytes]:
    """Bytes of all files but what names its own folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "registries" not in path.parts and ".locks" not in path.parts
    }


def test_a_claim_from_another_century_holds_nobody_up(driver: Any, memory: Path) -> None:
    """Claims are locks of the operating system: what a killed process left is no claim, however new it looks."""
    folder = driver.prepared("fill", memory / "folder")
    for name in ("locks/toy-1m/seed1/step0.lock", "settings/.lock"):
        (folder / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "out" / name).touch()
    driver.ask("age", folder=folder, seconds=TIMES["2100"])
    answer = driver.ask("write", writer="fill", folder=folder, which="new")
    assert "gave" in answer, answer
    assert driver.look("fill", folder) == "new"


@pytest.mark.parametrize("writer", ["release-again", "registry"])
def test_a_lock_that_a_killed_process_left_holds_nobody_up(driver: Any, writer: str, memory: Path) -> None:
    folder = driver.prepared(writer, memory / "folder")
    for name in ("released/.releasing.lock", "data/registries/.adding.lock"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert "gave" in driver.ask("write", writer=writer, folder=folder, which="new")
    assert driver.look(writer, folder) == "new"
