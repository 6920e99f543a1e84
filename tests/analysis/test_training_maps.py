"""Training maps: known truth, algebra, prefixes, other runs and sizes, saving, bad input."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from cubes_of_arrays import make_cube

from polystab.analysis.maps.agreement import map_agreement
from polystab.analysis.partitions import rand_of_counts
from polystab.analysis.training_maps import TrainingMap, fit_training_map
from polystab.errors import AnalysisError


def simulated(
    k: int, *, seed: int = 0, n_runs: int = 5, n_step: int = 60, d: int = 3, cycle: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Runs of a Gaussian hidden Markov model, (1, run, step, metric), and their true states."""
    rng = np.random.default_rng(seed)
    mean = 5.0 * np.eye(4, 3, k=-1)[:k, :d]  # five standard deviations apart
    moves = rng.random((n_runs, n_step)) < 1.3 * k / n_step
    moves[:, 0] = False
    state = moves.cumsum(axis=1)
    state = state % k if cycle else np.minimum(state, k - 1)
    return (mean[state] + rng.normal(size=(n_runs, n_step, d)))[None], state


@cache
def simple_map(k: int = 3, normalise: Any = "reference") -> tuple[np.ndarray, TrainingMap]:
    """Simulated runs, not to be changed, and a map of them."""
    value, _ = simulated(k)
    value.flags.writeable = False
    return value, fit_training_map(make_cube(value), n_states=k, n_restarts=2, normalise=normalise)


def agreement(found: xr.DataArray, truth: np.ndarray) -> float:
    table = np.zeros((20, 20), dtype=np.int64)
    np.add.at(table, (found.values.ravel(), truth.ravel()), 1)
    return float(rand_of_counts(table))


@pytest.mark.slow
@pytest.mark.parametrize("cycle", [False, True])
@pytest.mark.parametrize("k", [3, 4])
def test_simulated_states_are_recovered(k: int, cycle: bool) -> None:
    value, truth = simulated(k, cycle=cycle)
    fitted = fit_training_map(make_cube(value), n_states=k)
    assert agreement(fitted.states["state"], truth) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [3, 4])
def test_bic_picks_the_true_number_of_states(k: int, seed: int) -> None:
    value, truth = simulated(k, seed=seed, cycle=bool(seed % 2))
    fitted = fit_training_map(make_cube(value), n_states=range(1, 7), n_restarts=6)
    assert fitted.n_states == k
    assert agreement(fitted.states["state"], truth) > 0.9


@pytest.mark.slow
def test_held_out_runs_prefer_the_true_number_of_states_to_fewer() -> None:
    value, _ = simulated(3)
    fitted = fit_training_map(make_cube(value), n_states=[1, 2, 3], criterion="heldout", n_restarts=4)
    assert fitted.n_states == 3
    assert (np.diff(fitted.selection["held_out_per_checkpoint"].values) > 0).all()


@pytest.mark.slow
def test_noise_has_one_state() -> None:
    value = np.random.default_rng(0).normal(size=(1, 5, 30, 2))
    assert fit_training_map(make_cube(value), n_states=[1, 2], n_restarts=4).n_states == 1


@pytest.mark.slow
def test_states_are_numbered_by_first_visit() -> None:
    value, _ = simulated(4)
    states = fit_training_map(make_cube(value), n_states=4).states["state"].values[0]
    first = [int(np.nonzero((states == k).any(axis=0))[0][0]) for k in range(4)]
    assert first == sorted(first)
    assert (states[:, 0] == 0).any()


@pytest.mark.slow
@pytest.mark.parametrize("normalise", ["reference", "causal", "run"])
def test_permuting_runs_permutes_states_only(normalise: Any) -> None:
    value, _ = simulated(3)
    order = [3, 0, 4, 2, 1]
    one = fit_training_map(make_cube(value), n_states=3, normalise=normalise, n_restarts=2)
    other = fit_training_map(make_cube(value[:, order]), n_states=3, normalise=normalise, n_restarts=2)
    assert one.states["state"].values[:, order].tolist() == other.states["state"].values.tolist()
    assert one.selection["log_likelihood"].values.tolist() == other.selection["log_likelihood"].values.tolist()


