"""Writes a tree of results files in the layout of the released PolyPythias evaluations.

50 runs (5 sizes x 10 seeds) x 27 steps, one file for each group of tasks, as
lm-evaluation-harness 0.4 writes them (indented, with task configurations and the
environment report that make up most of a file). As in the release, 1,095 of the
8,474 files lie below ``pythia-410m-seed1..9`` but hold ``pythia-410m``.
"""

from __future__ import annotations

import hashlib
import json
import random
from itertools import product
from pathlib import Path

SIZES = ("14m", "31m", "70m", "160m", "410m")
STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000, 3000, *range(13000, 143001, 10000))
TASK_GROUPS = (
    ("arc_challenge", "arc_easy"),
    ("logiqa", "piqa", "sciq"),
    ("winogrande", "wsc"),
    (
        "crows_pairs_english",
        *(
            f"crows_pairs_english_{subset}"
            for subset in (
                "age",
                "autre",
                "disability",
                "gender",
                "nationality",
                "physical_appearance",
                "race_color",
                "religion",
                "sexual_orientation",
                "socioeconomic",
            )
        ),
    ),
    ("blimp", *(f"blimp_{i:02d}_agreement" for i in range(67))),
)
# The least that a file can hold: one task each.
SINGLE_TASKS = (("arc_challenge",), ("arc_easy",), ("sciq",), ("piqa",), ("winogrande",))
LAMBADA = ("lambada_openai",)
FILES = 8474
MISLABELLED = 1095


def write_released_tree(
    root: Path,
    *,
    sizes: tuple[str, ...] = SIZES,
    seeds: int = 10,
    steps: tuple[int, ...] = STEPS,
    groups: tuple[tuple[str, ...], ...] = TASK_GROUPS,
) -> int:
    """Write the tree (all of it, or a small one of the same shape); return the number of files.

    The full tree has exactly ``FILES`` files, ``MISLABELLED`` of them mislabelled; a
    smaller one has one mislabelled file per (410m seed above 0, step).
    """
    rng = random.Random(0)
    full = (sizes, seeds, steps) == (SIZES, 10, STEPS)
    written = 0
    extra = FILES - MISLABELLED - len(sizes) * seeds * len(steps) * len(groups) if full else 0
    wrong = [(seed, step) for seed in range(1, seeds) for step in steps] if "410m" in sizes else []
    for size, seed, step in product(sizes, range(seeds), steps):
        repository = _repository(size, seed)
        written_here = list(groups)
        if extra > 0 and not (size == "410m" and seed > 0):
            written_here.append(LAMBADA)
            extra -= 1
        for number, tasks in enumerate(written_here):
            written += _write(root, repository, step, repository, tasks, number, rng)
    for copy in range(5 if full else 1):
        for number, (seed, step) in enumerate(wrong):
            if full and copy == 4 and number >= MISLABELLED - 4 * len(wrong):
                break
            written += _write(root, _repository("410m", seed), step, _repository("410m", 0), LAMBADA, 10 + copy, rng)
    return written


def _repository(size: str, seed: int) -> str:
    return f"pythia-{size}-seed{seed}" if seed else f"pythia-{size}"


def _write(
    root: Path, folder: str, step: int, model: str, tasks: tuple[str, ...], number: int, rng: random.Random
) -> int:
    where = root / folder / f"step{step}" / f"EleutherAI__{model}"
    where.mkdir(parents=True, exist_ok=True)
    name = f"results_2024-06-{1 + number:02d}T12-{step % 60:02d}-00.{number:06d}.json"
    text = json.dumps(_content(model, step, tasks, number, rng), indent=2, ensure_ascii=False)
    (where / name).write_text(text, encoding="utf-8")
    return 1


def _content(model: str, step: int, tasks: tuple[str, ...], number: int, rng: random.Random) -> dict[str, object]:
    measures = {
        "crows": ("likelihood_diff", "pct_stereotype"),
        "lamba": ("perplexity", "acc"),
        "blimp": ("acc",),
        "simpl": ("likelihood_diff", "pct_male_preferred"),
    }
    results: dict[str, dict[str, object]] = {}
    for task in tasks:
        scores: dict[str, object] = {"alias": task}
        for measure in measures.get(task[:5], ("acc", "acc_norm")):
            scores[f"{measure},none"] = rng.random()
            scores[f"{measure}_stderr,none"] = rng.random() / 100
        results[task] = scores
    return {
        "results": results,
        "group_subtasks": {task: [] for task in tasks},
        "configs": {task: _task_config(task, measures.get(task[:5], ("acc", "acc_norm"))) for task in tasks},
        "versions": dict.fromkeys(tasks, 1.0),
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": {task: dict.fromkeys(measures.get(task[:5], ("acc", "acc_norm")), True) for task in tasks},
        "n-samples": {task: {"original": 1000, "effective": 1000} for task in tasks},
        "config": {
            "model": "hf",
            "model_args": f"pretrained=EleutherAI/{model},revision=step{step},dtype=float32",
            "model_num_parameters": 14067712,
            "model_dtype": "torch.float32",
            "model_revision": f"step{step}",
            "model_sha": hashlib.sha1(f"{model}@{step}".encode()).hexdigest(),
            "batch_size": "16",
            "batch_sizes": [],
            "device": "cuda",
            "use_cache": None,
            "limit": None,
            "bootstrap_iters": 100000,
            "gen_kwargs": None,
            "random_seed": 0,
            "numpy_seed": 1234,
            "torch_seed": 1234,
            "fewshot_seed": 1234,
        },
        "git_hash": "0000000",
        "date": 1717200000.0 + 86400.0 * number + step,
        "pretty_env_info": "\n".join(
            f"[{i:02d}] Versions of relevant libraries: example=={i}.{i + 1}.0 (placeholder)" for i in range(40)
        ),
        "transformers_version": "4.40.0",
        "lm_eval_version": "0.4.2",
        "upper_git_hash": None,
        "tokenizer_pad_token": ["<|endoftext|>", "0"],
        "max_length": 2048,
        "task_hashes": {},
        "model_source": "hf",
        "model_name": f"EleutherAI/{model}",
        "model_name_sanitized": f"EleutherAI__{model}",
        "start_time": 1.0,
        "end_time": 2.0,
        "total_evaluation_time_seconds": "1.0",
    }


def _task_config(task: str, measures: tuple[str, ...]) -> dict[str, object]:
    code = "def process(doc):\n" + "\n".join(
        f"    doc[{i}] = clean(doc[{i}])  # an example of task code" for i in range(8)
    )
    return {
        "task": task,
        "tag": ["example"],
        "dataset_path": f"example/{task}",
        "dataset_name": task,
        "test_split": "test",
        "process_docs": code,
        "doc_to_text": "Question: {{question}}\nAnswer:",
        "doc_to_target": "{{choices.label.index(answerKey)}}",
        "doc_to_choice": "{{choices.text}}",
        "description": "",
        "target_delimiter": " ",
        "fewshot_delimiter": "\n\n",
        "num_fewshot": 0,
        "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in measures],
        "output_type": "multiple_choice",
        "repeats": 1,
        "should_decontaminate": True,
        "doc_to_decontamination_query": "Question: {{question}}\nAnswer:",
        "metadata": {"version": 1.0},
    }
