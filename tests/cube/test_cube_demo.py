"""The bundled cube that `make report` shows."""

from __future__ import annotations

import numpy as np
import xarray as xr

import polystab as ps
from polystab.cube.catalog import cube_file
from polystab.testing import demo_cube


def test_the_bundled_file_holds_what_the_code_makes() -> None:
    """Values, not bytes: the version of the HDF5 library is in the file."""
    with ps.load_cube("demo") as bundled:
        made = demo_cube()
        assert list(bundled.variables) == list(made.variables)
        for name, variable in made.variables.items():
            if variable.dtype.kind == "f":
                # the last digits of exp and tanh differ between processors
                np.testing.assert_allclose(bundled[name], variable, rtol=1e-9, err_msg=str(name))
            else:
                np.testing.assert_array_equal(bundled[name], variable, err_msg=str(name))


def test_it_says_that_it_is_synthetic() -> None:
    with ps.load_cube("demo") as cube:
        assert "synthetic" in cube.attrs["title"].lower()
        assert cube.attrs["summary"].startswith("SYNTHETIC")
        assert cube.attrs["source"].startswith("polystab.testing")
    assert ps.list_cubes().loc["demo", "summary"].startswith("SYNTHETIC")


def test_it_is_small() -> None:
    assert cube_file("demo").stat().st_size < 500_000


def test_it_has_what_a_report_shows() -> None:
    with ps.load_cube("demo") as cube:
        assert dict(cube.sizes) == {"model": 3, "seed": 10, "step": 27, "metric": 9}
        assert set(cube["family"].values.tolist()) == {"eval", "loss", "weight"}
        assert cube["stderr"].sel(metric="eval/recall/acc").notnull().sum() == 809


def test_one_checkpoint_is_missing() -> None:
    with ps.load_cube("demo") as cube:
        assert int(cube["value"].isnull().all("metric").sum()) == 1


def test_its_outlier_stands_out() -> None:
    with ps.load_cube("demo") as cube:
        last = cube["value"].sel(model="toy-8m", metric="loss/validation/cross_entropy").isel(step=-1)
        assert int(last.idxmax("seed")) == 7
        others = last.drop_sel(seed=7)
        assert float(last.sel(seed=7) - others.mean()) > 10 * float(others.std(ddof=1))


def test_it_claims_no_files_that_were_read() -> None:
    with ps.load_tree("demo") as tree:
        assert isinstance(tree, xr.DataTree)
        assert not tree.children
