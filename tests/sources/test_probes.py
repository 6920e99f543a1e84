"""Probing checkpoints into a cube, from the options to the angles."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from click.testing import CliRunner  # noqa: E402
from tokenizers.models import WordLevel  # noqa: E402

import polystab as ps  # noqa: E402
from polystab.analysis.representations.angles import probe_angles  # noqa: E402
from polystab.analysis.representations.codelengths import probe_codelengths  # noqa: E402
from polystab.cli import main  # noqa: E402
from polystab.errors import PolystabError, ReadError, UnknownNameError  # noqa: E402
from polystab.sources.checkpoints import Checkpoint  # noqa: E402
from polystab.sources.fill import fill  # noqa: E402
from polystab.sources.joining import join_units  # noqa: E402
from polystab.sources.measuring import Measurement, Measurer  # noqa: E402
from polystab.sources.probes.measurer import Probes  # noqa: E402
from polystab.sources.probes.states import ProbeError  # noqa: E402
from polystab.sources.registry import get_measurer  # noqa: E402
from polystab.sources.runs import Run, RunTable  # noqa: E402
from polystab.suites.grammar import vocabulary  # noqa: E402
from polystab.suites.models import new_model, new_tokenizer  # noqa: E402
from polystab.suites.recipes import Recipe  # noqa: E402

SMALL = Recipe("small", hidden_size=8, n_layers=1, n_heads=1)
WIDE = Recipe("wide", hidden_size=16, n_layers=2, n_heads=1)
FULL = Recipe("full", hidden_size=64, n_layers=1, n_heads=1)
QUICK: dict[str, Any] = {"epochs": 2, "patience": 1}


def measured(probes: Probes, recipe: Recipe = SMALL, seed: int = 0, model: Any = None) -> Measurement:
    model = model or new_model(recipe, seed)
    with Checkpoint.of_model(Run(recipe.model, seed), 0, model, new_tokenizer()) as checkpoint:
        return probes.measure(checkpoint)


@pytest.fixture(scope="module")
def quick() -> Measurement:
    return measured(Probes("nano", methods=["variational", "logistic"], tasks=["nano.pos", "nano.number"], **QUICK))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two models of other sizes, two seeds, two steps, filled and joined."""
    folder = tmp_path_factory.mktemp("probes")
    runs = []
    for recipe in (SMALL, WIDE):
        for seed in (0, 1):
            for step in (0, 5):
                place = folder / recipe.model / str(seed) / f"step{step}"
                new_model(recipe, 10 * seed + step).save_pretrained(place)
                new_tokenizer().save_pretrained(place)
            location = str(folder / recipe.model / str(seed) / "step{step}")
            runs.append(Run(recipe.model, seed, location=location, steps=(0, 5)))
    result = fill(Probes("nano", tasks=["nano.pos"], **QUICK), runs=RunTable(tuple(runs)), output=folder / "out")
    assert not result.failed
    return join_units(folder / "out")


def test_it_is_a_measurer_that_passes_between_processes() -> None:
    probes = Probes("nano")
    assert isinstance(probes, Measurer)
    assert pickle.loads(pickle.dumps(probes)) == probes


def test_settings_are_the_same_however_they_are_written() -> None:
    one = Probes("nano", methods=["online", "variational"], tasks=["nano.pos", "nano.depth"])
    other = Probes(["nano"], methods=["variational", "online"], tasks=["nano.depth", "nano.pos"])
    assert one.settings() == other.settings()


def test_it_is_found_by_name() -> None:
    assert get_measurer("probes", data="nano") == Probes("nano")


@pytest.mark.slow
def test_every_task_and_layer_has_its_measures(quick: Measurement) -> None:
    names = ["codelength", "control_codelength", "kl", "logistic_macro_f1", "logistic_micro_f1", "macro_f1", "micro_f1"]
    wanted = {f"probe/nano.{t}/{m}@layer{n}" for t in ("pos", "number") for m in names for n in (0, 1)}
    assert set(quick.values) == wanted
    assert np.isfinite(list(quick.values.values())).all()


@pytest.mark.slow
def test_chance_of_a_codelength_is_the_uniform_code(quick: Measurement) -> None:
    said = quick.metrics["probe/nano.pos/codelength@layer1"]
    assert said["chance"] == pytest.approx(2048 * np.log(10))
    assert (said["units"], said["layer"], said["n_items"], said["better"]) == ("nat", 1, 2048, "lower")


@pytest.mark.slow
def test_the_same_checkpoint_gives_the_same_numbers(quick: Measurement) -> None:
    again = measured(Probes("nano", methods=["variational", "logistic"], tasks=["nano.pos", "nano.number"], **QUICK))
    assert again.values == quick.values
    assert again.details["probes"].identical(quick.details["probes"])


