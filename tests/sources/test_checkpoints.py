"""Local checkpoints: reading them, and every way in which they are refused."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_checkpoints import save_checkpoint, tiny_model, tiny_tokenizer  # noqa: E402

from polystab.errors import ReadError, UnknownNameError  # noqa: E402
from polystab.sources.checkpoint_errors import library  # noqa: E402
from polystab.sources.checkpoints import (  # noqa: E402
    Checkpoint,
    CheckpointError,
    CheckpointOptions,
    is_known_buffer,
    memory_errors,
    open_checkpoint,
)
from polystab.sources.runs import Run  # noqa: E402

CPU = CheckpointOptions(device="cpu")


@pytest.fixture(scope="session")
def saved(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("saved") / "step1")


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(saved, tmp_path / "step1")
    return tmp_path / "step1"


def run_in(folder: Path) -> Run:
    return Run("m", 0, location=str(folder.parent / "step{step}"), steps=(1,))


def opened(folder: Path, options: CheckpointOptions = CPU) -> Checkpoint:
    return open_checkpoint(run_in(folder), 1, options=options)


def reason(folder: Path, use=lambda checkpoint: None, options: CheckpointOptions = CPU) -> str:
    with pytest.raises(CheckpointError) as caught, opened(folder, options) as checkpoint:
        use(checkpoint)
    assert str(folder) in str(caught.value) or "m seed 0" in str(caught.value)
    return caught.value.reason


def tensors(checkpoint: Checkpoint, **options: bool) -> dict[str, torch.Tensor]:
    return dict(checkpoint.tensors(**options))


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def as_pickle(folder: Path, name: str = "pytorch_model.bin", **saving: object) -> None:
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / name, **saving)
    weights.unlink()


# --- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_model_is_the_one_that_was_saved(folder):
    batch = torch.tensor([[2, 3, 6, 7]])
    with opened(folder) as checkpoint, torch.no_grad():
        assert torch.equal(checkpoint.model()(batch).logits, tiny_model().eval()(batch).logits)


@pytest.mark.slow
def test_the_model_is_loaded_once_in_evaluation_mode(folder):
    with opened(folder) as checkpoint:
        assert checkpoint.model() is checkpoint.model()
        assert not checkpoint.model().training


def test_the_tokenizer_is_the_one_that_was_saved(folder):
    with opened(folder) as checkpoint:
        assert checkpoint.tokenizer()("the cats sit .")["input_ids"] == [2, 4, 5, 7]


def test_the_config_is_that_of_the_file(folder):
    with opened(folder) as checkpoint:
        assert checkpoint.config["hidden_size"] == 16


@pytest.mark.parametrize("saving", [{}, {"max_shard_size": "8KB"}])
def test_tensors_are_those_that_were_saved(tmp_path, saving):
    folder = save_checkpoint(tmp_path / "step1", tokenizer=False, **saving)
    assert (folder / "model.safetensors.index.json").exists() == bool(saving)
    expected = tiny_model().state_dict()
    expected["embed_out.weight"] = expected.pop("lm_head.weight", expected.get("embed_out.weight"))
    with opened(folder) as checkpoint:
        found = tensors(checkpoint)
    assert sorted(found) == sorted(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_tensors_are_the_same(folder, zipped):
    with opened(folder) as checkpoint:
        expected = tensors(checkpoint)
    as_pickle(folder, _use_new_zipfile_serialization=zipped)
    with opened(folder) as checkpoint:
        assert same(tensors(checkpoint), expected)


def test_sharded_pickles_are_read(folder):
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    shards = {"pytorch_model-00001-of-00002.bin": names[:5], "pytorch_model-00002-of-00002.bin": names[5:]}
    for shard, held in shards.items():
        torch.save({name: weights[name] for name in held}, folder / shard)
    index = {"metadata": {}, "weight_map": {name: shard for shard, held in shards.items() for name in held}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with opened(folder) as checkpoint:
        assert same(tensors(checkpoint), {name: weights[name] for name in names})
        checkpoint.model()


def test_what_the_index_does_not_list_is_not_read(folder):
    names = sorted(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(names[1:], "model-00001-of-00001.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with opened(folder) as checkpoint:
        assert sorted(tensors(checkpoint)) == names[1:]


def test_safetensors_are_preferred_to_pickles(folder):
    (folder / "pytorch_model.bin").write_bytes(b"whatever")
    with opened(folder) as checkpoint:
        assert tensors(checkpoint)


def test_buffers_of_old_checkpoints_are_left_out_unless_asked_for(folder):
    weights = load_file(folder / "model.safetensors")
    old = {
        "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool),
        "gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9),
        "gpt_neox.layers.0.attention.rotary_emb.inv_freq": torch.ones(2),
    }
    save_file(weights | old, folder / "model.safetensors", metadata={"format": "pt"})
    with opened(folder) as checkpoint:
        checkpoint.model()
        assert set(tensors(checkpoint)) == set(weights)
        assert set(tensors(checkpoint, buffers=True)) == set(weights | old)


def test_biases_of_attention_are_no_buffers():
    assert not is_known_buffer("gpt_neox.layers.0.attention.dense.bias")
    assert not is_known_buffer("gpt_neox.layers.0.attention.query_key_value.bias")


def test_half_precision_is_kept_by_tensors_and_widened_by_the_model(tmp_path):
    tiny_model().half().save_pretrained(tmp_path / "step1")
    with opened(tmp_path / "step1") as checkpoint:
        assert {tensor.dtype for tensor in tensors(checkpoint).values()} == {torch.float16}
        assert {parameter.dtype for parameter in checkpoint.model().parameters()} == {torch.float32}


def test_the_dtype_of_the_model_can_be_chosen(folder):
    with opened(folder, CheckpointOptions(device="cpu", dtype="bfloat16")) as checkpoint:
        assert {parameter.dtype for parameter in checkpoint.model().parameters()} == {torch.bfloat16}


def test_loading_says_nothing_and_puts_the_settings_back(folder, capfd):
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    before = (logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled())
    with opened(folder) as checkpoint:
        checkpoint.model()
        checkpoint.tokenizer()
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled(), are_progress_bars_disabled()) == before


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
@pytest.mark.parametrize("pickled", [False, True])
def test_one_tensor_at_a_time_is_in_memory(tmp_path, pickled):
    folder = tmp_path / "step1"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    tensor_bytes = 2**23
    save_file({f"t{number}": torch.ones(tensor_bytes // 4) for number in range(12)}, folder / "model.safetensors")
    if pickled:
        as_pickle(folder)
    with opened(folder) as checkpoint:
        before, peak = anonymous_bytes(), 0
        for _, tensor in checkpoint.tensors():
            assert float(tensor.sum()) == tensor_bytes // 4
            peak = max(peak, anonymous_bytes() - before)
    assert peak < 3 * tensor_bytes


def anonymous_bytes() -> int:
    """Memory that is not a mapped file, which the system can drop at any time."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


