"""What the summary says, and that every number in it is an analysis's own."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from cubes_to_report import plain_cube, single_runs, spoiled_tree

import polystab as ps
import polystab.testing
from polystab.analysis import (
    cube_coverage,
    final_components,
    outlier_scores,
    seed_band,
    seed_spread,
    variance_fractions,
)
from polystab.analysis.phases import change_points
from polystab.analysis.phases.consensus import consensus_change_points
from polystab.report.blocks import Table
from polystab.report.sections import lead, sections
from polystab.report.sections.tables import size_label
from polystab.report.summary import plain, summarise
from polystab.words import NONE, percent, ranges


@pytest.fixture(scope="module", name="tree")
def _tree() -> xr.DataTree:
    return spoiled_tree()


@pytest.fixture(scope="module", name="single")
def _single() -> xr.Dataset:
    return single_runs()


@pytest.fixture(scope="module")
def summary(tree: xr.DataTree) -> dict:
    return summarise(tree)


@pytest.mark.slow
def test_the_first_key_is_the_mark(summary: dict) -> None:
    assert next(iter(summary)) == "polystab_report"


@pytest.mark.slow
def test_final_rows_are_the_numbers_of_seed_spread(summary: dict, tree: xr.DataTree) -> None:
    spread = seed_spread(tree)
    assert len(summary["final"]["rows"]) == spread.sizes["model"] * spread.sizes["metric"]
    for row in summary["final"]["rows"]:
        for name in spread.data_vars:
            expected = float(spread[name].sel(model=row["model"], metric=row["metric"]))
            assert row[name] is None if not np.isfinite(expected) else row[name] == expected


@pytest.mark.slow
def test_curves_are_the_numbers_of_seed_band(summary: dict, tree: xr.DataTree) -> None:
    band = seed_band(tree)
    for curve in summary["curves"]["metrics"]:
        for line in curve["models"]:
            median = band["value"].sel(metric=curve["metric"], model=line["model"], quantile=0.5, step=line["steps"])
            assert line["median"] == median.values.tolist()


@pytest.mark.slow
def test_outlier_rows_are_the_numbers_of_outlier_scores(summary: dict, tree: xr.DataTree) -> None:
    scores = outlier_scores(tree)
    for run in summary["outliers"]["runs"]:
        assert run["share_beyond"] == float(scores["share_beyond"].sel(model=run["model"], seed=run["seed"]))
        assert run["first_step"] == int(scores["first_step"].sel(model=run["model"], seed=run["seed"]))


def test_contents_are_the_numbers_of_cube_coverage(summary: dict, tree: xr.DataTree) -> None:
    cover = cube_coverage(tree)
    assert summary["contents"]["measured"] == int(cover["n_measured"])
    assert [model["runs"] for model in summary["contents"]["models"]] == cover["n_runs"].values.tolist()


@pytest.mark.slow
def test_variance_rows_are_the_numbers_of_variance_components(summary: dict, tree: xr.DataTree) -> None:
    components = ps.variance_components(tree)
    at_end = final_components(components, variance_fractions(components))
    assert len(summary["variance"]["rows"]) == at_end.sizes["metric"]
    for row in summary["variance"]["rows"]:
        assert row["step"] == int(at_end["step"].sel(metric=row["metric"]))
        for name, part in row["parts"].items():
            for column in ("fraction", "fraction_lower", "fraction_upper", "variance", "p"):
                expected = float(at_end[column].sel(component=name, metric=row["metric"]))
                assert part[column] is None if np.isnan(expected) else part[column] == expected


def test_the_takeaway_on_seeds_is_of_the_metric_that_training_moves_most(summary: dict) -> None:
    (said,) = (item["text"] for item in summary["takeaways"] if item["section"] == "variance")
    most = next(row for row in summary["variance"]["rows"] if row["parts"]["seed"]["fraction_lower"] is not None)
    assert said.startswith("Seeds explain ")
    assert f" of the spread in {most['metric']} at the end of training, models " in said


@pytest.mark.slow
def test_a_factorial_cube_is_told_by_initialisation_and_order() -> None:
    said = [item["text"] for item in summarise(ps.load_cube("nano-factorial"))["takeaways"]]
    (text,) = (item for item in said if "initialisation" in item.lower())
    assert text.startswith("Initialisation explains ")
    assert "data order" in text


@pytest.mark.slow
def test_shared_changes_are_the_numbers_of_consensus_change_points() -> None:
    cube = polystab.testing.phase_cube(changes=[20_000, 40_000], n_metrics=2, jump=4.0, rng=0)
    summary = summarise(cube)["phases"]
    shared = consensus_change_points(change_points(cube, metrics=cube["metric"].values[::-1].tolist(), rng=0), rng=0)
    assert len(summary["shared"]) == int(shared["n_changes"].sum()) > 0
    for row in summary["shared"]:
        one = shared.sel(model=row["model"], metric=row["metric"])
        assert row["step"] in one["step"].values
        assert row["n_looked_at"] == int(one["n_looked_at"])
    assert summary["map"]["n_states"] >= 3
    assert {graph["model"] for graph in summary["map"]["graphs"]} == set(cube["model"].values.tolist())


@pytest.mark.slow
def test_glitches_that_seeds_share_stand_in_one_row() -> None:
    cube = polystab.testing.phase_cube(changes=[40_000], n_metrics=1, n_seeds=4, jump=4.0, rng=0).copy(deep=True)
    cube["value"][0, :2, 20] += 40
    found = summarise(cube)["phases"]["glitches"]
    assert {"step": int(cube["step"][20]), "seeds": [0, 1]}.items() <= found[0].items()


@pytest.mark.slow
def test_a_cube_of_one_step_has_no_phases_and_says_so(single: xr.Dataset) -> None:
    summary = summarise(single.isel(step=[0]))
    (section,) = (section for section in sections(summary) if section.name == "phases")
    assert [block.kind for block in section.blocks] == ["empty", "empty"]
    assert "training map" in section.blocks[1].parts[0]


@pytest.mark.slow
def test_too_few_checkpoints_for_a_map_are_said_with_the_count(single: xr.Dataset) -> None:
    reason = summarise(single.isel(model=[0], step=[0, 1]))["phases"]["map"]["reason"]
    assert "2 checkpoints" in reason


@pytest.mark.slow
def test_one_model_without_item_errors_has_no_shares_and_says_what_is_missing() -> None:
    cube = plain_cube().isel(model=[0]).drop_vars("stderr", errors="ignore")
    summary = summarise(cube)
    (section,) = (section for section in sections(summary) if section.name == "variance")
    assert section.blocks[0].kind == "empty"
    assert not [item for item in summary["takeaways"] if item["section"] == "variance"]


def test_takeaways_come_worst_first_and_link_to_sections(summary: dict) -> None:
    levels = [item["level"] for item in summary["takeaways"]]
    assert levels == sorted(levels, key=["bad", "warn", "info"].index)
    texts = [item["text"] for item in summary["takeaways"]]
    assert texts[0] == "13 of 53 files were refused: label-mismatch (12) and invalid-json (1)."
    assert any("repeats another run" in text and "seed 3 (as seed 1)" in text for text in texts)
    assert any("1 run has infinite values" in text for text in texts)
    assert {item["section"] for item in summary["takeaways"]} <= {section.name for section in sections(summary)}


def test_the_audit_is_grouped_by_reason(summary: dict) -> None:
    audit = summary["audit"]
    assert (audit["files"], audit["read"]) == (53, 40)
    assert [(group["reason"], group["count"]) for group in audit["refused"]] == [
        ("label-mismatch", 12),
        ("invalid-json", 1),
    ]
    assert audit["replaced"][0]["entries"][0]["by"] == "runs/new.json"


def test_a_copied_run_is_listed_with_its_original(summary: dict) -> None:
    (copy,) = [copy for copy in summary["copies"] if copy["whole"]]
    assert (copy["seed"], copy["of"]) == (3, 1)


@pytest.mark.slow
def test_single_runs_get_no_seed_statistic_and_the_command_that_helps(single: xr.Dataset) -> None:
    summary = summarise(single)
    assert any(item["text"].startswith("No seed statistic can be given") for item in summary["takeaways"])
    page = ps.report(single, format="md")
    assert "polystab needs at least 3 runs" in page
    assert "`polystab merge seed0.nc seed1.nc seed2.nc -o seeds.nc`" in page
    assert "Seed SD |" not in page


@pytest.mark.slow
def test_a_cube_without_an_audit_says_how_to_get_one(single: xr.Dataset) -> None:
    assert summarise(single)["audit"] is None
    assert "`polystab read lm-eval RESULTS -o cube.nc`" in ps.report(single, format="md")


@pytest.mark.slow
def test_a_cube_of_one_step_has_no_curves_and_says_so(single: xr.Dataset) -> None:
    page = ps.report(single.isel(step=[-1]), format="md")
    assert "no metric was measured at two steps or more" in page


@pytest.mark.slow
def test_an_empty_cube_has_a_report() -> None:
    frame = pd.DataFrame({"model": ["a"], "seed": 0, "step": 1, "metric": "eval/a/acc", "value": np.nan})
    summary = summarise(ps.cube_from_records(frame))
    assert summary["takeaways"][0]["text"] == "The cube holds no value: nothing was measured."


@pytest.mark.slow
def test_ragged_mixed_cubes_have_a_report() -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"model": f"model-{m}", "seed": s, "step": t, "metric": f"loss/{k}/ce", "value": rng.normal()}
        for m in range(14)
        for s in range(m % 5 + 1)
        for t in range(0, 100, m + 1)
        for k in range(m % 3 + 1)
    ]
    summary = summarise(ps.cube_from_records(pd.DataFrame(rows)))
    assert len(summary["curves"]["models_shown"]) == 10
    assert len(summary["curves"]["models_left_out"]) == 4
    assert lead(summary).startswith("40 runs of 14 models, ")


def test_a_cube_of_one_value_is_said_to_hold_one_value() -> None:
    frame = pd.DataFrame({"model": ["a"], "seed": 0, "step": 1, "metric": "eval/a/acc", "value": 0.5})
    summary = summarise(ps.cube_from_records(frame), sections=["contents"])
    assert lead(summary).endswith("1 metric (eval); 1 value, 100\N{NO-BREAK SPACE}% of the cube's cells.")


def test_plain_leaves_nothing_that_json_does_not_have() -> None:
    messy = {"a": np.float64("nan"), "b": (np.int64(1), float("inf")), "c": "x\udcff", 4: [True, None]}
    assert plain(messy) == {"a": None, "b": [1, None], "c": "x?", "4": [True, None]}


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        ([], ""),
        ([0], "0"),
        ([0, 1], "0, 1"),
        ([0, 1, 2, 5], "0–2, 5"),
        (list(range(0, 40, 2)), "0, 2, 4, 6, 8, 10, 12, 14 and 12 more"),
    ],
)
def test_seeds_are_written_as_ranges(seeds: list[int], text: str) -> None:
    assert ranges(seeds) == text


@pytest.mark.parametrize(("n", "text"), [(70_426_624, "70.4M"), (1.4e9, "1.4B"), (2000, "2k"), (12, "12")])
def test_sizes(n: float, text: str) -> None:
    assert size_label(n) == text


def phases_text(cube: xr.Dataset) -> str:
    (section,) = (section for section in sections(summarise(cube)) if section.name == "phases")
    return repr(section)


@pytest.mark.slow
def test_a_single_seed_is_not_said_to_share_no_change() -> None:
    said = phases_text(polystab.testing.phase_cube(n_seeds=1, n_metrics=1, rng=0))
    assert "Whether seeds share a change takes two runs" in said


@pytest.mark.slow
def test_constant_curves_are_not_called_too_short() -> None:
    cube = polystab.testing.phase_cube(n_seeds=2, n_metrics=1, rng=0)
    said = phases_text(cube.assign(value=cube["value"] * 0 + 3.25))
    assert "8 checkpoints of a run with finite values that are not all equal" in said


@pytest.mark.slow
def test_false_alarms_expected_of_few_curves_are_not_rounded_to_none() -> None:
    assert "about 0.15." in phases_text(polystab.testing.phase_cube(n_seeds=3, n_metrics=1, changes=[], rng=0))


@pytest.mark.slow
def test_a_share_whose_interval_has_no_width_is_given_none() -> None:
    summary = summarise(polystab.testing.variance_cube(n_steps=1, rng=0))
    for row in summary["variance"]["rows"]:
        row["parts"]["model"] |= {"fraction": 0.0, "fraction_lower": 0.0, "fraction_upper": 0.0}
    (section,) = (section for section in sections(summary) if section.name == "variance")
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    place = [column.title for column in table.columns].index("Models")
    assert table.groups[0].rows[0][place : place + 2] == (percent(0.0), NONE)
