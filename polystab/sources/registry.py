"""The sources by name, each imported only when it is used.

A package of somebody else's adds one through the entry point group
``polystab.sources``: a name, and the ``module:attribute`` of a :class:`Source`.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any

import xarray as xr

from polystab.errors import ReadError, UnknownNameError, did_you_mean


@dataclass(frozen=True)
class Source:
    """Something that cubes are read from.

    Attributes
    ----------
    name : str
        As on the command line: ``polystab read NAME``.
    summary : str
        One line.
    reader, guess : str
        ``module:function``. The reader takes a path and keyword options and returns a
        tree with the cube and its ``audit``; the guess takes a path and says quickly
        whether the reader could read it.
    extra : str
        The optional install it needs, e.g. ``fill``; empty for none.
    """

    name: str
    summary: str
    reader: str
    guess: str
    extra: str = ""

    def read(self, path: str | os.PathLike[str], **options: Any) -> xr.DataTree:
        """Read ``path`` with this source; see its reader for the options."""
        tree: xr.DataTree = self._function(self.reader)(path, **options)
        return tree

    def guess_can_read(self, path: str | os.PathLike[str]) -> bool:
        """Whether ``path`` looks like something this source reads; false if it cannot be looked at."""
        try:
            return bool(self._function(self.guess)(path))
        except OSError:
            return False

    def _function(self, target: str) -> Callable[..., Any]:
        module, _, name = target.partition(":")
        try:
            function: Callable[..., Any] = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if not self.extra:
                raise
            raise ReadError(
                f"source {self.name!r} needs {error.name}; install it with: pip install 'polystab[{self.extra}]'."
            ) from error
        return function


_BUILT_IN = (
    Source(
        "lm-eval",
        "results of the lm-evaluation-harness, a file or a folder of them",
        "polystab.sources.eval_results:read_lm_eval",
        "polystab.sources.eval_results:guess_lm_eval",
    ),
    Source(
        "training-log",
        "curves of training runs: CSV, TSV, JSONL, trainer_state.json, a W&B export",
        "polystab.sources.training_logs:read_training_log",
        "polystab.sources.training_logs:guess_training_log",
    ),
    Source(
        "table",
        "a tidy table (model, seed, step, metric, value) or a wide one (one column a metric)",
        "polystab.sources.tables:read_table",
        "polystab.sources.tables:guess_table",
    ),
)


@cache
def sources() -> dict[str, Source]:
    """Every source by name: the built-in ones, then those of other installed packages."""
    found = {source.name: source for source in _BUILT_IN}
    for point in entry_points(group="polystab.sources"):
        source = point.load()
        if not isinstance(source, Source):
            raise ReadError(f"entry point {point.name!r} ({point.value}) is not a polystab.sources.registry.Source.")
        found.setdefault(source.name, source)
    return found


def get_source(name: str) -> Source:
    """The source called ``name``.

    Raises
    ------
    UnknownNameError
        There is none; close names are suggested.
    """
    if name not in sources():
        raise UnknownNameError(f"no source is called {name!r}. {did_you_mean(name, sources())}")
    return sources()[name]


def guess_sources(path: str | os.PathLike[str]) -> list[str]:
    """Names of the sources that think they can read ``path``."""
    return [name for name, source in sources().items() if source.guess_can_read(path)]
