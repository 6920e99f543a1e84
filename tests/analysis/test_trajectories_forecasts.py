"""Forecasts of final values: what each method knows, how often its intervals hold, and no peeking."""

from __future__ import annotations

import numpy as np
import pytest
import statsmodels.api as sm
import xarray as xr
from cubes_of_arrays import make_cube

from polystab.analysis.trajectories import forecast_final
from polystab.analysis.trajectories.forecasts import PREDICTORS
from polystab.errors import AnalysisError

N = 20


def walks(runs: int, metrics: int, rng: int = 0) -> np.ndarray:
    return np.random.default_rng(rng).standard_normal((1, runs, N, metrics)).cumsum(axis=2)


def offsets(runs: int, metrics: int, rng: int = 0) -> np.ndarray:
    """Runs that keep their distance, and rise together."""
    draw = np.random.default_rng(rng)
    own, noise = draw.standard_normal((1, runs, 1, metrics)), draw.standard_normal((1, runs, N, metrics))
    return 3 * own + 0.3 * noise + np.linspace(0, 9, N)[:, None]


def forecast(value: np.ndarray, at: float = 0.5, **options: float) -> xr.Dataset:
    return forecast_final(make_cube(value), at=at, **options).isel(at=0)


# --- oracles -------------------------------------------------------------------------------------------------------


def test_the_regression_is_that_of_statsmodels() -> None:
    value = walks(7, 1)
    found = forecast(value, level=0.9).sel(predictor="regression").squeeze()
    now, final = value[0, :, 9, 0], value[0, :, -1, 0]  # step 9,000 is the last up to half of 19,000
    fit = sm.OLS(final[1:], sm.add_constant(now[1:])).fit()
    row = fit.get_prediction([1, now[0]]).summary_frame(alpha=0.1)
    ours = [float(found[name][0]) for name in ("prediction", "lower", "upper")]
    assert ours == pytest.approx([row[name].item() for name in ("mean", "obs_ci_lower", "obs_ci_upper")])


def test_baselines_and_drift_are_what_they_say() -> None:
    value = walks(5, 1)
    found = forecast(value)["prediction"].squeeze()
    now, final = value[0, :, 9, 0], value[0, :, -1, 0]
    assert float(found.sel(seed=2, predictor="last_value")) == now[2]
    others = [0, 1, 3, 4]
    assert float(found.sel(seed=2, predictor="siblings")) == pytest.approx(np.median(final[others]))
    assert float(found.sel(seed=2, predictor="drift")) == pytest.approx(now[2] + np.mean((final - now)[others]))


def test_scores_are_those_of_the_predictions() -> None:
    value = walks(6, 2)
    found = forecast(value)
    off = found["prediction"] - found["final"]
    np.testing.assert_allclose(found["error"], np.sqrt((off**2).mean("seed")))
    share = found["error"] ** 2 / found["error"].sel(predictor="siblings") ** 2
    np.testing.assert_allclose(found["skill_siblings"], 1 - share)
    inside = (found["lower"] <= found["final"]) & (found["final"] <= found["upper"])
    drift = {"predictor": "drift"}
    np.testing.assert_allclose(found["coverage"].sel(drift), inside.mean("seed").sel(drift))


# --- known truth ---------------------------------------------------------------------------------------------------


def test_runs_that_keep_their_distance_are_told_early() -> None:
    found = forecast(offsets(10, 40), at=0.25)
    assert float(found["skill_siblings"].sel(predictor="drift").median()) > 0.9
    assert float(found["skill_last"].sel(predictor="drift").median()) > 0.9
    assert float((found["p"].sel(predictor="drift") <= 0.05).mean()) > 0.9


def test_runs_that_forget_where_they_were_are_not() -> None:
    noise = np.random.default_rng(1).standard_normal((1, 10, N, 60))
    found = forecast(noise)
    assert float(found["skill_siblings"].sel(predictor="regression").median()) < 0
    assert float((found["p"].sel(predictor=["drift", "regression"]) <= 0.05).mean()) < 0.12


