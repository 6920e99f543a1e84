"""The restricted likelihood ratio test of a zero component: exact F as oracle, calibration, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from polystab.analysis import fit_reml
from polystab.errors import AnalysisError

GROUP = np.repeat(np.arange(5), 6)


def test_a_balanced_table_has_the_p_of_the_f_test() -> None:
    y = (
        np.random.default_rng(1).standard_normal((30, 300))
        + 0.4 * np.random.default_rng(2).standard_normal((5, 300))[GROUP]
    )
    statistic, p = fit_reml(y, {"group": GROUP}).zero_test("group", rng=3)
    expected = scipy.stats.f_oneway(*y.reshape(5, 6, 300)).pvalue
    above = np.asarray(statistic) > 1e-6
    # Five standard errors of 10,000 draws at most.
    np.testing.assert_allclose(np.asarray(p)[above], expected[above], atol=0.025)


def test_zero_has_the_probability_that_the_mean_squares_give_it() -> None:
    y = np.random.default_rng(4).standard_normal((30, 8000))
    statistic, _ = fit_reml(y, {"group": GROUP}).zero_test("group", n_simulations=1, rng=5)
    assert np.mean(np.asarray(statistic) < 1e-6) == pytest.approx(scipy.stats.f.cdf(1, 4, 25), abs=0.02)


def test_an_estimate_of_zero_has_p_one() -> None:
    y = np.tile([-1.0, 1.0], 15)
    fit = fit_reml(y, {"group": GROUP})
    assert (fit.variance["group"], fit.zero_test("group", n_simulations=99, rng=6)) == (0.0, (0.0, 1.0))


def test_a_large_component_has_the_smallest_p() -> None:
    y = 10.0 * GROUP + np.random.default_rng(7).standard_normal(30)
    assert fit_reml(y, {"group": GROUP}).zero_test("group", n_simulations=199, rng=8)[1] == 1 / 200


def test_units_and_fixed_effects_do_not_matter() -> None:
    rng = np.random.default_rng(9)
    x, y = rng.standard_normal(30), rng.standard_normal(30) + 0.5 * rng.standard_normal(5)[GROUP]
    one = fit_reml(y, {"group": GROUP}, {"x": x}).zero_test("group", n_simulations=99, rng=10)
    two = fit_reml(1e6 * (y + 5 * x), {"group": GROUP}, {"x": x}).zero_test("group", n_simulations=99, rng=10)
    np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0.0, 0.15])
def test_a_lone_zero_is_rejected_at_the_stated_rate(missing: float) -> None:
    rng = np.random.default_rng(11)
    y = rng.standard_normal((30, 3000))
    y[rng.random(30) < missing] = np.nan
    _, p = fit_reml(y, {"group": GROUP}).zero_test("group", rng=12)
    assert 0.04 <= np.mean(np.asarray(p) <= 0.05) <= 0.06


@pytest.mark.slow
def test_a_balanced_crossed_table_has_about_the_p_of_the_f_test() -> None:
    rng = np.random.default_rng(13)
    model, seed = (codes.ravel() for codes in np.indices((4, 5)))
    y = 3 * rng.standard_normal((4, 6))[model] + 0.7 * rng.standard_normal((5, 6))[seed] + rng.standard_normal((20, 6))
    _, p = fit_reml(y, {"model": model, "seed": seed}).zero_test("seed", n_simulations=999, rng=14)
    table = y.reshape(4, 5, 6)
    rest = table - table.mean(axis=0) - table.mean(axis=1, keepdims=True) + table.mean(axis=(0, 1))
    ratio = 4 * table.mean(axis=0).var(axis=0, ddof=1) / ((rest**2).sum(axis=(0, 1)) / 12)
    np.testing.assert_allclose(p, np.where(ratio > 1, scipy.stats.f.sf(ratio, 4, 12), 1.0), atol=0.04)


def test_responses_without_estimates_have_no_p() -> None:
    y = np.random.default_rng(15).standard_normal((30, 3))
    y[:, 1], y[2:, 2] = 0.5, np.nan
    statistic, p = fit_reml(y, {"group": GROUP}).zero_test("group", n_simulations=9, rng=16)
    assert np.isnan(p).tolist() == np.isnan(statistic).tolist() == [False, True, True]


@pytest.mark.slow
def test_many_levels_can_be_tested() -> None:
    group = np.repeat(np.arange(300), 2)
    y = np.random.default_rng(17).standard_normal(600) + np.random.default_rng(18).standard_normal(300)[group]
    assert fit_reml(y, {"group": group}).zero_test("group", n_simulations=19, rng=19)[1] == 1 / 20


def test_a_zero_test_of_an_unknown_factor_suggests_one() -> None:
    with pytest.raises(AnalysisError, match="Did you mean 'group'"):
        fit_reml(np.arange(30.0), {"group": GROUP}).zero_test("groop")


def test_the_residual_cannot_be_tested() -> None:
    with pytest.raises(AnalysisError, match="'residual' is no factor"):
        fit_reml(np.arange(30.0), {"group": GROUP}).zero_test("residual")


def test_no_simulations_are_refused() -> None:
    with pytest.raises(AnalysisError, match="n_simulations is 0"):
        fit_reml(np.arange(30.0), {"group": GROUP}).zero_test("group", n_simulations=0)
