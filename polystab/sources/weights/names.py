"""What a parameter's name says: which part of the network it is, in which layer, and of what kind.

Parts of GPT-2, Llama, OLMo and BERT have the names that GPT-NeoX gives the same part, so
that models of different families can be compared.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

Kind = Literal["matrix", "embedding", "unembedding", "position", "norm", "bias", "norm_bias", "other"]

# Kinds of weights that have a spectrum; all others are taken as lists of numbers.
MATRICES: tuple[Kind, ...] = ("matrix", "embedding", "unembedding", "position")

# Name without ending -> (component, kind); {} is the number of the layer, T: stored transposed, as GPT-2's Conv1D does.
_TABLES: tuple[dict[str, tuple[str, Kind]], ...] = (
    {  # GPT-NeoX, Pythia
        "gpt_neox.embed_in": ("embed_in", "embedding"),
        "gpt_neox.layers.{}.input_layernorm": ("input_layernorm", "norm"),
        "gpt_neox.layers.{}.post_attention_layernorm": ("post_attention_layernorm", "norm"),
        "gpt_neox.layers.{}.attention.query_key_value": ("attention.query_key_value", "matrix"),
        "gpt_neox.layers.{}.attention.dense": ("attention.dense", "matrix"),
        "gpt_neox.layers.{}.mlp.dense_h_to_4h": ("mlp.dense_h_to_4h", "matrix"),
        "gpt_neox.layers.{}.mlp.dense_4h_to_h": ("mlp.dense_4h_to_h", "matrix"),
        "gpt_neox.final_layer_norm": ("final_layer_norm", "norm"),
        "embed_out": ("embed_out", "unembedding"),
    },
    {  # GPT-2
        "transformer.wte": ("embed_in", "embedding"),
        "transformer.wpe": ("position", "position"),
        "transformer.h.{}.ln_1": ("input_layernorm", "norm"),
        "transformer.h.{}.ln_2": ("post_attention_layernorm", "norm"),
        "transformer.h.{}.attn.c_attn": ("attention.query_key_value T", "matrix"),
        "transformer.h.{}.attn.c_proj": ("attention.dense T", "matrix"),
        "transformer.h.{}.mlp.c_fc": ("mlp.dense_h_to_4h T", "matrix"),
        "transformer.h.{}.mlp.c_proj": ("mlp.dense_4h_to_h T", "matrix"),
        "transformer.ln_f": ("final_layer_norm", "norm"),
        "lm_head": ("embed_out", "unembedding"),
    },
    {  # Llama, OLMo, OLMo 2, Mistral, Qwen
        "model.embed_tokens": ("embed_in", "embedding"),
        "model.layers.{}.input_layernorm": ("input_layernorm", "norm"),
        "model.layers.{}.post_attention_layernorm": ("post_attention_layernorm", "norm"),
        "model.layers.{}.post_feedforward_layernorm": ("post_feedforward_layernorm", "norm"),
        "model.layers.{}.self_attn.q_proj": ("attention.query", "matrix"),
        "model.layers.{}.self_attn.k_proj": ("attention.key", "matrix"),
        "model.layers.{}.self_attn.v_proj": ("attention.value", "matrix"),
        "model.layers.{}.self_attn.o_proj": ("attention.dense", "matrix"),
        "model.layers.{}.self_attn.q_norm": ("attention.query_norm", "norm"),
        "model.layers.{}.self_attn.k_norm": ("attention.key_norm", "norm"),
        "model.layers.{}.mlp.gate_proj": ("mlp.gate", "matrix"),
        "model.layers.{}.mlp.up_proj": ("mlp.dense_h_to_4h", "matrix"),
        "model.layers.{}.mlp.down_proj": ("mlp.dense_4h_to_h", "matrix"),
        "model.norm": ("final_layer_norm", "norm"),
    },
    {  # BERT
        "bert.embeddings.word_embeddings": ("embed_in", "embedding"),
        "bert.embeddings.position_embeddings": ("position", "position"),
        "bert.embeddings.token_type_embeddings": ("token_type", "position"),
        "bert.embeddings.LayerNorm": ("embedding_layernorm", "norm"),
        "bert.encoder.layer.{}.attention.self.query": ("attention.query", "matrix"),
        "bert.encoder.layer.{}.attention.self.key": ("attention.key", "matrix"),
        "bert.encoder.layer.{}.attention.self.value": ("attention.value", "matrix"),
        "bert.encoder.layer.{}.attention.output.dense": ("attention.dense", "matrix"),
        "bert.encoder.layer.{}.attention.output.LayerNorm": ("post_attention_layernorm", "norm"),
        "bert.encoder.layer.{}.intermediate.dense": ("mlp.dense_h_to_4h", "matrix"),
        "bert.encoder.layer.{}.output.dense": ("mlp.dense_4h_to_h", "matrix"),
        "bert.encoder.layer.{}.output.LayerNorm": ("post_mlp_layernorm", "norm"),
        "bert.pooler.dense": ("pooler", "matrix"),
        "cls.predictions.transform.dense": ("head.dense", "matrix"),
        "cls.predictions.transform.LayerNorm": ("final_layer_norm", "norm"),
        "cls.predictions.decoder": ("embed_out", "unembedding"),
        "cls.predictions": ("embed_out", "unembedding"),
        "cls.seq_relationship": ("head.next_sentence", "matrix"),
    },
)

# What a base model's own file leaves out, and what wrappers of PyTorch put in front.
_BASES = ("gpt_neox.", "transformer.", "model.", "bert.")
_WRAPPERS = re.compile(r"(?:(?:module|_orig_mod)\.)+")
_LAYER = re.compile(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)")
_ENDINGS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a model.

    Attributes
    ----------
    name : str
        As the checkpoint has it.
    subject : str
        As metric ids have it: ``layers.3.attention.dense``, and ``.bias`` behind that for biases;
        the name itself where it is unknown.
    component : str
        Part of the network without the layer; empty where the name is unknown.
    layer : int
        -1 where none. The first block is 0.
    kind : str
        ``matrix``, ``embedding``, ``unembedding``, ``position``, ``norm`` (a gain), ``bias``,
        ``norm_bias``, or ``other``.
    transposed : bool
        The file has the transpose of what other models store.
    """

    name: str
    subject: str
    component: str
    layer: int
    kind: Kind
    transposed: bool = False


