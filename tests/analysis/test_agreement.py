"""Agreement of a group of items: oracles over whole cubes, joins, gaps, reasons, bad input."""

from __future__ import annotations

import sys
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import xarray as xr
from cubes_of_arrays import make_cube
from items_of_arrays import drawn, make_items
from sklearn.metrics import cohen_kappa_score

import polystab as ps
from polystab.analysis.agreement import agreement, fleiss_kappa, krippendorff_alpha
from polystab.errors import AnalysisError


def reason(found: xr.DataArray) -> str:
    return str(found.attrs["flag_meanings"]).split()[int(found)]


@pytest.fixture(scope="module")
def nano() -> xr.DataTree:
    return ps.load_tree("nano")


@pytest.fixture(scope="module")
def found(nano: xr.DataTree) -> xr.Dataset:
    return agreement(nano, pairs=True, level=None)


@pytest.mark.slow
def test_every_pair_of_nano_is_that_of_scikit_learn(nano: xr.DataTree, found: xr.Dataset) -> None:
    answers = nano["items"]["choice"].isel(model=2, step=[5, 30], item=slice(300, 600))
    kappa = found["pair_kappa"].sel(answer="choice", task="nano_brackets").isel(model=2, step=[5, 30])
    for step in range(2):
        for a, b in combinations(range(10), 2):
            expected = cohen_kappa_score(*(answers[run, step].values for run in (a, b)))
            assert float(kappa[a, b, step]) == pytest.approx(expected, abs=1e-14)


@pytest.mark.slow
def test_all_pairs_is_the_mean_of_the_pair_matrix(found: xr.Dataset) -> None:
    matrix = found["pair_kappa"].transpose(..., "seed", "seed_2").values
    upper = matrix[..., *np.triu_indices(10, 1)]
    expected = np.nanmean(np.where(np.isnan(upper).all(axis=-1, keepdims=True), 0.0, upper), axis=-1)
    mean = found["agreement"].sel(statistic="all_pairs").transpose("answer", "task", "model", "step").values
    known = ~np.isnan(mean)
    np.testing.assert_allclose(mean[known], expected[known], atol=1e-13)


@pytest.mark.slow
def test_the_mean_over_the_other_runs_is_a_row_of_the_pair_matrix(found: xr.Dataset) -> None:
    at: dict[str, Any] = {"answer": "choice", "task": "nano_recall", "model": "nano-96k", "step": 1000}
    row = found["pair_kappa"].sel(**at, seed=3).drop_sel(seed_2=3).mean("seed_2")
    assert float(found["run_kappa"].sel(**at, comparison="all_pairs", seed=3)) == pytest.approx(float(row), abs=1e-13)


@pytest.mark.slow
def test_the_reference_is_a_column_of_the_pair_matrix(nano: xr.DataTree) -> None:
    found = agreement(nano, reference=4, pairs=True, level=None, answers="correct")
    column = found["pair_kappa"].sel(seed_2=4).drop_sel(seed=4)
    row = found["run_kappa"].sel(comparison="reference").drop_sel(seed=4)
    xr.testing.assert_allclose(row.drop_vars("comparison"), column.drop_vars("seed_2"))


def test_self_consistency_is_kappa_with_the_last_step(nano: xr.DataTree, found: xr.Dataset) -> None:
    answers = nano["items"]["choice"].sel(model="nano-33k", seed=2).isel(item=slice(600, 900))
    expected = cohen_kappa_score(answers.sel(step=500), answers.sel(step=1000))
    at: dict[str, Any] = {"answer": "choice", "task": "nano_induction", "model": "nano-33k", "step": 500, "seed": 2}
    assert float(found["run_kappa"].sel(**at, comparison="last_step")) == pytest.approx(expected, abs=1e-14)


def test_fleiss_and_krippendorff_are_those_of_the_arrays(nano: xr.DataTree, found: xr.Dataset) -> None:
    codes = nano["items"]["choice"].sel(model="nano-96k", step=500).isel(item=slice(900, 1200)).values
    at = found["agreement"].sel(answer="choice", task="nano_recall", model="nano-96k", step=500)
    assert float(at.sel(statistic="fleiss")) == pytest.approx(fleiss_kappa(codes), abs=1e-14)
    assert float(at.sel(statistic="krippendorff")) == pytest.approx(krippendorff_alpha(codes), abs=1e-14)


def test_pooled_adds_up_disagreements_and_those_expected_within_tasks(found: xr.Dataset) -> None:
    pair = found.sel(answer="choice", model="nano-215k", seed=1, seed_2=7, step=250)
    tasks = pair.drop_sel(task="pooled")
    n = tasks["pair_n_items"]
    expected = 1 - (n * (1 - tasks["pair_p_o"])).sum() / (n * (1 - tasks["pair_p_e"])).sum()
    assert float(pair["pair_kappa"].sel(task="pooled")) == pytest.approx(float(expected), abs=1e-13)


