"""What a reader should know first, in plain sentences written from the summary; worst first.

``takeaways``
    List of ``level`` (``bad``, ``warn``, ``info``), ``text``, ``section``; worst first.
"""

from __future__ import annotations

from collections.abc import Iterator

from polystab.report.summary.audit import OF_FILES
from polystab.report.summary.compared_takeaways import headlines
from polystab.report.summary.schema import Summary
from polystab.report.summary.seed_takeaways import what_seeds_do
from polystab.report.summary.warning import verdict
from polystab.words import count, listed, number, percent, plural

# A run is named first if so many times more of its cells stand out than chance makes.
NOTABLE_EXCESS = 2.0

# Outlier runs with a sentence of their own.
MAX_OUTLIERS = 3


Takeaway = dict[str, str]


_ORDER = {"bad": 0, "warn": 1, "info": 2}


def takeaways(summary: Summary) -> list[Takeaway]:
    """The sentences, each with a level (``bad``, ``warn``, ``info``) and the section that has more."""
    found = [
        *_nothing(summary["contents"]),
        *_compared(summary["comparison"]),
        *_audit(summary["audit"]),
        *_findings(summary["findings"]),
        *_copies(summary["copies"]),
        *_diverged(summary["diverged"]),
        *_outlier_runs(summary["verdicts"]),
        *_standing_out(summary["outliers"], summary["verdicts"]),
        *_wrong(summary["warning"]),
        *(takeaway(*said) for said in what_seeds_do(summary)),
        *_early(summary["warning"]),
        *_noted(summary["audit"]),
    ]
    return sorted(found, key=lambda item: _ORDER[item["level"]])  # stable: within a level as above


def takeaway(level: str, section: str, text: str) -> Takeaway:
    """A sentence with its level and the section that has more."""
    return {"level": level, "text": text, "section": section}


def _nothing(contents: Summary) -> Iterator[Takeaway]:
    if contents["measured"] == 0:
        yield takeaway("bad", "contents", "The cube holds no value: nothing was measured.")


def _compared(comparison: Summary | None) -> Iterator[Takeaway]:
    """How it stands against another cube; what makes the comparison weak is said in its section."""
    for level, text in headlines(comparison):
        yield takeaway(level, "comparison", text)


def _audit(audit: Summary | None) -> Iterator[Takeaway]:
    if audit is None:
        return
    refused = sum(group["count"] for group in audit["refused"])
    if refused:
        reasons = listed([f"{group['reason']} ({count(group['count'])})" for group in audit["refused"]], 4)
        were = "was" if refused == 1 else "were"
        yield takeaway(
            "bad", "audit", f"{count(refused)} of {plural(audit['files'], 'file')} {were} refused: {reasons}."
        )
    replaced = sum(group["count"] for group in audit["replaced"])
    if replaced:
        gave = "source gave" if replaced == 1 else "sources gave"
        yield takeaway(
            "warn", "audit", f"Values of {count(replaced)} {gave} way to others for the same cells; the audit has them."
        )


# Copies of whole runs, and divergence, have sentences of their own.
_TOLD = (*OF_FILES, "diverged", "no-values")


def _findings(findings: Summary) -> Iterator[Takeaway]:
    """What the audit found, errors and warnings, each with the first of them in full."""
    for severity, level, said in (("error", "bad", "error"), ("warning", "warn", "warning")):
        kinds = [k for k in findings["kinds"] if k["severity"] == severity and k["kind"] not in _TOLD]
        rows = [r for r in findings["rows"] if r["severity"] == severity and r["kind"] not in _TOLD]
        if kinds and rows:
            named = listed([f"{kind['kind']} ({count(kind['count'])})" for kind in kinds], 4)
            n = sum(kind["count"] for kind in kinds)
            first = "" if n == 1 else "the first: "
            yield takeaway(level, "audit", f"The audit has {plural(n, said)}, {named}; {first}{rows[0]['evidence']}")


def _is_sure(row: Summary, false_alarm: float) -> bool:
    """Whether a run is an outlier also if one asks for a false alarm in any model, of which each has its chance."""
    return row["p_any_model"] is None or bool(row["p_any_model"] <= false_alarm)


