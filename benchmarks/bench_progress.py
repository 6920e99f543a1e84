"""What it costs a loop to go through `tracked`: where nothing is shown, beside the bare loop; with a bar, beside tqdm's."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterable
from contextlib import redirect_stderr

from harness import print_ratio
from tqdm import tqdm

from polystab.progress_bars import progress, tracked

ITEMS = 1_000_000
ROUNDS = 15


def seconds(items: Iterable[int]) -> float:
    start = time.perf_counter()
    for _ in items:
        pass
    return time.perf_counter() - start


def compare_quiet() -> None:
    bare, ours = [], []
    progress(False)
    for _ in range(ROUNDS):
        bare.append(seconds(range(ITEMS)))
        ours.append(seconds(tracked(range(ITEMS), "loop")))
    print_ratio(
        f"a loop over {ITEMS:,} items, nothing shown", bare, ours, wanted="1 or so", names=("bare loop", "tracked")
    )


def compare_shown() -> None:
    theirs, ours = [], []
    progress(True)
    for _ in range(ROUNDS):
        with redirect_stderr(io.StringIO()):
            theirs.append(seconds(tqdm(range(ITEMS), file=sys.stderr)))
            ours.append(seconds(tracked(range(ITEMS), "loop")))
    print_ratio(
        f"a loop over {ITEMS:,} items with a bar", theirs, ours, wanted="0.5 or more", names=("tqdm", "tracked")
    )
    progress(None)


if __name__ == "__main__":
    compare_quiet()
    compare_shown()
