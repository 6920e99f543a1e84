"""Running the lm-evaluation-harness without its chatter, and without a trace in the process.

The harness prints, warns, logs, draws progress bars and seeds the global generators.
Here all of that is put back as it was: a trainer may evaluate in the middle of training.
"""

from __future__ import annotations

import functools
import logging
import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polystab.errors import ReadError

if TYPE_CHECKING:
    import torch

# Loggers whose words are for the harness's own command line.
_TALKATIVE = ("lm_eval", "transformers", "datasets", "evaluate", "huggingface_hub", "accelerate", "httpx", "filelock")

# Seeds of `lm_eval.simple_evaluate`, so that tasks that draw by chance give what they give there.
PYTHON_SEED = 0
NUMPY_SEED = 1234
TORCH_SEED = 1234
FEWSHOT_SEED = 1234


def import_harness() -> Any:
    """The module ``lm_eval``.

    Raises
    ------
    ReadError
        It, or something it needs, is not installed.
    """
    try:
        with _silent_streams():
            import lm_eval
            import lm_eval.models.huggingface
            import lm_eval.tasks
    except ModuleNotFoundError as error:
        raise ReadError(
            f"evaluating needs {error.name}, which is not installed; install it with: pip install 'polystab[fill]'."
        ) from error
    return lm_eval


@contextmanager
def undisturbed(device: torch.device | None = None) -> Iterator[None]:
    """Silence the harness, and put streams, warnings, log levels and random states back at the end.

    Parameters
    ----------
    device : torch.device, optional
        Where the model is: a GPU has a random state of its own.
    """
    import_harness()  # libraries set up their loggers on import; what is put back must be later than that
    levels = {name: logging.getLogger(name).level for name in _TALKATIVE}
    try:
        for name in levels:
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        with _silent_streams(), _own_randomness(device), _templates_compiled_once():
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _silent_streams() -> Iterator[None]:
    # Progress bars write to the standard error they find when they are made.
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        warnings.catch_warnings(),
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _own_randomness(device: torch.device | None) -> Iterator[None]:
    """Seed the global generators as the harness does, and put their states back."""
    import torch

    gpus = [device] if device is not None and device.type == "cuda" else []
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 (kept only to be put back)
    try:
        with torch.random.fork_rng(devices=gpus):
            random.seed(PYTHON_SEED)
            np.random.seed(NUMPY_SEED)  # noqa: NPY002 (tasks of the harness draw from it)
            torch.manual_seed(TORCH_SEED)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002


@contextmanager
def _templates_compiled_once() -> Iterator[None]:
    """Keep compiled prompt templates: the harness compiles the same text again for every document."""
    from lm_eval import utils

    environment = getattr(utils, "env", None)
    if environment is None or "from_string" in vars(environment):
        yield
        return
    environment.from_string = functools.lru_cache(maxsize=4096)(environment.from_string)
    try:
        yield
    finally:
        del environment.from_string
