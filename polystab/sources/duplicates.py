"""Which of several values for one cell stays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from polystab.errors import UnknownNameError, did_you_mean

OnDuplicate = Literal["error", "first", "last"]

Codes = npt.NDArray[np.intp]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Settled:
    """Rows that stay, one for each cell, in their order; and rows that contradict the one that stays."""

    kept: Codes
    losing: Codes
    against: Codes


def checked_rule(rule: str) -> None:
    """Raise unless ``rule`` is one for tables, which hold no times."""
    if rule in ("latest", "earliest"):
        raise UnknownNameError(
            f"on_duplicate={rule!r} needs to know when a value was written, and tables and logs do not say; "
            "use 'last' (a restarted run logs steps again) or 'first', by order of files and rows."
        )
    if rule not in get_args(OnDuplicate):
        raise UnknownNameError(f"no rule {rule!r} for duplicates. {did_you_mean(str(rule), get_args(OnDuplicate))}")


def settle(cell: npt.NDArray[np.int64], value: Floats, stderr: Floats | None, rule: OnDuplicate) -> Settled | None:
    """Choose a row for each cell.

    Parameters
    ----------
    cell : array of int, shape (n,)
        A number for the cell that each row claims.
    value, stderr : array of float, shape (n,)
        Values without NaN; ``stderr`` is NaN where unknown. A row that stays without a
        standard error takes the one of an equal value for its cell: ``stderr`` is
        changed in place.
    rule : {"error", "first", "last"}
        Which row stays; ``"error"`` compares all with the first.

    Returns
    -------
    Settled or None
        None if no cell is claimed twice. Rows that repeat what stays contradict nothing.
    """
    order = np.argsort(cell, kind="stable")
    starts = np.append(True, cell[order][1:] != cell[order][:-1])
    if starts.all():
        return None
    firsts = np.flatnonzero(starts)
    lasts = np.append(firsts[1:], len(order)) - 1
    winners = order[lasts if rule == "last" else firsts]
    against = winners[np.cumsum(starts) - 1]
    same = value[order] == value[against]
    differs = ~same
    if stderr is not None:
        known = same & ~np.isnan(stderr[order])
        helps = known & np.isnan(stderr[against])
        stderr[against[helps]] = stderr[order[helps]]
        differs |= known & (stderr[order] != stderr[against])
    return Settled(np.sort(winners), order[differs], against[differs])
