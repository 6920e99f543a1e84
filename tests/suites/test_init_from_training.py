"""Runs that begin with finished weights: they do, the folder remembers which, and other weights do not go on there."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import polystab as ps
from polystab.errors import ConflictError, UnknownNameError
from polystab.sources.checkpoints import CheckpointError
from polystab.sources.outputs import read_settings
from polystab.suites import InitError, init_from, weights_digest
from polystab.suites import training as steps
from polystab.suites.beginnings import begun, begun_by_recipe
from polystab.suites.cards import data_card
from polystab.suites.cubes import suite_cube
from polystab.suites.recipes import Beginning, Recipe, Suite, SuiteRun, suite
from polystab.suites.train import CHECKPOINTS, TrainResult, train

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

RECIPE = Recipe("tiny", 16, 1, 1, steps=4, batch_size=4, every=4, context=16)
LAST = "checkpoints/tiny/seed0/step4"


def toy(seeds: int = 1, **changes: Any) -> Suite:
    recipe = replace(RECIPE, **changes)
    return Suite("toy", "A toy.", "A run or two.", tuple(SuiteRun(recipe, seed, seed, seed) for seed in range(seeds)))


def begin(folder: Path, source: Path | str, suite: Suite | None = None, **options: Any) -> TrainResult:
    return train(suite or toy(), folder, device="cpu", init_from=source, **options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two trained runs; tests must leave them as they are."""
    folder = tmp_path_factory.mktemp("finished")
    train(toy(2), folder, device="cpu")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    """A run that began with a permutation; tests must leave it as it is."""
    folder = tmp_path_factory.mktemp("begun")
    begin(folder, finished / LAST)
    return folder


def checkpoint_bytes(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.safetensors")}


# They begin so.


@pytest.mark.slow
@pytest.mark.parametrize("vectors", ["final", "fresh"])
@pytest.mark.parametrize("how", ["permute", "histogram", "fit", "normal"])
def test_the_first_checkpoint_has_the_weights_that_init_from_gives(
    finished: Path, tmp_path: Path, how: str, vectors: str
) -> None:
    begin(tmp_path, finished / LAST, toy(steps=1), init_how=how, init_vectors=vectors)
    wanted = init_from(finished / LAST, how, vectors=vectors, rng=0)
    assert weights_digest(tmp_path / f"checkpoints/tiny-{how}/seed0/step0") == weights_digest(wanted)


@pytest.mark.slow
def test_the_weight_seed_decides_the_permutation(finished: Path, tmp_path: Path) -> None:
    begin(tmp_path, finished / LAST, toy(2, steps=1))
    first, second = (weights_digest(tmp_path / f"checkpoints/tiny-permute/seed{seed}/step0") for seed in (0, 1))
    assert first != second


@pytest.mark.slow
def test_a_pattern_gives_each_run_the_weights_of_its_own(finished: Path, tmp_path: Path) -> None:
    begin(tmp_path, f"{finished}/checkpoints/{{model}}/seed{{seed}}/step{{step}}", toy(2))
    for seed in (0, 1):
        wanted = init_from(finished / f"checkpoints/tiny/seed{seed}/step4", rng=seed)
        assert weights_digest(tmp_path / f"checkpoints/tiny-permute/seed{seed}/step0") == weights_digest(wanted)


@pytest.mark.slow
def test_the_same_call_gives_the_same_bytes(folder: Path, finished: Path, tmp_path: Path) -> None:
    begin(tmp_path, finished / LAST)
    assert checkpoint_bytes(tmp_path) == checkpoint_bytes(folder)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    run = begun(toy(), finished / LAST, None, None).runs[0]
    whole, half = steps.start(run), steps.start(run)
    list(steps.advance(whole, 4))
    list(steps.advance(half, 2))
    steps.save_state(half, tmp_path / "state.pt")
    resumed = steps.resume(run, tmp_path / "state.pt")
    list(steps.advance(resumed, 4))
    assert weights_digest(resumed.model) == weights_digest(whole.model)


@pytest.mark.slow
def test_an_ordinary_suite_has_the_settings_that_it_always_had(finished: Path) -> None:
    settings = read_settings(finished, "suite")
    assert settings is not None
    assert sorted(settings) == ["recipes", "runs", "suite"]


# The folder remembers.


@pytest.mark.slow
def test_another_how_does_not_go_on_in_the_same_folder(folder: Path, finished: Path) -> None:
    with pytest.raises(ConflictError, match="other settings"):
        begin(folder, finished / LAST, init_how="histogram")


def test_other_vectors_do_not_go_on_in_the_same_folder(folder: Path, finished: Path) -> None:
    with pytest.raises(ConflictError, match=r"beginnings was .*final.* now .*fresh"):
        begin(folder, finished / LAST, init_vectors="fresh")


def test_other_weights_do_not_go_on_in_the_same_folder(folder: Path, finished: Path) -> None:
    with pytest.raises(ConflictError, match="beginnings"):
        begin(folder, finished / LAST.replace("seed0", "seed1"))


def test_no_weights_do_not_go_on_in_the_same_folder(folder: Path) -> None:
    with pytest.raises(ConflictError, match="other settings"):
        train(toy(), folder, device="cpu")


def test_the_same_weights_in_another_place_go_on(folder: Path, finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / LAST, tmp_path / "copy")
    assert begin(folder, tmp_path / "copy").already_done == 1


def test_weights_that_change_meanwhile_are_noticed(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / LAST, tmp_path / "copy")
    run = begun(toy(), tmp_path / "copy", None, None).runs[0]
    shutil.copytree(finished / LAST.replace("seed0", "seed1"), tmp_path / "copy", dirs_exist_ok=True)
    with pytest.raises(InitError, match="have changed"):
        steps.start(run)


def test_the_cube_says_what_its_runs_began_with(folder: Path, finished: Path) -> None:
    cube = suite_cube(folder).to_dataset()
    digest = weights_digest(finished / LAST)[:16]
    assert cube.attrs["title"] == "A toy.; first weights by permute of finished ones"
    assert "--init-from CHECKPOINT --init-how permute" in cube.attrs["source"]
    assert digest in cube.attrs["source"]
    assert f"init permute, vectors final, rng 0, of weights {digest}" in cube.attrs["history"]


@pytest.mark.slow
def test_cubes_of_both_beginnings_join_as_two_models(folder: Path, finished: Path) -> None:
    joined = ps.merge_cubes([suite_cube(finished).to_dataset(), suite_cube(folder).to_dataset()])
    assert joined["model"].values.tolist() == ["tiny", "tiny-permute"]


# Refusals, before anything is trained.


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"suite": toy(hidden_size=24)}, InitError, r"in another shape .*\(120 x 16, not 120 x 24\)"),
        ({"suite": toy(n_layers=2)}, InitError, r"lacks 'gpt_neox\.layers\.1"),
        ({"init_how": "permuted"}, UnknownNameError, "Did you mean 'permute'"),
        ({"init_vectors": "fresch"}, UnknownNameError, "Did you mean 'fresh'"),
        ({"source": "nowhere"}, CheckpointError, "cannot be listed"),
        ({"source": "nowhere/{stepp}"}, InitError, "Did you mean 'step'"),
        ({"source": __file__}, InitError, "is a file"),
    ],
)
def test_what_cannot_be_begun_with_is_refused_before_training(
    finished: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        begin(tmp_path, **({"source": finished / LAST} | options))
    assert list(tmp_path.iterdir()) == []


def test_how_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InitError, match="init_from says with which"):
        train(toy(), tmp_path, init_how="permute")


