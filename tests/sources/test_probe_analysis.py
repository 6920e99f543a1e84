"""Compression, layers and angles, on small cubes whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import linalg

from polystab.analysis.representations.angles import probe_angles, random_subspace_angle, subspace_angles
from polystab.analysis.representations.codelengths import expected_layer, layer_centre, probe_codelengths
from polystab.cube import cube_from_records
from polystab.errors import AnalysisError


def code_cube(steps: tuple[int, ...] = (0, 10), **codes: Any) -> xr.Dataset:
    """One run; codelengths by measure as a list over layers, halved at each later step."""
    rows = [
        ("m", 0, step, f"probe/pos/{measure}@layer{layer}", value / 2**i)
        for i, step in enumerate(steps)
        for measure, values in codes.items()
        for layer, value in enumerate(values)
    ]
    cube = cube_from_records(pd.DataFrame(rows, columns=["model", "seed", "step", "metric", "value"]))
    layers = [int(name.rpartition("@layer")[2]) for name in cube["metric"].values.tolist()]
    return cube.assign_coords(layer=("metric", layers), chance=("metric", np.full(len(layers), 100.0)))


def weight_tree(weights: Any, tasks: list[str]) -> xr.DataTree:
    """A tree with the weights (model, seed, step, layer, class, hidden) of probes."""
    sizes = np.shape(weights)
    coords: dict[str, Any] = {
        "model": [f"m{i}" for i in range(sizes[0])],
        "seed": np.arange(sizes[1]),
        "step": 10 * np.arange(sizes[2]),
        "layer": np.arange(sizes[3]),
        "probe_class": [f"{task}{i}" for i, task in enumerate(tasks)],
        "probe_task": ("probe_class", tasks),
        "hidden": np.arange(sizes[5]),
    }
    dims = ("model", "seed", "step", "layer", "probe_class", "hidden")
    return xr.DataTree.from_dict({"/probes": xr.Dataset({"weights": (dims, weights)}, coords)})


def normal_tree(*sizes: int, classes: int = 3) -> xr.DataTree:
    return weight_tree(np.random.default_rng(0).normal(size=sizes), ["pos"] * classes)


def test_compression_is_against_the_uniform_code() -> None:
    found = probe_codelengths(code_cube(codelength=[50.0, 20.0]))
    assert found["compression"].sel(step=0).values.ravel().tolist() == [2.0, 5.0]
    assert float(found["uniform"].item()) == 100


def test_bits_are_nats_over_log_two() -> None:
    found = probe_codelengths(code_cube(codelength=[np.log(2)]))
    assert float(found["codelength_bits"].sel(step=0).item()) == pytest.approx(1.0)


def test_control_and_start_are_compared_cell_by_cell() -> None:
    found = probe_codelengths(code_cube(codelength=[50.0], control_codelength=[80.0]))
    assert found["control_compression"].values.ravel().tolist() == [1.6, 1.6]
    assert found["start_compression"].values.ravel().tolist() == [1.0, 2.0]


def test_a_cube_without_step_0_has_no_compression_against_the_start() -> None:
    assert np.isnan(probe_codelengths(code_cube((1, 2), codelength=[50.0]))["start_compression"]).all()


def test_another_first_step_can_be_asked_for() -> None:
    found = probe_codelengths(code_cube((1, 2), codelength=[50.0]), first_step=2)
    assert found["start_compression"].values.ravel().tolist() == [0.5, 1.0]


def test_a_first_step_that_is_not_there_is_refused() -> None:
    with pytest.raises(AnalysisError, match="no step 7"):
        probe_codelengths(code_cube(codelength=[50.0]), first_step=7)


def test_the_online_code_is_compared_alike() -> None:
    found = probe_codelengths(code_cube(online_codelength=[50.0]), method="online")
    assert found["compression"].values.ravel().tolist() == [2.0, 4.0]
    assert np.isnan(found["control_compression"]).all()


def test_a_cube_without_probes_says_how_to_get_them() -> None:
    cube = cube_from_records(
        pd.DataFrame({"model": ["m"], "seed": [0], "step": [0], "metric": ["eval/a/acc"], "value": [1.0]})
    )
    with pytest.raises(AnalysisError, match="polystab fill probes"):
        probe_codelengths(cube)


def test_an_unknown_method_gets_a_suggestion() -> None:
    with pytest.raises(AnalysisError, match="Did you mean 'online'"):
        probe_codelengths(code_cube(codelength=[50.0]), method="onlin")


def test_codelengths_that_are_not_finite_are_not_measured() -> None:
    found = probe_codelengths(code_cube(codelength=[np.inf, 20.0]))
    assert np.isnan(found["compression"].sel(layer=0)).all()
    assert found["best_layer"].values.ravel().tolist() == [1, 1]


def test_the_input_is_not_changed() -> None:
    cube = code_cube(codelength=[50.0, 20.0])
    before = cube.copy(deep=True)
    probe_codelengths(cube)
    assert cube.identical(before)


def test_the_layer_centre_is_where_the_savings_balance() -> None:
    assert layer_centre(np.array([0.0, 1.0, 3.0]), np.arange(3)) == pytest.approx(1.75)


def test_layers_that_save_nothing_have_no_centre() -> None:
    assert np.isnan(layer_centre(np.zeros(3), np.arange(3)))


def test_savings_of_any_size_have_the_same_centre() -> None:
    saved = np.array([1.0, 5.0, 2.0])
    assert layer_centre(1e-9 * saved, np.arange(3)) == pytest.approx(layer_centre(saved, np.arange(3)))


def test_the_expected_layer_is_the_one_that_adds_everything() -> None:
    assert expected_layer(np.array([2.0, 2.0, 5.0, 4.0, np.nan]), np.arange(5)) == 2


def test_angles_of_two_known_matrices() -> None:
    rng = np.random.default_rng(0)
    found = subspace_angles(rng.normal(size=(20, 3)), rng.normal(size=(20, 3)))
    np.testing.assert_allclose(found, [58.189, 65.362, 87.340], atol=5e-4)


@pytest.mark.parametrize(("p", "q"), [(3, 3), (2, 5), (5, 2), (1, 20)])
def test_angles_are_those_of_scipy(p: int, q: int) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(4, 20, p)), rng.normal(size=(4, 20, q))
    expected = [np.rad2deg(linalg.subspace_angles(*pair))[::-1] for pair in zip(a, b, strict=True)]
    np.testing.assert_allclose(subspace_angles(a, b), expected, atol=1e-9)


def test_tiny_angles_do_not_drown_in_rounding() -> None:
    rng = np.random.default_rng(2)
    a = rng.normal(size=(20, 3))
    b = a + 1e-10 * rng.normal(size=a.shape)
    np.testing.assert_allclose(subspace_angles(a, b), np.rad2deg(linalg.subspace_angles(a, b))[::-1], rtol=1e-3)


def test_mixing_and_scaling_columns_changes_no_angle() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 10, 3))
    mixed = a @ rng.normal(size=(3, 3)) * 1e-12
    np.testing.assert_allclose(subspace_angles(mixed, b), subspace_angles(a, b), atol=1e-8)


def test_dependent_columns_have_no_angles() -> None:
    a = np.ones((5, 2))
    assert np.isnan(subspace_angles(a, np.eye(5)[:, :2])).all()


def test_columns_that_do_not_fit_are_refused() -> None:
    with pytest.raises(AnalysisError, match="rows must agree"):
        subspace_angles(np.ones((5, 2)), np.ones((6, 2)))


@pytest.mark.slow
@pytest.mark.parametrize(("p", "q", "d"), [(1, 1, 2), (2, 3, 8), (9, 9, 64)])
def test_random_angles_are_the_mean_over_random_pairs(p: int, q: int, d: int) -> None:
    rng = np.random.default_rng(4)
    pairs = subspace_angles(rng.normal(size=(2000, d, p)), rng.normal(size=(2000, d, q)))
    error = pairs.mean(1).std() / np.sqrt(2000) * 4 * np.sqrt(2)
    assert abs(random_subspace_angle(p, q, d, samples=2000, rng=5) - pairs.mean()) < error


def test_random_subspaces_need_room() -> None:
    with pytest.raises(AnalysisError, match="give 1 to 4"):
        random_subspace_angle(5, 2, 4)


def test_angles_to_the_step_before() -> None:
    tree = normal_tree(1, 2, 3, 2, 3, 12)
    found = probe_angles(tree)
    w = tree["probes"]["weights"].values[0, 1, :, 1]
    columns = [(each[:-1] - each[-1:]).T for each in w]
    expected = np.rad2deg(linalg.subspace_angles(columns[1], columns[2])).mean()
    assert float(found["mean_angle"].sel(seed=1, step=20, layer=1).item()) == pytest.approx(expected)
    assert np.isnan(found["mean_angle"].sel(step=0)).all()
    assert found["since"].values.tolist() == [[[-1, 0, 10]] * 2]


def test_a_step_that_was_not_measured_is_passed_over() -> None:
    weights = np.random.default_rng(0).normal(size=(1, 1, 3, 1, 3, 12))
    weights[:, :, 1] = np.nan
    found = probe_angles(weight_tree(weights, ["pos"] * 3))
    assert found["since"].values.tolist() == [[[-1, -1, 0]]]
    assert np.isfinite(found["mean_angle"].sel(step=20)).all()


def test_random_weights_of_two_seeds_lie_at_the_expected_angle() -> None:
    found = probe_angles(normal_tree(1, 12, 4, 2, 5, 40, classes=5), between="seeds")
    assert found["mean_angle"].sizes["pair"] == 66
    assert abs(float(found["mean_angle"].mean()) - float(found["expected"].item())) < 0.5


def test_what_all_classes_share_does_not_count_after_centring() -> None:
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(1, 2, 1, 1, 3, 12))
    shifted = weights + rng.normal(size=(1, 2, 1, 1, 1, 12))
    first, second = (probe_angles(weight_tree(w, ["pos"] * 3), between="seeds") for w in (weights, shifted))
    np.testing.assert_allclose(first["mean_angle"], second["mean_angle"], atol=1e-8)
    assert first["dimensions"].item() == 2


def test_without_centring_the_weights_are_taken_as_they_are() -> None:
    tree = normal_tree(1, 2, 1, 1, 3, 12)
    a, b = tree["probes"]["weights"].values[0, :, 0, 0]
    expected = np.rad2deg(linalg.subspace_angles(a.T, b.T))
    found = probe_angles(tree, between="seeds", centred=False)
    assert found["mean_angle"].item() == pytest.approx(expected.mean())
    assert found["max_angle"].item() == pytest.approx(expected.max())
    assert found["grassmann"].item() == pytest.approx(np.sqrt((np.deg2rad(expected) ** 2).sum()))
    assert found["chordal"].item() == pytest.approx(np.sqrt((np.sin(np.deg2rad(expected)) ** 2).sum()))


def test_each_task_has_its_own_subspace() -> None:
    weights = np.random.default_rng(0).normal(size=(1, 2, 1, 1, 5, 12))
    both = probe_angles(weight_tree(weights, ["a", "a", "b", "b", "b"]), between="seeds")
    alone = probe_angles(weight_tree(weights[..., 2:, :], ["b"] * 3), between="seeds")
    assert both["dimensions"].values.tolist() == [1, 2]
    np.testing.assert_allclose(both["mean_angle"].sel(task="b"), alone["mean_angle"].sel(task="b"))


def test_narrow_models_are_compared_in_their_own_width() -> None:
    weights = np.random.default_rng(0).normal(size=(2, 2, 1, 1, 3, 12))
    weights[0, ..., 6:] = np.nan
    found = probe_angles(weight_tree(weights, ["pos"] * 3), between="seeds")
    alone = probe_angles(weight_tree(weights[:1, ..., :6], ["pos"] * 3), between="seeds")
    np.testing.assert_allclose(found["mean_angle"].sel(model="m0"), alone["mean_angle"].sel(model="m0"))
    assert found["expected"].sel(model="m0").item() < found["expected"].sel(model="m1").item()


def test_one_seed_has_no_pairs() -> None:
    with pytest.raises(AnalysisError, match="two seeds"):
        probe_angles(normal_tree(1, 1, 2, 1, 3, 12), between="seeds")


def test_a_cube_without_weights_says_how_to_keep_them() -> None:
    with pytest.raises(AnalysisError, match="keep_weights=true"):
        probe_angles(xr.DataTree(code_cube(codelength=[1.0])))


def test_the_same_rng_gives_the_same_expectation() -> None:
    tree = normal_tree(1, 2, 1, 1, 3, 12)
    assert probe_angles(tree, rng=3, between="seeds").identical(probe_angles(tree, rng=3, between="seeds"))
