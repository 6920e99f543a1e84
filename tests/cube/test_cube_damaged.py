"""Files that are no cube, or no longer one: a clear error, never a crash, a hang or a wrong number."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import netCDF4
import numpy as np
import pytest
import xarray as xr

import polystab as ps
from polystab.cube import store
from polystab.cube.store import validate_file
from polystab.errors import InvalidCubeError, NewerSchemaError, NotACubeError, PolystabError

OPENERS = [ps.open_cube, ps.open_tree, validate_file]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cube.nc"


def assert_refused(path: Path, error: type[PolystabError], message: str) -> None:
    for opener in OPENERS:
        with pytest.raises(error, match=message):
            opener(path)


# No cube


def test_a_missing_file_is_named(path: Path) -> None:
    assert_refused(path, NotACubeError, r"cube\.nc does not exist")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path, NotACubeError, "is a folder; name the netCDF file in it")


def test_a_pipe_is_refused_and_not_waited_for(path: Path) -> None:
    os.mkfifo(path)
    assert_refused(path, NotACubeError, "not a regular file")


def test_a_link_to_itself_is_refused(path: Path) -> None:
    path.symlink_to(path)
    assert_refused(path, NotACubeError, "does not exist")


def test_a_name_that_is_too_long_is_refused(tmp_path: Path) -> None:
    assert_refused(tmp_path / ("x" * 5000), NotACubeError, "File name too long")


def test_a_file_that_may_not_be_read_is_refused(cube: xr.Dataset, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    ps.save_cube(cube, path)
    monkeypatch.setattr(Path, "open", refuse)
    assert_refused(path, NotACubeError, "Permission denied")


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"model,seed,step,metric,value\n", b"\x89HDF\r\n\x1a\n", b"CDF\x01", bytes(10_000), b"PK\x03\x04"],
)
def test_a_file_of_another_kind_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert_refused(path, NotACubeError, "cannot be opened as netCDF")


@pytest.mark.slow
def test_netcdf_that_is_no_cube_is_refused(path: Path) -> None:
    xr.Dataset({"temperature": ("time", [1.0, 2.0])}).to_netcdf(path)
    assert_refused(path, NotACubeError, "not a cube: it has no attribute polystab_schema")


@pytest.mark.slow
def test_a_netcdf_3_file_is_refused(path: Path) -> None:
    with netCDF4.Dataset(path, "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("time", 2)
        file.createVariable("temperature", "f8", ("time",))[:] = [1.0, 2.0]
    assert_refused(path, NotACubeError, "no attribute polystab_schema")


@pytest.mark.slow
def test_a_newer_schema_is_refused_with_the_way_out(cube: xr.Dataset, path: Path) -> None:
    ps.save_cube(cube, path)
    with netCDF4.Dataset(path, "a") as file:
        file.polystab_schema = 99
        file.polystab_version = "7.0"
    assert_refused(path, NewerSchemaError, r"written by polystab 7\.0; .* Upgrade: pip install -U polystab")


@pytest.mark.slow
def test_a_broken_rule_is_listed(cube: xr.Dataset, path: Path) -> None:
    ps.save_cube(cube, path)
    with netCDF4.Dataset(path, "a") as file:
        file.created = "never"
        file.variables["seed"][:] = [0, 0, 1]
    for opener in (ps.open_cube, ps.open_tree):
        with pytest.raises(InvalidCubeError, match="2 violations") as caught:
            opener(path)
        assert [violation.code for violation in caught.value.violations] == ["attribute-value", "duplicate-labels"]
    assert [violation.code for violation in validate_file(path)] == ["attribute-value", "duplicate-labels"]


@pytest.mark.slow
def test_validating_a_file_looks_at_the_values(cube: xr.Dataset, path: Path) -> None:
    ps.save_cube(cube, path)
    with netCDF4.Dataset(path, "a") as file:
        file.variables["stderr"][0, 0, 0, 0] = -1.0
    ps.open_cube(path).close()
    assert [violation.code for violation in validate_file(path)] == ["negative-stderr"]


@pytest.mark.slow
def test_a_group_of_another_kind_is_listed(tree: xr.DataTree, path: Path) -> None:
    ps.save_cube(tree, path)
    with netCDF4.Dataset(path, "a") as file:
        file["audit"].renameVariable("reason", "why")
    with pytest.raises(InvalidCubeError, match="group audit, variable reason: not there"):
        ps.open_tree(path)


def open_files(path: Path) -> int:
    return sum(os.path.realpath(fd) == str(path) for fd in Path("/proc/self/fd").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files through /proc")
def test_a_refused_file_is_closed(cube: xr.Dataset, path: Path) -> None:
    ps.save_cube(cube, path)
    with netCDF4.Dataset(path, "a") as file:
        file.created = "never"
    for opener in (ps.open_cube, ps.open_tree):
        with pytest.raises(InvalidCubeError):
            opener(path)
    assert open_files(path) == 0


# Damaged

# Opens each file of a folder both ways and reads all of it, each in a process of its own with ten seconds to do so.
# HDF5 might crash over a damaged file, or loop for ever.
LOOK = """
    import json, os, signal, sys
    from pathlib import Path
    import polystab as ps
    from polystab.errors import PolystabError

    folder, outcomes = Path(sys.argv[1]), {}
    with ps.open_tree(folder / "sound") as tree:
        sound = tree.load()

    def look(path, opener):
        try:
            opened = opener(path)
        except PolystabError as error:
            return type(error).__name__
        except Exception as error:
            return "unclean: " + repr(error)
        try:
            opened.load()
        except (OSError, RuntimeError) as error:
            return "unreadable values"
        except Exception as error:
            return "unclean: " + repr(error)
        expected = sound if opener is ps.open_tree else sound.to_dataset()
        return "sound" if opened.identical(expected) else "wrong"

    for path in sorted(folder.glob("damaged-*")):
        for opener in (ps.open_cube, ps.open_tree):
            end, start = os.pipe()
            child = os.fork()
            if child == 0:
                signal.alarm(10)
                os.write(start, look(path, opener).encode())
                os._exit(0)
            os.close(start)
            _, status = os.waitpid(child, 0)
            said = os.read(end, 1000).decode()
            os.close(end)
            crash = f"killed by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else ""
            outcomes[f"{path.name} {opener.__name__}"] = crash or said
    print(json.dumps(outcomes))
