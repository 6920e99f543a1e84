"""From the names of runs to seeds."""

from __future__ import annotations

import re
from collections.abc import Sequence

from polystab.cube.labels import natural_order

# Python refuses to read numbers of thousands of digits, so that none is looked for.
_SEED = re.compile(r"seed[-_=]?(\d{1,999})(?!\d)", re.I)
_INTEGER = re.compile(r"[+-]?\d{1,999}(\.0+)?", re.ASCII)


def seed_in(text: str) -> int | None:
    """The seed that a name states; None if it states none, or several.

    Examples
    --------
    >>> seed_in("tiny-seed3/log.csv"), seed_in("Seed_12"), seed_in("seed1-seed2"), seed_in("run3")
    (3, 12, None, None)
    """
    found = {int(number) for number in _SEED.findall(text)}
    seed = found.pop() if len(found) == 1 else None
    return seed if seed is None or seed < 2**63 else None


def number_runs(labels: Sequence[str]) -> tuple[list[int], bool]:
    """Seeds for the run labels of one model, and whether the labels themselves are to be kept.

    Integers are used as they are; labels that each state another seed (``tiny-seed3``)
    give those seeds; anything else is numbered from 0 in natural order.

    Examples
    --------
    >>> number_runs(["7", "3"]), number_runs(["a-seed1", "a-seed4"]), number_runs(["run10", "run9"])
    (([7, 3], False), ([1, 4], True), ([1, 0], True))
    """
    for read, named in ((_integer, False), (seed_in, True)):
        seeds = [seed for seed in map(read, labels) if seed is not None]
        if len(set(seeds)) == len(labels):
            return seeds, named
    order = sorted(labels, key=lambda label: (natural_order(label), label))
    place = {label: number for number, label in enumerate(order)}
    return [place[label] for label in labels], True


def _integer(label: str) -> int | None:
    if not _INTEGER.fullmatch(label):
        return None
    number = int(label.partition(".")[0])
    return number if abs(number) < 2**63 else None
