"""Activations and gradients on a fixed batch, against models whose numbers are known."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import WORDS, save_checkpoint, tiny_model, tiny_tokenizer

import polystab as ps
from polystab.errors import ReadError, UnknownNameError
from polystab.sources.activations.batch import load_text, make_batch
from polystab.sources.activations.hooks import _largest_logit, record
from polystab.sources.activations.kernels import outlier_dimensions, sizes
from polystab.sources.activations.measurer import ActivationError, Activations
from polystab.sources.checkpoints import Checkpoint, open_checkpoint
from polystab.sources.joining import join_units
from polystab.sources.measuring import Measurement, Measurer
from polystab.sources.registry import get_measurer
from polystab.sources.runs import Run

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

TOKENS = np.random.default_rng(5).integers(0, len(WORDS), size=(6, 16))


def gpt2(**changes: Any) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    settings = {"vocab_size": len(WORDS), "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(**settings | changes, bos_token_id=1, eos_token_id=1)).eval()


def llama(**changes: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(2)
    settings = {
        "vocab_size": len(WORDS), "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 24, "max_position_embeddings": 32,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**settings | changes, bos_token_id=1, eos_token_id=1)).eval()


ARCHITECTURES: dict[str, Callable[..., Any]] = {
    "GPT-NeoX": lambda **changes: tiny_model(0, **changes).eval(),
    "GPT-2": gpt2,
    "Llama": llama,
}
architectures = pytest.mark.parametrize("make", ARCHITECTURES.values(), ids=ARCHITECTURES)


@pytest.fixture
def table(tmp_path: Path) -> str:
    np.save(tmp_path / "tokens.npy", TOKENS)
    return str(tmp_path / "tokens.npy")


def checkpoint(model: Any, *, step: int = 8) -> Checkpoint:
    return Checkpoint.of_model(Run("tiny", 3), step, model, tiny_tokenizer())


def measured(model: Any, text: str, **options: Any) -> Measurement:
    return Activations(text, **({"length": 16} | options)).measure(checkpoint(model))


@contextmanager
def larger_weights(model: Any, factor: float) -> Iterator[None]:
    """Queries and keys of an untrained model are so small that all logits are near 0."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(factor)
    yield


class TestResidualStream:
    @pytest.mark.slow
    @architectures
    def test_is_what_the_model_gives_as_hidden_states(self, make: Callable[..., Any]) -> None:
        model = make()
        seen = record(model, TOKENS, batch_size=4, gradients=False)
        with torch.no_grad():
            states = model(torch.from_numpy(TOKENS), output_hidden_states=True).hidden_states
        # The last of theirs is behind the final norm.
        for ours, theirs in zip(seen.stream[:-1], states[:-1], strict=True):
            np.testing.assert_allclose(ours, theirs.reshape(-1, 16).numpy(), rtol=1e-5, atol=1e-6)

    @pytest.mark.slow
    def test_last_block_is_taken_before_the_final_norm(self) -> None:
        model = tiny_model().eval()
        seen = record(model, TOKENS, batch_size=6, gradients=False)
        with torch.no_grad():
            last = model(torch.from_numpy(TOKENS), output_hidden_states=True).hidden_states[-1]
            normed = model.gpt_neox.final_layer_norm(torch.from_numpy(seen.stream[-1]))
        np.testing.assert_allclose(normed.numpy(), last.reshape(-1, 16).numpy(), atol=1e-5)

    @pytest.mark.slow
    def test_a_planted_outlier_dimension_is_found_in_every_block(self, table: str) -> None:
        model = tiny_model().eval()
        with torch.no_grad():
            model.gpt_neox.embed_in.weight[:, 11] = 30.0
        found = measured(model, table)
        sites = found.details["dimensions"]["dimension"]
        assert sites.isel(rank=0).values.tolist() == [11, 11, 11]
        assert found.values["activation/layers.1.residual/outlier_count"] == 1
        assert found.values["activation/layers.1.residual/max_abs"] > 25

    @pytest.mark.slow
    def test_without_outliers_none_is_counted(self, table: str) -> None:
        assert measured(tiny_model(), table).values["activation/layers.1.residual/outlier_count"] == 0

    @pytest.mark.slow
    def test_a_larger_batch_at_once_changes_nothing(self, table: str) -> None:
        one, several = (measured(tiny_model(), table, batch_size=n).values for n in (1, 6))
        for metric, value in one.items():
            assert several[metric] == pytest.approx(value, rel=2e-3, nan_ok=True), metric


