"""Pictures of embeddings, directions, dimensions, probes, answers and single runs."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import polystab as ps
from polystab import plots
from polystab.analysis import (
    embedding_similarity,
    item_stability,
    joint_distance,
    outlier_scores,
    probe_codelengths,
)
from polystab.analysis.agreement import agreement
from polystab.cube import cube_from_records
from polystab.errors import AnalysisError, SelectionError
from polystab.plots.agreement import KINDS

RUNS, STEPS = 4, [0, 1, 2, 4, 8]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.findobj(match=lambda a: hasattr(a, "get_text"))]


def named_lines(figure: Figure) -> dict[str, np.ndarray]:
    return {str(line.get_label()): np.asarray(line.get_ydata()) for line in figure.axes[0].lines}


def dims(*more: str) -> tuple[str, ...]:
    return ("model", "seed", "step", *more)


@pytest.fixture(scope="module")
def labels() -> dict[str, object]:
    return {"model": ["tiny", "less-tiny"], "seed": range(RUNS), "step": STEPS}


@pytest.fixture(scope="module")
def embedding(labels: dict) -> xr.Dataset:
    values = np.random.default_rng(0).uniform(-1, 1, size=(2, RUNS, len(STEPS), 6))
    first, second = np.triu_indices(4, 1)
    coords = labels | {"pair": range(6), "first_token": ("pair", first), "second_token": ("pair", second)}
    return xr.Dataset({"correlation": (dims("pair"), values)}, coords=coords)


@pytest.fixture(scope="module")
def directions(labels: dict) -> xr.Dataset:
    token = np.random.default_rng(0).integers(0, 50, size=(2, RUNS, len(STEPS), 2, 3, 5))
    data = {
        "token": (dims("matrix", "direction", "place"), token),
        "vocabulary": (dims(), np.full(token.shape[:3], 50)),
    }
    return xr.Dataset(data, coords=labels | {"matrix": ["layers.0.attention.ov", "layers.1.attention.ov"]})


@pytest.fixture(scope="module")
def dimensions() -> xr.Dataset:
    number = np.array([[[7, 7, 3, 3, 3], [1, 1, 1, 1, 1]]])[..., None, None]
    ratio = np.array([[[1.5, 3, 5, 7, 9], [2.5, 2.5, 2.5, 2.5, 2.5]]])[..., None, None]
    data = {"dimension": (dims("site", "rank"), number), "ratio": (dims("site", "rank"), ratio)}
    coords = {"model": ["tiny"], "seed": [4, 5], "step": STEPS, "site": ["layers.1.residual"]}
    return xr.Dataset(data, coords=coords)


@pytest.fixture(scope="module")
def probes() -> xr.Dataset:
    rng = np.random.default_rng(0)
    rows = [
        (model, seed, step, f"probe/pos/codelength@layer{layer}", 100 / (1 + step * (1 + layer)) + rng.uniform())
        for model in ("tiny", "less-tiny")
        for seed in range(RUNS)
        for step in STEPS
        for layer in range(3)
    ]
    cube = cube_from_records(pd.DataFrame(rows, columns=["model", "seed", "step", "metric", "value"]))
    cube = cube.sel(model=["tiny", "less-tiny"])
    return cube.assign_coords(layer=("metric", [0, 1, 2]), chance=("metric", [120.0] * 3))


@pytest.fixture(scope="module")
def weights() -> xr.DataTree:
    """Probes of two seeds with three classes in eight dimensions."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1, 3, 4, 2, 3, 8))
    data = xr.Dataset(
        {"weights": (dims("layer", "probe_class", "hidden"), values)},
        coords={"model": ["tiny"], "seed": range(3), "step": [0, 1, 2, 4], "layer": [0, 1], "hidden": range(8)}
        | {"probe_task": ("probe_class", ["pos"] * 3), "probe_class": ["a", "b", "c"]},
    )
    return xr.DataTree.from_dict({"probes": data})


