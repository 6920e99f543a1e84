"""How long a checkpoint takes, by source and size: the rates that ``polystab plan`` states, measured again.

Random weights in the shapes of Pythia, in float16 as on the Hub, one thread, processor time. Prints what is measured
over what :data:`polystab.sources.plan_rates.RATES` says of the machine that it was measured on; 1 is the same machine.
Name sizes (14m 31m 70m 160m 410m) and sources as arguments for a part; ``--rates`` prints lines to paste there.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "HF_HUB_OFFLINE"), "1")

from bench_evals import WORDS, toy_tokenizer
from harness import print_ratio, report_line

SHAPES = {"14m": (6, 128, 4), "31m": (6, 256, 8), "70m": (6, 512, 8), "160m": (12, 768, 12), "410m": (24, 1024, 16)}
SOURCES = ("weights", "activations", "directions", "embedding", "probes", "evals")
STEPS = (0, 1, 2)
# Of the evaluation: documents, and words before an ending and in it.
DOCUMENTS, CONTEXT, ENDING = 50, 60, 4


def make_checkpoints(folder: Path, size: str) -> int:
    """Write three checkpoints that differ a little; the number of parameters."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    layers, width, heads = SHAPES[size]
    torch.manual_seed(0)
    model = GPTNeoXForCausalLM(
        GPTNeoXConfig(
            vocab_size=50304,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            max_position_embeddings=2048,
        )
    ).half()
    for step in STEPS:
        for parameter in model.parameters() if step else ():
            parameter.data += 1e-3 * torch.randn(parameter.shape).half()
        model.save_pretrained(folder / f"step{step}")
        toy_tokenizer().save_pretrained(folder / f"step{step}")
    return sum(parameter.numel() for parameter in model.parameters())


def write_task(folder: Path) -> int:
    """A task with two endings a document; how many tokens its requests have."""
    chance = random.Random(0)
    rows = [
        {
            "context": " ".join(chance.choices(WORDS, k=CONTEXT)),
            "choices": [" ".join(chance.choices(WORDS, k=ENDING)) for _ in range(2)],
            "label": 0,
        }
        for _ in range(DOCUMENTS)
    ]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "task": "toy_plan",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "items.jsonl")}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{context}}",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "toy_plan.yaml").write_text(json.dumps(config))
    return DOCUMENTS * 2 * (CONTEXT + ENDING)


def measurer(source: str, tasks: Path) -> Any:
    from polystab.sources.registry import get_measurer

    if source == "evals":
        return get_measurer("evals", tasks=["toy_plan"], include_path=[str(tasks)], batch_size=16)
    return get_measurer(source, **({"data": "nano"} if source == "probes" else {}))


def cost(measures: Any, folder: Path) -> tuple[float, int]:
    """Processor seconds of one checkpoint, loading included, the second time; and bytes of its unit."""
    from polystab.sources.fill import fill
    from polystab.sources.runs import Run, RunTable

    run = Run("m", 0, location=str(folder / "step{step}"), steps=STEPS)
    seconds = 0.0
    for step in STEPS[1:]:
        with tempfile.TemporaryDirectory() as output:
            start = time.process_time()
            result = fill(measures, runs=RunTable((run,)), output=output, steps=step)
            seconds = time.process_time() - start
            if result.failed:
                raise RuntimeError(str(result.failed))
            units = [path for path in (Path(output) / "units").rglob("*.npz") if path.is_file()]
            size = sum(path.stat().st_size for path in units)
    return seconds, size


def main() -> None:
    import torch

    torch.set_num_threads(1)
    sizes = [name for name in sys.argv[1:] if name in SHAPES] or ["14m", "70m"]
    sources = [name for name in sys.argv[1:] if name in SOURCES] or list(SOURCES)
    for size in sizes:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            parameters = make_checkpoints(folder, size)
            tokens = write_task(folder)
            for source in sources:
                seconds, unit = cost(measurer(source, folder), folder)
                each = seconds / tokens if source == "evals" else seconds
                if "--rates" in sys.argv:
                    report_line(f"{source} {size} ({parameters}, {each:.3g}, {unit})")
                else:
                    from polystab.sources.plan_rates import seconds_of_checkpoint

                    stated = seconds_of_checkpoint(source, parameters, tokens=tokens)
                    print_ratio(f"{source} of {size}, measured over stated", [seconds], [stated], wanted="about 1")


if __name__ == "__main__":
    main()