class TestAttentionLogits:
    @staticmethod
    def by_hand(model: Any, tokens: Any) -> list[float]:
        """Largest logit of each GPT-NeoX layer, from its own parts: softmax over eager logits, undone."""
        from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb

        inputs: list[Any] = []
        hooks = [
            layer.attention.query_key_value.register_forward_hook(lambda _m, _i, out: inputs.append(out))
            for layer in model.gpt_neox.layers
        ]
        with torch.no_grad():
            model(tokens)
        for hook in hooks:
            hook.remove()
        positions = torch.arange(tokens.shape[1])[None]
        cos, sin = model.gpt_neox.rotary_emb(inputs[0], positions)
        found = []
        for fused in inputs:
            n, length, _ = fused.shape
            query, key, _ = fused.view(n, length, 2, -1).transpose(1, 2).chunk(3, dim=-1)
            query, key = apply_rotary_pos_emb(query, key, cos, sin)
            best = -math.inf
            for row in range(n):
                for head in range(2):
                    for i in range(length):
                        for j in range(i + 1):
                            best = max(best, float(query[row, head, i] @ key[row, head, j]) / math.sqrt(8))
            found.append(best)
        return found

    @pytest.mark.slow
    def test_are_those_computed_pair_by_pair(self) -> None:
        model = tiny_model().eval()
        with larger_weights(model, 12):
            seen = record(model, TOKENS[:2], batch_size=1, gradients=False)
        assert [seen.logits[i] for i in (0, 1)] == pytest.approx(
            self.by_hand(model, torch.from_numpy(TOKENS[:2])), rel=1e-5
        )

    @pytest.mark.slow
    @architectures
    def test_eager_and_fused_attention_have_the_same(self, make: Callable[..., Any]) -> None:
        model = make()
        with larger_weights(model, 12):
            fused = record(model, TOKENS, batch_size=6, gradients=False).logits
        model.set_attn_implementation("eager")
        eager = record(model, TOKENS, batch_size=6, gradients=False).logits
        assert list(fused) == [0, 1]
        assert eager == pytest.approx(fused, rel=1e-5)

    def test_keys_that_come_later_do_not_count(self) -> None:
        query, key = torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4)
        query[0, 0, 1] = 0.0
        key[0, 0, 1] = 50.0  # seen by the second query only, which is zero
        assert _largest_logit(torch.nn.Identity(), query, key, None, 1.0) == 4.0

    def test_keys_that_a_mask_hides_do_not_count(self) -> None:
        query, key = torch.ones(1, 1, 2, 4), torch.ones(1, 1, 2, 4)
        key[0, 0, 1] = 50.0
        seen = torch.tensor([[True, False], [True, False]])[None, None]
        bias = torch.where(seen, 0.0, torch.finfo(torch.float32).min)
        assert [_largest_logit(torch.nn.Identity(), query, key, mask, 1.0) for mask in (seen, bias)] == [4.0, 4.0]

    def test_scaling_the_queries_scales_them(self) -> None:
        model = gpt2()
        with larger_weights(model, 5):
            once = record(model, TOKENS, batch_size=6, gradients=False).logits[0]
        with torch.no_grad():
            model.transformer.h[0].attn.c_attn.weight[:, :16] *= 3
        assert record(model, TOKENS, batch_size=6, gradients=False).logits[0] == pytest.approx(3 * once, rel=1e-5)

    def test_grouped_keys_are_those_of_all_keys_spelled_out(self) -> None:
        grouped = llama()
        with larger_weights(grouped, 8):
            plain = llama(num_key_value_heads=4)
        weights = grouped.state_dict()
        for name in list(weights):
            if "k_proj" in name or "v_proj" in name:
                weights[name] = weights[name].view(2, 4, 16).repeat_interleave(2, 0).reshape(16, 16)
        plain.load_state_dict(weights)
        ours, theirs = (record(m, TOKENS, batch_size=6, gradients=False).logits for m in (grouped, plain))
        assert ours == pytest.approx(theirs, rel=1e-5)

    @pytest.mark.slow
    def test_an_architecture_that_hides_them_is_noted(self, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
        from polystab.sources.activations import hooks as activation_hooks

        monkeypatch.setattr(activation_hooks, "_interfaces", lambda _model: [])
        found = measured(tiny_model(), table)
        assert "no-attention-logits" in [reason for reason, _ in found.notes]
        assert not any("logit_max" in metric for metric in found.values)


class TestGradients:
    @pytest.mark.slow
    @architectures
    def test_are_those_of_a_backward_pass_on_the_whole_batch(self, make: Callable[..., Any]) -> None:
        model = make()
        seen = record(model, TOKENS, batch_size=4, gradients=True)
        words = torch.from_numpy(TOKENS)
        model(words, labels=words).loss.backward()
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(seen.gradients[name], parameter.grad, rtol=1e-3, atol=1e-7)

    def test_of_a_linear_head_are_those_of_the_closed_form(self) -> None:
        model = tiny_model().eval()
        seen = record(model, TOKENS, batch_size=6, gradients=True)
        with torch.no_grad():
            out = model(torch.from_numpy(TOKENS), output_hidden_states=True)
            states = out.hidden_states[-1][:, :-1].reshape(-1, 16).double()
            share = out.logits[:, :-1].reshape(-1, len(WORDS)).double().softmax(-1)
        truth = torch.nn.functional.one_hot(torch.from_numpy(TOKENS)[:, 1:].reshape(-1), len(WORDS))
        expected = (share - truth).T @ states / len(states)
        np.testing.assert_allclose(seen.gradients["lm_head.weight"].numpy(), expected.numpy(), rtol=1e-4, atol=1e-7)

    @pytest.mark.slow
    def test_loss_is_the_cross_entropy_of_the_batch(self) -> None:
        model = tiny_model().eval()
        words = torch.from_numpy(TOKENS)
        assert record(model, TOKENS, batch_size=4, gradients=True).loss == pytest.approx(
            model(words, labels=words).loss.item(), rel=1e-6
        )

    @pytest.mark.slow
    def test_total_norm_is_that_of_clipping(self, table: str) -> None:
        model = tiny_model().eval()
        found = measured(model, table).values["gradient/all/total_norm"]
        words = torch.from_numpy(TOKENS)
        model(words, labels=words).loss.backward()
        assert found == pytest.approx(torch.nn.utils.clip_grad_norm_(model.parameters(), math.inf).item(), rel=1e-5)

    @pytest.mark.slow
    def test_tokens_that_are_not_in_the_batch_do_not_count(self, tmp_path: Path) -> None:
        np.save(tmp_path / "two.npy", np.array([[2, 3] * 8]))
        found = measured(tiny_model(), str(tmp_path / "two.npy")).values["gradient/embed_in/rms"]
        model = tiny_model().eval()
        words = torch.tensor([[2, 3] * 8])
        model(words, labels=words).loss.backward()
        assert found == pytest.approx(model.gpt_neox.embed_in.weight.grad[2:4].square().mean().sqrt().item(), rel=1e-4)

    @pytest.mark.slow
    def test_subjects_are_those_of_weights(self, table: str) -> None:
        subjects = {metric.split("/")[1] for metric in measured(gpt2(), table).values if metric.startswith("gradient")}
        assert {"embed_in", "position", "layers.1.mlp.dense_4h_to_h", "layers.0.attention.query_key_value"} < subjects

    def test_without_a_head_there_are_none_and_it_is_noted(self, table: str) -> None:
        found = measured(tiny_model().gpt_neox, table)
        assert "no-head" in [reason for reason, _ in found.notes]
        assert {metric.split("/")[0] for metric in found.values} == {"activation"}

    @pytest.mark.slow
    def test_frozen_parameters_have_them_too(self, table: str) -> None:
        model = tiny_model()
        model.requires_grad_(False)
        assert measured(model, table).values == measured(tiny_model(), table).values


class TestTheModelIsLeftAsItWas:
    @pytest.mark.slow
    def test_no_hook_stays(self, table: str) -> None:
        model = tiny_model()
        measured(model, table)
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())

    def test_no_hook_stays_when_the_model_fails(self) -> None:
        model = tiny_model()
        with pytest.raises(IndexError):
            record(model, np.array([[99, 1]]), batch_size=1, gradients=True)
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())

    @pytest.mark.slow
    def test_attention_is_looked_up_as_before(self, table: str) -> None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        before = dict(ALL_ATTENTION_FUNCTIONS._local_mapping), ALL_ATTENTION_FUNCTIONS["sdpa"]
        measured(tiny_model(), table)
        assert (dict(ALL_ATTENTION_FUNCTIONS._local_mapping), ALL_ATTENTION_FUNCTIONS["sdpa"]) == before

    def test_gradients_of_a_training_are_kept(self, table: str) -> None:
        model = tiny_model()
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        measured(model, table)
        assert all(bool((parameter.grad == 1).all()) for parameter in model.parameters())

    def test_frozen_parameters_stay_frozen(self, table: str) -> None:
        model = tiny_model()
        model.gpt_neox.embed_in.requires_grad_(False)
        measured(model, table)
        assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["gpt_neox.embed_in.weight"]


