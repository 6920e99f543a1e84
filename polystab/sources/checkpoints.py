"""One checkpoint: checked, then read tensor by tensor or as a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from polystab.errors import ReadError, UnknownNameError, did_you_mean, shown
from polystab.sources.checkpoint_errors import CheckpointError, is_out_of_memory, library, memory_errors
from polystab.sources.checkpoint_loading import load_model, load_tokenizer, read_config, refuse_remote_code, tensors_of
from polystab.sources.runs import Run
from polystab.sources.tensor_files import WeightFiles, check_weights, is_known_buffer, read_tensors, weight_files

if TYPE_CHECKING:
    import torch

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "CheckpointOptions",
    "is_known_buffer",
    "is_out_of_memory",
    "memory_errors",
    "open_checkpoint",
]

DTYPES = ("auto", "float32", "float16", "bfloat16", "float64")


@dataclass(frozen=True)
class CheckpointOptions:
    """How checkpoints are fetched and loaded.

    Attributes
    ----------
    cache_dir : str, optional
        Where checkpoints from the Hub are kept, in the layout of ``huggingface_hub``. Without
        it, a folder of polystab's own, never that of other tools.
    cache_limit : int, optional
        Bytes that what polystab fetched into it may take; the least recently used goes first.
    local_files_only : bool
        Never reach for the network.
    trust_remote_code : bool
        Run code that comes with a checkpoint.
    device : str
        ``"auto"``: a GPU if there is one, or any name that torch knows.
    dtype : str
        Of the loaded model: ``"auto"`` is float32.
    retries : int
        How often a request to the Hub that failed for a passing reason is tried again.
    """

    cache_dir: str | None = None
    cache_limit: int | None = None
    local_files_only: bool = False
    trust_remote_code: bool = False
    device: str = "auto"
    dtype: str = "auto"
    retries: int = 4

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UnknownNameError(f"no dtype {self.dtype!r} to load models in. {did_you_mean(self.dtype, DTYPES)}")
        if self.retries < 0 or (self.cache_limit is not None and self.cache_limit <= 0):
            raise ReadError("retries must be at least 0 and cache_limit, in bytes, above 0.")


class Checkpoint:
    """One checkpoint that can be read; made by :func:`open_checkpoint` or :meth:`of_model`.

    Use it in a ``with`` block, or close it: until then its files are kept from being
    removed from the cache.

    Attributes
    ----------
    run, step
        Whose it is.
    folder : path or None
        Where its files lie; None for a model in memory.
    sha : str
        The commit on the Hub it was fetched from; empty for local folders.
    notes : tuple of (reason, detail)
        What a person should know about how it was fetched, for the audit.
    options : CheckpointOptions
        How it is loaded.
    """

    def __init__(
        self,
        run: Run,
        step: int,
        *,
        folder: Path | None,
        sha: str = "",
        options: CheckpointOptions | None = None,
        notes: tuple[tuple[str, str], ...] = (),
        release: Callable[[], None] | None = None,
    ) -> None:
        self.run, self.step, self.folder, self.sha, self.notes = run, step, folder, sha, notes
        self.options = options or CheckpointOptions()
        self._on_close = ExitStack()
        if release is not None:
            self._on_close.callback(release)
        self._model: Any = None
        self._tokenizer: Any = None
        self._weights: WeightFiles | None = None
        self._config: dict[str, Any] | None = None
        self._finite: bool | CheckpointError = False
        self._closed = False

    @classmethod
    def of_model(cls, run: Run, step: int, model: torch.nn.Module, tokenizer: Any) -> Checkpoint:
        """A checkpoint of a model that is in memory already, such as one that is being trained.

        :meth:`model` puts it into evaluation mode, and :meth:`close` back into the mode it had.
        """
        checkpoint = cls(run, step, folder=None)
        checkpoint._model, checkpoint._tokenizer = model, tokenizer
        checkpoint._on_close.callback(model.train, model.training)
        config: Any = getattr(model, "config", None)
        checkpoint._config = config.to_dict() if hasattr(config, "to_dict") else {}
        return checkpoint

    def __repr__(self) -> str:
        return f"<Checkpoint {self.run} step {self.step} at {self.folder or 'a model in memory'}>"

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the model and of the files; nothing can be read afterwards."""
        self._closed = True
        self._model = self._tokenizer = None
        self._on_close.close()

    @property
    def config(self) -> dict[str, Any]:
        """What its ``config.json`` says."""
        if self._config is None:
            self._config = read_config(self._files())
        return self._config

    def check(self) -> None:
        """Refuse files that are missing, half-written or could run code, before anything is built from them.

        :func:`open_checkpoint` has done so already.

        Raises
        ------
        CheckpointError
            ``missing-config``, ``missing-weights``, ``missing-shard``, ``damaged-config``,
            ``damaged-weights`` or ``unsafe-pickle``.
        """
        _ = self.config
        self._weights = weight_files(self._files())
        check_weights(self._weights)

    def model(self) -> torch.nn.Module:
        """The model in evaluation mode, on the device and in the dtype of the options; loaded once.

        Raises
        ------
        CheckpointError
            ``remote-code``, ``unknown-architecture``, ``mismatched-weights`` (tensors that the
            architecture lacks, wants besides, or in another shape), ``out-of-memory`` or ``no-device``.
        """
        self._require_open()
        if self._model is None:
            self._refuse_remote_code()
            self._model = load_model(
                self._files(),
                device=self.options.device,
                dtype=self.options.dtype,
                trust_remote_code=self.options.trust_remote_code,
            )
        model: torch.nn.Module = self._model
        return model.eval()

    def tokenizer(self) -> Any:
        """Its tokenizer, loaded once.

        Raises
        ------
        CheckpointError
            ``missing-tokenizer``, ``damaged-tokenizer`` or ``remote-code``.
        """
        self._require_open()
        if self._tokenizer is None:
            if self.folder is None:
                raise CheckpointError(
                    "missing-tokenizer", f"the model of {self.run} in memory came without a tokenizer."
                )
            self._refuse_remote_code()
            self._tokenizer = load_tokenizer(self.folder, trust_remote_code=self.options.trust_remote_code)
        return self._tokenizer

    def tensors(self, *, buffers: bool = False) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and tensor of every weight, one after the other, on the CPU; no model is built.

        Parameters
        ----------
        buffers : bool, optional
            Give also the masks and rotary tables that old checkpoints hold
            (:func:`is_known_buffer`).

        Yields
        ------
        (str, torch.Tensor)
            In the dtype of the file, which may be half precision. Names and their order are
            those of the file: sorted within each. A weight that two parts of a model share
            may come once or twice, as it was saved. NaN and infinity are passed on.

        Raises
        ------
        CheckpointError
            ``damaged-weights``, ``unsafe-pickle`` or ``out-of-memory``.
        """
        self._require_open()
        if self.folder is None:
            read = tensors_of(self._model)
        else:
            self._weights = self._weights or weight_files(self.folder)
            read = read_tensors(self._weights)
        return ((name, tensor) for name, tensor in read if buffers or not is_known_buffer(name))

    def require_finite(self) -> None:
        """Refuse weights that hold NaN or infinity, whose outputs would mean nothing.

        All tensors are read once; later calls cost nothing.

        Raises
        ------
        CheckpointError
            ``non-finite``, naming the tensors.
        """
        if self._finite is False:
            torch = library("torch")
            bad = [
                name
                for name, tensor in self.tensors()
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
            ]
            self._finite = True
            if bad:
                self._finite = CheckpointError(
                    "non-finite",
                    f"{len(bad)} tensors of {self.run} step {self.step} hold NaN or infinity: {shown(bad)}. "
                    "The run has diverged, or the file is damaged; its weights can be measured, its outputs cannot.",
                )
        if isinstance(self._finite, CheckpointError):
            raise self._finite

    def _files(self) -> Path:
        self._require_open()
        if self.folder is None:
            raise ReadError(f"{self!r} has no files.")
        return self.folder

    def _require_open(self) -> None:
        if self._closed:
            raise ReadError(f"{self!r} is closed.")

    def _refuse_remote_code(self) -> None:
        if self.folder is not None and not self.options.trust_remote_code:
            refuse_remote_code(self.folder)


def open_checkpoint(run: Run, step: int, *, options: CheckpointOptions | None = None) -> Checkpoint:
    """Find, or fetch, one checkpoint of a run and check its files.

    Parameters
    ----------
    run : Run
        Says where it lies.
    step : int
        Of the checkpoint.
    options : CheckpointOptions, optional
        How it is fetched and loaded.

    Returns
    -------
    Checkpoint
        Nothing is loaded yet. Close it, or use it in a ``with`` block.

    Raises
    ------
    CheckpointError
        ``missing-checkpoint``, what :meth:`Checkpoint.check` raises, or, for the Hub, what
        :func:`polystab.sources.hub.fetch` raises.
    """
    options = options or CheckpointOptions()
    if run.on_hub:
        from polystab.sources.hub import fetch

        fetched = fetch(run.place(step), run.revision_at(step), options)
        checkpoint = Checkpoint(
            run,
            step,
            folder=fetched.folder,
            sha=fetched.sha,
            options=options,
            notes=fetched.notes,
            release=fetched.release,
        )
    else:
        folder = Path(run.place(step)).expanduser()
        if not folder.is_dir():
            what = "is a file, not a folder" if folder.exists() else "does not exist"
            raise CheckpointError("missing-checkpoint", f"step {step} of {run} is not there: {folder} {what}.")
        checkpoint = Checkpoint(run, step, folder=folder, options=options)
    try:
        checkpoint.check()
    except BaseException:
        checkpoint.close()
        raise
    return checkpoint
