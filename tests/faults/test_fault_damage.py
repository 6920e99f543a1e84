"""Cubes that are cut at every percent of their length, or that have a flipped bit: every one is refused, by every way in."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from fault_cubes import tree_of

import polystab as ps
from polystab.cli import main
from polystab.cube.catalog import add_cubes, cube_file, load_cube, load_tree
from polystab.cube.release import release
from polystab.cube.store import open_tree, validate_file
from polystab.errors import NotACubeError, ReadError

pytestmark = pytest.mark.slow

OPENERS: dict[str, Callable[[Path], object]] = {"cube": ps.open_cube, "tree": open_tree, "validate": validate_file}
N_BITS = 200


@pytest.fixture(scope="module", params=["nano", "small tree"])
def content(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a cube: bundled ones as they come, and one with groups."""
    if request.param != "small tree":
        return cube_file(request.param).read_bytes()
    path = tmp_path_factory.mktemp("made") / "cube.nc"
    ps.save_cube(tree_of("old"), path)
    return path.read_bytes()


def assert_refused(path: Path, content: bytes, opener: Callable[[Path], object]) -> None:
    path.write_bytes(content)
    with pytest.raises(NotACubeError, match="truncated, damaged, or not a cube"):
        opener(path)


@pytest.mark.parametrize("way", OPENERS)
def test_a_cube_cut_at_any_percent_of_its_length_is_refused(content: bytes, way: str, tmp_path: Path) -> None:
    for percent in range(100):
        assert_refused(tmp_path / "cube.nc", content[: len(content) * percent // 100], OPENERS[way])


def test_a_cube_with_a_flipped_bit_is_refused(content: bytes, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    # The last 24 bytes are the checksum itself: without it a file is looked at in another way, see test_cube_damaged.
    places = np.concatenate([np.arange(8), rng.integers(0, len(content) - 24, size=N_BITS - 8)])
    bits, ways = rng.integers(0, 8, size=N_BITS), itertools.cycle(OPENERS.values())
    for place, bit, opener in zip(places.tolist(), bits.tolist(), ways, strict=False):
        damaged = bytearray(content)
        damaged[place] ^= 1 << bit
        assert_refused(tmp_path / "cube.nc", bytes(damaged), opener)


def test_after_damage_a_cube_that_is_saved_again_opens_and_validates(tmp_path: Path) -> None:
    path = tmp_path / "cube.nc"
    ps.save_cube(tree_of("old"), path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    ps.save_cube(tree_of("old"), path)
    assert validate_file(path) == []
    assert path.read_bytes() == content


@pytest.mark.parametrize("load", [load_cube, load_tree])
def test_a_released_cube_that_was_cut_is_not_loaded(
    load: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYSTAB_DATA", str(tmp_path / "data"))
    with ps.load_cube("demo") as cube:
        path = release(cube, tmp_path / "released", name="mine", version="1.0").cube
    add_cubes(tmp_path / "released")
    content = path.read_bytes()
    for percent in range(100):
        path.write_bytes(content[: len(content) * percent // 100])
        with pytest.raises(ReadError, match="not the file that was released"):
            load("mine")
    path.write_bytes(content)
    load("mine").close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", ["info", "validate", "audit", "report"])
def test_a_command_over_a_cut_cube_ends_with_2_and_says_what_to_do(command: str, tmp_path: Path) -> None:
    content = cube_file("demo").read_bytes()
    path = tmp_path / "cube.nc"
    path.write_bytes(content[: len(content) // 2])
    output = ["-o", str(tmp_path / "page.html")] if command == "report" else []
    result = CliRunner().invoke(main, [command, str(path), *output])
    assert result.exit_code == 2
    assert "It is truncated, damaged, or not a cube" in result.output
    assert list(tmp_path.iterdir()) == [path]
