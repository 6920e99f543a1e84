"""Moments, medians, spectra and fits of arrays, against numpy, scipy and known truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from polystab.sources.weights.changes import change, looks_unrelated
from polystab.sources.weights.features import ZERO, matrix_singular, nuclear_norm, singular
from polystab.sources.weights.fits import UNGROUPED, fit_all, grouped, hill_index, merged
from polystab.sources.weights.histograms import bin_centres, bin_edges, counts
from polystab.sources.weights.moments import CHUNK, array_moments, lower_median, pooled
from polystab.sources.weights.spectra import (
    fit_power_law,
    outliers,
    singular_values,
    spectrum_measures,
)


def normal(*shape: int, seed: int = 0, sd: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32) * np.float32(sd)


# --- moments --------------------------------------------------------------------------------------------------------


def expected(x: np.ndarray) -> dict[str, float]:
    flat = x.astype(np.float64).ravel()
    return {
        "mean": flat.mean(),
        "variance": flat.var(ddof=1),
        "std": flat.std(ddof=1),
        "skewness": stats.skew(flat),
        "kurtosis": stats.kurtosis(flat),
        "max_abs": np.abs(flat).max(),
        "l1": np.abs(flat).sum(),
        "l2": np.sqrt((flat**2).sum()),
        "l1_over_l2": np.abs(flat).sum() / np.sqrt((flat**2).sum()),
    }


@pytest.mark.parametrize(("scale", "offset"), [(1, 0.2), (1e-15, 0), (1e-3, 1000.0), (1e12, 0)])
def test_moments_are_those_of_scipy_whatever_the_scale_and_the_offset(scale, offset):
    x = (np.random.default_rng(1).gamma(2, size=(300, 1000)) * scale + offset).astype(np.float32)
    assert array_moments(x).measures() == pytest.approx(expected(x), rel=2e-5, abs=0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_absolute_value_is_exact_though_it_is_found_among_squares(dtype):
    x = np.random.default_rng(2).standard_normal((200, 400)).astype(dtype) * dtype(0.02)
    found = [array_moments(part).largest for part in x]
    assert found == [float(np.abs(part).max()) for part in x]


def test_pooled_moments_are_those_of_all_elements():
    several = [normal(40, 50, seed=1), normal(30, seed=2) + np.float32(3), normal(7, 7, seed=3, sd=5)]
    together = pooled(array_moments(x) for x in several).measures()
    assert together == pytest.approx(expected(np.concatenate([x.ravel() for x in several])), rel=1e-5)


def test_a_constant_has_no_kurtosis_and_no_variance():
    found = array_moments(np.full((20, 20), 0.1, np.float32)).measures()
    assert found["variance"] < 1e-20
    assert math.isnan(found["kurtosis"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_told(bad):
    x = normal(50, 50)
    x[3, 4] = bad
    assert not array_moments(x).finite
    assert array_moments(normal(50, 50)).finite


@pytest.mark.slow
@pytest.mark.parametrize(
    "make", [normal, lambda *shape: np.abs(normal(*shape)) ** 3, lambda *shape: np.round(normal(*shape))]
)
def test_the_lower_median_of_many_arrays_is_exact(make):
    arrays = [make(5, CHUNK // 2), make(37), make(3, CHUNK)]
    every = np.sort(np.concatenate([x.ravel() for x in arrays]))
    assert lower_median(lambda: arrays) == every[(every.size - 1) // 2]


@pytest.mark.slow
def test_the_lower_median_does_not_depend_on_a_sample_that_misleads():
    x = np.full(8 * CHUNK, 5.0, np.float32)
    x.reshape(8, CHUNK)[:, 256:] = normal(8, CHUNK - 256)  # the sample sees the first 256 of each
    assert lower_median(lambda: [x]) == np.sort(x)[(x.size - 1) // 2]


# --- singular values ------------------------------------------------------------------------------------------------


def planted(m: int, n: int, s: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(3)
    left, _ = np.linalg.qr(rng.standard_normal((m, len(s))))
    right, _ = np.linalg.qr(rng.standard_normal((n, len(s))))
    return ((left * s) @ right.T).astype(np.float32)


SPECTRA = {
    "flat": np.linspace(2, 1, 200),
    "power": 10 * np.arange(1, 201) ** -0.8,
    "rank 50 of 200": np.append(np.linspace(3, 1, 50), np.full(150, 1e-9)),
    "one large": np.append(500, np.linspace(2, 1, 199)),
    "six decades": np.logspace(0, -6, 200),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("shape", [(200, 200), (200, 900), (5000, 200)])
def test_mean_variance_and_largest_singular_value_are_good_to_a_hundred_thousandth(kind, shape):
    x = planted(*shape, SPECTRA[kind])
    true = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    found = singular_values(x)
    assert [found.mean(), found.var(), found[0]] == pytest.approx([true.mean(), true.var(), true[0]], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-18, 1e15])
def test_very_small_and_very_large_matrices_keep_their_singular_values(scale):
    x = planted(300, 200, SPECTRA["flat"])
    assert singular_values(x * np.float32(scale)) == pytest.approx(singular_values(x).astype(float) * scale, rel=1e-5)


@pytest.mark.slow
def test_small_matrices_are_decomposed():
    x = planted(300, 100, np.logspace(0, -5, 100))
    assert singular_values(x) == pytest.approx(np.linalg.svd(x.astype(np.float64), compute_uv=False), rel=1e-9)


@pytest.mark.parametrize("shape", [(1, 30), (30, 1), (1, 1), (0, 5)])
def test_thin_matrices_have_a_spectrum(shape):
    x = normal(*shape)
    assert singular_values(x) == pytest.approx(np.linalg.svd(x, compute_uv=False), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPECTRA)
def test_the_features_of_singular_values_are_good_to_a_hundred_thousandth_without_each_of_them(kind):
    x = planted(200, 260, SPECTRA[kind])
    true = singular(np.linalg.svd(x.astype(np.float64), compute_uv=False))
    assert matrix_singular(x) == pytest.approx(true, rel=1e-5)


@pytest.mark.slow
def test_the_features_of_singular_values_are_those_of_each_of_them():
    x = normal(500, 300, sd=0.02)
    assert matrix_singular(x) == pytest.approx(singular(singular_values(x)), rel=1e-9)


@pytest.mark.slow
def test_singular_values_that_count_as_zero_are_zero_in_their_features():
    x = planted(300, 200, np.append(np.linspace(3e-4, 1e-4, 150), np.full(50, ZERO / 2)))
    true = np.linalg.svd(x.astype(np.float64), compute_uv=False)
    assert matrix_singular(x).mean == pytest.approx(true[:150].sum() / 200, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.0, 1e-18, 1e25])
def test_matrices_beyond_single_precision_have_features_of_singular_values(scale):
    x = planted(300, 200, SPECTRA["flat"]) * np.float32(scale)
    assert matrix_singular(x).mean == pytest.approx(1.5 * scale, rel=1e-5)


@pytest.mark.parametrize("decades", [0, 1, 2])
def test_the_sum_of_roots_of_a_tridiagonal_matrix_needs_no_eigenvalues(decades):
    rng = np.random.default_rng(12)
    diagonal, beside = 10.0 ** rng.uniform(0, 2 * decades, 80) + 3, rng.uniform(-1, 1, 79)
    roots = np.sqrt(np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1)))
    assert nuclear_norm(diagonal, beside, roots[0], roots[-1]) == pytest.approx(roots.sum(), rel=1e-10)


def test_a_matrix_of_zeros_has_singular_values_of_zero_and_no_ranks():
    found = spectrum_measures(singular_values(np.zeros((4, 6), np.float32)), (4, 6))
    assert found["spectral_norm"] == 0
    assert "stable_rank" not in found


def test_ranks_of_a_projection_are_its_rank():
    found = spectrum_measures(np.append(np.ones(7), np.zeros(13)), (20, 20))
    assert [found[name] for name in ("stable_rank", "effective_rank", "participation_ratio")] == pytest.approx(
        [7, 7, 7]
    )


def test_the_slope_over_ranks_is_the_planted_one():
    found = spectrum_measures(4.0 * np.arange(1, 301) ** -0.7, (300, 400))
    assert found["rank_slope"] == pytest.approx(-0.7)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(400, 400), (800, 200), (150, 700)])
def test_a_gaussian_matrix_has_outliers_in_about_one_of_a_hundred_cases(shape):
    several = [outliers(np.linalg.svd(normal(*shape, seed=i), compute_uv=False), shape) for i in range(12)]
    assert sum(count > 0 for count in several) <= 2  # 12 cases of 1 %: more than two in 0.02 % of all seeds


@pytest.mark.slow
def test_planted_directions_beyond_the_edge_are_counted():
    x = normal(600, 300, sd=0.02)
    edge = 0.02 * (math.sqrt(600) + math.sqrt(300))
    x += planted(600, 300, np.array([2.0, 1.5, 1.2]) * edge)
    assert outliers(np.linalg.svd(x, compute_uv=False), (600, 300)) == 3


@pytest.mark.parametrize("alpha", [2.2, 3.5])
def test_a_planted_power_law_is_found_with_its_start(alpha):
    rng = np.random.default_rng(4)
    tail = 3.0 * (1 - rng.random(1500)) ** (-1 / (alpha - 1))
    values = np.concatenate([rng.uniform(0.1, 3.0, 1500), tail])
    found, start, n, distance = fit_power_law(values)
    assert found == pytest.approx(alpha, abs=4 * (alpha - 1) / math.sqrt(n))
    assert 2.5 < start < 5
    assert distance < 1.6 / math.sqrt(n)


def by_hand(values: np.ndarray) -> tuple[float, float]:
    """The method of weightwatcher, one start after the other."""
    x = np.sort(values)
    best = (math.inf, 0.0, 0.0)
    for i in range(len(x) - 1):
        tail = x[i:]
        alpha = 1 + len(tail) / np.log(tail / x[i]).sum()
        distance = np.abs(1 - (tail / x[i]) ** (1 - alpha) - np.arange(len(tail)) / len(tail)).max()
        best = min(best, (distance, alpha, x[i]))
    return best[1], best[2]


def test_the_power_law_of_weightwatcher_is_the_one_by_hand():
    values = np.random.default_rng(5).lognormal(size=200)
    found = fit_power_law(values, method="weightwatcher")
    assert found[:2] == pytest.approx(by_hand(values), rel=1e-9)


def test_a_power_law_of_too_few_values_is_not_fitted():
    assert math.isnan(fit_power_law(np.arange(1.0, 8.0))[0])


# --- fits -----------------------------------------------------------------------------------------------------------

SAMPLES = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "t": lambda rng, n: 0.02 * rng.standard_t(5, n) + 0.001,
    "heavy": lambda rng, n: rng.standard_t(1.5, n),
    "laplace": lambda rng, n: rng.laplace(size=n),
    "light": lambda rng, n: stats.gennorm.rvs(4, size=n, random_state=rng),
}


@pytest.fixture(params=SAMPLES)
def sample(request) -> np.ndarray:
    return np.sort(SAMPLES[request.param](np.random.default_rng(6), UNGROUPED))


@pytest.mark.slow
@pytest.mark.parametrize("family", ["norm", "logistic", "t", "gennorm"])
def test_likelihoods_are_no_less_than_those_of_scipy(sample, family):
    fitted = getattr(stats, family)
    theirs = fitted.logpdf(sample, *fitted.fit(sample)).sum()
    ours = fit_all([grouped(sample)])[0][f"{'normal' if family == 'norm' else family}_loglik"]
    # A t distribution ends at 10,000 degrees of freedom, which costs light tails this much.
    assert ours > theirs - 0.01 - UNGROUPED / 1e4 * (family == "t")


@pytest.mark.slow
@pytest.mark.parametrize(("family", "shape"), [("logistic", ""), ("t", "t_nu"), ("gennorm", "gennorm_beta")])
def test_likelihoods_are_those_of_the_shape_and_the_scale_that_are_told(sample, family, shape):
    found = fit_all([grouped(sample)])[0]
    fixed = (found[shape],) if shape else ()
    density = getattr(stats, family)(*fixed, scale=found[f"{family}_scale"])
    at = np.median(sample) + np.linspace(-0.15, 0.15, 401) * stats.iqr(sample)
    best = max(density.logpdf(sample - place).sum() for place in at)
    assert found[f"{family}_loglik"] == pytest.approx(best, abs=0.3)


def test_aic_counts_the_parameters(sample):
    found = fit_all([grouped(sample)])[0]
    for family, k in (("normal", 2), ("logistic", 2), ("t", 3), ("gennorm", 3)):
        assert found[f"{family}_aic"] == pytest.approx(2 * k - 2 * found[f"{family}_loglik"])


def test_the_qq_correlation_is_that_of_scipy(sample):
    assert fit_all([grouped(sample)])[0]["qq_correlation"] == pytest.approx(stats.probplot(sample)[1][2], abs=1e-9)


@pytest.mark.parametrize("nu", [2.5, 5.0, 20.0])
def test_the_degrees_of_freedom_of_a_t_distribution_are_recovered(nu):
    x = np.sort(0.02 * np.random.default_rng(7).standard_t(nu, 400_000)).astype(np.float32)
    found = fit_all([grouped(x)])[0]
    assert found["t_nu"] == pytest.approx(nu, rel=0.05)
    assert found["t_scale"] == pytest.approx(0.02, rel=0.01)


def test_nu_of_normal_elements_is_beyond_anything_that_is_heavy():
    found = fit_all([grouped(np.sort(normal(400_000)))])[0]
    assert found["t_nu"] > 200
    assert found["gennorm_beta"] == pytest.approx(2, abs=0.03)


@pytest.mark.slow
def test_grouping_changes_likelihoods_by_millionths_and_shapes_by_thousandths():
    x = np.sort(np.random.default_rng(8).standard_t(4, 20_000))
    found = fit_all([grouped(x)])[0]
    nu, mu, scale = stats.t.fit(x)
    assert found["t_nu"] == pytest.approx(nu, rel=1e-3)
    assert found["t_loglik"] == pytest.approx(stats.t.logpdf(x, nu, mu, scale).sum(), rel=1e-5)


def test_fits_move_and_stretch_with_the_elements():
    x = np.sort(np.random.default_rng(9).standard_t(4, 3000))
    one, other = fit_all([grouped(x), grouped(x * 1e-6 + 4e-6)])
    for name in ("t_nu", "gennorm_beta", "qq_correlation"):
        assert other[name] == pytest.approx(one[name], rel=1e-5)
    assert other["t_scale"] == pytest.approx(one["t_scale"] * 1e-6, rel=1e-5)


def test_the_fits_of_one_matrix_do_not_depend_on_the_others():
    several = [
        grouped(np.sort(make(np.random.default_rng(i), 500 * (i + 1)))) for i, make in enumerate(SAMPLES.values())
    ]
    alone = [fit_all([one])[0] for one in several]
    assert [found["t_nu"] for found in fit_all(several)] == pytest.approx([found["t_nu"] for found in alone], rel=1e-4)


def test_fits_of_matrices_together_are_those_of_their_elements():
    parts = [0.1 * np.random.default_rng(i).standard_t(4, 20_000) + 0.05 * i for i in range(3)]
    together = fit_all([grouped(np.sort(np.concatenate(parts)))])[0]
    found = fit_all([merged([grouped(np.sort(part)) for part in parts])])[0]
    for name in ("t_nu", "gennorm_beta", "qq_correlation", "hill_index", "t_loglik"):
        assert found[name] == pytest.approx(together[name], rel=2e-3)


def test_the_hill_index_of_a_pareto_tail_is_its_exponent():
    x = np.random.default_rng(10).pareto(3.0, 300_000) + 1
    assert hill_index(np.sort(x * np.random.default_rng(11).choice([-1, 1], x.size))) == pytest.approx(3.0, rel=0.06)


@pytest.mark.parametrize("x", [np.zeros(100), np.full(100, 3.0), np.arange(5.0), np.repeat([0.0, 1.0], 50)])
def test_constants_and_handfuls_are_not_fitted(x):
    assert grouped(x) is None


# --- changes, histograms ----------------------------------------------------------------------------------------------


def test_distance_and_cosine_are_those_of_the_elements():
    x, y = normal(300, 500, seed=1), normal(300, 500, seed=2)
    found = change(x, y)
    a, b = x.ravel().astype(float), y.ravel().astype(float)
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    along = (a - b) @ b / np.linalg.norm(a - b) / np.linalg.norm(b)
    assert [found.distance, found.cosine, found.update_cosine] == pytest.approx(
        [np.linalg.norm(a - b), cosine, along], rel=1e-4
    )


def test_weights_that_shrink_have_an_update_cosine_of_minus_one():
    x = normal(50, 50)
    assert change(x * np.float32(0.9), x).update_cosine == pytest.approx(-1)


def test_weights_of_another_start_look_unrelated_and_trained_ones_do_not():
    x, y = normal(64, 64, seed=1), normal(64, 64, seed=2)
    assert looks_unrelated([(change(x, y), x.size)] * 3)
    assert not looks_unrelated([(change(x + 3 * y, x), x.size)] * 3)


def test_histograms_count_every_element_once_where_numpy_puts_it():
    x = np.sort(np.concatenate([normal(5000), normal(5000, sd=1e-3), np.float32([0, 0, -500, 1e9])]))
    edges = bin_edges().astype(np.float32)
    there = np.histogram(x.astype(np.float64), np.clip(edges.astype(np.float64), -1e300, 1e300))[0]
    assert counts(x).tolist() == there.tolist()
    assert counts(x).sum() == x.size


def test_every_bin_has_its_label_within():
    edges, centres = bin_edges(), bin_centres()
    assert len(centres) == len(edges) - 1
    assert ((edges[:-1] <= centres) & (centres <= edges[1:])).all()
