"""Checkpoints small enough to make in a test: a real GPT-NeoX and a real tokenizer."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

WORDS = ["<unk>", "<|endoftext|>", "the", "cat", "cats", "sit", "sits", "."]


def tiny_config(**changes: Any) -> Any:
    from transformers import GPTNeoXConfig

    settings = {
        "vocab_size": len(WORDS),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
        "bos_token_id": 1,
        "eos_token_id": 1,
    }
    return GPTNeoXConfig(**settings | changes)


def tiny_model(seed: int = 0, **changes: Any) -> Any:
    import torch
    from transformers import GPTNeoXForCausalLM

    torch.manual_seed(seed)
    return GPTNeoXForCausalLM(tiny_config(**changes))


def tiny_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<|endoftext|>", eos_token="<|endoftext|>"
    )


def save_checkpoint(folder: Path, seed: int = 0, *, tokenizer: bool = True, **saving: Any) -> Path:
    """Save a tiny model, with its tokenizer, as ``save_pretrained`` does."""
    tiny_model(seed).save_pretrained(folder, **saving)
    if tokenizer:
        tiny_tokenizer().save_pretrained(folder)
    return folder


@cache
def checkpoint_files(folder: Path, seed: int = 0) -> dict[str, bytes]:
    """The files of a tiny checkpoint, which is saved to ``folder`` on the way."""
    save_checkpoint(folder, seed)
    return {path.name: path.read_bytes() for path in folder.iterdir()}
