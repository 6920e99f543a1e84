"""What the rows in which a comparison cannot tell would have found."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import xarray as xr

import polystab.testing
from polystab.analysis.comparisons import compare_cubes, undecided_overview
from polystab.analysis.comparisons.verdicts import CANNOT_TELL
from polystab.errors import AnalysisError


@pytest.fixture(scope="module")
def compared() -> xr.Dataset:
    """Two cubes of one recipe, one of which lacks runs of one metric."""
    this, other = (polystab.testing.synthetic_cube(n_models=2, n_seeds=6, rng=rng) for rng in (1, 2))
    value = other["value"].copy()
    value[:, 4:, :, 0] = np.nan
    return compare_cubes(this, other.assign(value=value), n_permutations=19, rng=0)


def test_only_rows_that_stay_open_are_counted(compared: xr.Dataset) -> None:
    found = undecided_overview(compared)
    assert int(found["n_rows"]) == int((compared["verdict"] == CANNOT_TELL).sum()) > 0


def test_power_is_the_median_over_these_rows_in_margins(compared: xr.Dataset) -> None:
    found = undecided_overview(compared)
    for name in ("detectable", "detectable_alone"):
        flat = {key: compared[key].values.ravel() for key in ("verdict", "margin", name)}
        rows = [
            size / margin
            for code, margin, size in zip(flat["verdict"], flat["margin"], flat[name], strict=True)
            if code == CANNOT_TELL
        ]
        assert float(found[name]) == pytest.approx(statistics.median(rows), rel=1e-12)


def test_runs_are_counted_on_each_side(compared: xr.Dataset) -> None:
    found = undecided_overview(compared)
    assert found["n_seeds_least"].sel(side=["this", "other"]).values.tolist() == [6, 4]
    assert found["n_seeds_most"].sel(side=["this", "other"]).values.tolist() == [6, 6]


def test_more_runs_find_smaller_differences() -> None:
    power = {}
    for n in (4, 16):
        pair = (polystab.testing.synthetic_cube(n_models=1, n_seeds=n, rng=rng) for rng in (3, 4))
        power[n] = float(undecided_overview(compare_cubes(*pair, n_permutations=19, rng=0))["detectable"])
    assert power[16] < power[4] / 2


def test_where_nothing_is_open_there_is_nothing_to_say(compared: xr.Dataset) -> None:
    found = undecided_overview(compared.assign(verdict=compared["verdict"] * 0))
    assert (int(found["n_rows"]), int(found["n_known"])) == (0, 0)
    assert np.isnan(found["detectable"])
    assert found["n_seeds_most"].values.tolist() == [0, 0]


def test_something_else_than_a_comparison_is_refused() -> None:
    with pytest.raises(AnalysisError, match=r"no 'verdict', .* give the result of compare_cubes"):
        undecided_overview(xr.Dataset())
