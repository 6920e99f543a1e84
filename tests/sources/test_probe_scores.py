"""F1, the logistic probe and the online code, against scikit-learn and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from polystab.sources.probes.scores import f1_scores, fit_logistic, online_codelength


def labelled(n: int = 400, d: int = 5, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    return x, (x @ rng.normal(size=(d, classes)) + rng.gumbel(size=(n, classes))).argmax(1)


def test_f1_is_that_of_sklearn() -> None:
    rng = np.random.default_rng(0)
    truth, guess = rng.integers(0, 5, 200), rng.integers(1, 6, 200)
    found = f1_scores(truth, guess)
    assert found.macro == pytest.approx(f1_score(truth, guess, average="macro"))
    assert found.micro == pytest.approx(f1_score(truth, guess, average="micro"))


def test_a_label_that_training_never_saw_is_a_mistake_and_a_class_of_its_own() -> None:
    assert f1_scores(np.array([0, 1, -2]), np.array([0, 1, 1])).macro == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_no_rows_have_no_f1() -> None:
    assert np.isnan(f1_scores(np.array([]), np.array([]))).all()


@pytest.mark.slow
def test_logistic_weights_are_those_of_sklearn() -> None:
    x, y = labelled()
    weights, bias = fit_logistic(x, y, 3)
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(x, y)
    np.testing.assert_allclose(weights, theirs.coef_, atol=1e-3)
    np.testing.assert_allclose(bias - bias.mean(), theirs.intercept_ - theirs.intercept_.mean(), atol=1e-3)


def test_logistic_f1_on_other_rows_is_that_of_sklearn() -> None:
    x, y = labelled(600)
    weights, bias = fit_logistic(x[:400], y[:400], 3)
    theirs = LogisticRegression(C=1.0, max_iter=1000).fit(x[:400], y[:400]).predict(x[400:])
    ours = (x[400:] @ weights.T + bias).argmax(1)
    assert f1_scores(y[400:], ours) == pytest.approx(f1_scores(y[400:], theirs))


@pytest.mark.slow
def test_the_online_code_is_that_of_a_loop_with_sklearn() -> None:
    x, y = labelled()
    portions = (0.1, 0.25, 0.5, 1.0)
    expected = 40 * np.log(3)
    for start, end in ((40, 100), (100, 200), (200, 400)):
        model = LogisticRegression(C=1.0, tol=1e-10, max_iter=1000).fit(x[:start], y[:start])
        expected -= model.predict_log_proba(x[start:end])[np.arange(end - start), y[start:end]].sum()
    assert online_codelength(x, y, 3, portions=portions) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_the_online_code_takes_a_class_that_early_blocks_lack() -> None:
    x, y = labelled()
    y = np.sort(y)
    assert np.isfinite(online_codelength(x, y, 3))


@pytest.mark.slow
def test_the_online_code_of_random_labels_is_no_shorter_than_the_uniform_one() -> None:
    rng = np.random.default_rng(1)
    assert online_codelength(rng.normal(size=(500, 5)), rng.integers(0, 2, 500), 2) > 500 * np.log(2)