def test_kappa_is_what_p_o_and_p_e_say(found: xr.Dataset) -> None:
    kappa = (found["pair_p_o"] - found["pair_p_e"]) / (1 - found["pair_p_e"])
    known = found["pair_kappa"].notnull().values
    np.testing.assert_allclose(kappa.values[known], found["pair_kappa"].values[known], atol=1e-12)


@pytest.mark.slow
def test_the_true_agreement_is_recovered() -> None:
    # Each run knows the answer with chance p and guesses evenly otherwise, so kappa of two runs is p^2.
    found = agreement(make_items(drawn((1, 4, 2, 40_000), known=0.6))).squeeze().sel(task="task", step=0)
    np.testing.assert_allclose(found["agreement"], 0.36, atol=0.01)


def test_the_order_of_seeds_changes_nothing() -> None:
    items = make_items(drawn((1, 5, 3, 40), missing=0.1))
    turned = agreement(items.isel(seed=[3, 0, 4, 1, 2]))
    xr.testing.assert_allclose(turned.sortby("seed"), agreement(items))


def test_the_order_of_items_changes_nothing() -> None:
    items = make_items(drawn((1, 4, 2, 60)), tasks=["a", "b", "c"] * 20)
    order = np.random.default_rng(0).permutation(60)
    xr.testing.assert_allclose(agreement(items.isel(item=order)), agreement(items))


@pytest.mark.slow
def test_blocks_of_steps_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    items = make_items(drawn((2, 4, 7, 30)), tasks=["a"] * 10 + ["b"] * 20)
    expected = agreement(items, pairs=True)
    monkeypatch.setattr(sys.modules[agreement.__module__], "_BLOCK", 1)
    xr.testing.assert_allclose(agreement(items, pairs=True), expected)


def test_the_input_is_not_changed() -> None:
    items = make_items(drawn((1, 3, 2, 30)), hashes=[f"{i // 2}" for i in range(30)])
    before = items.copy(deep=True)
    agreement(items)
    xr.testing.assert_identical(items, before)


def test_at_its_own_last_step_a_run_agrees_by_definition() -> None:
    found = agreement(make_items(drawn((1, 3, 2, 30)))).squeeze()
    last = found.sel(step=1000, task="task")
    assert reason(last["reason"].sel(statistic="last_step")) == "by_definition"
    assert last["run_kappa"].sel(comparison="last_step").values.tolist() == [1.0, 1.0, 1.0]
    assert np.isnan(last["run_lower"].sel(comparison="last_step")).all()


def test_each_run_has_its_own_last_step() -> None:
    codes = drawn((1, 3, 3, 30))
    codes[0, 1, 2] = -1
    found = agreement(make_items(codes)).squeeze().sel(task="task")
    assert found["last_step"].values.tolist() == [2000, 1000, 2000]
    at = found.sel(step=1000, statistic="last_step")
    # Run 1 is at its own last step, where it agrees by definition: the mean is over the two others.
    assert int(at["n_runs"]) == 2


def test_a_last_step_with_other_items_is_no_agreement_by_definition() -> None:
    codes = drawn((1, 3, 2, 40))
    codes[:, :, 0, :20] = codes[:, :, 1, 20:] = -1
    at = agreement(make_items(codes)).squeeze().sel(step=0, task="task", statistic="last_step")
    assert reason(at["reason"]) == "no_overlap"


def test_items_are_joined_on_the_hash_of_the_document() -> None:
    codes = drawn((1, 4, 2, 20))
    expected = agreement(make_items(codes))
    apart = np.full((1, 4, 2, 40), -1, dtype=np.int16)
    apart[:, :2, :, :20], apart[:, 2:, :, 20:] = codes[:, :2], codes[:, 2:]
    hashes = [f"{i:016x}" for i in range(20)] * 2
    joined = agreement(make_items(apart, hashes=hashes))
    assert joined.attrs.pop("n_items_joined") == 20
    assert expected.attrs.pop("n_items_joined") == 0
    xr.testing.assert_identical(joined, expected)


def test_a_document_that_stands_twice_in_a_task_stays_two_items() -> None:
    found = agreement(make_items(drawn((1, 3, 2, 10)), hashes=["a", "a", *"bcdefghi"]))
    assert found["n_task_items"].sel(task="task") == 10


def test_items_missing_in_some_runs_are_said() -> None:
    codes = drawn((1, 3, 1, 30))
    codes[0, 1, 0, :5] = -1
    codes[0, 2, 0, 28:] = -1
    found = agreement(make_items(codes), pairs=True).squeeze().sel(task="task")
    assert int(found["n_missing"]) == 7
    assert found["pair_n_items"].values.tolist() == [[30, 25, 28], [25, 25, 23], [28, 23, 28]]
    assert found["n_items"].sel(statistic=["all_pairs", "fleiss"]).values.tolist() == [30, 23]


