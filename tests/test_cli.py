"""The command line: what it prints, what it writes, and how it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import polystab as ps
import polystab.testing
from polystab.cli import main


def run(*arguments: object) -> Result:
    """The command with these arguments, in this process."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def facts(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def cube(tmp_path: Path) -> Path:
    path = tmp_path / "cube.nc"
    ps.save_cube(polystab.testing.synthetic_cube(n_models=2, n_seeds=4, rng=0), path)
    return path


@pytest.fixture
def evals(tmp_path: Path) -> Path:
    """A good and a bad results file."""
    root = tmp_path / "evals"
    root.mkdir()
    content = {
        "results": {"arc_easy": {"acc": 0.25, "acc_stderr": 0.01}},
        "config": {"model_args": "pretrained=EleutherAI/pythia-14m-seed1,revision=step8", "num_fewshot": 0},
    }
    (root / "good.json").write_text(json.dumps(content))
    (root / "bad.json").write_text("{")
    return root


class TestRead:
    @pytest.mark.slow
    def test_lm_eval_json_has_the_promised_keys(self, evals: Path, tmp_path: Path) -> None:
        said = facts(run("read", "lm-eval", evals, "-o", tmp_path / "x.nc", "--json"))
        assert said["files"] == 2
        assert said["read"] == 1
        assert [(entry["path"], entry["reason"]) for entry in said["refused"]] == [("bad.json", "invalid-json")]
        assert said["replaced"] == []
        assert said["values"] == 1
        assert ps.open_cube(tmp_path / "x.nc")["value"].item() == 0.25

    def test_lm_eval_says_in_words_what_was_refused(self, evals: Path, tmp_path: Path) -> None:
        result = run("read", "lm-eval", evals, "-o", tmp_path / "x.nc")
        assert "refused 1 invalid-json, first bad.json" in result.output

    def test_an_existing_output_survives_without_overwrite(self, evals: Path, tmp_path: Path) -> None:
        (tmp_path / "x.nc").write_text("mine")
        result = run("read", "lm-eval", evals, "-o", tmp_path / "x.nc")
        assert result.exit_code == 2
        assert "--overwrite" in result.output
        assert (tmp_path / "x.nc").read_text() == "mine"
        assert run("read", "lm-eval", evals, "-o", tmp_path / "x.nc", "--overwrite").exit_code == 0

    @pytest.mark.slow
    def test_a_revision_gets_its_step(self, evals: Path, tmp_path: Path) -> None:
        text = (evals / "good.json").read_text().replace("revision=step8", "revision=main")
        (evals / "good.json").write_text(text)
        assert run("read", "lm-eval", evals, "-o", tmp_path / "x.nc").exit_code == 2
        facts(run("read", "lm-eval", evals, "-o", tmp_path / "x.nc", "--revision", "main=143000", "--json"))
        assert ps.open_cube(tmp_path / "x.nc")["step"].item() == 143000

    @pytest.mark.parametrize("revision", ["main", "main=", "main=x", "=5"])
    def test_a_malformed_revision_is_wrong_usage(self, evals: Path, tmp_path: Path, revision: str) -> None:
        result = run("read", "lm-eval", evals, "-o", tmp_path / "x.nc", "--revision", revision)
        assert result.exit_code == 2
        assert "--revision" in result.output

    @pytest.mark.slow
    def test_training_log_maps_columns(self, tmp_path: Path) -> None:
        (tmp_path / "log.csv").write_text("rec,run,at,val_loss\na,x,0,3.0\na,y,0,3.5\na,x,10,2.0\n")
        said = facts(
            run("read", "training-log", tmp_path / "log.csv", "--columns", "model=rec,seed=run,step=at", "-o", tmp_path / "x.nc", "--json")
        )  # fmt: skip
        assert said["values"] == 3
        cube = ps.open_cube(tmp_path / "x.nc")
        assert cube["run_name"].values.tolist() == [["x", "y"]]
        assert cube["value"].sel(seed=1, step=0).item() == 3.5

    @pytest.mark.slow
    def test_split_writes_one_cube_a_model_with_portable_names(self, tmp_path: Path) -> None:
        (tmp_path / "log.csv").write_text("model,seed,step,val_loss\na/b,0,0,3.0\na b,0,5,3.5\n")
        said = facts(
            run("read", "training-log", tmp_path / "log.csv", "--split", "model", "-o", tmp_path / "out", "--json")
        )
        assert len(said) == 2
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a-b-2.nc", "a-b.nc"]

    @pytest.mark.slow
    def test_table_reads_wide_columns(self, tmp_path: Path) -> None:
        (tmp_path / "w.tsv").write_text("seed\tstep\tL1\tL2\n0\t0\t1\t2\n1\t0\t3\t4\n")
        facts(
            run(
                "read",
                "table",
                tmp_path / "w.tsv",
                "--model",
                "m",
                "--family",
                "weight",
                "-o",
                tmp_path / "x.nc",
                "--json",
            )
        )
        assert ps.open_cube(tmp_path / "x.nc")["metric"].values.tolist() == ["weight/all/L1", "weight/all/L2"]

    def test_a_missing_file_is_bad_input(self, tmp_path: Path) -> None:
        for source in ("lm-eval", "training-log", "table"):
            result = run("read", source, tmp_path / "nope", "-o", tmp_path / "x.nc")
            assert result.exit_code == 2, source
            assert "nope" in result.output, source
            assert not (tmp_path / "x.nc").exists()


