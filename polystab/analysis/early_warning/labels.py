"""What is known of runs: which went wrong, and when that could be seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, Floats
from polystab.analysis.early_warning.relative import Texts
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, shown


@dataclass(frozen=True, eq=False)
class Labels:
    """Of each run, model by model.

    Attributes
    ----------
    known, wrong : (run,) array of bool
    seen_at : (run,) array
        When the rule could have said so; infinite for good runs and where that is not told.
    """

    known: Bools
    wrong: Bools
    seen_at: Floats

    @property
    def stable(self) -> Bools:
        return self.known & ~self.wrong

    def take(self, chosen: npt.NDArray[np.intp] | Bools) -> Labels:
        return Labels(self.known[chosen], self.wrong[chosen], self.seen_at[chosen])


def read_labels(
    given: xr.Dataset | xr.DataArray | npt.ArrayLike | None, data: xr.Dataset | xr.DataTree
) -> Labels | None:
    """Labels of the runs of a cube: what :func:`failed_runs` gives, or an array (model, seed); NaN is not known."""
    if given is None:
        return None
    cube = as_cube(data)
    shape = cube.sizes["model"], cube.sizes["seed"]
    seen = known = None
    if isinstance(given, xr.Dataset):
        if "wrong" not in given:
            raise AnalysisError(
                f"the labels have no variable 'wrong' (they have {shown(given.data_vars)}); see failed_runs."
            )
        part = _like(given, cube)
        given, known, seen = part["wrong"], part.get("known"), part.get("seen_at")
    elif isinstance(given, xr.DataArray):
        given = _like(given.to_dataset(name="wrong"), cube)["wrong"]
    try:
        values = np.asarray(given, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise AnalysisError(
            f"labels are true for runs that went wrong, false for good ones, NaN if unknown: {error}."
        ) from error
    if values.shape != shape:
        raise AnalysisError(f"labels have shape {values.shape}; the cube has {shape[0]} models and {shape[1]} seeds.")
    if odd := np.setdiff1d(values[~np.isnan(values)], [0.0, 1.0]).tolist():
        raise AnalysisError(f"labels {shown(odd)} are neither true (1) nor false (0), nor NaN for unknown.")
    told: Bools = ~np.isnan(values)
    if known is not None:
        told &= np.asarray(known.values, dtype=np.float64) == 1
    wrong: Bools = told & (values == 1)
    when = np.full(shape, np.inf) if seen is None else np.asarray(seen.values, dtype=np.float64)
    when = np.where(wrong & ~np.isnan(when), when, np.inf)
    return Labels(told.reshape(-1), wrong.reshape(-1), when.reshape(-1))


def _like(labels: xr.Dataset, cube: xr.Dataset) -> xr.Dataset:
    """The labels of the runs of the cube, in its order; NaN for those that are not labelled."""
    if missing := [dim for dim in ("model", "seed") if dim not in labels.dims]:
        raise AnalysisError(f"the labels have no dimension {shown(missing)}; they are about runs, (model, seed).")
    part = labels[[name for name in ("wrong", "known", "seen_at") if name in labels]].astype(np.float64)
    return part.reindex(model=cube["model"].values, seed=cube["seed"].values).transpose("model", "seed")


def check_classes(labels: Labels, used: Bools, keys: Texts) -> None:
    """Raise unless runs of both classes are there to learn from."""
    wrong, good = labels.wrong & used, labels.stable & used
    if wrong.sum() < 2 or good.sum() < 2:
        which = f"{int(wrong.sum())} went wrong and {int(good.sum())} did not"
        raise AnalysisError(
            f"of {int((labels.known & used).sum())} labelled runs {which}; learning from labels takes two of each "
            f"(runs are {shown(keys.tolist())}). Use method='novelty', which needs stable runs only."
        )