def test_constant_answers_are_said_and_never_divided() -> None:
    found = agreement(make_items(np.ones((1, 3, 2, 30), dtype=np.int16))).squeeze().sel(task="task", step=0)
    assert np.isnan(found["agreement"]).all()
    assert [reason(part) for part in found["reason"]] == ["constant"] * 5
    assert found["n_undefined"].sel(statistic="all_pairs") == 3


def test_a_mean_over_pairs_leaves_out_the_undefined_ones() -> None:
    codes = drawn((1, 4, 1, 40))
    codes[0, :2] = 3
    found = agreement(make_items(codes), pairs=True).squeeze().sel(task="task")
    at = found.sel(statistic="all_pairs")
    assert (int(at["n_compared"]), int(at["n_undefined"]), int(at["n_runs"])) == (5, 1, 4)
    upper = found["pair_kappa"].values[np.triu_indices(4, 1)]
    assert float(at["agreement"]) == pytest.approx(float(np.nanmean(upper)), abs=1e-14)


def test_one_seed_has_its_self_consistency_only() -> None:
    found = agreement(make_items(drawn((1, 1, 2, 30)))).squeeze().sel(task="task", step=0)
    said = [reason(part) for part in found["reason"]]
    assert said == ["estimated", "one_run", "one_run", "one_run", "one_run"]
    assert np.isnan(found["lower"]).all()
    assert found["run_lower"].sel(comparison="last_step").notnull()


def test_two_seeds_have_no_interval_over_runs() -> None:
    found = agreement(make_items(drawn((1, 2, 2, 30)))).squeeze().sel(task="task", step=0)
    assert np.isnan(found["lower"]).all()
    assert found["agreement"].notnull().all()


def test_runs_without_a_common_item_are_said() -> None:
    codes = drawn((1, 2, 1, 40))
    codes[0, 0, 0, :20] = codes[0, 1, 0, 20:] = -1
    found = agreement(make_items(codes)).squeeze().sel(task="task", statistic="all_pairs")
    assert reason(found["reason"]) == "no_overlap"
    assert int(found["n_items"]) == 0


def test_a_step_without_answers_is_not_measured() -> None:
    codes = drawn((1, 3, 3, 30))
    codes[:, :, 1] = -1
    found = agreement(make_items(codes)).squeeze().sel(task="task", step=1000)
    assert [reason(part) for part in found["reason"]] == ["not_measured"] * 5
    assert [reason(part) for part in found["run_reason"].isel(seed=0)] == ["not_measured"] * 3


def test_a_step_without_the_reference_is_said() -> None:
    codes = drawn((1, 3, 2, 30))
    codes[0, 0, 0] = -1
    found = agreement(make_items(codes)).squeeze().sel(task="task", step=0)
    assert reason(found["reason"].sel(statistic="reference")) == "no_reference"
    assert reason(found["run_reason"].sel(comparison="reference", seed=2)) == "no_reference"


def test_the_reference_itself_is_said() -> None:
    found = agreement(make_items(drawn((1, 3, 1, 30)))).squeeze().sel(task="task", comparison="reference", seed=0)
    assert reason(found["run_reason"]) == "is_reference"


def test_tasks_with_different_numbers_of_options_do_not_mix() -> None:
    few, many = drawn((1, 4, 2, 30), options=2), drawn((1, 4, 2, 30), options=7, seed=1)
    both = make_items(np.concatenate([few, many], axis=-1), tasks=["few"] * 30 + ["many"] * 30)
    apart = agreement(make_items(many, tasks=["many"] * 30))
    xr.testing.assert_allclose(agreement(both)["agreement"].sel(task="many"), apart["agreement"].sel(task="many"))


def test_a_task_of_generated_text_has_correctness_only() -> None:
    choice = np.full((1, 3, 1, 30), -1)
    found = (
        agreement(make_items(choice, drawn((1, 3, 1, 30), options=2))).squeeze().sel(task="task", statistic="fleiss")
    )
    assert reason(found["reason"].sel(answer="choice")) == "not_measured"
    assert reason(found["reason"].sel(answer="correct")) == "estimated"


def test_a_copied_run_counts_once() -> None:
    codes = drawn((1, 4, 6, 30))
    alone = agreement(make_items(codes))
    copied = agreement(make_items(np.concatenate([codes, codes[:, 2:3]], axis=1)))
    assert copied["is_copy"].sel(task="task", seed=4).item() is True
    assert (
        reason(copied["run_reason"].sel(task="task", seed=4, comparison="all_pairs").isel(step=0).squeeze()) == "copy"
    )
    xr.testing.assert_identical(copied["agreement"], alone["agreement"])


