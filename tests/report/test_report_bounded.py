"""Large cubes: what is left out of the search for phases, that the rest stays, and that the page says so."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import polystab.testing
from polystab.report.results import bounded
from polystab.report.sections import sections
from polystab.report.summary import summarise


def lines(n_models: int = 2, n_seeds: int = 3, n_steps: int = 12, n_metrics: int = 2) -> xr.Dataset:
    return polystab.testing.phase_cube(
        changes=[], n_models=n_models, n_seeds=n_seeds, steps=range(n_steps), n_metrics=n_metrics, rng=0
    )


def names(cube: xr.Dataset) -> list[str]:
    return [str(name) for name in cube["metric"].values.tolist()]


def test_a_cube_that_is_no_large_one_is_searched_whole() -> None:
    cube = lines()
    found = bounded.for_changes(cube, names(cube))
    assert found.notes == ()
    xr.testing.assert_identical(found.cube, cube)


def test_long_runs_keep_checkpoints_evenly_from_the_first_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MAX_CHECKPOINTS", 4)
    cube = lines(n_steps=10)
    assert bounded.for_changes(cube, names(cube)).cube["step"].values.tolist() == [0, 3, 6, 9]


def test_only_models_with_long_runs_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MAX_CHECKPOINTS", 4)
    cube = lines(n_steps=10)
    cube["value"][0, :, [0, 2, 5, 6, 8, 9]] = np.nan
    values = bounded.for_changes(cube, names(cube)).cube["value"]
    kept = [values["step"].values[~np.isnan(values.values[m, 0, :, 0])].tolist() for m in range(2)]
    assert kept == [[1, 3, 4, 7], [0, 3, 6, 9]]


def test_runs_at_different_checkpoints_each_keep_their_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MAX_CHECKPOINTS", 10)
    cube = lines(n_models=1, n_seeds=2, n_steps=80)
    cube["value"][0, 0, 40:] = np.nan
    cube["value"][0, 1, :40] = np.nan
    values = bounded.for_changes(cube, names(cube)).cube["value"].values
    assert (~np.isnan(values[0, :, :, 0])).sum(axis=1).tolist() == [10, 10]


def test_many_runs_leave_the_first_metrics_and_one_at_least(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = lines(n_metrics=3)
    kept = []
    for most in (12, 1):
        monkeypatch.setattr(bounded, "MAX_CURVES", most)
        kept.append(bounded.for_changes(cube, names(cube)).metrics)
    assert kept == [tuple(names(cube)[:2]), tuple(names(cube)[:1])]


def test_a_map_of_too_many_runs_is_of_the_models_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MAX_MAPPED", 5)
    cube = lines()
    found = bounded.for_map(cube, names(cube), [str(cube["model"].values[1])])
    assert found.cube["model"].values.tolist() == [str(cube["model"].values[1])]
    assert found.notes[0] == "Mapped: the 1 model drawn above, of 2."


def test_a_map_of_models_with_too_many_runs_is_of_the_first_runs_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MAX_MAPPED", 5)
    cube = lines(n_seeds=4)
    cube["value"][0, 0] = np.nan
    found = bounded.for_map(cube, names(cube), [str(name) for name in cube["model"].values])
    there = found.cube["value"].notnull().any(("step", "metric"))
    assert [there["seed"].values[row].tolist() for row in there.values] == [[1, 2], [0, 1]]
    assert "at most 2 runs of each model" in found.notes[0]


def test_a_map_of_many_runs_is_fitted_fewer_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MANY_RUNS", 5)
    assert bounded.restarts_for(lines(n_seeds=2)) > bounded.restarts_for(lines(n_seeds=3))


@pytest.mark.slow
def test_what_was_left_out_stands_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MAX_CURVES", 6)
    summary = summarise(lines())
    (section,) = (section for section in sections(summary) if section.name == "phases")
    assert "in the first one:" in repr(section)
