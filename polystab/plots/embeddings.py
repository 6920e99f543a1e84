"""Token embeddings: how they correlate, and how soon they are arranged as at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from polystab.analysis.arrays import Floats, median
from polystab.analysis.representations.embedding import embedding_matrix as matrix_of
from polystab.analysis.representations.embedding import embedding_similarity as similarity_of
from polystab.analysis.representations.groups import read_group
from polystab.plots.bands import as_result, head_and_legend, largest_model, place_of, say, texts_of
from polystab.plots.given import whole_result
from polystab.plots.panels import curve_panels, mini_cube
from polystab.plots.style import GRID, canvas, language
from polystab.words import count, number, plural

# Of a raster, whose pixels no stylesheet can replace: legible on white and on a dark page.
_ALIKE, _OPPOSED = "#2f6fbd", "#c4551a"


def embedding_matrix(
    data: xr.Dataset | xr.DataTree,
    *,
    model: str | None = None,
    seed: int | None = None,
    step: int | None = None,
    legend: bool = True,
    title: bool = True,
    size: tuple[float, float] = (4.6, 5.2),
    ax: Axes | None = None,
) -> Figure:
    """Draw the correlations of the embeddings of the first tokens, as a matrix.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        The group ``embedding``, or a tree that has it.
    model : str, optional
        Which model; by default the last.
    seed : int, optional
        Only this run; by default the median over all, which can be taken as correlations
        do not depend on the basis of the embedding.
    step : int, optional
        Which step; by default the last that was measured.
    legend, title : bool, optional
        Whether to draw them.
    size : (float, float), optional
        Width and height of a new figure, in inches.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure: blue where embeddings are alike, orange where they are opposed, the
        stronger the more, nothing at 0. Tokens stand in the order of the vocabulary.

    Raises
    ------
    AnalysisError
        There is no such group.
    SelectionError
        It has no such model, seed or step.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab import plots
    >>> figure = plots.embedding_matrix(ps.load_tree("nano"), step=1000)
    >>> figure.axes[0].get_title(loc="left")
    'step 1,000, nano-215k: median of 10 runs'
    """
    tables = Tables.read(data, model, seed)
    last = tables.steps[-1] if tables.steps else 0
    at = tables.steps[place_of(last if step is None else step, tables.steps, "measured step")]
    table = tables.at(at)
    head = f"step {count(at)}, {tables.head}"
    with language():
        figure, ax = canvas(ax, size)
        matrix_axes(ax, table, head, title=title, legend=legend)
        off = table[~np.eye(len(table), dtype=bool)]
        off = off[~np.isnan(off)]
        told = f"from {number(off.min(), digits=3)} to {number(off.max(), digits=3)}" if len(off) else "not measured"
        say(ax, f"Correlations of the embeddings of {plural(len(table), 'token')} at {head}: {told} between tokens.")
    return figure


@dataclass(frozen=True)
class Tables:
    """Correlations of embeddings as square tables, step by step: of a run, or the median of all that are no copies."""

    group: xr.Dataset
    head: str
    steps: list[int]

    @classmethod
    def read(cls, data: xr.Dataset | xr.DataTree, model: str | None, seed: int | None) -> Tables:
        """Find them in the group, or in a tree that has it."""
        group, copies = read_group(data, "embedding", ("correlation", "first_token", "second_token"))
        name = largest_model(group, model)
        m = texts_of(group["model"]).index(name)
        known = group["seed"].values.tolist()
        runs = np.flatnonzero(~copies[m]).tolist() if seed is None else [place_of(seed, known, "seed")]
        chosen = group.isel(model=[m], seed=runs)
        there = chosen["correlation"].notnull().any("pair").values[0]
        n = int(there.any(axis=1).sum())
        head = f"{name} seed {seed}" if seed is not None else f"{name}: median of {plural(n, 'run')}"
        return cls(chosen, head, [int(step) for step in chosen["step"].values[there.any(axis=0)].tolist()])

    def at(self, step: int) -> Floats:
        """The table (token, token) at a step."""
        return median(matrix_of(self.group.sel(step=[step])).values[0, :, 0], axis=0)


def matrix_axes(ax: Axes, table: Floats, head: str, *, title: bool, legend: bool) -> None:
    """A table of correlations in colours, with what they mean above it."""
    ax.grid(visible=False)
    # An equal aspect would have the layout of the figure cut titles off; its size makes cells nearly square.
    ax.imshow(_signed_colours(table), interpolation="nearest", aspect="auto", origin="upper")
    ax.set_xlabel("token, and down the same tokens")
    ax.tick_params(length=2)
    handles = [
        Patch(facecolor=_signed_colours(np.array([[value]]))[0, 0], edgecolor=GRID.light, label=text)
        for value, text in ((-1.0, "−1"), (-0.5, "−0.5"), (0.0, "0"), (0.5, "0.5"), (1.0, "1"))
    ]
    told = "correlation: orange opposed, blue alike"
    head_and_legend(ax, head, told, title=title, legend=legend, handles=handles, columns=len(handles))


def _signed_colours(table: Floats) -> npt.NDArray[np.float64]:
    """RGBA of numbers from -1 to 1: the ink says the sign and its opacity the size, so that 0 is any page's own colour."""
    size = np.clip(np.abs(np.nan_to_num(table)), 0, 1)
    colours = np.empty((*table.shape, 4))
    colours[..., :3] = np.where((np.nan_to_num(table) < 0)[..., None], to_rgb(_OPPOSED), to_rgb(_ALIKE))
    colours[..., 3] = size
    return colours


def embedding_similarity(
    data: xr.Dataset | xr.DataTree,
    *,
    models: Sequence[str] | None = None,
    against: str | int = "last",
    legend: bool = True,
    title: bool = True,
    ax: Axes | None = None,
) -> Figure:
    """Draw how alike the embedding is to that of the end of training, or of the other seeds.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        Result of :func:`polystab.analysis.embedding_similarity`, or what it takes.
    models : sequence of str, optional
        Which models.
    against : {"last", "seeds"} or int, optional
        As there; of no use to a result.
    legend, title : bool, optional
        Whether to draw them.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a new figure.

    Returns
    -------
    matplotlib.figure.Figure
        The figure: medians and middle halves over the runs of each model.

    Raises
    ------
    AnalysisError
        There is no group ``embedding``.
    SelectionError
        No such model.

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab import plots
    >>> plots.embedding_similarity(ps.load_tree("nano")).axes[0].get_ylabel()
    'similarity'
    """
    if (result := as_result(data, "similarity")) is None:
        result = similarity_of(data, against=against)
    result = whole_result(result, {"similarity": ("model", "seed", "step")}, "embedding_similarity")
    head = f"embedding, {against_words(result)}"
    return curve_panels(
        mini_cube(result["similarity"].expand_dims(metric=["similarity"]), "metric"),
        ["similarity"],
        names=[head],
        ax=ax,
        models=models,
        legend=legend,
        title=title,
        label="similarity",
        span=(None, 1.02),
    )


def against_words(result: xr.Dataset) -> str:
    """``against the last step``, as a result says."""
    against = str(result.attrs.get("against", ""))
    words = {"last": "the last step", "seeds": "the other seeds", "": "another checkpoint"}
    return f"against {words.get(against) or f'step {against}'}"
