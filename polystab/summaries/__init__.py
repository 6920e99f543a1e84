"""Short tables of results and cubes, for notebooks and terminals: :func:`summary`."""

from __future__ import annotations

from polystab.summaries.choice import summary as summary
from polystab.summaries.table import Column as Column
from polystab.summaries.table import Summary as Summary

__all__ = ["Column", "Summary", "summary"]
