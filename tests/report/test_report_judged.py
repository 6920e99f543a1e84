"""The sections on the audit, on outlier runs and on runs that went wrong, and what a command may fail on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from cubes_to_report import plain_cube, spoiled_tree

import polystab as ps
import polystab.testing
from polystab.analysis.audit.checks import audit_cube
from polystab.analysis.outliers.verdicts import outlier_runs
from polystab.cli import main
from polystab.errors import UnknownNameError
from polystab.report.blocks import Bullets, Details
from polystab.report.failing import reasons_to_fail
from polystab.report.page import report, with_metrics
from polystab.report.results import bounded
from polystab.report.results.computed import RNG
from polystab.report.results.judged import DRAWS, judge
from polystab.report.sections import known_sections, sections
from polystab.report.sections.audit import audit
from polystab.report.summary import plain, summarise
from polystab.report.summary.outliers import verdicts_summary


@pytest.fixture(scope="module", name="odd")
def _odd() -> xr.Dataset:
    """One model of eight runs; seed 3 leaves the others at step 50,000, and one score of seed 5 is impossible."""
    events = [polystab.testing.Event.outlier(3, 50_000)]
    cube = polystab.testing.synthetic_cube(n_models=1, n_seeds=8, events=events, rng=0)
    cube["value"].loc[{"seed": 5, "metric": cube["metric"].values[0]}][0, 10] = -1.0
    return cube


@pytest.fixture(scope="module", name="summary")
def _summary(odd: xr.Dataset) -> dict:
    return summarise(odd)


@pytest.fixture(scope="module", name="plain_summary")
def _plain_summary() -> dict:
    return summarise(plain_cube())


def section(summary: dict, name: str) -> str:
    (found,) = (part for part in sections(summary) if part.name == name)
    return repr(found)


@pytest.mark.slow
def test_findings_are_those_of_the_audit(summary: dict, odd: xr.Dataset) -> None:
    found = audit_cube(odd)
    assert [row["evidence"] for row in summary["findings"]["rows"]] == found["evidence"].values.tolist()
    assert sum(summary["findings"]["counts"].values()) == found.sizes["finding"]


@pytest.mark.slow
def test_a_finding_stands_in_the_audit_with_what_to_do(summary: dict) -> None:
    said = section(summary, "audit")
    (row,) = (row for row in summary["findings"]["rows"] if row["kind"] == "impossible-value")
    assert row["evidence"] in said.replace("\\'", "'")
    assert row["advice"] in said


@pytest.mark.slow
def test_verdicts_are_those_of_outlier_runs(summary: dict, odd: xr.Dataset) -> None:
    found = outlier_runs(odd, draws=DRAWS, rng=RNG).isel(model=0)
    rows = summary["verdicts"]["rows"]
    assert [row["seed"] for row in rows] == found["seed"].values[found["outlier"].values].tolist() == [3]
    for name in ("p_value", "q_value", "from_step", "until_step", "group"):
        assert rows[0][name] == found[name].sel(seed=3).item()


def test_an_outlier_run_is_among_the_first_things_said(summary: dict) -> None:
    (said,) = (item for item in summary["takeaways"] if "seed 3 is an outlier" in item["text"])
    assert (said["level"], said["section"]) == ("bad", "outliers")


@pytest.mark.slow
def test_a_judged_model_without_outlier_says_so_and_names_no_run() -> None:
    summary = summarise(polystab.testing.synthetic_cube(n_models=1, n_seeds=6, rng=1))
    said = [item["text"] for item in summary["takeaways"] if item["section"] == "outliers"]
    assert said == ["None of 6 runs that could be judged is an outlier among its siblings."]


@pytest.mark.slow
def test_runs_that_cannot_be_judged_say_why() -> None:
    cube = polystab.testing.synthetic_cube(n_models=1, n_seeds=3, rng=1)
    assert "There is no verdict on runs: that takes 4 runs" in section(summarise(cube), "outliers")


@pytest.mark.slow
def test_a_clean_cube_has_no_findings_and_says_what_was_looked_for(plain_summary: dict) -> None:
    assert plain_summary["findings"]["rows"] == []
    assert "found nothing: no copies" in section(plain_summary, "audit")


@pytest.mark.slow
def test_what_was_said_on_reading_is_not_said_twice() -> None:
    summary = summarise(spoiled_tree())
    kinds = {kind["kind"] for kind in summary["findings"]["kinds"]}
    assert "refused-files" in kinds
    assert "refused-files" not in section(summary, "audit")


def test_large_cubes_are_judged_in_part_and_the_page_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = plain_cube()
    n_cells = 3 * 5 * cube.sizes["step"]
    monkeypatch.setattr(bounded, "MAX_JUDGED", 2 * n_cells)
    found = bounded.for_judging(cube, cube["metric"].values.tolist())
    assert found.cube.sizes["metric"] == 2
    assert found.notes[0].startswith(f"Looked at: 2 of {cube.sizes['metric']} metrics")


@pytest.mark.slow
def test_a_cube_without_logs_says_how_to_have_them(plain_summary: dict) -> None:
    assert "polystab read training-log" in section(plain_summary, "warning")


@pytest.fixture(scope="module")
def edge() -> dict:
    """Two learning rates of nano-edge, with their logs, without answers to items."""
    tree = ps.load_tree("nano-edge")
    cube = tree.to_dataset().isel(step=slice(None, None, 6)).load()
    return summarise(xr.DataTree.from_dict({"/": cube, "/log": tree["log"].to_dataset(inherit=False)}))


@pytest.mark.slow
def test_runs_that_went_wrong_are_listed_by_rule(edge: dict) -> None:
    from polystab.analysis.failures import failed_runs

    failed = failed_runs(ps.load_tree("nano-edge"))
    warning = edge["warning"]
    assert warning["wrong"] > 0
    assert warning["runs"] == int(failed["known"].sum())
    assert all(row["rules"] for row in warning["rows"])
    assert any(item["section"] == "warning" for item in edge["takeaways"])


def test_reasons_to_fail_are_those_asked_for(summary: dict) -> None:
    said = reasons_to_fail(summary, ["outliers", "audit"])
    assert said[0].startswith("1 outlier run: ")
    assert said[1].startswith("the audit has ")
    assert reasons_to_fail(summary, []) == []


def test_sections_come_in_the_order_of_the_page(summary: dict) -> None:
    wanted = known_sections(["outliers", "takeaways"])
    assert [part.name for part in sections(summary, wanted)] == ["takeaways", "outliers"]


def test_takeaways_link_to_sections_that_are_there(summary: dict) -> None:
    first, _ = sections(summary, ("takeaways", "outliers"))
    (bullets,) = first.blocks
    assert isinstance(bullets, Bullets)
    assert set(bullets.links) == {"", "outliers"}


def test_an_unknown_section_is_refused_with_a_suggestion(odd: xr.Dataset) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'outliers'"):
        report(odd, sections=["outlier"])


def test_metrics_are_chosen_by_pattern(odd: xr.Dataset) -> None:
    names = odd["metric"].values.tolist()
    kept = with_metrics(odd, ["*" + names[0].rsplit("/", 1)[0].split("/")[-1] + "*"])
    assert names[0] in kept["metric"].values
    assert kept.sizes["metric"] < odd.sizes["metric"]


def test_a_pattern_without_a_metric_is_refused(odd: xr.Dataset) -> None:
    with pytest.raises(UnknownNameError, match="no metric matches 'evla/"):
        report(odd, metrics=["evla/*"])


def test_groups_of_a_tree_stay_when_metrics_are_chosen() -> None:
    tree = spoiled_tree()
    kept = with_metrics(tree, [str(tree["metric"].values[0])])
    assert isinstance(kept, xr.DataTree)
    assert "audit" in kept.children


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with one model of six runs at few steps, and an impossible score."""
    cube = polystab.testing.synthetic_cube(n_models=1, n_seeds=6, rng=1).isel(step=slice(0, None, 4), metric=[0, 1])
    values = cube["value"].values.copy()
    values[0, 2, 3, 0] = -1.0
    path = tmp_path_factory.mktemp("small") / "small.nc"
    ps.save_cube(cube.assign(value=(cube["value"].dims, values, cube["value"].attrs)), path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("options", "code"), [([], 0), (["--fail-on", "outliers"], 0), (["--fail-on", "audit"], 1)])
