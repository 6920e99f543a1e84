"""Kernels of the evaluation and of the budget, against scikit-learn, scipy and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polystab.analysis.early_warning.conformal import (
    conformal_p,
    exceeds,
    folds_of,
    highest_so_far,
    runs_needed,
    standardised,
)
from polystab.analysis.early_warning.ranking import auroc, average_precision, limits, run_weights, share_limits

ONE = np.array(["m"] * 40)


def drawn(seed: int, n: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return np.round(rng.normal(size=n), 1), rng.random(n) < 0.4


@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_that_of_scikit_learn(seed: int) -> None:
    from sklearn.metrics import roc_auc_score

    score, wrong = drawn(seed)
    found = auroc(score, wrong, ONE, np.ones((1, 40)), within=False)[0]
    assert found == pytest.approx(roc_auc_score(wrong, score), abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_average_precision_is_that_of_scikit_learn(seed: int) -> None:
    from sklearn.metrics import average_precision_score

    score, wrong = drawn(seed)
    found = average_precision(score, wrong, np.ones((1, 40)))[0]
    assert found == pytest.approx(average_precision_score(wrong, score), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_weights_count_like_repetition(seed: int) -> None:
    score, wrong = drawn(seed)
    model = np.array(["a", "b"] * 20)
    weights = run_weights(model, 4, np.random.default_rng(seed))
    for row in weights:
        again = np.repeat(np.arange(40), row.astype(int))
        one = np.ones((1, len(again)))
        for within in (False, True):
            assert auroc(score, wrong, model, row[None], within=within)[0] == pytest.approx(
                auroc(score[again], wrong[again], model[again], one, within=within)[0], abs=1e-12
            )
        assert average_precision(score, wrong, row[None])[0] == pytest.approx(
            average_precision(score[again], wrong[again], one)[0], abs=1e-12
        )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1000), st.floats(0.5, 100))
def test_adding_a_constant_to_a_model_changes_nothing_within(seed: int, jump: float) -> None:
    score, wrong = drawn(seed)
    model = np.array(["a", "b"] * 20)
    moved = score + np.where(model == "a", 0.0, jump)
    same = auroc(np.where(model == "a", score, score), wrong, model, np.ones((1, 40)), within=True)
    np.testing.assert_allclose(auroc(np.round(moved, 9), wrong, model, np.ones((1, 40)), within=True), same, atol=0.02)


def test_telling_models_apart_earns_nothing_within() -> None:
    model = np.array(["slow"] * 20 + ["fast"] * 20)
    wrong = np.array([False] * 18 + [True] * 2 + [False] * 2 + [True] * 18)
    rate = (model == "fast").astype(float)
    assert auroc(rate, wrong, model, np.ones((1, 40)), within=False)[0] > 0.85
    assert auroc(rate, wrong, model, np.ones((1, 40)), within=True)[0] == 0.5


def test_unscored_runs_are_left_out() -> None:
    score, wrong = np.array([np.nan, 1.0, 2.0]), np.array([True, False, True])
    assert auroc(score, wrong, ONE[:3], np.ones((1, 3)), within=True)[0] == 1.0
    assert average_precision(score, wrong, np.ones((1, 3)))[0] == 1.0


def test_infinite_scores_tie_with_each_other() -> None:
    score, wrong = np.array([np.inf, np.inf]), np.array([True, False])
    assert auroc(score, wrong, ONE[:2], np.ones((1, 2)), within=True)[0] == 0.5


def test_without_a_pair_there_is_no_area() -> None:
    score = np.arange(3.0)
    assert np.isnan(auroc(score, np.ones(3, dtype=bool), ONE[:3], np.ones((1, 3)), within=False)[0])
    assert np.isnan(average_precision(score, np.zeros(3, dtype=bool), np.ones((1, 3)))[0])


def test_resamples_keep_the_number_of_runs_of_each_model() -> None:
    model = np.array(["a"] * 3 + ["b"] * 5)
    weights = run_weights(model, 50, np.random.default_rng(0))
    assert (weights[:, :3].sum(axis=1) == 3).all()
    assert (weights[:, 3:].sum(axis=1) == 5).all()


def test_the_interval_of_a_share_is_exact() -> None:
    from scipy.stats import binomtest

    for hits, n in ((0, 5), (2, 5), (5, 5), (3, 45)):
        wanted = binomtest(hits, n).proportion_ci(0.95, method="exact")
        low, high = share_limits(np.array(float(hits)), np.array(float(n)), 0.95)
        assert (float(low), float(high)) == pytest.approx((wanted.low, wanted.high), abs=1e-9)


def test_a_share_of_nothing_has_no_interval() -> None:
    assert np.isnan(share_limits(np.array(0.0), np.array(0.0), 0.95)).all()


def test_quantiles_of_mostly_missing_resamples_are_missing() -> None:
    draws = np.array([[1.0, np.nan], [2.0, np.nan], [3.0, 1.0]])
    low, high = limits(draws, 0.5)
    assert (low[0], high[0]) == (1.5, 2.5)
    assert np.isnan([low[1], high[1]]).all()


# The budget.


@pytest.mark.parametrize(("rate", "needed"), [(0.05, 19), (0.1, 9), (0.01, 99), (0.025, 39)])
def test_so_many_stable_runs_make_an_alarm_possible(rate: float, needed: int) -> None:
    assert runs_needed(rate) == needed
    assert exceeds(np.array(1 / (needed + 1)), rate)
    assert not exceeds(np.array(1 / needed), rate)


def test_p_is_the_rank_among_the_stable_runs() -> None:
    p = conformal_p(np.array([0.0, 1.0, 2.5, 9.0, np.nan]), np.array([3.0, 1.0, 2.0]))
    np.testing.assert_array_equal(p, [1.0, 1.0, 0.5, 0.25, np.nan])


def test_p_of_exchangeable_runs_is_uniform() -> None:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((4000, 20))
    p = np.array([conformal_p(row[:1], row[1:])[0] for row in values])
    np.testing.assert_allclose([np.mean(p <= a) for a in (0.05, 0.1, 0.5)], [0.05, 0.1, 0.5], atol=0.02)


def test_the_highest_so_far_never_falls_and_passes_over_gaps() -> None:
    found = highest_so_far(np.array([[np.nan, 1.0, np.nan, 0.5, 2.0]]))
    np.testing.assert_array_equal(found, [[np.nan, 1.0, 1.0, 1.0, 2.0]])


def test_a_stable_run_is_judged_by_the_others() -> None:
    stable = np.random.default_rng(1).normal(size=(12, 4))
    own = standardised(stable, stable, leave_one_out=True)
    for r in range(12):
        np.testing.assert_array_equal(own[r], standardised(stable[[r]], np.delete(stable, r, axis=0))[0])


def test_the_scale_of_scores_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    scores, stable = rng.normal(size=(3, 5)), rng.normal(size=(9, 5))
    np.testing.assert_allclose(standardised(7 * scores + 3, 7 * stable + 3), standardised(scores, stable), rtol=1e-9)


def test_folds_spread_each_group() -> None:
    groups = np.array(["a"] * 7 + ["b"] * 3 + ["c"] * 10)
    fold = folds_of(groups, 5, np.random.default_rng(0))
    assert np.bincount(fold).tolist() == [4] * 5
    for name, most in (("a", 2), ("b", 1), ("c", 2)):
        assert np.bincount(fold[groups == name], minlength=5).max() == most
