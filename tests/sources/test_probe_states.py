"""From labelled places to hidden states: alignment with sub-words, contexts, batches."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_checkpoints import tiny_model  # noqa: E402

from polystab.sources.probes.states import ProbeError, aligned, hidden_states  # noqa: E402

LETTERS = ["<unk>", "<end>", *"abcdef"]
TEXT, WORDS = "ab cde f", ((0, 2), (3, 6), (7, 8))


def letter_tokenizer(**options: Any) -> Any:
    """A token for each letter; words are several sub-words."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({letter: i for i, letter in enumerate(LETTERS)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("."), "isolated")]
    )
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="<end>", **options)


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model().eval()


def states(model: Any, texts: Any = (TEXT,), spans: Any = (WORDS,), **changes: Any) -> Any:
    options = {"pool": "last", "whole": False, "batch_size": 8} | changes
    tokenizer = options.pop("tokenizer", None) or letter_tokenizer()
    return hidden_states(model, tokenizer, texts, spans, **options)


def of_tokens(model: Any, ids: list[int]) -> Any:
    """Hidden states of all layers at all tokens, straight from the model."""
    with torch.no_grad():
        return torch.stack(model(torch.tensor([ids]), output_hidden_states=True).hidden_states)[:, 0]


def test_tokens_that_begin_with_a_space_belong_to_the_word_after_it() -> None:
    assert aligned([(0, 3), (3, 7), (7, 9)], [(0, 3), (4, 9)]).tolist() == [[0, 0], [1, 2]]


def test_a_token_over_two_words_belongs_to_both() -> None:
    assert aligned([(0, 5)], [(0, 2), (3, 5)]).tolist() == [[0, 0], [0, 0]]


def test_bytes_of_one_character_are_all_of_its_word() -> None:
    assert aligned([(0, 1), (0, 1), (0, 1), (2, 3)], [(0, 1), (2, 3)]).tolist() == [[0, 2], [3, 3]]


def test_special_tokens_belong_to_no_word() -> None:
    assert aligned([(0, 0), (0, 2), (0, 0)], [(0, 2)]).tolist() == [[1, 1]]


def test_a_word_that_the_tokenizer_drops_has_no_token() -> None:
    assert aligned([(0, 2), (5, 7)], [(0, 2), (3, 4), (5, 7), (8, 9)])[[1, 3]].tolist() == [[-1, -1], [-1, -1]]


def test_a_text_of_no_tokens_is_aligned_too() -> None:
    assert aligned([], [(0, 2)]).tolist() == [[-1, -1]]


@pytest.mark.slow
@pytest.mark.parametrize(("pool", "tokens"), [("first", [0, 2, 5]), ("last", [1, 4, 5])])
def test_one_subword_stands_for_a_word(model: Any, pool: str, tokens: list[int]) -> None:
    expected = of_tokens(model, [2, 3, 4, 5, 6, 7])[:, tokens]
    torch.testing.assert_close(states(model, pool=pool).hidden, expected)


def test_the_mean_of_the_subwords_stands_for_a_word(model: Any) -> None:
    every = of_tokens(model, [2, 3, 4, 5, 6, 7])
    expected = torch.stack([every[:, :2].mean(1), every[:, 2:5].mean(1), every[:, 5]], 1)
    torch.testing.assert_close(states(model, pool="mean").hidden, expected)


def test_all_layers_are_there_with_the_embeddings_first(model: Any) -> None:
    found = states(model).hidden
    assert found.shape == (3, 3, 16)
    torch.testing.assert_close(found[0], model.get_input_embeddings().weight[[3, 6, 7]])


@pytest.mark.slow
def test_texts_beside_it_do_not_change_the_states_of_a_text(model: Any) -> None:
    texts, spans = ("a", TEXT, "fedcba abc"), (((0, 1),), WORDS, ((0, 6), (7, 10)))
    alone = [states(model, (text,), (places,)).hidden for text, places in zip(texts, spans, strict=True)]
    torch.testing.assert_close(states(model, texts, spans).hidden, torch.cat(alone, 1))


def test_words_beyond_the_context_are_left_out_and_said(model: Any) -> None:
    text = "ab " * 20  # 40 tokens, the context is 32
    found = states(model, (text, "a"), ([(3 * i, 3 * i + 2) for i in range(20)], [(0, 1)]))
    assert found.measured.tolist() == [True] * 16 + [False] * 4 + [True]
    assert [reason for reason, _ in found.notes] == ["truncated", "no-state"]
    assert "1 of 2 texts exceed the context of 32 tokens" in found.notes[0][1]


def test_a_word_that_the_context_cuts_is_left_out(model: Any) -> None:
    assert not states(model, ("a " * 31 + "bc",), ([(62, 64)],)).measured.any()


def test_of_a_whole_text_is_taken_what_fits(model: Any) -> None:
    found = states(model, ("a" * 40,), ([(0, 40)],), whole=True)
    torch.testing.assert_close(found.hidden, of_tokens(model, [2] * 32)[:, -1:])


def test_a_limit_of_the_tokenizer_is_a_context_too(model: Any) -> None:
    assert not states(model, tokenizer=letter_tokenizer(model_max_length=5)).measured.all()


def test_words_that_the_tokenizer_drops_are_said(model: Any) -> None:
    found = states(model, ("a  b",), ([(0, 1), (1, 2), (3, 4)],))
    assert found.measured.tolist() == [True, False, True]
    assert found.notes[0][0] == "no-state"


def test_the_fingerprint_is_of_the_tokens(model: Any) -> None:
    same, other = states(model, pool="mean"), states(model, ("ab cdef",), (((0, 2),),))
    assert states(model).fingerprint == same.fingerprint
    assert states(model, ("ba cde f",)).fingerprint != same.fingerprint
    # Spaces are no tokens here: the same tokens cut from another text are the same to a model.
    assert other.fingerprint == same.fingerprint


def test_states_that_are_not_finite_are_refused_with_their_layers() -> None:
    model = tiny_model().eval()
    with torch.no_grad():
        model.gpt_neox.layers[1].mlp.dense_4h_to_h.weight.fill_(3e38)
    with pytest.raises(ProbeError, match="layers 2 hold NaN or infinity") as caught:
        states(model)
    assert caught.value.reason == "non-finite-output"


def test_a_tokenizer_that_is_not_the_models_is_refused() -> None:
    with pytest.raises(ProbeError, match="do not belong together"):
        states(tiny_model(vocab_size=4).eval())


def test_a_tokenizer_without_offsets_is_refused(model: Any) -> None:
    with pytest.raises(ProbeError, match="fast tokenizer"):
        states(model, tokenizer=SimpleNamespace(is_fast=False))


def test_the_model_is_left_as_it_was(model: Any) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    states(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
