"""Evaluating checkpoints with the lm-evaluation-harness, against the harness's own files."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import pickle
import random
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toy_tasks import ALL_TASKS, CONTEXT, tiny_model, tiny_tokenizer, write_tasks

import polystab as ps
from polystab.errors import ReadError, UnknownNameError
from polystab.sources.checkpoints import Checkpoint
from polystab.sources.eval_scoring import Plan
from polystab.sources.evals import Evals, EvaluationError
from polystab.sources.items import read_lm_eval_samples
from polystab.sources.measuring import Measurement, Measurer
from polystab.sources.runs import Run

torch = pytest.importorskip("torch")
if importlib.util.find_spec("lm_eval") is None:
    pytest.skip("needs lm_eval", allow_module_level=True)

STEP = 8


@pytest.fixture(scope="module", autouse=True)
def _offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No network, and no cache of the person who runs the tests; other tests keep their own settings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets.config
        import huggingface_hub.constants
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets")))
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        patch.setenv("DISABLE_MULTIPROC", "1")
        yield


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


def checkpoint(model: Any = None, *, tokenizer: Any = None) -> Checkpoint:
    run = Run(model="tiny", seed=3)
    return Checkpoint.of_model(run, STEP, model or tiny_model(), tokenizer or tiny_tokenizer())


def measured(tasks: Path, *names: str, model: Any = None, **options: Any) -> Measurement:
    return Evals(names, [str(tasks)], **options).measure(checkpoint(model))


@pytest.fixture(scope="module")
def every(tasks: Path) -> Measurement:
    """What Evals finds on every toy task."""
    return measured(tasks, *ALL_TASKS)


@pytest.fixture(scope="module")
def harness_tree(tasks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results and samples of the same model and tasks, written by the harness itself."""
    folder = tmp_path_factory.mktemp("harness")
    saved = folder / "models" / "tiny-seed3" / f"checkpoint-{STEP}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lm_eval
        from lm_eval.loggers import EvaluationTracker
        from lm_eval.tasks import TaskManager

        tiny_model().save_pretrained(saved)
        tiny_tokenizer().save_pretrained(saved)
        tracker = EvaluationTracker(output_path=str(folder / "results"))
        results = lm_eval.simple_evaluate(
            model="hf",
            model_args=f"pretrained={saved},dtype=float32",
            device="cpu",
            batch_size=64,
            tasks=list(ALL_TASKS),
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            evaluation_tracker=tracker,
            bootstrap_iters=2,
        )
        samples = results.pop("samples")
        tracker.save_results_aggregated(results=results, samples=samples)
        for task, rows in samples.items():
            tracker.save_results_samples(task_name=task, samples=rows)
    return folder / "results"


class TestAgainstTheHarness:
    @pytest.mark.slow
    def test_ids_are_those_of_a_results_file(self, every: Measurement, harness_tree: Path) -> None:
        cube = ps.read_lm_eval(harness_tree)
        assert sorted(every.values) == sorted(cube["metric"].values.tolist())

    @pytest.mark.slow
    def test_values_are_those_of_a_results_file(self, every: Measurement, harness_tree: Path) -> None:
        cube = ps.read_lm_eval(harness_tree).to_dataset().sel(model="tiny", seed=3, step=STEP)
        assert every.values == {metric: cube["value"].sel(metric=metric).item() for metric in every.values}

    @pytest.mark.slow
    def test_standard_errors_of_means_are_those_of_a_results_file(self, every: Measurement, harness_tree: Path) -> None:
        stderr = ps.read_lm_eval(harness_tree).to_dataset().sel(model="tiny", seed=3, step=STEP)["stderr"]
        theirs = {str(m): float(stderr.sel(metric=m)) for m in stderr["metric"].values if stderr.sel(metric=m) >= 0}
        theirs.pop("eval/toy_cloze/perplexity")  # bootstrapped
        assert every.stderr == theirs

    @pytest.mark.parametrize("name", ["units", "better", "n_items", "shots", "filter"])
    def test_coordinates_are_those_of_a_results_file(self, every: Measurement, harness_tree: Path, name: str) -> None:
        said = ps.read_lm_eval(harness_tree).to_dataset()[name].to_series().to_dict()
        assert {metric: facts[name] for metric, facts in every.metrics.items()} == said

    def test_items_are_those_of_the_samples_files(self, every: Measurement, harness_tree: Path) -> None:
        theirs = read_lm_eval_samples(harness_tree)["items"].to_dataset().sel(model="tiny", seed=3, step=STEP)
        ours = every.details["items"]
        assert ours["item"].values.tolist() == theirs["item"].values.tolist()
        np.testing.assert_array_equal(ours["choice"], theirs["choice"])
        np.testing.assert_array_equal(ours["correct"], theirs["correct"])
        np.testing.assert_array_equal(ours["margin"], theirs["margin"])

    @pytest.mark.slow
    def test_the_tree_of_samples_is_a_valid_cube(self, harness_tree: Path, tmp_path: Path) -> None:
        tree = read_lm_eval_samples(harness_tree)
        assert ps.validate_cube(tree) == []
        ps.save_cube(tree, tmp_path / "cube.nc")
        with ps.open_tree(tmp_path / "cube.nc") as opened:
            assert opened["items"]["correct"].dtype == np.int8


