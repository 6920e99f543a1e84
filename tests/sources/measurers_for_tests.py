"""Measurers that need no model, and checkpoints that are only a few bytes.

They stand at the top of a module, so that worker processes and other interpreters find them.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from polystab.errors import ReadError
from polystab.sources.checkpoints import Checkpoint
from polystab.sources.measuring import Measurement
from polystab.sources.runs import Run, RunTable


def make_checkpoints(folder: Path, *, models: int = 1, seeds: int = 2, steps: tuple[int, ...] = (0, 1, 2)) -> RunTable:
    """Local checkpoints with one small tensor each, and the table of their runs."""
    runs = []
    for model in (f"toy-{number + 1}m" for number in range(models)):
        for seed in range(seeds):
            location = str(folder / model / f"seed{seed}" / "step{step}")
            runs.append(Run(model, seed, seed, seed, location, "", steps, {"n_parameters": 4, "tokens_per_step": 10}))
            for step in steps:
                make_checkpoint(Path(location.format(step=step)), value=100.0 * seed + step)
    return RunTable(tuple(runs))


def make_checkpoint(folder: Path, *, value: float = 0.0) -> None:
    """A ``config.json`` and a safetensors file with one tensor, written by hand."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt_neox", "hidden_size": 2}))
    header = json.dumps({"weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    header += b" " * (-len(header) % 8)
    data = np.full(4, value, dtype="<f4").tobytes()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)


def value_of(checkpoint: Checkpoint) -> float:
    """The number that the checkpoint was made with, read without torch."""
    assert checkpoint.folder is not None
    return float(np.frombuffer((checkpoint.folder / "model.safetensors").read_bytes()[-4:], dtype="<f4")[0])


@dataclass
class Toy:
    """Gives the number in the checkpoint, items that depend on it, and writes a line for each measurement to ``log``."""

    name: str = "toy"
    log: str = ""
    seconds: float = 0.0
    spin: bool = False
    items: int = 6
    limit: int | None = None
    also: Mapping[str, Any] = field(default_factory=dict)

    def settings(self) -> dict[str, Any]:
        return {"items": self.items, "limit": self.limit, **self.also}

    def measure(self, checkpoint: Checkpoint) -> Measurement:
        value = value_of(checkpoint)
        self._note(checkpoint)
        self._work()
        correct = (np.arange(self.items) < value).astype(np.int8)
        items = xr.Dataset(
            {"choice": ("item", correct * 2), "correct": ("item", correct)},
            coords={
                "item": [f"{self.name}/{number}" for number in range(self.items)],
                "task": ("item", [self.name] * self.items),
                "doc_hash": ("item", [f"{self.name}{number:060d}" for number in range(self.items)]),
            },
        )
        metric = f"eval/{self.name}/acc"
        return Measurement(
            values={metric: value, f"eval/{self.name}/half": value / 2},
            stderr={metric: 0.125},
            metrics={metric: {"units": "1", "better": "higher", "n_items": self.items, "chance": 0.25}},
            details={"items": items} if self.items else {},
            provenance={"toy": "1.0"},
        )

    def _note(self, checkpoint: Checkpoint) -> None:
        if self.log:
            line = f"{self.name} {checkpoint.run.model} {checkpoint.run.seed} {checkpoint.step} {os.getpid()}\n"
            handle = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(handle, line.encode())
            os.close(handle)

    def _work(self) -> None:
        if not self.spin:
            time.sleep(self.seconds)
            return
        until = time.process_time() + self.seconds
        while time.process_time() < until:
            pass


@dataclass
class Trouble(Toy):
    """A :class:`Toy` to which something happens at some steps, named in ``when``: step to what."""

    name: str = "trouble"
    when: Mapping[int, str] = field(default_factory=dict)

    def measure(self, checkpoint: Checkpoint) -> Measurement:
        what = self.when.get(checkpoint.step, "")
        if what:
            self._note(checkpoint)
        if what == "refuse":
            raise ReadError("the model has no such layer.")
        if what == "error":
            raise ZeroDivisionError("division by zero")
        if what == "memory":
            raise MemoryError
        if what == "exit":
            sys.exit("bye")
        if what == "interrupt":
            raise KeyboardInterrupt
        if what.startswith("kill"):
            marker = Path(what.removeprefix("kill").strip() or "/nonexistent")
            if not marker.exists():
                os.kill(os.getpid(), signal.SIGKILL)
        if what == "nonsense":
            return Measurement(values={"nonsense": 1.0})
        return super().measure(checkpoint)


@dataclass
class Threads(Toy):
    """Says how many threads this process may use."""

    name: str = "threads"

    def measure(self, checkpoint: Checkpoint) -> Measurement:
        return Measurement(values={"eval/threads/count": float(os.environ.get("OMP_NUM_THREADS", "nan"))})
