"""The section with curves over training."""

from __future__ import annotations

from collections.abc import Iterator

from polystab.report.blocks import (
    Block,
    Details,
    Legend,
    Paragraph,
    Picture,
    codes,
    empty,
    paragraph,
)
from polystab.report.summary.schema import Summary
from polystab.words import count, plural

# Names of metrics without a panel, and rows of final values that are not folded away.
MAX_NAMES = 1000


def curves(summary: Summary) -> Iterator[Block]:
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
