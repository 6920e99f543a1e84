"""``--fail-on``: what a report says that the CI of a training project should stop at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polystab.errors import AnalysisError, UnknownNameError, did_you_mean, shown
from polystab.report.summary.compared_takeaways import p_value
from polystab.report.summary.comparison import worsened
from polystab.words import count, listed, percent, plural

# What a page can be asked to fail on.
FAIL_ON = ("outliers", "audit", "change", "difference")
# Nearly every training changes early; without a step a change is told of from this share of the model's training on.
SETTLED = 0.25

# The section that it is said in.
_FAILS = {"outliers": "outliers", "audit": "audit", "change": "phases", "difference": "comparison"}


def reasons_to_fail(summary: dict[str, Any], fail_on: Sequence[str]) -> list[str]:
    """What a report says that its caller does not want: a sentence each, in the order asked for.

    Parameters
    ----------
    summary : dict
        From :func:`polystab.report.page.write_page`.
    fail_on : sequence of {'outliers', 'audit', 'change', 'change:STEP', 'difference'}
        ``outliers``: any run is an outlier or diverged; ``audit``: it has an error or a warning; ``change``: after the
        first quarter of its training the seeds of a model share a change of level for the worse, in a metric that has a
        better and a worse; ``change:STEP``: at this step or later they share any change of level, in any metric: training
        should have settled by then; ``difference``: the cube that it is compared with is worse in a
        metric that has a better and a worse (q at most 0.05).
    """
    asked = [parsed(text) for text in fail_on]
    lacking = [name for name, _ in asked if _PART[name] not in summary]
    if lacking:
        raise AnalysisError(
            f"the summary is of some sections only and says nothing of {shown(lacking)}; give write_page the same fail_on."
        )
    return [
        said
        for name, step in asked
        if (said := _change_said(summary, step) if name == "change" else _SAID[name](summary))
    ]


def parsed(text: str) -> tuple[str, int | None]:
    """What is asked for and from which step, as in ``change:1000``.

    Raises
    ------
    UnknownNameError
        There is no such reason, or its step is no step.

    Examples
    --------
    >>> parsed("audit"), parsed("change:1000")
    (('audit', None), ('change', 1000))
    """
    name, colon, step = text.partition(":")
    if name not in FAIL_ON:
        raise UnknownNameError(f"no reason to fail is called {name!r}. {did_you_mean(name, FAIL_ON)}")
    if not colon:
        return name, None
    if name != "change" or not step.isdecimal():
        raise UnknownNameError(
            f"{text!r} is no reason to fail; only change takes a step, a whole number, as in change:1000."
        )
    return name, int(step)


def _outliers_said(summary: dict[str, Any]) -> str:
    runs = [f"{row['model']} seed {row['seed']}" for row in summary["verdicts"]["rows"]]
    return f"{plural(len(runs), 'outlier run')}: {listed(runs, 5)}" if runs else ""


def _audit_said(summary: dict[str, Any]) -> str:
    counts = summary["findings"]["counts"]
    found = [plural(counts[name], name) for name in ("error", "warning") if counts.get(name)]
    return f"the audit has {' and '.join(found)}" if found else ""


def _change_said(summary: dict[str, Any], step: int | None) -> str:
    last = {model["model"]: model["last_step"] for model in summary["contents"]["models"]}
    rows = [
        row
        for row in summary["phases"]["shared"]
        if (row["step"] >= step if step is not None else row["worse"] and row["step"] > SETTLED * last[row["model"]])
    ]
    if not rows:
        return ""
    named = [f"{row['metric']} of {row['model']} at step {count(row['step'])}" for row in rows]
    how = (
        f"at step {count(step)} or later" if step is not None else f"for the worse after {percent(SETTLED)} of training"
    )
    return f"{plural(len(rows), 'change')} of level {how}, shared by the seeds of a model: {listed(named, 3)}"


def _difference_said(summary: dict[str, Any]) -> str:
    rows = worsened(summary["comparison"]) if summary["comparison"] else []
    named = [f"{row['metric']} of {row['other_model']} (q {p_value(row['q'])})" for row in rows]
    return f"the other cube is worse in {plural(len(rows), 'comparison')}: {listed(named, 3)}" if rows else ""


_PART = {"outliers": "verdicts", "audit": "findings", "change": "phases", "difference": "comparison"}
_SAID = {"outliers": _outliers_said, "audit": _audit_said, "difference": _difference_said}


def needed_sections(fail_on: Sequence[str]) -> list[str]:
    """The sections whose parts of the summary the reasons are read from."""
    return [_FAILS[parsed(text)[0]] for text in fail_on]
