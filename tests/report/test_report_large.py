"""A cube that is too large to be read whole: the page is about some of its metrics, and says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import polystab as ps
import polystab.testing
from polystab.analysis import fingerprint, rank_metrics
from polystab.report.results import bounded
from polystab.report.results.computed import analyse
from polystab.report.summary import summarise


def cube_of(n_metric: int = 6) -> xr.Dataset:
    cube = polystab.testing.phase_cube(
        changes=[], slope=1.0, n_models=2, n_seeds=4, steps=range(12), n_metrics=n_metric, rng=0
    )
    cube["value"][1, 3, :, 1:] = np.nan
    return cube


@pytest.fixture
def limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MAX_READ", 2 * 4 * 12 * 2)


@pytest.mark.usefixtures("limited")
def test_the_metrics_that_training_moves_most_are_read() -> None:
    cube = cube_of()
    rank = rank_metrics(cube)["rank"].values
    kept = cube["metric"].values[np.sort(np.argsort(rank)[:2])].tolist()
    assert analyse(cube).cube["metric"].values.tolist() == kept


def test_a_cube_that_fits_is_read_whole() -> None:
    results = analyse(cube_of())
    assert results.cube.sizes["metric"] == 6
    assert results.notes == ()


@pytest.mark.usefixtures("limited")
def test_the_page_says_what_it_leaves_out() -> None:
    said = summarise(cube_of(), sections=["contents"])["contents"]["notes"]
    assert said[0].startswith("This page is about 2 of 6 metrics")


@pytest.mark.usefixtures("limited")
def test_fingerprint_and_contents_are_of_the_whole_cube() -> None:
    cube = cube_of()
    summary = summarise(cube, sections=["contents"])
    assert summary["polystab_report"]["fingerprint"] == fingerprint(cube)
    assert (summary["contents"]["dims"]["metric"], summary["contents"]["cells"]) == (6, cube["value"].size)


@pytest.mark.usefixtures("limited")
def test_copies_are_told_from_all_metrics() -> None:
    rng = np.random.default_rng(0)
    cube = cube_of()
    cube["value"].values[:] = rng.integers(0, 3, size=cube["value"].shape) + 5.0 * np.arange(6)
    cube["value"][0, 2] = cube["value"][0, 0].values
    assert analyse(cube).copies["duplicate_run"].values[0].tolist() == [False, False, True, False]


@pytest.mark.usefixtures("limited")
def test_values_stay_on_disk_but_for_the_metrics_that_are_read(tmp_path: Path) -> None:
    ps.save_cube(cube_of(), tmp_path / "cube.nc")
    with ps.open_tree(tmp_path / "cube.nc") as tree:
        results = analyse(tree)
        assert isinstance(results.cube["value"].variable._data, np.ndarray)
        assert not tree["value"].variable._in_memory


@pytest.mark.slow
@pytest.mark.usefixtures("limited")
def test_a_whole_page_of_a_large_cube_is_written() -> None:
    page = ps.report(cube_of(), format="md")
    assert "This page is about 2 of 6 metrics" in page
