"""Probing checkpoints for linguistic labels: how short the labels become with what a layer knows."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from polystab.errors import ReadError, UnknownNameError, did_you_mean, shown
from polystab.sources.checkpoint_errors import library
from polystab.sources.measuring import Measurement
from polystab.sources.probes.data import NONE, UNSEEN, LabelledTexts, Task, load_data
from polystab.sources.probes.fit import Fitted, Training, fit_probes
from polystab.sources.probes.results import Kept, add_by_layer, details_group
from polystab.sources.probes.scores import f1_scores, fit_logistic, online_codelength
from polystab.sources.probes.states import POOLS, ProbeError, States, hidden_states

if TYPE_CHECKING:
    from torch import Tensor

    from polystab.sources.checkpoints import Checkpoint

__all__ = ["METHODS", "ProbeError", "Probes"]

METHODS = ("variational", "online", "logistic")
SCALES = ("unit", "none")

# Published probes went through 5,900 steps at 0.005. A log-variance, which starts at -9, moves by the rate at most in
# a step: fewer steps have to be longer, or what is measured is where the probe started.
_WAY, _SLOWEST, _FASTEST = 30.0, 5e-3, 5e-2


@dataclass(frozen=True)
class Probes:
    """Probes every layer of checkpoints for labels of words or texts.

    Parameters
    ----------
    data : str or sequence of str
        Labelled texts: ``nano`` (built in), or files as :func:`~polystab.sources.probes.data.load_data`
        takes them, e.g. ``train.conllu,dev.conllu,test.conllu`` or ``texts:sst2.tsv``.
    tasks : sequence of str, optional
        Only these tasks, e.g. ``nano.pos`` or ``en_ewt.upos``; by default all that the data have.
    methods : sequence of str, optional
        ``variational``: codelengths and F1 of the variational linear probe;
        ``logistic``: F1 of plain logistic regression; ``online``: the prequential
        codelength with it. The last two take each probe by itself.
    control : bool, optional
        Also the codelength of the same labels in random order.
    subword : {"last", "first", "mean"}, optional
        Which sub-word stands for a word. The last is the first one at which a
        left-to-right model has seen all of it.
    pooling : {"mean", "last", "first"}, optional
        The same for whole texts.
    scale : {"unit", "none"}, optional
        ``unit``: each input of each layer has mean 0 and standard deviation 1 over the
        training words; see Notes.
    max_words : int, optional
        Training words at most, and a quarter of it for development and for test. Hidden
        states take 4 bytes x layers x width for each.
    learning_rate : float, optional
        Of Adam. By default 0.005, as published, or more where there are few steps:
        30 over their number, up to 0.05.
    probe_batch : int, optional
        Words in a step of training.
    epochs, patience : int, optional
        A probe stops after ``epochs``, or when its development loss has not improved for
        more than ``patience`` epochs; it is left as it was at its best.
    decay : bool, optional
        Lower the learning rate to 0 over the second half of the steps.
    batch_size : int, optional
        Texts in one forward pass. It decides no numbers, but for rounding.
    keep_weights : bool, optional
        Also keep the probes' weights, for angles between them, as the group ``probes``.
    rng : int, optional
        Of the probes: of their start and noise together with the run's seed, of the
        control alone, which is the same for all runs.

    Notes
    -----
    For each task and layer (0 are the embeddings, n the output of the n-th block, the
    last one after the final norm) a cube gets, as ``probe/<task>/<measure>@layer<n>``:

    ============================ =====================================================
    ``codelength``               nats that the training labels take: cross-entropy of the
                                 mean weights plus ``kl``; ``chance`` is the uniform code,
                                 N log C
    ``kl``                       the part of it that describes the probe
    ``control_codelength``       the same with the labels in random order
    ``macro_f1``, ``micro_f1``   on the test split; over classes, and over words (accuracy)
    ``online_codelength``        prequential, with logistic probes
    ``logistic_macro_f1``, ...   of the logistic probe
    ============================ =====================================================

    :func:`~polystab.analysis.representations.codelengths.probe_codelengths` makes ratios of them.

    The probe is that of [1]_, the codelength that of [2]_. Published codes take hidden
    states as they are. The prior of the scales does not mind the scale of an input, so
    the best codelength does not either; the way from the usual start to it does, and
    with raw states of a small norm training ends before it gets there. Hence
    ``scale="unit"``. Published batches are 64 sentences; here they are words.

    A probe's own chance is part of every number here. Published probes keep a constant
    rate and stop at the first epoch but one without improvement; with that (``decay=False,
    patience=1``), another ``rng`` moves the codelengths of one ``nano`` checkpoint by 2 to 9 %
    (standard deviation), which is as much as another seed of the model does. With the
    defaults it is 1 to 5 %. Fill with another ``rng`` to see it for your data.

    Weights in ``probes`` act on hidden states as they are, whatever the scale, and are
    divided by the largest of each probe, with the eleven bits of half precision.

    References
    ----------
    .. [1] C. Louizos, K. Ullrich, M. Welling, Bayesian compression for deep learning,
       NeurIPS 2017, arXiv:1705.08665.
    .. [2] E. Voita, I. Titov, Information-theoretic probing with minimum description
       length, EMNLP 2020, doi:10.18653/v1/2020.emnlp-main.14.

    Examples
    --------
    >>> Probes("nano").settings()["methods"]
    ['variational']
    """

    data: str | Sequence[str]
    tasks: Sequence[str] = ()
    methods: Sequence[str] = ("variational",)
    control: bool = True
    subword: str = "last"
    pooling: str = "mean"
    scale: str = "unit"
    max_words: int = 20_000
    learning_rate: float | None = None
    probe_batch: int = 128
    epochs: int = 30
    patience: int = 10
    decay: bool = True
    batch_size: int = 32
    keep_weights: bool = True
    rng: int = 0

    def __post_init__(self) -> None:
        for name in ("data", "tasks", "methods"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str) else tuple(str(text) for text in given))
        if not self.data:
            raise ReadError("no labelled texts to probe with; give data, e.g. -O probes.data=nano.")
        if not self.methods:
            raise ReadError(f"no method to probe with; choose of {shown(METHODS)}.")
        for name, known in (("subword", POOLS), ("pooling", POOLS), ("scale", SCALES), ("methods", METHODS)):
            for said in self.methods if name == "methods" else (getattr(self, name),):
                if said not in known:
                    raise UnknownNameError(f"{name} cannot be {said!r}. {did_you_mean(str(said), known)}")
        # The same settings however they were written.
        object.__setattr__(self, "methods", tuple(name for name in METHODS if name in self.methods))
        object.__setattr__(self, "tasks", tuple(sorted({*self.tasks})))
        for name, least in (
            ("max_words", 1), ("probe_batch", 1), ("epochs", 1), ("patience", 0), ("batch_size", 1), ("rng", 0),
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ReadError(f"{name} is {value!r}; it must be a whole number from {least}.")
        rate = self.learning_rate
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < 1):
            raise ReadError(f"learning_rate is {rate!r}; it must be a number between 0 and 1.")

    @property
    def name(self) -> str:
        """As on the command line: ``polystab fill probes``."""
        return "probes"

    def settings(self) -> dict[str, Any]:
        """What decides the numbers. Files count by what is in them, wherever they are.

        Raises
        ------
        ReadError, UnknownNameError
            The data cannot be read, or lack a task that is asked for.
        """
        left_out = (
            "max_words",
            "batch_size",
        )  # the digests of the data tell of one, numbers do not depend on the other
        said = {one.name: getattr(self, one.name) for one in fields(self) if one.name not in left_out}
        data = {texts.name: texts.digest for texts in self._data()}
        return said | {"data": data, "tasks": list(self.tasks), "methods": list(self.methods)}

    def check(self) -> None:
        """Read the data, and refuse what cannot be probed for, before any checkpoint is loaded.

        Raises
        ------
        ReadError, UnknownNameError
            As :meth:`settings`; or torch is not installed.
        """
        library("torch")
        self._data()

    def _data(self) -> list[LabelledTexts]:
        found = [_loaded(spec, self.max_words) for spec in self.data]
        if len({texts.name for texts in found}) < len(found):
            raise ReadError(f"two of the data have one name ({shown([t.name for t in found])}); rename a file.")
        known = [task for texts in found for task in texts.tasks]
        if unknown := [task for task in self.tasks if task not in known]:
            raise UnknownNameError(f"no data have a task {unknown[0]!r}. {did_you_mean(unknown[0], known)}")
        return found

    def measure(self, checkpoint: Checkpoint) -> Measurement:
        """Probe one checkpoint.

        Returns
        -------
        Measurement
            Values as above; in the group ``probes`` the ``weights`` by layer, class and
            input, and ``tokens``, which tells whether two runs cut the texts alike. Noted
            are: ``truncated`` texts; ``no-state``, words that the tokenizer drops;
            ``unseen-labels``; tasks left out (``one-class``, ``no-labels``); ``data-limit``.

        Raises
        ------
        ProbeError
            By ``reason``: ``non-finite-output``; ``no-offsets``, the tokenizer does not say
            where its tokens lie; ``unknown-tokens``, it is not the model's; ``no-labels``,
            none is left where the context ends; ``no-hidden-states``.
        ReadError
            As :meth:`check`; or the checkpoint cannot be loaded or is not finite.
        """
        checkpoint.require_finite()
        model, tokenizer = checkpoint.model(), checkpoint.tokenizer()
        found = Measurement()
        kept: list[Kept] = []
        fingerprints = {}
        for texts in self._data():
            tasks = {name: task for name, task in texts.tasks.items() if not self.tasks or name in self.tasks}
            if not tasks:
                continue
            states = hidden_states(
                model,
                tokenizer,
                texts.texts,
                texts.spans,
                pool=self.pooling if texts.whole else self.subword,
                whole=texts.whole,
                batch_size=self.batch_size,
            )
            found.notes += [(reason, f"{texts.name}: {detail}") for reason, detail in states.notes]
            found.notes += texts.notes
            fingerprints[texts.name] = states.fingerprint
            kept += self._probe(states, tasks, checkpoint.run.seed, found)
        found.details["probes"] = details_group(kept if self.keep_weights else [], fingerprints)
        found.provenance = {
            "torch": version("torch"),
            "transformers": version("transformers"),
            "device": str(next(iter(model.parameters())).device),
        }
        return found

    def _probe(self, states: States, tasks: dict[str, Task], seed: int, found: Measurement) -> list[Kept]:
        """All probes on one set of texts; their scores go into ``found``."""
        split = next(iter(tasks.values())).split
        rows = {part: np.flatnonzero((split == part) & states.measured) for part in ("train", "dev", "test")}
        for name, task in tasks.items():
            for part, places in rows.items():
                codes = task.codes[places]
                if not ((codes >= 0) | ((codes == UNSEEN) & (part == "test"))).any():
                    raise ProbeError(
                        "no-labels", f"no labelled place of {name} in the {part} split has a hidden state."
                    )
        x = {part: states.hidden[:, _index(states, places)] for part, places in rows.items()}
        deviation = None
        if self.scale == "unit":
            centre, deviation = _centre_and_deviation(x["train"])
            x = {part: (values - centre) / deviation for part, values in x.items()}
        for name, task in tasks.items():
            for method, values in self._simple(x, rows, task):
                add_by_layer(found, name, task, method, values)
        if "variational" not in self.methods:
            return []
        fitted = self._fit(x, rows, tasks, seed)
        return list(self._scored(fitted, x["test"], rows["test"], tasks, deviation, found))

    def _fit(
        self, x: dict[str, Tensor], rows: dict[str, npt.NDArray[np.intp]], tasks: dict[str, Task], seed: int
    ) -> Fitted:
        """The variational probes of all tasks, then, if asked for, those of their controls."""
        labels = {
            part: [np.maximum(task.codes[rows[part]], NONE) for task in tasks.values()] for part in ("train", "dev")
        }
        codes = [zlib.crc32(name.encode()) for name in tasks]
        seeds = [[self.rng, seed, code, 0] for code in codes]
        classes = [len(task.classes) for task in tasks.values()]
        if self.control:
            for order, part in enumerate(("train", "dev")):
                labels[part] += [
                    _shuffled(y, [self.rng, code, order]) for y, code in zip(labels[part], codes, strict=True)
                ]
            seeds += [[self.rng, seed, code, 1] for code in codes]
            classes *= 2
        steps = self.epochs * -(-len(rows["train"]) // self.probe_batch)
        rate = self.learning_rate or min(_FASTEST, max(_SLOWEST, _WAY / steps))
        return fit_probes(
            x["train"],
            np.stack(labels["train"]),
            x["dev"],
            np.stack(labels["dev"]),
            classes=classes,
            training=Training(rate, self.probe_batch, self.epochs, self.patience, self.decay),
            seeds=seeds,
            seed=[self.rng, seed],
        )

    def _scored(
        self,
        fitted: Fitted,
        test: Tensor,
        rows: npt.NDArray[np.intp],
        tasks: dict[str, Task],
        deviation: Tensor | None,
        found: Measurement,
    ) -> Iterator[Kept]:
        x = test.double().cpu().numpy()
        for t, (name, task) in enumerate(tasks.items()):
            n = len(task.classes)
            weights, bias = fitted.weights[:, t, :n], fitted.bias[:, t, :n]
            if lost := np.flatnonzero(fitted.epochs[:, t] == 0).tolist():
                said = f"the loss of {name} in layers {shown(lost)} was never finite; scale='unit' helps"
                found.notes.append(("not-a-number", f"{said} against hidden states that are too large."))
            add_by_layer(found, name, task, "codelength", fitted.codelength[:, t])
            add_by_layer(found, name, task, "kl", fitted.kl[:, t])
            if self.control:
                add_by_layer(found, name, task, "control_codelength", fitted.codelength[:, len(tasks) + t])
            truth = task.codes[rows]
            known = truth != NONE
            guessed = (x[:, known] @ weights.swapaxes(1, 2) + bias[:, None]).argmax(2)
            scores = np.array([f1_scores(truth[known], guess) for guess in guessed])
            add_by_layer(found, name, task, "macro_f1", scores[:, 0])
            add_by_layer(found, name, task, "micro_f1", scores[:, 1])
            raw = weights if deviation is None else weights / deviation.double().cpu().numpy()
            yield Kept(name, task.classes, raw)

    def _simple(
        self, x: dict[str, Tensor], rows: dict[str, npt.NDArray[np.intp]], task: Task
    ) -> Iterator[tuple[str, npt.NDArray[np.float64]]]:
        """Scores of the methods that fit one probe after another."""
        if {"online", "logistic"}.isdisjoint(self.methods):
            return
        train, test = task.codes[rows["train"]], task.codes[rows["test"]]
        n = len(task.classes)
        layers = [
            (values["train"][train >= 0], values["test"][test != NONE])
            for values in (
                {p: x[p][i].double().cpu().numpy() for p in ("train", "test")} for i in range(len(x["train"]))
            )
        ]
        if "online" in self.methods:
            yield "online_codelength", np.array([online_codelength(a, train[train >= 0], n) for a, _ in layers])
        if "logistic" in self.methods:
            scores = []
            for a, b in layers:
                weights, bias = fit_logistic(a, train[train >= 0], n)
                scores.append(f1_scores(test[test != NONE], (b @ weights.T + bias).argmax(1)))
            yield "logistic_macro_f1", np.array([score.macro for score in scores])
            yield "logistic_micro_f1", np.array([score.micro for score in scores])


def _centre_and_deviation(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each input of each layer; 1 for one that does not vary."""
    torch = library("torch")
    parts = []
    for layer in x:  # one at a time: in double precision all of them would take twice the states
        wide = layer.double()
        centre, deviation = wide.mean(0), wide.std(0, correction=0)
        parts.append((centre, deviation.masked_fill(deviation <= 1e-7 * centre.abs(), 1.0)))
    centres, deviations = (torch.stack(several)[:, None].float() for several in zip(*parts, strict=True))
    return centres, deviations


def _shuffled(labels: npt.NDArray[np.int64], seed: Sequence[int]) -> npt.NDArray[np.int64]:
    """The labels in random order; places without one stay without."""
    result = labels.copy()
    known = labels != NONE
    result[known] = np.random.default_rng(seed).permutation(labels[known])
    return result


def _index(states: States, places: npt.NDArray[np.intp]) -> Any:
    return library("torch").from_numpy(places).to(states.hidden.device)


@lru_cache(maxsize=16)
def _loaded(spec: str, max_words: int) -> LabelledTexts:
    """Read once a process: the files must not change meanwhile."""
    return load_data(spec, max_words)