# --- in memory -----------------------------------------------------------------------------------------------------


def test_a_model_in_memory_has_the_tensors_that_saving_it_writes(folder):
    with opened(folder) as checkpoint:
        expected = tensors(checkpoint)
    of_model = Checkpoint.of_model(run_in(folder), 1, tiny_model(), tiny_tokenizer())
    assert same(tensors(of_model), expected)


def test_a_loaded_model_has_the_tensors_of_its_file(folder):
    with opened(folder) as checkpoint:
        of_model = Checkpoint.of_model(checkpoint.run, 1, checkpoint.model(), None)
        assert same(tensors(of_model), tensors(checkpoint))


def test_tied_weights_come_once(tmp_path):
    model = tiny_model(tie_word_embeddings=True)
    model.save_pretrained(tmp_path / "step1")
    with opened(tmp_path / "step1") as checkpoint:
        from_file = tensors(checkpoint)
        checkpoint.model()
    assert same(tensors(Checkpoint.of_model(run_in(tmp_path / "step1"), 1, model, None)), from_file)


def test_a_model_in_memory_gets_its_mode_back(folder):
    model = tiny_model().train()
    with Checkpoint.of_model(run_in(folder), 1, model, None) as checkpoint:
        assert not checkpoint.model().training
    assert model.training


