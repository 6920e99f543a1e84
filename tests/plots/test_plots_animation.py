"""Moving pictures: frames, files, and what cannot be written."""

from __future__ import annotations

import stat
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from PIL import Image

from polystab import plots
from polystab.errors import AnalysisError, OutputError, SelectionError
from polystab.plots.animation import MAX_FRAMES
from polystab.sources.weights.histograms import bin_centres, bin_edges, counts

SUBJECT = "layers.0.attention.dense"
QUICK = {"fps": 1, "dpi": 30}


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    rng = np.random.default_rng(0)
    coords = {"model": ["m"], "seed": [0, 1, 2], "step": [0, 8, 64], "subject": [SUBJECT]}
    dims = ("model", "seed", "step", "subject")
    table = np.array([[counts(np.sort(rng.normal(0, sd, 500))) for sd in (0.1, 0.2, 0.4)] for _ in range(3)])
    edges = bin_edges()
    bins = {"bin": bin_centres(), "low": ("bin", edges[:-1]), "high": ("bin", edges[1:])}
    spectra = np.sort(rng.uniform(1, 9, size=(1, 3, 3, 1, 5)))[..., ::-1]
    first, second = np.triu_indices(4, 1)
    pairs = {"pair": range(6), "first_token": ("pair", first), "second_token": ("pair", second)}
    runs = {name: coords[name] for name in ("model", "seed", "step")}
    correlation = rng.uniform(-1, 1, size=(1, 3, 3, 6))
    return xr.DataTree.from_dict(
        {
            "histograms": xr.Dataset({"count": ((*dims, "bin"), table[None, :, :, None])}, coords=coords | bins),
            "spectra": xr.Dataset(
                {"singular_value": ((*dims, "rank"), spectra)}, coords=coords | {"rank": range(1, 6)}
            ),
            "embedding": xr.Dataset({"correlation": ((*dims[:3], "pair"), correlation)}, coords=runs | pairs),
        }
    )


def frames(path: Path) -> list[np.ndarray]:
    with Image.open(path) as image:
        found = []
        for number in range(image.n_frames):
            image.seek(number)
            found.append(np.asarray(image.convert("RGB"), dtype=int))
        return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "what", ["spectrum", *(pytest.param(what, marks=pytest.mark.slow) for what in ("histogram", "qq", "embedding"))]
)
def test_a_gif_has_a_frame_for_every_checkpoint(tree: xr.DataTree, tmp_path: Path, what: str) -> None:
    path = plots.animate(tree, tmp_path / "a.gif", what=what, subject=SUBJECT, **QUICK)
    assert len(frames(path)) == 3
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_the_same_data_give_the_same_bytes(tree: xr.DataTree, tmp_path: Path) -> None:
    one, other = (plots.animate(tree, tmp_path / name, subject=SUBJECT, **QUICK) for name in ("a.gif", "b.GIF"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.slow
def test_axes_stand_still(tree: xr.DataTree, tmp_path: Path) -> None:
    shown = frames(plots.animate(tree, tmp_path / "a.gif", what="spectrum", subject=SUBJECT, fps=1, dpi=60))
    below = [frame[-25:] for frame in shown]  # the ticks and name of the x axis; the palette may change a little
    assert max(np.abs(below[0] - frame).max() for frame in below) < 40
    assert any(np.abs(shown[0] - frame).max() > 100 for frame in shown)


@pytest.mark.slow
def test_the_last_frame_stands_a_while(tree: xr.DataTree, tmp_path: Path) -> None:
    path = plots.animate(tree, tmp_path / "a.gif", subject=SUBJECT, steps=[0, 64], fps=4, dpi=30)
    with Image.open(path) as image:
        assert image.n_frames == 2
        image.seek(1)
        assert image.info["duration"] == 250 * 5


@pytest.mark.slow
def test_one_run_moves_otherwise_than_all(tree: xr.DataTree, tmp_path: Path) -> None:
    every = plots.animate(tree, tmp_path / "a.gif", subject=SUBJECT, steps=[64], **QUICK)
    one = plots.animate(tree, tmp_path / "b.gif", subject=SUBJECT, steps=[64], seed=1, **QUICK)
    assert every.read_bytes() != one.read_bytes()


def test_more_checkpoints_than_frames_are_thinned_evenly() -> None:
    from polystab.plots.animation import _frames

    chosen = _frames(list(range(1000)), None)
    assert (len(chosen), chosen[0], chosen[-1]) == (MAX_FRAMES, 0, 999)
    assert set(np.diff(chosen)) <= {8, 9}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"what": "histograms"}, "histogram"),
        ({"subject": None}, "which parameter"),
        ({"subject": "layers.0.dense"}, "attention"),
        ({"steps": [3]}, "no measured step 3"),
        ({"steps": []}, f"1 to {MAX_FRAMES}"),
        ({"seed": 7}, "no seed 7"),
        ({"fps": 0}, "fps is 0"),
        ({"dpi": -1}, "dpi is -1"),
    ],
)
def test_what_cannot_move_is_refused_and_nothing_written(
    tree: xr.DataTree, tmp_path: Path, wrong: dict, said: str
) -> None:
    with pytest.raises(SelectionError, match=said):
        plots.animate(tree, tmp_path / "a.gif", **({"subject": SUBJECT} | wrong))
    assert not list(tmp_path.iterdir())