class TestBrokenModels:
    def test_a_block_that_overflows_is_reported_and_those_before_are_measured(self, table: str) -> None:
        model = tiny_model()
        with torch.no_grad():
            model.gpt_neox.layers[1].mlp.dense_4h_to_h.weight[0, 0] = math.nan
        found = measured(model, table)
        assert found.values["activation/layers.1.residual/max_abs"] == math.inf
        assert math.isnan(found.values["activation/layers.1.residual/rms"])
        assert math.isfinite(found.values["activation/layers.0.residual/rms"])
        assert any(reason == "non-finite" and "layers.1.residual" in detail for reason, detail in found.notes)

    def test_gradients_that_are_no_numbers_are_reported(self, table: str) -> None:
        model = tiny_model()
        with torch.no_grad():
            model.lm_head.weight[0, 0] = math.inf
        found = measured(model, table)
        assert found.values["gradient/all/total_norm"] == math.inf
        assert math.isnan(found.values["gradient/embed_out/rms"])

    def test_attention_of_weights_that_are_no_numbers_is_infinite(self, table: str) -> None:
        model = tiny_model()
        with torch.no_grad():
            model.gpt_neox.layers[0].attention.query_key_value.weight[0, 0] = math.nan
        assert measured(model, table).values["activation/layers.0.attention/logit_max"] == math.inf

    def test_a_model_without_a_list_of_blocks_is_refused(self, table: str) -> None:
        model = tiny_model()
        model.config.num_hidden_layers = 7
        with pytest.raises(ActivationError, match="no list of 7 modules"):
            measured(model, table)

    def test_what_is_no_language_model_is_refused(self, table: str) -> None:
        with pytest.raises(ActivationError, match="Linear is no language model"):
            measured(torch.nn.Linear(2, 2), table)

    @pytest.mark.slow
    def test_half_precision_is_measured(self, table: str) -> None:
        exact, half = (measured(model, table).values for model in (tiny_model(), tiny_model().to(torch.bfloat16)))
        assert half["activation/layers.0.residual/rms"] == pytest.approx(
            exact["activation/layers.0.residual/rms"], rel=0.02
        )


