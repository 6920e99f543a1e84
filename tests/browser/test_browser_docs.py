"""The documentation in a real browser: pages of every kind, if `make docs` has built them."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import browsing
import pytest
from browsing import PHONE, View

pytestmark = pytest.mark.slow

SITE = Path(__file__).resolve().parents[2] / "site"

# One of each kind: a text, code in many languages, tables, pictures, names from the code, lists from the code.
PAGES = (
    "index.html",
    "howto/cluster.html",
    "statistics/variance.html",
    "gallery.html",
    "reference/cube.html",
    "reference/api/filling.html",
    "known-issues.html",
)

# The theme scrolls its navigation below a title that stays, whenever it likes: where all of it fits, nothing is half covered.
TALL = View(1280, height=2000)


class Quiet(http.server.SimpleHTTPRequestHandler):
    """A server that keeps no log."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def opened() -> Iterator[Any]:
    if not (SITE / "index.html").is_file():
        pytest.skip("the documentation is not built: `make docs`")
    with browsing.browser() as started:
        yield started


@pytest.fixture(scope="module")
def base(opened: Any) -> Iterator[str]:
    """Where the built pages are served: their scripts ask for files, which a browser does not let them read from a disk."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("view", [TALL, PHONE], ids=str)
def test_nobody_is_shut_out_of_the_documentation(opened: Any, base: str, page: str, view: View) -> None:
    with browsing.visit(opened, base + page, view, within=base) as seen:
        assert browsing.inaccessible(seen.page) == []


@pytest.mark.parametrize("page", PAGES)
def test_no_page_of_the_documentation_scrolls_sideways_on_a_phone(opened: Any, base: str, page: str) -> None:
    with browsing.visit(opened, base + page, PHONE, within=base) as seen:
        assert browsing.sideways(seen.page) == []


@pytest.mark.parametrize("page", PAGES)
def test_pages_of_the_documentation_ask_no_other_host(opened: Any, base: str, page: str) -> None:
    with browsing.visit(opened, base + page, within=base) as seen:
        seen.page.wait_for_load_state("networkidle")
        assert (seen.asked, seen.said) == ([], [])


@pytest.mark.parametrize("page", PAGES)
def test_links_within_a_page_of_the_documentation_lead_somewhere(opened: Any, base: str, page: str) -> None:
    with browsing.visit(opened, base + page, within=base) as seen:
        assert browsing.dangling(seen.page) == []


def test_the_search_finds_a_page(opened: Any, base: str) -> None:
    with browsing.visit(opened, base + "index.html", within=base) as seen:
        seen.page.locator(".md-search__input").fill("multibootstrap")
        found = seen.page.locator(".md-search-result__item a[href*='comparison.html']").first
        found.wait_for(state="attached", timeout=20_000)
        assert found.text_content()
