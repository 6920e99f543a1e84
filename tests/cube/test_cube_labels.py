"""Metric ids, and the order in which models are listed."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polystab.cube.labels import (
    MetricId,
    is_writable,
    model_order,
    model_size,
    natural_order,
    parse_metric_id,
    writable,
)
from polystab.cube.specs import FAMILIES
from polystab.errors import RecordsError

word = st.text(st.characters(codec="utf-8", exclude_characters="@/"), min_size=1, max_size=12)
subject = st.lists(word, min_size=1, max_size=3).map("/".join)
answer_filter = st.one_of(st.just(""), word.filter(lambda text: not text.isdigit()))
metric_ids = st.builds(MetricId, st.sampled_from(FAMILIES), subject, word, st.integers(0, 64), answer_filter)


@pytest.mark.slow
@given(metric_ids)
def test_an_id_says_what_it_was_made_of(parts: MetricId) -> None:
    assert parse_metric_id(str(parts)) == parts


@pytest.mark.slow
@given(st.text(max_size=30))
def test_what_can_be_read_is_written_back_the_same(rest: str) -> None:
    text = f"eval/{rest}"
    try:
        parts = parse_metric_id(text)
    except RecordsError:
        return
    assert str(parts) == text


@pytest.mark.slow
@given(st.text(st.characters(codec="utf-8", categories=["Nd", "Ll"]) | st.sampled_from("@/"), max_size=12))
def test_shots_have_one_spelling(rest: str) -> None:
    text = f"eval/x@{rest}shot/acc"
    try:
        parts = parse_metric_id(text)
    except RecordsError:
        return
    assert str(parts) == text


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("eval/arc_easy/acc", MetricId("eval", "arc_easy", "acc")),
        ("eval/arc_easy@5shot/acc", MetricId("eval", "arc_easy", "acc", shots=5)),
        ("eval/gsm8k/exact_match@strict-match", MetricId("eval", "gsm8k", "exact_match", filter="strict-match")),
        ("eval/humaneval/pass@1", MetricId("eval", "humaneval", "pass@1")),
        ("eval/humaneval/pass@10@create_test", MetricId("eval", "humaneval", "pass@10", filter="create_test")),
        ("eval/a/b/acc", MetricId("eval", "a/b", "acc")),
        ("weight/layers.3.attention.dense/kurtosis", MetricId("weight", "layers.3.attention.dense", "kurtosis")),
        ("loss/train/cross_entropy", MetricId("loss", "train", "cross_entropy")),
        ("eval/5shot/acc", MetricId("eval", "5shot", "acc")),
    ],
)
def test_ids_are_read(text: str, parts: MetricId) -> None:
    assert parse_metric_id(text) == parts


@pytest.mark.parametrize("text", ["", "eval", "eval/acc", "eval//acc", "/arc/acc", "eval/arc/", "arc_easy"])
def test_an_id_of_fewer_than_three_parts_is_refused(text: str) -> None:
    with pytest.raises(RecordsError, match="is not <family>/<subject>/<measure>"):
        parse_metric_id(text)


def test_an_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecordsError, match="'eval', 'probe', 'weight'"):
        parse_metric_id("evals/arc/acc")


@pytest.mark.parametrize(
    ("text", "plain"), [("eval/x@0shot/acc", "eval/x/acc"), ("eval/x@05shot/acc", "eval/x@5shot/acc")]
)
def test_another_spelling_of_shots_is_refused_with_the_right_one(text: str, plain: str) -> None:
    with pytest.raises(RecordsError, match=f"write {plain}"):
        parse_metric_id(text)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("pythia-70m", 70e6),
        ("pythia-1.4b", 1.4e9),
        ("pythia-410m-seed3", 410e6),
        ("gpt2-124M", 124e6),
        ("EleutherAI/pythia-160m-deduped", 160e6),
        ("toy_32m", 32e6),
        ("nano-500k", 500e3),
    ],
)
def test_a_size_is_read_from_a_name(name: str, size: float) -> None:
    assert model_size(name) == size


@pytest.mark.parametrize("name", ["gpt2", "bert-base", "v1.5", "4bit", "model70mx", ""])
def test_a_name_without_a_size_has_none(name: str) -> None:
    assert str(model_size(name)) == "nan"


@pytest.mark.parametrize(
    "ordered",
    [
        ["pythia-14m", "pythia-70m", "pythia-160m", "pythia-410m", "pythia-1b", "pythia-1.4b", "pythia-12b"],
        ["gpt2-124m", "olmo-1b", "olmo-7b", "pythia-70m"],
        ["pythia-70m", "pythia-70m-deduped", "pythia-160m"],
        ["model-1", "model-2", "model-10"],
    ],
)
def test_models_are_ordered_by_kind_then_size(ordered: list[str]) -> None:
    shuffled = random.Random(0).sample(ordered, len(ordered))
    assert sorted(shuffled, key=model_order) == ordered


@pytest.mark.slow
@given(st.lists(st.text(max_size=20), max_size=6))
def test_any_names_can_be_ordered(names: list[str]) -> None:
    assert sorted(sorted(names, key=model_order, reverse=True), key=model_order) == sorted(names, key=model_order)


def test_numbers_in_names_count_as_numbers() -> None:
    assert sorted(["run10", "run2", "run1", "a"], key=natural_order) == ["a", "run1", "run2", "run10"]


@pytest.mark.parametrize("text", ["", "plain", "größe", "模型🙂", "line\nbreak"])
def test_ordinary_text_is_writable(text: str) -> None:
    assert is_writable(text)
    assert writable(text) == text


@pytest.mark.parametrize(("text", "escaped"), [("a\0b", r"a\x00b"), ("a\udc80", r"a\udc80")])
def test_what_netcdf_would_lose_is_escaped(text: str, escaped: str) -> None:
    assert not is_writable(text)
    assert writable(text) == escaped


@pytest.mark.slow
@given(st.text(st.characters()))
def test_escaped_text_is_writable(text: str) -> None:
    assert is_writable(writable(text))
