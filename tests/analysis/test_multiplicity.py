"""Adjusted p-values: scipy as oracle, missing tests."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from polystab.analysis.multiplicity import adjusted_p


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_adjusted_values_are_those_of_scipy_along_an_axis(axis: int) -> None:
    p = np.random.default_rng(1).random((3, 4, 5)) ** 2
    np.testing.assert_allclose(adjusted_p(p, axis=axis)[0], scipy.stats.false_discovery_control(p, axis=axis))


def test_several_axes_make_one_family() -> None:
    p = np.random.default_rng(2).random((3, 4, 5)) ** 2
    expected = [scipy.stats.false_discovery_control(p[:, i].ravel()).reshape(3, 5) for i in range(4)]
    np.testing.assert_allclose(adjusted_p(p, axis=(0, 2))[0], np.stack(expected, axis=1))


def test_what_was_not_tested_does_not_count() -> None:
    p = np.array([[0.01, np.nan, 0.04], [np.nan, np.nan, np.nan]])
    adjusted, n_tests = adjusted_p(p, axis=1)
    np.testing.assert_allclose(adjusted, [[0.02, np.nan, 0.04], [np.nan, np.nan, np.nan]])
    assert n_tests.tolist() == [2, 0]


def test_no_tests_have_no_values() -> None:
    adjusted, n_tests = adjusted_p(np.empty((2, 0)), axis=1)
    assert (adjusted.shape, n_tests.tolist()) == ((2, 0), [0, 0])


def test_p_values_are_not_changed() -> None:
    p = np.array([0.5, 0.1])
    adjusted_p(p)
    assert p.tolist() == [0.5, 0.1]
