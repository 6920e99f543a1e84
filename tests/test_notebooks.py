"""Notebooks are committed without outputs, and say the same as the text that they are made from.

That they run, `make test` finds out with nbmake.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

jupytext = pytest.importorskip("jupytext")

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NAMES = sorted({path.stem for path in FOLDER.glob("*") if path.suffix in (".py", ".ipynb")} - {"conftest"})
WANTED = {"quickstart", "polypythias", "basic_facts", "variance", "phases", "representations", "early_warning"}


def cells(path: Path) -> list[tuple[str, str]]:
    return [(cell["cell_type"], cell["source"]) for cell in read(path)["cells"]]


def read(path: Path) -> Any:
    return jupytext.read(path, fmt="py:percent" if path.suffix == ".py" else "ipynb")


def test_the_wanted_notebooks_are_there() -> None:
    assert set(NAMES) >= WANTED


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_and_its_text_say_the_same(name: str) -> None:
    assert cells(FOLDER / f"{name}.ipynb") == cells(FOLDER / f"{name}.py"), "run `make notebooks`"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_committed_without_outputs(name: str) -> None:
    code = [cell for cell in read(FOLDER / f"{name}.ipynb")["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.parametrize("name", NAMES)
def test_cells_have_names_of_their_own(name: str) -> None:
    ids = [cell["id"] for cell in read(FOLDER / f"{name}.ipynb")["cells"]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_begins_with_what_it_is_about(name: str) -> None:
    kind, text = cells(FOLDER / f"{name}.py")[0]
    assert kind == "markdown"
    assert text.startswith("# ")


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_starts_from_a_bundled_cube(name: str) -> None:
    code = next(text for kind, text in cells(FOLDER / f"{name}.py") if kind == "code")
    assert "ps.load_cube(" in code or "ps.load_tree(" in code


@pytest.mark.parametrize("name", NAMES)
def test_no_path_of_a_machine_is_in_a_notebook(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    assert not any(word in text for word in ("/home/", "/Users/", "/tmp/"))
