"""Training one run of a suite: deterministic, resumable, logged at every step."""

from __future__ import annotations

import math
import os
import pickle  # for the name of its error
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from polystab.errors import OutputError, ReadError
from polystab.files import atomic_path, flush, write_text
from polystab.sources.checkpoint_errors import quiet
from polystab.sources.measuring import Measurement
from polystab.suites.beginnings import first_weights
from polystab.suites.grammar import corpus
from polystab.suites.models import new_model
from polystab.suites.recipes import Recipe, SuiteRun

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

# Documents on which the validation loss is measured, from a corpus seed that no suite trains on.
VALIDATION_DOCUMENTS = 256
VALIDATION_SEED = 999

# Without it, matrix products on a GPU are refused while deterministic algorithms are asked for.
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@dataclass
class TrainingLog:
    """Loss (nats per token) and gradient norm of every update so far, the norm before clipping."""

    loss: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)

    def since(self, step: int) -> tuple[float, float]:
        """Mean loss and gradient norm of the updates from ``step`` on."""
        return float(np.mean(self.loss[step:])), float(np.mean(self.grad_norm[step:]))


@dataclass
class Training:
    """A run between two updates.

    Attributes
    ----------
    run : SuiteRun
    model : torch.nn.Module
    log : TrainingLog
        One entry for each update made; its length is the step.
    """

    run: SuiteRun
    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    log: TrainingLog

    @property
    def step(self) -> int:
        """Updates made so far."""
        return len(self.log.loss)

    @property
    def diverged(self) -> bool:
        """Whether the last loss or gradient was not finite; nothing is to be learned from going on."""
        return bool(self.log.loss) and not (math.isfinite(self.log.loss[-1]) and math.isfinite(self.log.grad_norm[-1]))


def start(run: SuiteRun, *, device: str = "cpu") -> Training:
    """A run before its first update."""
    import torch

    model = new_model(run.recipe, run.weight_seed)
    if run.beginning is not None:
        model.load_state_dict(first_weights(run.beginning, model, rng=run.weight_seed))
    model = model.to(device)
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": run.recipe.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=run.recipe.learning_rate,
        betas=(run.recipe.beta1, run.recipe.beta2),
        eps=1e-8,
        foreach=True,
    )
    return Training(run, model, optimizer, TrainingLog())


def advance(training: Training, until: int) -> Iterator[int]:
    """Make updates until ``until`` or divergence; yields the step after each.

    Batch k of a run holds the documents at places k b to (k + 1) b of the corpus in the
    order drawn from the run's data seed.
    """
    import torch

    recipe = training.run.recipe
    documents, order = _documents(recipe), _order(recipe, training.run.data_seed)
    device = next(training.model.parameters()).device
    parameters = [p for group in training.optimizer.param_groups for p in group["params"]]
    while training.step < until and not training.diverged:
        step = training.step
        for group in training.optimizer.param_groups:
            group["lr"] = recipe.rate(step)
        chosen = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
        words = torch.from_numpy(documents[chosen].astype(np.int64)).to(device)
        loss = training.model(input_ids=words, labels=words).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, recipe.clip or math.inf, foreach=True)
        training.optimizer.step()
        training.optimizer.zero_grad()
        training.log.loss.append(loss.item())
        training.log.grad_norm.append(norm.item())
        yield training.step


@lru_cache(maxsize=2)
def _documents(recipe: Recipe) -> npt.NDArray[np.int16]:
    return _corpus(recipe.steps * recipe.batch_size, recipe.context, recipe.corpus_seed)


@lru_cache(maxsize=4)
def _corpus(n: int, length: int, seed: int) -> npt.NDArray[np.int16]:
    return corpus(n, length, rng=seed)


@lru_cache(maxsize=2)
def _order(recipe: Recipe, data_seed: int) -> npt.NDArray[np.int64]:
    return np.random.default_rng(data_seed).permutation(recipe.steps * recipe.batch_size)


def validation_loss(training: Training) -> float:
    """Cross-entropy in nats per token on documents that no run is trained on."""
    import torch

    recipe = training.run.recipe
    device = next(training.model.parameters()).device
    documents = torch.from_numpy(_corpus(VALIDATION_DOCUMENTS, recipe.context, VALIDATION_SEED).astype(np.int64))
    with torch.no_grad():
        words = documents.to(device)
        return float(training.model(input_ids=words, labels=words).loss.item())


