"""Agreement of rankings: brute force over all draws, scipy's tau, reasons, calibration."""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import xarray as xr
from cubes_of_arrays import make_cube

from polystab.analysis.agreement import rank_agreement
from polystab.analysis.agreement.rank_kernels import nested_ranks, share_interval
from polystab.errors import AnalysisError

Floats = npt.NDArray[np.float64]


def scores(*shape: int, apart: float = 0.5, seed: int = 0) -> Floats:
    """Models (first axis) that differ, seeds (second) that differ too."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) + apart * np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1))


def higher(values: Floats, **more: Any) -> xr.Dataset:
    return make_cube(values, better=np.array(["higher"] * values.shape[3]), **more)


def wins(values: Floats) -> Floats:
    """Share of all draws of one run per model that each model wins; equal bests share."""
    runs = [row[~np.isnan(row)] for row in values]
    total = np.zeros(len(values))
    draws = list(product(*runs))
    for draw in draws:
        best = np.array(draw) == max(draw)
        total += best / best.sum()
    return total / len(draws)


def pair_of_draws(values: Floats) -> float:
    """Mean concordance over all pairs of draws without a common run, of the untied share."""
    top = bottom = 0.0
    for j, k in combinations(range(len(values)), 2):
        a, b = (row[~np.isnan(row)] for row in (values[j], values[k]))
        sign = np.sign(a[:, None] - b[None])
        same = [
            sign[i, m] * sign[o, q]
            for i, o in product(range(len(a)), repeat=2)
            for m, q in product(range(len(b)), repeat=2)
            if i != o and m != q
        ]
        top, bottom = top + float(np.mean(same)), bottom + float(np.mean(sign**2))
    return top / bottom


def jackknife(values: Floats, statistic: Any) -> float:
    """Delete-one variance over the runs of every model."""
    total = 0.0
    for m, row in enumerate(values):
        known = np.flatnonzero(~np.isnan(row))
        left_out = []
        for run in known:
            rest = values.copy()
            rest[m, run] = np.nan
            left_out.append(statistic(rest))
        total += (len(known) - 1) * float(np.var(left_out))
    return total


@pytest.fixture(scope="module")
def gappy() -> Floats:
    values = np.round(scores(3, 4, seed=1), 1)
    values[1, 2] = np.nan
    values[0, 0] = values[2, 0]
    return values


def test_win_shares_are_those_of_all_draws(gappy: Floats) -> None:
    found = rank_agreement(higher(gappy[:, :, None, None])).squeeze()
    np.testing.assert_allclose(found["win_share"], wins(gappy), atol=1e-14)


def test_nested_tau_is_that_of_all_pairs_of_draws(gappy: Floats) -> None:
    found = rank_agreement(higher(gappy[:, :, None, None])).squeeze()
    assert float(found["tau"]) == pytest.approx(pair_of_draws(gappy), abs=1e-14)


def test_variances_are_those_of_the_jackknife_done_by_hand(gappy: Floats) -> None:
    found = nested_ranks(gappy[:, :, None], np.array([2.0]))
    assert found.flips_variance[0] == pytest.approx(jackknife(gappy, lambda rest: 1 - wins(rest)[2]), rel=1e-12)
    assert found.tau_variance[0] == pytest.approx(jackknife(gappy, pair_of_draws), rel=1e-12)


@pytest.mark.slow
def test_nested_tau_without_ties_is_the_mean_of_scipys() -> None:
    values = scores(3, 3, seed=2)
    draws = [np.array(draw) for draw in product(range(3), repeat=3)]
    taus = [
        scipy.stats.kendalltau(values[[0, 1, 2], a], values[[0, 1, 2], b]).statistic
        for a in draws
        for b in draws
        if (a != b).all()
    ]
    found = rank_agreement(higher(values[:, :, None, None])).squeeze()
    assert float(found["tau"]) == pytest.approx(float(np.mean(taus)), abs=1e-13)


def test_crossed_tau_is_the_mean_of_scipys_over_pairs_of_seeds() -> None:
    values = np.round(scores(5, 4, seed=3), 1)
    values[1, 0] = values[0, 0]
    expected = [scipy.stats.kendalltau(values[:, a], values[:, b]).statistic for a, b in combinations(range(4), 2)]
    found = rank_agreement(higher(values[:, :, None, None]), design="crossed").squeeze()
    assert float(found["tau"]) == pytest.approx(float(np.mean(expected)), abs=1e-14)


def test_crossed_flips_count_the_seeds_with_another_winner() -> None:
    values = np.array([[1.0, 1.0, 5.0, 1.0], [2.0, 2.0, 2.0, 2.0]])[:, :, None, None]
    found = rank_agreement(higher(values), design="crossed").squeeze()
    # The best mean is that of m0 (2.0 and 2.0 tie; the first stands), which wins one seed of four.
    assert (str(found["winner"].values), float(found["flips"])) == ("m0", 0.75)


def test_lower_is_better_turns_the_winner_and_not_tau() -> None:
    values = scores(3, 5, 1, 1, seed=4)
    up, down = (rank_agreement(make_cube(values, better=np.array([word]))).squeeze() for word in ("higher", "lower"))
    assert (str(up["winner"].values), str(down["winner"].values)) == ("m2", "m0")
    assert float(up["tau"]) == pytest.approx(float(down["tau"]), abs=1e-14)


@pytest.mark.parametrize("design", ["nested", "crossed"])
def test_stretching_a_metric_changes_no_ranking(design: str) -> None:
    values = scores(3, 5, 2, 2, seed=5)
    plain, far = (rank_agreement(higher(part), design=design) for part in (values, values * 1e-9))
    xr.testing.assert_allclose(plain, far)


@pytest.mark.parametrize("design", ["nested", "crossed"])
def test_models_far_apart_never_flip_and_still_have_an_upper_end(design: str) -> None:
    found = rank_agreement(higher(scores(3, 10, 1, 1, apart=100.0)), design=design).squeeze()
    assert (float(found["flips"]), float(found["tau"])) == (0.0, 1.0)
    # The exact interval of 0 of 10.
    assert float(found["flips_upper"]) == pytest.approx(1 - 0.025**0.1, abs=1e-12)
    assert float(found["tau_lower"]) < 1


def test_the_interval_of_a_plain_share_is_clopper_and_pearsons() -> None:
    share, n = np.array([0.3]), np.array([20.0])
    expected = scipy.stats.binomtest(6, 20).proportion_ci(method="exact")
    found = share_interval(share, share * (1 - share) / n, np.zeros(1) + 1, n, 0.95)
    np.testing.assert_allclose(np.ravel(found), [expected.low, expected.high], rtol=1e-12)


def test_equal_models_flip_by_chance() -> None:
    found = rank_agreement(higher(np.ones((4, 3, 1, 1)))).squeeze()
    assert float(found["flips"]) == pytest.approx(float(found["flips_by_chance"]), abs=1e-14)


def words(found: xr.DataArray) -> str:
    return str(found.attrs["flag_meanings"]).split()[int(found)]


@pytest.mark.parametrize(
    ("values", "design", "tau", "flips"),
    [
        (np.full((3, 4, 1, 1), np.nan), "nested", "not_measured", "not_measured"),
        (scores(1, 4, 1, 1), "nested", "one_model", "one_model"),
        (scores(3, 1, 1, 1), "nested", "too_few_runs", "estimated"),
        (scores(3, 1, 1, 1), "crossed", "too_few_runs", "estimated"),
        (np.ones((3, 4, 1, 1)), "crossed", "all_tied", "estimated"),
    ],
)
def test_why_there_is_no_value_is_said(values: Floats, design: str, tau: str, flips: str) -> None:
    found = rank_agreement(higher(values), design=design).squeeze()
    assert (words(found["tau_reason"]), words(found["flips_reason"])) == (tau, flips)


def test_no_common_seed_is_said() -> None:
    values = scores(2, 4, 1, 1)
    values[0, :2] = values[1, 2:] = np.nan
    found = rank_agreement(higher(values), design="crossed").squeeze()
    assert words(found["flips_reason"]) == "no_common_seed"


def test_a_metric_without_direction_has_no_winner() -> None:
    found = rank_agreement(make_cube(scores(3, 4, 1, 1))).squeeze()
    assert words(found["flips_reason"]) == "no_direction"
    assert str(found["winner"].values) == ""
    assert np.isfinite(found["tau"])


def test_a_diverged_run_is_not_ranked() -> None:
    values = scores(2, 5, 1, 1)
    values[1, 0] = np.inf
    assert rank_agreement(higher(values))["n_runs"].values.ravel().tolist() == [5, 4]


def test_two_runs_have_no_interval() -> None:
    found = rank_agreement(higher(scores(3, 2, 1, 1))).squeeze()
    assert np.isnan(found["flips_lower"])
    assert np.isnan(found["tau_lower"])


@pytest.mark.parametrize(
    ("arguments", "said"), [({"design": "cross"}, "Did you mean 'crossed'"), ({"level": 0.0}, "level is 0")]
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(AnalysisError, match=said):
        rank_agreement(higher(scores(2, 3, 1, 1)), **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("design", ["nested", "crossed"])
@pytest.mark.parametrize("apart", [1.0, 2.0])
def test_intervals_cover_the_flips_of_all_seeds(design: str, apart: float) -> None:
    values = scores(2, 10, 1, 2000, apart=apart, seed=6)
    found = rank_agreement(higher(values), design=design).squeeze("step")
    loses = scipy.stats.norm.cdf(-apart / np.sqrt(2))
    truth = xr.where(found["winner"] == "m1", loses, 1 - loses)
    cover = float(((found["flips_lower"] <= truth) & (truth <= found["flips_upper"])).mean())
    assert 0.94 <= cover <= 1


def test_metrics_without_a_direction_have_no_winner() -> None:
    cube = make_cube(np.random.default_rng(0).random((3, 4, 1, 1))).drop_vars("better")
    assert str(rank_agreement(cube)["winner"].item()) == ""
