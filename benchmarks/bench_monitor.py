"""The live monitor: its share of step time, its false alarms, and what it finds in runs that went wrong.

Peers measured in the same run: the same training without the callback, an exact SVD of the same matrices, and the plain rule
"outside mean plus-minus 2 SD of the past runs at one step".
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import numpy as np
from harness import print_ratio, report_line

LOSS, NORM = "loss/train/cross_entropy", "gradient/all/norm"

MODELS = {
    "96 thousand parameters, 24 x 64 tokens": {"hidden": 48, "layers": 3, "words": 256, "batch": 24, "length": 64},
    "2 million parameters, 4 x 128 tokens": {"hidden": 192, "layers": 4, "words": 1024, "batch": 4, "length": 128},
}


def curves(runs: int, steps: int, rng: Any, *, rho: float, falling: bool) -> Any:
    """Losses (run, step): a level that falls or stays, AR(1) noise."""
    noise = rng.standard_normal((runs, steps))
    for t in range(1, steps):
        noise[:, t] = rho * noise[:, t - 1] + np.sqrt(1 - rho**2) * noise[:, t]
    level = 3 + 4 * np.exp(-np.arange(steps) / (steps / 8)) if falling else np.full(steps, 3.0)
    return level + 0.05 * noise


def own_past_alarms(sets: int, *, steps: int = 1000) -> None:
    """Share of healthy curves in which a run's own past raises an alarm."""
    from polystab.monitor import OwnPast

    for rho in (0.0, 0.5, 0.9):
        for falling in (False, True):
            alarmed = 0
            for curve in curves(sets, steps, np.random.default_rng([int(10 * rho), falling]), rho=rho, falling=falling):
                past = OwnPast()
                alarmed += any(said.alarm for value in curve for said in past.add(float(value)))
            report_line(
                f"own past, lag-1 correlation {rho:g}, {'falling' if falling else 'flat'}: alarm in {alarmed} of {sets} "
                f"healthy curves of {steps:,} values (wanted at most 1 %)"
            )


def tree_of(loss: Any, norm: Any) -> Any:
    """A cube with a log, of losses and norms (run, step)."""
    import xarray as xr

    from polystab.testing.drawing import bare_cube

    steps = np.arange(1, loss.shape[1] + 1)
    cube = bare_cube(np.stack([loss, norm], axis=-1)[None], ["a"], steps, [LOSS, NORM])
    return xr.DataTree.from_dict({"/": cube})


def band_alarms(sets: int, *, steps: int = 200) -> None:
    """Share of healthy runs that the band flags, against the plain rule."""
    from polystab.monitor import Reference, RunWatcher

    for n in (5, 9, 19):
        ours = plain = 0
        for i in range(sets):
            rng = np.random.default_rng([n, i])
            loss = curves(n + 1, steps, rng, rho=0.5, falling=True)
            norm = np.exp(0.3 * curves(n + 1, steps, rng, rho=0.5, falling=False) * 4)
            watcher = RunWatcher(Reference(tree_of(loss[1:], norm[1:])), own_past=False)
            for t in range(0, steps, 2):
                watcher.update(t + 1, {LOSS: loss[0, t], NORM: norm[0, t]})
            ours += bool(watcher.alarms)
            past = loss[1:]
            plain += bool((np.abs(loss[0] - past.mean(axis=0)) > 2 * past.std(axis=0, ddof=1)).any())
        report_line(
            f"band, {n} past runs: alarm in {ours} of {sets} healthy runs = {100 * ours / sets:.1f} % "
            f"(stated: at most {100 / (n + 1):.1f} %); 2 SD at any one step: {100 * plain / sets:.0f} %"
        )


def bundled(name: str, every: int) -> None:
    """Every run of a bundled cube as if it were live, the others of its model as past runs."""
    import xarray as xr

    import polystab as ps
    from polystab.analysis import failed_runs
    from polystab.errors import AnalysisError
    from polystab.monitor import Reference, RunWatcher

    tree = ps.load_tree(name).load()
    failed, log, cube = failed_runs(tree), tree["log"].to_dataset(), tree.to_dataset()
    counts = dict.fromkeys(("good", "band", "own", "wrong", "caught by band", "caught", "before the rule"), 0)
    stated = []
    for model in cube["model"].values:
        for seed in cube["seed"].values:
            others = [s for s in cube["seed"].values if s != seed]
            past = xr.DataTree.from_dict({"/": cube.sel(seed=others), "/log": log.sel(seed=others)})
            try:
                reference = Reference(past, model=str(model), metrics=[LOSS, NORM])
            except AnalysisError:
                reference = None
            watcher, run = RunWatcher(reference), log.sel(model=model, seed=seed)
            for i in range(every - 1, log.sizes["update"], every):
                watcher.update(int(log["update"][i]), {LOSS: float(run["loss"][i]), NORM: float(run["grad_norm"][i])})
            band = [alarm.step for alarm in watcher.alarms if alarm.rule == "band"]
            any_alarm = [alarm.step for alarm in watcher.alarms]
            verdict = failed.sel(model=model, seed=seed)
            if bool(verdict["wrong"]):
                counts["wrong"] += 1
                counts["caught by band"] += bool(band)
                counts["caught"] += bool(any_alarm)
                counts["before the rule"] += bool(any_alarm) and min(any_alarm) < float(verdict["seen_at"])
            else:
                counts["good"] += 1
                counts["band"] += bool(band)
                counts["own"] += len(any_alarm) > len(band)
                stated.append(1.0 if reference is None else reference.false_alarm)
    report_line(
        f"{name}, logged every {every}: false alarms by band {counts['band']} and by own past {counts['own']} of "
        f"{counts['good']} good runs (stated for the band: {100 * np.mean(stated):.0f} %); of {counts['wrong']} runs that "
        f"went wrong {counts['caught']} caught ({counts['caught by band']} by the band), {counts['before the rule']} before the "
        "rule that defines wrong could say so"
    )


