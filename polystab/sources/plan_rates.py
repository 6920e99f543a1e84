"""What a checkpoint takes by source and size, as ``benchmarks/bench_plan.py`` measured it, and how large tasks are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

MACHINE = "one core of an x86-64 server of 2026, one thread, float32, no accelerator"


class Rate(NamedTuple):
    """One measurement: a model of so many parameters, seconds of processor time, and bytes of the unit."""

    parameters: int
    seconds: float
    unit_bytes: int


class Task(NamedTuple):
    """Documents of a task, endings that are scored for each, and tokens of a request with its context."""

    documents: int
    endings: int
    tokens: float


# Random weights in the shapes of Pythia, with the sources' default options (probes: data=nano). Of evals the seconds
# are those of one token, its context's counted.
RATES: dict[str, tuple[Rate, ...]] = {
    "weights": (
        Rate(14_067_712, 1.71, 6_842),
        Rate(30_494_720, 2.56, 6_803),
        Rate(70_426_624, 5.85, 6_827),
        Rate(162_322_944, 13.2, 11_621),
        Rate(405_334_016, 31.8, 21_221),
    ),
    "activations": (
        Rate(14_067_712, 3.23, 5_116),
        Rate(30_494_720, 5.56, 5_124),
        Rate(70_426_624, 11.6, 5_122),
        Rate(162_322_944, 28.5, 7_062),
    ),
    "directions": (
        Rate(14_067_712, 1.28, 62_641),
        Rate(30_494_720, 2.76, 101_491),
        Rate(70_426_624, 4.54, 101_933),
        Rate(162_322_944, 16.5, 272_168),
    ),
    "embedding": (
        Rate(14_067_712, 0.0379, 98_508),
        Rate(30_494_720, 0.0361, 95_459),
        Rate(70_426_624, 0.0366, 92_130),
        Rate(162_322_944, 0.0371, 90_314),
        Rate(405_334_016, 0.037, 88_933),
    ),
    "probes": (
        Rate(14_067_712, 4.55, 64_675),
        Rate(30_494_720, 8.32, 120_885),
        Rate(70_426_624, 16.4, 227_404),
        Rate(162_322_944, 48.9, 616_740),
    ),
    "evals": (
        Rate(14_067_712, 0.000312, 5_742),
        Rate(30_494_720, 0.000578, 5_742),
        Rate(70_426_624, 0.00127, 5_742),
        Rate(162_322_944, 0.00336, 5_742),
        Rate(405_334_016, 0.00918, 5_742),
    ),
}

# Bytes of a unit of evals, beside what each document takes.
EVALS_BASE, EVALS_DOCUMENT = 4_500, 26

# Documents follow from the scores and standard errors of the released Pythia evaluations: p (1 - p) / se^2 + 1. The
# tokens of a request are rough (a third more or less).
TASKS = {
    "arc_challenge": Task(1172, 4, 38),
    "arc_easy": Task(2376, 4, 33),
    "crows_pairs_english": Task(1677, 2, 20),
    "lambada_openai": Task(5153, 1, 85),
    "logiqa": Task(651, 4, 190),
    "piqa": Task(1838, 2, 45),
    "sciq": Task(1000, 4, 125),
    "winogrande": Task(1267, 2, 27),
    "wsc": Task(104, 2, 60),
}
# What a task is taken for that is not in the table.
UNKNOWN_TASK = Task(1000, 4, 60)
# Minimal pairs of short sentences, a thousand in each task.
BLIMP_TASK = Task(1000, 2, 11)


def task_size(name: str) -> Task | None:
    """The size of a task of the lm-evaluation-harness; None where it is not known."""
    if name.startswith("blimp_"):
        return BLIMP_TASK
    return TASKS.get(name)


def seconds_of_checkpoint(source: str, parameters: float, *, tokens: float = 0.0) -> float | None:
    """Seconds that a source takes for one checkpoint on :data:`MACHINE`.

    Parameters
    ----------
    source : str
        A name of :data:`RATES`; None is returned for others.
    parameters : float
        Of the model. Between two sizes that were measured, and beyond them, the logarithm of the time is
        linear in that of the size.
    tokens : float, optional
        For ``evals``: tokens of all requests.
    """
    rates = RATES.get(source)
    if rates is None:
        return None
    each = _between([(rate.parameters, rate.seconds) for rate in rates], parameters)
    return each * tokens if source == "evals" else each


def bytes_of_unit(source: str, parameters: float, *, documents: float = 0.0) -> float | None:
    """Bytes of the file that a source writes for one checkpoint; None where it is not known."""
    rates = RATES.get(source)
    if rates is None:
        return None
    if source == "evals":
        return EVALS_BASE + EVALS_DOCUMENT * documents
    return _between([(rate.parameters, float(rate.unit_bytes)) for rate in rates], parameters)


def _between(points: Sequence[tuple[int, float]], size: float) -> float:
    """Linear between the logarithms of the two nearest points; beyond the ends as between the last two."""
    above = next((i for i, (at, _) in enumerate(points) if at >= size), len(points) - 1)
    i = min(max(above, 1), len(points) - 1)
    (x0, y0), (x1, y1) = points[i - 1], points[i]
    slope = math.log(y1 / y0) / math.log(x1 / x0)
    return y0 * math.exp(slope * math.log(size / x0))
