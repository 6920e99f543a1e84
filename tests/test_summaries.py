"""Short tables of results and cubes."""

from __future__ import annotations

import html.parser
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import xarray as xr

import polystab as ps
import polystab.testing
from polystab import analysis
from polystab.errors import PolystabError
from polystab.summaries import Column, Summary, summary
from polystab.summaries.table import value_text


def result(**variables: Any) -> xr.Dataset:
    """Variables over two models and three seeds."""
    shape = {"model": ["a", "b"], "seed": [0, 1, 2]}
    return xr.Dataset({name: (("model", "seed"), np.asarray(v)) for name, v in variables.items()}, coords=shape)


SIX = np.array([[0.5, 1.5, 2.5], [3.5, 4.5, 5.5]])


def told(data: Any, **options: Any) -> list[str]:
    return str(summary(data, **options)).splitlines()


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    return polystab.testing.synthetic_cube(n_models=2, n_seeds=5, rng=0)


# ---- which variables, in which rows


def test_rows_are_the_dimensions_that_most_variables_have() -> None:
    data = result(a=SIX, b=2 * SIX).assign(other=("seed", [1.0, 2.0, 3.0]), wide=(("seed", "bin"), np.ones((3, 4))))
    assert summary(data).table.columns.tolist() == ["model", "seed", "a", "b", "other"]


def test_an_interval_outweighs_variables_without() -> None:
    data = result(a=SIX, b=SIX, c=SIX).assign(
        {name: ("group", np.arange(2.0) + i) for i, name in enumerate(("estimate", "lower", "upper"))}
    )
    assert [column.name for column in summary(data).columns] == ["estimate [interval]"]


def test_an_estimate_and_its_interval_are_one_column() -> None:
    data = result(sd=SIX, sd_lower=SIX - 0.25, sd_upper=SIX + 1)
    assert summary(data).columns[-1].parts == ("sd", "sd_lower", "sd_upper")
    assert told(data)[2].endswith("0.500 [0.250, 1.50]")


def test_ends_without_an_estimate_stay_together() -> None:
    data = result(mean=SIX, factor_lower=SIX / 2, factor_upper=2 * SIX)
    assert [column.parts for column in summary(data).columns[3:]] == [("factor_lower", "factor_upper")]


def test_an_estimate_without_interval_stands_alone() -> None:
    data = result(sd=SIX, sd_lower=SIX * np.nan, sd_upper=SIX * np.nan)
    assert told(data)[2].endswith("0.500")


def test_metrics_come_before_models_and_components_last() -> None:
    data = xr.Dataset(
        {"share": (("component", "model", "metric"), np.random.default_rng(0).random((2, 2, 2)))},
        coords={"component": ["x", "y"], "model": ["a", "b"], "metric": ["m", "n"]},
    )
    assert summary(data).table.columns[:3].tolist() == ["metric", "model", "component"]


def test_of_steps_the_last_with_a_value_is_shown() -> None:
    value = np.array([[1.0, 2.0], [3.0, 4.0], [np.nan, np.nan]])
    data = xr.Dataset({"x": (("step", "model"), value)}, coords={"step": [0, 8, 9], "model": ["a", "b"]})
    assert summary(data).table["x"].tolist() == [3.0, 4.0]
    assert "At step 8, the last with values of 3 steps." in told(data)


def test_what_is_about_steps_alone_has_a_row_for_each() -> None:
    data = xr.Dataset({"x": ("step", [1.0, 2.0])}, coords={"step": [0, 8]})
    assert summary(data).table["step"].tolist() == [0, 8]


def test_stacked_dimensions_are_columns() -> None:
    table = summary(result(x=SIX).stack(run=("model", "seed"))).table
    assert (table["model"].tolist()[3], table["seed"].tolist()[3], table["x"].tolist()[3]) == ("b", 0, 3.5)


def test_a_tree_without_variables_at_its_root_names_its_groups() -> None:
    with pytest.raises(PolystabError, match="'answers'"):
        summary(xr.DataTree.from_dict({"/answers": result(x=SIX)}))


