"""The section on what is in the cube."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from polystab.report.blocks import Block, Bullets, Column, Details, Group, Picture, Table, paragraph
from polystab.report.sections import tables
from polystab.report.summary.schema import Summary
from polystab.words import NONE, count, number, percent, ranges

# Longer lists of models are folded away, but for the ones with most runs.
OPEN_MODELS = 25

SHOWN_MODELS = 12


def contents(summary: Summary) -> Iterator[Block]:
    contents, source = summary["contents"], summary["source"]
    if source["summary"]:
        yield paragraph(source["summary"])
    if contents["notes"]:
        yield Bullets(tuple((note,) for note in contents["notes"]))
    models = contents["models"]
    if len(models) <= OPEN_MODELS:
        yield models_table(models, "Models and their runs")
    else:
        most = sorted(models, key=lambda model: -model["runs"])[:SHOWN_MODELS]
        yield models_table(most, f"The {SHOWN_MODELS} models with most runs")
        yield Details(f"All {count(len(models))} models", (models_table(models, "Models and their runs"),))
    yield Picture("coverage", "What was measured", contents["picture"], wide=True)
    if len(contents["families"]) > 1:
        yield families_table(contents["families"])
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


def models_table(models: Sequence[Summary], caption: str) -> Table:
    """Which runs there are."""
    sized = any(model["n_parameters"] for model in models)
    columns = [
        Column("Model", code=True),
        *([Column("Parameters", number=True)] if sized else []),
        Column("Runs", number=True),
        Column("Seeds"),
        Column("Steps", number=True),
        Column("From – to"),
        Column("Metrics", number=True),
        Column("Measured", number=True, help="share of the model's own runs × steps × metrics"),
    ]
    rows = [
        (
            model["model"],
            *([number(model["n_parameters"], digits=3) and tables.size_label(model["n_parameters"])] if sized else []),
            count(model["runs"]),
            ranges(model["seeds"]) or NONE,
            count(model["steps"]),
            f"{count(model['first_step'])}\N{NO-BREAK SPACE}–\N{NO-BREAK SPACE}{count(model['last_step'])}"
            if model["steps"]
            else NONE,
            count(model["metrics"]),
            percent(model["share"]) or NONE,
        )
        for model in models
    ]
    return tables.capped(caption, columns, [Group("", tuple(rows))])


def families_table(families: Sequence[Summary]) -> Table:
    """How full each family is."""
    columns = [
        Column("Family", code=True),
        Column("Metrics", number=True),
        Column("Values", number=True),
        Column("Measured", number=True, help="share of all cells of the family"),
    ]
    rows = [
        (item["family"], count(item["metrics"]), count(item["measured"]), percent(item["share"])) for item in families
    ]
    return tables.capped("Families of metrics", columns, [Group("", tuple(rows))])
