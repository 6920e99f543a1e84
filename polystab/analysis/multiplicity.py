"""Many tests at once."""

from __future__ import annotations

import numpy as np

from polystab.analysis.arrays import Floats, Ints


def adjusted_p(p: Floats, *, axis: int | tuple[int, ...] | None = None) -> tuple[Floats, Ints]:
    """P-values adjusted for their number, after Benjamini and Hochberg.

    Parameters
    ----------
    p : numpy.ndarray
        P-values, 0 to 1; NaN where there was no test.
    axis : int or tuple of int, optional
        The axes over which the tests of one family lie; by default all of them.

    Returns
    -------
    adjusted : numpy.ndarray
        Shape of ``p``. To reject where it is at most q keeps the expected share of false
        rejections among all rejections at or below q. NaN where there was no test.
    n_tests : numpy.ndarray of int
        Number of tests in each family, over the axes that are left.

    Notes
    -----
    The i-th smallest of m p-values becomes the least of ``m p_(j) / j`` over j >= i. That holds
    for independent tests and for those that depend positively, as the steps of one metric do.

    References
    ----------
    Benjamini, Y. and Hochberg, Y. (1995). Controlling the false discovery rate: a practical
    and powerful approach to multiple testing. Journal of the Royal Statistical Society B 57,
    289-300. https://doi.org/10.1111/j.2517-6161.1995.tb02031.x

    Examples
    --------
    >>> adjusted, n_tests = adjusted_p(np.array([0.01, 0.04, np.nan, 0.03]))
    >>> adjusted.round(3).tolist(), int(n_tests)
    ([0.03, 0.04, nan, 0.04], 3)
    """
    axes = range(p.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    taken = tuple(sorted(a % p.ndim for a in axes))
    left = tuple(a for a in range(p.ndim) if a not in taken)
    families = p.transpose(*left, *taken).reshape(*(p.shape[a] for a in left), -1)
    n_tests = np.sum(~np.isnan(families), axis=-1)
    order = np.argsort(families, axis=-1)  # NaN last
    ranked = np.take_along_axis(families, order, axis=-1)
    ranked *= n_tests[..., None] / np.arange(1, families.shape[-1] + 1)
    ranked = np.fmin.accumulate(ranked[..., ::-1], axis=-1)[..., ::-1]
    adjusted = np.empty_like(families)
    np.put_along_axis(adjusted, order, ranked, axis=-1)
    adjusted[np.isnan(families)] = np.nan
    back = np.argsort([*left, *taken])
    shape = [p.shape[a] for a in (*left, *taken)]
    return adjusted.reshape(shape).transpose(*back), n_tests
