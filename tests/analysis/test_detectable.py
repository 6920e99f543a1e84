"""What a comparison can find: the noncentral t as oracle, simulated power, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from statsmodels.stats.power import TTestIndPower, TTestPower

from polystab.analysis.bootstrap import multibootstrap
from polystab.analysis.bootstrap.detectable import detectable_difference, sizes_needed
from polystab.errors import AnalysisError

PARTS = {"seed": 1e-4, "item": 0.05, "seed:item": 0.2}


def parts(seed: float, item: float, crossed: float, design: str = "unpaired") -> xr.Dataset:
    return xr.Dataset(
        {"variance": ("part", [seed, item, crossed])},
        coords={"part": ["seed", "item", "seed:item"]},
        attrs={"design": design},
    )


@pytest.mark.parametrize("n", [3, 10, 40])
@pytest.mark.parametrize("power", [0.5, 0.8, 0.95])
def test_seeds_alone_are_the_two_sample_t_test_of_statsmodels(n: int, power: float) -> None:
    found = detectable_difference(parts(2.0, 0, 0), n_seeds=n, n_items=10, power=power)
    expected = TTestIndPower().solve_power(nobs1=n, alpha=0.05, power=power)
    assert found["difference"].item() == pytest.approx(expected, rel=1e-3)
    assert found["df"].item() == pytest.approx(2 * (n - 1))


def test_paired_seeds_alone_are_the_one_sample_t_test_of_statsmodels() -> None:
    found = detectable_difference(parts(1.0, 0, 0, "paired"), n_seeds=8, n_items=10)
    assert found["difference"].item() == pytest.approx(
        TTestPower().solve_power(nobs=8, alpha=0.05, power=0.8), rel=1e-3
    )


def test_items_alone_are_the_one_sample_t_test_of_statsmodels() -> None:
    found = detectable_difference(parts(0, 1.0, 0), n_seeds=8, n_items=30)
    expected = TTestPower().solve_power(nobs=30, alpha=0.05, power=0.8)
    assert found["difference"].item() == pytest.approx(expected, rel=1e-3)


def test_the_standard_error_is_the_formula() -> None:
    found = detectable_difference(PARTS, n_seeds=[2, 5], n_items=[100, 300])
    n, x = np.meshgrid([2, 5], [100, 300], indexing="ij")
    np.testing.assert_allclose(found["stderr"] ** 2, 1e-4 / n + 0.05 / x + 0.2 / (n * x))


def test_more_of_anything_finds_less_down_to_the_limits() -> None:
    found = detectable_difference(PARTS, n_seeds=[2, 5, 10, 10**9], n_items=[50, 500, 10**9])
    assert (np.diff(found["difference"], axis=0) < 0).all()
    assert (np.diff(found["difference"], axis=1) < 0).all()
    np.testing.assert_allclose(found["difference"][-1, :-1], found["limit_seeds"][:-1], rtol=1e-3)
    np.testing.assert_allclose(found["difference"][:-1, -1], found["limit_items"][:-1], rtol=1e-3)


def test_the_seeds_needed_are_the_fewest_that_are_enough() -> None:
    n = int(sizes_needed(PARTS, difference=0.03, n_items=1000)["n_seeds"].item())
    enough = detectable_difference(PARTS, n_seeds=[n - 1, n], n_items=1000)["difference"].values.ravel()
    assert enough[1] <= 0.03 < enough[0]


def test_seeds_do_not_help_where_items_are_too_few() -> None:
    found = sizes_needed(PARTS, difference=0.03, n_items=[100, 100_000])
    assert np.isinf(found["n_seeds"][0])
    least = int(found["n_items_least"])
    limits = detectable_difference(PARTS, n_seeds=2, n_items=[least - 1, least])["limit_seeds"].values
    assert limits[1] <= 0.03 < limits[0]


@pytest.mark.slow
@pytest.mark.parametrize("design", ["paired", "unpaired"])
@pytest.mark.parametrize("sds", [(1.0, 0.1, 1.0), (0.05, 2.0, 1.0), (0.1, 0.7, 1.0)])
def test_the_power_is_the_one_asked_for(sds: tuple[float, float, float], design: str) -> None:
    rng = np.random.default_rng(0)
    seed, item, noise = sds
    known = parts(2 * seed**2, item**2, 2 * noise**2, design)
    difference = float(detectable_difference(known, n_seeds=10, n_items=60)["difference"].squeeze())

    def side() -> Any:
        return seed * rng.standard_normal((1500, 10, 1)) + noise * rng.standard_normal((1500, 10, 60))

    dims = ("cell", "seed", "item")
    base = xr.DataArray(side(), dims=dims)
    other = xr.DataArray(side() + difference + item * rng.standard_normal((1500, 1, 60)), dims=dims)
    p = multibootstrap(base, other, design=design, n_resamples=2, rng=0)["p"].sel(interval="t")
    assert float((p < 0.05).mean()) == pytest.approx(0.8, abs=0.04)


def test_a_multibootstrap_brings_its_parts_and_dimensions() -> None:
    rng = np.random.default_rng(0)
    base, other = (xr.DataArray(rng.random((3, 4, 20)), dims=("cell", "seed", "item")) for _ in range(2))
    found = multibootstrap(base, other, n_resamples=2, rng=0)
    result = detectable_difference(found, n_seeds=[4, 8], n_items=[20])
    assert result["difference"].dims == ("n_seeds", "n_items", "cell")
    assert sizes_needed(found, difference=0.1, n_items=20)["n_seeds"].dims == ("n_items", "cell")


def test_unknown_parts_are_unknown() -> None:
    found = parts(np.nan, 1.0, 1.0)
    assert detectable_difference(found, n_seeds=3, n_items=10)["difference"].isnull().all()
    assert sizes_needed(found, difference=1.0, n_items=10)["n_seeds"].isnull().all()


def test_no_variance_finds_everything() -> None:
    found = parts(0.0, 0.0, 0.0)
    assert detectable_difference(found, n_seeds=3, n_items=10)["difference"].item() == 0
    assert sizes_needed(found, difference=1e-9, n_items=10)["n_seeds"].item() == 2


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ({"seed": 1.0}, {}, "lack 'item', 'seed:item'"),
        (3.0, {}, "variance parts are"),
        (xr.Dataset(), {}, "no variable 'variance'"),
        (PARTS, {"n_seeds": 1}, "n_seeds is 1"),
        (PARTS, {"n_items": 2.5}, "n_items is 2.5"),
        (PARTS, {"power": 0.01}, "is not above alpha"),
        (PARTS | {"item": np.inf}, {}, "variance parts are infinite"),
        (PARTS | {"item": "many"}, {}, "not an array of numbers"),
        (PARTS, {"alpha": 0.0}, "between 0 and 1"),
    ],
)
def test_what_makes_no_sense_is_refused(given: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        detectable_difference(given, **({"n_seeds": 3, "n_items": 10} | options))


@pytest.mark.parametrize("difference", [0.0, np.nan, np.inf])
def test_no_difference_is_refused(difference: float) -> None:
    with pytest.raises(AnalysisError, match="difference is"):
        sizes_needed(PARTS, difference=difference, n_items=10)
