"""What measuring a checkpoint gives, and what a measurer is.

A measurer looks at one checkpoint and returns a :class:`Measurement`: values with
their metric ids, and, for what does not fit four dimensions, small Datasets that
become detail groups. It knows nothing of files, runs or other processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import xarray as xr

    from polystab.sources.checkpoints import Checkpoint


@dataclass
class Measurement:
    """What one measurer found in one checkpoint.

    Attributes
    ----------
    values : dict
        Metric id to value. NaN means not measured; infinite values are kept.
    stderr : dict
        Metric id to sampling standard error, where there is one.
    metrics : dict
        Metric id to coordinates of that metric that its id does not say: ``units``,
        ``better``, ``chance``, ``n_items``, ``component``, ``layer``, ``shots``, ``filter``.
    details : dict
        Group name to a Dataset without model, seed and step, each of whose
        dimensions has a coordinate to join on.
    notes : list of (reason, detail)
        What a person should know; ends up in the audit as ``noted``.
    provenance : dict
        Text about how it was measured (versions, batch size, device): kept with the
        unit, not compared between units.
    """

    values: dict[str, float] = field(default_factory=dict)
    stderr: dict[str, float] = field(default_factory=dict)
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    details: dict[str, xr.Dataset] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)
    provenance: dict[str, str] = field(default_factory=dict)


@runtime_checkable
class Measurer(Protocol):
    """Measures checkpoints, one at a time, in any order and in any process.

    It must be picklable, and be cheap until ``measure`` is first called. If it has a
    method ``check``, that is called once before any work, to refuse a request that
    cannot succeed; see :func:`check_measurers`.
    """

    @property
    def name(self) -> str:
        """As on the command line: ``polystab fill NAME``."""

    def settings(self) -> Mapping[str, Any]:
        """All that decides the numbers, as JSON can hold it: units of other settings are not mixed with these."""

    def measure(self, checkpoint: Checkpoint) -> Measurement:
        """Measure one checkpoint; a :class:`~polystab.errors.PolystabError` fails this unit with its message."""


def check_measurers(measurers: Iterable[Measurer]) -> None:
    """Have every measurer that can look at its own request do so, before any checkpoint is loaded."""
    for measurer in measurers:
        check = getattr(measurer, "check", None)
        if check is not None:
            check()
