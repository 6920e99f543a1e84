"""Shares of the variance: the classical interval as oracle, algebra, coverage, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from component_cubes import Floats, cube_of, factorial_cube, nested_cube, of

import polystab as ps
from polystab.analysis import variance_components, variance_fractions
from polystab.errors import AnalysisError
from polystab.testing import variance_cube

CELLS = 3000


def share_coverage(found: xr.Dataset, truth: dict[str, float]) -> dict[str, float]:
    shares = variance_fractions(found)
    total = sum(truth.values())
    return {
        name: float(
            np.mean((of(shares, "lower", name) <= value / total) & (value / total <= of(shares, "upper", name)))
        )
        for name, value in truth.items()
    }


def items_cube(rng: np.random.Generator, n_seed: int, n: int, items: float = 0.5) -> xr.Dataset:
    noise = np.sqrt(1 + items) * rng.standard_normal((4, n_seed, n))
    cube = cube_of(rng.standard_normal((4, 1, n)) + noise)
    return cube.assign(stderr=xr.full_like(cube["value"], np.sqrt(items)))


def one_way_interval(values: Floats, level: float) -> tuple[float, float]:
    """Interval of the intraclass correlation of a balanced table (group, run), as in textbooks."""
    a, n = values.shape
    mean = values.mean(axis=1)
    ratio = n * mean.var(ddof=1) / ((values - mean[:, None]) ** 2).sum() * a * (n - 1)
    ends = ratio / scipy.stats.f.ppf([(1 + level) / 2, (1 - level) / 2], a - 1, a * (n - 1))
    low, high = np.maximum((ends - 1) / (ends + n - 1), 0)
    return low, high


# Oracles and algebra.


def test_the_share_of_models_has_the_interval_of_the_intraclass_correlation() -> None:
    cube = nested_cube(np.random.default_rng(1), n=6, sd=1.0)
    shares = variance_fractions(variance_components(cube), level=0.9)
    expected = [one_way_interval(cube["value"].values[:, :, 0, k], 0.9) for k in range(6)]
    np.testing.assert_allclose(
        np.stack([of(shares, "lower", "model"), of(shares, "upper", "model")], axis=1), expected, rtol=1e-9, atol=1e-12
    )


def test_the_share_of_seeds_is_what_models_leave() -> None:
    shares = variance_fractions(variance_components(nested_cube(np.random.default_rng(2))))
    np.testing.assert_allclose(of(shares, "lower", "seed"), 1 - of(shares, "upper", "model"))


def test_within_is_what_models_leave_where_there_are_items() -> None:
    shares = variance_fractions(variance_components(items_cube(np.random.default_rng(3), 5, 20)))
    np.testing.assert_allclose(of(shares, "upper", "within"), 1 - of(shares, "lower", "model"))


@pytest.mark.slow
def test_the_interval_of_a_pivot_is_that_of_many_random_ones() -> None:
    cube = cube_of(np.random.default_rng(4).standard_normal((4, 5, 20)) + np.arange(4)[:, None, None])
    found = variance_components(cube, design="crossed")
    shares = variance_fractions(found)
    rng = np.random.default_rng(5)
    squares = found["mean_square"].values[:3, 0, :, None] * np.array([3, 4, 12])[:, None, None]
    model, seed, rest = squares / rng.chisquare(np.array([3, 4, 12])[:, None, None], (3, 1, 100_000))
    parts = np.stack([(model - rest) / 5, (seed - rest) / 4, rest])
    drawn = np.clip(parts / parts.sum(axis=0), 0, 1)
    expected = np.quantile(drawn, [0.025, 0.975], axis=2)
    np.testing.assert_allclose(shares["lower"].values[:3, 0], expected[0], atol=0.03)
    np.testing.assert_allclose(shares["upper"].values[:3, 0], expected[1], atol=0.03)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nano", "nano-factorial"])
def test_intervals_hold_the_shares_and_lie_in_zero_to_one(name: str) -> None:
    shares = variance_fractions(ps.variance_components(ps.load_cube(name)))
    given = ~np.isnan(shares["lower"].values)
    assert given.any()
    ends = [shares[part].values[given] for part in ("lower", "fraction", "upper")]
    assert (np.diff([np.zeros_like(ends[0]), *ends, np.ones_like(ends[0])], axis=0) >= -1e-12).all()


def test_shares_do_not_depend_on_the_units() -> None:
    cube = items_cube(np.random.default_rng(6), 5, 10)
    small = variance_fractions(variance_components(cube))
    large = variance_fractions(variance_components(cube.map(lambda values: values * 2.0**40)))
    for name in small:
        np.testing.assert_allclose(small[name], large[name], rtol=1e-6)


def test_every_share_stands_for_itself() -> None:
    rng = np.random.default_rng(7)
    values = np.where(rng.random((4, 5, 12)) < 0.1, np.nan, rng.standard_normal((4, 5, 12)))
    found = variance_components(cube_of(values), design="crossed")
    whole = variance_fractions(found).isel(metric=[3])
    xr.testing.assert_identical(whole, variance_fractions(found.isel(metric=[3])))


def test_the_same_components_give_the_same_bytes() -> None:
    found = variance_components(items_cube(np.random.default_rng(8), 3, 5))
    xr.testing.assert_identical(variance_fractions(found), variance_fractions(found))


# Calibration.


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("n_seed", [3, 5, 10])
def test_intervals_of_nested_shares_cover(n_seed: int, missing: float) -> None:
    rng = np.random.default_rng(10 + n_seed)
    values = rng.standard_normal((4, 1, CELLS)) + rng.standard_normal((4, n_seed, CELLS))
    found = variance_components(cube_of(values, missing, rng))
    assert all(0.93 <= share <= 0.97 for share in share_coverage(found, {"model": 1, "seed": 1}).values())


@pytest.mark.slow
@pytest.mark.parametrize("n_seed", [3, 5, 10])
def test_intervals_of_shares_with_items_cover(n_seed: int) -> None:
    found = variance_components(items_cube(np.random.default_rng(20 + n_seed), n_seed, CELLS))
    truth = {"model": 1.0, "seed": 1.0, "items": 0.5}
    assert all(0.93 <= share <= 0.97 for share in share_coverage(found, truth).values())


@pytest.mark.slow
@pytest.mark.parametrize("n_seed", [3, 5, 10])
def test_intervals_of_crossed_shares_cover(n_seed: int) -> None:
    rng = np.random.default_rng(30 + n_seed)
    values = rng.standard_normal((4, 1, CELLS)) + rng.standard_normal((1, n_seed, CELLS))
    found = variance_components(cube_of(values + rng.standard_normal((4, n_seed, CELLS))), design="crossed")
    truth = {"model": 1.0, "seed": 1.0, "residual": 1.0}
    assert all(0.93 <= share <= 0.97 for share in share_coverage(found, truth).values())


@pytest.mark.slow
@pytest.mark.parametrize("n_seed", [3, 5, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("replicates", [1, 2])
def test_intervals_of_factorial_shares_cover(n_seed: int, replicates: int) -> None:
    cube = factorial_cube(np.random.default_rng(140 + n_seed), (n_seed, n_seed, replicates), CELLS, (1.0, 1.0, 1.0))
    truth = {"initialisation": 1.0, "order": 1.0}
    truth |= {"residual": 2.0} if replicates == 1 else {"interaction": 1.0, "run": 1.0}
    shares = share_coverage(variance_components(cube), truth)
    assert all(0.93 <= share <= 0.97 for share in shares.values())


# Bad input.


def test_one_model_leaves_seeds_the_whole() -> None:
    shares = variance_fractions(variance_components(nested_cube(np.random.default_rng(50), n_model=1)))
    assert np.isnan(of(shares, "fraction", "model")).all()
    assert (of(shares, "lower", "seed") == 1).all()


def test_one_model_with_items_splits_its_runs() -> None:
    cube = items_cube(np.random.default_rng(51), 6, 10).isel(model=[0])
    shares = variance_fractions(variance_components(cube))
    given = of(shares, "upper", "items")
    assert ((given > 0) & (given <= 1)).all()


def test_two_models_give_shares_without_interval() -> None:
    shares = variance_fractions(variance_components(nested_cube(np.random.default_rng(52), n_model=2)))
    assert np.isnan(of(shares, "lower", "seed")).all()
    assert not np.isnan(of(shares, "fraction", "seed")).any()


def test_equal_seeds_leave_models_the_whole() -> None:
    values = np.repeat(np.arange(3.0)[:, None, None], 4, axis=1)
    shares = variance_fractions(variance_components(cube_of(values)))
    assert of(shares, "lower", "model").tolist() == [1.0]


def test_a_standard_error_above_the_spread_has_all_of_within() -> None:
    cube = variance_cube(n_steps=1, sd_seed=0.1, sd_residual=0, sd_item=0.1, rng=53)
    shares = variance_fractions(variance_components(cube.assign(stderr=cube["stderr"] * 100)))
    assert of(shares, "upper", "seed").tolist() == [0.0]
    assert of(shares, "fraction", "items") == pytest.approx(of(shares, "fraction", "within"))


def test_without_standard_errors_seed_and_within_have_the_same_interval() -> None:
    cube = variance_cube(n_models=4, n_steps=2, sd_item=0.1, rng=54)
    cube["stderr"][:, :, 0] = np.nan
    shares = variance_fractions(variance_components(cube)).isel(step=0)
    np.testing.assert_allclose(of(shares, "upper", "seed"), of(shares, "upper", "within"), atol=0.02)


def test_steps_without_values_have_no_shares() -> None:
    values = np.random.default_rng(55).standard_normal((3, 4, 2))
    values[:, :, 0] = np.nan
    shares = variance_fractions(variance_components(cube_of(values), design="crossed")).isel(metric=0)
    assert all(np.isnan(shares[name].values).all() for name in shares)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_of_shares_outside_zero_to_one_is_refused(level: float) -> None:
    with pytest.raises(AnalysisError, match="level"):
        variance_fractions(variance_components(nested_cube(np.random.default_rng(56))), level=level)


def test_shares_of_something_else_are_refused() -> None:
    with pytest.raises(AnalysisError, match="give a result of variance_components"):
        variance_fractions(nested_cube(np.random.default_rng(57)))
