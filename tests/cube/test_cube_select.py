"""Selecting metrics by what they are about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import polystab as ps
from polystab.errors import NotACubeError, SelectionError
from polystab.testing import synthetic_cube


@pytest.fixture(scope="module")
def suite() -> xr.Dataset:
    weights = ["all", "layers.0.attention.dense", "layers.1.attention.dense", "layers.1.mlp.dense_h_to_4h"]
    return synthetic_cube(tasks=["arc", "arc@5shot", "sciq"], weights=weights, n_models=1, n_seeds=2, rng=0)


@pytest.mark.parametrize(
    ("criteria", "metrics"),
    [
        ({"family": "loss"}, ["loss/validation/cross_entropy"]),
        ({"subject": "sciq"}, ["eval/sciq/acc"]),
        ({"subject": ["sciq", "all"], "measure": ["acc", "l2_norm"]}, ["eval/sciq/acc", "weight/all/l2_norm"]),
        ({"measure": "kurtosis", "layer": -1}, ["weight/all/kurtosis"]),
        (
            {"component": "attention.dense", "measure": "l2_norm"},
            ["weight/layers.0.attention.dense/l2_norm", "weight/layers.1.attention.dense/l2_norm"],
        ),
        ({"layer": [0], "measure": "l2_norm"}, ["weight/layers.0.attention.dense/l2_norm"]),
        ({"shots": 5}, ["eval/arc@5shot/acc"]),
        ({"family": "eval", "shots": 0}, ["eval/arc/acc", "eval/sciq/acc"]),
    ],
)
def test_every_criterion_selects(suite: xr.Dataset, criteria: dict[str, object], metrics: list[str]) -> None:
    assert ps.select(suite, **criteria)["metric"].values.tolist() == metrics  # type: ignore[arg-type]


def test_nothing_asked_is_everything(suite: xr.Dataset) -> None:
    xr.testing.assert_identical(ps.select(suite), suite)


def test_the_selection_is_a_valid_cube(suite: xr.Dataset) -> None:
    assert ps.validate_cube(ps.select(suite, family="weight")) == []


def test_the_input_is_not_changed(suite: xr.Dataset) -> None:
    before = suite.copy(deep=True)
    ps.select(suite, family="eval")
    xr.testing.assert_identical(suite, before)


def test_a_tree_is_selected_from_like_its_cube(suite: xr.Dataset) -> None:
    tree = xr.DataTree.from_dict({"/": suite})
    xr.testing.assert_identical(ps.select(tree, family="eval"), ps.select(suite, family="eval"))


@pytest.mark.parametrize("wanted", [np.array(["arc", "sciq"]), ("arc", "sciq"), {"arc", "sciq"}, iter(["arc", "sciq"])])
def test_any_iterable_lists_wanted_values(suite: xr.Dataset, wanted: object) -> None:
    assert ps.select(suite, subject=wanted).sizes["metric"] == 3  # type: ignore[arg-type]


def test_layers_may_be_numpy_integers(suite: xr.Dataset) -> None:
    assert ps.select(suite, layer=np.int64(0)).sizes["metric"] == 2  # type: ignore[arg-type]


def test_a_close_match_is_suggested(suite: xr.Dataset) -> None:
    with pytest.raises(SelectionError, match=r"no metric has family 'evals'\. Did you mean 'eval'\?"):
        ps.select(suite, family="evals")


def test_what_is_known_is_listed_where_nothing_is_close(suite: xr.Dataset) -> None:
    with pytest.raises(SelectionError, match="Known: 'acc', 'cross_entropy', 'kurtosis', 'l2_norm'"):
        ps.select(suite, measure="xyz")


def test_a_layer_as_text_is_explained(suite: xr.Dataset) -> None:
    with pytest.raises(SelectionError, match="layer numbers are integers"):
        ps.select(suite, layer="0")


def test_criteria_that_exclude_each_other_are_named(suite: xr.Dataset) -> None:
    with pytest.raises(SelectionError, match=r"'family': \['loss'\].*together"):
        ps.select(suite, family="loss", measure="acc")


def test_an_empty_list_is_explained(suite: xr.Dataset) -> None:
    with pytest.raises(SelectionError, match="family lists nothing"):
        ps.select(suite, family=[])


def test_a_cube_without_the_coordinate_is_explained(suite: xr.Dataset) -> None:
    with pytest.raises(SelectionError, match="no coordinate 'shots'"):
        ps.select(suite.drop_vars("shots"), shots=0)


def test_what_is_no_cube_is_refused() -> None:
    with pytest.raises(NotACubeError):
        ps.select(xr.Dataset(), family="eval")


@pytest.mark.slow
def test_a_lazy_cube_stays_lazy(suite: xr.Dataset, tmp_path: Path) -> None:
    ps.save_cube(suite, tmp_path / "cube.nc")
    with ps.open_cube(tmp_path / "cube.nc") as lazy:
        chosen = ps.select(lazy, family="eval")
        assert not chosen["value"].variable._in_memory
        xr.testing.assert_identical(chosen.load(), ps.select(suite, family="eval"))
