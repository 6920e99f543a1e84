"""Reading trees of lm-evaluation-harness results."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from released_tree import write_released_tree

import polystab as ps
from polystab.cube import audit_entries, audit_facts
from polystab.errors import RefusedFileError
from polystab.sources import eval_parts
from polystab.sources.eval_files import EvalReader, Options


def new_file(
    model: str = "EleutherAI/pythia-14m-seed1",
    revision: str = "step1000",
    results: dict[str, Any] | None = None,
    **top: Any,
) -> dict[str, Any]:
    """Content of a results file as harness 0.4 writes it."""
    results = (
        {"arc_easy": {"acc,none": 0.25, "acc_stderr,none": 0.01, "alias": "arc_easy"}} if results is None else results
    )
    return {
        "results": results,
        "configs": {task: {"num_fewshot": 0, "doc_to_text": "{{question}}\nAnswer:"} for task in results},
        "versions": dict.fromkeys(results, 1.0),
        "n-shot": dict.fromkeys(results, 0),
        "higher_is_better": {task: {"acc": True} for task in results},
        "n-samples": {task: {"original": 100, "effective": 100} for task in results},
        "config": {"model": "hf", "model_args": f"pretrained={model},revision={revision}", "limit": None},
        "git_hash": "abc1234",
        "date": 1.7e9,
        **top,
    }


def old_file(model: str = "EleutherAI/pythia-14m-seed1", revision: str = "step1000", shots: int = 0) -> dict[str, Any]:
    """Content of a results file as harness 0.3 writes it."""
    return {
        "results": {"arc_easy": {"acc": 0.25, "acc_stderr": 0.01}},
        "versions": {"arc_easy": 0},
        "config": {"model": "hf", "model_args": f"pretrained={model},revision={revision}", "num_fewshot": shots},
    }


def write(root: Path, name: str, content: Any) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content, indent=2), encoding="utf-8")
    return path


def only_reason(root: Path, **options: Any) -> str:
    """The reason for which the one bad file beside a good one was refused."""
    write(root, "good/results_1.json", new_file())
    tree = ps.read_lm_eval(root, **options)
    refused = audit_facts(tree)["refused"]
    assert tree["value"].notnull().sum() == 1, "the good file must not suffer"
    assert len(refused) == 1, refused
    return str(refused[0]["reason"])


class TestOneFile:
    def test_new_dialect_gives_value_stderr_and_labels(self, tmp_path: Path) -> None:
        write(tmp_path, "results_1.json", new_file())
        cube = ps.read_lm_eval(tmp_path)
        cell = cube.to_dataset().sel(model="pythia-14m", seed=1, step=1000, metric="eval/arc_easy/acc")
        assert cell["value"] == 0.25
        assert cell["stderr"] == 0.01
        assert cell["better"] == "higher"
        assert cell["n_items"] == 100
        assert ps.validate_cube(cube) == []

    @pytest.mark.slow
    def test_old_dialect_gives_the_same_cube(self, tmp_path: Path) -> None:
        write(tmp_path / "old", "results_1.json", old_file())
        write(tmp_path / "new", "results_1.json", new_file())
        old, new = (ps.read_lm_eval(tmp_path / name).to_dataset() for name in ("old", "new"))
        xr.testing.assert_equal(old["value"].drop_vars("n_items"), new["value"].drop_vars("n_items"))
        xr.testing.assert_equal(old["stderr"].drop_vars("n_items"), new["stderr"].drop_vars("n_items"))

    def test_one_file_may_be_given_instead_of_a_folder(self, tmp_path: Path) -> None:
        path = write(tmp_path, "anything.txt", new_file())
        assert ps.read_lm_eval(path)["value"].item() == 0.25

    def test_any_indentation_gives_the_same_values(self, tmp_path: Path) -> None:
        for indent in (None, 0, 1, 2, 4, "\t"):
            path = write(tmp_path, "x.json", json.dumps(new_file(), indent=indent))
            assert ps.read_lm_eval(path)["value"].item() == 0.25, indent

    def test_model_args_may_be_a_mapping(self, tmp_path: Path) -> None:
        content = new_file(config={"model_args": {"pretrained": "EleutherAI/pythia-14m-seed2", "revision": "step8"}})
        cube = ps.read_lm_eval(write(tmp_path, "x.json", content))
        assert cube["seed"].item() == 2
        assert cube["step"].item() == 8

    def test_neox_arguments_give_model_from_prefix_and_step_from_iteration(self, tmp_path: Path) -> None:
        args = {"iteration": 3000, "eval_results_prefix": "../out/pythia-19m-deduped-step3000", "load": "/ckpts/19M"}
        content = {**old_file(), "config": {"model": "neox", "model_args": args, "num_fewshot": 0}}
        cube = ps.read_lm_eval(
            write(tmp_path, "pythia-19m-deduped-step3000_eval_results_01-20-2023-15-59-23.json", content)
        )
        assert cube["model"].item() == "pythia-19m-deduped"
        assert cube["step"].item() == 3000

    def test_neox_content_that_contradicts_itself_on_shots_is_refused(self, tmp_path: Path) -> None:
        args = {"iteration": 21500, "eval_results_prefix": "../125M/125M-5shot-global_step21500"}
        content = {**old_file(), "config": {"model": "neox", "model_args": args, "num_fewshot": 0}}
        write(tmp_path, "bad.json", content)
        assert only_reason(tmp_path) == "label-mismatch"

    def test_shots_and_filters_are_part_of_the_id(self, tmp_path: Path) -> None:
        results = {
            "gsm8k": {
                "exact_match,strict-match": 0.1,
                "exact_match_stderr,strict-match": 0.02,
                "exact_match,flexible-extract": 0.2,
                "alias": "gsm8k",
            }
        }
        content = new_file(results=results, **{"n-shot": {"gsm8k": 5}})
        cube = ps.read_lm_eval(write(tmp_path, "x.json", content))
        ids = ["eval/gsm8k@5shot/exact_match@flexible-extract", "eval/gsm8k@5shot/exact_match@strict-match"]
        assert cube["metric"].values.tolist() == ids
        assert cube["shots"].values.tolist() == [5, 5]
        assert math.isnan(cube["stderr"].sel(metric=ids[0]).item())

    def test_shots_of_files_older_than_n_shot_come_from_the_task_configs(self, tmp_path: Path) -> None:
        content = new_file(configs={"arc_easy": {"num_fewshot": 3}})
        del content["n-shot"]
        assert ps.read_lm_eval(write(tmp_path, "x.json", content))["metric"].item() == "eval/arc_easy@3shot/acc"

    def test_text_na_as_stderr_is_unknown(self, tmp_path: Path) -> None:
        content = new_file(results={"arc_easy": {"acc,none": 0.25, "acc_stderr,none": "N/A"}})
        assert "stderr" not in ps.read_lm_eval(write(tmp_path, "x.json", content)).to_dataset()

    def test_stderr_of_a_group_is_left_out_but_its_mean_is_kept(self, tmp_path: Path) -> None:
        results = {
            "blimp": {"acc,none": 0.7, "acc_stderr,none": 0.001, "alias": "blimp"},
            "blimp_a": {"acc,none": 0.7, "acc_stderr,none": 0.01, "alias": " - blimp_a"},
        }
        for extra in (
            {"groups": {"blimp": results["blimp"]}},
            {"group_subtasks": {"blimp": ["blimp_a"], "blimp_a": []}},
        ):
            cube = ps.read_lm_eval(write(tmp_path, "x.json", new_file(results=results, **extra))).to_dataset()
            assert math.isnan(cube["stderr"].sel(metric="eval/blimp/acc").item())
            assert cube["stderr"].sel(metric="eval/blimp_a/acc").item() == 0.01
            assert cube["value"].sel(metric="eval/blimp/acc").item() == 0.7

    def test_pass_at_k_keeps_its_name(self, tmp_path: Path) -> None:
        results = {"humaneval": {"pass@1,create_test": 0.3, "pass@1_stderr,create_test": 0.1}}
        cube = ps.read_lm_eval(write(tmp_path, "x.json", new_file(results=results)))
        assert cube["metric"].item() == "eval/humaneval/pass@1@create_test"
        assert cube["measure"].item() == "pass@1"

    def test_infinite_values_are_kept_and_text_null_and_nan_are_noted(self, tmp_path: Path) -> None:
        text = json.dumps(
            new_file(
                results={
                    "a": {"ppl,none": math.inf},
                    "b": {"acc,none": math.nan},
                    "c": {"acc,none": None},
                    "d": {"acc,none": "high"},
                    "e": {"acc,none": True},
                    "f": {"acc,none": 1},
                }
            ),
            indent=2,
        )
        tree = ps.read_lm_eval(write(tmp_path, "x.json", text))
        assert tree["metric"].values.tolist() == ["eval/a/ppl", "eval/f/acc"]
        assert tree["value"].values.ravel().tolist() == [math.inf, 1.0]
        (note,) = audit_facts(tree)["noted"]
        assert note["reason"] == "not-a-number"
        assert all(f"{task}/acc,none" in note["detail"] for task in "bcde")

    @pytest.mark.parametrize(
        ("task", "key"),
        [("a", ",none"), ("", "acc,none"), ("a\0b", "acc,none"), ("a\ud800", "acc,none"), ("a", "acc,5")],
    )
    def test_names_that_cannot_be_a_metric_id_are_noted(self, tmp_path: Path, task: str, key: str) -> None:
        tree = ps.read_lm_eval(
            write(tmp_path, "x.json", new_file(results={task: {key: 0.5}, "good": {"acc,none": 0.25}}))
        )
        assert tree["metric"].values.tolist() == ["eval/good/acc"]
        assert "no name for a metric" in audit_facts(tree)["noted"][0]["detail"]
        assert ps.validate_cube(tree) == []

    def test_a_slash_in_a_measure_becomes_an_underscore(self, tmp_path: Path) -> None:
        cube = ps.read_lm_eval(write(tmp_path, "x.json", new_file(results={"a": {"f1/macro,none": 0.5}})))
        assert cube["metric"].item() == "eval/a/f1_macro"

    @pytest.mark.parametrize(
        ("args", "reason"),
        [
            ("pretrained=pythia-14m,revision=step99999999999999999999", "no-step"),
            ("pretrained=pythia-14m-seed99999999999999999999,revision=step1", "no-step"),
            ("pretrained=a\ud800,revision=step1", "no-model"),
            ("pretrained=seed3,revision=step1", None),
        ],
    )
    def test_labels_that_no_cube_holds_are_refused(self, tmp_path: Path, args: str, reason: str | None) -> None:
        write(tmp_path, "bad.json", new_file(config={"model_args": args}))
        if reason is not None:
            assert only_reason(tmp_path) == reason
        else:
            assert ps.validate_cube(ps.read_lm_eval(tmp_path)) == []

    def test_main_has_a_step_only_if_the_caller_says_it(self, tmp_path: Path) -> None:
        write(tmp_path, "main.json", new_file(revision="main"))
        assert only_reason(tmp_path) == "no-step"
        cube = ps.read_lm_eval(tmp_path / "main.json", revision_steps={"main": 143000})
        assert cube["step"].item() == 143000

    def test_local_checkpoints_state_run_and_step(self, tmp_path: Path) -> None:
        content = new_file(config={"model_args": "pretrained=/scratch/me/runs/tiny-seed2/checkpoint-500"})
        cube = ps.read_lm_eval(write(tmp_path, "x.json", content))
        assert (cube["model"].item(), cube["seed"].item(), cube["step"].item()) == ("tiny", 2, 500)

    def test_a_pattern_reads_names_of_ones_own(self, tmp_path: Path) -> None:
        content = new_file(
            model="me/base_s07", revision="ckpt_00100", config={"model_args": "pretrained=me/base_s07,revision=k100"}
        )
        pattern = r"/(?P<model>\w+)_s(?P<seed>\d+)@k(?P<step>\d+)"
        cube = ps.read_lm_eval(write(tmp_path, "x.json", content), run_pattern=pattern)
        assert (cube["model"].item(), cube["seed"].item(), cube["step"].item()) == ("base", 7, 100)

    @pytest.mark.parametrize("pattern", ["(?P<model>", "(?P<seed>.)"])
    def test_a_pattern_that_cannot_work_is_refused(self, tmp_path: Path, pattern: str) -> None:
        write(tmp_path, "x.json", new_file())
        with pytest.raises(ps.PolystabError, match="pattern"):
            ps.read_lm_eval(tmp_path, run_pattern=pattern)

    def test_decoupled_pythia_seeds_say_what_varied(self, tmp_path: Path) -> None:
        for number, name in enumerate(("", "-seed1", "-data-seed1", "-weight-seed1")):
            write(tmp_path, f"{number}.json", new_file(model=f"EleutherAI/pythia-160m{name}"))
        cube = ps.read_lm_eval(tmp_path).to_dataset()
        varied = {
            str(model): (
                cube["weight_seed"].sel(model=model).values.tolist(),
                cube["data_seed"].sel(model=model).values.tolist(),
            )
            for model in cube["model"].values
        }
        assert varied == {
            "pythia-160m": ([0, 1], [0, 1]),
            "pythia-160m-data-seed": ([-1, 0], [-1, 1]),
            "pythia-160m-weight-seed": ([-1, 1], [-1, 0]),
        }


class TestLabels:
    """A path that says otherwise than the content gets its file refused."""

    @pytest.mark.parametrize(
        "path",
        [
            "pythia-14m-seed2/step1000/results_1.json",
            "pythia-14m-seed1/step2000/results_1.json",
            "pythia-31m-seed1/step1000/results_1.json",
            "seed2/results_1.json",
            "step_1/results_1.json",
            "14m-seed1/five-shot/results_1.json",
            "pythia-14m-deduped-seed1/results_1.json",
            "pythia-14m-data-seed1/results_1.json",
            "checkpoint-7.json",
        ],
    )
    def test_disagreement_is_refused_as_label_mismatch(self, tmp_path: Path, path: str) -> None:
        write(tmp_path, path, new_file())
        assert only_reason(tmp_path) == "label-mismatch"

    @pytest.mark.parametrize(
        "path",
        [
            "pythia-14m-seed1/step1000/EleutherAI__pythia-14m-seed1/results_2024-06-01T12-00-00.000001.json",
            "pythia-v1/zero-shot/14m_step1000.json",
            "evals-2024/run7/results_1.json",
            "pythia-14m/seed1/results_1.json",
            "my-14m-evals/0shot/x.json",
        ],
    )
    def test_agreement_and_silence_are_read(self, tmp_path: Path, path: str) -> None:
        write(tmp_path, path, new_file())
        assert audit_facts(ps.read_lm_eval(tmp_path))["refused"] == []

    def test_reference_run_below_a_seeds_folder_is_refused(self, tmp_path: Path) -> None:
        """The fault of the released PolyPythias results: the inner folder and content name the run that ran."""
        write(
            tmp_path,
            "pythia-410m-seed3/step8/EleutherAI__pythia-410m/r.json",
            new_file("EleutherAI/pythia-410m", "step8"),
        )
        assert only_reason(tmp_path) == "label-mismatch"

    def test_a_seeds_run_below_the_references_folder_is_refused(self, tmp_path: Path) -> None:
        for seed in (1, 2):
            name = f"pythia-410m-seed{seed}"
            write(tmp_path, f"{name}/step8/r.json", new_file(f"EleutherAI/{name}", "step8"))
        write(tmp_path, "pythia-410m/step8/r.json", new_file("EleutherAI/pythia-410m-seed2", "step8"))
        (refused,) = audit_facts(ps.read_lm_eval(tmp_path))["refused"]
        assert refused["path"] == "pythia-410m/step8/r.json"
        assert "path says seed 0, content 2" in refused["detail"]

    def test_a_folder_named_like_another_model_of_the_tree_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path, "a/pythia-160m/r.json", new_file("EleutherAI/pythia-160m-deduped", "step8"))
        write(tmp_path, "b/r.json", new_file("EleutherAI/pythia-160m", "step8"))
        (refused,) = audit_facts(ps.read_lm_eval(tmp_path))["refused"]
        assert refused["path"] == "a/pythia-160m/r.json"

    def test_the_folders_that_hold_the_tree_are_checked_too(self, tmp_path: Path) -> None:
        """A person may name the folder of one run; its name says where the results belong."""
        root = tmp_path / "pythia-410m-seed3"
        write(root, "step8/EleutherAI__pythia-410m/r.json", new_file("EleutherAI/pythia-410m", "step8"))
        for tree in (root, root / "step8", root / "step8" / "EleutherAI__pythia-410m", *root.rglob("*.json")):
            with pytest.raises(ps.PolystabError, match="path says seed 3, content 0"):
                ps.read_lm_eval(tree)

    @pytest.mark.parametrize("name", ["seed2-notes", "410m-step7-work", "my seed3 runs"])
    def test_folders_that_hold_the_tree_for_other_reasons_say_nothing(self, tmp_path: Path, name: str) -> None:
        write(tmp_path / name, "results/r.json", new_file())
        for tree in (tmp_path / name, tmp_path / name / "results"):
            assert audit_facts(ps.read_lm_eval(tree))["refused"] == []

    def test_a_path_that_contradicts_itself_on_shots_is_settled_by_the_content(self, tmp_path: Path) -> None:
        write(tmp_path, "zero-shot/x-5shot.json", old_file())
        tree = ps.read_lm_eval(tmp_path)
        assert [entry["reason"] for entry in audit_facts(tree)["noted"]] == ["path-ambiguous"]
        assert tree["shots"].item() == 0

    def test_sizes_of_before_the_renaming_are_the_same_size(self, tmp_path: Path) -> None:
        write(tmp_path, "125M/r.json", new_file("EleutherAI/pythia-160m", "step8"))
        assert audit_facts(ps.read_lm_eval(tmp_path))["refused"] == []

    @pytest.mark.parametrize(
        "config",
        [
            {"model_args": "pretrained=EleutherAI/pythia-14m,revision=step8", "model_revision": "step16"},
            {"model_args": "pretrained=runs/tiny/checkpoint-5,revision=step8"},
        ],
    )
    def test_content_that_contradicts_itself_is_refused(self, tmp_path: Path, config: dict[str, str]) -> None:
        write(tmp_path, "bad.json", new_file(config=config))
        assert only_reason(tmp_path) == "label-mismatch"


class TestBadInput:
    """One bad file never spoils the rest: it is listed with its reason."""

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"", "empty"),
            (b"  \n\t ", "empty"),
            (b"{", "invalid-json"),
            (json.dumps(new_file(), indent=2)[:-40].encode(), "invalid-json"),
            (json.dumps(new_file(), indent=2)[:200].encode(), "invalid-json"),
            ((json.dumps(new_file(), indent=2) + "x").encode(), "invalid-json"),
            (json.dumps(new_file()).encode("utf-16"), "not-utf8"),
            (json.dumps(new_file(), indent=2).replace("arc_easy", "caf\u00e9").encode("latin-1"), "not-utf8"),
            (b"[" * 200_000 + b"]" * 200_000, "too-deep"),
            (b'{"results": ' + b'{"a":' * 200_000 + b"1" + b"}" * 200_001, "too-deep"),
            (b"[1, 2]", "not-results"),
            (b'"results"', "not-results"),
            (b"12", "not-results"),
            (b'{"a": 1}', "not-results"),
            (b'{"results": [1], "config": {}}', "not-results"),
            (b'{"results": {}, "config": {}}', "no-results"),
            (b'{"results": {"a": {"acc": 1.0}}}', "no-config"),
            (b'{"results": {"a": {"acc": 1.0}}, "config": null}', "no-config"),
            (b'{"results": {"a": {"acc": 1.0}}, "config": {}}', "no-model"),
            (b'{"results": {"a": {"acc": 1.0}}, "config": {"model_args": "dtype=float"}}', "no-model"),
            (json.dumps(new_file(results={"a": {"acc,none": "x"}})).encode(), "no-values"),
            (json.dumps(new_file(results={"a": 3})).encode(), "no-values"),
            (
                b'{"results": {"a": {"acc": 0.1, "acc": 0.2}}, "config": {"model_args": "pretrained=m,revision=step1"}}',
                "duplicate-keys",
            ),
            (
                b'{\n  "results": {"a": {"acc": 0.1}},\n  "results": {"a": {"acc": 0.2}},\n  "config": {}\n}',
                "duplicate-keys",
            ),
            (b'{"results": {"a": {"acc": ' + b"9" * 5000 + b'}}, "config": {}}', "invalid-json"),
        ],
        ids=lambda value: value[:24].decode("latin-1") if isinstance(value, bytes) else value,
    )
    def test_unusable_content_is_refused_by_name(self, tmp_path: Path, content: bytes, reason: str) -> None:
        write(tmp_path, "bad.json", content)
        assert only_reason(tmp_path) == reason

    def test_limited_evaluations_are_refused_unless_asked_for(self, tmp_path: Path) -> None:
        limited = new_file(model="EleutherAI/pythia-14m-seed2")
        limited["n-samples"] = {"arc_easy": {"original": 100, "effective": 10}}
        write(tmp_path, "limited.json", limited)
        assert only_reason(tmp_path) == "limited"
        tree = ps.read_lm_eval(tmp_path, allow_limit=True)
        assert tree["seed"].values.tolist() == [1, 2]
        assert audit_facts(tree)["noted"][0]["reason"] == "item-count-differs"
        assert tree["n_items"].item() == -1

    def test_limit_in_the_config_is_seen_too(self, tmp_path: Path) -> None:
        content = old_file(model="EleutherAI/pythia-14m-seed2")
        content["config"]["limit"] = 10
        write(tmp_path, "limited.json", content)
        assert only_reason(tmp_path) == "limited"

    def test_a_file_of_200_mb_is_refused_unread(self, tmp_path: Path) -> None:
        with (tmp_path / "huge.json").open("wb") as stream:
            stream.truncate(200 * 2**20)
        assert only_reason(tmp_path) == "too-large"

    def test_a_loop_of_links_ends(self, tmp_path: Path) -> None:
        (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
        (tmp_path / "self.json").symlink_to(tmp_path / "self.json")
        assert only_reason(tmp_path) == "unreadable"

    def test_a_link_to_nothing_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "gone.json").symlink_to(tmp_path / "nothing.json")
        assert only_reason(tmp_path) == "unreadable"

    def test_a_pipe_does_not_hang(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.json")
        assert only_reason(tmp_path) == "unreadable"

    def test_a_file_that_vanishes_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path, "bad.json", new_file())
        read = eval_parts.read_bytes

        def vanishing(path: str, limit: int) -> bytes | None:
            if path.endswith("bad.json"):
                Path(path).unlink()
            return read(path, limit)

        monkeypatch.setattr(eval_parts, "read_bytes", vanishing)
        assert only_reason(tmp_path) == "unreadable"

    def test_an_unreadable_folder_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "secret").mkdir()
        scan = os.scandir

        def denied(path: Any) -> Any:
            if str(path).endswith("secret"):
                raise PermissionError(13, "Permission denied")
            return scan(path)

        monkeypatch.setattr(os, "scandir", denied)
        assert only_reason(tmp_path) == "unreadable"

    def test_an_empty_tree_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ps.PolystabError, match="no results files"):
            ps.read_lm_eval(tmp_path)

    def test_a_missing_tree_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ps.PolystabError, match="does not exist"):
            ps.read_lm_eval(tmp_path / "nowhere")

    def test_a_tree_of_which_nothing_can_be_used_says_why(self, tmp_path: Path) -> None:
        write(tmp_path, "a.json", b"")
        with pytest.raises(ps.PolystabError, match=r"1 empty.*a\.json"):
            ps.read_lm_eval(tmp_path)

    @pytest.mark.slow
    def test_names_that_are_not_utf8_reach_the_audit(self, tmp_path: Path) -> None:
        bad = os.fsencode(tmp_path) + b"/caf\xe9.json"
        with open(bad, "wb") as stream:  # noqa: PTH123
            stream.write(b"")
        write(tmp_path, "good.json", new_file())
        tree = ps.read_lm_eval(tmp_path)
        ps.save_cube(tree, tmp_path / "cube.nc")
        assert audit_facts(ps.open_tree(tmp_path / "cube.nc"))["refused"][0]["reason"] == "empty"


class TestDuplicates:
    @pytest.fixture
    def tree(self, tmp_path: Path) -> Path:
        """Two files for one cell: the alphabetically first is the later one."""
        for name, value, date in (("a.json", 0.1, 2e9), ("b.json", 0.2, 1e9)):
            results = {"arc_easy": {"acc,none": value, "acc_stderr,none": value / 10}}
            write(tmp_path, name, new_file(results=results, date=date))
        return tmp_path

    def test_different_values_are_an_error_that_names_cell_and_files(self, tree: Path) -> None:
        with pytest.raises(ps.PolystabError, match=r"pythia-14m\|1\|1000\|eval/arc_easy/acc.*a\.json and b\.json"):
            ps.read_lm_eval(tree)

    @pytest.mark.parametrize(("rule", "value"), [("latest", 0.1), ("earliest", 0.2), ("first", 0.1), ("last", 0.2)])
    def test_rules_choose_and_the_audit_keeps_what_lost(self, tree: Path, rule: Any, value: float) -> None:
        cube = ps.read_lm_eval(tree, on_duplicate=rule)
        assert cube["value"].item() == value
        assert cube["stderr"].item() == value / 10
        (lost,) = audit_facts(cube)["replaced"]
        assert lost["reason"] == f"duplicate-{rule}"
        assert lost["values"] == {"pythia-14m|1|1000|eval/arc_easy/acc": {0.1: 0.2, 0.2: 0.1}[value]}
        assert {lost["path"], lost["by"]} == {"a.json", "b.json"}

    def test_equal_values_are_no_conflict(self, tmp_path: Path) -> None:
        for name in ("a.json", "b.json"):
            write(tmp_path, name, new_file())
        facts = audit_facts(ps.read_lm_eval(tmp_path))
        assert facts["read"] == 2
        assert facts["replaced"] == []

    def test_different_standard_errors_of_one_value_are_a_conflict_too(self, tmp_path: Path) -> None:
        for name, stderr in (("a.json", 0.01), ("b.json", 0.02)):
            write(tmp_path, name, new_file(results={"t": {"acc,none": 0.5, "acc_stderr,none": stderr}}))
        with pytest.raises(ps.PolystabError, match="different values"):
            ps.read_lm_eval(tmp_path)
        tree = ps.read_lm_eval(tmp_path, on_duplicate="first")
        assert tree["stderr"].item() == 0.01
        assert audit_facts(tree)["replaced"][0]["values"] == {"pythia-14m|1|1000|eval/t/acc|stderr": 0.02}

    def test_a_known_standard_error_is_kept_where_the_value_is_repeated_without(self, tmp_path: Path) -> None:
        for name, scores in (("a.json", {"acc_stderr,none": 0.01}), ("b.json", {})):
            write(tmp_path, name, new_file(results={"t": {"acc,none": 0.5, **scores}}))
        for rule in ("error", "first", "last"):
            assert ps.read_lm_eval(tmp_path, on_duplicate=rule)["stderr"].item() == 0.01  # type: ignore[arg-type]

    def test_a_rule_by_time_needs_times(self, tree: Path) -> None:
        content = json.loads((tree / "a.json").read_text())
        del content["date"]
        write(tree, "a.json", content)
        with pytest.raises(ps.PolystabError, match=r"when each evaluation ran.*'a\.json'"):
            ps.read_lm_eval(tree, on_duplicate="latest")

    def test_the_time_in_a_name_is_used_where_the_content_has_none(self, tree: Path) -> None:
        for name, day in (("a.json", "02"), ("b.json", "01")):
            content = json.loads((tree / name).read_text())
            del content["date"]
            (tree / name).unlink()
            write(tree, f"{name[0]}/results_2024-06-{day}T12-00-00.123456.json", content)
        assert ps.read_lm_eval(tree, on_duplicate="latest")["value"].item() == 0.1

    def test_an_unknown_rule_suggests_the_known_ones(self, tree: Path) -> None:
        with pytest.raises(ps.PolystabError, match="Did you mean 'latest'"):
            ps.read_lm_eval(tree, on_duplicate="lates")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small tree in the layout of the released PolyPythias results, faults included."""
    root = tmp_path_factory.mktemp("released")
    write_released_tree(root, sizes=("14m", "410m"), seeds=3, steps=(0, 1, 1000))
    return root


