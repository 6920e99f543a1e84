"""Writing files so that a failure never costs the old one."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from polystab import files
from polystab.errors import OutputError
from polystab.files import atomic_path, file_names, require_writable, write_text


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """A file that stands there already."""
    path = tmp_path / "out.txt"
    path.write_text("old")
    return path


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def refuses_writes(folder: Path) -> bool:
    try:
        (folder / "probe").touch()
    except OSError:
        return True
    (folder / "probe").unlink()
    return False


@pytest.fixture
def read_only_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder with ``old.txt`` that cannot be written, not even by root where the file system can do that."""
    folder = tmp_path / "read-only"
    folder.mkdir()
    (folder / "old.txt").write_text("old")
    folder.chmod(0o555)
    immutable = False
    if not refuses_writes(folder):
        try:
            immutable = subprocess.run(["chattr", "+i", str(folder)], capture_output=True).returncode == 0
        except FileNotFoundError:
            immutable = False
    try:
        if not refuses_writes(folder):
            pytest.skip("runs as root on a file system without chattr, where every folder can be written")
        yield folder
    finally:
        if immutable:
            subprocess.run(["chattr", "-i", str(folder)], check=True)
        folder.chmod(0o755)


# Success


def test_the_new_content_stands_at_the_path(target: Path) -> None:
    with atomic_path(target) as temporary:
        temporary.write_text("new")
    assert target.read_text() == "new"


def test_the_old_content_stands_until_the_block_ends(target: Path) -> None:
    with atomic_path(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"


def test_the_temporary_file_lies_beside_the_target(target: Path) -> None:
    with atomic_path(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.name.startswith(".")
        assert temporary.name.endswith(".part")


def test_nothing_is_left_beside_the_target(target: Path) -> None:
    with atomic_path(target) as temporary:
        temporary.write_text("new")
    assert names(target.parent) == ["out.txt"]


def test_content_is_on_disk_before_the_move_and_the_name_after_it(
    target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real = Path.replace

    def replace(self: Path, new: Path) -> Path:
        order.append("move")
        return real(self, new)

    monkeypatch.setattr(files.os, "fsync", lambda _: order.append("flush"))
    monkeypatch.setattr(Path, "replace", replace)
    write_text(target, "new")
    assert order == ["flush", "move", "flush"]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_the_mode_follows_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "out.txt", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out.txt").stat().st_mode) == 0o666 & ~mask


@pytest.mark.parametrize("name", ["größe 模型.txt", "a b\n.txt", "x" * 200, "🙂" * 60, "-o", ".hidden"])
def test_any_name_that_the_file_system_takes_will_do(tmp_path: Path, name: str) -> None:
    write_text(tmp_path / name, "new")
    assert names(tmp_path) == [name]


def test_a_relative_path_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_text("out.txt", "new")
    assert (tmp_path / "out.txt").read_text() == "new"


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write_text("~/out.txt", "new")
    assert (tmp_path / "out.txt").read_text() == "new"


def test_a_link_stays_a_link(target: Path) -> None:
    link = target.with_name("link")
    link.symlink_to(target.name)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_link_into_another_folder_is_written_there(target: Path) -> None:
    (target.parent / "sub").mkdir()
    link = target.parent / "sub" / "link"
    link.symlink_to("../out.txt")
    write_text(link, "new")
    assert (target.read_text(), names(link.parent)) == ("new", ["link"])


def test_a_link_to_nothing_yet_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("later.txt")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "later.txt").read_text() == "new"


def test_lines_end_the_same_everywhere(tmp_path: Path) -> None:
    write_text(tmp_path / "out.txt", "a\nb\r\n")
    assert (tmp_path / "out.txt").read_bytes() == b"a\nb\r\n"


def test_what_utf_8_cannot_say_is_escaped(tmp_path: Path) -> None:
    write_text(tmp_path / "out.txt", "größe \udc80")
    assert (tmp_path / "out.txt").read_text(encoding="utf-8") == "größe \\udc80"


def test_of_two_writers_at_once_one_wins_whole(tmp_path: Path) -> None:
    texts = [letter * 500_000 for letter in "abcd"]
    threads = [threading.Thread(target=write_text, args=(tmp_path / "out.txt", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "out.txt").read_text() in texts
    assert names(tmp_path) == ["out.txt"]


# Failure


def write_half(target: Path, failure: BaseException) -> None:
    with atomic_path(target) as temporary:
        temporary.write_text("half")
        raise failure


@pytest.mark.parametrize("failure", [ValueError("bad"), KeyboardInterrupt(), SystemExit(1), MemoryError()])
def test_a_failure_in_the_block_is_passed_on_and_costs_nothing(target: Path, failure: BaseException) -> None:
    with pytest.raises(type(failure)):
        write_half(target, failure)
    assert target.read_text() == "old"
    assert names(target.parent) == ["out.txt"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_full_or_broken_disk_is_named(target: Path, code: int) -> None:
    with pytest.raises(OutputError, match=os.strerror(code)):
        write_half(target, OSError(code, os.strerror(code)))
    assert target.read_text() == "old"
    assert names(target.parent) == ["out.txt"]


def test_a_disk_that_fills_while_flushing_costs_nothing(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(OutputError, match="No space left on device"):
        write_text(target, "new")
    assert target.read_text() == "old"
    assert names(target.parent) == ["out.txt"]


def test_a_block_that_loses_the_temporary_file_says_so(target: Path) -> None:
    with pytest.raises(OutputError, match="No such file"), atomic_path(target) as temporary:
        temporary.unlink()
    assert target.read_text() == "old"


def test_an_existing_file_is_left_if_told_so(target: Path) -> None:
    with pytest.raises(OutputError, match="exists and was left as it is; pass overwrite"):
        write_text(target, "new", overwrite=False)
    assert target.read_text() == "old"


def test_a_new_file_is_written_without_overwriting(tmp_path: Path) -> None:
    write_text(tmp_path / "out.txt", "new", overwrite=False)
    assert (tmp_path / "out.txt").read_text() == "new"


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a folder"):
        write_text(tmp_path, "new")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"the folder .*/no does not exist; create it first"):
        write_text(tmp_path / "no" / "out.txt", "new")


def test_a_file_is_no_folder(target: Path) -> None:
    with pytest.raises(OutputError, match="does not exist; create it first"):
        write_text(target / "out.txt", "new")


def test_a_device_or_pipe_is_refused_and_stays(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="not a regular file"):
        write_text(tmp_path / "pipe", "new")
    assert (tmp_path / "pipe").is_fifo()


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="File name too long"):
        write_text(tmp_path / ("x" * 300), "new")
    assert names(tmp_path) == []


def test_a_read_only_folder_is_refused_and_keeps_its_file(read_only_folder: Path) -> None:
    with pytest.raises(OutputError, match=r"not permitted|denied|Read-only"):
        write_text(read_only_folder / "old.txt", "new")
    assert (read_only_folder / "old.txt").read_text() == "old"


def test_require_writable_gives_the_real_path(target: Path) -> None:
    link = target.with_name("link")
    link.symlink_to(target.name)
    assert require_writable(link) == target.resolve()


# Names


def test_file_names_are_portable() -> None:
    assert file_names(["EleutherAI/pythia-70m", "größe 1", "..", ""]) == {
        "EleutherAI/pythia-70m": "EleutherAI-pythia-70m",
        "größe 1": "gr-e-1",
        "..": "unnamed",
        "": "unnamed-2",
    }


def test_names_that_coincide_get_a_number() -> None:
    assert list(file_names(["a/b", "a b", "A-B"]).values()) == ["a-b", "a-b-2", "A-B-3"]
