"""What a reader should know first, in plain sentences written from the summary; worst first."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from polystab.plots.words import count, listed, number, percent, plural
from polystab.report.judged import OF_FILES
from polystab.report.warning_sections import verdict

# A run is named first if so many times more of its cells stand out than chance makes.
NOTABLE_EXCESS = 2.0

# Outlier runs with a sentence of their own.
MAX_OUTLIERS = 3

Takeaway = dict[str, str]
Summary = dict[str, Any]

_ORDER = {"bad": 0, "warn": 1, "info": 2}


def takeaways(summary: Summary) -> list[Takeaway]:
    """The sentences, each with a level (``bad``, ``warn``, ``info``) and the section that has more."""
    found = [
        *_nothing(summary["contents"]),
        *_audit(summary["audit"]),
        *_findings(summary["findings"]),
        *_copies(summary["copies"]),
        *_diverged(summary["diverged"]),
        *_outlier_runs(summary["verdicts"]),
        *_standing_out(summary["outliers"], summary["verdicts"]),
        *_wrong(summary["warning"]),
        *_few_runs(summary),
        *_spread(summary["final"]),
        *_shares(summary["variance"]),
        *_changes(summary["phases"]),
        *_noted(summary["audit"]),
    ]
    return sorted(found, key=lambda item: _ORDER[item["level"]])  # stable: within a level as above


def _item(level: str, section: str, text: str) -> Takeaway:
    return {"level": level, "text": text, "section": section}


def _nothing(contents: Summary) -> Iterator[Takeaway]:
    if contents["measured"] == 0:
        yield _item("bad", "contents", "The cube holds no value: nothing was measured.")


def _audit(audit: Summary | None) -> Iterator[Takeaway]:
    if audit is None:
        return
    refused = sum(group["count"] for group in audit["refused"])
    if refused:
        reasons = listed([f"{group['reason']} ({count(group['count'])})" for group in audit["refused"]], 4)
        were = "was" if refused == 1 else "were"
        yield _item("bad", "audit", f"{count(refused)} of {plural(audit['files'], 'file')} {were} refused: {reasons}.")
    replaced = sum(group["count"] for group in audit["replaced"])
    if replaced:
        gave = "source gave" if replaced == 1 else "sources gave"
        yield _item(
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
            yield _item(level, "audit", f"The audit has {plural(n, said)}, {named}; {first}{rows[0]['evidence']}")


def _outlier_runs(verdicts: Summary) -> Iterator[Takeaway]:
    """Each outlier run, or that there is none among those judged."""
    rows = [row for row in verdicts["rows"] if row["kind"] != "diverged"]
    judged = sum(model["n_judged"] for model in verdicts["models"])
    for row in rows[:MAX_OUTLIERS]:
        metrics = listed([item["metric"] for item in row["because"]], 3)
        text = f"{row['model']} seed {row['seed']} is an outlier"
        if row["from_step"] >= 0:
            text += f" from step {count(row['from_step'])} to {count(row['until_step'])}"
        text += f" (p = {number(row['p_value'], digits=2)})" + (f", most in {metrics}" if metrics else "")
        yield _item("bad", "outliers", text + ".")
    if len(rows) > MAX_OUTLIERS:
        names = listed([f"{row['model']} seed {row['seed']}" for row in rows[MAX_OUTLIERS:]], 5)
        yield _item(
            "bad", "outliers", f"{plural(len(rows) - MAX_OUTLIERS, 'more run is', 'more runs are')} outliers: {names}."
        )
    if judged and not verdicts["rows"]:
        yield _item(
            "info",
            "outliers",
            f"None of {plural(judged, 'run')} that could be judged is an outlier among its siblings.",
        )


def _wrong(warning: Summary | None) -> Iterator[Takeaway]:
    if warning and warning["wrong"]:
        names = listed([f"{row['model']} seed {row['seed']}" for row in warning["rows"]], 3)
        rules = listed(list(dict.fromkeys(rule for row in warning["rows"] for rule in row["rules"])), 4)
        text = f"{count(warning['wrong'])} of {plural(warning['runs'], 'run')} with a training log went wrong ({rules}): {names}."
        yield _item("bad", "warning", text)
    if warning and warning["early"]:
        yield _item("info", "warning", verdict(warning["early"]))


def _copies(copies: list[Summary]) -> Iterator[Takeaway]:
    whole = [f"{copy['model']} seed {copy['seed']} (as seed {copy['of']})" for copy in copies if copy["whole"]]
    if whole:
        said = (
            "run repeats another run of its model exactly and is"
            if len(whole) == 1
            else "runs repeat others exactly and are"
        )
        yield _item("bad", "audit", f"{count(len(whole))} {said} left out: {listed(whole, 3)}.")
    part = [copy for copy in copies if not copy["whole"]]
    if part:
        trajectories = sum(int(copy["metrics"]) for copy in part)
        names = listed([f"{copy['model']} seed {copy['seed']}" for copy in part], 3)
        yield _item(
            "bad",
            "audit",
            f"{plural(trajectories, 'trajectory', 'trajectories')} of single metrics repeat those of another seed exactly "
            f"and are left out ({names}).",
        )


def _diverged(diverged: list[Summary]) -> Iterator[Takeaway]:
    if diverged:
        names = listed([f"{run['model']} seed {run['seed']}" for run in diverged], 3)
        verb = "run has" if len(diverged) == 1 else "runs have"
        yield _item("bad", "outliers", f"{count(len(diverged))} {verb} infinite values, that is, diverged: {names}.")


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
    yield _item("warn", "outliers", text + ".")


def _few_runs(summary: Summary) -> Iterator[Takeaway]:
    final = summary["final"]
    fewest = final["min_runs"]
    few = [model["model"] for model in final["models"] if 0 < model["n_seeds"] < fewest]
    if not few:
        return
    if len(few) == sum(model["n_seeds"] > 0 for model in final["models"]):
        most = max(model["n_seeds"] for model in final["models"])
        runs = "one run" if most == 1 else f"{most} runs"
        text = f"No seed statistic can be given: no model has more than {runs} to compare at its final step, and polystab needs at least {fewest}."
        yield _item("warn", "final", text)
    else:
        verb = "model has" if len(few) == 1 else "models have"
        yield _item(
            "info",
            "final",
            f"{count(len(few))} {verb} fewer than {fewest} runs and get no seed statistic: {listed(few, 3)}.",
        )


def _spread(final: Summary) -> Iterator[Takeaway]:
    compared = [model for model in final["models"] if (model["sd_over_stderr"] or 0) > 0]
    moved = [model for model in final["models"] if (model["sd_over_movement"] or 0) > 0]
    if compared:
        said = [(m["sd_over_stderr"], f"{number(m['sd_over_stderr'], digits=2)} times", m["model"]) for m in compared]
        what = "the item-sampling error of one run"
    else:
        said = [(m["sd_over_movement"], percent(m["sd_over_movement"]), m["model"]) for m in moved]
        what = "how far training moves a metric"
    if said:
        link = "" if compared else "of "
        text = f"At the final step the spread over seeds (SD) is {_by_model(said)} {link}{what} (median over metrics)."
        yield _item("info", "final", text)
    constant = [model for model in final["models"] if model["n_constant"] > 0]
    if constant:
        where = [f"{plural(m['n_constant'], 'metric')} of {m['model']}" for m in constant]
        yield _item(
            "info",
            "final",
            f"All runs end at exactly the same value in {listed(where, 3)}: look whether they are the same runs.",
        )


def _shares(variance: Summary) -> Iterator[Takeaway]:
    """What seeds (or initialisations) explain of the metric that training moves most, and of the others."""
    first = next(
        (name for name in ("seed", "initialisation") if name in {p["component"] for p in variance["parts"]}), ""
    )
    rows = [
        row
        for row in variance["rows"]
        if row["informative"] and (row["parts"].get(first) or {}).get("fraction") is not None
    ]
    if not rows:
        return
    labels = {part["component"]: part["label"] for part in variance["parts"]}
    # Rows come in order of rank. A metric at its ceiling has large shares of nothing, so not the largest share.
    row = next((row for row in rows if row["parts"][first]["fraction_lower"] is not None), rows[0])
    part = row["parts"][first]
    ends = (
        ""
        if part["fraction_lower"] is None
        else f" [{100 * part['fraction_lower']:.0f}, {100 * part['fraction_upper']:.0f}]"
    )
    others = [
        f"{labels[name]} {percent(other['fraction'])}"
        for name, other in row["parts"].items()
        if name != first and other["fraction"] is not None
    ]
    text = (
        f"{labels[first].capitalize()} {'explain' if first == 'seed' else 'explains'} {percent(part['fraction'])}{ends} of the spread in "
        f"{row['metric']} at the end of training, {listed(others, 5)}"
    )
    if len(rows) > 1:
        shares = [row["parts"][first]["fraction"] for row in rows]
        low, middle, high = min(shares), statistics.median(shares), max(shares)
        text += f"; over {plural(len(rows), 'metric')} it is {percent(low)} to {percent(high)}, {percent(middle)} in the median"
    yield _item("info", "variance", text + ".")


def _changes(phases: Summary) -> Iterator[Takeaway]:
    shared = phases["shared"]
    if shared:
        most = max(shared, key=lambda row: (row["n_runs"] / row["n_looked_at"], row["n_runs"], -row["p"]))
        text = (
            f"{plural(len(shared), 'change')} of level {'is' if len(shared) == 1 else 'are'} shared by the seeds of a model: "
            f"{most['metric']} of {most['model']} changes at step {count(most['step'])} in {count(most['n_runs'])} of "
            f"{plural(most['n_looked_at'], 'seed')}"
        )
        yield _item("info", "phases", text + ".")


def _by_model(said: list[tuple[float, str, str]]) -> str:
    """``2.1 times (a) and 3.0 times (b)``, or the range where there are many models."""
    if len(said) == 1:
        return said[0][1]
    if len(said) <= 4:
        return listed([f"{text} ({model})" for _, text, model in said], 4)
    least, most = min(said), max(said)
    return f"between {least[1]} ({least[2]}) and {most[1]} ({most[2]})"


def _noted(audit: Summary | None) -> Iterator[Takeaway]:
    noted = sum(group["count"] for group in audit["noted"]) if audit else 0
    if noted and audit:
        reasons = listed([f"{group['reason']} ({count(group['count'])})" for group in audit["noted"]], 3)
        yield _item("info", "audit", f"{plural(noted, 'remark')} on what was read: {reasons}.")
