"""Contests between a live run and past runs: the kernels, and the rate that they promise."""

from __future__ import annotations

import numpy as np
import pytest
from live_cubes import LOSS, cube_of, curves

from polystab.monitor import Reference, RunWatcher
from polystab.monitor.contest import BOTH, DOWN, UP, allowed_losses, anticipated, bands, furthest, rate_of


class TestFurthest:
    def test_takes_what_so_many_values_in_a_row_all_reach(self) -> None:
        scores = np.array([[0.0, 9.0, 1.0, 3.0, 4.0, 5.0]])
        assert furthest(scores, side=UP, sustain=3).tolist() == [3.0]

    def test_looks_below_where_that_is_bad(self) -> None:
        scores = np.array([[0.0, -2.0, -3.0, 5.0, 5.0]])
        assert furthest(scores, side=DOWN, sustain=2).tolist() == [2.0]

    def test_does_not_add_up_both_sides(self) -> None:
        assert furthest(np.array([[5.0, -5.0, 5.0]]), side=BOTH, sustain=2).tolist() == [-5.0]

    def test_says_nothing_of_fewer_values(self) -> None:
        assert furthest(np.ones((2, 2)), side=UP, sustain=3).tolist() == [-np.inf, -np.inf]

    def test_passes_over_windows_with_nan(self) -> None:
        assert furthest(np.array([[9.0, np.nan, 1.0, 2.0]]), side=UP, sustain=2).tolist() == [1.0]


class TestBands:
    def test_a_run_has_no_part_in_its_own_band(self) -> None:
        values = curves(5, 40, rng=0)
        found = bands(values, side=UP, sustain=3)
        values[2] += 100.0
        again = bands(values, side=UP, sustain=3)
        assert np.array_equal(found.centre[2], again.centre[2])
        assert np.array_equal(found.spread[2], again.spread[2])

    def test_permuting_the_runs_permutes_the_result(self) -> None:
        values, order = curves(6, 40, rng=0), np.array([3, 0, 5, 1, 4, 2])
        plain, permuted = (bands(given, side=UP, sustain=3).reached for given in (values, values[order]))
        assert np.allclose(permuted, plain[order])

    @pytest.mark.parametrize(("factor", "offset"), [(1e-9, 0.0), (1e9, 0.0), (1.0, 1e5)])
    def test_scale_and_offset_change_nothing(self, factor: float, offset: float) -> None:
        values = curves(6, 40, rng=0)
        plain, other = (bands(given, side=UP, sustain=3).reached for given in (values, factor * values + offset))
        assert np.allclose(plain, other, rtol=1e-3)

    def test_equal_runs_give_no_nan(self) -> None:
        found = bands(np.ones((4, 10)), side=UP, sustain=3)
        assert found.reached.tolist() == [0.0] * 4

    def test_a_step_at_which_nothing_is_measured_is_none(self) -> None:
        values = curves(5, 40, rng=0)
        values[:, 7] = np.nan
        assert np.isfinite(bands(values, side=UP, sustain=3).reached).all()


class TestRate:
    @pytest.mark.parametrize(("n", "wanted", "losses"), [(18, 0.05, -1), (19, 0.05, 0), (58, 0.05, 0), (59, 0.05, 1)])
    def test_counts_what_may_be_lost(self, n: int, wanted: float, losses: int) -> None:
        assert allowed_losses(n, wanted) == losses

    @pytest.mark.parametrize("losses", [0, 1, 2])
    def test_no_tournament_has_more_players_with_so_few_losses(self, losses: int) -> None:
        rng, n = np.random.default_rng(losses), 7
        for _ in range(300):
            beats = np.triu(rng.random((n, n)) < 0.5, 1)
            beats = beats | (np.tril(~beats.T, -1))
            lost = (~beats).sum(axis=1) - 1
            assert np.mean(lost <= losses) <= rate_of(n - 1, losses) + 1e-12

    @pytest.mark.slow
    def test_healthy_runs_are_flagged_as_rarely_as_stated(self) -> None:
        # A tournament need not have a winner: the rate is below 1 / (n + 1), but not much.
        n, sets, alarms = 4, 200, 0
        for i in range(sets):
            loss = curves(n + 1, 60, rng=np.random.default_rng([7, i]))
            watcher = RunWatcher(Reference(cube_of(loss=loss[1:])), own_past=False)
            for t in range(60):
                watcher.update(t + 1, {LOSS: loss[0, t]})
            alarms += bool(watcher.alarms)
        # 3 standard errors around 1 / 5.
        assert 0.10 < alarms / sets <= 0.2 + 3 * np.sqrt(0.16 / sets)


class TestAnticipated:
    def test_goes_on_at_the_usual_distance(self) -> None:
        assert anticipated(np.array([9, 19, 29]), 60).tolist() == [9, 19, 29, 39, 49, 59]

    def test_takes_every_step_after_the_first_value(self) -> None:
        assert anticipated(np.array([3]), 6).tolist() == [3, 4, 5]
