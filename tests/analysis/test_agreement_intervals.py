"""Intervals of agreement: jackknives done by hand, edges, coverage."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from items_of_arrays import drawn, make_items

from polystab.analysis.agreement import agreement, cohen_kappa
from polystab.analysis.agreement.intervals import run_interval, run_jackknife


def mean_kappa(codes: npt.NDArray[np.integer]) -> float:
    """Mean over all pairs of rows, one by one."""
    first, second = np.triu_indices(len(codes), 1)
    return float(np.mean([cohen_kappa(codes[a], codes[b]) for a, b in zip(first, second, strict=True)]))


def plain_run_jackknife(codes: npt.NDArray[np.integer]) -> float:
    n = len(codes)
    left_out = [mean_kappa(np.delete(codes, run, axis=0)) for run in range(n)]
    return (n - 1) * float(np.var(left_out))


def with_more_items(codes: npt.NDArray[np.integer], item: int) -> npt.NDArray[np.integer]:
    """The items a thousand times over, and one of them once more."""
    return np.concatenate([np.tile(codes, 1000), codes[:, item : item + 1]], axis=1)


@pytest.mark.slow
def test_the_interval_of_all_pairs_is_that_of_jackknives_done_by_hand() -> None:
    codes = drawn((1, 5, 1, 30), options=3, missing=0.1, seed=1)[0, :, 0]
    kappa = mean_kappa(codes)
    added, without = np.zeros(30), np.zeros((5, 30))
    others = [np.delete(codes, run, axis=0) for run in range(5)]
    plain = [mean_kappa(rest) for rest in others]
    for item in range(30):
        added[item] = 1000 * (mean_kappa(with_more_items(codes, item)) - kappa)
        for run, rest in enumerate(others):
            without[run, item] = 1000 * (mean_kappa(with_more_items(rest, item)) - plain[run])
    by_items = np.sum(added**2)
    shared = 4 * np.sum(np.var(without, axis=0))
    by_runs = plain_run_jackknife(codes)
    variance = by_items + max(by_runs - shared, 0)
    found = agreement(make_items(codes[None, :, None])).squeeze().sel(task="task", statistic="all_pairs")
    df = variance**2 / (min(by_runs, variance) ** 2 / 4 + by_items**2 / 29)
    from scipy.stats import t

    half = t.ppf(0.975, df) * np.sqrt(variance) / (1 - kappa)
    assert float(found["lower"]) == pytest.approx(1 - (1 - kappa) * np.exp(half), abs=2e-3)
    assert float(found["upper"]) == pytest.approx(1 - (1 - kappa) * np.exp(-half), abs=2e-3)


def test_the_jackknife_over_runs_is_of_the_statistic_without_each_run() -> None:
    values = np.array([0.3, 0.5, 0.1, 0.4])
    assert run_jackknife(values, np.ones(4, dtype=bool)) == pytest.approx(3 * np.var(values), rel=1e-14)


def test_ten_runs_do_not_count_as_forty_five() -> None:
    # A run that is off enters nine pairs: the interval has to be wider than that of 45 independent pairs.
    rng = np.random.default_rng(2)
    ability = rng.uniform(0.2, 0.9, (1, 10, 1, 1))
    key = rng.integers(0, 4, 2000)
    codes = np.where(rng.random((1, 10, 1, 2000)) < ability, key, rng.integers(0, 4, (1, 10, 1, 2000)))
    found = agreement(make_items(codes), pairs=True).squeeze().sel(task="task", statistic="all_pairs")
    pairs = found["pair_kappa"].values[np.triu_indices(10, 1)]
    naive = 2 * 1.96 * pairs.std(ddof=1) / np.sqrt(45)
    assert float(found["upper"] - found["lower"]) > 2 * naive


def test_full_agreement_has_a_lower_end_below_one() -> None:
    codes = np.repeat(drawn((1, 1, 1, 100)), 4, axis=1)
    at = agreement(make_items(codes)).squeeze().sel(task="task", statistic="all_pairs")
    p_e = float(at["p_e"])
    assert float(at["upper"]) == 1.0
    # None of 100 items disagrees: up to 1 - 0.025^(1/100) of all items may.
    assert float(at["lower"]) == pytest.approx(1 - (1 - 0.025 ** (1 / 100)) / (1 - p_e), abs=1e-12)


def test_fewer_than_ten_items_have_no_interval() -> None:
    found = agreement(make_items(drawn((1, 5, 1, 9)))).squeeze().sel(task="task")
    assert np.isnan(found["lower"]).all()
    assert np.isnan(found["run_lower"]).all()


def test_what_one_run_alone_decides_has_no_interval() -> None:
    correct = np.ones((1, 4, 1, 50), dtype=int)
    correct[0, 0, 0, :5] = 0  # without run 0 all pairs are constant
    at = agreement(make_items(correct=correct)).squeeze().sel(task="task", statistic="all_pairs")
    assert np.isfinite(at["agreement"])
    assert np.isnan(at["lower"])


def test_intervals_stay_between_minus_one_and_one() -> None:
    found = agreement(make_items(drawn((1, 3, 40, 12), options=2, known=0.8, seed=3)))
    assert float(found["upper"].max()) <= 1
    assert float(found["lower"].min()) >= -1


def test_a_higher_level_is_wider() -> None:
    items = make_items(drawn((1, 4, 1, 50)))
    narrow, wide = (agreement(items, level=level).squeeze().sel(task="task") for level in (0.8, 0.99))
    known = narrow["lower"].notnull()
    assert (wide["lower"] < narrow["lower"]).where(known, True).all()
    assert (wide["upper"] > narrow["upper"]).where(known, True).all()


def test_no_spread_of_runs_leaves_the_degrees_of_freedom_of_the_items() -> None:
    half, by_items = np.array([0.5]), np.array([0.01])
    zero, runs, items = np.zeros(1), np.array([3.0]), np.array([400.0])
    lower, upper = run_interval(half, by_items, zero, zero, runs, items, zero, level=0.95)
    assert float((np.log(1 - lower) - np.log(1 - upper))[0]) == pytest.approx(2 * 1.966 * 0.1 / 0.5, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("n_run", [5, 10])
@pytest.mark.parametrize(("common", "bias"), [(0.0, 0.0), (1.0, 0.0), (1.0, 0.7), (4.0, 0.3)])
def test_intervals_cover_what_all_runs_and_items_would_show(n_run: int, common: float, bias: float) -> None:
    rng = np.random.default_rng(int(10 * common + n_run))

    def answers(runs: int, items: int, steps: int) -> npt.NDArray[np.int64]:
        options = 4
        item = rng.normal(scale=common, size=(1, steps, items, options)) if common else 0.0
        run = rng.normal(scale=bias, size=(runs, steps, 1, options)) if bias else 0.0
        return np.argmax(item + run + rng.normal(size=(runs, steps, items, options)), axis=-1)[None]

    many = agreement(make_items(answers(100, 500, 20)), level=None, answers="choice").squeeze().sel(task="task")
    truth = many["agreement"].sel(statistic=["all_pairs", "krippendorff"]).mean("step")
    found = agreement(make_items(answers(n_run, 100, 500))).squeeze().sel(task="task")
    inside = (found["lower"] <= truth) & (truth <= found["upper"])
    cover = inside.sel(statistic=["all_pairs", "krippendorff"]).mean("step")
    assert ((cover > 0.925) & (cover < 0.995)).all()
