"""Training a suite: nothing depends on processes or interruptions, and what comes out can be used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import polystab as ps
from polystab.cube.store import open_tree
from polystab.errors import ConflictError, OutputError, ReadError, UnknownNameError
from polystab.sources.checkpoints import Checkpoint, open_checkpoint
from polystab.sources.measuring import Measurement
from polystab.sources.outputs import read_failures
from polystab.sources.runs import read_runs
from polystab.suites.cubes import suite_cube
from polystab.suites.grammar import corpus, vocabulary
from polystab.suites.nano_items import TASKS
from polystab.suites.recipes import Recipe, Suite, SuiteRun, n_parameters, suite
from polystab.suites.train import TrainingError, TrainProgress, TrainResult, train

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

RECIPE = Recipe("tiny", 16, 1, 1, steps=8, batch_size=4, every=4, context=16)
GRID = [0, 1, 2, 4, 8]
VALIDATION, LOSS = "loss/validation/cross_entropy", "loss/train/cross_entropy"

# The same suite in another interpreter.
PREPARE = textwrap.dedent(
    """
    import sys
    from polystab.suites.recipes import Recipe, Suite, SuiteRun
    from polystab.suites.train import train

    recipe = Recipe("tiny", 16, 1, 1, steps=8, batch_size=4, every=4, context=16)
    suite = Suite("toy", "A toy.", "Two runs.", tuple(SuiteRun(recipe, seed, seed, seed) for seed in range(2)))
    """
)

# Without a guard of the main module: whoever runs it again in a worker would train there, too.
TWO_PROCESSES = f"{PREPARE}train(suite, sys.argv[1], jobs=2)"

# Forked once the libraries are loaded; each child is killed when the folder has so many units.
KILLED = PREPARE + textwrap.dedent(
    """
    import os, signal, time
    from pathlib import Path
    import polystab.sources.checkpoints, polystab.suites.measuring, torch
    from transformers import GPTNeoXForCausalLM, PreTrainedTokenizerFast

    folder, killed = Path(sys.argv[1]), 0
    for wanted in map(int, sys.argv[2:]):
        child = os.fork()
        if not child:
            train(suite, folder)
            os._exit(0)
        ended = 0
        while not ended and len(list((folder / "units").rglob("step*.npz"))) < wanted:
            time.sleep(0.001)
            ended = os.waitpid(child, os.WNOHANG)[0]
        if not ended:
            os.kill(child, signal.SIGKILL)
            killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
    print(killed)
    """
)


def toy(seeds: int = 2, **changes: Any) -> Suite:
    recipe = replace(RECIPE, **changes)
    return Suite("toy", "A toy.", "Two runs.", tuple(SuiteRun(recipe, seed, seed, seed) for seed in range(seeds)))


def files(folder: Path, *kinds: str) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for kind in kinds
        for path in sorted((folder / kind).rglob("*"))
        if path.is_file()
    }


def run_script(code: str, folder: Path, *arguments: object) -> str:
    """What a script prints that is given a folder, beside which it is written down: processes run it again by its path."""
    script = folder.with_name(f"{folder.name}-script.py")
    script.write_text(code, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-B", script, folder, *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


class Tensors:
    """Measures how many tensors a checkpoint has, to see that it can be opened."""

    name = "counts"

    def settings(self) -> Mapping[str, Any]:
        return {}

    def measure(self, checkpoint: Checkpoint) -> Measurement:
        return Measurement({"weight/all/count": float(sum(1 for _ in checkpoint.tensors()))})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    """A folder in which the toy suite was trained in this process; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("toy")
    return folder, train(toy(), folder, device="cpu")


@pytest.fixture
def folder(trained: tuple[Path, TrainResult]) -> Path:
    return trained[0]


# What train() says and leaves.


@pytest.mark.slow
def test_training_writes_nothing_to_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    train(toy(1, steps=1), tmp_path, device="cpu")
    assert tuple(capfd.readouterr()) == ("", "")


@pytest.mark.slow
def test_the_result_counts_runs(trained: tuple[Path, TrainResult]) -> None:
    result = trained[1]
    assert (result.trained, result.already_done, result.diverged, result.failed) == (2, 0, (), ())


