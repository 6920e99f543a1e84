"""SIGKILL after every call that changes the file system, and at random moments: the old or the new stands there, whole.

``POLYSTAB_FAULT_MOMENTS`` sets the number of random moments, for a longer run than the tests need.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fault_writers import fault_of

sys.path.append(str(Path(__file__).parents[1] / "cube"))  # for web_server

pytestmark = pytest.mark.slow

# "download" needs a server and "train" torch; they have tests of their own.
WRITERS = ("text", "cube", "tree", "report", "command", "release-again", "release-next", "registry", "fill", "runs",
           "log", "branch")  # fmt: skip
# Those that take long enough for a moment to fall into their work.
SLOW = {"tree": 20, "cube": 5, "release-again": 5, "fill": 5}
MOMENTS = int(os.environ.get("POLYSTAB_FAULT_MOMENTS", "0"))


def written(driver: Any, writer: str, folder: Path, **fault: Any) -> Any:
    return driver.ask("write", writer=writer, folder=folder, which="new", fault=fault or None)


def killed(driver: Any, writer: str, template: Path, folder: Path, **fault: Any) -> bool:
    """Kill a writer in a fresh copy of the folder, look, and write again; whether it was killed before its end."""
    driver.ask("copy", of=template, folder=folder)
    answer = written(driver, writer, folder, **fault)
    found = driver.look(writer, folder)
    assert not fault_of(writer, found), (fault, found)
    again = written(driver, writer, folder)
    if writer == "release-next" and found == "new":  # it was done, and is not done again without leave to overwrite
        assert "exists and was left as it is" in again["message"]
    else:
        assert "gave" in again, (fault, again)
    if writer != "branch":  # 40 bytes, which go when room is made in the cache
        left = driver.ask("files", folder=folder)["files"]
        assert [name for name in left if name.endswith(".part")] == [], fault
    return bool(answer["signal"] == 9)


@pytest.mark.parametrize("writer", WRITERS)
def test_killed_after_any_call_the_old_or_the_new_stands_and_a_second_try_succeeds(
    driver: Any, writer: str, memory: Path
) -> None:
    template, folder = driver.prepared(writer, memory / "template"), memory / "folder"
    shutil.copytree(template, folder)
    names = written(driver, writer, folder)["gave"]["names"]
    assert "replace" in names
    assert killed(driver, writer, template, folder, kind="kill", at=1, when="before")
    for at in range(1, len(names) + 1):
        assert killed(driver, writer, template, folder, kind="kill", at=at, when="after")
    assert driver.look(writer, folder) == "new"


@pytest.mark.parametrize("writer", SLOW)
def test_killed_at_random_moments_the_old_or_the_new_stands_and_a_second_try_succeeds(
    driver: Any, writer: str, memory: Path
) -> None:
    template, folder = driver.prepared(writer, memory / "template"), memory / "folder"
    shutil.copytree(template, folder)
    whole = written(driver, writer, folder)["seconds"]
    moments = np.random.default_rng(0).uniform(0, 0.8 * whole, size=MOMENTS or SLOW[writer])
    n_killed = sum(killed(driver, writer, template, folder, kind="timer", seconds=float(moment)) for moment in moments)
    assert n_killed > 0, "some kills should come before the work is done"
    assert driver.look(writer, folder) == "new"


def test_a_training_killed_after_any_call_leaves_whole_checkpoints_and_goes_on(torch_driver: Any, memory: Path) -> None:
    """The checkpoints at the end are those of an undisturbed training, byte by byte."""
    template, folder = torch_driver.prepared("train", memory / "template"), memory / "folder"
    shutil.copytree(template, folder)
    names = written(torch_driver, "train", folder)["gave"]["names"]
    places = np.random.default_rng(0).choice(len(names), size=min(len(names), MOMENTS or 4), replace=False) + 1
    for at in sorted(places.tolist()):
        assert killed(torch_driver, "train", template, folder, kind="kill", at=at, when="after")
        assert torch_driver.look("train", folder) == "new"


def test_a_training_goes_on_from_no_damaged_state(torch_driver: Any, memory: Path) -> None:
    folder = torch_driver.prepared("train", memory / "folder")
    state = folder / "suite" / "state" / "tiny" / "seed0.pt"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"PK\x03\x04 half of a state")
    answer = written(torch_driver, "train", folder)
    assert answer["ours"], answer
    assert "Remove it, and the run begins anew" in answer["message"]
    state.unlink()
    assert "gave" in written(torch_driver, "train", folder)


def test_a_download_killed_after_any_call_leaves_whole_cubes_and_is_fetched_again(driver: Any, memory: Path) -> None:
    from web_server import Answer, Server

    template, folder = memory / "template", memory / "folder"
    template.mkdir()
    driver.ask("prepare", writer="download", folder=template)
    with Server().running() as server:
        for path in (template / "made").rglob("*.*"):
            server.answers[f"/{path.relative_to(template / 'made')}"] = Answer(path.read_bytes(), piece=2**12)
        (template / "address").write_text(server.address)
        assert "gave" in driver.ask("write", writer="download", folder=template, which="old")
        shutil.copytree(template, folder)
        names = written(driver, "download", folder)["gave"]["names"]
        for at in range(1, len(names) + 1):
            assert killed(driver, "download", template, folder, kind="kill", at=at, when="after")
    assert driver.look("download", folder) == "new"