def test_a_tree_without_the_group_is_refused(tree: xr.DataTree, tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="spectra"):
        plots.animate(tree["embedding"].to_dataset(), tmp_path / "a.gif", what="spectrum", subject=SUBJECT)


@pytest.mark.parametrize("name", ["a.webm", "a", "gif"])
def test_other_endings_are_refused(tree: xr.DataTree, tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"\.gif or \.mp4"):
        plots.animate(tree, tmp_path / name, subject=SUBJECT)


def test_mp4_without_ffmpeg_says_what_is_missing(
    tree: xr.DataTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(OutputError, match=r"needs the program ffmpeg.*\.gif"):
        plots.animate(tree, tmp_path / "a.mp4", subject=SUBJECT)


@pytest.mark.slow
def test_mp4_is_what_ffmpeg_makes_of_the_frames(
    tree: xr.DataTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "ffmpeg"
    # Keeps what it was told and the frames that it was given, in the place of a film.
    program.write_text('#!/bin/sh\nfor last; do :; done\necho "$@" > "$last"\ncat >> "$last"\n', encoding="utf-8")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    path = plots.animate(tree, tmp_path / "a.mp4", subject=SUBJECT, **QUICK)
    told, _, film = path.read_bytes().partition(b"\n")
    assert b"h264" in told
    width, height = (int(n) for n in told.split(b"-s ")[1].split()[0].split(b"x"))
    assert len(film) == 4 * width * height * 4  # three checkpoints and the last once more


def test_a_file_that_is_there_stays_unless_it_may_be_replaced(tree: xr.DataTree, tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(OutputError, match="overwrite"):
        plots.animate(tree, path, subject=SUBJECT, overwrite=False)
    assert path.read_text(encoding="utf-8") == "old"


def test_a_failure_while_drawing_leaves_the_old_file(
    tree: xr.DataTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.gif"
    path.write_text("old", encoding="utf-8")

    def fail(*_: object) -> None:
        raise RuntimeError("no ink")

    monkeypatch.setattr("polystab.plots.animation.spectrum_axes", fail)
    with pytest.raises(RuntimeError, match="no ink"):
        plots.animate(tree, path, what="spectrum", subject=SUBJECT, **QUICK)
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_told_before_anything_is_drawn(tree: xr.DataTree, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist"):
        plots.animate(tree, tmp_path / "none" / "a.gif", subject=SUBJECT)
