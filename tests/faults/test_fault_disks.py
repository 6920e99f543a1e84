"""Full, read-only and failing disks: the old stands there, nothing is left beside it, and a second try succeeds."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_writers import fault_of

pytestmark = pytest.mark.slow

WRITERS = ("text", "cube", "tree", "report", "command", "release-again", "release-next", "registry", "fill", "runs",
           "log", "branch")  # fmt: skip

PAGE = 4096
DISK = 2**24


def written(driver: Any, writer: str, folder: Path, **fault: Any) -> Any:
    return driver.ask("write", writer=writer, folder=folder, which="new", fault=fault or None)


def is_said(answer: Any) -> bool:
    """Whether a writer said that it failed, as a PolystabError or with an exit code; no other exception will do."""
    if "error" in answer:
        assert answer["ours"], answer["traceback"]
        return True
    return answer["gave"]["result"] not in (None, 0)


def assert_no_leftovers(driver: Any, folder: Path) -> None:
    left = driver.ask("files", folder=folder)["files"]
    assert [name for name in left if name.endswith(".part")] == []


@pytest.mark.parametrize("code", ["ENOSPC", "EROFS"])
@pytest.mark.parametrize("writer", WRITERS)
def test_an_error_of_the_disk_at_any_call_costs_nothing(driver: Any, writer: str, code: str, memory: Path) -> None:
    template, folder = driver.prepared(writer, memory / "template"), memory / "folder"
    shutil.copytree(template, folder)
    n_calls = written(driver, writer, folder)["gave"]["calls"]
    n_said = 0
    for at in range(1 if code == "ENOSPC" else 2, n_calls + 1, 4):
        driver.ask("copy", of=template, folder=folder)
        answer = written(driver, writer, folder, kind="error", at=at, errno=code)
        n_said += is_said(answer)
        found = driver.look(writer, folder)
        assert not fault_of(writer, found), (at, answer, found)
        assert_no_leftovers(driver, folder)
        again = written(driver, writer, folder)
        assert "gave" in again or found == "new", (at, answer, again)
    assert n_said > 0
    assert driver.look(writer, folder) == "new"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[Any], Path]]:
    """Mounts a disk of 16 MB, in the namespace of a driver, where that is allowed."""
    mounted: list[tuple[Any, Path]] = []

    def mount(driver: Any) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        if why := driver.ask("mount", folder=folder, size=DISK)["why"]:
            pytest.skip(f"a disk cannot be mounted here: {why}")
        mounted.append((driver, folder))
        return folder

    yield mount
    for driver, folder in mounted:
        driver.ask("unmount", folder=folder)


def prepared_disk(driver: Any, disk: Callable[[Any], Path], writer: str, template: Path) -> Path:
    driver.prepared(writer, template)
    folder = disk(driver)
    driver.ask("copy", of=template, folder=folder, into=True)
    return folder


def fills_up(driver: Any, folder: Path, writer: str, spare: int) -> None:
    """Write to a disk with so many bytes left, look, make room and write again."""
    driver.ask("fill_up", folder=folder, spare=spare)
    answer = written(driver, writer, folder)
    said = is_said(answer)
    found = driver.look(writer, folder)
    assert not fault_of(writer, found), (answer, found)
    assert said or found == "new", answer
    assert_no_leftovers(driver, folder)
    driver.ask("make_room", folder=folder)
    again = written(driver, writer, folder)
    assert "gave" in again or found == "new", again
    assert driver.look(writer, folder) == "new"


@pytest.mark.parametrize("spare", [0, 5 * PAGE])
@pytest.mark.parametrize("writer", [writer for writer in WRITERS if writer != "tree"])
def test_a_full_disk_costs_nothing(
    driver: Any, disk: Callable[[Any], Path], writer: str, spare: int, memory: Path
) -> None:
    fills_up(driver, prepared_disk(driver, disk, writer, memory / "template"), writer, spare)


@pytest.mark.parametrize("spare", [0, 40 * PAGE, 400 * PAGE])
def test_a_disk_that_fills_while_a_large_cube_is_written_costs_nothing(
    driver: Any, disk: Callable[[Any], Path], spare: int, memory: Path
) -> None:
    fills_up(driver, prepared_disk(driver, disk, "tree", memory / "template"), "tree", spare)


@pytest.mark.parametrize("spare", [0, 20 * PAGE])
def test_a_disk_that_fills_while_training_costs_nothing(
    torch_driver: Any, disk: Callable[[Any], Path], spare: int, memory: Path
) -> None:
    fills_up(torch_driver, prepared_disk(torch_driver, disk, "train", memory / "template"), "train", spare)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_read_only_disk_is_said_and_costs_nothing(
    driver: Any, disk: Callable[[Any], Path], writer: str, memory: Path
) -> None:
    folder = prepared_disk(driver, disk, writer, memory / "template")
    assert not driver.ask("mount", folder=folder, options="remount,ro")["why"]
    answer = written(driver, writer, folder)
    assert is_said(answer)
    assert "Read-only file system" in answer.get("message", "Read-only file system")
    assert driver.look(writer, folder) == "old"
    driver.ask("mount", folder=folder, options="remount,rw")
    assert "gave" in written(driver, writer, folder)
    assert driver.look(writer, folder) == "new"
