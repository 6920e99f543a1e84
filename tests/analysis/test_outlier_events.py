"""Glitches, shared events and whose spikes the spikes of a loss are; depth and joint distance."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from cubes_of_arrays import make_cube

import polystab as ps
from polystab.analysis import outlier_scores
from polystab.analysis.outliers.distances import curve_depth, joint_distance
from polystab.analysis.outliers.events import shared_events, spike_scores
from polystab.errors import AnalysisError, UnknownNameError


def noise(seed: int, shape: tuple[int, ...] = (1, 6, 30, 2)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_a_bad_checkpoint_of_every_run_is_a_shared_event_and_no_glitch() -> None:
    value = noise(0)
    value[0, :, 15, 1] += 50
    found = shared_events(make_cube(value))
    assert np.argwhere(found["shared"].values).tolist() == [[0, 15, 1]]
    assert not found["glitch"].isel(step=15, metric=1).any()


def test_a_bad_checkpoint_of_one_run_is_its_glitch_and_no_shared_event() -> None:
    value = noise(1)
    value[0, 2, 15, 1] += 50
    found = shared_events(make_cube(value))
    assert not found["shared"].any()
    assert found["glitch"].values[0, 2, 15, 1]
    assert int(found["n_glitches"][0].argmax("seed")) == 2


def test_a_lasting_change_is_neither() -> None:
    value = noise(2)
    value[0, 2, 15:] += 50
    value[0, :, 20:] += 50
    found = shared_events(make_cube(value))
    assert not found["shared"].any()
    assert not found["glitch"].values[0, 2].any()


def test_share_out_of_range_is_refused() -> None:
    with pytest.raises(AnalysisError, match="share"):
        shared_events(make_cube(noise(3)), share=0)


def losses(*spikes: tuple[int | slice, int]) -> xr.Dataset:
    value = 3 + 0.01 * np.random.default_rng(4).normal(size=(1, 5, 400, 1))
    for run, update in spikes:
        value[0, run, update] += 1
    return make_cube(value, steps=range(400), metrics=["loss/train/ce"])


def test_spikes_of_all_runs_are_shared_and_those_of_one_are_its_own() -> None:
    found = spike_scores(losses((slice(None), 200), (3, 300))).isel(model=0).sel(rule="6 sd of 128")
    assert found["n_shared"].values.tolist() == [1] * 5
    assert found["n_own"].values.tolist() == [0, 0, 0, 1, 0]
    assert found["first_own"].values.tolist() == [-1, -1, -1, 300, -1]
    assert found["spike_score"].values[3] == pytest.approx(2 / (400 - 128))


def test_a_spike_some_updates_away_is_shared_only_within_reach() -> None:
    cube = losses((0, 200), (1, 203), (2, 203), (3, 203))
    shared = [spike_scores(cube, within=within)["n_shared"].values[0, 0, 0] for within in (2, 3)]
    assert shared == [0, 1]


def test_the_spikes_of_the_log_of_a_tree_are_those_of_a_cube() -> None:
    cube = losses((2, 250))
    loss = cube["value"].isel(metric=0, drop=True).rename(step="update")
    tree = xr.DataTree.from_dict({"/": cube, "/log": xr.Dataset({"loss": loss})})
    xr.testing.assert_identical(spike_scores(tree), spike_scores(cube))


def test_a_cube_without_losses_is_refused() -> None:
    with pytest.raises(AnalysisError, match="family 'loss'"):
        spike_scores(make_cube(noise(5)))
    with pytest.raises(UnknownNameError, match="loss/train/ce"):
        spike_scores(losses(), metric="loss/train/cr")
    with pytest.raises(AnalysisError, match="within"):
        spike_scores(losses(), within=-1)


@pytest.mark.slow
def test_spikes_of_modded_nanogpt_that_all_runs_of_a_record_share_are_no_runs_own(shared_data: Path) -> None:
    table = pd.read_csv(shared_data / "modded-nanogpt" / "train_loss.csv.gz")
    table = table[table["record"] == "2024-11-24_WindowWarmup"]
    frame = table.assign(
        model="window-warmup", seed=table["run"].astype("category").cat.codes, metric="loss/train/ce"
    ).rename(columns={"train_loss": "value"})
    cube = ps.cube_from_records(frame[["model", "seed", "step", "metric", "value"]])
    found = spike_scores(cube).isel(model=0).sel(rule="6 sd of 128")
    assert found["n_shared"].values.tolist() == [2] * 7
    assert found["n_own"].values.tolist() == [0] * 7


def depth_by_hand(curves: np.ndarray) -> list[float]:
    """Modified band depth straight from the definition, (run, step)."""
    pairs = list(combinations(range(len(curves)), 2))
    inside = [
        [(np.minimum(curves[a], curves[b]) <= own) & (own <= np.maximum(curves[a], curves[b])) for a, b in pairs]
        for own in curves
    ]
    return [float(np.mean(of)) for of in inside]


@pytest.mark.parametrize("levels", [None, 3])
def test_depth_agrees_with_the_definition_over_all_pairs(levels: int | None) -> None:
    rng = np.random.default_rng(6)
    curves = rng.normal(size=(6, 15)) if levels is None else rng.integers(levels, size=(6, 15)).astype(float)
    depth = curve_depth(make_cube(curves[None, :, :, None]))["depth"].values[0, :, 0]
    np.testing.assert_allclose(depth, depth_by_hand(curves))


def test_a_curve_outside_all_others_is_the_least_deep() -> None:
    value = noise(7)
    value[0, 4] += 10
    found = curve_depth(make_cube(value)).isel(model=0)
    assert found["depth"].sel(seed=4).values == pytest.approx(2 / 6)
    assert float(found["p_rank"].sel(seed=4)) == pytest.approx(1 / 6)


def test_depth_of_two_runs_or_of_nothing_is_nan() -> None:
    assert np.isnan(curve_depth(make_cube(noise(8, (1, 2, 5, 2))))["depth"]).all()
    assert np.isnan(curve_depth(make_cube(np.full((1, 5, 5, 2), np.nan)))["mean_depth"]).all()


@pytest.mark.slow
def test_joint_distance_sees_what_no_single_metric_shows() -> None:
    rng = np.random.default_rng(9)
    common = rng.normal(size=(1, 12, 20, 1))
    value = common + 0.05 * rng.normal(size=(1, 12, 20, 6))
    value[0, 3, :, 0] = -value[0, 3, :, 0]  # breaks the correlation, at an ordinary value
    cube = make_cube(value)
    single = abs(outlier_scores(cube)["score"]).isel(model=0).median("step").max("metric")
    assert int(single.argmax("seed")) != 3
    assert int(joint_distance(cube, factors=1)["distance"].isel(model=0).median("step").argmax("seed")) == 3


def test_joint_distance_finds_two_outliers_of_ten() -> None:
    value = noise(10, (1, 10, 20, 30))
    value[0, [2, 7]] += 6
    distance = joint_distance(make_cube(value))["distance"].isel(model=0).median("step").values
    assert sorted(np.argsort(distance)[-2:].tolist()) == [2, 7]


def test_joint_distance_does_not_depend_on_units_or_order() -> None:
    value = noise(11, (1, 8, 5, 4))
    order = np.random.default_rng(12).permutation(8)
    plain = joint_distance(make_cube(value))["distance"].values
    scaled = joint_distance(make_cube(value * [1, 1e6, -1e-6, 3]))["distance"].values
    np.testing.assert_allclose(scaled, plain, rtol=1e-6)
    np.testing.assert_allclose(
        joint_distance(make_cube(value[:, order]))["distance"].values, plain[:, order], rtol=1e-6
    )


def test_joint_distance_of_diverged_missing_equal_and_few_runs() -> None:
    value = noise(13, (1, 6, 4, 3))
    value[0, 1, 0] = np.inf
    value[0, 2, 1] = np.nan
    value[0, :, 2] = 1.0
    distance = joint_distance(make_cube(value))["distance"].values[0]
    assert int(np.argmax(distance[:, 0])) == 1
    assert np.isnan(distance[2, 1])
    assert (distance[:, 2] == 0).all()
    assert np.isnan(joint_distance(make_cube(noise(14, (1, 2, 4, 3))))["distance"]).all()


def test_joint_distance_refuses_no_factors() -> None:
    with pytest.raises(AnalysisError, match="factors"):
        joint_distance(make_cube(noise(15)), factors=0)