def test_the_command_fails_on_what_it_is_asked_to(small: Path, tmp_path: Path, options: list[str], code: int) -> None:
    page = tmp_path / "page.md"
    result = CliRunner().invoke(main, ["report", str(small), "-o", str(page), *options])
    assert result.exit_code == code, result.output
    assert page.exists()


@pytest.mark.slow
def test_the_command_takes_sections_and_metrics(small: Path) -> None:
    result = CliRunner().invoke(
        main, ["report", str(small), "--format", "md", "--sections", "contents, final", "--title", "Mine"]
    )
    assert [line for line in result.output.splitlines() if line.startswith(("# ", "## "))] == [
        "# Mine",
        "## What is in the cube",
        "## Final values and the spread over seeds",
    ]


def test_the_command_refuses_an_unknown_section_before_the_work(small: Path) -> None:
    result = CliRunner().invoke(main, ["report", str(small), "--format", "md", "--sections", "contnts"])
    assert result.exit_code == 2
    assert "'contents'" in result.output


@pytest.mark.slow
def test_json_carries_infinite_scores_as_null(odd: xr.Dataset) -> None:
    cube = odd.copy(deep=True)
    cube["value"][0, 6, -2:] = np.inf
    rows = plain(verdicts_summary(judge(cube, cube, cube["metric"].values.tolist(), rng=0)))["rows"]
    assert rows[0]["kind"] == "diverged"
    assert rows[0]["p_value"] is None


@pytest.mark.slow
def test_findings_for_information_are_folded_away() -> None:
    cube = polystab.testing.synthetic_cube(n_models=1, n_seeds=4, rng=2).drop_vars(
        ["weight_seed", "data_seed"], errors="ignore"
    )
    cube["value"][0, 1, 0] = cube["value"][0, 0, 0].values
    (found,) = (part for part in sections(summarise(cube)) if part.name == "audit")
    assert "No error and no warning: 1 finding of kind same-start" in repr(found.blocks[0])
    assert isinstance(found.blocks[1], Details)


def test_findings_of_a_kind_are_counted_together_whatever_their_severity() -> None:
    row = {
        "model": "a",
        "seed": 0,
        "first_step": 0,
        "last_step": 0,
        "evidence": "e",
        "advice": "d",
        "kind": "known-issue",
    }
    rows = [row | {"severity": severity} for severity in ("warning", "info")]
    findings = {
        "notes": [],
        "kinds": [{"kind": "known-issue", "severity": found["severity"], "count": 1} for found in rows],
        "rows": rows,
        "left_out": 0,
    }
    summary = {"findings": findings, "contents": {"models": [{"runs": 2}]}, "copies": [], "audit": None}
    assert "2 findings of kind known-issue. An error" in repr(next(iter(audit(summary))))
