"""Bands over seeds, final steps, and the order of metrics."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from cubes_of_arrays import make_cube
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import polystab.testing
from polystab.analysis import final_steps, pick_models, rank_metrics, seed_band, seed_spread
from polystab.analysis.arrays import quantiles
from polystab.analysis.trajectories import metric_group
from polystab.errors import AnalysisError


def test_quantiles_agree_with_numpy_where_values_are_missing() -> None:
    rng = np.random.default_rng(0)
    value = rng.normal(size=(2, 9, 4, 3))
    value[rng.random(value.shape) < 0.3] = np.nan
    band = seed_band(make_cube(value), q=(0.1, 0.5, 0.9))
    n = (~np.isnan(value)).sum(axis=1)
    np.testing.assert_array_equal(band["n"], n)
    expected = np.nanquantile(value, [0.1, 0.5, 0.9], axis=1)
    enough = n >= 3
    for i in range(3):
        np.testing.assert_allclose(band["value"].values[..., i][enough], expected[i][enough])


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(arrays(np.float64, st.integers(1, 12), elements=st.floats(-1e300, 1e300)), st.floats(0, 1))
def test_the_quantile_kernel_is_numpys_linear_quantile(values: np.ndarray, q: float) -> None:
    got = quantiles(values[:, None], (q,), axis=0)[0][0, 0]
    assert got == pytest.approx(np.quantile(values, q), rel=1e-9, abs=1e-9 * np.abs(values).max())


def test_without_any_run_the_band_is_nan_and_n_is_zero() -> None:
    value = np.ones((1, 4, 2, 1))
    value[:, :, 1] = np.nan
    band = seed_band(make_cube(value))
    assert np.isnan(band["value"].isel(step=1)).all()
    assert band["n"].values.ravel().tolist() == [4, 0]


def test_fewer_than_three_runs_have_a_median_but_no_band() -> None:
    band = seed_band(make_cube(np.array([1.0, 3.0]).reshape(1, 2, 1, 1)))["value"].squeeze()
    assert np.isnan(band.sel(quantile=[0.25, 0.75])).all()
    assert float(band.sel(quantile=0.5)) == 2


def test_diverged_runs_do_not_enter_the_band() -> None:
    band = seed_band(make_cube(np.array([1, 2, 3, np.inf]).reshape(1, 4, 1, 1))).squeeze()
    assert band["value"].values.tolist() == [1.5, 2, 2.5]
    assert (int(band["n"]), int(band["n_nonfinite"])) == (3, 1)


def test_permuting_and_scaling() -> None:
    value = np.random.default_rng(1).normal(size=(1, 7, 3, 2))
    order = np.random.default_rng(2).permutation(7)
    one = seed_band(make_cube(value))
    xr.testing.assert_identical(one, seed_band(make_cube(value[:, order])))
    np.testing.assert_allclose(seed_band(make_cube(3 * value))["value"], 3 * one["value"])


@pytest.mark.parametrize("q", [(-0.1,), (1.5,), (0.5, np.nan)])
def test_impossible_quantiles_are_refused(q: tuple[float, ...]) -> None:
    with pytest.raises(AnalysisError, match="between 0 and 1"):
        seed_band(make_cube(np.ones((1, 1, 1, 1))), q=q)


def ragged(ends: list[int], n_step: int = 6) -> xr.Dataset:
    """Runs that stop after so many steps."""
    value = np.random.default_rng(3).normal(size=(1, len(ends), n_step, 1))
    for s, end in enumerate(ends):
        value[0, s, end:] = np.nan
    return make_cube(value)


@pytest.mark.parametrize(
    ("ends", "step"),
    [
        ([6, 6, 6], 5000),  # all alike
        ([4, 4, 6], 3000),  # a lone longer run does not decide
        ([3, 6, 6], 5000),  # nor does a lone shorter one
        ([4, 6], 3000),  # of two runs, one is not more than half
        ([6], 5000),  # a single run is all there is
        ([0, 0], -1),  # nothing measured
    ],
)
def test_the_final_step_is_the_last_that_more_than_half_of_the_runs_share(ends: list[int], step: int) -> None:
    assert final_steps(ragged(ends))["step"].values.tolist() == [[step]]


def test_copies_do_not_decide_the_final_step() -> None:
    value = np.random.default_rng(4).normal(size=(1, 3, 8, 1))
    value[0, :2, 6:] = np.nan
    with_copies = np.concatenate([value, value[:, 2:3], value[:, 2:3]], axis=1)
    xr.testing.assert_identical(final_steps(make_cube(with_copies)), final_steps(make_cube(value)))
    assert final_steps(make_cube(value))["step"].values.tolist() == [[5000]]


def test_ranks_are_a_permutation_and_the_strongest_comes_first() -> None:
    rng = np.random.default_rng(5)
    value = 0.01 * rng.normal(size=(2, 5, 10, 3))
    value[..., 1] += np.linspace(0, 5, 10)[:, None].T
    value[..., 2] += np.linspace(0, 1, 10)[:, None].T
    ranked = rank_metrics(make_cube(value, metrics=["eval/a/acc", "eval/b/acc", "eval/c/acc"]))
    assert ranked["rank"].values.tolist() == [2, 0, 1]


def test_families_and_kinds_of_metrics_take_turns() -> None:
    names = [f"eval/mmlu_{i}/acc" for i in range(5)] + ["eval/piqa/acc", "loss/train/ce"]
    value = np.linspace(0, 1, 20)[None, None, :, None] * np.array([9, 8, 7, 6, 5, 2, 1.0])
    value = value + 0.01 * np.random.default_rng(6).normal(size=(1, 4, 20, 7))
    ranked = rank_metrics(make_cube(value, metrics=names))
    ordered = [names[i] for i in np.argsort(ranked["rank"].values)]
    assert set(ordered[:3]) == {ordered[0], "eval/piqa/acc", "loss/train/ce"}
    assert ordered[0].startswith("eval/mmlu")


def test_a_single_step_has_no_signal() -> None:
    assert np.isnan(rank_metrics(make_cube(np.ones((1, 3, 1, 2))))["signal"]).all()


def test_a_flat_metric_ranks_last_and_a_noiseless_one_first() -> None:
    value = np.zeros((1, 3, 12, 3))
    value[..., 1] = np.random.default_rng(7).normal(size=(1, 3, 12))
    value[0, :, :, 2] = np.arange(12)
    ranked = rank_metrics(make_cube(value, metrics=["eval/a/x", "eval/b/x", "eval/c/x"]))
    assert ranked["rank"].values[0] == 2


def test_signal_uses_the_item_error_where_it_is_known() -> None:
    value = np.linspace(0, 1, 5).reshape(1, 1, 5, 1)
    ranked = rank_metrics(make_cube(value, stderr=np.full(value.shape, 0.1)))
    assert float(ranked["signal"][0]) == pytest.approx(10)


@pytest.mark.parametrize(
    ("component", "subject", "group"),
    [
        ("mlp.dense", "layers.3.mlp.dense", "mlp.dense"),
        ("", "hendrycksTest-virology", "hendrycksTest"),
        ("", "_x", "_x"),
    ],
)
def test_groups_of_metrics(component: str, subject: str, group: str) -> None:
    assert metric_group(component, subject) == group


def test_all_models_are_picked_where_there_are_few() -> None:
    spread = seed_spread(polystab.testing.synthetic_cube(n_models=3, rng=0))
    assert pick_models(spread, limit=3) == spread["model"].values.tolist()


def test_models_with_the_largest_spread_are_picked_in_the_order_of_the_cube() -> None:
    scale = np.array([1.0, 9.0, 2.0, 8.0, 3.0])
    value = np.random.default_rng(8).normal(size=(5, 6, 2, 3)) * scale[:, None, None, None]
    value[4, 2:] = np.nan  # only two runs
    assert pick_models(seed_spread(make_cube(value)), limit=2) == ["m1", "m3"]
