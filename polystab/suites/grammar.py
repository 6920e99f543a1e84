"""A small English-like language with gold labels, for suites that need no downloads.

A document strings together four kinds of segment, each of which asks for another
ability of a model:

=========== ============================================= ==================================
segment     example                                       what it takes
=========== ============================================= ==================================
sentence    the dog near the old cats sleeps .            the verb agrees with its head noun
binding     anna red . bob blue . ... bob blue .          recall an attribute over a distance
repetition  < k d g b h | d g b >                         repeat a piece of a span never seen
brackets    ( [ x ] { } y )                               close what was opened last
=========== ============================================= ==================================

Every token carries its part of speech, number, depth and the distance to its head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")

# Singular, plural.
NOUNS = (
    ("dog", "dogs"), ("cat", "cats"), ("bird", "birds"), ("farmer", "farmers"), ("girl", "girls"), ("boy", "boys"),
    ("teacher", "teachers"), ("doctor", "doctors"), ("horse", "horses"), ("sailor", "sailors"), ("king", "kings"),
    ("baker", "bakers"), ("singer", "singers"), ("painter", "painters"), ("lawyer", "lawyers"), ("wolf", "wolves"),
)  # fmt: skip
INTRANSITIVE = (
    ("sleeps", "sleep"), ("runs", "run"), ("waits", "wait"), ("sings", "sing"), ("falls", "fall"), ("swims", "swim"),
    ("laughs", "laugh"), ("leaves", "leave"),
)  # fmt: skip
TRANSITIVE = (
    ("sees", "see"), ("likes", "like"), ("follows", "follow"), ("helps", "help"), ("knows", "know"), ("calls", "call"),
    ("finds", "find"), ("fears", "fear"),
)  # fmt: skip
ADJECTIVES = ("old", "young", "tall", "small", "quiet", "brave")
ADVERBS = ("today", "often", "again", "alone")
PREPOSITIONS = ("near", "behind", "beside", "with")
NAMES = ("anna", "bob", "carl", "dora", "emil", "fay", "gus", "hana")
ATTRIBUTES = ("red", "blue", "green", "white", "black", "brown", "pink", "gold")
LETTERS = tuple("bcdfghjklm")
BRACKETS = (("(", ")"), ("[", "]"), ("{", "}"))
FILLERS = ("x", "y")
MARKS = (".", "<", "|", ">")

UNKNOWN = "<unk>"
PADDING = "<pad>"

SINGULAR, PLURAL = 0, 1
NUMBERS = ("sing", "plur")


class Token(NamedTuple):
    """A word with its gold labels.

    ``number`` is ``sing``, ``plur`` or empty; ``depth`` counts the clauses or brackets
    around the word; ``head`` is where its head stands, relative to the word (0 for the
    root of a sentence and for words outside sentences).
    """

    text: str
    pos: str
    number: str = ""
    depth: int = 0
    head: int = 0


def vocabulary() -> tuple[str, ...]:
    """Every word of the language in a fixed order; a word's place is its token id."""
    pairs = (word for pair in (*NOUNS, *INTRANSITIVE, *TRANSITIVE, *BRACKETS) for word in pair)
    singles = (*ADJECTIVES, *ADVERBS, *PREPOSITIONS, *NAMES, *ATTRIBUTES, *LETTERS, *FILLERS, *MARKS)
    return (PADDING, UNKNOWN, "the", "that", *pairs, *singles)


