"""Cubes that cannot be saved: the old file survives, nothing is left behind, and the reason is said."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import xarray as xr

import polystab as ps
from polystab.errors import InvalidCubeError, NotACubeError, OutputError


@pytest.fixture
def old(one: object, tmp_path: Path) -> Path:
    """A cube that stands there already."""
    path = tmp_path / "cube.nc"
    ps.save_cube(one(0.25), path)  # type: ignore[operator]
    return path


def assert_untouched(path: Path) -> None:
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    with ps.open_cube(path) as cube:
        assert cube["value"].item() == 0.25


@pytest.mark.slow
def test_an_invalid_cube_is_not_written(cube: xr.Dataset, old: Path) -> None:
    with pytest.raises(InvalidCubeError, match="attribute-value"):
        ps.save_cube(cube.assign_attrs(created="never"), old)
    assert_untouched(old)


def test_what_is_no_cube_is_not_written(old: Path) -> None:
    with pytest.raises(NotACubeError):
        ps.save_cube(xr.Dataset({"x": 1}), old)
    assert_untouched(old)


@pytest.mark.slow
def test_an_existing_file_is_kept_if_told_so(cube: xr.Dataset, old: Path) -> None:
    with pytest.raises(OutputError, match="exists and was left as it is"):
        ps.save_cube(cube, old, overwrite=False)
    assert_untouched(old)


def test_a_folder_is_refused(cube: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a folder"):
        ps.save_cube(cube, tmp_path)


def test_a_missing_folder_is_refused(cube: xr.Dataset, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="does not exist; create it first"):
        ps.save_cube(cube, tmp_path / "no" / "cube.nc")


@pytest.mark.slow
def test_a_group_that_netcdf_cannot_keep_is_refused(cube: xr.Dataset, old: Path) -> None:
    group = xr.Dataset(attrs={"structured": {"a": 1}}).assign(x=("y", [1]))
    with pytest.raises(OutputError, match="netCDF cannot keep what a variable or attribute holds"):
        ps.save_cube(xr.DataTree.from_dict({"/": cube, "/mine": group}), old)
    assert_untouched(old)


@pytest.mark.slow
def test_a_failure_of_the_library_is_reported(cube: xr.Dataset, old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("NetCDF: HDF error")

    monkeypatch.setattr(xr.Dataset, "to_netcdf", fail)
    with pytest.raises(OutputError, match=r"HDF error\. Is the disk full"):
        ps.save_cube(cube, old)
    assert_untouched(old)


@pytest.mark.slow
def test_a_failure_in_a_group_costs_the_whole_file(
    tree: xr.DataTree, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = xr.Dataset.to_netcdf

    def fail(self: xr.Dataset, *args: object, group: str | None = None, **options: object) -> None:
        if group is not None:
            raise RuntimeError("NetCDF: HDF error")
        real(self, *args, group=group, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(xr.Dataset, "to_netcdf", fail)
    with pytest.raises(OutputError):
        ps.save_cube(tree, old)
    assert_untouched(old)


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, with a time limit: HDF5 may crash or hang where Python would raise."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


SAVE_WITH_LITTLE_ROOM = """
    import resource, signal, sys
    import polystab as ps
    from polystab.errors import OutputError
    from polystab.testing import synthetic_cube

    cube, path, limit = synthetic_cube(n_seeds=20, rng=0), sys.argv[1], int(sys.argv[2])
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for _ in range(2):
        try:
            ps.save_cube(cube, path)
        except OutputError as error:
            print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    ps.save_cube(cube, path + ".later")
"""


@pytest.mark.slow
@pytest.mark.parametrize("limit", [0, 10_000, 120_000])
def test_a_full_disk_costs_nothing_and_is_said(old: Path, limit: int) -> None:
    result = run(SAVE_WITH_LITTLE_ROOM, old, limit)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("Is the disk full") == 2
    later = old.with_name("cube.nc.later")
    with ps.open_cube(later) as cube:
        assert cube.sizes["seed"] == 20
    later.unlink()
    assert_untouched(old)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one megabyte, where the tests may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


SAVE_ON_A_SMALL_DISK = """
    import os, sys
    import polystab as ps
    from polystab.errors import OutputError
    from polystab.testing import synthetic_cube, variance_cube

    path = sys.argv[1]
    old = synthetic_cube(n_models=1, n_seeds=1, rng=0)
    ps.save_cube(old, path)
    try:
        ps.save_cube(variance_cube(n_seeds=200, n_steps=100, n_metrics=4, rng=0), path)
    except OutputError as error:
        print(error)
    assert os.listdir(os.path.dirname(path)) == ["cube.nc"]
    with ps.open_cube(path) as cube:
        assert cube.load().identical(old)
    new = synthetic_cube(n_models=1, n_seeds=2, rng=1)
    ps.save_cube(new, path)
    with ps.open_cube(path) as cube:
        assert cube.load().identical(new)
"""


@pytest.mark.slow
def test_a_disk_that_was_full_can_be_written_again(small_disk: Path) -> None:
    result = run(SAVE_ON_A_SMALL_DISK, small_disk / "cube.nc")
    assert (result.returncode, result.stderr) == (0, "")
    assert "Is the disk full" in result.stdout


@pytest.mark.slow
def test_a_read_only_disk_is_refused(small_disk: Path, cube: xr.Dataset) -> None:
    ps.save_cube(cube, small_disk / "cube.nc")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(OutputError, match="Read-only file system"):
        ps.save_cube(cube.isel(seed=[0]), small_disk / "cube.nc")
    with ps.open_cube(small_disk / "cube.nc") as back:
        assert back.sizes["seed"] == 3


@pytest.mark.slow
def test_a_process_that_dies_before_the_move_leaves_the_old_file(old: Path) -> None:
    code = """
        import os, sys
        import polystab as ps
        from pathlib import Path
        from polystab.testing import synthetic_cube

        Path.replace = lambda *_: os._exit(9)
        ps.save_cube(synthetic_cube(rng=0), sys.argv[1])
    """
    assert run(code, old).returncode == 9
    with ps.open_cube(old) as cube:
        assert cube["value"].item() == 0.25


@pytest.mark.slow
def test_a_link_stays_a_link(cube: xr.Dataset, old: Path) -> None:
    link = old.with_name("link.nc")
    link.symlink_to(old.name)
    ps.save_cube(cube, link)
    assert link.is_symlink()
    with ps.open_cube(old) as back:
        assert back.sizes == cube.sizes


@pytest.mark.slow
def test_a_source_that_is_damaged_costs_the_old_file_nothing(cube: xr.Dataset, old: Path, tmp_path: Path) -> None:
    source = tmp_path / "source" / "cube.nc"
    source.parent.mkdir()
    ps.save_cube(cube, source)
    with ps.open_cube(source) as lazy:
        os.truncate(source, 2000)
        with pytest.raises((OutputError, RuntimeError), match="HDF error"):
            ps.save_cube(lazy, old)
    with ps.open_cube(old) as back:
        assert back["value"].item() == 0.25
