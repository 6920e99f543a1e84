"""What probing found, in the words of a cube: metrics by layer, and the group ``probes``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.cube.labels import MetricId
from polystab.sources.measuring import Measurement
from polystab.sources.probes.data import Task


@dataclass(frozen=True)
class Kept:
    """Weights of one task's probes, shape (layers, classes, d)."""

    task: str
    classes: tuple[str, ...]
    weights: npt.NDArray[np.float64]


def probe_metric(task: str, measure: str, layer: int) -> str:
    """The id of what was measured of a task in a layer.

    Examples
    --------
    >>> probe_metric("nano.pos", "codelength", 2)
    'probe/nano.pos/codelength@layer2'
    """
    return str(MetricId("probe", task, measure, filter=f"layer{layer}"))


def details_group(kept: Sequence[Kept], fingerprints: Mapping[str, str]) -> xr.Dataset:
    """The group ``probes``."""
    data: dict[str, Any] = {
        "tokens": ("probe_data", np.array(list(fingerprints.values())), {"long_name": "SHA-256 of the token ids"})
    }
    coords: dict[str, Any] = {"probe_data": np.array(list(fingerprints))}
    if kept:
        largest = [np.abs(part.weights).max(axis=(1, 2), keepdims=True) for part in kept]
        weights = np.concatenate(
            [part.weights / np.where(top > 0, top, 1.0) for part, top in zip(kept, largest, strict=True)], axis=1
        )
        # Eleven bits do for angles, and compress; netCDF has no half precision.
        short = weights.astype(np.float16).astype(np.float32)
        doc = "posterior mean weights of the probes, each probe's largest 1"
        data["weights"] = (("layer", "probe_class", "hidden"), short, {"long_name": doc})
        owners = [part.task for part in kept for _ in part.classes]
        labels = [label for part in kept for label in part.classes]
        coords |= {
            "layer": np.arange(weights.shape[0]),
            "hidden": np.arange(weights.shape[2]),
            "probe_class": np.array([json.dumps(pair) for pair in zip(owners, labels, strict=True)]),
            "probe_task": ("probe_class", np.array(owners)),
            "probe_label": ("probe_class", np.array(labels)),
        }
    return xr.Dataset(data, coords=coords, attrs={"summary": "probes on hidden states"})


def add_by_layer(found: Measurement, name: str, task: Task, measure: str, by_layer: npt.NDArray[np.float64]) -> None:
    """Put what was measured of each layer among the values."""
    code = measure.endswith(("codelength", "kl"))
    n, classes = task.count("train" if code else "test"), len(task.classes)
    said: dict[str, Any] = {"units": "nat" if code else "1", "n_items": n, "better": "lower" if code else "higher"}
    if measure.endswith("codelength"):
        said["chance"] = n * float(np.log(classes))
    elif measure.endswith("micro_f1"):
        said["chance"] = 1 / classes
    elif code:
        said["better"] = ""
    for layer, value in enumerate(by_layer.tolist()):
        metric = probe_metric(name, measure, layer)
        found.values[metric] = value
        found.metrics[metric] = {**said, "layer": layer, "filter": f"layer{layer}"}