class TestBatch:
    def test_nano_documents_become_rows(self) -> None:
        from polystab.suites.models import new_tokenizer

        batch = make_batch(
            load_text("nano"),
            tiny_model(0, vocab_size=120, max_position_embeddings=64),
            new_tokenizer(),
            sequences=32,
            length=64,
        )
        assert batch.tokens.shape == (32, 64)
        assert batch.notes == ()

    def test_a_text_is_cut_into_rows_in_order(self, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_text("the cat sits . the cats sit . the")
        batch = make_batch(load_text(str(tmp_path / "text.txt")), tiny_model(), tiny_tokenizer(), sequences=9, length=4)
        assert batch.tokens.tolist() == [[2, 3, 6, 7], [2, 4, 5, 7]]

    def test_rows_are_no_longer_than_the_context_and_that_is_noted(self, tmp_path: Path) -> None:
        np.save(tmp_path / "long.npy", np.ones((2, 50), dtype=np.int32))
        batch = make_batch(load_text(str(tmp_path / "long.npy")), tiny_model(), None, sequences=2, length=40)
        assert batch.tokens.shape == (2, 32)
        assert [reason for reason, _ in batch.notes] == ["short-context"]

    def test_a_short_text_is_one_row_and_noted(self, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_text("the cat sits")
        batch = make_batch(load_text(str(tmp_path / "text.txt")), tiny_model(), tiny_tokenizer(), sequences=9, length=8)
        assert batch.tokens.tolist() == [[2, 3, 6]]
        assert [reason for reason, _ in batch.notes] == ["short-text"]

    @pytest.mark.parametrize("content", ["", "the"])
    def test_a_text_of_less_than_two_tokens_is_refused(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "text.txt").write_text(content)
        with pytest.raises(ActivationError, match="need one row of two"):
            make_batch(load_text(str(tmp_path / "text.txt")), tiny_model(), tiny_tokenizer(), sequences=9, length=8)

    def test_tokens_that_the_model_does_not_have_are_refused(self, tmp_path: Path) -> None:
        np.save(tmp_path / "tokens.npy", np.array([[1, 99]]))
        with pytest.raises(ActivationError, match="the token 99, the model has embeddings for 8"):
            make_batch(load_text(str(tmp_path / "tokens.npy")), tiny_model(), None, sequences=1, length=2)

    @pytest.mark.parametrize("content", [b"1,2\n3\n", b"a,b\n", b"-1,2\n"], ids=["ragged", "text", "negative"])
    def test_a_table_that_holds_no_token_ids_is_refused(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "tokens.csv").write_bytes(content)
        with pytest.raises(ReadError, match="token ids"):
            load_text(str(tmp_path / "tokens.csv"))

    def test_tables_of_text_and_of_numpy_give_the_same_tokens(self, tmp_path: Path) -> None:
        np.savetxt(tmp_path / "tokens.csv", TOKENS, fmt="%d", delimiter=",")
        np.save(tmp_path / "tokens.npy", TOKENS)
        one, other = (load_text(str(tmp_path / name)).table for name in ("tokens.csv", "tokens.npy"))
        np.testing.assert_array_equal(one, other)  # type: ignore[arg-type]

    def test_bytes_that_are_no_text_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "text.txt").write_bytes(b"\xff\xfe")
        with pytest.raises(ReadError, match="no text in UTF-8"):
            load_text(str(tmp_path / "text.txt"))

    def test_an_unknown_name_is_refused(self) -> None:
        with pytest.raises(UnknownNameError, match="nano"):
            load_text("nanoo")

    def test_a_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ReadError, match="there is no file"):
            load_text(str(tmp_path / "text.txt"))