def test_rows_without_anything_are_left_out_and_counted() -> None:
    data = result(x=np.where(SIX > 2, SIX, np.nan), at=np.where(SIX > 2, 100, -1))
    assert summary(data).heading == "4 of 2 models x 3 seeds"
    assert "2 rows without any finding or value left out." in told(data)


def test_minus_one_is_none_in_whole_numbers_that_do_not_go_below() -> None:
    assert "–" in told(result(x=SIX, at=[[-1, 5, 6], [7, 8, 9]]))[2]


def test_minus_one_is_a_number_beside_smaller_ones() -> None:
    assert "−1" in told(result(x=SIX, at=[[-1, -2, 6], [7, 8, 9]]))[2]


def test_codes_are_spelt_out() -> None:
    data = result(x=SIX, reason=np.array([[0, 1, 0], [0, 0, 0]]))
    data["reason"].attrs |= {"flag_values": np.array([0, 1]), "flag_meanings": "estimated one_seed"}
    assert summary(data).table["reason"].tolist()[1] == "one_seed"


def test_what_is_equal_in_all_rows_is_said_once() -> None:
    data = result(x=SIX, n=np.full((2, 3), 7))
    assert "In all rows: n = 7." in told(data)


def test_what_is_nothing_in_all_rows_is_named() -> None:
    assert "Empty or 0 in all rows: n_copies." in told(result(x=SIX, n_copies=np.zeros((2, 3), int)))


def test_columns_that_have_no_room_are_named() -> None:
    data = result(**{f"x{i}": SIX + i for i in range(14)})
    assert len(summary(data).columns) == 12
    assert "Also in the result: x10, x11, x12, x13." in told(data)


def test_units_stand_in_the_title() -> None:
    data = result(x=SIX)
    data["x"].attrs["units"] = "nat"
    assert summary(data).columns[-1].name == "x (nat)"


def test_units_of_metrics_are_a_column() -> None:
    data = xr.Dataset(
        {"x": ("metric", [1.0, 2.0])}, coords={"metric": ["m", "n"], "units": ("metric", ["nat", "points"])}
    )
    assert summary(data).table["metric_units"].tolist() == ["nat", "points"]


def test_settings_are_listed() -> None:
    assert "Settings: level = 0.95; design = nested." in told(result(x=SIX).assign_attrs(level=0.95, design="nested"))


# ---- which first


def test_findings_come_first_and_errors_before_warnings() -> None:
    data = xr.Dataset({"severity": ("finding", ["info", "error", "warning"]), "kind": ("finding", ["a", "b", "c"])})
    assert summary(data).table["severity"].tolist() == ["error", "warning", "info"]


def test_outliers_come_first_the_least_likely_on_top() -> None:
    data = result(outlier=[[False, True, False], [True, False, False]], p=[[0.9, 0.04, 0.01], [0.02, 0.5, 0.6]])
    assert summary(data).table["p"].tolist() == [0.02, 0.04, 0.01, 0.5, 0.6, 0.9]


def test_rows_without_the_headline_come_last() -> None:
    data = result(asymptote=[[np.nan, 1.0, 2.0], [3.0, 4.0, 5.0]], noise=SIX)
    assert np.isnan(summary(data).table["asymptote"].to_numpy()[-1])


def test_without_anything_notable_the_order_is_that_of_the_result() -> None:
    assert summary(result(x=SIX)).table["x"].tolist() == SIX.ravel().tolist()


def test_what_rows_are_sorted_by_is_shown() -> None:
    data = result(**{f"x{i}": SIX + i for i in range(14)}, q_value=1 / SIX)
    assert summary(data).columns[-1].name == "q_value"


# ---- as text, Markdown and HTML


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("nan"), "–"),
        (float("inf"), "∞"),
        (0.0, "0"),
        (0.123456, "0.123"),
        (9.9999, "10.0"),
        (-1195.4, "−1,195"),
        (1e-9, "1e−9"),
        (12345, "12,345"),
        (np.int64(-3), "−3"),
        (True, "yes"),
        (np.bool_(False), "no"),
        ("", "–"),
    ],
)
def test_a_value_as_text(value: Any, text: str) -> None:
    assert value_text(value) == text


