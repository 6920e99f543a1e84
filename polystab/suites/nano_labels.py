"""Gold labels of documents that no ``nano`` run has seen, for probes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from polystab.sources.probes.data import LabelledTexts, from_sentences
from polystab.sources.probes.files import Sentence, head_distance, words_sentence
from polystab.suites.grammar import Choices, Token, document

SEED = 20261123
# Documents for training, development and test: probes of a checkpoint are then done in a second or two.
DOCUMENTS = {"train": 32, "dev": 8, "test": 32}
LENGTH = 64
DEEPEST = 4


@cache
def nano_labels() -> LabelledTexts:
    """Part of speech, number, depth and distance to the head of the words of 72 documents.

    Words without a number have no label in that task, nor have, for the distance, words
    whose head was cut off with the end of their document. Depths of 4 and more are one
    class, and so are distances (:func:`~polystab.sources.probes.files.head_distance`);
    ``root`` is also what words outside sentences have.
    """
    choices = Choices(np.random.default_rng(SEED))
    split = [part for part, n in DOCUMENTS.items() for _ in range(n)]
    return from_sentences("nano", [labelled(document(choices, LENGTH)) for _ in split], split)


def labelled(words: Sequence[Token]) -> Sentence:
    """A document with the labels of its words."""
    heads = [
        ("root" if not word.head else head_distance(word.head)) if place + word.head < len(words) else ""
        for place, word in enumerate(words)
    ]
    return words_sentence(
        [word.text for word in words],
        {
            "pos": [word.pos for word in words],
            "number": [word.number for word in words],
            "depth": [str(min(word.depth, DEEPEST)) for word in words],
            "head_distance": heads,
        },
    )
