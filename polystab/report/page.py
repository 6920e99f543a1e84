"""``polystab.report``: a cube in, one page out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, overload

import xarray as xr

from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, UnknownNameError, did_you_mean
from polystab.files import write_text
from polystab.report.failing import needed_sections
from polystab.report.results import analyse
from polystab.report.results.compared import against
from polystab.report.sections import known_sections
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
    sections: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    compare: xr.Dataset | xr.DataTree | None = None,
    compare_models: Mapping[str, str] | None = None,
    paired: bool = False,
    overwrite: bool = True,
) -> str: ...
@overload
def report(
    cube: xr.Dataset | xr.DataTree,
    path: str | os.PathLike[str],
    *,
    format: Format | None = None,
    title: str | None = None,
    sections: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    compare: xr.Dataset | xr.DataTree | None = None,
    compare_models: Mapping[str, str] | None = None,
    paired: bool = False,
    overwrite: bool = True,
) -> Path: ...


def report(
    cube: xr.Dataset | xr.DataTree,
    path: str | os.PathLike[str] | None = None,
    *,
    format: Format | None = None,
    title: str | None = None,
    sections: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    compare: xr.Dataset | xr.DataTree | None = None,
    compare_models: Mapping[str, str] | None = None,
    paired: bool = False,
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
    sections : sequence of str, optional
        Which sections, in the page's order: ``takeaways``, ``comparison``, ``audit``, ``contents``, ``curves``, ``final``,
        ``variance``, ``agreement``, ``representations``, ``phases``, ``networks``, ``outliers``, ``warning``,
        ``methods``. Nothing is computed that only the others need, and JSON has the parts of these alone
        (:mod:`polystab.report.summary`). The takeaways are about everything, so they take nearly as long as all.
    metrics : sequence of str, optional
        Which metrics the page is about: ids, or patterns such as ``eval/*`` and ``*/acc``. Everything is
        computed from these alone.
    compare : xarray.Dataset or xarray.DataTree, optional
        Another cube: the section ``comparison`` says which differences are real, given the seeds
        (:func:`polystab.analysis.compare_cubes`).
    compare_models : mapping of str to str, optional
        Models of ``cube`` and those of ``compare`` that stand against them; by default those of the same name.
    paired : bool, optional
        Seed *k* of ``compare`` belongs to seed *k* of ``cube``.
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
        An unknown format or section, an ending that says nothing about it, or a pattern without a metric.
    OutputError
        The path cannot be written, or exists and ``overwrite`` is false. What stood there
        is untouched.

    Notes
    -----
    The page needs no script, no network and no other file. The same cube gives the same
    bytes. JSON has all rows; HTML and Markdown leave out the ends of very long tables
    and say so.

    Examples
    --------
    >>> import polystab as ps, polystab.testing
    >>> page = ps.report(polystab.testing.synthetic_cube(n_models=1, rng=0), format="md")
    >>> page.splitlines()[0]
    '<!-- polystab report 0.1.0 -->'
    """
    return write_page(
        cube,
        path,
        format=format,
        title=title,
        sections=sections,
        metrics=metrics,
        compare=compare,
        compare_models=compare_models,
        paired=paired,
        overwrite=overwrite,
    )[0]


def write_page(
    cube: xr.Dataset | xr.DataTree,
    path: str | os.PathLike[str] | None = None,
    *,
    format: Format | None = None,
    title: str | None = None,
    sections: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    compare: xr.Dataset | xr.DataTree | None = None,
    compare_models: Mapping[str, str] | None = None,
    paired: bool = False,
    overwrite: bool = True,
    fail_on: Sequence[str] = (),
) -> tuple[str | Path, dict[str, Any]]:
    """The same as :func:`report`, and the summary behind the page, with what :func:`~polystab.report.failing.reasons_to_fail` will be asked."""
    chosen = _format(path, format)
    wanted = known_sections(sections)
    if compare is None and "difference" in fail_on:
        raise AnalysisError("fail_on='difference' needs another cube: give compare=.")
    if compare is None and sections is None:
        wanted = tuple(name for name in wanted if name != "comparison")
    if metrics is not None:
        cube = with_metrics(cube, metrics)
    other = None if compare is None else against(_of_metrics(compare, cube), models=compare_models, paired=paired)
    results = analyse(cube, other)
    summary = summary_of(results, title=title, sections=known_sections([*wanted, *needed_sections(fail_on)]))
    if chosen == "json":
        text = json.dumps(summary, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    elif chosen == "md":
        from polystab.report.render.markdown import render_markdown

        text = render_markdown(summary, wanted).translate(_CONTROLS)
    else:
        from polystab.report.render.html import render_html
        from polystab.report.render.pictures import draw

        text = render_html(summary, draw(results, summary, wanted), wanted).translate(_CONTROLS)
    if path is None:
        return text, summary
    write_text(path, text, overwrite=overwrite)
    return Path(path), summary


def with_metrics(cube: xr.Dataset | xr.DataTree, patterns: Sequence[str]) -> xr.Dataset | xr.DataTree:
    """A cube, or a tree with its groups, with the metrics that match any of the patterns.

    Raises
    ------
    UnknownNameError
        A pattern matches none.
    """
    data = as_cube(cube)
    names = [str(name) for name in data["metric"].values.tolist()]
    kept: set[str] = set()
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = [name for name in names if name == pattern or fnmatchcase(name, pattern)]
        if not found:
            raise UnknownNameError(f"no metric matches {pattern!r}. {did_you_mean(pattern, names)}")
        kept.update(found)
    part = data.isel(metric=[i for i, name in enumerate(names) if name in kept])
    if not isinstance(cube, xr.DataTree):
        return part
    groups = {name: group.to_dataset(inherit=False) for name, group in cube.children.items()}
    return xr.DataTree.from_dict({"/": part, **groups})


def _of_metrics(other: xr.Dataset | xr.DataTree, cube: xr.Dataset | xr.DataTree) -> xr.Dataset | xr.DataTree:
    """Another cube with the metrics that the page is about, or all of them where it has none of these."""
    known = set(as_cube(cube)["metric"].values.tolist())
    names = as_cube(other)["metric"].values.tolist()
    common = [str(name) for name in names if name in known]
    return with_metrics(other, common) if 0 < len(common) < len(names) else other


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
