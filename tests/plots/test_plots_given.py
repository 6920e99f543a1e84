"""What pictures restore of cubes and results of which one label was selected."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import polystab.testing
from polystab.errors import AnalysisError
from polystab.plots.given import whole_cube, whole_result


@pytest.mark.parametrize("dim", ["model", "seed", "step", "metric"])
def test_a_cube_is_what_a_list_of_the_label_would_have_given(dim: str) -> None:
    cube = polystab.testing.synthetic_cube(n_models=2, n_seeds=3, rng=0)
    found, wanted = whole_cube(cube.isel({dim: 0})), cube.isel({dim: [0]})
    xr.testing.assert_equal(found["value"], wanted["value"])
    assert {name: found[name].dims for name in wanted.coords} == {name: wanted[name].dims for name in wanted.coords}


def test_a_whole_result_is_handed_back_as_it_is() -> None:
    data = xr.Dataset({"n": (("model", "seed"), np.ones((1, 2)))}, coords={"model": ["a"], "seed": [0, 1]})
    assert whole_result(data, {"n": ("model", "seed")}, "that") is data


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (xr.Dataset({"m": 1}), "lacks 'n'"),
        (xr.Dataset({"n": ("seed", [1])}, coords={"seed": [0]}), r"isel\(model=\[0\]\)"),
        ([1, 2], "got list"),
    ],
)
def test_what_is_no_such_result_is_refused(data: object, said: str) -> None:
    with pytest.raises(AnalysisError, match=said):
        whole_result(data, {"n": ("model", "seed")}, "that")
