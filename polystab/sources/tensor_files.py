"""The weights of a checkpoint as files: found, checked, and read tensor by tensor.

Nothing here builds a model. Safetensors are mapped and read one tensor at a time; what
``torch.save`` wrote is mapped where its format allows, and only ever unpickled with
``weights_only=True``.
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from polystab.errors import shown
from polystab.sources.checkpoint_errors import CheckpointError, is_out_of_memory, library, memory_errors

if TYPE_CHECKING:
    import torch

# By preference; the same as that of transformers.
SAFETENSORS, SAFETENSORS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
WEIGHT_FILES = (SAFETENSORS, SAFETENSORS_INDEX, PICKLE, PICKLE_INDEX)

# Masks and tables that older versions of transformers saved among the weights; no model has them as parameters.
_BUFFERS = re.compile(
    r"(.*\.)?((attn|attention|self_attn|self_attention)\.(masked_)?bias|rotary_emb\.inv_freq|position_ids)"
)

# The safetensors format limits its header to this many bytes.
_LONGEST_HEADER = 100_000_000
_LFS_POINTER = b"version https://git-lfs"
_ZIP = b"PK\x03\x04"


@dataclass(frozen=True)
class WeightFiles:
    """The files that hold the weights of one checkpoint.

    Attributes
    ----------
    kind : {"safetensors", "pickle"}
    files : tuple of path
        In the order in which they are read.
    names : mapping of file name to set of str, or None
        Which tensors of a file count; None: all.
    """

    kind: Literal["safetensors", "pickle"]
    files: tuple[Path, ...]
    names: dict[str, frozenset[str]] | None = None


def is_known_buffer(name: str) -> bool:
    """Whether a tensor is a mask or table that is saved with old checkpoints, and no weight."""
    return bool(_BUFFERS.fullmatch(name))


def weight_files(folder: Path) -> WeightFiles:
    """The files with the weights in a folder; safetensors are preferred.

    Raises
    ------
    CheckpointError
        ``missing-weights``, ``missing-shard``, or ``damaged-weights`` for an index that
        cannot be read.
    """
    for name in WEIGHT_FILES:
        path = folder / name
        if not path.exists():
            continue
        kind: Literal["safetensors", "pickle"] = "safetensors" if "safetensors" in name else "pickle"
        if not name.endswith(".json"):
            return WeightFiles(kind, (path,))
        return _sharded(path, kind)
    try:
        there = sorted(entry.name for entry in folder.iterdir())
    except OSError as error:
        raise CheckpointError("missing-weights", f"{folder} cannot be listed: {error.strerror}.") from error
    raise CheckpointError(
        "missing-weights",
        f"{folder} holds no weights: none of {shown(WEIGHT_FILES)}. It has {shown(there) or 'nothing'}.",
    )


def index_shards(path: Path) -> dict[str, frozenset[str]]:
    """Names of the shards in an index file, each with the tensors it holds.

    Raises
    ------
    CheckpointError
        ``damaged-weights``.
    """
    try:
        index = json.loads(path.read_bytes())
        shards: dict[str, set[str]] = {}
        for tensor, shard in index["weight_map"].items():
            if not _is_name(shard):  # not a way out of the folder
                raise ValueError(f"{tensor!r} is said to be in {shard!r}")
            shards.setdefault(shard, set()).add(tensor)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"it is no index of shards ({str(error)[:200]})") from error
    return {shard: frozenset(shards[shard]) for shard in sorted(shards)}


def check_weights(weights: WeightFiles, *, unpickle: bool = True) -> None:
    """Refuse weights that are damaged, or that only arbitrary code could read.

    Of safetensors only the headers are read. Of zipped pickles the structure is read, of
    older ones everything; ``unpickle=False`` leaves both for later.

    Raises
    ------
    CheckpointError
        ``damaged-weights`` or ``unsafe-pickle``.
    """
    for path in weights.files:
        wanted = weights.names[path.name] if weights.names is not None else frozenset()
        if weights.kind == "safetensors":
            there = set(safetensors_header(path))
        elif unpickle:
            with memory_errors(f"reading {path}"):
                there = set(_unpickled(path))
        else:
            continue
        if absent := sorted(wanted - there):
            raise _damaged(path, f"the index says that {shown(absent)} would be in it")


def read_tensors(weights: WeightFiles) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor of all weights, on the CPU, in the dtype of the file.

    File after file, names in order; one tensor of safetensors or of a zipped pickle is in
    memory at a time, as far as the caller lets go of it.

    Raises
    ------
    CheckpointError
        ``damaged-weights``, ``unsafe-pickle`` or ``out-of-memory``.
    """
    for path in weights.files:
        wanted = weights.names[path.name] if weights.names is not None else None
        read = _safetensors(path, wanted) if weights.kind == "safetensors" else _pickled(path, wanted)
        with memory_errors(f"reading {path}"):
            yield from read


