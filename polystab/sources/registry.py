"""The sources by name, each imported only when it is used.

A source reads cubes from files, or measures checkpoints, or does both.

A package of somebody else's adds one through the entry point group
``polystab.sources``: a name, and the ``module:attribute`` of a :class:`Source`.
"""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

import xarray as xr

from polystab.errors import ReadError, UnknownNameError, did_you_mean, shown

if TYPE_CHECKING:
    from polystab.sources.measuring import Measurer


@dataclass(frozen=True)
class Source:
    """Something that cubes are read from, or that checkpoints are measured with.

    Attributes
    ----------
    name : str
        As on the command line: ``polystab read NAME`` or ``polystab fill NAME``.
    summary : str
        One line.
    reader, guess : str
        ``module:function``, empty if there is none. The reader takes a path and keyword
        options and returns a tree with the cube and its ``audit``; the guess takes a path
        and says quickly whether the reader could read it.
    extra : str
        The optional install it needs, e.g. ``fill``; empty for none.
    measurer : str
        ``module:Class`` of a :class:`~polystab.sources.measuring.Measurer`, which is made
        with keyword options; empty if there is none.
    """

    name: str
    summary: str
    reader: str = ""
    guess: str = ""
    extra: str = ""
    measurer: str = ""

    def read(self, path: str | os.PathLike[str], **options: Any) -> xr.DataTree:
        """Read ``path`` with this source; see its reader for the options."""
        if not self.reader:
            raise ReadError(f"source {self.name!r} reads no files; it measures: polystab fill {self.name}.")
        tree: xr.DataTree = self._function(self.reader)(path, **options)
        return tree

    def guess_can_read(self, path: str | os.PathLike[str]) -> bool:
        """Whether ``path`` looks like something this source reads; false if it cannot be looked at."""
        if not self.guess:
            return False
        try:
            return bool(self._function(self.guess)(path))
        except OSError:
            return False

    def make_measurer(self, **options: Any) -> Measurer:
        """The source's measurer with these options; see its class for what they mean.

        Raises
        ------
        UnknownNameError
            It has no such option, or this source measures nothing.
        ReadError
            An option is missing or cannot be what it is, or a package is not installed.
        """
        if not self.measurer:
            raise UnknownNameError(
                f"source {self.name!r} does not measure checkpoints. {did_you_mean(self.name, measurers())}"
            )
        make = self._function(self.measurer)
        known = inspect.signature(make).parameters
        if unknown := [name for name in options if name not in known]:
            raise UnknownNameError(
                f"source {self.name!r} has no option {shown(unknown)}. {did_you_mean(unknown[0], known)}"
            )
        needed = inspect.Parameter.empty
        if missing := [name for name, said in known.items() if said.default is needed and name not in options]:
            raise ReadError(
                f"source {self.name!r} needs the option {shown(missing)}; give -O {self.name}.{missing[0]}=..."
            )
        try:
            measurer: Measurer = make(**options)
        except (TypeError, ValueError) as error:
            raise ReadError(f"source {self.name!r} cannot be made with {options}: {error}") from error
        return measurer

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
    Source(
        "evals",
        "tasks of the lm-evaluation-harness: scores, and the choice for each item",
        extra="fill",
        measurer="polystab.sources.evals:Evals",
    ),
    Source(
        "weights",
        "weights, without a model: moments, fits, spectra, changes, the features of training maps",
        extra="fill",
        measurer="polystab.sources.weights.measurer:Weights",
    ),
    Source(
        "activations",
        "residual stream, attention logits and gradients on a fixed batch of text",
        extra="fill",
        measurer="polystab.sources.activations.measurer:Activations",
    ),
    Source(
        "directions",
        "which tokens the singular directions of MLP and attention matrices point to",
        extra="fill",
        measurer="polystab.sources.activations.directions:Directions",
    ),
    Source(
        "embedding",
        "correlations between the embeddings of the first tokens",
        extra="fill",
        measurer="polystab.sources.activations.embedding:Embedding",
    ),
    Source(
        "probes",
        "linear probes of every layer for labels of words or texts: codelength, F1, and their weights",
        extra="fill",
        measurer="polystab.sources.probes.measurer:Probes",
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


def measurers() -> list[str]:
    """Names of the sources that measure checkpoints."""
    return [name for name, source in sources().items() if source.measurer]


def get_measurer(name: str, **options: Any) -> Measurer:
    """The measurer of the source called ``name``, made with these options.

    Raises
    ------
    UnknownNameError
        No source measures under that name, or it has no such option; close names are
        suggested.
    ReadError
        An option is missing or cannot be what it is, or a package is not installed.
    """
    if name not in sources():
        raise UnknownNameError(f"no source is called {name!r}. {did_you_mean(name, measurers())}")
    return sources()[name].make_measurer(**options)


def guess_sources(path: str | os.PathLike[str]) -> list[str]:
    """Names of the sources that think they can read ``path``."""
    return [name for name, source in sources().items() if source.guess_can_read(path)]
