"""Two cubes against each other: what is compared, which runs count, and what is said of each row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from cubes_of_arrays import make_cube
from scipy import stats

import polystab as ps
from polystab.analysis.comparisons import compare_cubes, compare_curves
from polystab.analysis.comparisons.inputs import common_trajectories
from polystab.analysis.comparisons.kernels import METHODS, REASONS, contrast, t_p
from polystab.analysis.comparisons.verdicts import corrected
from polystab.errors import AnalysisError


def noise(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).normal(size=shape)


def words(found: xr.Dataset, name: str) -> list[str]:
    meanings = found[name].attrs["flag_meanings"].split()
    return [meanings[code] for code in found[name].values.ravel().tolist()]


@pytest.fixture
def two() -> tuple[xr.Dataset, xr.Dataset]:
    """Two models, 6 and 8 seeds, 3 steps, 4 metrics; the first metric of the other cube is lower by 5 SD."""
    a, b = noise(1, 2, 6, 3, 4), noise(2, 2, 8, 3, 4)
    b[..., 0] -= 5
    better = ["higher", "lower", "higher", ""]
    return make_cube(a, better=better), make_cube(b, better=better)


class TestNumbers:
    def test_rows_are_those_of_scipy_at_the_last_step(self, two: tuple[xr.Dataset, xr.Dataset]) -> None:
        found = compare_cubes(*two, rng=0)
        a, b = (cube["value"].isel(step=-1).values for cube in two)
        oracle = stats.ttest_ind(b, a, axis=1, equal_var=False)
        np.testing.assert_allclose(found["p"], oracle.pvalue, rtol=1e-9)
        np.testing.assert_allclose(found["difference"], b.mean(axis=1) - a.mean(axis=1), rtol=1e-12)
        assert (found["step"] == 2000).all()

    def test_q_is_corrected_apart_where_one_way_is_better(self, two: tuple[xr.Dataset, xr.Dataset]) -> None:
        found = compare_cubes(*two, rng=0)
        for metrics in ([0, 1, 2], [3]):
            part = found.isel(metric=metrics)
            np.testing.assert_allclose(
                part["q"].values.ravel(), stats.false_discovery_control(part["p"].values.ravel())
            )
            assert (part["n_tests"] == part["p"].size).all()

    def test_many_statistics_that_differ_do_not_help_a_score(self) -> None:
        a, b = noise(1, 1, 5, 1, 60), noise(2, 1, 5, 1, 60)
        b[..., 1:] += 50
        better = ["higher"] + [""] * 59
        found = compare_cubes(make_cube(a, better=better), make_cube(b, better=better), rng=0).isel(model=0)
        assert found["q"][0] == found["p"][0]

    def test_what_is_found_among_many_tests_is_larger_than_in_one(self, two: tuple[xr.Dataset, xr.Dataset]) -> None:
        found = compare_cubes(*two, rng=0)
        assert (found["detectable_alone"] > found["detectable"]).all()
        one = compare_cubes(*two, models=["m0"], metrics=["eval/task0/acc"], rng=0)
        np.testing.assert_allclose(one["detectable_alone"], one["detectable"])

    def test_swapping_the_cubes_turns_every_sign(self, two: tuple[xr.Dataset, xr.Dataset]) -> None:
        one, back = compare_cubes(*two, rng=0), compare_cubes(*two[::-1], rng=0)
        for name in ("difference", "effect"):
            np.testing.assert_allclose(back[name], -one[name], rtol=1e-10)
        np.testing.assert_allclose(back["lower"], -one["upper"], rtol=1e-10)
        np.testing.assert_allclose(back["variance_ratio"], 1 / one["variance_ratio"], rtol=1e-10)
        assert words(back, "verdict") == words(one, "verdict")
        assert words(one, "change")[0] == "worse"
        assert words(back, "change")[0] == "better"

    def test_same_rng_gives_the_same_result(self, two: tuple[xr.Dataset, xr.Dataset]) -> None:
        one, again = (compare_cubes(*two, n_permutations=99, rng=5) for _ in range(2))
        xr.testing.assert_identical(one, again)

    def test_the_cubes_stay_as_they_were(self, two: tuple[xr.Dataset, xr.Dataset]) -> None:
        before = [cube.copy(deep=True) for cube in two]
        compare_cubes(*two, rng=0)
        for cube, was in zip(two, before, strict=True):
            xr.testing.assert_identical(cube, was)

    def test_every_variable_is_described(self, two: tuple[xr.Dataset, xr.Dataset]) -> None:
        found = compare_cubes(*two, rng=0)
        assert all(variable.attrs["long_name"] for variable in found.data_vars.values())

    def test_a_result_can_be_written(self, two: tuple[xr.Dataset, xr.Dataset], tmp_path: Any) -> None:
        found = compare_cubes(*two, rng=0)
        found.to_netcdf(tmp_path / "found.nc")
        xr.testing.assert_allclose(xr.open_dataset(tmp_path / "found.nc"), found)


class TestVerdicts:
    def test_a_large_difference_differs_and_none_cannot_be_told(self, two: tuple[xr.Dataset, xr.Dataset]) -> None:
        found = compare_cubes(*two, rng=0)
        assert words(found.isel(metric=0), "verdict") == ["differs", "differs"]
        assert words(found.isel(metric=3), "verdict") == ["cannot_tell", "cannot_tell"]

    def test_many_runs_show_that_there_is_no_larger_difference(self) -> None:
        found = compare_cubes(make_cube(noise(1, 1, 60, 1, 1)), make_cube(noise(2, 1, 60, 1, 1)), rng=0)
        assert words(found, "verdict") == ["no_larger_difference"]

    def test_a_small_difference_of_many_runs_differs_slightly(self) -> None:
        found = compare_cubes(
            make_cube(noise(1, 1, 400, 1, 1)), make_cube(noise(2, 1, 400, 1, 1) + 0.4), n_permutations=9, rng=0
        )
        assert words(found, "verdict") == ["differs_slightly"]

    def test_a_margin_in_units_holds_for_its_metric_only(self) -> None:
        cubes = make_cube(noise(1, 1, 9, 1, 2)), make_cube(noise(2, 1, 9, 1, 2))
        found = compare_cubes(*cubes, margin={"eval/task0/acc": 5.0}, rng=0)
        assert words(found, "verdict")[0] == "no_larger_difference"
        assert found["margin"].values[0, 0] == 5.0
        np.testing.assert_allclose(found["margin"].values[0, 1], np.sqrt((found["sd"].values[:, 0, 1] ** 2).mean()))

    def test_unequal_constants_differ_by_their_permutations(self) -> None:
        found = compare_cubes(make_cube(np.zeros((1, 5, 1, 1))), make_cube(np.ones((1, 5, 1, 1))), rng=0)
        np.testing.assert_allclose(found["p"].item(), 2 / 252)
        assert words(found, "verdict") == ["differs"]
        assert np.isnan(found["lower"].item())

    def test_equal_constants_are_untested(self) -> None:
        cubes = [make_cube(np.full((1, n, 1, 1), 0.5)) for n in (5, 6)]
        found = compare_cubes(*cubes, rng=0)
        assert words(found, "verdict") == ["untested"]
        assert words(found, "reason") == ["no_spread"]

    def test_one_run_against_many_is_asked_whether_it_is_one_of_them(self) -> None:
        found = compare_cubes(make_cube(noise(1, 1, 8, 1, 1)), make_cube(np.full((1, 1, 1, 1), 30.0)), rng=0)
        assert words(found, "method") == ["borrowed"]
        assert words(found, "verdict") == ["differs"]
        assert np.isnan(found["p_equivalence"].item())

    def test_one_run_against_one_gives_the_difference_and_the_reason(self) -> None:
        found = compare_cubes(make_cube(np.full((1, 1, 1, 1), 1.0)), make_cube(np.full((1, 1, 1, 1), 3.0)), rng=0)
        assert found["difference"].item() == 2.0
        assert words(found, "reason") == ["few_seeds"]
        assert np.isnan([found[name].item() for name in ("p", "lower", "effect", "detectable", "variance_ratio")]).all()

    def test_two_cubes_of_one_recipe_differ_at_most_at_the_stated_rate(self) -> None:
        rounds, metrics = 2000, 30
        # Metrics of a run go together.
        sides = [noise(seed, 5, rounds, metrics) + noise(seed + 5, 5, rounds, 1) for seed in (1, 2)]
        p = t_p(contrast(*sides))
        alarms = [(corrected(row, np.ones(metrics, bool))[0] <= 0.05).any() for row in p]
        # Four standard errors of a share of 0.05 among 2,000.
        assert np.mean(alarms) < 0.05 + 4 * 0.0049

    @pytest.mark.slow
    def test_the_stated_rate_holds_for_whole_comparisons(self) -> None:
        rounds, alarms = 40, 0
        for i in range(rounds):
            cubes = [make_cube(noise(1000 + 2 * i + k, 1, 5, 1, 30), better=["higher"] * 30) for k in (0, 1)]
            alarms += "differs" in words(compare_cubes(*cubes, n_permutations=1, rng=0), "verdict")
        # More than 8 of 40 would happen by chance once in 10,000 times at a rate of 0.05.
        assert alarms <= 8


class TestRunsThatCount:
    def test_a_cube_compared_with_itself_is_said_to_be(self) -> None:
        cube = make_cube(noise(1, 2, 5, 4, 3))
        found = compare_cubes(cube, cube, rng=0)
        assert found.attrs["same"] == 1
        assert set(words(found, "reason")) == {"same_runs"}
        assert (found["difference"] == 0).all()
        assert found["p"].isnull().all()

    def test_runs_on_both_sides_are_left_out_of_both(self) -> None:
        a, b = noise(1, 1, 7, 4, 2), noise(2, 1, 6, 4, 2)
        b[:, :3] = a[:, 4:]
        found = compare_cubes(make_cube(a), make_cube(b), rng=0)
        oracle = stats.ttest_ind(b[0, 3:, -1], a[0, :4, -1], equal_var=False)
        np.testing.assert_allclose(found["p"].values[0], oracle.pvalue, rtol=1e-9)
        assert (found["n_common"] == 3).all()

    @pytest.mark.parametrize("turned", [False, True])
    def test_a_side_that_was_added_to_keeps_its_first_runs_on_the_other(self, turned: bool) -> None:
        b = noise(1, 1, 9, 4, 2)
        cubes = [make_cube(b[:, :4]), make_cube(b)]
        found = compare_cubes(*(cubes[::-1] if turned else cubes), rng=0)
        assert sorted(found["n_seeds"].values[:, 0, 0].tolist()) == [4, 5]
        assert found["p"].notnull().all()

    def test_a_single_trajectory_on_both_sides_is_left_out_of_its_metric(self) -> None:
        a, b = noise(1, 1, 6, 8, 2), noise(2, 1, 6, 8, 2)
        b[0, 2, :, 1] = a[0, 5, :, 1]
        found = compare_cubes(make_cube(a), make_cube(b), rng=0)
        assert found["n_common"].values[0].tolist() == [0, 1]
        assert found["n_seeds"].values[:, 0].tolist() == [[6, 5], [6, 5]]

    def test_equal_scores_of_few_items_are_no_common_runs(self) -> None:
        a = np.round(noise(1, 1, 4, 2, 1) * 2) / 2
        here, there = common_trajectories(a[0], a[0])
        assert not here.any()
        assert not there.any()

    def test_copies_within_a_model_count_once(self) -> None:
        a, b = noise(1, 1, 6, 4, 3), noise(2, 1, 6, 4, 3)
        a[:, 5] = a[:, 0]
        found = compare_cubes(make_cube(a), make_cube(b), rng=0)
        np.testing.assert_allclose(
            found["p"].values[0], stats.ttest_ind(b[0, :, -1], a[0, :5, -1], equal_var=False).pvalue, rtol=1e-9
        )

    def test_diverged_and_lost_runs_are_counted(self) -> None:
        a, b = noise(1, 1, 8, 3, 1), noise(2, 1, 8, 3, 1)
        b[0, 0, -1], b[0, 1, 1:] = np.inf, np.nan
        found = compare_cubes(make_cube(a), make_cube(b), rng=0)
        assert found["n_nonfinite"].values.ravel().tolist() == [0, 1]
        assert found["n_absent"].values.ravel().tolist() == [0, 1]
        assert found["n_seeds"].values.ravel().tolist() == [8, 6]

    def test_runs_of_one_initialisation_are_said_to_be_dependent(self) -> None:
        cube = make_cube(noise(1, 1, 6, 1, 1))
        cube["weight_seed"] = (("model", "seed"), [[0, 0, 0, 1, 1, 1]])
        notes = compare_cubes(cube, make_cube(noise(2, 1, 6, 1, 1)), rng=0).attrs["notes"]
        assert len(notes) == 1
        assert "6 runs have 2 initialisations" in notes[0]

    def test_pairs_are_joined_by_seed(self) -> None:
        a, b = noise(1, 1, 6, 1, 1), noise(2, 1, 6, 1, 1)
        here = make_cube(a)
        there = make_cube(b).isel(seed=[3, 2, 5, 4]).sortby("seed")
        found = compare_cubes(here, there, paired=True, rng=0)
        np.testing.assert_allclose(found["p"].item(), stats.ttest_rel(b[0, 2:, 0, 0], a[0, 2:, 0, 0]).pvalue, rtol=1e-9)

    def test_pairs_beat_independent_runs_where_seeds_go_together(self) -> None:
        a = noise(1, 1, 6, 1, 1)
        cubes = make_cube(a), make_cube(a + 0.2 + 0.05 * noise(2, 1, 6, 1, 1))
        alone, paired = (compare_cubes(*cubes, paired=flag, rng=0)["p"].item() for flag in (False, True))
        assert paired < 0.002 < 0.05 < alone


class TestWhatIsCompared:
    def test_models_of_the_same_name(self) -> None:
        a, b = make_cube(noise(1, 3, 4, 1, 1)), make_cube(noise(2, 2, 4, 1, 1))
        found = compare_cubes(a, b, rng=0)
        assert found["model"].values.tolist() == ["m0", "m1"]
        assert found.attrs["n_models_alone"] == 1

    def test_one_model_each_whatever_the_names(self) -> None:
        a, b = make_cube(noise(1, 1, 4, 1, 1)), make_cube(noise(2, 2, 4, 1, 1)).isel(model=[1])
        assert compare_cubes(a, b, rng=0)["other_model"].values.tolist() == ["m1"]

    def test_models_that_are_said_to_belong_together(self) -> None:
        cube = make_cube(noise(1, 3, 4, 1, 1))
        found = compare_cubes(cube, cube, models={"m2": "m0", "m1": "m0"}, rng=0)
        assert found["model"].values.tolist() == ["m2", "m1"]
        assert found["other_model"].values.tolist() == ["m0", "m0"]

    def test_the_last_step_that_most_runs_of_both_have(self) -> None:
        a, b = noise(1, 1, 5, 4, 1), noise(2, 1, 5, 3, 1)
        b[0, :3, 2] = np.nan  # broke off
        found = compare_cubes(make_cube(a), make_cube(b), rng=0)
        assert found["step"].item() == 1000

    def test_a_given_step(self) -> None:
        a, b = noise(1, 1, 5, 3, 1), noise(2, 1, 5, 3, 1)
        found = compare_cubes(make_cube(a), make_cube(b), step=0, rng=0)
        np.testing.assert_allclose(found["difference"].item(), b[0, :, 0].mean() - a[0, :, 0].mean())

    def test_a_metric_without_a_common_step_is_not_measured(self) -> None:
        a, b = noise(1, 1, 5, 2, 2), noise(2, 1, 5, 2, 2)
        a[..., 0, 1], b[..., 1, 1] = np.nan, np.nan
        found = compare_cubes(make_cube(a), make_cube(b), rng=0)
        assert words(found, "reason") == ["given", "not_measured"]
        assert found["step"].values[0].tolist() == [1000, -1]

    def test_other_tokens_at_a_step_are_said(self) -> None:
        a, b = make_cube(noise(1, 1, 4, 2, 1)), make_cube(noise(2, 1, 4, 2, 1))
        a = a.assign_coords(tokens=("step", [0, 1000]))
        b = b.assign_coords(tokens=("step", [0, 2000]))
        assert "not the same number of tokens" in compare_cubes(a, b, rng=0).attrs["notes"][0]

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"models": {"m0": "m7"}}, "the other cube has no model 'm7'"),
            ({"models": {}}, "names none"),
            ({"metrics": ["eval/task9/acc"]}, "Did you mean"),
            ({"metrics": []}, "lists none"),
            ({"step": 17}, "the nearest common ones are"),
            ({"level": 1.5}, "level is 1.5"),
            ({"margin": -1.0}, "margin is -1.0"),
            ({"margin": {"eval/task9/acc": 1.0}}, "not compared"),
            ({"margin": "x"}, "margin is not an array of numbers"),
            ({"margin": [1.0, 2.0]}, "a number of seed standard deviations above 0"),
            ({"paired": "auto"}, "paired is 'auto'"),
            ({"n_permutations": 0}, "n_permutations"),
            ({"rng": -1}, "rng is -1"),
        ],
    )
    def test_bad_options_are_refused(
        self, two: tuple[xr.Dataset, xr.Dataset], options: dict[str, Any], said: str
    ) -> None:
        with pytest.raises(AnalysisError, match=said):
            compare_cubes(*two, **({"rng": 0} | options))

    def test_other_units_are_refused(self) -> None:
        a = make_cube(noise(1, 1, 4, 1, 1), units=["nat"])
        b = make_cube(noise(2, 1, 4, 1, 1), units=["bit"])
        with pytest.raises(AnalysisError, match="nat and bit"):
            compare_cubes(a, b)

    def test_another_better_direction_is_refused(self) -> None:
        a = make_cube(noise(1, 1, 4, 1, 1), better=["higher"])
        b = make_cube(noise(2, 1, 4, 1, 1), better=["lower"])
        with pytest.raises(AnalysisError, match="better higher and the other lower"):
            compare_cubes(a, b)

    def test_a_direction_that_one_cube_knows_is_used(self) -> None:
        a = make_cube(noise(1, 1, 4, 1, 1), better=["lower"])
        b = make_cube(noise(2, 1, 4, 1, 1) - 9, better=[""])
        assert words(compare_cubes(a, b, rng=0), "change") == ["better"]

    @pytest.mark.parametrize("dim", ["model", "metric", "step"])
    def test_cubes_with_nothing_in_common_are_refused(self, dim: str) -> None:
        a = make_cube(noise(1, 2, 4, 2, 2))
        b = make_cube(noise(2, 2, 4, 2, 2))
        new = {"model": ["x", "y"], "metric": ["eval/x/acc", "eval/y/acc"], "step": [7, 8]}[dim]
        with pytest.raises(AnalysisError, match=f"no {dim} in common"):
            compare_cubes(a, b.assign_coords({dim: new}))

    def test_pairs_without_a_common_seed_are_refused(self) -> None:
        a, b = make_cube(noise(1, 1, 3, 1, 1)), make_cube(noise(2, 1, 3, 1, 1)).assign_coords(seed=[7, 8, 9])
        with pytest.raises(AnalysisError, match="no seed in common"):
            compare_cubes(a, b, paired=True)

    def test_an_empty_selection_is_refused(self) -> None:
        a = make_cube(noise(1, 1, 3, 1, 1))
        with pytest.raises(AnalysisError, match="nothing along 'seed'"):
            compare_cubes(a, a.isel(seed=[]))


@pytest.fixture(scope="module")
def trees() -> tuple[xr.DataTree, xr.DataTree]:
    return ps.load_tree("nano"), ps.load_tree("nano-init")


class TestItems:
    def test_scores_made_of_answers_have_the_interval_on_other_items(
        self, trees: tuple[xr.DataTree, xr.DataTree]
    ) -> None:
        found = compare_cubes(*trees, models={"nano-33k": "nano-33k-permute"}, rng=0).isel(model=0)
        evals = found.isel(metric=found["family"] == "eval")
        assert (evals["items_n"] == 300).all()
        assert (evals["items_lower"] <= evals["difference"]).all()
        assert found.isel(metric=found["family"] == "loss")["items_lower"].isnull().all()

    def test_the_interval_is_that_of_the_multibootstrap(self, trees: tuple[xr.DataTree, xr.DataTree]) -> None:
        metric = "eval/nano_recall/acc"
        found = compare_cubes(*trees, models={"nano-33k": "nano-33k-permute"}, metrics=[metric], rng=0).squeeze()
        sides = []
        for tree, model in zip(trees, ("nano-33k", "nano-33k-permute"), strict=True):
            answers = tree["items"]["correct"].sel(model=model, step=1000)
            sides.append(answers.isel(item=answers["task"].values == "nano_recall").drop_vars(["task", "doc_hash"]))
        oracle = ps.multibootstrap(*sides, n_resamples=2, rng=0).sel(side="difference", interval="t")
        np.testing.assert_allclose(found["items_lower"], oracle["lower"])
        np.testing.assert_allclose(found["difference"], oracle["estimate"])

    def test_answers_that_do_not_give_the_scores_are_not_used(self, trees: tuple[xr.DataTree, xr.DataTree]) -> None:
        other = trees[1].copy()
        cube = other.to_dataset()
        moved = xr.DataTree.from_dict(
            {"/": cube.assign(value=cube["value"] * 0.9), "/items": other["items"].to_dataset()}
        )
        found = compare_cubes(trees[0], moved, models={"nano-33k": "nano-33k-permute"}, rng=0)
        assert (found["items_n"] == 0).all()


class TestCurves:
    def test_each_step_is_tested_like_the_last(self, two: tuple[xr.Dataset, xr.Dataset]) -> None:
        curves, rows = compare_curves(*two), compare_cubes(*two, rng=0)
        for name in ("difference", "lower", "upper", "p"):
            np.testing.assert_allclose(curves[name].isel(step=-1), rows[name], rtol=1e-12)

    def test_steps_of_both_only(self) -> None:
        a = make_cube(noise(1, 1, 4, 3, 1), steps=[0, 10, 20])
        b = make_cube(noise(2, 1, 4, 3, 1), steps=[0, 20, 30])
        assert compare_curves(a, b)["step"].values.tolist() == [0, 20]

    def test_blocks_of_metrics_do_not_change_the_result(
        self, two: tuple[xr.Dataset, xr.Dataset], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = compare_curves(*two)
        monkeypatch.setattr("polystab.analysis.comparisons.curves._BLOCK", 1)
        xr.testing.assert_identical(compare_curves(*two), whole)

    def test_a_cube_compared_with_itself_has_no_tests(self) -> None:
        cube = make_cube(noise(1, 1, 5, 4, 2))
        assert compare_curves(cube, cube).attrs["n_tests"] == 0


def test_codes_have_words() -> None:
    found = compare_cubes(make_cube(noise(1, 1, 3, 1, 1)), make_cube(noise(2, 1, 3, 1, 1)), rng=0)
    assert found["method"].attrs["flag_meanings"].split() == list(METHODS)
    assert found["reason"].attrs["flag_meanings"].split() == list(REASONS)
