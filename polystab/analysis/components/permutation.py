"""Permutation test of variance components: the labels of the runs are dealt out again."""

from __future__ import annotations

import functools

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Floats, Ints, described, finite, labels, scaled
from polystab.analysis.audit.runs import counted_cells
from polystab.analysis.chunked import in_parts
from polystab.analysis.components.designs import Design, choose_design
from polystab.analysis.components.kernels import adjusted_basis, from_first, patterns, rounding
from polystab.analysis.multiplicity import adjusted_p
from polystab.analysis.options import check_whole, generator_of
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError

# Values held at a time.
_BLOCK = 2_000_000

# Sums of squares that differ by less, relatively, are of arrangements that are the same.
_SAME = 1e-9

_DOCS = {
    "p": "chance of so large a component if the labels of the runs meant nothing; not corrected for many tests",
    "p_adjusted": "p corrected for the number of tests (false discovery rate)",
    "n_tests": "tests of the component, over steps and metrics",
    "n_runs": "runs that count: measured, finite, and no copy of another",
}


def permutation_test(
    cube: xr.Dataset | xr.DataTree,
    *,
    design: str = "auto",
    n_permutations: int = 999,
    rng: int | np.random.Generator | None = None,
) -> xr.Dataset:
    """Test that a variance component is zero without taking the scores for normal.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        A cube.
    design : {'auto', 'nested', 'crossed', 'factorial'}, optional
        As in :func:`variance_components`. Of a factorial only one with a single run for
        each combination.
    n_permutations : int, optional
        How often the labels are dealt out again; no p is below
        ``1 / (n_permutations + 1)``.
    rng : int, numpy.random.Generator or None, optional
        Source of chance; the same one gives the same p.

    Returns
    -------
    xarray.Dataset
        Over (component, step, metric): ``p`` and ``p_adjusted`` (Benjamini and Hochberg,
        over steps and metrics); along component ``n_tests``; over (step, metric) ``n_runs``.
        The components are ``model`` (nested), ``model`` and ``seed`` (crossed), or
        ``initialisation`` and ``order`` (factorial).

    Raises
    ------
    AnalysisError
        No such design, or the cube does not allow it; ``n_permutations`` is below 1.

    Notes
    -----
    Nested: runs are dealt out to models again. Crossed: for ``seed``, the runs of each
    model to the seeds, and for ``model`` the other way round; so with initialisations and
    orders. The statistic is the sum of squares of the component, adjusted for the others,
    which orders the arrangements as F does. ``p`` is the share of arrangements, the one found
    counted among them, whose statistic is at least as large (Phipson and Smyth): where the
    runs are exchangeable it is valid for scores of any distribution, and with normal
    scores the F test of :func:`variance_components` is about the same and takes no time.
    In simulations 4-6 % of true zeros were rejected at 5 %.

    With few runs there are few arrangements, and p cannot be small: 3 models x 3 seeds
    crossed have 36 that differ. The same arrangements serve every cell with the same runs.
    Missing and infinite values and copies of other runs are left out. NaN where all runs
    are equal and where the component cannot be told from the rest.

    References
    ----------
    Phipson, B. and Smyth, G. K. (2010). Permutation P-values should never be zero.
    Statistical Applications in Genetics and Molecular Biology 9(1), 39.
    https://doi.org/10.2202/1544-6115.1585

    Examples
    --------
    >>> import polystab.testing
    >>> from polystab.analysis import permutation_test
    >>> cube = polystab.testing.variance_cube(n_models=4, n_seeds=5, n_steps=1, sd_model=3.0, rng=0)
    >>> found = permutation_test(cube, rng=0)
    >>> float(found["p"].sel(component="model").squeeze()) <= 0.05
    True
    """
    cube = as_cube(cube)
    check_whole("n_permutations", n_permutations, 1)
    plan = choose_design(cube, design)
    if "interaction" in plan.components:
        raise AnalysisError(
            "the factorial design has combinations with several runs, for which no permutation is exact; use the F "
            "tests of variance_components."
        )
    keys = generator_of(rng).random((n_permutations, len(plan.rows)))
    result = in_parts(functools.partial(_of_metrics, plan=plan, keys=keys), cube)
    adjusted, n_tests = adjusted_p(result["p"].values, axis=(1, 2))
    return described(result.assign(p_adjusted=(result["p"].dims, adjusted), n_tests=("component", n_tests)), _DOCS)


