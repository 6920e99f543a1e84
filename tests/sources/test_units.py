"""Units on disk, and the cube that they are joined to."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import polystab as ps
from polystab.cube import audit_entries
from polystab.errors import ConflictError, OutputError, ReadError, RecordsError, RefusedFileError
from polystab.sources.joining import join_units
from polystab.sources.measuring import Measurement
from polystab.sources.outputs import UnitFailure, keep_settings, write_failure
from polystab.sources.runs import Run
from polystab.sources.units import is_done, read_unit, write_unit

METRIC = "eval/arc/acc"


def run(model: str = "pythia-14m", seed: int = 0, **more: Any) -> Run:
    return Run(model, seed, **{"location": "org/name", "revision": "step{step}", **more})


def items(labels: list[str], correct: list[int], **more: Any) -> xr.Dataset:
    coords = {"item": labels, "task": ("item", ["arc"] * len(labels)), "doc_hash": ("item", [f"h{x}" for x in labels])}
    return xr.Dataset({"correct": ("item", np.array(correct, dtype=np.int8))}, coords=coords | more)


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a unit: write(value, model=..., seed=..., step=..., source=..., details=..., metrics=...)."""

    def make(value: Any = 0.5, *, source: str = "evals", step: int = 0, settings: Any = None, **more: Any) -> Path:
        labels = {
            name: more.pop(name) for name in ("model", "seed", "facts", "weight_seed", "location") if name in more
        }
        values = value if isinstance(value, dict) else {METRIC: value}
        return write_unit(
            tmp_path / "out", source, run(**labels), step, Measurement(values=values, **more), settings or {"a": 1}
        )

    return make


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def reasons(tree: xr.DataTree, status: str = "refused") -> list[str]:
    return [entry.reason for entry in audit_entries(tree) if entry.status == status]


class TestOneUnit:
    def test_a_measurement_comes_back_as_it_was(self, write: Write) -> None:
        measurement: dict[str, Any] = {
            "stderr": {METRIC: 0.01},
            "metrics": {METRIC: {"units": "1", "n_items": 3, "chance": 0.25}},
            "details": {
                "items": items(["a", "b"], [1, 0]),
                "spectra/layers.0": xr.Dataset(
                    {"singular": (("rank", "side"), np.arange(4.0).reshape(2, 2)), "top": ("rank", ["ä", "日本"])},
                    coords={"rank": [1, 2], "side": ["left", "right"]},
                    attrs={"summary": "s"},
                ),
            },
            "notes": [("short", "detail")],
            "provenance": {"torch": "2"},
        }
        path = write({METRIC: 0.5, "loss/train/nats": float("inf")}, **measurement)
        got = read_unit(path).measurement
        assert got.values == {METRIC: 0.5, "loss/train/nats": float("inf")}
        assert (got.stderr, got.metrics) == (measurement["stderr"], measurement["metrics"])
        assert (got.notes, got.provenance) == (measurement["notes"], measurement["provenance"])
        for name, data in measurement["details"].items():
            xr.testing.assert_identical(got.details[name], data)

    def test_equal_measurements_are_equal_files(self, write: Write) -> None:
        first = write({METRIC: 0.5, "eval/b/acc": 1.0}, details={"items": items(["a"], [1])}).read_bytes()
        assert write({"eval/b/acc": 1.0, METRIC: 0.5}, details={"items": items(["a"], [1])}).read_bytes() == first

    def test_numpy_and_zip_tools_can_open_it(self, write: Write) -> None:
        with np.load(write(0.5), allow_pickle=False) as opened:
            assert opened["values"].tolist() == [0.5]

    @pytest.mark.parametrize("model", ["a/b", "..", ".", ".hidden", "org/näme 7b", "%2F", "x" * 60])
    def test_any_model_name_has_a_place_of_its_own(self, write: Write, out: Path, model: str) -> None:
        path = write(model=model)
        assert path.resolve().is_relative_to(out / "units" / "evals")
        assert read_unit(path).key.model == model
        assert join_units(out)["model"].item() == model

    @pytest.mark.parametrize("damage", ["truncated", "empty", "zeros", "one byte", "grown"])
    def test_a_damaged_file_is_noticed(self, write: Write, out: Path, damage: str) -> None:
        path = write()
        content = path.read_bytes()
        middle = len(content) // 2
        path.write_bytes(
            {
                "truncated": content[:middle],
                "empty": b"",
                "zeros": bytes(len(content)),
                "one byte": content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :],
                "grown": content + b"x",
            }[damage]
        )
        with pytest.raises(RefusedFileError, match="damaged"):
            read_unit(path)
        assert not is_done(out, read_key())

    def test_a_missing_file_is_not_done(self, out: Path) -> None:
        assert not is_done(out, read_key())

    @pytest.mark.parametrize(
        ("measurement", "match"),
        [
            ({"values": {"arc": 1.0}}, "metric id 'arc'"),
            ({"values": {METRIC: 1.0}, "stderr": {"eval/b/acc": 1.0}}, "'eval/b/acc', which values does not have"),
            ({"values": {METRIC: 1.0}, "stderr": {METRIC: -1.0}}, "negative"),
            ({"values": {METRIC: 1.0}, "metrics": {METRIC: {"unit": "1"}}}, "Did you mean 'units'"),
            ({"values": {METRIC: 1.0}, "metrics": {METRIC: {"layer": "top"}}}, "layer of"),
            ({"details": {"items": xr.Dataset({"x": ("item", [1])})}}, "no labels along 'item'"),
            ({"details": {"items": xr.Dataset({"x": ("seed", [1])}, coords={"seed": [0]})}}, "dimensions 'seed'"),
            ({"details": {"audit": xr.Dataset()}}, "name that cannot be kept"),
            ({"details": {"g": xr.Dataset({"x": ("i", [1j])}, coords={"i": [0]})}}, "complex128"),
        ],
    )
    def test_what_cannot_be_in_a_cube_is_refused(self, out: Path, measurement: Any, match: str) -> None:
        with pytest.raises(RecordsError, match=match):
            write_unit(out, "evals", run(), 0, Measurement(**measurement), {})

    def test_settings_that_json_cannot_hold_are_refused(self, out: Path) -> None:
        with pytest.raises(RecordsError, match="JSON cannot hold"):
            write_unit(out, "evals", run(), 0, Measurement(values={METRIC: 1.0}), {"a": object()})

    def test_a_folder_that_cannot_be_made_is_said(self, out: Path) -> None:
        out.write_text("a file")
        with pytest.raises(OutputError, match="cannot make the folder"):
            write_unit(out, "evals", run(), 0, Measurement(values={METRIC: 1.0}), {})