def _outlier_runs(verdicts: Summary) -> Iterator[Takeaway]:
    """Each outlier run, or that there is none among those judged."""
    rows = [row for row in verdicts["rows"] if row["kind"] != "diverged"]
    judged = sum(model["n_judged"] for model in verdicts["models"])
    for row in rows[:MAX_OUTLIERS]:
        metrics = listed([item["metric"] for item in row["because"]], 3)
        sure = _is_sure(row, verdicts["false_alarm"])
        text = f"{row['model']} seed {row['seed']} {'is' if sure else 'may be'} an outlier"
        if row["from_step"] >= 0:
            text += f" from step {count(row['from_step'])} to {count(row['until_step'])}"
        among = "" if sure else f" among its siblings, but {verdicts['n_models']} models were judged"
        text += f" (p = {number(row['p_value'], digits=2)}{among})" + (f", most in {metrics}" if metrics else "")
        yield takeaway("bad" if sure else "warn", "outliers", text + ".")
    if more := rows[MAX_OUTLIERS:]:
        names = listed([f"{row['model']} seed {row['seed']}" for row in more], 5)
        sure = all(_is_sure(row, verdicts["false_alarm"]) for row in more)
        verb = plural(len(more), "more run is", "more runs are")
        what = "an outlier" if len(more) == 1 else "outliers"
        level = "bad" if any(_is_sure(row, verdicts["false_alarm"]) for row in more) else "warn"
        yield takeaway(level, "outliers", f"{verb} {'' if sure else 'or may be '}{what}: {names}.")
    if judged and not verdicts["rows"]:
        yield takeaway(
            "info",
            "outliers",
            f"None of {plural(judged, 'run')} that could be judged is an outlier among its siblings.",
        )


def _wrong(warning: Summary | None) -> Iterator[Takeaway]:
    if warning and warning["wrong"]:
        names = listed([f"{row['model']} seed {row['seed']}" for row in warning["rows"]], 3)
        rules = listed(list(dict.fromkeys(rule for row in warning["rows"] for rule in row["rules"])), 4)
        text = f"{count(warning['wrong'])} of {plural(warning['runs'], 'run')} with a training log went wrong ({rules}): {names}."
        yield takeaway("bad", "warning", text)


def _early(warning: Summary | None) -> Iterator[Takeaway]:
    if warning and warning["early"]:
        yield takeaway("info", "warning", verdict(warning["early"]))


def _copies(copies: list[Summary]) -> Iterator[Takeaway]:
    whole = [f"{copy['model']} seed {copy['seed']} (as seed {copy['of']})" for copy in copies if copy["whole"]]
    if whole:
        said = (
            "run repeats another run of its model exactly and is"
            if len(whole) == 1
            else "runs repeat others exactly and are"
        )
        yield takeaway("bad", "audit", f"{count(len(whole))} {said} left out: {listed(whole, 3)}.")
    part = [copy for copy in copies if not copy["whole"]]
    if part:
        trajectories = sum(int(copy["metrics"]) for copy in part)
        names = listed([f"{copy['model']} seed {copy['seed']}" for copy in part], 3)
        yield takeaway(
            "bad",
            "audit",
            f"{plural(trajectories, 'trajectory', 'trajectories')} of single metrics repeat those of another seed exactly "
            f"and are left out ({names}).",
        )


def _diverged(diverged: list[Summary]) -> Iterator[Takeaway]:
    if diverged:
        names = listed([f"{run['model']} seed {run['seed']}" for run in diverged], 3)
        verb = "run has" if len(diverged) == 1 else "runs have"
        yield takeaway("bad", "outliers", f"{count(len(diverged))} {verb} infinite values, that is, diverged: {names}.")


def _standing_out(outliers: Summary, verdicts: Summary) -> Iterator[Takeaway]:
    """The run that stands out most among those whose model has no verdict."""
    judged = {model["model"] for model in verdicts["models"] if model["n_judged"]}
    notable = [
        run
        for run in outliers["runs"]
        if (run["excess"] or 0) >= NOTABLE_EXCESS and run["n_sustained"] > 0 and run["model"] not in judged
    ]
    if not notable:
        return
    run = notable[0]
    expected = {item["model"]: item["share"] for item in outliers["expected"]}[run["model"]]
    text = (
        f"{run['model']} seed {run['seed']} stands out most: {percent(run['share_beyond'])} of its values lie beyond a robust "
        f"z of {outliers['threshold']:g}, where chance alone gives {percent(expected)}"
    )
    if run["first_step"] >= 0:
        text += f"; twice in a row from step {count(run['first_step'])} on ({run['first_metric']})"
    yield takeaway("warn", "outliers", text + ".")


def _noted(audit: Summary | None) -> Iterator[Takeaway]:
    noted = sum(group["count"] for group in audit["noted"]) if audit else 0
    if noted and audit:
        reasons = listed([f"{group['reason']} ({count(group['count'])})" for group in audit["noted"]], 3)
        yield takeaway("info", "audit", f"{plural(noted, 'remark')} on what was read: {reasons}.")
