"""Every error polystab raises on purpose, and how labels are shown in them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from polystab.redaction import without_secrets

SHOWN_LABELS = 5


class PolystabError(Exception):
    """Base of all errors that polystab raises on purpose.

    Their texts repeat what was given, so that secrets are removed from them: a traceback may end up in any log.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(without_secrets(arg) if isinstance(arg, str) else arg for arg in args))


@dataclass(frozen=True)
class Violation:
    """One way in which a dataset is not a cube.

    Attributes
    ----------
    code : str
        Short and stable, e.g. ``duplicate-labels``.
    place : str
        Dimension, variable, coordinate or attribute.
    message : str
        What is wrong, with at most five labels.
    fix : str
        What to do about it.
    """

    code: str
    place: str
    message: str
    fix: str

    def __str__(self) -> str:
        return f"[{self.code}] {self.place}: {self.message} Fix: {self.fix}"


class InvalidCubeError(PolystabError):
    """A dataset breaks the rules of the cube; ``violations`` lists every one of them."""

    def __init__(self, message: str, violations: Sequence[Violation] = ()) -> None:
        super().__init__(message)
        self.violations = tuple(violations)


class NotACubeError(PolystabError):
    """A file cannot be opened as a cube: missing, damaged, or something else."""


class NewerSchemaError(NotACubeError):
    """A cube was written by a newer polystab than this one."""


class CubeTooLargeError(PolystabError):
    """A cube would need more cells than is sensible to allocate."""


class ConflictError(PolystabError):
    """Two different values claim the same cell and no rule was chosen."""


class RecordsError(PolystabError):
    """A table of records cannot become a cube."""


class SelectionError(PolystabError):
    """Nothing in the cube matches what was asked for."""


class UnknownNameError(PolystabError):
    """A cube, source or option name that does not exist."""


class ReadError(PolystabError):
    """An input as a whole cannot be read (a single bad file is refused in the audit instead)."""


class ReasonedError(ReadError):
    """One input cannot be used: ``reason`` is a short, stable code for the audit, ``detail`` the message."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        # Both arguments, so that it passes between processes.
        return type(self), (self.reason, self.detail), self.__dict__


class RefusedFileError(ReasonedError):
    """One file cannot be used."""

    def __init__(self, reason: str, detail: str, *, sha256: str = "") -> None:
        super().__init__(reason, detail)
        self.sha256 = sha256


class OutputError(PolystabError):
    """A result cannot be written; whatever stood at the path before is untouched."""


class RecipeError(PolystabError):
    """A synthetic cube was asked for that cannot be made."""


class AnalysisError(PolystabError):
    """A statistic was asked for that the data or the arguments do not allow."""


def shown(labels: Iterable[object], limit: int = SHOWN_LABELS, *, total: int | None = None) -> str:
    """``'a', 'b', 'c' and 12 more``: at most ``limit`` labels, then a count.

    ``total`` is how many there are, where ``labels`` are only the first of them.
    """
    listed = list(labels)
    text = ", ".join(repr(label) for label in listed[:limit])
    hidden = (len(listed) if total is None else total) - min(limit, len(listed))
    return f"{text} and {hidden} more" if hidden > 0 else text


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that names close matches, or else what is known."""
    options = sorted(known)
    close = difflib.get_close_matches(name, options, n=3, cutoff=0.5)
    if close:
        return f"Did you mean {shown(close)}?"
    return f"Known: {shown(options, 12)}." if options else "None is known."


def printable(text: str) -> str:
    """A text from data for a terminal: line breaks and tabs stay, what could steer it is replaced."""
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in text
    )
