"""Files of labelled texts: CoNLL-U, one word and its labels on a line, one text and its label on a line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from polystab.errors import ReadError, did_you_mean

# Heads farther away than this share a class with it; the sign says on which side.
FARTHEST = 4

# Digits of the number of a word. Python refuses to read thousands of them.
_LONGEST_NUMBER = 18

Lines = list[tuple[int, str]]


@dataclass(frozen=True)
class Sentence:
    """A text, the places in it that have labels (from and to which character), and these by task."""

    text: str
    spans: tuple[tuple[int, int], ...]
    labels: Mapping[str, tuple[str, ...]]


def read_sentences(path: Path, kind: str) -> list[Sentence]:
    """The labelled texts of a file.

    Parameters
    ----------
    path : path
        UTF-8 text.
    kind : str
        ``conllu``: any CoNLL-U file; gives the tasks ``upos``, ``deprel`` (without
        subtypes) and ``head_distance``. The text is that of the surface tokens, with
        ``SpaceAfter=No`` obeyed; the words of a multi-word token have their own part of it
        where they add up to it, else all of it. Empty nodes have no text and are left out.

        ``words``: columns with tabs between them, a word and one label or more, an empty
        line after each sentence; ``texts``: a text and one label or more. Where a first
        line is ``# word<TAB>name ...`` or ``# text<TAB>name ...``, it names the tasks.

    Raises
    ------
    ReadError
        The file is missing, empty, or broken; the line is said.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ReadError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ReadError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8.") from error
    if kind not in READERS:
        raise ReadError(f"no labelled files are of the kind {kind!r}. {did_you_mean(kind, READERS)}")
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(content.split("\n"), 1)]
    found = list(READERS[kind](path, lines))
    if not found:
        raise ReadError(f"{path} holds no sentence; is it empty, or not of the kind {kind!r}?")
    return found


def _blocks(lines: Lines) -> Iterator[Lines]:
    """Lines between empty ones."""
    block: Lines = []
    for number, line in lines:
        if line.strip():
            block.append((number, line))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _conllu(path: Path, lines: Lines) -> Iterator[Sentence]:
    for block in _blocks(lines):
        rows = [(number, line.split("\t")) for number, line in block if not line.startswith("#")]
        for number, row in rows:
            if len(row) != 10:
                raise ReadError(
                    f"{path}, line {number}, has {len(row)} columns; CoNLL-U has 10 with tabs between them."
                )
        if rows:
            yield _conllu_sentence(path, rows)


def _conllu_sentence(path: Path, rows: list[tuple[int, list[str]]]) -> Sentence:
    text = ""
    spans: dict[int, tuple[int, int]] = {}
    words: list[tuple[int, list[str]]] = []
    inside, start, whole = 0, 0, ""  # last word of the multi-word token at hand, where it starts, its form
    for number, row in rows:
        name, form, space = row[0], row[1], "" if "SpaceAfter=No" in row[9].split("|") else " "
        if "." in name:
            continue
        if "-" in name:
            first, last = (_number(path, number, part) for part in name.split("-", 1))
            if last < first:
                raise ReadError(f"{path}, line {number}: the multi-word token {name} ends before it starts.")
            inside, start, whole = last, len(text), form
            text += form + space
            continue
        word = _number(path, number, name)
        words.append((number, row))
        if word > inside:
            spans[word] = (len(text), len(text) + len(form))
            text += form + space
        elif whole.startswith(form):  # do + n't = don't
            spans[word] = (start, start + len(form))
            start, whole = start + len(form), whole[len(form) :]
        else:  # de + le = du
            spans[word], whole = (start, start + len(whole)), whole
        if spans[word][0] == spans[word][1]:
            raise ReadError(f"{path}, line {number}: word {name} has no form.")
    labels = {
        "upos": tuple("" if row[3] == "_" else row[3] for _, row in words),
        "deprel": tuple("" if row[7] == "_" else row[7].split(":")[0] for _, row in words),
        "head_distance": tuple(_distance(path, number, row) for number, row in words),
    }
    return Sentence(text.rstrip(), tuple(spans[int(row[0])] for _, row in words), labels)


