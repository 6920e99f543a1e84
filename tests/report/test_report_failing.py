"""``--fail-on``: which changes a training project is told of, and how it asks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

import polystab as ps
from polystab.cli import main
from polystab.errors import UnknownNameError
from polystab.report.failing import parsed, reasons_to_fail
from polystab.report.page import write_page

STEPS = np.arange(0, 4100, 100)
# A score that rises early in training and falls late, a loss that falls late, and a statistic that has no better.
LEVELS = {
    "eval/rises-then-falls/acc": [(500, 0.3), (3000, -0.2)],
    "loss/validation/cross_entropy": [(3200, -1.0)],
    "weight/all/l2": [(3400, 5.0)],
}


def cube_of(metrics: list[str]) -> object:
    rng = np.random.default_rng(0)
    rows = []
    for metric in metrics:
        for seed in range(5):
            value = 0.5 + 0.01 * rng.standard_normal(len(STEPS))
            for step, size in LEVELS[metric]:
                value[step <= STEPS] += size
            rows += [("m", seed, step, metric, v) for step, v in zip(STEPS.tolist(), value.tolist(), strict=True)]
    cube = ps.cube_from_records(pd.DataFrame(rows, columns=["model", "seed", "step", "metric", "value"]))
    better = {"eval": "higher", "loss": "lower"}
    return cube.assign_coords(better=("metric", [better.get(str(name), "") for name in cube["family"].values]))


@pytest.fixture(scope="module", name="summary")
def _summary() -> dict:
    return write_page(cube_of(list(LEVELS)), format="json", sections=["contents"], fail_on=["change"])[1]


def test_a_late_change_for_the_worse_is_a_reason(summary: dict) -> None:
    (said,) = reasons_to_fail(summary, ["change"])
    assert said.startswith("1 change of level for the worse after 25")
    assert "eval/rises-then-falls/acc of m at step 3,000" in said


def test_from_a_step_on_any_change_is_a_reason(summary: dict) -> None:
    (said,) = reasons_to_fail(summary, ["change:3100"])
    assert said.startswith("2 changes of level at step 3,100 or later")
    assert "weight/all/l2" in said
    assert "loss/validation/cross_entropy" in said


def test_training_that_settled_before_the_step_passes(summary: dict) -> None:
    assert reasons_to_fail(summary, ["change:3500"]) == []


@pytest.mark.slow
def test_changes_for_the_better_or_neither_are_no_reason() -> None:
    cube = cube_of(["loss/validation/cross_entropy", "weight/all/l2"])
    found = write_page(cube, format="json", sections=["contents"], fail_on=["change"])[1]
    assert len(found["phases"]["shared"]) == 2
    assert reasons_to_fail(found, ["change"]) == []


@pytest.mark.parametrize("text", ["chnge", "change:", "change:-1", "change:1.5", "audit:100", "change:all", ""])
def test_what_is_no_reason_is_refused(text: str) -> None:
    with pytest.raises(UnknownNameError, match="reason to fail"):
        parsed(text)


@pytest.mark.slow
@pytest.mark.parametrize(("reason", "code"), [("change", 1), ("change:3500", 0), ("change:x", 2)])
def test_the_command_ends_with_the_code_that_ci_reads(tmp_path: Path, reason: str, code: int) -> None:
    ps.save_cube(cube_of(["eval/rises-then-falls/acc"]), tmp_path / "cube.nc")
    arguments = ["report", str(tmp_path / "cube.nc"), "--format", "md", "--sections", "contents", "--fail-on", reason]
    assert CliRunner().invoke(main, arguments).exit_code == code
