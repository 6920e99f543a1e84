"""Tensors of a checkpoint one at a time, so that memory holds one of them however large the file is.

A mapped file stays in the memory of the process page by page as it is looked at, until all of it is there;
so safetensors are read here, not mapped.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from polystab.sources.checkpoint_errors import CheckpointError
from polystab.sources.tensor_files import WeightFiles, is_known_buffer, safetensors_header, weight_files

if TYPE_CHECKING:
    import torch

    from polystab.sources.checkpoints import Checkpoint

# Names of the types in the file, of those that weights come in.
_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def read_tensors(checkpoint: Checkpoint) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and tensor of every weight, as :meth:`Checkpoint.tensors` gives them, in the same order.

    Raises
    ------
    CheckpointError
        As that method.
    """
    if checkpoint.folder is not None:
        files = weight_files(checkpoint.folder)
        if files.kind == "safetensors":
            headers = {path: safetensors_header(path) for path in files.files}
            if all(entry["dtype"] in _DTYPES for header in headers.values() for entry in header.values()):
                return _read(files, headers)
    return checkpoint.tensors()


def _read(files: WeightFiles, headers: dict[Path, dict[str, Any]]) -> Iterator[tuple[str, torch.Tensor]]:
    import torch

    for path in files.files:
        wanted = files.names[path.name] if files.names is not None else None
        with path.open("rb") as stream:
            start = 8 + int.from_bytes(stream.read(8), "little")
            for name in sorted(headers[path]):
                if is_known_buffer(name) or (wanted is not None and name not in wanted):
                    continue
                entry = headers[path][name]
                dtype = getattr(torch, _DTYPES[entry["dtype"]])
                tensor = torch.empty(entry["shape"], dtype=dtype)
                if math.prod(entry["shape"]):
                    stream.seek(start + entry["data_offsets"][0])
                    memory = tensor.reshape(-1).view(torch.uint8).numpy().data
                    if stream.readinto(memory) < len(memory):
                        raise CheckpointError("damaged-weights", f"{path} became shorter while it was read.")
                yield name, tensor


def as_array(tensor: torch.Tensor) -> npt.NDArray[np.floating]:
    """A tensor as a contiguous array of float32, or float64 if it is that; the same memory where it can be."""
    import torch

    plain = tensor.detach().cpu()
    if plain.dtype not in (torch.float32, torch.float64):
        plain = plain.to(torch.float32)
    array: npt.NDArray[np.floating] = np.ascontiguousarray(plain.numpy()).reshape(plain.shape)
    return array
