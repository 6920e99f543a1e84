"""The gallery: every picture is drawn, when the documentation is built, by the code that stands beside it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

Names = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """A picture: what it answers, the code that draws it (``figure``), and the expression that gives its words."""

    function: str
    title: str
    says: str
    code: str
    words: str = "plots.describe_picture(figure)"


START = """
import polystab as ps
from polystab import analysis, plots

nano = ps.load_cube("nano")
""".strip()

INDUCTION = "eval/nano_induction/acc"

ENTRIES = (
    Entry(
        "coverage",
        "What was measured",
        "Look here first: a mean over runs that were not all measured is no mean over runs.",
        'demo = ps.load_cube("demo")  # synthetic; one checkpoint of one run is missing\nfigure = plots.coverage(demo)',
        "plots.describe_coverage(analysis.cube_coverage(demo))",
    ),
    Entry(
        "curves",
        "One metric over training",
        "The line is the median of the seeds, the band their middle half. Colour is the model, in order of size.",
        f'figure = plots.curves(nano, metric="{INDUCTION}")',
        f'plots.describe_curves(analysis.seed_band(nano.sel(metric=["{INDUCTION}"])), metric="{INDUCTION}")',
    ),
    Entry(
        "variance_shares",
        "Who is responsible for the spread",
        "The variance of a score at each step, split between models, seeds and test items.",
        "parts = ps.variance_components(nano)\n"
        "shares = analysis.variance_fractions(parts)\n"
        f'figure = plots.variance_shares(shares, metric="{INDUCTION}")',
        f'plots.describe_shares(shares, metric="{INDUCTION}")',
    ),
    Entry(
        "differences",
        "Two cubes against each other",
        "The difference of each metric in seed standard deviations, with its interval. Full marks differ given the seeds; a "
        "triangle points up where the other cube is better.",
        "from polystab.analysis import compare_cubes\n\n"
        'pair = {"nano-33k": "nano-33k-permute"}\n'
        'found = compare_cubes(nano, ps.load_cube("nano-init"), models=pair, rng=0)\n'
        "figure = plots.differences(found)",
    ),
    Entry(
        "compared_curves",
        "One metric in two cubes",
        "Median and middle half of the seeds of both: this cube blue, the other orange.",
        'pair = {"model": "nano-33k", "other_model": "nano-33k-permute"}\n'
        'loss, begun = "loss/validation/cross_entropy", ps.load_cube("nano-init")\n'
        "figure = plots.compared_curves(nano, begun, metric=loss, **pair)",
    ),
    Entry(
        "change_points",
        "Changes that the seeds share",
        "A dot is a seed, the upright line their median, the bar its interval.",
        'metrics = [name for name in nano.metric.values if name.startswith("eval/")]\n'
        "changes = ps.change_points(nano, metrics=metrics, rng=0)\n"
        "shared = analysis.consensus_change_points(changes, rng=0)\n"
        "figure = plots.change_points(shared, steps=nano.step.values)",
        "plots.describe_change_points(shared)",
    ),
    Entry(
        "map_strips",
        "A training map",
        "The state of every run at every checkpoint, by a hidden Markov model over several metrics.",
        "found = ps.fit_training_map(nano, metrics=metrics, n_states=4, rng=0)\nfigure = plots.map_strips(found.states)",
        "plots.describe_map(found.states)",
    ),
    Entry(
        "transition_graph",
        "How states follow one another",
        "An arrow is a transition that runs of the model made; its number says how many.",
        'moves = analysis.state_transitions(found.states)\nfigure = plots.transition_graph(moves, model="nano-215k")',
        'plots.describe_transitions(moves, model="nano-215k")',
    ),
    Entry(
        "outliers",
        "When runs stand out",
        "The share of metrics in which a run is beyond the threshold of the robust z, at every checkpoint: where to "
        "look, not a verdict.",
        'runs = [("toy-8m", seed) for seed in range(10)]  # seed 7 was made to go wrong\n'
        "scores = ps.outlier_scores(demo)\nfigure = plots.outliers(scores, runs=runs)",
        "plots.describe_outliers(scores, runs=runs)",
    ),
    Entry(
        "run_distances",
        "How far each run is from its siblings",
        "Over all metrics at once.",
        'figure = plots.run_distances(demo, model="toy-8m", runs=[7])',
    ),
    Entry(
        "run_scores",
        "The same on one metric",
        "Robust z at every step; the threshold is dashed.",
        'figure = plots.run_scores(demo, metric=str(demo.metric.values[0]), model="toy-8m")',
    ),
    Entry(
        "agreement_curves",
        "Do runs give the same answers",
        "Cohen's kappa of each run with all others, beyond chance.",
        'tree = ps.load_tree("nano")\nfigure = plots.agreement_curves(tree, tasks=["nano_agreement", "nano_brackets"])',
    ),
    Entry(
        "item_shares",
        "How many items the seed decides",
        "Easy: all runs right. Hard: none. Unstable: some runs are right and some are not.",
        'figure = plots.item_shares(tree, task="nano_brackets")',
    ),
    Entry(
        "item_map",
        "A map of the items",
        "Each item by how many runs get it right at the end, and over training.",
        'figure = plots.item_map(tree, task="nano_brackets")',
    ),
    Entry(
        "statistics",
        "A statistic of the weights, by part of the network",
        "Here nu of a fitted Student's t: small means heavy tails.",
        'figure = plots.statistics(nano, measure="t_nu", parts=["all", "mlp.dense_h_to_4h"])',
    ),
    Entry(
        "layer_curves",
        "The same part of all layers",
        "A line a layer, with the middle half of the seeds.",
        'figure = plots.layer_curves(nano, family="gradient", measure="rms", part="mlp.dense_h_to_4h")',
    ),
    Entry(
        "layer_profile",
        "A statistic against the layer",
        "A line a step.",
        'figure = plots.layer_profile(nano, family="activation", measure="rms", part="residual", steps=[0, 100, 1000])',
    ),
    Entry(
        "qq",
        "Are weights normal",
        "Of a matrix, or of the group `histograms`; on the line they are.",
        "import numpy as np\n\n"
        "heavy = np.random.default_rng(0).standard_t(4, size=(60, 60))\n"
        'figure = plots.qq(heavy, subject="numbers with heavy tails")',
    ),
    Entry(
        "outlier_dimensions",
        "Outlier dimensions of the residual stream",
        "Which dimension is largest in each run, and how far it stands out.",
        'figure = plots.outlier_dimensions(tree, site="layers.3.residual")',
    ),
    Entry(
        "embedding_matrix",
        "Correlations between token embeddings",
        "Of the first tokens, the median over the runs.",
        "figure = plots.embedding_matrix(tree, step=1000)",
    ),
    Entry(
        "embedding_similarity",
        "When the embedding takes its final form",
        "Similarity of these correlations to those of the last checkpoint.",
        "figure = plots.embedding_similarity(tree)",
    ),
    Entry(
        "direction_overlap",
        "Do singular directions keep their tokens",
        "The share of top tokens that a direction has in common with that of the last checkpoint.",
        'directions = tree["directions"].to_dataset().sel(model=["nano-33k"])\n'
        'figure = plots.direction_overlap(directions, matrices=["layers.0.mlp.dense_h_to_4h"])',
    ),
    Entry(
        "probe_layers",
        "What probes read from each layer",
        "Codelength in nat: less is easier to read.",
        'figure = plots.probe_layers(nano, task="nano.depth")',
    ),
    Entry(
        "layer_centre",
        "In which layer a task is read",
        "The centre of gravity over the layers, a panel a task.",
        "figure = plots.layer_centre(nano)",
    ),
    Entry(
        "probe_angles",
        "How far probes turn",
        "Angles between the subspaces that probes of neighbouring checkpoints read, beside those of random subspaces.",
        'figure = plots.probe_angles(tree, task="nano.depth", model="nano-33k")',
    ),
)

# They need a group that the bundled cubes lack, or give a file.
NOT_DRAWN = {
    "histogram": "elements of a weight at some steps, from the group `histograms`",
    "spectrum": "singular values by rank, from the group `spectra`",
    "warning_curves": "how well early warnings work against step, from `evaluate_warning`, which takes a while",
    "animate": "a GIF or MP4 of a distribution, a spectrum or the embedding over training",
}


def gallery_page() -> str:
    """The page, with the pictures in it."""
    names: Names = {}
    exec(START, names)  # noqa: S102 what the page shows is what is run
    parts = [
        "# Gallery",
        "One function a picture; each takes a cube or a result, draws on `ax` if you give one, and returns a "
        "matplotlib `Figure`, which a notebook shows. The pictures here were drawn from the bundled cubes when this page was "
        "built, by the code below them, from top to bottom. `plots.describe_picture` and its sisters say a picture in words: "
        "the text alternative.",
        f"```python\n{START}\n```",
    ]
    for i, entry in enumerate(ENTRIES):
        link = f"[`plots.{entry.function}`][polystab.plots.{entry.function}]"
        parts += [f"## {entry.title}", f"{entry.says} {link}"]
        parts += [_drawn(entry, names, f"g{i}"), f"```python\n{entry.code}\n```"]
    parts += ["## Not shown here"]
    parts += ["\n".join(f"- [`plots.{name}`][polystab.plots.{name}]: {says}" for name, says in NOT_DRAWN.items())]
    return "\n\n".join(parts) + "\n"


def _drawn(entry: Entry, names: Names, prefix: str) -> str:
    """The picture as HTML, with the colours that it has on a dark page."""
    from polystab.plots import to_svg
    from polystab.plots.style import FIXED

    exec(entry.code, names)  # noqa: S102
    words = str(eval(entry.words, names))  # noqa: S307
    svg = to_svg(names["figure"], title=entry.title, description=words, prefix=prefix, inks=_inks())
    dark = ";".join(f"--{ink.name}:{ink.dark}" for ink in (*FIXED, *_inks()) if f"--{ink.name}," in svg)
    style = f'<style>[data-md-color-scheme="slate"] #{prefix}{{{dark}}}</style>'
    # A point becomes 1 to 1.35 pixels, so that text can be read; what is wider than a phone scrolls.
    width = float(svg.split('viewBox="0 0 ', 1)[1].split(" ", 1)[0])
    svg = svg.replace("<svg ", f'<svg style="min-width:{width:.0f}px;max-width:{1.35 * width:.0f}px" ', 1)
    return f'<figure class="picture" id="{prefix}" tabindex="0" data-search-exclude>{style}{svg}</figure>'


@cache
def _inks() -> tuple[Any, ...]:
    """The colours of up to six models, states, layers or steps, each once."""
    from polystab.plots.style import Ink, model_inks, state_inks

    every = [ink for n in range(1, 7) for ink in (*model_inks(n), *state_inks(n))]
    dark = {ink.light: ink.dark for ink in every}
    return tuple(Ink(f"i{number}", light, dark[light]) for number, light in enumerate(dark))