class Choices:
    """Random choices from one generator, drawn in blocks: a call to the generator for each word would take longer."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._block: list[float] = []

    def uniform(self) -> float:
        """A number in [0, 1)."""
        if not self._block:
            self._block = self._rng.random(4096).tolist()
        return self._block.pop()

    def below(self, n: int) -> int:
        """A whole number in [0, n)."""
        return int(self.uniform() * n)

    def one(self, options: Sequence[T]) -> T:
        """One of ``options``."""
        return options[self.below(len(options))]

    def several(self, options: Sequence[T], n: int) -> list[T]:
        """``n`` different ones of ``options``, in random order."""
        left = list(options)
        return [left.pop(self.below(len(left))) for _ in range(n)]


@dataclass(frozen=True)
class NounPhrase:
    """Words of a noun phrase, the place of its head noun among them, and its number."""

    tokens: list[Token]
    head: int
    number: int


def noun_phrase(
    choices: Choices, *, depth: int = 0, number: int | None = None, attractors: int | None = None, most: int = 2
) -> NounPhrase:
    """A noun phrase with nouns between its head and what follows.

    Parameters
    ----------
    choices : Choices
    depth : int
        Clauses around it.
    number : int, optional
        ``SINGULAR`` or ``PLURAL``; else either.
    attractors : int, optional
        How many nouns follow the head within the phrase; else 0 to ``most``, fewer
        being more likely. At the second attractor and beyond, phrases nest.
    """
    if number is None:
        number = choices.below(2)
    if attractors is None:
        attractors = min(most, choices.one((0, 0, 0, 1, 1, 2)))
    adjective = choices.uniform() < 0.25
    words = [Token("the", "DET", "", depth, 2 if adjective else 1)]
    if adjective:
        words.append(Token(choices.one(ADJECTIVES), "ADJ", "", depth, 1))
    # The head's own head is the verb; it is set once the verb's place is known.
    words.append(Token(choices.one(NOUNS)[number], "NOUN", NUMBERS[number], depth))
    head = len(words) - 1
    if attractors > 0:
        words += _modifier(choices, head, len(words), number, depth, attractors)
    return NounPhrase(words, head, number)


def _modifier(choices: Choices, head: int, start: int, number: int, depth: int, attractors: int) -> list[Token]:
    """What follows a head noun: a prepositional phrase or a relative clause that holds ``attractors`` nouns."""
    kind = choices.below(3)
    if kind == 0:  # near the cats
        inner = noun_phrase(choices, depth=depth, attractors=attractors - 1)
        return [Token(choices.one(PREPOSITIONS), "ADP", "", depth, head - start), *_headed(inner, -1)]
    if kind == 1:  # that sees the cats
        inner = noun_phrase(choices, depth=depth + 1, attractors=attractors - 1)
        verb = Token(choices.one(TRANSITIVE)[number], "VERB", NUMBERS[number], depth + 1, head - start - 1)
        return [Token("that", "PRON", "", depth + 1, 1), verb, *_headed(inner, -1)]
    # that the cats see
    inner = noun_phrase(choices, depth=depth + 1, attractors=attractors - 1)
    verb_place = start + 1 + len(inner.tokens)
    verb = Token(choices.one(TRANSITIVE)[inner.number], "VERB", NUMBERS[inner.number], depth + 1, head - verb_place)
    that = Token("that", "PRON", "", depth + 1, verb_place - start)
    return [that, *_headed(inner, len(inner.tokens)), verb]


def _headed(phrase: NounPhrase, governor: int) -> list[Token]:
    """The words of a phrase whose head noun depends on the word at ``governor``, counted from the phrase's start."""
    tokens = list(phrase.tokens)
    tokens[phrase.head] = tokens[phrase.head]._replace(head=governor - phrase.head)
    return tokens


def sentence(choices: Choices) -> list[Token]:
    """A sentence whose verb agrees with the head of its subject."""
    subject = noun_phrase(choices)
    place = len(subject.tokens)
    number = NUMBERS[subject.number]
    words = _headed(subject, place)
    if choices.uniform() < 0.5:
        words.append(Token(choices.one(INTRANSITIVE)[subject.number], "VERB", number))
        if choices.uniform() < 0.4:
            words.append(Token(choices.one(ADVERBS), "ADV", "", 0, place - len(words)))
    else:
        words.append(Token(choices.one(TRANSITIVE)[subject.number], "VERB", number))
        words += _headed(noun_phrase(choices, most=1), -1)
    words.append(Token(".", "PUNCT", "", 0, place - len(words)))
    return words


