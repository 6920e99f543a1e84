"""Models and the tokenizer of the suites, made from scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polystab.suites.grammar import PADDING, UNKNOWN, vocabulary
from polystab.suites.recipes import Recipe

if TYPE_CHECKING:
    import torch


def new_model(recipe: Recipe, weight_seed: int) -> torch.nn.Module:
    """An untrained GPT-NeoX model with Pythia's initialisation.

    Weights are normal with variance 2 / (5 d), those of the two matrices that write
    into the residual stream with standard deviation 2 / (L sqrt(d)), for width d and L
    layers; biases are 0 and layer-norm gains 1 (the ``small_init`` and ``wang_init`` of
    Pythia's configuration files). The global random state is left as it was.
    """
    import torch
    from transformers import GPTNeoXForCausalLM

    with torch.random.fork_rng(devices=[]):
        model: torch.nn.Module = GPTNeoXForCausalLM(_config(recipe))
    generator = torch.Generator().manual_seed(weight_seed)
    d = recipe.hidden_size
    small, writing = (2 / (5 * d)) ** 0.5, 2 / (recipe.n_layers * d**0.5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                into_stream = name.endswith(("attention.dense.weight", "mlp.dense_4h_to_h.weight"))
                parameter.normal_(0.0, writing if into_stream else small, generator=generator)
            else:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
    return model


def _config(recipe: Recipe) -> Any:
    from transformers import GPTNeoXConfig

    settings: dict[str, Any] = {
        "vocab_size": len(vocabulary()),
        "hidden_size": recipe.hidden_size,
        "num_hidden_layers": recipe.n_layers,
        "num_attention_heads": recipe.n_heads,
        "intermediate_size": 4 * recipe.hidden_size,
        "max_position_embeddings": recipe.context,
        # Pythia turns a quarter of each head; of heads this narrow that would leave four numbers.
        "rotary_pct": 1.0,
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
        "use_cache": False,
        "bos_token_id": None,
        "eos_token_id": vocabulary().index("."),
        "pad_token_id": vocabulary().index(PADDING),
    }
    return GPTNeoXConfig(**settings)


def new_tokenizer(context: int = 64) -> Any:
    """A tokenizer for the language: one token a word."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel({word: i for i, word in enumerate(vocabulary())}, unk_token=UNKNOWN))
    words.pre_tokenizer = WhitespaceSplit()
    make: Any = PreTrainedTokenizerFast
    return make(
        tokenizer_object=words,
        unk_token=UNKNOWN,
        pad_token=PADDING,
        eos_token=".",  # noqa: S106
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
