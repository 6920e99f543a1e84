"""Simulate the criteria of change points and write polystab/analysis/segments/table.py.

Takes about half an hour on two idle cores: ``python scripts/make_segment_table.py``.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from polystab.analysis.arrays import Floats
from polystab.analysis.segments.null import LEVELS, TRUE_RHOS, ar1_noise, null_strengths, solved
from polystab.analysis.segments.profile import MIN_SIZES, Model, autocorrelation, most_changes

OUTPUT = Path(__file__).parents[1] / "polystab" / "analysis" / "segments" / "table.py"
LENGTHS = (8, 10, 12, 16, 20, 27, 40, 64, 100, 154, 250)
HEADER = '''"""Critical strengths of changes, simulated; written by scripts/make_segment_table.py.

``TABLE[cost]`` holds lengths, the residual autocorrelations at which the criteria stand,
(lengths, knots), and the criteria, (lengths, levels, knots).
"""

from __future__ import annotations

import numpy as np

from polystab.analysis.arrays import Floats, Ints

TABLE: dict[str, tuple[Ints, Floats, Floats]] = {}
'''


def grids(kind: str, n: int) -> list[Floats]:
    """Evenly spaced points; where positions matter also steps that double first, and their logarithm."""
    even = np.arange(n, dtype=np.float64)
    if kind in ("l2", "meanvar"):
        return [even]
    early = np.append(0.0, 2.0 ** np.arange(min(10, n // 3)))
    steps = np.append(early, early[-1] * 2 * np.arange(1, n - len(early) + 1))
    return [even, steps, np.log2(steps + 1)]


def criteria(kind: str, n: int) -> tuple[Floats, Floats]:
    """Knots and criteria of one cost and length, from series on all grids together."""
    n_series = 4000 if n < 200 else 1500
    models = [Model(kind, x / x[-1], MIN_SIZES[kind]) for x in grids(kind, n)]
    strengths, estimates = [], []
    for i, rho in enumerate(TRUE_RHOS):
        rng = np.random.default_rng([n, i])
        noise = [(m, ar1_noise(float(rho), n_series // len(models), n, rng)) for m in models]
        most = min(4 if n < 200 else 3, most_changes(kind, n))
        strengths.append(np.concatenate([null_strengths(m, y, most) for m, y in noise]))
        estimates.append(np.concatenate([autocorrelation(m, y) for m, y in noise]))
    null = solved(np.array(strengths), np.array(estimates))
    return null.knots, null.critical


def written(name: str, values: Floats | tuple[int, ...], digits: int) -> str:
    """An array as Python text in lines of limited length."""
    numbers = [f"{v:.{digits}f}" for v in np.ravel(values)]
    lines = [", ".join(numbers[i : i + 16]) for i in range(0, len(numbers), 16)]
    return f"{name} = np.array([\n" + "".join(f"    {line},\n" for line in lines) + "])"


def table_text(found: dict[tuple[str, int], tuple[Floats, Floats]]) -> str:
    """The module, out of the criteria of every cost and length."""
    text = HEADER
    for kind in MIN_SIZES:
        lengths = tuple(n for n in LENGTHS if (kind, n) in found)
        knots = np.array([found[kind, n][0] for n in lengths])
        critical = np.array([found[kind, n][1] for n in lengths])
        text += f"\n# fmt: off\n{written('_lengths', lengths, 0)}\n{written('_knots', knots, 3)}\n"
        text += f"{written('_critical', critical, 2)}\n# fmt: on\n"
        text += f'TABLE["{kind}"] = (_lengths.astype(np.int64), _knots.reshape(-1, {len(TRUE_RHOS)}), '
        text += f"_critical.reshape(-1, {len(LEVELS)}, {len(TRUE_RHOS)}))\n"
    return text


def main() -> None:
    """All costs and lengths, the longest first."""
    jobs = [(k, n) for n in sorted(LENGTHS, reverse=True) for k in MIN_SIZES if most_changes(k, n)]
    with ProcessPoolExecutor(2) as pool:
        found = dict(zip(jobs, pool.map(criteria, *zip(*jobs, strict=True)), strict=True))
    OUTPUT.write_text(table_text(found))


if __name__ == "__main__":
    main()