@pytest.fixture(scope="module")
def items(labels: dict) -> xr.Dataset:
    """Twelve items: four always right, four always wrong, four at random."""
    rng = np.random.default_rng(0)
    correct = np.zeros((2, RUNS, len(STEPS), 12), dtype=np.int64)
    correct[..., :4] = 1
    correct[..., 8:] = rng.integers(0, 2, size=(2, RUNS, len(STEPS), 4))
    coords = labels | {"item": [f"i{k}" for k in range(12)], "task": ("item", ["sums"] * 12)}
    return xr.Dataset(
        {"correct": (dims("item"), correct)}, coords=coords | {"doc_hash": ("item", [f"h{k}" for k in range(12)])}
    )


@pytest.fixture(scope="module")
def off() -> xr.Dataset:
    """Six runs of which seed 2 leaves the others at step 4 and seed 5 diverges at the end."""
    rng = np.random.default_rng(0)
    value = rng.normal(size=(6, len(STEPS)))
    value[2, 3:] += 40
    rows = [
        ("tiny", s, step, f"loss/{k}/ce", value[s, t] + k)
        for s in range(6)
        for t, step in enumerate(STEPS)
        for k in (0, 1)
    ]
    cube = cube_from_records(pd.DataFrame(rows, columns=["model", "seed", "step", "metric", "value"]))
    changed = cube["value"].copy()
    changed.loc[{"seed": 5, "step": 8}] = np.inf
    return cube.assign(value=changed)


# --- all of them ------------------------------------------------------------------------------------------------------

DRAW: dict[str, Callable[..., Figure]] = {
    "embedding": plots.embedding_matrix,
    "directions": plots.direction_overlap,
    "dimensions": plots.outlier_dimensions,
    "probes": plots.probe_layers,
    "weights": plots.probe_angles,
    "items": plots.item_map,
    "off": plots.run_distances,
}


@pytest.mark.slow
@pytest.mark.parametrize("given", DRAW)
def test_a_picture_lands_on_a_given_ax_with_words_of_its_own(given: str, request: pytest.FixtureRequest) -> None:
    figure = Figure()
    assert DRAW[given](request.getfixturevalue(given), ax=figure.add_subplot()) is figure
    assert len(plots.describe_picture(figure)) > 40


@pytest.mark.parametrize("given", DRAW)
def test_a_picture_of_a_model_that_is_not_there_is_refused(given: str, request: pytest.FixtureRequest) -> None:
    wrong = {"models": ["tni"]} if given == "directions" else {"model": "tni"}
    with pytest.raises(SelectionError, match="tiny"):
        DRAW[given](request.getfixturevalue(given), **wrong)


@pytest.mark.slow
@pytest.mark.parametrize("given", DRAW)
def test_a_picture_of_one_seed_is_drawn(given: str, request: pytest.FixtureRequest) -> None:
    data = request.getfixturevalue(given)
    one = data.isel(seed=[0])
    if given in ("items", "off"):  # nothing can be said of one run, and that is said
        assert "nothing to draw" in texts(DRAW[given](one))
    else:
        DRAW[given](one).draw_without_rendering()


@pytest.mark.parametrize("given", ["embedding", "directions", "dimensions", "items", "weights"])
def test_a_cube_without_the_group_is_refused(given: str, off: xr.Dataset) -> None:
    with pytest.raises(AnalysisError, match="open_tree"):
        DRAW[given](off)


@pytest.mark.slow
def test_names_stay_text_in_svg(dimensions: xr.Dataset) -> None:
    wild = dimensions.assign_coords(model=["<m>&$x$"])
    figure = plots.outlier_dimensions(wild)
    svg = plots.to_svg(figure, title="t", description=plots.describe_picture(figure), prefix="x")
    ET.fromstring(svg)
    assert "&lt;m&gt;&amp;$x$" in svg


@pytest.mark.slow
def test_the_same_data_give_the_same_svg(embedding: xr.Dataset) -> None:
    first, second = (
        plots.to_svg(plots.embedding_similarity(embedding), title="t", description="d", prefix="x") for _ in range(2)
    )
    assert first == second


def test_pictures_without_words_of_their_own_give_none(off: xr.Dataset) -> None:
    assert plots.describe_picture(plots.curves(off, metric="loss/0/ce")) == ""


