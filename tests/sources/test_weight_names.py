"""Parameter names of four families of models, and what is not known."""

from __future__ import annotations

import importlib.util

import pytest

from polystab.sources.weights.features import kept
from polystab.sources.weights.names import parameter

SAME_PART = [
    ("gpt_neox.layers.3.attention.dense.weight", "transformer.h.3.attn.c_proj.weight"),
    ("gpt_neox.layers.3.attention.query_key_value.bias", "transformer.h.3.attn.c_attn.bias"),
    ("gpt_neox.layers.3.mlp.dense_h_to_4h.weight", "model.layers.3.mlp.up_proj.weight"),
    ("gpt_neox.layers.3.mlp.dense_4h_to_h.weight", "bert.encoder.layer.3.output.dense.weight"),
    ("gpt_neox.layers.0.input_layernorm.weight", "h.0.ln_1.weight"),
    ("gpt_neox.embed_in.weight", "model.embed_tokens.weight"),
    ("gpt_neox.embed_in.weight", "bert.embeddings.word_embeddings.weight"),
    ("embed_out.weight", "lm_head.weight"),
    ("gpt_neox.final_layer_norm.bias", "transformer.ln_f.bias"),
    ("bert.encoder.layer.1.output.LayerNorm.weight", "encoder.layer.1.output.LayerNorm.gamma"),
]


@pytest.mark.parametrize(("one", "other"), SAME_PART)
def test_the_same_part_has_the_same_subject_in_every_family(one, other):
    first, second = parameter(one), parameter(other)
    assert (first.subject, first.component, first.layer, first.kind) == (
        second.subject,
        second.component,
        second.layer,
        second.kind,
    )


def test_the_layer_is_a_number_and_block_0_is_one_of_them():
    assert parameter("gpt_neox.layers.0.attention.dense.weight").layer == 0
    assert parameter("gpt_neox.layers.11.attention.dense.weight").layer == 11
    assert parameter("gpt_neox.embed_in.weight").layer == -1


def test_only_gpt2_stores_the_transpose():
    assert parameter("transformer.h.0.mlp.c_fc.weight").transposed
    assert not parameter("gpt_neox.layers.0.mlp.dense_h_to_4h.weight").transposed


def test_an_unknown_name_stays_as_it_is():
    known = parameter("encoder.blocks.3.mixer.weight")
    assert (known.subject, known.component, known.kind) == ("encoder.blocks.3.mixer.weight", "", "other")


def test_wrappers_are_taken_off():
    assert (
        parameter("module._orig_mod.gpt_neox.layers.1.mlp.dense_4h_to_h.weight").subject == "layers.1.mlp.dense_4h_to_h"
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["GPTNeoX", "GPT2", "Llama", "Olmo2", "Bert"])
def test_every_parameter_of_a_real_model_is_known(family):
    if importlib.util.find_spec("transformers") is None:
        pytest.skip("needs transformers")
    import transformers

    small = {
        "vocab_size": 8,
        "hidden_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 8,
    }
    if family == "GPT2":
        small = {"vocab_size": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
    if family in ("Llama", "Olmo2"):
        small["num_key_value_heads"] = 2
    head = "ForPreTraining" if family == "Bert" else "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    config = getattr(transformers, f"{family}Config")(**small, bos_token_id=1, eos_token_id=1, pad_token_id=0)
    model = getattr(transformers, f"{family}{head}")(config)
    unknown = [name for name in model.state_dict() if parameter(name).kind == "other" and not name.endswith("_ids")]
    assert unknown == []


def test_hu2023_keeps_what_the_published_code_keeps():
    names = [
        "gpt_neox.embed_in.weight",
        "embed_out.weight",
        "gpt_neox.layers.0.attention.query_key_value.weight",
        "gpt_neox.layers.0.attention.query_key_value.bias",
        "gpt_neox.layers.0.input_layernorm.weight",
        "gpt_neox.final_layer_norm.bias",
    ]
    assert [kept(name) for name in names] == ["weight", "", "weight", "bias", "", ""]


def test_the_corrected_selection_leaves_the_embedding_and_the_norms_of_every_family_out():
    names = ["gpt_neox.embed_in.weight", "transformer.h.0.ln_1.weight", "transformer.h.0.attn.c_attn.weight"]
    assert [kept(name, corrected=True) for name in names] == ["", "", "weight"]