@lru_cache(maxsize=65536)
def parameter(name: str) -> Parameter:
    """What a parameter's name says.

    Examples
    --------
    >>> parameter("gpt_neox.layers.3.attention.dense.weight").subject
    'layers.3.attention.dense'
    >>> parameter("transformer.h.3.attn.c_proj.bias").subject, parameter("transformer.h.3.attn.c_proj.bias").kind
    ('layers.3.attention.dense.bias', 'bias')
    >>> parameter("encoder.block.mixer").subject
    'encoder.block.mixer'
    """
    plain = _WRAPPERS.sub("", name)
    stem, _, ending = plain.rpartition(".")
    found = _LAYER.search(stem)
    key = stem if found is None else f"{stem[: found.start()]}{{}}{stem[found.end() :]}"
    layer = -1 if found is None else int(found[0])
    known = _known().get(key)
    if known is None or ending not in _ENDINGS:
        return Parameter(name, name, "", -1, "other")
    component, kind = known
    transposed = component.endswith(" T")
    component = component.removesuffix(" T")
    subject = component if layer < 0 else f"layers.{layer}.{component}"
    if _ENDINGS[ending] == "bias":
        kind = "norm_bias" if kind == "norm" else "bias"
        return Parameter(name, f"{subject}.bias", f"{component}.bias", layer, kind)
    return Parameter(name, subject, component, layer, kind, transposed)


@lru_cache(maxsize=1)
def _known() -> dict[str, tuple[str, Kind]]:
    """Every name of the tables, with and without the part that names the base model."""
    found: dict[str, tuple[str, Kind]] = {}
    for table in _TABLES:
        for name, what in table.items():
            found[name] = what
            for base in _BASES:
                if name.startswith(base):
                    found.setdefault(name.removeprefix(base), what)
    return found
