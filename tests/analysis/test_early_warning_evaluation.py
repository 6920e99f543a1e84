"""The evaluation: what is held out, who is compared with whom, and that nothing is flattered."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from early_warning_runs import make_runs, tree_of

import polystab as ps
from polystab.analysis import failed_runs
from polystab.analysis.early_warning import EarlyWarning, evaluate_warning
from polystab.errors import AnalysisError


def quick(**changes: Any) -> EarlyWarning:
    return EarlyWarning(**{"steps": (60, 120, 160), "families": ["log"], "n_folds": 3, **changes})


def evaluated(tree: xr.DataTree, labels: xr.Dataset, **changes: Any) -> xr.Dataset:
    arguments: dict[str, Any] = {"methods": {"ours": quick()}, "n_splits": 4, "n_resamples": 200, **changes}
    return evaluate_warning(tree, labels, **arguments)


@pytest.fixture(scope="module")
def planted() -> xr.Dataset:
    return evaluated(*make_runs(n_seeds=24, rng=0), n_splits=8)  # 21 stable runs to learn from


@pytest.mark.slow
def test_a_planted_sign_beats_the_baselines_by_more_than_chance(planted: xr.Dataset) -> None:
    at = planted.sel(step=120, measure="auroc_within")
    assert float(at["value"].sel(warning="ours")) > 0.9
    assert float(at["gain_lower"]) > 0


@pytest.mark.slow
def test_baselines_of_which_the_curve_is_there_are_compared(planted: xr.Dataset) -> None:
    assert planted["baseline"].values.tolist() == ["last_loss", "loss_slope", "spike_count", "robust_z"]


def test_intervals_hold_their_values(planted: xr.Dataset) -> None:
    at = planted.sel(step=[60, 120])
    assert (at["lower"] <= at["value"]).all()
    assert (at["value"] <= at["upper"]).all()
    assert (at["difference_lower"] <= at["difference"]).all()


def test_runs_that_are_wrong_already_are_not_evaluated(planted: xr.Dataset) -> None:
    # All that go wrong are seen at 140.
    assert planted["n_already"].values.tolist() == [0, 0, 24]
    assert planted["n_wrong"].values.tolist() == [24, 24, 0]
    assert np.isnan(planted["value"].sel(step=160)).all()


def test_pairs_are_within_models(planted: xr.Dataset) -> None:
    assert planted["n_pairs"].values.tolist() == [2 * 12 * 12, 2 * 12 * 12, 0]


def test_alarms_before_the_rule_count_as_caught(planted: xr.Dataset) -> None:
    ours = planted.sel(warning="ours")
    assert float(ours["caught"]) > 0.6
    assert float(ours["false_alarms"]) < 0.15
    first, lead = ours["first_alarm"].values, ours["lead"].values
    caught = planted["wrong"].values & (first >= 0) & (first < 140)
    np.testing.assert_array_equal(lead[caught], 140 - first[caught])
    assert np.isnan(lead[~caught]).all()
    assert float(ours["median_lead"]) == np.median(lead[caught])


def test_alarms_against_step_end_at_their_totals(planted: xr.Dataset) -> None:
    np.testing.assert_allclose(planted["caught_by"].isel(step=-1), planted["caught"])
    np.testing.assert_allclose(planted["false_alarms_by"].isel(step=-1), planted["false_alarms"])


@pytest.mark.slow
def test_an_alarm_that_comes_with_the_spike_is_not_caught() -> None:
    found = evaluated(*make_runs(n_seeds=24, signal=0.0, rng=1), baselines=["spike_count"])
    assert float(found["caught"].sel(warning="spike_count")) == 0.0


def test_the_calibration_curve_counts_every_run_once(planted: xr.Dataset) -> None:
    n = planted["n_in_bin"].sel(warning="ours").sum("bin")
    np.testing.assert_array_equal(n, planted["n_wrong"] + planted["n_good"])
    total = (planted["observed"] * planted["n_in_bin"]).sel(warning="ours", step=120).sum()
    assert float(total) == pytest.approx(24)
    assert float(planted["brier"].sel(warning="ours", step=120)) < float(
        planted["brier_base"].sel(warning="ours", step=120)
    )


def test_baselines_have_no_probabilities(planted: xr.Dataset) -> None:
    assert np.isnan(planted["brier"].sel(warning="last_loss")).all()


@pytest.mark.slow
def test_the_rate_alone_earns_nothing_within_models() -> None:
    tree, labels = make_runs(n_models=2, n_seeds=24, signal=0.0, rate=3.0, rng=2)
    for m, n in ((0, 4), (1, 20)):
        labels["wrong"][m] = np.arange(24) < n
    labels["seen_at"] = xr.where(labels["wrong"], 140.0, np.nan)
    at = evaluated(tree, labels, baselines=["last_loss"]).sel(step=120, warning="ours")
    assert float(at["value"].sel(measure="auroc")) > 0.7
    assert float(at["lower"].sel(measure="auroc_within")) < 0.5 < float(at["upper"].sel(measure="auroc_within"))


@pytest.mark.slow
def test_without_a_sign_nothing_is_found_on_average() -> None:
    values = []
    for i in range(10):
        tree, labels = make_runs(n_models=3, n_seeds=12, share_wrong=0.3, signal=0.0, rng=i)
        found = evaluated(tree, labels, methods={"ours": quick(steps=(60, 120))}, baselines=[], n_resamples=2, rng=i)
        values.append(float(found["value"].sel(measure="auroc_within").mean()))
    assert abs(np.mean(values) - 0.5) < 0.09  # standard error 0.03


@pytest.mark.slow
@pytest.mark.parametrize("leave", ["learning_rate", "size"])
def test_what_is_held_out_is_not_learned_from(leave: str) -> None:
    tree, labels = make_runs(n_models=3, n_seeds=10, rng=3)
    cube = tree.to_dataset().assign_coords(n_parameters=("model", [1, 2, 2]), learning_rate=("model", [0.1, 0.1, 0.2]))
    tree = tree_of(cube, tree["log"].to_dataset())
    found = evaluated(tree, labels, leave=leave, baselines=["last_loss"])
    wanted = {"learning_rate": [True, True, True], "size": [False, True, True]}[leave]
    assert found["evaluated"].all("seed").values.tolist() == wanted
    assert found.attrs["n_splits"] == (2 if leave == "learning_rate" else 1)
    # Runs of a held-out model are compared with each other; the sign is found all the same.
    assert float(found["value"].sel(measure="auroc_within", warning="ours", step=120)) > 0.8


@pytest.mark.slow
def test_models_without_a_rate_are_left_out_one_by_one() -> None:
    found = evaluated(*make_runs(n_models=3, n_seeds=10, rng=3), leave="learning_rate", baselines=[])
    assert found.attrs["n_splits"] == 3


@pytest.mark.slow
def test_the_same_rng_gives_the_same_bytes() -> None:
    tree, labels = make_runs(n_seeds=10, rng=4)
    one, two = (evaluated(tree, labels, rng=5, baselines=[]) for _ in range(2))
    xr.testing.assert_identical(one, two)


def test_everything_is_described(planted: xr.Dataset) -> None:
    assert all(planted[name].attrs.get("long_name") for name in planted.data_vars)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"leave": "seeds"}, "no way to leave runs out is called 'seeds'"),
        ({"leave": "size"}, "needs the coordinate n_parameters"),
        ({"n_splits": 1}, "n_splits is 1"),
        ({"level": 2}, "level is 2"),
        ({"methods": {}}, "methods is empty"),
        ({"methods": {"last_loss": quick()}}, "has the name of the baseline"),
        ({"baselines": ["first_loss"]}, "no baseline is called 'first_loss'"),
        ({"methods": {"a": quick(), "b": quick(steps=(60,))}}, "look at different steps"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    tree, labels = make_runs(n_models=1, n_seeds=10, rng=6)
    with pytest.raises(AnalysisError, match=message):
        evaluated(tree, labels, **arguments)


@pytest.mark.parametrize(("wrong", "message"), [(None, "no labels"), (True, "of one kind"), (False, "of one kind")])
def test_labels_of_one_kind_are_refused(wrong: bool | None, message: str) -> None:
    tree, labels = make_runs(n_models=1, n_seeds=10, rng=6)
    with pytest.raises(AnalysisError, match=message):
        evaluated(tree, None if wrong is None else np.full(labels["wrong"].shape, wrong))


@pytest.mark.slow
def test_nano_edge_is_evaluated_without_those_already_wrong() -> None:
    tree = ps.load_tree("nano-edge")
    warning = EarlyWarning(steps=(200, 400), families=["log"], n_folds=3)
    found = evaluate_warning(tree, failed_runs(tree), methods={"log": warning}, n_splits=4, n_resamples=50)
    counts = [int(found[name].sel(step=200)) for name in ("n_wrong", "n_good", "n_already", "n_pairs")]
    assert counts == [24, 45, 3, 123]
    assert float(found["false_alarms_lower"].sel(warning="log")) <= 0.05