@pytest.mark.slow
def test_each_checkpoint_of_each_run_has_a_unit(folder: Path) -> None:
    wanted = {f"units/training/tiny/seed{seed}/step{step}.npz" for seed in range(2) for step in GRID}
    assert set(files(folder, "units")) == wanted


def test_nothing_half_done_is_left(folder: Path) -> None:
    assert files(folder, "state", "failed", "locks") == {}
    assert list(folder.rglob("*.part")) == []


def test_a_suite_that_is_done_is_not_trained_again(folder: Path) -> None:
    before = files(folder, "units", "logs", "checkpoints")
    result = train(toy(), folder, device="cpu")
    assert (result.trained, result.already_done) == (0, 2)
    assert files(folder, "units", "logs", "checkpoints") == before


@pytest.mark.slow
def test_progress_ends_with_all_updates_done(tmp_path: Path) -> None:
    said: list[TrainProgress] = []
    train(toy(steps=2), tmp_path, device="cpu", progress=said.append)
    assert (said[-1].updates, said[-1].total, said[-1].runs_done, said[-1].runs) == (4, 4, 2, 2)
    assert [each.updates for each in said] == sorted(each.updates for each in said)


def test_the_run_table_leads_to_every_checkpoint(folder: Path) -> None:
    table = read_runs(folder / "runs.csv")
    assert [(run.model, run.seed, run.weight_seed, run.data_seed) for run in table.runs] == [
        ("tiny", 0, 0, 0),
        ("tiny", 1, 1, 1),
    ]
    assert [list(run.steps) for run in table.runs] == [GRID, GRID]
    assert dict(table.runs[0].facts)["n_parameters"] == n_parameters(RECIPE)
    for run, step in table.checkpoints():
        with open_checkpoint(run, step) as checkpoint:
            assert sum(tensor.numel() for _, tensor in checkpoint.tensors()) == n_parameters(RECIPE)


@pytest.mark.slow
def test_transformers_loads_a_kept_checkpoint_that_gives_its_validation_loss(folder: Path) -> None:
    place = folder / "checkpoints/tiny/seed1/step8"
    model = transformers.AutoModelForCausalLM.from_pretrained(place, local_files_only=True).eval()
    words = torch.from_numpy(corpus(256, 16, rng=999).astype(np.int64))
    with torch.no_grad():
        loss = model(input_ids=words, labels=words).loss.item()
    assert loss == pytest.approx(
        suite_cube(folder)["value"].sel(model="tiny", seed=1, step=8, metric=VALIDATION).item(), rel=1e-5
    )


def test_the_kept_tokenizer_knows_every_word(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "checkpoints/tiny/seed0/step0")
    words = vocabulary()
    assert tokenizer(" ".join(words))["input_ids"] == list(range(len(words)))
    assert tokenizer("sesquipedalian")["input_ids"] == [words.index("<unk>")]


def test_fill_measures_kept_checkpoints(folder: Path, tmp_path: Path) -> None:
    result = ps.fill(Tensors(), runs=folder / "runs.csv", output=tmp_path)
    assert (result.done, len(result.failed)) == (10, 0)


# Independence of processes and interruptions.


@pytest.mark.slow
def test_two_processes_give_the_same_bytes_even_from_a_script_without_a_guard(folder: Path, tmp_path: Path) -> None:
    run_script(TWO_PROCESSES, tmp_path)
    assert files(tmp_path, "units", "logs", "checkpoints") == files(folder, "units", "logs", "checkpoints")


@pytest.mark.slow
def test_a_suite_killed_in_the_middle_and_resumed_gives_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    assert int(run_script(KILLED, tmp_path, 1, 2, 4, 5, 8)) >= 3
    result = train(toy(), tmp_path, device="cpu")
    assert result.trained > 0
    assert files(tmp_path, "units", "logs", "checkpoints") == files(folder, "units", "logs", "checkpoints")
    assert files(tmp_path, "state", "failed") == {}


@pytest.mark.slow
def test_the_numbers_do_not_depend_on_whether_checkpoints_are_kept(folder: Path, tmp_path: Path) -> None:
    train(toy(), tmp_path, keep_checkpoints=False, device="cpu")
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "runs.csv").exists()
    assert files(tmp_path, "logs") == files(folder, "logs")
    xr.testing.assert_identical(suite_cube(tmp_path)["value"], suite_cube(folder)["value"])