class TestKernels:
    def test_sizes_are_those_of_numpy_and_scipy(self) -> None:
        from scipy import stats

        x = np.random.default_rng(0).standard_t(5, (40, 50)).astype(np.float32)
        found = sizes({"x": x})["x"]
        wide = x.astype(np.float64)
        nu = stats.t.fit(wide.ravel())[0]
        assert found["max_abs"] == np.abs(x).max()
        assert found["rms"] == pytest.approx(np.sqrt((wide**2).mean()), rel=1e-6)
        assert found["norm"] == pytest.approx(np.linalg.norm(wide), rel=1e-6)
        assert found["kurtosis"] == pytest.approx(stats.kurtosis(wide, axis=None), rel=1e-5)
        assert found["t_nu"] == pytest.approx(nu, rel=1e-3)

    def test_an_array_that_is_not_finite_does_not_touch_others(self) -> None:
        x = np.random.default_rng(0).normal(size=500).astype(np.float32)
        both = sizes({"x": x, "bad": np.array([1.0, math.nan])})
        assert both["x"] == sizes({"x": x})["x"]
        assert both["bad"]["max_abs"] == math.inf

    def test_a_constant_array_has_no_shape(self) -> None:
        found = sizes({"x": np.zeros(100, dtype=np.float32)})["x"]
        assert found["rms"] == 0
        assert math.isnan(found["kurtosis"])
        assert math.isnan(found["t_nu"])

    @pytest.mark.parametrize("scale", [1e-30, 1e30])
    def test_outliers_do_not_depend_on_the_scale(self, scale: float) -> None:
        states = np.random.default_rng(0).normal(size=(300, 20))
        states[:, 4] *= 9
        one, other = (outlier_dimensions(x, factor=6.0, keep=3) for x in (states, (states * scale).astype(np.float32)))
        assert other.largest == pytest.approx(one.largest, rel=1e-5)
        np.testing.assert_array_equal(one.dimensions, other.dimensions)

    def test_dimensions_of_noise_are_rarely_outliers(self) -> None:
        rng = np.random.default_rng(0)
        counts = [outlier_dimensions(rng.standard_t(4, (64, 128)), factor=6.0, keep=1).count for _ in range(100)]
        assert sum(counts) <= 0.001 * 100 * 128

    def test_more_ranks_than_dimensions_are_empty(self) -> None:
        found = outlier_dimensions(np.ones((4, 2)), factor=6.0, keep=3)
        assert found.dimensions.tolist() == [0, 1, -1]

    def test_zero_states_have_no_outliers(self) -> None:
        assert math.isnan(outlier_dimensions(np.zeros((4, 2)), factor=6.0, keep=3).count)


