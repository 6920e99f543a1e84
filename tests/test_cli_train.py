"""`polystab train`, and what goes by name: data cards, and the cube a report is about by default."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import polystab as ps
from polystab.cli import main
from polystab.suites import recipes
from polystab.suites.recipes import Recipe, Suite, SuiteRun

TINY = Recipe("tiny-1k", hidden_size=8, n_layers=1, n_heads=1, steps=4, batch_size=2, every=2)


def run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A suite that takes a second, under the name ``tiny``."""
    pytest.importorskip("torch")
    made = Suite(
        "tiny", "tiny: two runs", "Two runs of nearly nothing.", tuple(SuiteRun(TINY, s, s, s) for s in (0, 1))
    )
    monkeypatch.setitem(recipes._SUITES, "tiny", lambda: made)


@pytest.mark.usefixtures("tiny")
class TestTrain:
    @pytest.mark.slow
    def test_writes_a_cube_that_a_report_takes(self, tmp_path: Path) -> None:
        result = run("train", "tiny", "-o", str(tmp_path))
        assert result.exit_code == 0, result.output
        assert "trained 2 runs" in result.output
        with ps.open_cube(tmp_path / "tiny.nc") as cube:
            assert dict(cube.sizes) == {"model": 1, "seed": 2, "step": 4, "metric": 3}
            assert cube.attrs["title"] == "tiny: two runs"
        assert run("report", str(tmp_path / "tiny.nc"), "--format", "md").exit_code == 0

    @pytest.mark.slow
    def test_does_nothing_twice(self, tmp_path: Path) -> None:
        run("train", "tiny", "-o", str(tmp_path))
        before = (tmp_path / "tiny.nc").read_bytes()
        said = json.loads(run("train", "tiny", "-o", str(tmp_path), "--json").stdout)
        assert (said["trained"], said["already_done"]) == (0, 2)
        assert (tmp_path / "tiny.nc").read_bytes() == before

    @pytest.mark.slow
    def test_keeps_checkpoints_that_fill_finds_by_the_folder(self, tmp_path: Path) -> None:
        from polystab.sources.runs import read_runs

        run("train", "tiny", "-o", str(tmp_path))
        assert [steps.steps for steps in read_runs(tmp_path)] == [(0, 1, 2, 4)] * 2

    def test_names_close_suites(self, tmp_path: Path) -> None:
        result = run("train", "tinny", "-o", str(tmp_path))
        assert result.exit_code == 2
        assert "no suite is called 'tinny'. Did you mean 'tiny'" in result.output

    def test_names_close_sources(self, tmp_path: Path) -> None:
        result = run("train", "tiny", "--measure", "eval", "-o", str(tmp_path))
        assert result.exit_code == 2
        assert "Did you mean 'evals'" in result.output

    @pytest.mark.slow
    def test_refuses_the_folder_of_another_suite(self, tmp_path: Path) -> None:
        run("train", "tiny", "-o", str(tmp_path))
        result = run("train", "nano", "-o", str(tmp_path))
        assert result.exit_code == 2
        assert "other settings" in result.output

    @pytest.mark.slow
    def test_begins_with_finished_weights(self, tmp_path: Path) -> None:
        run("train", "tiny", "-o", str(tmp_path / "first"))
        source = tmp_path / "first/checkpoints/tiny-1k/seed0/step4"
        asked = ("train", "tiny", "-o", str(tmp_path / "second"), "--init-from", str(source), "--init-how", "normal")
        result = run(*asked)
        assert result.exit_code == 0, result.output
        with ps.open_cube(tmp_path / "second/tiny.nc") as cube:
            assert cube["model"].values.tolist() == ["tiny-1k-normal"]
            assert "--init-from CHECKPOINT --init-how normal" in cube.attrs["source"]
        refused = run(*asked[:-1], "permute")
        assert refused.exit_code == 2
        assert "other settings" in refused.output

    def test_names_close_ways_to_begin(self, tmp_path: Path) -> None:
        result = run("train", "tiny", "-o", str(tmp_path), "--init-from", str(tmp_path), "--init-how", "permuted")
        assert result.exit_code == 2
        assert "Did you mean 'permute'" in result.output

    def test_needs_a_folder(self) -> None:
        result = run("train", "tiny")
        assert result.exit_code == 2
        assert "-o DIR" in result.output


def test_lists_the_suites() -> None:
    listed = {entry["name"]: entry["runs"] for entry in json.loads(run("train", "--list", "--json").stdout)}
    assert listed["nano"] == 30
    assert listed["nano-factorial"] >= 25
    assert listed["nano-edge"] >= 48
    assert listed["nano-init"] >= 15


@pytest.mark.parametrize("name", recipes.suites())
def test_a_bundled_suite_has_a_card_that_names_its_command(name: str) -> None:
    result = run("cubes", name)
    assert result.exit_code == 0, result.output
    assert f"polystab train {name} --measure evals" in result.output


@pytest.mark.slow
def test_a_report_without_a_cube_is_about_nano() -> None:
    said = json.loads(run("report", "--format", "json").stdout)
    assert "nano" in json.dumps(said.get("cube", said))[:2000]
