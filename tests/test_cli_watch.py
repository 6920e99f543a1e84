"""`polystab watch`: what it prints, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import polystab as ps
from polystab.cli import main


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["watch", *map(str, args)])


def curve(seed: int, steps: int = 200) -> np.ndarray:
    noise = 0.05 * np.random.default_rng(seed).standard_normal(steps)
    return np.asarray(3 + 4 * np.exp(-np.arange(steps) / 25) + noise)


def write(path: Path, loss: np.ndarray) -> Path:
    path.write_text("step,loss\n" + "".join(f"{step},{value:.6f}\n" for step, value in enumerate(loss, 1)))
    return path


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cube of nine runs."""
    folder = tmp_path_factory.mktemp("past")
    for seed in range(9):
        write(folder / f"seed{seed}.csv", curve(seed))
    ps.save_cube(ps.read_training_log(str(folder), model="tiny"), folder / "past.nc")
    return folder / "past.nc"


@pytest.fixture
def healthy(tmp_path: Path) -> Path:
    return write(tmp_path / "healthy.csv", curve(100))


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    loss = curve(100)
    loss[100:] += 0.6
    return write(tmp_path / "broken.csv", loss)


class TestExitCode:
    @pytest.mark.slow
    def test_is_0_where_there_is_no_alarm(self, healthy: Path, past: Path) -> None:
        result = run(healthy, "--reference", past, "--once")
        assert result.exit_code == 0, result.output
        assert "compared with 9 runs of tiny up to step 200" in result.output
        assert "false alarms by the band in at most 10 % of healthy runs" in result.output
        assert "200 rows up to step 200: no alarms" in result.output

    @pytest.mark.slow
    def test_is_1_at_an_alarm(self, broken: Path, past: Path) -> None:
        result = run(broken, "--reference", past, "--once")
        assert result.exit_code == 1
        assert "ALARM band at step 103" in result.output

    def test_is_1_without_past_runs_too(self, tmp_path: Path) -> None:
        loss = curve(100)
        loss[170:] += 2.0
        result = run(write(tmp_path / "broken.csv", loss), "--once")
        assert (result.exit_code, "compared with its own past" in result.output) == (1, True)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["missing.csv", "--once"], "there is no log missing.csv"),
            (["{healthy}", "--reference", "nanoo", "--once"], "Did you mean 'nano'"),
            (["{healthy}", "--reference", "nano", "--once"], "pass model= (--model)"),
            (["{healthy}", "--reference", "nano", "--model", "nano-97k", "--once"], "Did you mean 'nano-96k'"),
            (["{healthy}", "--reference", "{past}", "--false-alarm", "0.01", "--once"], "use 99 runs"),
            (["{healthy}", "--model", "tiny", "--once"], "--model is about past runs: it needs --reference"),
            (["{healthy}", "--metrics", "loss", "--once"], "is not NAME=COLUMN"),
            (["{healthy}", "--metrics", "loss=no_id", "--once"], "no_id"),
            (["{healthy}", "--interval", "0"], "above 0"),
            (["{healthy}", "--until", "many"], "not a valid integer"),
        ],
    )
    def test_is_2_for_bad_input(self, healthy: Path, past: Path, arguments: list[str], said: str) -> None:
        result = run(*(text.format(healthy=healthy, past=past) for text in arguments))
        assert result.exit_code == 2
        assert said in result.output

    def test_is_2_for_a_log_without_anything_to_use(self, tmp_path: Path) -> None:
        (tmp_path / "log.csv").write_text("step,colour\n1,2\n")
        result = run(tmp_path / "log.csv", "--once")
        assert result.exit_code == 2
        assert "--metrics COLUMN=loss/train/cross_entropy" in result.output


def test_json_is_an_object_a_line(broken: Path, past: Path) -> None:
    lines = [json.loads(line) for line in run(broken, "--reference", past, "--once", "--json").stdout.splitlines()]
    assert [line["event"] for line in lines] == ["watching", "alarm", "end"]
    assert lines[0]["reference"]["false_alarm"] == pytest.approx(0.1)
    assert (lines[1]["rule"], lines[1]["step"], lines[1]["since"]) == ("band", 103, 101)
    assert lines[2]["alarms"] == 1


def test_stops_reading_at_the_first_alarm(broken: Path, past: Path) -> None:
    assert "up to step 103: 1 alarm" in run(broken, "--reference", past, "--once").output


def test_keeps_reading_if_asked_to(broken: Path, past: Path) -> None:
    output = run(broken, "--reference", past, "--once", "--keep-going", "--no-own-past").output
    assert "up to step 200: 1 alarm" in output


def test_is_listed_with_the_other_commands() -> None:
    assert "Watch the log of a running job." in CliRunner().invoke(main, ["--help"]).output


@pytest.mark.slow
def test_follows_a_job_that_is_still_writing(tmp_path: Path, past: Path) -> None:
    loss = curve(100)
    loss[100:] += 0.6
    log = tmp_path / "live.csv"
    command = [sys.executable, "-m", "polystab.cli", "watch", str(log), "--reference", str(past), "--interval", "0.05"]
    with subprocess.Popen([*command, "--idle", "60"], stdout=subprocess.PIPE, text=True) as watching:
        with log.open("w") as file:
            file.write("step,loss\n")
            for step, value in enumerate(loss, 1):
                file.write(f"{step},{value:.6f}\n")
                file.flush()
                time.sleep(0.002)
        said, _ = watching.communicate(timeout=60)
    assert watching.returncode == 1
    assert "ALARM band at step 103" in said
