"""Which metrics of a large cube are read at a time, and that describing and checking one reads it so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import polystab as ps
import polystab.testing
from polystab.cube import describe, parts
from polystab.cube.describe import cube_facts, cube_text
from polystab.cube.parts import measured_runs, metric_slices, value_parts


def cube_of(n_metric: int = 8) -> xr.Dataset:
    return polystab.testing.phase_cube(changes=[], n_models=2, n_seeds=3, steps=range(4), n_metrics=n_metric, rng=0)


METRIC_BYTES = 8 * 2 * 3 * 4


def widths(cube: xr.Dataset, n: int, **options: int) -> list[int]:
    found = metric_slices(cube, max_bytes=n * METRIC_BYTES, **options)
    assert [part.start for part in found[1:]] == [part.stop for part in found[:-1]]
    assert (found[0].start, found[-1].stop) == (0, cube.sizes["metric"])
    return [part.stop - part.start for part in found]


def test_a_small_cube_is_one_part() -> None:
    assert metric_slices(cube_of()) == [slice(0, 8)]


def test_a_part_is_as_large_as_allowed() -> None:
    assert widths(cube_of(), 3) == [3, 3, 2]


def test_no_part_has_a_single_metric() -> None:
    assert widths(cube_of(7), 3) == [3, 4]
    assert widths(cube_of(), 1) == [2, 2, 2, 2]


def test_a_cube_of_one_metric_is_one_part() -> None:
    assert metric_slices(cube_of(1), max_bytes=1) == [slice(0, 1)]


def test_parts_begin_at_multiples() -> None:
    assert widths(cube_of(11), 5, multiple=4) == [4, 4, 3]


def test_parts_end_where_chunks_of_the_file_end() -> None:
    cube = cube_of(11)
    cube["value"].encoding["chunksizes"] = (2, 3, 4, 3)
    assert widths(cube, 5) == [3, 3, 3, 2]


def test_a_chunk_larger_than_a_part_is_cut() -> None:
    cube = cube_of(6)
    cube["value"].encoding["chunksizes"] = (2, 3, 4, 100)
    assert widths(cube, 3) == [3, 3]


def test_parts_together_are_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 3 * METRIC_BYTES)
    cube = cube_of()
    joined = np.concatenate([values for _, values in value_parts(cube)], axis=3)
    np.testing.assert_array_equal(joined, cube["value"].values)


def test_dimensions_in_another_order_are_put_right() -> None:
    cube = cube_of()
    ((_, values),) = value_parts(cube.transpose("metric", "step", "seed", "model"))
    np.testing.assert_array_equal(values, cube["value"].values)


def test_infinite_values_count_as_measured() -> None:
    cube = cube_of()
    cube["value"][0, 1] = np.nan
    cube["value"][1, 2] = np.inf
    assert measured_runs(cube).tolist() == [[True, False, True], [True, True, True]]


def test_a_large_cube_is_described_by_some_of_its_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe, "READ_WHOLE", 4 * METRIC_BYTES)
    monkeypatch.setattr(describe, "READ_SOME", 2 * METRIC_BYTES)
    facts = cube_facts(cube_of())
    assert (facts["looked_at"], facts["coverage"]) == (2, 1.0)
    assert "about 100 % of all cells, seen in 2 of 8 metrics: it is large" in cube_text(facts)


def test_every_family_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(describe, "READ_WHOLE", 1)
    monkeypatch.setattr(describe, "READ_SOME", 1)
    cube = polystab.testing.synthetic_cube(rng=0)
    facts = cube_facts(cube)
    assert all(0 <= facts["coverage_by_family"][name] <= 1 for name in facts["families"])
    assert facts["looked_at"] < cube.sizes["metric"]


def test_a_cube_that_is_looked_at_whole_does_not_say_about() -> None:
    facts = cube_facts(cube_of())
    assert facts["looked_at"] == 8
    assert "about" not in cube_text(facts)


def test_values_are_checked_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cube = cube_of()
    cube["stderr"] = xr.full_like(cube["value"], 0.1)
    cube["stderr"][0, 0, 0, [1, 6]] = -1.0
    cube["stderr"][0, 0, 1, 5] = np.inf
    monkeypatch.setattr(parts, "PART_BYTES", 3 * METRIC_BYTES)
    found = {violation.code: violation.message for violation in ps.validate_cube(cube)}
    assert found["negative-stderr"].startswith("2 cells")
    assert found["infinite-stderr"].startswith("1 cells")
