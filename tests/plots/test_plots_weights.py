"""Pictures of weights: statistics by part and layer, histograms, QQ plots, spectra."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from scipy import stats

import polystab as ps
from polystab import plots
from polystab.cube import cube_from_records
from polystab.errors import AnalysisError, SelectionError
from polystab.plots.bands import MAX_LINES, Series
from polystab.plots.elements import NORMAL_QUANTILES, density, joined_edges, scaled_quantiles
from polystab.plots.style import MUTED
from polystab.sources.weights.histograms import bin_centres, bin_edges, counts

SEEDS, STEPS = 5, [0, 1, 2, 4, 100, 1000]
SUBJECT = "layers.0.attention.dense"


def texts(figure: Figure) -> str:
    return " | ".join(
        text.get_text() for ax in figure.axes for text in ax.findobj(match=lambda a: hasattr(a, "get_text"))
    )


def named_lines(figure: Figure, ax: int = 0) -> dict[str, np.ndarray]:
    lines = figure.axes[ax].lines
    return {str(line.get_label()): np.asarray(line.get_ydata()) for line in lines if line.get_label()[0] != "_"}


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    """Three parts of two models, the smaller of which has one layer only."""
    rng = np.random.default_rng(0)
    rows = []
    for m, (model, depth) in enumerate((("small", 1), ("large", 3))):
        for seed in range(SEEDS):
            for step in STEPS:
                parts = {"embed_in": 1.0, "all": 2.0, "all.bias": 0.5}
                parts |= {f"layers.{n}.attention.dense": 10.0 + n for n in range(depth)}
                for subject, level in parts.items():
                    value = level + m + 0.1 * np.log1p(step) + 0.01 * rng.normal()
                    rows.append((model, seed, step, f"weight/{subject}/l2", value))
    made = cube_from_records(pd.DataFrame(rows, columns=["model", "seed", "step", "metric", "value"]))
    subjects = made["subject"].values.tolist()
    layer = [int(s.split(".")[1]) if s.startswith("layers") else -1 for s in subjects]
    component = [re.sub(r"^layers\.\d+\.", "", s) for s in subjects]
    return made.sel(model=["small", "large"]).assign_coords(layer=("metric", layer), component=("metric", component))


@pytest.fixture(scope="module")
def elements() -> np.ndarray:
    """Elements of a matrix (seed, step, element), ever wider, at the last step heavy-tailed."""
    rng = np.random.default_rng(1)
    normal = rng.normal(size=(SEEDS, 3, 4000)) * np.array([0.02, 0.1, 0.2])[:, None]
    normal[:, 2] = 0.2 * rng.standard_t(3, size=(SEEDS, 4000))
    return normal


@pytest.fixture(scope="module")
def tree(elements: np.ndarray) -> xr.DataTree:
    dims = ("model", "seed", "step", "subject")
    table = np.array([[counts(np.sort(elements[s, t])) for t in range(3)] for s in range(SEEDS)])[None, :, :, None]
    unmeasured = np.full_like(table, -1)
    edges = bin_edges()
    coords = {
        "model": ["m"],
        "seed": range(SEEDS),
        "step": [0, 8, 64],
        "subject": [SUBJECT, "layers.1.attention.dense"],
    }
    histograms = xr.Dataset(
        {"count": ((*dims, "bin"), np.concatenate([table, unmeasured], axis=3))},
        coords=coords | {"bin": bin_centres(), "low": ("bin", edges[:-1]), "high": ("bin", edges[1:])},
    )
    values = np.array([8.0, 4.0, 2.0, 0.0]) * (1 + np.arange(SEEDS))[:, None, None, None] * np.ones((SEEDS, 3, 2, 4))
    spectra = xr.Dataset({"singular_value": ((*dims, "rank"), values[None])}, coords=coords | {"rank": [1, 2, 3, 4]})
    return xr.DataTree.from_dict({"histograms": histograms, "spectra": spectra})


# --- statistics by part and layer -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_parts_without_a_layer_are_drawn_first_matrices_before_biases(cube: xr.Dataset) -> None:
    figure = plots.statistics(cube, measure="l2")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["all", "embed_in", "all.bias"]
    assert "weight: l2, 3 of 6 parts" in figure.get_suptitle()


@pytest.mark.slow
def test_a_component_gives_a_panel_a_layer_in_order(cube: xr.Dataset) -> None:
    figure = plots.statistics(cube, measure="l2", parts=["attention.dense"])
    assert [ax.get_title(loc="left") for ax in figure.axes] == [f"layers.{n}.attention.dense" for n in range(3)]


def test_a_panel_shows_the_median_of_each_model(cube: xr.Dataset) -> None:
    found = named_lines(plots.statistics(cube, measure="l2", parts=["embed_in", "all"]))
    for model in ("small", "large"):
        expected = np.median(cube["value"].sel(metric="weight/embed_in/l2", model=model).values, axis=0)
        np.testing.assert_allclose(found[model], expected)


def test_models_that_were_not_measured_on_a_part_stay_out_of_its_legend(cube: xr.Dataset) -> None:
    figure = plots.statistics(cube, measure="l2", parts=["layers.2.attention.dense"])
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["large"]


@pytest.mark.slow
def test_panels_take_the_place_of_an_ax(cube: xr.Dataset) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert plots.statistics(cube, measure="l2", ax=left) is figure
    assert left not in figure.axes
    assert right in figure.axes
    assert len(figure.axes) == 4


def test_an_ax_that_has_no_place_in_a_grid_cannot_be_divided(cube: xr.Dataset) -> None:
    free = Figure().add_axes((0, 0, 1, 1))
    with pytest.raises(AnalysisError, match="add_subplot"):
        plots.statistics(cube, measure="l2", ax=free)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"measure": "l3"}, "l2"),
        ({"measure": "l2", "family": "weights"}, "weight"),
        ({"measure": "l2", "parts": ["embedin"]}, "embed_in"),
        ({"measure": "l2", "parts": []}, "at least"),
        ({"measure": "l2", "models": ["smal"]}, "small"),
    ],
)
def test_unknown_statistics_are_refused_with_what_there_is(cube: xr.Dataset, wrong: dict, said: str) -> None:
    with pytest.raises(SelectionError, match=said):
        plots.statistics(cube, **wrong)


@pytest.mark.slow
def test_layer_curves_draw_the_median_of_every_layer(cube: xr.Dataset) -> None:
    found = named_lines(plots.layer_curves(cube, measure="l2", part="attention.dense"))
    assert list(found) == ["layer 0", "layer 1", "layer 2"]
    for n in range(3):
        expected = np.median(cube["value"].sel(metric=f"weight/layers.{n}.attention.dense/l2", model="large"), axis=0)
        np.testing.assert_allclose(found[f"layer {n}"], expected)


def test_a_smaller_model_has_the_layers_that_it_has(cube: xr.Dataset) -> None:
    assert list(named_lines(plots.layer_curves(cube, measure="l2", part="attention.dense", model="small"))) == [
        "layer 0"
    ]


def test_a_profile_lies_along_the_layers_at_the_steps_asked_for(cube: xr.Dataset) -> None:
    figure = plots.layer_profile(cube, measure="l2", part="attention.dense", steps=[0, 1000])
    found = named_lines(figure)
    expected = [
        np.median(cube["value"].sel(metric=f"weight/layers.{n}.attention.dense/l2", model="large", step=1000))
        for n in range(3)
    ]
    np.testing.assert_allclose(found["step 1,000"], expected)
    assert figure.axes[0].get_xticks().tolist() == [0, 1, 2]


def test_steps_of_a_profile_are_spread_over_the_checkpoints(cube: xr.Dataset) -> None:
    found = named_lines(plots.layer_profile(cube, measure="l2", part="attention.dense"))
    assert list(found) == ["step 0", "step 2", "step 4", "step 1,000"]


def test_diverged_runs_are_not_measured(cube: xr.Dataset) -> None:
    value = cube["value"].copy()
    value.loc[{"seed": 4}] = np.inf
    found = named_lines(plots.layer_curves(cube.assign(value=value), measure="l2", part="attention.dense"))
    one = cube["value"].sel(metric="weight/layers.0.attention.dense/l2", model="large").values
    np.testing.assert_allclose(found["layer 0"], np.median(one[:4], axis=0))


def test_copies_of_a_run_count_once(cube: xr.Dataset) -> None:
    value = cube["value"].copy()
    value.loc[{"seed": 4}] = value.sel(seed=0).values
    found = named_lines(plots.layer_curves(cube.assign(value=value), measure="l2", part="attention.dense"))
    one = cube["value"].sel(metric="weight/layers.0.attention.dense/l2", model="large").values
    np.testing.assert_allclose(found["layer 0"], np.median(one[:4], axis=0))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"part": "embed_in"}, "not of single layers"),
        ({"part": "attention.dense", "layers": [7]}, "0, 1, 2"),
        ({"part": "attention.dense", "model": "tiny"}, "no model"),
    ],
)
def test_layers_that_are_not_there_are_refused(cube: xr.Dataset, wrong: dict, said: str) -> None:
    with pytest.raises(SelectionError, match=said):
        plots.layer_curves(cube, measure="l2", **wrong)


@pytest.mark.parametrize(
    ("steps", "said"), [(["a"], "no step 'a'"), ([3], "no step 3"), ([], "1 to 6"), ([*STEPS, 7], "no step 7")]
)
def test_steps_that_are_not_there_are_refused(cube: xr.Dataset, steps: list[int], said: str) -> None:
    with pytest.raises(SelectionError, match=said):
        plots.layer_profile(cube, measure="l2", part="attention.dense", steps=steps)


@pytest.mark.slow
def test_parts_that_nobody_measured_are_said_to_be_empty(cube: xr.Dataset) -> None:
    value = cube["value"].where(cube["metric"] != "weight/all/l2")
    figure = plots.statistics(cube.assign(value=value), measure="l2")
    assert "nothing to draw" in [text.get_text() for text in figure.axes[0].texts]
    assert not figure.axes[1].texts
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["small", "large"]


def test_a_single_model_and_seed_may_have_been_selected(cube: xr.Dataset) -> None:
    found = named_lines(plots.statistics(cube.isel(model=1, seed=0), measure="l2", parts=["embed_in"]))
    expected = cube["value"].sel(metric="weight/embed_in/l2", model="large", seed=0)
    np.testing.assert_allclose(found["large"], expected)


def test_a_cube_whose_metrics_have_no_names_is_refused(cube: xr.Dataset) -> None:
    with pytest.raises(AnalysisError, match="'family', 'layer'"):
        plots.statistics(cube.drop_vars(["family", "layer"]), measure="l2")


def test_words_tell_the_ends_of_every_line(cube: xr.Dataset) -> None:
    said = plots.describe_picture(plots.layer_curves(cube, measure="l2", part="attention.dense"))
    first = np.median(cube["value"].sel(metric="weight/layers.0.attention.dense/l2", model="large", step=0))
    assert said.startswith(f"attention.dense: l2, large. layer 0: median {first:.2f} at step 0, ")
    assert said.count("middle half of 5 runs there") == 3


# --- bands ------------------------------------------------------------------------------------------------------------


def test_a_band_needs_three_runs_and_a_line_more_than_half_of_them() -> None:
    runs = np.array([[1.0, 1, 1], [2, 2, 2], [3, 3, np.nan], [4, np.nan, np.nan]])
    low, middle, high = Series("a", np.arange(3), runs, MUTED).band()
    np.testing.assert_allclose(middle, [2.5, 2, np.nan])
    np.testing.assert_allclose(low, [1.75, 1.5, np.nan])
    np.testing.assert_allclose(high, [3.25, 2.5, np.nan])
    low, middle, high = Series("a", np.arange(1), runs[:2, :1], MUTED).band()
    assert middle == [1.5]
    assert np.isnan([*low, *high]).all()


# --- kernels of distributions -----------------------------------------------------------------------------------------


def test_a_density_has_area_one_and_is_that_of_the_distribution() -> None:
    n, edges = 400_000, bin_edges()
    x = np.sort(np.random.default_rng(0).normal(0, 0.3, n))
    table = counts(x)[None].astype(float)
    drawn = joined_edges(edges, table[0])
    found = density(table, edges, drawn)[0]
    assert np.sum(found * np.diff(drawn)) == pytest.approx(1)
    share = np.diff(stats.norm.cdf(drawn, scale=0.3))
    error = np.sqrt(share * (1 - share) / n) / np.diff(drawn)
    assert np.max(np.abs(found - share / np.diff(drawn)) / (error + 1e-12)) < 5


def test_joined_bins_are_some_of_the_bins_alike_on_both_sides_and_hold_everything() -> None:
    edges = bin_edges()
    x = np.sort(np.random.default_rng(0).normal(0, 0.3, 4000))
    x = np.sort(np.concatenate([x, -x]))
    drawn = joined_edges(edges, counts(x))
    assert set(drawn.tolist()) <= set(edges.tolist())
    np.testing.assert_allclose(drawn, -drawn[::-1])
    assert drawn[0] <= x[0]
    assert x[-1] <= drawn[-1]
    assert np.diff(drawn).min() > 0.99 * (drawn[-1] - drawn[0]) / 60 / 2
    assert len(drawn) < 62


def test_elements_in_a_single_bin_have_that_bin() -> None:
    edges = bin_edges()
    drawn = joined_edges(edges, counts(np.full(3, 0.5)))
    assert len(drawn) == 2
    assert drawn[0] <= 0.5 < drawn[1]


def test_scaled_quantiles_of_a_normal_are_those_of_the_normal() -> None:
    share = np.linspace(0.0001, 0.9999, 9999)
    found = scaled_quantiles(share, 3 + 2 * stats.norm.ppf(share))
    inside = np.abs(NORMAL_QUANTILES) < 3.7
    np.testing.assert_allclose(found[inside], NORMAL_QUANTILES[inside], atol=2e-3)
    assert np.isnan(found[np.abs(NORMAL_QUANTILES) > 3.75]).all()


def test_scaled_quantiles_do_not_mind_a_change_of_unit() -> None:
    value = np.sort(np.random.default_rng(0).standard_t(3, 500))
    share = (np.arange(500) + 0.5) / 500
    np.testing.assert_allclose(
        scaled_quantiles(share, 5 - 1e-9 + 1e6 * value), scaled_quantiles(share, value), atol=1e-6
    )


def test_scaled_quantiles_are_those_of_numpy() -> None:
    value = np.sort(np.random.default_rng(0).standard_t(3, 4001))
    share = (np.arange(4001) + 0.5) / 4001
    low, middle, high = np.quantile(value, [0.25, 0.5, 0.75], method="hazen")
    at = NORMAL_QUANTILES[np.abs(NORMAL_QUANTILES) <= 3]
    expected = (np.quantile(value, stats.norm.cdf(at), method="hazen") - middle) / ((high - low) / 1.3489795)
    found = scaled_quantiles(share, value)[np.abs(NORMAL_QUANTILES) <= 3]
    np.testing.assert_allclose(found, expected, rtol=0.02, atol=0.002)


@pytest.mark.parametrize("value", [np.full(50, 0.25), np.array([1.0, 1.0]), np.zeros(1)])
def test_a_constant_has_no_scaled_quantiles(value: np.ndarray) -> None:
    share = (np.arange(len(value)) + 0.5) / len(value)
    assert np.isnan(scaled_quantiles(share, value)).all()


# --- pictures of distributions ----------------------------------------------------------------------------------------


def test_a_histogram_has_a_line_a_step_and_widens_with_the_weights(tree: xr.DataTree) -> None:
    figure = plots.histogram(tree, subject=SUBJECT)
    assert list(named_lines(figure)) == ["step 0", "step 8", "step 64"]
    peaks = [line.max() for line in named_lines(figure).values()]
    assert peaks == sorted(peaks, reverse=True)
    assert figure.axes[0].get_yscale() == "log"
    assert figure.axes[0].get_legend().get_title().get_text() == "median and middle half of 5 runs"


def test_one_run_can_be_chosen_and_has_no_band(tree: xr.DataTree) -> None:
    figure = plots.histogram(tree, subject=SUBJECT, seed=3, steps=[0])
    assert not figure.axes[0].collections
    assert figure.axes[0].get_title(loc="left") == f"{SUBJECT}, m seed 3"


@pytest.mark.slow
def test_elements_beyond_the_bins_are_told_of(tree: xr.DataTree) -> None:
    group = tree["histograms"].to_dataset().copy(deep=True)
    group["count"][0, 2, 0, 0, -1] = 7
    assert "up to 7 elements of a run beyond ±100" in texts(plots.histogram(group, subject=SUBJECT))


def test_qq_from_shared_bins_is_that_of_the_elements(tree: xr.DataTree, elements: np.ndarray) -> None:
    binned = named_lines(plots.qq(tree, subject=SUBJECT, seed=0, steps=[8]))["step 8"]
    exact = named_lines(plots.qq(elements[0, 1].reshape(80, 50), subject="x"))["x"]
    inside = np.abs(NORMAL_QUANTILES) <= 2
    # Both lines skip what they do not know at the ends; the middle is all there.
    middle = [line[(len(line) - inside.sum()) // 2 :][: inside.sum()] for line in (binned, exact)]
    np.testing.assert_allclose(middle[0], middle[1], atol=0.12)


def test_qq_of_normal_numbers_lies_on_the_line_and_of_heavy_tails_beyond_it(tree: xr.DataTree) -> None:
    figure = plots.qq(tree, subject=SUBJECT, steps=[0, 64])
    lines = {str(line.get_label()): line.get_xydata() for line in figure.axes[0].lines}
    normal, heavy = lines["step 0"], lines["step 64"]
    inside = np.abs(normal[:, 0]) <= 2.5
    np.testing.assert_allclose(normal[inside, 1], normal[inside, 0], atol=0.15)
    assert heavy[heavy[:, 0] == 2.5, 1] > 4
    assert "normal" in lines


@pytest.mark.parametrize("matrix", [np.zeros((1, 1)), np.full((2, 2), np.nan)])
def test_a_matrix_without_two_elements_has_no_qq_plot(matrix: np.ndarray) -> None:
    with pytest.raises(AnalysisError, match="two or more"):
        plots.qq(matrix)


def test_text_has_no_qq_plot() -> None:
    with pytest.raises(AnalysisError, match="needs numbers"):
        plots.qq(np.array([["a", "b"]]))


def test_a_constant_matrix_is_said_to_have_nothing_to_draw() -> None:
    assert "nothing to draw" in texts(plots.qq(np.ones((4, 4))))


def test_a_spectrum_shows_the_median_by_rank_without_zeros(tree: xr.DataTree) -> None:
    figure = plots.spectrum(tree, subject=SUBJECT, steps=[64])
    np.testing.assert_allclose(named_lines(figure)["step 64"], [24, 12, 6])
    assert (figure.axes[0].get_xscale(), figure.axes[0].get_yscale()) == ("log", "log")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"subject": "layers.0.attention.dens"}, re.escape(SUBJECT)),
        ({"subject": SUBJECT, "seed": 9}, "no seed 9"),
        ({"subject": SUBJECT, "seed": "1"}, "no seed '1'"),
        ({"subject": SUBJECT, "model": "n"}, "no model"),
        ({"subject": SUBJECT, "steps": [1]}, "no step 1"),
    ],
)
def test_what_the_group_does_not_have_is_refused(tree: xr.DataTree, wrong: dict, said: str) -> None:
    with pytest.raises(SelectionError, match=said):
        plots.histogram(tree, **wrong)


def test_a_parameter_that_was_not_measured_is_refused(tree: xr.DataTree) -> None:
    with pytest.raises(AnalysisError, match=r"layers\.1\.attention\.dense of m was not measured"):
        plots.histogram(tree, subject="layers.1.attention.dense")


def test_a_cube_without_groups_is_refused_with_the_way_to_them(cube: xr.Dataset) -> None:
    for draw in (plots.histogram, plots.qq, plots.spectrum):
        with pytest.raises(AnalysisError, match="open_tree"):
            draw(cube, subject=SUBJECT)


def test_histograms_without_the_edges_of_their_bins_are_refused(tree: xr.DataTree) -> None:
    with pytest.raises(AnalysisError, match="'low'"):
        plots.histogram(tree["histograms"].to_dataset().drop_vars("low"), subject=SUBJECT)


def test_more_steps_than_can_be_told_apart_are_refused(tree: xr.DataTree) -> None:
    wide = xr.concat(
        [tree["spectra"].to_dataset().assign_coords(step=[3 * k, 3 * k + 1, 3 * k + 2]) for k in range(3)], "step"
    )
    with pytest.raises(SelectionError, match=f"1 to {MAX_LINES} can"):
        plots.spectrum(wide, subject=SUBJECT, steps=range(9))


def test_the_input_is_left_as_it_was(tree: xr.DataTree) -> None:
    before = tree["histograms"].to_dataset().copy(deep=True)
    plots.qq(tree, subject=SUBJECT)
    xr.testing.assert_identical(before, tree["histograms"].to_dataset())


def test_steps_have_other_colours_than_models(tree: xr.DataTree) -> None:
    from polystab.plots.style import model_inks, state_inks

    lines = plots.spectrum(tree, subject=SUBJECT).axes[0].lines
    assert [to_hex(line.get_color()) for line in lines] == [ink.light for ink in state_inks(3)]
    assert not {ink.light for ink in state_inks(3)} & {ink.light for ink in model_inks(3)}


@pytest.mark.slow
def test_real_weights_are_drawn() -> None:
    nano = ps.load_cube("nano")
    figure = plots.statistics(nano, measure="t_nu", parts=["mlp.dense_h_to_4h"])
    assert figure.axes[0].get_yscale() == "log"
    figure.draw_without_rendering()
