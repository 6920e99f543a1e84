"""Tables of states as plain labelled arrays, however they were given."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Ints
from polystab.errors import AnalysisError, shown

CELL = ("model", "seed", "step")
States = xr.Dataset | xr.DataArray


def as_states(states: States, *, n_states: int | None = None) -> tuple[xr.DataArray, int]:
    """States (model, seed, step) as integers, -1 where there is none, and how many states there are.

    Parameters
    ----------
    states : xarray.Dataset or xarray.DataArray
        Result of :meth:`TrainingMap.decode`, or states over (seed, step) with or without
        ``model``; NaN and negative numbers are checkpoints without a state.
    n_states : int, optional
        By default what the decoding says, or else one more than the largest state.

    Raises
    ------
    AnalysisError
        It has other dimensions, states that are no whole numbers, or more of them than ``n_states``.
    """
    if isinstance(states, xr.Dataset):
        if "state" not in states.data_vars:
            raise AnalysisError(f"no variable 'state' among {shown(list(states.data_vars))}; pass what decode() gives.")
        n_states = int(states.attrs["n_states"]) if n_states is None and "n_states" in states.attrs else n_states
        states = states["state"]
    if not isinstance(states, xr.DataArray):
        raise AnalysisError(f"expected states over (seed, step) as an xarray object, got {type(states).__name__}.")
    if "model" not in states.dims:
        states = states.expand_dims(model=[str(states["model"].item()) if "model" in states.coords else "model"])
    if set(states.dims) != set(CELL):
        raise AnalysisError(
            f"states have dimensions {tuple(states.dims)}; (seed, step), with or without model, is needed."
        )
    states = states.transpose(*CELL)
    values = np.asarray(states.values, dtype=np.float64)
    known = values >= 0
    whole = np.where(known, values, -1.0)
    if (whole != np.round(whole)).any():
        raise AnalysisError(
            f"states are whole numbers, got {shown(np.unique(whole[whole != np.round(whole)]).tolist())}."
        )
    if not known.any():
        raise AnalysisError("no checkpoint has a state.")
    largest = int(whole.max())
    if n_states is not None and largest >= n_states:
        raise AnalysisError(f"state {largest} is beyond n_states={n_states} (they count from 0).")
    return states.copy(data=whole.astype(np.int64)), largest + 1 if n_states is None else n_states


def one_hot(states: Ints, n_states: int) -> Bools:
    """Which state each checkpoint is in, (..., state); nowhere where there is none."""
    return np.asarray(states[..., None] == np.arange(n_states))


def sequence(states: Ints) -> tuple[list[int], list[int]]:
    """The states that a run passes through, repeats taken together, and where along it each begins."""
    place = np.flatnonzero(states >= 0)
    own = states[place]
    begins = np.flatnonzero(np.diff(own, prepend=-2) != 0)
    return own[begins].tolist(), place[begins].tolist()


def path_text(path: Sequence[int]) -> str:
    return " > ".join(str(state) for state in path)
