"""Evaluating one checkpoint after another with Evals, against the harness called anew for each, and its forward passes.

One thread, a GPT-NeoX of 0.23 million parameters, four multiple-choice tasks of 300
items. The harness is spared the 12 seconds in which it looks through its own tasks.
"""

from __future__ import annotations

import io
import json
import os
import random
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from harness import print_ratio, report_line

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

WORDS = [f"w{number}" for number in range(250)]
CHECKPOINTS = 5


def write_task(folder: Path, number: int) -> str:
    chance = random.Random(number)
    options = 2 + number % 3
    rows = [
        {
            "context": " ".join(chance.choices(WORDS, k=18)),
            "choices": [" ".join(chance.choices(WORDS, k=1 + number // 2)) for _ in range(options)],
            "label": chance.randrange(options),
        }
        for _ in range(300)
    ]
    task = f"toy_{number}"
    data = folder / f"{task}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "task": task,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / f"{task}.yaml").write_text(json.dumps(config))
    return task


def toy_tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<eos>": 0, "<unk>": 1} | {word: number + 2 for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<eos>")


def toy_model(seed: int) -> Any:
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 256}
    return GPTNeoXForCausalLM(GPTNeoXConfig(vocab_size=256, max_position_embeddings=128, **sizes)).eval()


def seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        result = action()
    return time.perf_counter() - start, result


def compare(folder: Path) -> None:
    import lm_eval
    import torch
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from polystab.sources.checkpoints import Checkpoint
    from polystab.sources.evals import Evals
    from polystab.sources.runs import Run

    torch.set_num_threads(1)
    tasks = [write_task(folder, number) for number in range(4)]
    tokenizer, evals = toy_tokenizer(), Evals(tasks, [str(folder)])
    run = Run(model="toy", seed=0)
    plain, ours, forward = [], [], []
    for step in range(CHECKPOINTS + 1):
        model = toy_model(step)
        took, theirs = seconds(
            lambda model=model: lm_eval.simple_evaluate(
                model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=64),
                tasks=tasks,
                task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            )
        )
        plain.append(took)
        calls: list[Any] = []
        hook = model.register_forward_pre_hook(lambda *given, calls=calls: calls.append(given[1:]), with_kwargs=True)
        checkpoint = Checkpoint.of_model(run, step, model, tokenizer)
        took, found = seconds(lambda checkpoint=checkpoint: evals.measure(checkpoint))
        ours.append(took)
        hook.remove()
        for task in tasks:
            same = found.values[f"eval/{task}/acc"] == theirs["results"][task]["acc,none"]
            assert same, f"{task} at step {step} is not what the harness has"
        with torch.no_grad():
            forward.append(
                seconds(lambda model=model, calls=calls: [model(*args, **given) for args, given in calls])[0]
            )
    report_line(f"first checkpoint, with loading of tasks: {ours[0]:.2f} s; later ones:")
    print_ratio("the harness anew over Evals", plain[1:], ours[1:], wanted="as much as can be", names=("anew", "ours"))
    print_ratio("Evals over its forward passes", ours[1:], forward[1:], wanted="near 1x", names=("ours", "forward"))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets.config

        datasets.config.HF_DATASETS_CACHE = str(Path(folder) / "cache")
        tasks = Path(folder) / "tasks"
        tasks.mkdir()
        compare(tasks)


if __name__ == "__main__":
    main()
