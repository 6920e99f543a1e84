"""The audit: what was read, refused or replaced, and why."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
import xarray as xr

import polystab as ps
from polystab.cube.audit import AuditEntry, AuditLog, audit_entries, audit_facts


@pytest.fixture
def log() -> AuditLog:
    log = AuditLog()
    log.refuse("z.json", "truncated", "ends in the middle", sha256="ff")
    log.replace("b.json", "latest", {"m|0|1|eval/arc/acc": float("inf"), "m|0|0|eval/arc/acc": 0.1}, by="c.json")
    log.note("a.json", "no-config", "model taken from the path")
    log.read("a.json", sha256="aa", detail="12 values")
    return log


def test_entries_are_sorted_by_path(log: AuditLog) -> None:
    assert log.dataset()["path"].values.tolist() == ["a.json", "a.json", "b.json", "z.json"]


def test_the_order_of_events_does_not_matter(log: AuditLog) -> None:
    assert AuditLog(log.entries[::-1]).dataset().identical(log.dataset())


def test_entries_come_back_as_they_went_in(log: AuditLog) -> None:
    assert set(audit_entries(log.dataset())) == set(log.entries)


@pytest.mark.slow
def test_entries_survive_a_file(log: AuditLog, cube: xr.Dataset, tmp_path: Path) -> None:
    ps.save_cube(xr.DataTree.from_dict({"/": cube, "/audit": log.dataset()}), tmp_path / "cube.nc")
    with ps.open_tree(tmp_path / "cube.nc") as tree:
        assert set(audit_entries(tree)) == set(log.entries)


@pytest.mark.slow
def test_an_empty_audit_survives_a_file(cube: xr.Dataset, tmp_path: Path) -> None:
    ps.save_cube(xr.DataTree.from_dict({"/": cube, "/audit": AuditLog().dataset()}), tmp_path / "cube.nc")
    with ps.open_tree(tmp_path / "cube.nc") as tree:
        assert audit_entries(tree) == []


@pytest.mark.slow
@pytest.mark.parametrize("text", ["größe/模型.json", "a\0b.json", "a\udc80.json", "line\nbreak", "x" * 4000])
def test_any_path_and_detail_can_be_saved(text: str, cube: xr.Dataset, tmp_path: Path) -> None:
    log = AuditLog()
    log.refuse(text, "not-json", text)
    ps.save_cube(xr.DataTree.from_dict({"/": cube, "/audit": log.dataset()}), tmp_path / "cube.nc")
    with ps.open_tree(tmp_path / "cube.nc") as tree:
        (entry,) = audit_entries(tree)
    shown = text.replace("\0", r"\x00").replace("\udc80", r"\udc80")
    assert (entry.path, entry.detail) == (shown, shown)


def test_no_tree_and_no_audit_give_no_entries(cube: xr.Dataset) -> None:
    assert audit_entries(None) == []
    assert audit_entries(xr.DataTree.from_dict({"/": cube})) == []


def test_facts_count_and_list(log: AuditLog, cube: xr.Dataset) -> None:
    facts = audit_facts(xr.DataTree.from_dict({"/": cube, "/audit": log.dataset()}))
    assert (facts["files"], facts["read"], facts["values"]) == (2, 1, 24)
    assert facts["refused"] == [{"path": "z.json", "reason": "truncated", "detail": "ends in the middle"}]
    assert facts["noted"] == [{"path": "a.json", "reason": "no-config", "detail": "model taken from the path"}]
    (replaced,) = facts["replaced"]
    assert (replaced["path"], replaced["reason"], replaced["by"]) == ("b.json", "duplicate-latest", "c.json")
    assert replaced["values"] == {"m|0|0|eval/arc/acc": 0.1, "m|0|1|eval/arc/acc": "inf"}


def test_facts_of_a_tree_without_audit_are_empty(cube: xr.Dataset) -> None:
    facts = audit_facts(xr.DataTree.from_dict({"/": cube}))
    assert (facts["files"], facts["refused"], facts["replaced"], facts["noted"]) == (0, [], [], [])


def test_an_entry_cannot_be_changed() -> None:
    entry = AuditEntry("a.json", "read")
    with pytest.raises(AttributeError):
        entry.status = "refused"  # type: ignore[misc]


def test_facts_are_plain_json_even_where_a_run_diverged(log: AuditLog, cube: xr.Dataset) -> None:
    facts = audit_facts(xr.DataTree.from_dict({"/": cube, "/audit": log.dataset()}))
    assert "Infinity" not in json.dumps(facts)


def lossy_log(cells: int, rule: str = "last") -> AuditLog:
    log = AuditLog()
    log.replace("a.csv", rule, {f"m|{seed}|0|eval/arc/acc": seed / 7 for seed in range(cells)}, by="b.csv")
    return log


@pytest.mark.slow
@pytest.mark.parametrize("cells", [1, 50, 51, 100, 12_345])
def test_a_list_of_losses_of_any_length_is_one_entry(cells: int) -> None:
    log = lossy_log(cells)
    assert audit_entries(log.dataset()) == log.entries


def test_a_long_list_of_losses_is_stored_in_short_rows() -> None:
    rows = lossy_log(12_345).dataset()
    assert rows.sizes["entry"] == 247
    assert max(len(text) for text in rows["detail"].values.tolist()) < 4000


def test_long_lists_of_several_files_stay_apart() -> None:
    log = AuditLog([*lossy_log(200).entries, *lossy_log(200, "first").entries])
    log.replace("a.csv", "last", {f"n|{seed}|0|eval/arc/acc": 1.0 for seed in range(200)}, by="c.csv")
    assert audit_entries(log.dataset()) == sorted(log.entries)


def test_a_cell_lost_twice_stays_lost_twice() -> None:
    log = AuditLog()
    for value in (0.1, 0.2):
        log.replace("a.csv", "last", {"m|0|0|eval/arc/acc": value}, by="b.csv")
    assert audit_entries(log.dataset()) == log.entries


def test_any_other_detail_is_cut_when_it_is_stored() -> None:
    log = AuditLog()
    log.refuse("a.json", "invalid-json", "x" * 1_000_000)
    (entry,) = audit_entries(log.dataset())
    assert entry.detail == "x" * 4000 + "... and 996,000 more characters"


@pytest.mark.slow
def test_a_long_list_of_losses_among_many_files_fits_in_memory(cube: xr.Dataset, tmp_path: Path) -> None:
    """xarray reads a column of texts as wide as its longest: 8,000 rows of 6 MB would take 190 GB."""
    log = lossy_log(100_000)
    for number in range(8000):
        log.read(f"results/{number}.json", sha256=f"{number:064x}")
    tracemalloc.start()
    try:
        ps.save_cube(xr.DataTree.from_dict({"/": cube, "/audit": log.dataset()}), tmp_path / "cube.nc")
        with ps.open_tree(tmp_path / "cube.nc") as tree:
            assert audit_entries(tree) == sorted(log.entries)
        assert tracemalloc.get_traced_memory()[1] < 300e6
    finally:
        tracemalloc.stop()
    assert (tmp_path / "cube.nc").stat().st_size < 5e6
