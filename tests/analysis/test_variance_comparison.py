"""Ratios of seed variances, additivity of initialisation and order, variance by size: truth, oracles, bad input."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import xarray as xr
from cubes_of_arrays import make_cube

import polystab as ps
from polystab.analysis.components.additivity import seed_additivity
from polystab.analysis.components.comparison import f_factors, log_trend, variance_by_size, variance_ratio
from polystab.errors import AnalysisError

Floats = npt.NDArray[np.float64]
CELLS = 4000
LEVELS = [0.0, 1.0, 95.0, float("nan")]


def cube_of(values: Floats, **coords: object) -> xr.Dataset:
    """A cube of one step from (model, seed, metric)."""
    return make_cube(values[:, :, None, :]).assign_coords(coords)


def number(found: xr.DataArray) -> float:
    return float(found.squeeze())


# Ratio of two recipes.


def test_the_interval_of_a_ratio_of_ten_and_nine_runs_is_the_published_one() -> None:
    low, high = f_factors(9, 8, level=0.95)
    np.testing.assert_allclose(0.75196 * np.sqrt([low, high]), [0.36024, 1.52296], atol=1e-5)


def test_two_models_of_ten_and_nine_runs_have_the_published_interval() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.standard_normal(10), rng.standard_normal(9)
    first *= 0.75196 / first.std(ddof=1)
    second *= 1.0 / second.std(ddof=1)
    values = np.stack([first, np.append(second, np.nan)])[:, :, None]
    found = variance_ratio(cube_of(values))
    ends = [number(found[name]) for name in ("sd_ratio", "sd_lower", "sd_upper")]
    np.testing.assert_allclose(ends, [0.75196, 0.36024, 1.52296], atol=1e-5)


def test_the_p_of_a_ratio_is_that_of_the_two_sided_f_test() -> None:
    values = np.random.default_rng(2).standard_normal((2, 6, 5))
    ratio = values[0].var(axis=0, ddof=1) / values[1].var(axis=0, ddof=1)
    expected = 2 * np.minimum(scipy.stats.f.cdf(ratio, 5, 5), scipy.stats.f.sf(ratio, 5, 5))
    np.testing.assert_allclose(variance_ratio(cube_of(values))["p"].values[0], expected, rtol=1e-9)


def test_the_interval_leaves_out_one_where_the_test_rejects() -> None:
    found = variance_ratio(cube_of(np.random.default_rng(3).standard_normal((2, 5, CELLS))))
    outside = (found["lower"] > 1) | (found["upper"] < 1)
    np.testing.assert_array_equal(outside, found["p"] < 0.05)


@pytest.mark.parametrize("n_seed", [3, 5, 10])
def test_intervals_of_a_ratio_cover(n_seed: int) -> None:
    values = np.random.default_rng(4).standard_normal((2, n_seed, CELLS)) * np.array([3.0, 1.0])[:, None, None]
    found = variance_ratio(cube_of(values))
    assert 0.93 <= float(((found["sd_lower"] <= 3) & (found["sd_upper"] >= 3)).mean()) <= 0.97


def test_the_other_way_round_the_ratio_is_its_inverse() -> None:
    cube = cube_of(np.random.default_rng(5).standard_normal((3, 5, 4)))
    there, back = (variance_ratio(cube, models=pair) for pair in (("m0", "m2"), ("m2", "m0")))
    np.testing.assert_allclose(there["sd_lower"], 1 / back["sd_upper"], rtol=1e-12)
    np.testing.assert_allclose(there["p"], back["p"], rtol=1e-9)


@pytest.mark.parametrize("factor", [1e-150, 1e150])
def test_scale_and_level_of_a_metric_do_not_matter_to_a_ratio(factor: float) -> None:
    values = np.random.default_rng(6).standard_normal((2, 5, 4))
    plain, other = variance_ratio(cube_of(values)), variance_ratio(cube_of(factor * (values + 64.0)))
    np.testing.assert_allclose(other["sd_ratio"], plain["sd_ratio"], rtol=1e-10)


def test_a_copied_run_counts_once_in_a_ratio() -> None:
    values = np.random.default_rng(7).standard_normal((2, 5, 6, 2))
    twice = np.concatenate([values, values[:, :1]], axis=1)
    xr.testing.assert_allclose(variance_ratio(make_cube(values)), variance_ratio(make_cube(twice)))


def test_two_runs_have_a_ratio_and_no_interval() -> None:
    found = variance_ratio(cube_of(np.random.default_rng(8).standard_normal((2, 2, 1))))
    assert not np.isnan(found["sd_ratio"])
    assert np.isnan([number(found[name]) for name in ("sd_lower", "sd_upper", "p")]).all()


def test_a_model_without_spread_has_no_ratio_to_it() -> None:
    values = np.random.default_rng(9).standard_normal((2, 5, 1))
    values[1] = 0.25
    found = variance_ratio(cube_of(values))
    assert np.isnan([number(found[name]) for name in ("sd_ratio", "upper", "p")]).all()


def test_an_infinite_value_is_not_measured_in_a_ratio() -> None:
    values = np.random.default_rng(10).standard_normal((2, 5, 1))
    values[0, 0] = np.inf
    assert number(variance_ratio(cube_of(values))["n_first"]) == 4


def test_a_ratio_of_three_models_asks_which() -> None:
    with pytest.raises(AnalysisError, match="name two"):
        variance_ratio(cube_of(np.zeros((3, 2, 1))))


@pytest.mark.parametrize("models", [("m0", "m0"), ("m0",), "m0"])
def test_a_ratio_of_no_two_models_is_refused(models: tuple[str, str]) -> None:
    with pytest.raises(AnalysisError, match="two different models"):
        variance_ratio(cube_of(np.zeros((3, 2, 1))), models=models)


def test_an_unknown_model_is_refused_with_a_hint() -> None:
    with pytest.raises(AnalysisError, match="nano-33k"):
        variance_ratio(ps.load_cube("nano"), models=("nano-33", "nano-96k"))


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_of_a_ratio_outside_zero_to_one_is_refused(level: float) -> None:
    with pytest.raises(AnalysisError, match="level"):
        variance_ratio(cube_of(np.zeros((2, 2, 1))), level=level)


# Additivity of initialisation and order.


def decoupled(
    rng: np.random.Generator, n: int = 5, cells: int = 30, sd: tuple[float, float] = (1.0, 1.0), noise: float = 0.0
) -> xr.Dataset:
    """Three models: both kinds of seed vary, initialisation alone, order alone."""
    start, order = sd[0] * rng.standard_normal((2, n, cells)), sd[1] * rng.standard_normal((2, n, cells))
    values = np.stack([start[0] + order[0], start[1], order[1]])
    cube = cube_of(values + noise * rng.standard_normal(values.shape))
    same, own = np.zeros(n, dtype=np.int64), np.arange(n)
    cube["weight_seed"] = (("model", "seed"), np.stack([own, own + n, same]))
    cube["data_seed"] = (("model", "seed"), np.stack([own, same, own + n]))
    return cube


def test_the_sets_are_found_by_their_seeds() -> None:
    found = seed_additivity(decoupled(np.random.default_rng(20)))
    assert [found.attrs[name] for name in ("both", "initialisation", "order")] == ["m0", "m1", "m2"]


def test_spreads_are_those_of_the_sets() -> None:
    cube = decoupled(np.random.default_rng(21))
    found, expected = seed_additivity(cube), cube["value"].std("seed", ddof=1).values[:, 0]
    for name, row in zip(("sd_both", "sd_initialisation", "sd_order"), expected, strict=True):
        np.testing.assert_allclose(found[name].values[0], row, rtol=1e-12)


def test_the_ratio_is_both_over_the_root_sum_of_squares() -> None:
    found = seed_additivity(decoupled(np.random.default_rng(22)))
    np.testing.assert_allclose(
        found["sd_ratio"], found["sd_both"] / np.hypot(found["sd_initialisation"], found["sd_order"])
    )


def test_with_one_separate_spread_the_interval_is_that_of_the_f_ratio() -> None:
    cube = decoupled(np.random.default_rng(23), sd=(1.0, 0.0))
    added, ratio = seed_additivity(cube), variance_ratio(cube, models=("m0", "m1"))
    for name in ("lower", "upper"):
        np.testing.assert_allclose(added[name], ratio[f"sd_{name}"], rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("order", [1.0, 0.4])
def test_intervals_of_a_true_sum_cover(n: int, order: float) -> None:
    found = seed_additivity(decoupled(np.random.default_rng(24 + n), n, CELLS, (1.0, order)))
    assert 0.93 <= float(((found["lower"] <= 1) & (found["upper"] >= 1)).mean()) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
def test_a_true_sum_is_rejected_at_the_stated_rate(n: int) -> None:
    found = seed_additivity(decoupled(np.random.default_rng(40 + n), n, CELLS, (1.0, 0.7)))
    assert 0.035 <= float((found["p"] < 0.05).mean()) <= 0.065


def test_run_noise_makes_the_ratio_smaller_than_one() -> None:
    found = seed_additivity(decoupled(np.random.default_rng(50), 10, 2000, noise=1.0))
    assert float((found["sd_ratio"] ** 2).median()) == pytest.approx(3 / 4, rel=0.05)


def test_sets_may_be_seeds_of_one_model() -> None:
    cube = decoupled(np.random.default_rng(51))
    one = cube_of(np.concatenate(list(cube["value"].values[:, :, 0]))[None])
    found = seed_additivity(
        one, both=("m0", range(5)), initialisation=("m0", range(5, 10)), order=("m0", range(10, 15))
    )
    np.testing.assert_allclose(found["sd_ratio"], seed_additivity(cube)["sd_ratio"], rtol=1e-12)


def test_two_runs_of_a_set_give_no_interval() -> None:
    cube = decoupled(np.random.default_rng(52))
    cube["value"][2, 2:] = np.nan
    found = seed_additivity(cube)
    assert not np.isnan(found["sd_ratio"]).any()
    assert np.isnan(found["lower"]).all()


def test_runs_without_any_spread_have_no_ratio() -> None:
    cube = decoupled(np.random.default_rng(53), cells=1)
    found = seed_additivity(cube.assign(value=cube["value"] * 0 + 0.5))
    assert np.isnan([number(found[name]) for name in ("sd_ratio", "lower", "p")]).all()


@pytest.mark.slow
def test_a_cube_of_ordinary_seeds_says_which_sets_are_missing() -> None:
    with pytest.raises(AnalysisError, match="initialisation: none"):
        seed_additivity(ps.load_cube("nano"))


def test_a_set_that_is_not_what_it_is_said_to_be_is_refused() -> None:
    with pytest.raises(AnalysisError, match="differ otherwise"):
        seed_additivity(decoupled(np.random.default_rng(54)), both="m0", initialisation="m2", order="m1")


def test_sets_that_share_a_run_are_refused() -> None:
    cube = cube_of(np.random.default_rng(55).standard_normal((1, 9, 1)))
    with pytest.raises(AnalysisError, match="must not share runs"):
        seed_additivity(cube, both=("m0", [0, 1, 2]), initialisation=("m0", [2, 3, 4]), order=("m0", [6, 7, 8]))


def test_one_set_alone_is_refused() -> None:
    with pytest.raises(AnalysisError, match="name all three"):
        seed_additivity(decoupled(np.random.default_rng(56)), both="m0")


def test_a_set_that_is_no_model_is_refused() -> None:
    with pytest.raises(AnalysisError, match="no set of runs"):
        seed_additivity(decoupled(np.random.default_rng(58)), both=3, initialisation="m1", order="m2")  # type: ignore[arg-type]


def test_unknown_seeds_of_a_set_are_refused() -> None:
    cube = decoupled(np.random.default_rng(57))
    with pytest.raises(AnalysisError, match="seeds 7 are not in the cube"):
        seed_additivity(cube, both=("m0", [0, 7]), initialisation="m1", order="m2")


# Variance by size.


def sized(rng: np.random.Generator, n_seed: int, n_size: int, slope: float, cells: int = CELLS) -> xr.Dataset:
    size = np.round(np.geomspace(1e6, 1e8, n_size)).astype(np.int64)
    sd = (size / 1e7) ** (slope / 2)
    values = sd[:, None, None] * rng.standard_normal((n_size, n_seed, cells))
    return cube_of(values, n_parameters=("model", size))


@pytest.mark.slow
@pytest.mark.parametrize("n_seed", [3, 5, 10])
@pytest.mark.parametrize("n_size", [3, 5])
def test_intervals_of_a_slope_cover(n_seed: int, n_size: int) -> None:
    found = variance_by_size(sized(np.random.default_rng(60 + n_seed), n_seed, n_size, -0.8))
    assert 0.93 <= float(((found["lower"] <= -0.8) & (found["upper"] >= -0.8)).mean()) <= 0.97


def test_a_slope_is_unbiased() -> None:
    found = variance_by_size(sized(np.random.default_rng(70), 4, 4, -1.0))
    assert float(found["slope"].mean()) == pytest.approx(-1.0, abs=0.03)


def test_the_fitted_variance_at_the_reference_size_is_unbiased_in_its_logarithm() -> None:
    found = variance_by_size(sized(np.random.default_rng(71), 4, 4, -1.0))
    assert found.attrs["reference_size"] == pytest.approx(1e7, rel=1e-6)
    assert float(np.log(found["variance"]).mean()) == pytest.approx(0.0, abs=0.03)


@pytest.mark.parametrize("n_seed", [3, 10])
def test_equal_variances_are_rejected_at_the_stated_rate(n_seed: int) -> None:
    found = variance_by_size(sized(np.random.default_rng(72), n_seed, 4, 0.0))
    assert 0.04 <= float((found["p"] < 0.05).mean()) <= 0.065


def test_a_true_line_is_seldom_said_to_be_none() -> None:
    found = variance_by_size(sized(np.random.default_rng(73), 10, 5, -1.0))
    assert 0.04 <= float((found["p_fit"] < 0.05).mean()) <= 0.07


def test_the_slope_is_that_of_weighted_least_squares() -> None:
    import statsmodels.api as sm
    from scipy.special import digamma, polygamma

    rng = np.random.default_rng(74)
    n, x = np.array([[3], [10], [5], [4]]), np.log([1.0, 3.0, 10.0, 80.0])
    sd = rng.uniform(0.5, 2.0, (4, 1))
    half = (n[:, 0] - 1) / 2
    y = np.log(sd[:, 0] ** 2) - digamma(half) + np.log(half)
    fit = sm.WLS(y, sm.add_constant(x), weights=1 / polygamma(1, half)).fit()
    found = log_trend(sd, n, x, level=0.95)
    assert found["slope"][0] == pytest.approx(fit.params[1], rel=1e-10)
    error = np.sqrt(fit.normalized_cov_params[1, 1])
    assert (found["upper"] - found["lower"])[0] / 2 == pytest.approx(scipy.stats.norm.ppf(0.975) * error, rel=1e-10)


def test_sizes_in_other_units_leave_the_slope() -> None:
    cube = sized(np.random.default_rng(75), 5, 3, -1.0, 4)
    sizes = {name: value / 1e6 for name, value in zip(cube["model"].values, cube["n_parameters"].values, strict=True)}
    for name in ("slope", "lower", "upper", "p_fit"):
        np.testing.assert_allclose(variance_by_size(cube, size=sizes)[name], variance_by_size(cube)[name], rtol=1e-9)


def test_scaling_a_metric_leaves_the_slope() -> None:
    cube = sized(np.random.default_rng(76), 5, 3, -1.0, 4)
    tiny = cube.assign(value=cube["value"] * 1e-150)
    np.testing.assert_allclose(variance_by_size(tiny)["slope"], variance_by_size(cube)["slope"], rtol=1e-9)


def test_a_model_without_spread_is_left_out_and_counted() -> None:
    cube = sized(np.random.default_rng(77), 5, 4, -1.0, 1)
    cube["value"][1] = 0.5
    found = variance_by_size(cube)
    assert [number(found[name]) for name in ("n_models", "n_constant")] == [3, 1]
    np.testing.assert_allclose(found["slope"], variance_by_size(cube.isel(model=[0, 2, 3]))["slope"])


def test_two_seeds_of_a_model_take_no_part() -> None:
    cube = sized(np.random.default_rng(78), 5, 4, -1.0, 1)
    cube["value"][0, 2:] = np.nan
    assert number(variance_by_size(cube)["n_models"]) == 3


def test_two_sizes_have_a_slope_and_no_test_of_the_line() -> None:
    found = variance_by_size(sized(np.random.default_rng(79), 5, 2, -1.0, 1))
    assert not np.isnan(found["slope"])
    assert np.isnan(found["p_fit"])


@pytest.mark.parametrize("models", [[0], [1, 1]])
def test_one_size_has_no_slope(models: list[int]) -> None:
    cube = sized(np.random.default_rng(80), 5, 3, -1.0, 1)
    cube = cube.isel(model=models).assign_coords(model=[f"m{i}" for i in range(len(models))])
    found = variance_by_size(cube)
    assert np.isnan([number(found[name]) for name in ("slope", "lower", "p")]).all()


@pytest.mark.parametrize("size", [-1, 0])
def test_a_size_that_is_unknown_or_not_positive_is_refused(size: int) -> None:
    cube = sized(np.random.default_rng(81), 3, 3, -1.0, 1)
    cube = cube.assign_coords(n_parameters=("model", [1000, size, 3000]))
    with pytest.raises(AnalysisError, match=f"m1: {size}"):
        variance_by_size(cube)


def test_an_infinite_size_is_refused() -> None:
    with pytest.raises(AnalysisError, match="m1: inf"):
        variance_by_size(sized(np.random.default_rng(82), 3, 2, -1.0, 1), size={"m0": 1.0, "m1": np.inf})


def test_models_without_a_given_size_are_named() -> None:
    with pytest.raises(AnalysisError, match="'m1'"):
        variance_by_size(sized(np.random.default_rng(83), 3, 2, -1.0, 1), size={"m0": 1.0})


@pytest.mark.slow
def test_an_unknown_size_is_refused_with_a_hint() -> None:
    with pytest.raises(AnalysisError, match="Did you mean 'n_parameters'"):
        variance_by_size(ps.load_cube("nano"), size="n_parameter")
