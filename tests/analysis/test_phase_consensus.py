"""What seeds share: against chance enumerated in full, made-up changes, and calibration at random steps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from polystab.analysis.phases.consensus import consensus_change_points, median_interval, seed_agreement
from polystab.analysis.phases.scan import Shared, densest
from polystab.analysis.phases.sizes import phase_size_trend, slopes
from polystab.errors import AnalysisError, NotACubeError
from polystab.testing import phase_cube

STEPS = np.arange(60) * 1000
Runs = Sequence[Sequence[int]]


def result_of(
    *models: Runs,
    reach: Mapping[tuple[int, int], int] | None = None,
    sizes: Mapping[tuple[int, int], float] | None = None,
    unseen: Sequence[int] = (),
    parameters: Sequence[float] | None = None,
) -> xr.Dataset:
    """A result of change_points with one metric, from the places (on the grid) at which each seed changes.

    ``reach`` widens the interval of change (seed, which) and ``sizes`` sets its size, for the first model.
    """
    n_seed = max(map(len, models))
    most = max((len(run) for model in models for run in model), default=0)
    shape = (len(models), n_seed, 1, most)
    step, before, lower, upper = (np.full(shape, -1, dtype=np.int64) for _ in range(4))
    size = np.full(shape, np.nan)
    n_changes = np.full(shape[:3], -1, dtype=np.int64)
    for m, model in enumerate(models):
        for s, run in enumerate(model):
            if s in unseen:
                continue
            n_changes[m, s, 0] = len(run)
            for i, place in enumerate(run):
                wide = (reach or {}).get((s, i), 0)
                step[m, s, 0, i], before[m, s, 0, i] = STEPS[place], STEPS[place - 1]
                lower[m, s, 0, i], upper[m, s, 0, i] = STEPS[place - wide], STEPS[place + wide]
                size[m, s, 0, i] = (sizes or {}).get((s, i), 1.0)
    dims = ("model", "seed", "metric")
    coords = {"model": [f"m{i}" for i in range(len(models))], "seed": range(n_seed), "metric": ["eval/a/acc"]}
    data = xr.Dataset(
        {
            "step": ((*dims, "change"), step),
            "before": ((*dims, "change"), before),
            "lower": ((*dims, "change"), lower),
            "upper": ((*dims, "change"), upper),
            "size": ((*dims, "change"), size),
            "n_changes": (dims, n_changes),
            "measured": ((*dims, "checkpoint"), np.ones((*shape[:3], len(STEPS)), dtype=np.bool_)),
        },
        coords={**coords, "checkpoint": STEPS},
        attrs={"min_size": 2},
    )
    return data if parameters is None else data.assign_coords(n_parameters=("model", np.array(parameters)))


def shared(data: xr.Dataset | xr.DataTree, rng: int = 0, n_resamples: int = 199, **arguments: float) -> xr.Dataset:
    found = consensus_change_points(data, rng=rng, n_resamples=n_resamples, **arguments)
    return found.isel(model=0, metric=0)


def at_random(rng: np.random.Generator, n_seeds: int, n_changes: int) -> list[list[int]]:
    return [sorted(rng.choice(np.arange(2, 58), n_changes, replace=False).tolist()) for _ in range(n_seeds)]


# The scan against chance.


@pytest.mark.slow
def test_expected_runs_and_p_are_those_of_all_shifts() -> None:
    # Three runs on a grid of 9, so that all 9 ** 3 sets of shifts can be enumerated.
    places, n = [np.array([2]), np.array([3, 7]), np.array([2])], 9
    found = densest(places, n, least=2, n_resamples=20_000, rng=np.random.default_rng(0))
    assert found is not None

    def smallest_tail(sets: Sequence[np.ndarray]) -> float:
        tails = []
        for width in (1, 2):
            chances = [len({(p - i) % n for p in own for i in range(width)}) / n for own in places]
            exact = np.zeros(4)
            for outcome in itertools.product([0, 1], repeat=3):
                exact[sum(outcome)] += np.prod([c if o else 1 - c for o, c in zip(outcome, chances, strict=True)])
            for start in range(n - width + 1):
                count = sum(bool(set(own.tolist()) & set(range(start, start + width))) for own in sets)
                if count >= 2:
                    tails.append(exact[count:].sum())
        return min(tails, default=np.inf)

    observed = smallest_tail(places)
    all_sets = [
        [(own + shift) % n for own, shift in zip(places, shifts, strict=True)]
        for shifts in itertools.product(range(n), repeat=3)
    ]
    p = np.mean([smallest_tail(sets) <= observed * (1 + 1e-9) for sets in all_sets])
    assert (found.first, found.last, found.n_runs) == (2, 3, 3)
    assert found.expected == pytest.approx(2 / 9 + 4 / 9 + 2 / 9)
    assert found.p == pytest.approx(p, abs=0.01)


def test_too_few_runs_are_no_stretch() -> None:
    assert (
        densest([np.array([2]), np.array([], dtype=int)], 9, least=2, n_resamples=9, rng=np.random.default_rng(0))
        is None
    )


def test_the_tightest_of_equal_stretches_is_taken() -> None:
    places = [np.array([5, 20]), np.array([5, 22]), np.array([5, 24])]
    found = densest(places, 40, least=2, n_resamples=9, rng=np.random.default_rng(0))
    assert found is not None
    assert found == Shared(5, 5, 3, found.expected, found.p)


@pytest.mark.slow
@pytest.mark.parametrize(("n_seeds", "n_changes"), [(10, 3), (5, 4), (3, 2)])
def test_changes_at_random_steps_are_rarely_a_consensus(n_seeds: int, n_changes: int) -> None:
    rng = np.random.default_rng(1)
    data = result_of(*(at_random(rng, n_seeds, n_changes) for _ in range(300)))
    n_changes_found = consensus_change_points(data, n_resamples=99, rng=0)["n_changes"]
    # Changes are whole numbers and runs must be half of all, so less than the 5 % that are allowed.
    assert 0 < (n_changes_found > 0).mean() <= 0.07


def test_a_change_in_every_seed_at_random_steps_is_no_consensus() -> None:
    places = [[4], [9], [15], [22], [27], [33], [38], [44], [49], [55]]
    assert shared(result_of(places))["n_changes"] == 0


# What is shared.


def test_a_change_of_all_seeds_is_found_with_its_step() -> None:
    found = shared(result_of([[20]] * 10), n_resamples=999)
    assert found["n_changes"] == 1
    assert found["step"].item() == found["first"].item() == found["upper"].item() == 20_000
    assert (found["n_runs"].item(), found["share"].item(), found["sd"].item()) == (10, 1.0, 0.0)
    assert found["p"].item() == pytest.approx(0.001)
    assert found["expected"].item() == pytest.approx(10 / 57)
    assert not found["lacks"].any()


def test_spread_over_seeds_is_told() -> None:
    places = [[18], [19], [20], [20], [21], [22], [23], [24], [20], [21]]
    found = shared(result_of(places)).isel(change=0)
    assert (found["first"], found["last"], found["step"]) == (18_000, 24_000, 20_000)
    assert found["sd"].item() == pytest.approx(np.std(places, ddof=1) * 1000)
    assert (found["lower"], found["upper"]) == (19_000, 23_000)  # second and ninth of ten
    assert found["coverage"].item() == pytest.approx(1 - 2 * 11 / 1024)


def test_changes_come_in_the_order_of_training() -> None:
    rng = np.random.default_rng(0)
    places = [[10 + int(rng.integers(-2, 3)), 40] for _ in range(10)]
    found = shared(result_of(places))
    assert found["step"].values.tolist() == [np.sort([place for place, _ in places])[4] * 1000, 40_000]
    assert (np.diff(found["member_step"].values, axis=1) > 0).all()


def test_seeds_that_lack_or_add_a_change_are_named() -> None:
    found = shared(result_of([*[[20]] * 8, [], [20, 45]]))
    assert np.flatnonzero(found["lacks"].values.ravel()).tolist() == [8]
    assert found["member_step"].values.ravel()[8] == -1
    assert found["n_extra"].values.tolist() == [0] * 9 + [1]
    assert found["n_runs"].item() == 9


@pytest.mark.parametrize(("reach", "lacks"), [(0, True), (9, True), (10, False), (15, False)])
def test_a_change_whose_interval_reaches_in_belongs(reach: int, lacks: bool) -> None:
    found = shared(result_of([*[[20]] * 9, [30]], reach={(9, 0): reach}))
    assert found["lacks"].values[9, 0] == lacks
    assert found["n_extra"].values[9] == lacks


def test_a_seed_counts_once_with_its_nearest_change() -> None:
    found = shared(result_of([*[[20]] * 5, *[[21]] * 4, [20, 25]]))
    assert found["member_step"].values[9].tolist() == [20_000]
    assert found["n_extra"].values[9] == 1


def test_size_is_the_median_over_the_seeds() -> None:
    data = result_of([[20]] * 5, sizes={(i, 0): float(i) for i in range(5)})
    assert shared(data)["size"].item() == 2.0


def test_min_share_asks_for_more_seeds() -> None:
    data = result_of([*[[20]] * 6, *[[]] * 4])
    assert shared(data)["n_changes"] == 1
    assert shared(data, min_share=0.7)["n_changes"] == 0


def test_the_order_of_seeds_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    data = result_of([[15 + int(rng.integers(0, 4)), *own] for own in at_random(rng, 10, 1)])
    order = rng.permutation(10)
    one, other = shared(data), shared(data.isel(seed=order))
    for name in ("step", "n_runs", "lower", "upper", "sd", "expected"):
        assert one[name].values.tolist() == other[name].values.tolist()
    assert one["member_step"].values[order].tolist() == other["member_step"].values.tolist()


def test_the_same_rng_gives_the_same_bytes() -> None:
    data = result_of(at_random(np.random.default_rng(5), 10, 4), [[20], [21], [22], [20]])
    xr.testing.assert_identical(consensus_change_points(data, rng=3), consensus_change_points(data, rng=3))


def test_seeds_not_looked_at_do_not_count() -> None:
    found = shared(result_of([[20]] * 10, unseen=[0, 1, 2, 3, 4]))
    assert (found["n_looked_at"], found["n_runs"], found["share"]) == (5, 5, 1.0)
    assert found["n_extra"].values.tolist() == [-1] * 5 + [0] * 5
    assert not found["lacks"].any()


@pytest.mark.parametrize("runs", [[[20]], [[], [], []], [[20], []]])
def test_too_little_for_a_consensus_is_none(runs: Runs) -> None:
    found = shared(result_of(runs))
    assert found["n_changes"] == 0
    assert found.sizes["change"] == 0


def test_checkpoints_of_few_runs_do_not_stretch_the_grid() -> None:
    data = result_of([[20]] * 10)
    data["measured"][0, 2:, 0, 30:] = False  # eight runs end early
    assert shared(data)["expected"].item() == pytest.approx(10 / 27)


def test_changes_at_checkpoints_that_few_runs_have_are_shared_too() -> None:
    data = result_of([*[[4]] * 4, *[[20]] * 6])
    data["measured"][0, 4:, 0, :6] = False  # six runs begin later
    found = shared(data, min_share=0.4)
    assert found["step"].values.tolist() == [4_000, 20_000]
    assert found["n_runs"].values.tolist() == [4, 6]


def test_two_seeds_have_no_interval() -> None:
    found = shared(result_of([[20], [20]]), false_alarm=0.2).isel(change=0)
    assert found["step"] == 20_000
    assert found["lower"] == found["upper"] == -1
    assert np.isnan(found["coverage"])


@pytest.mark.parametrize("n", [3, 5, 6, 10, 25])
def test_interval_of_a_median_is_the_narrowest_that_holds(n: int) -> None:
    rank, coverage = median_interval(n, 0.95)
    assert coverage == pytest.approx(1 - 2 * stats.binom.cdf(rank, n, 0.5))
    assert coverage >= 0.95 or rank == 0
    assert 1 - 2 * stats.binom.cdf(rank + 1, n, 0.5) < 0.95


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"min_share": 0.0}, "min_share is 0.0"),
        ({"false_alarm": 1.0}, "false_alarm is 1.0"),
        ({"level": 95}, "level is 95"),
        ({"n_resamples": 10}, "10 resamples cannot show a p of 0.05; take 19 or more"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        consensus_change_points(result_of([[20]] * 3), **arguments)  # type: ignore[arg-type]


# Agreement of segmentations.


def test_agreement_by_hand() -> None:
    found = seed_agreement(result_of([[20], [20], [30]])).squeeze()
    assert found["n_pairs"] == found["n_pairs_hausdorff"] == 3
    assert found["hausdorff"].item() == pytest.approx(20 / 3)
    assert found["f1"].item() == pytest.approx((1 + 0.5 + 0.5) / 3)
    # 20 and 40 against 30 and 30: Jaccard 20 / 30 and 30 / 40 one way, 2 / 3 and 3 / 4 the other.
    other = (20 * 2 / 3 + 40 * 3 / 4 + 30 * 2 / 3 + 30 * 3 / 4) / 120
    assert found["covering"].item() == pytest.approx((1 + 2 * other) / 3)


def test_pairs_of_which_one_changes_have_no_hausdorff_distance() -> None:
    found = seed_agreement(result_of([[20], [22], []])).squeeze()
    assert (found["n_pairs"], found["n_pairs_hausdorff"], found["hausdorff"]) == (3, 1, 2.0)


def test_one_seed_agrees_with_nobody() -> None:
    found = seed_agreement(result_of([[20]])).squeeze()
    assert found["n_pairs"] == 0
    assert np.isnan(found["adjusted_rand"])


def test_equal_seeds_agree_fully() -> None:
    found = seed_agreement(result_of([[20, 40]] * 4)).squeeze()
    assert found["adjusted_rand"] == found["covering"] == found["f1"] == 1
    assert found["hausdorff"] == 0


# Larger models.


def trend(*models: Runs, parameters: Sequence[float], **arguments: object) -> xr.Dataset:
    return phase_size_trend(result_of(*models, parameters=parameters), **arguments).squeeze()  # type: ignore[arg-type]


def test_half_the_step_at_ten_times_the_size_is_a_slope_of_log_one_half() -> None:
    found = trend([[20]] * 3, [[40]] * 3, parameters=[1e9, 1e8])
    assert found["slope"].item() == pytest.approx(np.log10(0.5))
    assert found["step"].values.tolist() == [20_000, 40_000]


def test_without_a_grid_slope_and_interval_are_those_of_two_means() -> None:
    step = np.array([[10.0, 12, 14, 11], [20, 21, 30, np.nan]])[..., None] * 1000
    found = slopes(step, step, np.array([1e8, 1e9]), level=0.95)
    a, b = np.log10(step[0, :, 0]), np.log10(step[1, :3, 0])
    welch = stats.ttest_ind(b, a, equal_var=False)
    interval = welch.confidence_interval(0.95)
    expected = [b.mean() - a.mean(), interval.low, interval.high, welch.pvalue, welch.df]
    assert [found[name].item() for name in ("slope", "lower", "upper", "p", "df")] == pytest.approx(expected)


def test_runs_that_change_in_one_bracket_leave_its_width() -> None:
    found = trend([[20]] * 3, [[40]] * 3, parameters=[1e9, 1e8])
    variance = (np.log10(20 / 19) ** 2 + np.log10(40 / 39) ** 2) / 12
    assert found["upper"].item() == pytest.approx(np.log10(0.5) + 1.959964 * np.sqrt(variance), rel=1e-5)


def test_one_run_in_each_model_has_no_interval() -> None:
    found = trend([[20]], [[40]], parameters=[1e9, 1e8])
    assert found["slope"].item() == pytest.approx(np.log10(0.5))
    assert np.isnan(found["lower"])
    assert np.isnan(found["p"])


def test_slope_over_runs_is_least_squares() -> None:
    models: list[Runs] = [[[10], [12]], [[14]], [[20], [30], [25]], []]
    parameters = [1e7, 1e8, 3e9, 1e10]
    found = trend(*models, parameters=parameters)
    x = [np.log10(p) for p, model in zip(parameters, models, strict=True) for _ in model]
    y = [np.log10(run[0] * 1000) for model in models for run in model]
    assert found["slope"].item() == pytest.approx(stats.linregress(x, y).slope)
    assert (found["n_models"], found["n_runs"]) == (3, 6)


def test_runs_without_a_change_are_counted() -> None:
    found = trend([[20], [], [22]], [[40], [41], []], parameters=[1e8, 1e9])
    assert found["n_without"].values.tolist() == [1, 1]
    assert found["n_with"].values.tolist() == [2, 2]


@pytest.mark.parametrize(("which", "step"), [("largest", 30_000), ("first", 10_000), ("last", 50_000)])
def test_which_change_counts(which: str, step: int) -> None:
    data = result_of([[10, 30, 50]], sizes={(0, 0): 1.0, (0, 1): -3.0, (0, 2): 2.0}, parameters=[1e8])
    assert phase_size_trend(data, which=which)["step"].item() == step


def test_one_model_has_no_slope() -> None:
    assert np.isnan(trend([[20], [22]], parameters=[1e8])["slope"])


def test_models_of_unknown_size_are_left_out() -> None:
    found = trend([[20], [22]], [[30], [33]], [[1], [2]], parameters=[1e8, 1e9, np.nan])
    assert found["n_models"] == 2
    assert found["slope"].item() == pytest.approx(np.log10(990 / 440) / 2)


@pytest.mark.parametrize("width", [0.001, 0.15])
def test_intervals_of_the_slope_cover_as_often_as_stated(width: float) -> None:
    # True times, seen only as the next checkpoint of a grid that is even in the logarithm.
    rng = np.random.default_rng(0)
    parameters = np.array([1e7, 1e8, 1e9])
    level = rng.uniform(0, 1, 2000) - 0.3 * np.log10(parameters)[:, None, None]
    times = level + 0.08 * rng.standard_normal((3, 8, 2000))
    step = 10 ** (np.ceil(times / width) * width)
    found = slopes(step, step / 10**width, parameters, level=0.95)
    covered = (np.asarray(found["lower"]) <= -0.3) & (np.asarray(found["upper"]) >= -0.3)
    assert 0.94 <= covered.mean() <= 0.985


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"which": "biggest"}, "no 'biggest' change"), ({"level": 0}, "level is 0")],
)
def test_bad_arguments_of_the_trend_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        trend([[20]], parameters=[1e8], **arguments)


def test_a_trend_needs_sizes() -> None:
    with pytest.raises(AnalysisError, match="no n_parameters; add it"):
        phase_size_trend(result_of([[20]]))


# From the cube.


def test_from_the_cube_itself() -> None:
    cube = phase_cube(changes=[20_000], n_metrics=1, n_seeds=6, jump=8.0, rng=0)
    found = shared(cube)
    assert found["step"].values.tolist() == [20_000]
    assert found["n_runs"].item() == 6


@pytest.mark.slow
def test_joint_changes_are_shared_too() -> None:
    from polystab.analysis.phases import change_points

    cube = phase_cube(changes=[20_000], steps=range(0, 40_000, 1000), n_metrics=2, n_seeds=5, jump=8.0, rng=0)
    changes = change_points(cube, joint=True, rng=0)
    found = consensus_change_points(changes, rng=0)
    assert "metric" not in found.dims
    assert found["step"].values.tolist() == [[20_000]]
    assert seed_agreement(changes)["adjusted_rand"].values.tolist() == [1.0]
    with pytest.raises(AnalysisError, match="no single size"):
        phase_size_trend(changes.assign_coords(n_parameters=("model", [1e8])))


def test_an_array_is_refused_as_no_cube() -> None:
    with pytest.raises(NotACubeError, match="expected a cube"):
        consensus_change_points(np.zeros(3))  # type: ignore[arg-type]
