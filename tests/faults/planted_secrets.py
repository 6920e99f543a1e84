"""Secrets that tests plant, and how they are looked for: every one holds the word of :data:`CANARY`."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from click.testing import CliRunner

from polystab.cli import main
from polystab.errors import PolystabError

CANARY = "canary"
TOKEN = "hf_canaryCANARYcanaryCANARYcanaryCAN"
KEY = "canary0123456789canary0123456789canary01"  # like that of W&B: nothing in it tells what it is
STRAY = "canary9876543210canary9876543210canary98"  # the same, and the environment does not have it
PASSWORD = "canary-Pw-123"
SIGNED = f"https://bucket.example.org/model.safetensors?X-Amz-Credential=AKIA{CANARY}&X-Amz-Signature={KEY}"
ADDRESS = f"https://me:{PASSWORD}@data.example.org/cube.nc?token={KEY}"
# Where the environment has them.
ENVIRONMENT = {"HF_TOKEN": TOKEN, "WANDB_API_KEY": KEY, "HUGGING_FACE_HUB_TOKEN": TOKEN, "OPENAI_API_KEY": KEY}


def texts_of(path: Path) -> Iterator[str]:
    """Everything that a file says, decompressed."""
    yield path.name
    content = path.read_bytes()
    yield content.decode("latin-1")
    if content.startswith(b"\x89HDF"):
        with netCDF4.Dataset(path) as file:
            yield from _texts_of_group(file)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (archive.read(name).decode("latin-1") for name in archive.namelist())


def _texts_of_group(group: Any) -> Iterator[str]:
    yield from (str(group.getncattr(name)) for name in group.ncattrs())
    for name, variable in group.variables.items():
        yield name
        yield from (str(variable.getncattr(attribute)) for attribute in variable.ncattrs())
        if variable.dtype is str or variable.dtype.kind in "SU":
            values = variable[...]
            if variable.dtype is not str and values.dtype.kind == "S":  # characters, the last dimension along the text
                values = netCDF4.chartostring(np.asarray(values))
            yield "\n".join(map(str, np.ravel(values).tolist()))
    for inner in group.groups.values():
        yield from _texts_of_group(inner)


def assert_clean(folder: Path) -> None:
    found = [path for path in folder.rglob("*") if path.is_file()]
    leaks = [str(path.relative_to(folder)) for path in found if any(CANARY in text.lower() for text in texts_of(path))]
    assert leaks == []


def run(*arguments: object, code: int | None = 0) -> str:
    """A command; nothing that it says may hold a secret, nor what it raised."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert CANARY not in result.output.lower(), result.output
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert code is None or result.exit_code == code, result.output
    return result.output


def chain(error: BaseException) -> str:
    """The texts of an exception as Python prints them: with causes, and contexts that are not suppressed."""
    said, seen = [], error
    while seen is not None:
        said += [str(seen), *getattr(seen, "__notes__", [])]
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)  # type: ignore[assignment]
    return "\n".join(said)


def assert_refused_without_secrets(call: Any) -> None:
    with pytest.raises(PolystabError) as caught:
        call()
    assert CANARY not in chain(caught.value).lower(), chain(caught.value)


def go_on_with(cube: Path, out: Path) -> None:
    """Everything that is done with a cube."""
    for ending in ("html", "md", "json"):
        run("report", cube, "-o", out / f"page.{ending}")
    for command in ("info", "validate", "audit"):
        run(command, cube, "--json", code=None)
    run("release", cube, "--name", "mine", "--version", "1", "--license", "CC0-1.0", "-o", out / "released")
    run("cubes", "add", out / "released")
    run("cubes", "mine")


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path