# A suite whose recipe names the runs that others begin with.


def chained(**changes: Any) -> Suite:
    of = SuiteRun(replace(RECIPE, **changes), 1, 1, 1)
    ordinary = toy(**changes).runs[0]
    begun = replace(
        ordinary, recipe=replace(ordinary.recipe, model="tiny-normal"), beginning=Beginning("normal", of=of)
    )
    return Suite("chain", "A chain.", "One ordinary run, and one begun with another.", (ordinary, begun))


@pytest.mark.slow
def test_runs_that_others_begin_with_are_trained_first(tmp_path: Path) -> None:
    train(chained(), tmp_path, device="cpu")
    source = tmp_path / "sources" / LAST.replace("seed0", "seed1")
    wanted = init_from(source, "normal", rng=0)
    assert weights_digest(tmp_path / "checkpoints/tiny-normal/seed0/step0") == weights_digest(wanted)


@pytest.mark.slow
def test_runs_that_others_begin_with_may_lie_elsewhere(finished: Path, tmp_path: Path) -> None:
    train(chained(), tmp_path / "here", device="cpu")
    train(chained(), tmp_path / "there", device="cpu", init_from=f"{finished}/{CHECKPOINTS}")
    assert not (tmp_path / "there/sources").exists()
    begun_there = checkpoint_bytes(tmp_path / "there/checkpoints")
    assert begun_there == checkpoint_bytes(tmp_path / "here/checkpoints")


def test_a_chained_suite_does_not_train_its_sources_into_the_folder_of_another(finished: Path, tmp_path: Path) -> None:
    train(toy(steps=1), tmp_path, device="cpu")
    with pytest.raises(ConflictError, match="other settings"):
        train(chained(steps=1), tmp_path, device="cpu")
    assert not (tmp_path / "sources").exists()


def test_the_way_of_a_chained_suite_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(InitError, match="recipe of chain says how"):
        train(chained(), tmp_path, init_how="permute", init_from=tmp_path)


@pytest.mark.slow
def test_a_card_lists_what_runs_began_with(tmp_path: Path) -> None:
    train(chained(), tmp_path, device="cpu")
    assert "| tiny-normal | 0 | normal | final | tiny seed 1 step 4 |" in data_card(suite_cube(tmp_path), chained())


# The bundled one.


@pytest.mark.parametrize("quick", [False, True])
def test_nano_init_begins_with_runs_that_it_does_not_compare(quick: bool) -> None:
    chosen = suite("nano-init", quick=quick)
    own = {(run.recipe, run.weight_seed) for run in chosen.runs}
    named = begun_by_recipe(chosen)
    assert not own & {(run.recipe, run.weight_seed) for run in named}
    assert len(named) == len({run.seed for run in chosen.runs})
    # Each is a run of nano, so that its checkpoints can be taken from there.
    assert set(named) <= set(suite("nano", quick=quick).runs) | ({*named} if quick else set())


@pytest.mark.slow
def test_the_ordinary_runs_of_nano_init_are_those_of_nano() -> None:
    with ps.load_cube("nano-init") as ours, ps.load_cube("nano") as nano:
        ordinary = ours["value"].sel(model="nano-33k")
        wanted = nano["value"].sel(model="nano-33k", seed=ours["seed"], metric=ours["metric"])
        np.testing.assert_array_equal(ordinary, wanted)


def test_nano_init_is_small() -> None:
    from polystab.cube import cube_file

    assert cube_file("nano-init").stat().st_size <= 400_000
