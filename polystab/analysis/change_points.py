"""When a curve changes its level, slope or variance, how sure that is, and where it may be."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Floats, Ints
from polystab.analysis.segments.details import Fits, fitted, intervals, p_values
from polystab.analysis.segments.engine import Cut, by_likelihood, by_name, by_penalty, null_of
from polystab.analysis.segments.inputs import (
    Group,
    Options,
    groups,
    normal_positions,
    read_options,
    read_positions,
    read_series,
)
from polystab.analysis.segments.null import Null
from polystab.analysis.segments.profile import MIN_SIZES, Model, autocorrelation
from polystab.errors import AnalysisError
from polystab.progress_bars import Bar


@dataclass(frozen=True, eq=False)
class Segmentation:
    """A series cut where it changes; all indices count the points of the series as it was given.

    Attributes
    ----------
    indices : numpy.ndarray
        First index of every segment but the first; empty: no change. With cost
        ``continuous`` the points at which the line bends.
    before : numpy.ndarray
        Last index of the segment before each change that was measured: with ``indices`` the bracket.
    intervals : numpy.ndarray
        First and last plausible index of each change (95 %), shape (changes, 2).
    p_values : numpy.ndarray
        For each change, how often a series without changes has one as strong anywhere.
    sizes : numpy.ndarray
        Step of the fitted value at each change, in units of ``y``, (changes,) or
        (changes, columns); with cost ``continuous`` the change of slope, per unit of ``x``.
    penalty : float
        What each change cost; the strength a change had to have. NaN where none could be looked for.
    cost_path : numpy.ndarray
        Cost with k = 0, 1, ... changes; ``cost_path + penalty * k`` was minimised. Minus
        twice the log-likelihood (arbitrary origin), or with a number as penalty the plain cost.
    segments : tuple of numpy.ndarray
        The indices of the best segmentation with k = 0, 1, ... changes.
    p_none : float
        How often a series without changes has changes as strong as this one's.
    glitches : numpy.ndarray
        Indices of isolated bad points, left out.
    rho : float
        Fitted autocorrelation (AR(1) coefficient) of the noise around the segments; 0
        where it was not fitted.
    fitted : numpy.ndarray
        Value of the segments' means or lines, of the shape of ``y``; NaN at points left out.
    notes : tuple of str
        What was left out, and why no change could be looked for.
    """

    indices: Ints
    before: Ints
    intervals: Ints
    p_values: Floats
    sizes: Floats
    penalty: float
    cost_path: Floats
    segments: tuple[Ints, ...]
    p_none: float
    glitches: Ints
    rho: float
    fitted: Floats
    notes: tuple[str, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.indices)


def segment(
    y: npt.ArrayLike,
    *,
    x: npt.ArrayLike | None = None,
    cost: str = "l2",
    false_alarm: float = 0.05,
    penalty: float | str | None = None,
    min_size: int | None = None,
    max_changes: int | None = None,
    replicates: npt.ArrayLike | None = None,
    rng: int | np.random.Generator | None = None,
) -> Segmentation:
    """Where a series changes, exactly, with a stated rate of false alarms.

    Parameters
    ----------
    y : array_like
        One series, shape (n,), or several that change together, (n, columns). NaN is not
        measured; a point that is NaN or infinite (diverged) in any column is left out.
    x : array_like, optional
        Increasing positions of the points: steps, or their logarithm. The index by
        default. Matters for lines only.
    cost : {"l2", "meanvar", "linear", "continuous"}, optional
        What is constant within a segment: the mean; the mean and the variance; a line,
        which may jump; a line that bends but does not jump (a single column only).
    false_alarm : float, optional
        Wanted share of series without changes in which some change is found.
    penalty : float or {"aic", "bic", "mbic"}, optional
        A classical penalty instead, for white noise: a number on the scale of the cost
        (squared units of ``y``; for ``meanvar`` of minus twice the log-likelihood), or a
        criterion by name.
    min_size : int, optional
        Fewest points of a segment: 3 (l2, continuous), 4 (linear), 6 (meanvar).
    max_changes : int, optional
        At most so many. By default as many as leave each segment two points to spare.
    replicates : array_like, optional
        The same curve in other runs, (runs, n) or (runs, n, columns). Their deviations
        from their common mean tell the autocorrelation better than one short series can.
    rng : int or numpy.random.Generator, optional
        For simulations, needed with several columns, replicates or another ``min_size``.
        By default a fixed stream: the same series gets the same answer.

    Returns
    -------
    Segmentation
        No changes is an ordinary answer. A series of fewer than 2 ``min_size`` + 2
        points, or of a single value, has none, and ``notes`` say why.

    Raises
    ------
    AnalysisError
        An unknown cost or penalty, numbers out of range, positions that do not increase.

    Notes
    -----
    Every segment is a stationary AR(1) series with a level (or line) of its own and a
    common coefficient and variance. The segmentation is the exact minimum, over all
    segmentations and a grid of coefficients, of minus twice the log-likelihood plus
    ``penalty`` times the number of changes (dynamic programming; with a number as
    penalty PELT, which prunes). The penalty is the strength that only a share ``false_alarm``
    of simulated series without changes reach; it allows for the length and for the
    lag-1 autocorrelation of the residuals. Intervals hold all places at which the
    log-likelihood is within 3.67 of its maximum (95 % by Hansen 2000), the other changes
    held. Glitches (one or two points whose neighbours agree) are left out first. With a
    penalty by number or name they are not, and the noise counts as white.

    The rate of false alarms holds for Gaussian AR(1) noise with a coefficient from 0 to
    0.97; below 0 there are fewer. Heavier tails alarm more often: Student's t with 5
    degrees of freedom in 5 to 6 % of series of 27 points and 12 % of 154. Another
    ``min_size`` and several columns are simulated when first asked for, which takes seconds.

    Named criteria count two parameters for each change (three where the variance or a
    slope changes too): aic 2, bic log n for each; mbic (Zhang and Siegmund 2007) takes
    3 log n and the logarithm of the segments' shares of the length.

    A trend is no AR(1) noise: to a cost of means it looks like many changes or like
    a very high autocorrelation. Give curves that climb throughout to a cost of lines.

    References
    ----------
    Killick, R., Fearnhead, P. and Eckley, I. A. (2012). Optimal detection of changepoints
    with a linear computational cost. Journal of the American Statistical Association
    107, 1590-1598. https://doi.org/10.1080/01621459.2012.737745

    Hansen, B. E. (2000). Sample splitting and threshold estimation. Econometrica 68,
    575-603. https://doi.org/10.1111/1468-0262.00124

    Zhang, N. R. and Siegmund, D. O. (2007). A modified Bayes information criterion.
    Biometrics 63, 22-32. https://doi.org/10.1111/j.1541-0420.2006.00662.x

    Examples
    --------
    >>> import numpy as np
    >>> from polystab.analysis.change_points import segment
    >>> noise = np.random.default_rng(0).normal(size=60)
    >>> found = segment(noise + np.repeat([0.0, 3.0], 30))
    >>> found.indices.tolist(), bool(found.p_values[0] < 0.001)
    ([30], True)
    >>> segment(noise).indices.tolist()
    []
    """
    values = read_series(y)
    if values.ndim not in (1, 2) or 0 in values.shape:
        raise AnalysisError(f"A series has shape (n,) or (n, columns) with at least one point, got {values.shape}.")
    options = read_options(cost, min_size, max_changes, false_alarm, penalty)
    n_columns = 1 if values.ndim == 1 else values.shape[1]
    if cost == "continuous" and n_columns > 1:
        raise AnalysisError(
            f"cost 'continuous' takes one series at a time, got {n_columns} columns. "
            f"Use cost='linear' for columns that change together."
        )
    positions = read_positions(x, len(values))
    rho = None if replicates is None else _replicated(read_series(replicates), values.shape)
    return _segmented(values.reshape(1, len(values), -1), positions, options, _seed(rng), rho, values.ndim == 1)[0]


def segment_many(
    y: npt.ArrayLike,
    *,
    x: npt.ArrayLike | None = None,
    cost: str = "l2",
    false_alarm: float = 0.05,
    penalty: float | str | None = None,
    min_size: int | None = None,
    max_changes: int | None = None,
    rng: int | np.random.Generator | None = None,
) -> list[Segmentation]:
    """Where each of many series changes, on its own: :func:`segment` for all rows of a table, many times quicker.

    Parameters
    ----------
    y : array_like
        Series of shape (series, n); NaN is not measured.
    x, cost, false_alarm, penalty, min_size, max_changes, rng
        As for :func:`segment`. The false-alarm rate is per series.

    Returns
    -------
    list of Segmentation
        One for each row.

    Raises
    ------
    AnalysisError
        As :func:`segment` does.

    Examples
    --------
    >>> import numpy as np
    >>> from polystab.analysis.change_points import segment_many
    >>> curves = np.random.default_rng(0).normal(size=(3, 40))
    >>> curves[1, 25:] += 5
    >>> [found.indices.tolist() for found in segment_many(curves)]
    [[], [25], []]
    """
    values = read_series(y)
    if values.ndim != 2 or not values.shape[1]:
        raise AnalysisError(f"Many series have shape (series, n) with at least one point, got {values.shape}.")
    options = read_options(cost, min_size, max_changes, false_alarm, penalty)
    positions = read_positions(x, values.shape[1])
    return _segmented(values[:, :, None], positions, options, _seed(rng), None, True)


def _seed(rng: int | np.random.Generator | None) -> int:
    if isinstance(rng, np.random.Generator):
        return int(rng.integers(2**32))
    return 0 if rng is None else int(np.random.SeedSequence(rng).generate_state(1)[0])


def _replicated(replicates: Floats, shape: tuple[int, ...]) -> float:
    """Autocorrelation of the deviations of runs from their common mean, corrected for having been centred."""
    n = shape[0]
    if replicates.shape[1:] != shape or len(replicates) < 2:
        raise AnalysisError(
            f"replicates holds at least two other runs of the series, shape (runs, {', '.join(map(str, shape))}); "
            f"got {replicates.shape}."
        )
    known = np.isfinite(replicates).reshape(len(replicates), n, -1).all(axis=(0, 2))
    if known.sum() < 2 * MIN_SIZES["l2"] + 2:
        raise AnalysisError(f"replicates are all finite at {known.sum()} points only; they tell no autocorrelation.")
    residual = replicates[:, known] - replicates[:, known].mean(axis=0)
    residual = residual - residual.mean(axis=1, keepdims=True)
    square = float(np.sum(residual**2))
    if square == 0:
        raise AnalysisError("replicates are all the same curve: copies of a run say nothing about its noise.")
    lagged = float(np.sum(residual[:, 1:] * residual[:, :-1])) / square
    m = int(known.sum())
    # Kendall's bias of a centred series: E r = rho - (1 + 3 rho) / n.
    return float((lagged + 1 / m) / (1 - 3 / m))


def _segmented(y: Floats, x: Floats, options: Options, seed: int, rho: float | None, flat: bool) -> list[Segmentation]:
    """Every series of (series, n, columns), those known at the same points together."""
    found: dict[int, Segmentation] = {}
    x, unit = normal_positions(x)
    with Bar("looking for change points", unit="curve", total=len(y)) as bar:
        for group in groups(y, cleaned=options.penalty is None):
            model = Model(options.cost, x[group.kept], options.min_size)
            cuts, nulls, reasons = _cut(group, model, options, seed, rho)
            for i, row in enumerate(group.rows.tolist()):
                found[row] = _described(group, i, model, cuts.get(i), nulls, reasons[i], y.shape[1], unit, flat)
                bar.advance()
    return [found[row] for row in range(len(y))]


def _cut(
    group: Group, model: Model, options: Options, seed: int, rho: float | None
) -> tuple[dict[int, Cut], Null | None, list[str]]:
    """Segmentations of the series of a group that can have changes, and why the others cannot."""
    n = len(group.kept)
    most = options.most(n)
    if not n or (not most and options.max_changes != 0):
        reason = f"{n} points are too few for two segments" if n else "no point was measured"
        return {}, None, [reason] * len(group.rows)
    moves = np.any(group.y != 0, axis=(1, 2))
    reasons = ["" if m else "all values are equal" for m in moves]
    active = np.flatnonzero(moves)
    if not len(active):
        return {}, None, reasons
    y, penalty = group.y[active], options.penalty
    null = null_of(model, y, seed=seed, rho=rho, exact=penalty is None)
    if penalty is None:
        cuts = by_likelihood(model, y, null.criterion(options.false_alarm, autocorrelation(model, y)), most)
    elif isinstance(penalty, str):
        cuts = by_name(model, y, penalty, most)
    else:
        cuts = []
        for series, factor in zip(y, group.factor[active], strict=True):
            cut = _in_units(model, series, float(factor[0]), penalty, most, limited=options.max_changes is not None)
            cuts.append(cut)
    return dict(zip(active.tolist(), cuts, strict=True)), null, reasons


def _in_units(model: Model, y: Floats, factor: float, penalty: float, most: int, *, limited: bool) -> Cut:
    """A segmentation at a penalty in the caller's units, of a series whose unit is ``factor`` of theirs."""
    if model.kind == "meanvar":
        cut = by_penalty(model, y, penalty, most, limited=limited)
        cut.path = cut.path + 2 * y.size * np.log(factor)
        return cut
    # A penalty that no series of size 1 could pay may as well be this one.
    cut = by_penalty(model, y, min(penalty / factor / factor, 1e290), most, limited=limited)
    with np.errstate(over="ignore"):  # a sum of squares beyond the largest float is infinite, as it should be
        return replace(cut, penalty=penalty, path=cut.path * factor * factor)


