"""`import polystab` is quick, and offers its names lazily."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys

import pytest

import polystab as ps
import polystab.cube

HEAVY = [
    "torch",
    "transformers",
    "matplotlib",
    "statsmodels",
    "sklearn",
    "hmmlearn",
    "scipy",
    "scipy.stats",
    "xarray",
    "pandas",
    "numpy",
    "netCDF4",
    "pooch",
    "jinja2",
    "click",
]


def loaded_after(code: str) -> set[str]:
    """Which heavy modules a fresh process has loaded after running some code."""
    script = f"{code}\nimport sys\nprint(*[name for name in {HEAVY!r} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.mark.parametrize("code", ["import polystab", "import polystab.cube", "import polystab; dir(polystab)"])
def test_importing_loads_nothing_heavy(code: str) -> None:
    assert loaded_after(code) == set()


@pytest.mark.slow
def test_opening_a_cube_loads_no_statistics_and_no_pictures() -> None:
    # Where dask is installed, xarray imports it, and it imports jinja2.
    loaded = loaded_after(
        "import sys\nsys.modules['dask'] = None\nimport polystab as ps\nps.load_cube('demo').load()\n"
    )
    assert loaded.isdisjoint(
        {"torch", "matplotlib", "statsmodels", "sklearn", "scipy.stats", "pooch", "jinja2", "click"}
    )


def test_importing_prints_nothing() -> None:
    result = subprocess.run([sys.executable, "-W", "error", "-c", "import polystab"], capture_output=True, check=True)
    assert (result.stdout, result.stderr) == (b"", b"")


def test_every_public_name_is_listed_and_there() -> None:
    assert set(ps.__all__) <= set(dir(ps))
    assert all(getattr(ps, name) is not None for name in ps.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'polystab' has no attribute 'nonexistent'"):
        ps.nonexistent  # type: ignore[attr-defined]  # noqa: B018


def test_names_of_the_cube_are_listed_and_there() -> None:
    assert set(polystab.cube.__all__) <= set(dir(polystab.cube))
    assert all(getattr(polystab.cube, name) is not None for name in polystab.cube.__all__)


def test_no_function_of_the_cube_is_hidden_by_a_module_of_its_name() -> None:
    modules = {module.name for module in pkgutil.iter_modules(polystab.cube.__path__)}
    assert modules.isdisjoint(polystab.cube.__all__)


def test_every_function_is_one_after_all_modules_are_loaded() -> None:
    for module in pkgutil.walk_packages(polystab.cube.__path__, "polystab.cube."):
        importlib.import_module(module.name)
    names = [name for name in ps.__all__ if name not in ("__version__",)]
    assert all(callable(getattr(ps, name)) for name in names)
