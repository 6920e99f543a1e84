"""The commands `release` and `cubes`, and the recipes: what they print, keep and refuse."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import xarray as xr
from click.testing import CliRunner, Result

import polystab as ps
import polystab.testing
from polystab.cli import main

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
SCRIPTS = sorted(RECIPES.glob("*.sh"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def facts(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("POLYSTAB_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture(scope="module")
def cube(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cube") / "cube.nc"
    ps.save_cube(small_cube().assign_attrs(license="MIT"), path)
    return path


@pytest.fixture(scope="module")
def released(cube: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a release of it; not to be changed."""
    folder = tmp_path_factory.mktemp("released")
    said = run("release", cube, "--name", "mine", "--version", "1.0", "-o", folder)
    assert said.exit_code == 0, said.output
    return folder


def small_cube() -> xr.Dataset:
    return polystab.testing.synthetic_cube(n_models=1, n_seeds=3, steps=[0, 1000, 2000], rng=0)


class TestRelease:
    @pytest.mark.slow
    def test_it_says_the_files_and_the_checksum(self, cube: Path, tmp_path: Path) -> None:
        said = facts(run("release", cube, "--name", "mine", "--version", "1.0", "-o", tmp_path / "out", "--json"))
        assert (said["name"], said["version"], said["removed_secrets_from"]) == ("mine", "1.0", [])
        assert all(Path(path).is_file() for path in said["files"].values())
        assert re.fullmatch("[0-9a-f]{64}", said["sha256"])

    @pytest.mark.slow
    def test_the_card_tells_what_the_audit_found(self, cube: Path, tmp_path: Path) -> None:
        with ps.open_cube(cube) as data:
            copied = data.load()
        copied["value"][{"seed": 1}] = copied["value"].isel(seed=0)
        ps.save_cube(copied, tmp_path / "copied.nc")
        run("release", tmp_path / "copied.nc", "--name", "mine", "--version", "1.0", "-o", tmp_path / "out")
        assert "`polystab audit` found: 1 error" in (tmp_path / "out" / "mine-1.0.md").read_text()

    @pytest.mark.slow
    def test_without_the_audit_the_card_says_so(self, cube: Path, tmp_path: Path) -> None:
        run("release", cube, "--name", "mine", "--version", "1.0", "-o", tmp_path / "out", "--no-audit")
        assert "were not checked" in (tmp_path / "out" / "mine-1.0.md").read_text()

    @pytest.mark.slow
    def test_a_released_version_stays_without_overwrite(self, released: Path, cube: Path) -> None:
        result = run("release", cube, "--name", "mine", "--version", "1.0", "-o", released)
        assert result.exit_code == 2
        assert "--overwrite" in result.output

    def test_a_name_that_is_none_is_refused(self, cube: Path, tmp_path: Path) -> None:
        result = run("release", cube, "--name", "../x", "--version", "1.0", "-o", tmp_path)
        assert result.exit_code == 2
        assert "cannot be the name of a cube" in result.output

    @pytest.mark.slow
    def test_removed_passwords_are_said_without_them(self, tmp_path: Path) -> None:
        cube = small_cube()
        ps.save_cube(cube.assign_attrs(source="https://me:hunter2@host/x", license="MIT"), tmp_path / "c.nc")
        result = run("release", tmp_path / "c.nc", "--name", "m", "--version", "1", "-o", tmp_path / "out")
        assert "removed a name, password or token from attribute source" in result.output
        assert "hunter2" not in result.output


