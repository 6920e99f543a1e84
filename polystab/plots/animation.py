"""Distributions in motion: a frame a checkpoint, as GIF or MP4."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from polystab.errors import OutputError, SelectionError, did_you_mean
from polystab.files import atomic_path, require_writable
from polystab.plots.bands import SIZE, Series, draw_series, place_of, runs_title, spread
from polystab.plots.describe import MAX_THIN
from polystab.plots.elements import (
    Part,
    density_axes,
    density_series,
    quantile_axes,
    quantile_series,
    read_part,
    spectrum_axes,
    spectrum_series,
)
from polystab.plots.embeddings import Tables, matrix_axes
from polystab.plots.style import MUTED, Picture, language
from polystab.words import count, short_name

if TYPE_CHECKING:
    from matplotlib.animation import AbstractMovieWriter

WHAT = ("histogram", "qq", "spectrum", "embedding")

# More frames than this make a file that nobody sends.
MAX_FRAMES = 120

# Matrices have most detail: without being asked, so many of 256 tokens stay at some megabytes.
_MATRICES = 40

# Seconds for which the last frame stands.
_HOLD = 1.0

_MATRIX = (4.6, 5.2)

Draw = Callable[[Axes, int], None]


def animate(
    data: xr.Dataset | xr.DataTree,
    path: str | os.PathLike[str],
    *,
    what: str = "histogram",
    subject: str | None = None,
    model: str | None = None,
    seed: int | None = None,
    steps: Sequence[int] | None = None,
    fps: float = 6.0,
    dpi: float = 100.0,
    overwrite: bool = True,
) -> Path:
    """Write how a distribution changes over training as a moving picture: a frame a checkpoint.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        The group ``histograms`` (for ``histogram`` and ``qq``), ``spectra`` (``spectrum``) or
        ``embedding``; or a tree that has it.
    path : path-like
        Ends in ``.gif`` or ``.mp4``. Written whole or not at all.
    what : {"histogram", "qq", "spectrum", "embedding"}, optional
        As the pictures of those names; ``embedding`` is :func:`polystab.plots.embedding_matrix`.
    subject : str, optional
        Which parameter; needed but for ``embedding``.
    model : str, optional
        Which model; by default the last.
    seed : int, optional
        Only this run. By default all: their median and middle half, each of them thinly if
        there are no more than twelve, and of the embedding the median.
    steps : sequence of int, optional
        Which steps, up to 120; by default all that were measured, or so many of them, evenly,
        and 40 of ``embedding``, whose frames are the largest.
    fps : float, optional
        Frames a second; the last one stands a while.
    dpi : float, optional
        Dots per inch, of 4.6 inches.
    overwrite : bool, optional
        Whether a file that is there may be replaced.

    Returns
    -------
    pathlib.Path
        The file. Axes stand still; the first step stays behind in grey. As GIF the same
        data give the same bytes with the same versions of matplotlib and Pillow.

    Raises
    ------
    AnalysisError
        There is no such group.
    SelectionError
        No such picture, parameter, model, seed or step; no parameter is named.
    OutputError
        The path cannot be written or has another ending, or there is no ffmpeg for MP4.

    Examples
    --------
    >>> import polystab as ps, tempfile
    >>> from polystab import plots
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     group = ps.load_tree("nano")["embedding"].to_dataset()
    ...     plots.animate(group, f"{folder}/e.gif", what="embedding", steps=[0, 100], fps=1, dpi=30).name
    'e.gif'
    """
    if what not in WHAT:
        raise SelectionError(f"no moving picture is called {what!r}. {did_you_mean(what, WHAT)}")
    for name, given in (("fps", fps), ("dpi", dpi)):
        if not (isinstance(given, int | float) and 0 < given <= 600):
            raise SelectionError(f"{name} is {given!r}; give a number above 0, up to 600.")
    target = require_writable(path, overwrite=overwrite)
    with language():
        writer = _writer(target, fps)
        frames, draw = (
            _embedding(data, model, seed, steps)
            if what == "embedding"
            else _lines(data, what, subject, model, seed, steps)
        )
        # The writers go by the ending of the file, which that of an unfinished one is not.
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / f"moving{target.suffix.lower()}"
            _record(writer, made, frames, draw, _MATRIX if what == "embedding" else SIZE, fps, dpi)
            with atomic_path(target, overwrite=overwrite) as unfinished:
                shutil.copyfile(made, unfinished)
    return target


def _writer(target: Path, fps: float) -> AbstractMovieWriter:
    from matplotlib.animation import FFMpegWriter, PillowWriter

    if target.suffix.lower() == ".gif":
        return PillowWriter(fps=fps)  # type: ignore[arg-type]  # it takes fractions
    if target.suffix.lower() != ".mp4":
        raise OutputError(f"cannot write a moving picture as {target.name!r}; let its name end in .gif or .mp4.")
    if not FFMpegWriter.isAvailable():
        raise OutputError(
            f"cannot write {target.name}: MP4 needs the program ffmpeg, and there is none on the path. Install it, or "
            "let the name end in .gif."
        )
    return FFMpegWriter(fps=fps, extra_args=["-fflags", "+bitexact", "-flags:v", "+bitexact"])  # type: ignore[arg-type]


def _record(
    writer: AbstractMovieWriter,
    path: Path,
    frames: Sequence[int],
    draw: Draw,
    size: tuple[float, float],
    fps: float,
    dpi: float,
) -> None:
    figure = Picture(figsize=size, layout="constrained")
    ax = figure.add_subplot()
    # Before the file is begun: a writer without a frame fails in a way of its own. And what stands still must not tremble.
    draw(ax, frames[0])
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    with writer.saving(figure, str(path), dpi):
        writer.grab_frame()
        for step in frames[1:]:
            ax.clear()
            draw(ax, step)
            writer.grab_frame()
        for _ in range(round(_HOLD * fps)):
            writer.grab_frame()


def _frames(measured: Sequence[int], steps: Sequence[int] | None, most: int = MAX_FRAMES) -> list[int]:
    if steps is None:
        return [measured[i] for i in spread(len(measured), most)]
    wanted = sorted({measured[place_of(step, measured, "measured step")] for step in steps})
    if not 1 <= len(wanted) <= MAX_FRAMES:
        raise SelectionError(f"{len(wanted)} steps are asked for; 1 to {MAX_FRAMES} make a moving picture.")
    return wanted


def _lines(
    data: xr.Dataset | xr.DataTree,
    what: str,
    subject: str | None,
    model: str | None,
    seed: int | None,
    steps: Sequence[int] | None,
) -> tuple[list[int], Draw]:
    """Frames of lines with their band, on axes that hold all of them."""
    if subject is None:
        raise SelectionError(f"say of which parameter: subject='layers.0.attention.dense' or another of the {what}.")
    group, variable, dim = (
        ("spectra", "singular_value", "rank") if what == "spectrum" else ("histograms", "count", "bin")
    )
    part = read_part(data, group, variable, dim, subject=subject, model=model, seed=seed)
    frames = _frames([int(step) for step in part.measured.tolist()], steps)
    series = _series(what, part, frames)
    told = runs_title([one.n_runs for one in series])
    first = Series(series[0].label, series[0].x, series[0].runs, MUTED)
    thin = max(one.n_runs for one in series) <= MAX_THIN
    limits: list[tuple[float, float]] = []

    def draw(ax: Axes, step: int) -> None:
        if not limits:
            draw_series(ax, series, thin=thin)
            _axes(what, ax, series)
            limits.extend((ax.get_xlim(), ax.get_ylim()))
            ax.clear()
        now = series[frames.index(step)]
        draw_series(ax, [first])
        draw_series(ax, [now], thin=thin)
        _axes(what, ax, series)
        ax.set_xlim(limits[0])
        ax.set_ylim(limits[1])
        ax.set_title(f"{short_name(part.head, 46)}\nstep {count(step)}", loc="left")
        ax.set_title(f"{told}; grey: step {count(frames[0])}", loc="right", size=7.5, color=MUTED.light)

    return frames, draw


def _series(what: str, part: Part, frames: Sequence[int]) -> list[Series]:
    if what == "histogram":
        return density_series(part, frames)[0]
    return quantile_series(part, frames) if what == "qq" else spectrum_series(part, frames)


def _axes(what: str, ax: Axes, series: Sequence[Series]) -> None:
    if what == "histogram":
        density_axes(ax, series)
    elif what == "qq":
        quantile_axes(ax, series)
    else:
        spectrum_axes(ax)


def _embedding(
    data: xr.Dataset | xr.DataTree, model: str | None, seed: int | None, steps: Sequence[int] | None
) -> tuple[list[int], Draw]:
    tables = Tables.read(data, model, seed)
    frames = _frames(tables.steps, steps, _MATRICES)
    if not frames:
        raise SelectionError(f"there is no embedding of {tables.head}; choose another model or seed.")

    def draw(ax: Axes, step: int) -> None:
        matrix_axes(ax, np.asarray(tables.at(step)), f"step {count(step)}, {tables.head}", title=True, legend=True)

    return frames, draw