class TestItems:
    @pytest.mark.parametrize("task", ["toy_pairs", "toy_mixed", "toy_shots@2shot", "toy_cloze"])
    def test_their_mean_is_the_accuracy(self, every: Measurement, task: str) -> None:
        items = every.details["items"]
        assert items["correct"][items["task"] == task].mean() == pytest.approx(every.values[f"eval/{task}/acc"])

    def test_a_positive_margin_is_a_correct_answer(self, every: Measurement) -> None:
        items = every.details["items"]
        known = items["margin"].notnull()
        assert known.sum() == 36
        np.testing.assert_array_equal(items["margin"][known] > 0, items["correct"][known] == 1)

    def test_tasks_without_options_have_no_choice(self, every: Measurement) -> None:
        items = every.details["items"]
        alone = items["task"].isin(["toy_cloze", "toy_write"])
        np.testing.assert_array_equal(items["choice"] == -1, alone)

    def test_the_filter_they_come_from_is_noted(self, every: Measurement) -> None:
        assert [detail for reason, detail in every.notes if reason == "items-filter"] == [
            "answers are those of a filter: 'toy_write (strict-match)'."
        ]

    def test_they_can_be_left_out(self, tasks: Path) -> None:
        assert measured(tasks, "toy_pairs", keep_items=False).details == {}


class TestChance:
    def test_is_what_the_task_states(self, every: Measurement) -> None:
        assert every.metrics["eval/toy_pairs/acc"]["chance"] == 0.5

    def test_is_one_over_the_number_of_options(self, every: Measurement) -> None:
        assert every.metrics["eval/toy_shots@2shot/acc_norm"]["chance"] == pytest.approx(1 / 3)

    @pytest.mark.parametrize("metric", ["eval/toy_mixed/acc", "eval/toy_cloze/acc", "eval/toy_cloze/perplexity"])
    def test_is_unknown_otherwise(self, every: Measurement, metric: str) -> None:
        assert math.isnan(every.metrics[metric]["chance"])

    @pytest.mark.slow
    def test_that_is_no_share_is_refused(self, tmp_path: Path) -> None:
        folder = write_tasks(tmp_path)
        change(folder / "toy_pairs.yaml", metadata={"chance": 50})
        assert reason(lambda: measured(folder, "toy_pairs")) == "broken-task"


