"""The items of the nano tasks: made by the generator, solvable by rule, and never trained on."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy.stats import binom

from polystab.suites import grammar, nano_items
from polystab.suites.measuring import task_folder
from polystab.suites.nano_items import TASKS

Item = dict[str, Any]
EVERY_TASK = pytest.mark.parametrize("task", sorted(TASKS))
PLURAL = {form: number for pair in grammar.NOUNS for number, form in enumerate(pair)}


@cache
def shipped(task: str) -> tuple[Item, ...]:
    lines = (task_folder() / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line) for line in lines)


def said_in_yaml(task: str, name: str) -> str:
    """One plain value of a task file, whose ``!function`` is no plain YAML."""
    text = (task_folder() / f"{task}.yaml").read_text(encoding="utf-8")
    found = re.search(rf"^ *{name}: (.+)$", text, flags=re.MULTILINE)
    assert found is not None
    return found[1]


def agreement(context: str, options: list[str]) -> str:
    """The head is the first noun of the last sentence; the singular of a verb is longer by an s."""
    head = next(word for word in context.rpartition(" . ")[2].split() if word in PLURAL)
    return sorted(options, key=len)[0 if PLURAL[head] else 1]


def induction(context: str, options: list[str]) -> str:
    """What follows the last letter shown, within the span."""
    span, shown = context.rpartition("< ")[2].split(" | ")
    letters = span.split()
    return letters[letters.index(shown.split()[-1]) + 1]


def recall(context: str, options: list[str]) -> str:
    """What stands after the same name before."""
    words = context.split()
    return words[words.index(words[-1]) + 1]


def brackets(context: str, options: list[str]) -> str:
    """The partner of the innermost bracket that is open."""
    text = context.replace(" ", "")
    while (shorter := re.sub(r"\(\)|\[\]|\{\}", "", re.sub(r"[^(){}\[\]]", "", text))) != text:
        text = shorter
    return dict(grammar.BRACKETS)[text[-1]]


SOLVERS: dict[str, Callable[[str, list[str]], str]] = {
    "nano_agreement": agreement,
    "nano_induction": induction,
    "nano_recall": recall,
    "nano_brackets": brackets,
}


@EVERY_TASK
def test_the_items_that_ship_are_those_the_generator_makes(task: str) -> None:
    assert list(shipped(task)) == nano_items.items(task)


@EVERY_TASK
def test_a_rule_that_knows_only_the_text_gives_every_answer(task: str) -> None:
    wrong = [
        item
        for item in shipped(task)
        if SOLVERS[task](item["context"], item["options"]) != item["options"][item["answer"]]
    ]
    assert wrong == []


@EVERY_TASK
def test_there_are_at_least_300_items_with_different_contexts(task: str) -> None:
    assert len({item["context"] for item in shipped(task)}) == len(shipped(task)) >= 300


@EVERY_TASK
def test_the_options_of_an_item_are_different_single_words(task: str) -> None:
    for item in shipped(task):
        assert len(set(item["options"])) == len(item["options"])
        assert set(item["options"]) <= set(grammar.vocabulary())


@EVERY_TASK
def test_the_stated_chance_level_is_one_over_the_number_of_options(task: str) -> None:
    assert {1 / len(item["options"]) for item in shipped(task)} == {float(said_in_yaml(task, "chance"))}


@EVERY_TASK
def test_the_task_file_has_its_own_name_and_loads_its_own_items(task: str) -> None:
    assert said_in_yaml(task, "task") == task
    assert said_in_yaml(task, "custom_dataset") == f"!function nano_data.load_{task.removeprefix('nano_')}"


@EVERY_TASK
def test_right_answers_stand_at_every_place_equally_often(task: str) -> None:
    n, options = len(shipped(task)), len(shipped(task)[0]["options"])
    counts = Counter(item["answer"] for item in shipped(task))
    # With 13 places in all tasks together, a fair generator fails this once in 10,000 seeds.
    low, high = binom.ppf([5e-6, 1 - 5e-6], n, 1 / options)
    assert all(low <= counts[place] <= high for place in range(options))


@EVERY_TASK
def test_no_word_is_right_so_often_that_naming_it_beats_chance(task: str) -> None:
    items = shipped(task)
    right = Counter(item["options"][item["answer"]] for item in items)
    offered = Counter(option for item in items for option in item["options"])
    for word, n in offered.items():
        assert right[word] <= binom.ppf(1 - 1e-5, n, 1 / len(items[0]["options"]))


@EVERY_TASK
def test_context_and_answer_fit_into_a_document(task: str) -> None:
    assert max(len(item["context"].split()) for item in shipped(task)) <= nano_items.LONGEST < 64


@EVERY_TASK
def test_every_word_is_in_the_vocabulary(task: str) -> None:
    words = {word for item in shipped(task) for word in item["context"].split()}
    assert words <= set(grammar.vocabulary())


def test_the_last_noun_before_the_verb_has_not_the_number_of_the_head() -> None:
    """So that agreeing with the nearest noun is always wrong."""
    for item in shipped("nano_agreement"):
        nouns = [PLURAL[word] for word in item["context"].rpartition(" . ")[2].split() if word in PLURAL]
        assert nouns[0] != nouns[-1]


@pytest.mark.slow
@EVERY_TASK
def test_items_do_not_occur_in_a_corpus(task: str) -> None:
    words = grammar.vocabulary()
    corpus = grammar.corpus(2000, 64, rng=1)
    text = "\n".join(" ".join(words[i] for i in row) for row in corpus)
    assert [item["context"] for item in shipped(task) if item["context"] in text] == []


@EVERY_TASK
def test_other_seeds_give_other_items(task: str) -> None:
    one, two = ({item["context"] for item in nano_items.items(task, 30, rng=rng)} for rng in (1, 2))
    assert not one & two


@EVERY_TASK
def test_fewer_items_are_the_first_of_more(task: str) -> None:
    assert nano_items.items(task, 5, rng=np.random.default_rng(3)) == nano_items.items(task, 20, rng=3)[:5]
