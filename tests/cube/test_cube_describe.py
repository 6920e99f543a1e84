"""What is in a cube, as facts and in words."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

import polystab as ps
from polystab.cube.describe import coverage_sentence, cube_facts, cube_text, fullness
from polystab.errors import NotACubeError
from polystab.testing import synthetic_cube

Make = Callable[..., xr.Dataset]


def test_fullness_is_the_share_of_measured_cells(one: Make) -> None:
    assert fullness(one(0.5)) == 1.0
    assert fullness(one([0.5, 0.6, np.nan], seed=[0, 1, 2], step=[0, 0, 10])) == pytest.approx(2 / 6)


def test_an_infinite_value_is_measured(one: Make) -> None:
    assert fullness(one(np.inf)) == 1.0


def test_the_sentence_counts_runs_and_cells(one: Make) -> None:
    cube = one([0.1, 0.2, 0.3], model=["a", "a", "b"], seed=[0, 1, 1])
    assert coverage_sentence(cube) == (
        "3 runs; 3 of 4 cells (2 models x 2 seeds x 1 step x 1 metric) are measured, 75 %."
    )


@pytest.mark.parametrize(("missing", "percent"), [(0, "100 %"), (1, "99.9 %"), (2999, "0.033 %")])
def test_only_a_full_cube_is_said_to_be_full(one: Make, missing: int, percent: str) -> None:
    values = np.full(3000, 0.5)
    values[:missing] = np.nan
    assert coverage_sentence(one(values, seed=range(3000))).endswith(f"measured, {percent}.")


def test_facts_list_every_label(cube: xr.Dataset) -> None:
    facts = cube_facts(cube)
    assert facts["dims"] == {"model": 2, "seed": 3, "step": 2, "metric": 2}
    assert facts["models"] == ["pythia-70m", "pythia-1b"]
    assert facts["seeds"] == [0, 1, 2]
    assert facts["steps"] == [0, 1000]
    assert facts["families"] == ["eval", "loss"]
    assert facts["coverage"] == 1.0
    assert facts["runs"] == {"pythia-70m": [0, 1, 2], "pythia-1b": [0, 1, 2]}


def test_a_run_without_values_is_not_listed(one: Make) -> None:
    assert cube_facts(one([0.1, 0.2], model=["a", "b"], seed=[0, 1]))["runs"] == {"a": [0], "b": [1]}


def test_facts_are_plain_json(cube: xr.Dataset) -> None:
    facts = cube_facts(cube.assign_attrs(number=np.int64(3)))
    assert json.loads(json.dumps(facts)) == facts


def test_facts_of_a_tree_name_its_groups(tree: xr.DataTree) -> None:
    assert cube_facts(tree)["groups"] == ["audit", "spectra"]


def test_the_text_has_the_title_and_the_size() -> None:
    cube = synthetic_cube(n_models=1, n_seeds=3, rng=0)
    text = cube_text(cube_facts(cube))
    assert cube.attrs["title"] in text
    assert "1 model x 3 seeds x 27 steps" in text


def test_what_is_no_cube_is_refused() -> None:
    with pytest.raises(NotACubeError):
        fullness(xr.Dataset())


def test_describing_does_not_change_the_cube(cube: xr.Dataset) -> None:
    before = cube.copy(deep=True)
    cube_text(cube_facts(cube))
    coverage_sentence(cube)
    assert ps.validate_cube(cube) == []
    xr.testing.assert_identical(cube, before)
