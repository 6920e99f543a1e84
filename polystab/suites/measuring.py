"""What a suite is measured with while it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polystab.sources.registry import get_measurer
from polystab.suites.nano_items import TASKS

# Details that are large are kept at these steps only.
DETAIL_STEPS = (0, 100, 250, 500, 950, 1000)

if TYPE_CHECKING:
    from polystab.sources.measuring import Measurer


def task_folder() -> Path:
    """The folder of the task files, for ``lm_eval --include_path`` and ``polystab fill evals --include-path``."""
    return Path(__file__).parent / "tasks"


def suite_measurers(names: Sequence[str]) -> list[Measurer]:
    """Measurers by name: ``evals`` are the tasks of the suites, ``probes`` their gold labels, details are few.

    Raises
    ------
    UnknownNameError
        No measurer has that name.
    """
    options: dict[str, dict[str, Any]] = {
        "evals": {"tasks": tuple(TASKS), "include_path": (str(task_folder()),)},
        "probes": {"data": ("nano",)},
        "weights": {"levels": ("component", "all")},
        "directions": {"n_directions": 8, "n_tokens": 10, "per_head": False, "steps": DETAIL_STEPS},
        "embedding": {"n_tokens": 64, "steps": DETAIL_STEPS},
    }
    return [get_measurer(name, **options.get(name, {})) for name in dict.fromkeys(names)]
