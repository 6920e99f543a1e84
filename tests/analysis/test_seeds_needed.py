"""Seeds needed, noise floor, coefficient of variation, reliability: known truth, oracles, coverage, bad input."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import xarray as xr
from cubes_of_arrays import make_cube

from polystab.analysis import fit_reml, sd_factors
from polystab.analysis.components.needed import needed_for, noise_floor, seeds_needed, t_test_power
from polystab.analysis.components.reliability import coefficient_of_variation, cv_interval, seed_reliability
from polystab.errors import AnalysisError

Floats = npt.NDArray[np.float64]
CELLS = 4000


def cube_of(values: Floats) -> xr.Dataset:
    """A cube of one step from (model, seed, metric)."""
    return make_cube(values[:, :, None, :])


def runs(sd: float, n: int = 5) -> Floats:
    """One model and metric whose runs have exactly this standard deviation."""
    values = np.random.default_rng(0).standard_normal(n)
    return ((values - values.mean()) * sd / values.std(ddof=1))[None, :, None]


def number(found: xr.DataArray) -> float:
    return float(found.squeeze())


# Seeds needed.


@pytest.mark.parametrize(("effect", "needed"), [(0.2, 394), (0.5, 64), (0.8, 26), (1.0, 17)])
def test_seeds_for_the_effects_of_cohens_table(effect: float, needed: int) -> None:
    assert needed_for(np.array([effect]), power=0.8, alpha=0.05).tolist() == [needed]


@pytest.mark.slow
@pytest.mark.parametrize(("power", "alpha"), [(0.8, 0.05), (0.95, 0.01), (0.5, 0.2)])
def test_seeds_needed_are_those_of_statsmodels(power: float, alpha: float) -> None:
    from statsmodels.stats.power import TTestIndPower

    effects = np.geomspace(0.02, 1.3, 25)
    solve = TTestIndPower().solve_power
    expected = [np.ceil(solve(effect, power=power, alpha=alpha)) for effect in effects.tolist()]
    np.testing.assert_array_equal(needed_for(effects, power=power, alpha=alpha), expected)


def test_the_power_is_that_of_statsmodels() -> None:
    from statsmodels.stats.power import TTestIndPower

    n = np.array([2, 3, 10, 50])
    expected = [TTestIndPower().power(0.7, count, 0.05) for count in n.tolist()]
    np.testing.assert_allclose(t_test_power(np.full(4, 0.7), n, alpha=0.05), expected, rtol=1e-9)


def test_a_simulated_t_test_has_the_power() -> None:
    rng = np.random.default_rng(1)
    needed = int(needed_for(np.array([1.5]), power=0.8, alpha=0.05)[0])
    first, second = rng.standard_normal((2, needed, 20_000))
    share = float(np.mean(scipy.stats.ttest_ind(first + 1.5, second).pvalue < 0.05))
    assert share == pytest.approx(float(t_test_power(np.array(1.5), needed, alpha=0.05)), abs=0.01)
    assert share >= 0.8


def test_one_seed_fewer_has_too_little_power() -> None:
    effect = np.geomspace(0.05, 3.0, 30)
    needed = needed_for(effect, power=0.8, alpha=0.05)
    several = needed > 2
    assert (t_test_power(effect, needed, alpha=0.05) >= 0.8).all()
    assert (t_test_power(effect[several], needed[several] - 1, alpha=0.05) < 0.8).all()


def test_the_interval_of_seeds_needed_stands_at_the_ends_of_the_spread() -> None:
    found = seeds_needed(cube_of(runs(0.01)), difference=0.02)
    low, high = sd_factors([5])
    ends = needed_for(2.0 / np.concatenate([low, high]), power=0.8, alpha=0.05)
    assert [number(found[name]) for name in ("lower", "upper")] == ends.tolist()


def test_the_interval_of_seeds_needed_covers() -> None:
    cube = cube_of(np.random.default_rng(2).standard_normal((1, 5, CELLS)))
    found = seeds_needed(cube, difference=0.3)
    truth = float(needed_for(np.array([0.3]), power=0.8, alpha=0.05)[0])
    assert 0.93 <= float(((found["lower"] <= truth) & (truth <= found["upper"])).mean()) <= 0.97


def test_the_sign_of_the_difference_does_not_matter() -> None:
    cube = cube_of(runs(1.0))
    assert number(seeds_needed(cube, difference=-0.7)["needed"]) == number(seeds_needed(cube, difference=0.7)["needed"])


def test_scale_does_not_matter_to_seeds_needed() -> None:
    plain = seeds_needed(cube_of(runs(1.0)), difference=0.7)
    tiny = seeds_needed(cube_of(runs(1e-200)), difference=0.7e-200)
    assert number(tiny["needed"]) == number(plain["needed"])


def test_a_difference_for_each_metric() -> None:
    cube = cube_of(np.repeat(runs(1.0), 3, axis=2))
    found = seeds_needed(cube, difference={"eval/task2/acc": 1.0, "eval/task0/acc": 2.0})
    assert found["metric"].values.tolist() == ["eval/task2/acc", "eval/task0/acc"]
    assert found["needed"].values.ravel().tolist() == [17, 6]


def test_a_difference_for_each_model() -> None:
    cube = cube_of(np.repeat(runs(1.0), 2, axis=0))
    found = seeds_needed(cube, difference=xr.DataArray([1.0, 2.0], dims="model"))
    assert found["needed"].values.ravel().tolist() == [17, 6]


def test_runs_that_are_all_equal_need_two() -> None:
    assert number(seeds_needed(cube_of(runs(0.0)), difference=0.1)["needed"]) == 2


def test_one_run_says_nothing_of_seeds_needed() -> None:
    found = seeds_needed(cube_of(np.ones((1, 1, 1))), difference=0.1)
    assert np.isnan([number(found[name]) for name in ("needed", "lower", "upper")]).all()


def test_two_runs_have_seeds_needed_and_no_interval() -> None:
    found = seeds_needed(cube_of(runs(1.0, 2)), difference=1.0)
    assert number(found["needed"]) == 17
    assert np.isnan(number(found["upper"]))


def test_a_very_small_difference_needs_very_many() -> None:
    assert number(seeds_needed(cube_of(runs(1.0)), difference=1e-200)["needed"]) == np.inf


@pytest.mark.parametrize("difference", [0.0, np.nan, np.inf])
def test_a_difference_that_is_none_is_refused(difference: float) -> None:
    with pytest.raises(AnalysisError, match="finite and not zero"):
        seeds_needed(cube_of(runs(1.0)), difference=difference)


def test_a_difference_for_an_unknown_metric_is_refused_with_a_hint() -> None:
    with pytest.raises(AnalysisError, match="Did you mean 'eval/task0/acc'"):
        seeds_needed(cube_of(runs(1.0)), difference={"eval/task/acc": 1.0})


def test_a_difference_with_other_labels_is_refused() -> None:
    wanted = xr.DataArray([1.0], dims="metric", coords={"metric": ["eval/other/acc"]})
    with pytest.raises(AnalysisError, match="other labels"):
        seeds_needed(cube_of(runs(1.0)), difference=wanted)


def test_a_difference_in_words_is_refused() -> None:
    with pytest.raises(AnalysisError, match="give a number"):
        seeds_needed(cube_of(runs(1.0)), difference="big")  # type: ignore[arg-type]


def test_a_difference_along_seeds_is_refused() -> None:
    with pytest.raises(AnalysisError, match="'seed'"):
        seeds_needed(cube_of(runs(1.0)), difference=xr.DataArray(np.ones(5), dims="seed"))


@pytest.mark.parametrize(("power", "alpha"), [(0.05, 0.05), (1.0, 0.05), (0.8, 0.0)])
def test_a_power_or_alpha_that_cannot_be_is_refused(power: float, alpha: float) -> None:
    with pytest.raises(AnalysisError, match=r"power|alpha"):
        seeds_needed(cube_of(runs(1.0)), difference=1.0, power=power, alpha=alpha)


@pytest.mark.slow
def test_extreme_demands_are_met() -> None:
    assert np.isfinite(needed_for(np.array([0.5, 5.0]), power=0.9999, alpha=1e-6)).all()


# Noise floor.


def test_the_floor_is_the_least_significant_difference() -> None:
    found = noise_floor(cube_of(runs(0.01)))
    expected = scipy.stats.t.ppf(0.975, 8) * 0.01 * np.sqrt(2 / 5)
    assert number(found["floor"]) == pytest.approx(expected, rel=1e-9)


def test_a_difference_at_the_floor_has_p_alpha() -> None:
    values = runs(0.01)[0, :, 0]
    floor = number(noise_floor(cube_of(runs(0.01)), alpha=0.1)["floor"])
    assert scipy.stats.ttest_ind(values, values + floor).pvalue == pytest.approx(0.1, rel=1e-9)


def test_single_runs_exceed_the_floor_at_the_stated_rate() -> None:
    rng = np.random.default_rng(3)
    floor = noise_floor(cube_of(rng.standard_normal((1, 4, CELLS))), n_seeds=1)["floor"].values.ravel()
    first, second = rng.standard_normal((2, CELLS))
    assert 0.04 <= np.mean(np.abs(first - second) > floor) <= 0.06


def test_more_seeds_lower_the_floor() -> None:
    cube = cube_of(runs(1.0))
    floors = [number(noise_floor(cube, n_seeds=n)["floor"]) for n in (2, 3, 10, 100)]
    assert floors == sorted(floors, reverse=True)


def test_the_interval_of_the_floor_is_that_of_the_spread() -> None:
    found = noise_floor(cube_of(runs(1.0)), n_seeds=10)
    low, high = sd_factors([5])
    assert number(found["lower"] / found["floor"]) == pytest.approx(low[0], rel=1e-12)
    assert number(found["upper"] / found["floor"]) == pytest.approx(high[0], rel=1e-12)


def test_a_constant_metric_has_no_floor_to_speak_of() -> None:
    assert number(noise_floor(cube_of(runs(0.0) + 0.3))["floor"]) == 0


def test_one_run_has_no_floor() -> None:
    found = noise_floor(cube_of(np.ones((1, 1, 1))))
    assert np.isnan(number(found["floor"]))


@pytest.mark.parametrize("n_seeds", [0, -3, 2.5])
def test_a_number_of_seeds_that_is_none_is_refused(n_seeds: int) -> None:
    with pytest.raises(AnalysisError, match="n_seeds"):
        noise_floor(cube_of(runs(1.0)), n_seeds=n_seeds)


# Coefficient of variation.


@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("cv", [0.02, 0.3])
def test_intervals_of_the_coefficient_of_variation_cover(n: int, cv: float) -> None:
    values = 1 + cv * np.random.default_rng(4).standard_normal((1, n, CELLS))
    found = coefficient_of_variation(cube_of(values))
    assert 0.93 <= float(((found["lower"] <= cv) & (cv <= found["upper"])).mean()) <= 0.97


def test_the_interval_is_near_the_exact_one_of_the_noncentral_t() -> None:
    from scipy.optimize import brentq

    cv, n = 0.2, 10
    exact = [
        np.sqrt(n)
        / brentq(lambda shift, chance=chance: scipy.stats.nct.cdf(np.sqrt(n) / cv, n - 1, shift) - chance, 1, 60)
        for chance in (0.025, 0.975)
    ]
    low, high = cv_interval(np.array([cv]), np.array([n]), level=0.95)
    np.testing.assert_allclose([low[0], high[0]], sorted(exact), rtol=0.005)


def test_a_small_coefficient_has_the_interval_of_the_spread() -> None:
    low, high = cv_interval(np.array([1e-6]), np.array([8]), level=0.95)
    factors = sd_factors([8])
    np.testing.assert_allclose([low[0] / 1e-6, high[0] / 1e-6], [factors[0][0], factors[1][0]], rtol=1e-9)


def test_the_sign_of_the_mean_does_not_matter() -> None:
    cube = cube_of(runs(0.1) + 2)
    xr.testing.assert_allclose(
        coefficient_of_variation(cube), coefficient_of_variation(cube.assign(value=-cube["value"])), rtol=1e-12
    )


def test_a_wide_spread_of_few_runs_has_no_upper_end() -> None:
    found = coefficient_of_variation(cube_of(runs(2.0, 3) + 1.0))
    assert number(found["upper"]) == np.inf


def test_a_mean_of_zero_has_no_coefficient_of_variation() -> None:
    found = coefficient_of_variation(cube_of(np.array([-1.0, 0.0, 1.0])[None, :, None]))
    assert np.isnan([number(found[name]) for name in ("cv", "lower", "upper")]).all()


def test_equal_runs_have_no_variation() -> None:
    found = coefficient_of_variation(cube_of(runs(0.0) + 0.3))
    assert [number(found[name]) for name in ("cv", "lower", "upper")] == [0, 0, 0]


# Reliability.


def test_one_seed_has_the_intraclass_correlation_of_reml() -> None:
    rng = np.random.default_rng(5)
    values = rng.standard_normal((4, 5, 1)) + 2 * rng.standard_normal((4, 1, 1))
    fit = fit_reml(values[..., 0].ravel(), {"model": np.repeat(np.arange(4), 5)})
    between, within = (float(np.asarray(part)) for part in fit.variance.values())
    found = seed_reliability(cube_of(values), n_seeds=1)
    assert number(found["reliability"]) == pytest.approx(between / (between + within), rel=1e-8)


def test_the_interval_of_the_intraclass_correlation_of_shrout_and_fleiss() -> None:
    # Six targets, four judges; ICC(1,1) = 0.17 with F = 1.79 on 5 and 18 degrees of freedom.
    table = np.array(
        [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]], dtype=np.float64
    )
    found = seed_reliability(cube_of(table[:, :, None]), n_seeds=[1, 4])
    np.testing.assert_allclose(found["reliability"].values.ravel(), [0.17, 0.44], atol=0.005)
    f = scipy.stats.f_oneway(*table).statistic
    upper = f / scipy.stats.f.ppf(0.025, 5, 18)
    assert float(found["upper"][0].squeeze()) == pytest.approx((upper - 1) / (upper + 3), rel=1e-9)
    assert float(found["lower"][0].squeeze()) == 0


def test_more_seeds_follow_spearman_and_brown() -> None:
    found = seed_reliability(cube_of(np.random.default_rng(6).standard_normal((5, 4, 20)) * 2), n_seeds=[1, 7])
    one, seven = found["reliability"].values[:, 0]
    np.testing.assert_allclose(seven, 7 * one / (1 + 6 * one), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10])
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_intervals_of_the_reliability_cover(n: int, missing: float) -> None:
    rng = np.random.default_rng(7 + n)
    values = rng.standard_normal((4, n, CELLS)) + rng.standard_normal((4, 1, CELLS))
    values[rng.random(values.shape) < missing] = np.nan
    found = seed_reliability(cube_of(values), n_seeds=3)
    known = found.where(~np.isnan(found["lower"]), drop=True)
    assert 0.93 <= float(((known["lower"] <= 0.75) & (known["upper"] >= 0.75)).mean()) <= 0.97


def test_level_and_scale_of_a_metric_do_not_matter_to_reliability() -> None:
    values = np.random.default_rng(8).standard_normal((4, 5, 3))
    xr.testing.assert_allclose(
        seed_reliability(cube_of(values)), seed_reliability(cube_of(1e-160 * (values + 64.0))), rtol=1e-9
    )


def test_models_without_spread_within_are_told_apart_for_sure() -> None:
    found = seed_reliability(cube_of(np.repeat([[[0.1]], [[0.2]], [[0.4]]], 3, axis=1)))
    assert (found["reliability"] == 1).all()


@pytest.mark.parametrize("shape", [(1, 5, 1), (4, 1, 1)])
def test_one_model_or_one_seed_has_no_reliability(shape: tuple[int, int, int]) -> None:
    found = seed_reliability(cube_of(np.random.default_rng(9).standard_normal(shape)))
    assert np.isnan(found["reliability"]).all()


def test_two_models_have_a_reliability_and_no_interval() -> None:
    found = seed_reliability(cube_of(np.random.default_rng(10).standard_normal((2, 5, 1))))
    assert not np.isnan(found["reliability"]).any()
    assert np.isnan(found["upper"]).all()


def test_a_constant_metric_has_no_reliability() -> None:
    assert np.isnan(seed_reliability(cube_of(np.full((3, 4, 1), 0.7)))["reliability"]).all()


def test_an_infinite_value_is_not_measured() -> None:
    values = np.random.default_rng(11).standard_normal((3, 4, 1))
    without, infinite = values.copy(), values.copy()
    without[0, 0], infinite[0, 0] = np.nan, np.inf
    xr.testing.assert_allclose(seed_reliability(cube_of(infinite)), seed_reliability(cube_of(without)))


@pytest.mark.parametrize("function", [noise_floor, coefficient_of_variation, seed_reliability])
@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, float("nan")])
def test_a_level_outside_zero_to_one_is_refused(function: object, level: float) -> None:
    with pytest.raises(AnalysisError, match="level"):
        function(cube_of(runs(1.0)), level=level)  # type: ignore[operator]
