"""Singular directions and their tokens, and correlations of embeddings, against planted truths."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoints import save_checkpoint, tiny_model, tiny_tokenizer

import polystab as ps
from polystab.errors import ReadError
from polystab.sources.activations.direction_kernels import Heads, layer_products, left_directions, top_tokens
from polystab.sources.activations.directions import DirectionError, Directions
from polystab.sources.activations.embedding import Embedding, EmbeddingError, token_correlation
from polystab.sources.checkpoints import Checkpoint, open_checkpoint
from polystab.sources.joining import join_units
from polystab.sources.measuring import Measurement, Measurer
from polystab.sources.registry import get_measurer
from polystab.sources.runs import Run

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

SMALL = Directions(n_directions=4, n_tokens=3)


def checkpoint(model: Any, *, step: int = 8) -> Checkpoint:
    return Checkpoint.of_model(Run("tiny", 3), step, model, tiny_tokenizer())


def measured(model: Any, measurer: Measurer = SMALL, *, step: int = 8) -> Measurement:
    return measurer.measure(checkpoint(model, step=step))


def gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(1)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=8, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=1, eos_token_id=1)
    )


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=8, hidden_size=16, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=24, max_position_embeddings=32, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def tokens_of(matrix: Any, unembedding: Any, n_directions: int, n_tokens: int) -> np.ndarray[Any, Any]:
    """By the textbook: left singular vectors of a matrix in double precision, and their tokens."""
    u, _, _ = np.linalg.svd(np.asarray(matrix, dtype=np.float64), full_matrices=False)
    scores = np.asarray(unembedding, dtype=np.float64) @ u[:, :n_directions]
    third = ((scores - scores.mean(0)) ** 3).sum(0)
    return np.argsort(-scores * np.where(third < 0, -1, 1), axis=0)[:n_tokens].T


def array(parameter: Any) -> Any:
    return parameter.detach().double().numpy()


class TestTokens:
    def test_of_a_planted_direction_are_found(self) -> None:
        # The output matrix writes mostly into the unembedding rows of tokens 5 and 2.
        model = tiny_model()
        with torch.no_grad():
            model.lm_head.weight.copy_(torch.eye(8, 16))
            direction = 2 * torch.eye(16)[5] + torch.eye(16)[2]
            model.gpt_neox.layers[1].mlp.dense_4h_to_h.weight.add_(torch.outer(direction, torch.ones(32)))
        token = measured(model).details["directions"]["token"]
        assert token.sel(matrix="layers.1.mlp.dense_4h_to_h", direction=0).values[:2].tolist() == [5, 2]

    def test_of_gpt_neox_are_those_of_a_plain_svd(self) -> None:
        model = tiny_model()
        token = measured(model).details["directions"]["token"]
        layer, head = model.gpt_neox.layers[1], array(model.lm_head.weight)
        fused = array(layer.attention.query_key_value.weight).reshape(2, 3, 8, 16)
        out = array(layer.attention.dense.weight)
        for name, matrix in {
            "mlp.dense_h_to_4h": array(layer.mlp.dense_h_to_4h.weight).T,
            "mlp.dense_4h_to_h": array(layer.mlp.dense_4h_to_h.weight),
            "attention.ov.head1": out[:, 8:] @ fused[1, 2],
        }.items():
            np.testing.assert_array_equal(
                token.sel(matrix=f"layers.1.{name}"), tokens_of(matrix, head, 4, 3), err_msg=name
            )

    def test_of_gpt_2_are_those_of_a_plain_svd(self) -> None:
        model = gpt2()
        token = measured(model).details["directions"]["token"]
        block, head = model.transformer.h[0], array(model.transformer.wte.weight)
        value, out = array(block.attn.c_attn.weight)[:, 32:].T, array(block.attn.c_proj.weight).T
        for name, matrix in {
            "mlp.dense_h_to_4h": array(block.mlp.c_fc.weight),
            "mlp.dense_4h_to_h": array(block.mlp.c_proj.weight).T,
            "attention.ov.head0": out[:, :8] @ value[:8],
        }.items():
            np.testing.assert_array_equal(
                token.sel(matrix=f"layers.0.{name}"), tokens_of(matrix, head, 4, 3), err_msg=name
            )

    def test_of_llama_are_those_of_a_plain_svd(self) -> None:
        model = llama()
        token = measured(model).details["directions"]["token"]
        layer, head = model.model.layers[0], array(model.lm_head.weight)
        value, out = array(layer.self_attn.v_proj.weight), array(layer.self_attn.o_proj.weight)
        for name, matrix in {
            "mlp.gate": array(layer.mlp.gate_proj.weight).T,
            "attention.ov.head1": out[:, 4:8] @ value[:4],  # heads 0 and 1 share their values
            "attention.ov.head2": out[:, 8:12] @ value[4:],
        }.items():
            np.testing.assert_array_equal(
                token.sel(matrix=f"layers.0.{name}"), tokens_of(matrix, head, 4, 3), err_msg=name
            )

    def test_heads_together_are_the_svd_of_their_sum(self) -> None:
        model = tiny_model()
        token = measured(model, Directions(n_directions=4, n_tokens=3, per_head=False)).details["directions"]["token"]
        attention = model.gpt_neox.layers[0].attention
        value = array(attention.query_key_value.weight).reshape(2, 3, 8, 16)[:, 2].reshape(16, 16)
        expected = tokens_of(array(attention.dense.weight) @ value, array(model.lm_head.weight), 4, 3)
        np.testing.assert_array_equal(token.sel(matrix="layers.0.attention.ov"), expected)

    @pytest.mark.parametrize("scale", [1e-30, 1e30, -1.0])
    def test_do_not_depend_on_scale_or_sign(self, scale: float) -> None:
        rng = np.random.default_rng(0)
        left, right, unembedding = rng.normal(size=(12, 4)), rng.normal(size=(4, 12)), rng.normal(size=(30, 12))
        one, other = (top_tokens(left_directions(a, right, 3)[0], unembedding, 5)[0] for a in (left, left * scale))
        np.testing.assert_array_equal(one, other)

    def test_directions_beyond_the_rank_have_none(self) -> None:
        found = measured(tiny_model(), Directions(n_directions=12, n_tokens=3)).details["directions"]["token"]
        of_head = found.sel(matrix="layers.0.attention.ov.head0").values
        assert (of_head[:8] >= 0).all()
        assert (of_head[8:] == -1).all()

    def test_places_beyond_the_vocabulary_are_empty(self) -> None:
        found = measured(tiny_model(), Directions(n_directions=1, n_tokens=20)).details["directions"]["token"]
        assert sorted(found.isel(matrix=0, direction=0).values[:8].tolist()) == list(range(8))
        assert (found.values[..., 8:] == -1).all()

    def test_kurtosis_is_that_of_scipy(self) -> None:
        from scipy import stats

        rng = np.random.default_rng(0)
        vectors, unembedding = rng.normal(size=(12, 3)), rng.standard_t(5, (200, 12))
        np.testing.assert_allclose(
            top_tokens(vectors, unembedding, 5)[1], stats.kurtosis(unembedding @ vectors), rtol=1e-9
        )

    @pytest.mark.parametrize("shape", [(6, 20), (20, 6), (7, 7)])
    def test_vectors_and_values_are_those_of_numpy(self, shape: tuple[int, int]) -> None:
        matrix = np.random.default_rng(0).normal(size=shape)
        vectors, singular = left_directions(matrix, np.eye(0), 4)
        u, s, _ = np.linalg.svd(matrix)
        np.testing.assert_allclose(singular, s[:4], rtol=1e-9)
        np.testing.assert_allclose(np.abs((vectors * u[:, :4]).sum(0)), 1, rtol=1e-9)


class TestBadInput:
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_matrix_that_is_not_finite_is_left_out_and_others_are_not(self, bad: float) -> None:
        model = tiny_model()
        with torch.no_grad():
            model.gpt_neox.layers[0].mlp.dense_4h_to_h.weight[0, 0] = bad
        found = measured(model)
        names = found.details["directions"]["matrix"].values.tolist()
        assert "layers.0.mlp.dense_4h_to_h" not in names
        assert "layers.0.mlp.dense_h_to_4h" in names
        assert [reason for reason, _ in found.notes] == ["non-finite"]

    def test_a_zero_matrix_has_no_directions(self) -> None:
        model = tiny_model()
        with torch.no_grad():
            model.gpt_neox.layers[0].mlp.dense_4h_to_h.weight.zero_()
        found = measured(model)
        assert (found.details["directions"]["token"].sel(matrix="layers.0.mlp.dense_4h_to_h") == -1).all()
        assert math.isnan(found.values["weight/layers.0.mlp.dense_4h_to_h/direction_kurtosis"])

    def test_a_model_without_unembedding_is_refused(self) -> None:
        with pytest.raises(DirectionError, match="no finite unembedding"):
            measured(tiny_model().gpt_neox)

    def test_a_tied_embedding_is_the_unembedding(self, tmp_path: Path) -> None:
        gpt2().save_pretrained(tmp_path / "step8")
        with open_checkpoint(Run("tiny", 3, location=str(tmp_path / "step{step}")), 8) as opened:
            found = SMALL.measure(opened).details["directions"]["token"]
        np.testing.assert_array_equal(found, measured(gpt2()).details["directions"]["token"])

    def test_without_known_names_there_is_nothing(self) -> None:
        class Strange(Checkpoint):
            def tensors(self, *, buffers: bool = False) -> Any:
                yield from {"embed_out.weight": torch.eye(4), "mixer.7.weight": torch.eye(4)}.items()

        strange = Strange(Run("tiny", 3), 8, folder=None)
        strange._config = {}
        with pytest.raises(DirectionError, match="no finite MLP or attention matrix"):
            SMALL.measure(strange)

    def test_heads_that_do_not_divide_the_width_are_left_out(self) -> None:
        matrices = {"attention.value": np.eye(6), "attention.dense": np.eye(6)}
        assert list(layer_products(matrices, Heads(4, 4), per_head=True)) == []

    @pytest.mark.parametrize(
        "options", [{"n_tokens": 0}, {"n_directions": True}, {"steps": [-1]}, {"steps": "0,x"}, {"steps": [1.5]}]
    )
    def test_options_that_cannot_be_are_refused(self, options: dict[str, Any]) -> None:
        with pytest.raises(ReadError, match="whole number"):
            Directions(**options)


class TestEmbedding:
    def test_correlations_are_those_of_numpy(self) -> None:
        model = tiny_model()
        found = measured(model, Embedding()).details["embedding"]
        expected = np.corrcoef(array(model.gpt_neox.embed_in.weight))
        first, second = found["first_token"].values, found["second_token"].values
        np.testing.assert_allclose(found["correlation"], expected[first, second], atol=1 / 512 + 1e-6)
        assert len(found["pair"]) == 8 * 7 // 2

    def test_metrics_are_not_rounded(self) -> None:
        model = tiny_model()
        correlation = np.corrcoef(array(model.gpt_neox.embed_in.weight))[np.triu_indices(8, 1)]
        found = measured(model, Embedding()).values
        assert found["weight/embed_in/correlation_mean"] == pytest.approx(correlation.mean(), abs=1e-7)
        assert found["weight/embed_in/correlation_rms"] == pytest.approx(np.sqrt((correlation**2).mean()), rel=1e-6)

    def test_only_the_first_tokens_count(self) -> None:
        found = measured(tiny_model(), Embedding(n_tokens=3)).details["embedding"]
        assert list(zip(found["first_token"].values.tolist(), found["second_token"].values.tolist(), strict=True)) == [
            (0, 1), (0, 2), (1, 2),
        ]  # fmt: skip

    def test_pairs_have_the_same_numbers_for_any_vocabulary(self) -> None:
        few, many = (measured(tiny_model(0, vocab_size=n), Embedding()).details["embedding"] for n in (5, 9))
        np.testing.assert_array_equal(few["second_token"], many["second_token"].isel(pair=slice(0, 10)))

    @pytest.mark.parametrize("value", [0.0, 7.0, math.nan, math.inf])
    def test_rows_without_a_correlation_are_noted_and_the_others_measured(self, value: float) -> None:
        model = tiny_model()
        with torch.no_grad():
            model.gpt_neox.embed_in.weight[2] = value
        found = measured(model, Embedding())
        data = found.details["embedding"]
        touched = (data["first_token"] == 2) | (data["second_token"] == 2)
        assert np.isnan(data["correlation"]).equals(
            touched.drop_vars(["first_token", "second_token"]).assign_coords(data["correlation"].coords)
        )
        assert [reason for reason, _ in found.notes] == ["no-correlation"]

    @pytest.mark.parametrize("scale", [1e-30, 1e30])
    def test_correlations_do_not_depend_on_the_scale(self, scale: float) -> None:
        rows = np.random.default_rng(0).normal(size=(6, 10))
        np.testing.assert_allclose(token_correlation(rows * scale), token_correlation(rows), atol=1e-12)

    def test_noise_has_the_expected_root_mean_square(self) -> None:
        rows = np.random.default_rng(0).normal(size=(400, 65))
        pairs = token_correlation(rows)[np.triu_indices(400, 1)]
        # Independent numbers have a variance of 1 / (d - 1); 79,800 pairs tell it to 1 %.
        assert np.mean(pairs**2) * 64 == pytest.approx(1, abs=0.02)

    def test_a_checkpoint_without_one_is_refused(self) -> None:
        with pytest.raises(EmbeddingError, match="embedding"):
            measured(torch.nn.Linear(2, 2), Embedding())


class TestMeasurers:
    @pytest.mark.parametrize("name", ["directions", "embedding"])
    def test_are_measurers_and_pass_between_processes(self, name: str) -> None:
        made = get_measurer(name, steps=[8, 0])
        assert isinstance(made, Measurer)
        assert pickle.loads(pickle.dumps(made)) == made
        assert made.settings()["steps"] == [0, 8]

    @pytest.mark.parametrize("steps", ["8,0", [0, 8], (8, 0, 8)])
    def test_steps_may_be_text_with_commas(self, steps: Any) -> None:
        assert Directions(steps=steps) == Directions(steps=(0, 8))

    @pytest.mark.parametrize("measurer", [Directions(steps=(4,)), Embedding(steps=(4,))])
    def test_groups_are_kept_at_the_steps_asked_for_only(self, measurer: Measurer) -> None:
        at_4, at_8 = (measured(tiny_model(), measurer, step=step) for step in (4, 8))
        assert at_8.details == {}
        assert list(at_4.details) == [measurer.name]
        assert at_4.values == at_8.values

    @pytest.mark.slow
    def test_filled_cube_is_valid(self, tmp_path: Path) -> None:
        for seed in (0, 1):
            save_checkpoint(tmp_path / f"seed{seed}" / "step8", seed)
        (tmp_path / "runs.csv").write_text(
            "model,seed,location,steps\n" + "".join(f"tiny,{s},seed{s}/step{{step}},8\n" for s in (0, 1))
        )
        ps.fill(["directions", "embedding"], runs=tmp_path / "runs.csv", output=tmp_path / "out")
        tree = join_units(tmp_path / "out")
        assert ps.validate_cube(tree) == []
        ps.save_cube(tree, tmp_path / "cube.nc")
        with ps.open_tree(tmp_path / "cube.nc") as opened:
            assert opened["directions"]["token"].dims == ("model", "seed", "step", "matrix", "direction", "place")
            assert opened["embedding"]["correlation"].dims == ("model", "seed", "step", "pair")
