"""The multi-bootstrap: the same draws as a plain loop, scipy as oracle, algebra, coverage, bad input."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import xarray as xr

from polystab.analysis.bootstrap import multibootstrap
from polystab.analysis.bootstrap.intervals import bca_interval, bca_p, percentile_interval, two_way
from polystab.analysis.bootstrap.kernels import Side, all_counts, count_blocks, resampled
from polystab.errors import AnalysisError

Floats = npt.NDArray[np.float64]


def scores(seed: int, n_seed: int = 5, n_item: int = 40, mean: float = 0.6) -> Floats:
    return (np.random.default_rng(seed).random((n_seed, n_item)) < mean).astype(np.float64)


def labelled(values: Floats, **coords: Any) -> xr.DataArray:
    dims = ("cell", "seed", "item")[-values.ndim :]
    return xr.DataArray(values, dims=dims, coords=coords)


def ends(result: xr.Dataset, interval: str, side: str = "difference") -> Floats:
    found = result.sel(side=side, interval=interval)
    return np.array([found["lower"], found["upper"]])


# The draws.


def looped(base: Floats, other: Floats, runs: list[Floats], items: Floats) -> Floats:
    """One resample at a time, with indices."""
    result = []
    for row in range(len(items)):
        drawn = np.repeat(np.arange(base.shape[1]), items[row].astype(int))
        means = []
        for values, counts in zip((base, other), runs, strict=True):
            of_runs = np.repeat(np.arange(len(values)), counts[row].astype(int))
            means.append(np.mean([values[run][drawn].mean() for run in of_runs]))
        result.append([means[0], means[1], means[1] - means[0]])
    return np.array(result).T


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("real", [False, True])
def test_the_same_draws_give_the_resamples_of_a_plain_loop(chunk: int, real: bool) -> None:
    rng = np.random.default_rng(0)
    base, other = (rng.random((4, 90)), rng.random((6, 90))) if real else (scores(1, 4, 90), scores(2, 6, 90))
    runs: tuple[Floats | None, Floats | None] = (all_counts(4, 50, rng), all_counts(6, 50, rng))
    items = all_counts(90, 50, rng)
    sides = (Side(base[None], None, False), Side(other[None], None, False))
    found = resampled(sides, runs, iter([items[:20], items[20:]]), n_resamples=50, chunk=chunk)[:, :, 0]
    np.testing.assert_allclose(found, looped(base, other, [runs[0], runs[1]], items), rtol=0, atol=1e-14)  # type: ignore[list-item]


@pytest.mark.parametrize("n", [5, 63, 64, 300])
def test_counts_are_of_as_many_draws_as_there_are_things(n: int) -> None:
    counts = all_counts(n, 500, np.random.default_rng(0))
    assert counts.shape == (500, n)
    assert (counts.sum(axis=1) == n).all()


@pytest.mark.slow
@pytest.mark.parametrize("n", [10, 100])
def test_counts_follow_the_multinomial_distribution(n: int) -> None:
    counts = all_counts(n, 40_000, np.random.default_rng(1))
    found = np.array([(counts == k).mean() for k in range(6)])
    expected = scipy.stats.binom.pmf(np.arange(6), n, 1 / n)
    assert np.all(np.abs(found - expected) < 5 * np.sqrt(expected / (40_000 * n)))
    covariance = np.cov(counts[:, :4].T)
    np.testing.assert_allclose(covariance, np.eye(4) - 1 / n, atol=0.05)


def test_draws_do_not_depend_on_the_chunk() -> None:
    base, other = scores(1, 5, 700), scores(2, 5, 700)
    whole = multibootstrap(base, other, rng=3, n_resamples=400)
    for chunk in (1, 33, 10_000):
        xr.testing.assert_identical(multibootstrap(base, other, rng=3, n_resamples=400, chunk=chunk), whole)


def test_the_same_rng_gives_the_same_bytes_and_another_one_does_not() -> None:
    base, other = scores(1), scores(2)
    one, two, three = (multibootstrap(base, other, rng=rng)["lower"].values for rng in (1, 1, 2))
    assert one.tobytes() == two.tobytes() != three.tobytes()


@pytest.mark.slow
def test_the_distribution_is_that_of_a_plain_loop() -> None:
    base, other = scores(1, 6, 100), scores(2, 6, 100, 0.7)
    n, rng = 6000, np.random.default_rng(0)
    runs = rng.integers(0, 6, (2, n, 6))
    drawn = rng.integers(0, 100, (n, 100))
    plain = np.array(
        [other[np.ix_(o, i)].mean() - base[np.ix_(b, i)].mean() for b, o, i in zip(*runs, drawn, strict=True)]
    )
    sides = (Side(base[None], None, False), Side(other[None], None, False))
    ours = resampled(
        sides, (all_counts(6, n, rng), all_counts(6, n, rng)), count_blocks(100, n, rng), n_resamples=n, chunk=n
    )[2, :, 0]
    assert scipy.stats.ks_2samp(plain, ours).pvalue > 0.001
    assert ours.mean() == pytest.approx(plain.mean(), abs=4 * plain.std() * np.sqrt(2 / n))
    assert ours.std() == pytest.approx(plain.std(), rel=4 / np.sqrt(n))


# Oracles.


@pytest.mark.parametrize("kind", ["percentile", "bca"])
def test_intervals_of_a_mean_are_those_of_scipy_from_the_same_resamples(kind: str) -> None:
    values = np.random.default_rng(0).gamma(1.0, size=30)  # no draw of all thirty: rounding would break its tie
    result = scipy.stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(1))
    expected = scipy.stats.bootstrap((values,), np.mean, method=kind, n_resamples=0, bootstrap_result=result)
    draws = np.sort(result.bootstrap_distribution)[:, None]
    rest = values - values.mean()
    a = np.array([(rest**3).sum() / (6 * (rest**2).sum() ** 1.5)])
    if kind == "bca":
        found = bca_interval(draws, np.array([values.mean()]), a, 0.95)
    else:
        found = percentile_interval(draws, 0.95)
    np.testing.assert_allclose(found[:, 0], expected.confidence_interval, rtol=1e-12)


@pytest.mark.parametrize("kind", ["percentile", "bca"])
def test_resampled_seeds_against_a_fixed_model_agree_with_scipy(kind: str) -> None:
    other = np.random.default_rng(0).gamma(1.0, size=(12, 3))
    found = multibootstrap(np.zeros((1, 3)), other, design="fixed", resample="seeds", n_resamples=40_000, rng=0)
    expected = scipy.stats.bootstrap(
        (other.mean(axis=1),), np.mean, method=kind, n_resamples=40_000, rng=np.random.default_rng(1)
    )
    width = np.ptp(expected.confidence_interval)
    np.testing.assert_allclose(ends(found, kind), expected.confidence_interval, atol=0.02 * width)


def test_t_interval_of_seeds_is_that_of_a_t_test() -> None:
    base, other = scores(1, 6), scores(2, 8)
    unpaired = multibootstrap(base, other, resample="seeds", rng=0)
    test = scipy.stats.ttest_ind(other.mean(axis=1), base.mean(axis=1), equal_var=False)
    np.testing.assert_allclose(ends(unpaired, "t"), test.confidence_interval(), rtol=1e-10)
    assert unpaired["p"].sel(interval="t").item() == pytest.approx(test.pvalue, rel=1e-10)
    paired = multibootstrap(base, other[:6], design="paired", resample="seeds", rng=0)
    test = scipy.stats.ttest_rel(other[:6].mean(axis=1), base.mean(axis=1))
    np.testing.assert_allclose(ends(paired, "t"), test.confidence_interval(), rtol=1e-10)


def test_t_interval_of_items_is_that_of_a_paired_t_test_over_items() -> None:
    base, other = scores(1), scores(2)
    found = multibootstrap(base, other, resample="items", rng=0)
    test = scipy.stats.ttest_rel(other.mean(axis=0), base.mean(axis=0))
    np.testing.assert_allclose(ends(found, "t"), test.confidence_interval(), rtol=1e-10)


def test_mean_squares_are_those_of_a_two_way_table() -> None:
    from polystab.analysis import fit_reml

    rng = np.random.default_rng(0)
    values = rng.standard_normal((1, 8, 30)) + 2 * rng.standard_normal((1, 8, 1)) + rng.standard_normal((1, 1, 30))
    found = two_way(values)
    run, item = np.divmod(np.arange(240), 30)
    fit = fit_reml(values.ravel(), {"run": run, "item": item})
    parts = [8 * (found.runs - found.crossed), 30 * (found.items - found.crossed), 240 * found.crossed]
    expected = [float(fit.variance[name]) for name in ("run", "item", "residual")]
    np.testing.assert_allclose([float(part[0]) for part in parts], expected, rtol=1e-5)


# Known truth.


@pytest.mark.parametrize("design", ["paired", "unpaired", "fixed"])
def test_variance_parts_are_recovered(design: str) -> None:
    rng = np.random.default_rng(0)
    sides = [
        0.5 * rng.standard_normal((300, 8, 1)) + rng.standard_normal((300, 1, 40)) + rng.standard_normal((300, 8, 40))
        for _ in range(2)
    ]
    base = sides[0][:, 0] if design == "fixed" else sides[0]
    dims = ("cell", "item") if design == "fixed" else ("cell", "seed", "item")
    found = multibootstrap(xr.DataArray(base, dims=dims), labelled(sides[1]), design=design, n_resamples=2, rng=0)
    mean = found["variance_estimate"].mean("cell")
    one_sided = {"seed": 0.25, "item": 1.0, "seed:item": 1.0}
    both = {"paired": (0.5, 2.0, 2.0), "unpaired": (0.5, 2.0, 2.0), "fixed": (0.25, 3.0, 1.0)}[design]
    for part, expected in one_sided.items():
        assert mean.sel(side="other", part=part).item() == pytest.approx(expected, rel=0.1)
    np.testing.assert_allclose(mean.sel(side="difference"), both, rtol=0.1)


@pytest.mark.slow
def test_drawing_both_counts_the_interaction_three_times() -> None:
    rng = np.random.default_rng(0)
    found = multibootstrap(
        labelled(rng.standard_normal((60, 20, 100))), labelled(rng.standard_normal((60, 20, 100))), rng=0
    ).sel(side="difference")
    variance = (found["stderr"] ** 2).mean("cell")
    truth = 2 / (20 * 100)
    assert variance.sel(interval="percentile").item() == pytest.approx(3 * truth, rel=0.1)
    assert variance.sel(interval="t").item() == pytest.approx(truth, rel=0.25)


@pytest.mark.slow
def test_a_score_of_parts_is_the_score_of_every_resample() -> None:
    rng = np.random.default_rng(0)
    values = (rng.random((2, 5, 70, 3)) < 0.5).astype(np.float64)

    def f1(means: Floats) -> Floats:
        return np.asarray(2 * means[..., 0] / (2 * means[..., 0] + means[..., 1] + means[..., 2]))

    dims = ("seed", "item", "part")
    quick = multibootstrap(*(xr.DataArray(side, dims=dims) for side in values), score=f1, parts="part", rng=0)
    coded = values @ np.array([1.0, 2.0, 4.0])  # the parts of an item as one number

    def slow(drawn: Floats) -> Floats:
        bits = np.stack([(drawn.astype(int) >> k) & 1 for k in range(3)], axis=-1)
        return f1(bits.mean(axis=-2))

    plain = multibootstrap(coded[0], coded[1], score=slow, rng=0)
    for name in ("estimate", "lower", "upper", "stderr", "p"):
        np.testing.assert_allclose(quick[name], plain[name], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_callable_mean_is_the_mean() -> None:
    base, other = scores(1), scores(2)
    one = multibootstrap(base, other, score=lambda y: y.mean(axis=-1), rng=0)
    two = multibootstrap(base, other, rng=0)
    for name in ("estimate", "lower", "upper", "stderr", "p", "variance_estimate"):
        np.testing.assert_allclose(one[name], two[name], rtol=1e-9, atol=1e-12)


# Algebra.


@pytest.mark.parametrize("resample", ["both", "seeds", "items"])
@pytest.mark.parametrize("real", [False, True])
def test_paired_and_identical_gives_exactly_zero(resample: str, real: bool) -> None:
    base = np.random.default_rng(0).random((5, 90)) if real else scores(1)
    found = multibootstrap(base, base.copy(), design="paired", resample=resample, rng=0).sel(side="difference")
    for name in ("estimate", "lower", "upper", "stderr", "variance"):
        assert (found[name] == 0).all()
    assert (found["p"] == 1).all()


def test_sides_change_places() -> None:
    base, other = scores(1), scores(2)
    one = multibootstrap(base, other, design="paired", rng=0).sel(side="difference")
    two = multibootstrap(other, base, design="paired", rng=0).sel(side="difference")
    np.testing.assert_allclose(one["lower"], -two["upper"], atol=1e-12)
    np.testing.assert_allclose(one["p"], two["p"], rtol=1e-9)


@pytest.mark.parametrize(("scale", "offset"), [(3.0, 0.0), (1e-150, 0.0), (1e150, 0.0), (1.0, 1e6)])
def test_scores_may_be_scaled_and_moved(scale: float, offset: float) -> None:
    base, other = scores(1), scores(2)
    plain = multibootstrap(base, other, rng=0).sel(side="difference")
    moved = multibootstrap(base * scale + offset, other * scale + offset, rng=0).sel(side="difference")
    for name in ("estimate", "lower", "upper", "stderr"):
        np.testing.assert_allclose(moved[name] / scale, plain[name], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(moved["p"], plain["p"], rtol=1e-9)


def test_order_of_seeds_and_items_does_not_matter_to_what_is_not_drawn() -> None:
    base, other = scores(1), scores(2)
    one = multibootstrap(base, other, rng=0)
    two = multibootstrap(base[::-1, ::-1], other[::-1, ::-1], rng=0)
    for name in ("estimate", "variance", "df"):
        np.testing.assert_allclose(one[name], two[name], rtol=1e-9)
    np.testing.assert_allclose(ends(one, "t"), ends(two, "t"), rtol=1e-9)


@pytest.mark.slow
def test_further_dimensions_are_compared_one_by_one() -> None:
    base = np.stack([scores(k) for k in range(3)])
    other = np.stack([scores(k + 10) for k in range(3)])
    together = multibootstrap(labelled(base, cell=["a", "b", "c"]), labelled(other, cell=["a", "b", "c"]), rng=0)
    for k, name in enumerate("abc"):
        alone = multibootstrap(base[k], other[k], rng=0)
        xr.testing.assert_allclose(together.sel(cell=name, drop=True), alone)


def test_input_is_left_as_it_was() -> None:
    base, other = labelled(scores(1)), labelled(scores(2))
    before = base.copy(deep=True)
    multibootstrap(base, other, rng=0)
    xr.testing.assert_identical(base, before)


# Calibration: what the documentation says.


def coverage(n_seed: int, sds: tuple[float, float, float], design: str, cells: int = 1000) -> dict[str, float]:
    rng = np.random.default_rng(n_seed)
    seed, item, noise = sds

    def side() -> Floats:
        return seed * rng.standard_normal((cells, n_seed, 1)) + noise * rng.standard_normal((cells, n_seed, 60))

    other = labelled(side() + item * rng.standard_normal((cells, 1, 60)))
    found = multibootstrap(labelled(side()), other, design=design, n_resamples=400, rng=rng).sel(side="difference")
    inside = ((found["lower"] <= 0) & (found["upper"] >= 0)).mean("cell")
    return {str(name): float(inside.sel(interval=name)) for name in inside["interval"].values}


@pytest.mark.slow
@pytest.mark.parametrize("design", ["paired", "unpaired"])
@pytest.mark.parametrize("n_seed", [3, 5, 10])
def test_t_covers_where_seeds_dominate_and_the_bootstrap_does_not(n_seed: int, design: str) -> None:
    found = coverage(n_seed, (1.0, 0.01, 0.01), design)
    assert 0.93 <= found["t"] <= 0.98
    assert found["percentile"] < {3: 0.83, 5: 0.90, 10: 0.95}[n_seed]


@pytest.mark.slow
@pytest.mark.parametrize("sds", [(0.0, 1.0, 0.3), (0.1, 1.0, 0.3)])
def test_all_cover_where_items_dominate(sds: tuple[float, float, float]) -> None:
    found = coverage(5, sds, "unpaired")
    assert all(0.92 <= share <= 0.98 for share in found.values())


@pytest.mark.slow
def test_p_is_below_five_percent_as_often_as_it_should_be() -> None:
    rng = np.random.default_rng(0)
    base, other = (
        labelled(0.3 * rng.standard_normal((4000, 5, 1)) + rng.standard_normal((4000, 5, 20))) for _ in range(2)
    )
    found = multibootstrap(base, other, n_resamples=2, rng=0)
    assert 0.03 <= float((found["p"].sel(interval="t") < 0.05).mean()) <= 0.06


def test_p_of_bca_is_where_its_interval_ends_at_zero() -> None:
    rng = np.random.default_rng(0)
    draws = np.sort(rng.gamma(2.0, size=(20_000, 1)) - 0.3, axis=0)
    estimate, a = np.array([1.6]), np.array([0.05])
    p = float(bca_p(draws, estimate, a)[0])
    found = bca_interval(draws, estimate, a, 1 - p)
    assert np.abs(found[:, 0]).min() == pytest.approx(0, abs=1e-3)


# What is missing, and bad input.


def test_items_are_joined_on_their_labels() -> None:
    base, other = scores(1), scores(2)
    items = np.array([f"task/{k}" for k in range(40)])
    order = np.random.default_rng(0).permutation(40)
    found = multibootstrap(
        labelled(base, item=items), labelled(other[:, order][:, :30], item=items[order][:30]), design="paired", rng=0
    )
    shared = np.sort(order[:30])
    plain = multibootstrap(base[:, shared], other[:, shared], design="paired", rng=0)
    xr.testing.assert_allclose(found[["estimate", "lower", "p"]], plain[["estimate", "lower", "p"]])
    assert (found.attrs["n_items_joined"], found.attrs["n_items_apart"], int(found["n_items"])) == (30, 10, 30)


@pytest.mark.parametrize("gap", [np.nan, np.inf])
def test_items_that_a_run_did_not_answer_are_left_out_and_counted(gap: float) -> None:
    base, other = scores(1), scores(2)
    holes = base.copy()
    holes[2, [3, 7]] = gap
    found = multibootstrap(holes, other, rng=0)
    kept = np.delete(np.arange(40), [3, 7])
    plain = multibootstrap(base[:, kept], other[:, kept], rng=0)
    xr.testing.assert_allclose(found.drop_vars("n_items_incomplete"), plain.drop_vars("n_items_incomplete"))
    assert (int(found["n_items"]), int(found["n_items_incomplete"])) == (38, 2)


def test_a_run_without_answers_is_left_out_with_its_partner() -> None:
    base, other = scores(1), scores(2)
    gone = base.copy()
    gone[1] = np.nan
    kept = [0, 2, 3, 4]
    paired = multibootstrap(gone, other, design="paired", rng=0)
    xr.testing.assert_allclose(paired, multibootstrap(base[kept], other[kept], design="paired", rng=0))
    unpaired = multibootstrap(gone, other, rng=0)
    assert unpaired["n_seeds"].values.tolist() == [4, 5, 4]


def test_cells_with_different_gaps_each_keep_what_they_have() -> None:
    base = np.stack([scores(k) for k in range(3)])
    base[1, 0, 5] = np.nan
    base[2] = np.nan
    found = multibootstrap(labelled(base), labelled(np.stack([scores(9)] * 3)), rng=0)
    assert found["n_items"].values.tolist() == [40, 39, 0]
    assert found["reason"].values.tolist() == [0, 0, 1]
    assert np.isnan(found["estimate"].sel(side="difference")[2])


def test_answers_not_given_in_a_cube_are_missing() -> None:
    base = xr.DataArray(scores(1).astype(np.int8), dims=("seed", "item"), name="correct")
    base[0, :4] = -1
    assert int(multibootstrap(base, scores(2), rng=0)["n_items"]) == 36


@pytest.mark.parametrize(("n_seed", "resample", "reason"), [(1, "both", 2), (2, "seeds", 2), (1, "items", 0)])
def test_few_seeds_have_an_estimate_but_no_interval(n_seed: int, resample: str, reason: int) -> None:
    found = multibootstrap(scores(1, n_seed), scores(2, n_seed), resample=resample, rng=0).sel(side="difference")
    assert int(found["reason"]) == reason
    assert bool(found["lower"].isnull().all()) == bool(reason)
    assert np.isfinite(found["estimate"])


def test_a_fixed_base_may_be_a_single_model() -> None:
    other = scores(2)
    one = multibootstrap(scores(1)[0], other, design="fixed", rng=0)
    two = multibootstrap(scores(1)[:1], other, design="fixed", rng=0)
    xr.testing.assert_identical(one, two)
    assert int(one["reason"]) == 0


@pytest.mark.parametrize(("other", "p"), [(0.1, 1.0), (0.3, 2 / 1001)])
def test_constant_scores_have_an_interval_of_no_length(other: float, p: float) -> None:
    found = multibootstrap(np.full((4, 9), 0.1), np.full((4, 9), other), rng=0)
    difference = found.sel(side="difference")
    for name in ("percentile", "bca", "t"):
        np.testing.assert_allclose(ends(found, name), other - 0.1, rtol=1e-12, atol=0)
    assert (difference["stderr"] == 0).all()
    assert difference["p"].sel(interval="percentile").item() == pytest.approx(p)


def test_p_is_never_zero() -> None:
    found = multibootstrap(scores(1, 5, 40, 0.01), scores(2, 5, 40, 0.99), n_resamples=99, rng=0)
    assert found["p"].sel(interval=["percentile", "bca"]).values.tolist() == [0.02, 0.02]
    assert found.attrs["p_smallest"] == 0.02
    assert found["p"].sel(interval="t") > 0


def nothing_shared() -> tuple[xr.DataArray, xr.DataArray]:
    return labelled(scores(1), item=np.arange(40)), labelled(scores(2), item=np.arange(40) + 100)


def other_seeds() -> tuple[xr.DataArray, xr.DataArray]:
    return labelled(scores(1), seed=np.arange(5)), labelled(scores(2), seed=np.arange(5) + 2)


def twice() -> tuple[xr.DataArray, xr.DataArray]:
    return labelled(scores(1), item=np.arange(40) // 2), labelled(scores(2), item=np.arange(40))


@pytest.mark.parametrize(
    ("sides", "options", "message"),
    [
        (nothing_shared(), {}, "no item in common"),
        (other_seeds(), {"design": "paired"}, r"same seeds; on one side only: '0 \(base\)', '1 \(base\)'"),
        (twice(), {}, "more than one item 0, 1, 2, 3, 4 and 15 more"),
        ((scores(1, 4), scores(2, 5)), {"design": "paired"}, "base has 4 and other 5"),
        ((scores(1, 4, 30), scores(2)), {}, "base has 30 items and other 40"),
        ((scores(1)[0], scores(2)), {}, "1 dimensions"),
        ((scores(1), np.array([["a"]])), {}, "other is not an array of numbers"),
        ((xr.Dataset(), scores(2)), {}, "pass scores of items"),
        ((xr.DataArray(scores(1), dims=("seed", "question")), scores(2)), {}, "no dimension 'item'"),
        ((scores(1), scores(2)), {"design": "pared"}, "Did you mean 'paired'"),
        ((scores(1), scores(2)), {"resample": "item"}, "Did you mean 'items'"),
        ((scores(1), scores(2)), {"level": 95}, "level is 95"),
        ((scores(1), scores(2)), {"n_resamples": 1}, "n_resamples is 1"),
        ((scores(1), scores(2)), {"chunk": 0}, "chunk is 0"),
        ((scores(1), scores(2)), {"score": "f1"}, "score is 'f1'"),
        ((scores(1), scores(2)), {"score": lambda y: y}, "take away the last dimension only"),
        ((scores(1), scores(2)), {"score": lambda y: y.mean(axis=-1) * np.nan}, "NaN or infinite"),
        ((scores(1), scores(2)), {"parts": "part"}, "needs a score"),
        ((np.empty((0, 5)), scores(2)), {}, "nothing along 'seed'"),
    ],
)
def test_what_cannot_be_compared_is_refused(sides: tuple[Any, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        multibootstrap(*sides, rng=0, **options)


# Size.


@pytest.mark.slow
def test_memory_is_bounded_by_the_chunk() -> None:
    rng = np.random.default_rng(0)
    base, other = (xr.DataArray(rng.random((40, 10, 50)), dims=("cell", "seed", "item")) for _ in range(2))
    peak = {}
    for chunk in (10, 4000):
        tracemalloc.start()
        multibootstrap(base, other, n_resamples=4000, chunk=chunk, rng=0)
        peak[chunk] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    totals = 8 * 4000 * 40 * 10  # bytes that scoring all resamples of one side at once would take
    kept = 8 * 4000 * 40 * 3  # the resamples themselves
    assert peak[10] < 3 * kept + 2**22 < peak[4000] < 6 * totals
