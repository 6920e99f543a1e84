"""How `pytest --nbmake notebooks` runs the notebooks: each in a kernel of its own, where a warning is an error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

# The text beside a notebook is the same notebook, and to import it would be to run it.
collect_ignore_glob = ["*.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    if item.path.suffix != ".ipynb":  # pytest asks here about the tests of other folders, too
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        # The kernel warns of its own end and, from Python 3.12 on, of its own beginning.
        start = "ignore:There is no current event loop:DeprecationWarning"
        patch.setenv("PYTHONWARNINGS", f"error,ignore::PendingDeprecationWarning,{start}")
        patch.setenv("POLYSTAB_PROGRESS", "0")
        return (yield)
