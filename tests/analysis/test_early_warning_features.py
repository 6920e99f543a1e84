"""Statistics of prefixes: what they are, and that none of them looks ahead."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from cubes_of_arrays import make_cube
from early_warning_runs import STEPS, UPDATES, make_runs, tree_of, with_log
from hypothesis import given, settings
from hypothesis import strategies as st

import polystab as ps
from polystab.analysis.early_warning import prefix, prefix_features
from polystab.analysis.early_warning.features import STATISTICS
from polystab.errors import AnalysisError


def of(values: object, steps: list[int], *, at: int, metric: str = "probe/task/acc") -> dict[str, float]:
    """The statistics at a step of one curve."""
    cube = make_cube(np.reshape(values, (1, 1, -1, 1)), steps=steps, metrics=[metric])
    told = prefix_features(cube, steps=[at])["feature_value"][0, 0, 0]
    return dict(zip(told["statistic"].values.tolist(), told.values.tolist(), strict=True))


def spoiled(tree: xr.DataTree, step: int) -> xr.DataTree:
    """All that comes after the step is other than it was, and partly infinite or missing."""
    cube, log = tree.to_dataset().copy(deep=True), tree["log"].to_dataset().copy(deep=True)
    rng = np.random.default_rng(9)
    for data, dim in ((cube, "step"), (log, "update")):
        late = data[dim].values > step
        for name in data.data_vars:
            values = data[name].transpose(..., dim).values if data[name].dims[-1] != dim else data[name].values
            junk = rng.choice([np.nan, np.inf, 0.0, -1e9, 1e9], size=values.shape)
            data[name] = (
                data[name].transpose(..., dim).dims if data[name].dims[-1] != dim else data[name].dims,
                np.where(late, junk, values),
            )
    cube["value"] = cube["value"].transpose("model", "seed", "step", "metric")
    return tree_of(cube, log)


# No look ahead.


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS[1:])
def test_a_truncated_future_changes_nothing(step: int) -> None:
    tree, _ = make_runs(rng=1)
    whole = prefix_features(tree).sel(step=slice(None, step))
    xr.testing.assert_identical(prefix_features(prefix(tree, step)), whole)


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS[1:])
def test_another_future_changes_nothing(step: int) -> None:
    tree, _ = make_runs(rng=2)
    whole = prefix_features(tree).sel(step=slice(None, step))
    xr.testing.assert_identical(prefix_features(spoiled(tree, step)).sel(step=slice(None, step)), whole)


@pytest.mark.slow
@pytest.mark.parametrize("step", [4, 64, 200])
def test_a_truncated_future_changes_nothing_in_real_runs(step: int) -> None:
    tree = ps.load_tree("nano-edge")
    tree = tree_of(tree.to_dataset().isel(seed=[0, 1]), tree["log"].to_dataset().isel(seed=[0, 1]))
    whole = prefix_features(tree).sel(step=slice(None, step))
    xr.testing.assert_identical(prefix_features(prefix(tree, step)), whole)


@pytest.mark.slow
@pytest.mark.parametrize("gap", [30, 90])
def test_a_gap_that_is_filled_later_is_not_told_before(gap: int) -> None:
    tree, _ = make_runs(n_models=1, n_seeds=4)
    loss = tree["log"]["loss"].values.copy()
    loss[0, 0, gap:] = np.nan
    loss[0, 0, -1] = 3.0
    broken = with_log(tree, loss=loss)
    for step in STEPS[1:]:
        xr.testing.assert_identical(
            prefix_features(prefix(broken, step)), prefix_features(broken).sel(step=slice(None, step))
        )


# What they are.


@pytest.mark.slow
@settings(max_examples=20, deadline=None)
@given(st.floats(-5, 5), st.floats(-100, 100))
def test_a_line_has_its_slope_and_no_memory_of_noise(slope: float, start: float) -> None:
    steps = list(range(0, 110, 10))
    told = of([start + slope * s / 100 for s in steps], steps, at=100)
    assert told["slope"] == pytest.approx(slope, abs=1e-9)
    assert told["growth"] == pytest.approx(slope * 0.5, abs=1e-9)  # from 40 (30 to 50) to 90 (80 to 100)


def test_the_slope_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(0)
    steps = np.unique(rng.integers(0, 400, 120)).tolist()
    values = rng.standard_normal(len(steps))
    late = np.asarray(steps) > steps[-1] / 2
    wanted = np.polyfit(np.asarray(steps)[late] / steps[-1], values[late], 1)[0]
    assert of(values, steps, at=steps[-1])["slope"] == pytest.approx(wanted, rel=1e-9)


def test_the_roughness_of_white_noise_is_its_standard_deviation() -> None:
    values = 2.5 * np.random.default_rng(1).standard_normal(20_001)
    assert of(values, list(range(20_001)), at=20_000)["roughness"] == pytest.approx(2.5, rel=0.03)


@pytest.mark.parametrize("rho", [0.0, 0.6, 0.95])
def test_the_memory_of_autoregressive_noise_is_its_correlation(rho: float) -> None:
    rng = np.random.default_rng(2)
    values = np.zeros(8001)
    for t in range(1, 8001):
        values[t] = rho * values[t - 1] + rng.standard_normal()
    assert of(values, list(range(8001)), at=8000)["memory"] == pytest.approx(rho, abs=0.04)


def test_the_peak_is_the_largest_over_the_median_of_the_last_half() -> None:
    assert of([9, 9, 9, 9, 9, 1, 2, 7, 2, 3, 2], list(range(0, 110, 10)), at=100)["peak"] == 5


def test_the_level_is_the_mean_of_the_last_quarter_or_the_last_value() -> None:
    told = of([0, 0, 0, 0, 3, 4, 8], [0, 10, 20, 30, 80, 90, 100], at=100)
    assert (told["level"], told["last"]) == (5.0, 8.0)
    assert of([1.0, 2.0, 6.0], [0, 10, 50], at=100)["level"] == 6.0


@pytest.mark.parametrize("offset", [1e8, -1e12])
def test_a_large_offset_changes_only_levels(offset: float) -> None:
    # Multiples of 1/8 are exact beside the offset.
    values = np.round(8 * np.random.default_rng(3).standard_normal(41).cumsum()) / 8
    steps = list(range(41))
    plain, moved = of(values, steps, at=40), of(values + offset, steps, at=40)
    for name in ("slope", "roughness", "peak", "growth", "memory"):
        assert moved[name] == pytest.approx(plain[name], rel=1e-12)
    assert moved["level"] - offset == pytest.approx(plain["level"], abs=1e-3)


@pytest.mark.parametrize("power", [-900, 900])
def test_extreme_units_scale_everything_but_the_memory(power: int) -> None:
    values = np.random.default_rng(4).standard_normal(41)
    plain, scaled = of(values, list(range(41)), at=40), of(np.ldexp(values, power), list(range(41)), at=40)
    assert scaled["memory"] == plain["memory"]
    for name in ("level", "last", "slope", "roughness", "peak", "growth"):
        assert scaled[name] == np.ldexp(plain[name], power)


def test_losses_are_read_as_logarithms() -> None:
    values = np.exp(np.linspace(2, 1, 21))
    told = of(values, list(range(21)), at=20, metric="loss/train/cross_entropy")
    assert told["slope"] == pytest.approx(-1.0, rel=1e-9)


def test_missing_values_are_passed_over() -> None:
    values = np.random.default_rng(5).standard_normal(60)
    kept = np.delete(np.arange(60), [31, 40, 41, 50])
    gaps = values.copy()
    gaps[[31, 40, 41, 50]] = np.nan
    full, fewer = of(gaps, list(range(60)), at=59), of(values[kept], kept.tolist(), at=59)
    for name in ("level", "last", "slope", "peak", "growth"):
        assert full[name] == pytest.approx(fewer[name], rel=1e-12)


def test_a_constant_curve_has_no_memory_and_no_roughness() -> None:
    told = of([2.0] * 41, list(range(41)), at=40)
    assert (told["slope"], told["roughness"], told["peak"]) == (0.0, 0.0, 0.0)
    assert np.isnan(told["memory"])


def test_too_few_values_have_a_level_only() -> None:
    told = of([1.0, 2.0], [0, 10], at=10)
    assert told["level"] == 2.0
    assert all(np.isnan(told[name]) for name in ("slope", "roughness", "peak", "memory"))


def test_spikes_are_counted_in_the_log_only() -> None:
    told = prefix_features(make_runs()[0])
    counted = told["feature"].values[told["statistic"].values == "spikes"].tolist()
    assert counted == ["log/loss:spikes", "log/grad_norm:spikes"]
    assert set(told["statistic"].values.tolist()) == set(STATISTICS)


def test_spikes_count_up() -> None:
    tree, labels = make_runs(signal=0.0)
    counts = prefix_features(tree)["feature_value"].sel(feature="log/loss:spikes")
    assert (counts.sel(step=120) == 0).all()
    assert ((counts.sel(step=160) > 0) == labels["wrong"]).all()


# Divergence and ends.


def test_an_infinite_value_is_a_divergence_from_there_on() -> None:
    tree, _ = make_runs(n_models=1, n_seeds=4)
    norm = tree["log"]["grad_norm"].values.copy()
    norm[0, 2, 69] = np.inf  # update 70
    told = prefix_features(with_log(tree, grad_norm=norm))
    assert told["diverged"].sel(step=60).sum() == 0
    assert told["diverged"].sel(step=80).values.tolist() == [[False, False, True, False]]
    assert np.isfinite(told["feature_value"].sel(feature="log/grad_norm:level", step=80)).all()


def test_a_loss_that_is_missing_while_the_norm_goes_on_is_a_divergence() -> None:
    tree, _ = make_runs(n_models=1, n_seeds=4)
    loss = tree["log"]["loss"].values.copy()
    loss[0, 1, 69:] = np.nan
    assert prefix_features(with_log(tree, loss=loss))["diverged"].sel(step=80).values.tolist() == [
        [False, True, False, False]
    ]


def test_a_log_that_ends_is_no_divergence() -> None:
    tree, _ = make_runs(n_models=1, n_seeds=4)
    cube, log = tree.to_dataset().copy(deep=True), tree["log"].to_dataset().copy(deep=True)
    cube["value"][0, 1, 4:] = np.nan  # from step 80 on
    for name in ("loss", "grad_norm"):
        log[name][0, 1, 70:] = np.nan
    told = prefix_features(tree_of(cube, log))
    assert not told["diverged"].any()
    assert told["ended"].sel(seed=1).values.tolist() == [[False, False, False, False, False, True, True, True, True]]
    assert not told["ended"].sel(seed=[0, 2, 3]).any()


def test_a_loss_of_the_cube_that_only_this_run_lacks_is_a_divergence() -> None:
    value = np.ones((1, 4, 5, 2))
    value[0, 3, 3, 0] = np.nan
    cube = make_cube(value, metrics=["loss/train/cross_entropy", "eval/a/acc"])
    assert prefix_features(cube)["diverged"].sum("step").values.tolist() == [[0, 0, 0, 2]]


def test_a_loss_that_no_run_has_there_is_no_divergence() -> None:
    value = np.ones((1, 4, 5, 2))
    value[0, :, 3, 0] = np.nan
    cube = make_cube(value, metrics=["loss/train/cross_entropy", "eval/a/acc"])
    assert not prefix_features(cube)["diverged"].any()


def test_a_missing_evaluation_is_no_divergence() -> None:
    value = np.ones((1, 4, 5, 2))
    value[0, 3, 3, 1] = np.nan
    cube = make_cube(value, metrics=["loss/train/cross_entropy", "eval/a/acc"])
    assert not prefix_features(cube)["diverged"].any()


# Choice and bad input.


@pytest.mark.slow
def test_families_are_chosen() -> None:
    tree, _ = make_runs()
    assert set(prefix_features(tree, families=["log"])["curve"].values.tolist()) == {"log/loss", "log/grad_norm"}
    assert set(prefix_features(tree, metrics=["eval/task/acc"])["curve"].values.tolist()) == {"eval/task/acc"}


def test_an_unknown_family_is_refused_with_what_there_is() -> None:
    with pytest.raises(AnalysisError, match=r"no curve of 'weights'. Did you mean 'weight'"):
        prefix_features(make_runs()[0], families=["weights"])


def test_steps_that_do_not_increase_are_refused() -> None:
    with pytest.raises(AnalysisError, match="do not increase"):
        prefix_features(make_runs()[0], steps=[40, 20])


def test_a_cube_without_runs_is_refused() -> None:
    with pytest.raises(AnalysisError, match="no runs"):
        prefix_features(make_runs()[0].to_dataset().isel(seed=[]))


def test_the_input_is_not_changed() -> None:
    tree, _ = make_runs()
    before = tree.copy(deep=True)
    prefix_features(tree)
    xr.testing.assert_identical(tree.to_dataset(), before.to_dataset())
    xr.testing.assert_identical(tree["log"].to_dataset(), before["log"].to_dataset())


def test_everything_is_described() -> None:
    told = prefix_features(make_runs()[0])
    assert all(told[name].attrs.get("long_name") for name in told.data_vars)
    assert STEPS[-1] == UPDATES