"""


def look_at(folder: Path) -> dict[str, str]:
    """What became of each damaged file, by name and function."""
    command = [sys.executable, "-c", textwrap.dedent(LOOK), str(folder)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    outcomes: dict[str, str] = json.loads(result.stdout)
    return outcomes


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="looks at each file in a forked process")


@pytest.mark.slow
@needs_fork
def test_a_file_cut_anywhere_is_refused(tree: xr.DataTree, tmp_path: Path) -> None:
    ps.save_cube(tree, tmp_path / "sound")
    content = (tmp_path / "sound").read_bytes()
    for percent in range(0, 100, 5):
        (tmp_path / f"damaged-{percent:02d}").write_bytes(content[: len(content) * percent // 100])
    outcomes = look_at(tmp_path)
    assert len(outcomes) == 40
    assert set(outcomes.values()) == {"NotACubeError"}


@pytest.mark.slow
@needs_fork
def test_a_file_that_lost_only_its_checksum_is_sound(tree: xr.DataTree, tmp_path: Path) -> None:
    ps.save_cube(tree, tmp_path / "sound")
    content = (tmp_path / "sound").read_bytes()
    (tmp_path / "damaged-0").write_bytes(content[: -len(store.SEAL % 0)])
    assert set(look_at(tmp_path).values()) == {"sound"}


@pytest.mark.slow
@needs_fork
def test_a_file_with_other_bytes_anywhere_is_refused(tree: xr.DataTree, tmp_path: Path) -> None:
    ps.save_cube(tree, tmp_path / "sound")
    content = (tmp_path / "sound").read_bytes()
    rng = np.random.default_rng(0)
    for number, place in enumerate(np.linspace(0, len(content) - 128, 60).astype(int).tolist()):
        length = int(rng.integers(1, 64))
        other = bytes(byte ^ 0xFF for byte in content[place : place + length])
        (tmp_path / f"damaged-{number:02d}").write_bytes(content[:place] + other + content[place + length :])
    assert set(look_at(tmp_path).values()) == {"NotACubeError"}


@pytest.mark.slow
@needs_fork
def test_a_file_with_a_hole_is_refused(tree: xr.DataTree, tmp_path: Path) -> None:
    """Zeros where strings were make HDF5 loop for ever, unless the checksum is looked at first."""
    ps.save_cube(tree, tmp_path / "sound")
    content = (tmp_path / "sound").read_bytes()
    hole = 2048
    for number, place in enumerate(range(0, len(content) - 2 * hole, hole)):
        if content[place : place + hole] == bytes(hole):
            continue
        (tmp_path / f"damaged-{number:02d}").write_bytes(content[:place] + bytes(hole) + content[place + hole :])
    assert set(look_at(tmp_path).values()) == {"NotACubeError"}


@pytest.mark.slow
def test_a_file_that_another_tool_changed_is_opened(cube: xr.Dataset, path: Path) -> None:
    ps.save_cube(cube, path)
    with netCDF4.Dataset(path, "a") as file:
        file.title = "changed by hand"
    with ps.open_cube(path) as back:
        assert back.attrs["title"] == "changed by hand"


@pytest.mark.slow
def test_a_file_without_a_checksum_is_opened(cube: xr.Dataset, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SEALED_BYTES", 10)
    ps.save_cube(cube, path)
    assert b"polystab-crc32" not in path.read_bytes()
    with ps.open_cube(path) as back:
        xr.testing.assert_identical(back.load(), cube)


@pytest.mark.slow
def test_damaged_values_of_a_large_file_are_no_numbers(
    one: Callable[..., xr.Dataset], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the size that carries a checksum, compression has one of its own."""
    monkeypatch.setattr(store, "SEALED_BYTES", 10)
    rng = np.random.default_rng(0)
    ps.save_cube(one(rng.random(20_000), seed=list(range(20_000))), path)
    with netCDF4.Dataset(path) as file:
        assert file.variables["value"].filters()["zlib"]
    content = bytearray(path.read_bytes())
    middle = len(content) * 2 // 3
    content[middle : middle + 100] = rng.bytes(100)
    path.write_bytes(content)
    with ps.open_cube(path) as lazy, pytest.raises((OSError, RuntimeError)):
        lazy["value"].load()


@pytest.mark.slow
def test_validating_a_file_meets_damaged_values(
    one: Callable[..., xr.Dataset], path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "SEALED_BYTES", 10)
    rng = np.random.default_rng(0)
    seeds = list(range(20_000))
    ps.save_cube(one(0.5 + np.zeros(20_000), seed=seeds, stderr=rng.random(20_000)), path)
    content = bytearray(path.read_bytes())
    middle = len(content) * 2 // 3
    content[middle : middle + 100] = rng.bytes(100)
    path.write_bytes(content)
    with pytest.raises(NotACubeError, match="cannot be opened as netCDF"):
        validate_file(path)
