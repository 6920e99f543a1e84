"""What moved first in a run that became an outlier: weights before scores?"""

from __future__ import annotations

import numpy as np
import xarray as xr

from polystab.analysis.arrays import described, labels
from polystab.analysis.options import check_choice
from polystab.errors import AnalysisError

_GROUPINGS = ("family", "component", "subject", "metric")


def lead_lag(found: xr.Dataset, *, by: str = "family") -> xr.Dataset:
    """In which order the families, components or subjects of an outlier run left its siblings.

    Parameters
    ----------
    found : xarray.Dataset
        Result of :func:`polystab.analysis.outlier_runs`.
    by : {'family', 'component', 'subject', 'metric'}, optional
        What metrics are grouped by; those without one are left out.

    Returns
    -------
    xarray.Dataset
        Per run and group (model, seed, group): ``first_onset``, the first step at which a metric of
        the group left the siblings for good, -1 for never; ``first_metric``; ``median_onset`` over
        the metrics of the group that did, NaN for none; ``n_onsets`` of ``n_metrics(group)``;
        ``order``, 1 for the groups whose first metric was first, 0 for those that never left. Runs that are no
        outliers have none.

    Raises
    ------
    AnalysisError
        This is no result of :func:`polystab.analysis.outlier_runs`, or has no such grouping.

    Notes
    -----
    The onset of a metric is known to a checkpoint, and comes later for a metric that is noisy among
    siblings: an order within one or two checkpoints says little.

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis.outliers.verdicts import outlier_runs
    >>> cube = polystab.testing.synthetic_cube(
    ...     n_models=1, n_seeds=8, events=[polystab.testing.Event.outlier(3, 50_000)], rng=0)
    >>> table = lead_lag(outlier_runs(cube, draws=199)).isel(model=0)
    >>> bool((table["order"].sel(seed=3) > 0).any()), int(table["order"].sel(seed=5).max())
    (True, 0)
    """
    if "onset" not in found:
        raise AnalysisError("lead_lag takes the result of outlier_runs(cube); this dataset has no variable 'onset'.")
    check_choice("grouping", by, _GROUPINGS)
    if by not in found.coords:
        raise AnalysisError(f"the metrics carry no {by!r}; group by another of {', '.join(_GROUPINGS)}.")
    onset = found["onset"].transpose("model", "seed", "metric").values
    of, metrics = found[by].values.astype(str), found["metric"].values
    groups = [name for name in dict.fromkeys(of.tolist()) if name]
    shape = (*onset.shape[:2], len(groups))
    first, middle = np.full(shape, -1, dtype=np.int64), np.full(shape, np.nan)
    metric, n_onsets = np.full(shape, "", dtype=metrics.dtype), np.zeros(shape, dtype=np.int64)
    for g, name in enumerate(groups):
        own = np.flatnonzero(of == name)
        part = onset[:, :, own]
        moved = part >= 0
        n_onsets[..., g] = moved.sum(axis=2)
        late = np.where(moved, part, np.iinfo(np.int64).max)
        first[..., g] = np.where(moved.any(axis=2), late.min(axis=2), -1)
        metric[..., g] = np.where(moved.any(axis=2), metrics[own][late.argmin(axis=2)], "")
        for m, s in np.argwhere(moved.any(axis=2)).tolist():
            middle[m, s, g] = np.median(part[m, s][moved[m, s]])
    left = first >= 0
    earlier = (first[..., None, :] < first[..., :, None]) & left[..., None, :]
    result = xr.Dataset(
        {
            "first_onset": (("model", "seed", "group"), first),
            "first_metric": (("model", "seed", "group"), metric),
            "median_onset": (("model", "seed", "group"), middle),
            "n_onsets": (("model", "seed", "group"), n_onsets),
            "order": (("model", "seed", "group"), np.where(left, 1 + earlier.sum(axis=-1), 0)),
            "n_metrics": ("group", np.array([np.sum(of == name) for name in groups], dtype=np.int64)),
        },
        coords={**labels(found, "model", "seed"), "group": np.array(groups, dtype=np.str_)},
        attrs={"by": by},
    )
    return described(
        result,
        {
            "first_onset": "first step at which a metric of the group left the siblings, -1 for never",
            "first_metric": "that metric",
            "median_onset": "median onset of the metrics of the group that left",
            "n_onsets": "metrics of the group that left",
            "order": "place among the groups by first onset, 0 for never",
            "n_metrics": "metrics of the group",
        },
    )
