"""The Markdown form: text stays text, tables stay tables."""

from __future__ import annotations

import re

import pytest
import xarray as xr
from cubes_to_report import hostile_tree, spoiled_tree

from polystab.report.page import report
from polystab.report.render.markdown import code, escaped


@pytest.fixture(scope="module", name="tree")
def _tree() -> xr.DataTree:
    return spoiled_tree()


@pytest.fixture(scope="module", name="hostile")
def _hostile() -> xr.DataTree:
    return hostile_tree()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a_b*c", "a\\_b\\*c"), ("<b>&", "&lt;b&gt;&amp;"), ("x|y\nz", "x\\|y z"), ("[a](b) `c`", "\\[a\\](b) \\`c\\`")],
)
def test_text_is_escaped(text: str, expected: str) -> None:
    assert escaped(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("eval/a_b/acc", "`eval/a_b/acc`"), ("a`b", "`` a`b ``"), ("``", "` `` `"), ("", ""), ("a\nb", "`a b`")],
)
def test_names_are_code_whatever_is_in_them(text: str, expected: str) -> None:
    assert code(text) == expected


def test_a_bar_in_a_table_is_no_column() -> None:
    assert code("a|b", in_table=True) == "`a\\|b`"


@pytest.mark.slow
def test_every_row_of_a_table_has_as_many_cells_as_its_head(hostile: xr.DataTree, tree: xr.DataTree) -> None:
    for page in (report(hostile, format="md"), report(tree, format="md")):
        width = 0
        for line in page.splitlines():
            cells = len(re.findall(r"(?<!\\)\|", line))
            if not line.startswith("|"):
                width = 0
            elif width == 0:
                width = cells
            assert cells == width or not line.startswith("|"), line


@pytest.mark.slow
def test_sections_come_in_order(tree: xr.DataTree) -> None:
    heads = re.findall(r"^## (.+)$", report(tree, format="md"), flags=re.MULTILINE)
    assert heads == [
        "In short",
        "Data and audit: is it what it says?",
        "What is in the cube",
        "Curves over training",
        "Final values and the spread over seeds",
        "Who is responsible for the spread",
        "Do runs give the same answers?",
        "What the states of the networks tell",
        "When training changes character",
        "Weights, activations, gradients",
        "Outlier runs",
        "Runs that went wrong, and early warning",
        "Methods and settings",
    ]
