"""The report in a real browser: on a desk, a phone and paper, light and dark, and for those who see or touch nothing."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import browsing
import pytest
from browsing import DESKTOP, VIEWS, View

import polystab as ps

pytestmark = pytest.mark.slow

PAGES = ("nano", "demo", "hostile", "single-run", "one-section", "compared")

# What holds at any width, in the light and in the dark, is looked at once; what does not, in every view.
ONCE = (browsing.dangling, browsing.speechless)
ALWAYS = (browsing.inaccessible, browsing.sideways)


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    with browsing.browser() as started:
        yield started


def cubes() -> Any:
    """The module beside the tests of the report that makes its cubes."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "report"))
    try:
        return importlib.import_module("cubes_to_report")
    finally:
        sys.path.pop(0)


def written(name: str, path: Path) -> None:
    """Write the page of that name."""
    if name == "hostile":
        ps.report(cubes().hostile_tree(), path)
    elif name == "single-run":
        ps.report(cubes().single_runs().isel(model=[0]), path)
    elif name == "one-section":
        ps.report(ps.load_tree("demo"), path, sections=["final"])
    elif name == "compared":
        cool, hot = (ps.load_cube("nano-edge").isel(model=[place]) for place in (0, -2))
        names = {cool["model"].item(): hot["model"].item()}
        ps.report(cool, path, sections=["comparison"], compare=hot, compare_models=names)
    else:
        ps.report(ps.load_tree(name), path)


@pytest.fixture(scope="module")
def address(opened: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """Where the page of a name is, written at the first call; after the browser, without which nothing is written."""
    folder = tmp_path_factory.mktemp("pages")

    @cache
    def find(name: str) -> str:
        written(name, folder / f"{name}.html")
        return (folder / f"{name}.html").as_uri()

    return find


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("view", VIEWS, ids=str)
@pytest.mark.parametrize("check", ALWAYS, ids=lambda check: check.__name__)
def test_nobody_is_shut_out(opened: Any, address: Any, page: str, view: View, check: Any) -> None:
    with browsing.visit(opened, address(page), view) as seen:
        assert check(seen.page) == []


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("check", ONCE, ids=lambda check: check.__name__)
def test_anchors_and_pictures_say_what_they_should(opened: Any, address: Any, page: str, check: Any) -> None:
    with browsing.visit(opened, address(page)) as seen:
        assert check(seen.page) == []


@pytest.mark.parametrize("page", PAGES)
def test_the_page_is_quiet_and_asks_for_nothing(opened: Any, address: Any, page: str) -> None:
    with browsing.visit(opened, address(page)) as seen:
        seen.page.wait_for_load_state("networkidle")
        assert (seen.asked, seen.said) == ([], [])


@pytest.mark.parametrize("view", VIEWS, ids=str)
def test_the_navigation_leads_to_each_section(opened: Any, address: Any, view: View) -> None:
    with browsing.visit(opened, address("demo"), view, unfold=False) as seen:
        assert browsing.unreached(seen.page) == []


@pytest.mark.parametrize("page", ["demo", "hostile"])
def test_folded_parts_open_by_keyboard(opened: Any, address: Any, page: str) -> None:
    with browsing.visit(opened, address(page), unfold=False) as seen:
        assert seen.page.locator("details").count() > 0
        assert browsing.shut(seen.page) == []


@pytest.mark.parametrize("page", PAGES)
def test_paper_shows_all(opened: Any, address: Any, page: str) -> None:
    with browsing.visit(opened, address(page)) as seen:
        assert browsing.clipped_on_paper(seen.page) == []


def test_the_page_becomes_a_pdf(opened: Any, address: Any) -> None:
    with browsing.visit(opened, address("demo"), unfold=False) as seen:
        printed = seen.page.pdf(format="A4")
    assert printed.startswith(b"%PDF-")
    assert printed.count(b"/Type /Page\n") > 3


def test_the_dark_page_is_dark(opened: Any, address: Any) -> None:
    def brightness(view: View) -> float:
        with browsing.visit(opened, address("one-section"), view) as seen:
            colour = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
            return float(sum(map(int, colour[4:-1].split(","))) / 3)

    assert brightness(View(DESKTOP.width, "dark")) < 60 < 200 < brightness(DESKTOP)


def test_markup_in_names_makes_no_element(opened: Any, address: Any) -> None:
    with browsing.visit(opened, address("hostile")) as seen:
        assert "<script>alert" in seen.page.locator("main").inner_text()
        assert seen.page.locator("script").count() == 0
