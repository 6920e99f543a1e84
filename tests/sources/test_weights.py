"""Measuring the weights of checkpoints: from files, with all that can be wrong with them."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import save_file  # noqa: E402

from polystab.errors import ReadError, UnknownNameError  # noqa: E402
from polystab.sources.checkpoints import Checkpoint, CheckpointError, CheckpointOptions, open_checkpoint  # noqa: E402
from polystab.sources.fill import fill  # noqa: E402
from polystab.sources.joining import join_units  # noqa: E402
from polystab.sources.measuring import Measurement, Measurer  # noqa: E402
from polystab.sources.registry import get_measurer  # noqa: E402
from polystab.sources.runs import Run, RunTable  # noqa: E402
from polystab.sources.weights.features import FEATURES, hu2023  # noqa: E402
from polystab.sources.weights.measurer import Weights  # noqa: E402
from polystab.sources.weights.spectra import device_singular_values, singular_values  # noqa: E402

CPU = CheckpointOptions(device="cpu")
EVERYTHING = Weights(sets="all", levels=("parameter", "component", "layer", "all"))
MATRIX = "gpt_neox.layers.{}.attention.dense.weight"


def neox(seed: int = 0, *, layers: int = 2, width: int = 16, sd: float = 0.1) -> dict[str, torch.Tensor]:
    """The parameters of a small GPT-NeoX."""
    draw = torch.Generator().manual_seed(seed)
    shapes: dict[str, tuple[int, ...]] = {"gpt_neox.embed_in": (40, width), "embed_out": (40, width)}
    found = {}
    for layer in range(layers):
        at = f"gpt_neox.layers.{layer}"
        shapes |= {f"{at}.attention.query_key_value": (3 * width, width), f"{at}.attention.dense": (width, width)}
        shapes |= {f"{at}.mlp.dense_h_to_4h": (4 * width, width), f"{at}.mlp.dense_4h_to_h": (width, 4 * width)}
        found |= {f"{at}.input_layernorm.weight": torch.ones(width), f"{at}.input_layernorm.bias": torch.zeros(width)}
    for name, shape in shapes.items():
        found[f"{name}.weight"] = torch.randn(shape, generator=draw) * sd
        if "embed" not in name:
            found[f"{name}.bias"] = torch.randn(shape[0], generator=draw) * 0.01
    return found


@pytest.fixture
def run(tmp_path) -> Run:
    return Run("m", 0, location=str(tmp_path / "step{step}"), steps=(0, 1, 2, 4))


def save(run: Run, step: int, tensors: dict[str, torch.Tensor]) -> Path:
    folder = Path(run.place(step))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt_neox"}))
    return folder


def measured(run: Run, step: int, measurer: Weights = EVERYTHING) -> Measurement:
    with open_checkpoint(run, step, options=CPU) as checkpoint:
        return measurer.measure(checkpoint)


def reasons(found: Measurement) -> list[str]:
    return [reason for reason, _ in found.notes]


def close(one: dict[str, float], other: dict[str, float], rel: float = 1e-9) -> bool:
    return one.keys() == other.keys() and all(math.isclose(one[k], other[k], rel_tol=rel, abs_tol=1e-12) for k in one)


# --- what is measured ------------------------------------------------------------------------------------------------


def test_it_is_a_measurer_that_is_found_by_name():
    assert isinstance(get_measurer("weights", sets=["hu2023"]), Measurer)


def test_it_can_be_sent_to_another_process():
    assert pickle.loads(pickle.dumps(EVERYTHING)) == EVERYTHING


def test_ids_say_which_part_of_which_layer(run):
    save(run, 0, neox())
    found = measured(run, 0)
    metric = "weight/layers.1.mlp.dense_4h_to_h/l2"
    assert found.values[metric] == pytest.approx(float(neox()["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"].norm()))
    assert found.metrics[metric] == {"component": "mlp.dense_4h_to_h", "layer": 1}


def test_components_layers_and_all_are_made_of_their_matrices(run):
    save(run, 0, neox())
    found, parts = measured(run, 0).values, neox()
    matrices = {name: x for name, x in parts.items() if x.ndim == 2}

    def together(*words: str) -> float:
        return math.sqrt(sum(float(x.norm()) ** 2 for name, x in matrices.items() if all(w in name for w in words)))

    assert found["weight/attention.dense/l2"] == pytest.approx(together("attention.dense"))
    assert found["weight/layers.1/l2"] == pytest.approx(together("layers.1."))
    assert found["weight/all/l2"] == pytest.approx(together())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hu2023", "core", "moments", "fits", "spectra", "changes"])
def test_a_set_measures_the_same_alone_as_among_others(run, name):
    save(run, 0, neox())
    save(run, 1, neox(1))
    whole, alone = measured(run, 1).values, measured(run, 1, Weights(sets=name)).values
    assert close(alone, {metric: whole[metric] for metric in alone})
    assert alone


@pytest.mark.slow
def test_measuring_twice_gives_the_same_bytes(run):
    save(run, 0, neox())
    assert measured(run, 0).values == measured(run, 0).values


def test_the_features_of_the_measurer_are_those_of_the_kernel(run):
    save(run, 0, neox())
    found = measured(run, 0).values
    kernel = hu2023({name: x.numpy() for name, x in neox().items()}.items)
    assert {name: found[f"weight/hu2023/{name}"] for name in FEATURES} == pytest.approx(kernel)


def test_training_maps_find_the_14_features(run, tmp_path):
    from polystab.analysis.maps.inputs import hu2023_metrics

    save(run, 0, neox())
    fill(
        Weights(), runs=RunTable([Run("m", 0, location=run.location, steps=(0,))]), output=tmp_path / "out", options=CPU
    )
    cube = join_units(tmp_path / "out").to_dataset()
    assert hu2023_metrics(cube) == [f"weight/hu2023/{name}" for name in FEATURES]


@pytest.mark.slow
def test_groups_of_sizes_that_differ_join_on_the_same_ranks_and_bins(run, tmp_path):
    save(run, 0, neox(width=16))
    save(run, 1, neox(width=24))
    table = RunTable([Run("m", 0, location=run.location, steps=(0, 1))])
    measurer = Weights(sets=("moments", "singular_values", "histograms"))
    assert not fill(measurer, runs=table, output=tmp_path / "out", options=CPU).failed
    tree = join_units(tmp_path / "out")
    spectrum = tree["spectra"]["singular_value"].sel(model="m", seed=0, subject="layers.1.attention.dense")
    true = np.linalg.svd(neox(width=16)[MATRIX.format(1)].numpy(), compute_uv=False)
    assert spectrum.sel(step=0, rank=[1, 16]).values == pytest.approx(true[[0, 15]], rel=1e-5)
    assert int(tree["histograms"]["count"].sel(step=1, subject="embed_out").sum()) == 40 * 24


# --- the published features -------------------------------------------------------------------------------------------


def by_the_usual_way(tensors: dict[str, torch.Tensor]) -> dict[str, float]:
    """The 14 features with the calls of torch that are usual for them."""
    kept = {n: x for n, x in tensors.items() if not n.startswith("embed") and "norm" not in n.lower()}
    rows, found = [], {}
    for x in (x.double() for name, x in kept.items() if name.endswith(".weight")):
        s = torch.linalg.svdvals(x)
        s[s < 1e-5] = 0
        l1, l2, trace, largest = x.abs().sum(), x.norm(), x.diagonal().sum(), s[0]
        rows.append([l1, l2, l1 / l2, trace, largest, trace / largest, s.mean(), s.var()])
    names = ("L1", "L2", "L1_over_L2", "trace", "lambda_max", "trace_over_lambda", "mu_lambda", "sigma_lambda")
    found |= dict(zip(names, np.mean(np.array(rows, dtype=float), axis=0), strict=True))
    for part, letter in ((".weight", "w"), (".bias", "b")):
        every = torch.cat([x.double().ravel() for name, x in kept.items() if name.endswith(part)])
        found |= {f"mu_{letter}": float(every.mean()), f"median_{letter}": float(every.median())}
        found[f"sigma_{letter}"] = float(every.var())
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("width", "layers"), [(16, 2), (160, 1)])
def test_the_features_are_those_of_torch_in_double_precision(width, layers):
    tensors = neox(3, width=width, layers=layers)
    found = hu2023({name: x.numpy() for name, x in tensors.items()}.items)
    assert found == pytest.approx(by_the_usual_way(tensors), rel=1e-5)


def test_the_order_of_the_features_is_that_of_the_published_table(shared_data):
    path = shared_data / "pythia-training-maps" / "Pythia70m_Hu_metrics.tsv"
    if not path.exists():
        pytest.skip("the published table of shared/data is not here")
    columns = path.read_text().splitlines()[0].split("\t")[2:]
    assert [name.replace("/", "_over_") for name in columns] == list(FEATURES)


def pythia(width: int, layers: int) -> dict[str, np.ndarray]:
    """Weights drawn as Pythia's initialisation draws them (small_init and wang_init of GPT-NeoX)."""
    rng = np.random.default_rng(0)
    small, wang = math.sqrt(2 / (5 * width)), 2 / (layers * math.sqrt(width))

    def draw(rows: int, columns: int, sd: float) -> np.ndarray:
        return rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(sd)

    found = {"gpt_neox.embed_in.weight": draw(50304, width, small)}
    for layer in range(layers):
        at = f"gpt_neox.layers.{layer}"
        found[f"{at}.attention.query_key_value.weight"] = draw(3 * width, width, small)
        found[f"{at}.attention.dense.weight"] = draw(width, width, wang)
        found[f"{at}.mlp.dense_h_to_4h.weight"] = draw(4 * width, width, small)
        found[f"{at}.mlp.dense_4h_to_h.weight"] = draw(width, 4 * width, wang)
    return found