@pytest.mark.slow
def test_drawing_never_imports_pyplot() -> None:
    code = (
        "import sys, numpy as np; from polystab import plots\n"
        "plots.qq(np.random.default_rng(0).normal(size=(9, 9)))\n"
        "import polystab.plots.animation, polystab.plots.agreement, polystab.plots.probes, polystab.plots.runs\n"
        "print('matplotlib.pyplot' in sys.modules, 'scipy.stats' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"] * 3


# --- embeddings, directions, dimensions -------------------------------------------------------------------------------


def test_the_opacity_of_a_matrix_is_the_median_correlation(embedding: xr.Dataset) -> None:
    figure = plots.embedding_matrix(embedding, model="tiny", step=2)
    drawn = figure.axes[0].images[0].get_array()
    expected = np.median(embedding["correlation"].sel(model="tiny", step=2).values, axis=0)
    rows, columns = embedding["first_token"].values, embedding["second_token"].values
    np.testing.assert_allclose(drawn[rows, columns, 3], np.abs(expected))
    np.testing.assert_allclose(drawn[columns, rows], drawn[rows, columns])
    blue = drawn[rows, columns, 2] > drawn[rows, columns, 0]
    np.testing.assert_array_equal(blue, expected > 0)


def test_the_matrix_of_one_run_is_its_own(embedding: xr.Dataset) -> None:
    figure = plots.embedding_matrix(embedding, seed=3)
    expected = embedding["correlation"].sel(model="less-tiny", step=8, seed=3).values
    np.testing.assert_allclose(figure.axes[0].images[0].get_array()[0, 1:, 3], np.abs(expected[:3]))
    assert figure.axes[0].get_title(loc="left") == "step 8, less-tiny seed 3"


def test_a_step_without_an_embedding_is_refused(embedding: xr.Dataset) -> None:
    with pytest.raises(SelectionError, match="no measured step 4"):
        plots.embedding_matrix(embedding.where(embedding["step"] != 4), step=4)


@pytest.mark.slow
def test_similarity_is_drawn_alike_from_the_group_and_from_the_result(embedding: xr.Dataset) -> None:
    one, other = plots.embedding_similarity(embedding), plots.embedding_similarity(embedding_similarity(embedding))
    np.testing.assert_array_equal(named_lines(one)["tiny"], named_lines(other)["tiny"])


@pytest.mark.slow
def test_overlaps_stand_beside_those_of_random_tokens(directions: xr.Dataset) -> None:
    figure = plots.direction_overlap(directions)
    assert [ax.get_title(loc="left") for ax in figure.axes] == directions["matrix"].values.tolist()
    assert [line.get_ydata()[0] for line in figure.axes[0].lines if line.get_linestyle() == ":"] or "chance" in texts(
        figure
    )
    levels = [line.get_ydata()[0] for line in figure.axes[0].lines if len(set(line.get_xdata())) == 2]
    assert levels == [pytest.approx(5 / 50)]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"overlap": "bset"}, "best"), ({"matrices": ["layers.0.ov"]}, "attention"), ({"matrices": []}, "at least")],
)
def test_overlaps_that_there_are_not_are_refused(directions: xr.Dataset, wrong: dict, said: str) -> None:
    with pytest.raises(SelectionError, match=said):
        plots.direction_overlap(directions, **wrong)


def test_a_line_stands_where_another_dimension_becomes_the_largest(dimensions: xr.Dataset) -> None:
    figure = plots.outlier_dimensions(dimensions)
    assert [line.get_xdata()[0] for line in figure.axes[0].lines] == [1.5]
    assert {"7", "3", "1", "75\N{NO-BREAK SPACE}%", "100\N{NO-BREAK SPACE}%"} <= set(texts(figure))


def test_rows_of_dimensions_are_seeds_by_their_own_numbers(dimensions: xr.Dataset) -> None:
    labels = [label.get_text() for label in plots.outlier_dimensions(dimensions).axes[0].get_yticklabels()]
    assert labels == ["seed 4", "seed 5"]


