"""Registries of released cubes: added, listed, brought up to date, and refused where they are not sound."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from web_server import Answer, Server

import polystab as ps
import polystab.testing
from polystab.cube import catalog, fetching
from polystab.cube.catalog import add_cubes, cube_file, data_card, registry_folder, remove_cubes
from polystab.cube.registries import CatalogEntry, RegistryError, read_registry, registry_text
from polystab.cube.release import release
from polystab.errors import OutputError, ReadError, UnknownNameError

LINE = {
    "name": "mine",
    "address": "mine-1.0.nc",
    "sha256": "a" * 64,
    "size": 5,
    "license": "MIT",
    "summary": "a test",
    "version": "1.0",
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("POLYSTAB_DATA", str(folder))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(fetching, "FIRST_WAIT", 0.0)
    return folder


@pytest.fixture
def server() -> Iterator[Server]:
    with Server().running() as server:
        yield server


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a release of a cube called mine; not to be changed."""
    folder = tmp_path_factory.mktemp("made") / "release"
    release(small_cube(), folder, name="mine", version="1.0", license="MIT")
    return folder


@pytest.fixture
def released(made: Path, tmp_path: Path) -> Path:
    """A copy of that folder."""
    return Path(shutil.copytree(made, tmp_path / "release"))


def small_cube() -> xr.Dataset:
    return polystab.testing.synthetic_cube(n_models=1, n_seeds=2, steps=[0, 1000], rng=0)


def serve(server: Server, folder: Path, under: str = "/cubes") -> str:
    """Have the server answer with the files of a folder; the address of its registry."""
    for path in folder.iterdir():
        server.answers[f"{under}/{path.name}"] = Answer(path.read_bytes())
    return f"{server.address}{under}/registry.json"


def write(path: Path, *lines: dict[str, Any], version: Any = 1) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"polystab_registry": version, "cubes": list(lines)}))
    return path


