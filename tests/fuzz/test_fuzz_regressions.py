"""Every crash that fuzzing has found, and bombs: small files that ask for much."""

from __future__ import annotations

import gzip
import io
import json
import struct
import zlib
from pathlib import Path
from typing import ClassVar

import netCDF4
import pytest
from fuzz_readers import NEW_DIALECT

import polystab as ps
from polystab.cube import netcdf_check, store
from polystab.cube.labels import natural_order, parse_metric_id
from polystab.errors import NotACubeError, PolystabError, ReadError, RecordsError, RefusedFileError
from polystab.sources import tabular_files
from polystab.sources.checkpoint_errors import CheckpointError
from polystab.sources.item_answers import task_items
from polystab.sources.probes.files import read_sentences
from polystab.sources.run_labels import parse_run, step_of
from polystab.sources.run_numbers import seed_in
from polystab.sources.run_patterns import parse_steps
from polystab.sources.runs import RunTableError, read_runs
from polystab.sources.tabular_files import read_tabular
from polystab.sources.tensor_files import index_shards, safetensors_header
from polystab.sources.unit_content import zipped
from polystab.sources.unit_files import open_unit
from polystab.sources.units import read_unit
from polystab.testing import synthetic_cube

# Python refuses to read a number of over 4,300 digits with a ValueError.
DIGITS = "9" * 5000


class TestNumbersOfThousandsOfDigits:
    @pytest.mark.parametrize("number", [DIGITS, f"1-{DIGITS}"])
    def test_in_conllu_are_refused_with_their_line(self, tmp_path: Path, number: str) -> None:
        (tmp_path / "a.conllu").write_text("\t".join([number, "go", *"_" * 8]) + "\n")
        with pytest.raises(ReadError, match=r"line 1: '9+' is not the number of a word"):
            read_sentences(tmp_path / "a.conllu", "conllu")

    def test_in_names_are_no_steps_and_no_seeds(self) -> None:
        name = f"tiny-seed{DIGITS}/step{DIGITS}"
        assert (step_of(name), seed_in(name), parse_run(name).seed) == (None, None, None)

    def test_in_a_revision_leave_a_results_file_without_a_step(self, tmp_path: Path) -> None:
        said = NEW_DIALECT | {"config": {"model_args": f"pretrained=a/b,revision=step{DIGITS}"}}
        (tmp_path / "results.json").write_text(json.dumps(said))
        with pytest.raises(ReadError, match="no-step"):
            ps.read_lm_eval(tmp_path)

    def test_in_labels_are_ordered_as_text(self) -> None:
        assert natural_order(f"run{DIGITS}")[1] == (1, 0, DIGITS)

    def test_in_metric_ids_are_no_shots(self) -> None:
        assert parse_metric_id(f"eval/a@{DIGITS}shot/acc").shots == 0

    def test_in_lists_of_steps_are_refused(self) -> None:
        with pytest.raises(ValueError, match="is neither a step nor a range"):
            parse_steps(DIGITS)


class TestSafetensors:
    @pytest.mark.parametrize(
        "header",
        [
            b"[" * 100_000,
            b'{"a":{"data_offsets":["x","y"]}}',
            b'{"a":{"data_offsets":[0,Infinity]}}',
            b'{"a":{"data_offsets":{}}}',
            b'{"a":[]}',
            b"[]",
        ],
    )
    def test_a_header_of_something_else_is_refused(self, tmp_path: Path, header: bytes) -> None:
        (tmp_path / "m").write_bytes(struct.pack("<Q", len(header)) + header)
        with pytest.raises(CheckpointError, match="no safetensors header"):
            safetensors_header(tmp_path / "m")

    @pytest.mark.parametrize("shard", ["..", "../x", "/etc/passwd", "x" * 400, "a\0b", 7, ""])
    def test_an_index_names_files_of_its_own_folder_only(self, tmp_path: Path, shard: object) -> None:
        (tmp_path / "index").write_text(json.dumps({"weight_map": {"a": shard}}))
        with pytest.raises(CheckpointError, match="it is no index of shards"):
            index_shards(tmp_path / "index")

    def test_an_index_that_is_nested_deeply_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "index").write_text("[" * 100_000)
        with pytest.raises(CheckpointError, match="it is no index of shards"):
            index_shards(tmp_path / "index")


class TestRunTables:
    def test_the_home_of_nobody_is_an_ordinary_folder(self, tmp_path: Path) -> None:
        (tmp_path / "runs.csv").write_text("model,seed,location\nt,0,~nobody-of-this-name/step{step}\n")
        run = read_runs(tmp_path / "runs.csv", find_steps=False).runs[0]
        assert run.place(3) == str(tmp_path.resolve() / "~nobody-of-this-name" / "step3")

    @pytest.mark.slow
    def test_many_long_ranges_of_steps_are_refused(self, tmp_path: Path) -> None:
        ranges = " ".join(f"{i}000000:{i}999999" for i in range(300))
        (tmp_path / "runs.csv").write_text(f"model,seed,location,steps\nt,0,x/step{{step}},{ranges}\n")
        with pytest.raises(RunTableError, match="there are over 1000000 steps"):
            read_runs(tmp_path / "runs.csv")


