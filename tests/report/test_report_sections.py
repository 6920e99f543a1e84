"""What is computed for a page of some sections, and that it says the same there as on the whole page."""

from __future__ import annotations

import json

import pytest
import xarray as xr
from cubes_to_report import spoiled_tree

import polystab.testing
from polystab.errors import AnalysisError
from polystab.report.failing import reasons_to_fail
from polystab.report.page import report, write_page
from polystab.report.render.markdown import render_markdown
from polystab.report.results import computed
from polystab.report.sections import SECTIONS
from polystab.report.summary import summarise


@pytest.fixture(scope="module", name="summary")
def _summary() -> dict:
    return summarise(spoiled_tree())


@pytest.fixture(name="small")
def _small() -> xr.Dataset:
    return polystab.testing.synthetic_cube(n_models=1, n_seeds=4, rng=1).isel(step=slice(0, None, 4), metric=[0, 1])


def body(page: str) -> str:
    return page.split("\n## ", 1)[1]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SECTIONS if name not in ("takeaways", "methods")])
def test_a_section_alone_says_what_it_says_on_the_whole_page(summary: dict, name: str) -> None:
    alone = summarise(spoiled_tree(), sections=[name])
    assert body(render_markdown(alone, [name])) == body(render_markdown(summary, [name]))


@pytest.mark.slow
def test_takeaways_alone_are_those_of_the_whole_page(summary: dict) -> None:
    assert summarise(spoiled_tree(), sections=["takeaways"])["takeaways"] == summary["takeaways"]


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["html", "md", "json"])
def test_what_no_section_asks_for_is_not_computed(
    small: xr.Dataset, monkeypatch: pytest.MonkeyPatch, format_: str
) -> None:
    def refuse(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("computed for nothing")

    for name in ("fit_training_map", "change_points", "judge", "variance_components", "analyse_networks", "warn"):
        monkeypatch.setattr(computed, name, refuse)
    assert report(small, format=format_, sections=["contents", "curves", "final", "methods"])  # type: ignore[call-overload]


@pytest.mark.slow
def test_json_of_some_sections_has_their_parts_only(small: xr.Dataset) -> None:
    found = json.loads(report(small, format="json", sections=["outliers"]))
    assert list(found) == ["polystab_report", "title", "source", "contents", "verdicts", "outliers", "methods"]


def test_methods_tell_only_of_what_was_computed(small: xr.Dataset) -> None:
    page = report(small, format="md", sections=["contents", "methods"])
    assert "Coverage of a model" in page
    assert "Training map" not in page


@pytest.mark.slow
def test_what_a_page_may_fail_on_is_computed_beside_its_sections(small: xr.Dataset) -> None:
    _, found = write_page(small, format="md", sections=["contents"], fail_on=["audit", "outliers", "change"])
    assert {"findings", "verdicts", "phases"} <= set(found)


def test_a_summary_without_the_part_is_no_reason_to_pass(small: xr.Dataset) -> None:
    with pytest.raises(AnalysisError, match="'outliers'"):
        reasons_to_fail(summarise(small, sections=["contents"]), ["outliers"])
