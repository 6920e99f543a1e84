"""Which sections the page has, in which order, and what writes each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from polystab.errors import UnknownNameError, did_you_mean
from polystab.report.blocks import (
    Block,
    Bullets,
    Section,
)
from polystab.report.sections.answers import answers
from polystab.report.sections.audit import audit
from polystab.report.sections.comparison import comparison
from polystab.report.sections.contents import contents
from polystab.report.sections.curves import curves
from polystab.report.sections.final import final
from polystab.report.sections.methods import methods
from polystab.report.sections.networks import networks
from polystab.report.sections.outliers import outliers
from polystab.report.sections.phases import phases
from polystab.report.sections.representations import representations
from polystab.report.sections.takeaways import takeaways
from polystab.report.sections.variance import variance
from polystab.report.sections.warning import warning
from polystab.report.summary.schema import Summary
from polystab.words import count, listed, percent, plural

# Name, title, and what writes it, in the order of the page.
_SECTIONS: dict[str, tuple[str, Callable[[Summary], Iterator[Block]]]] = {
    "takeaways": ("In short", takeaways),
    "comparison": ("Against the other cube", comparison),
    "audit": ("Data and audit: is it what it says?", audit),
    "contents": ("What is in the cube", contents),
    "curves": ("Curves over training", curves),
    "final": ("Final values and the spread over seeds", final),
    "variance": ("Who is responsible for the spread", variance),
    "agreement": ("Do runs give the same answers?", answers),
    "representations": ("What the states of the networks tell", representations),
    "phases": ("When training changes character", phases),
    "networks": ("Weights, activations, gradients", networks),
    "outliers": ("Outlier runs", outliers),
    "warning": ("Runs that went wrong, and early warning", warning),
    "methods": ("Methods and settings", methods),
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
        f"{plural(contents['measured'], 'value')}, {percent(contents['share'])} of the cube's cells."
    )
