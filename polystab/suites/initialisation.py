"""First weights made of finished ones: permuted, or drawn from their distribution, matrix by matrix."""

from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.errors import UnknownNameError, did_you_mean, shown
from polystab.sources.checkpoint_errors import library
from polystab.sources.tensor_files import check_weights, is_known_buffer, read_tensors, weight_files
from polystab.sources.weights.names import Parameter, parameter
from polystab.suites.init_laws import NEEDS, InitError, Law, MeasuredWeights, law_of, measured_weights
from polystab.suites.recipes import Recipe

if TYPE_CHECKING:
    import torch

    from polystab.sources.checkpoints import Checkpoint

    Tensors = Mapping[str, torch.Tensor]
    Source = str | os.PathLike[str] | Checkpoint | torch.nn.Module | Tensors | xr.Dataset | xr.DataTree
    Like = Recipe | torch.nn.Module | Tensors

HOWS = ("permute", "histogram", "fit", "normal")
VECTORS = ("final", "fresh")


# What gains and biases are before training.
_FRESH = {"norm": 1.0, "bias": 0.0, "norm_bias": 0.0}


@dataclass(frozen=True)
class Target:
    """A parameter that needs first weights; tied parameters have one ``group``."""

    name: str
    known: Parameter
    shape: tuple[int, ...]
    dtype: torch.dtype
    group: str

    @property
    def vector(self) -> bool:
        return len(self.shape) < 2


def init_from(
    source: Source,
    how: str = "permute",
    *,
    like: Like | None = None,
    vectors: str = "final",
    run: tuple[str, int] | None = None,
    step: int | None = None,
    rng: int | np.random.Generator | None = None,
) -> dict[str, torch.Tensor]:
    """First weights for a model that have, parameter by parameter, the distribution of finished ones.

    Parameters
    ----------
    source : path, Checkpoint, torch.nn.Module, mapping, or cube
        Finished weights: a folder with a checkpoint, a model, tensors by name. Or a cube
        (Dataset or DataTree) that weights were measured into, which does not hold the weights.
    how : {"permute", "histogram", "fit", "normal"}
        ``permute``: the elements of each parameter in another order; needs the weights themselves.
        ``histogram``: independent draws from its histogram, uniform within each bin; the bins are those of
        ``fill weights --sets histograms``, 12 to a power of ten, and what is beyond 100 becomes 100. Gains
        near 1 would all be in two or three bins: of vectors, elements are drawn, with replacement.
        ``fit``: draws from the t distribution fitted to it, about its mean; of vectors as ``normal``, for a fit to a
        few numbers can have tails without end. ``normal``: draws from the normal
        distribution with its mean and standard deviation (ddof 1).
    like : Recipe, torch.nn.Module or mapping, optional
        What the weights are for: its names (those of files and those of models in memory are
        told to be the same), shapes, dtypes and ties are those of the result, and masks and tables among its
        tensors come back as they are. Default: as the source. A cube needs it, for it knows no shapes.
    vectors : {"final", "fresh"}
        Gains and biases: from their finished values as the matrices, or gains 1 and biases 0. Cubes hold no
        histograms of them: from a cube, ``final`` is normal.
    run : (model, seed), optional
        Which run of a cube; needed if weights of several were measured.
    step : int, optional
        Which step of a cube; default the last at which weights of the run were measured.
    rng : int, numpy.random.Generator or None, optional
        Each parameter has a stream of its own, decided by this and by the parameter's part of the network.
        The same int gives the same bytes.

    Returns
    -------
    dict of str to torch.Tensor
        For ``model.load_state_dict``, on the CPU. Tied parameters are one tensor under two names.

    Raises
    ------
    InitError
        The source lacks parameters, has others or in other shapes, ties what ``like`` does not;
        holds NaN, infinity or integers; a cube lacks what ``how`` needs, or has several runs. All are named.
    UnknownNameError
        No such ``how`` or ``vectors``.
    CheckpointError
        The folder holds no weights, or damaged ones.

    Notes
    -----
    Structure is lost on purpose: singular vectors, correlations between and within rows, and, with the
    permutation of a matrix, the equality of biases that training keeps equal. What stays is the one-dimensional
    distribution: all of it with ``permute``, up to the width of a bin (21 %) with ``histogram``, tails
    and scale with ``fit``, only the scale with ``normal``, the control for whether more than scale matters.
    Where a t distribution cannot be fitted (fewer than 30 elements, or no spread), ``fit`` is ``normal``. A
    cube may lack the means of matrices, which are next to 0 and then taken as 0.
    Without ``like``, input and output embedding of a source count as tied if they are equal.

    Millidge and Winsor (2023), *Basic facts about language models during training*, found that weights end far
    from the normal distribution that they start from; whether starting there helps was asked by their readers.

    Examples
    --------
    >>> from polystab.suites.models import new_model
    >>> from polystab.suites.recipes import SMALL
    >>> finished = new_model(SMALL, 0)
    >>> state = init_from(finished, "permute", rng=0)
    >>> new_model(SMALL, 1).load_state_dict(state)
    <All keys matched successfully>
    """
    check_ways(how, vectors)
    base = np.random.default_rng(rng).integers(2**63, size=2).tolist()
    if isinstance(source, xr.Dataset | xr.DataTree):
        if how == "permute":
            raise InitError("a cube does not hold the weights to be permuted; give a checkpoint, or another how.")
        if like is None:
            raise InitError("a cube knows no shapes; say what the weights are for: like=model, or a recipe.")
        targets, others = _targets(like)
        found = measured_weights(source, run, step, histograms=how == "histogram")
        laws = _laws_of_cube(found, targets, how, vectors)
    else:
        if run is not None or step is not None:
            raise InitError("run and step choose from a cube; a checkpoint is one step of one run.")
        tensors = _tensors(source)
        targets, others = _targets(tensors if like is None else like, equal=like is None)
        laws = _laws_of_tensors(_arrays(tensors), targets, how, vectors)
    drawn: dict[str, torch.Tensor] = {}
    for target in targets:
        if target.group not in drawn:
            stream = np.random.default_rng([*base, *_words(target.group)])
            drawn[target.group] = _tensor(laws[target.group](math.prod(target.shape), stream), target)
    return {**others, **{target.name: drawn[target.group] for target in targets}}


