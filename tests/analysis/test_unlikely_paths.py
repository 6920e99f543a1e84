"""Runs against a map of their siblings: known truth, an outside oracle, ranks on noise, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from cubes_of_arrays import make_cube

import polystab as ps
from polystab.analysis import fit_training_map, unlikely_paths
from polystab.errors import AnalysisError


def phases(n_runs: int = 5, n_step: int = 40, *, seed: int = 0) -> np.ndarray:
    """Runs that go through four states in order, each at its own pace: (1, run, step, metric)."""
    rng = np.random.default_rng(seed)
    changes = np.sort(rng.choice(np.arange(4, n_step - 4), size=(n_runs, 3)), axis=1)
    state = (np.arange(n_step)[None, :, None] >= changes[:, None, :]).sum(axis=2)
    return (6.0 * np.eye(4, 3, k=-1)[state] + rng.normal(size=(n_runs, n_step, 3)))[None]


@pytest.mark.slow
def test_the_run_that_goes_wrong_in_the_demo_is_the_most_surprising() -> None:
    found = unlikely_paths(ps.load_cube("demo").sel(model=["toy-8m"]), n_states=4, n_restarts=1)
    assert int(found["seed"][found["surprise"].isel(model=0).values.argmax()]) == 7
    assert float(found["p_rank"].sel(seed=7)[0]) == pytest.approx(0.1)


@pytest.mark.slow
def test_a_run_that_goes_the_way_backwards_is_known_by_its_path() -> None:
    x = phases(6)
    x[0, 2] = x[0, 2, ::-1]
    found = unlikely_paths(make_cube(x), n_states=4, n_restarts=2).isel(model=0)
    assert int(found["path_surprise"].values.argmax()) == 2
    assert int(found["surprise"].values.argmax()) == 2


@pytest.mark.slow
def test_a_run_is_judged_by_a_map_it_has_no_part_in() -> None:
    x = phases()
    found = unlikely_paths(make_cube(x), n_states=3, n_restarts=2, rng=0)
    changed = x.copy()
    changed[0, 1] += 100.0
    again = unlikely_paths(make_cube(changed), n_states=3, n_restarts=2, rng=0)
    assert float(again["surprise"][0, 1]) > 100 * float(found["surprise"][0, 1])
    assert float(again["distance"][0, 1].min()) > 10


@pytest.mark.slow
def test_surprise_is_the_likelihood_of_hmmlearn() -> None:
    from hmmlearn.hmm import GaussianHMM

    cube = make_cube(phases())
    found = unlikely_paths(cube, n_states=3, n_restarts=1, rng=3)
    rng = np.random.default_rng(3)
    fit_training_map(cube, n_states=3, n_restarts=1, rng=rng)  # of all runs, which comes first
    one = fit_training_map(cube.isel(seed=slice(1, None)), n_states=3, n_restarts=1, rng=rng)
    part = one.parameters
    oracle = GaussianHMM(3, "diag")
    oracle.startprob_, oracle.transmat_ = part["start"].values, part["transition"].values
    oracle.means_, oracle.covars_ = part["mean"].values, part["variance"].values
    z = (cube["value"].values[0, 0] - part["centre"].values[0]) / part["spread"].values[0]
    assert float(found["surprise"][0, 0]) == pytest.approx(-oracle.score(z) / len(z))


@pytest.mark.slow
def test_on_equal_runs_each_is_the_most_surprising_as_often_as_the_others() -> None:
    first = [
        int(
            unlikely_paths(make_cube(phases(4, 24, seed=seed)), n_states=3, n_restarts=1)["surprise"][0].values.argmax()
        )
        for seed in range(24)
    ]
    counts = np.bincount(first, minlength=4)
    assert float(((counts - 6) ** 2 / 6).sum()) < 16.3  # chi-square with 3 degrees of freedom, p = 0.001


@pytest.mark.slow
def test_the_same_rng_gives_the_same_bytes() -> None:
    cube = make_cube(phases(4))
    xr.testing.assert_identical(unlikely_paths(cube, n_restarts=1, rng=5), unlikely_paths(cube, n_restarts=1, rng=5))


def test_three_runs_are_not_judged() -> None:
    found = unlikely_paths(make_cube(phases(3)), n_states=2)
    assert np.isnan(found["surprise"]).all()
    assert np.isnan(found["smallest_p_rank"]).all()
    assert (found["state"] == -1).all()


@pytest.mark.slow
def test_copies_are_neither_fitted_nor_judged() -> None:
    x = phases(5)
    found = unlikely_paths(make_cube(np.concatenate([x, x[:, :1]], axis=1)), n_states=3, n_restarts=1)
    assert int(np.isfinite(found["surprise"]).sum()) == 5
    assert float(found["smallest_p_rank"][0]) == pytest.approx(0.2)


@pytest.mark.slow
def test_missing_and_infinite_checkpoints_are_passed_over() -> None:
    x = phases(5)
    x[0, 0, 3:6] = np.nan
    x[0, 1, 7] = np.inf
    found = unlikely_paths(make_cube(x), n_states=3, n_restarts=1)
    assert found["n_checkpoints"][0].values.tolist() == [37, 39, 40, 40, 40]
    assert np.isfinite(found["surprise"]).all()


@pytest.mark.parametrize("wrong", [{"n_states": 0}, {"n_restarts": 0}, {"metrics": ["eval/none/acc"]}])
def test_what_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(AnalysisError):
        unlikely_paths(make_cube(phases(4)), **wrong)  # type: ignore[arg-type]
