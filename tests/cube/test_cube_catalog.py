"""Cubes by name: bundled, or fetched once from an address."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import xarray as xr
from web_server import Answer, Server

import polystab as ps
from polystab.cube import catalog, fetching
from polystab.cube.catalog import CatalogEntry, cube_file, find_cube, open_any
from polystab.errors import NotACubeError, ReadError, UnknownNameError


@pytest.fixture
def server() -> Iterator[Server]:
    with Server().running() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("POLYSTAB_DATA", str(folder))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetching, "FIRST_WAIT", 0.0)
    return folder


@pytest.fixture
def released(
    cube: xr.Dataset, server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CatalogEntry:
    """A registry with one released cube, which the server has."""
    ps.save_cube(cube, tmp_path / "released.nc")
    content = (tmp_path / "released.nc").read_bytes()
    server.answers["/released.nc"] = Answer(content)
    checksum = hashlib.sha256(content).hexdigest()
    entry = CatalogEntry("released", f"{server.address}/released.nc", checksum, len(content), "MIT", "a test")
    monkeypatch.setattr(catalog, "_registry", lambda: {"released": entry})
    return entry


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []


# Bundled


def test_every_bundled_cube_is_what_the_registry_says() -> None:
    for name, entry in catalog._bundled().items():
        if entry.address.startswith("package:"):
            content = cube_file(name).read_bytes()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (entry.size, entry.sha256)


@pytest.mark.slow
def test_every_bundled_cube_is_valid() -> None:
    for name, entry in catalog._registry().items():
        if entry.address.startswith("package:"):
            with ps.load_cube(name) as cube:
                assert ps.validate_cube(cube) == []


def test_the_registry_lists_names_once_and_in_full() -> None:
    lines = json.loads((Path(catalog.__file__).parent / "registry.json").read_text(encoding="utf-8"))
    assert len({line["name"] for line in lines}) == len(lines)
    for line in lines:
        assert all(line[name] for name in ("name", "address", "sha256", "size", "license", "summary"))
        assert "\n" not in line["summary"]


def test_cubes_are_listed_as_a_table() -> None:
    table = ps.list_cubes()
    assert table.index.name == "name"
    assert list(table.columns) == ["address", "sha256", "size", "license", "summary", "version"]
    assert "demo" in table.index


def test_a_damaged_bundled_cube_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = catalog._registry()["demo"]
    broken = CatalogEntry("demo", entry.address, "0" * 64, entry.size, entry.license, entry.summary)
    monkeypatch.setattr(catalog, "_bundled", lambda: {"demo": broken})
    with pytest.raises(ReadError, match="bundled cube 'demo' is missing or damaged; reinstall polystab"):
        ps.load_cube("demo")


def test_a_missing_bundled_cube_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lost = CatalogEntry("lost", "package:lost.nc", "0" * 64, 1, "MIT", "gone")
    monkeypatch.setattr(catalog, "_bundled", lambda: {"lost": lost})
    with pytest.raises(ReadError, match="missing or damaged"):
        ps.load_cube("lost")


# Names


@pytest.mark.slow
def test_a_tree_by_name_has_the_groups_that_the_cube_alone_lacks() -> None:
    with ps.load_tree("nano") as tree:
        assert {"items", "log", "audit"} <= set(tree.children)
        xr.testing.assert_identical(tree["value"].load(), ps.load_cube("nano")["value"].load())


def test_an_unknown_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match=r"no cube is called 'dmeo'\. Did you mean 'demo'\?"):
        ps.load_cube("dmeo")


def test_a_file_is_found_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "demo").touch()
    assert find_cube(str(tmp_path / "demo")) == tmp_path / "demo"


def test_a_file_is_preferred_to_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo").touch()
    monkeypatch.chdir(tmp_path)
    assert find_cube("demo") == Path("demo")


def test_a_name_is_found_where_there_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_cube("demo") == cube_file("demo")


def test_neither_file_nor_name_is_refused_with_a_suggestion() -> None:
    with pytest.raises(NotACubeError, match=r"'demos' is neither a file nor the name of a cube\. Did you mean 'demo'"):
        find_cube("demos")


@pytest.mark.slow
def test_a_tree_is_opened_by_name_or_path(tree: xr.DataTree, tmp_path: Path) -> None:
    ps.save_cube(tree, tmp_path / "cube.nc")
    with open_any(str(tmp_path / "cube.nc")) as back:
        assert "audit" in back.children
    with open_any("demo") as demo:
        assert demo["value"].ndim == 4


# Released


@pytest.mark.slow
def test_a_released_cube_is_fetched_into_the_cache(released: CatalogEntry, cache: Path, cube: xr.Dataset) -> None:
    with ps.load_cube("released") as loaded:
        xr.testing.assert_identical(loaded.load(), cube)
    assert [path.name for path in files_in(cache)] == [f"released-{released.sha256[:12]}.nc"]


@pytest.mark.slow
def test_a_released_cube_is_fetched_once(released: CatalogEntry, server: Server) -> None:
    for _ in range(3):
        ps.load_cube("released").close()
    assert server.asked == ["/released.nc"]


@pytest.mark.slow
def test_a_damaged_cached_cube_is_fetched_again(released: CatalogEntry, server: Server, cube: xr.Dataset) -> None:
    cube_file("released").write_bytes(b"damaged")
    with ps.load_cube("released") as loaded:
        xr.testing.assert_identical(loaded.load(), cube)
    assert len(server.asked) == 2


def test_a_wrong_checksum_is_refused_and_nothing_kept(released: CatalogEntry, server: Server, cache: Path) -> None:
    content = server.answers["/released.nc"].content
    server.answers["/released.nc"] = Answer(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ReadError, match=r"cube 'released' could not be fetched from http://127"):
        ps.load_cube("released")
    assert files_in(cache) == []


def test_a_missing_address_is_refused_and_nothing_kept(released: CatalogEntry, server: Server, cache: Path) -> None:
    server.answers.clear()
    with pytest.raises(ReadError, match="404"):
        ps.load_cube("released")
    assert files_in(cache) == []


def test_a_body_that_breaks_off_is_refused_and_nothing_kept(
    released: CatalogEntry, server: Server, cache: Path
) -> None:
    server.answers["/released.nc"].cut = 1000
    with pytest.raises(ReadError, match="could not be fetched"):
        ps.load_cube("released")
    assert files_in(cache) == []


def test_a_server_that_is_down_is_named(
    cube: xr.Dataset, cache: Path, monkeypatch: pytest.MonkeyPatch, server: Server
) -> None:
    entry = CatalogEntry("released", "http://127.0.0.1:9/released.nc", "0" * 64, 1, "MIT", "a test")
    monkeypatch.setattr(catalog, "_registry", lambda: {"released": entry})
    with pytest.raises(ReadError, match=r"could not be fetched from http://127\.0\.0\.1:9/released\.nc"):
        ps.load_cube("released")


def test_a_cache_that_cannot_be_written_is_an_error_of_reading(
    released: CatalogEntry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("POLYSTAB_DATA", str(tmp_path / "file"))
    with pytest.raises(ReadError, match="could not be fetched"):
        ps.load_cube("released")


@pytest.mark.slow
def test_fetching_prints_nothing(released: CatalogEntry, capfd: pytest.CaptureFixture[str]) -> None:
    ps.load_cube("released").close()
    assert capfd.readouterr() == ("", "")
