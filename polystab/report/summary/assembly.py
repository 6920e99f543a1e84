"""One plain dict from the parts that are wanted."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xarray as xr

from polystab._version import __version__
from polystab.progress_bars import tracked
from polystab.redaction import without_secrets_in
from polystab.report.results.computed import Results, analyse
from polystab.report.summary.agreement import agreement_summary
from polystab.report.summary.audit import audit_summary, copies_summary, diverged_summary, findings_summary
from polystab.report.summary.comparison import comparison_summary
from polystab.report.summary.contents import contents_summary
from polystab.report.summary.curves import curves_summary
from polystab.report.summary.final import final_summary
from polystab.report.summary.methods import methods_summary
from polystab.report.summary.networks import network_summary
from polystab.report.summary.outliers import scores_summary, verdicts_summary
from polystab.report.summary.phases import phases_summary
from polystab.report.summary.representations import representations_summary
from polystab.report.summary.schema import SCHEMA, Summary
from polystab.report.summary.takeaways import takeaways
from polystab.report.summary.variance import variance_summary
from polystab.report.summary.warning import warning_summary

DEFAULT_TITLE = "Seed stability of training runs"


def summarise(
    cube: xr.Dataset | xr.DataTree, *, title: str | None = None, sections: Sequence[str] | None = None
) -> Summary:
    """Everything the report says about a cube, as a plain dict.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube; a tree's ``audit`` group is used.
    title : str, optional
        In place of the cube's own.
    sections : sequence of str, optional
        Sections of the page that it is for; parts that none of them needs are neither computed nor in the dict.

    Returns
    -------
    dict
        Texts, numbers, None, lists and dicts only; :mod:`polystab.report.summary` has the schema.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.report.summary import summarise
    >>> found = summarise(polystab.testing.synthetic_cube(n_models=2, rng=0), sections=["contents"])
    >>> found["contents"]["dims"]["model"], "variance" in found
    (2, False)
    """
    return summary_of(analyse(cube), title=title, sections=sections)


def summary_of(results: Results, *, title: str | None = None, sections: Sequence[str] | None = None) -> Summary:
    """The summary of a cube about which results can be asked for; see :func:`summarise`."""
    attrs = without_secrets_in(results.cube.attrs)
    wanted = tuple(_NEEDED) if sections is None else tuple(sections)
    # The first sentence of every page is on the contents.
    needed = {"contents", *(part for section in wanted for part in _NEEDED[section])}
    computed = [part for part in _PARTS if part in needed]
    summary: Summary = {
        "polystab_report": {"schema": SCHEMA, "version": __version__, "fingerprint": results.fingerprint},
        "title": title or attrs.get("title") or DEFAULT_TITLE,
        "source": {
            name: str(attrs.get(name, ""))
            for name in ("summary", "source", "license", "references", "history", "created", "polystab_version")
        },
        "takeaways": [],
        **{part: _PARTS[part](results) for part in tracked(computed, "analysing the cube")},
    }
    summary["methods"] = methods_summary(summary)
    cleaned: Summary = plain(summary)
    if "takeaways" in wanted:
        cleaned["takeaways"] = takeaways(cleaned)
    else:
        del cleaned["takeaways"]
    return cleaned


def plain(value: Any) -> Any:
    """The value with nothing in it but what JSON has: numpy types, NaN and broken text are gone."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    return value


# What makes each part of the summary, in its order.
_PARTS: dict[str, Callable[[Results], Any]] = {
    "contents": contents_summary,
    "comparison": comparison_summary,
    "audit": lambda results: audit_summary(results.audit),
    "copies": copies_summary,
    "findings": lambda results: findings_summary(results.judged),
    "diverged": diverged_summary,
    "curves": curves_summary,
    "final": final_summary,
    "variance": variance_summary,
    "agreement": lambda results: agreement_summary(results.networks, results.models),
    "representations": lambda results: representations_summary(results.networks, results.models),
    "phases": phases_summary,
    "networks": lambda results: network_summary(results.band, results.spread, results.ranked, results.models),
    "verdicts": lambda results: verdicts_summary(results.judged),
    "outliers": lambda results: scores_summary(results.scores),
    "warning": lambda results: warning_summary(results.warned),
}


# Parts that each section reads. The takeaways of a page are about all of the cube, whatever else is on the page.
_NEEDED: dict[str, tuple[str, ...]] = {
    "takeaways": (
        "comparison", "audit", "copies", "findings", "diverged", "final", "variance", "phases", "verdicts", "outliers", "warning",
    ),
    "comparison": ("comparison",),
    "audit": ("audit", "copies", "findings"),
    "contents": (),
    "curves": ("curves",),
    "final": ("curves", "final"),
    "variance": ("variance",),
    "agreement": ("agreement",),
    "representations": ("representations",),
    "phases": ("phases",),
    "networks": ("networks",),
    "outliers": ("outliers", "verdicts"),
    "warning": ("warning",),
    "methods": (),
}  # fmt: skip