class TestAdded:
    @pytest.mark.slow
    def test_a_released_cube_is_loaded_by_name_from_the_web(self, released: Path, server: Server) -> None:
        add_cubes(serve(server, released))
        assert server.asked == ["/cubes/registry.json"]
        with ps.load_cube("mine") as loaded:
            xr.testing.assert_equal(loaded.load(), small_cube())
        assert "mine" in ps.list_cubes().index

    def test_a_released_cube_is_loaded_from_a_folder_without_a_copy(self, released: Path, cache: Path) -> None:
        add_cubes(released)
        assert cube_file("mine") == released / "mine-1.0.nc"
        assert list(cache.iterdir()) == [cache / "registries"]

    @pytest.mark.parametrize("way", ["folder", "file"])
    def test_a_folder_may_be_named_by_itself_or_by_its_registry(self, released: Path, way: str) -> None:
        add_cubes(released if way == "folder" else released / "registry.json")
        assert cube_file("mine@1.0").is_file()

    def test_an_address_of_a_folder_means_the_registry_in_it(self, released: Path, server: Server) -> None:
        serve(server, released)
        assert add_cubes(f"{server.address}/cubes/").source == f"{server.address}/cubes/registry.json"
        assert remove_cubes(f"{server.address}/cubes/").entries[0].name == "mine"

    def test_a_file_that_was_changed_beside_its_registry_is_refused(self, released: Path) -> None:
        add_cubes(released)
        (released / "mine-1.0.nc").write_bytes(b"other")
        with pytest.raises(ReadError, match="is not the file that was released"):
            ps.load_cube("mine")

    def test_a_corrupted_download_is_refused_and_nothing_is_kept(
        self, released: Path, server: Server, cache: Path
    ) -> None:
        add_cubes(serve(server, released))
        content = server.answers["/cubes/mine-1.0.nc"].content
        server.answers["/cubes/mine-1.0.nc"] = Answer(content[::-1])
        with pytest.raises(
            ReadError, match=r"mine.* could not be fetched from http://.*SHA-256.*Nothing half was kept"
        ):
            ps.load_cube("mine")
        assert [path.name for path in cache.iterdir()] == ["registries"]

    def test_its_data_card_is_fetched_and_verified(self, released: Path, server: Server) -> None:
        add_cubes(serve(server, released))
        assert data_card("mine") == (released / "mine-1.0.md").read_text()

    def test_a_card_that_was_changed_is_refused(self, released: Path, server: Server) -> None:
        add_cubes(serve(server, released))
        server.answers["/cubes/mine-1.0.md"] = Answer(b"# Another card")
        with pytest.raises(ReadError, match="SHA-256"):
            data_card("mine")

    def test_a_card_cannot_steer_a_terminal(self, tmp_path: Path) -> None:
        text = b"# A card\x1b]0;title\x07\x1b[2J\n\ttext"
        write(
            tmp_path / "r" / "registry.json", LINE | {"card": "c.md", "card_sha256": hashlib.sha256(text).hexdigest()}
        )
        (tmp_path / "r" / "c.md").write_bytes(text)
        add_cubes(tmp_path / "r")
        assert (
            data_card("mine")
            == "# A card\N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}[2J\n\ttext"
        )

    def test_a_cube_without_a_card_says_so(self, tmp_path: Path) -> None:
        add_cubes(write(tmp_path / "registry.json", LINE))
        with pytest.raises(UnknownNameError, match="no data card of a cube called 'mine'"):
            data_card("mine")

    def test_the_last_of_several_versions_goes_by_the_name(self, tmp_path: Path) -> None:
        newer = LINE | {"version": "2.0", "sha256": "b" * 64}
        add_cubes(write(tmp_path / "registry.json", LINE, newer))
        assert catalog._registry()["mine"].version == "2.0"
        assert catalog._registry()["mine@1.0"].sha256 == "a" * 64
        assert ps.list_cubes().loc["mine", "version"] == "2.0"

    def test_adding_again_brings_it_up_to_date(self, tmp_path: Path) -> None:
        path = write(tmp_path / "registry.json", LINE)
        add_cubes(path)
        write(path, LINE, LINE | {"version": "2.0", "sha256": "b" * 64})
        add_cubes(path)
        assert catalog._registry()["mine"].version == "2.0"
        assert len(list(registry_folder().iterdir())) == 1

    def test_a_released_version_that_changed_is_refused_without_replace(self, tmp_path: Path) -> None:
        path = write(tmp_path / "registry.json", LINE)
        add_cubes(path)
        write(path, LINE | {"sha256": "b" * 64})
        with pytest.raises(RegistryError, match=r"other files under 'mine@1\.0' than when it was added"):
            add_cubes(path)
        add_cubes(path, replace=True)
        assert catalog._registry()["mine"].sha256 == "b" * 64

    def test_it_is_forgotten_when_removed(self, released: Path) -> None:
        add_cubes(released)
        assert remove_cubes(released).entries[0].name == "mine"
        with pytest.raises(UnknownNameError):
            ps.load_cube("mine")

    def test_removing_what_was_not_added_lists_what_was(self, released: Path) -> None:
        add_cubes(released)
        with pytest.raises(RegistryError, match=r"was not added\. Added: 'file://.*release/registry\.json'"):
            remove_cubes("https://example.org/registry.json")

    def test_what_is_unknown_in_a_line_is_passed_over(self, tmp_path: Path) -> None:
        assert read_registry(write(tmp_path / "r.json", LINE | {"doi": "10.1/x"})).entries[0].name == "mine"


class TestClashes:
    def test_a_name_of_another_registry_is_refused(self, tmp_path: Path) -> None:
        add_cubes(write(tmp_path / "a.json", LINE))
        with pytest.raises(RegistryError, match=r"called 'mine' are in 'file://.*a\.json' already; pass replace"):
            add_cubes(write(tmp_path / "b.json", LINE))

    def test_with_replace_the_later_one_is_taken_and_the_others_of_the_first_stay(self, tmp_path: Path) -> None:
        add_cubes(write(tmp_path / "a.json", LINE, LINE | {"name": "other"}))
        add_cubes(write(tmp_path / "b.json", LINE | {"sha256": "b" * 64}), replace=True)
        assert catalog._registry()["mine"].sha256 == "b" * 64
        assert catalog._registry()["other"].sha256 == "a" * 64

    @pytest.mark.parametrize("replace", [True, False])
    @pytest.mark.parametrize("name", ["nano", "demo", "add", "remove"])
    def test_names_of_our_own_are_never_replaced(self, tmp_path: Path, name: str, replace: bool) -> None:
        path = write(tmp_path / "a.json", LINE | {"name": name})
        with pytest.raises(RegistryError, match="names of polystab's own"):
            add_cubes(path, replace=replace)


