"""Components of single answers and decision studies: known truth, algebra, oracles, coverage, bad input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import scipy.stats
import xarray as xr
from cubes_of_arrays import make_cube
from scipy.special import expit

import polystab as ps
from polystab.analysis import fit_reml
from polystab.analysis.components.gtheory import decision_study
from polystab.analysis.components.items import item_components, item_design
from polystab.errors import AnalysisError

Floats = npt.NDArray[np.float64]
NUMBERS = ("variance", "estimate", "lower", "upper")


def group(scores: npt.ArrayLike, name: str = "correct", tasks: npt.ArrayLike = "t") -> xr.Dataset:
    """Items of (model, seed, item, step), each step a case of its own."""
    array = np.asarray(scores)
    n_model, n_seed, n_item, n_step = array.shape
    return xr.Dataset(
        {name: (("model", "seed", "item", "step"), array)},
        coords={
            "model": [f"m{i}" for i in range(n_model)],
            "seed": np.arange(n_seed),
            "item": np.arange(n_item),
            "step": np.arange(n_step),
            "task": ("item", np.broadcast_to(np.asarray(tasks, dtype=str), n_item)),
        },
    )


def normal_scores(
    rng: np.random.Generator,
    shape: tuple[int, int, int, int] = (3, 4, 20, 5),
    sd: dict[str, float] | None = None,
) -> Floats:
    a, n, b, r = shape
    sizes = {"model": (a, 1, 1, r), "item": (1, 1, b, r), "model:item": (a, 1, b, r), "seed": (a, n, 1, r)}
    parts = {"model": 1.0, "item": 1.0, "model:item": 1.0, "seed": 0.5, "residual": 1.0} | (sd or {})
    return np.asarray(sum(scale * rng.standard_normal(sizes.get(name, shape)) for name, scale in parts.items()))


def answers(rng: np.random.Generator, shape: tuple[int, ...], item: float = 1.5, seed: float = 0.3) -> Floats:
    """Logistic answers of one model, 0 or 1, around a half right."""
    _, n, b, r = shape
    logit = item * rng.standard_normal((1, 1, b, r)) + seed * rng.standard_normal((1, n, 1, r))
    return (rng.random(shape) < expit(logit)).astype(np.float64)


def true_answers(item: float, seed: float) -> dict[str, float]:
    """Components of such answers, by quadrature."""
    node, weight = np.polynomial.hermite_e.hermegauss(80)
    weight = weight / weight.sum()

    def variance(own: float, other: float) -> float:
        chance = (expit(own * node[:, None] + other * node) * weight).sum(axis=1)
        return float((weight * chance**2).sum() - (weight * chance).sum() ** 2)

    parts = {"item": variance(item, seed), "seed": variance(seed, item)}
    return parts | {"residual": 0.25 - sum(parts.values())}


def of(result: xr.Dataset, name: str, component: str) -> Floats:
    return np.asarray(result[name].sel(component=component).values).ravel()


def coverage(found: xr.Dataset, truth: dict[str, float]) -> dict[str, float]:
    return {
        name: float(np.mean((of(found, "lower", name) <= value) & (value <= of(found, "upper", name))))
        for name, value in truth.items()
    }


def with_items(values: Floats, items: xr.Dataset) -> xr.DataTree:
    return xr.DataTree.from_dict({"/": make_cube(values), "/items": items})


@pytest.fixture(scope="module")
def nano() -> Iterator[xr.DataTree]:
    """The bundled cube with its items."""
    with ps.load_tree("nano") as tree:
        yield tree.load()


# Three runs by four items, by hand: SS 0.5 of runs, 5/3 of items, 5/6 left; df 2, 3, 6.
TABLE = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=np.int8)[None, :, :, None]


# Known truth.


def test_a_table_of_three_runs_by_four_items_has_the_mean_squares_by_hand() -> None:
    found = item_components(group(TABLE), by_model=True).squeeze()
    np.testing.assert_allclose(found["mean_square"][:3], [1 / 4, 5 / 9, 5 / 36], rtol=1e-12)
    np.testing.assert_allclose(found["estimate"][:3], [1 / 36, 5 / 36, 5 / 36], rtol=1e-12)


def test_generalizability_of_runs_is_the_reliability_of_kuder_and_richardson() -> None:
    study = decision_study(item_components(group(TABLE), by_model=True), n_items=4, of="run").squeeze()
    right = TABLE[0, :, :, 0].astype(np.float64)
    share = right.mean(axis=0)
    kr20 = 4 / 3 * (1 - (share * (1 - share)).sum() / right.sum(axis=1).var())
    assert float(study["generalizability"]) == pytest.approx(kr20, rel=1e-12)


def test_dependability_of_runs_by_hand() -> None:
    study = decision_study(item_components(group(TABLE), by_model=True), n_items=4, of="run").squeeze()
    assert float(study["dependability"]) == pytest.approx(2 / 7, rel=1e-12)


def test_penicillin_has_the_values_of_lme4(shared_data: Path) -> None:
    path = shared_data / "varcomp" / "Penicillin.csv"
    if not path.exists():
        pytest.skip("Penicillin.csv is not among the shared data")
    table = pd.read_csv(path).pivot(index="sample", columns="plate", values="diameter").to_numpy()
    found = item_components(group(table[None, :, :, None], "diameter"), measure="diameter", by_model=True).squeeze()
    np.testing.assert_allclose(found["variance"][:3], [3.7309, 0.7169, 0.3024], atol=5e-5)


@pytest.mark.slow
def test_components_of_normal_scores_are_recovered() -> None:
    found = item_components(group(normal_scores(np.random.default_rng(1), (4, 4, 30, 800)), "s"), measure="s")
    means = [of(found, "estimate", name).mean() for name in found["component"].values]
    np.testing.assert_allclose(means, [1.0, 0.25, 1.0, 1.0, 1.0, 4.25], rtol=0.06)


@pytest.mark.slow
def test_components_of_answers_are_recovered() -> None:
    found = item_components(group(answers(np.random.default_rng(2), (1, 6, 80, 1500))), by_model=True)
    for name, value in true_answers(1.5, 0.3).items():
        assert of(found, "estimate", name).mean() == pytest.approx(value, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["holes", "limit", "runs"])
def test_estimates_are_unbiased_with_missing_answers(kind: str) -> None:
    rng = np.random.default_rng(3)
    scores = normal_scores(rng, (3, 4, 30, 1500))
    if kind == "holes":
        scores[rng.random(scores.shape) < 0.2] = np.nan
    elif kind == "limit":
        scores[0, :2, 10:] = np.nan
    else:
        scores[0, 0], scores[1, :2] = np.nan, np.nan
    found = item_components(group(scores, "s"), measure="s")
    means = [of(found, "estimate", name).mean() for name in found["component"].values]
    np.testing.assert_allclose(means, [1.0, 0.25, 1.0, 1.0, 1.0, 4.25], rtol=0.06)


# Algebra.


def test_parts_add_up_to_the_total() -> None:
    found = item_components(group(answers(np.random.default_rng(4), (3, 4, 30, 3))))
    np.testing.assert_allclose(
        found["estimate"].where(found["part"]).sum("component"), of(found, "estimate", "total")[:, None]
    )


@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_the_order_of_runs_and_items_does_not_matter(missing: float) -> None:
    rng = np.random.default_rng(5)
    scores = normal_scores(rng)
    scores[rng.random(scores.shape) < missing] = np.nan
    mixed = scores[::-1, ::-1][:, :, rng.permutation(20)]
    xr.testing.assert_allclose(
        item_components(group(scores, "s"), measure="s"), item_components(group(mixed, "s"), measure="s"), rtol=1e-8
    )


@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("intervals", ["normal", "items"])
def test_scaling_scores_scales_variances_by_the_square(missing: float, intervals: str) -> None:
    rng = np.random.default_rng(6)
    scores = normal_scores(rng)
    scores[rng.random(scores.shape) < missing] = np.nan
    plain, scaled = (
        item_components(group(factor * scores, "s"), measure="s", intervals=intervals) for factor in (1.0, -1e-100)
    )
    for name in NUMBERS:
        np.testing.assert_allclose(scaled[name] * 1e100 * 1e100, plain[name], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(scaled["p"], plain["p"], rtol=1e-9)


def test_shifting_scores_changes_nothing() -> None:
    scores = normal_scores(np.random.default_rng(7))
    xr.testing.assert_allclose(
        item_components(group(scores, "s"), measure="s"),
        item_components(group(scores + 2.0**20, "s"), measure="s"),
        rtol=1e-7,
    )


def test_right_and_wrong_are_alike() -> None:
    right = answers(np.random.default_rng(8), (2, 4, 60, 3))
    xr.testing.assert_allclose(item_components(group(right)), item_components(group(1 - right)), rtol=1e-9)


def test_every_step_and_task_stands_for_itself() -> None:
    rng = np.random.default_rng(9)
    tasks = np.array(["a", "b"])[rng.integers(0, 2, 40)]
    items = group(answers(rng, (2, 4, 40, 5)), tasks=tasks)
    alone = item_components(items.isel(step=[3], item=tasks == "b"))
    xr.testing.assert_allclose(item_components(items).isel(step=[3]).sel(task=["b"]), alone, rtol=1e-10)


def test_by_model_is_each_model_alone() -> None:
    items = group(answers(np.random.default_rng(10), (3, 4, 40, 2)))
    xr.testing.assert_allclose(
        item_components(items, by_model=True).isel(model=[1]), item_components(items.isel(model=[1]), by_model=True)
    )


def test_one_model_has_the_same_items_and_seeds_either_way() -> None:
    items = group(answers(np.random.default_rng(11), (1, 4, 40, 2)))
    together, single = item_components(items), item_components(items, by_model=True).isel(model=0)
    for name in ("seed", "item", "residual"):
        np.testing.assert_allclose(of(together, "estimate", name), of(single, "estimate", name), rtol=1e-10)


def test_a_copied_run_counts_once() -> None:
    rng = np.random.default_rng(12)
    right, values = answers(rng, (2, 4, 40, 6)), rng.standard_normal((2, 4, 6, 1))
    once = with_items(values, group(right).assign_coords(step=np.arange(6) * 1000))
    twice = with_items(
        np.concatenate([values, values[:, :1]], axis=1),
        group(np.concatenate([right, right[:, :1]], axis=1)).assign_coords(step=np.arange(6) * 1000),
    )
    xr.testing.assert_allclose(item_components(once), item_components(twice))


def test_the_input_is_not_changed() -> None:
    items = group(TABLE)
    before = items.copy(deep=True)
    item_components(items)
    xr.testing.assert_identical(items, before)


def test_steps_are_taken_in_blocks_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    items = group(answers(np.random.default_rng(13), (2, 3, 20, 7)))
    whole = item_components(items)
    monkeypatch.setattr("polystab.analysis.components.items._BLOCK", 250)
    xr.testing.assert_allclose(item_components(items), whole, rtol=1e-12)


# Oracles.


def test_balanced_positive_scores_equal_reml() -> None:
    scores = normal_scores(np.random.default_rng(14), (3, 4, 12, 12))
    found = item_components(group(scores, "s"), measure="s")
    model, seed, item = (codes.ravel() for codes in np.indices((3, 4, 12)))
    factors = {"model": model, "item": item, "model:item": 100 * model + item, "seed": 10 * model + seed}
    fit = fit_reml(scores.reshape(-1, 12), factors)
    inside = ~np.asarray(fit.singular)
    assert inside.sum() > 5
    for name, part in fit.variance.items():
        np.testing.assert_allclose(of(found, "variance", name)[inside], np.asarray(part)[inside], rtol=1e-6)


@pytest.mark.slow
def test_with_few_missing_answers_estimates_are_near_reml() -> None:
    rng = np.random.default_rng(15)
    scores = normal_scores(rng, (1, 8, 100, 4), {"seed": 1.0})
    scores[rng.random(scores.shape) < 0.05] = np.nan
    found = item_components(group(scores, "s"), measure="s", by_model=True)
    seed, item = (codes.ravel() for codes in np.indices((8, 100)))
    fit = fit_reml(scores.reshape(-1, 4), {"seed": seed, "item": item})
    for name, part in fit.variance.items():
        np.testing.assert_allclose(of(found, "estimate", name), np.asarray(part), rtol=0.03)


def squares_left(y: Floats, *labels: Floats) -> tuple[float, int]:
    """Residual sum of squares and degrees of freedom of a fit of all these labels."""
    design = np.hstack([np.equal.outer(codes, np.unique(codes)) for codes in labels]).astype(np.float64)
    left = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    return float(left @ left), len(y) - int(np.linalg.matrix_rank(design))


@pytest.mark.parametrize("component", ["seed", "item"])
def test_f_tests_of_one_model_with_missing_answers_are_those_of_least_squares(component: str) -> None:
    rng = np.random.default_rng(18)
    scores = normal_scores(rng, (1, 4, 9, 1), {"seed": 0.3, "item": 0.3, "model:item": 0.0})
    scores[rng.random(scores.shape) < 0.2] = np.nan
    there = ~np.isnan(scores.ravel())
    _, seed, item = (codes.ravel()[there] for codes in np.indices((1, 4, 9)))
    full, df = squares_left(scores.ravel()[there], seed, item)
    less, less_df = squares_left(scores.ravel()[there], item if component == "seed" else seed)
    expected = scipy.stats.f.sf((less - full) / (less_df - df) / (full / df), less_df - df, df)
    found = item_components(group(scores, "s"), measure="s", by_model=True)
    assert of(found, "p", component)[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("component", ["seed", "model:item"])
def test_f_tests_with_missing_answers_are_those_of_nested_least_squares(component: str) -> None:
    rng = np.random.default_rng(16)
    scores = normal_scores(rng, (2, 3, 8, 1), {"seed": 0.3, "model:item": 0.3})
    scores[rng.random(scores.shape) < 0.15] = np.nan
    there = ~np.isnan(scores.ravel())
    model, seed, item = (codes.ravel()[there] for codes in np.indices((2, 3, 8)))
    run, cell, y = 10 * model + seed, 100 * model + item, scores.ravel()[there]
    full, df = squares_left(y, run, cell)
    less, less_df = squares_left(y, cell) if component == "seed" else squares_left(y, run, item)
    expected = scipy.stats.f.sf((less - full) / (less_df - df) / (full / df), less_df - df, df)
    found = item_components(group(scores, "s"), measure="s")
    assert of(found, "p", component)[0] == pytest.approx(expected, rel=1e-9)


def test_the_residual_interval_of_normal_scores_is_the_chi_square_one() -> None:
    found = item_components(group(normal_scores(np.random.default_rng(17)), "s"), measure="s", level=0.9)
    df = 3 * 3 * 19
    expected = of(found, "estimate", "residual") * df / scipy.stats.chi2.ppf(0.95, df)
    np.testing.assert_allclose(of(found, "lower", "residual"), expected, rtol=1e-9)


# Calibration.


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("n_seed", [3, 5, 10])
def test_intervals_of_normal_scores_cover(n_seed: int, missing: float) -> None:
    rng = np.random.default_rng(20 + n_seed)
    scores = normal_scores(rng, (3, n_seed, 30, 4000))
    scores[rng.random(scores.shape) < missing] = np.nan
    truth = {"model": 1.0, "seed": 0.25, "item": 1.0, "model:item": 1.0, "residual": 1.0, "total": 4.25}
    shares = coverage(item_components(group(scores, "s"), measure="s"), truth)
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


@pytest.mark.slow
@pytest.mark.parametrize("n_seed", [3, 5, 10])
def test_intervals_of_answers_cover_around_a_half_right(n_seed: int) -> None:
    found = item_components(group(answers(np.random.default_rng(30 + n_seed), (1, n_seed, 150, 2000))), by_model=True)
    shares = coverage(found, true_answers(1.5, 0.3))
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


def test_normal_intervals_of_items_are_wrong_for_answers_as_the_notes_say() -> None:
    items = group(answers(np.random.default_rng(40), (1, 5, 100, 400)))
    found = item_components(items, by_model=True, intervals="normal")
    assert coverage(found, true_answers(1.5, 0.3))["item"] > 0.97


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_seeds_that_do_not_differ_are_rejected_at_the_stated_rate(missing: float) -> None:
    rng = np.random.default_rng(41)
    right = answers(rng, (1, 5, 60, 3000), seed=0.0)
    right[rng.random(right.shape) < missing] = np.nan
    assert 0.04 <= np.mean(of(item_components(group(right)), "p", "seed") < 0.05) <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize("component", ["model", "item", "model:item", "seed"])
def test_a_zero_component_is_rejected_at_the_stated_rate_with_missing_answers(component: str) -> None:
    rng = np.random.default_rng(42)
    scores = normal_scores(rng, (3, 4, 30, 4000), {component: 0.0})
    scores[rng.random(scores.shape) < 0.1] = np.nan
    found = item_components(group(scores, "s"), measure="s")
    assert 0.04 <= np.mean(of(found, "p", component) < 0.05) <= 0.06


# Decision studies.


def parts(**variances: float) -> xr.Dataset:
    names = ["model", "seed", "item", "model:item", "residual"]
    values = [variances.get(name.replace(":", "_"), 0.0) for name in names]
    return xr.Dataset({"variance": ("component", values)}, coords={"component": names})


def test_error_variances_of_models_by_hand() -> None:
    found = parts(model=4.0, seed=1.0, item=6.0, model_item=2.0, residual=8.0)
    study = decision_study(found, n_seeds=2, n_items=10).squeeze()
    assert float(study["relative_error"]) == pytest.approx(1 / 2 + 2 / 10 + 8 / 20)
    assert float(study["absolute_error"]) == pytest.approx(1 / 2 + (6 + 2) / 10 + 8 / 20)
    assert float(study["generalizability"]) == pytest.approx(4 / (4 + 1.1))
    assert float(study["dependability"]) == pytest.approx(4 / (4 + 1.7))


def test_a_decision_study_predicts_the_spread_of_scores() -> None:
    rng = np.random.default_rng(50)
    scores = normal_scores(rng, (1, 4, 25, 4000), {"model": 0.0, "model:item": 0.0})
    study = decision_study(parts(seed=0.25, item=1.0, residual=1.0), n_seeds=4, n_items=25).squeeze()
    assert scores.mean(axis=(0, 1, 2)).std() == pytest.approx(float(study["stderr"]), rel=0.04)


def test_sources_of_error_add_up() -> None:
    study = decision_study(parts(model=1.0, seed=0.3, item=2.0, model_item=0.4, residual=5.0))
    summed = study["from_seeds"] + study["from_items"] + study["from_both"]
    xr.testing.assert_allclose(summed, study["absolute_error"].rename(None))


def test_more_items_do_not_make_up_for_seeds() -> None:
    study = decision_study(parts(model=1.0, seed=0.3, item=2.0, residual=5.0), n_seeds=1, n_items=[10, 10**9])
    assert float(study["relative_error"].isel(n_items=1).squeeze()) == pytest.approx(0.3, rel=1e-6)


@pytest.mark.slow
def test_a_study_of_nano_is_over_steps_and_tasks(nano: xr.DataTree) -> None:
    found = item_components(nano)
    study = decision_study(found, n_seeds=[1, 5], n_items=[100])
    assert study["stderr"].dims == ("n_seeds", "n_items", "step", "task")


def test_a_study_of_one_model_tells_no_models_apart() -> None:
    study = decision_study(item_components(group(TABLE), by_model=True), n_seeds=3, n_items=4)
    assert np.isnan(study["generalizability"]).all()


@pytest.mark.parametrize("number", [0, -1, 2.5, [], "ten"])
def test_numbers_of_seeds_that_are_none_are_refused(number: object) -> None:
    with pytest.raises(AnalysisError, match="n_seeds"):
        decision_study(parts(), n_seeds=number)  # type: ignore[arg-type]


def test_a_study_of_other_components_is_refused() -> None:
    with pytest.raises(AnalysisError, match="components of items; these lack 'residual'"):
        decision_study(parts().sel(component=["model", "seed", "item"]))


def test_a_study_of_something_unknown_is_refused() -> None:
    with pytest.raises(AnalysisError, match="Did you mean 'model'"):
        decision_study(parts(), of="models")


# The form of variance_components.


@pytest.mark.slow
def test_the_design_of_items_is_over_metrics(nano: xr.DataTree) -> None:
    found = item_design(nano)
    assert found["variance"].dims == ("component", "step", "metric")
    assert set(found["metric"].values) <= set(nano["metric"].values)


@pytest.mark.slow
def test_the_result_can_be_written(nano: xr.DataTree, tmp_path: Path) -> None:
    found = item_design(nano)
    found.to_netcdf(tmp_path / "items.nc")
    with xr.open_dataset(tmp_path / "items.nc") as read:
        np.testing.assert_array_equal(read["variance"].values, found["variance"].values)


# Bad input.


def reasons(found: xr.Dataset) -> dict[str, str]:
    words = found["reason"].attrs["flag_meanings"].split()
    return {str(name): words[int(of(found, "reason", name)[0])] for name in found["component"].values}


def test_one_seed_cannot_tell_seed_from_residual() -> None:
    found = item_components(group(answers(np.random.default_rng(60), (3, 1, 20, 1))))
    assert {reasons(found)[name] for name in ("model", "seed", "residual", "total")} == {"one_seed"}


def test_one_seed_of_several_models_still_has_items() -> None:
    found = item_components(group(answers(np.random.default_rng(61), (3, 1, 20, 1))))
    assert reasons(found)["item"] == "estimated"


def test_one_model_is_said_to_be_one() -> None:
    found = item_components(group(TABLE))
    assert [reasons(found)[name] for name in ("model", "model:item", "seed")] == ["one_model", "one_model", "estimated"]


def test_one_item_is_said_to_be_one() -> None:
    found = item_components(group(TABLE[:, :, :1]), by_model=True)
    assert set(reasons(found).values()) == {"one_item"}


def test_answers_that_are_all_alike_have_zero_variances_and_no_p() -> None:
    found = item_components(group(np.ones((2, 3, 10, 1), dtype=np.int8)))
    assert found["variance"].values.tolist() == [[[0.0]]] * 6
    assert np.isnan(found["p"]).all()


def test_runs_that_all_answer_alike_have_items_only() -> None:
    right = np.broadcast_to(np.arange(10)[None, None, :, None] % 2, (2, 3, 10, 1))
    found = item_components(group(right.astype(np.int8)))
    assert [of(found, "variance", name)[0] for name in ("model", "seed", "model:item", "residual")] == [0.0] * 4
    assert of(found, "variance", "item")[0] == pytest.approx(10 / 36)


def test_a_step_without_answers_is_not_measured() -> None:
    right = answers(np.random.default_rng(62), (2, 3, 10, 2))
    right[..., 1] = -1
    found = item_components(group(right.astype(np.int8))).isel(step=[1])
    assert set(reasons(found).values()) == {"not_measured"}


@pytest.mark.slow
def test_minus_one_is_not_an_answer() -> None:
    right = answers(np.random.default_rng(63), (2, 3, 10, 1))
    fewer = np.concatenate([right, np.full((2, 3, 2, 1), -1.0)], axis=2).astype(np.int8)
    for name in NUMBERS:
        np.testing.assert_allclose(
            item_components(group(fewer))[name], item_components(group(right))[name], rtol=1e-9, atol=1e-15
        )


def test_missing_answers_are_counted() -> None:
    right = answers(np.random.default_rng(64), (2, 3, 10, 1)).astype(np.int8)
    right[0, 0, :3] = -1
    assert int(item_components(group(right))["n_missing"].sum()) == 3


def test_an_infinite_score_is_not_measured() -> None:
    scores = normal_scores(np.random.default_rng(65))
    without, infinite = scores.copy(), scores.copy()
    without[0, 0], infinite[0, 0] = np.nan, np.inf
    xr.testing.assert_allclose(
        item_components(group(infinite, "s"), measure="s"), item_components(group(without, "s"), measure="s")
    )


def test_runs_with_no_item_in_common_do_not_tell_seed_from_item() -> None:
    right = np.full((1, 2, 10, 1), -1, dtype=np.int8)
    right[0, 0, :5], right[0, 1, 5:] = 1, 0
    assert np.isnan(item_components(group(right))["estimate"]).all()


@pytest.mark.slow
def test_a_cube_without_items_is_refused(nano: xr.DataTree) -> None:
    with pytest.raises(AnalysisError, match="without its group"):
        item_components(nano.to_dataset())


def test_a_tree_without_items_is_refused(nano: xr.DataTree) -> None:
    with pytest.raises(AnalysisError, match="no group 'items'"):
        item_components(xr.DataTree(nano.to_dataset()))


def test_an_unknown_measure_is_refused_with_a_hint() -> None:
    with pytest.raises(AnalysisError, match="Did you mean 'correct'"):
        item_components(group(TABLE), measure="corect")


@pytest.mark.parametrize("name", ["item", "seed", "step"])
def test_items_without_anything_along_a_dimension_are_refused(name: str) -> None:
    with pytest.raises(AnalysisError, match=f"nothing along '{name}'"):
        item_components(group(TABLE).isel({name: []}))


def test_whole_numbers_other_than_zero_and_one_have_normal_intervals() -> None:
    rng = np.random.default_rng(66)
    assert item_components(group(rng.integers(0, 4, (2, 3, 10, 1)))).attrs["intervals"] == "normal"
    assert item_components(group(rng.integers(-1, 2, (2, 3, 10, 1)))).attrs["intervals"] == "items"


def test_items_without_task_are_refused() -> None:
    with pytest.raises(AnalysisError, match="task"):
        item_components(group(TABLE).drop_vars("task"))


def test_something_else_is_refused() -> None:
    with pytest.raises(AnalysisError, match="got list"):
        item_components([1, 2])  # type: ignore[arg-type]


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, float("nan")])
def test_a_level_outside_zero_to_one_is_refused(level: float) -> None:
    with pytest.raises(AnalysisError, match="level"):
        item_components(group(TABLE), level=level)


def test_an_unknown_interval_is_refused_with_a_hint() -> None:
    with pytest.raises(AnalysisError, match="normal"):
        item_components(group(TABLE), intervals="norml")


def test_the_interval_of_the_total_holds_the_sum_of_the_parts() -> None:
    found = item_components(group(np.random.default_rng(50).integers(0, 2, (3, 3, 60, 200))))
    assert (of(found, "variance", "total") > of(found, "estimate", "total")).any()
    assert (of(found, "variance", "total") <= of(found, "upper", "total")).all()
