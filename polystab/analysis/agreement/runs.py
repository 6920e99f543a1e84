"""Do runs give the same answers: to their own last step, to a reference run, among all pairs, and as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import xarray as xr

from polystab.analysis.agreement.blocks import CODE, COMPARISONS, REASONS, STATISTICS, block_columns
from polystab.analysis.agreement.inputs import Codes, ItemTable, blocks, read_items
from polystab.analysis.agreement.kernels import some
from polystab.analysis.arrays import Floats, Ints, described
from polystab.analysis.audit.exclude import Exclude, leave_out_items
from polystab.analysis.options import check_shares, flagged
from polystab.analysis.variance import MIN_RUNS
from polystab.errors import AnalysisError, shown

_Kind = TypeVar("_Kind", bound=np.generic)

# Answers looked at together, so that the work space stays small beside a large group.
_BLOCK = 200_000

_DOCS = {
    "agreement": "agreement beyond chance: mean of Cohen's kappa, Fleiss' kappa, Krippendorff's alpha",
    "lower": "lower end of the interval of agreement, over runs and items",
    "upper": "upper end of the interval of agreement, over runs and items",
    "p_o": "share of equal answers",
    "p_e": "share of equal answers expected by chance",
    "n_runs": "runs that enter",
    "n_compared": "comparisons of two runs that enter",
    "n_undefined": "comparisons left out because both runs always gave the same one answer",
    "n_items": "items that enter",
    "reason": "why there is no agreement",
    "run_kappa": "Cohen's kappa of the run; of all_pairs the mean over the other runs",
    "run_lower": "lower end of the interval of run_kappa, over items only",
    "run_upper": "upper end of the interval of run_kappa, over items only",
    "run_p_o": "share of equal answers of the run",
    "run_p_e": "share of equal answers of the run expected by chance",
    "run_n_items": "items compared; of all_pairs the most with any other run",
    "run_reason": "why there is no run_kappa",
    "n_missing": "items answered by some of the runs measured at the step, but not by all",
    "n_task_items": "items of the task",
    "last_step": "last step at which the run answered the task, -1 for none",
    "is_copy": "the run's answers are those of an earlier seed, and left out",
    "pair_kappa": "Cohen's kappa of two runs",
    "pair_p_o": "share of equal answers of two runs",
    "pair_p_e": "share of equal answers of two runs expected by chance",
    "pair_n_items": "items that both runs answered",
}
_COUNTS = ("n_runs", "n_compared", "n_undefined", "n_items", "n_missing", "run_n_items", "pair_n_items")
_DTYPES: dict[str, type[np.generic]] = dict.fromkeys(_COUNTS, np.int64) | {"reason": np.int8, "run_reason": np.int8}


def agreement(
    items: xr.Dataset | xr.DataTree,
    *,
    reference: int | None = None,
    answers: str | Iterable[str] | None = None,
    pairs: bool = False,
    level: float | None = 0.95,
    exclude: Exclude = None,
) -> xr.Dataset:
    """How far runs give the same answers to the same items, beyond chance, at every step.

    Parameters
    ----------
    items : xarray.Dataset or xarray.DataTree
        The group ``items`` of a cube, or the tree that holds it (``ps.open_tree``).
    reference : int, optional
        Seed that the others are compared with; by default 0, or the first where there is no 0.
    answers : {'choice', 'correct'} or both, optional
        Compare the chosen option, whether it was correct, or both; by default what there is.
    pairs : bool, optional
        Give the matrix of all pairs of runs too.
    level : float or None, optional
        Confidence level of the intervals, between 0 and 1; ``None`` for none, which is quicker.
    exclude : 'audit', xarray.Dataset or None, optional
        Leave out the answers that an audit says do not belong where they stand: ``audit`` makes one, a
        Dataset holds the findings of one. See :func:`polystab.analysis.excluded_cells`; how much was
        left out is in ``attrs`` (``excluded_values``, ``excluded_share``, ``excluded_by``).

    Returns
    -------
    xarray.Dataset
        Without units. Along ``answer`` what is compared, along ``task`` the tasks and last
        ``pooled``, along ``statistic``

        - ``last_step``: mean over runs of Cohen's kappa with the run's own last step;
        - ``reference``: mean over the other runs of kappa with the reference run;
        - ``all_pairs``: mean over all pairs of runs;
        - ``fleiss``: Fleiss' kappa over all runs, of the items that all of them answered;
        - ``krippendorff``: Krippendorff's nominal alpha, of the items with two answers or more.

        Over (statistic, answer, task, model, step): ``agreement``, ``lower``, ``upper``,
        ``p_o``, ``p_e``, ``n_runs``, ``n_compared``, ``n_undefined``, ``n_items`` and ``reason``, a code
        (``attrs["flag_meanings"]``) that is 0 where there is a value. Over (comparison,
        answer, task, model, seed, step), for the first three, ``run_kappa``,
        ``run_lower``, ``run_upper``, ``run_p_o``, ``run_p_e``, ``run_n_items`` and ``run_reason`` of
        each run. ``n_missing(answer, task, model, step)``; ``n_task_items(task)``;
        ``last_step(answer, task, model, seed)``; ``is_copy(task, model, seed)``. With
        ``pairs`` also ``pair_kappa``, ``pair_p_o``, ``pair_p_e`` and ``pair_n_items`` over
        (answer, task, model, seed, seed_2, step).

    Raises
    ------
    AnalysisError
        There is no group ``items``, or no such answers or reference; ``level`` is not
        between 0 and 1.

    Notes
    -----
    *Formula.* kappa = (p_o - p_e) / (1 - p_e), where p_o is the share of items with equal
    answers and p_e the share expected were the answers of the two runs independent, each
    with its own frequencies. With few options or a favourite one, p_e is high: kappa may be
    0 at p_o = 0.9.

    *Items.* Those of one task and ``doc_hash`` are one item, whatever their labels. Of two
    runs the items are compared that both answered; ``run_n_items`` says how many, and
    ``n_missing`` that some are missing. ``pooled`` takes chance from within the tasks: it is
    1 - D / E with the disagreements and the disagreements expected by chance added up over
    tasks. Kappa of all answers in one row would count it as agreement that all runs find
    the same tasks hard.

    *No value.* Where both runs always give the same one answer, 1 - p_e is 0 and kappa is
    NaN (``constant``); means are over the rest, and ``n_undefined`` counts what is left
    out. With its own last step a run agrees by definition (``by_definition``, 1, no
    interval); means over runs leave that out as long as other runs are at an earlier step.
    One run has ``last_step`` only. Runs that are copies of others (whose answers of the
    task, or of all tasks, are equal at every step, with five different steps and twenty
    items at least) are left out.

    *Intervals* of ``run_kappa`` are over the items, with these runs: the variance is that
    of Fleiss, Cohen and Everitt. Those of ``agreement`` are over items and runs: variance
    by items (infinitesimal jackknife) plus variance by runs (jackknife without each run and
    all its pairs, less what the sampling of items alone adds to it), with the degrees of
    freedom of Satterthwaite. So pairs are not taken as independent: ten runs have 45 pairs
    and still are ten. The reference run is taken as given. Nothing with fewer than three
    runs or ten items gets an interval, nor what is undefined without one of the runs. All are
    symmetric for log(1 - kappa); where nothing disagrees the lower end is from the exact
    interval of a share of 0. Nothing is random.

    In simulations (3, 5 and 10 runs, 100 to 400 items, kappa from 0 to 0.9), 95 % intervals of
    the means, of Fleiss' kappa and of alpha cover 93-99 % with five and ten runs and 94-99 %
    with three, but 90-94 % with three runs of very unequal quality. Taken as independent, the
    pairs of ten runs would give 30-57 % where the runs do not guess.

    References
    ----------
    Cohen, J. (1960). A coefficient of agreement for nominal scales. Educational and
    Psychological Measurement 20, 37-46. https://doi.org/10.1177/001316446002000104

    Fleiss, J. L. (1971). Measuring nominal scale agreement among many raters.
    Psychological Bulletin 76, 378-382. https://doi.org/10.1037/h0031619

    Fleiss, J. L., Cohen, J. and Everitt, B. S. (1969). Large sample standard errors of
    kappa and weighted kappa. Psychological Bulletin 72, 323-327.
    https://doi.org/10.1037/h0028106

    Hayes, A. F. and Krippendorff, K. (2007). Answering the call for a standard reliability
    measure for coding data. Communication Methods and Measures 1, 77-89.
    https://doi.org/10.1080/19312450709336664

    Efron, B. and Stein, C. (1981). The jackknife estimate of variance. Annals of
    Statistics 9, 586-596. https://doi.org/10.1214/aos/1176345462

    van der Wal, O. et al. (2025). PolyPythias: stability and outliers across fifty language
    model pre-training runs. ICLR 2025. https://doi.org/10.48550/arXiv.2503.09543

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis.agreement import agreement
    >>> found = agreement(ps.load_tree("nano")).sel(model="nano-215k", step=1000)
    >>> kappa = found["agreement"].sel(statistic="all_pairs", task="nano_brackets")
    >>> {str(answer): round(float(kappa.sel(answer=answer)), 2) for answer in kappa["answer"].values}
    {'choice': 0.93, 'correct': 0.34}

    The runs choose alike because nearly all they choose is correct; where they err they agree
    far less.
    """
    if level is not None:
        check_shares(level=level)
    items, left_out = leave_out_items(items, exclude)
    table = read_items(items, answers)
    place = _reference(table, reference)
    found = [_of_answer(table, name, place, pairs, level) for name in table.codes]
    result = xr.concat(found, xr.DataArray(list(table.codes), dims="answer", name="answer"), join="exact")
    result = result.assign_coords(task=("task", np.array(table.tasks)))
    result["n_task_items"] = ("task", np.array(table.n_items))
    result["is_copy"] = (("task", "model", "seed"), table.copies)
    result.attrs = (
        {
            "reference": int(table.coords["seed"][place]),
            "min_runs": MIN_RUNS,
            "n_items_joined": table.n_joined,
        }
        | ({} if level is None else {"level": float(level)})
        | left_out
    )
    described(result, {name: text for name, text in _DOCS.items() if name in result})
    return flagged(result, {"reason": REASONS, "run_reason": REASONS})


def _reference(table: ItemTable, reference: int | None) -> int:
    seeds = table.coords["seed"].tolist()
    if reference is None:
        return seeds.index(0) if 0 in seeds else 0
    if reference not in seeds:
        raise AnalysisError(f"reference seed {reference!r} is not among the seeds {shown(seeds)}.")
    return int(seeds.index(reference))


def _of_answer(table: ItemTable, answer: str, reference: int, pairs: bool, level: float | None) -> xr.Dataset:
    """Everything about the chosen options, or about correctness."""
    codes = [table.codes[answer][..., part] for _, part in table.parts]
    n_model, _, n_step, _ = codes[0].shape
    places = np.stack([_last_place(part) for part in codes])
    ends = [_at_place(part, place) for part, place in zip(codes, places, strict=True)]
    parts = []
    for steps in blocks(table, _BLOCK):
        block = [_rows(part[:, :, steps]) for part in codes]
        step = np.arange(n_step)[steps]
        at_last = [(place[..., None] == step)[..., None] for place in places]
        last = [_rows(np.where(own, -1, end[:, :, None])) for own, end in zip(at_last, ends, strict=True)]
        own = [_rows(part)[..., 0] for part in at_last]
        found = block_columns(block, last, own, reference, pairs, level)
        parts.append({name: _unrows(array, n_model) for name, array in found.items()})
    variables = {
        name: (
            (*_leading(name), "task", "model", "step"),
            np.concatenate([part[name] for part in parts], axis=-1).astype(_DTYPES.get(name, np.float64)),
        )
        for name in parts[0]
    }
    steps_of = np.append(table.coords["step"], -1)
    copied = variables["run_reason"][1]
    copies = np.moveaxis(table.copies, 2, 0)[..., None]  # seed, task, model, step
    copied[(copied == CODE["not_measured"]) & copies] = CODE["copy"]
    variables["last_step"] = (("task", "model", "seed"), steps_of[np.concatenate([places, [places.max(axis=0)]])])
    order = ("comparison", "statistic", "task", "model", "seed", "seed_2", "step")
    coords = {name: table.coords[name] for name in ("model", "seed", "step")}
    coords |= {"comparison": np.array(COMPARISONS), "statistic": np.array(STATISTICS)}
    if pairs:
        coords["seed_2"] = table.coords["seed"]
    data = xr.Dataset(variables, coords=coords)
    return data.transpose(*(dim for dim in order if dim in data.dims))


def _leading(name: str) -> tuple[str, ...]:
    """Dimensions of a column before task, model and step."""
    if name.startswith("run_"):
        return ("comparison", "seed")
    if name.startswith("pair_"):
        return ("seed", "seed_2")
    return () if name == "n_missing" else ("statistic",)


def _last_place(codes: Codes) -> Ints:
    """Number of the last step at which each run answered anything (model, seed), -1 for none."""
    known = some(codes >= 0)
    return np.where(some(known), known.shape[-1] - 1 - np.argmax(known[..., ::-1], axis=-1), -1)


def _at_place(codes: Codes, place: Ints) -> Codes:
    """The answers of each run at its own last step (model, seed, item)."""
    return np.take_along_axis(codes, np.maximum(place, 0)[:, :, None, None], axis=2)[:, :, 0]


def _rows(codes: npt.NDArray[_Kind]) -> npt.NDArray[_Kind]:
    """(model, seed, step, item) as (model x step, seed, item)."""
    moved = np.moveaxis(codes, 2, 1)
    return np.ascontiguousarray(moved).reshape(-1, *moved.shape[2:])


def _unrows(array: Floats, n_model: int) -> Floats:
    """(..., model x step) as (..., model, step)."""
    return array.reshape(*array.shape[:-1], n_model, -1)
