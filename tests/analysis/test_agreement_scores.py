"""Kappa and alpha of arrays: worked examples, scikit-learn and statsmodels as oracles, algebra, bad input."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from items_of_arrays import drawn
from sklearn.metrics import cohen_kappa_score
from statsmodels.stats import inter_rater

from polystab.analysis.agreement import cohen_kappa, fleiss_kappa, krippendorff_alpha
from polystab.analysis.agreement.kernels import fleiss_counts, leave_one_out, pair_counts, pair_influence, slopes
from polystab.errors import AnalysisError


def rows(*texts: str) -> npt.NDArray[np.int64]:
    """Answers of one run per text, ``.`` for none."""
    return np.array([[-1 if mark == "." else int(mark) for mark in text.split()] for text in texts])


# K. Krippendorff (2011), Computing Krippendorff's alpha-reliability: four observers, twelve units, gaps.
FOUR_OBSERVERS = rows(
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)


def test_cohen_kappa_of_ten_answers_is_the_known_one() -> None:
    found = cohen_kappa([1, 1, 0, 0, 1, 0, 1, 1, 0, 1], [1, 0, 0, 0, 1, 1, 1, 1, 0, 1])
    assert found == pytest.approx(0.58333, abs=5e-6)


@pytest.mark.parametrize("options", [2, 3, 7])
def test_cohen_kappa_is_that_of_scikit_learn(options: int) -> None:
    a, b = drawn((1, 2, 1, 150), options=options, seed=options)[0, :, 0]
    assert cohen_kappa(a, b) == pytest.approx(cohen_kappa_score(a, b), abs=1e-14)


def test_items_that_one_of_two_did_not_answer_are_left_out() -> None:
    a, b = drawn((1, 2, 1, 150), missing=0.3, seed=1)[0, :, 0]
    both = (a >= 0) & (b >= 0)
    assert cohen_kappa(a, b) == pytest.approx(cohen_kappa_score(a[both], b[both]), abs=1e-14)


def test_options_are_names_only() -> None:
    a, b = drawn((1, 2, 1, 100), seed=2)[0, :, 0]
    names = np.array([70_000, 3, 12, 1])
    assert cohen_kappa(names[a], names[b]) == cohen_kappa(a, b)


def test_both_always_the_same_option_is_undefined() -> None:
    assert np.isnan(cohen_kappa([2, 2, 2], [2, 2, 2]))


def test_two_different_constant_runs_agree_as_chance_says() -> None:
    assert cohen_kappa([1, 1, 1], [0, 0, 0]) == 0.0


def test_no_common_item_is_undefined() -> None:
    assert np.isnan(cohen_kappa([1, 0, -1, -1], [-1, -1, 0, 1]))


def test_no_item_at_all_is_undefined() -> None:
    assert np.isnan(cohen_kappa([], []))


def test_fleiss_kappa_is_that_of_statsmodels() -> None:
    codes = drawn((1, 7, 1, 120), seed=3)[0, :, 0]
    table = np.stack([(codes == option).sum(axis=0) for option in range(4)], axis=1)
    assert fleiss_kappa(codes) == pytest.approx(inter_rater.fleiss_kappa(table), abs=1e-14)


def test_fleiss_kappa_is_of_the_items_that_all_answered() -> None:
    codes = drawn((1, 5, 1, 80), missing=0.1, seed=4)[0, :, 0]
    whole = (codes >= 0).all(axis=0)
    assert fleiss_kappa(codes) == pytest.approx(fleiss_kappa(codes[:, whole]), abs=1e-14)


def test_alpha_of_krippendorffs_four_observers() -> None:
    # The values that can be paired: 40; the coincidences are those of the paper.
    assert krippendorff_alpha(FOUR_OBSERVERS) == pytest.approx(0.743, abs=5e-4)


def test_alpha_worked_by_hand_with_missing_answers() -> None:
    # Units 0: 0 0 0, 1: 0 0 1, 2: 1 1 1, 3: one answer only, out. n = 9, n_0 = 5, n_1 = 4.
    # Equal pairs 3 + 1 + 3 = 7, so D_o = 2 / 9; D_e = 1 - (5 x 4 + 4 x 3) / (9 x 8) = 5 / 9.
    assert krippendorff_alpha(rows("0 0 1 .", "0 0 1 1", "0 1 1 .")) == pytest.approx(1 - (2 / 9) / (5 / 9), abs=1e-14)


def test_alpha_of_two_runs_without_gaps_nears_their_common_kappa() -> None:
    # Scott's pi with the correction for 2 n values: 1 - alpha = (1 - pi) (2 n - 1) / (2 n).
    codes = drawn((1, 2, 1, 60), seed=5)[0, :, 0]
    p = np.array([(codes == option).mean() for option in range(4)])
    pi = ((codes[0] == codes[1]).mean() - (p**2).sum()) / (1 - (p**2).sum())
    assert 1 - krippendorff_alpha(codes) == pytest.approx((1 - pi) * 119 / 120, abs=1e-14)


@pytest.mark.parametrize("score", [fleiss_kappa, krippendorff_alpha])
def test_the_order_of_runs_and_items_does_not_matter(score: object) -> None:
    assert callable(score)
    codes = drawn((1, 6, 1, 50), missing=0.1, seed=6)[0, :, 0]
    rng = np.random.default_rng(0)
    assert score(codes[rng.permutation(6)][:, rng.permutation(50)]) == pytest.approx(score(codes), abs=1e-13)


@pytest.mark.parametrize("score", [fleiss_kappa, krippendorff_alpha])
@pytest.mark.parametrize("codes", [np.zeros((3, 5), int), np.full((3, 5), -1), np.array([[0, 1, 1]])])
def test_equal_answers_none_or_one_run_are_undefined(score: object, codes: npt.NDArray[np.int64]) -> None:
    assert callable(score)
    assert np.isnan(score(codes))


def test_full_agreement_is_one() -> None:
    codes = np.tile([0, 1, 2, 1], (4, 1))
    assert [cohen_kappa(*codes[:2]), fleiss_kappa(codes), krippendorff_alpha(codes)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("answers", [[0.5, 1.0], ["a", "b"], [[0, 1]]])
def test_what_is_no_row_of_answers_is_refused(answers: list[object]) -> None:
    with pytest.raises(AnalysisError, match="whole numbers"):
        cohen_kappa(np.array(answers), [0, 1])


def test_different_lengths_are_refused() -> None:
    with pytest.raises(AnalysisError, match="3 answers and 2"):
        cohen_kappa([0, 1, 1], [0, 1])


def test_the_variance_by_items_is_that_of_statsmodels() -> None:
    a, b = drawn((1, 2, 1, 200), seed=7)[0, :, 0]
    counts = pair_counts(a[None], b[None])
    added = pair_influence(a[None], b[None], counts, slopes(counts.disagree, counts.expected), np.ones((1, 1)))
    table = np.array([[np.sum((a == i) & (b == j)) for j in range(4)] for i in range(4)])
    expected = inter_rater.cohens_kappa(table).std_kappa
    assert np.sqrt(np.sum(added**2)) == pytest.approx(expected, rel=1e-12)


def test_what_items_add_sums_to_nothing_for_every_run() -> None:
    codes = drawn((1, 4, 1, 90), missing=0.2, seed=8)[0, :, 0]
    counts = pair_counts(codes, codes)
    added = pair_influence(codes, codes, counts, slopes(counts.disagree, counts.expected), 1 - np.eye(4))
    np.testing.assert_allclose(added.sum(axis=-1), 0, atol=1e-12)


def test_what_an_item_adds_to_fleiss_kappa_is_the_derivative_by_its_weight() -> None:
    codes = drawn((1, 5, 1, 12), options=3, seed=9)[0, :, 0]
    counts = fleiss_counts(codes, leave_one_out(5)[:1])
    added = counts.influence(slopes(counts.disagree, counts.expected))[0]
    heavy = np.concatenate([np.tile(codes, 1000), codes[:, :1]], axis=1)  # item 0 a little heavier than the others
    change = (fleiss_kappa(heavy) - fleiss_kappa(codes)) * 1000
    assert change == pytest.approx(added[0], rel=1e-3)