@pytest.mark.slow
def test_the_variance_of_weights_at_the_start_of_pythia_70m_is_that_of_its_closed_form_and_of_the_table(shared_data):
    width, layers = 512, 6
    linear, embedding = 12 * width**2 * layers, 50304 * width
    small, wang = 2 / (5 * width), 4 / (layers**2 * width)
    true = (linear * (7 / 12 * small + 5 / 12 * wang) + embedding * small) / (linear + embedding)
    assert true == pytest.approx(6.81825e-4, rel=1e-5)
    found = hu2023(pythia(width, layers).items)
    # Of the mean of n squares of normal numbers, the relative error is sqrt(2 / n).
    assert found["sigma_w"] == pytest.approx(true, rel=4 * math.sqrt(2 / (linear + embedding)))
    path = shared_data / "pythia-training-maps" / "Pythia70m_Hu_metrics.tsv"
    if not path.exists():
        pytest.skip("the published table of shared/data is not here")
    row = path.read_text().splitlines()[1].split("\t")[2:]
    table = dict(zip(FEATURES, map(float, row), strict=True))
    # Another draw of the same law: norms and spectra of its 25 matrices are nearly the same numbers. Not so L1, which
    # the table has 2.8 % too low: torch.norm added up the 25 million elements of the embedding in single precision.
    for name in ("L2", "sigma_w", "lambda_max", "mu_lambda", "sigma_lambda"):
        assert found[name] == pytest.approx(table[name], rel=0.002), name


