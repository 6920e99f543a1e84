"""What a model answered to one test item, as a row of the harness's samples has it."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from polystab.errors import RefusedFileError, shown

# Hexadecimal digits kept of a document's SHA-256: among a million documents two agree with probability 3e-8.
HASH_DIGITS = 16

UNKNOWN = -1

# Measures that say whether an answer was right, in order of preference; then any that is 0 or 1.
_VERDICTS = ("acc", "exact_match", "em")

_NEEDED = ("doc_hash", "filter", "filtered_resps", "metrics")


class Answer(NamedTuple):
    """One answer. ``options`` is 0 where the item offers none, ``right`` are the indices of correct options."""

    choice: int
    correct: int
    margin: float
    options: int
    right: tuple[int, ...]


@dataclass
class TaskItems:
    """The answers to the documents of one task, in the harness's order."""

    task: str
    filter: str
    hashes: list[str] = field(default_factory=list)
    choice: array[int] = field(default_factory=lambda: array("h"))
    correct: array[int] = field(default_factory=lambda: array("b"))
    margin: array[float] = field(default_factory=lambda: array("f"))
    chances: list[float] = field(default_factory=list)

    def add(self, row: Mapping[str, Any]) -> None:
        """Append the answer that a row of samples holds."""
        answer = answer_of(row)
        self.hashes.append(str(row["doc_hash"])[:HASH_DIGITS])
        self.choice.append(answer.choice)
        self.correct.append(answer.correct)
        self.margin.append(answer.margin)
        self.chances.append(1 / answer.options if answer.options and len(answer.right) == 1 else math.nan)

    @property
    def chance(self) -> float:
        """Accuracy from guessing where every item has as many options, one of them correct; else NaN."""
        first = self.chances[0] if self.chances else math.nan
        return first if all(chance == first for chance in self.chances) else math.nan

    @property
    def labels(self) -> list[str]:
        """``task/hash``, with ``#2`` for the second of two equal documents."""
        met: Counter[str] = Counter()
        labels = []
        for digits in self.hashes:
            met[digits] += 1
            labels.append(f"{self.task}/{digits}" + (f"#{met[digits]}" if met[digits] > 1 else ""))
        return labels


def task_items(task: str, rows: Iterable[Mapping[str, Any]]) -> TaskItems:
    """The answers among the samples of one task.

    Parameters
    ----------
    rows : iterable of mapping
        Samples as ``lm_eval.evaluate`` returns them or as its files hold them: one
        for each document and filter. Of several filters ``none`` is kept, else the
        first.

    Raises
    ------
    RefusedFileError
        ``missing-keys``, ``duplicate-rows`` (one document twice under one filter) or
        ``empty``.
    """
    found: dict[str, TaskItems] = {}
    met: set[tuple[str, object]] = set()
    for number, row in enumerate(rows, 1):
        missing = [key for key in _NEEDED if key not in row]
        if missing:
            raise RefusedFileError(
                "missing-keys", f"row {number} has no {shown(missing)}: no sample of the harness 0.4."
            )
        # A number for each document, or text; anything else could not be compared with those of other rows.
        if not isinstance(row["metrics"], (list, tuple)) or not isinstance(row.get("doc_id"), (int, str, NoneType)):
            raise RefusedFileError("missing-keys", f"row {number} has metrics or a doc_id of a kind that is unknown.")
        chosen = str(row["filter"])
        if (same := (chosen, row.get("doc_id", number))) in met:
            raise RefusedFileError(
                "duplicate-rows", f"row {number} is document {same[1]} again: two evaluations wrote into one file."
            )
        met.add(same)
        found.setdefault(chosen, TaskItems(task, chosen)).add(row)
    if not found:
        raise RefusedFileError("empty", "no sample in it.")
    return found["none"] if "none" in found else next(iter(found.values()))