def test_a_field_that_csv_does_not_read_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"' + "a" * 200_000 + '",b\n')
    with pytest.raises(ReadError, match="line 1, is not CSV: field larger"):
        read_sentences(tmp_path / "a.csv", "texts")


@pytest.mark.parametrize("spoilt", [{"doc_id": {}}, {"doc_id": [1]}, {"metrics": None}, {"metrics": {"acc": 1}}])
def test_samples_of_another_kind_are_refused(spoilt: dict[str, object]) -> None:
    row = {"doc_id": 0, "doc_hash": "0", "filter": "none", "filtered_resps": [], "metrics": ["acc"]}
    with pytest.raises(RefusedFileError, match="of a kind that is unknown"):
        task_items("arc", [row | spoilt])


class TestUnits:
    """Units whose checksum is right, though polystab did not write them."""

    HEAD: ClassVar[dict[str, object]] = {
        "format": 1,
        "key": ["evals", "tiny", 0, 10],
        "facts": dict.fromkeys(("weight_seed", "data_seed", "location", "revision", "sha", "run"), 0),
        "settings": "0",
        "notes": [],
        "provenance": {},
    }

    def members(self) -> dict[str, bytes]:
        ids = {"ids": ["eval/a/acc"], "metrics": {}}
        header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }\n"
        npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + struct.pack("<d", 0.5)
        return {
            "unit.json": json.dumps(self.HEAD).encode(),
            "metrics.json": json.dumps(ids).encode(),
            "values.npy": npy,
        }

    def test_a_sound_one_is_read(self, tmp_path: Path) -> None:
        (tmp_path / "u").write_bytes(zipped(self.members()))
        assert read_unit(tmp_path / "u").measurement.values == {"eval/a/acc": 0.5}

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("unit.json", b"[]"),
            ("unit.json", b"[" * 100_000),
            ("metrics.json", b'{"ids": ["a", "a"], "metrics": {}}'),
            ("metrics.json", b'{"ids": null}'),
            ("values.npy", b""),
            ("values.npy", b"\x93NUMPY\x01\x00\x03\x00(((" + b"x" * 8),
            ("values.npy", b"\x93NUMPY\x02\x00"),
            ("details.json", b"7"),
            ("details.json", b'{"items": {"attrs": {}, "variables": {"x": {"dims": null}}}}'),
        ],
    )
    def test_others_are_refused(self, tmp_path: Path, name: str, content: bytes) -> None:
        (tmp_path / "u").write_bytes(zipped(self.members() | {name: content}))
        with pytest.raises(RefusedFileError, match="not a unit file, though its checksum is right"):
            read_unit(tmp_path / "u")

    def test_an_array_of_a_thousand_million_cells_is_refused_by_its_header(self, tmp_path: Path) -> None:
        npy = self.members()["values.npy"].replace(b"(1,), }\n", b"(9" + b"0" * 9 + b",)}")
        npy = npy[:8] + struct.pack("<H", npy.index(b"}") - 9) + npy[10:]
        (tmp_path / "u").write_bytes(zipped(self.members() | {"values.npy": npy}))
        with pytest.raises(RefusedFileError, match="an array of 9000000000 numbers has 8 bytes"):
            read_unit(tmp_path / "u")

    def test_a_member_that_unpacks_to_too_much_is_not_unpacked(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("polystab.sources.unit_files.MOST_BYTES", 10_000)
        (tmp_path / "u").write_bytes(zipped(self.members() | {"values.npy": bytes(20_000)}))
        with pytest.raises(RefusedFileError, match="would unpack to 20,000 bytes"):
            open_unit(tmp_path / "u").values  # noqa: B018


class TestBombs:
    @pytest.mark.parametrize(
        "text",
        [b"step,loss\n" + b"1,2\n" * 200_000, b"1\n" * 400_000, b'{"a":1}\n' * 50_000, b"step\n" + b"1" * 2**24],
        ids=["cells", "lines", "objects", "bytes"],
    )
    @pytest.mark.slow
    def test_a_log_that_unpacks_to_far_more_is_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes
    ) -> None:
        monkeypatch.setattr(tabular_files, "MAX_MEMORY", 2**23)
        (tmp_path / "log.csv.gz").write_bytes(gzip.compress(text))
        with pytest.raises(RefusedFileError, match=r"over 100 times its size, and would take over 8 MiB"):
            read_tabular(tmp_path / "log.csv.gz")

    @pytest.mark.slow
    def test_a_log_of_a_million_rows_that_are_all_the_same_is_read(self, tmp_path: Path) -> None:
        packed = gzip.compress(b"step,lr,loss\n" + b"0,0.0001,1.0\n" * 1_000_000)
        assert len(packed) < 13_000_000 / 500
        (tmp_path / "log.csv.gz").write_bytes(packed)
        assert len(read_tabular(tmp_path / "log.csv.gz")[0]) == 1_000_000

    @pytest.mark.slow
    def test_a_log_of_many_columns_without_values_is_no_bomb(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Ten columns as of a monitor of the machine: of a million rows, 250 MiB of text, 190 times the file."""
        monkeypatch.setattr(tabular_files, "MAX_MEMORY", tabular_files.MAX_MEMORY // 10)
        names = [f"system/gpu.{i}.memoryAllocated" for i in range(8)]
        row = ", ".join(f'"{name}": null' for name in names)
        text = b"".join(b'{"_step": %d, %s, "epoch": 1}\n' % (i // 10, row.encode()) for i in range(100_000))
        path = tmp_path / "log.jsonl.gz"
        path.write_bytes(gzip.compress(text))
        assert len(text) > 100 * path.stat().st_size
        with path.open("rb") as stream:
            unpacked = io.BufferedReader(tabular_files._Unpacked(io.BufferedReader(stream), path), 2**18)
            assert sum(len(piece) for piece in iter(lambda: unpacked.read(2**20), b"")) == len(text)

    def test_json_of_very_many_values_is_not_parsed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tabular_files, "MAX_JSON_VALUES", 1000)
        (tmp_path / "log.json").write_text("[" + "{}," * 2000 + "{}]")
        with pytest.raises(RefusedFileError, match="values; write it as JSON lines"):
            read_tabular(tmp_path / "log.json")

    @pytest.mark.slow
    def test_labels_of_a_thousand_million_cells_are_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "cube.nc"
        with netCDF4.Dataset(path, "w") as file:
            file.createDimension("seed", 10**9)
            file.createVariable("seed", "i8", ("seed",), chunksizes=(2**20,), zlib=True)
            file.polystab_schema = 1
        assert path.stat().st_size < 100_000
        for opener in (ps.open_cube, ps.open_tree):
            with pytest.raises(NotACubeError, match="8,000,000,000 bytes as labels"):
                opener(path)


class TestNetcdf:
    @pytest.fixture
    def unsealed(self, tmp_path: Path) -> Path:
        """A cube as another tool leaves it: without its checksum."""
        path = tmp_path / "cube.nc"
        ps.save_cube(synthetic_cube(n_seeds=2, steps=[0, 1], rng=0), path)
        path.write_bytes(path.read_bytes()[: -len(store.SEAL % 0)])
        return path

    @pytest.mark.slow
    def test_a_sound_file_without_a_checksum_opens(self, unsealed: Path) -> None:
        ps.open_cube(unsealed).close()

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("look", "message"),
        [
            ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", r"crashes netCDF-C \(signal 11\)"),
            ("import time\ntime.sleep(60)", "did not come to an end within 1 seconds"),
            (
                "import resource\nresource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, PATIENCE + 1))\nwhile True: pass",
                "within 1 seconds of the processor",
            ),
        ],
        ids=["crash", "waiting", "endless"],
    )
    def test_one_that_is_the_end_of_the_process_that_looks_is_refused(
        self, unsealed: Path, monkeypatch: pytest.MonkeyPatch, look: str, message: str
    ) -> None:
        monkeypatch.setattr(netcdf_check, "_LOOK", look)
        monkeypatch.setattr(netcdf_check, "PATIENCE", 1)
        monkeypatch.setattr(netcdf_check, "BY_THE_CLOCK", 1 if "sleep" in look else 60)
        with pytest.raises(NotACubeError, match=message):
            ps.open_cube(unsealed)

    def test_one_that_is_cut_off_is_refused_without_a_look(
        self, unsealed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(netcdf_check, "_fault", None)
        unsealed.write_bytes(unsealed.read_bytes()[:-1])
        with pytest.raises(NotACubeError, match="it is cut off, "):
            ps.open_cube(unsealed)

    @pytest.mark.slow
    def test_a_file_cut_at_every_hundredth_of_its_length_is_refused(self, unsealed: Path, tmp_path: Path) -> None:
        content = unsealed.read_bytes()
        outcomes = set()
        for percent in range(100):
            (tmp_path / "cut.nc").write_bytes(content[: len(content) * percent // 100])
            try:
                ps.open_cube(tmp_path / "cut.nc").close()
                outcomes.add((percent, "opened"))
            except PolystabError:
                pass
        assert outcomes == set()


def test_no_reader_of_ids_raises_anything_else() -> None:
    with pytest.raises(RecordsError):
        parse_metric_id(f"nofamily/{DIGITS}")


def test_the_checksum_of_units_is_that_of_zlib() -> None:
    content = zipped({"a": b"x"})
    assert content[-8:] == b"%08x" % zlib.crc32(content[: -len(b"polystab-unit-crc32=00000000")])