# --- other checkpoints of the run -----------------------------------------------------------------------------------


def test_distance_is_to_step_0_and_the_update_to_the_checkpoint_before(run):
    start = neox()
    for step, scale in ((0, 1.0), (2, 1.5), (4, 1.4)):
        save(run, step, {name: x * scale for name, x in start.items()})
    save(run, 1, start)
    found, norm = measured(run, 4).values, float(start[MATRIX.format(0)].norm())
    at = "weight/layers.0.attention.dense"
    assert found[f"{at}/distance"] == pytest.approx(0.4 * norm, rel=1e-4)
    assert found[f"{at}/cosine"] == pytest.approx(1)
    assert found[f"{at}/update_size"] == pytest.approx(0.1 * norm, rel=1e-4)
    assert found[f"{at}/update_cosine"] == pytest.approx(-1)


def test_step_0_has_no_changes_and_no_note(run):
    save(run, 0, neox())
    found = measured(run, 0)
    assert not [metric for metric in found.values if "distance" in metric or "update" in metric]
    assert found.notes == []


def test_a_step_0_that_is_missing_is_noted_and_the_rest_is_measured(run):
    save(run, 2, neox())
    found = measured(run, 2)
    assert sorted(reasons(found)) == ["no-previous-step", "no-step-0"]
    assert "weight/all/kurtosis" in found.values