class TestRefused:
    def refusal(self, tmp_path: Path, **changes: Any) -> str:
        with pytest.raises(RegistryError) as caught:
            add_cubes(write(tmp_path / "registry.json", LINE | changes))
        return str(caught.value)

    def test_a_later_format(self, tmp_path: Path) -> None:
        path = write(tmp_path / "registry.json", LINE, version=2)
        with pytest.raises(RegistryError, match=r"has format 2; this polystab reads formats up to 1\. Upgrade"):
            add_cubes(path)

    @pytest.mark.parametrize("version", [True, 0, -1, "1", None, 1.5])
    def test_a_format_that_is_none(self, tmp_path: Path, version: Any) -> None:
        with pytest.raises(RegistryError, match="which is none"):
            add_cubes(write(tmp_path / "registry.json", LINE, version=version))

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"[]", b"{}", b'"x"', b"\xff\xfe", b"[" * 100_000, b'{"polystab_registry": 1}',
                    b'{"polystab_registry": 1, "cubes": [1]}', b'{"polystab_registry": 1, "cubes": {}}'],
    )  # fmt: skip
    def test_what_is_no_registry(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "registry.json").write_bytes(content)
        with pytest.raises(RegistryError, match="registry"):
            add_cubes(tmp_path)
        assert not registry_folder().exists()

    @pytest.mark.parametrize(
        "name", ["", "../x", "a/b", "a\\b", ".x", "x" * 200, "a b", "ä", "a\n", "a@1", None, 5, "-x", "a\x00"]
    )
    def test_a_name_that_is_no_name(self, tmp_path: Path, name: Any) -> None:
        assert "'name' is not letters" in self.refusal(tmp_path, name=name)

    @pytest.mark.parametrize(
        "address",
        ["../x.nc", "a/../../x.nc", "/etc/passwd", "file:///etc/passwd", "C:\\x.nc", "\\\\host\\x", "package:demo.nc",
         ".hidden/x.nc", "ftp://h/x", "s3://b/x", "", None, 5, "a/" * 20 + "x", "x\x00.nc", "//host/x.nc", "javascript:x"],
    )  # fmt: skip
    @pytest.mark.parametrize("field", ["address", "card"])
    def test_an_address_out_of_its_folder_and_the_web(self, tmp_path: Path, field: str, address: Any) -> None:
        assert f"'{field}' is" in self.refusal(tmp_path, **{"card_sha256": "a" * 64, field: address})

    @pytest.mark.parametrize("address", ["https://me:hunter2@h/x.nc", "https://h/x.nc?token=hunter2"])
    def test_an_address_with_a_password(self, tmp_path: Path, address: str) -> None:
        said = self.refusal(tmp_path, address=address)
        assert "'address' holds a name, a password or a token" in said
        assert "hunter2" not in said

    @pytest.mark.parametrize("size", [0, -1, True, 1.5, "5", None, 10**14])
    def test_a_size_that_is_none(self, tmp_path: Path, size: Any) -> None:
        assert "'size' is not a number of bytes" in self.refusal(tmp_path, size=size)

    @pytest.mark.parametrize("sha256", ["", "a" * 63, "A" * 64, None])
    def test_a_checksum_that_is_none(self, tmp_path: Path, sha256: Any) -> None:
        assert "'sha256' is not 64" in self.refusal(tmp_path, sha256=sha256)

    @pytest.mark.parametrize("text", ["", " ", None, 5, "a\nb", "\x1b[2J", "x" * 501])
    @pytest.mark.parametrize("field", ["license", "summary"])
    def test_a_text_that_is_no_line(self, tmp_path: Path, field: str, text: Any) -> None:
        assert f"'{field}' " in self.refusal(tmp_path, **{field: text})

    def test_all_mistakes_are_listed_with_the_number_of_the_cube(self, tmp_path: Path) -> None:
        path = write(
            tmp_path / "registry.json", LINE, LINE | {"name": "a b", "size": 0}, LINE | {"name": "c", "version": ""}
        )
        with pytest.raises(
            RegistryError, match=r"3 mistakes(.|\n)*cube 2: 'name'(.|\n)*cube 2: 'size'(.|\n)*cube 3: 'ver"
        ):
            add_cubes(path)

    def test_one_version_twice(self, tmp_path: Path) -> None:
        with pytest.raises(RegistryError, match=r"'mine@1\.0' is there twice"):
            add_cubes(write(tmp_path / "registry.json", LINE, LINE))

    @pytest.mark.parametrize("source", ["nowhere.json", "a\x00b", "x" * 5000])
    def test_a_file_that_cannot_be_read(self, source: str) -> None:
        with pytest.raises(RegistryError, match=r"does not exist|cannot be read"):
            add_cubes(source)

    def test_an_address_that_does_not_answer(self, server: Server) -> None:
        with pytest.raises(RegistryError, match=r"the registry http://127.*/r\.json could not be fetched: status 404"):
            add_cubes(f"{server.address}/r.json?x=1")

    def test_a_cut_registry_is_not_kept(self, server: Server) -> None:
        content = registry_text([CatalogEntry(**{**LINE, "address": "https://h/x.nc"})]).encode()
        server.answers["/r.json"] = Answer(content, cut=50)
        with pytest.raises(RegistryError, match="broke off after 50 of"):
            add_cubes(f"{server.address}/r.json")
        assert not registry_folder().exists()

    def test_a_registry_far_too_long(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("polystab.cube.registries.LONGEST_REGISTRY", 1000)
        server.answers["/r.json"] = Answer(b" " * 2000)
        with pytest.raises(RegistryError, match="too long"):
            add_cubes(f"{server.address}/r.json")

    def test_a_registry_on_the_web_cannot_name_files_of_this_machine(self, server: Server) -> None:
        server.answers["/r.json"] = Answer(
            json.dumps({"polystab_registry": 1, "cubes": [LINE | {"address": "file:///etc/passwd"}]}).encode()
        )
        with pytest.raises(RegistryError, match="neither an address of the web nor"):
            add_cubes(f"{server.address}/r.json")

    @pytest.mark.slow
    @given(
        st.dictionaries(
            st.sampled_from([*LINE, "card", "card_sha256", "other"]),
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.text(), max_size=2),
        )
    )
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    def test_no_line_raises_anything_else(self, tmp_path: Path, changes: dict[str, Any]) -> None:
        content = json.dumps({"polystab_registry": 1, "cubes": [LINE | changes]}).encode()
        (tmp_path / "r.json").write_bytes(content)
        with suppress(RegistryError):
            entry = read_registry(tmp_path / "r.json").entries[0]
            assert entry.address.startswith(("http", tmp_path.as_uri()))