def safetensors_header(path: Path) -> dict[str, Any]:
    """What the header of a safetensors file says of each tensor, checked against the file's size.

    Raises
    ------
    CheckpointError
        ``damaged-weights``: not such a file, or not all of it.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(8)
            length = int.from_bytes(start, "little")
            if start == _LFS_POINTER[:8]:
                raise _damaged(path, "it is a pointer of Git LFS, and the file was never fetched (git lfs pull)")
            if size < 8 or length > min(_LONGEST_HEADER, size - 8):
                raise _damaged(path, f"its {size} bytes end within the header, or it is no safetensors file")
            header: dict[str, Any] = json.loads(stream.read(length))
        header.pop("__metadata__", None)
        end = max((int(entry["data_offsets"][1]) for entry in header.values()), default=0)
    except OSError as error:
        raise _damaged(path, f"it cannot be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise _damaged(path, "its header is no safetensors header") from error
    if 8 + length + end != size:
        fault = "only half of it was written" if 8 + length + end > size else "something follows its end"
        raise _damaged(path, f"its header tells of {8 + length + end} bytes and it has {size}: {fault}")
    return header


def _is_name(shard: object) -> bool:
    """Whether it can be the name of a file in the folder of an index."""
    return isinstance(shard, str) and Path(shard).name == shard != ".." and "\0" not in shard and 0 < len(shard) <= 200


def _sharded(index: Path, kind: Literal["safetensors", "pickle"]) -> WeightFiles:
    names = index_shards(index)
    absent = [shard for shard in names if not (index.parent / shard).exists()]
    if absent:
        raise CheckpointError(
            "missing-shard",
            f"{index.parent} lacks {shown(absent)} of the {len(names)} files that its {index.name} lists; "
            "copy or fetch it again.",
        )
    return WeightFiles(kind, tuple(index.parent / shard for shard in names), names)


def _safetensors(path: Path, wanted: frozenset[str] | None) -> Iterator[tuple[str, torch.Tensor]]:
    safetensors = library("safetensors")
    library("torch")
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as opened:
            for name in sorted(opened.keys()):
                if wanted is None or name in wanted:
                    yield name, opened.get_tensor(name)
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, str(error)) from error


def _pickled(path: Path, wanted: frozenset[str] | None) -> Iterator[tuple[str, torch.Tensor]]:
    tensors = _unpickled(path)
    for name in sorted(tensors):
        tensor = tensors.pop(name)
        if wanted is None or name in wanted:
            yield name, tensor


def _unpickled(path: Path) -> dict[str, torch.Tensor]:
    torch = library("torch")
    try:
        with path.open("rb") as stream:
            start = stream.read(len(_LFS_POINTER))
        if start == _LFS_POINTER:
            raise _damaged(path, "it is a pointer of Git LFS, and the file was never fetched (git lfs pull)")
        # Only the format since torch 1.6, a zip archive, can be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(_ZIP))
    except pickle.UnpicklingError as error:
        if "operand" in str(error):  # a byte that is no instruction of pickle
            raise _damaged(path, "it is no file of torch.save, or not all of one") from error
        raise CheckpointError(
            "unsafe-pickle",
            f"{path} needs more than tensors to be read, and reading it could run any code; it is refused. "
            "Save its weights with model.save_pretrained, as safetensors.",
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # a damaged pickle or archive can raise anything
        if is_out_of_memory(error):
            raise
        raise _damaged(path, "it is no file of torch.save, or not all of one") from error
    if not isinstance(content, dict):
        raise _damaged(path, f"it holds a {type(content).__name__}, not tensors by name")
    if other := [name for name, value in content.items() if not isinstance(value, torch.Tensor)]:
        raise _damaged(path, f"under {shown(other)} it holds something that is no tensor")
    return dict(content)


def _damaged(path: Path, fault: str) -> CheckpointError:
    return CheckpointError("damaged-weights", f"{path} cannot be used: {fault}. Copy, fetch or save it again.")