def test_a_site_that_is_not_there_is_refused(dimensions: xr.Dataset) -> None:
    with pytest.raises(SelectionError, match=r"layers\.1\.residual"):
        plots.outlier_dimensions(dimensions, site="layers.1.residuals")


# --- probes -----------------------------------------------------------------------------------------------------------


def test_codelengths_are_medians_by_layer(probes: xr.Dataset) -> None:
    found = named_lines(plots.probe_layers(probes, model="tiny"))
    for layer in range(3):
        values = probes["value"].sel(model="tiny", metric=f"probe/pos/codelength@layer{layer}").values
        np.testing.assert_allclose(found[f"layer {layer}"], np.median(values, axis=0))
    np.testing.assert_allclose(found["uniform code"], 120)


def test_a_level_that_would_press_the_lines_flat_is_said_and_not_drawn(probes: xr.Dataset) -> None:
    far = probes.assign_coords(chance=("metric", [1e5] * 3))
    figure = plots.probe_layers(far)
    assert "uniform code" not in named_lines(figure)
    assert "uniform code: 100,000, above what is drawn" in texts(figure)
    assert figure.axes[0].get_ylim()[1] < 1000


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"task": "poss"}, "'pos'"), ({"variable": "codelenght"}, "codelength"), ({"layers": [9]}, "no layer 9")],
)
def test_codelengths_that_there_are_not_are_refused(probes: xr.Dataset, wrong: dict, said: str) -> None:
    with pytest.raises(SelectionError, match=said):
        plots.probe_layers(probes, **wrong)


def test_the_centre_of_the_layers_is_that_of_the_analysis(probes: xr.Dataset) -> None:
    result = probe_codelengths(probes)
    found = named_lines(plots.layer_centre(result))["tiny"]
    np.testing.assert_allclose(found, np.median(result["layer_centre"].sel(model="tiny", task="pos"), axis=0))


def test_angles_between_seeds_are_of_pairs_and_stand_beside_random_ones(weights: xr.DataTree) -> None:
    figure = plots.probe_angles(weights, between="seeds")
    assert figure.axes[0].get_legend().get_title().get_text() == "median and middle half of 3 pairs"
    level = named_lines(figure)["random subspaces"]
    assert 45 < level[0] < 90
    assert figure.axes[0].get_ylabel() == "mean angle (degrees)"


def test_angles_between_steps_begin_at_the_second(weights: xr.DataTree) -> None:
    line = plots.probe_angles(weights).axes[0].lines[0]
    assert np.asarray(line.get_xdata()).tolist() == [1, 2, 4]


# --- answers ----------------------------------------------------------------------------------------------------------


def test_kappa_is_the_median_over_runs_beside_chance(items: xr.Dataset) -> None:
    result = agreement(items, level=None)
    figure = plots.agreement_curves(result, tasks=["sums"])
    kappa = result["run_kappa"].sel(comparison="all_pairs", task="sums", answer="correct", model="tiny")
    np.testing.assert_allclose(named_lines(figure)["tiny"], np.median(kappa.values, axis=0))
    assert "chance" in texts(figure)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"comparison": "all"}, "all_pairs"), ({"tasks": ["sum"]}, "sums"), ({"answer": "choice"}, "correct")],
)
def test_agreement_that_there_is_not_is_refused(items: xr.Dataset, wrong: dict, said: str) -> None:
    with pytest.raises(SelectionError, match=said):
        plots.agreement_curves(agreement(items, level=None), **wrong)


def test_shares_of_items_stack_up_to_all_of_them(items: xr.Dataset) -> None:
    result = item_stability(items)
    figure = plots.item_shares(result, model="tiny", task="sums")
    tops = [area.get_paths()[0].get_extents().y1 for area in figure.axes[0].collections]
    assert tops[-1] == pytest.approx(1)
    base = figure.axes[0].collections[0].get_paths()[0].get_extents()
    assert base.y1 == pytest.approx(float(result["unstable_share"].sel(model="tiny", task="sums").max()))
    chance = result["unstable_by_chance"].sel(model="tiny", task="sums").values
    np.testing.assert_allclose(named_lines(figure)["unstable by chance"], chance)