def test_a_model_in_memory_has_no_files_and_knows_its_config(folder):
    checkpoint = Checkpoint.of_model(run_in(folder), 1, tiny_model(), None)
    assert (checkpoint.folder, checkpoint.sha, checkpoint.config["hidden_size"]) == (None, "", 16)
    with pytest.raises(CheckpointError, match="without a tokenizer"):
        checkpoint.tokenizer()


def test_a_closed_checkpoint_says_so(folder):
    checkpoint = opened(folder)
    checkpoint.close()
    checkpoint.close()
    with pytest.raises(ReadError, match="closed"):
        checkpoint.model()


# --- refusals ------------------------------------------------------------------------------------------------------


def test_a_missing_folder(tmp_path):
    assert reason(tmp_path / "step1") == "missing-checkpoint"


def test_a_missing_config(folder):
    (folder / "config.json").unlink()
    assert reason(folder) == "missing-config"


def test_a_config_that_is_no_json(folder):
    (folder / "config.json").write_text('{"model_type": "gpt_')
    assert reason(folder) == "damaged-config"


def test_missing_weights(folder):
    (folder / "model.safetensors").unlink()
    assert reason(folder) == "missing-weights"


@pytest.mark.parametrize("kept", [0, 4, 100, 5000, -1])
def test_half_written_safetensors(folder, kept):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert reason(folder) == "damaged-weights"