def binding(choices: Choices, *, people: int | None = None) -> list[Token]:
    """People with an attribute each, something in between at times, and the same twice more in other orders."""
    n = choices.one((2, 3, 4)) if people is None else people
    names, attributes = choices.several(NAMES, n), choices.several(ATTRIBUTES, n)
    facts = [fact(*pair) for pair in zip(names, attributes, strict=True)]
    words = [word for each in facts for word in each]
    if choices.uniform() < 0.3:
        words += sentence(choices)
    for _ in range(2):
        words += [word for each in choices.several(facts, n) for word in each]
    return words


def fact(name: str, attribute: str) -> list[Token]:
    """That a person has an attribute."""
    return [Token(name, "PROPN", "sing"), Token(attribute, "ADJ", "", 0, -1), Token(".", "PUNCT", "", 0, -2)]


def repetition(choices: Choices) -> list[Token]:
    """A span of different letters, then pieces of it, each from anywhere in it.

    That a piece may start anywhere is what asks for induction: copying from a fixed
    distance, or from the start, does not do.
    """
    span = choices.several(LETTERS, choices.one((6, 7, 8, 9, 10)))
    words = [Token("<", "PUNCT"), *letters(span)]
    for _ in range(choices.one((2, 3))):
        words += [Token("|", "PUNCT"), *letters(piece(choices, span, choices.one((3, 4, 5))))]
    return [*words, Token(">", "PUNCT")]


def piece(choices: Choices, span: Sequence[str], length: int) -> Sequence[str]:
    """``length`` neighbours of ``span``."""
    start = choices.below(len(span) - length + 1)
    return span[start : start + length]


def letters(span: Sequence[str]) -> list[Token]:
    """A span as words of a document."""
    return [Token(letter, "SYM") for letter in span]


def brackets(choices: Choices, *, pairs: int | None = None) -> list[Token]:
    """Well-nested brackets of three kinds, with fillers between them, then a full stop."""
    left = choices.one((3, 4, 5, 6)) if pairs is None else pairs
    words: list[Token] = []
    open_kinds: list[tuple[str, str]] = []
    while left or open_kinds:
        if choices.uniform() < 0.2:
            words.append(Token(choices.one(FILLERS), "SYM", "", len(open_kinds)))
        elif left and (not open_kinds or choices.uniform() < 0.5):
            open_kinds.append(choices.one(BRACKETS))
            words.append(Token(open_kinds[-1][0], "PUNCT", "", len(open_kinds)))
            left -= 1
        else:
            words.append(Token(open_kinds[-1][1], "PUNCT", "", len(open_kinds)))
            open_kinds.pop()
    return [*words, Token(".", "PUNCT")]


# How often each kind of segment is drawn.
SEGMENTS: tuple[tuple[Callable[[Choices], list[Token]], float], ...] = (
    (sentence, 0.25),
    (binding, 0.4),
    (repetition, 0.2),
    (brackets, 0.15),
)


def document(choices: Choices, length: int) -> list[Token]:
    """``length`` words: segments one after another, the last one cut."""
    words: list[Token] = []
    while len(words) < length:
        words += _kind(choices)(choices)
    return words[:length]


def _kind(choices: Choices) -> Callable[[Choices], list[Token]]:
    """A kind of segment, by its share."""
    left = choices.uniform()
    for make, share in SEGMENTS:
        left -= share
        if left < 0:
            return make
    return SEGMENTS[-1][0]


def corpus(n: int, length: int, *, rng: int | np.random.Generator) -> npt.NDArray[np.int16]:
    """Token ids of ``n`` documents.

    Parameters
    ----------
    n, length : int
        Number of documents and words in each.
    rng : int or numpy.random.Generator
        The same seed gives the same documents.

    Returns
    -------
    ndarray of int16, shape (n, length)
        Places in :func:`vocabulary`.
    """
    ids = {word: i for i, word in enumerate(vocabulary())}
    choices = Choices(np.random.default_rng(rng))
    texts = ([ids[word.text] for word in document(choices, length)] for _ in range(n))
    return np.array(list(texts), dtype=np.int16)
