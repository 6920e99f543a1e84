"""Files of labelled texts, their splits, and the labels of nano."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from polystab.errors import PolystabError, ReadError, UnknownNameError
from polystab.sources.probes.data import NONE, UNSEEN, load_data
from polystab.sources.probes.files import read_sentences

# du = de + le has no part of its own for each; don't = do + n't has.
CONLLU = """\
# sent_id = 1
# text = Vas-tu du don't!
1\tVas\tx\tVERB\t_\t_\t0\troot\t_\tSpaceAfter=No
2\t-tu\tx\tPRON\t_\t_\t1\tnsubj:expl\t_\t_
3-4\tdu\t_\t_\t_\t_\t_\t_\t_\t_
3\tde\tx\tADP\t_\t_\t7\tcase\t_\t_
4\tle\tx\tDET\t_\t_\t7\tdet\t_\t_
4.1\tghost\tx\tNOUN\t_\t_\t_\t_\t_\t_
5-6\tdon't\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No
5\tdo\tx\tAUX\t_\t_\t6\taux\t_\t_
6\tn't\tx\t_\t_\t_\t1\t_\t_\t_
7\t!\tx\tPUNCT\t_\t_\t1\tpunct\t_\t_

"""


def sentence(number: int) -> str:
    a, b = ("dog", "cat") if number % 2 else ("cat", "dog")
    return f"1\t{a}\tx\tNOUN\t_\t_\t2\tnsubj\t_\t_\n2\t{b}\tx\tVERB\t_\t_\t0\troot\t_\t_\n\n"


def write(folder: Path, name: str, content: str) -> str:
    (folder / name).write_text(content, encoding="utf-8")
    return str(folder / name)


@pytest.fixture
def conllu(tmp_path: Path) -> str:
    return write(tmp_path, "x.conllu", CONLLU)


def test_conllu_text_is_that_of_the_surface_tokens(conllu: str) -> None:
    (found,) = read_sentences(Path(conllu), "conllu")
    assert found.text == "Vas-tu du don't!"


def test_words_of_a_multi_word_token_have_their_part_of_it_or_all(conllu: str) -> None:
    (found,) = read_sentences(Path(conllu), "conllu")
    assert [found.text[a:b] for a, b in found.spans] == ["Vas", "-tu", "du", "du", "do", "n't", "!"]


def test_empty_nodes_are_left_out(conllu: str) -> None:
    (found,) = read_sentences(Path(conllu), "conllu")
    assert "ghost" not in found.text
    assert found.labels["upos"] == ("VERB", "PRON", "ADP", "DET", "AUX", "", "PUNCT")


def test_relations_lose_their_subtypes(conllu: str) -> None:
    (found,) = read_sentences(Path(conllu), "conllu")
    assert found.labels["deprel"] == ("root", "nsubj", "case", "det", "aux", "", "punct")


def test_heads_are_told_by_their_distance(conllu: str) -> None:
    (found,) = read_sentences(Path(conllu), "conllu")
    assert found.labels["head_distance"] == ("root", "-1", "+4", "+3", "+1", "-4", "-4")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no sentence"),
        ("\n\n# a comment\n", "no sentence"),
        ("1 dog x NOUN\n", "line 1, has 1 columns"),
        (sentence(0).replace("1\tcat", "one\tcat"), "line 1: 'one' is not the number"),
        (sentence(0).replace("\t2\tnsubj", "\ttwo\tnsubj"), "'two' is not the number"),
        ("3-1\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n", "ends before it starts"),
        ("1\t\tx\tNOUN\t_\t_\t0\troot\t_\t_\n", "has no form"),
    ],
)
def test_broken_conllu_is_refused_with_its_line(tmp_path: Path, content: str, message: str) -> None:
    with pytest.raises(ReadError, match=message):
        read_sentences(Path(write(tmp_path, "b.conllu", content)), "conllu")


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.conllu").write_bytes(b"1\tcaf\xe9\n")
    with pytest.raises(ReadError, match="not UTF-8"):
        load_data(str(tmp_path / "l.conllu"), 100)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="cannot be read"):
        load_data(str(tmp_path / "nope.conllu"), 100)


def test_token_tables_have_an_empty_line_after_each_sentence(tmp_path: Path) -> None:
    path = write(tmp_path, "ner.tsv", "# word\tner\tpos\nAnna\tPER\tN\nslept\tO\tV\n\nShe\tO\t\n")
    first, second = read_sentences(Path(path), "words")
    assert (first.text, first.labels["ner"], second.labels["pos"]) == ("Anna slept", ("PER", "O"), ("",))


def test_text_tables_label_the_whole_text(tmp_path: Path) -> None:
    path = write(tmp_path, "s.csv", '"good, very",pos\nbad,neg\n')
    first, _ = read_sentences(Path(path), "texts")
    assert (first.text, first.spans, first.labels) == ("good, very", ((0, 10),), {"": ("pos",)})


@pytest.mark.parametrize("content", ["good\tpos\nbad\n", "good\n"])
def test_tables_with_a_label_missing_are_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(ReadError, match="line"):
        read_sentences(Path(write(tmp_path, "s.tsv", content)), "texts")


def test_one_file_is_split_the_same_way_each_time(tmp_path: Path) -> None:
    path = write(tmp_path, "t.conllu", "".join(sentence(i) for i in range(40)))
    first, second = load_data(path, 1000), load_data(path, 1000)
    assert first.split == second.split
    assert {part: first.split.count(part) for part in ("train", "dev", "test")} == {"train": 28, "dev": 4, "test": 8}


def test_three_files_are_the_three_splits(tmp_path: Path) -> None:
    paths = [write(tmp_path, f"en-ud-{part}.conllu", sentence(0) + sentence(1)) for part in ("train", "dev", "test")]
    found = load_data(",".join(paths), 1000)
    assert found.name == "en"
    assert found.split == ("train", "train", "dev", "dev", "test", "test")


def test_where_the_files_lie_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    content = "".join(sentence(i) for i in range(9))
    first, second = (load_data(write(folder, "t.conllu", content), 1000) for folder in (tmp_path, tmp_path / "b"))
    assert first.digest == second.digest


def test_labels_that_training_lacks_are_said_and_counted(tmp_path: Path) -> None:
    train, other = sentence(0) + sentence(1), sentence(0).replace("NOUN", "PROPN")
    paths = [write(tmp_path, f"{p}.conllu", text) for p, text in (("a", train), ("b", train), ("c", other))]
    found = load_data(",".join(paths), 1000)
    task = found.tasks["a.upos"]
    assert (task.codes == UNSEEN).sum() == 1
    assert any(reason == "unseen-labels" and "PROPN" in detail for reason, detail in found.notes)


def test_a_task_with_one_class_is_left_out_and_said(tmp_path: Path) -> None:
    path = write(tmp_path, "t.conllu", "".join(sentence(i).replace("VERB", "NOUN") for i in range(9)))
    found = load_data(path, 1000)
    assert list(found.tasks) == ["t.deprel", "t.head_distance"]
    assert any(reason == "one-class" and "'NOUN' only" in detail for reason, detail in found.notes)


def test_data_with_one_class_only_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="the label 'pos' only"):
        load_data("texts:" + write(tmp_path, "s.tsv", "good\tpos\n" * 10), 1000)


def test_too_few_sentences_for_three_splits_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="no text in its"):
        load_data(write(tmp_path, "t.conllu", sentence(0)), 1000)


def test_the_number_of_words_can_be_limited(tmp_path: Path) -> None:
    found = load_data(write(tmp_path, "t.conllu", "".join(sentence(i) for i in range(100))), 40)
    assert found.split.count("train") == 20
    assert found.notes[0][0] == "data-limit"


@pytest.mark.parametrize(
    ("spec", "error"),
    [("nanoo", UnknownNameError), ("", ReadError), ("a.tsv", ReadError), ("words:a.tsv,b.tsv", ReadError)],
)
def test_what_names_no_data_is_refused(spec: str, error: type[PolystabError]) -> None:
    with pytest.raises(error):
        load_data(spec, 10)


def test_nano_has_four_tasks_with_every_class_in_training() -> None:
    tasks = load_data("nano", 1).tasks
    assert list(tasks) == ["nano.pos", "nano.number", "nano.depth", "nano.head_distance"]
    assert all((task.codes != UNSEEN).all() for task in tasks.values())


def test_nano_words_whose_head_is_cut_off_have_no_distance() -> None:
    from polystab.suites.grammar import Token
    from polystab.suites.nano_labels import labelled

    found = labelled([Token("the", "DET", "", 0, 1), Token("dog", "NOUN", "sing", 0, 1)])
    assert found.labels["head_distance"] == ("+1", "")


def test_nano_words_without_a_number_have_no_label() -> None:
    task = load_data("nano", 1).tasks["nano.number"]
    assert task.classes == ("plur", "sing")
    assert 0.5 < np.mean(task.codes == NONE) < 0.9
