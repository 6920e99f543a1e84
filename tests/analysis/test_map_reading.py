"""Reading states: occupancy, transitions, paths, forks, and what moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr
from cubes_of_arrays import make_cube

from polystab.analysis.maps.reading import state_occupancy, state_paths, state_transitions, transition_effects
from polystab.analysis.training_maps import fit_training_map
from polystab.errors import AnalysisError


def table(*runs: list[int]) -> xr.DataArray:
    return xr.DataArray(
        np.array(runs),
        dims=("seed", "step"),
        coords={"seed": np.arange(len(runs)), "step": 10 * np.arange(len(runs[0]))},
    )


RUNS = table([0, 0, 1, 2, 2], [0, 1, 1, 2, 2], [0, 0, 0, 2, 0], [-1, 0, 1, -1, -1])


def test_occupancy_is_the_share_of_decoded_checkpoints() -> None:
    read = state_occupancy(RUNS).isel(model=0)
    assert read["occupancy"].values.tolist() == [[0.4, 0.2, 0.4], [0.2, 0.4, 0.4], [0.8, 0.0, 0.2], [0.5, 0.5, 0.0]]
    assert read["n_checkpoints"].values.tolist() == [5, 5, 5, 2]
    assert read["first_step"].values.tolist() == [[0, 20, 30], [0, 10, 30], [0, -1, 30], [10, 20, -1]]


def test_a_detour_is_a_state_that_some_runs_visit_and_some_never() -> None:
    read = state_occupancy(RUNS, n_states=4).isel(model=0)
    assert read["n_visiting"].values.tolist() == [4, 3, 3, 0]
    assert read["detour"].values.tolist() == [False, True, True, False]


def test_a_run_without_states_has_no_occupancy_and_makes_no_detour() -> None:
    read = state_occupancy(table([0, 1], [-1, -1])).isel(model=0)
    assert np.isnan(read["occupancy"].values[1]).all()
    assert not read["detour"].values.any()


def test_transitions_are_counted_over_neighbours_and_gaps() -> None:
    read = state_transitions(table([0, -1, 1, 1], [0, 0, 1, 0])).isel(model=0)
    assert read["count"].values.tolist() == [[[0, 1], [0, 1]], [[1, 1], [1, 0]]]
    assert read["total"].values.tolist() == [[1, 2], [1, 1]]
    np.testing.assert_allclose(read["probability"].values, [[1 / 3, 2 / 3], [0.5, 0.5]])
    assert read["n_runs"].values.tolist() == [[1, 2], [1, 1]]
    np.testing.assert_array_equal(read["median_step"].values, [[10, 20], [30, 30]])


def test_probabilities_sum_to_1_or_are_unknown() -> None:
    probability = state_transitions(RUNS, n_states=4)["probability"].values[0]
    np.testing.assert_allclose(probability[:3].sum(axis=1), 1.0)
    assert np.isnan(probability[3]).all()


def test_paths_and_forks() -> None:
    read = state_paths(RUNS).isel(model=0)
    assert read["path"].values.tolist() == ["0 > 1 > 2", "0 > 1 > 2", "0 > 2 > 0", "0 > 1"]
    assert read["modal_path"].item() == "0 > 1 > 2"
    assert read["n_modal"].item() == 2
    assert read["on_modal_path"].values.tolist() == [True, True, False, False]
    assert read["fork_step"].values.tolist() == [-1, -1, 30, -1]
    assert read["fork_from"].values.tolist() == [-1, -1, 0, -1]
    assert read["fork_to"].values.tolist() == [-1, -1, 2, -1]
    assert read["modal_state"].values.tolist() == [0, 0, 1, 2, 2]


def test_a_run_that_goes_on_beyond_the_modal_path_forks_there() -> None:
    read = state_paths(table([0, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 0])).isel(model=0)
    assert read["fork_step"].values.tolist() == [-1, -1, 30]


def test_among_equally_frequent_paths_the_one_with_shared_transitions_is_modal() -> None:
    read = state_paths(table([0, 2, 3, 3], [0, 1, 2, 4], [0, 1, 2, 3])).isel(model=0)
    assert read["modal_path"].item() == "0 > 1 > 2 > 3"
    assert read["n_modal"].item() == 1


def test_models_are_read_one_by_one() -> None:
    both = xr.concat([RUNS, RUNS.isel(seed=slice(None, None, -1)).assign_coords(seed=RUNS["seed"])], dim="model")
    both = both.assign_coords(model=["a", "b"])
    read = state_occupancy(both)
    np.testing.assert_array_equal(read["occupancy"].values[1], read["occupancy"].values[0, ::-1])
    assert state_paths(both)["modal_path"].values.tolist() == ["0 > 1 > 2"] * 2


def test_dimensions_may_come_in_any_order_and_states_as_floats() -> None:
    floats = RUNS.astype(float).where(RUNS >= 0).transpose("step", "seed")
    xr.testing.assert_identical(state_occupancy(floats), state_occupancy(RUNS))


@pytest.mark.parametrize(
    ("states", "arguments", "message"),
    [
        (RUNS + 0.5, {}, "whole numbers"),
        (RUNS.rename(seed="run"), {}, "have dimensions"),
        (RUNS.values, {}, "xarray object, got ndarray"),
        (RUNS, {"n_states": 2}, "state 2 is beyond n_states=2"),
        (RUNS * 0 - 1, {}, "no checkpoint has a state"),
        (RUNS.to_dataset(name="value"), {}, "no variable 'state'"),
    ],
)
def test_tables_that_hold_no_states_are_refused(states: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        state_occupancy(states, **arguments)


def test_the_metric_that_moves_at_a_transition_is_named() -> None:
    rng = np.random.default_rng(0)
    value = rng.normal(size=(1, 5, 60, 3))
    value[:, :, 20:, 1] += 10
    value[:, :, 40:, 2] -= 10
    read = transition_effects(fit_training_map(make_cube(value), n_states=3, n_restarts=3))
    assert read["largest_metric"].values[0, 1] == "eval/task1/acc"
    assert read["largest_metric"].values[1, 2] == "eval/task2/acc"
    assert read["largest_metric"].values[1, 1] == ""
    assert read["n_runs"].values.tolist() == [[5, 5, 0], [0, 5, 5], [0, 0, 5]]
    # Ten within-state standard deviations, up and down.
    assert read["effect"].values[0, 1, 1] == pytest.approx(10, rel=0.2)
    assert read["effect"].values[1, 2, 2] == pytest.approx(-10, rel=0.2)
    np.testing.assert_allclose(read["effect"].values, -read["effect"].values.transpose(1, 0, 2))


@pytest.mark.slow
def test_effects_do_not_depend_on_units_but_for_their_sign() -> None:
    rng = np.random.default_rng(0)
    value = rng.normal(size=(1, 5, 40, 2)) + 5 * (np.arange(40) >= 20)[:, None]
    one, other = (
        transition_effects(fit_training_map(make_cube(v), n_states=2, n_restarts=2))["effect"].values
        for v in (value, value * [-1000.0, 0.001])
    )
    np.testing.assert_allclose(other, one * [-1, 1], rtol=1e-6)
