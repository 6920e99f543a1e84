"""``polystab.report``: a cube in, one page out."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Literal, overload

import xarray as xr

from polystab.errors import UnknownNameError, did_you_mean
from polystab.files import write_text
from polystab.report.results import analyse
from polystab.report.summary import summary_of

Format = Literal["html", "md", "json"]

FORMATS: dict[str, Format] = {".html": "html", ".htm": "html", ".md": "md", ".markdown": "md", ".json": "json"}

# How a report begins; a file that begins otherwise is somebody's own.
_MARKS = (
    re.compile(
        rb'\A\s*<!doctype html>.{0,400}<meta name="generator" content="polystab report', re.DOTALL | re.IGNORECASE
    ),
    re.compile(rb"\A<!-- polystab report"),
    re.compile(rb'\A\{\s*"polystab_report"'),
)
_MARK_BYTES = 2000

# Control characters have no place in a page, and may be in names and paths.
_CONTROLS = {code: "\N{REPLACEMENT CHARACTER}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


@overload
def report(
    cube: xr.Dataset | xr.DataTree,
    path: None = None,
    *,
    format: Format | None = None,
    title: str | None = None,
    overwrite: bool = True,
) -> str: ...
@overload
def report(
    cube: xr.Dataset | xr.DataTree,
    path: str | os.PathLike[str],
    *,
    format: Format | None = None,
    title: str | None = None,
    overwrite: bool = True,
) -> Path: ...


def report(
    cube: xr.Dataset | xr.DataTree,
    path: str | os.PathLike[str] | None = None,
    *,
    format: Format | None = None,
    title: str | None = None,
    overwrite: bool = True,
) -> str | Path:
    """The report of a cube: one self-contained page.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube. A tree (``ps.open_tree``, ``ps.read_lm_eval``) brings its audit along.
    path : path, optional
        Where to write; without it the page is returned.
    format : {'html', 'md', 'json'}, optional
        By default what the ending of ``path`` says, and HTML without a path or ending.
    title : str, optional
        In place of the cube's own title.
    overwrite : bool, optional
        Replace a file that stands at ``path``.

    Returns
    -------
    str or pathlib.Path
        The page, or the path it was written to.

    Raises
    ------
    InvalidCubeError, NotACubeError
        The argument is not a (valid) cube.
    UnknownNameError
        An unknown format, or an ending that says nothing about it.
    OutputError
        The path cannot be written, or exists and ``overwrite`` is false. What stood there
        is untouched.

    Notes
    -----
    The page needs no script, no network and no other file. The same cube gives the same
    bytes. JSON has everything; HTML and Markdown leave out the ends of very long tables
    and say so.

    Examples
    --------
    >>> import polystab as ps, polystab.testing
    >>> page = ps.report(polystab.testing.synthetic_cube(n_models=1, rng=0), format="md")
    >>> page.splitlines()[0]
    '<!-- polystab report 0.1.0 -->'
    """
    chosen = _format(path, format)
    results = analyse(cube)
    summary = summary_of(results, title=title)
    if chosen == "json":
        text = json.dumps(summary, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    elif chosen == "md":
        from polystab.report.markdown import render_markdown

        text = render_markdown(summary).translate(_CONTROLS)
    else:
        from polystab.report.html import render_html
        from polystab.report.pictures import draw

        text = render_html(summary, draw(results, summary)).translate(_CONTROLS)
    if path is None:
        return text
    write_text(path, text, overwrite=overwrite)
    return Path(path)


def is_report(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a report that polystab wrote, and so may be replaced by a new one.

    Parameters
    ----------
    path : path
        A file; one that is missing or cannot be read is no report.

    Returns
    -------
    bool
        True if its first 2,000 bytes carry the mark of one of the formats.
    """
    try:
        with Path(path).expanduser().open("rb") as stream:
            head = stream.read(_MARK_BYTES)
    except OSError:
        return False
    return any(mark.search(head) for mark in _MARKS)


def _format(path: str | os.PathLike[str] | None, format: str | None) -> Format:
    known = dict.fromkeys(FORMATS.values())
    if format is not None:
        for name in known:
            if name == format:
                return name
        raise UnknownNameError(f"no report format is called {format!r}. {did_you_mean(format, known)}")
    ending = Path(path).suffix.lower() if path is not None else ""
    if not ending:
        return "html"
    if ending in FORMATS:
        return FORMATS[ending]
    raise UnknownNameError(
        f"the ending {ending!r} names no report format; end in .html, .md or .json, or choose format=."
    )
