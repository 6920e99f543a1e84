"""Signal, noise, monotonicity, the checkpoint proxy and decisions: known answers, oracles, coverage, bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import xarray as xr
from cubes_of_arrays import make_cube

from polystab.analysis.signal.decisions import decision_accuracy
from polystab.analysis.signal.kernels import expected_range
from polystab.analysis.signal.noise import checkpoint_proxy, monotonicity, relative_signal, signal_to_noise
from polystab.errors import AnalysisError

Floats = npt.NDArray[np.float64]


def noisy(*shape: int, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).standard_normal(shape)


# Signal and noise.


def test_known_ratio() -> None:
    assert relative_signal([0.3, 0.35, 0.5], [0.48, 0.5, 0.52, 0.5]) == pytest.approx(18.446, abs=5e-4)


@pytest.mark.parametrize(("models", "noise", "expected"), [([1, 2], [3, 3], np.inf), ([1, 1], [3, 3], np.nan)])
def test_no_noise_is_infinite_or_nothing(models: list[float], noise: list[float], expected: float) -> None:
    np.testing.assert_equal(relative_signal(models, noise), expected)


def test_both_definitions_by_hand() -> None:
    values = 10 + np.arange(3)[:, None, None, None] + 0.3 * noisy(3, 4, 8, 2)
    found = signal_to_noise(make_cube(values), last=5)
    end = values[:, :, -5:]
    score = end.mean(axis=(1, 2))
    signal = score.max(axis=0) - score.min(axis=0)
    np.testing.assert_allclose(found["signal"], signal)
    np.testing.assert_allclose(found["snr_pooled"], signal / end.std(axis=(0, 1, 2)))
    np.testing.assert_allclose(found["snr_within"], signal / np.sqrt(end.var(axis=2, ddof=1).mean(axis=(0, 1))))
    np.testing.assert_allclose(found["snr_seed"], signal / np.sqrt(end.mean(axis=2).var(axis=1, ddof=1).mean(axis=0)))
    expected = relative_signal(score[:, 0], end[1, 2, :, 0])
    assert found["snr_run"][1, 2, 0].item() == pytest.approx(expected)


def test_noise_that_contains_the_signal_bounds_the_ratio() -> None:
    values = np.arange(2)[:, None, None, None] + 1e-6 * noisy(2, 3, 6, 1)
    found = signal_to_noise(make_cube(values))
    assert found["snr_pooled"].item() == pytest.approx(2, rel=1e-3)
    assert found["snr_within"].item() > 1e4


@pytest.mark.slow
def test_the_ratio_of_models_that_are_alike_is_the_one_by_chance() -> None:
    found = signal_to_noise(make_cube(noisy(5, 8, 6, 2000)))
    assert float(found["snr_seed"].mean()) == pytest.approx(float(found["snr_seed_by_chance"].mean()), rel=0.03)


def test_expected_range_of_normal_numbers() -> None:
    # NIST/SEMATECH e-Handbook, table of d2.
    np.testing.assert_allclose(expected_range(np.array([2, 3, 5, 10])), [1.128, 1.693, 2.326, 3.078], atol=5e-4)
    assert np.isnan(expected_range(np.array([1]))[0])


@pytest.mark.parametrize(("scale", "offset"), [(1e-200, 0.0), (1e200, 0.0), (1.0, 1e9)])
def test_ratios_do_not_change_with_scale_and_offset(scale: float, offset: float) -> None:
    values = noisy(3, 4, 8, 2)
    one, two = (signal_to_noise(make_cube(v)) for v in (values, values * scale + offset))
    for name in ("snr_within", "snr_seed", "snr_pooled"):
        np.testing.assert_allclose(one[name], two[name], rtol=1e-6)


def test_one_seed_has_no_seed_noise() -> None:
    found = signal_to_noise(make_cube(noisy(3, 1, 8, 2)))
    assert found["snr_seed"].isnull().all()
    assert found["snr_within"].notnull().all()


# Decisions.


def test_decisions_by_hand() -> None:
    found = decision_accuracy([0.1, 0.3, 0.2], [1.0, 2.0, 3.0])
    assert (found["accuracy"].item(), int(found["n_pairs"])) == (pytest.approx(2 / 3), 3)


def test_ties_count_half_or_as_not_better() -> None:
    found = decision_accuracy([0.1, 0.1], [1.0, 2.0])
    assert (found["accuracy"].item(), found["accuracy_strict"].item()) == (0.5, 1.0)


def test_decisions_follow_kendall_without_ties() -> None:
    one, two = noisy(2, 30)
    tau = scipy.stats.kendalltau(one, two).statistic
    assert decision_accuracy(one, two)["accuracy"].item() == pytest.approx((1 + tau) / 2)


def test_decisions_are_joined_on_models() -> None:
    one = xr.DataArray([1.0, 2.0, 3.0], dims="model", coords={"model": ["a", "b", "c"]})
    two = xr.DataArray([3.0, 2.0], dims="model", coords={"model": ["c", "b"]})
    found = decision_accuracy(one, two)
    assert (found["accuracy"].item(), int(found["n_pairs"])) == (1.0, 1)


def test_no_run_is_its_own_target() -> None:
    values = noisy(12, 6, 3, 300)  # nothing lasts: the others say nothing about a run
    found = decision_accuracy(make_cube(values))
    assert float(found["accuracy"].isel(step=-1).mean()) == pytest.approx(0.5, abs=0.02)


def test_decisions_of_a_cube_are_right_where_models_are_far_apart() -> None:
    values = np.arange(4)[:, None, None, None] * 100 + noisy(4, 3, 2, 2)
    found = decision_accuracy(make_cube(values))
    assert (found["accuracy"] == 1).all()
    assert (found["n_seeds"] == 3).all()


def test_a_single_seed_has_no_target() -> None:
    assert decision_accuracy(make_cube(noisy(3, 1, 2, 2)))["accuracy"].isnull().all()


# Monotonicity.


@pytest.mark.parametrize("values", [noisy(12), np.round(noisy(12)), np.arange(12.0), -np.arange(5.0)])
def test_trends_are_those_of_scipy(values: Floats) -> None:
    found = monotonicity(make_cube(values[None, None, :, None])).squeeze()
    order = np.arange(len(values))
    assert found["kendall"].item() == pytest.approx(scipy.stats.kendalltau(order, values).statistic)
    assert found["spearman"].item() == pytest.approx(scipy.stats.spearmanr(order, values).statistic)


def test_gaps_are_skipped() -> None:
    values = np.array([1.0, np.nan, 3.0, 2.0, np.inf, 5.0])
    one = monotonicity(make_cube(values[None, None, :, None]))
    two = monotonicity(make_cube(values[[0, 2, 3, 5]][None, None, :, None]))
    xr.testing.assert_allclose(one, two)


def test_variation_by_hand() -> None:
    found = monotonicity(make_cube(np.array([0.0, 2.0, 1.0, 4.0])[None, None, :, None])).squeeze()
    names = ("sign", "total_variation", "excess_variation", "relative_variation")
    np.testing.assert_allclose([float(found[name]) for name in names], [1 / 3, 2.0, 2 / 3, 0.5])


def test_falling_is_improvement_where_lower_is_better() -> None:
    values = np.arange(5.0)[None, None, ::-1, None].repeat(2, axis=3)
    found = monotonicity(make_cube(values, better=["lower", "higher"])).squeeze()
    for name in ("kendall", "spearman", "sign"):
        assert found[name].values.tolist() == pytest.approx([1, -1])


def test_a_flat_curve_has_no_trend_and_no_variation() -> None:
    found = monotonicity(make_cube(np.full((1, 2, 6, 1), 0.1)))
    assert found["kendall"].isnull().all()
    assert found["sign"].isnull().all()
    assert (found["total_variation"] == 0).all()


# Checkpoints as a proxy of seeds.


def test_ratio_is_one_where_runs_do_not_differ_for_good() -> None:
    found = checkpoint_proxy(make_cube(noisy(1, 40, 10, 200)))
    assert float(np.exp(np.log(found["ratio"]).mean())) == pytest.approx(1, abs=0.03)


def test_ratio_by_hand() -> None:
    values = noisy(2, 5, 12, 3)
    found = checkpoint_proxy(make_cube(values), last=4)
    own = np.sqrt(values[:, :, -4:].var(axis=2, ddof=1).mean(axis=1))
    np.testing.assert_allclose(found["ratio"], own / values[:, :, -1].std(axis=1, ddof=1))


@pytest.mark.slow
@pytest.mark.parametrize("n_seed", [5, 10])
@pytest.mark.parametrize("lasting", [0.0, 2.0])
def test_the_interval_of_the_ratio_covers(n_seed: int, lasting: float) -> None:
    values = noisy(1, n_seed, 10, 4000) + lasting * noisy(1, n_seed, 1, 4000, seed=1)
    found = checkpoint_proxy(make_cube(values))
    truth = 1 / np.sqrt(1 + lasting**2)
    assert 0.93 <= float(((found["lower"] <= truth) & (found["upper"] >= truth)).mean()) <= 0.97


def test_a_copied_run_counts_once() -> None:
    values = noisy(1, 5, 12, 3)
    copied = np.concatenate([values, values[:, :1]], axis=1)
    xr.testing.assert_allclose(checkpoint_proxy(make_cube(values)), checkpoint_proxy(make_cube(copied)))


@pytest.mark.parametrize(
    ("values", "ratio"), [(np.full((1, 4, 6, 1), 0.1), np.nan), (noisy(1, 4, 1, 1).repeat(6, axis=2), 0.0)]
)
def test_metrics_that_do_not_scatter_have_no_interval(values: Floats, ratio: float) -> None:
    found = checkpoint_proxy(make_cube(values))
    np.testing.assert_equal(found["ratio"].item(), ratio)
    assert found["lower"].isnull().all()


@pytest.mark.parametrize("n_seed", [1, 2])
def test_fewer_than_three_seeds_have_no_interval(n_seed: int) -> None:
    assert checkpoint_proxy(make_cube(noisy(1, n_seed, 6, 1)))["lower"].isnull().all()


ONE_MODEL = make_cube(noisy(1, 3, 6, 1))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: signal_to_noise(ONE_MODEL), "one model"),
        (lambda: decision_accuracy(ONE_MODEL), "this cube has one"),
        (lambda: checkpoint_proxy(ONE_MODEL, last=1), "last is 1"),
        (lambda: decision_accuracy(ONE_MODEL, [1.0]), "target goes with"),
        (lambda: decision_accuracy([1.0, 2.0]), "pass a target"),
        (lambda: decision_accuracy([1.0, 2.0], [1.0]), "2 models and target 1"),
        (lambda: decision_accuracy([[1.0, 2.0]], [1.0, 2.0]), "2 dimensions"),
        (
            lambda: decision_accuracy(
                *(xr.DataArray([1.0], dims="model", coords={"model": [name]}) for name in ("a", "b"))
            ),
            "no model in common",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        call()


def test_all_of_them_take_metrics_that_were_never_measured() -> None:
    values = noisy(2, 3, 6, 2)
    values[..., 1] = np.nan
    for function in (signal_to_noise, decision_accuracy, monotonicity, checkpoint_proxy):
        found = function(make_cube(values)).isel(metric=1)
        assert all(np.isnan(found[name]).all() for name in found.data_vars if found[name].dtype.kind == "f")


def test_scores_at_the_ends_of_the_range_of_floats_have_an_order() -> None:
    assert float(decision_accuracy([-1.7e308, 1.7e308], [-1.7e308, 1.7e308])["accuracy"]) == 1.0


def test_the_interval_of_the_proxy_does_not_depend_on_the_unit() -> None:
    values = noisy(1, 4, 12, 1)
    small, large = (checkpoint_proxy(make_cube(values * unit)) for unit in (1.0, 2.0**1000))
    np.testing.assert_allclose(large["upper"], small["upper"], rtol=1e-12)
