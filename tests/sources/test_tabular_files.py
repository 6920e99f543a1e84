"""Files in whatever state they are found: what is read, what is refused, and under which code."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from pathlib import Path

import numpy as np
import pytest

from polystab.errors import RefusedFileError
from polystab.sources import tabular_files
from polystab.sources.tabular_files import ABSENT, peek_columns, read_tabular


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def reason(path: Path) -> str:
    with pytest.raises(RefusedFileError) as caught:
        read_tabular(path)
    assert caught.value.detail
    return caught.value.reason


def test_csv_cells_are_text_by_column(tmp_path):
    table, _ = read_tabular(write(tmp_path, "a.csv", "step,loss\n0,1.50\n1,nan\n"))
    assert table.columns == {"step": ["0", "1"], "loss": ["1.50", "nan"]}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "step,loss\n0,1\n"),
        ("a.csv", "step;loss\n0;1\n"),
        ("a.csv", "step\tloss\n0\t1\n"),
        ("a.tsv", "step\tloss\n0\t1\n"),
        ("a.csv", "\ufeffstep,loss\n0,1\n"),
        ("a.csv", "step,loss\r\n0,1\r\n"),
        ("a.csv", '\n\n"step", loss \n"0",1'),
        ("a.log", '{"step": "0", "loss": "1"}\n'),
        ("a.json", '{"step": "0", "loss": "1"}\n{"step": "0", "loss": "1"}\n'),
        ("a.json", '[{"step": "0",\n "loss": "1"}]'),
    ],
)
def test_dialect_is_found(tmp_path, name, text):
    table, _ = read_tabular(write(tmp_path, name, text))
    assert {column: cells[0] for column, cells in table.columns.items()} == {"step": "0", "loss": "1"}


@pytest.mark.parametrize("name", ["a.csv.gz", "a.csv"])
def test_gzip_is_known_by_content(tmp_path, name):
    table, _ = read_tabular(write(tmp_path, name, gzip.compress(b"step,loss\n0,1\n")))
    assert table.columns == {"step": ["0"], "loss": ["1"]}


@pytest.mark.parametrize(
    "content", [b"step,loss\n0,1\n", gzip.compress(b"step,loss\n0,1\n", mtime=0)], ids=["plain", "gzip"]
)
def test_hash_is_of_the_whole_file(tmp_path, content):
    _, digest = read_tabular(write(tmp_path, "a.csv", content))
    assert digest == hashlib.sha256(content).hexdigest()


def test_refusal_carries_the_hash_of_the_whole_file(tmp_path):
    content = b"a,a\n" + b"1,2\n" * 200_000
    with pytest.raises(RefusedFileError) as caught:
        read_tabular(write(tmp_path, "a.csv", content))
    assert caught.value.sha256 == hashlib.sha256(content).hexdigest()


UNUSABLE = [
    ("a.csv", b"", "empty"),
    ("a.csv", b"\n \n", "empty"),
    ("a.csv.gz", gzip.compress(b""), "empty"),
    ("a.csv", b"step,loss\n", "no-rows"),
    ("a.csv", b"step,loss\n1\n2\n", "no-rows"),
    ("a.jsonl", b"not json\nneither\n", "no-rows"),
    ("a.csv", b"step,loss,loss\n0,1,2\n", "duplicate-columns"),
    ("a.csv", "step,löss\n0,1\n".encode("latin-1"), "not-utf8"),
    ("a.csv", "step,loss\n0,1\n".encode("utf-16"), "not-utf8"),
    ("a.csv", b"PK\x03\x04\x00\x00\x00", "binary"),
    ("a.csv", b"step,loss\n" + b'0,"1\n' + b"1,2\n" * 50, "malformed-csv"),
    ("a.csv", b'"step,loss\n0,1\n', "malformed-csv"),
    (
        "a.csv.gz",
        gzip.compress(b"step,loss\n" + np.random.default_rng(0).bytes(9000).hex().encode())[:-3000],
        "truncated-gzip",
    ),
    ("a.csv.gz", b"\x1f\x8b\x08 not gzip at all", "damaged-gzip"),
    ("a.json", b'{"log_history": [{"step": 1, "lo', "invalid-json"),
    ("a.json", b'{"log_history": []}', "no-rows"),
    ("a.json", b'{\n"epochs": 3}', "unknown-format"),
    ("a.json", b"3\n", "unknown-format"),
    ("a.json", b"[" * 100_000, "too-deep"),
]


@pytest.mark.parametrize(
    ("name", "content", "expected"), UNUSABLE, ids=[f"{reason}-{i}" for i, (_, _, reason) in enumerate(UNUSABLE)]
)
def test_unusable_file_is_refused_under_its_code(tmp_path, name, content, expected):
    assert reason(write(tmp_path, name, content)) == expected


def test_random_bytes_are_refused(tmp_path):
    assert reason(write(tmp_path, "a.csv", bytes(range(256)) * 100)) in ("not-utf8", "binary")


def test_file_that_vanished_is_unreadable(tmp_path):
    assert reason(tmp_path / "gone.csv") == "unreadable"


def test_pipe_is_refused_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    assert reason(tmp_path / "pipe.csv") == "unreadable"


def test_error_while_reading_is_a_refusal(tmp_path, monkeypatch):
    def fail(self, buffer):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(tabular_files._HashedReader, "readinto", fail)
    assert reason(write(tmp_path, "a.csv", "step,loss\n0,1\n")) == "unreadable"


def test_endless_line_is_refused_before_it_is_held(tmp_path, monkeypatch):
    monkeypatch.setattr(tabular_files, "MAX_LINE", 1000)
    assert reason(write(tmp_path, "a.csv", "step,loss\n0," + "1" * 5000)) == "line-too-long"


def test_json_document_may_be_one_long_line(tmp_path, monkeypatch):
    monkeypatch.setattr(tabular_files, "MAX_LINE", 1000)
    table, _ = read_tabular(write(tmp_path, "a.json", json.dumps([{"step": i} for i in range(500)])))
    assert len(table) == 500


def test_endless_field_is_refused(tmp_path):
    assert reason(write(tmp_path, "a.csv", "step,loss\n0," + "1" * 200_000)) == "malformed-csv"


def test_huge_json_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tabular_files, "MAX_JSON", 1000)
    assert reason(write(tmp_path, "a.json", json.dumps([{"step": i} for i in range(500)], indent=1))) == "too-large"


def test_json_lines_are_not_limited_as_a_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(tabular_files, "MAX_JSON", 1000)
    table, _ = read_tabular(write(tmp_path, "a.log", '{"step": 1, "loss": 2}\n' * 500))
    assert len(table) == 500


def test_lines_of_another_width_are_left_out_and_counted(tmp_path):
    table, _ = read_tabular(write(tmp_path, "a.csv", "step,loss\n0,1\n1\n2,3,4\n\n5,6\n7"))
    assert table.columns["step"] == ["0", "5"]
    assert table.notes == [("broken-lines", "3 left out, first line 3: 1 fields where the header has 2.")]


def test_csv_cut_inside_a_quote_keeps_the_lines_before(tmp_path):
    table, _ = read_tabular(write(tmp_path, "a.csv", 'step,loss\n"0","1"\n"1","2'))
    assert table.columns["step"] == ["0"]
    assert table.notes[0][0] == "broken-lines"


def test_json_lines_cut_in_the_middle_keep_the_rest(tmp_path):
    table, _ = read_tabular(write(tmp_path, "a.jsonl", '{"step": 0}\n[1]\n{"step": 1}\n{"step": 2, "lo'))
    assert table.columns["step"] == [0, 1]
    assert table.lines == [1, 3]
    assert table.notes[0][1].startswith("2 left out, first line 2")


def test_json_line_with_a_key_twice_is_broken(tmp_path):
    table, _ = read_tabular(write(tmp_path, "a.jsonl", '{"loss": 1, "loss": 2}\n{"loss": 3}\n'))
    assert table.columns["loss"] == [3]


def test_zeros_that_a_crash_left_are_a_broken_line(tmp_path):
    table, _ = read_tabular(write(tmp_path, "a.jsonl", b'{"step": 0}\n' + b"\0" * 4096))
    assert len(table) == 1


def test_deeply_nested_line_is_broken(tmp_path):
    table, _ = read_tabular(write(tmp_path, "a.jsonl", '{"step": 0}\n{"a": ' + "[" * 100_000 + "\n"))
    assert table.notes[0][0] == "broken-lines"


def test_entry_of_a_list_that_is_no_object_is_broken(tmp_path):
    table, _ = read_tabular(write(tmp_path, "a.json", '[{"step": 0}, 3]'))
    assert table.notes == [("broken-lines", "1 left out, first entry 2: a int where an object is expected.")]


def test_labels_are_held_once_however_many_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(tabular_files, "_CHUNK", 4)
    rows = [f"run{i % 3},{i}" for i in range(50)]
    table, _ = read_tabular(write(tmp_path, "a.csv", "run,step\n" + "\n".join(rows)))
    assert table.columns["step"] == [str(i) for i in range(50)]
    assert table.columns["run"] == [f"run{i % 3}" for i in range(50)]


def test_missing_key_is_not_null(tmp_path):
    table, _ = read_tabular(write(tmp_path, "a.jsonl", '{"a": 1}\n{"a": null, "b": 2}\n'))
    assert table.columns == {"a": [1, None], "b": [ABSENT, 2]}


def test_nested_objects_become_paths(tmp_path):
    table, _ = read_tabular(write(tmp_path, "a.jsonl", '{"train": {"loss": 3, "grad": {"norm": 1}}, "step": 0}\n'))
    assert list(table.columns) == ["train/loss", "train/grad/norm", "step"]


def test_unnamed_columns_get_names_of_their_own(tmp_path):
    table, _ = read_tabular(write(tmp_path, "a.csv", ",step,\n0,1,2\n"))
    assert list(table.columns) == ["column 1 (unnamed)", "step", "column 3 (unnamed)"]


def test_line_numbers_count_from_the_top_of_the_file(tmp_path):
    table, _ = read_tabular(write(tmp_path, "a.csv", '\nstep,note\n0,"two\nlines"\n1,x\n'))
    assert table.lines == [4, 5]


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        (b"step,loss\n0,1\n", ["step", "loss"]),
        (gzip.compress(b"step,loss\n" + b"0,1\n" * 100_000), ["step", "loss"]),
        (b'{"step": 1, "loss": 2}\n', ["step", "loss"]),
        (b'{\n "epoch": 1,\n "log_history": [', ["log_history"]),
        (b'{"step": ', []),
        (b"", []),
        (b"\x1f\x8b\x08 not gzip", []),
        (b'"open', ["open"]),
    ],
    ids=range(8),
)
def test_peek_reads_column_names_from_the_first_bytes(tmp_path, content, columns):
    assert peek_columns(write(tmp_path, "a.csv", content)) == columns


def test_peek_at_nothing_gives_nothing(tmp_path):
    assert peek_columns(tmp_path) == []
    assert peek_columns(tmp_path / "gone.csv") == []