class TestDeterminism:
    @pytest.mark.slow
    def test_twice_gives_the_same(self, tasks: Path, every: Measurement) -> None:
        again = measured(tasks, *ALL_TASKS)
        assert again.values == every.values
        assert again.details["items"].identical(every.details["items"])

    @pytest.mark.slow
    def test_earlier_checkpoints_change_nothing(self, tasks: Path, every: Measurement) -> None:
        evals = Evals(ALL_TASKS, [str(tasks)])
        other = evals.measure(checkpoint(tiny_model(1)))
        assert other.values != every.values
        assert evals.measure(checkpoint()).values == every.values

    @pytest.mark.slow
    def test_batches_run_by_plan_give_what_the_harness_picks_out(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        evals = Evals(("toy_mixed", "toy_cloze", "toy_shots"), [str(write_tasks(tmp_path, items=40))], batch_size=16)
        evals.measure(checkpoint())
        by_plan = evals.measure(checkpoint(tiny_model(7)))
        monkeypatch.setattr(Plan, "agrees", lambda *_: False)
        harness = Evals(evals.tasks, evals.include_path, batch_size=16, limit=40).measure(checkpoint(tiny_model(7)))
        assert by_plan.values == harness.values
        assert by_plan.details["items"].identical(harness.details["items"])

    @pytest.mark.slow
    def test_the_model_is_called_no_more_often_than_by_the_harness(self, tmp_path: Path) -> None:
        evals = Evals(["toy_mixed"], [str(write_tasks(tmp_path))], batch_size=4)
        calls = []
        for seed in (0, 1):
            model = tiny_model(seed)
            model.register_forward_pre_hook(lambda *_, seed=seed: calls.append(seed))
            evals.measure(checkpoint(model))
        assert calls.count(1) == calls.count(0) > 1

    @pytest.mark.slow
    def test_another_tokenizer_is_not_given_the_tokens_of_the_first(self, tasks: Path) -> None:
        first = measured(tasks, "toy_mixed")
        from tokenizers import Tokenizer

        tokenizer = tiny_tokenizer()
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        words = content["model"]["vocab"]
        content["model"]["vocab"] = {
            word: (61 + 2 - number if number > 1 else number) for word, number in words.items()
        }
        other = type(tokenizer)(
            tokenizer_object=Tokenizer.from_str(json.dumps(content)), eos_token="<eos>", unk_token="<unk>"
        )
        second = Evals(["toy_mixed"], [str(tasks)]).measure(checkpoint(tokenizer=other))
        assert not first.details["items"]["margin"].equals(second.details["items"]["margin"])

    @pytest.mark.slow
    def test_a_task_file_that_changes_is_read_again(self, tmp_path: Path) -> None:
        folder = write_tasks(tmp_path)
        measured(folder, "toy_pairs")
        change(folder / "toy_pairs.yaml", metadata={"chance": 0.25})
        assert measured(folder, "toy_pairs").metrics["eval/toy_pairs/acc"]["chance"] == 0.25

    @pytest.mark.slow
    def test_batch_size_changes_no_answer(self, tasks: Path, every: Measurement) -> None:
        other = measured(tasks, "toy_mixed", batch_size=5).details["items"]
        items = every.details["items"]
        np.testing.assert_array_equal(other["choice"], items["choice"][items["task"] == "toy_mixed"])


class TestQuiet:
    @pytest.mark.slow
    def test_nothing_is_printed_or_warned(self, tasks: Path, capfd: pytest.CaptureFixture[str]) -> None:
        measured(tasks, *ALL_TASKS, num_fewshot=1)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.slow
    def test_random_states_are_put_back(self, tasks: Path) -> None:
        before = random.getstate(), np.random.get_state()[1].copy(), torch.get_rng_state()  # type: ignore[index]  # noqa: NPY002
        measured(tasks, "toy_write")
        assert random.getstate() == before[0]
        np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # type: ignore[index]  # noqa: NPY002
        assert torch.equal(torch.get_rng_state(), before[2])

    def test_log_levels_are_put_back(self, tasks: Path) -> None:
        logger = logging.getLogger("lm_eval")
        logger.setLevel(logging.DEBUG)
        try:
            measured(tasks, "toy_pairs")
            assert logger.level == logging.DEBUG
        finally:
            logger.setLevel(logging.NOTSET)

    def test_tokenizer_is_left_without_padding(self, tasks: Path) -> None:
        tokenizer = tiny_tokenizer(pad_token=None)
        Evals(["toy_write"], [str(tasks)]).measure(checkpoint(tokenizer=tokenizer))
        assert tokenizer.pad_token is None

    @pytest.mark.slow
    def test_random_states_do_not_change_the_numbers(self, tasks: Path, every: Measurement) -> None:
        random.seed(1)
        torch.manual_seed(99)
        assert measured(tasks, *ALL_TASKS).values == every.values

    @pytest.mark.slow
    def test_importing_evals_loads_no_library(self) -> None:
        code = "import sys, polystab.sources.evals; print([m for m in ('torch', 'transformers', 'lm_eval') if m in sys.modules])"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"


def change(path: Path, **config: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


def reason(action: Callable[[], object]) -> str:
    with pytest.raises(EvaluationError) as raised:
        action()
    return raised.value.reason


class TestBadInput:
    def test_unknown_task_suggests_a_close_one(self, tasks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        without_built_in(monkeypatch)
        with pytest.raises(UnknownNameError, match=r"no task, group or tag 'toy_pair'\. Did you mean 'toy_pairs'"):
            Evals(["toy_pair"], [str(tasks)]).check()

    def test_a_known_task_passes_the_check(self, tasks: Path) -> None:
        Evals(ALL_TASKS, [str(tasks)]).check()

    def test_missing_task_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ReadError, match="does not exist"):
            Evals(["x"], [str(tmp_path / "no")]).check()

    def test_task_folder_without_tasks(self, tmp_path: Path) -> None:
        with pytest.raises(ReadError, match=r"no file in it ends in \.yaml"):
            Evals(["x"], [str(tmp_path)]).check()

    @pytest.mark.parametrize("content", ["task: [unclosed", "a: b: c", b"\xff\xfe"])
    def test_broken_yaml_is_named(self, tmp_path: Path, content: str | bytes) -> None:
        path = tmp_path / "bad.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ReadError, match=r"bad\.yaml cannot be read"):
            Evals(["x"], [str(tmp_path)]).check()

    def test_missing_included_file_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("task: a\ninclude: gone.yaml\n")
        with pytest.raises(ReadError, match=r"a\.yaml includes gone\.yaml, which does not exist"):
            Evals(["a"], [str(tmp_path)]).check()

    def test_functions_in_a_task_file_are_not_run_by_the_check(self, tmp_path: Path) -> None:
        (tmp_path / "a.yaml").write_text("task: a\noutput_type: multiple_choice\nprocess_docs: !function gone.f\n")
        Evals(["a"], [str(tmp_path)]).check()

    @pytest.mark.parametrize("path", ["json", "someone/nothing-of-this-name"])
    def test_data_that_cannot_be_loaded(self, tmp_path: Path, path: str) -> None:
        folder = write_tasks(tmp_path)
        files = {"data_files": {"test": str(tmp_path / "gone.jsonl")}} if path == "json" else {}
        change(folder / "toy_pairs.yaml", dataset_path=path, dataset_kwargs=files)
        assert reason(lambda: measured(folder, "toy_pairs")) == "dataset-unavailable"

    def test_template_that_asks_for_a_field_that_is_not_there(self, tmp_path: Path) -> None:
        folder = write_tasks(tmp_path)
        change(folder / "toy_pairs.yaml", doc_to_text="{{nothing_of_this_name}}")
        assert reason(lambda: measured(folder, "toy_pairs")) == "broken-task"

    @pytest.mark.parametrize("options", [{"batch_size": 0}, {"limit": -1}, {"num_fewshot": 1.5}, {"limit": True}])
    def test_numbers_that_make_no_sense(self, options: dict[str, Any]) -> None:
        with pytest.raises(ReadError, match="must be a whole number"):
            Evals(["x"], **options)

    def test_no_task_at_all(self) -> None:
        with pytest.raises(ReadError, match="no task"):
            Evals([])

    def test_harness_not_installed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "lm_eval", None)
        with pytest.raises(ReadError, match=r"pip install 'polystab\[fill\]'"):
            Evals(["x"]).check()


class TestBadModels:
    @pytest.mark.slow
    def test_context_shorter_than_items_is_noted(self, tasks: Path) -> None:
        found = measured(tasks, "toy_pairs", "toy_write", model=tiny_model(context=8))
        noted = [detail for kind, detail in found.notes if kind == "truncated"]
        assert noted == ["36 of 36 prompts exceed the model's context of 8 tokens; their beginning was cut."]

    def test_context_that_is_long_enough_is_not_noted(self, every: Measurement) -> None:
        assert CONTEXT > 40
        assert "truncated" not in dict(every.notes)

    def test_option_longer_than_the_context(self, tasks: Path) -> None:
        assert reason(lambda: measured(tasks, "toy_mixed", model=tiny_model(context=1))) == "item-too-long"

    def test_tokenizer_without_an_end_of_text(self, tasks: Path) -> None:
        evals = Evals(["toy_pairs"], [str(tasks)])
        assert reason(lambda: evals.measure(checkpoint(tokenizer=tiny_tokenizer(eos_token=None)))) == "no-text-end"

    @pytest.mark.slow
    def test_outputs_that_overflow(self, tasks: Path) -> None:
        model = tiny_model()
        with torch.no_grad():
            model.gpt_neox.final_layer_norm.weight.fill_(1e30)
            model.get_output_embeddings().weight.fill_(1e30)
        assert reason(lambda: measured(tasks, "toy_pairs", model=model)) == "non-finite-output"

    @pytest.mark.slow
    def test_a_failure_does_not_spoil_the_next_checkpoint(self, tasks: Path, every: Measurement) -> None:
        model = tiny_model()
        model.forward = None
        with pytest.raises(TypeError):
            measured(tasks, *ALL_TASKS, model=model)
        assert measured(tasks, *ALL_TASKS).values == every.values

    def test_weights_that_are_not_finite(self, tasks: Path) -> None:
        model = tiny_model()
        with torch.no_grad():
            model.get_output_embeddings().weight[0, 0] = math.nan
        with pytest.raises(ReadError, match="NaN"):
            measured(tasks, "toy_pairs", model=model)


class TestSettings:
    def test_is_a_measurer(self) -> None:
        assert isinstance(Evals(["x"]), Measurer)

    def test_survives_pickling(self) -> None:
        evals = Evals(["b", "a"], limit=3)
        assert pickle.loads(pickle.dumps(evals)) == evals

    def test_its_error_survives_pickling(self) -> None:
        error = pickle.loads(pickle.dumps(EvaluationError("a-reason", "a detail")))
        assert (error.reason, str(error)) == ("a-reason", "a detail")

    def test_order_and_repetition_of_tasks_do_not_matter(self) -> None:
        assert Evals(["b", "a", "b"]) == Evals(("a", "b"))

    def test_are_plain_json(self, tasks: Path) -> None:
        settings = Evals(["a"], [str(tasks)]).settings()
        assert json.loads(json.dumps(settings)) == settings

    def test_folder_counts_by_content_not_by_place(self, tmp_path: Path) -> None:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "a.yaml").write_text("task: a\n")
        first, second = (Evals(["a"], [str(tmp_path / name)]).settings() for name in ("one", "two"))
        assert first == second
        (tmp_path / "two" / "a.yaml").write_text("task: a\nnum_fewshot: 1\n")
        assert Evals(["a"], [str(tmp_path / "two")]).settings() != first

    def test_limit_gives_the_first_documents(self, tasks: Path, every: Measurement) -> None:
        few = measured(tasks, "toy_pairs", limit=5)
        items = every.details["items"]
        whole = items["item"][items["task"] == "toy_pairs"].values.tolist()
        assert few.details["items"]["item"].values.tolist() == whole[:5]
        assert few.metrics["eval/toy_pairs/acc"]["n_items"] == 5

    def test_shots_are_part_of_the_id(self, tasks: Path) -> None:
        found = measured(tasks, "toy_shots", num_fewshot=1)
        assert sorted(found.values) == ["eval/toy_shots@1shot/acc", "eval/toy_shots@1shot/acc_norm"]


def without_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the harness's own 14,000 files, which take ten seconds to look through."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import lm_eval.tasks
    real = lm_eval.tasks.TaskManager
    monkeypatch.setattr(
        lm_eval.tasks,
        "TaskManager",
        lambda include_path, include_defaults: real(include_path=include_path, include_defaults=False),
    )