def read_key() -> Any:
    from polystab.sources.unit_keys import UnitKey

    return UnitKey("evals", "pythia-14m", 0, 0)


class TestJoining:
    def test_units_of_several_sources_become_one_cube(self, write: Write, out: Path) -> None:
        write({METRIC: 0.5}, stderr={METRIC: 0.1}, metrics={METRIC: {"chance": 0.25, "better": "higher"}})
        write({METRIC: 0.7}, seed=1, step=1000)
        write({"weight/all/l2": 3.0}, source="weights", model="pythia-70m")
        cube = join_units(out, title="mine").to_dataset()
        assert cube["model"].values.tolist() == ["pythia-14m", "pythia-70m"]
        assert cube["value"].sel(model="pythia-14m", seed=1, step=1000, metric=METRIC).item() == 0.7
        assert cube["value"].count().item() == 3
        assert cube["stderr"].count().item() == 1
        assert cube["chance"].sel(metric=METRIC).item() == 0.25
        assert cube["shots"].sel(metric="weight/all/l2").item() == -1
        assert cube.attrs["title"] == "mine"
        assert cube.attrs["source"] == "org/name at step{step}"

    def test_facts_of_the_runs_come_along(self, write: Write, out: Path) -> None:
        for step in (0, 5):
            write(step=step, weight_seed=7, facts={"n_parameters": 14, "tokens_per_step": 100})
        cube = join_units(out).to_dataset()
        assert cube["weight_seed"].item() == 7
        assert "data_seed" not in cube
        assert cube["n_parameters"].item() == 14
        assert cube["tokens"].values.tolist() == [0, 500]

    def test_tokens_are_left_out_where_runs_have_other_batches(self, write: Write, out: Path) -> None:
        write(step=5, facts={"tokens_per_step": 100})
        write(step=5, model="b", facts={"tokens_per_step": 200})
        assert "tokens" not in join_units(out).to_dataset().coords

    def test_runs_that_contradict_themselves_are_refused(self, write: Write, out: Path) -> None:
        write(step=0, weight_seed=7)
        write(step=1, weight_seed=8)
        with pytest.raises(ConflictError, match=r"weight_seed.*step0\.npz.*run table changed"):
            join_units(out)

    def test_metrics_that_contradict_each_other_are_refused(self, write: Write, out: Path) -> None:
        write(step=0, metrics={METRIC: {"n_items": 10}})
        write(step=1, metrics={METRIC: {"n_items": 11}})
        with pytest.raises(ConflictError, match=r"n_items of 'eval/arc/acc': 10 and"):
            join_units(out)

    def test_two_values_for_one_cell_are_refused(self, write: Write, out: Path) -> None:
        write(0.5, source="a")
        write(0.6, source="b")
        with pytest.raises(ConflictError, match="two different values"):
            join_units(out)

    def test_items_are_joined_over_runs_with_minus_one_for_what_is_missing(self, write: Write, out: Path) -> None:
        write(details={"items": items(["x", "y"], [1, 0])})
        write(step=1, seed=1)
        group = join_units(out)["items"].to_dataset()
        assert group["correct"].dims == ("model", "seed", "step", "item")
        assert group["correct"].sel(seed=0, step=0).values.tolist() == [[1, 0]]
        assert group["correct"].sel(seed=1).values.tolist() == [[[-1, -1], [-1, -1]]]
        assert group["task"].values.tolist() == ["arc", "arc"]

    def test_other_items_are_joined_on_the_union_and_noted(self, write: Write, out: Path) -> None:
        write(details={"items": items(["x", "y"], [1, 0])})
        write(step=1, details={"items": items(["y", "z"], [1, 1])})
        tree = join_units(out)
        got = tree["items"]["correct"].squeeze(("model", "seed")).to_pandas()
        assert got.loc[0, ["x", "y", "z"]].tolist() == [1, 0, -1]
        assert got.loc[1, ["x", "y", "z"]].tolist() == [-1, 1, 1]
        assert reasons(tree, "noted") == ["labels-differ", "labels-differ"]

    def test_a_model_with_fewer_layers_lacks_nothing(self, write: Write, out: Path) -> None:
        for model, n_layers in (("small", 2), ("large", 4)):
            norm = xr.Dataset({"norm": ("layer", np.ones(n_layers))}, coords={"layer": np.arange(n_layers)})
            write(model=model, details={"layers": norm})
        assert reasons(join_units(out), "noted") == []

    def test_a_checkpoint_with_fewer_layers_than_its_model_is_noted(self, write: Write, out: Path) -> None:
        for step, n_layers in ((0, 2), (1, 4)):
            norm = xr.Dataset({"norm": ("layer", np.ones(n_layers))}, coords={"layer": np.arange(n_layers)})
            write(step=step, details={"layers": norm})
        assert reasons(join_units(out), "noted") == ["labels-differ"]

    def test_models_with_other_items_are_noted(self, write: Write, out: Path) -> None:
        write(model="small", details={"items": items(["x", "y"], [1, 0])})
        write(model="large", details={"items": items(["x"], [1])})
        assert reasons(join_units(out), "noted") == ["labels-differ"]

    def test_items_that_mean_something_else_are_refused(self, write: Write, out: Path) -> None:
        write(details={"items": items(["x"], [1])})
        write(step=1, details={"items": items(["x"], [1], doc_hash=("item", ["other"]))})
        with pytest.raises(ConflictError, match=r"'doc_hash' of group 'items' at item 'x'"):
            join_units(out)

    def test_two_sources_share_a_group(self, write: Write, out: Path) -> None:
        write(details={"items": items(["x"], [1])})
        write({"probe/p/acc": 1.0}, source="probes", details={"items": items(["p"], [0])})
        got = join_units(out)["items"]["correct"].squeeze(("model", "seed", "step"))
        assert got.sel(item=["x", "p"]).values.tolist() == [1, 0]

    def test_two_sources_that_differ_about_an_item_are_refused(self, write: Write, out: Path) -> None:
        write(details={"items": items(["x"], [1])})
        write({"probe/p/acc": 1.0}, source="probes", details={"items": items(["x"], [0])})
        with pytest.raises(ConflictError, match="two sources give 'correct'"):
            join_units(out)

    @pytest.mark.slow
    def test_numbers_texts_truths_and_single_values_are_kept(self, write: Write, out: Path) -> None:
        data = xr.Dataset(
            {"f": ("r", [1.5, 2.5]), "t": ("r", ["a", "b"]), "b": ("r", [True, False]), "one": ((), 4), "u": ("r", np.array([255, 1], np.uint8))},
            coords={"r": [3, 1]},
        )  # fmt: skip
        write(details={"spectra": data})
        write(step=1)
        ps.save_cube(join_units(out), out.parent / "cube.nc")
        with ps.open_tree(out.parent / "cube.nc") as tree:
            got = tree["spectra"].to_dataset().squeeze(("model", "seed")).load()
        assert got["r"].values.tolist() == [3, 1]
        assert got["t"].values.tolist() == [["a", "b"], ["", ""]]
        assert got["b"].values.tolist() == [[1, 0], [-1, -1]]
        assert got["u"].values.tolist() == [[255, 1], [-1, -1]]
        assert got["one"].values.tolist() == [4, -1]
        np.testing.assert_array_equal(got["f"], [[1.5, 2.5], [np.nan, np.nan]])

    def test_a_damaged_unit_is_refused_and_the_others_joined(self, write: Write, out: Path) -> None:
        write()
        path = write(step=1)
        path.write_bytes(path.read_bytes()[:-1])
        tree = join_units(out)
        assert reasons(tree) == ["damaged-unit"]
        assert tree["step"].values.tolist() == [0]

    def test_a_unit_that_was_moved_is_refused(self, write: Write, out: Path) -> None:
        path = write()
        write(step=1)
        path.rename(path.with_name("step7.npz"))
        assert reasons(join_units(out)) == ["label-mismatch"]

    def test_a_unit_of_other_settings_is_refused(self, write: Write, out: Path) -> None:
        keep_settings(out, "evals", {"a": 1})
        write()
        write(step=1, settings={"a": 2})
        assert reasons(join_units(out)) == ["other-settings"]

    def test_a_failure_is_refused_until_the_unit_is_there(self, write: Write, out: Path) -> None:
        write()
        for step in (0, 1):
            write_failure(out, UnitFailure("pythia-14m", 0, step, "evals", "out-of-memory", "none left"))
        assert [(e.reason, e.detail, Path(e.path).stem) for e in audit_entries(join_units(out)) if e.status == "refused"] == [
            ("out-of-memory", "none left", "step1")
        ]  # fmt: skip

    def test_notes_of_a_unit_are_in_the_audit(self, write: Write, out: Path) -> None:
        write(notes=[("truncated-prompts", "3 of 10")])
        assert reasons(join_units(out), "noted") == ["truncated-prompts"]

    def test_where_it_was_measured_leaves_no_trace_of_the_machine(
        self, write: Write, out: Path, tmp_path: Path
    ) -> None:
        write_unit(
            out,
            "evals",
            run(revision="", location=str(tmp_path / "r" / "step{step}")),
            0,
            Measurement({METRIC: 1.0}),
            {},
        )
        tree = join_units(out)
        texts = [*map(str, tree.attrs.values()), *(text for entry in audit_entries(tree) for text in entry)]
        assert not any(str(tmp_path) in text for text in texts)

    def test_half_written_files_are_passed_over(self, write: Write, out: Path) -> None:
        path = write()
        path.with_name(".step1.npz.abc.part").write_bytes(b"half")
        assert reasons(join_units(out)) == []

    def test_created_is_when_the_folder_was_first_filled(
        self, write: Write, out: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
        keep_settings(out, "evals", {"a": 1})
        monkeypatch.delenv("SOURCE_DATE_EPOCH")
        write()
        assert join_units(out).attrs["created"] == "1970-01-01T00:00:00+00:00"

    @pytest.mark.parametrize("what", ["absent", "empty", "only details", "only failures"])
    def test_nothing_to_join_is_an_error(self, write: Write, out: Path, what: str) -> None:
        if what == "empty":
            out.mkdir()
        if what == "only details":
            write({}, details={"items": items(["x"], [1])})
        if what == "only failures":
            write_failure(out, UnitFailure("m", 0, 0, "evals", "out-of-memory", "none left"))
        with pytest.raises(ReadError, match="out-of-memory" if what == "only failures" else "has"):
            join_units(out)

    @pytest.mark.slow
    def test_the_file_it_makes_is_a_valid_cube_without_seeds_or_facts(self, write: Write, out: Path) -> None:
        write()
        ps.save_cube(join_units(out), out.parent / "cube.nc")
        with ps.open_cube(out.parent / "cube.nc") as cube:
            assert ps.validate_cube(cube) == []


def test_a_newer_unit_says_to_upgrade(write: Write, out: Path) -> None:
    path = write()
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["unit.json"] = json.dumps({**json.loads(members["unit.json"]), "format": 99}).encode()
    from polystab.sources.unit_content import zipped

    path.write_bytes(zipped(members))
    with pytest.raises(RefusedFileError, match="Upgrade"):
        read_unit(path)