class TestTrees:
    @pytest.mark.slow
    def test_exactly_the_mislabelled_files_of_the_released_layout_are_refused(self, released: Path) -> None:
        facts = audit_facts(ps.read_lm_eval(released))
        assert {entry["reason"] for entry in facts["refused"]} == {"label-mismatch"}
        wrong = {
            path.relative_to(released).as_posix()
            for path in released.rglob("*.json")
            if "-seed" not in path.parent.name and "-seed" in path.parts[-4]
        }
        assert {entry["path"] for entry in facts["refused"]} == wrong
        assert len(wrong) == 2 * 3
        assert facts["files"] == sum(1 for _ in released.rglob("*.json"))

    @pytest.mark.slow
    def test_every_value_is_the_one_that_json_load_finds(self, released: Path) -> None:
        """Oracle: the plain standard library, on every file."""
        cube = ps.read_lm_eval(released).to_dataset()
        seen = 0
        for path in released.rglob("*.json"):
            if "-seed" not in path.parent.name and "-seed" in path.parts[-4]:
                continue
            content = json.loads(path.read_text())
            model, _, seed = path.parent.name.removeprefix("EleutherAI__").partition("-seed")
            at = cube.sel(model=model, seed=int(seed or 0), step=int(path.parts[-3].removeprefix("step")))
            for task, scores in content["results"].items():
                for key, value in scores.items():
                    if key.endswith(",none") and "_stderr" not in key:
                        cell = at.sel(metric=f"eval/{task}/{key.removesuffix(',none')}")
                        assert cell["value"].item() == value
                        assert cell["stderr"].item() == scores[key.replace(",", "_stderr,")]
                        seen += 1
        assert seen == int(cube["value"].notnull().sum())

    @pytest.mark.slow
    def test_other_processes_give_the_identical_tree(self, released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        alone = ps.read_lm_eval(released)
        monkeypatch.setattr(eval_parts, "ENOUGH_FILES", 20)
        monkeypatch.setattr(eval_parts, "_cores", lambda: 3)
        several = ps.read_lm_eval(released)
        several.attrs["created"] = alone.attrs["created"]
        xr.testing.assert_identical(alone, several)

    @pytest.mark.slow
    def test_a_process_that_fails_costs_nothing(self, released: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        alone = ps.read_lm_eval(released)
        monkeypatch.setattr(eval_parts, "ENOUGH_FILES", 20)
        monkeypatch.setattr(eval_parts, "_cores", lambda: 2)
        monkeypatch.setattr(sys, "executable", "/bin/false")
        several = ps.read_lm_eval(released)
        several.attrs["created"] = alone.attrs["created"]
        xr.testing.assert_identical(alone, several)

    def test_every_file_has_its_sha256_in_the_audit(self, released: Path) -> None:
        for entry in audit_entries(ps.read_lm_eval(released)):
            assert entry.sha256 == hashlib.sha256((released / entry.path).read_bytes()).hexdigest()

    def test_a_later_file_that_differs_in_shots_is_not_taken_for_an_earlier_one(self, tmp_path: Path) -> None:
        """The reader remembers sections that stand alike in many files; one letter more must count."""
        for seed, shots in ((1, 0), (2, 0), (3, 5)):
            content = new_file(model=f"EleutherAI/pythia-14m-seed{seed}", **{"n-shot": {"arc_easy": shots}})
            write(tmp_path, f"{seed}.json", content)
        cube = ps.read_lm_eval(tmp_path).to_dataset()["value"].squeeze(("model", "step"))
        assert cube.sel(metric="eval/arc_easy/acc").notnull().values.tolist() == [True, True, False]
        assert cube.sel(metric="eval/arc_easy@5shot/acc").notnull().values.tolist() == [False, False, True]

    @pytest.mark.parametrize("dates", list(permutations((1.7e9, 1.8e9, 1.9e9))))
    def test_files_that_differ_in_nothing_but_value_and_date_keep_their_dates(
        self, tmp_path: Path, dates: tuple[float, ...]
    ) -> None:
        for place, date in enumerate(dates):
            results = {"arc_easy": {"acc,none": date / 2e9, "acc_stderr,none": 0.01, "alias": "arc_easy"}}
            write(tmp_path, f"{place}.json", new_file(results=results, date=date))
        assert ps.read_lm_eval(tmp_path, on_duplicate="latest")["value"].item() == 1.9e9 / 2e9
        assert ps.read_lm_eval(tmp_path, on_duplicate="earliest")["value"].item() == 1.7e9 / 2e9

    @pytest.mark.parametrize("first_has_it", [True, False])
    def test_a_limit_behind_the_config_of_a_later_file_is_seen(self, tmp_path: Path, first_has_it: bool) -> None:
        """What is remembered of earlier files must not hide a section that stands elsewhere than they had it."""
        for seed, used in ((1, 100), (2, 10)):
            content = new_file(model=f"EleutherAI/pythia-14m-seed{seed}")
            samples = content.pop("n-samples")
            samples["arc_easy"]["effective"] = used
            write(tmp_path, f"{seed}.json", {**content, "n-samples": samples} if seed == 2 or first_has_it else content)
        (refused,) = audit_facts(ps.read_lm_eval(tmp_path))["refused"]
        assert (refused["path"], refused["reason"]) == ("2.json", "limited")

    def test_shots_behind_the_config_of_an_earlier_file_are_its_own(self, tmp_path: Path) -> None:
        for seed in (1, 2):
            content = new_file(model=f"EleutherAI/pythia-14m-seed{seed}")
            del content["n-shot"]
            write(tmp_path, f"{seed}.json", {**content, "n-shot": {"arc_easy": 5}} if seed == 1 else content)
        cube = ps.read_lm_eval(tmp_path).to_dataset()["value"].squeeze(("model", "step"))
        assert cube.sel(metric="eval/arc_easy@5shot/acc").notnull().values.tolist() == [True, False]
        assert cube.sel(metric="eval/arc_easy/acc").notnull().values.tolist() == [False, True]

    def test_a_second_results_section_of_a_later_file_is_seen(self, tmp_path: Path) -> None:
        write(tmp_path, "1.json", new_file())
        text = json.dumps(new_file(model="EleutherAI/pythia-14m-seed2"), indent=2)
        write(tmp_path, "2.json", text[:-2] + ',\n  "results": {"x": {"acc,none": 1.0}}\n}')
        assert [entry["reason"] for entry in audit_facts(ps.read_lm_eval(tmp_path))["refused"]] == ["duplicate-keys"]

    @pytest.mark.parametrize("left_out", [(), ("date",), ("date", "git_hash"), ("git_hash",)])
    def test_a_later_file_says_the_same_of_itself_as_the_first(self, tmp_path: Path, left_out: tuple[str, ...]) -> None:
        for seed in (1, 2, 3):
            content = new_file(model=f"EleutherAI/pythia-14m-seed{seed}", date=1e9 + seed, lm_eval_version="0.4.2")
            write(tmp_path, f"new/{seed}.json", {key: value for key, value in content.items() if key not in left_out})
            write(tmp_path, f"old/{seed}.json", old_file(model=f"EleutherAI/pythia-31m-seed{seed}"))
        reader = EvalReader(Options())
        for kind in ("new", "old"):
            contents = [(tmp_path / kind / f"{seed}.json").read_bytes() for seed in (1, 2, 3)]
            remembered = [reader.parse(content, "x.json") for content in contents]
            fresh = [EvalReader(Options()).parse(content, "x.json") for content in contents]
            assert repr(remembered) == repr(fresh)
            assert remembered[2].version == ("lm-eval 0.4.2" if kind == "new" else "lm-eval 0.3")

    def test_a_later_file_with_a_damaged_score_is_refused(self, tmp_path: Path) -> None:
        write(tmp_path, "1.json", new_file())
        text = json.dumps(new_file(model="EleutherAI/pythia-14m-seed2"), indent=2)
        write(tmp_path, "2.json", text.replace("0.25", "0.2x5"))
        assert [entry["reason"] for entry in audit_facts(ps.read_lm_eval(tmp_path))["refused"]] == ["invalid-json"]

    def test_renaming_folders_without_labels_changes_no_value(self, tmp_path: Path) -> None:
        for number in range(4):
            content = new_file(model=f"EleutherAI/pythia-14m-seed{number}", results={"t": {"acc,none": number / 7}})
            write(tmp_path / "x", f"{number}/r.json", content)
            write(tmp_path / "y", f"{9 - number}/deeper/r{number}.json", content)
        x, y = (ps.read_lm_eval(tmp_path / name).to_dataset()["value"] for name in "xy")
        xr.testing.assert_identical(x, y)


class TestRealInput:
    """The evaluations published with Pythia, and those of the training maps."""

    @pytest.mark.slow
    def test_pythia_evals_are_complete(self, shared_data: Path) -> None:
        tree = ps.read_lm_eval(shared_data / "pythia-evals")
        facts = audit_facts(tree)
        assert (facts["files"], facts["read"], facts["refused"], facts["replaced"]) == (300, 300, [], [])
        assert {Path(entry["path"]).name for entry in facts["noted"]} == {
            f"1b-bf16-5shot_step{step}.json" for step in (128, 256, 512, 1000)
        }
        zero, five = ps.select(tree, shots=0), ps.select(tree, shots=5)
        assert dict(zero.sizes) == {"model": 10, "seed": 1, "step": 27, "metric": 172}
        assert bool(zero["value"].notnull().all())
        assert len(np.unique(zero["subject"])) == 87
        assert len(np.unique(five["subject"])) == 65
        measured = five["value"].notnull().all("metric").sum(("seed", "step"))
        assert {str(m): int(n) for m, n in zip(measured["model"].values, measured.values, strict=True) if n} == {
            "pythia-160m": 15,
            "pythia-410m": 15,
        }

    def test_a_value_and_its_stderr_stand_where_the_file_says(self, shared_data: Path) -> None:
        path = shared_data / "pythia-evals/evals/pythia-v1/pythia-1b-bf16/zero-shot/1b-bf16-5shot_step512.json"
        stated = json.loads(path.read_text())["results"]["lambada_openai"]
        cube = ps.read_lm_eval(path).to_dataset().sel(model="pythia-1b-bf16", seed=0, step=512)
        assert cube["value"].sel(metric="eval/lambada_openai/ppl").item() == stated["ppl"]
        assert cube["stderr"].sel(metric="eval/lambada_openai/acc").item() == stated["acc_stderr"]
        assert cube["tokens"].item() == 512 * 2_097_152

    def test_the_new_dialect_of_the_training_maps(self, shared_data: Path) -> None:
        tree = ps.read_lm_eval(shared_data / "pythia-training-maps" / "eval-harness")
        assert dict(tree.sizes) == {"model": 1, "seed": 5, "step": 1, "metric": 15}
        assert bool(tree["value"].notnull().all())
        assert tree["weight_seed"].values.ravel().tolist() == [0, 1, 2, 3, 4]


@pytest.mark.slow
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    base=st.sampled_from([json.dumps(new_file(), indent=2), json.dumps(old_file(), indent=4), json.dumps(new_file())]),
    cut=st.tuples(st.integers(0, 900), st.integers(0, 60)),
    put=st.one_of(st.binary(max_size=12), st.sampled_from([b"NaN", b"-1e999", b"null", b"{", b"}", b'"', b"\\ud800"])),
)
def test_any_damage_is_read_or_refused_and_spoils_nothing(
    tmp_path: Path, base: str, cut: tuple[int, int], put: bytes
) -> None:
    content = base.encode()
    start = min(cut[0], len(content))
    write(tmp_path, "damaged.json", content[:start] + put + content[start + cut[1] :])
    write(tmp_path, "good.json", new_file(model="EleutherAI/pythia-14m-seed7"))
    tree = ps.read_lm_eval(tmp_path, on_duplicate="first")
    assert tree["value"].sel(model="pythia-14m", seed=7, step=1000, metric="eval/arc_easy/acc").item() == 0.25
    assert audit_facts(tree)["files"] == 2
    assert ps.validate_cube(tree) == []


def outcome(reader: EvalReader, content: bytes) -> str:
    """All that a reader says of a file, but for the version, of which the quick way knows more escapes."""
    try:
        return repr(reader.parse(content, "x.json")._replace(version=""))
    except RefusedFileError as refusal:
        return refusal.reason


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    cut=st.tuples(st.integers(0, 900), st.integers(0, 60)),
    put=st.one_of(
        st.binary(max_size=12), st.sampled_from([b"NaN", b"{", b"}", b'"', b',\n  "n-shot": {"arc_easy": 5}'])
    ),
)
def test_what_is_remembered_of_earlier_files_changes_nothing(cut: tuple[int, int], put: bytes) -> None:
    content = json.dumps(new_file(), indent=2).encode()
    start = min(cut[0], len(content))
    damaged = content[:start] + put + content[start + cut[1] :]
    remembering = EvalReader(Options())
    assert outcome(remembering, content) == outcome(EvalReader(Options()), content)
    assert outcome(remembering, damaged) == outcome(EvalReader(Options()), damaged)


