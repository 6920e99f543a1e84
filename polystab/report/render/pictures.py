"""The pictures of the page as SVG, by the key under which a section asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr

from polystab.plots.comparisons import SIDE_INKS, differences
from polystab.plots.components import variance_shares
from polystab.plots.lines import curves
from polystab.plots.maps import coverage, outliers
from polystab.plots.phases import change_points, map_strips, transition_graph
from polystab.plots.style import FIXED, Ink, model_inks, state_inks
from polystab.plots.svg import to_svg
from polystab.plots.warnings import warning_curves
from polystab.report.results.computed import Results
from polystab.report.summary.comparison import drawn_bands

# Inches; so small that its text is large enough where three panels stand side by side.
PANEL = (3.45, 2.35)


@dataclass(frozen=True)
class Pictures:
    """SVG by key, and every colour that the page's stylesheet defines."""

    svg: dict[str, str]
    models: tuple[Ink, ...]
    states: tuple[Ink, ...] = ()

    @property
    def inks(self) -> tuple[Ink, ...]:
        """All colours: fixed, of models, of states."""
        return (*FIXED, *self.models, *self.states)


def draw(results: Results, summary: dict[str, Any], wanted: Sequence[str]) -> Pictures:
    """Draw what the sections that are wanted describe, from the results it was made of."""
    inks = tuple(model_inks(len(results.models))) if {*wanted} & {*_WITH_MODELS} else ()
    states: tuple[Ink, ...] = ()
    drawn: dict[str, str] = {}
    if "contents" in wanted:
        figure = coverage(results.cover, title=False)
        said = summary["contents"]["picture"]
        drawn["coverage"] = to_svg(figure, title="What was measured", description=said, prefix="cov")
    if "comparison" in wanted and results.compared is not None:
        drawn |= _compared(results, summary["comparison"], inks)
    if "curves" in wanted:
        drawn |= _curves(results, summary["curves"]["metrics"], inks)
    if "variance" in wanted:
        for i, metric in enumerate(summary["variance"]["pictures"]):
            figure = variance_shares(results.fractions, metric=metric["metric"], legend=False, title=False, size=PANEL)
            drawn[f"share{i}"] = to_svg(figure, title=metric["metric"], description=metric["picture"], prefix=f"v{i}x")
    drawn |= _networks(results, summary, wanted, inks)
    if "phases" in wanted:
        states = () if isinstance(results.map, str) else tuple(state_inks(results.map.n_states))
        drawn |= _phases(results, summary["phases"], states)
    if "outliers" in wanted and summary["outliers"]["listed"]:
        listed = [(run["model"], run["seed"]) for run in summary["outliers"]["listed"]]
        figure = outliers(results.scores, runs=listed, title=False)
        said = summary["outliers"]["picture"]
        drawn["outliers"] = to_svg(figure, title="When these runs stand out", description=said, prefix="out")
    if "warning" in wanted and results.warned is not None and results.warned.evaluation is not None:
        figure = warning_curves(results.warned.evaluation, title=False)
        said = summary["warning"]["early"]["picture"]
        drawn["warning"] = to_svg(figure, title="Early warning against step", description=said, prefix="warn")
    return Pictures(drawn, inks, states)


# Sections whose pictures have a colour for each model.
_WITH_MODELS = ("comparison", "curves", "agreement", "representations", "networks")


def _compared(results: Results, comparison: dict[str, Any], inks: tuple[Ink, ...]) -> dict[str, str]:
    """The differences to another cube, and both curves of what differs."""
    if results.compared is None:
        return {}
    figure = differences(results.compared.table, models=results.models, inks=inks, title=False)
    said = comparison["picture"]
    drawn = {"differences": to_svg(figure, title="Differences", description=said, prefix="dif", inks=inks)}
    for i, (one, (metric, _, _, band)) in enumerate(zip(comparison["curves"], drawn_bands(results), strict=True)):
        figure = curves(band, metric=metric, inks=SIDE_INKS, legend=False, title=False, size=PANEL)
        drawn[f"compared{i}"] = to_svg(figure, title=metric, description=one["picture"], prefix=f"d{i}x")
    return drawn


def _curves(results: Results, metrics: Sequence[dict[str, Any]], inks: tuple[Ink, ...]) -> dict[str, str]:
    drawn = {}
    for i, metric in enumerate(metrics):
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
    return drawn


def _networks(
    results: Results, summary: dict[str, Any], sections: Sequence[str], inks: tuple[Ink, ...]
) -> dict[str, str]:
    """Answers, probes, and statistics of the networks: curves like the others, in the same colours."""
    wanted: list[tuple[str, xr.Dataset | None, str, list[str], str]] = []
    if "agreement" in sections and (one := summary["agreement"]["picture"]) is not None:
        wanted.append(("agreement", results.networks.kappa, one["answer"], one["models"], one["picture"]))
    if "representations" in sections:
        for i, probe in enumerate(summary["representations"]["pictures"]):
            of = results.networks.compression
            wanted.append((f"probe{i}", of, probe["metric"], probe["models"], probe["picture"]))
    if "networks" in sections:
        for i, family in enumerate(summary["networks"]["families"]):
            if family["metric"]:
                wanted.append((f"network{i}", results.band, family["metric"], list(results.models), family["picture"]))
    drawn = {}
    for key, band, metric, models, said in wanted:
        if band is None:
            continue
        own = [ink for ink, model in zip(inks, results.models, strict=True) if model in models]
        figure = curves(band, metric=metric, models=models, inks=own, legend=False, title=False, size=PANEL)
        drawn[key] = to_svg(figure, title=metric, description=said, prefix=f"{key}x", inks=inks)
    return drawn


def _phases(results: Results, phases: dict[str, Any], inks: tuple[Ink, ...]) -> dict[str, str]:
    drawn = {}
    if phases["picture"] and results.shared is not None:
        figure = change_points(results.shared, steps=results.cube["step"].values, title=False)
        drawn["changes"] = to_svg(figure, title="Changes that seeds share", description=phases["picture"], prefix="chg")
    if isinstance(results.map, str) or results.transitions is None or results.map.n_states == 1:
        return drawn
    figure = map_strips(results.map.states, title=False)
    drawn["map"] = to_svg(
        figure, title="States of every run", description=phases["map"]["picture"], prefix="map", inks=inks
    )
    for i, graph in enumerate(phases["map"]["graphs"]):
        figure = transition_graph(results.transitions, model=graph["model"], title=False, width=PANEL[0])
        drawn[f"graph{i}"] = to_svg(
            figure, title=graph["model"], description=graph["picture"], prefix=f"g{i}x", inks=inks
        )
    return drawn