def test_a_decay_is_told_from_its_own_beginning() -> None:
    step = np.arange(40)
    own = np.random.default_rng(2).normal(2, 0.5, (1, 1, 1, 30))
    value = own * (1 + np.exp(-step[:, None] / 5)) + 0.005 * np.random.default_rng(3).standard_normal((1, 1, 40, 30))
    found = forecast(value, at=0.6).sel(predictor="curve")
    np.testing.assert_allclose(found["prediction"], found["final"], atol=0.06)
    assert float(found["coverage"].mean()) >= 0.8


@pytest.mark.parametrize("runs", [3, 5, 10])
@pytest.mark.parametrize("made", [walks, offsets])
def test_nine_of_ten_final_values_are_in_the_intervals(made: object, runs: int) -> None:
    found = forecast(made(runs, 400, rng=4), level=0.9)  # type: ignore[operator]
    methods = ["siblings", "drift"] + (["regression"] if runs >= 5 else [])
    coverage = found["coverage"].sel(predictor=methods).mean(("model", "metric"))
    np.testing.assert_allclose(coverage, 0.9, atol=0.03)


# --- no peeking ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("predictor", PREDICTORS)
def test_what_comes_after_the_checkpoint_does_not_change_a_prediction(predictor: str) -> None:
    value = walks(6, 1) if predictor != "curve" else np.repeat(walks(6, 1), 2, axis=2) + 0.1 * walks(6, 1)[:, :, :1]
    value = value + 0.01 * np.random.default_rng(5).standard_normal(value.shape)
    half = value.shape[2] // 2
    other = value.copy()
    other[0, 3, half + 1 :] += 100
    one, two = (forecast(v).sel(seed=3, predictor=predictor) for v in (value, other))
    assert not np.isnan(one["prediction"]).any()
    np.testing.assert_allclose(two["prediction"], one["prediction"], rtol=1e-9)


def test_an_unfinished_run_is_predicted_from_the_others() -> None:
    value = offsets(8, 1)
    unfinished = value.copy()
    unfinished[0, 0, 12:] = np.nan
    found = forecast(unfinished).sel(seed=0)
    assert np.isnan(found["final"]).all()
    true = value[0, 0, -1, 0]
    drift = found.sel(predictor="drift")
    assert float(drift["lower"].squeeze()) < true < float(drift["upper"].squeeze())
    assert int(forecast(unfinished)["n"].sel(predictor="drift").squeeze()) == 7


# --- what cannot be said -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("runs", "methods"),
    [
        (1, {"last_value"}),
        (2, {"last_value", "siblings", "drift"}),
        (5, {"last_value", "siblings", "drift", "regression"}),
    ],
)
def test_methods_that_have_too_few_runs_say_nothing(runs: int, methods: set[str]) -> None:
    found = forecast(walks(runs, 1))["prediction"].squeeze("metric")
    assert {str(name) for name in found["predictor"].values if not np.isnan(found.sel(predictor=name)).any()} == methods


def test_two_runs_have_predictions_without_intervals() -> None:
    assert np.isnan(forecast(walks(2, 1))["lower"]).all()


def test_scale_and_offset_change_units_only() -> None:
    value = walks(6, 3)
    plain, other = forecast(value), forecast(2.0**-30 * value + 8)
    np.testing.assert_allclose((other["prediction"] - 8) * 2.0**30, plain["prediction"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(other["skill_siblings"], plain["skill_siblings"], rtol=1e-4, atol=1e-5)


def test_a_diverged_run_and_a_copy_are_not_siblings() -> None:
    value = offsets(7, 1)
    value[0, 5] = np.inf
    value[0, 6] = value[0, 0]
    found = forecast(value)
    assert found["n"].sel(predictor="drift").values.tolist() == [[5]]
    assert np.isnan(found["prediction"].sel(seed=[5, 6])).all()


@pytest.mark.parametrize("at", [0.0, 1.0, [], "x", [0.5, 0.25]])
def test_impossible_shares_are_refused(at: object) -> None:
    with pytest.raises(AnalysisError, match="at is"):
        forecast_final(make_cube(walks(3, 1)), at=at)  # type: ignore[arg-type]