def test_a_step_0_of_another_model_is_noted_and_not_compared(run):
    save(run, 0, neox(width=24))
    save(run, 1, neox())
    save(run, 2, neox())
    found = measured(run, 2)
    assert "other-model" in reasons(found) or "other-parameters" in reasons(found)
    assert "weight/layers.0.attention.dense/distance" not in found.values
    assert "weight/layers.0.attention.dense/update_size" in found.values


def test_a_step_0_of_another_initialisation_is_noted(run):
    save(run, 0, neox(5))
    save(run, 1, neox(6))
    assert "unrelated-step-0" in reasons(measured(run, 1))


def test_a_model_in_memory_is_measured_without_a_step_0():
    model = torch.nn.Linear(40, 30)
    found = EVERYTHING.measure(Checkpoint.of_model(Run("m", 0), 5, model, None))
    assert found.values["weight/weight/l2"] == pytest.approx(float(model.weight.norm().detach()))
    assert reasons(found) == ["no-step-0"]


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_matrix_that_is_not_finite_is_noted_and_the_others_are_measured(run, bad):
    tensors = neox()
    good = {metric for metric in (save(run, 0, tensors), measured(run, 0))[1].values if "layers.1." in metric}
    tensors[MATRIX.format(0)][2, 3] = bad
    save(run, 0, tensors)
    found = measured(run, 0)
    assert good <= found.values.keys()
    assert not [
        metric for metric in found.values if metric.startswith(("weight/layers.0.attention.dense/", "weight/all/"))
    ]
    assert "weight/hu2023/L1" not in found.values
    assert "weight/hu2023/mu_b" in found.values
    assert f"{MATRIX.format(0)} (1 of 256)" in dict(found.notes)["non-finite"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "strange",
    [
        torch.zeros(20, 20),
        torch.full((20, 20), 0.25),
        torch.randn(1, 50),
        torch.randn(50, 1),
        torch.tensor(2.0),
        torch.randn(2, 3, 4, 5),
        torch.empty(0, 4),
        torch.randn(40, 40) * 1e-30,
        torch.eye(40) * 1e30,
    ],
)
def test_strange_tensors_are_measured_as_far_as_they_go(run, strange):
    save(run, 0, neox() | {"strange": strange})
    found = measured(run, 0)
    assert found.notes == []
    assert all(math.isfinite(value) for value in found.values.values())
    if strange.numel():
        assert found.values["weight/strange/l2"] == pytest.approx(float(strange.double().norm()))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64", "float8_e4m3fn"])
def test_other_precisions_are_measured_as_the_numbers_they_hold(run, dtype):
    x = torch.randn(30, 40).to(getattr(torch, dtype))
    save(run, 0, neox() | {"other": x})
    assert measured(run, 0).values["weight/other/variance"] == pytest.approx(float(x.double().var()), rel=1e-5)


def test_integers_are_noted_and_not_measured(run):
    save(run, 0, neox() | {"packed": torch.ones(3, 3, dtype=torch.int8)})
    found = measured(run, 0)
    assert "packed" in dict(found.notes)["not-floating"]
    assert not [metric for metric in found.values if "packed" in metric]


def test_a_missing_shard_is_refused(run):
    folder = save(run, 0, neox())
    names = dict.fromkeys(neox(), "model-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model-00002\.safetensors") as caught:
        measured(run, 0)
    assert caught.value.reason == "missing-shard"


