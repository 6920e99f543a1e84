"""``polystab.report``: a cube in, one page out."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, overload

import xarray as xr

from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, UnknownNameError, did_you_mean, shown
from polystab.files import write_text
from polystab.plots.words import listed, plural
from polystab.report.results import analyse
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
        Which sections, in the page's order: ``takeaways``, ``audit``, ``contents``, ``curves``, ``final``,
        ``variance``, ``agreement``, ``representations``, ``phases``, ``networks``, ``outliers``, ``warning``,
        ``methods``. Nothing is computed that only the others need, and JSON has the parts of these alone
        (:mod:`polystab.report.summary`). The takeaways are about everything, so they take nearly as long as all.
    metrics : sequence of str, optional
        Which metrics the page is about: ids, or patterns such as ``eval/*`` and ``*/acc``. Everything is
        computed from these alone.
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
    return write_page(cube, path, format=format, title=title, sections=sections, metrics=metrics, overwrite=overwrite)[
        0
    ]


def write_page(
    cube: xr.Dataset | xr.DataTree,
    path: str | os.PathLike[str] | None = None,
    *,
    format: Format | None = None,
    title: str | None = None,
    sections: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    overwrite: bool = True,
    fail_on: Sequence[str] = (),
) -> tuple[str | Path, dict[str, Any]]:
    """The same as :func:`report`, and the summary behind the page, with what :func:`reasons_to_fail` will be asked."""
    chosen = _format(path, format)
    wanted = known_sections(sections)
    results = analyse(cube if metrics is None else with_metrics(cube, metrics))
    judged = [_FAILS[name] for name in fail_on]
    summary = summary_of(results, title=title, sections=known_sections([*wanted, *judged]))
    if chosen == "json":
        text = json.dumps(summary, ensure_ascii=False, allow_nan=False, indent=1) + "\n"
    elif chosen == "md":
        from polystab.report.markdown import render_markdown

        text = render_markdown(summary, wanted).translate(_CONTROLS)
    else:
        from polystab.report.html import render_html
        from polystab.report.pictures import draw

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


# What a page can be asked to fail on.
FAIL_ON = ("outliers", "audit", "change")
# The section that it is said in.
_FAILS = {"outliers": "outliers", "audit": "audit", "change": "phases"}


def reasons_to_fail(summary: dict[str, Any], fail_on: Sequence[str]) -> list[str]:
    """What a report says that its caller does not want: a sentence each, in the order asked for.

    Parameters
    ----------
    summary : dict
        From :func:`write_page`.
    fail_on : sequence of {'outliers', 'audit', 'change'}
        ``outliers``: any run is an outlier or diverged; ``audit``: it has an error or a warning; ``change``: the
        seeds of a model share a change of level.
    """
    lacking = [name for name in fail_on if _PART[name] not in summary]
    if lacking:
        raise AnalysisError(
            f"the summary is of some sections only and says nothing of {shown(lacking)}; give write_page the same fail_on."
        )
    return [said for name in fail_on if (said := _SAID[name](summary))]


def _outliers_said(summary: dict[str, Any]) -> str:
    runs = [f"{row['model']} seed {row['seed']}" for row in summary["verdicts"]["rows"]]
    return f"{plural(len(runs), 'outlier run')}: {listed(runs, 5)}" if runs else ""


def _audit_said(summary: dict[str, Any]) -> str:
    counts = summary["findings"]["counts"]
    found = [plural(counts[name], name) for name in ("error", "warning") if counts.get(name)]
    return f"the audit has {' and '.join(found)}" if found else ""


def _change_said(summary: dict[str, Any]) -> str:
    shared = [f"{row['metric']} of {row['model']} at step {row['step']}" for row in summary["phases"]["shared"]]
    return f"{plural(len(shared), 'shared change')} of level: {listed(shared, 3)}" if shared else ""


_PART = {"outliers": "verdicts", "audit": "findings", "change": "phases"}
_SAID = {"outliers": _outliers_said, "audit": _audit_said, "change": _change_said}


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
