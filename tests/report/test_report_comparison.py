"""The section that holds a cube against another one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner, Result
from cubes_to_report import SCRIPT, hostile_tree

import polystab as ps
from polystab.cli import main
from polystab.errors import AnalysisError, InvalidCubeError
from polystab.report.failing import reasons_to_fail
from polystab.report.page import write_page
from polystab.report.sections import SECTIONS

ONLY = ["comparison"]


def cube_of(
    seed: int,
    *,
    shift: float = 0.0,
    n_seeds: int = 6,
    models: tuple[str, ...] = ("a",),
    metrics: int = 2,
    title: str = "one",
) -> xr.Dataset:
    """Accuracies (better higher) and weight norms over three steps; the first accuracy is shifted."""
    rng = np.random.default_rng(seed)
    rows = [
        {
            "model": model,
            "seed": k,
            "step": step,
            "metric": name,
            "better": "higher" if name.startswith("eval") else "",
            "value": rng.normal() + (shift if name == "eval/t0/acc" else 0.0),
        }
        for model in models
        for k in range(n_seeds)
        for step in (0, 10, 100)
        for name in (*(f"eval/t{i}/acc" for i in range(metrics)), "weight/all/l2")
    ]
    return ps.cube_from_records(pd.DataFrame(rows), created="2026-01-01T00:00:00+00:00", title=title)


def summary_of(cube: Any, other: Any, **options: Any) -> dict[str, Any]:
    text = ps.report(cube, compare=other, format="json", sections=ONLY, **options)
    found: dict[str, Any] = json.loads(text)["comparison"]
    return found


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *(str(argument) for argument in arguments)])


@pytest.fixture
def worse() -> tuple[xr.Dataset, xr.Dataset]:
    return cube_of(1), cube_of(2, shift=-9.0, title="two")


@pytest.fixture
def files(worse: tuple[xr.Dataset, xr.Dataset], tmp_path: Path) -> tuple[Path, Path]:
    paths = tmp_path / "one.nc", tmp_path / "two.nc"
    for cube, path in zip(worse, paths, strict=True):
        ps.save_cube(cube, path)
    return paths


class TestSummary:
    def test_what_got_worse_comes_first(self, worse: tuple[xr.Dataset, xr.Dataset]) -> None:
        first = summary_of(*worse)["rows"][0]
        assert (first["metric"], first["verdict"], first["change"]) == ("eval/t0/acc", "differs", "worse")

    def test_counts_are_those_of_the_rows(self, worse: tuple[xr.Dataset, xr.Dataset]) -> None:
        found = summary_of(*worse)
        assert sum(found["counts"].values()) == len(found["rows"]) == 3
        assert (found["worse"], found["better"]) == (1, 0)

    def test_the_other_cube_is_named(self, worse: tuple[xr.Dataset, xr.Dataset]) -> None:
        found = summary_of(*worse)
        assert found["title"] == "two"
        assert found["fingerprint"] == ps.analysis.fingerprint(worse[1])

    def test_metrics_asked_for_are_compared(self, worse: tuple[xr.Dataset, xr.Dataset]) -> None:
        found = summary_of(*worse, metrics=["eval/*"])
        assert {row["family"] for row in found["rows"]} == {"eval"}
        assert found["metrics_alone"] == 0

    def test_models_that_belong_together_can_be_said(self) -> None:
        cubes = cube_of(1, models=("a", "b")), cube_of(2, models=("x", "y"))
        found = summary_of(*cubes, compare_models={"b": "x"})
        assert found["models"] == [{"model": "b", "other_model": "x"}]


class TestPage:
    @pytest.mark.slow
    @pytest.mark.parametrize("format", ["html", "md"])
    def test_a_page_without_another_cube_has_no_such_section(self, format: Any) -> None:
        page = ps.report(cube_of(1), format=format, sections=None, metrics=["eval/t0/acc"])
        assert "Against the other cube" not in page

    def test_the_section_alone_says_what_would_fill_it(self) -> None:
        assert "--compare other.nc" in ps.report(cube_of(1), format="md", sections=ONLY)

    @pytest.mark.slow
    def test_the_worst_news_stands_at_the_top_of_the_page(self, worse: tuple[xr.Dataset, xr.Dataset]) -> None:
        page = ps.report(worse[0], compare=worse[1], format="md", sections=["takeaways"])
        first = next(line for line in page.splitlines() if line.startswith("- "))
        assert first.startswith("- **!!** The other cube is worse in 1 of 2 comparisons")

    @pytest.mark.parametrize("format", ["md", "json", pytest.param("html", marks=pytest.mark.slow)])
    def test_the_same_cubes_give_the_same_bytes(self, worse: tuple[xr.Dataset, xr.Dataset], format: Any) -> None:
        one, again = (ps.report(worse[0], compare=worse[1], format=format, sections=ONLY) for _ in range(2))
        assert one == again

    @pytest.mark.slow
    def test_both_curves_of_what_differs_are_drawn(self, worse: tuple[xr.Dataset, xr.Dataset]) -> None:
        page = ps.report(worse[0], compare=worse[1], sections=ONLY)
        assert page.count("<figure") == 2  # the differences, and one pair of curves

    def test_cubes_of_one_step_have_no_curves(self, worse: tuple[xr.Dataset, xr.Dataset]) -> None:
        found = summary_of(*(cube.isel(step=[-1]) for cube in worse))
        assert found["curves"] == []
        assert found["worse"] == 1

    @pytest.mark.slow
    def test_a_cube_against_itself_is_said_to_be(self) -> None:
        cube = cube_of(1)
        page = ps.report(cube, compare=cube, format="md", sections=["takeaways", "comparison"])
        assert page.count("it is compared with itself") == 2

    def test_single_runs_give_no_verdict_and_say_why(self) -> None:
        page = ps.report(cube_of(1, n_seeds=1), compare=cube_of(2, n_seeds=1), format="md", sections=ONLY)
        assert "3 comparisons have fewer than three runs on both sides" in page

    @pytest.mark.slow
    def test_lost_runs_are_in_the_first_sentences(self) -> None:
        other = cube_of(2)
        value = other["value"].values.copy()
        value[:, :2, -1] = np.inf
        other = other.assign(value=(other["value"].dims, value, other["value"].attrs))
        page = ps.report(cube_of(1), compare=other, format="md", sections=["takeaways"])
        assert "2 runs of a in the other cube diverged or have no value at step 100, against 0 of a here" in page

    def test_lost_runs_of_this_cube_are_said_too(self) -> None:
        cube = cube_of(1)
        value = cube["value"].values.copy()
        value[:, 0, -1] = np.nan
        cube = cube.assign(value=(cube["value"].dims, value, cube["value"].attrs))
        page = ps.report(cube, compare=cube_of(2), format="md", sections=ONLY)
        assert "**!** 1 run of a here diverged or has no value at step 100, against 0 of a in the other cube" in page

    @pytest.mark.slow
    def test_markup_in_names_is_text(self) -> None:
        tree = hostile_tree()
        other = tree.to_dataset()
        other = other.assign(value=other["value"] * 2 + 1)
        page = ps.report(tree, compare=other, sections=ONLY)
        assert "<script" not in page
        assert SCRIPT not in page

    @pytest.mark.slow
    def test_many_rows_are_folded_and_cut(self) -> None:
        cubes = cube_of(1, metrics=1600, n_seeds=3), cube_of(2, metrics=1600, n_seeds=3)
        page = ps.report(cubes[0], compare=cubes[1], sections=ONLY)
        assert "All 1,601 comparisons" in page
        assert "101 more rows are left out of this page" in page
        assert len(page) < 2_000_000

    def test_what_is_no_cube_is_refused(self) -> None:
        with pytest.raises(InvalidCubeError, match="the cube to compare with"):
            ps.report(cube_of(1), compare=cube_of(2).drop_vars("family"), sections=ONLY)

    @pytest.mark.slow
    def test_every_section_can_be_on_one_page(self, worse: tuple[xr.Dataset, xr.Dataset]) -> None:
        page = ps.report(worse[0], compare=worse[1], metrics=["eval/t0/acc"])
        assert all(f'<h2 id="{name}">' in page for name in SECTIONS)


class TestFailing:
    def test_a_worse_metric_is_a_reason(self, worse: tuple[xr.Dataset, xr.Dataset]) -> None:
        _, summary = write_page(worse[0], compare=worse[1], format="json", sections=ONLY, fail_on=["difference"])
        assert reasons_to_fail(summary, ["difference"])[0].startswith(
            "the other cube is worse in 1 comparison: eval/t0/acc of a"
        )

    def test_a_better_metric_is_none(self, worse: tuple[xr.Dataset, xr.Dataset]) -> None:
        _, summary = write_page(worse[1], compare=worse[0], format="json", sections=ONLY, fail_on=["difference"])
        assert reasons_to_fail(summary, ["difference"]) == []

    def test_a_metric_without_a_better_direction_is_none(self) -> None:
        other = cube_of(2)
        moved = other["value"].where(other["metric"] != "weight/all/l2", other["value"] + 50)
        _, summary = write_page(
            cube_of(1), compare=other.assign(value=moved), format="json", sections=ONLY, fail_on=["difference"]
        )
        assert summary["comparison"]["rows"][0]["verdict"] == "differs"
        assert reasons_to_fail(summary, ["difference"]) == []

    def test_without_another_cube_it_is_refused(self) -> None:
        with pytest.raises(AnalysisError, match="needs another cube"):
            write_page(cube_of(1), format="json", fail_on=["difference"])


class TestCommand:
    def test_it_exits_with_1_when_something_got_worse(self, files: tuple[Path, Path]) -> None:
        done = run(
            files[0], "--compare", files[1], "--sections", "comparison", "--format", "md", "--fail-on", "difference"
        )
        assert done.exit_code == 1
        assert "Found: the other cube is worse" in done.output

    def test_it_exits_with_0_the_other_way_round(self, files: tuple[Path, Path]) -> None:
        done = run(
            files[1], "--compare", files[0], "--sections", "comparison", "--format", "md", "--fail-on", "difference"
        )
        assert done.exit_code == 0, done.output

    def test_models_and_pairs_can_be_said(self, files: tuple[Path, Path]) -> None:
        done = run(
            files[0], "--compare", files[1], "--compare-models", "a=a", "--paired", "--sections", "comparison", "--format", "md"
        )  # fmt: skip
        assert "seed k of one belongs to seed k of the other" in done.output

    @pytest.mark.parametrize("option", [["--paired"], ["--compare-models", "a=b"], ["--fail-on", "difference"]])
    def test_options_without_another_cube_are_refused(self, files: tuple[Path, Path], option: list[str]) -> None:
        done = run(files[0], "--format", "md", *option)
        assert done.exit_code == 2
        assert "need another cube" in done.output

    def test_an_unknown_model_is_refused(self, files: tuple[Path, Path]) -> None:
        done = run(
            files[0], "--compare", files[1], "--compare-models", "a=aa", "--sections", "comparison", "--format", "md"
        )
        assert done.exit_code == 2
        assert "no model 'aa'" in done.output