def _distance(path: Path, number: int, row: list[str]) -> str:
    if row[6] == "_":
        return ""
    head = _number(path, number, row[6])
    return head_distance(head - int(row[0])) if head else "root"


def head_distance(offset: int) -> str:
    """The class of a head that stands ``offset`` words to the right: ``+1``, ``-3``, ``+4`` for 4 and more.

    Examples
    --------
    >>> head_distance(1), head_distance(-9)
    ('+1', '-4')
    """
    return f"{max(-FARTHEST, min(FARTHEST, offset)):+d}"


def _number(path: Path, line: int, text: str) -> int:
    if not text.isdecimal() or len(text) > _LONGEST_NUMBER:
        raise ReadError(f"{path}, line {line}: {text[:40]!r} is not the number of a word.")
    return int(text)


def _words(path: Path, lines: Lines) -> Iterator[Sentence]:
    names, lines = _header(lines, "word")
    for block in _blocks(lines):
        rows = [(number, line.split("\t")) for number, line in block]
        names = names or _task_names(len(rows[0][1]) - 1)
        for number, row in rows:
            _require_columns(path, number, row, names)
        yield words_sentence(
            [row[0] for _, row in rows],
            {name: [row[1 + i].strip() for _, row in rows] for i, name in enumerate(names)},
        )


def words_sentence(words: list[str], labels: Mapping[str, list[str]]) -> Sentence:
    """A sentence of words with spaces between them.

    Examples
    --------
    >>> words_sentence(["a", "dog"], {"pos": ["DET", "NOUN"]}).spans
    ((0, 1), (2, 5))
    """
    spans, place = [], 0
    for word in words:
        spans.append((place, place + len(word)))
        place += len(word) + 1
    return Sentence(" ".join(words), tuple(spans), {name: tuple(column) for name, column in labels.items()})


def _texts(path: Path, lines: Lines) -> Iterator[Sentence]:
    names, lines = _header(lines, "text")
    comma = path.suffix.lower() == ".csv"
    for number, line in lines:
        if not line.strip():
            continue
        row = _cells(path, number, line) if comma else line.split("\t")
        names = names or _task_names(len(row) - 1)
        _require_columns(path, number, row, names)
        text = row[0].strip()
        if text:
            labels = {name: (row[1 + i].strip(),) for i, name in enumerate(names)}
            yield Sentence(text, ((0, len(text)),), labels)


def _cells(path: Path, number: int, line: str) -> list[str]:
    try:
        return next(csv.reader([line]))
    except csv.Error as error:
        raise ReadError(f"{path}, line {number}, is not CSV: {error}.") from error


def _header(lines: Lines, first: str) -> tuple[list[str], Lines]:
    """Names of the tasks, if the first line is ``# word<TAB>name ...``, and the lines without it."""
    if lines and lines[0][1].startswith("#"):
        row = [name.strip() for name in lines[0][1][1:].split("\t")]
        if row[0] == first and len(row) > 1 and all(row):
            return [name.replace("/", "_") for name in row[1:]], lines[1:]
    return [], lines


def _task_names(n: int) -> list[str]:
    """Names where the file gives none: none is needed for a single column of labels."""
    return [""] if n == 1 else [f"label{i + 1}" for i in range(n)]


def _require_columns(path: Path, number: int, row: list[str], names: list[str]) -> None:
    if not names:
        raise ReadError(f"{path}, line {number}, has no label: write it after a tab (or a comma in a .csv file).")
    if len(row) != 1 + len(names):
        raise ReadError(f"{path}, line {number}, has {len(row)} columns, the lines before have {1 + len(names)}.")


READERS: Mapping[str, Callable[[Path, Lines], Iterator[Sentence]]] = {
    "conllu": _conllu,
    "words": _words,
    "texts": _texts,
}
