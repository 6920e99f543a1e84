"""Labels from data that become names of files: none leaves its folder, and none stops two from being apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from fuzz_mutations import TEXTS
from hypothesis import given
from hypothesis import strategies as st

import polystab as ps
from polystab.cli import main
from polystab.errors import OutputError
from polystab.files import file_names
from polystab.sources.measuring import Measurement
from polystab.sources.runs import Run
from polystab.sources.unit_keys import UnitKey, folder_name
from polystab.sources.units import write_unit
from polystab.testing import synthetic_cube

labels = st.sampled_from(TEXTS).filter(bool) | st.text(st.characters(), min_size=1, max_size=20)
HOSTILE = ["../../x", "/etc/passwd", "..", ".", ".hidden", "a\0b", "\ud800", "a/b", "C:\\x", "~root"]


@pytest.mark.slow
@given(labels)
def test_a_label_is_one_folder(label: str) -> None:
    name = folder_name(label)
    assert Path(name).name == name
    assert name not in (".", "..")
    assert "\0" not in name


@pytest.mark.slow
@given(labels, labels)
def test_two_labels_are_two_folders(one: str, other: str) -> None:
    assert (folder_name(one) == folder_name(other)) == (one == other)


@pytest.mark.parametrize("label", HOSTILE)
def test_a_unit_stays_in_its_folder(tmp_path: Path, label: str) -> None:
    place = (tmp_path / UnitKey(label, label, 0, 0).place()).resolve()
    assert place.is_relative_to(tmp_path.resolve() / "units")
    assert len(place.relative_to(tmp_path.resolve()).parts) == 5


@pytest.mark.slow
@given(st.lists(labels, max_size=5))
def test_names_of_files_are_plain_and_distinct(given_labels: list[str]) -> None:
    names = file_names(given_labels)
    assert all(Path(name).name == name and not name.startswith((".", "-")) for name in names.values())
    assert len({name.lower() for name in names.values()}) == len(set(given_labels))


def test_a_label_that_is_too_long_for_a_folder_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    run = Run("x" * 300, 0, location="x/{step}")
    with pytest.raises(OutputError, match="File name too long"):
        write_unit(tmp_path, "evals", run, 0, Measurement({"eval/a/acc": 0.5}), {})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.slow
@pytest.mark.parametrize("command", ["info", "validate", "audit"])
def test_what_steers_a_terminal_is_not_printed(command: str, tmp_path: Path) -> None:
    """A label may hold an escape sequence, which changes what is seen, or the title of the window."""
    cube = synthetic_cube(n_seeds=2, steps=[0, 1], rng=0).isel(model=[0])
    cube = cube.assign_coords(model=["tiny\x1b]0;title\x07\x9b31m"]).assign_attrs(title="a\x1b[2Jb\rc")
    ps.save_cube(cube, tmp_path / "cube.nc")
    said = CliRunner().invoke(main, [command, str(tmp_path / "cube.nc")])
    assert said.exit_code in (0, 1)
    assert set(said.output + said.stderr) & set("\x1b\x07\x9b\r") == set()


def test_what_steers_a_terminal_is_not_in_errors(tmp_path: Path) -> None:
    said = CliRunner().invoke(main, ["info", str(tmp_path / "a\x1b[2J.nc")])
    assert (said.exit_code, "\x1b" in said.output + said.stderr) == (2, False)


@pytest.mark.slow
def test_a_token_in_the_environment_is_in_no_file_that_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "hf_" + "s3cretS3cretS3cret"
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, token)
    (tmp_path / "log.csv").write_text("seed,step,loss\n0,0,1.5\n0,1,1.25\n")
    tree = ps.read_training_log(tmp_path / "log.csv", model="tiny")
    ps.save_cube(tree, tmp_path / "cube.nc")
    ps.report(tree, tmp_path / "report.html")
    write_unit(tmp_path, "evals", Run("tiny", 0, location="x/{step}"), 0, Measurement({"eval/a/acc": 0.5}), {})
    holding = [path.name for path in tmp_path.rglob("*") if path.is_file() and token.encode() in path.read_bytes()]
    assert holding == []
