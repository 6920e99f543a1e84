"""The pictures of the page as SVG, by the key under which a section asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from polystab.plots.lines import curves
from polystab.plots.maps import coverage, outliers
from polystab.plots.style import FIXED, Ink, model_inks
from polystab.plots.svg import to_svg
from polystab.report.results import Results

# Inches; so small that its text is large enough where three panels stand side by side.
PANEL = (3.45, 2.35)


@dataclass(frozen=True)
class Pictures:
    """SVG by key, and every colour that the page's stylesheet defines."""

    svg: dict[str, str]
    models: tuple[Ink, ...]

    @property
    def inks(self) -> tuple[Ink, ...]:
        """All colours, fixed and of models."""
        return (*FIXED, *self.models)


def draw(results: Results, summary: dict[str, Any]) -> Pictures:
    """Draw everything that the summary describes, from the results it was made of."""
    inks = tuple(model_inks(len(results.models)))
    drawn = {
        "coverage": to_svg(
            coverage(results.cover, title=False),
            title="What was measured",
            description=summary["contents"]["picture"],
            prefix="cov",
        )
    }
    for i, metric in enumerate(summary["curves"]["metrics"]):
        figure = curves(
            results.band,
            metric=metric["metric"],
            models=results.models,
            runs=results.cube,
            inks=inks,
            legend=False,
            title=False,
            size=PANEL,
        )
        drawn[f"curve{i}"] = to_svg(
            figure, title=metric["metric"], description=metric["picture"], prefix=f"c{i}x", inks=inks
        )
    listed = [(run["model"], run["seed"]) for run in summary["outliers"]["listed"]]
    if listed:
        drawn["outliers"] = to_svg(
            outliers(results.scores, runs=listed, title=False),
            title="When these runs stand out",
            description=summary["outliers"]["picture"],
            prefix="out",
        )
    return Pictures(drawn, inks)