def answer_of(row: Mapping[str, Any]) -> Answer:
    """The answer that one row of samples holds, numbers or texts of numbers alike.

    A log-likelihood that is not a number leaves all of it unknown.
    """
    verdict = _verdict(row)
    scored = _log_likelihoods(row["filtered_resps"])
    if scored is None:  # generated text, or the log-likelihood of a whole document
        return Answer(UNKNOWN, verdict, math.nan, 0, ())
    likelihoods, greedy = scored
    if any(math.isnan(number) for number in likelihoods):
        return Answer(UNKNOWN, UNKNOWN, math.nan, len(likelihoods), ())
    if len(likelihoods) == 1:
        return Answer(UNKNOWN, verdict if verdict != UNKNOWN else int(greedy[0]), math.nan, 0, ())
    if "acc_mutual_info" in row["metrics"] and len(likelihoods) % 2 == 0:
        likelihoods = likelihoods[: len(likelihoods) // 2]  # the rest are of the options without the question
    # The first of equal ones, as numpy's argmax has it, and with it the harness.
    choice = max(range(len(likelihoods)), key=likelihoods.__getitem__)
    right = _right_options(row, len(likelihoods), choice, verdict)
    if verdict == UNKNOWN and right:
        verdict = int(choice in right)
    return Answer(choice, verdict, _margin(likelihoods, right), len(likelihoods), right)


def _margin(likelihoods: Sequence[float], right: Sequence[int]) -> float:
    wrong = [value for i, value in enumerate(likelihoods) if i not in right]
    if not right or not wrong:
        return math.nan
    return max(likelihoods[i] for i in right) - max(wrong)


def _verdict(row: Mapping[str, Any]) -> int:
    """1 or 0 where a measure of the row says so, else -1."""
    for measure in (*_VERDICTS, *row["metrics"]):
        value = row.get(str(measure))
        # Numpy's numbers compare as Python's do; a list of numbers would not.
        if isinstance(value, (bool, int, float, np.generic)) and value in (0, 1):
            return int(value)
    return UNKNOWN


def _log_likelihoods(answers: object) -> tuple[list[float], list[bool]] | None:
    """(log-likelihood, is greedy) of each option; None for anything else."""
    likelihoods, greedy = [], []
    for answer in answers if isinstance(answers, (list, tuple)) else ():
        if not isinstance(answer, (list, tuple)) or len(answer) != 2 or str(answer[1]) not in ("True", "False"):
            return None
        try:
            likelihoods.append(float(answer[0]))
        except (TypeError, ValueError):
            return None
        greedy.append(str(answer[1]) == "True")
    return (likelihoods, greedy) if likelihoods else None


def _right_options(row: Mapping[str, Any], options: int, choice: int, verdict: int) -> tuple[int, ...]:
    """Indices of the correct options; none where the row does not say.

    A target is an index or the text of an option, and a file holds both as text. What
    contradicts the harness's own verdict is not believed.
    """
    for right in (_as_indices(row.get("target"), options), _as_texts(row)):
        if right and (verdict == UNKNOWN or (choice in right) == bool(verdict)):
            return right
    if verdict == 1:
        return (choice,)
    return (1 - choice,) if verdict == 0 and options == 2 else ()


def _as_indices(target: object, options: int) -> tuple[int, ...]:
    if isinstance(target, str):
        target = target.strip("[]").split(",") if target.startswith("[") else [target]
    listed = target if isinstance(target, (list, tuple)) else [target]
    try:
        indices = tuple(int(str(index)) for index in listed)
    except ValueError:
        return ()
    return indices if all(0 <= index < options for index in indices) else ()


def _as_texts(row: Mapping[str, Any]) -> tuple[int, ...]:
    """Options whose text is the target."""
    target, given = row.get("target"), row.get("arguments")
    pairs = list(given.values()) if isinstance(given, Mapping) else given
    if not isinstance(target, str) or not isinstance(pairs, (list, tuple)):
        return ()
    pairs = [list(pair.values()) if isinstance(pair, Mapping) else pair for pair in pairs]
    texts = [str(pair[1]).strip() if isinstance(pair, (list, tuple)) and len(pair) > 1 else None for pair in pairs]
    return tuple(i for i, text in enumerate(texts) if text == target.strip()) if len({*texts}) == len(texts) else ()
