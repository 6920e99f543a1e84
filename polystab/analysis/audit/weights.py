"""Whether the weights of a run descend from each other: verdicts on a lineage.

The numbers come from :func:`polystab.sources.lineage.weight_lineage`; here they are judged.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.arrays import Bools, Floats
from polystab.analysis.audit.findings import Finding, listed_steps
from polystab.errors import AnalysisError, shown

# Correlations that differ by less than this are not told apart.
TOLERANCE = 0.02
# Weights that correlate less than this with all that came before, between pairs of neighbours that
# correlate more than that, come from another run.
UNRELATED, RELATED = 0.2, 0.6
# A change of the weights may be so many times what the learning rate explains: the first updates
# of Adam are one learning rate in size, later ones may be a few.
ROOM = 10.0
# Without a learning rate: over so few updates no weights can be replaced by half.
FEW_UPDATES, HALF = 10, 0.5

_VARIABLES = ("correlation", "content", "relative_change", "allowed_change", "tokenizer", "half_precision")


def lineage_findings(lineage: xr.Dataset) -> list[Finding]:
    """Findings on checkpoints that do not continue their predecessor.

    Parameters
    ----------
    lineage : xarray.Dataset
        From :func:`polystab.sources.lineage.weight_lineage`.

    Returns
    -------
    list of Finding
        ``steps`` are positions along the lineage's ``step``.

    Raises
    ------
    AnalysisError
        A variable is missing.

    Notes
    -----
    A checkpoint continues its predecessor if, of all that come before it, that one is the
    closest to it, by the correlation of the weights element by element. If an earlier one is
    closer by more than 0.02, the run was started anew (*weights-restart*); where only the
    predecessor is out of line, it is that which is in doubt (*weights-order*). If no earlier
    one is close to it (0.2) although neighbours before and after are (0.6), it is of another
    run (*weights-splice*).

    The first updates can move a weight by about the sum of their learning rates, so
    ``||W1 - W0|| / ||W0||`` is at most about that sum over the root mean square of ``W0``.
    Ten times as much is *weights-jump*: ``W0`` is not where this run began.

    References
    ----------
    Kingma, D. P. and Ba, J. (2015). Adam: a method for stochastic optimization. ICLR.
    https://arxiv.org/abs/1412.6980 (section 2.1: the size of a step is bounded by about the
    learning rate).
    """
    if missing := [name for name in _VARIABLES if name not in lineage]:
        raise AnalysisError(f"the lineage has no {shown(missing)}: make it with weight_lineage.")
    steps = np.asarray(lineage["step"].values)
    found: list[Finding] = []
    for m, model in enumerate(lineage["model"].values.tolist()):
        for s, seed in enumerate(lineage["seed"].values.tolist()):
            run = lineage.isel(model=m, seed=s)
            content = run["content"].values.astype(str)
            kept = np.flatnonzero(content != "")
            if len(kept) > 1:
                found += _of_run(run, kept, content, steps, str(model), int(seed))
    return found


def _of_run(
    run: xr.Dataset, kept: npt.NDArray[np.intp], content: npt.NDArray[np.str_], steps: npt.NDArray[np.int64],
    model: str, seed: int,
) -> Iterator[Finding]:  # fmt: skip
    copied: Bools = np.zeros(len(steps), dtype=bool)
    half = np.asarray(run["half_precision"].values, dtype=bool)
    for finding, where in _identical(kept, content, half, steps, model, seed):
        copied[where] = finding.kind == "weights-copied"
        yield finding
    # What is a copy from another step says nothing about the others.
    path = [int(t) for t in kept if not copied[t]]
    correlation = np.asarray(run["correlation"].transpose("step", "other_step").values, dtype=np.float64)
    yield from _restarts(correlation, path, steps, model, seed)
    pairs = [(int(a), int(b)) for a, b in itertools.pairwise(kept) if not (copied[a] or copied[b])]
    yield from _jumps(run["relative_change"].values, run["allowed_change"].values, pairs, steps, model, seed)
    yield from _tokenizers(run["tokenizer"].values.astype(str), kept, steps, model, seed)


def _identical(
    kept: npt.NDArray[np.intp], content: npt.NDArray[np.str_], half: Bools, steps: npt.NDArray[np.int64],
    model: str, seed: int,
) -> Iterator[tuple[Finding, list[int]]]:  # fmt: skip
    """Checkpoints with the same weights: neighbours, or with others in between."""
    groups: dict[str, list[int]] = defaultdict(list)
    for t in kept.tolist():
        groups[content[t]].append(t)
    for same in groups.values():
        if len(same) < 2:
            continue
        adjacent = bool((np.diff(np.searchsorted(kept, same)) == 1).all())
        said = f"{model} seed {seed} has the same weights at {listed_steps(steps[same].tolist())}"
        if adjacent:
            stored = "in half precision" if half[same].all() else "in full precision"
            kind, tail, where = "weights-frozen", f", stored {stored}", same[1:]
            advice = "" if half[same].all() else "The files are copies: count them once, at the first of the steps."
        else:
            kind, tail, where, advice = "weights-copied", ", with others in between", same, ""
        yield Finding(kind, f"{said}{tail}.", model, seed, steps=where, advice=advice), where


def _restarts(
    correlation: Floats, path: list[int], steps: npt.NDArray[np.int64], model: str, seed: int
) -> Iterator[Finding]:
    skipped = -1
    for number, t in enumerate(path[1:], 1):
        before = [p for p in path[:number] if p != skipped]
        numbers = correlation[t, before]
        if len(before) < 2 or np.isnan(numbers).any():
            continue
        closest = before[int(np.argmax(numbers))]
        last = before[-1]
        tail = [p for p in path if p >= t]
        if (
            correlation[t, closest] < UNRELATED
            and _related(correlation, [*before[-2:]])
            and _related(correlation, tail[:2])
        ):
            said = (
                f"the weights of {model} seed {seed} at step {steps[t]} correlate at most {correlation[t, closest]:.3f} "
                f"with any that came before, where neighbours before and after do with each other."
            )
            yield Finding("weights-splice", said, model, seed, steps=tail)
            continue
        if correlation[t, closest] <= correlation[t, last] + TOLERANCE:
            continue
        numbers_said = (
            f"correlate {correlation[t, closest]:.3f} with those of step {steps[closest]} and "
            f"{correlation[t, last]:.3f} with those of step {steps[last]}, its predecessor"
        )
        said = f"the weights of {model} seed {seed} at step {steps[t]} {numbers_said}"
        if closest == before[-2] and correlation[last, closest] < correlation[t, closest] - TOLERANCE:
            skipped = last
            yield Finding("weights-order", f"{said}: that one is out of line.", model, seed, steps=[last])
        else:
            yield Finding("weights-restart", f"{said}: training was started anew.", model, seed, steps=tail)


def _related(correlation: Floats, pair: list[int]) -> bool:
    """Whether two neighbours are of one run; a checkpoint without a neighbour is taken to be."""
    return len(pair) < 2 or bool(correlation[pair[0], pair[1]] > RELATED)


def _jumps(
    change: Floats, allowed: Floats, pairs: list[tuple[int, int]], steps: npt.NDArray[np.int64], model: str, seed: int
) -> Iterator[Finding]:
    for before, t in pairs:
        if not np.isfinite(change[t]):
            continue
        known = np.isfinite(allowed[t])
        most = ROOM * allowed[t] if known else (HALF if steps[t] - steps[before] <= FEW_UPDATES else np.inf)
        if most >= 1 or change[t] <= most:
            continue
        why = f"the learning rate explains {allowed[t]:.2g}" if known else "its learning rate is not known"
        said = (
            f"from step {steps[before]} to {steps[t]} the weights of {model} seed {seed} change by {change[t]:.2g} of "
            f"their size; {why}."
        )
        yield Finding("weights-jump", said, model, seed, steps=[before])


def _tokenizers(
    tokenizer: npt.NDArray[np.str_], kept: npt.NDArray[np.intp], steps: npt.NDArray[np.int64], model: str, seed: int
) -> Iterator[Finding]:
    """Tokenizers that change along a run; a checkpoint without one says nothing."""
    named = [int(t) for t in kept if tokenizer[t]]
    kinds, counts = np.unique(tokenizer[named], return_counts=True)
    if len(kinds) > 1:
        usual = kinds[counts.argmax()]
        odd = [t for t in named if tokenizer[t] != usual]
        said = f"{model} seed {seed} has {len(kinds)} tokenizers: another than usual at {listed_steps(steps[odd].tolist())}."
        yield Finding("mixed-tokenizers", said, model, seed, steps=odd)