def _of_metrics(cube: xr.Dataset, *, plan: Design, keys: Floats) -> xr.Dataset:
    """What needs no other metrics; ``keys`` (permutation, run) order the runs."""
    shape = (cube.sizes["step"], cube.sizes["metric"])
    values = counted_cells(cube)[0].reshape(cube.sizes["model"] * cube.sizes["seed"], shape[0] * shape[1])[plan.rows]
    values = from_first(scaled(finite(values), axis=0)[0])
    small = rounding(values)
    tested = [k for k, low in enumerate(plan.below) if low == len(plan.below) - 1]
    p = np.full((len(tested), values.shape[1]), np.nan)
    for rows, columns in patterns(~np.isnan(values)):
        if not len(rows):
            continue
        y = values[np.ix_(rows, columns)]
        for place, k in enumerate(tested):
            p[place, columns] = _permuted(plan, k, rows, y, keys[:, rows], small[columns])
    return xr.Dataset(
        {
            "p": (("component", "step", "metric"), p.reshape(len(tested), *shape)),
            "n_runs": (("step", "metric"), (~np.isnan(values)).sum(axis=0).reshape(shape)),
        },
        coords={**labels(cube, "step", "metric"), "component": np.array([plan.components[k] for k in tested])},
        attrs={"design": plan.name, "n_permutations": len(keys)},
    )


def _permuted(plan: Design, k: int, rows: Ints, values: Floats, keys: Floats, small: Floats) -> Floats:
    """p of component ``k`` for cells (row, cell) that have the same runs.

    ``keys`` (permutation, row) order the runs; sums of squares up to ``small`` (cell,) are rounding.
    """
    others = [codes[rows] for j, codes in enumerate(plan.factors) if j != k]
    basis = adjusted_basis(plan.factors[k][rows], [plan.fixed[rows], *others])
    nothing = np.full(values.shape[1], np.nan)
    # Runs are exchanged within the levels of the other factor, or of the whole.
    within = others[0] if others else plan.fixed[rows]
    spread = values - _means(values, within)
    total = np.sum(spread**2, axis=0)
    if not basis.shape[1] or basis.shape[1] >= len(rows) - len(np.unique(within)):
        return nothing
    home = np.argsort(within, kind="stable")
    found = np.sum((basis.T @ spread) ** 2, axis=0)
    limit = found - _SAME * total
    as_large = np.zeros(values.shape[1], dtype=np.int64)
    step = max(_BLOCK // (basis.shape[1] * max(values.shape[1], len(rows))), 1)
    for start in range(0, len(keys), step):
        drawn = keys[start : start + step]
        arranged = np.empty(drawn.shape, dtype=np.int64)
        arranged[:, home] = np.lexsort((drawn, np.broadcast_to(within, drawn.shape)), axis=1)
        # Rows of the basis are exchanged instead of runs: it is the same, and one product serves all cells.
        turned = basis.T[:, arranged].transpose(1, 0, 2).reshape(-1, len(rows))
        squares = ((turned @ spread) ** 2).reshape(len(drawn), basis.shape[1], -1).sum(axis=1)
        as_large += (squares >= limit).sum(axis=0)
    return np.where(total > small, (1 + as_large) / (1 + len(keys)), nothing)


def _means(values: Floats, groups: Ints) -> Floats:
    """The mean of each row's group, (row, cell)."""
    codes = np.unique(groups, return_inverse=True)[1].ravel()
    member = np.equal.outer(np.arange(codes.max() + 1), codes).astype(np.float64)
    return np.asarray((member @ values / member.sum(axis=1)[:, None])[codes])
