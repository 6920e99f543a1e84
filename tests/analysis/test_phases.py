"""Change points of a cube: known steps recovered, brackets, gaps, reasons, and the rate of false alarms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from cubes_of_arrays import make_cube

import polystab as ps
from polystab.analysis.phases.curves import REASONS, change_points, noise_scale
from polystab.errors import AnalysisError
from polystab.testing import CHECKPOINT_STEPS, EVAL_STEPS, phase_cube

Floats = npt.NDArray[np.float64]
N = 40
STEPS = range(0, 32_000, 1000)


def step_at(place: int, *, jump: float = 8.0, n: int = N, rng: int = 0) -> Floats:
    """White noise of SD 1 that jumps at a place."""
    values = np.random.default_rng(rng).standard_normal(n)
    values[place:] += jump
    return values


def cube_of(*curves: Floats, **arguments: Any) -> xr.Dataset:
    """A cube with one model and one metric, and a seed for each curve."""
    return make_cube(np.stack(curves)[None, :, :, None], **arguments)


def found(cube: xr.Dataset, **arguments: Any) -> xr.Dataset:
    """The result for the first model and metric."""
    return change_points(cube, rng=0, **arguments).isel(model=0).squeeze("metric")


def reason_of(cube: xr.Dataset, **arguments: Any) -> list[str]:
    return [REASONS[code] for code in found(cube, **arguments)["reason"].values]


# Known truth.


def test_a_jump_is_bracketed_by_its_two_checkpoints() -> None:
    result = found(cube_of(step_at(20))).isel(seed=0)
    assert result["n_changes"] == 1
    assert (result["before"].item(), result["step"].item()) == (19_000, 20_000)
    assert result["lower"] <= 20_000 <= result["upper"]
    assert result["size"].item() == pytest.approx(8, abs=1)
    assert 0 <= result["p"].item() <= 0.05


def test_each_seed_has_its_own_steps() -> None:
    changes = [[15_000], [30_000], [15_000, 40_000]]
    result = found(phase_cube(changes=changes, n_seeds=3, n_metrics=1, jump=10.0, rng=1))
    steps = [[step for step in row if step >= 0] for row in result["step"].values.tolist()]
    assert steps == changes
    assert result["n_changes"].values.tolist() == [1, 1, 2]


@pytest.mark.parametrize("grid", [CHECKPOINT_STEPS, EVAL_STEPS])
def test_steps_of_an_irregular_grid_are_its_own(grid: tuple[int, ...]) -> None:
    cube = phase_cube(changes=[512], steps=grid, n_seeds=2, n_metrics=2, jump=12.0, rng=0)
    result = change_points(cube, rng=0)
    assert (result["step"].values == 512).all()
    assert (result["before"].values == 256).all()


@pytest.mark.slow
@pytest.mark.parametrize("cost", ["linear", "continuous"])
def test_a_bend_is_found_by_lines(cost: str) -> None:
    cube = phase_cube(changes=[30_000], slope=2.0, jump=0.0, n_seeds=2, n_metrics=1, rng=0)
    result = found(cube, cost=cost)
    assert (result["n_changes"] == 1).all()
    assert (np.abs(result["step"] - 30_000) <= 2000).all()


@pytest.mark.slow
def test_lines_are_straight_over_the_chosen_x() -> None:
    steps = np.array(CHECKPOINT_STEPS)
    rng = np.random.default_rng(0)
    curves = [5 * np.log1p(steps) + rng.standard_normal(len(steps)) for _ in range(4)]
    cube = cube_of(*curves, steps=steps.tolist())
    assert (found(cube, cost="linear", x="log_step")["n_changes"] == 0).all()
    assert (found(cube, cost="linear", x="step")["n_changes"] > 0).all()


# Gaps and bad values.


def test_missing_checkpoints_widen_the_bracket() -> None:
    curve = step_at(20)
    curve[[18, 19, 20]] = np.nan
    result = found(cube_of(curve)).isel(seed=0)
    assert (result["before"].item(), result["step"].item()) == (17_000, 21_000)
    assert result["n_steps"] == N - 3
    assert result["measured"].values.tolist() == (~np.isnan(curve)).tolist()


def test_a_curve_with_gaps_is_as_if_the_checkpoints_were_not_there() -> None:
    curve, rng = step_at(20, rng=4), np.random.default_rng(0)
    keep = np.sort(rng.choice(N, 30, replace=False))
    gaps = np.full(N, np.nan)
    gaps[keep] = curve[keep]
    one = found(cube_of(gaps)).isel(seed=0)
    other = found(cube_of(curve[keep], steps=(keep * 1000).tolist())).isel(seed=0)
    for name in ("step", "before", "lower", "upper", "size", "p"):
        assert np.array_equal(one[name].values, other[name].values)


@pytest.mark.slow
def test_seeds_with_different_gaps_do_not_disturb_each_other() -> None:
    curves = [step_at(20, rng=i) for i in range(4)]
    curves[1][3] = curves[2][30:] = np.nan
    together = found(cube_of(*curves))
    for seed, curve in enumerate(curves):
        alone = found(cube_of(curve)).isel(seed=0)
        mine = together.isel(seed=seed, change=slice(alone.sizes["change"]))
        assert mine["step"].values.tolist() == alone["step"].values.tolist()


def test_infinite_values_are_left_out_and_counted() -> None:
    curve = step_at(20)
    curve[[5, 35]] = np.inf, -np.inf
    result = found(cube_of(curve)).isel(seed=0)
    assert result["step"].item() == 20_000
    assert (result["n_nonfinite"], result["n_steps"]) == (2, N - 2)
    assert not result["measured"].values[[5, 35]].any()


def test_a_glitch_is_no_phase() -> None:
    curve = step_at(20)
    curve[30] += 40
    result = found(cube_of(curve)).isel(seed=0)
    assert result["step"].values.tolist() == [20_000]
    assert np.flatnonzero(result["glitch"].values).tolist() == [30]


def test_reasons_say_why_none_was_looked_for() -> None:
    curve = step_at(20)
    nothing, two, flat = np.full(N, np.nan), np.full(N, np.nan), np.full(N, 0.25)
    two[[3, 9]] = 0.0, 1.0
    cube = cube_of(curve, nothing, two, flat, curve.copy())
    assert reason_of(cube) == ["looked_at", "not_measured", "too_few_points", "constant", "copy"]
    result = found(cube)
    assert result["n_changes"].values.tolist() == [1, -1, -1, -1, -1]
    assert (result["step"].values[1:] == -1).all()
    assert np.isnan(result["p"].values[1:]).all()
    assert "constant" in result["reason"].attrs["flag_meanings"]


@pytest.mark.slow
def test_joint_reasons() -> None:
    rng = np.random.default_rng(0)
    value = rng.standard_normal((1, 4, N, 2))
    value[0, 1] = np.nan
    value[0, 2] = 1.0
    value[0, 3, ::2, 0] = value[0, 3, 1::2, 1] = np.nan  # never both at once
    codes = change_points(make_cube(value), joint=True, rng=0)["reason"].values.ravel()
    assert [REASONS[code] for code in codes] == ["looked_at", "not_measured", "constant", "constant"]


@pytest.mark.slow
def test_ties_are_no_changes() -> None:
    rng = np.random.default_rng(0)
    curves = [np.round(0.25 + 0.02 * rng.standard_normal(N), 2) for _ in range(40)]
    assert (found(cube_of(*curves))["n_changes"] > 0).mean() <= 0.2  # 40 curves of 5 %


def test_an_exact_step_between_two_values_is_found() -> None:
    curve = np.repeat([0.25, 0.75], N // 2)
    assert found(cube_of(curve))["step"].values.tolist() == [[20_000]]


# Calibration.


@pytest.mark.slow
@pytest.mark.parametrize("steps", [CHECKPOINT_STEPS, EVAL_STEPS], ids=["154", "27"])
@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_curves_of_noise_have_changes_as_often_as_stated(steps: tuple[int, ...], correlation: float) -> None:
    cube = phase_cube(changes=[], steps=steps, n_seeds=20, n_metrics=40, correlation=correlation, rng=2)
    result = change_points(cube, rng=0)
    share = (result["n_changes"] > 0).mean().item()
    # 800 curves: standard error 0.8 points.
    assert 0.03 <= share <= 0.07
    assert result.attrs["n_expected_by_chance"] == pytest.approx(40)
    assert result.attrs["n_curves_with_changes"] == round(share * 800)


@pytest.mark.slow
def test_a_smaller_false_alarm_finds_no_more() -> None:
    cube = phase_cube(changes=[30_000], jump=1.5, n_seeds=10, n_metrics=3, rng=3)
    some, fewer = (change_points(cube, false_alarm=rate, rng=0)["n_changes"] for rate in (0.1, 0.001))
    assert (fewer <= some).all()
    assert (fewer < some).any()


# Joint.


@pytest.mark.slow
def test_jointly_small_changes_are_seen() -> None:
    cube = phase_cube(changes=[16_000], steps=STEPS, jump=1.5, n_seeds=3, n_metrics=6, rng=0)
    joint = change_points(cube, joint=True, rng=0)
    assert joint["step"].dims == ("model", "seed", "change")
    assert (joint["n_changes"] == 1).all()
    assert (np.abs(joint["step"] - 16_000) <= 2000).all()
    assert (change_points(cube, rng=0)["n_changes"] < 1).any()


@pytest.mark.slow
def test_units_do_not_matter_jointly() -> None:
    cube = phase_cube(changes=[16_000], steps=STEPS, jump=3.0, n_seeds=2, n_metrics=4, rng=0)
    factor = xr.DataArray([1.0, 1e-9, 1e6, 3.0], dims="metric")
    scaled = cube.assign(value=cube["value"] * factor + 5)
    one, other = (change_points(c, joint=True, rng=0) for c in (cube, scaled))
    assert one["step"].values.tolist() == other["step"].values.tolist()
    np.testing.assert_allclose(other["size"], one["size"] * factor, rtol=1e-5)


@pytest.mark.slow
def test_runs_of_noise_have_joint_changes_as_often_as_stated() -> None:
    cube = phase_cube(changes=[], steps=EVAL_STEPS, n_seeds=300, n_metrics=3, correlation=0.3, rng=5)
    share = (change_points(cube, joint=True, rng=0)["n_changes"] > 0).mean().item()
    # 300 runs: standard error 1.3 points, and 0.7 for the simulated criterion.
    assert 0.025 <= share <= 0.08


@pytest.mark.slow
@pytest.mark.parametrize("penalty", ["bic", 20.0])
def test_a_penalty_does_for_joint_changes_too(penalty: float | str) -> None:
    cube = phase_cube(changes=[16_000], steps=STEPS, jump=6.0, n_seeds=2, n_metrics=3, rng=0)
    result = change_points(cube, joint=True, penalty=penalty, rng=0)
    assert (result["step"] == 16_000).any("change").all()
    assert "false_alarm" not in result.attrs


@pytest.mark.slow
def test_sizes_of_a_joint_change_are_in_units_of_each_metric() -> None:
    value = np.stack([step_at(20, jump=20), step_at(20, jump=-10, rng=1)], axis=-1)[None, None]
    result = change_points(make_cube(value), joint=True, rng=0)
    np.testing.assert_allclose(result["size"].values.ravel(), [20, -10], atol=1)


@pytest.mark.slow
def test_constant_and_unmeasured_metrics_take_no_part() -> None:
    value = np.stack([step_at(20), np.full(N, 3.0), np.full(N, np.nan)], axis=-1)[None, None]
    result = change_points(make_cube(value), joint=True, rng=0)
    assert result["used"].values.ravel().tolist() == [True, False, False]
    assert result["step"].values.ravel().tolist() == [20_000]
    assert np.isnan(result["size"].values[0, 0, 1:]).all()


@pytest.mark.slow
def test_jointly_only_complete_checkpoints_count() -> None:
    value = np.stack([step_at(20), step_at(20, rng=1)], axis=-1)[None, None]
    value[0, 0, 19, 0] = np.nan
    value[0, 0, 3, 1] = np.inf
    result = change_points(make_cube(value), joint=True, rng=0).squeeze()
    assert (result["before"], result["step"], result["n_steps"]) == (18_000, 20_000, N - 2)
    assert result["n_nonfinite"] == 1


def test_noise_scale_is_the_sd_of_white_noise_whatever_the_level_does() -> None:
    curves = np.stack([step_at(200, jump=100, n=2000, rng=i) for i in range(5)])
    assert noise_scale(3 * curves) == pytest.approx(np.full(5, 3), rel=0.08)
    curves[:, ::3] = np.nan
    assert noise_scale(curves) == pytest.approx(np.ones(5), rel=0.08)


# Algebra.


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    changes = [[10_000], [17_000], [], [10_000, 22_000]]
    return phase_cube(changes=changes, steps=STEPS, n_seeds=4, n_metrics=2, jump=4.0, rng=7)


def test_scale_and_offset_change_sizes_only(cube: xr.Dataset) -> None:
    one, other = change_points(cube, rng=0), change_points(cube.assign(value=-4e-6 * cube["value"] + 1), rng=0)
    for name in ("step", "before", "lower", "upper", "n_changes"):
        assert one[name].values.tolist() == other[name].values.tolist()
    np.testing.assert_allclose(other["size"], -4e-6 * one["size"], rtol=1e-6)


def test_seeds_and_metrics_do_not_depend_on_each_other(cube: xr.Dataset) -> None:
    part = change_points(cube.isel(seed=[3, 1], metric=[1]), rng=0)
    whole = change_points(cube, rng=0).isel(seed=[3, 1], metric=[1], change=slice(part.sizes["change"]))
    assert part["step"].values.tolist() == whole["step"].values.tolist()


def test_metrics_are_chosen_by_name(cube: xr.Dataset) -> None:
    name = str(cube["metric"].values[1])
    xr.testing.assert_identical(
        change_points(cube, metrics=name, rng=0), change_points(cube.sel(metric=[name]), metrics=[name], rng=0)
    )


def test_the_input_is_not_changed_and_rng_decides(cube: xr.Dataset) -> None:
    before = cube.copy(deep=True)
    xr.testing.assert_identical(change_points(cube, rng=5), change_points(cube, rng=5))
    xr.testing.assert_identical(cube, before)


@pytest.mark.slow
def test_a_result_can_be_written(cube: xr.Dataset, tmp_path: Path) -> None:
    result = change_points(cube, rng=0)
    result.to_netcdf(tmp_path / "found.nc")
    with xr.open_dataset(tmp_path / "found.nc") as again:
        assert again["step"].values.tolist() == result["step"].values.tolist()


@pytest.mark.slow
def test_every_variable_says_what_it_is(cube: xr.Dataset) -> None:
    for joint in (False, True):
        result = change_points(cube, joint=joint, rng=0)
        assert all(result[name].attrs["long_name"] for name in result.data_vars)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": "eval/synthetic_1/scor"}, "no metric 'eval/synthetic_1/scor'. Did you mean"),
        ({"metrics": []}, "no metrics were asked for"),
        ({"x": "steps"}, "no x 'steps'. Did you mean 'step'"),
        ({"cost": "l3"}, "l3"),
        ({"false_alarm": 0.0}, "false_alarm"),
        ({"min_size": 0}, "min_size"),
    ],
)
def test_bad_arguments_are_refused(cube: xr.Dataset, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        change_points(cube, **arguments)


# A real cube.


@pytest.mark.slow
def test_induction_in_nano_comes_at_once_and_late() -> None:
    nano = ps.load_cube("nano").sel(metric=["eval/nano_induction/acc"])
    result = change_points(nano, rng=0).squeeze("metric")
    largest = np.abs(result["size"]).fillna(0).argmax("change")
    steps = result["step"].isel(change=largest)
    learnt = nano["value"].squeeze("metric").isel(step=-1) > 0.9
    assert learnt.mean() > 0.9
    assert (steps.where(learnt, 400) >= 256).all()
    assert float(steps.where(learnt).median()) in (350, 400, 450)
