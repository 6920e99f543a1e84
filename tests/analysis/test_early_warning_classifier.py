"""EarlyWarning: what it learns, that it does not look ahead, its budget, and what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from cubes_of_arrays import make_cube
from early_warning_runs import STEPS, make_runs, tree_of, with_log

from polystab.analysis.early_warning import EarlyWarning, prefix
from polystab.errors import AnalysisError

LATE = (80, 120)


def quick(**changes: Any) -> EarlyWarning:
    return EarlyWarning(**{"steps": LATE, "families": ["log"], "n_folds": 3, **changes})


@pytest.fixture(scope="module")
def runs() -> tuple[xr.DataTree, xr.Dataset]:
    return make_runs(n_seeds=24, rng=0)


@pytest.fixture(scope="module")
def fitted(runs: tuple[xr.DataTree, xr.Dataset]) -> EarlyWarning:
    return quick(steps=STEPS[2:]).fit(*runs)


# As scikit-learn has it.


def test_scikit_learn_can_clone_it() -> None:
    from sklearn.base import clone

    warning = quick(method="novelty", false_alarm=0.1)
    again = clone(warning)
    assert again is not warning
    assert again.get_params() == warning.get_params()


def test_arguments_are_stored_as_given() -> None:
    steps = [80, 40]
    assert EarlyWarning(steps=steps).steps is steps
    assert EarlyWarning(method="nonsense").method == "nonsense"  # only fit refuses it


def test_parameters_can_be_set() -> None:
    assert quick().set_params(penalty=2.0).penalty == 2.0
    with pytest.raises(
        AnalysisError, match=r"no parameter of EarlyWarning is called 'penalti'. Did you mean 'penalty'"
    ):
        quick().set_params(penalti=2.0)


def test_it_shows_what_is_not_the_default() -> None:
    assert repr(EarlyWarning(method="novelty")) == "EarlyWarning(method='novelty')"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["logistic", "novelty", pytest.param("gradient_boosting", marks=pytest.mark.slow)])
def test_the_same_rng_gives_the_same_bytes(runs: tuple[xr.DataTree, xr.Dataset], method: str) -> None:
    one, two = (quick(method=method, rng=3).fit(*runs).warn(runs[0]) for _ in range(2))
    xr.testing.assert_identical(one, two)


@pytest.mark.slow
def test_the_input_is_not_changed(runs: tuple[xr.DataTree, xr.Dataset]) -> None:
    tree, labels = runs
    before = tree.copy(deep=True), labels.copy(deep=True)
    quick().fit(tree, labels).warn(tree)
    xr.testing.assert_identical(tree.to_dataset(), before[0].to_dataset())
    xr.testing.assert_identical(tree["log"].to_dataset(), before[0]["log"].to_dataset())
    xr.testing.assert_identical(labels, before[1])


# No look ahead.


@pytest.mark.slow
@pytest.mark.parametrize("step", [60, 100])
def test_a_truncated_future_changes_nothing(fitted: EarlyWarning, step: int) -> None:
    fresh, _ = make_runs(n_seeds=6, rng=5)
    whole = fitted.warn(fresh).sel(step=slice(None, step)).drop_vars(["first_alarm", "abstained"])
    begun = fitted.warn(prefix(fresh, step)).drop_vars(["first_alarm", "abstained"])
    xr.testing.assert_identical(begun, whole)


@pytest.mark.slow
def test_a_map_is_filtered_and_not_smoothed() -> None:
    tree, labels = make_runs(n_models=1, n_seeds=12, rng=1)
    warning = EarlyWarning(
        steps=LATE, map_states=2, min_points=4, n_folds=2, metrics=["eval/task/acc", "log/grad_norm"]
    )
    warning.set_params(map_metrics=["eval/task/acc"]).fit(tree, labels)
    whole = warning.warn(tree).sel(step=[80])
    for name in ("score", "p"):
        xr.testing.assert_identical(warning.warn(prefix(tree, 80))[name], whole[name])


@pytest.mark.slow
def test_the_states_of_a_map_are_columns() -> None:
    tree, labels = make_runs(n_models=1, n_seeds=12, rng=1)
    warning = EarlyWarning(steps=LATE, map_states=2, min_points=4, n_folds=2, map_metrics=["eval/task/acc"]).fit(
        tree, labels
    )
    _, names = warning.scorer_.design(warning.gather(tree))  # type: ignore[attr-defined]
    assert [name for name in names if name.startswith("map:")] == ["map:state 0", "map:state 1"]


# What it learns.


@pytest.mark.slow
@pytest.mark.parametrize("method", ["logistic", "novelty", pytest.param("gradient_boosting", marks=pytest.mark.slow)])
def test_a_planted_sign_is_found_in_new_runs(runs: tuple[xr.DataTree, xr.Dataset], method: str) -> None:
    fresh, labels = make_runs(n_seeds=24, rng=7)
    score = quick(method=method).fit(*runs).warn(fresh)["score"].sel(step=120).values
    wrong = labels["wrong"].values
    for m in range(2):
        assert np.mean(score[m][wrong[m]][:, None] > score[m][~wrong[m]]) > 0.9


@pytest.mark.slow
def test_signs_in_the_weights_are_found() -> None:
    tree, labels = make_runs(n_seeds=24, signal=0.0, weights=6.0, rng=2)
    fresh, truth = make_runs(n_seeds=24, signal=0.0, weights=6.0, rng=3)
    warning = EarlyWarning(steps=LATE, families=["weight"], min_points=4, n_folds=3).fit(tree, labels)
    alarms = warning.warn(fresh)["score"].sel(step=120).values
    wrong = truth["wrong"].values
    assert np.mean(alarms[wrong][:, None] > alarms[~wrong]) > 0.9


@pytest.mark.slow
def test_a_rate_at_which_runs_go_wrong_is_told_by_its_levels() -> None:
    tree, labels = make_runs(signal=0.0, rate=3.0, rng=4)
    labels["wrong"][0], labels["wrong"][1] = False, True  # the higher rate always goes wrong
    labels["wrong"][1, 0] = False
    labels["seen_at"] = xr.where(labels["wrong"], 140.0, np.nan)
    chance = quick().fit(tree, labels).warn(make_runs(signal=0.0, rate=3.0, rng=5)[0])["probability"].sel(step=120)
    assert chance[1].mean() > chance[0].max()


def test_it_needs_no_labels_for_novelty(runs: tuple[xr.DataTree, xr.Dataset]) -> None:
    good = make_runs(n_seeds=24, share_wrong=0.0, rng=8)[0]
    fresh, labels = make_runs(n_seeds=24, rng=9)
    alarms = quick(method="novelty").fit(good).predict(fresh).values
    assert alarms[labels["wrong"].values].mean() > 0.8


@pytest.mark.slow
def test_runs_of_an_unknown_model_are_compared_with_each_other(fitted: EarlyWarning) -> None:
    fresh, labels = make_runs(n_models=1, n_seeds=12, share_wrong=0.25, rng=10)
    fresh = tree_of(fresh.to_dataset().assign_coords(model=["new"]), fresh["log"].to_dataset())
    score = fitted.warn(fresh)["score"].sel(step=120).values[0]
    wrong = labels["wrong"].values[0]
    assert score[wrong].min() > np.median(score[~wrong])


@pytest.mark.slow
def test_what_was_wrong_already_is_not_learned_from() -> None:
    tree, labels = make_runs(signal=0.0, rng=11)
    seen = labels.assign(seen_at=xr.where(labels["wrong"], 60.0, np.nan))
    with pytest.raises(AnalysisError, match="seen before the first prefix"):
        quick().fit(tree, seen)


# The budget.


@pytest.mark.slow
@pytest.mark.parametrize("method", ["logistic", "novelty"])
def test_new_stable_runs_keep_the_budget(method: str) -> None:
    alarms = total = 0
    for i in range(60):
        tree, labels = make_runs(n_models=1, n_seeds=64, share_wrong=0.25, signal=1.0, rng=100 + i)
        wrong = labels["wrong"].values[0]
        # 39 stable runs to learn from, so that alarms can be exactly 2 in 40.
        train = np.concatenate([np.flatnonzero(~wrong)[:39], np.flatnonzero(wrong)[:12]])
        new = np.flatnonzero(~wrong)[39:]
        part, rest = (
            tree_of(tree.to_dataset().isel(seed=s), tree["log"].to_dataset().isel(seed=s)) for s in (train, new)
        )
        warning = quick(method=method, metrics=["log/grad_norm"], n_folds=10).fit(part, labels.isel(seed=train))
        alarms, total = alarms + int(warning.predict(rest).sum()), total + len(new)
    assert 0.025 <= alarms / total <= 0.08, alarms / total  # 5 %, standard error 1.1 percentage points


@pytest.mark.slow
def test_with_too_few_stable_runs_it_says_that_no_alarm_is_possible() -> None:
    tree, labels = make_runs(n_models=1, n_seeds=12, signal=20.0, rng=12)
    warning = quick().fit(tree, labels)
    found = warning.warn(tree)
    assert not found["alarm"].any()
    assert "6 stable runs: p is at least 0.143" in warning.notes_[0]
    assert "takes 19 stable runs" in found.attrs["notes"]


def test_the_p_value_never_rises(fitted: EarlyWarning) -> None:
    p = fitted.warn(make_runs(n_seeds=6, rng=13)[0])["p"]
    assert (p.diff("step") <= 0).all()
    assert float(p.min()) >= fitted.smallest_p_


@pytest.mark.slow
def test_an_alarm_stays() -> None:
    tree, labels = make_runs(n_seeds=24, signal=8.0, rng=14)
    alarm = quick(steps=STEPS[2:]).fit(tree, labels).warn(tree)["alarm"].astype(int)
    assert alarm.sum() > 0
    assert (alarm.diff("step") >= 0).all()


# Prefixes, divergence, other grids.


def test_a_short_prefix_is_not_scored_and_says_so(fitted: EarlyWarning) -> None:
    fresh = make_runs(n_seeds=4, rng=15)[0]
    log = fresh["log"].to_dataset().isel(update=slice(0, None, 12))  # 14 entries
    cube = fresh.to_dataset()
    found = fitted.warn(tree_of(cube, log))
    assert (found["status"].sel(step=80) == 1).all()
    assert found["status"].attrs["flag_meanings"].split()[1] == "too_short"
    assert np.isnan(found["score"].sel(step=80)).all()
    assert (found["status"].sel(step=120) == 0).all()


def test_runs_of_which_nothing_long_enough_is_there_are_abstained_from(fitted: EarlyWarning) -> None:
    found = fitted.warn(prefix(make_runs(n_seeds=4, rng=15)[0], 6))
    assert found.sizes["step"] == 0
    assert found["abstained"].all()


def test_prefixes_of_another_grid_are_scored(fitted: EarlyWarning) -> None:
    fresh, labels = make_runs(n_seeds=12, rng=16)
    log = fresh["log"].to_dataset().isel(update=slice(1, None, 3))
    cube = fresh.to_dataset().isel(step=slice(0, None, 2))
    found = fitted.warn(tree_of(cube, log))
    assert found["step"].values.tolist() == fitted.steps_.tolist()
    score, wrong = found["score"].sel(step=120).values, labels["wrong"].values
    assert np.mean(score[wrong][:, None] > score[~wrong]) > 0.8


@pytest.mark.slow
def test_a_divergence_is_an_alarm_at_any_budget() -> None:
    tree, labels = make_runs(n_models=1, n_seeds=12, rng=17)
    norm = tree["log"]["grad_norm"].values.copy()
    norm[0, 3, 89] = np.inf
    found = quick().fit(tree, labels).warn(with_log(tree, grad_norm=norm))
    assert found["first_alarm"].values[0].tolist() == [-1, -1, -1, 120] + [-1] * 8
    assert float(found["probability"].sel(step=120)[0, 3]) == 1.0


def test_nan_amid_a_run_is_a_divergence_and_no_crash(fitted: EarlyWarning) -> None:
    fresh = make_runs(n_seeds=4, rng=18)[0]
    loss = fresh["log"]["loss"].values.copy()
    loss[0, 0, 70:75] = np.nan
    found = fitted.warn(with_log(fresh, loss=loss))
    assert int(found["first_alarm"][0, 0]) == 80
    assert int(found["status"].sel(step=80)[0, 0]) == 3


def test_a_run_that_ended_is_not_scored_any_more(fitted: EarlyWarning) -> None:
    fresh = make_runs(n_seeds=4, rng=19)[0]
    loss, norm = (fresh["log"][name].values.copy() for name in ("loss", "grad_norm"))
    loss[0, 0, 70:] = norm[0, 0, 70:] = np.nan
    found = fitted.warn(with_log(fresh, loss=loss, grad_norm=norm))
    assert found["status"][0, 0].values.tolist() == [0, 0, 0, 2, 2, 2, 2]  # 40, 60, 80 (with updates to 70), 100, ...
    assert np.isnan(found["score"].sel(step=100)[0, 0])


def test_metrics_that_training_had_not_are_passed_over_and_named(fitted: EarlyWarning) -> None:
    fresh = make_runs(n_seeds=4, rng=20)[0]
    log = fresh["log"].to_dataset()
    more = tree_of(fresh.to_dataset(), log.assign(spread=log["loss"] * 2))
    found = fitted.warn(more)
    assert "1 curves are new and were passed over: 'log/spread'" in found.attrs["notes"]
    xr.testing.assert_identical(found["score"], fitted.warn(fresh)["score"])


def test_metrics_that_are_missing_are_named(fitted: EarlyWarning) -> None:
    fresh = make_runs(n_seeds=4, rng=20)[0]
    less = tree_of(fresh.to_dataset(), fresh["log"].to_dataset()[["grad_norm"]])
    found = fitted.warn(less)
    assert "1 curves seen in training are not there and were passed over: 'log/loss'" in found.attrs["notes"]
    assert np.isfinite(found["score"]).all()


@pytest.mark.slow
def test_data_with_nothing_in_common_are_refused(runs: tuple[xr.DataTree, xr.Dataset]) -> None:
    warning = EarlyWarning(steps=LATE, min_points=4, n_folds=2, metrics=None, families=["eval"]).fit(*runs)
    other = make_cube(np.ones((1, 3, 9, 1)), steps=STEPS, metrics=["eval/other/acc"])
    with pytest.raises(AnalysisError, match="none of the 7 features"):
        warning.warn(other)


@pytest.mark.slow
def test_a_copy_teaches_nothing(runs: tuple[xr.DataTree, xr.Dataset]) -> None:
    tree, labels = runs
    value = tree["value"].values.copy()
    value[0, 5] = value[0, 2]
    copied = tree_of(tree.to_dataset().assign(value=(tree["value"].dims, value)), tree["log"].to_dataset())
    warning, full = quick().fit(copied, labels), quick().fit(tree, labels)
    assert warning.n_stable_ + warning.n_wrong_ == full.n_stable_ + full.n_wrong_ - 1


@pytest.mark.slow
def test_a_cube_without_a_log_is_enough() -> None:
    tree, labels = make_runs(n_seeds=12, weights=6.0, rng=21)
    found = EarlyWarning(min_points=4, n_folds=2).fit(tree.to_dataset(), labels).warn(tree.to_dataset())
    assert np.isfinite(found["score"]).all()


@pytest.mark.slow
def test_the_last_numbers_are_given_by_the_short_ways(fitted: EarlyWarning) -> None:
    fresh = make_runs(n_seeds=4, rng=22)[0]
    found = fitted.warn(fresh)
    np.testing.assert_array_equal(fitted.decision_function(fresh), found["score"].isel(step=-1))
    np.testing.assert_array_equal(fitted.predict_proba(fresh), found["probability"].isel(step=-1))
    np.testing.assert_array_equal(fitted.predict(fresh), found["alarm"].isel(step=-1))


def test_everything_is_described(fitted: EarlyWarning) -> None:
    found = fitted.warn(make_runs(n_seeds=4, rng=22)[0])
    assert all(found[name].attrs.get("long_name") for name in found.data_vars)


# Labels and arguments.


@pytest.mark.slow
def test_labels_may_be_an_array_with_unknown_ones(runs: tuple[xr.DataTree, xr.Dataset]) -> None:
    tree, labels = runs
    known = labels["wrong"].values.astype(float)
    known[0, :4] = np.nan
    warning = quick().fit(tree, known)
    assert warning.n_stable_ + warning.n_wrong_ == known.size - 4


@pytest.mark.slow
def test_labels_are_joined_by_name(runs: tuple[xr.DataTree, xr.Dataset]) -> None:
    tree, labels = runs
    turned = labels.isel(model=[1, 0], seed=slice(None, None, -1))
    xr.testing.assert_identical(quick().fit(tree, turned).warn(tree), quick().fit(tree, labels).warn(tree))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "learns from labels and there are none"),
        (np.zeros((2, 24)), "0 went wrong and 48 did not"),
        (np.ones((2, 24)), "48 went wrong and 0 did not"),
        (np.zeros((3, 24)), r"labels have shape \(3, 24\)"),
        (np.full((2, 24), 2.0), "are neither true"),
        (np.full((2, 24), "bad"), "labels are true for runs that went wrong"),
        (xr.Dataset({"bad": 1}), "no variable 'wrong'"),
        (xr.DataArray(np.zeros(24), dims="seed"), "no dimension 'model'"),
    ],
)
def test_bad_labels_are_refused(runs: tuple[xr.DataTree, xr.Dataset], labels: Any, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        quick().fit(runs[0], labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "logistics"}, "Did you mean 'logistic'"),
        ({"false_alarm": 5}, "false_alarm is 5"),
        ({"n_folds": 1}, "n_folds is 1"),
        ({"min_points": 0}, "min_points is 0"),
        ({"min_points": 500}, "no prefix is long enough"),
        ({"views": ["near"]}, "no view is called 'near'"),
        ({"views": []}, "give a view"),
        ({"penalty": 0.0}, "penalty above 0"),
        ({"method": "last_loss", "loss": "log/los"}, "Did you mean 'log/loss'"),
        ({"method": "spike_count", "families": ["eval"], "min_points": 4}, "needs a loss curve"),
        ({"rng": "x"}, "rng is 'x'"),
    ],
)
def test_bad_arguments_are_refused(
    runs: tuple[xr.DataTree, xr.Dataset], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(AnalysisError, match=message):
        quick(**arguments).fit(*runs)


def test_warning_before_fitting_is_refused(runs: tuple[xr.DataTree, xr.Dataset]) -> None:
    with pytest.raises(AnalysisError, match="not fitted yet"):
        quick().warn(runs[0])


def test_novelty_gives_no_probability(runs: tuple[xr.DataTree, xr.Dataset]) -> None:
    with pytest.raises(AnalysisError, match="gives no probability"):
        quick(method="novelty").fit(*runs).predict_proba(runs[0])