class TestCubes:
    @pytest.mark.slow
    def test_added_cubes_are_listed_and_opened_by_name(self, released: Path) -> None:
        assert "mine@1.0" in run("cubes", "add", released).output
        assert "mine" in [line["name"] for line in facts(run("cubes", "--json"))]
        assert facts(run("info", "mine", "--json"))["attrs"]["id"] == "mine"

    def test_adding_says_what_as_json(self, released: Path) -> None:
        said = facts(run("cubes", "add", released / "registry.json", "--json"))
        assert said["registry"] == (released / "registry.json").as_uri()
        assert [line["name"] for line in said["added"]] == ["mine"]

    def test_the_card_of_an_added_cube_is_printed(self, released: Path) -> None:
        run("cubes", "add", released)
        assert "- name and version: `mine@1.0`" in run("cubes", "mine").output

    def test_the_card_of_a_bundled_cube_is_printed_as_json(self) -> None:
        assert facts(run("cubes", "nano", "--json"))["card"].startswith("# nano")

    def test_a_card_that_is_not_there_gets_a_suggestion(self) -> None:
        result = run("cubes", "nanoo")
        assert result.exit_code == 2
        assert "Did you mean 'nano'" in result.output

    @pytest.mark.slow
    def test_a_clash_needs_replace(self, released: Path, cube: Path, tmp_path: Path) -> None:
        run("cubes", "add", released)
        run("release", cube, "--name", "mine", "--version", "2.0", "-o", tmp_path / "other")
        result = run("cubes", "add", tmp_path / "other")
        assert result.exit_code == 2
        assert "--replace" in result.output
        assert run("cubes", "add", tmp_path / "other", "--replace").exit_code == 0

    def test_a_removed_registry_is_no_longer_listed(self, released: Path) -> None:
        run("cubes", "add", released)
        assert run("cubes", "remove", released).exit_code == 0
        assert "mine" not in [line["name"] for line in facts(run("cubes", "--json"))]

    def test_what_is_no_registry_is_refused(self, cube: Path) -> None:
        result = run("cubes", "add", cube)
        assert result.exit_code == 2
        assert "is not JSON" in result.output

    @pytest.mark.parametrize("command", [["release"], ["cubes"], ["cubes", "add"], ["cubes", "remove"], ["plan"]])
    def test_help_has_an_example(self, command: list[str]) -> None:
        assert "Example: polystab" in run(*command, "--help").output


def commands(script: Path) -> list[list[str]]:
    """The polystab commands of a recipe, with its variables filled in."""
    text = script.read_text().replace("\\\n", " ")
    for pattern, value in ((r"\$\{CACHE:-(\w+)\}", r"\1"), (r"\$folder", "folder"), (r"\$jobs", "2"), (r"\|\|.*", "")):
        text = re.sub(pattern, value, text)
    return [shlex.split(line)[1:] for line in text.splitlines() if line.startswith("polystab ")]


class TestRecipes:
    def test_there_are_three(self) -> None:
        assert [path.stem for path in SCRIPTS] == ["polypythias-evals", "polypythias-weights", "pythia-evals"]

    @pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
    def test_their_commands_are_ours_with_options_that_exist(self, script: Path) -> None:
        found = commands(script)
        assert len(found) >= 2
        for arguments in found:
            command: click.Command = main
            context = None
            while isinstance(command, click.Group):
                context = click.Context(command, parent=context)
                name, command, arguments = command.resolve_command(context, arguments)
            command.make_context(name, arguments, parent=context)

    @pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
    def test_they_are_scripts_that_the_shell_can_read(self, script: Path) -> None:
        done = subprocess.run(["sh", "-n", str(script)], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    @pytest.mark.slow
    def test_polypythias_evals_refuses_wrong_labels_and_can_be_run_again(self, tmp_path: Path) -> None:
        """With a stand-in for `hf` that has three files, one of them of another run than its folder says."""
        tools, results = tmp_path / "bin", tmp_path / "hub"
        for folder, model in (
            ("pythia-14m-seed1", "pythia-14m-seed1"),
            ("pythia-14m", "pythia-14m"),
            ("pythia-14m-seed2", "pythia-14m"),
        ):
            place = results / folder / "step8" / f"EleutherAI__{model}"
            place.mkdir(parents=True)
            content = {
                "results": {"sciq": {"alias": "sciq", "acc,none": 0.25, "acc_stderr,none": 0.01}},
                "config": {"model_args": f"pretrained=EleutherAI/{model},revision=step8"},
                "n-shot": {"sciq": 0},
            }  # fmt: skip
            (place / "results_2024-05-01T00-00-00.000000.json").write_text(json.dumps(content))
        tools.mkdir()
        (tools / "hf").write_text(
            f'#!/bin/sh\nwhile [ "$1" != --local-dir ]; do shift; done\nmkdir -p "$2"; cp -r {results}/. "$2"\n'
        )
        (tools / "polystab").write_text(f'#!/bin/sh\nexec {sys.executable} -m polystab.cli "$@"\n')
        for tool in tools.iterdir():
            tool.chmod(0o755)
        environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"}
        for _ in range(2):
            done = subprocess.run(
                ["sh", str(RECIPES / "polypythias-evals.sh"), str(tmp_path / "out")],
                capture_output=True, text=True, check=False, env=environment,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert "refused 1 label-mismatch" in done.stdout
        with ps.open_cube(tmp_path / "out" / "polypythias-evals.nc") as cube:
            assert cube["value"].squeeze().values.tolist() == [0.25, 0.25]
