"""Scores from occupancy: statsmodels as oracle, what chance gives, influence, bad input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

from polystab.analysis.maps.performance import performance_from_occupancy
from polystab.analysis.maps.reading import state_occupancy
from polystab.errors import AnalysisError


def made(n: int = 12, k: int = 3, seed: int = 0, n_step: int = 40) -> tuple[xr.DataArray, xr.DataArray]:
    rng = np.random.default_rng(seed)
    seeds = np.arange(n)
    states = xr.DataArray(
        np.sort(rng.integers(k, size=(n, n_step))),
        dims=("seed", "step"),
        coords={"seed": seeds, "step": np.arange(n_step)},
    )
    return states, xr.DataArray(rng.normal(size=n), dims="seed", coords={"seed": seeds})


def regression(*made: Any, **arguments: Any) -> xr.Dataset:
    return performance_from_occupancy(*made, n_permutations=199, **arguments)


def test_coefficients_and_r_squared_are_those_of_the_papers_ols() -> None:
    import statsmodels.api as sm

    states, score = made()
    occupancy = state_occupancy(states)["occupancy"].values[0]
    theirs = sm.OLS(score.values, occupancy).fit()
    ours = regression(states, score)
    np.testing.assert_allclose(ours["coefficient"].values, theirs.params, rtol=1e-8)
    assert ours["r2"].item() == pytest.approx(theirs.rsquared)
    np.testing.assert_allclose(ours["fitted"].values, theirs.fittedvalues, rtol=1e-8)


def test_q_squared_is_the_press_of_the_papers_ols() -> None:
    import statsmodels.api as sm

    states, score = made()
    occupancy = state_occupancy(states)["occupancy"].values[0]
    press = np.sum(sm.OLS(score.values, occupancy).fit().get_influence().resid_press ** 2)
    total = np.sum((score.values - score.values.mean()) ** 2)
    assert regression(states, score)["q2"].item() == pytest.approx(1 - press / total)


def test_scores_made_from_occupancy_are_predicted_for_runs_left_out() -> None:
    states, _ = made(k=4)
    score = state_occupancy(states)["occupancy"].isel(model=0) @ xr.DataArray([1.0, 2.0, -1.0, 5.0], dims="map_state")
    result = regression(states, score)
    assert result["r2"].item() == pytest.approx(1)
    assert result["q2"].item() == pytest.approx(1)
    np.testing.assert_allclose(result["coefficient"].values, [1, 2, -1, 5])
    assert result["p_value"].item() == 1 / 200


@pytest.mark.slow
@pytest.mark.parametrize(("n", "k"), [(10, 5), (12, 3)])
def test_noise_has_the_expected_r_squared_and_its_p_values_are_uniform(n: int, k: int) -> None:
    results = [regression(*made(n, k, seed), rng=seed) for seed in range(200)]
    r2 = np.array([result["r2"].item() for result in results])
    p = np.array([result["p_value"].item() for result in results])
    assert results[0]["expected_r2"].item() == (k - 1) / (n - 1)
    assert abs(r2.mean() - (k - 1) / (n - 1)) < 3 * r2.std() / np.sqrt(200)
    # 5 % of 200 is 10 with a standard deviation of 3.
    assert 2 <= np.sum(p <= 0.05) <= 19
    assert np.mean([result["q2"].item() < 0 for result in results]) > 0.5


def test_permuting_runs_and_changing_units_changes_nothing() -> None:
    states, score = made()
    order = np.random.default_rng(1).permutation(12)
    one = regression(states, score)
    other = regression(states.isel(seed=order), 5 - 100 * score)
    for name in ("r2", "q2", "expected_r2"):
        assert one[name].item() == pytest.approx(other[name].item(), abs=1e-9)


def test_influence_is_the_regression_without_those_runs() -> None:
    states, score = made()
    result = regression(states, score)
    assert regression(states.drop_sel(seed=[4]), score)["r2"].item() == pytest.approx(result["r2_without"].values[4, 4])
    without = regression(states.drop_sel(seed=[2, 7]), score)["r2"].item()
    assert without == pytest.approx(result["r2_without"].values[2, 7])
    off = result["r2_without"].values[~np.eye(12, dtype=bool)]
    assert result["smallest_without_two"].item() == off.min()


def test_a_state_that_one_run_alone_visits_leaves_it_undetermined() -> None:
    states, score = made(k=2)
    states[3, -5:] = 2
    result = regression(states, score)
    assert result["seed"].values[~result["determined"].values].tolist() == [3]
    assert result["rank"].item() == 3


def test_a_state_that_nobody_visits_changes_nothing() -> None:
    states, score = made()
    assert regression(states, score, n_states=5)["r2"].item() == pytest.approx(regression(states, score)["r2"].item())


def test_runs_without_a_score_are_left_out() -> None:
    states, score = made()
    holes = score.copy()
    holes[[1, 5]] = [np.nan, np.inf]
    result = regression(states, holes)
    assert result["n_runs"].item() == 10
    assert np.isnan(result["fitted"].values[[1, 5]]).all()
    assert result["r2"].item() == pytest.approx(regression(states.drop_sel(seed=[1, 5]), score)["r2"].item())


def test_copies_that_the_decoding_marks_do_not_count() -> None:
    states, score = made()
    role = xr.DataArray(
        [["fitted"] * 11 + ["copy"]], dims=("model", "seed"), coords={"model": ["m"], "seed": score["seed"]}
    )
    decoded = xr.Dataset({"state": states.expand_dims(model=["m"]), "role": role})
    assert regression(decoded, score)["n_runs"].values.tolist() == [11]


def test_models_are_regressed_one_by_one() -> None:
    (a, score_a), (b, score_b) = made(seed=0), made(seed=1)
    states = xr.concat([a, b], dim="model").assign_coords(model=["a", "b"])
    score = xr.concat([score_a, score_b], dim="model").assign_coords(model=["a", "b"])
    result = regression(states, score)
    assert result["r2"].values.tolist() == [regression(a, score_a)["r2"].item(), regression(b, score_b)["r2"].item()]


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_runs_give_no_number(n: int) -> None:
    result = regression(*made(n))
    assert np.isnan(result["r2"].item())
    assert result["without_two"].values.tolist() == [-1, -1]


def test_equal_scores_give_no_number() -> None:
    states, score = made()
    assert np.isnan(regression(states, score * 0 + 0.3)["r2"].item())


def test_the_same_rng_gives_the_same_p_value() -> None:
    states, score = made()
    assert regression(states, score, rng=3)["p_value"].item() == regression(states, score, rng=3)["p_value"].item()


@pytest.mark.parametrize(
    ("score", "message"),
    [
        (made()[1].expand_dims(step=[0]), "score has dimensions"),
        (made()[1].drop_vars("seed"), "score has no labels along 'seed'"),
        (made()[1].assign_coords(seed=[0] * 12), "more than once"),
        (made()[1].assign_coords(seed=np.arange(100, 112)), "no run has both"),
        (np.zeros(12), "score has dimensions"),
    ],
)
def test_scores_that_belong_to_no_run_are_refused(score: Any, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        regression(made()[0], score)
