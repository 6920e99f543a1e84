"""Items of the four ``nano`` tasks: a context, options of one word each, and which option is right.

The items that ship with the package were made by this module from ``SEED``
(``scripts/make_nano_tasks.py``); a test makes them again and compares.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from polystab.suites import grammar
from polystab.suites.grammar import Choices, Token

SEED = 20261122
N_ITEMS = 300

# A context and an answer fit into a document of the corpus.
LONGEST = 60

Item = dict[str, Any]


def items(task: str, n: int = N_ITEMS, *, rng: int | np.random.Generator = SEED) -> list[Item]:
    """``n`` different items of a task.

    Parameters
    ----------
    task : str
        One of ``TASKS``.
    n : int
    rng : int or numpy.random.Generator

    Returns
    -------
    list of dict
        ``context`` (text), ``options`` (words, in random order), ``answer`` (the place of
        the right one), and ``kind``, a label of the item's difficulty.
    """
    choices = Choices(np.random.default_rng(rng))
    found: dict[str, Item] = {}
    while len(found) < n:
        item = TASKS[task](choices)
        if item is not None:
            found.setdefault(item["context"], item)
    return list(found.values())


def _item(choices: Choices, context: list[Token], right: str, wrong: list[str], kind: str) -> Item | None:
    """An item with shuffled options and a sentence before it, None if it is too long."""
    before = grammar.sentence(choices)
    words = [*before, *context]
    if len(words) > LONGEST:
        return None
    options = choices.several([right, *wrong], 1 + len(wrong))
    return {
        "context": " ".join(word.text for word in words),
        "options": options,
        "answer": options.index(right),
        "kind": kind,
    }


def agreement(choices: Choices) -> Item | None:
    """Which verb form follows a subject whose last noun has the other number."""
    n = choices.one((1, 2))
    subject = grammar.noun_phrase(choices, attractors=n)
    nouns = [word for word in subject.tokens if word.pos == "NOUN"]
    if nouns[-1].number == grammar.NUMBERS[subject.number]:
        return None
    verb = choices.one(grammar.INTRANSITIVE)
    kind = f"{n} attractor" + "s" * (n > 1)
    return _item(choices, subject.tokens, verb[subject.number], [verb[1 - subject.number]], kind)


def induction(choices: Choices) -> Item | None:
    """How a piece of a span goes on; the wrong options are letters of the span too."""
    span = choices.several(grammar.LETTERS, choices.one((6, 7, 8, 9, 10)))
    shown = choices.one((1, 2, 3))
    start = choices.below(len(span) - shown)
    words = [*grammar.letters(span), Token("|", "PUNCT"), *grammar.letters(span[start : start + shown])]
    right = span[start + shown]
    others = [letter for letter in span if letter not in (right, *span[start : start + shown])]
    if len(others) < 3:
        return None
    return _item(choices, [Token("<", "PUNCT"), *words], right, choices.several(others, 3), f"{shown} letters shown")


def recall(choices: Choices) -> Item | None:
    """Which attribute a person has; the wrong options are those of the other three people."""
    names, attributes = choices.several(grammar.NAMES, 4), choices.several(grammar.ATTRIBUTES, 4)
    words = [word for pair in zip(names, attributes, strict=True) for word in grammar.fact(*pair)]
    between = choices.uniform() < 0.5
    if between:
        words += grammar.sentence(choices)
    who = choices.below(4)
    wrong = [attribute for attribute in attributes if attribute != attributes[who]]
    kind = "sentence between" if between else "at once"
    return _item(choices, [*words, Token(names[who], "PROPN", "sing")], attributes[who], wrong, kind)


def brackets(choices: Choices) -> Item | None:
    """Which bracket closes what is open, after brackets of other kinds were opened and closed within."""
    words = grammar.brackets(choices, pairs=choices.one((4, 5, 6)))
    hard = list(_closings(words))
    if not hard:
        return None
    place, distance = choices.one(hard)
    right = words[place].text
    wrong = [closing for _, closing in grammar.BRACKETS if closing != right]
    return _item(choices, words[:place], right, wrong, "far" if distance > 5 else "near")


def _closings(words: list[Token]) -> Iterator[tuple[int, int]]:
    """Places of closing brackets around other brackets, and how far back each was opened."""
    openings, closings = zip(*grammar.BRACKETS, strict=True)
    stack: list[int] = []
    for place, word in enumerate(words):
        if word.text in openings:
            stack.append(place)
        elif word.text in closings:
            opened = stack.pop()
            if any(inner.text in openings for inner in words[opened + 1 : place]):
                yield place, place - opened


TASKS: dict[str, Callable[[Choices], Item | None]] = {
    "nano_agreement": agreement,
    "nano_induction": induction,
    "nano_recall": recall,
    "nano_brackets": brackets,
}
