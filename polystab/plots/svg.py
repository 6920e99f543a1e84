"""A figure as SVG that can stand inside a page: small, self-contained, always the same bytes."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from html import escape

from matplotlib.figure import Figure

from polystab.plots.style import FIXED, Ink, language

_TAG = re.compile(r"<[^>]+>")
_ID = re.compile(r' id="([^"]*)"')
_REFERENCE = re.compile(r'(?:url\(#|href="#)([^")]+)')
_NUMBER = re.compile(r"-?\d+\.\d+")
_PATH = re.compile(r'(?<= d=")[^"]*')
# Matplotlib wrote one "font" up to 3.10 and writes its parts since then; the page's own family replaces either.
_FONT = re.compile(r"font: ((?:[a-z0-9]+ )*)([\d.]+px)[^;\"]*")
_FAMILY = re.compile(r"font-family: [^;\"]*(; )?")
_COLOUR = re.compile(r"#[0-9a-f]{6}")


def to_svg(figure: Figure, *, title: str, description: str, prefix: str, inks: Iterable[Ink] = ()) -> str:
    """A figure as an ``<svg>`` element to be put into a page.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        What to draw. Its background becomes transparent.
    title, description : str
        The text alternative: what the picture is, and what it shows.
    prefix : str
        Letters and digits, different for each picture of a page: identifiers start with it.
    inks : iterable of Ink, optional
        Colours, beside the fixed ones of :mod:`polystab.plots.style`, that the page's
        stylesheet may replace: ``#2563a8`` becomes ``var(--full, #2563a8)``.

    Returns
    -------
    str
        The element. It has no width and height, so that the page gives it its size; text
        is text in the font of the page; coordinates have one decimal (0.1 pt). The same
        figure gives the same bytes.
    """
    with language():
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    raw = stream.getvalue()
    raw = raw[raw.index("<svg") :].strip()
    raw = re.sub(r"<metadata>.*?</metadata>", "", raw, count=1, flags=re.DOTALL)
    raw = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", raw, count=1, flags=re.DOTALL)
    raw = re.sub(r"<!--.*?-->", "", raw, flags=re.DOTALL)
    raw = re.sub(r">\s+<", "><", raw)
    colours = {ink.light: f"var(--{ink.name},{ink.light})" for ink in (*FIXED, *inks)}
    references = {name: f"{prefix}{i}" for i, name in enumerate(dict.fromkeys(_REFERENCE.findall(raw)))}
    raw = _TAG.sub(lambda match: _tidy(match[0], references, colours), raw)
    head, body = raw.split(">", 1)
    view = re.search(r'viewBox="[^"]*"', head)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{view[0] if view else ""} role="img" aria-labelledby="{prefix}t {prefix}d" class="plot">'
        f'<title id="{prefix}t">{_text(title)}</title><desc id="{prefix}d">{_text(description)}</desc>{body}'
    )


def _tidy(tag: str, references: dict[str, str], colours: dict[str, str]) -> str:
    """One tag with short identifiers, rounded paths, page fonts and replaceable colours."""
    tag = _ID.sub(lambda match: f' id="{references[match[1]]}"' if match[1] in references else "", tag)
    tag = _REFERENCE.sub(lambda match: match[0].replace(match[1], references[match[1]]), tag)
    tag = _PATH.sub(lambda match: _rounded(match[0]), tag)
    tag = _FONT.sub(lambda match: f"font-size: {match[2]}" + ("; font-weight: bold" if "bold" in match[1] else ""), tag)
    tag = _FAMILY.sub("", tag)
    return _COLOUR.sub(lambda match: colours.get(match[0], match[0]), tag)


def _rounded(path: str) -> str:
    path = re.sub(r"\s+", " ", _NUMBER.sub(_one_decimal, path)).strip()
    return re.sub(r" ?([MLQCz]) ?", r"\1", path)


def _one_decimal(match: re.Match[str]) -> str:
    text = f"{float(match[0]):.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def _text(text: str) -> str:
    """Text inside an element, without what XML cannot hold."""
    return escape(
        "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text), quote=False
    )