def raised_rate() -> None:
    """Runs of nano-edge at higher learning rates, compared with the good ones at 0.3."""
    import polystab as ps
    from polystab.analysis import failed_runs
    from polystab.monitor import Reference, RunWatcher

    tree = ps.load_tree("nano-edge").load()
    failed, log = failed_runs(tree), tree["log"].to_dataset()
    reference = Reference(tree, model="nano-96k-lr0.3", metrics=[LOSS, NORM])
    for model in ("nano-96k-lr0.4", "nano-96k-lr0.5"):
        wrong = caught = before = 0
        for seed in log["seed"].values:
            watcher, run = RunWatcher(reference), log.sel(model=model, seed=seed)
            for step, loss, norm in zip(log["update"].values, run["loss"].values, run["grad_norm"].values, strict=True):
                watcher.update(int(step), {LOSS: float(loss), NORM: float(norm)})
            verdict, at = failed.sel(model=model, seed=seed), [alarm.step for alarm in watcher.alarms]
            if bool(verdict["wrong"]):
                wrong += 1
                caught += bool(at)
                before += bool(at) and min(at) < float(verdict["seen_at"])
        report_line(
            f"{model} against {len(reference.runs)} good runs at 0.3: {caught} of {wrong} runs that went wrong caught, "
            f"{before} before the rule could say so"
        )


def trained(sizes: dict[str, int], steps: int, callback: Any) -> float:
    """Processor seconds of training a small GPT-NeoX with the Hugging Face trainer, on one thread."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PrinterCallback, Trainer, TrainingArguments

    torch.manual_seed(0)
    torch.set_num_threads(1)
    hidden, length = sizes["hidden"], sizes["length"]
    config = GPTNeoXConfig(
        vocab_size=sizes["words"], hidden_size=hidden, num_hidden_layers=sizes["layers"], num_attention_heads=4,
        intermediate_size=4 * hidden, max_position_embeddings=length, use_cache=False,
    )  # fmt: skip
    words = torch.randint(0, sizes["words"], (64, length))
    data = [{"input_ids": row, "labels": row} for row in words]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=sizes["batch"], learning_rate=1e-4, logging_steps=10,
            report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = Trainer(GPTNeoXForCausalLM(config), arguments, train_dataset=data)
        trainer.remove_callback(PrinterCallback)
        if callback is not None:
            trainer.add_callback(callback)
        start = time.process_time()
        trainer.train()
        return time.process_time() - start


def share_of_step_time(repeats: int, steps: int) -> None:
    from polystab.monitor import Reference, StabilityCallback

    reference = Reference("nano", model="nano-96k")
    for name, sizes in MODELS.items():
        bare, ours, shares = [], [], []
        for _ in range(repeats):
            bare.append(trained(sizes, steps, None))
            callback = StabilityCallback(reference, every=10)
            ours.append(trained(sizes, steps, callback))
            shares.append(callback.share)
        report_line(f"{name}: {callback.n_looks} looks, {callback.n_put_off} put off")
        print_ratio(
            "  limit of 2 % over the callback's share of the time of training steps, by its own clock",
            [2.0], [100 * share for share in shares], wanted="above 1", unit="%", names=("limit", "ours"), place=7,
        )  # fmt: skip
        print_ratio(
            f"{name}, training with the callback over without", ours, bare, wanted="at most 1.02x",
            names=("with", "without"),
        )  # fmt: skip


def power_iteration_against_svd(repeats: int) -> None:
    import torch

    from polystab.monitor.features import SpectralNorms

    torch.manual_seed(0)
    model = torch.nn.Sequential(*(torch.nn.Linear(512, 2048) for _ in range(4)))
    norms = SpectralNorms(model)
    norms.measure()
    exact, ours = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        truth = [float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) for layer in model]
        exact.append(time.perf_counter() - start)
        start = time.perf_counter()
        found = list(norms.measure().values())
        ours.append(time.perf_counter() - start)
    print_ratio("spectral norms of four 2048 x 512 matrices, SVD over power iteration", exact, ours, wanted="over 20x")
    report_line(f"  largest error of the estimates: {max(1 - f / t for f, t in zip(found, truth, strict=True)):.2%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=500, help="simulated healthy runs each")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--only", choices=["own", "band", "bundled", "raised", "share", "svd"])
    arguments = parser.parse_args()
    parts = {
        "svd": lambda: power_iteration_against_svd(arguments.repeats),
        "share": lambda: share_of_step_time(arguments.repeats, arguments.steps),
        "bundled": lambda: [bundled(name, every) for name in ("nano", "nano-edge") for every in (1, 10)],
        "raised": raised_rate,
        "band": lambda: band_alarms(arguments.sets),
        "own": lambda: own_past_alarms(arguments.sets),
    }
    for name, part in parts.items():
        if arguments.only in (None, name):
            part()


if __name__ == "__main__":
    main()
