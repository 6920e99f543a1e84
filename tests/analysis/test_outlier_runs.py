"""Verdicts on runs: known outliers, what must not become one, algebra, exactness, bad input."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from cubes_of_arrays import make_cube

import polystab as ps
import polystab.testing
from polystab.analysis.outliers.kernels import (
    contrasts,
    filled,
    log_ratios,
    rotation_test,
    rotations,
    running_median,
    stretch,
    windows,
)
from polystab.analysis.outliers.leads import lead_lag
from polystab.analysis.outliers.verdicts import outlier_runs
from polystab.errors import AnalysisError

DRAWS = 199


def clean(
    runs: int, steps: int, metrics: int, rng: np.random.Generator, *, rho: float = 0.8, df: float = np.inf
) -> np.ndarray:
    """Curves (1, run, step, metric): AR(1) noise, half of its variance common to all metrics, on a rising mean."""

    def noise(columns: int) -> np.ndarray:
        size = (runs, steps + 30, columns)
        value = rng.standard_normal(size) if np.isinf(df) else rng.standard_t(df, size)
        for t in range(1, steps + 30):
            value[:, t] = rho * value[:, t - 1] + np.sqrt(1 - rho**2) * value[:, t]
        return value[:, 30:]

    sign = rng.choice([-1.0, 1.0], metrics)
    value = np.sqrt(0.5) * (noise(metrics) + sign * noise(1))
    return np.asarray(value + np.linspace(0, 5, steps)[:, None])[None]


def found(cube: xr.Dataset) -> list[int]:
    result = outlier_runs(cube, draws=DRAWS)
    return result["seed"].values[result["outlier"].values[0]].tolist()


@pytest.fixture(scope="module")
def map_410m(request: pytest.FixtureRequest) -> xr.Dataset:
    shared_data: Path = request.getfixturevalue("shared_data")
    table = pd.read_csv(shared_data / "pythia-training-maps" / "training_maps.tsv", sep="\t")
    columns = {"model": "pythia-410m", "seed": table["seed"], "step": table["step"], "value": table["score"]}
    return outlier_runs(ps.cube_from_records(pd.DataFrame({**columns, "metric": "eval/average/score"})))


@pytest.mark.slow
def test_the_outliers_of_the_410m_map_are_seeds_3_and_4_and_not_6(map_410m: xr.Dataset) -> None:
    run = map_410m.isel(model=0)
    assert run["seed"].values[run["outlier"]].tolist() == [3, 4]


@pytest.mark.slow
def test_the_outliers_of_the_410m_map_begin_where_they_are_known_to(map_410m: xr.Dataset) -> None:
    run = map_410m.isel(model=0).sel(seed=[3, 4])
    assert run["from_step"].values.tolist() == [83000, 123000]
    assert run["until_step"].values.tolist() == [143000, 143000]


def test_the_smallest_rank_p_of_ten_runs_is_stated(map_410m: xr.Dataset) -> None:
    assert float(map_410m["smallest_p_rank"][0]) == 0.1
    assert float(map_410m["p_rank"].min()) == 0.1
    assert float(map_410m["p_value"].min()) < 0.01


@pytest.mark.slow
def test_planted_outlier_is_found_with_its_step_and_metrics() -> None:
    value = clean(10, 40, 5, np.random.default_rng(0))
    value[0, 6, 22:, 1:3] -= 12
    run = outlier_runs(make_cube(value), draws=DRAWS).isel(model=0)
    assert run["seed"].values[run["outlier"]].tolist() == [6]
    assert abs(int(run["from_step"].sel(seed=6)) - 22_000) <= 1000  # to a checkpoint
    assert set(run["because"].sel(seed=6).values[:2].tolist()) == {"eval/task1/acc", "eval/task2/acc"}
    assert (run["because_score"].sel(seed=6)[:2] < -3.5).all()
    assert run["kind"].sel(seed=6).item() == "deviates"


@pytest.mark.slow
@pytest.mark.parametrize("sign", [1, -1])
def test_two_outliers_of_ten_do_not_mask_each_other(sign: int) -> None:
    value = clean(10, 40, 5, np.random.default_rng(1))
    value[0, 2, 20:] += 12
    value[0, 5, 25:] += sign * 12
    assert found(make_cube(value)) == [2, 5]


@pytest.mark.slow
def test_a_small_outlier_beside_a_huge_one_is_found() -> None:
    value = clean(10, 40, 5, np.random.default_rng(2))
    value[0, 2, 20:] += 1e6
    value[0, 5, 20:] += 10
    assert {2, 5} <= set(found(make_cube(value)))


@pytest.mark.slow
def test_a_glitch_is_no_outlier() -> None:
    value = clean(10, 40, 5, np.random.default_rng(3))
    value[0, 4, 17] += 1000
    assert found(make_cube(value)) == []


@pytest.mark.slow
def test_what_happens_to_all_runs_is_no_outlier() -> None:
    value = clean(10, 40, 5, np.random.default_rng(4))
    value[0, :, 20:30] += 100
    assert found(make_cube(value)) == []


@pytest.mark.slow
def test_permuting_runs_and_changing_units_changes_no_verdict() -> None:
    value = clean(8, 30, 3, np.random.default_rng(5))
    value[0, 1, 15:] += 8
    order = np.random.default_rng(6).permutation(8)
    plain = outlier_runs(make_cube(value), draws=DRAWS).isel(model=0)
    units = outlier_runs(make_cube(1e-200 * value), draws=DRAWS).isel(model=0)
    moved = outlier_runs(make_cube(value[:, order]), draws=DRAWS).isel(model=0)
    np.testing.assert_allclose(units["strength"], plain["strength"], rtol=1e-6)
    assert units["from_step"].values.tolist() == plain["from_step"].values.tolist()
    np.testing.assert_array_equal(moved["outlier"].values, plain["outlier"].values[order])
    np.testing.assert_array_equal(moved["from_step"].values, plain["from_step"].values[order])


@pytest.mark.slow
def test_a_copied_run_changes_no_verdict_and_gets_none() -> None:
    value = clean(6, 30, 3, np.random.default_rng(7))
    value[0, 1, 15:] += 8
    plain = outlier_runs(make_cube(value), draws=DRAWS)
    copied = outlier_runs(make_cube(np.concatenate([value, value[:, :1]], axis=1)), draws=DRAWS)
    np.testing.assert_array_equal(copied["p_value"].values[:, :6], plain["p_value"].values)
    assert not copied["judged"].values[0, 6]


@pytest.mark.slow
def test_same_rng_same_result() -> None:
    cube = make_cube(clean(6, 20, 2, np.random.default_rng(8)))
    assert outlier_runs(cube, draws=DRAWS, rng=3).identical(outlier_runs(cube, draws=DRAWS, rng=3))


def test_two_runs_get_no_verdict_and_a_reason() -> None:
    result = outlier_runs(make_cube(clean(2, 20, 2, np.random.default_rng(9))), draws=DRAWS)
    assert not result["judged"].any()
    assert np.isnan(result["p_value"]).all()
    assert "no verdict: 2 runs" in result["note"].item()


def test_identical_runs_get_no_verdict() -> None:
    value = np.repeat(clean(1, 20, 2, np.random.default_rng(10)), 6, axis=1)
    result = outlier_runs(make_cube(value), draws=DRAWS)
    assert not result["judged"].any()
    assert not result["outlier"].any()


def test_flat_runs_that_are_all_equal_have_no_outlier() -> None:
    result = outlier_runs(make_cube(np.full((1, 6, 20, 2), 0.25)), draws=DRAWS)
    assert result["judged"].all()
    assert (result["p_value"] == 1).all()


@pytest.mark.parametrize("shape", [(1, 6, 1, 2), (1, 6, 2, 2), (1, 3, 9, 2)])
def test_too_short_or_too_few_runs_have_no_verdict(shape: tuple[int, ...]) -> None:
    result = outlier_runs(make_cube(np.random.default_rng(0).normal(size=shape)), draws=DRAWS)
    assert not result["judged"].any()


@pytest.mark.slow
def test_a_diverged_run_is_an_outlier_without_p_value_and_leaves_the_rest_alone() -> None:
    value = clean(8, 30, 3, np.random.default_rng(11))
    value[0, 5, 20:, 1] = np.inf
    run = outlier_runs(make_cube(value), draws=DRAWS).isel(model=0)
    assert run["kind"].values.tolist() == [""] * 5 + ["diverged"] + [""] * 2
    assert int(run["from_step"].sel(seed=5)) == 20_000
    assert run["because"].sel(seed=5).values[0] == "eval/task1/acc"
    assert np.isnan(run["p_value"].sel(seed=5))


@pytest.mark.slow
def test_a_value_that_is_infinite_in_every_run_is_no_divergence() -> None:
    value = clean(8, 30, 3, np.random.default_rng(12))
    value[0, :, 0, 1] = np.inf
    assert found(make_cube(value)) == []


@pytest.mark.slow
def test_a_run_that_ends_early_is_said_to_and_still_judged() -> None:
    value = clean(8, 30, 3, np.random.default_rng(13))
    value[0, 2, 8:] += 12
    value[0, 2, 20:] = np.nan
    run = outlier_runs(make_cube(value), draws=DRAWS).isel(model=0)
    assert run["seed"].values[run["outlier"]].tolist() == [2]
    assert int(run["ends_at"].sel(seed=2)) == 19_000
    assert int(run["n_ended"].sel(seed=2)) == 3
    assert int(run["until_step"].sel(seed=2)) == 19_000


@pytest.mark.slow
def test_a_run_on_a_coarser_grid_is_no_outlier() -> None:
    value = clean(8, 30, 3, np.random.default_rng(14))
    value += np.linspace(0, 60, 30)[:, None] ** 2
    value[0, 3, 1::2] = np.nan
    value[0, 4, 2::3] = np.nan
    assert found(make_cube(value)) == []


def test_runs_that_share_no_checkpoint_get_no_verdict_and_a_reason() -> None:
    value = np.full((1, 6, 30, 1), np.nan)
    for run in range(6):
        value[0, run, run::6] = np.random.default_rng(run).normal(size=(5, 1))
    result = outlier_runs(make_cube(value), draws=DRAWS)
    assert not result["judged"].any()
    assert "no verdict" in result["note"].item()


@pytest.mark.slow
def test_q_values_count_all_runs_of_the_cube() -> None:
    value = np.concatenate([clean(6, 20, 2, np.random.default_rng(i)) for i in (15, 16)])
    result = outlier_runs(make_cube(value), draws=DRAWS)
    assert result.attrs["n_tests"] == 12
    assert (result["q_value"] >= result["p_value"]).all()


def test_p_over_all_models_counts_those_that_were_judged() -> None:
    value = np.concatenate([clean(5, 6, 1, np.random.default_rng(i)) for i in (17, 18, 19)])
    value[2, 3:] = np.nan  # too few runs for a verdict
    result = outlier_runs(make_cube(value), draws=39)
    assert (result.attrs["n_models"], result.attrs["n_expected_by_chance"]) == (2, 0.1)
    known = result["judged"].values
    assert known.sum() == 10
    np.testing.assert_array_equal(
        result["p_any_model"].values[known], np.minimum(2 * result["p_value"].values[known], 1)
    )
    assert np.isnan(result["p_any_model"].values[~known]).all()
    assert result["p_value"].min() >= result.attrs["smallest_p"] == 1 / 40


def test_arguments_out_of_range_are_refused() -> None:
    cube = make_cube(np.ones((1, 4, 5, 1)))
    with pytest.raises(AnalysisError, match="false_alarm"):
        outlier_runs(cube, false_alarm=5)
    with pytest.raises(AnalysisError, match="at least 20"):
        outlier_runs(cube, draws=10)


@pytest.mark.slow
def test_the_family_that_moved_first_leads() -> None:
    value = clean(8, 40, 4, np.random.default_rng(17))
    value[0, 3, 15:, :2] += 15
    value[0, 3, 25:, 2:] -= 15
    names = ["weight/layers.0.mlp/kurtosis", "weight/layers.1.mlp/kurtosis", "eval/a/acc", "eval/b/acc"]
    table = lead_lag(outlier_runs(make_cube(value, metrics=names), draws=DRAWS)).isel(model=0).sel(seed=3)
    onset = table["first_onset"].sel(group=["weight", "eval"]).values
    assert (np.abs(onset - [15_000, 25_000]) <= 1000).all()  # to a checkpoint
    assert table["order"].sel(group=["weight", "eval"]).values.tolist() == [1, 2]
    assert table["n_onsets"].values.tolist() == table["n_metrics"].values.tolist() == [2, 2]


def test_lead_lag_refuses_what_it_cannot_group() -> None:
    result = outlier_runs(make_cube(clean(4, 10, 2, np.random.default_rng(18))), draws=DRAWS)
    with pytest.raises(AnalysisError, match="family"):
        lead_lag(result, by="famly")
    with pytest.raises(AnalysisError, match="outlier_runs"):
        lead_lag(xr.Dataset())


def test_rotations_are_orthogonal_and_contrasts_too() -> None:
    turn = rotations(5, 20, np.random.default_rng(0))
    np.testing.assert_allclose(turn @ turn.swapaxes(1, 2), np.broadcast_to(np.eye(5), (20, 5, 5)), atol=1e-12)
    basis = contrasts(6)
    np.testing.assert_allclose(basis.T @ basis, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(basis.sum(axis=0), 0, atol=1e-12)


@pytest.mark.slow
def test_rotations_are_uniform_on_the_sphere() -> None:
    # Of a coordinate of a uniform direction in d dimensions the square is 1 / d, the fourth power 3 / (d (d + 2)).
    first = rotations(4, 40_000, np.random.default_rng(1))[:, :, 0]
    np.testing.assert_allclose(first.mean(axis=0), 0, atol=0.01)
    np.testing.assert_allclose((first**2).mean(axis=0), 0.25, atol=0.005)
    np.testing.assert_allclose((first**4).mean(axis=0), 3 / (4 * 6), atol=0.005)


def test_log_ratio_is_the_distance_to_the_majority() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0, 30.0])
    # Nearest half of the others: 2, 1, 1, 2 (the second nearest of four, squared), and 28 for the last.
    half = np.array([2.0, 1.0, 1.0, 2.0, 28.0]) ** 2
    np.testing.assert_allclose(log_ratios(np.outer(x, x)), np.log(half / half[:4].mean()))


@pytest.mark.slow
def test_a_single_normal_number_per_run_gives_uniform_p_values() -> None:
    rng = np.random.default_rng(2)
    group = [np.array([0])]
    p = [
        rotation_test(np.repeat(rng.normal(size=(6, 1, 1)), 3, axis=1), group, draws=99, rng=rng).p.min()
        for _ in range(400)
    ]
    # 20 of 400 at 5 %; 8 to 32 hold with 99 %. The distribution as a whole is uniform.
    assert 8 <= np.sum(np.array(p) <= 0.05) <= 32
    assert np.abs(np.sort(p) - np.arange(1, 401) / 400).max() < 1.63 / np.sqrt(400) + 0.01


@pytest.mark.slow
@pytest.mark.parametrize("runs", [5, 10])
def test_clean_sets_have_a_verdict_in_about_5_percent(runs: int) -> None:
    # 100 sets: with 5 % there are 1 to 11 in 99 of 100 cases. benchmarks/bench_outliers.py counts in many more sets.
    hits = 0
    for i in range(100):
        value = clean(runs, 24, 2, np.random.default_rng([runs, i]), df=np.inf)
        hits += bool(outlier_runs(make_cube(value), draws=79, rng=i)["outlier"].any())
    assert 1 <= hits <= 11


def test_windows_reach_the_end_and_none_is_short() -> None:
    for n in (3, 10, 27, 154):
        spans = windows(n)
        assert (0, n) in spans
        assert max(last for _, last in spans) == n
        assert min(last - first for first, last in spans) >= max(3, n // 10)
        assert len(spans) < 60


def test_one_test_item_more_than_runs_that_are_all_at_zero_is_no_outlier() -> None:
    value = np.random.default_rng(19).binomial(1000, 0.4, size=(1, 8, 24, 1)) / 1000
    value[0, :, :12] = 0.0
    value[0, 3, 4:12] = 0.001
    assert found(make_cube(value)) == []


def test_running_median_of_three_takes_out_single_points_and_keeps_steps() -> None:
    x = np.array([0, 0, 9, 0, 0, 5, 5, 5, 5, -7.0])
    assert running_median(x[None, :, None])[0, :, 0].tolist() == [0, 0, 0, 0, 0, 5, 5, 5, 5, 5]


def test_gaps_inside_a_curve_are_filled_and_ends_are_not() -> None:
    x = np.array([np.nan, 1, np.nan, np.nan, 4, np.nan])
    np.testing.assert_allclose(filled(x[None, :, None])[0, :, 0], [np.nan, 1, 2, 3, 4, np.nan])


def test_stretch_survives_one_gap_and_not_two() -> None:
    flags = np.array([1, 0, 0, 1, 1, 0, 1, 1, 0, 0, 1], dtype=bool)
    assert stretch(flags, 5, 9) == (3, 7)
    assert stretch(np.zeros(5, dtype=bool), 0, 4) is None


@pytest.mark.slow
def test_the_run_that_was_made_to_go_wrong_in_the_demo_is_found() -> None:
    result = outlier_runs(polystab.testing.demo_cube(), draws=DRAWS)
    places = np.argwhere(result["outlier"].values).tolist()
    assert places == [[1, 7]]
    assert 53_000 <= int(result["from_step"][1, 7]) <= 73_000
