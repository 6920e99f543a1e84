"""What codelengths of probes say: compression, where in the network, and whether runs read the same tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Floats, cells, described, divided, finite, labels
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, did_you_mean, shown

_BITS = 1 / float(np.log(2))

CODES = {
    "variational": ("codelength", "control_codelength"),
    "online": ("online_codelength", ""),
}


def probe_codelengths(
    data: xr.Dataset | xr.DataTree, *, method: str = "variational", first_step: int | None = None
) -> xr.Dataset:
    """Codelengths of probes against three others: the uniform code, shuffled labels, and the start of training.

    Parameters
    ----------
    data : xarray.Dataset or xarray.DataTree
        A cube with the family ``probe``. With the group ``probes`` (a tree), tokenizers
        are compared as well.
    method : {"variational", "online"}, optional
        Which codelength.
    first_step : int, optional
        The step that training is compared with; by default 0, where the cube has it.

    Returns
    -------
    xarray.Dataset
        Over ``(model, seed, step, task, layer)``: ``codelength`` (nats), ``codelength_bits``;
        ``compression`` (uniform / codelength: above 1 the states help), ``control_compression``
        (shuffled / codelength: above 1 they know this labelling, not any), ``start_compression``
        (at ``first_step`` / codelength: above 1 training has helped).

        Over ``(model, seed, step, task)``: ``layer_centre``, ``expected_layer`` and
        ``best_layer``, see Notes.

        ``uniform`` over ``task``, nats. From a tree also ``tokenization`` over ``(model,
        seed, step, data)``: runs that cut the texts alike have the same number, -1 where
        it is not known. The attribute ``notes`` says where there are several.

    Raises
    ------
    AnalysisError
        The cube has no such codelengths, or no such step.

    Notes
    -----
    Layer 0 are the embeddings. With the saving ``s_l = max(0, uniform - L_l)`` of layer l,
    the centre of gravity is ``sum_l l s_l / sum_l s_l``; it stays near the middle where all
    layers do well. The expected layer weighs each layer by what it adds to the best
    before it, ``d_l = max(0, max(s_0..s_l) - max(s_0..s_{l-1}))``, ``l`` from 1: ``sum_l l d_l
    / sum_l d_l`` (after [1]_, which trains a probe on the layers up to l instead). Both
    are NaN where the sum is 0 or a layer was not measured.

    Shuffled labels still compress to their entropy, so that ``control_compression`` is
    smaller than ``compression`` where classes are unequal; it is the one to trust.

    Each cell is of one run; one seed is enough. NaN and infinite codelengths are not
    measured. Words without a hidden state (audit: ``no-state``) are missing from the
    codelength but not from the uniform code.

    References
    ----------
    .. [1] I. Tenney, D. Das, E. Pavlick, BERT rediscovers the classical NLP pipeline,
       ACL 2019, doi:10.18653/v1/P19-1452.

    Examples
    --------
    >>> import numpy as np, polystab as ps
    >>> from polystab.cube import cube_from_records
    >>> import pandas as pd
    >>> rows = [("m", 0, step, f"probe/pos/codelength@layer{l}", 100.0 / (1 + l * step))
    ...         for step in (0, 1) for l in (0, 1)]
    >>> cube = cube_from_records(pd.DataFrame(rows, columns=["model", "seed", "step", "metric", "value"]))
    >>> cube = cube.assign_coords(layer=("metric", [0, 1]), chance=("metric", [100.0, 100.0]))
    >>> result = probe_codelengths(cube)
    >>> result.compression.sel(step=1).squeeze().values.tolist(), float(result.layer_centre.sel(step=1).item())
    ([1.0, 2.0], 1.0)
    """
    if method not in CODES:
        raise AnalysisError(f"no codelength is called {method!r}. {did_you_mean(method, CODES)}")
    cube = as_cube(data)
    measure, control = CODES[method]
    length, tasks, layers, chance = _by_task(cube, measure)
    shuffled = _by_task(cube, control, tasks, layers)[0] if control else np.full(length.shape, np.nan)
    uniform = np.array([chance[i][np.isfinite(chance[i])].max(initial=-np.inf) for i in range(len(tasks))])
    uniform[~np.isfinite(uniform)] = np.nan
    start = _at_first(length, cube["step"].values, first_step)
    saved = np.maximum(0.0, uniform[:, None] - length)
    dims = ("model", "seed", "step", "task", "layer")
    result = xr.Dataset(
        {
            "codelength": (dims, length),
            "codelength_bits": (dims, length * _BITS),
            "compression": (dims, divided(uniform[:, None], length)),
            "control_compression": (dims, divided(shuffled, length)),
            "start_compression": (dims, divided(start, length)),
            "layer_centre": (dims[:4], layer_centre(saved, layers)),
            "expected_layer": (dims[:4], expected_layer(saved, layers)),
            "best_layer": (dims[:4], _best(length, layers)),
            "uniform": ("task", uniform),
        },
        coords={**labels(cube, "model", "seed", "step"), "task": tasks, "layer": layers},
    )
    result = described(
        result,
        {
            "codelength": f"{method} codelength of the training labels",
            "codelength_bits": f"{method} codelength of the training labels",
            "compression": "uniform code over the codelength",
            "control_compression": "codelength of shuffled labels over that of the labels",
            "start_compression": "codelength at the first step over that at the step",
            "layer_centre": "centre of gravity of what the layers save",
            "expected_layer": "expected layer of what each layer adds",
            "best_layer": "layer with the shortest code; NaN where none was measured",
            "uniform": "codelength with all classes equally likely",
        },
        {"codelength": "nat", "codelength_bits": "bit", "uniform": "nat"}
        | dict.fromkeys(("compression", "control_compression", "start_compression"), "1"),
    )
    return _with_tokenization(result, data)


def layer_centre(saved: npt.NDArray[Any], layers: npt.NDArray[Any]) -> Floats:
    """Centre of gravity of what layers save, over the last axis; layers that a model lacks are NaN.

    Examples
    --------
    >>> float(layer_centre(np.array([1.0, 2.0, 1.0, np.nan]), np.arange(4)))
    1.0
    """
    weight = np.where(np.isnan(saved), 0.0, saved)
    return divided((weight * layers).sum(-1), weight.sum(-1))


def expected_layer(saved: npt.NDArray[Any], layers: npt.NDArray[Any]) -> Floats:
    """Mean layer weighted by what each adds to the best of those before it, over the last axis.

    Examples
    --------
    >>> float(expected_layer(np.array([1.0, 2.0, 1.5, 3.0]), np.arange(4)))
    2.0
    """
    best = np.maximum.accumulate(np.where(np.isnan(saved), -np.inf, saved), axis=-1)
    known = np.isfinite(best[..., :-1])
    added = np.where(known, best[..., 1:] - np.where(known, best[..., :-1], 0.0), 0.0)
    return divided((added * layers[1:]).sum(-1), added.sum(-1))


def _best(length: Floats, layers: npt.NDArray[Any]) -> Floats:
    known = ~np.isnan(length)
    place = np.where(known, length, np.inf).argmin(-1)
    return np.where(known.any(-1), layers[place], np.nan)


def _by_task(
    cube: xr.Dataset, measure: str, tasks: npt.NDArray[Any] | None = None, layers: npt.NDArray[Any] | None = None
) -> tuple[Floats, npt.NDArray[Any], npt.NDArray[Any], Floats]:
    """A measure of probes over (model, seed, step, task, layer), with tasks, layers and chance (task, layer)."""
    chosen = np.flatnonzero((cube["family"].values == "probe") & (cube["measure"].values == measure))
    if tasks is None and not len(chosen):
        present = sorted({str(name) for name in cube["measure"].values[cube["family"].values == "probe"]})
        said = f"its probes measured {shown(present)}" if present else "it has no metric of the family 'probe'"
        raise AnalysisError(f"the cube has no {measure!r} of probes: {said}. Measure it: polystab fill probes.")
    subject, layer = cube["subject"].values[chosen], cube["layer"].values[chosen]
    tasks = np.unique(subject) if tasks is None else tasks
    layers = np.unique(layer) if layers is None else layers
    values = finite(cells(cube)[..., chosen])
    result = np.full((*values.shape[:3], len(tasks), len(layers)), np.nan)
    chance = np.full((len(tasks), len(layers)), np.nan)
    said_chance = cube["chance"].values[chosen] if "chance" in cube.coords else np.full(len(chosen), np.nan)
    for i, (task, number) in enumerate(zip(subject, layer, strict=True)):
        t, k = np.flatnonzero(tasks == task), np.flatnonzero(layers == number)
        if len(t) and len(k):
            result[..., t[0], k[0]] = values[..., i]
            chance[t[0], k[0]] = said_chance[i]
    return result, tasks, layers, chance


def _at_first(length: Floats, steps: npt.NDArray[Any], first_step: int | None) -> Floats:
    """The codelengths at the first step, for all steps; NaN where the cube has none and none was asked for."""
    wanted = 0 if first_step is None else first_step
    place = np.flatnonzero(steps == wanted)
    if len(place):
        return np.broadcast_to(length[:, :, place], length.shape)
    if first_step is not None:
        raise AnalysisError(f"the cube has no step {first_step}; it has {shown(steps.tolist())}.")
    return np.full(length.shape, np.nan)


def _with_tokenization(result: xr.Dataset, data: xr.Dataset | xr.DataTree) -> xr.Dataset:
    if not isinstance(data, xr.DataTree) or "probes" not in data.children or "tokens" not in data["probes"].data_vars:
        return result
    tokens = data["probes"].to_dataset()["tokens"].transpose("model", "seed", "step", "probe_data")
    codes = np.full(tokens.shape, -1, dtype=np.int64)
    notes = []
    for i, name in enumerate(tokens["probe_data"].values.tolist()):
        texts = tokens.values[..., i].astype(str)
        kinds = {text: number for number, text in enumerate(dict.fromkeys(t for t in texts.ravel().tolist() if t))}
        codes[..., i] = np.array([kinds.get(text, -1) for text in texts.ravel().tolist()]).reshape(texts.shape)
        if len(kinds) > 1:
            notes.append(
                f"the texts of {name} were cut into tokens in {len(kinds)} ways: codelengths of runs with different "
                "tokenizers are not of the same states; see tokenization."
            )
    result = result.assign_coords(data=tokens["probe_data"].values)
    array = xr.DataArray(codes, dims=("model", "seed", "step", "data"))
    result = result.assign(tokenization=array.assign_attrs(long_name="number of the tokenization; -1 unknown"))
    return result.assign_attrs(notes=" ".join(notes))
