"""What a killed writer leaves beside a file is removed by the next one, and nothing of a writer that lives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from polystab import files
from polystab.errors import OutputError
from polystab.files import atomic_path, write_text

WRITER = """
import sys
from pathlib import Path
from polystab.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("of the other")
    print(temporary, flush=True)
    sys.stdin.readline()
"""


@contextmanager
def writing(target: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process that is writing the file, and goes on when it is told a line; and its temporary file."""
    command = [sys.executable, "-c", WRITER, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def left_by_a_kill(target: Path) -> Path:
    with writing(target) as (process, temporary):
        process.kill()
        process.wait(30)
    assert temporary.exists()
    return temporary


def parts(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.endswith(".part"))


@pytest.mark.slow
class TestProcesses:
    def test_what_a_killed_writer_left_is_removed_by_the_next(self, tmp_path: Path) -> None:
        temporary = left_by_a_kill(tmp_path / "cube.nc")
        write_text(tmp_path / "cube.nc", "new")
        assert not temporary.exists()

    def test_it_is_removed_before_the_room_is_needed(self, tmp_path: Path) -> None:
        temporary = left_by_a_kill(tmp_path / "cube.nc")
        with atomic_path(tmp_path / "cube.nc"):
            assert not temporary.exists()

    def test_a_second_writer_takes_nothing_from_a_live_one(self, tmp_path: Path) -> None:
        target = tmp_path / "cube.nc"
        with writing(target) as (process, temporary):
            write_text(target, "mine")
            assert temporary.read_text() == "of the other"
            process.communicate("go on\n", timeout=30)
        assert target.read_text() == "of the other"
        assert parts(tmp_path) == []

    def test_what_is_left_waits_while_anybody_writes_in_the_folder(self, tmp_path: Path) -> None:
        temporary = left_by_a_kill(tmp_path / "cube.nc")
        with writing(tmp_path / "other.nc"):
            write_text(tmp_path / "cube.nc", "new")
            assert temporary.exists()
        write_text(tmp_path / "cube.nc", "newer")
        assert not temporary.exists()

    def test_a_writer_that_came_while_another_looked_is_left_alone(self, tmp_path: Path) -> None:
        """It finds the folder locked, so that its temporary file says that it could not lock."""
        target = tmp_path / "cube.nc"
        with files._folder_lock(tmp_path, alone=True) as alone:
            assert alone
            with writing(target) as (process, temporary):
                files.remove_leftovers(target)
                assert temporary.exists()
                process.communicate("go on\n", timeout=30)
        assert target.read_text() == "of the other"


def test_the_temporary_file_of_a_temporary_file_is_known_as_one_of_the_file(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "cube.nc") as outer, atomic_path(outer) as inner:
        inner.write_text("new")
        left = made(tmp_path, inner.name[:-10] + "copy.part")
    assert left.name.startswith(f".cube.nc.{files._kernel()}.")
    write_text(tmp_path / "cube.nc", "newer")
    assert parts(tmp_path) == []


def made(folder: Path, name: str, *, hours: float = 0.0) -> Path:
    path = folder / name
    path.write_text("half")
    now = path.stat().st_mtime
    os.utime(path, (now - 3600 * hours, now - 3600 * hours))
    return path


@pytest.mark.parametrize("owner", ["0123456789ab", "unlocked"])
def test_what_others_left_is_kept_for_a_day(owner: str, tmp_path: Path) -> None:
    """Of other machines, whose locks may not reach here, and of writers that could not lock."""
    old = made(tmp_path, f".cube.nc.{owner}.abcdefgh.part", hours=25)
    young = made(tmp_path, f".cube.nc.{owner}.ijklmnop.part", hours=23)
    write_text(tmp_path / "cube.nc", "new")
    assert (old.exists(), young.exists()) == (False, True)


def test_files_of_other_names_stay(tmp_path: Path) -> None:
    kept = [
        made(tmp_path, name, hours=1000)
        for name in (f".other.nc.{files._kernel()}.abcdefgh.part", "cube.nc.part", ".cube.nc.swp", ".cube.nc", "x.part")
    ]
    write_text(tmp_path / "cube.nc", "new")
    assert all(path.exists() for path in kept)


def test_where_there_are_no_locks_nothing_young_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")

    def refuse(handle: int, how: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    mine = made(tmp_path, f".cube.nc.{files._kernel()}.abcdefgh.part")
    with atomic_path(tmp_path / "cube.nc") as temporary:
        assert ".unlocked." in temporary.name
        temporary.write_text("new")
    assert mine.exists()
    assert (tmp_path / "cube.nc").read_text() == "new"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may look into any folder")
def test_a_folder_that_may_not_be_looked_into_is_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o300)
    try:
        write_text(tmp_path / "cube.nc", "new")
    finally:
        tmp_path.chmod(0o700)
    assert (tmp_path / "cube.nc").read_text() == "new"


def test_what_cannot_be_removed_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / f".cube.nc.{files._kernel()}.abcdefgh.part").mkdir()
    write_text(tmp_path / "cube.nc", "new")
    assert (tmp_path / "cube.nc").read_text() == "new"


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    precious = made(tmp_path, "precious", hours=1000)
    (tmp_path / f".cube.nc.{files._kernel()}.abcdefgh.part").symlink_to(precious)
    write_text(tmp_path / "cube.nc", "new")
    assert parts(tmp_path) == []
    assert precious.exists()


def test_a_failed_writing_leaves_the_lock_free(tmp_path: Path) -> None:
    with pytest.raises(OutputError), atomic_path(tmp_path / "cube.nc"):
        raise OSError(28, "No space left on device")
    with files._folder_lock(tmp_path, alone=True) as alone:
        assert alone