@pytest.mark.slow
def test_units_of_metrics_change_no_state() -> None:
    value, _ = simulated(3)
    one = fit_training_map(make_cube(value), n_states=3, n_restarts=2)
    other = fit_training_map(make_cube(value * [1e-7, -3.0, 1e8] + [0.0, 5.0, 1e9]), n_states=3, n_restarts=2)
    assert one.states["state"].values.tolist() == other.states["state"].values.tolist()


@pytest.mark.slow
def test_the_same_rng_gives_the_same_bytes() -> None:
    value, _ = simulated(3)
    one, other = (fit_training_map(make_cube(value), n_states=[2, 5], n_restarts=2, rng=7) for _ in range(2))
    for name in one.parameters.data_vars:
        assert one.parameters[name].values.tobytes() == other.parameters[name].values.tobytes()


@pytest.mark.slow
def test_a_fit_does_not_depend_on_which_other_numbers_are_tried() -> None:
    value, _ = simulated(3)
    alone = fit_training_map(make_cube(value), n_states=3, n_restarts=2)
    among = fit_training_map(make_cube(value), n_states=[2, 3], n_restarts=2)
    assert alone.selection["log_likelihood"].item() == among.selection["log_likelihood"].sel(n_states=3).item()


@pytest.mark.slow
def test_copies_are_decoded_but_change_no_fit() -> None:
    value, _ = simulated(3)
    plain = fit_training_map(make_cube(value), n_states=3, n_restarts=2)
    copied = fit_training_map(make_cube(np.concatenate([value, value[:, :1]], axis=1)), n_states=3, n_restarts=2)
    assert copied.parameters["mean"].values.tobytes() == plain.parameters["mean"].values.tobytes()
    assert copied.states["role"].values[0].tolist() == ["fitted"] * 5 + ["copy"]
    assert copied.states["state"].values[0, 5].tolist() == copied.states["state"].values[0, 0].tolist()
    assert any("copies" in note for note in copied.notes)


@pytest.mark.slow
def test_decoding_the_fitted_cube_gives_the_states_of_the_fit() -> None:
    value, _ = simulated(3)
    for normalise in ("reference", "causal", "run"):
        fitted = fit_training_map(make_cube(value), n_states=3, n_restarts=2, normalise=normalise)  # type: ignore[arg-type]
        xr.testing.assert_identical(fitted.decode(make_cube(value)).drop_vars("role"), fitted.states.drop_vars("role"))


