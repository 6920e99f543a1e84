"""Models and tokenizers out of folders, with every way in which that fails told apart."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polystab.errors import ReadError, shown
from polystab.sources.checkpoint_errors import CheckpointError, is_out_of_memory, library, memory_errors, quiet
from polystab.sources.tensor_files import is_known_buffer

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"

# One of these holds a vocabulary; without any, transformers may make an empty tokenizer and say nothing.
VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_NO_VOCABULARY_NEEDED = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")


def read_config(folder: Path) -> dict[str, Any]:
    """The ``config.json`` in a folder.

    Raises
    ------
    CheckpointError
        ``missing-config`` or ``damaged-config``.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise CheckpointError("missing-config", f"{folder} holds no {CONFIG}, which says what the model is.")
    return _json_object(path)


def load_model(folder: Path, *, device: str, dtype: str, trust_remote_code: bool) -> Any:
    """The causal language model in a folder, in evaluation mode, every weight of it from the file.

    Raises
    ------
    CheckpointError
        ``unknown-architecture``, ``mismatched-weights``, ``out-of-memory`` or ``no-device``.
    """
    torch, transformers = library("torch"), library("transformers")
    place = _device(device)
    with memory_errors(f"loading the model in {folder}"), quiet():
        try:
            model, found = transformers.AutoModelForCausalLM.from_pretrained(
                str(folder),
                dtype=torch.float32 if dtype == "auto" else getattr(torch, dtype),
                local_files_only=True,
                trust_remote_code=trust_remote_code,
                ignore_mismatched_sizes=True,  # they are told of in `found`, together with all others
                output_loading_info=True,
            )
        except Exception as error:  # what a strange config or file makes of it can be anything
            if is_out_of_memory(error):
                raise
            raise CheckpointError(
                "unknown-architecture",
                f"transformers {transformers.__version__} makes no causal language model of {folder}: "
                f"{_first_line(error)}",
            ) from error
        _require_all_weights(folder, found)
        return model.to(place).eval()


def load_tokenizer(folder: Path, *, trust_remote_code: bool) -> Any:
    """The tokenizer in a folder.

    Raises
    ------
    CheckpointError
        ``missing-tokenizer`` or ``damaged-tokenizer``.
    """
    if not any((folder / name).is_file() for name in VOCABULARIES):
        path = folder / "tokenizer_config.json"
        if not path.is_file() or _json_object(path).get("tokenizer_class") not in _NO_VOCABULARY_NEEDED:
            raise CheckpointError(
                "missing-tokenizer",
                f"{folder} holds no tokenizer: none of {shown(VOCABULARIES, 6)}. Save the tokenizer of the run there.",
            )
    transformers = library("transformers")
    with quiet():
        try:
            return transformers.AutoTokenizer.from_pretrained(
                str(folder), local_files_only=True, trust_remote_code=trust_remote_code
            )
        except Exception as error:  # tokenizers raises plain Exception
            raise CheckpointError(
                "damaged-tokenizer", f"the tokenizer in {folder} cannot be loaded: {_first_line(error)}"
            ) from error


def refuse_remote_code(folder: Path) -> None:
    """Refuse a checkpoint whose model or tokenizer is made by code that comes with it.

    Raises
    ------
    CheckpointError
        ``remote-code``.
    """
    for name in (CONFIG, "tokenizer_config.json"):
        path = folder / name
        if path.exists() and "auto_map" in _json_object(path):
            raise CheckpointError(
                "remote-code",
                f"{path} asks to run code that comes with the checkpoint (auto_map); it is refused. If you trust it, "
                "say so (trust_remote_code).",
            )


def _require_all_weights(folder: Path, found: Mapping[str, Any]) -> None:
    faults = {
        "lacks": [name for name in found["missing_keys"] if not is_known_buffer(name)],
        "has besides": [name for name in found["unexpected_keys"] if not is_known_buffer(name)],
        "has in another shape": [name for name, *_ in found["mismatched_keys"]],
    }
    told = [f"{verb} {shown(sorted(names))}" for verb, names in faults.items() if names]
    if told:
        raise CheckpointError(
            "mismatched-weights",
            f"the weights in {folder} are not those of its {CONFIG}: it {', '.join(told)}. "
            "What is missing would be random, so it is refused.",
        )


def tensors_of(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors that saving the model would write, once each, in order of name as a file has them."""
    met: set[int] = set()
    kept = []
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) not in met:
            met.add(id(tensor))
            kept.append((name, tensor))
    renamed = _names_in_files(model, dict(kept))
    for name in sorted(renamed):
        yield name, renamed[name].detach().cpu()


def _names_in_files(model: Any, tensors: dict[str, Any]) -> dict[str, Any]:
    """Tensors by the names they have in files: transformers 5 has others in memory (``lm_head`` for ``embed_out``)."""
    if not hasattr(model, "save_pretrained"):
        return tensors
    try:
        revert = library("transformers.core_model_loading").revert_weight_conversion
    except (ReadError, AttributeError):  # before transformers 5 both names are the same
        return tensors
    return dict(revert(model, tensors))


def _device(name: str) -> Any:
    torch = library("torch")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ImportError) as error:
        if is_out_of_memory(error):
            raise CheckpointError("out-of-memory", f"the device {name!r} is full: {_first_line(error)}") from error
        raise CheckpointError("no-device", f"torch cannot use the device {name!r}: {_first_line(error)}") from error
    return device


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CheckpointError("damaged-config", f"{path} cannot be read as JSON: {_first_line(error)}") from error
    if not isinstance(content, dict):
        raise CheckpointError("damaged-config", f"{path} holds a {type(content).__name__}, not an object.")
    return content


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
