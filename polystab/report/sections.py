"""From the summary to the sections of the page: words and tables, no numbers of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from polystab.plots.describe import MAX_PHASE_ROWS, PARTS
from polystab.plots.words import count, listed, number, percent, plural
from polystab.report import tables
from polystab.report.blocks import (
    Block,
    Bullets,
    Code,
    Details,
    Inline,
    Legend,
    Paragraph,
    Picture,
    Section,
    codes,
    paragraph,
)

Summary = dict[str, Any]

# Names of metrics without a panel, and rows of final values that are not folded away.
MAX_NAMES = 1000
OPEN_ROWS = 60

# Longer lists of models are folded away, but for the ones with most runs.
OPEN_MODELS = 25
SHOWN_MODELS = 12


def sections(summary: Summary) -> list[Section]:
    """The sections of the page, in order."""
    return [
        Section("takeaways", "In short", tuple(_takeaways(summary))),
        Section("contents", "What is in the cube", tuple(_contents(summary))),
        Section("audit", "Audit: what was read, refused and replaced", tuple(_audit(summary))),
        Section("curves", "Curves over training", tuple(_curves(summary))),
        Section("final", "Final values and the spread over seeds", tuple(_final(summary))),
        Section("variance", "Who is responsible for the spread", tuple(_variance(summary))),
        Section("phases", "When training changes character", tuple(_phases(summary))),
        Section("outliers", "Runs that stand out", tuple(_outliers(summary))),
        Section("methods", "Methods and settings", tuple(_methods(summary))),
    ]


def lead(summary: Summary) -> str:
    """One sentence on what the report is about."""
    contents = summary["contents"]
    dims = contents["dims"]
    runs = sum(model["runs"] for model in contents["models"])
    families = listed([item["family"] for item in contents["families"]], 7)
    steps = (
        f"{plural(dims['step'], 'checkpoint')} (steps {count(contents['first_step'])} to {count(contents['last_step'])})"
        if dims["step"] > 1
        else f"one checkpoint (step {count(contents['last_step'])})"
    )
    return (
        f"{plural(runs, 'run')} of {plural(dims['model'], 'model')}, {steps}, {plural(dims['metric'], 'metric')} ({families}); "
        f"{count(contents['measured'])} values, {percent(contents['share'])} of the cube's cells."
    )


def _takeaways(summary: Summary) -> Iterator[Block]:
    items = summary["takeaways"]
    if items:
        yield Bullets(
            tuple((item["text"],) for item in items),
            tuple(item["level"] for item in items),
            tuple(item["section"] for item in items),
        )
    else:
        yield paragraph(
            "Nothing was refused, repeated or left out, and no run stands out much more often than chance has it."
        )


def _contents(summary: Summary) -> Iterator[Block]:
    contents, source = summary["contents"], summary["source"]
    if source["summary"]:
        yield paragraph(source["summary"])
    models = contents["models"]
    if len(models) <= OPEN_MODELS:
        yield tables.models_table(models, "Models and their runs")
    else:
        most = sorted(models, key=lambda model: -model["runs"])[:SHOWN_MODELS]
        yield tables.models_table(most, f"The {SHOWN_MODELS} models with most runs")
        yield Details(f"All {count(len(models))} models", (tables.models_table(models, "Models and their runs"),))
    yield Picture("coverage", "What was measured", contents["picture"], wide=True)
    if len(contents["families"]) > 1:
        yield tables.families_table(contents["families"])
    known = [(label, source[name]) for name, label in _SOURCE if source[name]]
    if known:
        yield Details(
            "Where the numbers come from",
            (Bullets(tuple((f"{label}: {text}",) for label, text in known)),),
        )


_SOURCE = (
    ("source", "Source"),
    ("license", "Licence"),
    ("references", "References"),
    ("history", "History"),
    ("created", "Cube made"),
    ("polystab_version", "by polystab"),
)


def _audit(summary: Summary) -> Iterator[Block]:
    audit, copies = summary["audit"], summary["copies"]
    if copies:
        yield paragraph(
            "These trajectories are equal, to the last bit, to those of another seed of the same model. "
            "They count once: every statistic below leaves them out."
        )
        yield tables.copies_table(copies)
    if audit is None:
        yield _empty(
            "This cube carries no audit, so nothing is known about the files behind it. A cube that is read from files has one:",
            "polystab read lm-eval RESULTS -o cube.nc",
        )
        return
    totals = {status: sum(group["count"] for group in audit[status]) for status in ("refused", "replaced", "noted")}
    said = (
        f"{plural(audit['files'], 'file')} looked at: {count(audit['read'])} read, {count(totals['refused'])} refused."
    )
    if totals["replaced"]:
        said += f" {plural(totals['replaced'], 'source')} gave way to another for the same cells."
    yield paragraph(said + (f" {plural(totals['noted'], 'remark')}." if totals["noted"] else ""))
    for status, what, everything in (
        ("refused", "Refused: nothing of these files was used", "All refused files"),
        ("replaced", "Replaced: other files took the place of some values", "All that was replaced"),
        ("noted", "Noted: read, with something to know", "All remarks"),
    ):
        if audit[status]:
            yield tables.reasons_table(audit[status], what)
            if totals[status] > len(audit[status]):
                yield Details(
                    f"{everything} ({count(totals[status])})", (tables.entries_table(audit[status], everything),)
                )


def _curves(summary: Summary) -> Iterator[Block]:
    curves = summary["curves"]
    if not curves["metrics"]:
        yield _empty(
            "There are no curves: no metric was measured at two steps or more. To add checkpoints of the same runs:",
            "polystab merge cube.nc more-steps.nc -o both.nc",
        )
        return
    shown, others = curves["metrics"], curves["others"]
    what = f"{'Lines and bands' if 'half' in curves['legend'] else 'Lines'}: {curves['legend']}."
    if others:
        total = count(len(shown) + len(others))
        what += f" The pictures show {len(shown)} of {total} metrics: of every kind, those that training moves most against their noise."
    yield paragraph(what)
    if curves["models_left_out"]:
        n = len(curves["models_left_out"])
        yield paragraph(
            f"{len(curves['models_shown'])} of {count(n + len(curves['models_shown']))} models are drawn, those whose seeds "
            f"differ most at the end; {count(n)} are left out of the pictures and in the tables."
        )
    yield Legend("Models", tuple(curves["models_shown"]))
    for i, metric in enumerate(shown):
        yield Picture(f"curve{i}", metric["metric"], metric["picture"], code=True)
    if others:
        yield Details(f"{plural(len(others), 'metric')} without a picture", (Paragraph(codes(others, MAX_NAMES)),))


def _final(summary: Summary) -> Iterator[Block]:
    final = summary["final"]
    if not final["rows"]:
        yield _empty("No value was measured.", "polystab read lm-eval RESULTS -o cube.nc")
        return
    if any(model["n_with_sd"] for model in final["models"]):
        yield paragraph(
            "The final step of a metric is the last one that more than half of its runs share. The seed SD is the standard "
            "deviation over runs, corrected for its bias in small samples (c4); its interval is exact for normal data. "
            + _known_to(final)
            + (
                " The item error is what one run's score is uncertain by because the test has only so many items."
                if _has_items(final)
                else ""
            )
        )
    else:
        yield _empty(
            f"No seed statistic can be given: polystab needs at least {final['min_runs']} runs of a model. To add seeds:",
            "polystab merge seed0.nc seed1.nc seed2.nc -o seeds.nc",
        )
    rows = final["rows"]
    if len(rows) <= OPEN_ROWS:
        yield tables.final_table(rows, final, "Final values")
    else:
        drawn = set(summary["curves"]["models_shown"])
        first = _whole_metrics([row for row in rows if row["model"] in drawn], OPEN_ROWS)
        metrics, among = (len({row["metric"] for row in listing}) for listing in (first, rows))
        parts = [f"{count(metrics)} of {count(among)} metrics"] if metrics < among else []
        if len(drawn) < len(final["models"]):
            parts.append(f"{count(len(drawn))} of {count(len(final['models']))} models")
        yield tables.final_table(first, final, f"Final values of {' and '.join(parts)}")
        yield Details(
            f"All final values ({plural(len(rows), 'row')})", (tables.final_table(rows, final, "All final values"),)
        )


def _whole_metrics(rows: list[Summary], limit: int) -> list[Summary]:
    """Rows of the first metrics that fit into ``limit`` rows, but of one metric at least."""
    kept: list[Summary] = []
    for _, members in groupby(rows, key=lambda row: str(row["metric"])):
        found = list(members)
        if kept and len(kept) + len(found) > limit:
            break
        kept += found
    return kept


def _known_to(final: Summary) -> str:
    said = [f"of {item['n']} runs to ×{item['lower']:.2f} – ×{item['upper']:.2f}" for item in final["factors"]]
    if len(said) > 4:
        said = [said[0], said[len(said) // 2], said[-1]]
    return f"An SD is only known to a factor: {listed(said, 4)} ({percent(final['level'])})." if said else ""


def _has_items(final: Summary) -> bool:
    return any(row["item_stderr"] is not None for row in final["rows"])


def _variance(summary: Summary) -> Iterator[Block]:
    variance = summary["variance"]
    rows = [row for row in variance["rows"] if row["informative"]]
    if not rows:
        yield _empty(
            "The spread cannot be shared out: that takes several runs, and either several models or the sampling error "
            "of the test items (lm-eval's stderr). To add models or seeds:",
            "polystab merge a.nc b.nc -o both.nc",
        )
        return
    level = percent(variance["level"])
    yield paragraph(
        "The variance of the scores at the final step, split into parts that add up: what each would be if only it "
        f"varied. Shares of the total, with {level} intervals; a wide one says that there are too few models or runs to tell."
    )
    known = {name for row in rows for name, part in row["parts"].items() if part["fraction"] is not None}
    parts = [part for part in variance["parts"] if part["component"] in known]
    yield Bullets(tuple((_meaning(part),) for part in parts))
    if variance["confounded"]:
        yield paragraph(f"Not told apart here: {variance['confounded']}.", kind="note")
    table = tables.components_table(rows[:OPEN_ROWS], parts, level)
    yield table
    if len(rows) > OPEN_ROWS:
        yield Details(f"All {count(len(rows))} metrics", (tables.components_table(rows, parts, level),))
    if variance["pictures"]:
        yield paragraph("The same shares over training:")
        yield Legend(
            "Parts", tuple(part["label"] for part in parts), tuple(PARTS[part["component"]].ink for part in parts)
        )
    for i, metric in enumerate(variance["pictures"]):
        yield Picture(f"share{i}", metric["metric"], metric["picture"], code=True)


def _meaning(part: Summary) -> str:
    said = part["meaning"] if part["meaning"].startswith(part["label"]) else f"{part['label']}: {part['meaning']}"
    return f"{said[:1].upper()}{said[1:]}."


def _phases(summary: Summary) -> Iterator[Block]:
    phases = summary["phases"]
    if not phases["curves"]:
        yield _empty(
            f"No curve can be cut into phases: that takes {phases['min_points']} checkpoints of a run with finite values that are "
            "not all equal. To add checkpoints of the same runs:",
            "polystab merge cube.nc more-steps.nc -o both.nc",
        )
    else:
        yield paragraph(
            f"{count(phases['changing'])} of {plural(phases['curves'], 'curve')} (of the metrics drawn above, one curve a run) move to "
            f"another level at some checkpoint; were there no changes at all, {percent(phases['false_alarm'])} would be said to, "
            f"that is about {number(phases['expected'], digits=2)}. The autocorrelation of each curve is allowed for. A smooth rise is cut into "
            "steps too: read a change as the middle of a rise, not as a jump."
        )
        if phases["notes"]:
            yield Bullets(tuple((note,) for note in phases["notes"]))
        if phases["shared"]:
            yield paragraph(
                "Changes that the seeds of a model share, at steps closer together than changes at unrelated steps would stand:"
            )
            table = tables.changes_table(phases["shared"][:OPEN_ROWS])
            yield table
            if len(phases["shared"]) > OPEN_ROWS:
                yield Details(
                    f"All {count(len(phases['shared']))} shared changes", (tables.changes_table(phases["shared"]),)
                )
            rows = len({(row["metric"], row["model"]) for row in phases["shared"]})
            yield paragraph(
                "A dot is a seed, the upright line the median of the seeds, the pale bar the interval of that median."
                + (f" Drawn are the first {MAX_PHASE_ROWS} of {count(rows)} rows." if rows > MAX_PHASE_ROWS else "")
            )
            yield Picture("changes", "Changes that seeds share", phases["picture"], wide=True)
        else:
            yield paragraph(
                "No change is shared by the seeds of a model."
                if phases["seeds"] > 1
                else "Whether seeds share a change takes two runs of a model; here each model has one that can be looked at."
            )
        if phases["glitches"]:
            yield Details(
                f"{plural(sum(len(row['seeds']) for row in phases['glitches']), 'glitch', 'glitches')}: isolated checkpoints "
                "off their neighbours, not taken for phases",
                (
                    paragraph(
                        "Where several seeds have one at the same step it may be a short phase that all go through, or a "
                        "cause they share: look at the curves."
                    ),
                    tables.glitches_table(phases["glitches"]),
                ),
            )
    yield from _map(phases["map"])


def _map(found: Summary) -> Iterator[Block]:
    if found["reason"]:
        yield paragraph(f"There is no training map: {found['reason']}", kind="empty")
        return
    names = found["metrics"]
    if found["n_states"] == 1:
        yield paragraph("The training map has a single state: it tells no phases apart on ", *codes(names, 14), ".")
        return
    yield paragraph(
        f"The training map: {plural(found['n_states'], 'state')} of a hidden Markov model, fitted to all runs together on ",
        *codes(names, 14),
        ", scaled by the mean and spread of each model's runs. States are numbered in the order in which runs first visit them.",
    )
    if found["notes"]:
        yield Bullets(tuple((note,) for note in found["notes"]))
    if found["runs"] > MAX_PHASE_ROWS:
        yield paragraph(
            f"Drawn are {MAX_PHASE_ROWS} of {count(found['runs'])} runs, as evenly from the models as can be."
        )
    yield Picture("map", "States of every run", found["picture"], wide=True)
    drawn = len(found["graphs"])
    of = f", in the first {drawn} of {count(found['models'])} models" if found["models"] > drawn else ""
    yield paragraph(f"How the states follow one another, with the number of runs that take each way{of}:")
    for i, graph in enumerate(found["graphs"]):
        yield Picture(f"graph{i}", graph["model"], graph["picture"], code=True)


def _outliers(summary: Summary) -> Iterator[Block]:
    outliers = summary["outliers"]
    if not outliers["runs"]:
        yield _empty(
            f"No run can be compared with its siblings: that takes at least {outliers['min_runs']} runs of one model at the same step. To add seeds:",
            "polystab merge seed0.nc seed1.nc seed2.nc -o seeds.nc",
        )
        return
    threshold = f"{outliers['threshold']:g}"
    yield paragraph(
        f"Each value is compared with those of the other seeds at the same step by robust z, 0.6745 × deviation from the median ÷ MAD; "
        f"beyond {threshold} it is counted. This is a listing of where to look, not a verdict: nothing is corrected for the number of "
        f"values, and even clean noise goes beyond {threshold} {_chance(outliers['expected'])}."
    )
    keys = [(run["model"], run["seed"]) for run in outliers["listed"]]
    by_key = {(run["model"], run["seed"]): run for run in outliers["runs"]}
    runs = [by_key[key] for key in keys]
    if not runs:
        yield paragraph(f"No value of any run lies beyond {threshold}.")
        return
    beyond = sum(run["n_beyond"] > 0 for run in outliers["runs"])
    if beyond > len(runs):
        yield paragraph(
            f"The {len(runs)} runs with the largest share, of {count(beyond)} with any value beyond {threshold}."
        )
    yield tables.outliers_table(runs, outliers)
    yield Picture("outliers", "When these runs stand out", outliers["picture"], wide=True)


def _chance(expected: Sequence[Summary]) -> str:
    shares = sorted({item["share"] for item in expected if item["share"] is not None})
    if not shares:
        return "at times"
    if percent(shares[0]) == percent(shares[-1]):
        return f"in {percent(shares[0])} of the values"
    return f"in {percent(shares[0])} to {percent(shares[-1])} of the values, depending on the number of runs"


def _methods(summary: Summary) -> Iterator[Block]:
    settings, versions = summary["methods"]["settings"], summary["methods"]["versions"]
    level = percent(summary["final"]["level"])
    definitions: list[tuple[Inline, ...]] = [
        ("The run (model and seed) is the unit. Runs whose trajectories are equal to the last bit count once; infinite values are runs that diverged: they are counted, not averaged.",),
        ("Median and middle half: quantiles over runs at each step, by linear interpolation. With fewer than three runs there is no band.",),
        (f"Seed SD: ddof 1, divided by c4(n), unbiased for normal data (Holtzman 1950, doi:10.2307/1418879). Its {level} interval: SD × √((n − 1) / χ²), exact for normal data, too short for heavy tails.",),
        ("Item error: root mean square over runs of the standard error over test items. It is about a single run's score and no part of the seed SD where all runs answer the same items.",),
        ("Robust z: Iglewicz and Hoaglin 1993; with more than half of the runs equal, the mean absolute deviation stands in for the MAD. The share by chance is simulated from independent normal runs.",),
        ("Shares of the variance: analysis of variance where the runs are balanced, else REML (Searle, Casella and McCulloch 1992, doi:10.1002/9780470316856); parts below zero are cut to zero. Test items: the mean squared standard error.",),
        ("Change points: exact segmentation by dynamic programming under AR(1) noise, penalty calibrated to the stated share of false alarms (Killick, Fearnhead and Eckley 2012, doi:10.1080/01621459.2012.737745). Shared changes: a scan over stretches of checkpoints against changes moved at random within each run.",),
        ("Training map: Gaussian hidden Markov model, number of states by BIC (Hu et al. 2023, doi:10.48550/arXiv.2308.09543).",),
        ("Metrics drawn: the range of the median over training against its noise (item error, else seed SD, else change between checkpoints); families and kinds of metrics take turns.",),
        ("Coverage of a model: relative to its own runs, steps and metrics; of the cube: to all its cells.",),
    ]  # fmt: skip
    yield Bullets(tuple(definitions))
    yield Bullets(
        (
            *((f"{name}: {value:g}",) for name, value in settings.items()),
            ("Versions: " + ", ".join(f"{name} {said}" for name, said in versions.items()),),
            ("SHA-256 of labels and values: ", Code(summary["polystab_report"]["fingerprint"])),
        )
    )


def _empty(text: str, command: str) -> Paragraph:
    """What a section without data says: why, and the command that fills it."""
    return paragraph(text + " ", Code(command), kind="empty")
