"""Measuring the weights of checkpoints, tensor by tensor, without building a model."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from polystab.cube.labels import MetricId
from polystab.errors import ReadError, UnknownNameError, did_you_mean, shown
from polystab.sources.checkpoint_errors import CheckpointError, library, memory_errors
from polystab.sources.measuring import Measurement
from polystab.sources.weights.changes import (
    Change,
    Other,
    change,
    looks_unrelated,
    moved,
    open_other,
    previous_step,
)
from polystab.sources.weights.features import Collected, Singular, as_matrix, kept, matrix_singular
from polystab.sources.weights.fits import Groups, fit_all, grouped, merged
from polystab.sources.weights.groups import histogram_group, spectra_group
from polystab.sources.weights.histograms import counts as histogram_counts
from polystab.sources.weights.moments import Moments, array_moments, lower_median, pooled
from polystab.sources.weights.names import MATRICES, Parameter, parameter
from polystab.sources.weights.reading import as_array, read_tensors
from polystab.sources.weights.sets import LEVELS, SETS, Wanted
from polystab.sources.weights.spectra import (
    POWER_LAWS,
    PowerLaw,
    device_of,
    device_singular_values,
    singular_values,
    spectrum_measures,
    trace,
)
from polystab.sources.weights.updates import Updates, component_means, updates_group

if TYPE_CHECKING:
    import torch

    from polystab.sources.checkpoints import Checkpoint

Array = npt.NDArray[np.floating]
Floats = npt.NDArray[np.float64]

# Weights of models up to this many elements are kept while they are measured; those of larger ones are read again.
_HELD = 2**24


@dataclass(frozen=True)
class Weights:
    """Measures the weights of checkpoints: moments, fits, spectra, changes.

    Parameters
    ----------
    sets : sequence of str, optional
        What to measure; ``"all"`` for everything, see Notes.
    levels : sequence of str, optional
        Of what: ``"parameter"``, each by itself; ``"component"``, the same part of all
        layers together; ``"layer"``, all matrices of a block; ``"all"``, all matrices,
        which is the subject ``all``.
    ranks : {"ladder", "all"}, optional
        Which singular values the group ``spectra`` keeps: about eight each time the rank
        doubles, or each.
    power_law : {"ks", "weightwatcher"}, optional
        How the range of the power law is chosen, see :func:`~polystab.sources.weights.spectra.fit_power_law`.

    Notes
    -----
    Metrics are ``weight/<subject>/<measure>``. A subject is a part of the network such as
    ``layers.3.attention.dense`` (in the words of GPT-NeoX for all known models),
    ``layers.3.attention.dense.bias``, ``layers.3``, ``attention.dense``, ``all``, or the name of a
    parameter as it is, if it is unknown. The sets:

    - ``hu2023``: 14 features as PolyPythias computed them, subject ``hu2023``, and with the
      input embedding left out, which theirs had in by mistake, subject ``hu2023-corrected``.
      Their selection goes by the names of GPT-NeoX; the corrected one suits all families.
    - ``core``: of the following those that say most.
    - ``moments``: ``mean``, ``variance`` and ``std`` (ddof 1), ``skewness``, excess ``kurtosis``,
      ``median`` (the lower one), ``max_abs``, ``l1``, ``l2``, ``l1_over_l2``.
    - ``fits``: see :func:`~polystab.sources.weights.fits.fit_all`; of matrices.
    - ``spectra``: see :func:`~polystab.sources.weights.spectra.spectrum_measures`, and ``trace`` (of the
      leading square block) and ``trace_over_spectral_norm``; of single matrices.
    - ``changes``: ``distance`` (Frobenius) and ``cosine`` to step 0; ``update_size``, the norm of the
      difference from the checkpoint before, and ``update_cosine``, between that difference and
      the weights it was added to.
    - ``updates``: the group ``updates``, whether two matrices of one shape change together, see
      :class:`~polystab.sources.weights.updates.Pair`; of components ``update_correlation`` and
      ``update_size_correlation``, their means over pairs of layers.
    - ``singular_values``: the group ``spectra``. ``histograms``: the group of that name, on bins that
      never change.

    Of several parameters together there are moments (without the median), fits and
    changes. What cannot be had is left out: kurtosis of a constant, changes at
    step 0. Parameters that hold NaN or infinity are not measured and are noted
    (``non-finite``), and with them everything that they are part of; so are integers
    (``not-floating``), whose scale is not known.

    Where the accelerator of the options is used, it computes the singular values.

    Examples
    --------
    >>> Weights(sets="hu2023").settings()["sets"]
    ['hu2023']
    """

    sets: Sequence[str] = ("hu2023", "core")
    levels: Sequence[str] = ("parameter", "all")
    ranks: str = "ladder"
    power_law: PowerLaw = "ks"

    def __post_init__(self) -> None:
        for name, known in (("sets", SETS), ("levels", LEVELS)):
            given = getattr(self, name)
            texts = [given] if isinstance(given, str) else [str(text) for text in given]
            if name == "sets" and "all" in texts:
                texts = list(SETS)
            for text in texts:
                if text not in known:
                    raise UnknownNameError(f"no {name[:-1]} {text!r} of weights. {did_you_mean(text, known)}")
            if not texts:
                raise ReadError(f"{name} names none; choose of {shown(known, len(known))}.")
            object.__setattr__(self, name, tuple(text for text in known if text in texts))
        for name, allowed in (("ranks", ("ladder", "all")), ("power_law", POWER_LAWS)):
            if getattr(self, name) not in allowed:
                raise UnknownNameError(f"{name} is {getattr(self, name)!r}; it is one of {shown(allowed)}.")

    @property
    def name(self) -> str:
        """As on the command line: ``polystab fill weights``."""
        return "weights"

    def settings(self) -> dict[str, Any]:
        """What decides the numbers."""
        return {
            "sets": list(self.sets),
            "levels": list(self.levels),
            "ranks": self.ranks,
            "power_law": self.power_law,
        }

    def check(self) -> None:
        """Find out whether torch is there, before any checkpoint is looked for.

        Raises
        ------
        ReadError
            It is not.
        """
        library("torch")

    def measure(self, checkpoint: Checkpoint) -> Measurement:
        """Measure one checkpoint.

        Returns
        -------
        Measurement
            Noted: ``non-finite``, ``not-floating``, ``tied`` (input and output embedding are one
            matrix, which counts once), ``no-step-0`` and ``no-previous-step`` (what could not be
            read to compare with), ``other-model`` or ``other-parameters`` (what did not
            fit), ``unrelated-step-0`` (most matrices are no more like those of step 0 than
            chance: it may be of another initialisation).

        Raises
        ------
        CheckpointError
            ``repeated-tensor``, two tensors have one name; or it cannot be read.
        """
        with ExitStack() as stack, memory_errors("measuring weights"):
            work = _Work(self, checkpoint, Wanted.of(self.sets))
            others = work.open_others(stack) if work.wanted.changes else {}
            for name, tensor in work.tensors():
                work.add(name, tensor, others)
            return work.finished(others)


@dataclass
class _One:
    """What is known of one parameter."""

    parameter: Parameter
    matrix: bool
    moments: Moments
    values: dict[str, float] = field(default_factory=dict)
    groups: Groups | None = None
    changes: dict[str, Change] = field(default_factory=dict)
    spectrum: Floats | None = None
    counts: npt.NDArray[np.int64] | None = None


class _Work:
    """The measuring of one checkpoint."""

    def __init__(self, asked: Weights, checkpoint: Checkpoint, wanted: Wanted) -> None:
        self.asked, self.checkpoint, self.wanted = asked, checkpoint, wanted
        self.device = device_of(checkpoint.options.device)
        self.ones: dict[str, _One] = {}
        self.collected = [Collected(corrected) for corrected in ((False, True) if wanted.hu2023 else ())]
        self.held: list[tuple[str, Array]] | None = []
        self.skipped: set[str] = set()
        self.integers: list[str] = []
        self.bad: list[str] = []
        self.updates = Updates()
        self.notes: list[tuple[str, str]] = []

    def open_others(self, stack: ExitStack) -> dict[str, Other]:
        """Step 0 and the checkpoint before, as far as they can be read."""
        found: dict[str, Other] = {}
        before = previous_step(self.checkpoint)
        for key, step, what in (("init", 0, "step 0"), ("update", before, f"the checkpoint before, step {before},")):
            if step is None or step >= self.checkpoint.step:
                continue
            other, notes = open_other(self.checkpoint, step, what)
            self.notes += [note for note in notes if note[0] not in dict(self.notes)]
            if other is not None:
                stack.enter_context(other)
                found[key] = Other(what, read_tensors(other))
        return found

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in read_tensors(self.checkpoint):
            if not tensor.is_floating_point():
                self.integers.append(name)
                continue
            yield name, tensor

    def again(self) -> Iterable[tuple[str, Array]]:
        """The arrays once more, without those that repeat others."""
        if self.held is not None:
            yield from ((name, x) for name, x in self.held if name not in self.skipped)
            return
        for name, tensor in read_tensors(self.checkpoint):
            if tensor.is_floating_point() and name not in self.skipped:
                yield name, as_array(tensor)

    def add(self, name: str, tensor: torch.Tensor, others: Mapping[str, Other]) -> None:
        """Measure one tensor."""
        known, x = parameter(name), as_array(tensor)
        if known.subject in self.ones:
            raise CheckpointError(
                "repeated-tensor",
                f"{self.checkpoint.run} step {self.checkpoint.step} holds {name!r} and "
                f"{self.ones[known.subject].parameter.name!r}, which name the same weights ({known.subject}); "
                "remove one of them from the file.",
            )
        if self.held is not None:
            self.held.append((name, x))
            self.held = self.held if sum(array.size for _, array in self.held) <= _HELD else None
        matrix = x.ndim > 1 and (known.kind in MATRICES or known.kind == "other")
        measures = self.wanted.of_kind(matrix)
        moments = array_moments(x, higher=bool(measures & {"skewness", "kurtosis", "max_abs"}))
        one = self.ones[known.subject] = _One(known, matrix, moments)
        tied = self._tied(one, x)
        for key, other in others.items():
            then = other.get(name, tuple(tensor.shape))
            if then is not None and moments.finite:
                before = as_array(then)
                one.changes[key] = change(x, before)
                if key == "update" and self.wanted.updates and known.kind == "matrix" and matrix:
                    self.updates.add(known, x, before)
        found: Floats | Singular | None = None
        if not moments.finite:
            self.bad.append(f"{name} ({x.size - int(np.count_nonzero(np.isfinite(x))):,} of {x.size:,})")
        elif x.size:
            feature = any(kept(name, corrected=c.corrected) == "weight" for c in self.collected) and not tied
            spectrum = self._singular_values(as_matrix(x), tensor) if matrix and self.wanted.spectrum else None
            self._measure(one, x, spectrum)
            found = spectrum
            if feature and spectrum is None:
                on_cpu = self.device == "cpu"
                found = matrix_singular(as_matrix(x)) if on_cpu else self._singular_values(as_matrix(x), tensor)
        for selection in self.collected:
            if not tied:
                selection.add(name, x, moments, found)

    def _measure(self, one: _One, x: Array, s: Floats | None) -> None:
        one.values |= one.moments.measures()
        if one.matrix and (self.wanted.fits or self.wanted.histograms):
            ordered = np.sort(x, axis=None)
            one.values["median"] = float(ordered[(x.size - 1) // 2])
            one.groups = grouped(ordered) if self.wanted.fits else None
            one.counts = histogram_counts(ordered) if self.wanted.histograms else None
        elif "median" in self.wanted.of_kind(one.matrix):
            one.values["median"] = lower_median(lambda: [x])
        if s is not None:
            shape = as_matrix(x).shape
            found = spectrum_measures(s, (shape[0], shape[1]), power_law=self.asked.power_law)
            found["trace"] = trace(as_matrix(x))
            found["trace_over_spectral_norm"] = found["trace"] / s[0] if s[0] else math.nan
            one.values |= found
            one.spectrum = s if self.wanted.singular_values else None

    def _singular_values(self, matrix: Array, tensor: torch.Tensor) -> Floats:
        if self.device == "cpu":
            return singular_values(matrix)
        return device_singular_values(tensor.reshape(matrix.shape).to(self.device))

    def _tied(self, one: _One, x: Array) -> bool:
        """Whether this is the output embedding and the same as the input embedding, or the other way round."""
        kinds = {"embedding": "unembedding", "unembedding": "embedding"}
        for other in self.ones.values():
            if other.parameter.kind == kinds.get(one.parameter.kind) and x.ndim > 1:
                # Sums of millions of products agree to the last digit only for the same numbers in the same places.
                same = (other.moments.n, other.moments.l1, other.moments.square, other.moments.mean)
                if same == (one.moments.n, one.moments.l1, one.moments.square, one.moments.mean):
                    self.skipped.add(one.parameter.name)
                    self.notes.append(("tied", f"{one.parameter.name} is {other.parameter.name}; it counts once."))
                    return True
        return False

    def finished(self, others: Mapping[str, Other]) -> Measurement:
        """Everything that was measured, with its ids."""
        found = Measurement(notes=self.notes)
        if "parameter" in self.asked.levels:
            fitted = [one for one in self.ones.values() if one.groups is not None]
            for one, fits in zip(
                fitted, fit_all([one.groups for one in fitted if one.groups], self.wanted.families), strict=True
            ):
                one.values |= fits
            for one in self.ones.values():
                self._put(found, one.parameter, one.values | moved(one.changes), self.wanted.of_kind(one.matrix))
        self._pool(found)
        for component, values in component_means(self.updates.pairs()).items():
            self._put(found, Parameter("", component, component, -1, "other"), values, self.wanted.of_kind(True))
        for selection, subject in zip(self.collected, ("hu2023", "hu2023-corrected"), strict=False):
            for feature, value in selection.features(self.again).items():
                if not math.isnan(value):
                    found.values[f"weight/{subject}/{feature}"] = value
        self._details(found)
        self._note(found, others)
        torch = library("torch")
        found.provenance = {"numpy": np.__version__, "torch": str(torch.__version__), "device": self.device}
        return found

    def _put(self, found: Measurement, known: Parameter, values: Mapping[str, float], measures: frozenset[str]) -> None:
        for measure, value in values.items():
            if measure in measures and not math.isnan(value):
                metric = str(MetricId("weight", known.subject, measure))
                found.values[metric] = value
                found.metrics[metric] = {"component": known.component, "layer": known.layer}

    def _pool(self, found: Measurement) -> None:
        """Layers, components and all, from what is known of their parameters."""
        together: dict[tuple[str, str, int], list[_One]] = defaultdict(list)
        for one in self.ones.values():
            known = one.parameter
            if known.name in self.skipped:
                continue
            if "component" in self.asked.levels and known.layer >= 0:
                together[known.component, known.component, -1].append(one)
            if "layer" in self.asked.levels and known.layer >= 0 and known.kind == "matrix":
                together[f"layers.{known.layer}", "", known.layer].append(one)
            if "all" in self.asked.levels and known.kind in MATRICES:
                together["all", "", -1].append(one)
        whole = {key: ones for key, ones in together.items() if all(one.moments.finite for one in ones)}
        groups = {key: [one.groups for one in ones if one.groups] for key, ones in whole.items()}
        several = {key: merged(some) for key, some in groups.items() if len(some) == len(whole[key])}
        fits = dict(zip(several, fit_all(list(several.values()), self.wanted.families), strict=True))
        for key, ones in whole.items():
            changes = {
                name: sum((one.changes[name] for one in ones), Change())
                for name in ("init", "update")
                if all(name in one.changes for one in ones)
            }
            values = pooled(one.moments for one in ones).measures() | fits.get(key, {}) | moved(changes)
            matrices = all(one.matrix for one in ones)
            self._put(found, Parameter("", key[0], key[1], key[2], "other"), values, self.wanted.of_kind(matrices))

    def _details(self, found: Measurement) -> None:
        spectra = {one.parameter: one.spectrum for one in self.ones.values() if one.spectrum is not None}
        if spectra:
            found.details["spectra"] = spectra_group(spectra, ladder=self.asked.ranks == "ladder")
        counts = {one.parameter: one.counts for one in self.ones.values() if one.counts is not None}
        if counts:
            found.details["histograms"] = histogram_group(counts)
        if pairs := self.updates.pairs():
            found.details["updates"] = updates_group(pairs)

    def _note(self, found: Measurement, others: Mapping[str, Other]) -> None:
        if self.bad:
            found.notes.append(("non-finite", f"not measured, they hold NaN or infinity: {shown(self.bad)}."))
        if self.integers:
            found.notes.append(("not-floating", f"not measured, they are not floating point: {shown(self.integers)}."))
        for key, other in others.items():
            compared = [one for one in self.ones.values() if key in one.changes]
            found.notes += other.notes(len(compared))
            matrices = [(one.changes[key], one.moments.n) for one in compared if one.parameter.kind in MATRICES]
            if key == "init" and looks_unrelated(matrices):
                found.notes.append(
                    (
                        "unrelated-step-0",
                        "most matrices are no more like those of step 0 than chance makes them: it may be another run's.",
                    )
                )
