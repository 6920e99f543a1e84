"""`polystab audit`: what it prints and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import polystab as ps
import polystab.testing
from polystab.cli import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["audit", *(str(argument) for argument in arguments)])


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    path = tmp_path / "clean.nc"
    ps.save_cube(polystab.testing.synthetic_cube(n_seeds=4, rng=0), path)
    return path


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    cube = polystab.testing.synthetic_cube(n_seeds=4, rng=0)
    cube["value"][0, 3, :9] = cube["value"][0, 1, :9]
    path = tmp_path / "copied.nc"
    ps.save_cube(cube, path)
    return path


@pytest.mark.slow
def test_a_clean_cube_ends_with_0(clean: Path) -> None:
    result = run(clean)
    assert result.exit_code == 0, result.output
    assert "nothing found" in result.output


@pytest.mark.slow
def test_findings_end_with_1_and_are_said_with_advice(copied: Path) -> None:
    result = run(copied)
    assert result.exit_code == 1
    assert "1 error" in result.output
    assert "error identical-until: toy-2m seed 3 has the values of toy-2m seed 1" in result.output
    assert "count it once" in result.output


@pytest.mark.slow
def test_json_has_the_promised_keys(copied: Path) -> None:
    result = run(copied, "--json")
    assert result.exit_code == 1
    said = json.loads(result.stdout)
    assert said["counts"] == {"error": 1}
    (finding,) = said["findings"]
    assert {name: finding[name] for name in ("kind", "severity", "model", "seed", "other_seed")} == {
        "kind": "identical-until", "severity": "error", "model": "toy-2m", "seed": 3, "other_seed": 1,
    }  # fmt: skip
    assert finding["steps"] == polystab.testing.synthetic_cube(rng=0)["step"].values[:9].tolist()
    assert finding["evidence"]
    assert finding["advice"]


@pytest.mark.slow
def test_information_alone_ends_with_0(tmp_path: Path) -> None:
    cube = polystab.testing.synthetic_cube(n_models=1, n_seeds=4, rng=0)
    cube = cube.assign_coords(model=["pythia-70m"])
    ps.save_cube(cube, tmp_path / "x.nc")
    result = run(tmp_path / "x.nc")
    assert result.exit_code == 0, result.output
    assert "info known-issue" in result.output


def test_no_such_cube_ends_with_2() -> None:
    result = run("nowhere.nc")
    assert result.exit_code == 2
    assert "neither a file nor the name of a cube" in result.output


def test_options_about_weights_need_runs(clean: Path) -> None:
    result = run(clean, "--steps", "0,1")
    assert result.exit_code == 2
    assert "needs --runs" in result.output


@pytest.mark.slow
def test_a_named_cube_is_taken() -> None:
    assert run("nano").exit_code == 0


@pytest.mark.slow
def test_many_findings_are_cut_short(tmp_path: Path) -> None:
    cube = polystab.testing.synthetic_cube(n_models=1, n_seeds=60, rng=0)
    cube["value"][:] = cube["value"][:, :1].values
    ps.save_cube(cube, tmp_path / "x.nc")
    assert "and 9 more; --all prints them" in run(tmp_path / "x.nc").output
    assert "more; --all" not in run(tmp_path / "x.nc", "--all").output


@pytest.mark.slow
def test_weights_are_compared_where_runs_are_given(tmp_path: Path, clean: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    rng = np.random.default_rng(0)
    for step in (0, 1):
        folder = tmp_path / f"step{step}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "gpt_neox"}))
        # Two initialisations: the second is no update of the first.
        save_file({"a.weight": torch.tensor(0.02 * rng.normal(size=(20, 20)))}, folder / "model.safetensors")
    (tmp_path / "runs.csv").write_text("model,seed,location,learning_rate\ntoy-2m,0,step{step},0.001\n")
    result = run(clean, "--runs", tmp_path / "runs.csv", "--warmup", "10")
    assert result.exit_code == 1, result.output
    assert "error weights-jump: from step 0 to 1 the weights of toy-2m seed 0 change by 1.4" in result.output


def test_only_the_runs_of_the_cube_are_compared_by_default(
    tmp_path: Path, clean: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def stop(table: Any, **_: Any) -> Any:
        asked.extend((run.model, run.seed, run.steps) for run in table)
        raise polystab.PolystabError("enough")

    monkeypatch.setattr("polystab.sources.lineage.weight_lineage", stop)
    table = tmp_path / "runs.csv"
    table.write_text("model,seed,location,steps\ntoy-2m,0,x/step{step},0 1 3 143000\nother-2m,0,y/step{step},0 1\n")
    assert run(clean, "--runs", table).exit_code != 0
    assert asked == [("toy-2m", 0, (0, 1, 143000))]
    table.write_text("model,seed,location,steps\nother-2m,0,y/step{step},0 1\n")
    result = run(clean, "--runs", table)
    assert result.exit_code == 2
    assert "no model of the cube" in result.output
    assert "other-2m" in result.output
