"""From the summary to the sections of the page: words and tables, no numbers of its own.

The sections that are not here are in ``phase_sections``, ``judged_sections``, ``warning_sections`` and ``network_sections``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from polystab.errors import UnknownNameError, did_you_mean
from polystab.plots.describe import PARTS
from polystab.plots.words import count, listed, percent, plural
from polystab.report import tables
from polystab.report.blocks import (
    Block,
    Bullets,
    Code,
    Details,
    Legend,
    Paragraph,
    Picture,
    Section,
    codes,
    empty,
    paragraph,
)
from polystab.report.judged_sections import audit, outliers
from polystab.report.network_sections import answers, networks, representations
from polystab.report.phase_sections import phases
from polystab.report.warning_sections import warning

Summary = dict[str, Any]

# Names of metrics without a panel, and rows of final values that are not folded away.
MAX_NAMES = 1000
OPEN_ROWS = 60

# Longer lists of models are folded away, but for the ones with most runs.
OPEN_MODELS = 25
SHOWN_MODELS = 12


# Name, title, and what writes it, in the order of the page.
_SECTIONS: dict[str, tuple[str, Callable[[Summary], Iterator[Block]]]] = {
    "takeaways": ("In short", lambda summary: _takeaways(summary)),
    "audit": ("Data and audit: is it what it says?", audit),
    "contents": ("What is in the cube", lambda summary: _contents(summary)),
    "curves": ("Curves over training", lambda summary: _curves(summary)),
    "final": ("Final values and the spread over seeds", lambda summary: _final(summary)),
    "variance": ("Who is responsible for the spread", lambda summary: _variance(summary)),
    "agreement": ("Do runs give the same answers?", lambda summary: answers(summary["agreement"])),
    "representations": ("What the states of the networks tell", representations),
    "phases": ("When training changes character", phases),
    "networks": ("Weights, activations, gradients", lambda summary: networks(summary["networks"])),
    "outliers": ("Outlier runs", outliers),
    "warning": ("Runs that went wrong, and early warning", lambda summary: warning(summary["warning"])),
    "methods": ("Methods and settings", lambda summary: _methods(summary)),
}
SECTIONS = tuple(_SECTIONS)


def known_sections(wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The sections that are asked for, in the order of the page; all by default.

    Raises
    ------
    UnknownNameError
        There is no such section.
    """
    if wanted is None:
        return SECTIONS
    asked = [wanted] if isinstance(wanted, str) else list(wanted)
    for name in asked:
        if name not in SECTIONS:
            raise UnknownNameError(f"the report has no section {name!r}. {did_you_mean(name, SECTIONS)}")
    return tuple(name for name in SECTIONS if name in asked)


def sections(summary: Summary, wanted: Sequence[str] = SECTIONS) -> list[Section]:
    """The sections of the page, in order; what is said first links to those that are there."""
    found = []
    for name in wanted:
        title, blocks = _SECTIONS[name]
        found.append(Section(name, title, tuple(_linked(block, wanted) for block in blocks(summary))))
    return found


def _linked(block: Block, there: Sequence[str]) -> Block:
    if isinstance(block, Bullets) and block.links:
        return replace(block, links=tuple(link if link in there else "" for link in block.links))
    return block


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


def _curves(summary: Summary) -> Iterator[Block]:
    curves = summary["curves"]
    if not curves["metrics"]:
        yield empty(
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
        yield empty("No value was measured.", "polystab read lm-eval RESULTS -o cube.nc")
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
        yield empty(
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
        yield empty(
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


def _methods(summary: Summary) -> Iterator[Block]:
    settings, versions = summary["methods"]["settings"], summary["methods"]["versions"]
    level = percent(settings.get("confidence level of intervals", 0.95))
    # What each is about; of a page of some sections those of the others are left out.
    definitions = [
        ("contents", "The run (model and seed) is the unit. Runs whose trajectories are equal to the last bit count once; infinite values are runs that diverged: they are counted, not averaged."),
        ("curves", "Median and middle half: quantiles over runs at each step, by linear interpolation. With fewer than three runs there is no band."),
        ("final", f"Seed SD: ddof 1, divided by c4(n), unbiased for normal data (Holtzman 1950, doi:10.2307/1418879). Its {level} interval: SD × √((n − 1) / χ²), exact for normal data, too short for heavy tails."),
        ("final", "Item error: root mean square over runs of the standard error over test items. It is about a single run's score and no part of the seed SD where all runs answer the same items."),
        ("outliers", "Robust z: Iglewicz and Hoaglin 1993; with more than half of the runs equal, the mean absolute deviation stands in for the MAD. The share by chance is simulated from independent normal runs."),
        ("variance", "Shares of the variance: analysis of variance where the runs are balanced, else REML (Searle, Casella and McCulloch 1992, doi:10.1002/9780470316856); parts below zero are cut to zero. Test items: the mean squared standard error."),
        ("phases", "Change points: exact segmentation by dynamic programming under AR(1) noise, penalty calibrated to the stated share of false alarms (Killick, Fearnhead and Eckley 2012, doi:10.1080/01621459.2012.737745). Shared changes: a scan over stretches of checkpoints against changes moved at random within each run."),
        ("phases", "Training map: Gaussian hidden Markov model, number of states by BIC (Hu et al. 2023, doi:10.48550/arXiv.2308.09543)."),
        ("curves", "Metrics drawn: the range of the median over training against its noise (item error, else seed SD, else change between checkpoints); families and kinds of metrics take turns."),
        ("contents", "Coverage of a model: relative to its own runs, steps and metrics; of the cube: to all its cells."),
        ("warning", "Early warning: ridge-penalised logistic regression on robust distances from stable runs at the same step, alarms calibrated on stable runs held out (conformal ranking; Vovk, Gammerman and Shafer 2005, doi:10.1007/b106715). Seeds are held out in turn, all models together; intervals resample runs within models and leave out the chance of training again."),
    ]  # fmt: skip
    yield Bullets(tuple((text,) for part, text in definitions if part in summary))
    yield Bullets(
        (
            *((f"{name}: {value:g}",) for name, value in settings.items()),
            ("Versions: " + ", ".join(f"{name} {said}" for name, said in versions.items()),),
            ("SHA-256 of labels and values: ", Code(summary["polystab_report"]["fingerprint"])),
        )
    )
