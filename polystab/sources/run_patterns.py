"""Patterns of where checkpoints lie, and lists of steps as text."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

from polystab.errors import did_you_mean, shown

FIELDS = ("model", "seed", "step")

# As many steps as one run may list: a range written with a slip of the pen must not fill the memory.
MOST_STEPS = 1_000_000

_NUMBER_FORMAT = re.compile(r"(0?\d{1,2})?d?")
# Shorter stretches are easier to read as plain numbers.
_SHORTEST_RANGE = 4


def pattern_mistakes(pattern: str) -> list[str]:
    """What is wrong with a pattern such as ``runs/{model}-{seed}/step{step}``; empty if nothing is.

    ``{model}``, ``{seed}`` and ``{step}`` are filled in; the two numbers may be padded
    (``{step:06d}``), and literal braces are doubled.
    """
    try:
        parts = _parsed(pattern)
    except ValueError as error:
        return [f"{pattern!r} is not a pattern: {error}; write a literal brace twice"]
    mistakes = []
    for _, field, spec, conversion in parts:
        if field is None:
            continue
        if field not in FIELDS:
            known = did_you_mean(field, FIELDS)
            mistakes.append(f"{pattern!r} holds {{{field}}}. {known}")
        elif conversion or not _NUMBER_FORMAT.fullmatch(spec or "") or (spec and field == "model"):
            mistakes.append(f"{pattern!r} formats {{{field}}} in an unknown way; write {{{field}}}, or {{step:06d}}")
    return mistakes


def has_field(pattern: str, field: str) -> bool:
    """Whether a sound pattern holds ``{field}``."""
    return any(name == field for _, name, _, _ in _parsed(pattern))


def filled(pattern: str, *, model: str, seed: int, step: int) -> str:
    """The pattern with its fields filled in."""
    return pattern.format(model=model, seed=seed, step=step)


def steps_among(pattern: str, names: Iterable[str], *, model: str, seed: int) -> list[int]:
    """The steps, ascending, for which the filled-in pattern is one of ``names``."""
    matcher = re.compile(_as_regex(_for_run(pattern, model, seed)))
    found = set()
    for name in names:
        if (match := matcher.fullmatch(name)) and len(match["step"]) < 19:
            step = int(match["step"])
            # Not every way to write a number is the pattern's: "step007" is no checkpoint of "step{step}".
            if filled(pattern, model=model, seed=seed, step=step) == name:
                found.add(step)
    return sorted(found)


def steps_in_folders(pattern: str, *, model: str, seed: int) -> list[int]:
    """The steps, ascending, for which the filled-in pattern is a folder that exists.

    Raises
    ------
    OSError
        A folder on the way exists and cannot be listed.
    """
    of_run = _for_run(pattern, model, seed)
    parts = Path(of_run).parts
    first = next(number for number, part in enumerate(parts) if has_field(part, "step"))
    parent = Path(filled(str(Path(*parts[:first])), model=model, seed=seed, step=0))
    if not parent.is_dir():
        return []
    candidates = steps_among(parts[first], (entry.name for entry in parent.iterdir()), model=model, seed=seed)
    return [step for step in candidates if Path(filled(of_run, model=model, seed=seed, step=step)).is_dir()]


def parse_steps(text: str) -> tuple[int, ...]:
    """Steps from numbers and inclusive ranges ``start:stop:step``, e.g. ``0 1 2 4 1000:143000:1000``.

    Raises
    ------
    ValueError
        With every mistake: what is neither, negative, repeated, or a range that is empty
        or does not end on its stop.

    Examples
    --------
    >>> parse_steps("0 1 2 1000:4000:1000")
    (0, 1, 2, 1000, 2000, 3000, 4000)
    """
    steps: list[int] = []
    mistakes: list[str] = []
    for part in text.replace(",", " ").split():
        numbers = part.split(":")
        if not all(number.isascii() and number.isdigit() for number in numbers) or len(numbers) > 3 or len(part) > 999:
            mistakes.append(f"{part[:80]!r} is neither a step nor a range start:stop:step")
            continue
        start, stop, width = [*map(int, numbers), *[int(numbers[0]), 1][len(numbers) - 1 :]][:3]
        if len(numbers) > 1 and (width < 1 or stop < start or (stop - start) % width):
            mistakes.append(f"the range {part!r} is empty or does not end on its stop, which is included")
        elif len(steps) + (stop - start) // width >= MOST_STEPS:
            mistakes.append(f"with the range {part!r} there are over {MOST_STEPS} steps")
        elif stop >= 2**63:
            mistakes.append(f"the step {part!r} is too large")
        else:
            steps += range(start, stop + 1, width)
    repeated = [step for step, times in Counter(steps).items() if times > 1]
    if repeated:
        mistakes.append(f"more than once: {shown(sorted(repeated))}")
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return tuple(sorted(steps))


def steps_text(steps: Sequence[int]) -> str:
    """The shortest text that :func:`parse_steps` reads back as ``steps``, which ascend.

    Examples
    --------
    >>> steps_text((0, 1, 2, 4, 1000, 2000, 3000, 4000))
    '0 1 2 4 1000:4000:1000'
    """
    parts: list[str] = []
    at = 0
    while at < len(steps):
        end = at + 1
        while end < len(steps) and steps[end] - steps[end - 1] == steps[at + 1] - steps[at]:
            end += 1
        if end - at >= _SHORTEST_RANGE:
            parts.append(f"{steps[at]}:{steps[end - 1]}:{steps[at + 1] - steps[at]}")
            at = end
        else:
            parts.append(str(steps[at]))
            at += 1
    return " ".join(parts)


@cache
def _parsed(pattern: str) -> tuple[tuple[str, str | None, str | None, str | None], ...]:
    return tuple(string.Formatter().parse(pattern))


def _for_run(pattern: str, model: str, seed: int) -> str:
    """The pattern with only ``{step}`` left to fill in."""
    text = ""
    for literal, field, spec, _ in _parsed(pattern):
        text += _escaped(literal)
        if field == "step":
            text += f"{{step:{spec}}}" if spec else "{step}"
        elif field is not None:
            text += _escaped(format(model if field == "model" else seed, spec or ""))
    return text


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _as_regex(pattern: str) -> str:
    text, number = "", "(?P<step>[0-9]+)"
    for literal, field, _, _ in _parsed(pattern):
        text += re.escape(literal)
        if field is not None:
            text, number = text + number, "[0-9]+"
    return text
