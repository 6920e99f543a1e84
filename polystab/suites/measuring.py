"""What a suite is measured with while it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from polystab.sources.registry import get_measurer
from polystab.suites.nano_items import TASKS

if TYPE_CHECKING:
    from polystab.sources.measuring import Measurer


def task_folder() -> Path:
    """The folder of the task files, for ``lm_eval --include_path`` and ``polystab fill evals --include-path``."""
    return Path(__file__).parent / "tasks"


def suite_measurers(names: Sequence[str]) -> list[Measurer]:
    """Measurers by name; ``evals`` are the tasks of the suites.

    Raises
    ------
    UnknownNameError
        No measurer has that name.
    """
    options = {"evals": {"tasks": tuple(TASKS), "include_path": (str(task_folder()),)}}
    return [get_measurer(name, **options.get(name, {})) for name in dict.fromkeys(names)]