def weights_digest(source: str | os.PathLike[str] | Checkpoint | torch.nn.Module | Tensors) -> str:
    """SHA-256 of names, types, shapes and bytes of all weights, whichever kind of file they came in.

    Raises
    ------
    CheckpointError
        The folder holds no weights, or damaged ones.
    """
    torch = library("torch")
    digest = hashlib.sha256()
    for name, tensor in sorted(_tensors(source).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def check_ways(how: str, vectors: str) -> None:
    """Refuse a ``how`` or ``vectors`` of :func:`init_from` that does not exist.

    Raises
    ------
    UnknownNameError
    """
    for what, given, known in (("how", how, HOWS), ("vectors", vectors, VECTORS)):
        if given not in known:
            raise UnknownNameError(
                f"no way {given!r} to make first weights ({what}). {did_you_mean(str(given), known)}"
            )


# What needs weights.


def _targets(like: Like, *, equal: bool = False) -> tuple[list[Target], dict[str, torch.Tensor]]:
    """The parameters, and the buffers as they are. ``equal``: embeddings with equal numbers are tied, too."""
    if isinstance(like, Recipe):
        from polystab.suites.models import new_model

        like = new_model(like, 0)
    tensors = _tensors(like, buffers=True)
    if not tensors:
        raise InitError("there are no parameters to make first weights for.")
    groups = _groups({name: tensor for name, tensor in tensors.items() if not is_known_buffer(name)}, equal=equal)
    targets = [
        Target(name, parameter(name), tuple(tensors[name].shape), tensors[name].dtype, group)
        for name, group in groups.items()
    ]
    return targets, {name: tensor for name, tensor in tensors.items() if name not in groups}


def _groups(tensors: Tensors, *, equal: bool) -> dict[str, str]:
    """For each name its part of the network, which is that of the input embedding for what is tied to it."""
    known = {name: parameter(name) for name in tensors}
    met = Counter(one.subject for one in known.values())
    groups = {name: one.subject if met[one.subject] == 1 else name for name, one in known.items()}
    inputs, outputs = (
        [name for name in tensors if known[name].kind == kind and tensors[name].ndim > 1]
        for kind in ("embedding", "unembedding")
    )
    for name, other in product(inputs, outputs):
        one, two = tensors[name], tensors[other]
        if one.shape == two.shape and (one is two or _same_memory(one, two) or (equal and bool((one == two).all()))):
            groups[other] = groups[name]
    return groups


def _same_memory(one: torch.Tensor, two: torch.Tensor) -> bool:
    return one.data_ptr() == two.data_ptr() != 0  # 0: nothing in it, or only a shape


def _tensors(source: Any, *, buffers: bool = False) -> dict[str, torch.Tensor]:
    """Tensors by name, of a folder, checkpoint, model or mapping."""
    torch = library("torch")
    if isinstance(source, str | os.PathLike):
        files = weight_files(Path(source).expanduser())
        check_weights(files)
        found = dict(read_tensors(files))
    elif isinstance(source, torch.nn.Module):
        found = dict(source.state_dict(keep_vars=True))  # so that tied parameters are one object
    elif isinstance(source, Mapping):
        found = dict(source)
        if other := [name for name, tensor in found.items() if not isinstance(tensor, torch.Tensor)]:
            raise InitError(f"tensors by name were expected; {shown(other)} hold something else.")
    elif hasattr(source, "tensors"):
        found = dict(source.tensors())
    else:
        raise InitError(
            f"weights cannot be had from {type(source).__name__}; give the folder of a checkpoint, a model, tensors by "
            "name, or a cube."
        )
    return {name: tensor for name, tensor in found.items() if buffers or not is_known_buffer(name)}


# Where the numbers come from.


def _arrays(tensors: Tensors) -> dict[str, npt.NDArray[np.floating]]:
    """Weights as arrays; refused where they are not finite numbers."""
    from polystab.sources.weights.reading import as_array

    if integers := [name for name, tensor in tensors.items() if not tensor.is_floating_point()]:
        raise InitError(f"{shown(integers)} are no floating-point numbers; take a checkpoint that is not quantised.")
    arrays = {name: as_array(tensor) for name, tensor in tensors.items()}
    if bad := [name for name, x in arrays.items() if not np.isfinite(x).all()]:
        raise InitError(f"{shown(bad)} hold NaN or infinity: that run has diverged. Take an earlier step, or another.")
    return arrays


def _laws_of_tensors(
    arrays: Mapping[str, npt.NDArray[np.floating]], targets: Iterable[Target], how: str, vectors: str
) -> dict[str, Law]:
    subjects = {parameter(name).subject: name for name in arrays}
    place = {t.name: t.name if t.name in arrays else subjects.get(t.known.subject, "") for t in targets}
    members: dict[str, list[Target]] = {}
    for target in targets:
        members.setdefault(target.group, []).append(target)
    # Of tied parameters a file may hold one.
    lacking = [some[0].name for some in members.values() if not any(place[t.name] for t in some)]
    apart = [
        t.name
        for some in members.values()
        for t in some[1:]
        if place[t.name] and place[some[0].name] and _differ(arrays[place[t.name]], arrays[place[some[0].name]])
    ]
    reshaped = [
        f"{t.name} ({_sides(arrays[place[t.name]].shape)}, not {_sides(t.shape)})"
        for t in targets
        if place[t.name] and arrays[place[t.name]].shape != t.shape
    ]
    faults = {
        "lacks": lacking,
        "has besides": sorted(set(arrays) - set(place.values())),
        "has in another shape": reshaped,
        "has two of what the model ties,": [] if reshaped else apart,
    }
    if told := [f"{verb} {shown(names)}" for verb, names in faults.items() if names]:
        raise InitError(f"these weights are not of such a model: the source {'; it '.join(told)}.")
    laws = {}
    for group, some in members.items():
        if some[0].vector and vectors == "fresh":
            laws[group] = _require_fresh(some[0])
        else:
            laws[group] = law_of(arrays[next(place[t.name] for t in some if place[t.name])], how)
    return laws


def _differ(one: npt.NDArray[np.floating], two: npt.NDArray[np.floating]) -> bool:
    return one.shape != two.shape or bool((one != two).any())


def _sides(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _require_fresh(target: Target) -> Law:
    """Gains of 1 and biases of 0."""
    if target.known.kind not in _FRESH:
        raise InitError(
            f"whether {target.name!r} is a gain or a bias cannot be told from its name; use vectors='final'."
        )
    value = _FRESH[target.known.kind]
    return lambda n, rng: np.full(n, value)  # noqa: ARG005  nothing is drawn


def _laws_of_cube(found: MeasuredWeights, targets: Iterable[Target], how: str, vectors: str) -> dict[str, Law]:
    laws: dict[str, Law] = {}
    lacking, other = [], []
    for group, target in {target.group: target for target in targets}.items():
        n = math.prod(target.shape)
        if target.vector and vectors == "fresh":
            laws[group] = _require_fresh(target)
            continue
        law = found.law(group, n, "normal" if target.vector else how)
        counted = int(found.histograms[group][0].sum()) if group in found.histograms else n
        if law is None:
            lacking.append(group)
        elif counted != n:
            other.append(f"{group} ({counted:,} elements, not {n:,})")
        else:
            laws[group] = law
    if other:
        raise InitError(f"{found.where} is no such model: other numbers of elements were counted of {shown(other)}.")
    if lacking:
        raise InitError(
            f"the cube says too little about {shown(lacking)} of {found.where}. How {how!r} needs {NEEDS[how]} "
            "(--levels parameter). Without measures of gains and biases: vectors='fresh'."
        )
    return laws


def _tensor(numbers: npt.NDArray[np.floating], target: Target) -> torch.Tensor:
    import torch

    return torch.from_numpy(numbers).to(target.dtype).reshape(target.shape)


def _words(text: str) -> list[int]:
    """Numbers to seed a stream with, the same on every machine."""
    words: list[int] = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], dtype="<u4").tolist()
    return words
