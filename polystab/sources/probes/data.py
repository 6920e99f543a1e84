"""Texts with gold labels that hidden states are probed for: built in, or read from files of three kinds."""

from __future__ import annotations

import hashlib
import importlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from polystab.errors import ReadError, UnknownNameError, did_you_mean, shown
from polystab.sources.probes.files import READERS, Sentence, read_sentences

Ints = npt.NDArray[np.int64]

# Labelled texts that come with the package, made only when they are asked for.
BUILT_IN = {"nano": "polystab.suites.nano_labels:nano_labels"}

SPLITS = ("train", "dev", "test")
# Shares of a single file, in the order of SPLITS, and what decides which sentence goes where.
_SHARES = (0.7, 0.1, 0.2)
_SPLIT_SEED = 20231026
# The development and the test split may have this share of the words that the training split may have.
_HELD_OUT = 0.25

# A label of the held-out splits that the training split does not have; no label at all.
UNSEEN, NONE = -2, -1


@dataclass(frozen=True)
class LabelledTexts:
    """Texts, places in them, and labels of these places.

    Attributes
    ----------
    name : str
        First part of the names of its tasks.
    texts : tuple of str
    spans : tuple of tuple of (int, int)
        For each text its places: from and to which character. A word, or the whole text.
    labels : mapping of str to tuple of tuple of str
        Task to the label of each place; empty where it has none.
    split : tuple of str
        For each text ``train``, ``dev`` or ``test``.
    whole : bool
        Whether the labels are of whole texts, not of words.
    notes : tuple of (reason, detail)
        What was left out.
    """

    name: str
    texts: tuple[str, ...]
    spans: tuple[tuple[tuple[int, int], ...], ...]
    labels: Mapping[str, tuple[tuple[str, ...], ...]]
    split: tuple[str, ...]
    whole: bool = False
    notes: tuple[tuple[str, str], ...] = ()

    @cached_property
    def digest(self) -> str:
        """SHA-256 of all that is in it."""
        content = [self.name, self.texts, self.spans, sorted(self.labels.items()), self.split, self.whole]
        return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode("utf-8", "backslashreplace")).hexdigest()

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The tasks by their whole name."""
        places = np.array([part for part, spans in zip(self.split, self.spans, strict=True) for _ in spans])
        return {
            f"{self.name}.{task}" if task else self.name: Task.of([x for text in labels for x in text], places)
            for task, labels in self.labels.items()
        }

    def usable(self) -> LabelledTexts:
        """The same with the tasks that can be probed for, and a note on each that cannot.

        Raises
        ------
        ReadError
            A split is empty, or no task has two classes in the training split.
        """
        if missing := [part for part in SPLITS if part not in self.split]:
            raise ReadError(
                f"{self.name} has no text in its {shown(missing)} split; give files for all of train, dev and test, "
                "or one file with at least three sentences."
            )
        notes = list(self.notes)
        kept = {}
        for (task, labels), (name, found) in zip(self.labels.items(), self.tasks.items(), strict=True):
            dev, test = (found.codes[found.split == part] for part in ("dev", "test"))
            held_out = {"dev": int((dev >= 0).sum()), "test": int((test != NONE).sum())}
            if len(found.classes) < 2:
                said = f"the label {found.classes[0]!r} only" if found.classes else "no label"
                notes.append(("one-class", f"{name} is left out: its training split has {said}."))
            elif empty := [part for part, n in held_out.items() if not n]:
                notes.append(("no-labels", f"{name} is left out: its {shown(empty)} split has no label."))
            else:
                kept[task] = labels
                unseen = int((found.codes == UNSEEN).sum())
                if unseen:
                    detail = (
                        f"{unseen} labels of {name} outside its training split never occur there: {shown(found.unseen)}"
                    )
                    notes.append(("unseen-labels", f"{detail}; in the test split they count as mistakes."))
        if not kept:
            raise ReadError(f"{self.name} has no task to probe for: {' '.join(detail for _, detail in notes)}")
        return replace(self, labels=kept, notes=tuple(notes))


@dataclass(frozen=True)
class Task:
    """Labels as numbers, one for each place of all texts.

    Attributes
    ----------
    classes : tuple of str
        Labels of the training split, sorted.
    codes : ndarray of int, shape (places,)
        Place in ``classes``; ``NONE`` without a label, ``UNSEEN`` where training lacks it.
    split : ndarray of str, shape (places,)
    unseen : tuple of str
        Labels that only the held-out splits have.
    """

    classes: tuple[str, ...]
    codes: Ints
    split: npt.NDArray[np.str_]
    unseen: tuple[str, ...]

    @classmethod
    def of(cls, labels: Sequence[str], split: npt.NDArray[np.str_]) -> Task:
        present = {label for label, part in zip(labels, split.tolist(), strict=True) if part == "train" and label}
        classes = tuple(sorted(present))
        place = {label: number for number, label in enumerate(classes)} | {"": NONE}
        codes = np.array([place.get(label, UNSEEN) for label in labels], dtype=np.int64)
        return cls(classes, codes, split, tuple(sorted({*labels} - {*place})))

    def count(self, part: str) -> int:
        """Labelled places of a split."""
        return int((self.codes[self.split == part] != NONE).sum())


def load_data(spec: str, max_words: int) -> LabelledTexts:
    """Labelled texts by name or from files.

    Parameters
    ----------
    spec : str
        A built-in name; or one file, which is split, or three with commas between them,
        for training, development and test. ``conllu:``, ``words:`` or ``texts:`` before
        them says what they are, see :mod:`polystab.sources.probes.files`; the ending
        ``.conllu`` speaks for itself.
    max_words : int
        Training words (or texts, where they are labelled as a whole) at most, and a
        quarter of that for each of the others. Whole texts are taken, in a fixed random order.

    Raises
    ------
    ReadError, UnknownNameError
        There is no such file or name; a file is empty or broken; nothing is left to probe for.
    """
    if spec in BUILT_IN:
        module, _, name = BUILT_IN[spec].partition(":")
        make: Callable[[], LabelledTexts] = getattr(importlib.import_module(module), name)
        return make().usable()
    kind, paths = _kind_and_paths(spec)
    name = re.sub(r"[-_.](ud[-_.])?train(ing)?$", "", paths[0].stem).replace("/", "_") or paths[0].stem
    parts = [read_sentences(path, kind) for path in paths]
    if len(parts) == 1:
        split = _split(len(parts[0]))
        sentences = parts[0]
    else:
        split = [part for part, found in zip(SPLITS, parts, strict=True) for _ in found]
        sentences = [sentence for found in parts for sentence in found]
    return from_sentences(name, sentences, split, whole=kind == "texts", max_words=max_words).usable()


def from_sentences(
    name: str, sentences: Sequence[Sentence], split: Sequence[str], *, whole: bool = False, max_words: int = 2**62
) -> LabelledTexts:
    """Labelled texts of sentences, each with its split, of which no more are taken than ``max_words`` allows."""
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(sentences))
    left = {part: max_words if part == "train" else max(1, int(max_words * _HELD_OUT)) for part in SPLITS}
    kept = []
    for i in order.tolist():
        n = len(sentences[i].spans)
        if n <= left[split[i]]:
            left[split[i]] -= n
            kept.append(i)
    chosen = [sentences[i] for i in sorted(kept)]
    notes: list[tuple[str, str]] = []
    if len(kept) < len(sentences):
        said = f"{len(kept)} of {len(sentences)} texts of {name} are used, for at most {max_words} training words"
        notes.append(("data-limit", f"{said} (max_words)."))
    tasks: Iterable[str] = dict.fromkeys(task for sentence in chosen for task in sentence.labels)
    return LabelledTexts(
        name,
        tuple(sentence.text for sentence in chosen),
        tuple(sentence.spans for sentence in chosen),
        {task: tuple(s.labels.get(task, ("",) * len(s.spans)) for s in chosen) for task in tasks},
        tuple(split[i] for i in sorted(kept)),
        whole,
        tuple(notes),
    )


def _split(n: int) -> list[str]:
    """A split for each of n sentences, at random and always the same."""
    last = n - max(1, round(_SHARES[2] * n))
    bounds = [last - max(1, round(_SHARES[1] * n)), last]
    split = np.empty(n, dtype=object)
    for part, places in zip(
        SPLITS, np.split(np.random.default_rng(_SPLIT_SEED).permutation(n), np.maximum(bounds, 0)), strict=True
    ):
        split[places] = part
    return [str(part) for part in split]


def _kind_and_paths(spec: str) -> tuple[str, list[Path]]:
    kind, colon, rest = spec.partition(":")
    if not colon or kind not in READERS:
        kind, rest = "", spec
    paths = [Path(part.strip()).expanduser() for part in rest.split(",") if part.strip()]
    if not paths:
        raise ReadError(f"{spec!r} names no file to probe with.")
    if not kind:
        if paths[0].suffix.lower() == ".conllu":
            kind = "conllu"
        elif len(paths) == 1 and not paths[0].suffix and not paths[0].exists():
            raise UnknownNameError(f"no labelled texts are called {spec!r}. {did_you_mean(spec, BUILT_IN)}")
        else:
            raise ReadError(
                f"what kind of file is {paths[0]}? Write conllu:{rest}, words:{rest} (a word and its label on each "
                f"line, an empty line after each sentence) or texts:{rest} (a text and its label on each line)."
            )
    if len(paths) not in (1, 3):
        raise ReadError(f"{spec!r} names {len(paths)} files; give one, or three: train, dev and test.")
    return kind, paths