@pytest.mark.parametrize(
    "content", [b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", b"\2\0\0\0\0\0\0\0[]", b"x" * 99]
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_files_that_are_something_else(folder, content, name):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(content)
    assert reason(folder) == "damaged-weights"


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_half_written_pickles(folder, zipped, share):
    as_pickle(folder, _use_new_zipfile_serialization=zipped)
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert reason(folder) == "damaged-weights"


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(folder, zipped, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save({"w": Evil()}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    (folder / "model.safetensors").unlink()
    assert reason(folder) == "unsafe-pickle"
    assert not (tmp_path / "ran").exists()


def test_a_plain_pickle_that_runs_code_is_refused(folder, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"w": Evil()}))
    (folder / "model.safetensors").unlink()
    assert reason(folder) in {"unsafe-pickle", "damaged-weights"}
    assert not (tmp_path / "ran").exists()


def test_a_pickle_with_more_than_tensors(folder):
    torch.save({"model": {"w": torch.ones(1)}, "epoch": 3}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    assert reason(folder) == "damaged-weights"


def test_a_shard_that_is_not_there(tmp_path):
    folder = save_checkpoint(tmp_path / "step1", max_shard_size="8KB")
    sorted(folder.glob("model-*.safetensors"))[1].unlink()
    assert reason(folder) == "missing-shard"


def test_a_shard_without_a_tensor_of_the_index(tmp_path):
    folder = save_checkpoint(tmp_path / "step1", max_shard_size="8KB")
    first, second = sorted(folder.glob("model-*.safetensors"))[:2]
    shutil.copy(first, second)
    assert reason(folder) == "damaged-weights"


def test_an_index_that_leads_out_of_the_folder(folder):
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"w": "../model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert reason(folder) == "damaged-weights"


def test_a_missing_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    assert reason(folder, Checkpoint.tokenizer) == "missing-tokenizer"


def test_a_damaged_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"model": {"type"')
    assert reason(folder, Checkpoint.tokenizer) == "damaged-tokenizer"


@pytest.mark.parametrize("use", [Checkpoint.model, Checkpoint.tokenizer])
def test_remote_code_is_refused_and_does_not_run(folder, use, tmp_path):
    change_config(folder, auto_map={"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"})
    (folder / "code.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    assert reason(folder, use) == "remote-code"
    assert not (tmp_path / "ran").exists()


def test_remote_code_runs_for_those_who_trust_it(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    change_config(folder, auto_map={"AutoModelForCausalLM": "code.Model"})
    code = "from transformers import GPTNeoXForCausalLM\nclass Model(GPTNeoXForCausalLM):\n    mine = True\n"
    (folder / "code.py").write_text(code)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("embed_out.weight")  # transformers renames only for classes of its own
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with opened(folder, CheckpointOptions(device="cpu", trust_remote_code=True)) as checkpoint:
        assert checkpoint.model().mine


def test_weights_can_be_read_where_the_model_would_run_code(folder):
    change_config(folder, auto_map={"AutoModelForCausalLM": "code.M"})
    with opened(folder) as checkpoint:
        assert tensors(checkpoint)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 3}, r"lacks 'gpt_neox\.layers\.2"),
        ({"num_hidden_layers": 1}, r"has besides 'gpt_neox\.layers\.1"),
        ({"vocab_size": 9}, "in another shape"),
    ],
)
def test_weights_of_another_architecture(folder, changes, said):
    change_config(folder, **changes)
    with opened(folder) as checkpoint, pytest.raises(CheckpointError, match=said) as caught:
        checkpoint.model()
    assert caught.value.reason == "mismatched-weights"


def test_an_architecture_that_does_not_exist(folder):
    change_config(folder, model_type="gpt_nonexistent")
    assert reason(folder, Checkpoint.model) == "unknown-architecture"


def test_weights_with_nan_are_refused_for_outputs_and_readable(folder):
    weights = load_file(folder / "model.safetensors")
    weights["gpt_neox.embed_in.weight"][3, 3] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with opened(folder) as checkpoint:
        with pytest.raises(CheckpointError, match=r"1 tensors .*embed_in") as caught:
            checkpoint.require_finite()
        assert torch.isnan(tensors(checkpoint)["gpt_neox.embed_in.weight"]).sum() == 1
    assert caught.value.reason == "non-finite"


def test_finite_weights_pass(folder):
    with opened(folder) as checkpoint:
        checkpoint.require_finite()
        checkpoint.require_finite()


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")],
)
def test_a_lack_of_memory_is_told_apart(folder, monkeypatch, error):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    assert reason(folder, Checkpoint.model) == "out-of-memory"


def test_memory_of_torch_itself_is_told_apart():
    with pytest.raises(CheckpointError) as caught, memory_errors("measuring"):
        torch.empty(2**50, 2**9)
    assert caught.value.reason == "out-of-memory"


def test_other_errors_pass_through_unchanged():
    with pytest.raises(RuntimeError, match="shapes"), memory_errors("measuring"):
        raise RuntimeError("shapes differ")


def test_a_device_that_is_not_there(folder):
    options = CheckpointOptions(device="cuda:99")
    with opened(folder, options) as checkpoint, pytest.raises(CheckpointError, match="cuda:99") as caught:
        checkpoint.model()
    assert caught.value.reason == "no-device"


def test_options_that_make_no_sense():
    with pytest.raises(UnknownNameError, match="float16"):
        CheckpointOptions(dtype="float61")
    with pytest.raises(ReadError):
        CheckpointOptions(retries=-1)


def test_a_missing_library_is_named_with_the_install():
    with pytest.raises(ReadError, match=r"needs torchh; .*polystab\[fill\]"):
        library("torchh")


def test_errors_pass_between_processes():
    error = pickle.loads(pickle.dumps(CheckpointError("gated", "log in")))
    assert (error.reason, str(error)) == ("gated", "log in")
