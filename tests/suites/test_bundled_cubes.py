"""What the bundled cubes of our own training must be good for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import xarray as xr

import polystab as ps
from polystab.analysis import failed_runs
from polystab.cube import cube_file, data_card
from polystab.suites.nano_items import TASKS
from polystab.suites.recipes import suite, suites

MEGABYTES = 12


@pytest.fixture(scope="module", params=suites())
def named(request: pytest.FixtureRequest) -> Iterator[tuple[str, xr.DataTree]]:
    with ps.load_tree(request.param) as tree:
        yield request.param, tree


@pytest.fixture(scope="module")
def nano() -> Iterator[xr.Dataset]:
    with ps.load_cube() as cube:
        yield cube.load()


@pytest.fixture(scope="module")
def edge() -> Iterator[xr.Dataset]:
    with ps.load_tree("nano-edge") as tree:
        yield failed_runs(tree)


def test_all_three_together_stay_small() -> None:
    assert sum(cube_file(name).stat().st_size for name in suites()) < MEGABYTES * 1e6


class TestEach:
    @pytest.mark.slow
    def test_is_valid(self, named: tuple[str, xr.DataTree]) -> None:
        assert ps.validate_cube(named[1]) == []

    @pytest.mark.slow
    def test_holds_the_runs_of_todays_recipe_with_their_seeds(self, named: tuple[str, xr.DataTree]) -> None:
        name, tree = named
        cube = tree.to_dataset()
        for run in suite(name).runs:
            one = cube.sel(model=run.recipe.model, seed=run.seed)
            assert (int(one["weight_seed"]), int(one["data_seed"])) == (run.weight_seed, run.data_seed)
            assert set(run.recipe.checkpoints()) == set(cube["step"].values.tolist())

    def test_scores_are_those_of_its_items(self, named: tuple[str, xr.DataTree]) -> None:
        cube, items = named[1].to_dataset(), named[1]["items"].to_dataset()
        for task in TASKS:
            correct = items["correct"].sel(item=items["task"] == task).values
            share = np.where((correct >= 0).all(axis=-1), correct.mean(axis=-1), np.nan)
            assert correct.shape[-1] >= 300
            np.testing.assert_allclose(cube["value"].sel(metric=f"eval/{task}/acc"), share, atol=1e-12)

    def test_states_the_chance_level_of_every_task(self, named: tuple[str, xr.DataTree]) -> None:
        cube = named[1].to_dataset()
        assert cube["chance"].sel(metric=[f"eval/{task}/acc" for task in TASKS]).notnull().all()

    def test_logs_every_update_of_runs_that_ended(self, named: tuple[str, xr.DataTree]) -> None:
        name, tree = named
        log = tree["log"].to_dataset()
        steps = suite(name).runs[0].recipe.steps
        assert log.sizes["update"] == steps
        assert log["loss"].notnull().any("update").sum() == len(suite(name).runs)

    def test_has_a_card_with_command_seeds_and_licence(self, named: tuple[str, xr.DataTree]) -> None:
        card = data_card(named[0])
        assert all(text in card for text in (f"polystab train {named[0]} --measure evals", "## Seeds", "Apache-2.0"))


@pytest.mark.slow
def test_runs_with_equal_seeds_are_the_same_in_nano_and_in_the_factorial(nano: xr.Dataset) -> None:
    """They were trained apart from each other, by other processes: training is deterministic."""
    with ps.load_cube("nano-factorial") as factorial:
        for seed in range(5):
            theirs = factorial["value"].sel(model="nano-96k", seed=6 * seed)
            ours = nano["value"].sel(model="nano-96k", seed=seed, metric=theirs["metric"]).where(theirs.notnull())
            # Probes take the number of the run as their own seed; of weights the factorial cube keeps float32.
            exact = ~theirs["family"].isin(("weight", "probe"))
            np.testing.assert_array_equal(ours[:, exact], theirs[:, exact])
            weight = theirs["family"] == "weight"
            np.testing.assert_array_equal(ours[:, weight].astype(np.float32), theirs[:, weight])


def rise(scores: xr.DataArray, low: float, high: float) -> float:
    """By which factor of steps a median curve takes from ``low`` to ``high``, for good."""
    values, steps = scores.median("seed").values, scores["step"].values
    return float(steps[np.flatnonzero(values < high)[-1] + 1] / max(1, steps[np.flatnonzero(values < low)[-1]]))


@pytest.mark.slow
def test_one_ability_of_nano_comes_abruptly_and_one_gradually(nano: xr.Dataset) -> None:
    value = nano["value"].sel(model="nano-96k")
    assert rise(value.sel(metric="eval/nano_induction/acc"), 0.4, 0.9) < 2
    assert rise(value.sel(metric="eval/nano_brackets/acc"), 0.4, 0.9) > 5


def test_the_seed_decides_whether_nano_learns_to_recall(nano: xr.Dataset) -> None:
    last = nano["value"].sel(model="nano-96k", metric="eval/nano_recall/acc").isel(step=-1)
    assert last.min() < 0.3
    assert last.max() > 0.95


class TestEdge:
    @pytest.mark.slow
    def test_a_quarter_to_three_fifths_of_the_runs_go_wrong(self, edge: xr.Dataset) -> None:
        assert edge["known"].sum() >= 48
        assert edge.sizes["model"] >= 4
        assert 0.25 <= float(edge["wrong"].sum() / edge["known"].sum()) <= 0.6

    def test_at_some_rate_good_and_bad_runs_mix_evenly(self, edge: xr.Dataset) -> None:
        share = edge["wrong"].mean("seed").values
        assert ((share >= 1 / 3) & (share <= 2 / 3)).any()

    def test_eight_runs_spike_or_diverge_and_some_recover(self, edge: xr.Dataset) -> None:
        wild = edge["failed"].sel(rule=["non-finite", "spike"]).any("rule")
        assert wild.sum() >= 8
        recovered = wild & ~edge["failed"].sel(rule=["non-finite", "high-loss"]).any("rule")
        assert 0 < int(recovered.sum()) < int(wild.sum())
