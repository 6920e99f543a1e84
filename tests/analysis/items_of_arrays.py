"""Groups of items from plain arrays. A module and not a conftest, of which only one may be collected."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import xarray as xr

DIMS = ("model", "seed", "step", "item")


def make_items(
    choice: npt.ArrayLike | None = None,
    correct: npt.ArrayLike | None = None,
    *,
    tasks: Sequence[str] | None = None,
    hashes: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
) -> xr.Dataset:
    """A group ``items`` with answers (model, seed, step, item) and plain labels."""
    given = {name: np.asarray(part) for name, part in (("choice", choice), ("correct", correct)) if part is not None}
    n_model, n_seed, n_step, n_item = next(iter(given.values())).shape
    task = list(tasks or ["task"] * n_item)
    return xr.Dataset(
        {name: (DIMS, part) for name, part in given.items()},
        coords={
            "model": [f"m{i}" for i in range(n_model)],
            "seed": np.arange(n_seed) if seeds is None else np.asarray(seeds),
            "step": np.arange(n_step) * 1000,
            "item": [f"{name}/{i}" for i, name in enumerate(task)],
            "task": ("item", task),
            "doc_hash": ("item", list(hashes or [f"{i:016x}" for i in range(n_item)])),
        },
    )


def drawn(
    shape: tuple[int, int, int, int], *, options: int = 4, known: float = 0.5, missing: float = 0.0, seed: int = 0
) -> npt.NDArray[np.int16]:
    """Answers that are right (option 0 to ``options`` - 1, by item) with chance ``known``, else guessed."""
    rng = np.random.default_rng(seed)
    key = rng.integers(0, options, shape[-1])
    codes = np.where(rng.random(shape) < known, key, rng.integers(0, options, shape))
    codes[rng.random(shape) < missing] = -1
    return codes.astype(np.int16)
