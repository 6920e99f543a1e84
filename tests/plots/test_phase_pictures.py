"""Pictures of phases: shared changes, strips of states, transition graphs."""

from __future__ import annotations

import re

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

import polystab.testing
from polystab import plots
from polystab.analysis.maps.reading import state_transitions
from polystab.analysis.phases.consensus import consensus_change_points
from polystab.errors import SelectionError
from polystab.plots.style import state_inks


@pytest.fixture(scope="module")
def shared() -> xr.Dataset:
    cube = polystab.testing.phase_cube(changes=[20_000, 40_000], n_metrics=2, jump=4.0, rng=0)
    return consensus_change_points(cube, rng=0)


@pytest.fixture(scope="module")
def states() -> xr.Dataset:
    table = np.array(
        [[[0, 0, 1, 1, 2], [0, 1, 1, 2, 2], [0, 0, 0, 2, 1]], [[0, 0, 1, -1, -1], [-1] * 5, [0, 1, 1, 1, 1]]]
    )
    return xr.Dataset(
        {"state": (("model", "seed", "step"), table)},
        coords={"model": ["a", "b"], "seed": [0, 1, 2], "step": [0, 1, 2, 4, 8], "map_state": [0, 1, 2]},
    )


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for ax in figure.axes for text in ax.findobj(match=lambda a: hasattr(a, "get_text"))]


@pytest.mark.slow
def test_every_seed_of_a_shared_change_is_a_dot_at_its_own_step(shared: xr.Dataset) -> None:
    metric = str(shared["metric"].values[0])
    figure = plots.change_points(shared, metrics=[metric])
    drawn = np.concatenate([line.get_xdata() for line in figure.axes[0].lines if line.get_marker() == "."])
    expected = shared["member_step"].sel(metric=metric).values.ravel()
    np.testing.assert_array_equal(np.sort(drawn), np.sort(expected[expected >= 0]))


@pytest.mark.slow
def test_the_axis_of_changes_covers_the_steps_given(shared: xr.Dataset) -> None:
    low, high = plots.change_points(shared, steps=[0, 10, 143_000]).axes[0].get_xlim()
    assert low <= 0
    assert high >= 143_000


def test_no_shared_change_is_said(shared: xr.Dataset) -> None:
    none = shared.isel(change=slice(0, 0)).assign(n_changes=shared["n_changes"] * 0)
    assert "no shared change" in texts(plots.change_points(none))
    assert plots.describe_change_points(none) == "No change is shared by the seeds of a model."


def test_strips_have_a_row_a_decoded_run_and_every_state_in_the_legend(states: xr.Dataset) -> None:
    ax = plots.map_strips(states).axes[0]
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        f"{m} seed {s}" for m, s in ("a0", "a1", "a2", "b0", "b2")
    ]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["0", "1", "2"]


def test_more_runs_than_rows_are_taken_evenly_from_the_models() -> None:
    many = xr.Dataset(
        {"state": (("model", "seed", "step"), np.zeros((3, 30, 4), dtype=int))},
        coords={"model": ["a", "b", "c"], "seed": range(30), "step": [0, 1, 2, 3], "map_state": [0]},
    )
    names = [label.get_text()[0] for label in plots.map_strips(many).axes[0].get_yticklabels()]
    assert len(names) == 40
    assert sorted(names.count(model) for model in "abc") == [13, 13, 14]


def test_the_graph_says_how_many_runs_take_each_way(states: xr.Dataset) -> None:
    graph = state_transitions(states)
    said = texts(plots.transition_graph(graph, model="a"))
    assert "a: 3 runs" in said
    assert said.count("2") >= 2  # two runs go from 0 to 1 and from 1 to 2; and the state 2
    words = plots.describe_transitions(graph, model="a")
    assert "0 to 1 in 2 runs" in words
    assert "2 to 1 in 1 run " in words


def test_a_run_that_never_moves_is_described(states: xr.Dataset) -> None:
    still = states.assign(state=states["state"].where(states["state"] < 0, 0))
    assert plots.describe_transitions(state_transitions(still), model="b") == "b: no run leaves its state."


def test_the_map_in_words_says_when_states_begin(states: xr.Dataset) -> None:
    assert (
        "a: state 0 from step 0 (3 of 3 runs), 1 from step 2 (3 of 3 runs) and 2 from step 4 (3 of 3 runs)."
        in plots.describe_map(states)
    )


def test_unknown_names_are_refused(shared: xr.Dataset, states: xr.Dataset) -> None:
    with pytest.raises(SelectionError, match=re.escape("no metric is called 'x'")):
        plots.change_points(shared, metrics=["x"])
    with pytest.raises(SelectionError, match="no model is called 'x'"):
        plots.map_strips(states, models=["x"])
    with pytest.raises(SelectionError, match="no model is called 'x'"):
        plots.transition_graph(state_transitions(states), model="x")


@pytest.mark.parametrize("n", [1, 2, 8])
def test_states_have_different_colours(n: int) -> None:
    assert len({ink.light for ink in state_inks(n)}) == len({ink.dark for ink in state_inks(n)}) == n


def test_a_model_without_states_is_said_to_have_none(states: xr.Dataset) -> None:
    empty = states.assign(state=states["state"].where(states["model"] != "b", -1))
    assert plots.describe_map(empty).endswith("b: not decoded.")


def test_graphs_of_one_map_are_equally_high_and_hold_every_arc(states: xr.Dataset) -> None:
    graph = state_transitions(states)
    high = [plots.transition_graph(graph, model=model).get_size_inches()[1] for model in ("a", "b")]
    limits = [plots.transition_graph(graph, model=model).axes[0].get_ylim() for model in ("a", "b")]
    assert high[0] == high[1]
    assert limits[0] == limits[1]


def test_the_only_model_is_not_named_in_every_row(shared: xr.Dataset) -> None:
    labels = [label.get_text() for label in plots.change_points(shared).axes[0].get_yticklabels()]
    assert labels == shared["metric"].values.tolist()