def test_numbers_that_are_all_whole_have_no_decimals() -> None:
    assert told(result(x=SIX * 2))[2].split() == ["a", "0", "1"]


def test_no_number_among_whole_ones_is_a_dash() -> None:
    data = result(y=SIX, x=SIX * 2 + np.where(SIX > 5, np.nan, 0))
    assert told(data)[7].split() == ["b", "2", "5.50", "–"]


def test_rows_that_are_left_out_are_counted() -> None:
    assert "4 more rows: summary(..., rows=6)" in told(result(x=SIX), rows=2)


def test_the_table_has_all_rows_unrounded() -> None:
    assert summary(result(x=SIX / 3), rows=1).table["x"].tolist() == (SIX / 3).ravel().tolist()


def test_lines_of_the_text_are_aligned() -> None:
    lines = told(result(x=SIX * [[1, 10, 1000]]))
    assert len({len(line) for line in lines[1:8]}) == 1


class Reader(html.parser.HTMLParser):
    """Tags and texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


EVIL = "<script>alert(1)</script>|`x`*y*"


def evil() -> xr.Dataset:
    data = result(x=SIX).assign_coords(model=[EVIL, "b"]).assign_attrs(title=EVIL)
    data["x"].attrs["long_name"] = '"><script>'
    return data


def test_html_has_no_tag_but_its_own() -> None:
    page = Reader(summary(evil())._repr_html_())
    assert "script" not in page.tags
    assert page.open == []


def test_html_has_a_row_for_each_shown() -> None:
    assert Reader(summary(result(x=SIX), rows=4)._repr_html_()).tags.count("tr") == 5


def test_markdown_rows_have_as_many_cells_as_the_title() -> None:
    lines = [line for line in summary(evil())._repr_markdown_().splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {4}


def test_markdown_has_no_tag() -> None:
    assert "<script>" not in summary(evil())._repr_markdown_()


def test_control_characters_and_line_ends_stay_out_of_the_text() -> None:
    data = result(x=SIX).assign_coords(model=["a\nb\x1b[2J", "b"])
    assert told(data)[2].startswith("a b [2J")


def test_long_texts_are_cut() -> None:
    data = result(x=SIX).assign_coords(model=["m" * 500, "b"])
    assert max(map(len, told(data))) < 120


def test_a_result_without_rows_says_so() -> None:
    data = xr.Dataset({"kind": ("finding", np.array([], dtype=str))})
    assert told(data) == ["0 findings"]
    assert Reader(summary(data)._repr_html_()).open == []


def test_repr_is_the_text() -> None:
    assert repr(summary(result(x=SIX))) == str(summary(result(x=SIX)))


# ---- input


def test_input_is_left_as_it_was() -> None:
    data = result(x=SIX, reason=np.zeros((2, 3), int))
    data["reason"].attrs["flag_meanings"] = "fine"
    before = data.copy(deep=True)
    summary(data)
    xr.testing.assert_identical(data, before)


def test_a_data_array_is_a_result() -> None:
    assert summary(result(x=SIX)["x"]).table["x"].tolist() == SIX.ravel().tolist()


def test_single_numbers_make_one_row() -> None:
    assert told(xr.Dataset({"kappa": 0.5, "n": 3})) == ["1 row", "kappa  n", "0.500  3"]


def test_one_label_is_said_below() -> None:
    assert "In all rows: seed = 1." in told(result(x=SIX).isel(seed=[1]))


def test_dask_arrays_are_read() -> None:
    pytest.importorskip("dask")
    assert summary(result(x=SIX).chunk()).table["x"].tolist() == SIX.ravel().tolist()


@pytest.mark.parametrize("bad", [None, 3, "nano", [1, 2], np.ones(3), xr.Dataset()])
def test_what_is_no_result_is_refused(bad: Any) -> None:
    with pytest.raises(PolystabError, match=r"no result|nothing in it"):
        summary(bad)


@pytest.mark.parametrize("rows", [0, -1, 2.5, True, None])
def test_a_number_of_rows_that_is_none_is_refused(rows: Any) -> None:
    with pytest.raises(PolystabError, match="rows is"):
        summary(result(x=SIX), rows=rows)


# ---- the results that there are


def test_of_a_cube_each_model_is_a_row(cube: xr.Dataset) -> None:
    found = summary(cube)
    assert found.table["model"].tolist() == cube["model"].values.tolist()
    assert found.table["seeds"].tolist() == ["0–4", "0–4"]


def test_a_cube_says_how_much_of_what_a_model_has_is_measured(cube: xr.Dataset) -> None:
    part = cube.copy(deep=True)
    part["value"][0, 0] = np.nan  # no run
    part["value"][1, 0, 0, 0] = np.nan  # a hole
    cells = cube["value"][1].size
    assert summary(part).table["measured"].tolist() == pytest.approx([1.0, (cells - 1) / cells])


def test_a_cube_without_values_is_told(cube: xr.Dataset) -> None:
    assert summary(cube.where(False)).table["runs"].tolist() == [0, 0]


def test_a_tree_names_its_groups() -> None:
    assert any(line.startswith("Groups: ") and "items" in line for line in told(ps.load_tree("nano")))


ANALYSES: dict[str, Callable[[xr.Dataset], Any]] = {
    "seed_spread": analysis.seed_spread,
    "variance_components": ps.variance_components,
    "variance_fractions": lambda cube: analysis.variance_fractions(ps.variance_components(cube)),
    "change_points": ps.change_points,
    "consensus_change_points": lambda cube: analysis.consensus_change_points(ps.change_points(cube)),
    "outlier_scores": ps.outlier_scores,
    "outlier_runs": lambda cube: ps.outlier_runs(cube, draws=99, rng=0),
    "audit_cube": ps.audit_cube,
    "asymptotes": analysis.asymptotes,
    "aggregate_scores": lambda cube: analysis.aggregate_scores(ps.select(cube, family="eval"), n_resamples=50, rng=0),
    "cube_coverage": analysis.cube_coverage,
    "seed_band": analysis.seed_band,
    "rank_metrics": analysis.rank_metrics,
    "duplicate_runs": analysis.duplicate_runs,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ANALYSES)
def test_every_result_has_a_summary(name: str, cube: xr.Dataset) -> None:
    found = summary(ANALYSES[name](cube), rows=3)
    assert isinstance(found, Summary)
    assert Reader(found._repr_html_()).open == []
    assert len(str(found)) < 4000


def test_seed_spread_shows_the_numbers_that_it_found(cube: xr.Dataset) -> None:
    spread = analysis.seed_spread(cube)
    table = summary(spread).table.set_index(["metric", "model"])
    metric, model = str(cube["metric"].values[1]), str(cube["model"].values[1])
    assert table.loc[(metric, model), "sd_upper"] == spread["sd_upper"].sel(metric=metric, model=model).item()


@pytest.mark.slow
def test_a_training_map_says_where_its_states_stand() -> None:
    fitted = ps.fit_training_map(polystab.testing.phase_cube(rng=0), n_states=2, n_restarts=2)
    table = summary(fitted).table
    state = fitted.states["state"].values
    assert table["share"].tolist() == pytest.approx([(state == k).sum() / (state >= 0).sum() for k in (0, 1)])
    assert fitted._repr_html_() == summary(fitted)._repr_html_()


def test_an_early_warning_that_is_not_fitted_shows_its_arguments() -> None:
    warning = ps.EarlyWarning(method="novelty", penalty=0.5)
    table = summary(warning).table.set_index("name")["value"]
    assert (table["method"], table["penalty"]) == ("novelty", "0.5")
    assert "not fitted" in warning._repr_html_()


def test_columns_know_what_they_are() -> None:
    data = result(x=SIX)
    data["x"].attrs["long_name"] = "what it is"
    assert summary(data).columns[-1] == Column("x", ("x",), "what it is")


@pytest.mark.slow
def test_it_loads_neither_pictures_nor_torch() -> None:
    import subprocess
    import sys

    code = "import sys, polystab.summaries; print({'matplotlib', 'torch', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
