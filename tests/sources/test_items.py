"""Answers to single items: from rows of samples, and from the harness's samples files."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import polystab as ps
from polystab.cli import main
from polystab.cube.audit import audit_facts
from polystab.errors import ConflictError, PolystabError, ReadError, RefusedFileError, UnknownNameError
from polystab.sources import items as module
from polystab.sources.item_answers import answer_of, task_items
from polystab.sources.items import items_dataset, read_lm_eval_samples

MOMENT = "2026-01-02T03-04-05.678901"
LATER = "2026-01-03T03-04-05.678901"


def row(number: int = 0, likelihoods: tuple[float, ...] = (-1.0, -2.0), target: Any = 0, **more: Any) -> dict[str, Any]:
    """A multiple-choice sample as the harness writes it to a file."""
    scored = [[str(value), "False"] for value in likelihoods]
    acc = float(max(range(len(likelihoods)), key=likelihoods.__getitem__) == target)
    return {
        "doc_id": number,
        "doc": {"question": f"q{number}"},
        "target": str(target),
        "arguments": {f"gen_args_{i}": {"arg_0": "q", "arg_1": f" option{i}"} for i in range(len(likelihoods))},
        "resps": [[pair] for pair in scored],
        "filtered_resps": scored,
        "filter": "none",
        "metrics": ["acc"],
        "doc_hash": f"{number:064x}"[::-1],
        "acc": acc,
    } | more


def results(task: str = "arc", *, n: int = 2, seed: int = 1, step: int = 10, shots: int = 0) -> dict[str, Any]:
    return {
        "results": {task: {"alias": task, "acc,none": 0.5, "acc_stderr,none": 0.1}},
        "n-shot": {task: shots},
        "n-samples": {task: {"original": n, "effective": n}},
        "config": {"model_args": f"pretrained=org/tiny-seed{seed},revision=step{step}"},
        "date": 1.0,
    }


def write(
    folder: Path,
    rows: list[dict[str, Any]] | None = None,
    *,
    task: str = "arc",
    moment: str = MOMENT,
    **said: Any,
) -> Path:
    """One evaluation: a results file and the samples beside it; gives the path of the samples."""
    rows = [row(0), row(1)] if rows is None else rows
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"results_{moment}.json").write_text(json.dumps(results(task, **{"n": len(rows), **said}), indent=2))
    samples = folder / f"samples_{task}_{moment}.jsonl"
    samples.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return samples


def read_items(tree: Path, **options: Any) -> xr.Dataset:
    return read_lm_eval_samples(tree, **options)["items"].to_dataset()


def noted(tree: Path) -> dict[str, str]:
    return {entry["reason"]: entry["detail"] for entry in audit_facts(read_lm_eval_samples(tree))["noted"]}


def refused(tmp_path: Path, spoil: Callable[[Path], object]) -> str:
    """Why the one spoilt samples file beside a good one is refused."""
    write(tmp_path / "good")
    spoil(write(tmp_path / "bad", step=20))
    tree = read_lm_eval_samples(tmp_path)
    assert (tree["items"]["choice"].sel(step=10) == 0).all(), "the good file must not suffer"
    entries = audit_facts(tree)["refused"]
    assert len(entries) == 1, entries
    return str(entries[0]["reason"])


class TestAnswer:
    def test_choice_is_the_likeliest_option(self) -> None:
        assert answer_of(row(likelihoods=(-3.0, -1.0, -2.0), target=1)).choice == 1

    def test_first_of_equal_options_is_chosen(self) -> None:
        assert answer_of(row(likelihoods=(-2.0, -1.0, -1.0), target=1)).choice == 1

    def test_margin_of_a_wrong_answer_is_negative(self) -> None:
        assert answer_of(row(likelihoods=(-3.0, -1.0, -2.5), target=2)).margin == -1.5

    def test_several_correct_options_count_by_the_best(self) -> None:
        answer = answer_of(row(likelihoods=(-3.0, -1.0, -2.5), target=[0, 2], acc=0.0))
        assert (answer.correct, answer.margin) == (0, -1.5)

    def test_target_may_be_the_text_of_an_option(self) -> None:
        answer = answer_of(row(likelihoods=(-3.0, -1.0), target="option0", acc=0.0))
        assert (answer.right, answer.margin) == ((0,), -2.0)

    def test_target_that_contradicts_the_verdict_is_not_believed(self) -> None:
        answer = answer_of(row(likelihoods=(-1.0, -2.0, -3.0), target=1, acc=1.0))
        assert answer.right == (0,)

    def test_of_two_options_the_other_is_correct_when_one_is_wrong(self) -> None:
        assert answer_of(row(target="who knows", acc=0.0)).right == (1,)

    def test_of_three_options_the_correct_one_may_stay_unknown(self) -> None:
        answer = answer_of(row(likelihoods=(-1.0, -2.0, -3.0), target="who knows", acc=0.0))
        assert answer.correct == 0
        assert math.isnan(answer.margin)

    def test_without_acc_the_target_decides(self) -> None:
        one = row(target=1, metrics=["brier_score"])
        del one["acc"]
        assert answer_of(one).correct == 0

    def test_options_without_the_question_are_left_out(self) -> None:
        one = row(likelihoods=(-2.0, -1.0, -0.1, -9.0), target=1, metrics=["acc", "acc_mutual_info"], acc=1.0)
        answer = answer_of(one)
        assert (answer.choice, answer.options) == (1, 2)

    def test_a_single_ending_is_correct_if_it_is_the_greedy_one(self) -> None:
        one = row(filtered_resps=[["-3.5", "True"]], metrics=["perplexity"])
        del one["acc"]
        assert answer_of(one)[:2] == (-1, 1)

    def test_generated_text_is_correct_if_its_measure_says_so(self) -> None:
        one = row(filtered_resps=["42"], metrics=["bleu", "exact_match"], bleu=[1, 2], exact_match=1.0)
        del one["acc"]
        assert answer_of(one)[:2] == (-1, 1)

    def test_a_share_that_is_neither_0_nor_1_is_no_verdict(self) -> None:
        one = row(filtered_resps=["42"], metrics=["f1"], f1=0.5)
        del one["acc"]
        assert answer_of(one).correct == -1

    def test_a_likelihood_that_is_no_number_leaves_all_unknown(self) -> None:
        assert answer_of(row(likelihoods=(math.nan, -1.0), target=0, acc=1.0))[:2] == (-1, -1)

    def test_numbers_and_their_texts_are_read_alike(self) -> None:
        one = row(likelihoods=(-1.25, -0.5), target=1)
        in_memory = one | {
            "filtered_resps": [(-1.25, False), (-0.5, False)],
            "target": 1,
            "arguments": [("q", " a")] * 2,
        }
        assert answer_of(one) == answer_of(in_memory)


class TestTaskItems:
    def test_repeated_document_is_numbered(self) -> None:
        rows = [row(0), row(1), row(2, doc_hash=row(0)["doc_hash"])]
        labels = items_dataset([task_items("arc", rows)])["item"].values.tolist()
        assert labels[2] == f"{labels[0]}#2"

    def test_filter_none_is_preferred(self) -> None:
        rows = [row(0, filter="strict"), row(0, filter="none", likelihoods=(-2.0, -1.0))]
        found = task_items("arc", rows)
        assert (found.filter, list(found.choice)) == ("none", [1])

    def test_else_the_first_filter(self) -> None:
        assert task_items("arc", [row(0, filter="b"), row(0, filter="a")]).filter == "b"

    def test_chance_needs_the_same_number_of_options(self) -> None:
        assert task_items("arc", [row(0), row(1)]).chance == 0.5
        assert math.isnan(task_items("arc", [row(0), row(1, (-1.0, -2.0, -3.0))]).chance)

    def test_tasks_are_in_alphabetical_order(self) -> None:
        data = items_dataset([task_items(task, [row(0)]) for task in ("b", "a")])
        assert data["task"].values.tolist() == ["a", "b"]

    def test_no_row_is_refused(self) -> None:
        with pytest.raises(RefusedFileError, match="no sample"):
            task_items("arc", [])


class TestReading:
    def test_answers_stand_at_their_run_and_step(self, tmp_path: Path) -> None:
        write(tmp_path / "a", [row(0, target=1)], seed=2, step=30)
        write(tmp_path / "b", [row(0, target=0)], seed=1, step=10)
        correct = read_items(tmp_path)["correct"].squeeze("item")
        assert correct.sel(model="tiny", seed=2, step=30) == 0
        assert correct.sel(model="tiny", seed=1, step=10) == 1
        assert correct.sel(model="tiny", seed=1, step=30) == -1

    def test_the_tree_is_a_valid_cube_with_the_scores(self, tmp_path: Path) -> None:
        write(tmp_path)
        tree = read_lm_eval_samples(tmp_path, title="Mine")
        assert ps.validate_cube(tree) == []
        assert tree.attrs["title"] == "Mine"
        assert tree["value"].item() == 0.5

    def test_every_file_is_in_the_audit(self, tmp_path: Path) -> None:
        write(tmp_path)
        assert audit_facts(read_lm_eval_samples(tmp_path))["read"] == 2

    def test_order_of_files_does_not_matter(self, tmp_path: Path) -> None:
        rows = [row(0), row(1), row(2)]
        write(tmp_path / "1" / "a", rows, step=10)
        write(tmp_path / "1" / "b", rows[::-1], step=20)
        write(tmp_path / "2" / "b", rows, step=10)
        write(tmp_path / "2" / "a", rows[::-1], step=20)
        first, second = (read_items(tmp_path / name).sortby("item") for name in ("1", "2"))
        xr.testing.assert_identical(first, second)

    def test_checkpoints_of_other_items_are_joined(self, tmp_path: Path) -> None:
        write(tmp_path / "a", [row(0), row(1)], step=10)
        write(tmp_path / "b", [row(1), row(2)], step=20)
        data = read_items(tmp_path)
        assert data.sizes["item"] == 3
        assert (data["choice"] == -1).sum() == 2

    def test_shots_are_part_of_the_task(self, tmp_path: Path) -> None:
        write(tmp_path / "a", [row(0)])
        write(tmp_path / "b", [row(0, target=1)], shots=5)
        assert read_items(tmp_path)["task"].values.tolist() == ["arc", "arc@5shot"]

    def test_a_single_results_file_may_be_given(self, tmp_path: Path) -> None:
        write(tmp_path, step=10)
        write(tmp_path, step=20, moment=LATER)
        assert read_items(tmp_path / f"results_{LATER}.json")["step"].values.tolist() == [20]

    def test_task_names_with_underscores_are_understood(self, tmp_path: Path) -> None:
        write(tmp_path, task="blimp_island_effects")
        assert set(read_items(tmp_path)["task"].values) == {"blimp_island_effects"}

    def test_margin_is_in_nats(self, tmp_path: Path) -> None:
        write(tmp_path, [row(0, (-1.0, -3.5))])
        margin = read_items(tmp_path)["margin"]
        assert margin.item() == 2.5
        assert margin.attrs["units"] == "nat"

    def test_fewer_items_than_the_results_count_are_noted(self, tmp_path: Path) -> None:
        write(tmp_path, n=7)
        assert noted(tmp_path)["items-missing"] == "2 items, of the 7 that the results are about."

    def test_a_filter_other_than_none_is_noted(self, tmp_path: Path) -> None:
        write(tmp_path, [row(0, filter="strict-match")])
        assert "strict-match" in noted(tmp_path)["items-filter"]

    def test_last_line_that_was_cut_is_left_out_and_noted(self, tmp_path: Path) -> None:
        samples = write(tmp_path, [row(0), row(1), row(2)])
        samples.write_bytes(samples.read_bytes()[:-40])
        assert noted(tmp_path)["truncated-line"] == "line 3, the last, was cut short and is left out."
        assert read_items(tmp_path).sizes["item"] == 2


class TestDuplicates:
    def write_two(self, folder: Path) -> None:
        """The same run and step twice, with another answer and otherwise the same scores."""
        write(folder / "a", [row(0), row(1)], moment=MOMENT)
        write(folder / "b", [row(0), row(1, (-2.0, -1.0), target=1)], moment=LATER)
        for path in folder.rglob("results_*.json"):  # else both say the same date
            content = json.loads(path.read_text())
            path.write_text(json.dumps({**content, "date": float(path.parent.name == "b") + 1}, indent=2))

    def test_equal_answers_are_no_conflict(self, tmp_path: Path) -> None:
        write(tmp_path / "a")
        write(tmp_path / "b", moment=LATER)
        assert read_items(tmp_path).sizes["item"] == 2

    def test_different_answers_are_an_error(self, tmp_path: Path) -> None:
        self.write_two(tmp_path)
        with pytest.raises(ConflictError, match=r"1 answers differ between a/samples.* and b/samples"):
            read_lm_eval_samples(tmp_path)

    @pytest.mark.parametrize(("rule", "choice"), [("latest", 1), ("earliest", 0), ("first", 0), ("last", 1)])
    def test_a_rule_decides(self, tmp_path: Path, rule: Any, choice: int) -> None:
        self.write_two(tmp_path)
        assert read_items(tmp_path, on_duplicate=rule)["choice"].values.ravel().tolist() == [0, choice]

    def test_what_gives_way_is_in_the_audit(self, tmp_path: Path) -> None:
        self.write_two(tmp_path)
        (entry,) = audit_facts(read_lm_eval_samples(tmp_path, on_duplicate="last"))["replaced"]
        assert entry["path"].startswith("a/")
        assert list(entry["values"].values()) == [0.0]
        assert next(iter(entry["values"])).startswith("tiny|1|10|arc/")

    def test_unknown_rule(self, tmp_path: Path) -> None:
        write(tmp_path)
        with pytest.raises(UnknownNameError):
            read_lm_eval_samples(tmp_path, on_duplicate="newest")  # type: ignore[arg-type]


class TestBadInput:
    def test_no_results_file(self, tmp_path: Path) -> None:
        assert refused(tmp_path, lambda path: next(path.parent.glob("*.json")).unlink()) == "no-results-file"

    def test_results_file_that_was_refused(self, tmp_path: Path) -> None:
        write(tmp_path / "good")
        write(tmp_path / "step7", step=20)
        entries = audit_facts(read_lm_eval_samples(tmp_path))["refused"]
        assert sorted(entry["reason"] for entry in entries) == ["label-mismatch", "no-results-file"]

    def test_results_without_the_task(self, tmp_path: Path) -> None:
        def rename(path: Path) -> None:
            path.rename(path.with_name(path.name.replace("arc", "boolq")))

        assert refused(tmp_path, rename) == "label-mismatch"

    @pytest.mark.parametrize("key", ["doc_hash", "filter", "filtered_resps", "metrics"])
    def test_missing_keys(self, tmp_path: Path, key: str) -> None:
        bad = {name: value for name, value in row(0).items() if name != key}
        assert refused(tmp_path, lambda path: path.write_text(json.dumps(bad) + "\n")) == "missing-keys"

    def test_row_that_is_a_list(self, tmp_path: Path) -> None:
        assert refused(tmp_path, lambda path: path.write_text("[1]\n")) == "missing-keys"

    def test_broken_line_in_the_middle(self, tmp_path: Path) -> None:
        good = json.dumps(row(0))
        assert refused(tmp_path, lambda path: path.write_text(f"{good}\n{good[:50]}\n{good}\n")) == "invalid-json"

    def test_empty_file(self, tmp_path: Path) -> None:
        assert refused(tmp_path, lambda path: path.write_text("")) == "empty"

    def test_two_evaluations_appended_to_one_file(self, tmp_path: Path) -> None:
        assert refused(tmp_path, lambda path: path.write_text(path.read_text() * 2)) == "duplicate-rows"

    def test_binary_file(self, tmp_path: Path) -> None:
        assert refused(tmp_path, lambda path: path.write_bytes(b"\xff\x00\n\xfe\n")) == "invalid-json"

    def test_no_samples_at_all(self, tmp_path: Path) -> None:
        write(tmp_path).unlink()
        with pytest.raises(ReadError, match="--log_samples"):
            read_lm_eval_samples(tmp_path)

    def test_only_bad_samples(self, tmp_path: Path) -> None:
        write(tmp_path).write_text("")
        with pytest.raises(ReadError, match=r"none of the 1 samples files .*empty"):
            read_lm_eval_samples(tmp_path)

    def test_folder_that_does_not_exist(self, tmp_path: Path) -> None:
        with pytest.raises(ReadError, match="does not exist"):
            read_lm_eval_samples(tmp_path / "no")

    def test_more_cells_than_an_array_should_hold(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path)
        monkeypatch.setattr(module, "MOST_CELLS", 1)
        with pytest.raises(PolystabError, match="1 x 1 x 1 x 2 cells"):
            read_lm_eval_samples(tmp_path)

    @pytest.mark.slow
    def test_answers_survive_the_file(self, tmp_path: Path) -> None:
        write(tmp_path / "tree", [row(0), row(1, (-2.0, -1.0))])
        tree = read_lm_eval_samples(tmp_path / "tree")
        ps.save_cube(tree, tmp_path / "cube.nc")
        with ps.open_tree(tmp_path / "cube.nc") as opened:
            np.testing.assert_array_equal(opened["items"]["choice"].values.ravel(), [0, 1])


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "kept"), [(["--items"], True), ([], False)])
def test_the_command_reads_items_when_asked_to(tmp_path: Path, flag: list[str], kept: bool) -> None:
    (tmp_path / "results").mkdir()
    write(tmp_path / "results", [row(0), row(1), row(2)])
    cube = tmp_path / "cube.nc"
    result = CliRunner().invoke(main, ["read", "lm-eval", str(tmp_path / "results"), *flag, "-o", str(cube)])
    assert result.exit_code == 0, result.output
    with ps.open_tree(cube) as tree:
        assert ("items" in tree.children) is kept
