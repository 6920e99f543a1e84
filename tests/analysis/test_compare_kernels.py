"""Two groups of runs against each other: t tests, effects, equivalence, permutations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from polystab.analysis.comparisons import kernels
from polystab.analysis.comparisons.kernels import (
    BORROWED,
    FEW_SEEDS,
    NO_SPREAD,
    NOT_MEASURED,
    PAIRED,
    WELCH,
    contrast,
    detectable,
    effect_size,
    equivalence_p,
    noncentrality,
    t_interval,
    t_p,
)
from polystab.analysis.comparisons.permutations import permutation_p

LEVEL = 0.95


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


class TestAgainstScipy:
    @pytest.mark.parametrize(("n", "m"), [(3, 3), (5, 9), (12, 4)])
    def test_welch_t(self, rng: np.random.Generator, n: int, m: int) -> None:
        a, b = rng.normal(0, 1, (n, 6)), rng.normal(0.5, 3, (m, 6))
        found, oracle = contrast(a, b), stats.ttest_ind(b, a, equal_var=False)
        np.testing.assert_allclose(found.t, oracle.statistic, rtol=1e-12)
        np.testing.assert_allclose(found.df, oracle.df, rtol=1e-12)
        np.testing.assert_allclose(t_p(found), oracle.pvalue, rtol=1e-10)
        ends = oracle.confidence_interval(LEVEL)
        np.testing.assert_allclose(t_interval(found, LEVEL), [ends.low, ends.high], rtol=1e-10)

    def test_paired_t(self, rng: np.random.Generator) -> None:
        a = rng.normal(size=(6, 5))
        b = a + rng.normal(0.3, 0.5, (6, 5))
        found, oracle = contrast(a, b, paired=True), stats.ttest_rel(b, a)
        np.testing.assert_allclose(t_p(found), oracle.pvalue, rtol=1e-10)
        ends = oracle.confidence_interval(LEVEL)
        np.testing.assert_allclose(t_interval(found, LEVEL), [ends.low, ends.high], rtol=1e-10)

    @pytest.mark.parametrize(("n", "m"), [(3, 3), (4, 5), (2, 6)])
    def test_exact_permutations(self, rng: np.random.Generator, n: int, m: int) -> None:
        a, b = rng.normal(0, 1, (n, 4)), rng.normal(1, 2, (m, 4))

        def statistic(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:  # type: ignore[type-arg]
            gap = np.abs(x.mean(axis) - y.mean(axis))
            if min(n, m) < 3:
                return np.asarray(gap)
            return np.asarray(gap / np.sqrt(x.var(axis, ddof=1) / n + y.var(axis, ddof=1) / m))

        oracle = stats.permutation_test(
            (a, b), statistic, vectorized=True, n_resamples=np.inf, alternative="greater", axis=0
        )
        found, _ = permutation_p(a, b, paired=False, n_permutations=9999, rng=rng)
        np.testing.assert_allclose(found, oracle.pvalue, rtol=1e-12)

    def test_exact_sign_flips(self, rng: np.random.Generator) -> None:
        a = rng.normal(size=(7, 4))
        b = a + rng.normal(0.4, 1, a.shape)
        oracle = stats.permutation_test(
            (a, b), lambda x, y, axis: np.abs((x - y).mean(axis)), permutation_type="samples", vectorized=True,
            n_resamples=np.inf, alternative="greater", axis=0,
        )  # fmt: skip
        found, least = permutation_p(a, b, paired=True, n_permutations=9999, rng=rng)
        np.testing.assert_allclose(found, oracle.pvalue, rtol=1e-12)
        np.testing.assert_allclose(least, 2 / 2**7)

    def test_noncentrality_gives_back_the_share(self) -> None:
        df, t = np.array([2.0, 4.7, 18.0]), np.array([0.3, 3.0, 30.0])
        for share in (0.025, 0.5, 0.975):
            np.testing.assert_allclose(stats.nct.cdf(t, df, noncentrality(df, share, t)), share, atol=1e-4)

    def test_detectable_difference_has_the_power(self, rng: np.random.Generator) -> None:
        found = contrast(rng.normal(size=(5, 3)), rng.normal(size=(8, 3)))
        shift = detectable(found.df, found.stderr, power=0.8, alpha=0.05) / found.stderr
        critical = stats.t.ppf(0.975, found.df)
        np.testing.assert_allclose(stats.nct.sf(critical, found.df, shift), 0.8, atol=1e-4)


class TestAlgebra:
    def test_swapping_the_sides_turns_every_sign(self, rng: np.random.Generator) -> None:
        a, b = rng.normal(size=(4, 9)), rng.normal(0.5, 2, (7, 9))
        one, two = contrast(a, b), contrast(b, a)
        low, high = t_interval(one, LEVEL)
        np.testing.assert_allclose(t_interval(two, LEVEL), [-high, -low], rtol=1e-12)
        effect, near, far = effect_size(one, LEVEL)
        np.testing.assert_allclose(effect_size(two, LEVEL), [-effect, -far, -near], rtol=1e-12)
        np.testing.assert_allclose(t_p(two), t_p(one), rtol=1e-12)

    @pytest.mark.parametrize(("scale", "shift"), [(1e-9, 0.0), (1e150, 0.0), (-3.0, 0.0), (1.0, 1e6)])
    def test_scale_and_shift_change_no_effect(self, rng: np.random.Generator, scale: float, shift: float) -> None:
        a, b = rng.normal(size=(4, 5)), rng.normal(1, 2, (6, 5))
        plain, moved = contrast(a, b), contrast(scale * a + shift, scale * b + shift)
        np.testing.assert_allclose(moved.difference, scale * plain.difference, rtol=1e-8)
        np.testing.assert_allclose(moved.t, np.sign(scale) * plain.t, rtol=1e-8)
        sides = [equivalence_p(one, one.spread, standardised=np.ones(5, bool)) for one in (plain, moved)]
        np.testing.assert_allclose(sides[1], sides[0], rtol=1e-6)

    def test_order_of_runs_is_of_no_account(self, rng: np.random.Generator) -> None:
        a, b = rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
        np.testing.assert_allclose(t_p(contrast(a[::-1], b[::-1])), t_p(contrast(a, b)), rtol=1e-12)

    def test_a_margin_in_units_equals_its_one_sided_test(self, rng: np.random.Generator) -> None:
        a, b = rng.normal(size=(8, 4)), rng.normal(size=(8, 4))
        found = equivalence_p(contrast(a, b), np.full(4, 2.0), standardised=np.zeros(4, bool))
        upper = stats.ttest_ind(b - 2.0, a, equal_var=False, alternative="less").pvalue
        lower = stats.ttest_ind(b + 2.0, a, equal_var=False, alternative="greater").pvalue
        np.testing.assert_allclose(found, np.maximum(upper, lower), rtol=1e-9)


class TestFewRuns:
    def test_one_run_gets_the_prediction_interval_of_the_others(self, rng: np.random.Generator) -> None:
        lone, others = rng.normal(size=(1, 1)), rng.normal(size=(6, 1))
        found = contrast(others, lone)
        reach = stats.t.ppf(0.975, 5) * others.std(ddof=1) * np.sqrt(1 + 1 / 6)
        assert found.method.item() == BORROWED
        np.testing.assert_allclose(np.diff(np.ravel(t_interval(found, LEVEL))), 2 * reach, rtol=1e-12)

    @pytest.mark.parametrize("n", [1, 2])
    def test_few_on_both_sides_give_a_difference_and_no_test(self, rng: np.random.Generator, n: int) -> None:
        found = contrast(rng.normal(size=(n, 1)), rng.normal(size=(2, 1)))
        assert found.reason.item() == FEW_SEEDS
        assert np.isfinite(found.difference.item())
        assert np.isnan([found.stderr.item(), t_p(found).item(), *np.ravel(effect_size(found, LEVEL))]).all()

    def test_two_pairs_are_too_few(self, rng: np.random.Generator) -> None:
        found = contrast(rng.normal(size=(2, 1)), rng.normal(size=(2, 1)), paired=True)
        assert found.reason.item() == FEW_SEEDS

    def test_a_side_without_values_is_not_measured(self, rng: np.random.Generator) -> None:
        found = contrast(rng.normal(size=(5, 1)), np.full((5, 1), np.nan))
        assert found.reason.item() == NOT_MEASURED

    def test_a_pair_with_a_missing_half_is_left_out(self, rng: np.random.Generator) -> None:
        a, b = rng.normal(size=(5, 1)), rng.normal(size=(5, 1))
        b[0] = np.nan
        found = contrast(a, b, paired=True)
        np.testing.assert_allclose(t_p(found), stats.ttest_rel(b[1:], a[1:]).pvalue, rtol=1e-10)
        assert (found.n == 4).all()
        assert found.method.item() == PAIRED

    def test_infinite_values_are_in_no_mean(self) -> None:
        a, b = np.array([[1.0], [2.0], [3.0], [np.inf]]), np.array([[1.0], [2.0], [4.0]])
        found = contrast(a, b)
        assert found.n[0].item() == 3
        assert found.mean[0].item() == 2.0


class TestNoSpread:
    def test_equal_runs_on_both_sides_have_no_t(self) -> None:
        found = contrast(np.full((4, 1), 0.1), np.full((4, 1), 0.3))
        assert found.reason.item() == NO_SPREAD
        assert np.isnan(t_p(found)).all()

    def test_rounding_is_no_spread(self) -> None:
        base = np.array([0.1 + 0.2, 0.3, 0.3, 0.1 + 0.2])[:, None] * 1e6
        assert contrast(base, base[::-1] + 0.0).reason.item() == NO_SPREAD

    def test_one_side_without_spread_is_tested(self, rng: np.random.Generator) -> None:
        found = contrast(np.full((4, 1), 1.0), rng.normal(size=(4, 1)))
        assert found.method.item() == WELCH
        np.testing.assert_allclose(found.df, 3)

    def test_constant_sides_that_differ_have_the_smallest_p(self, rng: np.random.Generator) -> None:
        p, least = permutation_p(np.zeros((4, 1)), np.ones((4, 1)), paired=False, n_permutations=9999, rng=rng)
        np.testing.assert_allclose([p.item(), least.item()], 2 / 70)


class TestPermutations:
    def test_sampled_p_is_near_the_exact_one(self, rng: np.random.Generator) -> None:
        a, b = rng.normal(size=(7, 3)), rng.normal(0.8, 1, (7, 3))
        exact, _ = permutation_p(a, b, paired=False, n_permutations=4000, rng=rng)
        drawn, least = permutation_p(a, b, paired=False, n_permutations=2000, rng=rng)
        np.testing.assert_allclose(least, 1 / 2001)
        np.testing.assert_allclose(drawn, exact, atol=4 * np.sqrt(0.25 / 2000))

    def test_same_rng_gives_the_same_bytes(self, rng: np.random.Generator) -> None:
        a, b = rng.normal(size=(9, 2)), rng.normal(size=(9, 2))
        one, two = (
            permutation_p(a, b, paired=False, n_permutations=99, rng=np.random.default_rng(3))[0] for _ in range(2)
        )
        assert one.tobytes() == two.tobytes()

    def test_under_no_difference_p_is_uniform_enough(self, rng: np.random.Generator) -> None:
        p, _ = permutation_p(
            rng.normal(size=(5, 2000)), rng.normal(size=(5, 2000)), paired=False, n_permutations=999, rng=rng
        )
        # The share of 2,000 uniform p at or below 0.05 lies within 4 standard errors of it.
        assert 0.05 - 4 * 0.0049 < np.mean(p <= 0.05) < 0.05 + 4 * 0.0049


N = 4000
# Four standard errors of a share of 0.95 among N.
SLACK = 4 * np.sqrt(0.95 * 0.05 / N)


class TestCalibration:
    @pytest.mark.parametrize(
        ("n", "m", "sd", "worst"),
        # Welch's degrees of freedom are estimated: a little too few for equal spreads, a little too many for 3 and 10 runs.
        [(3, 3, 1, 0.02), (3, 3, 4, 0.01), (5, 5, 1, 0.01), (5, 5, 4, 0.01), (10, 10, 1, 0.0), (10, 10, 4, 0.0), (3, 10, 1, 0.015)],
    )  # fmt: skip
    def test_interval_covers_the_difference(
        self, rng: np.random.Generator, n: int, m: int, sd: float, worst: float
    ) -> None:
        found = contrast(rng.normal(0, 1, (n, N)), rng.normal(1, sd, (m, N)))
        low, high = t_interval(found, LEVEL)
        assert abs(np.mean((low <= 1) & (high >= 1)) - LEVEL) < SLACK + worst

    @pytest.mark.parametrize("n", [3, 5, 10])
    @pytest.mark.parametrize("correlation", [0.0, 0.7])
    def test_paired_interval_covers_the_difference(self, rng: np.random.Generator, n: int, correlation: float) -> None:
        a = rng.normal(size=(n, N))
        b = 1 + correlation * a + np.sqrt(1 - correlation**2) * rng.normal(size=(n, N))
        low, high = t_interval(contrast(a, b, paired=True), LEVEL)
        assert abs(np.mean((low <= 1) & (high >= 1)) - LEVEL) < SLACK

    @pytest.mark.parametrize("k", [1, 2])
    def test_borrowed_spread_alarms_at_its_rate(self, rng: np.random.Generator, k: int) -> None:
        p = t_p(contrast(rng.normal(size=(6, N)), rng.normal(size=(k, N))))
        assert abs(np.mean(p <= 0.05) - 0.05) < SLACK

    @pytest.mark.slow
    @pytest.mark.parametrize(("n", "m", "sd"), [(3, 3, 1), (5, 5, 4), (10, 10, 1), (4, 10, 2)])
    def test_interval_of_the_effect_covers_it(self, rng: np.random.Generator, n: int, m: int, sd: float) -> None:
        truth = 1.5 / np.sqrt((1 + sd**2) / 2)
        _, low, high = effect_size(contrast(rng.normal(0, 1, (n, N)), rng.normal(1.5, sd, (m, N))), LEVEL)
        assert abs(np.mean((low <= truth) & (truth <= high)) - LEVEL) < SLACK + 0.02

    def test_effect_of_ten_runs_has_no_bias(self, rng: np.random.Generator) -> None:
        effect, _, _ = effect_size(contrast(rng.normal(0, 1, (10, 1000)), rng.normal(1, 1, (10, 1000))), LEVEL)
        # The SD of g is about 0.5: four standard errors of 1,000.
        assert abs(effect.mean() - 1) < 4 * 0.5 / np.sqrt(1000)

    @pytest.mark.parametrize("paired", [False, True])
    def test_a_difference_of_the_margin_is_called_small_at_its_rate(
        self, rng: np.random.Generator, paired: bool
    ) -> None:
        found = contrast(rng.normal(0, 1, (10, N)), rng.normal(1, 1, (10, N)), paired=paired)
        p = equivalence_p(found, found.spread, standardised=np.ones(N, bool))
        assert np.mean(p <= 0.05) < 0.05 + SLACK

    def test_no_difference_is_called_small_with_many_runs(self, rng: np.random.Generator) -> None:
        found = contrast(rng.normal(size=(30, 200)), rng.normal(size=(30, 200)))
        p = equivalence_p(found, found.spread, standardised=np.ones(200, bool))
        assert np.mean(p <= 0.05) > 0.9

    def test_five_runs_cannot_show_that_a_difference_is_below_one_sd(self, rng: np.random.Generator) -> None:
        found = contrast(rng.normal(size=(5, 200)), rng.normal(size=(5, 200)))
        assert equivalence_p(found, found.spread, standardised=np.ones(200, bool)).min() > 0.05


def test_kernels_name_a_code_for_each_word() -> None:
    assert [kernels.METHODS[code] for code in (kernels.NONE, WELCH, PAIRED, BORROWED)] == list(kernels.METHODS)
