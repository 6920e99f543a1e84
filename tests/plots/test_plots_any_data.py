"""Every public picture of whatever a cube may hold: it draws, or says in the project's own words why not."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

import polystab as ps
from polystab import analysis, plots
from polystab.analysis.agreement.runs import agreement
from polystab.analysis.comparisons import compare_cubes
from polystab.analysis.early_warning import EarlyWarning, evaluate_warning
from polystab.analysis.maps.reading import state_transitions
from polystab.analysis.phases.consensus import consensus_change_points
from polystab.analysis.phases.curves import change_points
from polystab.analysis.training_maps import fit_training_map
from polystab.errors import AnalysisError, PolystabError, SelectionError
from polystab.plots.given import whole_cube
from polystab.sources.weights.histograms import bin_centres, bin_edges

METRIC = "eval/nano_agreement/acc"
METRICS = [
    METRIC,
    "loss/validation/cross_entropy",
    "weight/all/t_nu",
    "weight/attention.dense/t_nu",
    *(f"activation/layers.{n}.residual/rms" for n in range(2)),
    *(f"probe/nano.depth/{name}@layer{n}" for name in ("codelength", "control_codelength") for n in range(3)),
]
PART = "layers.0.attention.dense"
HOSTILE = '<script>alert("1")</script> & ]]> \'$\\frac{1}$ \N{SNOWMAN}'
RUN = ("model", "seed", "step")


@cache
def plain() -> xr.DataTree:
    """Two models, four seeds and six checkpoints of nano, of everything a little; and weights that were never trained."""
    whole = ps.load_tree("nano")
    part = whole.isel(model=[0, 1], seed=range(4), step=[0, 4, 12, 18, 24, 30])
    groups = {name: group.to_dataset(inherit=False).load() for name, group in part.children.items()}
    groups["items"] = groups["items"].isel(item=slice(None, None, 30))
    groups["directions"] = groups["directions"].isel(matrix=[0, 1])
    groups["dimensions"] = groups["dimensions"].isel(site=[0, -1])
    groups["log"] = groups["log"].isel(update=slice(None, None, 20))
    groups["probes"] = groups["probes"].isel(layer=[0, 1, 2])
    del groups["audit"]
    cube = part.to_dataset().sel(metric=METRICS).load()
    sizes = tuple(cube.sizes[dim] for dim in RUN)
    rng = np.random.default_rng(0)
    edges = bin_edges()
    counts = rng.poisson(3, (*sizes, 1, len(edges) - 1))
    groups["histograms"] = xr.Dataset(
        {"count": ((*RUN, "subject", "bin"), counts)},
        coords={"subject": [PART], "bin": bin_centres(), "low": ("bin", edges[:-1]), "high": ("bin", edges[1:])},
    )
    values = np.sort(rng.gamma(2.0, size=(*sizes, 1, 6)))[..., ::-1]
    groups["spectra"] = xr.Dataset(
        {"singular_value": ((*RUN, "subject", "rank"), values)}, coords={"subject": [PART], "rank": range(1, 7)}
    )
    return tree_of(cube, groups)


def tree_of(cube: xr.Dataset, groups: dict[str, xr.Dataset]) -> xr.DataTree:
    return xr.DataTree.from_dict({"/": cube, **{f"/{name}": group for name, group in groups.items()}})


def changed(tree: xr.DataTree, change: Callable[[xr.Dataset], xr.Dataset]) -> xr.DataTree:
    groups = {name: change(group.to_dataset(inherit=False)) for name, group in tree.children.items()}
    return tree_of(change(tree.to_dataset()), groups)


def unmeasured(data: xr.Dataset) -> xr.Dataset:
    def empty(values: xr.DataArray) -> xr.DataArray:
        return xr.full_like(values, np.nan if values.dtype.kind == "f" else -1)

    return data.assign({str(v): empty(data[v]) for v in data.data_vars if data[v].dtype.kind in "fi"})


def one_metric_unmeasured(tree: xr.DataTree) -> xr.DataTree:
    cube = tree.to_dataset()
    gone = cube.assign({v: cube[v].where(cube["metric"] != METRIC) for v in ("value", "stderr")})
    return tree_of(gone, {name: group.to_dataset(inherit=False) for name, group in tree.children.items()})


def diverged(tree: xr.DataTree) -> xr.DataTree:
    cube = tree.to_dataset()
    late = (cube["seed"] == 0) & (cube["step"] > 10) | (cube["seed"] == 1)
    bad = cube.assign(value=cube["value"].where(~late, np.inf).where(~(late & (cube["seed"] == 1)), -np.inf))
    return tree_of(bad, {name: group.to_dataset(inherit=False) for name, group in tree.children.items()})


def sixty_models(tree: xr.DataTree) -> xr.DataTree:
    def many(data: xr.Dataset) -> xr.Dataset:
        found = data.isel(model=[0] * 60) if "model" in data.dims else data
        return found.assign_coords(model=[f"m{i:02}" for i in range(60)]) if "model" in found.coords else found

    # A copied run would count once, of all models alike.
    return changed(tree.isel(seed=[0, 1, 2]), many)


def called(name: str) -> Callable[[xr.DataTree], xr.DataTree]:
    def change(tree: xr.DataTree) -> xr.DataTree:
        return changed(
            tree,
            lambda data: data.assign_coords(model=[f"{name}{i}" for i in range(2)]) if "model" in data.coords else data,
        )

    return change


VARIANTS: dict[str, Callable[[xr.DataTree], xr.DataTree]] = {
    "plain": lambda tree: tree,
    "one metric is all NaN": one_metric_unmeasured,
    "nothing was measured": lambda tree: changed(tree, unmeasured),
    "one seed": lambda tree: tree.isel(seed=[0]),
    "one step": lambda tree: tree.isel(step=[-1]),
    "step 0 only": lambda tree: tree.isel(step=[0]),
    "seed dropped": lambda tree: tree.isel(seed=0),
    "step dropped": lambda tree: tree.isel(step=0),
    "model dropped": lambda tree: tree.isel(model=0),
    "infinite": diverged,
    "60 models": sixty_models,
    "long and hostile names": called(HOSTILE + " and a very long name" * 12),
}


def cube_of(tree: xr.DataTree) -> xr.Dataset:
    return tree.to_dataset()


def changes_of(tree: xr.DataTree) -> xr.Dataset:
    return consensus_change_points(change_points(whole_cube(cube_of(tree)), metrics=[METRIC], rng=0), rng=0)


def map_of(tree: xr.DataTree) -> xr.Dataset:
    metrics = METRICS[:2]
    return fit_training_map(whole_cube(cube_of(tree)), metrics=metrics, n_states=[2], n_restarts=1, rng=0).states


def evaluation_of(tree: xr.DataTree) -> xr.Dataset:
    novel = EarlyWarning(method="novelty", families=["log"], steps=[200, 400], n_folds=2, rng=0)
    wrong = analysis.failed_runs(tree)
    if wrong.sizes["seed"] > 1:
        bad = wrong["seed"] == 1
        wrong = wrong.assign(wrong=wrong["wrong"] | bad, seen_at=wrong["seen_at"].where(~bad, 1000.0))
    return evaluate_warning(tree, wrong, methods={"novelty": novel}, n_splits=2, n_resamples=9, rng=0)


def two_cubes(tree: xr.DataTree) -> tuple[xr.Dataset, xr.Dataset]:
    cube = whole_cube(cube_of(tree)).sel(metric=METRICS[:2])
    return cube, cube.assign(value=cube["value"] + 0.01 * (1 + cube["seed"]))


def curves_of_two(tree: xr.DataTree) -> Figure:
    cube, other = two_cubes(tree)
    return plots.compared_curves(cube, other, metric=METRIC, model=str(cube["model"].values[0]))


# What each picture draws, from a tree; pictures of results have them made first.
PICTURES: dict[str, Callable[[xr.DataTree], Figure]] = {
    "agreement_curves": lambda tree: plots.agreement_curves(tree),
    "change_points": lambda tree: plots.change_points(changes_of(tree)),
    "compared_curves": curves_of_two,
    "coverage": lambda tree: plots.coverage(cube_of(tree)),
    "curves": lambda tree: plots.curves(cube_of(tree), metric=METRIC),
    "differences": lambda tree: plots.differences(compare_cubes(*two_cubes(tree), rng=0)),
    "direction_overlap": lambda tree: plots.direction_overlap(tree),
    "embedding_matrix": lambda tree: plots.embedding_matrix(tree),
    "embedding_similarity": lambda tree: plots.embedding_similarity(tree),
    "histogram": lambda tree: plots.histogram(tree, subject=PART),
    "item_map": lambda tree: plots.item_map(tree),
    "item_shares": lambda tree: plots.item_shares(tree),
    "layer_centre": lambda tree: plots.layer_centre(tree),
    "layer_curves": lambda tree: plots.layer_curves(tree, family="activation", measure="rms", part="residual"),
    "layer_profile": lambda tree: plots.layer_profile(tree, family="activation", measure="rms", part="residual"),
    "map_strips": lambda tree: plots.map_strips(map_of(tree)),
    "outlier_dimensions": lambda tree: plots.outlier_dimensions(tree),
    "outliers": lambda tree: plots.outliers(cube_of(tree)),
    "probe_angles": lambda tree: plots.probe_angles(tree),
    "probe_layers": lambda tree: plots.probe_layers(tree),
    "qq": lambda tree: plots.qq(tree, subject=PART),
    "run_distances": lambda tree: plots.run_distances(tree),
    "run_scores": lambda tree: plots.run_scores(tree, metric=METRIC),
    "spectrum": lambda tree: plots.spectrum(tree, subject=PART),
    "statistics": lambda tree: plots.statistics(tree, measure="t_nu"),
    "transition_graph": lambda tree: plots.transition_graph(state_transitions(map_of(tree))),
    "variance_shares": lambda tree: plots.variance_shares(cube_of(tree), metric=METRIC),
    "warning_curves": lambda tree: plots.warning_curves(evaluation_of(tree)),
}

# These are of a cube, and every cube has one.
ALWAYS = ("coverage", "curves", "outliers", "variance_shares", "run_distances", "run_scores")


def test_every_public_picture_is_here() -> None:
    drawn = {name for name in plots.__all__ if not name.startswith("describe_") and name not in ("to_svg", "animate")}
    assert drawn == set(PICTURES)


def as_page_has_it(figure: Figure) -> ET.Element:
    return ET.fromstring(plots.to_svg(figure, title=HOSTILE, description=plots.describe_picture(figure), prefix="p"))


# Pictures of detail groups, which do not read the cube.
OF_GROUPS = (
    "agreement_curves", "direction_overlap", "embedding_matrix", "embedding_similarity", "histogram", "item_map",
    "item_shares", "outlier_dimensions", "qq", "spectrum",
)  # fmt: skip


def makes_sense(name: str, variant: str) -> bool:
    if name == "warning_curves":  # analyses take cubes with all dimensions, and this picture is of an analysis only
        return not variant.endswith("dropped")
    return not (name in OF_GROUPS and variant in ("infinite", "one metric is all NaN"))


COMBINATIONS = [(name, variant) for name in PICTURES for variant in VARIANTS if makes_sense(name, variant)]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), COMBINATIONS)
def test_it_draws_or_says_why_not(name: str, variant: str) -> None:
    tree = VARIANTS[variant](plain())
    if name in ALWAYS or variant == "plain":
        as_page_has_it(PICTURES[name](tree))
        return
    try:
        figure = PICTURES[name](tree)
    except PolystabError as refusal:
        figure, said = None, str(refusal)
    assert figure is not None or len(said) > 20
    if figure is not None:
        as_page_has_it(figure)


# --- results with a dimension that selecting one label took away -----------------------------------------------------

RESULTS: dict[str, tuple[Callable[[xr.DataTree], xr.Dataset], Callable[[xr.Dataset], Figure], tuple[str, ...]]] = {
    "agreement_curves": (agreement, plots.agreement_curves, ("model", "task", "answer")),
    "change_points": (changes_of, plots.change_points, ("model", "metric")),
    "coverage": (lambda tree: analysis.cube_coverage(cube_of(tree)), plots.coverage, ("model", "step")),
    "curves": (
        lambda tree: analysis.seed_band(cube_of(tree)),
        lambda band: plots.curves(band, metric=METRIC),
        ("model", "step", "metric"),
    ),
    "item_map": (analysis.item_stability, plots.item_map, ("model",)),
    "item_shares": (analysis.item_stability, plots.item_shares, ("model", "step")),
    "layer_centre": (analysis.probe_codelengths, plots.layer_centre, ("model", "seed", "step", "task")),
    "map_strips": (map_of, plots.map_strips, ("model", "seed", "step")),
    "outliers": (lambda tree: analysis.outlier_scores(cube_of(tree)), plots.outliers, ("model", "seed", "step")),
    "probe_layers": (analysis.probe_codelengths, plots.probe_layers, ("model", "seed", "step", "task")),
    "run_distances": (
        lambda tree: analysis.joint_distance(cube_of(tree)),
        plots.run_distances,
        ("model", "seed", "step"),
    ),
    "run_scores": (
        lambda tree: analysis.outlier_scores(cube_of(tree)),
        lambda scores: plots.run_scores(scores, metric=METRIC),
        ("model", "seed", "step", "metric"),
    ),
    "transition_graph": (lambda tree: state_transitions(map_of(tree)), plots.transition_graph, ("model",)),
    "variance_shares": (
        lambda tree: analysis.variance_fractions(analysis.variance_components(cube_of(tree))),
        lambda found: plots.variance_shares(found, metric=METRIC),
        ("step", "metric"),
    ),
    "embedding_similarity": (
        analysis.embedding_similarity,
        plots.embedding_similarity,
        ("model", "seed", "step"),
    ),
}


@cache
def result_of(name: str) -> xr.Dataset:
    return RESULTS[name][0](plain())


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dim"), [(name, dim) for name, (_, _, dims) in RESULTS.items() for dim in dims])
def test_a_result_of_which_one_label_was_selected_is_drawn_like_a_list_of_it(name: str, dim: str) -> None:
    found, draw = result_of(name), RESULTS[name][1]
    one, listed = (
        plots.to_svg(draw(found.isel({dim: place})), title="", description="", prefix="p") for place in (0, [0])
    )
    assert one == listed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["curves", "map_strips", "change_points", "coverage", "transition_graph", "outliers"])
def test_a_table_of_something_else_is_refused_with_what_it_lacks(name: str) -> None:
    other = xr.Dataset({"number": ("row", [1.0])})
    with pytest.raises(PolystabError, match=r"lacks|no variable"):
        RESULTS[name][1](other)


def test_a_label_that_is_lost_is_asked_for() -> None:
    band = analysis.seed_band(cube_of(plain())).isel(model=0, drop=True)
    with pytest.raises(AnalysisError, match=r"isel\(model=\[0\]\)"):
        plots.curves(band, metric=METRIC)


def test_a_comparison_that_is_not_there_is_refused() -> None:
    result = result_of("agreement_curves").isel(comparison=[0])
    with pytest.raises(SelectionError, match="all_pairs"):
        plots.agreement_curves(result)


# --- what is seen ------------------------------------------------------------------------------------------------------


def words(figure: Figure) -> str:
    texts = figure.findobj(match=lambda artist: hasattr(artist, "get_text"))
    return " | ".join(text.get_text() for text in texts)


def test_a_metric_that_is_all_nan_is_said_to_be_unmeasured() -> None:
    assert "nothing was measured" in words(plots.curves(cube_of(one_metric_unmeasured(plain())), metric=METRIC))


def test_pictures_of_hostile_names_have_them_as_text() -> None:
    tree = called(HOSTILE)(plain())
    svg = as_page_has_it(plots.coverage(cube_of(tree)))
    assert not [node for node in svg.iter() if node.tag.endswith("script")]
    assert any("<script>" in (node.text or "") for node in svg.iter())


@pytest.mark.slow
def test_map_strips_name_what_they_show() -> None:
    figure = plots.map_strips(result_of("map_strips"))
    assert figure.axes[0].get_title(loc="left") == "training map"


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["nothing was measured", "step 0 only", "infinite"])
def test_a_moving_picture_is_written_or_says_why_not(variant: str, tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    try:
        plots.animate(VARIANTS[variant](plain()), path, what="embedding", dpi=30)
    except PolystabError as refusal:
        said = str(refusal)
    assert path.exists() or "no embedding" in said