def test_a_nested_key_that_is_indented_like_one_of_the_top_level_is_none() -> None:
    content = json.dumps(new_file(), indent=2).encode()
    shifted = content.replace(b'\n      "acc_stderr,none"', b'\n  "acc_stderr,none"')
    assert shifted != content
    assert outcome(EvalReader(Options()), shifted) == outcome(EvalReader(Options()), content)


@pytest.mark.slow
def test_a_saved_tree_opens_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, "good.json", new_file())
    write(tmp_path, "bad.json", b"")
    tree = ps.read_lm_eval(tmp_path)
    ps.save_cube(tree, tmp_path / "cube.nc")
    opened = ps.open_tree(tmp_path / "cube.nc")
    xr.testing.assert_identical(opened.to_dataset().load(), tree.to_dataset())
    assert audit_entries(opened) == audit_entries(tree)


def real_file_of_0_4_13(seed: int, step: int) -> dict[str, Any]:
    """What harness 0.4.13 wrote for a group of two tasks of ten items each, shortened."""
    scores = {"acc,none": 0.5, "acc_stderr,none": 0.1667, "acc_norm,none": 0.6, "acc_norm_stderr,none": 0.1633}
    group = {"acc,none": 0.5, "acc_stderr,none": 0.1179, "sample_count": {"acc,none": 20}}
    tasks = ("toy_a", "toy_b")
    return {
        "results": {
            **{task: {"name": task, "alias": task, "sample_len": 10, **scores} for task in tasks},
            "toy_group": {"alias": "toy_group", "name": "toy_group", "sample_len": 20, **group},
        },
        "groups": {"toy_group": {"alias": "toy_group", "name": "toy_group", "sample_len": 20, **group}},
        "group_subtasks": {"toy_group": list(tasks)},
        "configs": {
            task: {"task": task, "num_fewshot": None, "metadata": {"pretrained": f"runs/{seed}"}} for task in tasks
        },
        "versions": {"toy_a": "Yaml", "toy_b": "Yaml", "toy_group": "N/A"},
        "n-shot": {"toy_a": 0, "toy_b": 0, "toy_group": 0},
        "higher_is_better": {task: {"acc": True, "acc_norm": True} for task in (*tasks, "toy_group")},
        "n-samples": {task: {"original": 10, "effective": 10} for task in tasks},
        "config": {
            "model": "hf",
            "model_args": {"pretrained": f"runs/tiny-seed{seed}/checkpoint-{step}"},
            "model_revision": "main",
            "limit": None,
            "random_seed": 0,
        },
        "git_hash": None,
        "date": 1795307455.4 + seed,
        "lm_eval_version": "0.4.13",
    }


def test_the_newest_dialect_with_groups_and_local_checkpoints(tmp_path: Path) -> None:
    for seed in (0, 1, 2):
        for step in (10, 20):
            folder = f"runs__tiny-seed{seed}__checkpoint-{step}"
            write(tmp_path, f"{folder}/results_2026-11-22T00-31-18.181067.json", real_file_of_0_4_13(seed, step))
    tree = ps.read_lm_eval(tmp_path)
    assert dict(tree.sizes) == {"model": 1, "seed": 3, "step": 2, "metric": 5}
    assert bool(tree["value"].notnull().all())
    assert tree["model"].item() == "tiny"
    assert tree["stderr"].sel(metric="eval/toy_a/acc").values.ravel().tolist() == [0.1667] * 6
    assert bool(tree["stderr"].sel(metric="eval/toy_group/acc").isnull().all())
    assert audit_facts(tree)["noted"] == []
    assert "lm-eval 0.4.13" in audit_entries(tree)[0].detail
