"""What many analyses ask of their arguments, and how they name the codes in their results."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Floats
from polystab.errors import AnalysisError, did_you_mean

Rng = int | np.random.Generator | None

_EXAMPLES = {"power": 0.8, "alpha": 0.05}


def check_shares(**shares: float) -> None:
    """Raise unless all of them are numbers between 0 and 1: confidence levels, powers."""
    for name, share in shares.items():
        if not isinstance(share, int | float | np.number) or not 0 < share < 1:
            raise AnalysisError(f"{name} is {share}; it lies between 0 and 1, e.g. {_EXAMPLES.get(name, 0.95)}.")


def check_whole(name: str, number: int, least: int) -> None:
    """Raise unless it is a whole number that is large enough."""
    if isinstance(number, bool) or not isinstance(number, int | np.integer) or number < least:
        raise AnalysisError(f"{name} is {number!r}; it is a whole number from {least} on.")


def check_choice(what: str, given: str, known: Collection[str]) -> None:
    """Raise unless it is one of the known names."""
    if given not in known:
        raise AnalysisError(f"no {what} is called {given!r}. {did_you_mean(str(given), known)}")


def generator_of(rng: Rng) -> np.random.Generator:
    """The source of chance that the caller gave, or a fresh one."""
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise AnalysisError(
            f"rng is {rng!r}; give a whole number from 0 on, a numpy.random.Generator or None."
        ) from error


def numbers(given: npt.ArrayLike, name: str) -> Floats:
    """Any array of numbers, as floats."""
    try:
        return np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise AnalysisError(f"{name} is not an array of numbers: {error}.") from error


def flagged(data: xr.Dataset, words: Mapping[str, Sequence[str]]) -> xr.Dataset:
    """Put on every named variable what its codes 0, 1, 2, ... mean, as the CF conventions have it."""
    for name, meanings in words.items():
        data[name].attrs |= {
            "flag_values": np.arange(len(meanings), dtype=np.int8),
            "flag_meanings": " ".join(meanings),
        }
    return data