@pytest.mark.slow
def test_a_task_gives_the_same_without_the_others(quick: Measurement) -> None:
    alone = measured(Probes("nano", tasks=["nano.number"], **QUICK))
    for metric, value in alone.values.items():
        assert value == pytest.approx(quick.values[metric], rel=1e-4)


@pytest.mark.slow
def test_another_run_has_other_probes() -> None:
    model = new_model(SMALL, 0)
    probes = Probes("nano", tasks=["nano.number"], **QUICK)
    assert measured(probes, seed=0, model=model).values != measured(probes, seed=1, model=model).values


@pytest.mark.slow
def test_the_embeddings_of_nano_tell_the_part_of_speech() -> None:
    found = measured(Probes("nano", tasks=["nano.pos"], control=False), FULL)
    assert found.values["probe/nano.pos/micro_f1@layer0"] > 0.9
    assert not any("control" in metric for metric in found.values)


@pytest.mark.slow
def test_inputs_of_any_scale_give_the_same_codelength() -> None:
    probes = Probes("nano", tasks=["nano.number"], control=False, **QUICK)
    small, large = new_model(SMALL, 0), new_model(SMALL, 0)
    with torch.no_grad():
        large.get_input_embeddings().weight.mul_(1000)
    metric = "probe/nano.number/codelength@layer0"
    ours = [measured(probes, model=model).values[metric] for model in (small, large)]
    assert ours[0] == pytest.approx(ours[1], rel=1e-3)


@pytest.mark.slow
def test_the_online_code_can_be_had_alone() -> None:
    found = measured(Probes("nano", tasks=["nano.number"], methods="online", max_words=100))
    assert set(found.values) == {f"probe/nano.number/online_codelength@layer{n}" for n in (0, 1)}
    assert "weights" not in found.details["probes"]


@pytest.mark.slow
def test_weights_act_on_hidden_states_as_they_are() -> None:
    probes = Probes("nano", tasks=["nano.pos"], control=False, **QUICK)
    model, stretched = new_model(SMALL, 0), new_model(SMALL, 0)
    factor = 2.0 ** np.arange(SMALL.hidden_size)
    with torch.no_grad():
        stretched.get_input_embeddings().weight.mul_(torch.from_numpy(factor))
    plain, other = (
        measured(probes, model=each).details["probes"]["weights"].sel(layer=0).values for each in (model, stretched)
    )
    undone = other * factor
    np.testing.assert_allclose(undone / np.abs(undone).max(), plain, atol=2e-3)


def test_a_sentence_longer_than_the_context_is_said(tmp_path: Path) -> None:
    line = "the\tD\ndog\tN\nsleeps\tV\n" * 30 + "\n"
    (tmp_path / "long.tsv").write_text(line * 6, encoding="utf-8")
    found = measured(Probes(f"words:{tmp_path / 'long.tsv'}", **QUICK))
    assert {"truncated", "no-state"} <= {reason for reason, _ in found.notes}


def test_a_context_that_leaves_no_label_is_refused(tmp_path: Path) -> None:
    late = "the\t\n" * 70 + "dog\tN\nsleeps\tV\n\n"
    (tmp_path / "late.tsv").write_text(late * 6, encoding="utf-8")
    with pytest.raises(ProbeError) as caught:
        measured(Probes(f"words:{tmp_path / 'late.tsv'}", **QUICK))
    assert caught.value.reason == "no-labels"


@pytest.mark.slow
def test_texts_are_probed_as_a_whole(tmp_path: Path) -> None:
    rows = ["the dog sleeps\tone", "the dogs sleep\tmany"] * 10
    (tmp_path / "number.tsv").write_text("\n".join(rows), encoding="utf-8")
    found = measured(Probes(f"texts:{tmp_path / 'number.tsv'}", **QUICK))
    assert found.metrics["probe/number/codelength@layer0"]["n_items"] == 14


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": ()}, ReadError, "no labelled texts"),
        ({"methods": ()}, ReadError, "no method"),
        ({"methods": ["varational"]}, UnknownNameError, "Did you mean 'variational'"),
        ({"methods": ["variational", "logistical"]}, UnknownNameError, "Did you mean 'logistic'"),
        ({"subword": "lst"}, UnknownNameError, "Did you mean"),
        ({"scale": "raw"}, UnknownNameError, "scale cannot be 'raw'"),
        ({"epochs": 0}, ReadError, "whole number from 1"),
        ({"rng": -1}, ReadError, "whole number from 0"),
        ({"max_words": True}, ReadError, "whole number"),
        ({"learning_rate": 0}, ReadError, "between 0 and 1"),
        ({"data": ("nano", "nano")}, ReadError, "one name"),
        ({"tasks": ["nano.poz"]}, UnknownNameError, "Did you mean 'nano.pos'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], error: type[PolystabError], message: str) -> None:
    with pytest.raises(error, match=message):
        Probes(**{"data": "nano", **options}).check()


def test_weights_that_are_not_finite_are_refused() -> None:
    model = new_model(SMALL, 0)
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 3] = float("nan")
    with pytest.raises(ReadError, match="NaN or infinity"):
        measured(Probes("nano"), model=model)


