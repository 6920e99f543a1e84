"""Names from data that become names of files, and links: nothing is written where it was not asked for."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import pytest
from fuzz_mutations import TEXTS
from fuzz_readers import NEW_DIALECT
from hypothesis import given
from hypothesis import strategies as st

from polystab.cube.fetching import fetch_file
from polystab.cube.registries import NAME, VERSION, RegistryError, read_registry, registry_text
from polystab.cube.registries import CatalogEntry as Entry
from polystab.cube.release import release
from polystab.errors import PolystabError
from polystab.files import RESERVED_NAMES, atomic_path, file_names, is_reserved, write_text
from polystab.sources.eval_results import read_lm_eval
from polystab.sources.hub_cache import HubCache
from polystab.sources.runs import Run, RunTable, RunTableError
from polystab.sources.unit_keys import UnitKey, folder_name
from polystab.testing import synthetic_cube

DEVICES = ["CON", "con", "nul.txt", "COM1", "Aux.nc", "prn .x", "LPT9.tar.gz"]
labels = st.sampled_from([*TEXTS, *DEVICES, "a.", "a ", "é", "e\u0301", "A", "a"]).filter(bool) | st.text(
    st.characters(), min_size=1, max_size=20
)
SHA = "0123456789" * 4
BAD_NAMES = ["", "..", "../x", "/x", "a/b", "a\\b", ".x", "-x", "a\0", "a\nb", "é", "x" * 101, "C:x", "a b"]
BAD_REVISIONS = ["../../../x", "/etc/x", "..", ".", "", "a//b", "a/../b", "a\0", "C:x", "a\\b", "a b", ".hidden", "x."]


def is_portable(name: str) -> bool:
    """Whether a name is one part of a path, the same on every system."""
    return (
        PurePosixPath(name).name == name
        and PureWindowsPath(name).name == name
        and name.isascii()
        and name.isprintable()
        and not name.endswith((".", " "))
        and not set(name) & set('<>:"|?*\\/\0')
        and name.partition(".")[0].rstrip().lower() not in RESERVED_NAMES
    )


class TestNamesOfFolders:
    @pytest.mark.slow
    @given(labels)
    def test_are_portable(self, label: str) -> None:
        assert is_portable(folder_name(label))

    @pytest.mark.parametrize("label", [*DEVICES, "a.", "a ", ".a", ".", "..", "\0", "a/b", "C:", "\u202ea"])
    def test_of_odd_labels_are_portable(self, label: str) -> None:
        assert is_portable(folder_name(label))

    @pytest.mark.parametrize("label", ["pythia-70m", "Qwen2.5-0.5B", "a b", "org,x=1", "console", "a_b+c@d"])
    def test_of_plain_labels_stay_as_they_are(self, label: str) -> None:
        assert folder_name(label) == label

    @pytest.mark.slow
    @given(labels, labels)
    def test_differ_where_labels_do(self, one: str, other: str) -> None:
        assert (folder_name(one) == folder_name(other)) == (one == other)

    def test_differ_where_only_the_form_of_unicode_does(self) -> None:
        forms = {unicodedata.normalize(form, "modèle-Å") for form in ("NFC", "NFD", "NFKC")}
        names = {folder_name(label) for label in forms}
        assert len({unicodedata.normalize("NFC", name).lower() for name in names}) == len(forms)

    @pytest.mark.slow
    @given(labels, labels, st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**63 - 1))
    def test_lead_nowhere_else(self, source: str, model: str, seed: int, step: int) -> None:
        place = UnitKey(source, model, seed, step).place()
        assert not place.is_absolute()
        assert len(place.parts) == 5
        assert ".." not in place.parts

    def test_of_models_that_differ_in_case_only_are_refused(self) -> None:
        runs = tuple(Run(model, 0, location=f"{model}/{{step}}") for model in ("Tiny", "tiny"))
        with pytest.raises(RunTableError, match="'Tiny' and 'tiny' differ in upper and lower case only"):
            RunTable(runs)


class TestNamesOfFiles:
    @pytest.mark.slow
    @given(st.lists(labels, max_size=6))
    def test_are_portable_and_differ_on_every_system(self, given_labels: list[str]) -> None:
        names = file_names(given_labels)
        assert all(is_portable(f"{name}.html") for name in names.values())
        assert len({name.lower() for name in names.values()}) == len(set(given_labels))

    @pytest.mark.parametrize("label", DEVICES)
    def test_are_no_devices(self, label: str) -> None:
        assert not is_reserved(file_names([label])[label])

    def test_that_begin_with_a_device_only_stay_as_they_are(self) -> None:
        assert file_names(["console", "null", "com10"]) == {"console": "console", "null": "null", "com10": "com10"}


class TestNamesOfCubes:
    @pytest.mark.parametrize("name", BAD_NAMES)
    def test_of_a_registry_are_checked(self, name: str, tmp_path: Path) -> None:
        text = registry_text([Entry("good", "a.nc", "0" * 64, 1, "CC0", "x", "1.0")]).replace(
            '"good"', json.dumps(name)
        )
        (tmp_path / "registry.json").write_text(text)
        with pytest.raises(RegistryError):
            read_registry(tmp_path)

    @pytest.mark.slow
    @given(st.from_regex(NAME, fullmatch=True), st.from_regex(VERSION, fullmatch=True))
    def test_that_are_sound_are_one_part_of_a_path(self, name: str, version: str) -> None:
        assert PurePosixPath(f"{name}-{version}.nc").name == PureWindowsPath(f"{name}-{version}.nc").name

    @pytest.mark.parametrize("name", BAD_NAMES)
    def test_of_a_release_are_checked(self, name: str, tmp_path: Path) -> None:
        with pytest.raises(PolystabError):
            release(
                synthetic_cube(n_seeds=2, steps=[0], rng=0), tmp_path / "out", name=name, version="1", license="CC0"
            )
        assert not (tmp_path / "out").exists()


class TestNamesOfRevisions:
    @pytest.mark.parametrize("revision", BAD_REVISIONS)
    def test_that_git_has_not_are_written_nowhere(self, revision: str, tmp_path: Path) -> None:
        HubCache(tmp_path / "a" / "b" / "cache").remember("org/m", revision, SHA)
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    @pytest.mark.parametrize("revision", BAD_REVISIONS)
    def test_that_git_has_not_were_never_fetched(self, revision: str, tmp_path: Path) -> None:
        assert HubCache(tmp_path).commit("org/m", revision) == ""

    def test_are_read_as_commits_only(self, tmp_path: Path) -> None:
        cache = HubCache(tmp_path)
        reference = cache.repository("org/m") / "refs" / "main"
        write_all(reference, "../../elsewhere")
        assert cache.commit("org/m", "main") == ""
        write_all(reference, SHA)
        assert cache.commit("org/m", "main") == SHA

    @pytest.mark.parametrize("revision", ["main", "step1000", "pr/1", "v1.0.2", "feature/a-b_c"])
    def test_of_git_are_kept(self, revision: str, tmp_path: Path) -> None:
        cache = HubCache(tmp_path)
        cache.remember("org/m", revision, SHA)
        assert cache.commit("org/m", revision) == SHA


def write_all(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


class TestLinks:
    def test_of_an_output_is_followed_and_stays(self, tmp_path: Path) -> None:
        """As the shell does: somebody who links the report to another disk wants it there."""
        (tmp_path / "there.txt").write_text("old")
        (tmp_path / "out.txt").symlink_to("there.txt")
        write_text(tmp_path / "out.txt", "new")
        assert ((tmp_path / "there.txt").read_text(), (tmp_path / "out.txt").is_symlink()) == ("new", True)

    def test_is_replaced_where_it_is_not_to_be_followed(self, tmp_path: Path) -> None:
        (tmp_path / "precious").write_text("mine")
        (tmp_path / "out").symlink_to("precious")
        with atomic_path(tmp_path / "out", follow=False) as temporary:
            temporary.write_text("new")
        assert (tmp_path / "precious").read_text() == "mine"
        assert ((tmp_path / "out").read_text(), (tmp_path / "out").is_symlink()) == ("new", False)

    def test_where_a_fetched_file_goes_is_replaced(self, tmp_path: Path, served: str) -> None:
        """In a folder that several users share, one can leave a link to a file of another."""
        (tmp_path / "precious").write_text("mine")
        (tmp_path / "cube.nc").symlink_to("precious")
        fetch_file(served, tmp_path / "cube.nc", sha256=hashlib.sha256(b"content").hexdigest(), size=7)
        assert (tmp_path / "precious").read_text() == "mine"
        assert (tmp_path / "cube.nc").read_bytes() == b"content"

    def test_to_another_folder_is_followed_and_its_files_are_named_in_the_audit(self, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "results_2026-01-02T03-04-05.678901.json").write_text(json.dumps(NEW_DIALECT))
        (tmp_path / "tree").mkdir()
        (tmp_path / "tree" / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
        (tmp_path / "tree" / "again").symlink_to(tmp_path / "tree", target_is_directory=True)
        tree = read_lm_eval(tmp_path / "tree")
        assert [str(name) for name in tree["audit"]["path"].values] == [
            "linked/results_2026-01-02T03-04-05.678901.json"
        ]


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """Where a server on this machine gives out one file."""
    (tmp_path / "www").mkdir()
    (tmp_path / "www" / "file").write_bytes(b"content")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(tmp_path / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/file"
        server.shutdown()
        thread.join()
