"""Which items are easy, hard, or decided by the seed."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.agreement.inputs import Codes, ItemTable, blocks, read_items
from polystab.analysis.agreement.kernels import options
from polystab.analysis.arrays import Floats, Ints, described, divided
from polystab.analysis.options import flagged
from polystab.analysis.variance import MIN_RUNS
from polystab.errors import AnalysisError, shown

KINDS = ("easy", "unstable", "hard", "unknown")

# Answers looked at together.
_BLOCK = 200_000

_DOCS = {
    "at_step": "step at which the runs are compared, -1 for none",
    "share_correct": "share of runs whose answer is correct, at the step",
    "entropy": "entropy of the answers over runs, at the step",
    "depends": "the answer depends on the seed: not all runs give the same, at the step",
    "kind": "easy, hard, or unstable by the share of runs that are correct, at the step",
    "n_runs": "runs that answered the item, at the step",
    "mean_share_correct": "mean over steps of the share of runs whose answer is correct",
    "mean_entropy": "mean over steps of the entropy of the answers over runs",
    "depends_steps": "share of the steps at which the answer depends on the seed",
    "n_steps": "steps at which two runs or more answered the item",
    "depends_share": "share of items whose answer depends on the seed",
    "depends_by_chance": "depends_share if no item were harder than another",
    "easy_share": "share of items that are easy",
    "unstable_share": "share of items that are neither easy nor hard",
    "hard_share": "share of items that are hard",
    "unstable_by_chance": "unstable_share if no item were harder than another",
    "n_items": "items that two runs or more answered",
    "n_sorted": "items with a kind: three runs or more are known to be right or wrong",
}
# What the map shows of one step, and what it is called below.
_AT_STEP = {"share_correct": "share", "entropy": "entropy", "n_runs": "runs", "n_known": "right_or_wrong"}
_UNITS = {"entropy": "bit", "mean_entropy": "bit"}


def item_stability(
    items: xr.Dataset | xr.DataTree, *, step: int | None = None, easy: float = 0.9, hard: float = 0.1
) -> xr.Dataset:
    """Map of the items of each model: answered alike by all seeds, or decided by the seed.

    Parameters
    ----------
    items : xarray.Dataset or xarray.DataTree
        The group ``items`` of a cube, or the tree that holds it (``ps.open_tree``).
    step : int, optional
        The step of the map; by default the last of each model at which two runs
        answered anything.
    easy, hard : float, optional
        An item is easy if at least this share of the runs is correct, hard if at most
        ``hard`` is, and unstable between.

    Returns
    -------
    xarray.Dataset
        Over (model, item), at the step ``at_step(model)``: ``share_correct``; ``entropy`` of the
        answers over runs, in bits; ``depends``; ``kind``, a code (``attrs["flag_meanings"]``);
        ``n_runs``. Over (model, item), over all steps: ``mean_share_correct``, ``mean_entropy``,
        ``depends_steps`` and ``n_steps``. Over (task, model, step), of items, with ``pooled`` as
        the last task: ``depends_share``, ``depends_by_chance``, ``easy_share``, ``unstable_share``,
        ``hard_share``, ``unstable_by_chance``, ``n_items`` and ``n_sorted``.

    Raises
    ------
    AnalysisError
        There is no group ``items``, no such step, or ``easy`` and ``hard`` are not
        0 <= hard < easy <= 1.

    Notes
    -----
    The answer is the chosen option, and for tasks without options (generated text) whether
    it was correct. ``entropy`` is of the observed shares, so it is at most log2 of the number
    of runs or options, and a little low. One run gives NaN; with fewer than three an item has
    no kind (``unknown``). Copies of runs are left out, as in :func:`agreement`.

    *What chance does.* Runs that are right now and then differ at almost every item, and no
    item need be special for it. ``depends_by_chance`` and ``unstable_by_chance`` are what
    would be expected if no item were harder than another: every run measured at the step
    right at each item with its accuracy in the task, independent of the other runs (wrong
    options, of those that occur in the task, equally likely). Items matter as far as the
    observed shares are below. More runs find more items that depend on the seed; compare
    shares for equal ``n_runs`` only.

    References
    ----------
    Swayamdipta, S. et al. (2020). Dataset cartography: mapping and diagnosing datasets with
    training dynamics. EMNLP 2020. https://doi.org/10.18653/v1/2020.emnlp-main.746

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis.agreement import item_stability
    >>> found = item_stability(ps.load_tree("nano")).sel(model="nano-215k", task="nano_brackets", step=1000)
    >>> [round(float(found[name]), 2) for name in ("depends_share", "depends_by_chance")]
    [0.12, 0.3]
    """
    if not all(isinstance(share, int | float | np.number) for share in (easy, hard)) or not 0 <= hard < easy <= 1:
        raise AnalysisError(f"easy is {easy} and hard is {hard}; give shares with 0 <= hard < easy <= 1.")
    table = read_items(items)
    answered, correct = _answers(table)
    place = _places(table, answered, step)
    shape = (answered.shape[0], answered.shape[3])
    columns = {name: np.full(shape, np.nan) for name in _AT_STEP}
    sums = {name: np.zeros(shape) for name in ("share", "known", "entropy", "depends", "n")}
    by_step: list[dict[str, Floats]] = []
    for steps in blocks(table, _BLOCK):
        now, right = answered[:, :, steps], correct[:, :, steps]
        found = _of_items(now, right)
        for name, total in sums.items():
            total += np.nansum(found[name], axis=1)
        for m, at in enumerate(place.tolist()):
            if steps.start <= at < steps.stop:
                for name, source in _AT_STEP.items():
                    columns[name][m] = found[source][m, at - steps.start]
        by_step.append(_of_tasks(table, now, right, found, easy, hard))
    n_runs = np.nan_to_num(columns["n_runs"]).astype(np.int64)
    kind = _kinds(columns["share_correct"], columns.pop("n_known"), easy, hard)
    of_items = columns | {
        "n_runs": n_runs,
        "depends": (np.nan_to_num(columns["entropy"]) > 0) & (n_runs >= 2),
        "kind": kind,
        "mean_share_correct": divided(sums["share"], sums["known"]),
        "mean_entropy": divided(sums["entropy"], sums["n"]),
        "depends_steps": divided(sums["depends"], sums["n"]),
        "n_steps": sums["n"].astype(np.int64),
    }
    return _labelled(table, of_items, by_step, np.append(table.coords["step"], -1)[place], easy, hard)


def _answers(table: ItemTable) -> tuple[Codes, Codes]:
    """Chosen options, of tasks without any whether they were correct; and whether they were correct."""
    if "choice" not in table.codes:
        return table.codes["correct"], table.codes["correct"]
    choice = table.codes["choice"]
    if "correct" not in table.codes:
        return choice, np.full_like(choice, -1)
    correct = table.codes["correct"]
    parts = [part for _, part in table.parts]
    used = [choice if (choice[..., part] >= 0).any() else correct for part in parts]
    return np.concatenate([array[..., part] for array, part in zip(used, parts, strict=True)], axis=-1), correct


def _places(table: ItemTable, answered: Codes, step: int | None) -> Ints:
    """Number of the step of each model, -1 for none."""
    steps = table.coords["step"].tolist()
    if step is not None:
        if step not in steps:
            raise AnalysisError(f"step {step!r} is not among the steps {shown(steps)} of the group items.")
        return np.full(len(answered), steps.index(step))
    several = (answered >= 0).any(axis=3).sum(axis=1) >= 2  # model, step
    return np.where(several.any(axis=1), len(steps) - 1 - np.argmax(several[:, ::-1], axis=1), -1)


def _of_items(answered: Codes, correct: Codes) -> dict[str, Floats]:
    """What the runs say of each item, (model, step, item)."""
    runs = (answered >= 0).sum(axis=1).astype(np.float64)
    several = runs >= 2
    entropy, most = np.zeros(runs.shape), np.zeros(runs.shape)
    for option in options(answered):
        votes = (answered == option).sum(axis=1)
        p = np.where(votes > 0, votes / np.maximum(runs, 1), 1.0)
        entropy += -p * np.log2(p) + 0.0  # and not -0.0
        most = np.maximum(most, votes)
    known = (correct >= 0).sum(axis=1).astype(np.float64)
    share = divided((correct == 1).sum(axis=1), known)
    return {
        "runs": runs,
        "share": np.where(known >= 2, share, np.nan),
        "known": np.where(known >= 2, 1.0, 0.0),
        "right_or_wrong": known,
        "entropy": np.where(several, entropy, np.nan),
        "depends": np.where(several, (most < runs).astype(np.float64), np.nan),
        "n": several.astype(np.float64),
    }


def _kinds(share: Floats, n_runs: Floats, easy: float, hard: float) -> npt.NDArray[np.int8]:
    """Codes of ``KINDS``; a share of 9 of 10 is at least 0.9 whatever the rounding."""
    result = np.where(share >= easy - 1e-9, 0, np.where(share <= hard + 1e-9, 2, 1))
    return np.where(np.isnan(share) | (n_runs < MIN_RUNS), 3, result).astype(np.int8)


def _of_tasks(
    table: ItemTable, answered: Codes, correct: Codes, found: dict[str, Floats], easy: float, hard: float
) -> dict[str, Floats]:
    """Shares of the items of each task and of all, (task, model, step)."""
    kind = _kinds(found["share"], found["right_or_wrong"], easy, hard)
    sums: dict[str, list[Floats]] = {
        name: []
        for name in ("n", "depends", "depends_by_chance", "sorted", "easy", "unstable", "hard", "unstable_by_chance")
    }
    for _, part in table.parts:
        n, known = found["n"][..., part].sum(axis=-1), (kind[..., part] < 3).sum(axis=-1).astype(np.float64)
        sums["n"].append(n)
        sums["sorted"].append(known)
        sums["depends"].append(np.nansum(found["depends"][..., part], axis=-1))
        sums["depends_by_chance"].append(
            np.where(n > 0, n * _depends_by_chance(answered[..., part], correct[..., part]), 0.0)
        )
        for code, name in enumerate(KINDS[:3]):
            sums[name].append((kind[..., part] == code).sum(axis=-1).astype(np.float64))
        sums["unstable_by_chance"].append(known * _unstable_by_chance(correct[..., part], easy, hard))
    stacked = {name: np.stack([*parts, np.sum(parts, axis=0)]) for name, parts in sums.items()}
    n, known = stacked.pop("n"), stacked.pop("sorted")
    of = {name: n if name.startswith("depends") else known for name in stacked}
    return {
        name if name.endswith("chance") else f"{name}_share": divided(total, of[name])
        for name, total in stacked.items()
    } | {"n_items": n, "n_sorted": known}


def _depends_by_chance(answered: Codes, correct: Codes) -> Floats:
    """Chance that not all runs give one answer, all items being alike, (model, step).

    They give one if all are right, or all wrong and, the wrong options being equally
    likely, with the same option.
    """
    n = (correct >= 0).sum(axis=-1)  # model, run, step
    accuracy = divided((correct == 1).sum(axis=-1), n)
    right, wrong = (np.prod(np.where(n > 0, p, 1.0), axis=1) for p in (accuracy, 1 - accuracy))
    runs = (n > 0).sum(axis=1)
    wrong *= float(max(len(options(answered)) - 1, 1)) ** -np.maximum(runs - 1, 0)
    return np.where(runs >= 2, 1 - right - wrong, np.nan)


def _unstable_by_chance(correct: Codes, easy: float, hard: float) -> Floats:
    """Chance that the share of correct runs is between ``hard`` and ``easy``, all items being alike, (model, step)."""
    n = (correct >= 0).sum(axis=-1)
    accuracy = np.nan_to_num(divided((correct == 1).sum(axis=-1), n))
    measured = n > 0
    chance = np.zeros((*accuracy[:, 0].shape, accuracy.shape[1] + 1))
    chance[..., 0] = 1.0
    for run in range(accuracy.shape[1]):  # the distribution of the number of correct runs, run by run
        p = np.where(measured[:, run], accuracy[:, run], 0.0)[..., None]
        chance = chance * (1 - p) + np.concatenate([np.zeros_like(p), chance[..., :-1]], axis=-1) * p
    share = divided(np.arange(chance.shape[-1]), measured.sum(axis=1)[..., None])
    return np.asarray(np.sum(chance, axis=-1, where=(share > hard + 1e-9) & (share < easy - 1e-9)))


def _labelled(
    table: ItemTable,
    of_items: dict[str, npt.NDArray[np.generic]],
    by_step: list[dict[str, Floats]],
    step: Ints,
    easy: float,
    hard: float,
) -> xr.Dataset:
    of_tasks = {name: np.concatenate([part[name] for part in by_step], axis=-1) for name in by_step[0]}
    of_tasks |= {name: of_tasks[name].astype(np.int64) for name in ("n_items", "n_sorted")}
    coords = table.coords
    result = xr.Dataset(
        {name: (("model", "item"), array) for name, array in of_items.items()}
        | {name: (("task", "model", "step"), array) for name, array in of_tasks.items()}
        | {"at_step": ("model", step)},
        coords={name: coords[name] for name in ("model", "step", "item")}
        | {
            "task": np.array(table.tasks),
            "item_task": ("item", coords["task"]),
            "doc_hash": ("item", coords["doc_hash"]),
        },
        attrs={"easy": float(easy), "hard": float(hard), "min_runs": MIN_RUNS},
    )
    result = described(result, {name: text for name, text in _DOCS.items() if name in result.data_vars}, _UNITS)
    return flagged(result, {"kind": KINDS})