class TestInfo:
    @pytest.mark.slow
    def test_json_has_the_promised_keys(self, cube: Path) -> None:
        said = facts(run("info", cube, "--json"))
        assert {"dims", "models", "seeds", "steps", "families", "metrics", "coverage"} <= set(said)
        opened = ps.open_cube(cube)
        assert said["dims"] == {dim: opened.sizes[dim] for dim in ("model", "seed", "step", "metric")}
        assert said["steps"] == opened["step"].values.tolist()
        assert said["coverage"] == pytest.approx(float(opened["value"].notnull().mean()))

    def test_a_name_works_like_a_file(self) -> None:
        assert len(facts(run("info", "demo", "--json"))["seeds"]) == 10

    @pytest.mark.slow
    def test_text_names_models_and_seeds(self, cube: Path) -> None:
        assert "(4 seeds)" in run("info", cube).output

    def test_an_unknown_name_suggests_one(self) -> None:
        result = run("info", "demoo")
        assert result.exit_code == 2
        assert "Did you mean 'demo'" in result.output


class TestValidate:
    @pytest.mark.slow
    def test_a_valid_cube_exits_0(self, cube: Path) -> None:
        assert facts(run("validate", cube, "--json")) == {"valid": True, "violations": []}

    @pytest.mark.slow
    def test_violations_exit_1_and_are_all_listed(self, cube: Path, tmp_path: Path) -> None:
        broken = ps.open_cube(cube).load().drop_vars("units")
        broken["stderr"] = broken["value"] * 0 - 1
        broken.drop_encoding().to_netcdf(tmp_path / "broken.nc")
        result = run("validate", tmp_path / "broken.nc", "--json")
        assert result.exit_code == 1
        assert {entry["code"] for entry in json.loads(result.stdout)["violations"]} >= {
            "missing-coordinate",
            "negative-stderr",
        }

    @pytest.mark.slow
    def test_what_is_no_cube_exits_2(self, tmp_path: Path) -> None:
        (tmp_path / "x.nc").write_text("no")
        assert run("validate", tmp_path / "x.nc").exit_code == 2


class TestMerge:
    @pytest.mark.slow
    def test_two_halves_make_the_whole(self, cube: Path, tmp_path: Path) -> None:
        whole = ps.open_cube(cube).load()
        for name, seeds in (("a", [0, 1]), ("b", [2, 3])):
            ps.save_cube(whole.sel(seed=seeds), tmp_path / f"{name}.nc")
        facts(run("merge", tmp_path / "a.nc", tmp_path / "b.nc", "-o", tmp_path / "x.nc", "--json"))
        assert ps.open_cube(tmp_path / "x.nc")["value"].equals(whole["value"])

    @pytest.mark.slow
    def test_a_conflict_needs_a_rule(self, cube: Path, tmp_path: Path) -> None:
        other = ps.open_cube(cube).load()
        other["value"] = other["value"] + 1
        ps.save_cube(other, tmp_path / "other.nc")
        assert run("merge", cube, tmp_path / "other.nc", "-o", tmp_path / "x.nc").exit_code == 2
        said = facts(
            run("merge", cube, tmp_path / "other.nc", "-o", tmp_path / "x.nc", "--on-conflict", "last", "--json")
        )
        assert said["replaced"][0]["reason"] == "duplicate-last"


class TestReport:
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("name", "start"), [("r.html", "<!doctype html>"), ("r.md", "<!-- polystab"), ("r.json", "{")]
    )
    def test_the_ending_chooses_the_format(self, cube: Path, tmp_path: Path, name: str, start: str) -> None:
        result = run("report", cube, "-o", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert (tmp_path / name).read_text().lower().startswith(start)

    @pytest.mark.slow
    def test_an_earlier_report_is_replaced_but_nothing_else(self, cube: Path, tmp_path: Path) -> None:
        for _ in range(2):
            assert run("report", cube, "-o", tmp_path / "r.html").exit_code == 0
        (tmp_path / "mine.html").write_text("<p>mine</p>")
        assert run("report", cube, "-o", tmp_path / "mine.html").exit_code == 2
        assert run("report", cube, "-o", cube).exit_code == 2
        assert ps.validate_cube(ps.open_cube(cube)) == []

    @pytest.mark.slow
    def test_markdown_and_json_go_to_standard_output(self, cube: Path) -> None:
        assert run("report", cube, "--format", "md").stdout.startswith("<!-- polystab report")
        assert "polystab_report" in json.loads(run("report", cube, "--format", "json").stdout)
        assert run("report", cube).exit_code == 2


class TestUsage:
    @pytest.mark.parametrize(
        "command",
        [(), ("read",), ("read", "lm-eval"), ("read", "training-log"), ("read", "table"), ("report",), ("info",), ("validate",), ("merge",), ("cubes",)],
        ids=" ".join,
    )  # fmt: skip
    def test_every_command_has_help(self, command: tuple[str, ...]) -> None:
        result = run(*command, "--help")
        assert result.exit_code == 0
        assert len(command) == 0 or command == ("read",) or "Example: polystab" in result.output

    @pytest.mark.parametrize(("typed", "meant"), [(("repot",), "report"), (("read", "lmeval"), "lm-eval")])
    def test_a_typing_error_gets_a_suggestion(self, typed: tuple[str, ...], meant: str) -> None:
        result = run(*typed)
        assert result.exit_code == 2
        assert f"Did you mean '{meant}'" in result.output

    def test_cubes_lists_the_registry(self) -> None:
        assert "demo" in [entry["name"] for entry in facts(run("cubes", "--json"))]
        assert "SYNTHETIC" in run("cubes").output

    @pytest.mark.slow
    def test_help_imports_nothing_heavy(self) -> None:
        code = (
            "import sys; from click.testing import CliRunner; from polystab.cli import main\n"
            "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
            "heavy = {'numpy', 'pandas', 'xarray', 'scipy', 'matplotlib', 'torch', 'jinja2'} & set(sys.modules)\n"
            "assert not heavy, heavy"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
