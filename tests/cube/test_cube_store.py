"""Cubes on disk: what goes in comes out, in the same bytes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import netCDF4
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import polystab as ps
from polystab.cube.store import CHUNK_CELLS, _chunks
from polystab.errors import OutputError
from polystab.testing import synthetic_cube, variance_cube


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cube.nc"


def reopened(cube: xr.Dataset, path: Path) -> xr.Dataset:
    ps.save_cube(cube, path)
    with ps.open_cube(path) as opened:
        return opened.load()


# Round trip


@pytest.mark.slow
def test_a_cube_comes_back_identical(cube: xr.Dataset, path: Path) -> None:
    xr.testing.assert_identical(reopened(cube, path), cube)


@pytest.mark.slow
def test_types_come_back(cube: xr.Dataset, path: Path) -> None:
    back = reopened(cube, path)
    assert {name: v.dtype for name, v in back.variables.items()} == {
        name: v.dtype for name, v in cube.variables.items()
    }


@pytest.mark.slow
def test_variables_come_back_in_canonical_order(cube: xr.Dataset, path: Path) -> None:
    shuffled = cube[["weight_seed", "stderr", "value"]].transpose("metric", "seed", "step", "model")
    shuffled = shuffled.transpose("model", "seed", "step", "metric")
    assert list(reopened(shuffled, path).data_vars) == ["value", "stderr", "weight_seed"]


@pytest.mark.slow
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, -0.0, 5e-324, 1e308])
def test_special_values_come_back(one: Callable[..., xr.Dataset], path: Path, special: float) -> None:
    back = reopened(one([special, 0.5], seed=[0, 1]), path)["value"].values.ravel()
    np.testing.assert_array_equal(back, [special, 0.5])
    assert np.signbit(back[0]) == np.signbit(special)


def test_integers_of_64_bits_come_back(one: Callable[..., xr.Dataset], path: Path) -> None:
    assert reopened(one(0.5, data_seed=2**62 + 1), path)["data_seed"].item() == 2**62 + 1


@pytest.mark.slow
@pytest.mark.parametrize("label", ["größe", "模型🙂", " a b ", "x" * 3000, "a/b\\c", "line\nbreak", "N/A", "nan", "é"])
def test_any_label_comes_back(one: Callable[..., xr.Dataset], path: Path, label: str) -> None:
    back = reopened(one(0.5, model=label, run_name=label, units=label), path)
    assert (back["model"].item(), back["run_name"].item(), back["units"].item()) == (label, label, label)


@pytest.mark.slow
def test_empty_texts_come_back(cube: xr.Dataset, path: Path) -> None:
    back = reopened(cube.assign_attrs(source="", references=""), path)
    assert back["component"].values.tolist() == ["", ""]
    assert (back.attrs["source"], back.attrs["references"]) == ("", "")


@pytest.mark.slow
@pytest.mark.parametrize("text", ["größe 🙂", "two\nlines", "h" * 200_000, "é" * 200_000])
def test_any_attribute_comes_back(cube: xr.Dataset, path: Path, text: str) -> None:
    assert reopened(cube.assign_attrs(history=text), path).attrs["history"] == text


@pytest.mark.slow
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    value=st.floats(),
)
def test_any_cube_comes_back(path: Path, names: list[str], value: float) -> None:
    frame = pd.DataFrame({"model": names, "seed": 0, "step": 0, "metric": "eval/t/acc", "value": value})
    cube = ps.cube_from_records(frame, created="2026-01-01")
    xr.testing.assert_identical(reopened(cube, path), cube)


@pytest.mark.slow
def test_own_variables_and_coordinates_come_back(cube: xr.Dataset, path: Path) -> None:
    cube = cube.assign_coords(optimizer=("model", ["adam", "sgd"])).assign(quantile=("seed", [0.1, 0.5, 0.9]))
    xr.testing.assert_identical(reopened(cube, path), cube)


@pytest.mark.slow
def test_a_tree_comes_back_with_its_groups(tree: xr.DataTree, path: Path) -> None:
    ps.save_cube(tree, path)
    with ps.open_tree(path) as back:
        xr.testing.assert_identical(back.load(), tree)


@pytest.mark.slow
def test_open_cube_gives_the_cube_of_a_tree(tree: xr.DataTree, cube: xr.Dataset, path: Path) -> None:
    ps.save_cube(tree, path)
    with ps.open_cube(path) as back:
        xr.testing.assert_identical(back.load(), cube)


@pytest.mark.slow
def test_a_group_may_hold_booleans_and_dates(cube: xr.Dataset, path: Path) -> None:
    group = xr.Dataset({"flag": ("x", [True, False]), "when": ("x", pd.to_datetime(["2026-01-01", "2026-01-02"]))})
    ps.save_cube(xr.DataTree.from_dict({"/": cube, "/mine": group}), path)
    with ps.open_tree(path) as back:
        assert back["mine/flag"].values.tolist() == [True, False]
        assert back["mine/when"].sizes == {"x": 2}


@pytest.mark.slow
def test_a_file_may_be_open_several_times_and_closed_in_any_order(tree: xr.DataTree, path: Path) -> None:
    """As netCDF strings, texts would crash the whole process here, so it is one of its own."""
    ps.save_cube(tree, path)
    code = (
        "import random, sys\n"
        "import polystab as ps\n"
        "dice, held = random.Random(1), []\n"
        "for _ in range(150):\n"
        "    if len(held) < 12 and dice.random() < 0.6:\n"
        "        held.append(dice.choice([ps.open_tree, ps.open_cube])(sys.argv[1]))\n"
        "    elif held:\n"
        "        held.pop(dice.randrange(len(held))).close()\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-500:]


# Labels stay whole


@pytest.mark.slow
def test_labels_are_not_cut_after_another_cube_is_joined(one: Callable[..., xr.Dataset], tmp_path: Path) -> None:
    short, long = one(0.5, model="bli"), one(0.6, model="blimp_anaphor_gender_agreement")
    ps.save_cube(short, tmp_path / "short.nc")
    with ps.open_cube(tmp_path / "short.nc") as opened:
        merged = ps.merge_cubes([opened, long])
    assert reopened(merged, tmp_path / "both.nc")["model"].values.tolist() == ["bli", "blimp_anaphor_gender_agreement"]


@pytest.mark.slow
def test_labels_are_not_cut_after_concat(one: Callable[..., xr.Dataset], tmp_path: Path) -> None:
    short = reopened(one(0.5, model="bli"), tmp_path / "short.nc")
    both = xr.concat(
        [short, one(0.6, model="blimp_anaphor")],
        dim="model",
        join="outer",
        data_vars="all",
        coords="minimal",
        compat="override",
    )
    assert reopened(both, tmp_path / "both.nc")["model"].values.tolist() == ["bli", "blimp_anaphor"]


@pytest.mark.slow
def test_encoding_left_on_a_cube_has_no_effect(cube: xr.Dataset, tmp_path: Path) -> None:
    marked = cube.copy()
    marked["model"].encoding = {"dtype": "S1", "char_dim_name": "string3"}
    marked["value"].encoding = {"dtype": "float32", "zlib": False, "_FillValue": 0.5}
    marked.encoding = {"unlimited_dims": {"step"}}
    ps.save_cube(cube, tmp_path / "plain.nc")
    ps.save_cube(marked, tmp_path / "marked.nc")
    assert (tmp_path / "plain.nc").read_bytes() == (tmp_path / "marked.nc").read_bytes()


# Bytes


@pytest.mark.slow
def test_the_same_cube_gives_the_same_bytes(tree: xr.DataTree, tmp_path: Path) -> None:
    ps.save_cube(tree, tmp_path / "a.nc")
    ps.save_cube(tree, tmp_path / "b.nc")
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()


@pytest.mark.slow
def test_a_reopened_cube_gives_the_same_bytes(tree: xr.DataTree, tmp_path: Path) -> None:
    ps.save_cube(tree, tmp_path / "a.nc")
    with ps.open_tree(tmp_path / "a.nc") as back:
        ps.save_cube(back, tmp_path / "b.nc")
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_clock(cube: xr.Dataset, tmp_path: Path) -> None:
    ps.save_cube(cube, tmp_path / "a.nc")
    time.sleep(1.1)  # HDF5 can store modification times, in seconds
    ps.save_cube(cube, tmp_path / "b.nc")
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()


@pytest.mark.slow
def test_bytes_do_not_depend_on_the_process(tmp_path: Path) -> None:
    code = (
        "import sys, polystab as ps; from polystab.testing import synthetic_cube; "
        "ps.save_cube(synthetic_cube(rng=3, n_seeds=4), sys.argv[1])"
    )
    for name, seed in (("a.nc", "1"), ("b.nc", "2")):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "TZ": "Asia/Tokyo", "LC_ALL": "C"}
        subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=True, env=environment)
    ps.save_cube(synthetic_cube(rng=3, n_seeds=4), tmp_path / "c.nc")
    contents = {(tmp_path / name).read_bytes() for name in ("a.nc", "b.nc", "c.nc")}
    assert len(contents) == 1


def test_bytes_do_not_hold_the_path(cube: xr.Dataset, tmp_path: Path) -> None:
    ps.save_cube(cube, tmp_path / "secret-name.nc")
    assert b"secret" not in (tmp_path / "secret-name.nc").read_bytes()


# The file


def test_values_are_compressed(path: Path) -> None:
    cube = variance_cube(n_seeds=50, n_steps=100, n_metrics=10, sd_residual=0.0, sd_seed=0.0, rng=0)
    ps.save_cube(cube, path)
    assert path.stat().st_size < cube["value"].nbytes / 5


def test_the_file_is_netcdf_4_that_others_read(cube: xr.Dataset, path: Path) -> None:
    ps.save_cube(cube, path)
    with netCDF4.Dataset(path) as file:
        assert file.data_model == "NETCDF4"
        assert file.variables["value"].dimensions == ("model", "seed", "step", "metric")
        assert file.variables["model"][:].tolist() == ["pythia-70m", "pythia-1b"]
        assert "NaN means not measured" in file.variables["value"].long_name
        assert not any(dimension.isunlimited() for dimension in file.dimensions.values())


@pytest.mark.slow
@pytest.mark.parametrize("label", ["x", "größe 模型🙂"])
def test_much_text_is_compressed(one: Callable[..., xr.Dataset], path: Path, label: str) -> None:
    n = 5000
    metrics = [f"weight/layers.{k}.{label}/l2_norm" for k in range(n)]
    cube = one([0.5] * n, metric=metrics)
    xr.testing.assert_identical(reopened(cube, path), cube)
    assert path.stat().st_size < sum(len(metric.encode()) for metric in metrics)


def test_objects_that_are_no_text_are_refused(cube: xr.Dataset, path: Path) -> None:
    group = xr.Dataset({"mine": ("x", np.array([{"a": 1}, "b"], dtype=object))})
    with pytest.raises(OutputError, match="netCDF cannot keep"):
        ps.save_cube(xr.DataTree.from_dict({"/": cube, "/mine": group}), path)


@pytest.mark.parametrize(
    "shape", [(1,), (3, 10, 27, 10), (5, 10, 154, 17_500), (1, 1, 1, 10**6), (10**3, 10**3, 10**3), (2**20, 3)]
)
def test_chunks_fit_in_the_shape_and_under_the_limit(shape: tuple[int, ...]) -> None:
    chunks = _chunks(shape)
    assert all(1 <= chunk <= n for chunk, n in zip(chunks, shape, strict=True))
    assert np.prod(chunks) <= CHUNK_CELLS


def test_no_temporary_file_is_left(cube: xr.Dataset, path: Path) -> None:
    ps.save_cube(cube, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["cube.nc"]


def test_a_file_of_the_user_is_readable_for_others_as_usual(cube: xr.Dataset, path: Path) -> None:
    (path.parent / "usual").touch()
    ps.save_cube(cube, path)
    assert path.stat().st_mode == (path.parent / "usual").stat().st_mode


def test_saving_does_not_change_the_cube(cube: xr.Dataset, path: Path) -> None:
    cube["model"].encoding["dtype"] = "S1"
    before = cube.copy(deep=True)
    ps.save_cube(cube, path)
    xr.testing.assert_identical(cube, before)
    assert cube["model"].encoding == {"dtype": "S1"}


# Lazily


@pytest.mark.slow
def test_opening_reads_no_values(cube: xr.Dataset, path: Path) -> None:
    ps.save_cube(cube, path)
    with ps.open_cube(path) as lazy:
        assert not lazy["value"].variable._in_memory
        assert not lazy["stderr"].variable._in_memory
        assert not lazy.isel(seed=0)["value"].variable._in_memory


@pytest.mark.slow
def test_opening_a_tree_reads_no_values(tree: xr.DataTree, path: Path) -> None:
    ps.save_cube(tree, path)
    with ps.open_tree(path) as lazy:
        assert not lazy["value"].variable._in_memory
        assert not lazy["spectra/layers.0/singular"].variable._in_memory


@pytest.mark.slow
def test_a_cube_can_be_opened_twice_at_once(cube: xr.Dataset, path: Path) -> None:
    ps.save_cube(cube, path)
    with ps.open_cube(path) as first, ps.open_cube(path) as second:
        assert first["value"].equals(second["value"])


def open_files(path: Path) -> int:
    return sum(os.path.realpath(fd) == str(path) for fd in Path("/proc/self/fd").iterdir())


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files through /proc")
@pytest.mark.parametrize("opener", [ps.open_cube, ps.open_tree])
def test_closing_closes_the_file(tree: xr.DataTree, path: Path, opener: Callable[[Path], xr.Dataset]) -> None:
    ps.save_cube(tree, path)
    opened = opener(path)
    assert open_files(path) > 0
    opened.close()
    assert open_files(path) == 0


@pytest.mark.slow
def test_a_home_folder_may_be_written_as_tilde(
    cube: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    ps.save_cube(cube, "~/cube.nc")
    with ps.open_cube("~/cube.nc") as back:
        assert back.sizes == cube.sizes


# Over itself


@pytest.mark.slow
def test_a_cube_can_be_saved_over_the_file_it_is_read_from(cube: xr.Dataset, path: Path) -> None:
    ps.save_cube(cube, path)
    with ps.open_cube(path) as lazy:
        ps.save_cube(lazy.isel(seed=[0]), path)
    with ps.open_cube(path) as back:
        xr.testing.assert_identical(back.load(), cube.isel(seed=[0]))


@pytest.mark.slow
def test_an_open_cube_keeps_its_values_when_its_file_is_replaced(cube: xr.Dataset, path: Path) -> None:
    ps.save_cube(cube, path)
    with ps.open_cube(path) as lazy:
        ps.save_cube(cube.assign(value=cube["value"] + 1), path)
        with ps.open_cube(path) as new:
            assert new["value"].equals(cube["value"] + 1)
        assert lazy["value"].equals(cube["value"])


@pytest.mark.slow
def test_a_tree_can_be_saved_over_the_file_it_is_read_from(tree: xr.DataTree, path: Path) -> None:
    ps.save_cube(tree, path)
    with ps.open_tree(path) as lazy:
        ps.save_cube(lazy, path)
    with ps.open_tree(path) as back:
        xr.testing.assert_identical(back.load(), tree)
