"""The map of items: counts done by hand, what chance does, gaps, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.stats
import xarray as xr
from items_of_arrays import drawn, make_items

from polystab.analysis.agreement import item_stability
from polystab.analysis.agreement import items as module
from polystab.errors import AnalysisError

# Ten runs (rows are items): all right, nine right, half right, none right.
RIGHT = np.array([[1] * 10, [1] * 9 + [0], [1] * 5 + [0] * 5, [0] * 10]).T[None, :, None]


def kinds(found: xr.Dataset) -> list[str]:
    words = str(found["kind"].attrs["flag_meanings"]).split()
    return [words[code] for code in found["kind"].values.ravel()]


def test_items_are_sorted_by_the_share_of_correct_runs() -> None:
    found = item_stability(make_items(correct=RIGHT))
    assert found["share_correct"].values.ravel().tolist() == [1.0, 0.9, 0.5, 0.0]
    assert kinds(found) == ["easy", "easy", "unstable", "hard"]


def test_shares_of_the_task_count_the_items() -> None:
    found = item_stability(make_items(correct=RIGHT)).sel(task="task").squeeze()
    shares = [float(found[f"{kind}_share"]) for kind in ("easy", "unstable", "hard", "depends")]
    assert shares == [0.5, 0.25, 0.25, 0.5]


def test_entropy_is_that_of_scipy_in_bits() -> None:
    codes = drawn((1, 8, 1, 20))
    found = item_stability(make_items(codes))["entropy"].values.ravel()
    votes = np.stack([(codes[0, :, 0] == option).sum(axis=0) for option in range(4)])
    np.testing.assert_allclose(found, scipy.stats.entropy(votes, base=2), atol=1e-12)


def test_an_answer_that_not_all_give_depends_on_the_seed() -> None:
    choice = np.array([[2, 2, 2], [2, 2, 1]]).T[None, :, None]
    assert item_stability(make_items(choice))["depends"].values.ravel().tolist() == [False, True]


def test_the_chosen_option_decides_and_not_whether_it_was_correct() -> None:
    choice = np.array([[1], [2], [3]])[None, :, None]
    found = item_stability(make_items(choice, np.zeros((1, 3, 1, 1), dtype=int)))
    assert bool(found["depends"].item())
    assert kinds(found) == ["hard"]


def test_a_task_without_options_goes_by_correctness() -> None:
    found = item_stability(make_items(np.full((1, 10, 1, 4), -1), RIGHT))
    assert found["depends"].values.ravel().tolist() == [False, True, True, False]


def test_over_steps_means_are_of_the_steps() -> None:
    right = np.concatenate([RIGHT, 1 - RIGHT, np.full_like(RIGHT, -1)], axis=2)
    found = item_stability(make_items(correct=right))
    np.testing.assert_allclose(found["mean_share_correct"].values.ravel(), 0.5)
    assert found["depends_steps"].values.ravel().tolist() == [0.0, 1.0, 1.0, 0.0]
    assert found["n_steps"].values.ravel().tolist() == [2, 2, 2, 2]


def test_the_map_is_of_the_last_step_with_two_runs() -> None:
    right = np.concatenate([RIGHT, np.full_like(RIGHT, -1)], axis=2)
    right[0, 0, 1] = 1
    found = item_stability(make_items(correct=right))
    assert found["at_step"].values.tolist() == [0]
    assert found["share_correct"].values.ravel().tolist() == [1.0, 0.9, 0.5, 0.0]


def test_a_step_can_be_chosen() -> None:
    right = np.concatenate([RIGHT, 1 - RIGHT], axis=2)
    np.testing.assert_allclose(
        item_stability(make_items(correct=right), step=1000)["share_correct"].values.ravel(), [0, 0.1, 0.5, 1]
    )


def test_blocks_of_steps_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    items = make_items(drawn((2, 5, 6, 30)), drawn((2, 5, 6, 30), options=2, seed=1), tasks=["a"] * 10 + ["b"] * 20)
    expected = item_stability(items)
    monkeypatch.setattr(module, "_BLOCK", 1)
    xr.testing.assert_identical(item_stability(items), expected)


@pytest.mark.slow
def test_items_that_are_all_alike_are_as_unstable_as_chance_says() -> None:
    rng = np.random.default_rng(0)
    accuracy = np.linspace(0.3, 0.9, 6)[None, :, None, None]
    found = item_stability(make_items(correct=(rng.random((1, 6, 1, 20_000)) < accuracy).astype(int)))
    task = found.sel(task="task").squeeze()
    assert float(task["unstable_share"]) == pytest.approx(float(task["unstable_by_chance"]), abs=0.012)
    assert float(task["depends_share"]) == pytest.approx(float(task["depends_by_chance"]), abs=0.012)


@pytest.mark.slow
def test_wrong_answers_spread_over_the_options_are_as_dependent_as_chance_says() -> None:
    rng = np.random.default_rng(1)
    choice = np.where(rng.random((1, 3, 1, 20_000)) < 0.4, 0, rng.integers(1, 4, (1, 3, 1, 20_000)))
    task = item_stability(make_items(choice, (choice == 0).astype(int))).sel(task="task").squeeze()
    assert float(task["depends_share"]) == pytest.approx(float(task["depends_by_chance"]), abs=0.012)


def test_the_chance_of_unstable_is_the_binomial_for_equal_runs() -> None:
    right = np.tile([1, 1, 1, 0], (1, 10, 1, 5))  # every run has accuracy 3/4
    task = item_stability(make_items(correct=right)).sel(task="task").squeeze()
    expected = scipy.stats.binom(10, 0.75).pmf(range(2, 9)).sum()
    assert float(task["unstable_by_chance"]) == pytest.approx(float(expected), rel=1e-12)


def test_harder_items_make_fewer_unstable_ones_than_chance() -> None:
    rng = np.random.default_rng(2)
    p = np.repeat([0.02, 0.98], 500)
    task = item_stability(make_items(correct=(rng.random((1, 10, 1, 1000)) < p).astype(int))).sel(task="task").squeeze()
    assert float(task["unstable_share"]) < 0.1 < 0.9 < float(task["unstable_by_chance"])


def test_pooled_shares_are_over_all_items() -> None:
    found = item_stability(make_items(correct=RIGHT, tasks=["a", "b", "b", "b"])).squeeze()
    assert float(found["unstable_share"].sel(task="pooled")) == 0.25
    assert float(found["unstable_share"].sel(task="b")) == pytest.approx(1 / 3)


def test_one_seed_has_no_map() -> None:
    found = item_stability(make_items(correct=RIGHT[:, :1]))
    assert found["at_step"].values.tolist() == [-1]
    assert kinds(found) == ["unknown"] * 4
    assert np.isnan(found["depends_share"]).all()


def test_two_seeds_show_dependence_but_no_kind() -> None:
    found = item_stability(make_items(correct=RIGHT[:, [0, 9]]))
    assert found["depends"].values.ravel().tolist() == [False, True, True, False]
    assert kinds(found) == ["unknown"] * 4


def test_items_missing_in_some_runs_are_counted() -> None:
    right = RIGHT.copy()
    right[0, :8, 0, 3] = -1
    found = item_stability(make_items(correct=right))
    assert found["n_runs"].values.ravel().tolist() == [10, 10, 10, 2]
    assert found["n_sorted"].sel(task="task").item() == 3


def test_without_correctness_there_are_options_only() -> None:
    found = item_stability(make_items(drawn((1, 5, 1, 30)))).sel(task="task").squeeze()
    assert np.isfinite(found["depends_share"])
    assert np.isnan(found["depends_by_chance"])
    assert kinds(found) == ["unknown"] * 30


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"step": 17}, "step 17 is not among"),
        ({"easy": 0.2, "hard": 0.5}, "hard < easy"),
        ({"easy": 1.5}, "hard < easy"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(AnalysisError, match=words):
        item_stability(make_items(correct=RIGHT), **arguments)