# Refusals.


def test_another_suite_does_not_go_into_the_same_folder(folder: Path) -> None:
    with pytest.raises(ConflictError, match="other settings"):
        train(toy(steps=12), folder, device="cpu")


@pytest.mark.slow
def test_another_title_is_no_other_suite(tmp_path: Path) -> None:
    train(toy(1, steps=1), tmp_path, device="cpu")
    result = train(replace(toy(1, steps=1), title="Renamed."), tmp_path, device="cpu")
    assert result.already_done == 1
    assert suite_cube(tmp_path).attrs["title"] == "Renamed."


def test_an_unknown_suite_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="nano-edge"):
        train("nano-egde", tmp_path)


def test_an_unknown_measurer_leaves_no_trace_of_the_suite(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError):
        train(toy(), tmp_path / "new", measure=["evils"])
    assert not (tmp_path / "new").exists()


def test_no_process_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="at least 1"):
        train(toy(), tmp_path, jobs=0)


@pytest.mark.parametrize("device", ["warp", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_before_anything_is_written(tmp_path: Path, device: str) -> None:
    with pytest.raises(TrainingError, match=device):
        train(toy(), tmp_path / "new", device=device)
    assert not (tmp_path / "new").exists()


def test_a_file_is_no_folder_to_train_into(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="it is a file"):
        train(toy(), tmp_path / "file")


# Divergence.


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    folder = tmp_path_factory.mktemp("diverged")
    return folder, train(toy(learning_rate=1e30, warmup=0.0), folder, keep_checkpoints=False, device="cpu")


@pytest.mark.slow
def test_runs_that_diverge_are_named(diverged: tuple[Path, TrainResult]) -> None:
    assert [name.partition(" after")[0] for name in diverged[1].diverged] == ["tiny seed 0", "tiny seed 1"]
    assert diverged[1].failed == ()


def test_checkpoints_after_a_divergence_are_recorded_as_such(diverged: tuple[Path, TrainResult]) -> None:
    failures = read_failures(diverged[0])
    assert {failure.reason for failure in failures} == {"diverged"}
    for seed in range(2):
        missing = {failure.step for failure in failures if failure.seed == seed}
        done = {int(path.stem[4:]) for path in (diverged[0] / "units").rglob(f"seed{seed}/*.npz")}
        assert 8 in missing
        assert missing | done == set(GRID)
        assert not missing & done


def test_the_cube_of_diverged_runs_says_so_in_its_audit(diverged: tuple[Path, TrainResult]) -> None:
    tree = suite_cube(diverged[0])
    assert "diverged" in tree["audit"]["reason"].values
    assert not np.isfinite(tree["log"]["loss"].values[..., -1]).any()


def test_runs_that_diverged_are_done(diverged: tuple[Path, TrainResult]) -> None:
    result = train(toy(learning_rate=1e30, warmup=0.0), diverged[0], keep_checkpoints=False, device="cpu")
    assert (result.trained, result.already_done, result.diverged) == (0, 2, ())


# The cube.


def test_the_cube_of_a_suite_of_ones_own_carries_its_words(folder: Path) -> None:
    attributes = suite_cube(folder).attrs
    assert (attributes["title"], attributes["summary"], attributes["license"]) == ("A toy.", "Two runs.", "Apache-2.0")


@pytest.mark.slow
def test_the_cube_is_valid_and_survives_saving(folder: Path, tmp_path: Path) -> None:
    tree = suite_cube(folder)
    assert ps.validate_cube(tree) == []
    ps.save_cube(tree, tmp_path / "cube.nc")
    again = open_tree(tmp_path / "cube.nc")
    xr.testing.assert_identical(again["log"].to_dataset().load(), tree["log"].to_dataset())
    xr.testing.assert_identical(again["value"].load(), tree["value"])


def test_the_cube_knows_seeds_tokens_and_size(folder: Path) -> None:
    cube = suite_cube(folder).to_dataset()
    assert cube["weight_seed"].values.tolist() == cube["data_seed"].values.tolist() == [[0, 1]]
    assert cube["tokens"].values.tolist() == [64 * step for step in GRID]
    assert cube["n_parameters"].values.tolist() == [n_parameters(RECIPE)]


def test_the_log_of_the_cube_has_every_update(folder: Path) -> None:
    tree = suite_cube(folder)
    assert tree["log"]["update"].values.tolist() == list(range(1, 9))
    loss = tree["log"]["loss"].sel(model="tiny", seed=1)
    rows = np.loadtxt(folder / "logs/tiny/seed1.csv", delimiter=",", skiprows=1)
    np.testing.assert_array_equal(loss.values, rows[:, 1].astype(np.float32))
    last = tree["value"].sel(model="tiny", seed=1, step=8, metric=LOSS).item()
    assert last == pytest.approx(loss.values[4:].astype(float).mean(), rel=1e-6)


@pytest.mark.slow
def test_models_of_different_lengths_share_a_log(tmp_path: Path) -> None:
    runs = [SuiteRun(replace(RECIPE, model=f"m{steps}", steps=steps), 0, 0, 0) for steps in (2, 4)]
    train(Suite("mixed", "", "", tuple(runs)), tmp_path, keep_checkpoints=False, device="cpu")
    loss = suite_cube(tmp_path)["log"]["loss"].sel(seed=0)
    assert np.isfinite(loss).sum("update").values.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("name", "title"), [("nano-quick", suite("nano", quick=True).title), ("nano", suite("nano").title), ("toy", "toy")]
)
def test_a_folder_without_words_gets_those_of_the_suite_of_its_name(tmp_path: Path, name: str, title: str) -> None:
    train(replace(toy(1, steps=1), name=name), tmp_path, keep_checkpoints=False, device="cpu")
    (tmp_path / "suite.json").unlink()
    assert suite_cube(tmp_path).attrs["title"] == title


@pytest.mark.parametrize(
    ("name", "source"), [("nano-quick", "polystab train nano --quick"), ("nano", "polystab train nano")]
)
def test_the_source_of_a_cube_is_the_command_that_makes_it(tmp_path: Path, name: str, source: str) -> None:
    train(replace(toy(1, steps=1), name=name), tmp_path, keep_checkpoints=False, device="cpu")
    assert suite_cube(tmp_path).attrs["source"] == source


def test_a_folder_of_something_else_has_no_suite(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="polystab train"):
        suite_cube(tmp_path)


@pytest.mark.parametrize("damaged", ["suite.json", "settings/suite.json", "logs/tiny/seed0.csv"])
def test_damaged_files_of_a_suite_are_named(tmp_path: Path, damaged: str) -> None:
    train(toy(1, steps=1), tmp_path, keep_checkpoints=False, device="cpu")
    (tmp_path / damaged).write_text("{}")
    with pytest.raises(ReadError, match=r"suite|seed0\.csv"):
        suite_cube(tmp_path)


# Measuring while training.


@pytest.fixture
def _offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets.config
        import huggingface_hub.constants
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("DISABLE_MULTIPROC", "1")


@pytest.mark.slow
@pytest.mark.usefixtures("_offline")
def test_evaluating_while_training_gives_scores_and_items_and_leaves_training_as_it_was(tmp_path: Path) -> None:
    chosen = toy(1, steps=2, context=64)
    result = train(chosen, tmp_path / "measured", measure=["evals"], device="cpu")
    assert result.failed == ()
    assert not (tmp_path / "measured/checkpoints").exists()
    tree = suite_cube(tmp_path / "measured")
    scores = tree["value"].sel(metric=[f"eval/{task}/acc" for task in sorted(TASKS)])
    assert np.isfinite(scores).all()
    assert scores["chance"].values.tolist() == pytest.approx([0.5, 1 / 3, 0.25, 0.25])
    assert tree["items"].sizes["item"] == 300 * len(TASKS)
    assert not ps.validate_cube(tree)
    train(chosen, tmp_path / "plain", keep_checkpoints=False, device="cpu")
    assert files(tmp_path / "measured", "logs") == files(tmp_path / "plain", "logs")


def test_settings_are_plain_json() -> None:
    settings = toy().settings()
    assert json.loads(json.dumps(settings)) == settings
