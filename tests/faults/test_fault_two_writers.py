"""Several writers at once in one place: nothing is mixed, and no update is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fault_releases import prepare_registries

pytestmark = pytest.mark.slow

ROUNDS = 3


def raced(driver: Any, folder: Path, *writers: tuple[str, str]) -> list[Any]:
    answers: list[Any] = driver.ask("race", folder=folder, writers=writers)["answers"]
    return answers


@pytest.mark.parametrize("writer", ["text", "cube", "tree", "report", "runs", "branch"])
def test_of_several_writers_one_wins_whole(driver: Any, writer: str, memory: Path) -> None:
    folder = driver.prepared(writer, memory / "folder")
    for _ in range(ROUNDS):
        answers = raced(driver, folder, *[(writer, which) for which in ("old", "new") * 2])
        assert all("gave" in answer for answer in answers), answers
        assert driver.look(writer, folder) in ("old", "new")
        left = driver.ask("files", folder=folder)["files"]
        assert [name for name in left if name.endswith(".part")] == []


def test_releases_into_one_folder_are_all_listed(driver: Any, memory: Path) -> None:
    names = [f"cube-{number}" for number in range(6)]
    answers = raced(driver, memory, *[("release-named", name) for name in names])
    assert all("gave" in answer for answer in answers), answers
    assert driver.look("release-named", memory) == " ".join(f"{name}@1.0" for name in names)


def test_of_two_releases_of_one_version_with_other_content_one_is_refused(driver: Any, memory: Path) -> None:
    answers = raced(driver, memory, ("release-next", "old"), ("release-next-too", "new"))
    refused = [answer["message"] for answer in answers if "message" in answer]
    assert len(refused) == 1
    assert "exists and was left as it is" in refused[0]
    assert driver.look("release-again", memory) in ("old", "new")


def test_two_registries_with_the_same_name_are_not_both_added(driver: Any, memory: Path) -> None:
    prepare_registries(memory)
    for _ in range(ROUNDS):
        answers = raced(driver, memory, ("registry-named", "old"), ("registry-named", "new"))
        refused = [answer["message"] for answer in answers if "message" in answer]
        assert len(refused) == 1, answers
        assert "already; pass replace" in refused[0]
        assert driver.look("registry-named", memory) in (
            "mine only-new", "mine only-old",
        )  # fmt: skip
        for path in (memory / "data" / "registries").glob("*.json"):
            path.unlink()


def test_two_fills_share_the_units(driver: Any, memory: Path) -> None:
    driver.ask("prepare", writer="fill", folder=memory)
    answers = raced(driver, memory, ("fill", "new"), ("fill", "new"), ("fill", "old"))
    assert all("gave" in answer for answer in answers), answers
    assert driver.look("fill", memory) == "new"


def test_two_trainings_of_one_suite_leave_what_one_does(torch_driver: Any, memory: Path) -> None:
    folder = torch_driver.prepared("train", memory / "folder")
    answers = raced(torch_driver, folder, ("train", "new"), ("train", "new"))
    assert all("gave" in answer for answer in answers), answers
    assert torch_driver.look("train", folder) == "new"


HOLD = """
import sys, time
from pathlib import Path
from polystab.files import one_at_a_time
with one_at_a_time(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_lock_ends_with_the_process_that_holds_it(driver: Any, memory: Path) -> None:
    released = driver.prepared("release-next", memory / "folder") / "released"
    command = [sys.executable, "-c", HOLD, str(released / ".releasing.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    assert "gave" in driver.ask("write", writer="release-next", folder=memory / "folder", which="new")
