"""Pictures: what is on them, in which language, and in which words."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import polystab as ps
import polystab.testing
from polystab import plots
from polystab.analysis import cube_coverage, outlier_scores, seed_band, variance_fractions
from polystab.errors import AnalysisError, SelectionError
from polystab.plots.steps import is_logarithmic, linear_ticks, log_ticks
from polystab.plots.style import FIXED, model_inks, value_label

PYTHIA = np.array([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, *range(1000, 144000, 1000)])


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    return polystab.testing.synthetic_cube(n_models=3, n_seeds=5, rng=0)


@pytest.fixture(scope="module")
def metric(cube: xr.Dataset) -> str:
    return str(cube["metric"].values[0])


def texts(figure: Figure) -> str:
    return " | ".join(
        text.get_text() for ax in figure.axes for text in ax.findobj(match=lambda a: hasattr(a, "get_text"))
    )


def test_curves_draw_one_median_and_one_band_a_model(cube: xr.Dataset, metric: str) -> None:
    ax = plots.curves(seed_band(cube), metric=metric).axes[0]
    assert [line.get_label() for line in ax.lines if not line.get_label().startswith("_")] == cube[
        "model"
    ].values.tolist()
    assert len(ax.collections) == 3
    assert ax.get_legend().get_title().get_text() == "median and middle half of 5 runs; thin lines are single runs"


def test_the_median_line_is_the_median(cube: xr.Dataset, metric: str) -> None:
    ax = plots.curves(cube, metric=metric).axes[0]
    line = next(line for line in ax.lines if line.get_label() == cube["model"].values[1])
    expected = np.median(cube["value"].sel(metric=metric).isel(model=1).values, axis=0)
    np.testing.assert_allclose(line.get_ydata(), expected)


def test_few_runs_are_drawn_one_by_one(cube: xr.Dataset, metric: str) -> None:
    one = cube.isel(model=[0])
    thin = [line for line in plots.curves(one, metric=metric).axes[0].lines if line.get_linewidth() < 0.7]
    assert len(thin) == 5


def test_a_single_run_has_a_line_and_no_band(cube: xr.Dataset, metric: str) -> None:
    ax = plots.curves(cube.isel(seed=[0]), metric=metric).axes[0]
    assert not ax.collections
    assert ax.get_legend().get_title().get_text() == "single runs"


@pytest.mark.slow
def test_of_many_models_ten_are_drawn_and_the_legend_says_so() -> None:
    many = polystab.testing.variance_cube(n_models=13, n_seeds=3, rng=0)
    name = str(many["metric"].values[0])
    for data in (many, seed_band(many)):
        ax = plots.curves(data, metric=name).axes[0]
        assert len(ax.get_legend().get_texts()) == 10
        assert ax.get_legend().get_title().get_text().startswith("10 of 13 models; ")
    every = plots.curves(many, metric=name, models=many["model"].values.tolist()).axes[0]
    assert len(every.get_legend().get_texts()) == 13


def test_a_given_axes_is_drawn_on(cube: xr.Dataset, metric: str) -> None:
    figure = Figure()
    ax = figure.add_subplot()
    assert plots.curves(cube, metric=metric, ax=ax) is figure
    assert plots.coverage(cube, ax=figure.add_subplot()) is figure


def test_unknown_names_are_refused_with_close_ones(cube: xr.Dataset, metric: str) -> None:
    with pytest.raises(SelectionError, match=re.escape(metric)):
        plots.curves(cube, metric=metric[:-1])
    with pytest.raises(SelectionError, match="toy"):
        plots.curves(cube, metric=metric, models=["toy"])


def test_a_band_without_quartiles_is_refused(cube: xr.Dataset, metric: str) -> None:
    with pytest.raises(AnalysisError, match="quantiles"):
        plots.curves(seed_band(cube, q=(0.1, 0.9)), metric=metric)


@pytest.mark.slow
def test_names_are_text_and_not_mathematics() -> None:
    frame = pd.DataFrame(
        {"model": "$m$", "seed": 0, "step": [0, 1], "metric": "eval/$\\frac{1}$/acc", "value": [0.0, 1.0]}
    )
    figure = plots.curves(ps.cube_from_records(frame), metric="eval/$\\frac{1}$/acc")
    figure.draw_without_rendering()
    assert "$\\frac{1}$" in texts(figure)


def test_the_first_fall_is_left_outside_and_said(cube: xr.Dataset) -> None:
    steps = np.arange(0, 3000, 125)
    value = 3.3 + 7 * np.exp(-steps / 100)
    frame = pd.DataFrame({"model": "a", "seed": 0, "step": steps, "metric": "loss/val/ce", "value": value})
    figure = plots.curves(ps.cube_from_records(frame), metric="loss/val/ce")
    assert figure.axes[0].get_ylim()[1] < 4
    assert "first values (about 10.3) lie outside" in texts(figure)


def test_a_chance_far_from_the_curves_is_said_and_does_not_press_them_flat(cube: xr.Dataset, metric: str) -> None:
    value = cube["value"].sel(metric=metric).values
    for far, side in ((value.max() + 9 * np.ptp(value), "above"), (value.min() - 9 * np.ptp(value), "below")):
        marked = cube.assign_coords(chance=("metric", np.full(cube.sizes["metric"], far)))
        figure = plots.curves(marked, metric=metric)
        low, high = figure.axes[0].get_ylim()
        assert high - low < 2 * np.ptp(value)
        assert f"{side} what is drawn" in texts(figure)


def test_a_text_in_a_corner_and_the_legend_stand_apart(cube: xr.Dataset, metric: str) -> None:
    far = float(cube["value"].max()) * 1e3
    figure = plots.curves(cube.assign_coords(chance=("metric", np.full(cube.sizes["metric"], far))), metric=metric)
    figure.draw_without_rendering()
    (note,) = (text for text in figure.axes[0].texts if "what is drawn" in text.get_text())
    assert not note.get_window_extent().overlaps(figure.axes[0].get_legend().get_window_extent())


@pytest.mark.parametrize(
    ("measure", "units", "said"),
    [("acc", "1", "acc"), ("ce", "nat", "ce (nat)"), ("", "nat", "nat"), ("acc", "", "acc"), ("", "1", "")],
)
def test_the_axis_of_values_says_what_was_measured_and_in_what(measure: str, units: str, said: str) -> None:
    assert value_label(measure, units) == said


def test_curves_and_shares_name_their_values(cube: xr.Dataset, metric: str) -> None:
    assert plots.curves(cube, metric=metric).axes[0].get_ylabel() == value_label(
        str(cube["measure"].values[0]), str(cube["units"].values[0])
    )
    variance = polystab.testing.variance_cube(n_steps=2, rng=0)
    shares = plots.variance_shares(variance, metric=str(variance["metric"].values[0]))
    assert shares.axes[0].get_ylabel() == "share of the variance"


def test_wide_positive_ranges_get_a_logarithmic_axis() -> None:
    frame = pd.DataFrame(
        {"model": "a", "seed": 0, "step": range(9), "metric": "eval/a/ppl", "value": np.geomspace(10, 1e6, 9)}
    )
    assert plots.curves(ps.cube_from_records(frame), metric="eval/a/ppl").axes[0].get_yscale() == "log"


@pytest.mark.parametrize(
    ("steps", "logarithmic"),
    [
        (PYTHIA, True),
        (np.array([0, 1000, 2000, 4000, 143000]), True),
        (np.arange(0, 5100, 125), False),
        (np.arange(10, 10001, 10), False),  # even, although it spans three decades
        (np.array([5]), False),
        (np.array([0, 7]), False),
    ],
)
def test_which_step_axes_are_logarithmic(steps: np.ndarray, logarithmic: bool) -> None:
    assert is_logarithmic(steps) is logarithmic


def test_the_logarithmic_axis_shows_zero_and_the_last_step(cube: xr.Dataset, metric: str) -> None:
    assert log_ticks(PYTHIA) == [0, 1, 10, 100, 1000, 10000, 143000]
    ax = plots.curves(cube, metric=metric).axes[0]
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert (labels[0], labels[-1]) == ("0", "143k")
    low, high = ax.get_xlim()
    assert low < 0 < 143_000 < high


@pytest.mark.parametrize("steps", [[0, 125, 5100], [3, 4], [7], [0, 1], [10**6, 10**6 + 1]])
def test_linear_ticks_are_whole_steps_that_end_at_the_last(steps: list[int]) -> None:
    ticks = linear_ticks(np.array(steps))
    assert ticks[-1] == steps[-1]
    assert all(tick == int(tick) and steps[0] <= tick <= steps[-1] for tick in ticks)
    assert ticks == sorted(set(ticks))


def test_coverage_draws_a_row_a_model_and_family(cube: xr.Dataset) -> None:
    figure = plots.coverage(cube)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == cube.sizes["model"] * len(set(cube["family"].values.tolist()))
    assert "5 runs" in texts(figure)


def test_coverage_of_many_models_shows_those_with_most_runs_and_says_so() -> None:
    rows = [
        {"model": f"m{i}", "seed": s, "step": 1, "metric": "eval/a/acc", "value": 0.1}
        for i in range(40)
        for s in range(1 + i % 4)
    ]
    cover = cube_coverage(ps.cube_from_records(pd.DataFrame(rows)))
    labels = [label.get_text() for label in plots.coverage(cover, limit=10).axes[0].get_yticklabels()]
    assert labels == [f"m{i}" for i in range(3, 40, 4)]
    assert "30 models not drawn" in plots.describe_coverage(cover, limit=10)


@pytest.mark.slow
def test_outliers_draw_the_runs_asked_for(cube: xr.Dataset) -> None:
    scores = outlier_scores(cube)
    model = str(cube["model"].values[0])
    figure = plots.outliers(scores, runs=[(model, 3), (model, 1)])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [f"{model} seed 3", f"{model} seed 1"]


def test_shares_stack_up_to_everything_and_are_named(cube: xr.Dataset, metric: str) -> None:
    found = variance_fractions(ps.variance_components(cube))
    ax = plots.variance_shares(found, metric=metric).axes[0]
    tops = [line.get_ydata() for line in ax.lines]
    fraction = found["fraction"].sel(metric=metric)
    parts = fraction.isel(component=fraction["part"].values).dropna("component", how="all")
    np.testing.assert_allclose(tops[0], parts.isel(component=0).values)
    assert np.nanmax(np.abs(tops[-1] - 1)) < 1e-9
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["test items", "seeds", "models"]


def test_shares_of_a_cube_without_spread_are_said_to_be_none() -> None:
    frame = pd.DataFrame(
        [(m, s, 1, "eval/a/acc", 0.5) for m in ("a", "b") for s in range(3)],
        columns=["model", "seed", "step", "metric", "value"],
    )
    figure = plots.variance_shares(ps.cube_from_records(frame), metric="eval/a/acc")
    assert "nothing to share out" in texts(figure)
    found = variance_fractions(ps.variance_components(ps.cube_from_records(frame)))
    assert plots.describe_shares(found, metric="eval/a/acc") == "There is no variance to share out at any step."


def test_shares_of_an_unknown_metric_are_refused(cube: xr.Dataset, metric: str) -> None:
    with pytest.raises(SelectionError, match=re.escape(metric)):
        plots.variance_shares(cube, metric=metric + "x")


@pytest.mark.slow
def test_every_component_has_a_label_and_a_colour() -> None:
    from polystab.analysis import variance_components
    from polystab.plots.describe import PARTS

    colours = {ink.name for ink in FIXED}
    for name in ("nano", "nano-factorial"):
        for design in ("nested", "crossed"):
            found = variance_components(ps.load_cube(name), design=design)
            for part in found["component"].values[found["part"].values]:
                assert PARTS[str(part)].ink in colours


@pytest.mark.slow
def test_alternatives_say_what_the_picture_shows(cube: xr.Dataset, metric: str) -> None:
    band = seed_band(cube)
    said = plots.describe_curves(band, metric=metric)
    model = str(cube["model"].values[0])
    assert said.startswith(f"{model}: median ")
    assert "at step 0" in said
    assert "at step 143,000 (middle half of 5 runs there:" in said
    assert "100" in plots.describe_coverage(cube_coverage(cube))
    scores = outlier_scores(cube)
    assert f"{model} seed 0: " in plots.describe_outliers(scores, runs=[(model, 0)])


@pytest.mark.parametrize("n", [1, 2, 5, 10])
def test_colours_have_enough_contrast_on_both_pages(n: int) -> None:
    def luminance(colour: str) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def contrast(a: str, b: str) -> float:
        high, low = sorted((luminance(a), luminance(b)), reverse=True)
        return (high + 0.05) / (low + 0.05)

    inks = model_inks(n)
    assert len({ink.light for ink in inks}) == n
    for ink in [*inks, *(fixed for fixed in FIXED if fixed.name != "grid")]:
        assert contrast(ink.light, "#ffffff") >= 3, ink
        assert contrast(ink.dark, "#14171b") >= 3, ink


@pytest.mark.slow
def test_svg_is_small_text_with_alternatives_and_page_colours(cube: xr.Dataset, metric: str) -> None:
    inks = model_inks(3)
    svg = plots.to_svg(
        plots.curves(cube, metric=metric, inks=inks), title="A <b>", description="C & d", prefix="p0", inks=inks
    )
    root = ET.fromstring(svg)
    assert root.get("role") == "img"
    assert root.get("aria-labelledby") == "p0t p0d"
    assert [child.text for child in list(root)[:2]] == ["A <b>", "C & d"]
    assert "width" not in root.attrib
    assert "var(--m1,#" in svg
    assert "var(--muted,#" in svg
    assert not re.search(r"<(image|style|metadata|script)\b", svg)
    assert "143k" in svg  # text stays text
    assert "font-size: 8.5px" in svg
    assert "DejaVu" not in svg  # in the page's own font
    assert len(svg) < 40_000
    ids = re.findall(r' id="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert all(name.startswith("p0") for name in ids)
    assert set(re.findall(r"(?:url\(#|href=\"#)([^\")]+)", svg)) <= set(ids)


@pytest.mark.slow
def test_svg_is_the_same_every_time_and_under_any_settings(cube: xr.Dataset, metric: str) -> None:
    import matplotlib as mpl

    def once() -> str:
        return plots.to_svg(plots.curves(cube, metric=metric), title="t", description="d", prefix="x")

    first = once()
    with mpl.rc_context({"font.size": 20, "axes.grid": False, "lines.linewidth": 9}):
        assert once() == first


@pytest.mark.slow
def test_names_with_markup_stay_text_in_svg() -> None:
    name = 'eval/<script>alert(1)<&">/acc'
    frame = pd.DataFrame({"model": "<m>&\x07", "seed": 0, "step": [0, 1], "metric": name, "value": [0.0, 1.0]})
    svg = plots.to_svg(plots.curves(ps.cube_from_records(frame), metric=name), title=name, description=name, prefix="x")
    ET.fromstring(svg)
    assert "<script" not in svg


@pytest.mark.slow
def test_a_notebook_shows_a_figure_without_pyplot(cube: xr.Dataset, metric: str) -> None:
    assert plots.curves(cube, metric=metric)._repr_png_().startswith(b"\x89PNG")


@pytest.mark.slow
def test_drawing_leaves_no_global_figure_behind(cube: xr.Dataset, metric: str) -> None:
    code = (
        "import sys, polystab.testing; from polystab import plots\n"
        "c = polystab.testing.synthetic_cube(rng=0)\n"
        "plots.curves(c, metric=str(c.metric.values[0])); plots.coverage(c); plots.outliers(c)\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