def _described(
    group: Group, i: int, model: Model, cut: Cut | None, null: Null | None, reason: str, n: int, unit: float, flat: bool
) -> Segmentation:
    """A segmentation in the points and units of the caller."""
    y, kept = group.y[i], group.kept
    if cut is None or null is None:
        cut = Cut(np.empty(0, np.int64), np.nan, np.full(1, np.nan), [np.empty(0, np.int64)])
        p, places, p_none = np.empty(0), np.empty((0, 2), dtype=np.int64), np.nan
    else:
        estimate = float(autocorrelation(model, y[None])[0])
        fits = Fits(model, y)
        p = p_values(fits, cut.changes, null, estimate)
        places = intervals(fits, cut.changes, model.min_size)
        p_none = float(null.p_value(np.array([cut.strength]), estimate)[0]) if np.isfinite(cut.strength) else np.nan
    values, sizes = fitted(model, y, cut.changes)
    full = np.full((n, y.shape[1]), np.nan)
    with np.errstate(over="ignore"):
        full[kept] = values * group.factor[i] + group.centre[i]
        sizes = sizes * group.factor[i] / (unit if model.kind == "continuous" else 1.0)
    diverged = f"{group.n_infinite[i]} points are infinite: diverged, left out" if group.n_infinite[i] else ""
    return Segmentation(
        indices=kept[cut.changes],
        before=kept[cut.changes - 1],
        intervals=kept[places],
        p_values=p,
        sizes=sizes[:, 0] if flat else sizes,
        penalty=cut.penalty,
        cost_path=cut.path[: len(cut.segments)],
        segments=tuple(kept[changes] for changes in cut.segments),
        p_none=p_none,
        glitches=group.glitches,
        rho=cut.rho,
        fitted=full[:, 0] if flat else full,
        notes=tuple(note for note in (reason, diverged) if note),
    )
