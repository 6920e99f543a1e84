"""Which runs went wrong: each rule against hand-made runs, and spikes against a plain loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from cubes_of_arrays import make_cube
from hypothesis import given
from hypothesis import strategies as st

from polystab.analysis import failed_runs, loss_spikes
from polystab.analysis.failures import FINAL_UPDATES, RULES
from polystab.errors import AnalysisError

Floats = npt.NDArray[np.float64]
N = 400


def good(level: float = 2.0, *, n: int = N, rng: int = 0) -> Floats:
    """A clean curve that falls to ``level``; its noise is uniform, so that it never spikes."""
    noise = np.random.default_rng(rng).uniform(-0.05, 0.05, n)
    return level + np.exp(-np.arange(n) / 40) + noise


def changed(curve: Floats, **values: float) -> Floats:
    """A copy with other values at places written as ``at200``."""
    curve = curve.copy()
    for place, value in values.items():
        curve[int(place.removeprefix("at"))] = value
    return curve


def tree(
    *models: Sequence[Floats], scores: Sequence[Sequence[float]] | None = None, norms: npt.ArrayLike | None = None
) -> xr.DataTree:
    """A cube with a curve for each run, and the last score of each in a task with chance 0.25."""
    loss = np.array(models)
    value = np.full((*loss.shape[:2], 2, 1), 0.9)
    value[:, :, 0] = 0.25
    if scores is not None:
        value[:, :, 1, 0] = scores
    cube = make_cube(value, metrics=["eval/task/acc"], chance=[0.25])
    dims = ("model", "seed", "update")
    log = xr.Dataset({"loss": (dims, loss)}, coords={**cube[["model", "seed"]].coords, "update": np.arange(1, N + 1)})
    if norms is not None:
        log["grad_norm"] = (dims, np.asarray(norms))
    return xr.DataTree.from_dict({"/": cube, "/log": log})


def rules_of(result: xr.Dataset, seed: int, model: int = 0) -> list[str]:
    return [rule for rule in RULES if result["failed"].sel(rule=rule).values[model, seed]]


def goods(n: int) -> list[Floats]:
    return [good(rng=seed) for seed in range(n)]


# Spikes.


def by_loop(loss: Sequence[float], window: int, sd: float) -> list[float]:
    """How far each value is above its limit, -inf where there can be no spike."""
    above = []
    for i, value in enumerate(loss):
        before = [float(x) for x in loss[max(0, i - window) : i]]
        if len(before) < window or not all(map(math.isfinite, [*before, value])):
            above.append(-math.inf)
            continue
        mean = math.fsum(before) / window
        deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in before) / window)
        above.append(value - mean - sd * deviation)
    return above


VALUES = st.one_of(st.floats(-100, 100), st.sampled_from([math.nan, math.inf, -math.inf, 0.0]))


@pytest.mark.slow
@given(st.lists(VALUES, max_size=60), st.integers(2, 12), st.floats(1.5, 6))
def test_spikes_are_those_of_a_plain_loop(loss: list[float], window: int, sd: float) -> None:
    above = np.array(by_loop(loss, window, sd))
    clear = ~(np.abs(above) < 1e-9)  # where rounding cannot decide
    np.testing.assert_array_equal(loss_spikes(loss, window=window, sd=sd)[clear], (above > 0)[clear])


def test_long_curves_are_looked_at_piece_by_piece_without_seams() -> None:
    loss = np.random.default_rng(0).standard_t(3, 9000)
    wanted = np.array(by_loop(loss.tolist(), 20, 4.0)) > 0
    assert wanted.sum() > 20
    np.testing.assert_array_equal(loss_spikes(loss, window=20, sd=4.0), wanted)


def test_curves_do_not_see_each_other() -> None:
    loss = np.random.default_rng(1).standard_t(2, (3, 4, 300))
    together = loss_spikes(loss, window=16)
    assert together.any()
    for place in np.ndindex(3, 4):
        np.testing.assert_array_equal(together[place], loss_spikes(loss[place], window=16))


@pytest.mark.slow
@given(st.floats(1e-6, 1e6), st.integers(2, 200))
def test_a_constant_series_has_no_spike(value: float, window: int) -> None:
    assert not loss_spikes(np.full(300, value), window=window).any()


def test_the_least_rise_over_a_constant_series_is_a_spike() -> None:
    loss = np.full(200, 2.0)
    loss[150] = 2.001
    assert np.flatnonzero(loss_spikes(loss)).tolist() == [150]


def test_a_fall_is_no_spike() -> None:
    assert not loss_spikes(changed(good(), at300=-50.0)).any()


@pytest.mark.parametrize("n", [0, 1, 127, 128])
def test_there_is_no_spike_before_the_window_is_full(n: int) -> None:
    assert not loss_spikes(np.r_[np.ones(max(n - 1, 0)), [99.0] * min(n, 1)]).any()


def test_the_first_value_after_the_window_can_be_a_spike() -> None:
    assert np.flatnonzero(loss_spikes([*[1.0] * 128, 99.0])).tolist() == [128]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_no_spike_follows_while_a_value_that_is_not_finite_is_in_the_window(bad: float) -> None:
    loss = np.tile([2.0, 2.1], 200)
    loss[[200, 250, 328, 329]] = [bad, 9.0, 9.0, 30.0]
    # The window of 328 begins with the bad value, that of 329 is the first without it.
    assert np.flatnonzero(loss_spikes(loss)).tolist() == [329]


@pytest.mark.parametrize("options", [{"window": 1}, {"sd": 0.0}, {"sd": math.nan}])
def test_senseless_windows_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(AnalysisError, match="window"):
        loss_spikes(good(), **options)


def test_a_single_number_is_no_curve() -> None:
    with pytest.raises(AnalysisError, match="single number"):
        loss_spikes(2.0)


@pytest.mark.slow
@pytest.mark.parametrize(("phi", "most"), [(0.0, 0), (0.5, 0), (0.9, 2)])
def test_clean_curves_with_correlated_noise_are_hardly_ever_flagged(phi: float, most: int) -> None:
    """Of 500 flat curves of 1,000 updates; of 5,000 at each of seven correlations to 0.99, at most 1 was flagged."""
    shocks = np.random.default_rng(0).normal(size=(500, 1200))
    noise = np.zeros_like(shocks)
    for i in range(1, noise.shape[1]):
        noise[:, i] = phi * noise[:, i - 1] + shocks[:, i]
    flagged = loss_spikes(2 + 0.05 * noise[:, 200:]).any(axis=-1).sum()
    assert flagged <= most


# The rules, each alone.


def test_good_runs_fail_no_rule() -> None:
    result = failed_runs(tree(goods(5)))
    assert not result["failed"].any()
    assert not result["wrong"].any()
    assert result["known"].all()
    assert np.isnan(result["seen_at"]).all()
    assert (result["n_spikes"] == 0).all()


def test_a_log_that_ends_early_is_not_finite_from_the_update_it_lacks() -> None:
    short = np.where(np.arange(N) < 250, good(), np.nan)
    result = failed_runs(tree([short, *goods(4)], scores=[[0.9] * 5]))
    assert rules_of(result, 0) == ["non-finite"]
    assert result["seen_at"].values[0, 0] == 251
    assert np.isnan(result["final_loss"].values[0, 0])
    assert not result["wrong"].values[0, 1:].any()


def test_an_infinite_loss_needs_no_sibling() -> None:
    result = failed_runs(tree([changed(good(), at399=math.inf)]))
    assert rules_of(result, 0) == ["non-finite"]
    assert result["seen_at"].item() == 400


def test_an_infinite_gradient_at_the_last_update_is_not_finite() -> None:
    norms = np.ones((1, 3, N))
    norms[0, 1, -1] = math.inf
    result = failed_runs(tree(goods(3), norms=norms))
    assert [rules_of(result, seed) for seed in range(3)] == [[], ["non-finite"], []]


def test_a_spike_is_seen_at_its_first_update() -> None:
    result = failed_runs(tree([changed(good(), at200=9.0, at340=50.0), *goods(4)]))
    assert rules_of(result, 0) == ["spike"]
    assert result["seen_at"].values[0, 0] == 201
    assert result["n_spikes"].values[0].tolist() == [2, 0, 0, 0, 0]


def test_a_spike_before_a_divergence_is_seen_first() -> None:
    curve = np.where(np.arange(N) < 300, changed(good(), at200=9.0), np.nan)
    result = failed_runs(tree([curve, *goods(3)]))
    assert rules_of(result, 0) == ["non-finite", "spike"]
    assert result["seen_at"].values[0, 0] == 201


def test_a_high_final_loss_is_seen_at_the_end() -> None:
    result = failed_runs(tree([good(2.5), *goods(4)]))
    assert rules_of(result, 0) == ["high-loss"]
    assert result["seen_at"].values[0, 0] == N
    assert not result["wrong"].values[0, 1:].any()


def test_the_final_loss_is_the_mean_of_the_last_updates() -> None:
    curve = good()
    result = failed_runs(tree([curve]))
    assert result["final_loss"].item() == pytest.approx(curve[-FINAL_UPDATES:].mean())


@pytest.mark.parametrize(("margin", "wrong"), [(0.1, True), (0.49, True), (0.51, False)])
def test_the_margin_decides_what_is_high(margin: float, wrong: bool) -> None:
    flat = [np.full(N, level) for level in (2.5, 2.0, 2.0, 2.0)]
    assert failed_runs(tree(flat), margin=margin)["wrong"].values[0].tolist() == [wrong, False, False, False]


def test_runs_that_other_rules_flag_do_not_set_the_median() -> None:
    spiked = [changed(good(3.0, rng=seed), at200=20.0) for seed in range(4)]
    result = failed_runs(tree([*spiked, good(), good(rng=9)]))
    assert [rules_of(result, seed) for seed in (0, 5)] == [["spike", "high-loss"], []]


def test_without_a_good_run_no_loss_is_high() -> None:
    spiked = [changed(good(level), at200=20.0) for level in (2.0, 5.0)]
    assert not failed_runs(tree(spiked))["failed"].sel(rule="high-loss").any()


def test_an_ability_that_most_siblings_have_is_missing() -> None:
    result = failed_runs(tree(goods(5), scores=[[0.3, 0.9, 0.9, 0.9, 0.9]]))
    assert [rules_of(result, seed) for seed in range(2)] == [["missing-ability"], []]
    assert result["seen_at"].values[0, 0] == N


@pytest.mark.parametrize(("lacking", "flagged"), [(1, True), (2, True), (3, False)])
def test_the_share_of_siblings_decides(lacking: int, flagged: bool) -> None:
    """Of 11 runs, a run that lacks it with k - 1 others has 11 - k of 10 siblings that do not."""
    scores = [0.3] * lacking + [0.9] * (11 - lacking)
    result = failed_runs(tree(goods(11), scores=[scores]), siblings=0.9)
    assert result["wrong"].values[0].tolist() == [flagged] * lacking + [False] * (11 - lacking)


@pytest.mark.parametrize(("score", "missing"), [(0.624, True), (0.625, False)])
def test_an_ability_is_acquired_half_way_from_chance_to_1(score: float, missing: bool) -> None:
    result = failed_runs(tree(goods(5), scores=[[score, 0.9, 0.9, 0.9, 0.9]]))
    assert result["wrong"].values[0, 0] == missing


def test_the_last_score_that_was_measured_counts() -> None:
    result = failed_runs(tree(goods(5), scores=[[math.nan, 0.9, 0.9, 0.9, 0.9]]))
    assert rules_of(result, 0) == ["missing-ability"]  # 0.25 at the first step


def test_evaluations_without_a_known_chance_level_say_nothing() -> None:
    cube = tree(goods(5), scores=[[0.3, 0.9, 0.9, 0.9, 0.9]])
    plain = cube.to_dataset().drop_vars("chance")
    assert not failed_runs(xr.DataTree.from_dict({"/": plain, "/log": cube["log"].to_dataset()}))["wrong"].any()


# Who is compared with whom.


def test_a_run_alone_fails_no_rule_that_compares() -> None:
    assert not failed_runs(tree([good(9.0)], scores=[[0.0]]))["wrong"].any()


def test_runs_of_other_models_are_no_siblings() -> None:
    result = failed_runs(tree(goods(3), [curve + 5 for curve in goods(3)], scores=[[0.9] * 3, [0.3] * 3]))
    assert not result["wrong"].any()


def test_a_run_without_a_log_is_unknown_and_nobodys_sibling() -> None:
    none = np.full(N, np.nan)
    result = failed_runs(tree([none, none, *goods(3)], scores=[[0.3, 0.3, 0.3, 0.9, 0.9]]))
    assert result["known"].values[0].tolist() == [False, False, True, True, True]
    assert [rules_of(result, seed) for seed in range(5)] == [[], [], ["missing-ability"], [], []]
    assert np.isnan(result["final_loss"].values[0, :2]).all()


def test_a_model_without_any_log_is_unknown() -> None:
    result = failed_runs(tree([np.full(N, np.nan)] * 2, goods(2)))
    assert result["known"].values.tolist() == [[False, False], [True, True]]
    assert not result["wrong"].any()


def test_logs_of_a_model_that_all_end_early_are_only_short() -> None:
    short = [np.where(np.arange(N) < 300, curve, np.nan) for curve in goods(3)]
    result = failed_runs(tree(short, goods(3)))
    assert not result["wrong"].any()
    assert result["final_loss"].values[0, 0] == pytest.approx(short[0][250:300].mean())


def mixed() -> list[Floats]:
    return [
        changed(good(rng=1), at200=9.0),
        np.where(np.arange(N) < 250, good(rng=2), np.nan),
        good(2.5, rng=3),
        np.full(N, np.nan),
        *goods(6),
    ]


@pytest.mark.slow
@given(st.permutations(range(10)))
def test_the_order_of_seeds_does_not_matter(order: list[int]) -> None:
    curves, scores = mixed(), [0.9] * 9 + [0.3]
    one = failed_runs(tree(curves, scores=[scores]))
    two = failed_runs(tree([curves[i] for i in order], scores=[[scores[i] for i in order]]))
    for name in one.data_vars:
        np.testing.assert_array_equal(two[name].values, one[name].values[:, order])


def test_wrong_is_any_rule_and_agrees_with_seen_at() -> None:
    result = failed_runs(tree(mixed(), scores=[[0.9] * 9 + [0.3]]))
    assert result["wrong"].values[0].tolist() == [True, True, True, False, *[False] * 5, True]
    np.testing.assert_array_equal(result["failed"].any("rule"), result["wrong"])
    np.testing.assert_array_equal(np.isfinite(result["seen_at"]), result["wrong"])


# Bad input.


def test_a_cube_without_a_log_is_refused() -> None:
    with pytest.raises(AnalysisError, match="no group 'log'"):
        failed_runs(xr.DataTree.from_dict({"/": tree(goods(2)).to_dataset()}))


@pytest.mark.parametrize(
    "options", [{"siblings": 1.1}, {"siblings": -0.1}, {"level": 0.0}, {"level": 1.1}, {"margin": -0.1}, {"window": 1}]
)
def test_arguments_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(AnalysisError, match="must"):
        failed_runs(tree(goods(2)), **options)
