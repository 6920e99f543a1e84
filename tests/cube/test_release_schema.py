"""A cube of schema 1 opens for ever; a step to a newer schema is one function, applied when a file is opened."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import polystab as ps
from polystab.cube import migrations, store, validate
from polystab.cube.migrations import STEPS, Nodes, migrated
from polystab.cube.specs import SCHEMA_VERSION

FILE = Path(__file__).parent / "data" / "schema1.nc"


def nodes() -> dict[str, xr.Dataset]:
    """The stored file, as it is."""
    with xr.open_datatree(FILE, engine="netcdf4", decode_times=False) as tree:
        return {node.path: node.to_dataset(inherit=False).load() for node in tree.subtree}


def renamed(given: Nodes) -> Nodes:
    """A step from schema 1 to an imagined schema 2, in which step counts are called updates."""
    return {path: data.assign_attrs(steps_called="updates") for path, data in given.items()}


class TestSchema1:
    def test_the_stored_file_is_the_one_that_was_stored(self) -> None:
        assert (
            hashlib.sha256(FILE.read_bytes()).hexdigest()
            == "341447a6928384e872e445956bc7bbee36fcf6602fccf069e2a7c621639c7e82"
        )

    def test_its_values_and_labels_are_read(self) -> None:
        with ps.open_cube(FILE) as cube:
            assert cube.attrs["title"] == "a cube of schema 1"
            assert cube["value"].sel(seed=1, step=10, metric="loss/validation/cross_entropy").values == pytest.approx(
                [1.11]
            )
            assert np.isnan(cube["value"].sel(seed=1, step=20)).all()
            assert cube["shots"].values.tolist() == [5, -1]
            assert cube["weight_seed"].values.tolist() == [[7, 8]]

    def test_its_groups_are_read(self) -> None:
        with ps.open_tree(FILE) as tree:
            assert tree["items"]["correct"].values.tolist() == [[[[1, 0]] * 3, [[0, -1]] * 3]]
            assert tree["audit"]["reason"].values.tolist() == ["", "label-mismatch"]

    def test_it_is_valid(self) -> None:
        with ps.open_tree(FILE) as tree:
            assert ps.validate_cube(tree) == []

    @pytest.mark.slow
    def test_saved_again_it_has_the_newest_schema(self, tmp_path: Path) -> None:
        with ps.open_tree(FILE) as tree:
            ps.save_cube(tree, tmp_path / "new.nc")
        with ps.open_cube(tmp_path / "new.nc") as back:
            assert int(back.attrs["polystab_schema"]) == SCHEMA_VERSION


@pytest.mark.parametrize("open_file", [ps.open_cube, ps.open_tree])
def test_what_is_opened_is_migrated_and_closes_its_file(
    open_file: Callable[[Path], xr.Dataset | xr.DataTree], monkeypatch: pytest.MonkeyPatch
) -> None:
    def noted(given: Nodes) -> dict[str, xr.Dataset]:
        return {path: data.assign_attrs(came_through="here") for path, data in given.items()}

    monkeypatch.setattr(store, "migrated", noted)
    with open_file(FILE) as opened:
        assert opened.attrs["came_through"] == "here"


class TestSteps:
    def test_there_is_one_for_each_schema_before_the_newest(self) -> None:
        assert sorted(STEPS) == list(range(1, SCHEMA_VERSION))

    def test_content_of_the_newest_schema_stays_as_it_is(self) -> None:
        given = {"/": nodes()["/"].assign_attrs(polystab_schema=SCHEMA_VERSION)}
        assert migrated(given)["/"] is given["/"]

    def test_they_are_applied_one_after_the_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def dropped(given: Nodes) -> Nodes:
            return {path: data for path, data in given.items() if path != "/items"}

        monkeypatch.setattr(migrations, "SCHEMA_VERSION", 3)
        monkeypatch.setattr(migrations, "STEPS", {1: renamed, 2: dropped})
        found = migrated(nodes())
        assert sorted(found) == ["/", "/audit"]
        assert found["/"].attrs["polystab_schema"] == 3
        assert {data.attrs["steps_called"] for data in found.values()} == {"updates"}

    def test_one_of_the_middle_starts_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(migrations, "SCHEMA_VERSION", 3)
        monkeypatch.setattr(migrations, "STEPS", {2: renamed})
        found = migrated({"/": nodes()["/"].assign_attrs(polystab_schema=2)})
        assert found["/"].attrs["polystab_schema"] == 3

    def test_the_input_is_not_changed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(migrations, "SCHEMA_VERSION", 2)
        monkeypatch.setattr(migrations, "STEPS", {1: renamed})
        given = nodes()
        before = {path: data.copy(deep=True) for path, data in given.items()}
        migrated(given)
        for path, data in given.items():
            xr.testing.assert_identical(data, before[path])

    @pytest.mark.parametrize("version", [0, -1, 99, "1", True, None])
    def test_a_schema_that_is_not_known_is_left_to_validation(
        self, version: object, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(migrations, "SCHEMA_VERSION", 2)
        given = {"/": nodes()["/"].assign_attrs(polystab_schema=version)}
        assert migrated(given)["/"] is given["/"]

    def test_migrated_content_is_valid_in_the_newer_schema(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in (migrations, validate):
            monkeypatch.setattr(module, "SCHEMA_VERSION", 2)
        monkeypatch.setattr(migrations, "STEPS", {1: renamed})
        assert ps.validate_cube(migrated(nodes())["/"]) == []
