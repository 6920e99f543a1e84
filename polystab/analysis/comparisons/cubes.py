"""Which differences between two cubes are real, given the seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, Floats, Ints, described, divided, labels
from polystab.analysis.comparisons.inputs import SIDES, Matched, Models, Sides, match
from polystab.analysis.comparisons.items import item_intervals
from polystab.analysis.comparisons.kernels import (
    METHODS,
    NOT_MEASURED,
    REASONS,
    SAME_RUNS,
    Contrast,
    contrast,
    detectable,
    effect_size,
    equivalence_p,
    t_interval,
    t_p,
)
from polystab.analysis.comparisons.permutations import permutation_p
from polystab.analysis.comparisons.verdicts import CHANGES, POWER, VERDICTS, Columns, judged_rows
from polystab.analysis.components.comparison import f_factors
from polystab.analysis.options import Rng, check_shares, check_whole, flagged, generator_of, numbers
from polystab.errors import AnalysisError, did_you_mean, shown

_DOCS = {
    "step": "step at which the two are compared, -1 for none",
    "mean": "mean over runs",
    "sd": "standard deviation over runs, ddof 1",
    "n_seeds": "runs that count: measured, finite, no copy of another, not on both sides",
    "n_nonfinite": "runs left out because the value is infinite: they diverged",
    "n_absent": "runs without a value at the step that have one at another",
    "n_common": "runs on both sides with the same values",
    "difference": "mean of the other cube minus mean of this one",
    "stderr": "standard error of the difference",
    "df": "degrees of freedom of the t test",
    "lower": "lower end of the t interval of the difference",
    "upper": "upper end of the t interval of the difference",
    "effect": "difference in seed standard deviations, corrected for its bias (Hedges g)",
    "effect_lower": "lower end of the interval of the effect",
    "effect_upper": "upper end of the interval of the effect",
    "p": "chance of so large a difference between runs of one recipe; two-sided, not corrected for many tests",
    "q": "p corrected for the number of tests (false discovery rate)",
    "n_tests": "tests that p is corrected for",
    "p_permutation": "the same chance from dealing out the runs again",
    "p_smallest": "smallest p_permutation that so many runs can give",
    "detectable": "true difference that these runs find with a power of 0.8, were it the only test",
    "detectable_alone": "the same after correction for the number of tests, if nothing else differs",
    "margin": "difference that counts as none",
    "p_equivalence": "chance of so small a difference, were the true one at least the margin; not corrected",
    "q_equivalence": "p_equivalence corrected for the number of tests (false discovery rate)",
    "variance_ratio": "variance over the seeds of the other cube over that of this one",
    "ratio_lower": "lower end of the F interval of the ratio of variances",
    "ratio_upper": "upper end of the F interval of the ratio of variances",
    "items_lower": "lower end of the interval of the difference on other test items of the kind",
    "items_upper": "upper end of the interval of the difference on other test items of the kind",
    "items_n": "test items that both sides answered",
    "method": "how the row was tested",
    "reason": "why the row was not tested",
    "verdict": "what can be said of the row",
    "change": "which way the mean went, where it is known what is better",
}

_OF_METRIC = (
    "mean",
    "sd",
    "difference",
    "stderr",
    "lower",
    "upper",
    "detectable",
    "margin",
    "items_lower",
    "items_upper",
)


def compare_cubes(
    cube: xr.Dataset | xr.DataTree,
    other: xr.Dataset | xr.DataTree,
    *,
    models: Models = None,
    metrics: Sequence[str] | None = None,
    step: int | None = None,
    level: float = 0.95,
    paired: bool = False,
    margin: float | Mapping[str, float] = 1.0,
    n_permutations: int = 9999,
    rng: Rng = None,
) -> xr.Dataset:
    """Which differences between two cubes are real, given the seeds.

    Parameters
    ----------
    cube, other : xarray.Dataset or xarray.DataTree
        Two cubes, e.g. of a recipe before and after a change. Of trees with a group ``items`` the answers are used too.
    models : mapping of str to str, or sequence of str, optional
        Models of ``cube`` and those of ``other`` that stand against them, ``{"mine": "theirs"}``, or names that both
        have. By default all models of the same name; two cubes of one model each are compared whatever the names.
    metrics : sequence of str, optional
        Metric ids; by default all that both cubes have.
    step : int, optional
        Step of the comparison; by default, for each model and metric, the last at which more than half of the runs of
        either side are measured.
    level : float, optional
        Confidence level of the intervals. Verdicts use the error rate ``1 - level``.
    paired : bool, optional
        Seed *k* of one cube belongs to seed *k* of the other: the same initialisation or data order, or one checkpoint
        trained on. Only you can know: equal numbers prove nothing. Without it the interval is at worst too wide.
    margin : float or mapping of str to float, optional
        Difference that counts as none: a number of seed standard deviations or, for the metrics of a mapping, a
        difference in units of the metric (one seed SD for all others).
    n_permutations : int, optional
        How often the runs are dealt out again where all arrangements would be more.
    rng : int, numpy.random.Generator or None, optional
        Source of chance of the permutations; the same one gives the same result.

    Returns
    -------
    xarray.Dataset
        Over (model, metric), and where both cubes are spoken of (side, model, metric) with ``side`` this and other. In
        units of the metric: ``mean`` and ``sd`` (side), ``difference`` (other minus this) with ``stderr``,
        ``lower``, ``upper``; ``detectable``, ``detectable_alone``, ``margin``. In seed SDs: ``effect`` with ``effect_lower``, ``effect_upper``.
        Without unit: ``df``, ``p``, ``q``, ``p_permutation``, ``p_smallest``, ``p_equivalence``, ``q_equivalence``,
        ``variance_ratio`` with ``ratio_lower``, ``ratio_upper``. Counts ``n_seeds``, ``n_nonfinite``, ``n_absent``
        (side), ``n_common``. ``items_lower``, ``items_upper``, ``items_n`` where both have answers. ``step``. Codes, with
        their meanings in ``attrs["flag_meanings"]``: ``method``, ``reason``, ``verdict``, ``change``. Along metric:
        ``n_tests``, behind ``q``. The coordinate ``other_model`` names the model on the other side. In ``attrs``: ``level``,
        ``paired``, ``n_tests`` (of all rows), ``power``, ``same`` (1 if every run is on both sides), ``n_models_alone`` and ``n_metrics_alone`` (of either cube, not compared)
        and ``notes``, sentences on what makes the comparison less than it seems.

    Raises
    ------
    AnalysisError
        No model, metric or step is in both cubes; a metric has other units or another better direction in one of
        them; an argument is out of range.

    Notes
    -----
    *Tests.* Two sides with three runs or more: Welch's t (pairs: Student's t of their differences). A side with one or
    two runs lends its mean only, and the spread is that of the other side, ``s sqrt(1 / k + 1 / n)`` with n - 1
    degrees of freedom; for one run that is the prediction interval, and the question "is it one of them?". Fewer than three
    runs on both sides (or pairs) give a difference and nothing else. If no run differs from its side, t has no value:
    ``p`` is then that of the permutations, and there is no interval.

    *Effect.* The difference over ``sqrt((s1^2 + s2^2) / 2)``, times the correction of Hedges with the degrees of freedom of
    that spread; interval by the noncentral t distribution (Algina and Keselman). It covers 93-96 % of normal data and as
    little as 80 % of very skewed ones (lognormal), where the interval of the difference covers 85-98 %.

    *Permutations.* Runs are dealt out to the sides again (signs of pairs are drawn), all arrangements if there are
    at most ``n_permutations + 1``; the statistic is Welch's t, valid for unequal spreads too with many runs (Janssen). It is a
    check that the verdict does not rest on normal data: 3 against 3 runs cannot give less than 0.1 (``p_smallest``).

    *Verdict.* ``differs``: ``q`` is at most 1 - level. ``no_larger_difference``: ``q_equivalence`` is, so the true
    difference is smaller than the margin (two one-sided tests, Schuirmann; noncentral t for a margin in seed SDs, Wellek).
    ``differs_slightly``: both. ``cannot_tell``: neither; that is not "no difference". ``detectable`` says how large a
    true difference must be for so many runs to find it in a single test, and ``detectable_alone`` among all these tests if
    nothing else differs: with few runs, ask about few metrics. ``no_larger_difference`` at one seed SD takes 6 runs or more on both sides.

    *Many tests* are corrected after Benjamini and Hochberg, over the metrics that have a better and a worse (``better``), and over
    all others: of two cubes of one recipe, at most 5 % of comparisons have a row that is better or worse, and at
    most 5 % one of the others that differs. Metrics of one run depend on each other positively, mostly, which that allows.

    *Runs that count.* Copies of runs within a model count once. A trajectory that is on both sides to the last bit
    says nothing about their difference and is left out (``n_common``); a side with no other runs keeps it. If nothing
    else is left, the cube is compared with itself: ``reason`` is same_runs. Infinite values are diverged runs: they are
    in no mean and counted, as are runs that broke off (``n_absent``); where one side loses more of them than the other,
    the means of those that are left say less than they seem to.

    *Test items.* The interval is about new runs on these items. Where both trees have answers to the same items that
    give these scores, ``items_lower`` and ``items_upper`` are the ends of the ``t`` interval of :func:`multibootstrap`, of
    new runs on new items; they are not corrected and not in the verdict.

    ``variance_ratio`` has the interval of :func:`variance_ratio`: exact for normal data, sensitive to heavy tails.

    References
    ----------
    Welch, B. L. (1947). The generalization of "Student's" problem when several different population variances are
    involved. Biometrika 34, 28-35. https://doi.org/10.1093/biomet/34.1-2.28

    Hedges, L. V. (1981). Distribution theory for Glass's estimator of effect size and related estimators. Journal of
    Educational Statistics 6, 107-128. https://doi.org/10.3102/10769986006002107

    Algina, J. and Keselman, H. J. (2003). Approximate confidence intervals for effect sizes. Educational and Psychological
    Measurement 63, 537-553. https://doi.org/10.1177/0013164403256358

    Janssen, A. (1997). Studentized permutation tests for non-i.i.d. hypotheses and the generalized Behrens-Fisher
    problem. Statistics and Probability Letters 36, 9-21. https://doi.org/10.1016/S0167-7152(97)00043-6

    Schuirmann, D. J. (1987). A comparison of the two one-sided tests procedure and the power approach for assessing the
    equivalence of average bioavailability. Journal of Pharmacokinetics and Biopharmaceutics 15, 657-680.
    https://doi.org/10.1007/BF01068419

    Wellek, S. (2010). Testing Statistical Hypotheses of Equivalence and Noninferiority, 2nd edition.
    https://doi.org/10.1201/EBK1439808184

    Examples
    --------
    >>> import polystab as ps
    >>> from polystab.analysis.comparisons import compare_cubes
    >>> loss, pair = "loss/validation/cross_entropy", {"nano-33k": "nano-33k-permute"}
    >>> found = compare_cubes(ps.load_cube("nano"), ps.load_cube("nano-init"), models=pair, metrics=[loss], rng=0)
    >>> [round(found[name].item(), 3) for name in ("difference", "lower", "upper", "detectable")]
    [-0.115, -0.193, -0.037, 0.108]
    >>> found["verdict"].attrs["flag_meanings"].split()[found["verdict"].item()]
    'differs'
    """
    check_shares(level=level)
    check_whole("n_permutations", n_permutations, 1)
    matched = match(cube, other, models=models, metrics=metrics, paired=paired)
    margins = _margins(margin, matched.metrics)
    if step is not None and step not in matched.steps:
        near = matched.steps[np.argsort(np.abs(matched.steps - step), kind="stable")[:5]]
        raise AnalysisError(
            f"step {step} is not in both cubes; the nearest common ones are {shown(sorted(near.tolist()))}."
        )
    generator = generator_of(rng)
    rows = []
    for place in range(len(matched.models)):
        sides = matched.read(place)
        at = sides.last_steps()
        if step is not None:
            at = np.full(at.shape, np.searchsorted(matched.steps, step))
        row, used = _compared(sides, at, paired=paired, level=level, margins=margins)
        row["p_permutation"], row["p_smallest"] = permutation_p(
            *used, paired=paired, n_permutations=n_permutations, rng=generator
        )
        row["step"] = np.where(at >= 0, matched.steps[at], -1)
        row |= item_intervals((cube, other), matched, place, used, steps=row["step"], paired=paired, level=level)
        rows.append(row)
    columns = {name: np.stack([row[name] for row in rows], axis=-2) for name in rows[0]}
    return _labelled(matched, judged_rows(columns, matched.better, level), {"level": level, "paired": int(paired)})


def _compared(
    sides: Sides, at: Ints, *, paired: bool, level: float, margins: tuple[Floats, Bools]
) -> tuple[Columns, tuple[Floats, Floats]]:
    """Every number of one pair of models, (metric) or (side, metric), and the values (seed, metric) behind them."""
    values = [at_steps(side, at) for side in (sides.this, sides.other)]
    this, other, n_common, same = sides.own(*values)
    found = contrast(this, other, paired=paired, same=same)
    lower, upper = t_interval(found, level)
    effect, effect_lower, effect_upper = effect_size(found, level)
    margin = np.where(margins[1], margins[0] * found.spread, margins[0])
    absent = [
        (known.any(axis=1) & np.isnan(side)).sum(axis=0) * (at >= 0)
        for known, side in zip(sides.measured, values, strict=True)
    ]
    columns: Columns = {
        "mean": found.mean,
        "sd": found.sd,
        "n_seeds": found.n,
        "n_nonfinite": np.stack([np.isinf(side).sum(axis=0) for side in values]),
        "n_absent": np.stack(absent),
        "n_common": n_common,
        "difference": found.difference,
        "stderr": found.stderr,
        "df": found.df,
        "lower": lower,
        "upper": upper,
        "effect": effect,
        "effect_lower": effect_lower,
        "effect_upper": effect_upper,
        "p": t_p(found),
        "detectable": detectable(found.df, found.stderr, power=POWER, alpha=1 - level),
        "margin": margin,
        "p_equivalence": equivalence_p(found, margin, standardised=margins[1]),
        "method": found.method,
        "reason": np.where(same, SAME_RUNS, np.where(at < 0, NOT_MEASURED, found.reason)),
    }
    return columns | _ratios(found, level), (this, other)


def at_steps(values: Floats, at: Ints) -> Floats:
    """Values (seed, metric) of (seed, step, metric) at the step number ``at`` of each metric, NaN at -1."""
    found = np.take_along_axis(values, np.maximum(at, 0)[None, None, :], axis=1)[:, 0]
    return np.where(at >= 0, found, np.nan)


def _ratios(found: Contrast, level: float) -> Columns:
    """Ratio of the seed variances with its F interval."""
    low, high = f_factors(found.n[1] - 1, found.n[0] - 1, level=level)
    with np.errstate(over="ignore"):
        ratio = divided(found.sd[1], found.sd[0]) ** 2
    return {"variance_ratio": ratio, "ratio_lower": ratio * low, "ratio_upper": ratio * high}


def _margins(given: float | Mapping[str, float], metrics: Sequence[str]) -> tuple[Floats, Bools]:
    """The margin of every metric, and whether it is in seed standard deviations."""
    if isinstance(given, Mapping):
        if absent := [name for name in given if name not in metrics]:
            raise AnalysisError(
                f"margin is given for {shown(absent)}, not compared. {did_you_mean(str(absent[0]), metrics)}"
            )
        said = numbers([given.get(name, 1.0) for name in metrics], "margin")
        standardised = np.array([name not in given for name in metrics])
    else:
        one = numbers(given, "margin")
        said = np.full(len(metrics), one if one.ndim == 0 else np.nan)
        standardised = np.ones(len(metrics), dtype=bool)
    if not ((said > 0) & np.isfinite(said)).all():
        raise AnalysisError(
            f"margin is {given!r}; it is a number of seed standard deviations above 0, or a mapping from metric to a "
            "difference above 0 in its units."
        )
    return said, standardised


def _labelled(matched: Matched, columns: Columns, attrs: dict[str, Any]) -> xr.Dataset:
    pairs = matched.models
    part = matched.this.sel(model=[a for a, _ in pairs], metric=list(matched.metrics))
    dims = ("model", "metric")
    found = {name: (("side", *dims)[3 - column.ndim :], column) for name, column in columns.items()}
    tested = columns["reason"] != NOT_MEASURED
    result = xr.Dataset(
        {name: found[name] for name in _DOCS},
        coords={
            **labels(part, "model", "metric"),
            "better": ("metric", np.array(matched.better, dtype=np.str_)),
            "other_model": ("model", np.array([b for _, b in pairs], dtype=np.str_)),
            "side": list(SIDES),
        },
        attrs={
            **attrs,
            "n_tests": int(np.isfinite(columns["p"]).sum()),
            "power": POWER,
            "same": int(bool(tested.any()) and bool((columns["reason"] == SAME_RUNS)[tested].all())),
            "n_models_alone": matched.alone[0],
            "n_metrics_alone": matched.alone[1],
            "notes": list(matched.notes),
        },
    )
    words = {"method": METHODS, "reason": REASONS, "verdict": VERDICTS, "change": CHANGES}
    return flagged(described(result, _DOCS), words)
