"""The checks themselves: each finds the fault that is planted for it, and none in a sound page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import browsing
import pytest

pytestmark = pytest.mark.slow

SOUND = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>A page</title></head><body>
<header><h1>A page</h1><nav><a href="#end">End</a></nav></header>
<main><p>Words.</p>{}<details><summary>More</summary><p>Folded words.</p></details><h2 id="end">End</h2></main>
</body></html>"""

WIDE = "<pre>" + "x" * 400 + "</pre>"
UNTOLD = '<svg role="img" width="10" height="10"></svg>'
PICTURE = '<svg role="img" width="10" height="10" aria-label="A curve that rises from 0.1 to 0.9"></svg>'

PLANTED = [
    pytest.param(
        browsing.inaccessible, '<p style="color: #999; background: #fff">Pale</p>', "color-contrast", id="pale"
    ),
    pytest.param(browsing.inaccessible, '<img src="data:,">', "image-alt", id="picture-without-words"),
    pytest.param(browsing.inaccessible, "<table><tr><th></th></tr></table>", "empty-table-header", id="best-practice"),
    pytest.param(browsing.dangling, '<a href="#nowhere">No</a>', "#nowhere", id="anchor"),
    pytest.param(browsing.unreached, '<nav><a href="#off">Off</a></nav><p id="off" hidden>O</p>', "#off", id="hidden"),
    pytest.param(browsing.sideways, WIDE, "PRE: xxx", id="wide"),
    pytest.param(
        browsing.shut, "<details><summary onkeydown='return false'>Stuck</summary>x</details>", "Stuck", id="stuck"
    ),
    pytest.param(browsing.speechless, UNTOLD, "''", id="no-words"),
    pytest.param(browsing.speechless, "<svg width='9' height='9'></svg>", "1 pictures, of which 0", id="no-role"),
    pytest.param(browsing.clipped_on_paper, f"<div style='overflow: auto'>{WIDE}</div>", "DIV: xxx", id="box-on-paper"),
    pytest.param(browsing.clipped_on_paper, WIDE, "PRE: xxx", id="wide-on-paper"),
]
CHECKS = sorted({case.values[0] for case in PLANTED}, key=lambda check: check.__name__)


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    with browsing.browser() as started:
        yield started


def write(folder: Path, planted: str = "") -> str:
    """A sound page with a fault; its address."""
    file = folder / "page.html"
    file.write_text(SOUND.format(planted), encoding="utf-8")
    return file.as_uri()


@pytest.mark.parametrize(("check", "planted", "said"), PLANTED)
def test_a_planted_fault_is_found(
    opened: Any, tmp_path: Path, check: Callable[[Any], list[str]], planted: str, said: str
) -> None:
    with browsing.visit(opened, write(tmp_path, planted)) as seen:
        assert said in "\n".join(check(seen.page))


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_sound_page_has_no_fault(opened: Any, tmp_path: Path, check: Callable[[Any], list[str]]) -> None:
    with browsing.visit(opened, write(tmp_path, PICTURE)) as seen:
        assert check(seen.page) == []


@pytest.mark.parametrize(
    "planted",
    [
        '<img alt="A dot" src="http://elsewhere.invalid/dot.png">',
        "<style>@import url(http://elsewhere.invalid/dot.png);</style>",
        '<script>fetch("http://elsewhere.invalid/dot.png").catch(() => 0)</script>',
        '<iframe title="Other" src="http://elsewhere.invalid/dot.png"></iframe>',
    ],
    ids=["picture", "style", "script", "frame"],
)
def test_a_request_that_leaves_the_page_is_seen(opened: Any, tmp_path: Path, planted: str) -> None:
    with browsing.visit(opened, write(tmp_path, planted)) as seen:
        seen.page.wait_for_load_state("networkidle")
        assert seen.asked == ["http://elsewhere.invalid/dot.png"]


def test_a_request_for_another_file_is_seen(opened: Any, tmp_path: Path) -> None:
    with browsing.visit(opened, write(tmp_path, '<img alt="A dot" src="dot.png">')) as seen:
        assert [address.rsplit("/", 1)[1] for address in seen.asked] == ["dot.png"]


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ("<script>console.warn('careful')</script>", "warning: careful"),
        ("<script>throw new Error('broken')</script>", "error: broken"),
    ],
    ids=["message", "error"],
)
def test_what_the_console_says_is_heard(opened: Any, tmp_path: Path, planted: str, said: str) -> None:
    with browsing.visit(opened, write(tmp_path, planted)) as seen:
        assert seen.said == [said]