class TestKept:
    def test_a_password_of_the_address_is_used_and_not_kept(self, released: Path, server: Server, cache: Path) -> None:
        address = serve(server, released).replace("//", "//me:hunter2@") + "?token=hunter2"
        registry = add_cubes(address)
        assert server.authorizations == ["Basic bWU6aHVudGVyMg=="]
        kept = "".join(path.read_text() for path in cache.rglob("*.json")) + str(registry)
        assert "hunter2" not in kept
        assert f"{server.address}/cubes/mine-1.0.nc" in kept

    def test_bundled_cubes_open_though_a_kept_registry_is_damaged(self) -> None:
        registry_folder().mkdir(parents=True)
        (registry_folder() / "x.json").write_text("{")
        ps.load_cube("demo").close()

    def test_a_damaged_kept_registry_is_named(self) -> None:
        registry_folder().mkdir(parents=True)
        (registry_folder() / "x.json").write_text("{")
        with pytest.raises(RegistryError, match=r"kept at .*x\.json; remove that file, and add the registry again"):
            ps.list_cubes()

    def test_a_kept_registry_of_the_web_cannot_name_files_of_this_machine(self) -> None:
        registry_folder().mkdir(parents=True)
        text = registry_text([CatalogEntry(**{**LINE, "address": "file:///etc/passwd"})], source="https://h/r.json")
        (registry_folder() / "x.json").write_text(text)
        with pytest.raises(RegistryError, match="neither an address of the web nor"):
            ps.list_cubes()

    def test_a_folder_that_cannot_be_written_is_an_error_of_writing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setenv("POLYSTAB_DATA", str(tmp_path / "file"))
        with pytest.raises(OutputError, match="cannot be kept"):
            add_cubes(write(tmp_path / "registry.json", LINE))
