"""A page in a real browser, and what is wrong with it. Each check gives a list of faults, empty for a sound page."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

# Where `make test` puts it.
AXE = Path(sys.prefix) / "browser" / "node_modules" / "axe-core" / "axe.min.js"
RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")

# A4 between the margins with which Chromium prints, at 96 pixels an inch.
PAPER = {"width": 718, "height": 1047}


@dataclass(frozen=True)
class View:
    """How a reader looks at a page."""

    width: int
    scheme: str = "light"
    height: int = 850

    def __str__(self) -> str:
        return f"{self.width}px-{self.scheme}"


DESKTOP, PHONE = View(1280), View(390, "dark")
VIEWS = (DESKTOP, PHONE)


@dataclass
class Visit:
    """A page that is open, what it asked for beside itself, and what it said on the console."""

    page: Any
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


@contextmanager
def browser() -> Iterator[Any]:
    """Chromium, without windows; the test is skipped where it or what drives it is missing."""
    driver = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is on the path")
    if not AXE.is_file():
        pytest.skip("axe-core is missing: `make test` installs it where npm is there")
    with driver.sync_playwright() as started:
        # No sandbox: it cannot be had in containers, and only our own pages are opened.
        opened = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@contextmanager
def visit(opened: Any, address: str, view: View = DESKTOP, *, within: str = "", unfold: bool = True) -> Iterator[Visit]:
    """Open an address. Nothing is let through but the page itself and, if given, what begins with ``within``.

    ``unfold`` opens every ``<details>``, for what is folded is not looked at.
    """
    context = opened.new_context(viewport={"width": view.width, "height": view.height}, color_scheme=view.scheme)
    page = context.new_page()
    seen = Visit(page)

    def decide(route: Any) -> None:
        wanted = route.request.url.split("#")[0]
        if wanted == address or wanted.startswith((within or address, "data:", "blob:")):
            route.continue_()
        else:
            seen.asked.append(wanted)
            route.abort()

    page.route("**/*", decide)
    page.on("console", lambda message: seen.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: seen.said.append(f"error: {error}"))
    page.goto(address)
    if unfold:
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    yield seen
    context.close()


def inaccessible(page: Any) -> list[str]:
    """What breaks a rule of axe-core: the rule, the element, and why."""
    page.evaluate(AXE.read_text(encoding="utf-8"))
    options = {"resultTypes": ["violations"], "runOnly": {"type": "tag", "values": list(RULES)}}
    found = page.evaluate("options => axe.run(document, options)", options)["violations"]
    return [f"{rule['id']}: {node['target']}: {node['failureSummary']}" for rule in found for node in rule["nodes"]]


def dangling(page: Any) -> list[str]:
    """Links to an anchor that is no element of the page."""
    return page.evaluate(
        """() => [...document.querySelectorAll('a[href^="#"]')].map(link => link.getAttribute('href'))
        .filter(link => link !== '#' && !document.getElementById(decodeURIComponent(link.slice(1))))"""
    )  # fmt: skip


def unreached(page: Any) -> list[str]:
    """Anchors within the page to which a click on the link of the navigation does not scroll."""
    missed = []
    for link in page.locator("nav a[href^='#']").all():
        link.click()
        name = link.get_attribute("href")
        box = page.locator(f"[id='{name[1:]}']").bounding_box()
        if not page.url.endswith(name) or box is None or not -1 <= box["y"] < page.viewport_size["height"]:
            missed.append(name)
    return missed


def sideways(page: Any) -> list[str]:
    """What makes the page wider than the window, if anything does: the elements that stick out, innermost first."""
    return page.evaluate(
        """() => {
          const width = document.documentElement.clientWidth;
          if (document.documentElement.scrollWidth <= width) return [];
          const out = ['the page is ' + document.documentElement.scrollWidth + ' pixels wide'];
          const scrolls = element => element && (getComputedStyle(element).overflowX !== 'visible' || scrolls(element.parentElement));
          const range = document.createRange();
          const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
          while (words.nextNode()) {
            range.selectNodeContents(words.currentNode);
            if (range.getBoundingClientRect().right > width + 1 && !scrolls(words.currentNode.parentElement))
              out.push(words.currentNode.parentElement.tagName + ': ' + words.currentNode.data.trim().slice(0, 60));
          }
          return out.slice(0, 6);
        }"""
    )


def shut(page: Any) -> list[str]:
    """Folded parts that do not open and close by the keyboard alone."""
    stuck = []
    for each in page.locator("details").all():
        summary, before = each.locator("> summary"), each.get_attribute("open")
        summary.focus()
        page.keyboard.press("Enter")
        between = each.get_attribute("open")
        page.keyboard.press("Space")
        if (before is None) == (between is None) or (each.get_attribute("open") is None) != (before is None):
            stuck.append(summary.inner_text())
    return stuck


def speechless(page: Any, shortest: int = 20) -> list[str]:
    """Pictures of which a screen reader has little or nothing to say: what it would say."""
    session = page.context.new_cdp_session(page)
    root = session.send("DOM.getDocument")["root"]["nodeId"]
    found = session.send("Accessibility.queryAXTree", {"nodeId": root, "role": "image"})["nodes"]
    said = [node.get("name", {}).get("value", "") for node in found if not node["ignored"]]
    drawn = page.locator("svg:not([aria-hidden=true]):not(svg svg), img").count()
    lost = [f"{drawn} pictures, of which {len(said)} are known to be some"] * (drawn != len(said))
    return lost + [repr(words) for words in said if len(words) < shortest]


def clipped_on_paper(page: Any) -> list[str]:
    """What does not fit the width of a sheet, or lies in a box that would have to be scrolled."""
    page.emulate_media(media="print")
    page.set_viewport_size(PAPER)
    hidden = page.evaluate(
        """() => [...document.querySelectorAll('body *')].filter(element => {
          const style = getComputedStyle(element);
          return style.overflowX !== 'visible' && !element.closest('svg') && !style.clipPath.startsWith('inset')
            && (element.scrollWidth > element.clientWidth + 1 || element.scrollHeight > element.clientHeight + 1);
        }).map(element => element.tagName + ': ' + element.textContent.trim().slice(0, 60))"""
    )
    return sideways(page) + hidden