class TestMeasurer:
    def test_is_a_measurer_and_passes_between_processes(self) -> None:
        made = get_measurer("activations", sequences=2)
        assert isinstance(made, Measurer)
        assert pickle.loads(pickle.dumps(made)) == made

    @pytest.mark.slow
    def test_the_batch_is_part_of_the_provenance(self, table: str) -> None:
        said = measured(tiny_model(), table).provenance
        assert said["batch_tokens"] == "6 rows of 16"
        assert len(said["batch_sha256"]) == 64

    def test_the_text_counts_by_its_content(self, tmp_path: Path) -> None:
        for name, text in (("a.txt", "the cat"), ("b.txt", "the cat"), ("c.txt", "the cats")):
            (tmp_path / name).write_text(text)
        a, b, c = (Activations(str(tmp_path / name)).settings() for name in ("a.txt", "b.txt", "c.txt"))
        assert a == b != c

    @pytest.mark.slow
    def test_files_and_memory_give_the_same(self, tmp_path: Path, table: str) -> None:
        save_checkpoint(tmp_path / "step8")
        with open_checkpoint(Run("tiny", 3, location=str(tmp_path / "step{step}")), 8) as opened:
            assert Activations(table, length=16).measure(opened).values == measured(tiny_model(), table).values

    def test_only_the_measures_asked_for_are_taken(self, table: str) -> None:
        found = measured(tiny_model(), table, measures="norm", gradients=False, keep_dimensions=0)
        assert {metric.split("/")[2] for metric in found.values} == {"norm"}
        assert found.details == {}

    def test_measures_may_be_text_with_commas(self) -> None:
        assert Activations(measures="rms, max_abs") == Activations(measures=("max_abs", "rms"))

    def test_norm_of_the_stream_is_that_of_one_token(self, table: str) -> None:
        found = measured(tiny_model(), table, measures=("norm", "rms"))
        value = found.values["activation/layers.0.residual/norm"]
        assert value == pytest.approx(4 * found.values["activation/layers.0.residual/rms"], rel=1e-6)

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"sequences": 0}, "whole number from 1"),
            ({"length": 1}, "whole number from 2"),
            ({"outlier_factor": 1}, "above 1"),
            ({"measures": ()}, "no measure"),
            ({"measures": ("rmss",)}, "rms"),
        ],
    )
    def test_options_that_cannot_be_are_refused(self, options: dict[str, Any], said: str) -> None:
        with pytest.raises((ReadError, UnknownNameError), match=said):
            Activations(**options)

    @pytest.mark.slow
    def test_filled_cube_is_valid(self, tmp_path: Path, table: str) -> None:
        for seed in (0, 1):
            save_checkpoint(tmp_path / f"seed{seed}" / "step8", seed)
        (tmp_path / "runs.csv").write_text(
            "model,seed,location,steps\n" + "".join(f"tiny,{s},seed{s}/step{{step}},8\n" for s in (0, 1))
        )
        ps.fill(Activations(table, length=16), runs=tmp_path / "runs.csv", output=tmp_path / "out")
        tree = join_units(tmp_path / "out")
        assert ps.validate_cube(tree) == []
        ps.save_cube(tree, tmp_path / "cube.nc")
        with ps.open_tree(tmp_path / "cube.nc") as opened:
            assert opened["dimensions"]["dimension"].dims == ("model", "seed", "step", "site", "rank")
