"""Tiny tasks, models and a tokenizer for tests of evaluation; nothing is downloaded."""

from __future__ import annotations

import json
import random
import warnings
from pathlib import Path
from typing import Any

WORDS = [f"w{number}" for number in range(60)]

CONTEXT = 64


def write_tasks(folder: Path, *, items: int = 12) -> Path:
    """A folder with tasks of every kind that polystab reads items of.

    ``toy_pairs`` (two options, states its chance), ``toy_mixed`` (two to four options of
    one to four words), ``toy_shots`` (two examples in the prompt), ``toy_cloze``
    (log-likelihood of one ending; accuracy and perplexity), ``toy_write`` (generation,
    two filters), and ``toy_group``, the mean of the first two.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(5)
    _choices(folder, "toy_pairs", _documents(chance, items, lambda _: (2, 1)), metadata={"version": 1, "chance": 0.5})
    _choices(folder, "toy_mixed", _documents(chance, items, lambda i: (2 + i % 3, 1 + i % 4)))
    shots = {"num_fewshot": 2, "fewshot_split": "train", "training_split": "train"}
    _choices(folder, "toy_shots", _documents(chance, items, lambda _: (3, 1)), **shots)
    ending = [{"text": document["context"]} for document in _documents(chance, items, lambda _: (2, 1))]
    _task(
        folder,
        "toy_cloze",
        ending,
        output_type="loglikelihood",
        doc_to_text="{{text.split(' ')[:-1]|join(' ')}}",
        doc_to_target="{{' ' + text.split(' ')[-1]}}",
        metric_list=[_metric("acc"), {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False}],
    )
    _task(
        folder,
        "toy_write",
        [{"text": document["text"], "answer": chance.choice(WORDS)} for document in ending],
        output_type="generate_until",
        doc_to_text="{{text}}",
        doc_to_target="answer",
        generation_kwargs={"until": ["\n"], "max_gen_toks": 3},
        metric_list=[_metric("exact_match")],
        filter_list=[
            {"name": "strict-match", "filter": [{"function": "take_first"}]},
            {"name": "last", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]},
        ],
    )
    group = {"group": "toy_group", "task": ["toy_pairs", "toy_mixed"], "aggregate_metric_list": [{"metric": "acc"}]}
    (folder / "toy_group.yaml").write_text(json.dumps(group))
    return folder


ALL_TASKS = ("toy_group", "toy_shots", "toy_cloze", "toy_write")


def _documents(chance: random.Random, count: int, shape: Any) -> list[dict[str, Any]]:
    documents = []
    for number in range(count):
        options, length = shape(number)
        choices = [" ".join(chance.sample(WORDS, length)) for _ in range(options)]
        context = " ".join(chance.choice(WORDS) for _ in range(10))
        documents.append({"context": context, "choices": choices, "label": chance.randrange(options)})
    return documents


def _choices(folder: Path, task: str, documents: list[dict[str, Any]], **more: Any) -> None:
    _task(
        folder,
        task,
        documents,
        output_type="multiple_choice",
        doc_to_text="{{context}}",
        doc_to_choice="choices",
        doc_to_target="label",
        metric_list=[_metric("acc"), _metric("acc_norm")],
        **more,
    )


def _metric(name: str) -> dict[str, Any]:
    return {"metric": name, "aggregation": "mean", "higher_is_better": True}


def _task(folder: Path, task: str, documents: list[dict[str, Any]], **config: Any) -> None:
    """One task: its documents as lines of JSON, and a YAML file (JSON is YAML too)."""
    data = folder / f"{task}.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    files = {split: str(data) for split in ("test", "train")}
    source = {"dataset_path": "json", "dataset_kwargs": {"data_files": files}, "test_split": "test"}
    (folder / f"{task}.yaml").write_text(json.dumps({"task": task, **source, **config}, indent=1))


def tiny_tokenizer(**special: Any) -> Any:
    """One token a word of ``WORDS``; id 0 ends a text, id 1 is every other word. ``special`` changes special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import PreTrainedTokenizerFast

    words = {"<eos>": 0, "<unk>": 1} | {word: number + 2 for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=CONTEXT,
        **({"eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<eos>"} | special),
    )


def tiny_model(seed: int = 0, *, context: int = CONTEXT) -> Any:
    """A GPT-NeoX of two layers with large random weights, so that its answers differ."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = GPTNeoXConfig(
                vocab_size=len(WORDS) + 2,
                hidden_size=16,
                num_hidden_layers=2,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=context,
                bos_token_id=0,
                eos_token_id=0,
                initializer_range=0.5,
            )
            return GPTNeoXForCausalLM(config).eval()
