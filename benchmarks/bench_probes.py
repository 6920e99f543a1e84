"""Probes of every layer and task of one nano-sized checkpoint: together, one after another, and with autograd.

Usage: OMP_NUM_THREADS=1 python benchmarks/bench_probes.py [CHECKPOINT_FOLDER]; without a folder an untrained model.
Times are of the process, on one thread: the ratios then do not depend on what else the machine does.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from harness import print_ratio, report_line

from polystab.sources.probes.fit import (
    START_LOG_VARIANCE,
    START_SPREAD,
    Fitted,
    Training,
    fit_probes,
    normal_kl,
    scale_kl,
)


def fit_with_autograd(
    train: torch.Tensor,
    labels: Any,
    dev: torch.Tensor,
    dev_labels: Any,
    *,
    classes: int,
    training: Training,
    seed: Sequence[int],
    shared: Sequence[int],
) -> float:
    """Codelength of one probe of one layer, written as a user of torch would, with the same random numbers."""
    n, d = train.shape
    rng = np.random.default_rng([*seed, 0])
    parameters = {}
    for name, size in (
        ("w", (classes, d)),
        ("w_log", (classes, d)),
        ("z", (1, d)),
        ("z_log", (1, d)),
        ("b_log", (classes, 1)),
    ):
        mean, spread = {"w": (0.0, d**-0.5), "z": (1.0, START_SPREAD)}.get(name, (START_LOG_VARIANCE, START_SPREAD))
        drawn = rng.standard_normal(size, dtype=np.float32)
        parameters[name] = torch.nn.Parameter(torch.from_numpy(np.asarray(mean + np.float32(spread) * drawn)))
    w, w_log, z, z_log, b_log = parameters.values()
    b = torch.nn.Parameter(torch.zeros(classes, 1))
    kept: list[Any] = []
    adam = torch.optim.Adam([w, w_log, z, z_log, b, b_log], lr=training.learning_rate)
    order, inputs, outputs = (np.random.default_rng(s) for s in ([*shared, 0], [*shared, 1], [*seed, 1]))
    y, dev_y = torch.from_numpy(labels), torch.from_numpy(dev_labels)
    total = int((y >= 0).sum())

    def kl() -> torch.Tensor:
        return scale_kl(z, z_log).sum() + normal_kl(w, w_log).sum() + normal_kl(b, b_log).sum()

    def cross_entropy(x: torch.Tensor, target: torch.Tensor) -> float:
        logits = x @ (z * w).T + b[:, 0]
        return float(torch.nn.functional.cross_entropy(logits, target, ignore_index=-1, reduction="sum"))

    best, best_epoch, done = math.inf, 0, 0
    for epoch in range(training.epochs):
        rows = torch.from_numpy(order.permutation(n))
        eps = torch.from_numpy(inputs.standard_normal((n, d), dtype=np.float32))
        eta = torch.from_numpy(outputs.standard_normal((classes, n), dtype=np.float32))
        for start in range(0, n, training.batch_size):
            part = slice(start, start + training.batch_size)
            x = train[rows[part]] * (z + torch.exp(z_log / 2) * eps[part])
            mean = x @ w.T + b[:, 0]
            variance = (x**2) @ torch.exp(w_log).T + torch.exp(b_log[:, 0])
            target = y[rows[part]]
            logits = mean + torch.sqrt(variance) * eta[:, part].T
            loss = torch.nn.functional.cross_entropy(logits, target, ignore_index=-1, reduction="sum")
            loss = loss + kl() * int((target >= 0).sum()) / total
            adam.param_groups[0]["lr"] = training.rate(done, n)
            done += 1
            adam.zero_grad()
            loss.backward()
            adam.step()
        with torch.no_grad():
            value = cross_entropy(dev, dev_y) / int((dev_y >= 0).sum()) + float(kl()) / total
        if value < best:
            best, best_epoch = value, epoch
            kept = [parameter.detach().clone() for parameter in (w, w_log, z, z_log, b, b_log)]
        elif epoch - best_epoch > training.patience:
            break
    with torch.no_grad():
        for parameter, value in zip((w, w_log, z, z_log, b, b_log), kept, strict=True):
            parameter.copy_(value)
        return cross_entropy(train, y) + float(kl())


def nano_problem(folder: str | None) -> tuple[dict[str, Any], list[int], str]:
    """Hidden states and labels of the nano tasks and their controls, as ``Probes`` has them."""
    from transformers import AutoModelForCausalLM

    from polystab.sources.probes.states import hidden_states
    from polystab.suites.models import new_model, new_tokenizer
    from polystab.suites.nano_labels import nano_labels
    from polystab.suites.recipes import LARGE

    model = AutoModelForCausalLM.from_pretrained(folder).eval() if folder else new_model(LARGE, 0).eval()
    texts = nano_labels().usable()
    states = hidden_states(model, new_tokenizer(), texts.texts, texts.spans, pool="last", whole=False, batch_size=32)
    tasks = list(texts.tasks.values())
    x = {part: states.hidden[:, torch.from_numpy(np.flatnonzero(tasks[0].split == part))] for part in ("train", "dev")}
    centre, deviation = x["train"].mean(1, keepdim=True), x["train"].std(1, keepdim=True)
    rng = np.random.default_rng(0)
    labels: dict[str, Any] = {}
    for part in ("train", "dev"):
        own = [np.maximum(task.codes[tasks[0].split == part], -1) for task in tasks]
        mixed = [y.copy() for y in own]
        for y in mixed:
            y[y >= 0] = rng.permutation(y[y >= 0])
        labels[part] = np.stack([*own, *mixed])
    problem = {
        "train": (x["train"] - centre) / deviation,
        "labels": labels["train"],
        "dev": (x["dev"] - centre) / deviation,
        "dev_labels": labels["dev"],
    }
    return problem, [len(task.classes) for task in tasks] * 2, folder or "an untrained nano-215k"


def one_by_one(problem: dict[str, Any], classes: list[int], training: Training, *, autograd: bool) -> Any:
    """Codelengths (layers, tasks) of probes trained one after another."""
    found = np.empty((len(problem["train"]), len(classes)))
    for layer in range(found.shape[0]):
        for t, n in enumerate(classes):
            if autograd:
                found[layer, t] = fit_with_autograd(
                    problem["train"][layer], problem["labels"][t], problem["dev"][layer], problem["dev_labels"][t],
                    classes=n, training=training, seed=[t], shared=[7],
                )  # fmt: skip
            else:
                found[layer, t] = fit_probes(
                    problem["train"][layer : layer + 1], problem["labels"][t : t + 1],
                    problem["dev"][layer : layer + 1], problem["dev_labels"][t : t + 1],
                    classes=[n], training=training, seeds=[[t]], seed=[7],
                ).codelength[0, 0]  # fmt: skip
    return found


def together(problem: dict[str, Any], classes: list[int], training: Training) -> Fitted:
    return fit_probes(**problem, classes=classes, training=training, seeds=[[t] for t in range(len(classes))], seed=[7])


def timed(function: Any, *arguments: Any, **options: Any) -> tuple[float, Any]:
    start = time.process_time()
    result = function(*arguments, **options)
    return time.process_time() - start, result


def main(folder: str | None = None, rounds: int = 3) -> None:
    torch.set_num_threads(1)
    problem, classes, what = nano_problem(folder)
    training = Training(0.05, 128, 30)
    n_layers, n, d = problem["train"].shape
    report_line(f"{what}: {n_layers} layers of width {d}, {len(classes)} tasks with controls, {n} words")
    together(problem, classes, Training(0.05, 128, 1))  # what torch does once
    ours, same, auto = [], [], []
    for _ in range(rounds):
        seconds, fitted = timed(together, problem, classes, training)
        ours.append(seconds)
        seconds, alone = timed(one_by_one, problem, classes, training, autograd=False)
        same.append(seconds)
        seconds, peer = timed(one_by_one, problem, classes, training, autograd=True)
        auto.append(seconds)
    print_ratio("torch modules with autograd, one after another, over ours", auto, ours, wanted="at least 5", place=4)
    print_ratio("our kernel, one probe after another, over all together", same, ours, wanted="at least 5", place=4)
    for name, other in (("autograd", peer), ("one by one", alone)):
        worst = np.abs(fitted.codelength / other - 1)
        report_line(
            f"  codelengths against {name}: at most {worst.max():.2%} apart, median {np.median(worst):.1e}; wanted 1 %"
        )


if __name__ == "__main__":
    main(*sys.argv[1:2])
