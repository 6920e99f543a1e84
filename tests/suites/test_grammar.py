"""The language of the suites: its gold labels hold, and a seed decides every document."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polystab.suites import grammar
from polystab.suites.grammar import Choices, Token

SEEDS = st.integers(0, 2**32 - 1)
NUMBER_OF_FORM = {
    form: number
    for pair in (*grammar.NOUNS, *grammar.INTRANSITIVE, *grammar.TRANSITIVE)
    for form, number in zip(pair, grammar.NUMBERS, strict=True)
}
CLOSES = {closing: opening for opening, closing in grammar.BRACKETS}


def made(make: Callable[[Choices], list[Token]], seed: int) -> list[Token]:
    return make(Choices(np.random.default_rng(seed)))


def texts(words: list[Token]) -> list[str]:
    return [word.text for word in words]


def test_the_vocabulary_has_no_word_twice() -> None:
    words = grammar.vocabulary()
    assert len(set(words)) == len(words)


@pytest.mark.slow
@given(SEEDS, st.integers(1, 80))
def test_every_word_of_a_document_is_in_the_vocabulary(seed: int, length: int) -> None:
    words = grammar.document(Choices(np.random.default_rng(seed)), length)
    assert len(words) == length
    assert set(texts(words)) <= set(grammar.vocabulary())


@pytest.mark.slow
@given(SEEDS)
def test_nouns_and_verbs_carry_the_number_of_their_form(seed: int) -> None:
    for word in made(grammar.sentence, seed):
        assert word.number == (NUMBER_OF_FORM[word.text] if word.pos in ("NOUN", "VERB") else "")


@pytest.mark.slow
@given(SEEDS)
def test_heads_stay_inside_the_sentence_and_lead_to_its_root(seed: int) -> None:
    words = made(grammar.sentence, seed)
    roots = [place for place, word in enumerate(words) if word.head == 0]
    assert len(roots) == 1
    assert words[roots[0]].pos == "VERB"
    for place in range(len(words)):
        for _ in words:
            place += words[place].head
            assert 0 <= place < len(words)
        assert place == roots[0]


@pytest.mark.slow
@given(SEEDS)
def test_every_verb_agrees_with_the_subject_that_its_head_offsets_name(seed: int) -> None:
    words = made(grammar.sentence, seed)
    for place, verb in enumerate(words):
        if verb.pos != "VERB":
            continue
        subjects = [at for at in range(place) if words[at].pos == "NOUN" and at + words[at].head == place]
        # In "the dog that sees ..." the subject of the clause is what the clause modifies.
        subject = words[subjects[0]] if subjects else words[place + verb.head]
        assert subject.pos == "NOUN"
        assert verb.number == subject.number


@pytest.mark.slow
@given(SEEDS)
def test_a_determiner_stands_before_the_noun_it_points_to(seed: int) -> None:
    words = made(grammar.sentence, seed)
    for place, word in enumerate(words):
        if word.pos in ("DET", "ADJ"):
            assert word.head > 0
            assert words[place + word.head].pos == "NOUN"


@pytest.mark.slow
@given(SEEDS)
def test_depth_in_a_sentence_rises_by_one_at_a_relative_pronoun(seed: int) -> None:
    words = made(grammar.sentence, seed)
    assert words[0].depth == words[-1].depth == 0
    for before, after in pairwise(words):
        assert after.depth - before.depth == 1 if after.text == "that" else after.depth <= before.depth


@pytest.mark.slow
@given(SEEDS, st.integers(1, 6))
def test_attractors_are_the_nouns_after_the_head(seed: int, attractors: int) -> None:
    phrase = grammar.noun_phrase(Choices(np.random.default_rng(seed)), attractors=attractors)
    nouns = [place for place, word in enumerate(phrase.tokens) if word.pos == "NOUN"]
    assert nouns[0] == phrase.head
    assert len(nouns) == attractors + 1


@pytest.mark.slow
@given(SEEDS)
def test_brackets_are_balanced_and_depth_counts_them(seed: int) -> None:
    words = made(grammar.brackets, seed)
    stack: list[str] = []
    for word in words[:-1]:
        if word.text in CLOSES.values():
            stack.append(word.text)
        assert word.depth == len(stack)
        if word.text in CLOSES:
            assert stack.pop() == CLOSES[word.text]
    assert not stack
    assert words[-1].text == "."


@pytest.mark.slow
@given(SEEDS)
def test_a_name_keeps_its_attribute_within_a_binding(seed: int) -> None:
    words = texts(made(grammar.binding, seed))
    said: dict[str, set[str]] = {}
    for name, attribute in pairwise(words):
        if name in grammar.NAMES:
            said.setdefault(name, set()).add(attribute)
    assert all(len(attributes) == 1 for attributes in said.values())
    assert len(set.union(*said.values())) == len(said) >= 2
    assert all(words.count(name) == 3 for name in said)


@pytest.mark.slow
@given(SEEDS)
def test_pieces_after_a_bar_are_pieces_of_the_span(seed: int) -> None:
    words = texts(made(grammar.repetition, seed))
    assert (words[0], words[-1]) == ("<", ">")
    span, *pieces = " ".join(words[1:-1]).split(" | ")
    assert len(set(span.split())) == len(span.split())
    assert len(pieces) in (2, 3)
    assert all(f" {piece} " in f" {span} " for piece in pieces)


@pytest.mark.slow
@given(SEEDS)
def test_words_outside_sentences_have_no_head_but_facts(seed: int) -> None:
    assert all(word.head == 0 for word in [*made(grammar.repetition, seed), *made(grammar.brackets, seed)])


@pytest.mark.slow
@given(SEEDS)
def test_the_same_seed_gives_the_same_documents(seed: int) -> None:
    one, two = (grammar.corpus(3, 20, rng=seed) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_other_seeds_give_other_documents() -> None:
    documents = {grammar.corpus(1, 40, rng=seed).tobytes() for seed in range(200)}
    assert len(documents) == 200


def test_documents_of_a_corpus_differ() -> None:
    assert len(np.unique(grammar.corpus(500, 64, rng=3), axis=0)) == 500


def test_a_corpus_begins_with_the_documents_of_a_smaller_one() -> None:
    np.testing.assert_array_equal(grammar.corpus(10, 64, rng=5)[:4], grammar.corpus(4, 64, rng=5))


def test_a_corpus_spells_its_documents_by_place_in_the_vocabulary() -> None:
    words = grammar.vocabulary()
    choices = Choices(np.random.default_rng(7))
    wanted = [texts(grammar.document(choices, 30)) for _ in range(4)]
    assert [[words[i] for i in row] for row in grammar.corpus(4, 30, rng=7)] == wanted


def test_every_kind_of_word_comes_up_in_a_corpus() -> None:
    seen = {grammar.vocabulary()[i] for i in np.unique(grammar.corpus(400, 64, rng=0))}
    assert set(grammar.vocabulary()) - seen == {grammar.PADDING, grammar.UNKNOWN}


def test_singular_and_plural_subjects_are_equally_likely() -> None:
    choices = Choices(np.random.default_rng(0))
    plural = sum(grammar.noun_phrase(choices).number for _ in range(4000))
    # Five standard deviations of a fair coin.
    assert abs(plural - 2000) < 5 * (4000 * 0.25) ** 0.5


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10])
def test_choices_below_n_cover_it_and_stay_below(n: int) -> None:
    choices = Choices(np.random.default_rng(0))
    assert {choices.below(n) for _ in range(5000)} == set(range(n))


@pytest.mark.slow
@given(SEEDS, st.integers(0, 8))
def test_several_choices_are_different(seed: int, n: int) -> None:
    chosen = Choices(np.random.default_rng(seed)).several(grammar.NAMES, n)
    assert len(set(chosen)) == n
    assert set(chosen) <= set(grammar.NAMES)
