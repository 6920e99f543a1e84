"""Releasing: a folder that others load by name, the same bytes each time, and no passwords in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from web_server import Answer, Server

import polystab as ps
from polystab.cube.audit import AuditLog
from polystab.cube.registries import read_registry
from polystab.cube.release import Release, ReleaseError, release
from polystab.errors import InvalidCubeError, OutputError


def released(cube: Any, folder: Path, **changes: Any) -> Release:
    return release(cube, folder, **{"name": "mine", "version": "1.0", "license": "CC-BY-4.0", **changes})


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("POLYSTAB_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server().running() as server:
        yield server


class TestFiles:
    @pytest.mark.slow
    def test_they_are_the_cube_its_card_checksums_and_a_registry(self, tree: xr.DataTree, tmp_path: Path) -> None:
        released(tree, tmp_path / "out")
        names = sorted(path.name for path in (tmp_path / "out").iterdir())
        assert names == ["mine-1.0.md", "mine-1.0.nc", "mine-1.0.sha256", "registry.json"]

    @pytest.mark.slow
    def test_the_same_cube_gives_the_same_bytes(self, tree: xr.DataTree, tmp_path: Path) -> None:
        for folder in ("a", "b"):
            released(tree, tmp_path / folder)
        for path in (tmp_path / "a").iterdir():
            assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()

    @pytest.mark.slow
    def test_checksums_are_those_of_the_files(self, tree: xr.DataTree, tmp_path: Path) -> None:
        done = released(tree, tmp_path)
        lines = done.checksums.read_text().splitlines()
        assert lines == [f"{digest(done.cube)}  mine-1.0.nc", f"{digest(done.card)}  mine-1.0.md"]
        assert (done.entry.sha256, done.entry.size) == (digest(done.cube), done.cube.stat().st_size)

    @pytest.mark.slow
    def test_values_and_groups_are_those_of_the_cube(self, tree: xr.DataTree, tmp_path: Path) -> None:
        with ps.open_tree(released(tree, tmp_path).cube) as back:
            xr.testing.assert_equal(back.to_dataset().load(), tree.to_dataset())
            assert back["spectra/layers.0"].to_dataset().load().equals(tree["spectra/layers.0"].to_dataset())
            assert back["audit"].to_dataset().load().equals(tree["audit"].to_dataset())

    @pytest.mark.slow
    def test_what_was_said_of_it_is_in_its_attributes(self, cube: xr.Dataset, tmp_path: Path) -> None:
        done = released(cube, tmp_path, title="A title", summary="What", references="doi:10.1/x")
        with ps.open_cube(done.cube) as back:
            said = {
                name: back.attrs[name]
                for name in ("title", "summary", "references", "license", "id", "product_version")
            }
        assert list(said.values()) == ["A title", "What", "doi:10.1/x", "CC-BY-4.0", "mine", "1.0"]

    @pytest.mark.slow
    def test_the_cube_is_not_changed(self, tree: xr.DataTree, tmp_path: Path) -> None:
        before = tree.copy(deep=True)
        released(tree, tmp_path, title="Another")
        xr.testing.assert_identical(tree, before)

    @pytest.mark.slow
    def test_each_version_is_a_line_of_the_registry_with_relative_addresses(
        self, cube: xr.Dataset, tmp_path: Path
    ) -> None:
        released(cube, tmp_path)
        released(cube, tmp_path, version="1.1")
        lines = json.loads((tmp_path / "registry.json").read_text())["cubes"]
        assert [(line["version"], line["address"], line["card"]) for line in lines] == [
            ("1.0", "mine-1.0.nc", "mine-1.0.md"),
            ("1.1", "mine-1.1.nc", "mine-1.1.md"),
        ]

    def test_a_version_that_is_there_stays_without_overwrite(self, cube: xr.Dataset, tmp_path: Path) -> None:
        before = digest(released(cube, tmp_path).cube)
        with pytest.raises(OutputError, match="overwrite"):
            released(cube.isel(seed=[0]), tmp_path)
        assert digest(tmp_path / "mine-1.0.nc") == before

    @pytest.mark.slow
    def test_with_overwrite_it_is_replaced_and_listed_once(self, cube: xr.Dataset, tmp_path: Path) -> None:
        released(cube, tmp_path)
        done = released(cube.isel(seed=[0]), tmp_path, overwrite=True)
        lines = json.loads((tmp_path / "registry.json").read_text())["cubes"]
        assert [line["sha256"] for line in lines] == [digest(done.cube)]

    def test_a_failure_leaves_no_line_in_the_registry(
        self, cube: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object, **__: object) -> None:
            raise OutputError("the disk is full")

        monkeypatch.setattr("polystab.cube.release.save_cube", full)
        with pytest.raises(OutputError):
            released(cube, tmp_path)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.slow
    def test_it_is_loaded_from_a_server_on_this_machine(
        self, tree: xr.DataTree, tmp_path: Path, server: Server
    ) -> None:
        from polystab.cube.catalog import add_cubes

        released(tree, tmp_path / "out")
        for path in (tmp_path / "out").iterdir():
            server.answers[f"/a/b/{path.name}"] = Answer(path.read_bytes())
        server.answers["/registry"] = Answer(status=301, location="/a/b/registry.json")
        add_cubes(f"{server.address}/a/b/registry.json")
        with ps.load_tree("mine@1.0") as back:
            assert "audit" in back.children

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("summary", "line"),
        [
            ("", "test"),
            ("\n\n first \nsecond", "first"),
            ("\x1b[2Jred", "[2Jred"),
            ("\x07\n", "test"),
            ("x" * 900, "x" * 500),
        ],
    )
    def test_any_summary_gives_a_registry_that_can_be_read(
        self, cube: xr.Dataset, tmp_path: Path, summary: str, line: str
    ) -> None:
        done = released(cube, tmp_path, summary=summary)
        assert [entry.summary for entry in read_registry(done.registry).entries] == [line]

    def test_two_names_cannot_share_a_file(self, cube: xr.Dataset, tmp_path: Path) -> None:
        released(cube, tmp_path, name="a-1", version="0")
        with pytest.raises(ReleaseError, match=r"a-1-0\.nc is the file of 'a-1@0'"):
            released(cube, tmp_path, name="a", version="1-0", overwrite=True)


class TestCard:
    @pytest.mark.slow
    def test_it_says_what_is_there_and_what_is_not_known(self, tree: xr.DataTree, tmp_path: Path) -> None:
        done = released(tree, tmp_path)
        card = done.card.read_text()
        assert card.startswith("# test\n")
        for said in (
            "`mine@1.0`", "CC-BY-4.0", done.entry.sha256, "| eval | 1 | 100 % | `eval/arc_easy/acc` |",
            "6 runs; 24 of 24 cells", "| `pythia-1b` | 3 | 0 to 1,000 (2) | 100 % |", "initialisations: 3 distinct in 6 runs",
            "data orders: not known", "source: not known", "| refused | label-mismatch | 1 |", "No work to cite is stated",
            "were not checked",
        ):  # fmt: skip
            assert said in card, said

    def test_findings_are_counted_by_severity_and_the_first_listed(self, cube: xr.Dataset, tmp_path: Path) -> None:
        checks = {"error": ["one"], "warning": [f"thing {n}" for n in range(20)]}
        card = released(cube, tmp_path, checks=checks).card.read_text()
        assert "found: 1 error, 20 warning." in card
        assert card.count("- warning: thing") == 9
        assert "and 11 more" in card

    def test_no_findings_are_said_too(self, cube: xr.Dataset, tmp_path: Path) -> None:
        assert "found nothing" in released(cube, tmp_path, checks={"error": []}).card.read_text()

    def test_texts_of_the_cube_cannot_break_out_of_a_table(self, one: Any, tmp_path: Path) -> None:
        card = released(one(0.5, model="a|b\n<script>"), tmp_path).card.read_text()
        assert "| `a\\|b &lt;script>` | 1 |" in card


class TestPasswords:
    @pytest.mark.slow
    def test_none_of_the_cube_is_in_any_file(self, cube: xr.Dataset, tmp_path: Path) -> None:
        log = AuditLog()
        log.refuse("https://me:hunter2@host/a.json", "x", "see https://host/?token=hunter2", sha256="aa")
        log.read("b.json")
        data = cube.assign_attrs(source="https://me:hunter2@host/x", history="token hf_hunter2hunter2hunter2")
        tree = xr.DataTree.from_dict({"/": data, "/audit": log.dataset()})
        done = released(tree, tmp_path, summary="from https://hunter2@host")
        with ps.open_tree(done.cube) as back:
            texts = str(back.to_dataset().attrs) + str(
                {k: v.values.tolist() for k, v in back["audit"].data_vars.items()}
            )
        texts += done.card.read_text() + done.registry.read_text()
        assert "hunter2" not in texts
        assert "https://host/a.json" in texts
        # The audit keeps none to begin with.
        assert set(done.cleaned) == {"attribute source", "attribute history", "attribute summary"}


class TestRefused:
    @pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "a b", "a@b", "x" * 101, "add", "a\x00"])
    def test_a_name_that_is_none(self, cube: xr.Dataset, tmp_path: Path, name: str) -> None:
        with pytest.raises(ReleaseError, match="cannot be the name of a cube"):
            released(cube, tmp_path / "out", name=name)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize("version", ["", "1/0", "v 1", "..", "x" * 41])
    def test_a_version_that_is_none(self, cube: xr.Dataset, tmp_path: Path, version: str) -> None:
        with pytest.raises(ReleaseError, match="cannot be a version"):
            released(cube, tmp_path, version=version)

    def test_a_cube_without_a_licence(self, cube: xr.Dataset, tmp_path: Path) -> None:
        with pytest.raises(ReleaseError, match="licence of the data is not known"):
            released(cube, tmp_path, license="")

    def test_another_licence_than_the_cube_says(self, cube: xr.Dataset, tmp_path: Path) -> None:
        with pytest.raises(ReleaseError, match=r"says that its licence is 'MIT', not 'CC-BY-4\.0'"):
            released(cube.assign_attrs(license="MIT"), tmp_path)

    @pytest.mark.parametrize("text", ["two\nlines", "\x1b[2J", "x" * 501])
    @pytest.mark.parametrize("field", ["title", "license"])
    def test_a_text_that_is_no_line(self, cube: xr.Dataset, tmp_path: Path, field: str, text: str) -> None:
        with pytest.raises(ReleaseError, match=f"the {field} "):
            released(cube, tmp_path, **{field: text})

    def test_a_cube_that_is_not_valid(self, cube: xr.Dataset, tmp_path: Path) -> None:
        with pytest.raises(InvalidCubeError):
            released(cube.isel(step=[1, 0]), tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_a_folder_that_is_a_file(self, cube: xr.Dataset, tmp_path: Path) -> None:
        (tmp_path / "out").touch()
        with pytest.raises(OutputError, match="cannot be made"):
            released(cube, tmp_path / "out")