def test_a_task_that_is_copied_alone_counts_once_in_that_task() -> None:
    codes = drawn((1, 3, 6, 60))
    codes[:, 2, :, :30] = codes[:, 1, :, :30]
    found = agreement(make_items(codes, tasks=["a"] * 30 + ["b"] * 30))
    assert found["is_copy"].sel(seed=2).values.ravel().tolist() == [True, False, False]


def test_runs_that_agree_at_one_step_are_no_copies() -> None:
    codes = np.repeat(drawn((1, 1, 1, 30)), 3, axis=1)
    assert not agreement(make_items(codes))["is_copy"].any()


def test_runs_that_the_cube_calls_copies_are_left_out() -> None:
    value = np.random.default_rng(0).normal(size=(1, 3, 6, 1))
    value[0, 2] = value[0, 1]
    items = make_items(drawn((1, 3, 6, 30))).drop_vars("model").assign_coords(model=["m0"])
    tree = xr.DataTree.from_dict({"/": make_cube(value), "/items": items.assign_coords(step=np.arange(6) * 1000)})
    assert agreement(tree)["is_copy"].sel(task="pooled").values.tolist() == [[False, False, True]]


@pytest.mark.slow
def test_the_group_and_the_tree_give_the_same(nano: xr.DataTree) -> None:
    part = {"model": [0], "step": [3, 20], "seed": [0, 1, 2, 3]}
    group = nano["items"].to_dataset().isel(part)
    tree = xr.DataTree.from_dict({"/": nano.to_dataset().isel(part), "/items": group.drop_vars("metric")})
    xr.testing.assert_identical(agreement(tree), agreement(group))


@pytest.mark.slow
def test_one_selected_model_and_step_keep_their_dimension(nano: xr.DataTree) -> None:
    group = nano["items"].to_dataset().isel(step=[20, -1], item=slice(0, 1200, 10))
    found = agreement(group.sel(model="nano-33k", step=1000)).drop_sel(statistic="last_step")
    assert (found.sizes["model"], found.sizes["step"]) == (1, 1)
    xr.testing.assert_allclose(
        found["p_o"], agreement(group).sel(model=["nano-33k"], step=[1000])["p_o"].drop_sel(statistic="last_step")
    )


def test_answers_read_as_floats_with_nan_are_the_same() -> None:
    codes = drawn((1, 3, 2, 30), missing=0.1)
    xr.testing.assert_identical(agreement(make_items(np.where(codes < 0, np.nan, codes))), agreement(make_items(codes)))


def test_counts_are_whole_numbers(found: xr.Dataset) -> None:
    counts = (
        "n_runs",
        "n_compared",
        "n_undefined",
        "n_items",
        "n_missing",
        "run_n_items",
        "pair_n_items",
        "n_task_items",
    )
    assert {found[name].dtype.kind for name in counts} == {"i"}


def test_without_a_level_there_are_no_intervals(found: xr.Dataset) -> None:
    assert np.isnan(found["lower"]).all()
    assert "level" not in found.attrs


def test_every_variable_says_what_it_is(found: xr.Dataset) -> None:
    assert all(found[name].attrs["long_name"] for name in found.data_vars)


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (make_cube(np.zeros((1, 2, 2, 1))), "open_tree"),
        (xr.DataTree(), "open_tree"),
        (np.zeros((3, 4)), "expected the group items"),
        (make_items(drawn((1, 3, 2, 30))).drop_vars("doc_hash"), "doc_hash"),
        (make_items(np.full((1, 3, 2, 30), 0.5)), "fractions"),
        (make_items(np.full((1, 3, 2, 30), "A")), "whole numbers"),
        (make_items(correct=np.full((1, 3, 2, 30), 2)), "'correct' holds 2"),
        (make_items(drawn((1, 3, 2, 30)), seeds=[0, 1, 1]), "stand twice along seed"),
        (make_items(drawn((1, 3, 2, 30)), tasks=["pooled"] * 30), "rename"),
        (make_items(drawn((1, 3, 2, 30))).isel(step=[1, 0]), "sortby"),
        (make_items(drawn((1, 3, 2, 30))).isel(item=slice(0)), "nothing along 'item'"),
    ],
)
def test_what_is_no_group_of_items_is_refused(items: Any, words: str) -> None:
    with pytest.raises(AnalysisError, match=words):
        agreement(items)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"reference": 17}, "reference seed 17"),
        ({"answers": "chioce"}, "Did you mean 'choice'"),
        ({"answers": "correct"}, "no variable 'correct'"),
        ({"answers": []}, "give 'choice'"),
        ({"level": 95}, "level is 95"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(AnalysisError, match=words):
        agreement(make_items(drawn((1, 3, 2, 30))), **arguments)
