"""How reading a checkpoint fails, and the libraries that reading one needs."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from polystab.errors import ReadError, ReasonedError

# What allocators of torch say in a plain RuntimeError.
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "not enough memory")


class CheckpointError(ReasonedError):
    """A checkpoint cannot be used.

    Reasons: ``missing-checkpoint``, ``missing-revision``, ``missing-config``, ``missing-weights``,
    ``missing-shard``, ``missing-tokenizer``, ``damaged-config``, ``damaged-weights``, ``damaged-tokenizer``,
    ``unsafe-pickle``, ``remote-code``, ``mismatched-weights``, ``unknown-architecture``, ``non-finite``,
    ``out-of-memory``, ``no-device``, ``gated``, ``unreachable``, ``not-cached``, ``no-space``,
    ``unwritable-cache``.
    """


def library(name: str) -> Any:
    """A module of the optional install ``fill``, imported now.

    Raises
    ------
    ReadError
        It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ReadError(
            f"reading checkpoints needs {error.name}; install it with: pip install 'polystab[fill]'."
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory, of the machine or of a GPU, did not suffice."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error).lower() for text in _NO_MEMORY)


@contextmanager
def memory_errors(doing: str) -> Iterator[None]:
    """Turn a lack of memory within the block into a :class:`CheckpointError` ``out-of-memory``.

    ``doing`` says what was being done, e.g. ``"loading the model in folder"``.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(
            "out-of-memory",
            f"memory did not suffice while {doing}: {said}. Run fewer processes at once, use another device, or take "
            "a smaller batch or dtype.",
        ) from error


@contextmanager
def quiet(*, transformers: bool = True) -> Iterator[None]:
    """Keep the Hugging Face libraries from writing to the terminal within the block; their settings are put back."""
    with ExitStack() as put_back, warnings.catch_warnings():
        # Where an environment variable settles progress bars, asking for anything else only warns.
        warnings.filterwarnings("ignore", message="Cannot (en|dis)able progress bars")
        hub = library("huggingface_hub.utils")
        hub_log = library("huggingface_hub.utils.logging")
        put_back.callback(hub_log.set_verbosity, hub_log.get_verbosity())
        hub_log.set_verbosity_error()
        if not hub.are_progress_bars_disabled():
            put_back.callback(hub.enable_progress_bars)
            hub.disable_progress_bars()
        if transformers:
            log = library("transformers.utils.logging")
            put_back.callback(log.set_verbosity, log.get_verbosity())
            log.set_verbosity_error()
            if log.is_progress_bar_enabled():
                # Put back first, for it turns on those of huggingface_hub as well.
                put_back.callback(hub.disable_progress_bars)
                put_back.callback(log.enable_progress_bar)
                log.disable_progress_bar()
        yield
