"""Synthetic cubes: valid, reproducible, and true to what they say they are."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import polystab as ps
from polystab.errors import PolystabError, RecipeError
from polystab.testing import (
    CHECKPOINT_STEPS,
    EVAL_STEPS,
    Event,
    Recipe,
    demo_cube,
    phase_cube,
    synthetic_cube,
    variance_cube,
)

Maker = Callable[..., xr.Dataset]
MAKERS: list[Maker] = [synthetic_cube, variance_cube, phase_cube]

LOSS = "loss/validation/cross_entropy"
NORM = "weight/all/l2_norm"
QUIET = {"sd_seed": 0.0, "sd_checkpoint": 0.0, "n_items": 0}


# All of them


@pytest.mark.parametrize("maker", MAKERS)
def test_a_synthetic_cube_is_valid(maker: Maker) -> None:
    assert ps.validate_cube(maker(rng=0)) == []


@pytest.mark.parametrize("maker", MAKERS)
def test_one_model_and_one_seed_are_enough(maker: Maker) -> None:
    cube = maker(n_models=1, n_seeds=1, rng=0)
    assert ps.validate_cube(cube) == []
    assert (cube.sizes["model"], cube.sizes["seed"]) == (1, 1)


@pytest.mark.parametrize("maker", MAKERS)
def test_the_same_rng_gives_the_same_cube(maker: Maker) -> None:
    assert maker(rng=5).identical(maker(rng=5))


@pytest.mark.slow
@pytest.mark.parametrize("maker", MAKERS)
def test_the_same_rng_gives_the_same_bytes(maker: Maker, tmp_path: Path) -> None:
    for name in ("a.nc", "b.nc"):
        ps.save_cube(maker(rng=5), tmp_path / name)
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()


@pytest.mark.parametrize("maker", MAKERS)
def test_another_rng_gives_another_cube(maker: Maker) -> None:
    assert not maker(rng=5)["value"].equals(maker(rng=6)["value"])


@pytest.mark.parametrize("maker", MAKERS)
def test_no_rng_differs_from_call_to_call(maker: Maker) -> None:
    assert not maker()["value"].equals(maker()["value"])


@pytest.mark.parametrize("maker", MAKERS)
def test_a_generator_is_drawn_from(maker: Maker) -> None:
    generator = np.random.default_rng(5)
    first = maker(rng=generator)
    assert first["value"].equals(maker(rng=5)["value"])
    assert not maker(rng=generator)["value"].equals(first["value"])


@pytest.mark.parametrize("maker", MAKERS)
def test_the_global_generator_is_left_alone(maker: Maker) -> None:
    np.random.seed(1)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    maker(rng=0)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize("maker", MAKERS)
def test_a_cube_says_that_it_was_not_measured_and_how_it_was_made(maker: Maker) -> None:
    cube = maker(n_seeds=4, rng=3)
    assert cube.attrs["summary"].startswith("SYNTHETIC")
    assert cube.attrs["source"].startswith(f"polystab.testing.{maker.__name__}(")
    assert "n_seeds=4" in cube.attrs["source"]
    assert "rng=3" in cube.attrs["source"]


@pytest.mark.parametrize(
    "call",
    [
        lambda: synthetic_cube(
            n_models=2, tasks=["a", "b"], chance=[0.1, 0.2], events=[Event.spike(100)], duplicates=[(0, 1, 0)], rng=3
        ),
        lambda: variance_cube(n_seeds=4, sd_item=0.5, rng=3),
        lambda: phase_cube(changes=[[1000], [2000]], n_seeds=2, steps=[0, 1000, 2000], rng=3),
    ],
)
def test_what_a_cube_says_makes_it_again(call: Callable[[], xr.Dataset]) -> None:
    cube = call()
    polystab = sys.modules["polystab"]
    names = {"polystab": polystab, "Event": Event}
    assert eval(cube.attrs["source"], names).identical(cube)


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("rng", [-1, "a", 0.5, [1.5]])
def test_a_bad_rng_is_refused(maker: Maker, rng: object) -> None:
    with pytest.raises(RecipeError, match="is not an integer from 0"):
        maker(rng=rng)


@pytest.mark.slow
def test_testing_needs_no_statistics_library() -> None:
    code = (
        "import sys, polystab.testing; polystab.testing.demo_cube(); "
        "print([m for m in ('scipy.stats', 'sklearn', 'statsmodels', 'matplotlib', 'torch') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_step_grids_are_those_of_pythia() -> None:
    assert len(EVAL_STEPS) == 27
    assert len(CHECKPOINT_STEPS) == 154
    assert EVAL_STEPS[:3] == CHECKPOINT_STEPS[:3] == (0, 1, 2)
    assert EVAL_STEPS[-1] == CHECKPOINT_STEPS[-1] == 143_000
    assert set(EVAL_STEPS) < set(CHECKPOINT_STEPS)


# Bad arguments

BAD: list[tuple[Maker, dict[str, Any], str]] = [
    (synthetic_cube, {"n_sedes": 3}, r"a recipe has no 'n_sedes'\. Did you mean 'n_seeds'"),
    (synthetic_cube, {"n_models": 0}, "n_models=0 is not an integer from 1"),
    (synthetic_cube, {"n_models": 17}, "n_models=17 is over 16"),
    (synthetic_cube, {"n_seeds": 2.5}, r"n_seeds=2\.5 is not an integer"),
    (synthetic_cube, {"n_items": -1}, "n_items=-1 is not an integer from 0"),
    (synthetic_cube, {"steps": []}, "steps is empty"),
    (synthetic_cube, {"steps": [0, 5, 5]}, "steps 0, 5, 5 do not increase"),
    (synthetic_cube, {"steps": [-1, 5]}, "start at -1, below 0"),
    (synthetic_cube, {"steps": [0.5, 1]}, "are not all integers"),
    (synthetic_cube, {"tasks": []}, "tasks is empty"),
    (synthetic_cube, {"tasks": ["a", "a"]}, "has a name twice"),
    (synthetic_cube, {"tasks": ["a", ""]}, "are not all names"),
    (synthetic_cube, {"chance": 1.0}, "is not from 0 to below 1"),
    (synthetic_cube, {"chance": [0.1]}, "1 chances for 3 tasks"),
    (synthetic_cube, {"sd_seed": -0.1}, r"sd_seed=-0\.1 is below 0"),
    (synthetic_cube, {"sd_checkpoint": np.nan}, "sd_checkpoint=nan is not a finite number"),
    (synthetic_cube, {"sd_phase": "1"}, "sd_phase='1' is not a finite number"),
    (synthetic_cube, {"shared": 1.5}, r"shared=1\.5 is not from 0 to 1"),
    (synthetic_cube, {"correlation": 1.0}, r"correlation=1\.0 is not from 0 to below 1"),
    (synthetic_cube, {"missing": 1.0}, r"missing=1\.0 is not from 0 to below 1"),
    (synthetic_cube, {"phase_steps": [-5]}, "start at -5, below 0"),
    (synthetic_cube, {"events": [Event.outlier(10, 1000)]}, "names a run outside 3 models x 10 seeds"),
    (synthetic_cube, {"events": [Event.outlier(1, 10**9)]}, "never happens: steps end at 143000"),
    (synthetic_cube, {"events": [Event(100, until=50)]}, "never happens"),
    (synthetic_cube, {"duplicates": [(0, 1, 1)]}, "cannot be a copy of itself"),
    (synthetic_cube, {"duplicates": [(0, 1, 99)]}, "names a run outside"),
    (variance_cube, {"n_seeds": 0}, "n_seeds=0 is not an integer from 1"),
    (variance_cube, {"sd_seed": -1.0}, r"sd_seed=-1\.0 is below 0"),
    (variance_cube, {"sd_item": np.inf}, "sd_item=inf is not a finite number"),
    (variance_cube, {"mean": np.nan}, "mean=nan is not a finite number"),
    (variance_cube, {"missing": -0.1}, "is not from 0 to below 1"),
    (phase_cube, {"changes": [0]}, "changes 0 are not after step 0 and up to 59000"),
    (phase_cube, {"changes": [60_000]}, "not after step 0 and up to 59000"),
    (phase_cube, {"changes": [[1000]]}, "changes has 1 lists for 10 seeds"),
    (phase_cube, {"changes": [1000, [2000]]}, "mixes steps and lists"),
    (phase_cube, {"sd_noise": -1.0}, r"sd_noise=-1\.0 is below 0"),
    (phase_cube, {"correlation": 1.0}, "is not from 0 to below 1"),
    (phase_cube, {"jump": np.nan}, "jump=nan is not a finite number"),
    (phase_cube, {"steps": [5, 1]}, "do not increase"),
]


@pytest.mark.parametrize(("maker", "arguments", "message"), BAD)
def test_a_bad_argument_is_refused(maker: Maker, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        maker(rng=0, **arguments)


def test_a_refusal_is_an_error_of_polystab() -> None:
    assert issubclass(RecipeError, PolystabError)


# The suite


def test_metrics_say_what_they_are() -> None:
    cube = synthetic_cube(tasks=["arc@5shot"], weights=["layers.3.mlp.dense_h_to_4h"], rng=0)
    assert cube["metric"].values.tolist() == [
        "eval/arc@5shot/acc",
        LOSS,
        "weight/layers.3.mlp.dense_h_to_4h/kurtosis",
        "weight/layers.3.mlp.dense_h_to_4h/l2_norm",
    ]
    assert cube["shots"].values.tolist() == [5, -1, -1, -1]
    assert cube["layer"].values.tolist() == [-1, -1, 3, 3]
    assert cube["component"].values.tolist() == ["", "", "mlp.dense_h_to_4h", "mlp.dense_h_to_4h"]
    assert cube["better"].values.tolist() == ["higher", "lower", "", ""]
    assert cube["units"].values.tolist() == ["1", "nats", "", ""]
    assert cube["n_items"].values.tolist() == [500, -1, -1, -1]


def test_models_are_in_the_order_of_every_cube() -> None:
    cube = synthetic_cube(n_models=16, n_seeds=1, steps=[0], rng=0)
    assert cube["model"].values.tolist()[:6] == ["toy-2m", "toy-8m", "toy-32m", "toy-128m", "toy-512m", "toy-2.048b"]
    assert same_order(cube)


def same_order(cube: xr.Dataset) -> bool:
    return bool(ps.merge_cubes([cube])["value"].equals(cube["value"]))


@pytest.mark.parametrize("maker", MAKERS)
def test_labels_are_in_the_order_of_every_cube(maker: Maker) -> None:
    assert same_order(maker(n_models=12, rng=0))


def test_accuracies_rise_from_chance_and_stay_below_one() -> None:
    cube = synthetic_cube(chance=[0.25, 0.5, 0.0], n_items=0, rng=0)
    accuracy = ps.select(cube, family="eval")["value"]
    assert (accuracy.sel(step=0) == accuracy["chance"]).all()
    assert (accuracy.isel(step=-1) > accuracy["chance"] + 0.1).all()
    assert accuracy.max() < 1


def test_losses_fall_and_weights_grow() -> None:
    cube = synthetic_cube(**QUIET, rng=0)["value"]
    assert (cube.sel(metric=LOSS).diff("step") < 0).all()
    assert (cube.sel(metric=NORM).diff("step") > 0).all()


def test_larger_models_are_better() -> None:
    last = synthetic_cube(**QUIET, rng=0)["value"].isel(step=-1)
    assert (last.sel(metric="eval/recall/acc").diff("model") > 0).all()
    assert (last.sel(metric=LOSS).diff("model") < 0).all()


def test_accuracies_are_shares_of_the_items() -> None:
    cube = ps.select(synthetic_cube(n_items=40, rng=0), family="eval")
    np.testing.assert_allclose(cube["value"] * 40, (cube["value"] * 40).round(), atol=1e-9)
    np.testing.assert_allclose(cube["stderr"], np.sqrt(cube["value"] * (1 - cube["value"]) / 39))


def test_only_tasks_have_a_standard_error() -> None:
    cube = synthetic_cube(rng=0)
    known = cube["stderr"].notnull().all(("model", "seed", "step"))
    np.testing.assert_array_equal(known, cube["family"] == "eval")


def test_without_items_there_is_no_standard_error() -> None:
    assert "stderr" not in synthetic_cube(n_items=0, rng=0)


def test_item_sampling_has_the_variance_of_the_binomial() -> None:
    made = Recipe(n_models=1, n_seeds=4000, steps=[143_000], sd_seed=0, sd_checkpoint=0, n_items=100).make(0)
    accuracy = ps.select(made.cube, family="eval")["value"]
    p = made.truth["expected"].sel(metric=accuracy["metric"]).isel(seed=0)
    np.testing.assert_allclose(accuracy.var("seed", ddof=1), p * (1 - p) / 100, rtol=0.1)
    np.testing.assert_allclose(accuracy.mean("seed"), p, atol=0.003)


def test_without_chance_a_value_is_what_is_expected() -> None:
    made = Recipe(sd_checkpoint=0, n_items=0).make(0)
    np.testing.assert_allclose(made.cube["value"], made.truth["expected"])


def test_without_seed_effects_a_run_is_the_average_one() -> None:
    made = Recipe(**QUIET, phase_steps=[13_000], events=[Event.spike(1000)]).make(0)  # type: ignore[arg-type]
    for seed in range(10):
        np.testing.assert_allclose(made.cube["value"].isel(seed=seed), made.truth["average"])


def test_seed_effects_have_the_variance_asked_for() -> None:
    truth = Recipe(n_seeds=4000, steps=[0], sd_seed=0.3, shared=0.25).make(0).truth["seed_effect"]
    np.testing.assert_allclose(truth.std("seed", ddof=1), 0.3, rtol=0.05)
    pair = truth.isel(model=0, metric=[0, 1])
    assert np.corrcoef(pair.values.T)[0, 1] == pytest.approx(0.25, abs=0.05)


def test_seed_effects_show_in_the_loss_as_documented() -> None:
    made = Recipe(sd_checkpoint=0, n_items=0).make(0)
    shift = made.cube["value"].sel(metric=LOSS) - made.truth["average"].sel(metric=LOSS)
    np.testing.assert_allclose(
        shift, (-0.1 * made.truth["seed_effect"].sel(metric=LOSS)).broadcast_like(shift), atol=1e-12
    )


@pytest.mark.slow
def test_a_wander_is_slow_and_has_the_variance_asked_for() -> None:
    recipe = Recipe(n_models=1, n_seeds=3000, sd_seed=0, sd_checkpoint=0, sd_seed_step=0.2, correlation=0.9, n_items=0)
    made = recipe.make(0)
    wander = -(made.cube["value"] - made.truth["average"]).sel(metric=LOSS).squeeze("model") / 0.1
    np.testing.assert_allclose(wander.std("seed", ddof=1), 0.2, rtol=0.06)
    neighbours = [float(xr.corr(wander.isel(step=i), wander.isel(step=i + 1))) for i in range(26)]
    np.testing.assert_allclose(neighbours, 0.9, atol=0.03)


def test_one_setting_can_be_changed_while_the_rest_stays() -> None:
    plain = synthetic_cube(n_items=0, rng=0)["value"]
    spiked = synthetic_cube(n_items=0, events=[Event.spike(1000, loss=2.0)], rng=0)["value"]
    difference = spiked - plain
    np.testing.assert_allclose(difference.sel(step=1000, metric=LOSS), 2.0)
    assert (difference.drop_sel(step=1000) == 0).all()
    assert (difference.drop_sel(metric=LOSS) == 0).all()


# Phases and events


def test_a_phase_changes_the_level_at_its_step() -> None:
    recipe = {**QUIET, "phase_steps": [23_000], "phase_size": 0.5}
    jump = (synthetic_cube(**recipe, rng=0) - synthetic_cube(**QUIET, rng=0))["value"].sel(metric=LOSS)
    assert (jump.sel(step=slice(None, 13_000)) == 0).all()
    np.testing.assert_allclose(jump.sel(step=slice(23_000, None)), -0.1 * 0.5)


def test_runs_start_a_phase_at_steps_of_their_own() -> None:
    made = Recipe(**QUIET, phase_steps=[23_000], sd_phase=1.0).make(0)  # type: ignore[arg-type]
    plain = synthetic_cube(**QUIET, rng=0)["value"]
    changed = ((made.cube["value"] - plain).sel(metric=LOSS) != 0).values
    first = made.cube["step"].values[changed.argmax(axis=-1)]
    np.testing.assert_array_equal(first, made.truth["phase_step"].squeeze("phase"))
    assert len(np.unique(first)) > 3


def test_a_phase_between_checkpoints_starts_at_the_next_one() -> None:
    made = Recipe(phase_steps=[600, 5000]).make(0)
    assert np.unique(made.truth["phase_step"]).tolist() == [1000, 13_000]


def test_an_outlier_goes_wrong_at_its_step_and_stays_so() -> None:
    made = Recipe(**QUIET, events=[Event.outlier(seed=3, step=13_000, model=1)]).make(0)  # type: ignore[arg-type]
    others = made.cube["value"].drop_sel(seed=3)
    change = made.cube["value"].sel(seed=3) - others.isel(seed=0)
    assert (change.sel(step=slice(None, 3000)) == 0).all()
    assert (change.sel(step=slice(13_000, None), model="toy-8m", metric="eval/recall/acc") < 0).all()
    assert (change.sel(step=slice(13_000, None), model="toy-8m", metric=LOSS) > 0).all()
    assert (change.sel(model=["toy-2m", "toy-32m"]) == 0).all()
    assert made.truth["outlier_step"].sel(seed=3).values.tolist() == [-1, 13_000, -1]
    assert (made.truth["outlier_step"].drop_sel(seed=3) == -1).all()


def test_an_outlier_is_not_in_the_average() -> None:
    events = [Event.outlier(seed=0, step=13_000, model=0)]
    made = Recipe(**QUIET, events=events).make(0)  # type: ignore[arg-type]
    np.testing.assert_allclose(made.truth["average"], made.cube["value"].isel(seed=1))


def test_a_glitch_is_one_checkpoint_of_one_run() -> None:
    made = Recipe(**QUIET, events=[Event.glitch(seed=2, step=13_000)]).make(0)  # type: ignore[arg-type]
    change = made.cube["value"] - synthetic_cube(**QUIET, rng=0)["value"]
    cells = np.argwhere((change != 0).any("metric").values)
    assert cells.tolist() == [[0, 2, EVAL_STEPS.index(13_000)]]
    assert (made.truth["outlier_step"] == -1).all()


def test_a_copied_run_is_a_copy_in_every_value() -> None:
    made = Recipe(
        duplicates=[(1, 4, 2)],
        events=[Event.outlier(2, 1000, model=1)],
        sd_seed_step=0.1,
        phase_steps=[512],
        sd_phase=1,
    ).make(0)
    assert (
        made.cube["value"]
        .isel(model=1, seed=4)
        .drop_vars("seed")
        .equals(made.cube["value"].isel(model=1, seed=2).drop_vars("seed"))
    )
    assert made.truth["duplicate_of"].isel(model=1).values.tolist() == [-1, -1, -1, -1, 2, -1, -1, -1, -1, -1]
    assert made.truth["outlier_step"].isel(model=1, seed=4).item() == 1000


@pytest.mark.parametrize("maker", [synthetic_cube, variance_cube])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.999])
def test_the_share_asked_for_is_missing(maker: Maker, share: float) -> None:
    value = maker(missing=share, rng=0)["value"]
    gone = value.isnull().all("metric")
    assert (gone == value.isnull().any("metric")).all()
    assert int(gone.sum()) == min(round(share * gone.size), gone.size - 1)


# The linear cube


@pytest.mark.slow
def test_every_component_has_the_variance_asked_for() -> None:
    none = {f"sd_{name}": 0.0 for name in ("model", "step", "model_step", "seed", "seed_shared", "residual", "item")}
    sizes = {"n_models": 60, "n_seeds": 50, "n_steps": 40, "n_metrics": 3}
    constant = {
        "sd_model": ["seed", "step"],
        "sd_step": ["model", "seed"],
        "sd_model_step": ["seed"],
        "sd_seed": ["step"],
        "sd_seed_shared": ["model", "step"],
        "sd_residual": [],
        "sd_item": [],
    }
    for name, dims in constant.items():
        value = variance_cube(**sizes, **{**none, name: 2.0}, rng=0)["value"]
        for dim in dims:
            np.testing.assert_allclose(value.std(dim), 0.0, atol=1e-9, err_msg=f"{name} varies along {dim}")
        free = [dim for dim in ("model", "seed", "step") if dim not in dims]
        np.testing.assert_allclose(value.isel(dict.fromkeys(dims, 0)).std(free, ddof=1), 2.0, rtol=0.3, err_msg=name)


def test_components_add_up() -> None:
    value = variance_cube(
        n_models=1, n_seeds=20_000, n_steps=1, sd_seed=3.0, sd_residual=4.0, sd_model=0.0, mean=10.0, rng=0
    )["value"]
    assert float(value.std(ddof=1)) == pytest.approx(5.0, rel=0.02)
    assert float(value.mean()) == pytest.approx(10.0, abs=0.1)


def test_item_sampling_is_reported_as_the_standard_error() -> None:
    cube = variance_cube(sd_item=0.5, missing=0.1, rng=0)
    assert (cube["stderr"].notnull() == cube["value"].notnull()).all()
    assert np.unique(cube["stderr"].values[cube["stderr"].notnull().values]).tolist() == [0.5]


def test_without_item_sampling_there_is_no_standard_error() -> None:
    assert "stderr" not in variance_cube(rng=0)


# The piecewise cube


def test_levels_change_at_the_steps_given() -> None:
    value = phase_cube(changes=[10_000, 30_000], jump=2.0, sd_noise=0.0, n_metrics=1, rng=0)["value"]
    curve = value.isel(model=0, seed=0, metric=0)
    assert curve.sel(step=[9000, 10_000, 29_000, 30_000, 59_000]).values.tolist() == [0, 2, 2, 4, 4]


def test_slopes_change_at_the_steps_given() -> None:
    value = phase_cube(changes=[10_000], jump=0.0, slope=0.5, sd_noise=0.0, n_metrics=1, rng=0)["value"]
    curve = value.isel(model=0, seed=0, metric=0)
    assert curve.sel(step=[9000, 10_000, 11_000, 14_000]).values.tolist() == [0, 0, 0.5, 2]


def test_each_seed_may_have_changes_of_its_own() -> None:
    value = phase_cube(changes=[[10_000], [], [20_000, 30_000]], n_seeds=3, jump=1.0, sd_noise=0.0, rng=0)["value"]
    assert value.isel(model=0, metric=0, step=-1).values.tolist() == [1, 0, 2]


def test_no_change_is_pure_noise() -> None:
    value = phase_cube(changes=[], n_seeds=200, sd_noise=2.0, rng=0)["value"]
    assert float(value.std(ddof=1)) == pytest.approx(2.0, rel=0.02)
    np.testing.assert_allclose(value.mean(("seed", "metric")), 0.0, atol=0.5)


@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_noise_has_the_correlation_asked_for(correlation: float) -> None:
    value = phase_cube(changes=[], n_seeds=300, correlation=correlation, rng=0)["value"]
    left, right = value.isel(step=slice(None, -1)).values.ravel(), value.isel(step=slice(1, None)).values.ravel()
    assert np.corrcoef(left, right)[0, 1] == pytest.approx(correlation, abs=0.02)
    assert float(value.std(ddof=1)) == pytest.approx(1.0, rel=0.03)


def test_changes_stand_on_any_grid() -> None:
    value = phase_cube(changes=[512], steps=CHECKPOINT_STEPS, sd_noise=0.0, rng=0)["value"]
    assert value.isel(model=0, seed=0, metric=0).sel(step=[256, 512]).values.tolist() == [0, 3]


def test_the_demo_is_always_the_same() -> None:
    assert demo_cube().identical(demo_cube())