def test_the_map_counts_every_item_once_by_its_kind(items: xr.Dataset) -> None:
    result = item_stability(items)
    figure = plots.item_map(result, model="tiny")
    kinds = result["kind"].sel(model="tiny").values
    meanings = str(result["kind"].attrs["flag_meanings"]).split()
    expected = [f"{kind} {int((kinds == meanings.index(kind)).sum())}" for kind, _, _ in KINDS]
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == expected
    where = np.concatenate([dots.get_offsets() for dots in figure.axes[0].collections])
    assert set(where[:, 1].tolist()) == set(result["share_correct"].sel(model="tiny").values.tolist())


# --- single runs ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_beyond_the_threshold_are_named(off: xr.Dataset) -> None:
    figure = plots.run_scores(off, metric="loss/0/ce")
    assert {"seed 2", "seed 5"} <= set(named_lines(figure))
    score = outlier_scores(off)["score"].sel(metric="loss/0/ce", model="tiny", seed=2)
    np.testing.assert_allclose(named_lines(figure)["seed 2"], score)


@pytest.mark.slow
def test_the_threshold_is_drawn_on_both_sides(off: xr.Dataset) -> None:
    lines = plots.run_scores(off, metric="loss/0/ce").axes[0].lines
    assert [line.get_ydata()[0] for line in lines if list(line.get_xdata()) == [0, 1]] == [-3.5, 3.5]


@pytest.mark.slow
def test_a_diverged_run_is_a_triangle_at_the_edge_in_its_colour(off: xr.Dataset) -> None:
    ax = plots.run_scores(off, metric="loss/0/ce", runs=[5]).axes[0]
    (triangle,) = [line for line in ax.lines if line.get_marker() == "^"]
    (named,) = [line for line in ax.lines if line.get_label() == "seed 5"]
    assert triangle.get_xdata().tolist() == [8]
    assert to_hex(triangle.get_color()) == to_hex(named.get_color())


@pytest.mark.slow
def test_quiet_runs_are_not_named(off: xr.Dataset) -> None:
    quiet = off.sel(seed=[0, 1, 3, 4])
    figure = plots.run_scores(outlier_scores(quiet, threshold=50.0), metric="loss/0/ce")
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["other runs"]
    assert plots.describe_picture(figure).endswith("No run is beyond it.")


@pytest.mark.slow
@pytest.mark.parametrize(("runs", "said"), [([9], "no seed 9"), (range(6), "up to 5")])
def test_runs_that_cannot_be_named_are_refused(off: xr.Dataset, runs: list[int], said: str) -> None:
    with pytest.raises(SelectionError, match=said):
        plots.run_scores(off, metric="loss/0/ce", runs=runs)


def test_distances_are_those_of_the_analysis(off: xr.Dataset) -> None:
    result = joint_distance(off)
    found = named_lines(plots.run_distances(result, runs=[2]))["seed 2"]
    expected = result["distance"].sel(model="tiny", seed=2).values
    np.testing.assert_allclose(found, expected[np.isfinite(expected)])


@pytest.mark.slow
def test_every_picture_of_the_bundled_cube_can_be_drawn() -> None:
    tree = ps.load_tree("nano")
    for draw in (
        lambda: plots.statistics(tree, family="activation", measure="logit_max"),
        lambda: plots.layer_curves(tree, family="gradient", measure="rms", part="mlp.dense_h_to_4h"),
        lambda: plots.layer_profile(tree, family="activation", measure="rms", part="residual"),
        lambda: plots.embedding_matrix(tree),
        lambda: plots.embedding_similarity(tree, against="seeds"),
        lambda: plots.outlier_dimensions(tree),
        lambda: plots.probe_layers(tree),
        lambda: plots.layer_centre(tree, variable="expected_layer"),
        lambda: plots.agreement_curves(tree, comparison="last_step"),
        lambda: plots.item_shares(tree),
        lambda: plots.item_map(tree),
        lambda: plots.run_scores(tree, metric="loss/validation/cross_entropy"),
    ):
        figure = draw()
        figure.draw_without_rendering()
        assert plots.describe_picture(figure)