@pytest.mark.slow
def test_states_that_do_not_vary_cost_no_more_than_their_labels() -> None:
    model = new_model(SMALL, 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    found = measured(Probes("nano", tasks=["nano.number"]), model=model).values
    assert 0 < found["probe/nano.number/codelength@layer1"] < 1.1 * 525 * np.log(2)


@pytest.mark.slow
def test_filling_gives_a_cube_with_the_family_probe(tree: Any) -> None:
    cube = ps.select(tree, family="probe", subject="nano.pos", measure="codelength")
    assert cube["layer"].values.tolist() == [0, 1, 2]
    # The small model has no layer 2.
    assert np.isnan(cube["value"].sel(model="small").values[..., 2]).all()
    assert np.isfinite(cube["value"].sel(model="wide").values).all()


@pytest.mark.slow
def test_a_filled_cube_is_saved_and_read_with_its_probes(tree: Any, tmp_path: Path) -> None:
    ps.save_cube(tree, tmp_path / "p.nc")
    again = ps.open_tree(tmp_path / "p.nc")
    np.testing.assert_array_equal(again["probes"]["weights"].values, tree["probes"]["weights"].values)


@pytest.mark.slow
def test_codelengths_of_a_filled_cube_are_compared(tree: Any) -> None:
    found = probe_codelengths(tree)
    assert found["start_compression"].sel(step=0, model="wide").values == pytest.approx(1.0)
    assert (found["tokenization"] == 0).all()
    assert found.attrs["notes"] == ""


def test_angles_of_a_filled_cube_are_those_of_its_weights(tree: Any) -> None:
    from scipy.linalg import subspace_angles

    found = probe_angles(tree, between="seeds")
    weights = tree["probes"]["weights"].sel(model="small", step=5, layer=1).isel(hidden=slice(0, 8))
    # Ten classes read nine dimensions, more than the small model has.
    assert np.isnan(found["mean_angle"].sel(model="small")).all()
    weights = tree["probes"]["weights"].sel(model="wide", step=5, layer=2).values.astype(float)
    columns = [(each[:-1] - each[-1:]).T for each in weights]
    expected = np.rad2deg(subspace_angles(*columns)).mean()
    assert float(found["mean_angle"].sel(model="wide", step=5, layer=2).item()) == pytest.approx(expected)


@pytest.mark.slow
def test_another_tokenizer_is_noticed(tmp_path: Path) -> None:
    own, other = new_tokenizer(), new_tokenizer()
    other.backend_tokenizer.model = WordLevel({w: i for i, w in enumerate(reversed(vocabulary()))}, unk_token="<unk>")
    for seed, tokenizer in ((0, own), (1, other)):
        place = tmp_path / f"seed{seed}" / "step0"
        new_model(SMALL, 0).save_pretrained(place)
        tokenizer.save_pretrained(place)
    runs = [Run("m", seed, location=str(tmp_path / f"seed{seed}" / "step{step}"), steps=(0,)) for seed in (0, 1)]
    fill(Probes("nano", tasks=["nano.number"], **QUICK), runs=RunTable(tuple(runs)), output=tmp_path / "out")
    found = probe_codelengths(join_units(tmp_path / "out"))
    assert found["tokenization"].values.ravel().tolist() == [0, 1]
    assert "cut into tokens in 2 ways" in found.attrs["notes"]


@pytest.mark.slow
def test_the_command_line_fills_probes(tmp_path: Path) -> None:
    place = tmp_path / "step0"
    new_model(SMALL, 0).save_pretrained(place)
    new_tokenizer().save_pretrained(place)
    (tmp_path / "runs.csv").write_text("model,seed,location,steps\nsmall,0,step{step},0\n", encoding="utf-8")
    command = ["fill", "probes", "--runs", str(tmp_path / "runs.csv"), "-o", str(tmp_path / "out")]
    options = ["-O", "probes.data=nano", "-O", "probes.epochs=1", "-O", "probes.tasks=nano.number"]
    done = CliRunner().invoke(main, [*command, *options, "--merge", str(tmp_path / "p.nc")])
    assert done.exit_code == 0, done.output
    assert "macro_f1" in ps.open_cube(tmp_path / "p.nc")["measure"].values