def test_two_names_for_the_same_weights_are_refused(run):
    save(run, 0, neox() | {"module." + MATRIX.format(0): torch.zeros(16, 16)})
    with pytest.raises(CheckpointError, match="same weights") as caught:
        measured(run, 0)
    assert caught.value.reason == "repeated-tensor"


@pytest.mark.slow
def test_tied_embeddings_count_once(run):
    tensors = neox()
    tensors["lm_head.weight"] = tensors.pop("embed_out.weight")
    alone = {name: x for name, x in tensors.items() if name != "lm_head.weight"}
    save(run, 0, alone)
    once = measured(run, 0).values
    save(run, 0, alone | {"lm_head.weight": tensors["gpt_neox.embed_in.weight"].clone()})
    found = measured(run, 0)
    assert reasons(found) == ["tied"]
    # The other length of the file's header moves the numbers in memory, which changes how sums are rounded.
    assert close({m: v for m, v in found.values.items() if "embed_out" not in m}, once, rel=1e-5)


def test_embeddings_that_are_not_tied_both_count(run):
    save(run, 0, neox())
    assert measured(run, 0).notes == []


@pytest.mark.parametrize(
    "options", [{"sets": ["momnts"]}, {"levels": "layers"}, {"power_law": "mle"}, {"ranks": "few"}]
)
def test_unknown_options_are_refused(options):
    with pytest.raises(UnknownNameError):
        Weights(**options)


def test_no_set_is_refused():
    with pytest.raises(ReadError, match="names none"):
        Weights(sets=[])


# --- the same by other means ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_more_than_is_held_in_memory_is_read_again_with_the_same_result(run, monkeypatch):
    save(run, 0, neox())
    once = measured(run, 0).values
    monkeypatch.setattr("polystab.sources.weights.measurer._HELD", 0)
    assert measured(run, 0).values == once


@pytest.mark.slow
def test_an_accelerator_gives_the_same_singular_values():
    x = torch.randn(300, 200)
    assert device_singular_values(x) == pytest.approx(singular_values(x.numpy()), rel=1e-5)


def test_a_device_that_is_not_there_is_refused(run):
    save(run, 0, neox())
    options = CheckpointOptions(device="nonsense")
    with open_checkpoint(run, 0, options=options) as checkpoint, pytest.raises(CheckpointError) as caught:
        EVERYTHING.measure(checkpoint)
    assert caught.value.reason == "no-device"


def test_tensors_are_those_of_the_checkpoint_in_its_order(run):
    from polystab.sources.weights.reading import read_tensors

    odd = {"empty": torch.empty(0, 3), "half": torch.randn(5).half(), "byte": torch.arange(4, dtype=torch.int8)}
    save(run, 0, neox() | odd | {"scalar": torch.tensor(2.0), "gpt_neox.layers.0.attention.bias": torch.ones(2)})
    with open_checkpoint(run, 0, options=CPU) as checkpoint:
        ours, theirs = list(read_tensors(checkpoint)), list(checkpoint.tensors())
    assert [name for name, _ in ours] == [name for name, _ in theirs]
    assert all(a.dtype == b.dtype and torch.equal(a, b) for (_, a), (_, b) in zip(ours, theirs, strict=True))


@pytest.mark.slow
def test_shards_are_read_each_with_its_own_tensors(run):
    whole = neox()
    save(run, 0, whole)
    once = measured(run, 0).values
    folder = save(run, 1, whole)
    (folder / "model.safetensors").unlink()
    names = sorted(whole)
    places = {name: f"model-0000{1 + (i % 2)}.safetensors" for i, name in enumerate(names)}
    for shard in set(places.values()):
        save_file({name: whole[name] for name in names if places[name] == shard}, folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    found = measured(run, 1).values
    assert close({metric: found[metric] for metric in once}, once, rel=1e-5)
    assert found["weight/all/distance"] == 0


@pytest.mark.slow
def test_pickled_weights_are_measured_as_well(run):
    folder = save(run, 0, neox())
    once = measured(run, 0).values
    (folder / "model.safetensors").unlink()
    torch.save(neox(), folder / "pytorch_model.bin")
    assert close(measured(run, 0).values, once, rel=1e-5)
