"""Variance components by restricted maximum likelihood (REML)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from polystab.analysis.arrays import Bools, Floats, Ints
from polystab.analysis.options import check_shares, check_whole, generator_of
from polystab.analysis.reml.inputs import INTERCEPT, RESIDUAL, Inputs, read_inputs
from polystab.errors import AnalysisError, did_you_mean

# A factor with fewer levels gets no interval (DESIGN, rules of honest statistics, 2).
MIN_LEVELS = 3


@dataclass(frozen=True, eq=False)
class RemlFit:
    """Result of :func:`fit_reml`.

    For one response (``y`` of shape (n,)) every entry is a number; for y of shape
    (n, ...) it is an array of shape (...).

    Attributes
    ----------
    variance : dict of str to float or numpy.ndarray
        Variance of every factor, in the order given, then ``"residual"``; in squared
        units of y, never negative. A component on its boundary is exactly 0.
    criterion : float or numpy.ndarray
        -2 log restricted likelihood at the estimates, with the constant of lme4.
    fixed_effects : dict of str to float or numpy.ndarray
        Coefficients of the fixed effects by generalised least squares.
    standard_errors : dict of str to float or numpy.ndarray
        Standard errors **of the fixed effects**, as if the variances were known (they
        are somewhat too small where a factor has few levels). A variance has no useful
        standard error; see :meth:`profile_interval`.
    singular : bool or numpy.ndarray
        Whether a component is on its boundary, zero (the residual one too, where the
        design has no row to spare for it; then the search often does not converge).
    converged : bool or numpy.ndarray
        Whether the search ended at a minimum.
    n : int or numpy.ndarray
        Rows used.
    n_missing : int or numpy.ndarray
        Rows left out: y, a label or a fixed effect is missing.
    levels : dict of str to int
        Levels of every factor, over all responses.
    problem : str or numpy.ndarray
        Why a response among several has no estimates (they are NaN), or empty.
    """

    variance: Mapping[str, float | Floats]
    criterion: float | Floats
    fixed_effects: Mapping[str, float | Floats]
    standard_errors: Mapping[str, float | Floats]
    singular: bool | Bools
    converged: bool | Bools
    n: int | Ints
    n_missing: int | Ints
    levels: Mapping[str, int]
    problem: str | npt.NDArray[np.object_]
    _inputs: Inputs = field(repr=False)

    def profile_interval(self, name: str, *, level: float = 0.95) -> tuple[float | Floats, float | Floats]:
        """Profile likelihood interval of a variance.

        Parameters
        ----------
        name : str
            A factor, or ``"residual"``.
        level : float, optional
            Confidence level, between 0 and 1.

        Returns
        -------
        lower, upper : float or numpy.ndarray
            In squared units of y. NaN for a factor with fewer than three levels and for
            a response without estimates; for one without any spread both are 0.

        Raises
        ------
        AnalysisError
            ``name`` is no component, or ``level`` is not between 0 and 1.

        Notes
        -----
        The interval holds the variances at which the criterion, minimised over
        everything else, exceeds its minimum by no more than the ``level`` quantile of
        chi-square with one degree of freedom. If that includes zero the lower end is
        exactly 0; coverage there is at least nominal. With few levels coverage is
        approximate. Every end takes tens of evaluations of the criterion: milliseconds
        in small designs, minutes in those with thousands of levels. Responses are taken
        one by one.
        """
        from polystab.analysis.reml.profile import interval

        if name not in self.variance:
            raise AnalysisError(f"{name!r} is no component of this fit. {did_you_mean(name, self.variance)}")
        check_shares(level=level)
        variance = np.stack([np.ravel(value) for value in self.variance.values()], axis=1)
        ends = np.full((2, len(variance)), np.nan)
        place = list(self.variance).index(name)
        for i, estimates in enumerate(variance):
            if name != RESIDUAL:
                rows = ~np.isnan(self._inputs.y[:, i])
                if len(np.unique(self._inputs.codes[rows, place])) < MIN_LEVELS:
                    continue
            if np.isfinite(estimates).all():
                ends[:, i] = interval(self._inputs, i, place, estimates, level) if estimates.any() else 0.0
        if not self._inputs.shape:
            return float(ends[0, 0]), float(ends[1, 0])
        return ends[0].reshape(self._inputs.shape), ends[1].reshape(self._inputs.shape)

    def zero_test(
        self, name: str, *, n_simulations: int = 10_000, rng: int | np.random.Generator | None = None
    ) -> tuple[float | Floats, float | Floats]:
        """Test that the variance of a factor is zero, by the restricted likelihood ratio.

        Parameters
        ----------
        name : str
            A factor.
        n_simulations : int, optional
            How many responses are drawn under the null hypothesis. The smallest p that
            can come out is ``1 / (n_simulations + 1)``.
        rng : int, numpy.random.Generator or None, optional
            Source of chance; the same one gives the same p.

        Returns
        -------
        statistic, p : float or numpy.ndarray
            By how much the criterion is larger without the factor, and the chance of
            at least that were its variance zero. NaN for a response without estimates or
            without any spread.

        Raises
        ------
        AnalysisError
            ``name`` is no factor of this fit, or ``n_simulations`` is below 1.

        Notes
        -----
        Half a chi-square and half a point at zero, the usual reference, is wrong for few
        levels: zero has more than half of the probability. Instead responses are drawn from
        the fit without the factor and both models are fitted to them. Where it is the only
        factor the distribution depends on nothing unknown, and p is exact but for the
        number of draws (Crainiceanu and Ruppert), which responses with the same rows share. With other factors their variances are
        those of the fit without this one (parametric bootstrap). In simulations of 5
        models with 3, 5 and 10 seeds, true zeros were rejected at 5 % in 4.0-4.8 % (nested)
        and 3.8-6.5 % of the cells (crossed, 4.9 % over all, 1,000 cells each).

        In balanced designs the statistic grows with F, and the F test of
        :func:`variance_components` says the same in no time. With other factors every
        response has draws of its own: seconds each.

        References
        ----------
        Crainiceanu, C. M. and Ruppert, D. (2004). Likelihood ratio tests in linear mixed
        models with one variance component. Journal of the Royal Statistical Society B 66,
        165-185. https://doi.org/10.1111/j.1467-9868.2004.00438.x

        Examples
        --------
        >>> from polystab.analysis.variance import fit_reml
        >>> score = [0.61, 0.63, 0.62, 0.70, 0.71, 0.74, 0.66, 0.69, 0.66]
        >>> fit = fit_reml(score, {"model": ["14m"] * 3 + ["70m"] * 3 + ["31m"] * 3})
        >>> statistic, p = fit.zero_test("model", n_simulations=1000, rng=0)
        >>> round(statistic, 2), p < 0.01
        (9.18, True)
        """
        from polystab.analysis.reml.zero import zero_test

        if name not in self.levels:
            raise AnalysisError(f"{name!r} is no factor of this fit. {did_you_mean(name, self.levels)}")
        check_whole("n_simulations", n_simulations, 1)
        place = list(self.levels).index(name)
        criterion = np.ravel(self.criterion)
        found = zero_test(self._inputs, place, criterion, n_simulations, generator_of(rng))
        if not self._inputs.shape:
            return float(found[0][0]), float(found[1][0])
        return found[0].reshape(self._inputs.shape), found[1].reshape(self._inputs.shape)


def fit_reml(y: npt.ArrayLike, factors: Any, fixed: Any = None) -> RemlFit:
    """Split the variance of ``y`` into one component per factor and a residual, by REML.

    The model is ``y = X b + sum_k Z_k u_k + e`` with independent normal effects, one
    variance per factor and one for the residual.

    Parameters
    ----------
    y : array of float, shape (n,) or (n, ...)
        Rows along the first axis; any further axes are responses that share factors and
        fixed effects, each fitted on its own. NaN is missing: the row is left out for
        that response and counted in ``n_missing``.
    factors : mapping of str to array of labels, or pandas.DataFrame
        Labels of the n rows (text, integers, any hashables) for every grouping factor;
        rows are matched by position.
        A factor nested in another has labels that differ between the other's levels,
        e.g. ``"14m/seed3"``; labels that repeat make the factors crossed. Rows with a
        missing label (None, NaN) are left out.
    fixed : optional
        None for the intercept alone; or a mapping of name to column, a data frame, or a
        pair (matrix of shape (n, p), p names). Numbers (integers too) and truth values
        enter as they are; text enters in treatment coding, with the first level in
        sorted order as the reference and columns called ``name[level]``. The column
        ``"intercept"`` comes first unless the columns given already span it. Rows with
        a missing value are left out.

    Returns
    -------
    RemlFit
        ``variance``, ``criterion``, ``fixed_effects``, ``standard_errors`` (of the fixed
        effects), ``singular`` and more.

    Raises
    ------
    AnalysisError
        Values are infinite, shapes do not fit, the fixed effects are not independent, or
        the components cannot be told apart: a factor with one level, with one row for
        every level, equal to another factor, or spanned by the fixed effects; or the
        factors explain y exactly. Among several responses, one whose rows do not allow
        estimates gets NaN and its ``problem``; the error is raised if all have one.

    Notes
    -----
    The criterion is log det V + log det X'V^-1 X + (n - p)(1 + log(2 pi r^2 / (n - p))),
    with V the covariance over the residual variance and r^2 the weighted sum of squares,
    minimised over the ratios of the variances to the residual one. Ratios may reach 0
    exactly; then ``singular`` is true and the estimate is truncated. In balanced designs
    whose estimates are positive, REML equals the analysis of variance. If y does not
    vary outside the fixed effects, every variance is 0 and the criterion minus infinity.
    The criterion depends on how the fixed effects are coded and may be compared only
    between fits with the same ones.

    Designs of up to 250 levels are taken densely, for all responses at once. In
    balanced designs and with a single factor, no matrix is factorised after the first.
    Larger designs use sparse elimination, one response at a time.

    References
    ----------
    Patterson, H. D. and Thompson, R. (1971). Recovery of inter-block information when
    block sizes are unequal. Biometrika 58, 545-554. https://doi.org/10.1093/biomet/58.3.545

    Bates, D., Maechler, M., Bolker, B. and Walker, S. (2015). Fitting linear
    mixed-effects models using lme4. Journal of Statistical Software 67(1).
    https://doi.org/10.18637/jss.v067.i01

    Gilmour, A. R., Thompson, R. and Cullis, B. R. (1995). Average information REML.
    Biometrics 51, 1440-1450. https://doi.org/10.2307/2533274

    Examples
    --------
    >>> from polystab.analysis.variance import fit_reml
    >>> score = [0.61, 0.63, 0.62, 0.70, 0.71, 0.74, 0.66, 0.69, 0.66]
    >>> fit = fit_reml(score, {"model": ["14m"] * 3 + ["70m"] * 3 + ["31m"] * 3})
    >>> {name: round(value, 6) for name, value in fit.variance.items()}
    {'model': 0.002244, 'residual': 0.000278}
    """
    from polystab.analysis.reml.fit import estimate

    inputs = read_inputs(y, factors, fixed)
    found = estimate(inputs)
    bad = found.problem != ""
    if bad.all():
        count = len(bad)
        raise AnalysisError(
            found.problem[0] + (f" (So it is for the first of {count} responses.)" if count > 1 else "")
        )

    def shaped(column: npt.NDArray[Any]) -> Any:
        return column.reshape(inputs.shape) if inputs.shape else column[0].item()

    total = len(np.asarray(y))
    if INTERCEPT in inputs.columns:
        found.effects[:, inputs.columns.index(INTERCEPT)] += inputs.offset
    names = (*inputs.factors, RESIDUAL)
    return RemlFit(
        variance={name: shaped(found.variance[:, i]) for i, name in enumerate(names)},
        criterion=shaped(found.criterion),
        fixed_effects={name: shaped(found.effects[:, i]) for i, name in enumerate(inputs.columns)},
        standard_errors={name: shaped(found.errors[:, i]) for i, name in enumerate(inputs.columns)},
        singular=shaped(found.singular),
        converged=shaped(found.converged),
        n=shaped(found.n),
        n_missing=shaped(total - found.n),
        levels=dict(zip(inputs.factors, inputs.levels, strict=True)),
        problem=found.problem.reshape(inputs.shape) if inputs.shape else "",
        _inputs=inputs,
    )