def measure_losses(training: Training, since: int) -> Measurement:
    """What training itself says at a checkpoint.

    The training loss and the gradient norm are means over the updates since the
    checkpoint at step ``since``; at step 0 there is only the validation loss. The
    provenance says what finished weights the run began with, if it did.
    """
    lower = {"units": "nat", "better": "lower"}
    found = Measurement()
    begun = training.run.beginning
    if begun is not None:
        told = f"{begun.how}, vectors {begun.vectors}, rng {training.run.weight_seed}, of weights {begun.digest[:16]}"
        found.provenance["init"] = told
    found.values["loss/validation/cross_entropy"] = validation_loss(training)
    found.metrics["loss/validation/cross_entropy"] = lower
    if training.step:
        loss, norm = training.log.since(since)
        found.values |= {"loss/train/cross_entropy": loss, "gradient/all/norm": norm}
        found.metrics |= {"loss/train/cross_entropy": lower, "gradient/all/norm": {"units": "", "better": ""}}
    return found


def save_state(training: Training, path: str | os.PathLike[str]) -> None:
    """Write all that is needed to go on, atomically."""
    import torch

    state = {
        "model": training.model.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "loss": training.log.loss,
        "grad_norm": training.log.grad_norm,
    }
    with atomic_path(path) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # so torch reports a full disk
            raise OutputError(f"cannot write {path}: {str(error).splitlines()[0]}. Is the disk full?") from error


def save_checkpoint(training: Training, tokenizer: Any, folder: Path) -> None:
    """Write weights and tokenizer as Hugging Face does, into a folder that is there whole or not at all."""
    unfinished = folder.with_name(f".{folder.name}.part")  # ours alone, as whoever trains has claimed the run
    model: Any = training.model
    try:
        shutil.rmtree(unfinished, ignore_errors=True)
        with quiet():
            model.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
        for path in unfinished.iterdir():
            flush(path)
        if folder.exists():  # a process was killed between writing it and saying so
            shutil.rmtree(folder)
        unfinished.rename(folder)
    except Exception as error:  # of a full disk, tokenizers says no more than that
        shutil.rmtree(unfinished, ignore_errors=True)
        raise OutputError(f"cannot write {folder}: {error}. Is the disk full?") from error


def resume(run: SuiteRun, path: str | os.PathLike[str], *, device: str = "cpu") -> Training:
    """The run as :func:`save_state` left it, or a new one if there is no such file.

    Raises
    ------
    ReadError
        The file is damaged.
    """
    import torch

    training = start(run, device=device)
    if Path(path).exists():
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True, map_location=device)
        except (OSError, EOFError, RuntimeError, ValueError, LookupError, pickle.UnpicklingError) as error:
            raise ReadError(
                f"{path}, from which the run goes on, is damaged ({type(error).__name__}). Remove it, and the run begins anew."
            ) from error
        training.model.load_state_dict(state["model"])
        training.optimizer.load_state_dict(state["optimizer"])
        training.log = TrainingLog(state["loss"], state["grad_norm"])
    return training


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove what is left of writing a file when the process that wrote it was killed."""
    for part in Path(path).parent.glob(f".{Path(path).name}.*.part"):
        part.unlink(missing_ok=True)


def write_log(training: Training, path: str | os.PathLike[str]) -> None:
    """Write the log as CSV, one row an update, as ``polystab read training-log`` reads it."""
    recipe = training.run.recipe
    rows = (
        f"{step + 1},{loss:.9g},{norm:.9g},{recipe.rate(step):.9g}\n"
        for step, (loss, norm) in enumerate(zip(training.log.loss, training.log.grad_norm, strict=True))
    )
    write_text(path, "step,loss,grad_norm,learning_rate\n" + "".join(rows))


def reproducibly(work: Callable[[], Any]) -> Any:
    """Call ``work`` with deterministic algorithms on one thread, then put the settings back.

    Sums over several threads depend on their number, and so would the weights.
    """
    import torch

    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    only_warned = torch.is_deterministic_algorithms_warn_only_enabled()
    workspace = os.environ.get(_WORKSPACE)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    os.environ.setdefault(_WORKSPACE, ":4096:8")
    try:
        return work()
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic, warn_only=only_warned)
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)
