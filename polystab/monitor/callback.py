"""A callback of the Hugging Face ``Trainer`` that says when a run goes wrong."""

# The trainer passes these arguments by name, used or not.
# ruff: noqa: ARG002

from __future__ import annotations

import logging
import os
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polystab.analysis.options import check_shares, check_whole
from polystab.errors import ReadError
from polystab.monitor.features import LogitSize, SpectralNorms
from polystab.monitor.logbook import ENDED, SAID, Logbook
from polystab.monitor.reference import Reference
from polystab.monitor.watcher import Finding, RunWatcher
from polystab.redaction import without_secrets
from polystab.sources.metric_names import training_metric

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    raise ReadError(
        f"StabilityCallback needs {error.name}; install it with: pip install 'polystab[fill]'. "
        "polystab watch LOG needs nothing more than polystab."
    ) from error

if TYPE_CHECKING:
    import torch
    import xarray as xr
    from transformers import TrainerControl, TrainerState, TrainingArguments

LOG_NAME = "polystab_log.jsonl"

_logger = logging.getLogger("polystab.monitor")


class StabilityCallback(TrainerCallback):
    """Follow a run while it trains; log, and if you like stop, when it goes wrong.

    Parameters
    ----------
    reference : Reference, cube, str, optional
        Past runs of the recipe: a :class:`Reference`, or a cube (or name or path of one) with one model. Without it the
        run is compared with its own past.
    every : int, optional
        Steps from one look at the model to the next. Loss and gradient norm come whenever the trainer logs.
    stop : bool, optional
        Whether an alarm stops training (``control.should_training_stop``).
    budget : float, optional
        Share of the time of training steps that the callback may take. A look that would go over it is put off.
    log_path : path, optional
        The training log; by default ``polystab_log.jsonl`` in the trainer's output folder.
    matrices : str or None, optional
        Regular expression for the parameters whose spectral norms are followed; None for a dozen of the first, middle
        and last layer; an empty text for none.
    **watching
        ``own_past``, ``window``, ``sd``, ``sustain`` of :class:`RunWatcher`.

    Attributes
    ----------
    watcher : RunWatcher
        What was said, and the alarms.
    n_looks, n_put_off : int
        Looks at the model, and those that the budget put off.

    Raises
    ------
    AnalysisError
        An argument out of range, or a reference that cannot be one.

    Notes
    -----
    The log has a row whenever something is measured: what the trainer logs, ``weight/<matrix>/spectral_norm`` and
    ``activation/embed_out/max_abs`` (the largest output logit in size, in the step's own forward pass), and a row
    ``said`` for every finding. ``polystab read training-log`` makes a cube of it, which is a reference for the next run. A run that goes
    on from a checkpoint goes on in its log; another run's log is kept as ``.old``.

    Looks are at multiples of ``every``. One is put off while the time spent so far and the cost of the last look
    would be over ``budget`` of the time spent in training steps; only the first look, whose cost is not known, can overdraw it.

    The trainer replaces losses that are not finite by the mean of those before (``logging_nan_inf_filter``): a
    divergence then shows in the gradient norm and the logits. Only the main process measures; where several train together and ``stop`` is set,
    they agree on stopping at multiples of ``every``. Weights that are spread over processes (FSDP, ZeRO 3) are not followed.

    Examples
    --------
    >>> from polystab.monitor import StabilityCallback
    >>> callback = StabilityCallback("nano-cube.nc", stop=True)  # doctest: +SKIP
    >>> trainer = Trainer(model, args, train_dataset=data, callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(
        self,
        reference: Reference | xr.Dataset | xr.DataTree | str | os.PathLike[str] | None = None,
        *,
        every: int = 10,
        stop: bool = False,
        budget: float = 0.02,
        log_path: str | os.PathLike[str] | None = None,
        matrices: str | None = None,
        **watching: Any,
    ) -> None:
        check_whole("every", every, 1)
        check_shares(budget=budget)
        if reference is not None and not isinstance(reference, Reference):
            reference = Reference(reference, sustain=watching.get("sustain") or 3)
        self.reference, self.every, self.stop, self.budget = reference, every, stop, budget
        self.log_path = None if log_path is None else Path(log_path)
        self.matrices, self._watching = matrices, watching
        self.watcher = RunWatcher(reference, **watching)
        self.n_looks = self.n_put_off = 0
        self.own_seconds = self.step_seconds = 0.0
        self._last_cost = self._step_began = 0.0
        self._logbook: Logbook | None = None
        self._norms: SpectralNorms | None = None
        self._logits: LogitSize | None = None

    @property
    def alarms(self) -> list[Finding]:
        """The alarms so far."""
        return self.watcher.alarms

    @property
    def share(self) -> float:
        """Time that the callback took, over the time of the training steps without it."""
        return self.own_seconds / self.step_seconds if self.step_seconds else 0.0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Open the log; a run that goes on from a checkpoint is caught up with."""
        self.watcher = RunWatcher(self.reference, **self._watching)
        self.n_looks = self.n_put_off = 0
        self.own_seconds = self.step_seconds = self._last_cost = 0.0
        if not state.is_world_process_zero:
            return control
        self.log_path = self.log_path or Path(args.output_dir or ".") / LOG_NAME
        self._logbook = Logbook(self.log_path)
        for row in self._logbook.start(state.global_step):
            self.watcher.update(row["step"], _measured(row))
        self.watcher.findings.clear()
        if self.reference is not None:
            _logger.info("Comparing with %r. %s", self.reference, " ".join(self.reference.notes))
        self._follow(kwargs["model"])
        return control

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Look at the logits of this step if it is due."""
        self._step_began = time.perf_counter()
        if self._logits is not None and self._due(state.global_step + 1):
            self._logits.due = True
        return control

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Look at the model if it is due."""
        if state.is_world_process_zero:
            if state.global_step % self.every == 0:
                _wait_for(kwargs["model"])
            began = time.perf_counter()
            in_hook = 0.0 if self._logits is None else self._logits.seconds
            self.step_seconds += began - self._step_began - in_hook
            if state.global_step % self.every == 0:
                self._look(state.global_step, began, in_hook)
            self.own_seconds += time.perf_counter() - began + in_hook
        if self.stop and state.global_step % self.every == 0 and _any_process(bool(self.alarms), args):
            control.should_training_stop = True
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> TrainerControl:
        """Take what the trainer logs; its closing summary is none of a step."""
        if not state.is_world_process_zero or not logs or "train_runtime" in logs:
            return control
        began = time.perf_counter()
        self._take(state.global_step, {name: value for name, value in logs.items() if name != "step"})
        self.own_seconds += time.perf_counter() - began
        if self.stop and self.alarms and args.world_size == 1:
            control.should_training_stop = True
        return control

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """Close the log."""
        if self._logits is not None:
            self._logits.close()
        if self._logbook is not None:
            self._logbook.write({"step": state.global_step, SAID: ENDED})
            self._logbook.close()
            _logger.info(
                "Monitored %d steps: %d looks, %d put off, %.2g %% of the time of training steps, %d alarms; %s.",
                state.global_step, self.n_looks, self.n_put_off, 100 * self.share, len(self.alarms),
                without_secrets(str(self.log_path)),
            )  # fmt: skip
        return control

    def _follow(self, model: torch.nn.Module) -> None:
        self._logits = LogitSize(model)
        self._norms = None if self.matrices == "" else SpectralNorms(model, matrices=self.matrices)
        if self._norms is not None and self._norms.left_out:
            _logger.warning(
                "%d weights are spread over processes, and their spectral norms not followed.",
                len(self._norms.left_out),
            )

    def _due(self, step: int) -> bool:
        return step % self.every == 0 and self.own_seconds + self._last_cost <= self.budget * self.step_seconds

    def _look(self, step: int, began: float, in_hook: float) -> None:
        """Measure the model, unless that would take too long."""
        if not self._due(step) and not (self._logits is not None and self._logits.due):
            self.n_put_off += 1
            return
        found = {} if self._logits is None else self._logits.measure()
        if self._norms is not None:
            found |= self._norms.measure()
        self._take(step, found)
        if self._logits is not None:
            self._logits.seconds = 0.0
        self.n_looks += 1
        self._last_cost = time.perf_counter() - began + in_hook

    def _take(self, step: int, row: dict[str, Any]) -> None:
        """Write a row, and say what there is to say about it."""
        row = {_public(name): float(value) for name, value in row.items() if _is_number(value)}
        if not row or self._logbook is None:
            return
        self._logbook.write({"step": step, **row})
        for finding in self.watcher.update(step, _measured(row)):
            _logger.log(logging.WARNING if finding.alarm else logging.INFO, "%s", finding.message)
            self._logbook.write({"step": step, SAID: finding.rule, "alarm": finding.alarm, "message": finding.message})


_metric_of = lru_cache(maxsize=4096)(training_metric)
_public = lru_cache(maxsize=4096)(without_secrets)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, str | bool)


def _measured(row: dict[str, Any]) -> dict[str, float]:
    """The columns of a row that are metrics, by metric id."""
    named = {name: _metric_of(name) for name in row}
    return {metric: float(row[name]) for name, metric in named.items() if metric and _is_number(row[name])}


def _wait_for(model: torch.nn.Module) -> None:
    """Let the GPU finish the step, so that its time is not taken for ours."""
    import torch

    weight = next(model.parameters(), None)
    if weight is not None and weight.device.type == "cuda":
        torch.cuda.synchronize(weight.device)


def _any_process(alarmed: bool, args: TrainingArguments) -> bool:
    """Whether the main process has an alarm, told to all: one that stopped alone would leave the others waiting."""
    if args.world_size == 1:
        return alarmed
    import torch

    flag = torch.tensor([int(alarmed)], device=args.device)
    torch.distributed.broadcast(flag, src=0)
    return bool(flag.item())
