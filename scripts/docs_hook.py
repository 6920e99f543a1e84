"""What MkDocs calls: adds the generated pages, and lists the links that leave the documentation."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# MkDocs finds modules beside a hook only while it loads the hook: docs_docstrings.py, loaded later, needs docs_markdown.
import docs_gallery
import docs_markdown  # noqa: F401
import docs_pages
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
API = "reference/api"
# What a screen reader would stumble over: anchors that are links to nowhere, and the empty headers that Markdown demands.
_ANCHOR = re.compile(r'<a href="" id="([^"]+)"></a>')
_EMPTY_HEADER = re.compile(r"<thead>\s*<tr>\s*(?:<th[^>]*></th>\s*)+</tr>\s*</thead>")
_EXTERNAL = re.compile(r'<a [^>]*href="(https?://[^"#]+)')


def on_config(config: Any) -> Any:
    """Put the pages of the API where the navigation says ``api``."""
    titles = docs_pages.api_titles()
    listed = [{titles[name]: f"{API}/{name}.md"} for name in docs_pages.api_pages()]
    config.nav = _replaced(config.nav, listed)
    return config


def _replaced(nav: Any, listed: list[dict[str, str]]) -> Any:
    if isinstance(nav, list):
        return [_replaced(item, listed) for item in nav]
    if isinstance(nav, dict):
        return {key: listed if value == "api" else _replaced(value, listed) for key, value in nav.items()}
    return nav


def on_files(files: Files, config: Any) -> Files:
    """Add what is made from the code."""
    pages = {f"{API}/{name}.md": text for name, text in docs_pages.api_pages().items()} | {
        "reference/cube.md": docs_pages.cube_page(),
        "reference/cli.md": docs_pages.cli_page(),
        "known-issues.md": docs_pages.known_issues_page(),
        "gallery.md": docs_gallery.gallery_page(),
        "changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_post_page(output: str, **_: Any) -> str:
    """Leave out of a page what is there for its form only."""
    return _EMPTY_HEADER.sub("", _ANCHOR.sub(r'<span id="\1"></span>', output))


def on_post_build(config: Any) -> None:
    """Write every address outside of the documentation to a file: they are listed, not fetched."""
    site = Path(config.site_dir)
    found = {link for page in site.rglob("*.html") for link in _EXTERNAL.findall(page.read_text(encoding="utf-8"))}
    (site / "external-links.txt").write_text("".join(f"{link}\n" for link in sorted(found)), encoding="utf-8")
