"""The log of a monitored run, when its disk is full."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from polystab.errors import OutputError
from polystab.monitor.logbook import Logbook


class FullDisk:
    """A file that takes half a row, and no more."""

    def __init__(self, file: Any) -> None:
        self.file = file

    def write(self, text: str) -> None:
        self.file.write(text[: len(text) // 2])
        self.file.flush()
        raise OSError(28, "No space left on device")

    def close(self) -> None:
        self.file.close()
        raise OSError(28, "No space left on device")


@pytest.fixture
def book(tmp_path: Path) -> Logbook:
    book = Logbook(tmp_path / "log.jsonl")
    book.start(0)
    book.write({"step": 1})
    book._file = FullDisk(book._file)  # type: ignore[assignment]
    return book


def test_a_full_disk_does_not_end_the_training_and_is_said_once(
    book: Logbook, caplog: pytest.LogCaptureFixture
) -> None:
    book.write({"step": 2})
    book._file = FullDisk(book.path.open("a"))  # type: ignore[assignment]
    book.write({"step": 3})
    assert book.lost == 2
    assert len(caplog.records) == 1
    assert "No space left on device" in caplog.text


def test_rows_after_a_full_disk_can_be_read(book: Logbook) -> None:
    book.write({"step": 2})
    book.write({"step": 3})
    book.write({"step": 4})
    book.close()
    found = []
    for line in book.path.read_text().splitlines():
        try:
            found.append(json.loads(line)["step"])
        except ValueError:
            continue
    assert found == [1, 3, 4]


def test_a_folder_that_cannot_be_made_is_said_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        Logbook(tmp_path / "file" / "log.jsonl").start(0)
