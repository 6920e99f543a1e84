"""How full a cube is, and its fingerprint."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from cubes_of_arrays import make_cube

from polystab.analysis import cube_coverage, fingerprint

METRICS = ["eval/a/acc", "eval/b/acc", "loss/train/ce"]


@pytest.fixture
def holes() -> xr.Dataset:
    value = np.ones((2, 3, 4, 3))
    value[0, 2] = np.nan  # model 0 has two runs
    value[0, :, 3] = np.nan  # and three steps
    value[0, 0, 1, 0] = np.nan  # and one hole
    value[1, :, :, 2] = np.nan  # model 1 has no loss
    value[1, 0, 0, 0] = np.inf  # diverged, but measured
    return make_cube(value, metrics=METRICS)


def test_counts_agree_with_numpy(holes: xr.Dataset) -> None:
    cover = cube_coverage(holes)
    there = ~np.isnan(holes["value"].values)
    assert int(cover["n_measured"]) == there.sum()
    assert float(cover["share"]) == pytest.approx(there.mean())
    assert cover["n_measured_family"].values.tolist() == [there[..., :2].sum(), there[..., 2].sum()]
    assert cover["share_family"].values.tolist() == pytest.approx([there[..., :2].mean(), there[..., 2].mean()])
    np.testing.assert_array_equal(cover["n_runs_at"], there.any(3).sum(1))


def test_a_model_is_measured_against_its_own_runs_steps_and_metrics(holes: xr.Dataset) -> None:
    cover = cube_coverage(holes)
    assert cover["n_runs"].values.tolist() == [2, 3]
    assert cover["n_steps"].values.tolist() == [3, 4]
    assert cover["n_metrics"].values.tolist() == [3, 2]
    assert (cover["first_step"].values.tolist(), cover["last_step"].values.tolist()) == ([0, 0], [2000, 3000])
    assert cover["share_model"].values.tolist() == pytest.approx([17 / 18, 1.0])
    assert cover["share_at"].values[0].tolist() == pytest.approx([1, 5 / 6, 1, 0])
    assert cover["share_at_family"].sel(family="eval").values[0].tolist() == pytest.approx([1, 3 / 4, 1, 0])
    assert np.isnan(cover["share_at_family"].sel(family="loss").values[1]).all()


def test_an_empty_cube_has_nothing_and_says_so() -> None:
    cover = cube_coverage(make_cube(np.full((1, 2, 2, 1), np.nan)))
    assert (float(cover["share"]), int(cover["n_runs"][0]), int(cover["last_step"][0])) == (0, 0, -1)
    assert np.isnan(cover["share_model"][0])


def test_families_are_listed_in_the_order_of_the_specification() -> None:
    cover = cube_coverage(make_cube(np.ones((1, 1, 1, 2)), metrics=["loss/a/x", "eval/a/x"]))
    assert cover["family"].values.tolist() == ["eval", "loss"]


def test_the_fingerprint_is_of_labels_and_numbers_only() -> None:
    value = np.random.default_rng(0).normal(size=(1, 2, 2, 1))
    cube = make_cube(value)
    other = value.copy()
    other[0, 0, 0, 0] = np.nextafter(other[0, 0, 0, 0], 9)
    assert fingerprint(cube) == fingerprint(cube.assign_attrs(title="other")) == fingerprint(xr.DataTree(cube))
    assert fingerprint(cube) != fingerprint(make_cube(other))
    assert fingerprint(cube) != fingerprint(cube.assign_coords(seed=[0, 2]))
    assert fingerprint(cube) != fingerprint(make_cube(value, stderr=np.full(value.shape, 0.1)))
