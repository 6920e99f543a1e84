"""Pictures of two cubes against each other."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import polystab as ps
import polystab.testing
from polystab import plots
from polystab.analysis.comparisons import compare_cubes
from polystab.errors import AnalysisError
from polystab.plots.comparisons import both_bands, ordered_rows, rows_to_draw


@pytest.fixture(scope="module")
def cubes() -> tuple[xr.Dataset, xr.Dataset]:
    one, two = (polystab.testing.synthetic_cube(n_models=2, n_seeds=5, rng=rng) for rng in (0, 1))
    value = two["value"].values.copy()
    value[..., 0] -= 5  # the first metric is an accuracy
    return one, two.assign(value=(two["value"].dims, value, two["value"].attrs))


@pytest.fixture(scope="module")
def found(cubes: tuple[xr.Dataset, xr.Dataset]) -> xr.Dataset:
    return compare_cubes(*cubes, rng=0)


def test_rows_that_got_worse_come_first(found: xr.Dataset) -> None:
    assert {metric for _, metric in ordered_rows(found)[:2]} == {0}


def test_every_row_has_a_place_in_the_order(found: xr.Dataset) -> None:
    assert sorted(ordered_rows(found)) == sorted(np.ndindex(found["verdict"].shape))


def test_as_many_rows_are_drawn_as_asked_for(found: xr.Dataset) -> None:
    assert len(plots.differences(found, limit=3).axes[0].get_yticks()) == 3


def test_evaluations_and_losses_are_drawn_before_others(found: xr.Dataset) -> None:
    families = [str(found["family"].values[k]) for _, k in rows_to_draw(found, limit=100)]
    first = [family in ("eval", "loss") for family in families]
    assert first == sorted(first, reverse=True)


def test_a_mark_points_down_where_the_other_cube_is_worse(found: xr.Dataset) -> None:
    ax = plots.differences(found, limit=1).axes[0]
    assert [line.get_marker() for line in ax.lines if line.get_marker() not in ("None", "")] == ["v"]


def test_nothing_to_test_is_said(cubes: tuple[xr.Dataset, xr.Dataset]) -> None:
    figure = plots.differences(compare_cubes(cubes[0], cubes[0], rng=0))
    assert plots.describe_picture(figure) == "No difference could be tested."


def test_words_name_the_largest_differences(found: xr.Dataset) -> None:
    assert str(found["metric"].values[0]) in plots.describe_differences(found)


def test_what_is_no_comparison_is_refused(cubes: tuple[xr.Dataset, xr.Dataset]) -> None:
    with pytest.raises(AnalysisError, match="compare_cubes"):
        plots.differences(cubes[0])


def test_bands_of_both_cubes_are_those_of_each(cubes: tuple[xr.Dataset, xr.Dataset]) -> None:
    metric, model = str(cubes[0]["metric"].values[1]), str(cubes[0]["model"].values[0])
    both = both_bands(*cubes, metric=metric, model=model)
    assert both["model"].values.tolist() == [f"this: {model}", f"other: {model}"]
    for place, cube in enumerate(cubes):
        alone = ps.seed_band(cube) if hasattr(ps, "seed_band") else ps.analysis.seed_band(cube)
        expected = alone["value"].sel(model=model, metric=metric)
        np.testing.assert_array_equal(both["value"].isel(model=place, metric=0), expected)


def test_a_step_of_one_cube_is_not_measured_in_the_other(cubes: tuple[xr.Dataset, xr.Dataset]) -> None:
    metric, model = str(cubes[0]["metric"].values[1]), str(cubes[0]["model"].values[0])
    both = both_bands(cubes[0], cubes[1].isel(step=slice(2, None)), metric=metric, model=model)
    assert both.sizes["step"] == cubes[0].sizes["step"]
    assert not both["shared"].values[1, :2].any()


def test_both_curves_are_drawn_and_described(cubes: tuple[xr.Dataset, xr.Dataset]) -> None:
    metric, model = str(cubes[0]["metric"].values[1]), str(cubes[0]["model"].values[0])
    figure = plots.compared_curves(*cubes, metric=metric, model=model)
    said = plots.describe_picture(figure)
    assert said.startswith(f"this: {model}: median")
    assert f"other: {model}: median" in said
