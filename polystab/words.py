"""Numbers, steps and names as text, the same in pictures, pages, tables and sentences."""

from __future__ import annotations

import math
from collections.abc import Sequence

# Longer names are cut in pictures; tables and texts have them whole.
NAME_LENGTH = 40

# What stands where there is no number.
NONE = "–"

SPACE = "\N{NO-BREAK SPACE}"
MINUS = "\N{MINUS SIGN}"


def count(number: float) -> str:
    """``12345`` -> ``12,345``."""
    return f"{int(number):,}"


def plural(number: float, noun: str, many: str = "") -> str:
    """``1 run``, ``2 runs``."""
    return f"{count(number)} {noun if number == 1 else many or noun + 's'}"


def number(value: float | None, *, digits: int = 4, decimals: int | None = None) -> str:
    """A value with so many significant digits, or decimals; empty for None and NaN.

    Very large and very small values are written like ``1.3e-6``.
    """
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if value == 0:
        return "0"
    size = math.floor(math.log10(abs(value)))
    if not -4 <= size < 7:
        places = max(digits - 1, 0) if decimals is None else min(digits - 1, 1)
        mantissa, exponent = f"{value:.{places}e}".split("e")
        return f"{_trimmed(mantissa)}e{int(exponent)}".replace("-", MINUS)
    places = max(digits - 1 - size, 0) if decimals is None else decimals
    text = f"{value:,.{places}f}"
    return text.replace("-", MINUS)


def decimals_for(spread: float | None, *, digits: int = 2) -> int | None:
    """Decimals with which a spread shows two significant digits; None if it has no size."""
    if spread is None or math.isnan(spread) or math.isinf(spread) or spread <= 0:
        return None
    return min(max(digits - 1 - math.floor(math.log10(spread)), 0), 10)


def percent(share: float | None) -> str:
    """``0.123`` -> ``12 %``; never 0 % for something, nor 100 % for not everything."""
    if share is None or math.isnan(share):
        return ""
    if share == 0 or share == 1:
        text = f"{100 * share:.0f}"
    elif share < 0.001:
        text = "<" + SPACE + "0.1"
    elif share > 0.999:
        text = ">" + SPACE + "99.9"
    else:
        text = f"{100 * share:.{1 if share < 0.1 or share > 0.99 else 0}f}"
    return f"{text}{SPACE}%"


def step_label(step: float) -> str:
    """A step on an axis: ``512``, ``4k``, ``1.5k``, ``1,620``, ``143k``, ``2M``."""
    if step >= 1e12:
        return f"{step:.0e}".replace("+", "")
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if step >= size:
            scaled = step / size
            if unit == "k" and scaled < 10 and scaled != round(scaled, 1):
                return f"{step:,.0f}"
            return f"{scaled:.3g}{unit}"
    return f"{step:.6g}"


def short_name(name: str, length: int = NAME_LENGTH) -> str:
    """A name on one line of a picture: control characters gone, its middle cut if it is long."""
    plain = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name)
    if len(plain) <= length:
        return plain
    head = (length - 1) // 2
    return f"{plain[:head]}…{plain[-(length - 1 - head) :]}"


def ranges(numbers: Sequence[int]) -> str:
    """``0, 1, 2, 5`` -> ``0–2, 5``; at most eight pieces, then a count."""
    pieces: list[list[int]] = []
    for number in numbers:
        if pieces and number == pieces[-1][1] + 1:
            pieces[-1][1] = number
        else:
            pieces.append([number, number])
    texts = [str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a}–{b}" for a, b in pieces]
    return ", ".join(texts[:8]) + (f" and {len(texts) - 8} more" if len(texts) > 8 else "")


def listed(names: list[str], limit: int = 5) -> str:
    """``a, b and c``, or ``a, b, c, d, e and 12 more``."""
    if len(names) > limit:
        return f"{', '.join(names[:limit])} and {count(len(names) - limit)} more"
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _trimmed(mantissa: str) -> str:
    return mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
