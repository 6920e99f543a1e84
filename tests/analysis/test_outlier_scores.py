"""Robust z: the known answer, algebra, a plain loop as oracle, and what chance gives."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cubes_of_arrays import make_cube

import polystab as ps
from polystab.analysis import expected_share, outlier_scores, rank_runs
from polystab.analysis.outliers.tallies import sustained
from polystab.analysis.outliers.zscores import robust_z
from polystab.errors import AnalysisError, UnknownNameError


def z_by_hand(x: np.ndarray) -> np.ndarray:
    """Robust z of one set of runs, straight from the definition."""
    known = x[~np.isnan(x)]
    if len(known) < 3:
        return np.full(x.shape, np.nan)
    centre = np.median(known)
    mad = np.median(np.abs(known - centre))
    if mad > 0:
        return np.asarray(0.6745 * (x - centre) / mad)
    mean_ad = np.mean(np.abs(known - centre))
    return np.asarray((x - centre) / (1.253314 * mean_ad)) if mean_ad > 0 else np.where(np.isnan(x), np.nan, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("levels", [None, 2, 4])
def test_scores_agree_with_the_definition_cell_by_cell(levels: int | None) -> None:
    rng = np.random.default_rng(0)
    # Few levels make ties: a MAD of 0, and sets of runs that are all equal.
    value = rng.normal(size=(2, 8, 9, 6)) if levels is None else rng.integers(levels, size=(2, 8, 9, 6)) / 7
    value[rng.random(value.shape) < 0.4] = np.nan
    score = outlier_scores(make_cube(value))["score"].values
    for m, t, k in np.ndindex(2, 9, 6):
        np.testing.assert_allclose(score[m, :, t, k], z_by_hand(value[m, :, t, k]), rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_permuting_seeds_and_changing_units_changes_no_score() -> None:
    value = np.random.default_rng(1).normal(size=(1, 9, 4, 3))
    order = np.random.default_rng(2).permutation(9)
    score = outlier_scores(make_cube(value))["score"].values
    np.testing.assert_allclose(outlier_scores(make_cube(value[:, order]))["score"].values, score[:, order])
    np.testing.assert_allclose(outlier_scores(make_cube(1000 * value + 3))["score"].values, score, rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(outlier_scores(make_cube(-value))["score"].values, -score)


@pytest.mark.slow
def test_known_answer_of_the_410m_training_map(shared_data: Path) -> None:
    table = pd.read_csv(shared_data / "pythia-training-maps" / "training_maps.tsv", sep="\t")
    frame = pd.DataFrame(
        {
            "model": "pythia-410m",
            "seed": table["seed"],
            "step": table["step"],
            "metric": "eval/average/score",
            "value": table["score"],
        }
    )
    scores = outlier_scores(ps.cube_from_records(frame)).isel(model=0, metric=0)
    beyond = abs(scores["score"]) > 3.5
    steps = {int(seed): scores["step"].values[beyond.sel(seed=seed)].tolist() for seed in scores["seed"]}
    assert steps.pop(3) == [83000, 93000, 103000, 113000, 123000, 133000, 143000]
    assert steps.pop(4) == [123000, 133000, 143000]
    assert steps.pop(6) == [73000]  # a single false alarm, which must not become a stretch
    assert not any(steps.values())
    first = dict(zip(scores["seed"].values.tolist(), scores["first_step"].values.tolist(), strict=True))
    assert {seed: step for seed, step in first.items() if step >= 0} == {3: 83000, 4: 123000}


@pytest.mark.slow
def test_two_outliers_do_not_hide_each_other() -> None:
    value = np.random.default_rng(3).normal(size=(1, 10, 1, 1))
    value[0, :2] += 100
    score = outlier_scores(make_cube(value))["score"].squeeze().values
    assert (np.abs(score[:2]) > 3.5).all()


def test_fewer_than_three_runs_are_not_scored() -> None:
    scores = outlier_scores(make_cube(np.arange(6.0).reshape(1, 2, 3, 1)))
    assert np.isnan(scores["score"]).all()
    assert scores["n_cells"].values.tolist() == [[0, 0]]
    assert np.isnan(scores["expected_share"]).all()
    assert scores["largest_metric"].values.tolist() == [["", ""]]


@pytest.mark.slow
def test_a_diverged_run_is_scored_infinite_and_leaves_its_siblings_alone() -> None:
    value = np.array([1.0, 2.0, 3.0, np.inf]).reshape(1, 4, 1, 1)
    scores = outlier_scores(make_cube(value))
    assert scores["score"].squeeze().values.tolist()[3] == np.inf
    np.testing.assert_allclose(scores["score"].squeeze().values[:3], z_by_hand(np.array([1.0, 2.0, 3.0])))
    assert scores["n_nonfinite"].values.tolist() == [[0, 0, 0, 1]]


def test_when_too_few_stay_finite_the_diverged_ones_are_still_seen() -> None:
    value = np.array([1.0, 2.0, np.inf, np.inf]).reshape(1, 4, 1, 1)
    assert outlier_scores(make_cube(value))["n_beyond"].values.tolist() == [[0, 0, 1, 1]]


def test_rounding_differences_are_no_deviation() -> None:
    x = 0.1 * np.ones(6)
    x[0] = np.nextafter(0.1, 1)
    assert robust_z(x[None, :])[0].tolist() == [[0.0] * 6]


@pytest.mark.slow
def test_what_was_not_measured_is_not_scored_even_among_equal_runs() -> None:
    value = np.array([0.1, 0.1, 0.1, np.nan]).reshape(1, 4, 1, 1)
    scores = outlier_scores(make_cube(value))
    assert scores["n_cells"].values.tolist() == [[1, 1, 1, 0]]
    assert scores["n_beyond"].values.tolist() == [[0, 0, 0, 0]]


@pytest.mark.slow
def test_copies_are_scored_but_do_not_count() -> None:
    value = np.random.default_rng(4).normal(size=(1, 5, 9, 1))
    copied = np.concatenate([value, value[:, :1], value[:, :1]], axis=1)
    plain, with_copies = outlier_scores(make_cube(value)), outlier_scores(make_cube(copied))
    np.testing.assert_allclose(with_copies["score"].values[:, :5], plain["score"].values)
    np.testing.assert_allclose(with_copies["score"].values[:, 5], plain["score"].values[:, 0])
    assert int(with_copies["n"].max()) == 5


@pytest.mark.slow
def test_run_summary_counts_what_the_scores_say() -> None:
    value = np.random.default_rng(5).normal(size=(2, 6, 7, 3))
    value[1, 2, 4:, 1] += 50
    scores = outlier_scores(make_cube(value), threshold=9.0)
    beyond = abs(scores["score"]) > 9
    np.testing.assert_array_equal(scores["n_beyond"], beyond.sum(("step", "metric")))
    np.testing.assert_allclose(scores["share_beyond"], beyond.mean(("step", "metric")))
    np.testing.assert_allclose(scores["share_beyond_at"], beyond.mean("metric"))
    run = scores.isel(model=1, seed=2)
    assert int(run["first_step"]) == 4000
    assert str(run["first_metric"].item()) == "eval/task1/acc"
    assert int(run["n_sustained"]) >= 1
    assert float(run["largest"]) == float(abs(scores["score"]).isel(model=1, seed=2).max())
    assert rank_runs(scores, limit=1) == [("m1", 2)]


@pytest.mark.parametrize(
    ("scores", "begins"),
    [
        ([0, 9, 0, 9, 9, 9], [3, 4]),  # once is not enough
        ([0, 9, np.nan, 9, 0, 0], [1]),  # a checkpoint that was not measured is passed over
        ([9, -9, 9, -9, 0, 0], []),  # the sides must agree
        ([np.nan, np.nan, 0, 0, 9, np.nan], []),
    ],
)
def test_a_stretch_is_two_measured_checkpoints_in_a_row_on_one_side(scores: list[float], begins: list[int]) -> None:
    found = sustained(np.array(scores, dtype=float).reshape(1, 1, -1, 1), 3.5)
    assert np.flatnonzero(found).tolist() == begins


@pytest.mark.slow
@pytest.mark.parametrize("n", [3, 5, 10, 20])
def test_expected_share_agrees_with_an_independent_loop(n: int) -> None:
    rng = np.random.default_rng(100 + n)
    hits = [np.abs(z_by_hand(rng.standard_normal(n))) > 3.5 for _ in range(6000)]
    assert float(expected_share(n)) == pytest.approx(np.mean(hits), abs=0.006)


def test_clean_noise_exceeds_the_threshold_as_often_as_expected() -> None:
    value = np.random.default_rng(6).normal(size=(1, 10, 40, 100))
    scores = outlier_scores(make_cube(value))
    assert float(scores["share_beyond"].mean()) == pytest.approx(float(scores["expected_share"][0]), abs=0.003)


@pytest.mark.slow
def test_the_simulation_takes_a_seed_and_repeats_itself() -> None:
    assert float(expected_share(10)) == float(expected_share(10))
    assert float(expected_share(10, rng=1)) != float(expected_share(10, rng=2))
    generator = np.random.default_rng(1)
    assert float(expected_share(10, rng=generator)) == float(expected_share(10, rng=1))


def test_an_unknown_method_is_refused_by_name() -> None:
    with pytest.raises(UnknownNameError, match="robust_z"):
        outlier_scores(make_cube(np.ones((1, 3, 1, 1))), method="robust-z")  # type: ignore[arg-type]


@pytest.mark.parametrize("threshold", [0, -1, np.nan])
def test_an_impossible_threshold_is_refused(threshold: float) -> None:
    with pytest.raises(AnalysisError, match="threshold"):
        outlier_scores(make_cube(np.ones((1, 3, 1, 1))), threshold=threshold)


def test_leave_one_out_agrees_with_the_definition() -> None:
    x = np.random.default_rng(7).normal(size=(1, 6, 4, 3))
    score = outlier_scores(make_cube(x), method="leave_one_out")["score"].values
    for run in range(6):
        others = np.delete(x, run, axis=1)
        expected = (x[:, run] - others.mean(axis=1)) / (others.std(axis=1, ddof=1) * np.sqrt(1 + 1 / 5))
        np.testing.assert_allclose(score[:, run], expected)


def test_leave_one_out_scores_are_t_distributed() -> None:
    from scipy import stats

    x = np.random.default_rng(8).normal(size=(1, 5, 100, 100))
    score = outlier_scores(make_cube(x), method="leave_one_out")["score"].values[0, 0].ravel()
    assert stats.kstest(score, stats.t(3).cdf).pvalue > 0.001


def test_leave_one_out_keeps_its_digits_beside_a_huge_run() -> None:
    x = np.array([1.0, 2.0, 3.0, 1e15]).reshape(1, 4, 1, 1)
    score = outlier_scores(make_cube(x), method="leave_one_out")["score"].values.ravel()
    assert score[3] == pytest.approx((1e15 - 2) / np.sqrt(4 / 3))


def test_leave_one_out_of_ties_and_divergence() -> None:
    x = np.array([[1.0, 1.0, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, np.inf]]).T.reshape(1, 4, 1, 3)
    score = outlier_scores(make_cube(x), method="leave_one_out")["score"].values[0, :, 0]
    assert score[3].tolist() == [np.inf, 0.0, np.inf]
    assert np.isfinite(score[:3, 2]).all()


def test_plain_z_agrees_with_scipy() -> None:
    from scipy import stats

    x = np.random.default_rng(12).normal(size=(1, 6, 4, 3))
    score = outlier_scores(make_cube(x), method="z")["score"].values
    np.testing.assert_allclose(score, stats.zscore(x, axis=1, ddof=1))


def test_two_outliers_among_ten_hide_each_other_from_plain_z() -> None:
    x = np.r_[np.linspace(0, 1, 8), 50.0, 51.0].reshape(1, 10, 1, 1)
    assert float(outlier_scores(make_cube(x), method="z", threshold=2)["n_beyond"].sum()) == 0
    assert float(outlier_scores(make_cube(x))["n_beyond"].sum()) == 2


def test_plain_z_of_ties_and_divergence() -> None:
    x = np.array([[1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, np.inf]]).T.reshape(1, 4, 1, 2)
    score = outlier_scores(make_cube(x), method="z")["score"].values[0, :, 0]
    assert score[:, 0].tolist() == [0.0, 0.0, 0.0, 0.0]
    assert score[:, 1].tolist() == [-1.0, 0.0, 1.0, np.inf]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["leave_one_out", "reference", "z"])
def test_other_methods_exceed_the_threshold_as_often_as_expected(method: str) -> None:
    x = np.random.default_rng(9).normal(size=(1, 10, 60, 100))
    seeds = range(8) if method == "reference" else None
    scores = outlier_scores(make_cube(x), method=method, reference=seeds)  # type: ignore[arg-type]
    share = scores["share_beyond"].sel(seed=[8, 9]).mean()
    assert float(share) == pytest.approx(float(scores["expected_share"][0]), abs=0.005)


@pytest.mark.slow
def test_reference_seeds_alone_make_median_and_mad() -> None:
    x = np.random.default_rng(10).normal(size=(1, 8, 3, 2))
    score = outlier_scores(make_cube(x), method="reference", reference=[0, 1, 2, 3, 4])["score"].values
    centre = np.median(x[:, :5], axis=1, keepdims=True)
    mad = np.median(np.abs(x[:, :5] - centre), axis=1, keepdims=True)
    np.testing.assert_allclose(score, 0.6745 * (x - centre) / mad)


@pytest.mark.slow
def test_a_reference_cube_gives_what_its_runs_would_give_inside() -> None:
    x = np.random.default_rng(11).normal(size=(1, 8, 3, 2))
    inside = outlier_scores(make_cube(x), method="reference", reference=[0, 1, 2, 3, 4])["score"].values[:, 5:]
    outside = outlier_scores(make_cube(x[:, 5:]), method="reference", reference=make_cube(x[:, :5]))["score"].values
    np.testing.assert_allclose(outside, inside)


def test_a_reference_that_does_not_fit_is_refused() -> None:
    cube = make_cube(np.ones((1, 3, 2, 1)))
    with pytest.raises(AnalysisError, match="go together"):
        outlier_scores(cube, method="reference")
    with pytest.raises(AnalysisError, match="go together"):
        outlier_scores(cube, reference=[0])
    with pytest.raises(AnalysisError, match="99"):
        outlier_scores(cube, method="reference", reference=[0, 99])
    with pytest.raises(AnalysisError, match="no runs of 'm0'"):
        outlier_scores(cube, method="reference", reference=cube.assign_coords(model=["other"]))
