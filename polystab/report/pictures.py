"""The pictures of the page as SVG, by the key under which a section asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import xarray as xr

from polystab.plots.components import variance_shares
from polystab.plots.lines import curves
from polystab.plots.maps import coverage, outliers
from polystab.plots.phases import change_points, map_strips, transition_graph
from polystab.plots.style import FIXED, Ink, model_inks, state_inks
from polystab.plots.svg import to_svg
from polystab.report.results import Results

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
    for i, metric in enumerate(summary["variance"]["pictures"]):
        figure = variance_shares(results.fractions, metric=metric["metric"], legend=False, title=False, size=PANEL)
        drawn[f"share{i}"] = to_svg(figure, title=metric["metric"], description=metric["picture"], prefix=f"v{i}x")
    listed = [(run["model"], run["seed"]) for run in summary["outliers"]["listed"]]
    if listed:
        drawn["outliers"] = to_svg(
            outliers(results.scores, runs=listed, title=False),
            title="When these runs stand out",
            description=summary["outliers"]["picture"],
            prefix="out",
        )
    drawn |= _networks(results, summary, inks)
    states = () if results.map is None else tuple(state_inks(results.map.n_states))
    drawn |= _phases(results, summary["phases"], states)
    return Pictures(drawn, inks, states)


def _networks(results: Results, summary: dict[str, Any], inks: tuple[Ink, ...]) -> dict[str, str]:
    """Answers, probes, and statistics of the networks: curves like the others, in the same colours."""
    networks, agreement = results.networks, summary["agreement"]["picture"]
    wanted: list[tuple[str, xr.Dataset | None, str, list[str], str]] = []
    if agreement is not None:
        wanted.append(("agreement", networks.kappa, agreement["answer"], agreement["models"], agreement["picture"]))
    for i, probe in enumerate(summary["representations"]["pictures"]):
        wanted.append((f"probe{i}", networks.compression, probe["metric"], probe["models"], probe["picture"]))
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
    if results.map is None or results.transitions is None or results.map.n_states == 1:
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