@pytest.mark.slow
@pytest.mark.parametrize("normalise", ["reference", "causal"])
@pytest.mark.parametrize("end", [1, 2, 17, 45])
def test_a_prefix_is_read_as_if_the_rest_did_not_exist(normalise: Any, end: int) -> None:
    value, fitted = simple_map(4, normalise)
    wild = value.copy()
    wild[:, :, end:] = 50 * np.random.default_rng(1).normal(size=wild[:, :, end:].shape)
    prefix = fitted.decode(make_cube(value).isel(step=slice(end)))
    for whole in (fitted.decode(make_cube(value)), fitted.decode(make_cube(wild))):
        part = whole["posterior_online"].isel(step=slice(end)).values
        np.testing.assert_allclose(part, prefix["posterior_online"].values, rtol=1e-9, atol=1e-12)
    last = prefix.isel(step=-1)
    np.testing.assert_allclose(last["posterior"].values, last["posterior_online"].values, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("normalise", ["reference", "causal"])
def test_a_late_restart_changes_no_earlier_state(normalise: Any) -> None:
    value, fitted = simple_map(4, normalise)
    restarted = value.copy()
    restarted[0, 0, 40:] = value[0, 0, :20]
    after = fitted.decode(make_cube(restarted)).isel(model=0, seed=0, step=slice(40))
    before = fitted.states.isel(model=0, seed=0, step=slice(40))
    assert after["state_online"].values.tolist() == before["state_online"].values.tolist()
    # The path may look ahead, but no further than the last checkpoints before the restart.
    assert int((after["state"].values != before["state"].values).sum()) <= 2


def test_a_run_that_goes_back_is_read_as_going_back() -> None:
    value = np.repeat([0.0, 5.0, 10.0], 20)[None, None, :, None] + np.random.default_rng(0).normal(size=(1, 5, 60, 2))
    fitted = fit_training_map(make_cube(value), n_states=3, n_restarts=2)
    restarted = value[:, :1].copy()
    restarted[0, 0, 50:] = value[0, 0, :10]
    assert (
        fitted.decode(make_cube(restarted))["state"].values[0, 0].tolist() == [0] * 20 + [1] * 20 + [2] * 10 + [0] * 10
    )


@pytest.mark.slow
def test_another_size_is_read_on_its_own_scale() -> None:
    value, fitted = simple_map()
    _, truth = simulated(3)
    larger = make_cube(100 * value + 30).assign_coords(model=["m1"])
    with pytest.raises(AnalysisError, match=r"no scale for 'm1'.*reference=\[0, 1, 2\]"):
        fitted.decode(larger)
    states = fitted.decode(larger, reference=[0, 1, 2, 3, 4])
    assert states["state"].values.tolist() == fitted.states["state"].values.tolist()
    assert agreement(states["state"], truth) > 0.9


@pytest.mark.slow
def test_each_model_of_a_fit_has_its_own_scale() -> None:
    value, _ = simulated(3)
    both = np.concatenate([value, 1000 * value - 7], axis=0)
    fitted = fit_training_map(make_cube(both), n_states=3, n_restarts=2)
    assert fitted.states["state"].values[0].tolist() == fitted.states["state"].values[1].tolist()
    np.testing.assert_allclose(fitted.parameters["spread"].values[1], 1000 * fitted.parameters["spread"].values[0])


def test_distance_is_near_1_for_known_checkpoints_and_large_for_strange_ones() -> None:
    value, fitted = simple_map()
    strange = value.copy()
    strange[0, 0, 30] += 100
    distance = fitted.decode(make_cube(strange))["distance"].values
    assert distance[0, 0, 30] > 20
    assert 0.8 < np.sqrt(np.mean(fitted.states["distance"].values ** 2)) < 1.2


@pytest.mark.slow
def test_missing_checkpoints_are_left_out_and_their_neighbours_joined() -> None:
    value, _ = simulated(3)
    holes = value.copy()
    holes[0, 1, 10:15] = np.nan
    holes[0, 2, 20, 0] = np.nan
    holes[0, 2, 30, 1] = np.inf
    fitted = fit_training_map(make_cube(holes), n_states=3, n_restarts=2)
    states = fitted.states
    assert states["n_checkpoints"].values.tolist() == [[60, 55, 58, 60, 60]]
    assert states["n_incomplete"].values.tolist() == [[0, 0, 1, 0, 0]]
    assert states["n_nonfinite"].values.tolist() == [[0, 0, 1, 0, 0]]
    assert (states["state"].values[0, 1, 10:15] == -1).all()
    assert np.isnan(states["posterior"].values[0, 2, 20]).all()
    assert fitted.selection["n_rows"].item() == 293
    assert "2 of 295 checkpoints are left out: at 1 a metric is not measured, at 1 one is infinite." in fitted.notes
    # A run without its missing rows is the same sequence on a shorter grid.
    shorter = make_cube(np.delete(holes[:, 1:2], np.s_[10:15], axis=2)).assign_coords(seed=[1])
    assert fitted.decode(shorter)["log_likelihood"].item() == pytest.approx(states["log_likelihood"].values[0, 1])


@pytest.mark.slow
def test_a_run_without_values_is_neither_fitted_nor_decoded() -> None:
    value, _ = simulated(3)
    value[0, 4] = np.nan
    states = fit_training_map(make_cube(value), n_states=2, n_restarts=2).states
    assert states["role"].values[0].tolist() == ["fitted"] * 4 + [""]
    assert np.isnan(states["log_likelihood"].values[0, 4])


@pytest.mark.slow
def test_constant_metrics_are_left_out_and_named() -> None:
    value, _ = simulated(3)
    value[..., 1] = 0.1
    fitted = fit_training_map(make_cube(value), n_states=3, n_restarts=2)
    assert fitted.metrics == ("eval/task0/acc", "eval/task2/acc")
    assert "1 of 3 metrics do not vary and are left out: 'eval/task1/acc'." in fitted.notes


def test_one_seed_can_be_fitted_with_a_warning_in_words() -> None:
    value, _ = simulated(3, n_runs=1, n_step=120)
    fitted = fit_training_map(make_cube(value), n_states=3, n_restarts=2)
    assert any("one run is fitted" in note for note in fitted.notes)


def test_two_steps_are_enough_for_one_metric() -> None:
    value = np.random.default_rng(0).normal(size=(1, 6, 2, 1)) + np.array([0.0, 20.0])[:, None]
    fitted = fit_training_map(make_cube(value), n_states=2, n_restarts=2)
    assert (fitted.states["state"].values == [0, 1]).all()


def test_fewer_checkpoints_than_parameters_are_refused_with_the_count() -> None:
    value, _ = simulated(3, n_runs=1, n_step=20)
    with pytest.raises(AnalysisError, match="20 checkpoints for 26 parameters"):
        fit_training_map(make_cube(value), n_states=3)


def test_numbers_of_states_that_do_not_fit_stay_in_the_table() -> None:
    value, _ = simulated(3, n_runs=1, n_step=20)
    fitted = fit_training_map(make_cube(value), n_states=[1, 2, 3], n_restarts=2)
    assert fitted.selection["refused"].values.tolist() == ["", "", "20 checkpoints for 26 parameters"]
    assert np.isnan(fitted.selection["bic"].values).tolist() == [False, False, True]
    assert any("not fitted for lack of checkpoints" in note for note in fitted.notes)


def test_a_state_that_nobody_visits_is_told() -> None:
    value = np.repeat([0.0, 1.0], 30)[None, None, :, None] * np.ones((1, 3, 60, 1))
    value[0, 1] += 1e-3
    value[0, 2] -= 1e-3
    fitted = fit_training_map(make_cube(value), n_states=4, n_restarts=2)
    assert fitted.selection["n_unvisited"].item() >= 1
    assert any("visited by no fitted checkpoint" in note for note in fitted.notes)


def test_a_fit_that_does_not_converge_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polystab.analysis.maps.fit.MAX_ITERATIONS", 2)
    value, _ = simulated(4)
    fitted = fit_training_map(make_cube(value), n_states=3, n_restarts=2)
    assert not fitted.selection["converged"].item()
    assert any("did not converge" in note for note in fitted.notes)


def test_the_largest_number_tried_being_best_is_told() -> None:
    value, _ = simulated(4)
    fitted = fit_training_map(make_cube(value), n_states=[1, 2], n_restarts=2)
    assert any("the most that were tried" in note for note in fitted.notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("held_out", "roles"),
    [
        ([1, 4], ["fitted", "held out", "fitted", "fitted", "held out"]),
        ("each", ["fitted"] * 5),
        (None, ["fitted"] * 5),
    ],
)
def test_held_out_runs_are_decoded_and_not_fitted(held_out: Any, roles: list[str]) -> None:
    value, _ = simulated(3)
    fitted = fit_training_map(make_cube(value), n_states=2, n_restarts=2, held_out=held_out)
    assert fitted.states["role"].values[0].tolist() == roles
    assert np.isnan(fitted.selection["held_out"].item()) == (held_out is None)


def test_held_out_likelihood_is_that_of_decoding_the_held_out_runs() -> None:
    value, _ = simulated(3)
    fitted = fit_training_map(make_cube(value), n_states=3, n_restarts=2, held_out=[2])
    assert fitted.selection["held_out"].item() == pytest.approx(fitted.states["log_likelihood"].sel(seed=2).item())
    others = fitted.states["log_likelihood"].sel(seed=[0, 1, 3, 4]).sum().item()
    assert fitted.selection["log_likelihood"].item() == pytest.approx(others)


@pytest.mark.slow
def test_each_run_in_its_turn_adds_up_over_runs() -> None:
    value, _ = simulated(3)
    cube = make_cube(value)
    table = fit_training_map(cube, n_states=2, n_restarts=2, held_out="each", rng=0).selection
    alone = [
        fit_training_map(cube, n_states=2, n_restarts=2, held_out=[s], rng=0).selection["held_out"].item()
        for s in range(5)
    ]
    assert table["held_out"].item() == pytest.approx(sum(alone), rel=1e-6)


def test_criteria_follow_from_the_likelihood() -> None:
    value, _ = simulated(3)
    line = fit_training_map(make_cube(value), n_states=3, n_restarts=2).selection.isel(n_states=0)
    minus_two = -2 * line["log_likelihood"].item()
    assert line["n_parameters"].item() == 2 + 6 + 9 + 9
    assert line["aic"].item() == pytest.approx(minus_two + 2 * 26)
    assert line["bic"].item() == pytest.approx(minus_two + 26 * np.log(300))


@pytest.mark.slow
@pytest.mark.parametrize("covariance", ["diag", "full", "tied"])
def test_a_map_comes_back_from_a_file_as_it_went(tmp_path: Path, covariance: Any) -> None:
    value, _ = simulated(3)
    fitted = fit_training_map(make_cube(value), n_states=2, n_restarts=2, covariance=covariance)
    fitted.to_tree().to_netcdf(tmp_path / "map.nc")
    with xr.open_datatree(tmp_path / "map.nc") as tree:
        back = TrainingMap.from_tree(tree.load())
    assert back.notes == fitted.notes
    assert repr(back) == repr(fitted)
    xr.testing.assert_equal(back.selection, fitted.selection)
    xr.testing.assert_equal(back.decode(make_cube(value)), fitted.decode(make_cube(value)))


@pytest.mark.slow
def test_tied_and_full_covariances_are_labelled() -> None:
    value, _ = simulated(3)
    for covariance in ("full", "tied"):
        p = fit_training_map(make_cube(value), n_states=2, n_restarts=2, covariance=covariance).parameters  # type: ignore[arg-type]
        diagonal = np.diagonal(p["covariance"].values, axis1=1, axis2=2)
        assert p["variance"].values.tolist() == diagonal.tolist()


@pytest.mark.slow
def test_every_variable_says_what_it_is() -> None:
    value, _ = simulated(3)
    fitted = fit_training_map(make_cube(value), n_states=2, n_restarts=2, covariance="full")
    for data in (fitted.parameters, fitted.selection, fitted.states):
        assert all(data[name].attrs["long_name"] for name in data.data_vars)


def test_the_cube_is_left_as_it_was() -> None:
    value, _ = simulated(3)
    cube = make_cube(value)
    before = cube.copy(deep=True)
    fit_training_map(cube, n_states=2, n_restarts=2).decode(cube)
    xr.testing.assert_identical(cube, before)


@pytest.mark.slow
def test_two_maps_of_the_same_truth_agree() -> None:
    value, _ = simulated(4)
    one = fit_training_map(make_cube(value), n_states=4, n_restarts=2, held_out=[0])
    other = fit_training_map(make_cube(value), n_states=4, n_restarts=2, held_out=[1, 2])
    assert map_agreement(one.states, other.states)["ari"].item() > 0.9


def test_a_cube_that_lacks_metrics_of_the_map_is_refused_by_name() -> None:
    value, fitted = simple_map()
    with pytest.raises(AnalysisError, match="lacks 1 of the 3 metrics of the map: 'eval/task2/acc'"):
        fitted.decode(make_cube(value[..., :2]))


def test_a_cube_without_a_measured_checkpoint_decodes_to_nothing() -> None:
    _, fitted = simple_map()
    states = fitted.decode(make_cube(np.full((1, 2, 3, 3), np.nan)))
    assert (states["state"].values == -1).all()


def test_a_flat_reference_is_refused() -> None:
    _, fitted = simple_map()
    flat = make_cube(np.ones((1, 2, 5, 3))).assign_coords(model=["other"])
    with pytest.raises(AnalysisError, match="do not vary over the reference runs of 'other'"):
        fitted.decode(flat, reference=[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_states": 0}, "not a number of states"),
        ({"n_states": []}, "not a number of states"),
        ({"n_states": 2.5}, "not a number of states"),
        ({"covariance": "diagonal"}, "Did you mean 'diag'"),
        ({"normalise": "ref"}, "no normalise 'ref'"),
        ({"criterion": "bicc"}, "Did you mean 'bic'"),
        ({"held_out": "row"}, "no held_out 'row'"),
        ({"held_out": 1.5}, "not a share of the runs"),
        ({"held_out": [7]}, "held_out names seeds 7, which the cube lacks"),
        ({"held_out": [0, 1, 2, 3, 4]}, "leaves no run to fit"),
        ({"reference": [9]}, "reference names seeds 9"),
        ({"reference": [0], "normalise": "run"}, "takes no reference"),
        ({"n_restarts": 0}, "number of fits"),
        ({"n_restarts": 1.5}, "number of fits"),
        ({"variance_floor": 0.0}, "not above 0"),
        ({"recipe": "hu"}, "no recipe 'hu'"),
        ({"recipe": "polypythias", "covariance": "full"}, "settles 'covariance'"),
        ({"metrics": ["eval/task9/acc"]}, "no metric 'eval/task9/acc'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments: dict[str, Any], message: str) -> None:
    value, _ = simulated(3)
    with pytest.raises(AnalysisError, match=message):
        fit_training_map(make_cube(value), **arguments)


def test_a_single_run_cannot_be_held_out() -> None:
    value, _ = simulated(3, n_runs=1)
    with pytest.raises(AnalysisError, match="a single run cannot be held out"):
        fit_training_map(make_cube(value), criterion="heldout")


def test_metrics_never_measured_together_are_refused_by_name() -> None:
    value, _ = simulated(3)
    value[:, :, ::2, 0] = np.nan
    value[:, :, 1::2, 1] = np.nan
    with pytest.raises(AnalysisError, match="no checkpoint has a finite value for all 3 metrics"):
        fit_training_map(make_cube(value))


def test_nothing_that_varies_is_refused() -> None:
    with pytest.raises(AnalysisError, match="none of the 2 metrics varies"):
        fit_training_map(make_cube(np.ones((1, 3, 10, 2))))


def test_a_model_without_a_reference_run_is_refused() -> None:
    value, _ = simulated(3)
    both = np.concatenate([value, value + 1], axis=0)
    both[1, 0] = np.nan
    with pytest.raises(AnalysisError, match="no reference run is measured for 'm1'"):
        fit_training_map(make_cube(both), n_states=2, reference=[0])


@pytest.mark.slow
def test_the_only_run_of_a_model_cannot_be_held_out_without_a_reference() -> None:
    value, _ = simulated(3)
    both = np.concatenate([value, value + 1], axis=0)
    both[1, 1:] = np.nan
    with pytest.raises(AnalysisError, match="no reference run is measured for 'm1'"):
        fit_training_map(make_cube(both), n_states=2, criterion="heldout", n_restarts=1)
    named = fit_training_map(make_cube(both), n_states=2, held_out="each", reference=[0], n_restarts=1)
    assert np.isfinite(named.selection["held_out"].item())


def test_wild_runs_decode_without_a_warning() -> None:
    value, fitted = simple_map()
    wild = value.copy()
    wild[0, 0, 30:] *= 1e300
    states = fitted.decode(make_cube(wild))
    assert states["n_checkpoints"].values[0, 0] == 60
    assert np.isfinite(states["log_likelihood"].values).all()
