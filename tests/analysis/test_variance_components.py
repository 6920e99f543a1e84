"""Variance components: known truth, algebra, oracles, coverage of the intervals, bad input."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import xarray as xr
from component_cubes import coverage, cube_of, factorial_cube, nested_cube, of, with_seeds
from cubes_of_arrays import make_cube

import polystab as ps
from polystab.analysis import fit_reml, variance_components, variance_fractions
from polystab.errors import AnalysisError
from polystab.testing import variance_cube

Floats = npt.NDArray[np.float64]
NUMBERS = ("variance", "estimate", "lower", "upper")


# One call.


@pytest.mark.slow
def test_nano_is_split_into_model_seed_and_items() -> None:
    found = ps.variance_components(ps.load_cube("nano"))
    assert found.attrs["design"] == "nested"
    assert found["component"].values.tolist() == ["model", "seed", "items", "within", "total"]


@pytest.mark.slow
def test_nano_factorial_is_split_into_initialisation_and_order() -> None:
    found = ps.variance_components(ps.load_cube("nano-factorial"))
    assert found.attrs["design"] == "factorial"
    assert found["component"].values.tolist() == ["initialisation", "order", "residual", "total"]
    assert "one run for each combination" in found.attrs["confounded"]


@pytest.mark.slow
def test_the_result_can_be_written(tmp_path) -> None:  # type: ignore[no-untyped-def]
    found = variance_components(ps.load_cube("nano"))
    found.to_netcdf(tmp_path / "components.nc")
    with xr.open_dataset(tmp_path / "components.nc") as read:
        np.testing.assert_array_equal(read["variance"].values, found["variance"].values)


# Known truth.


@pytest.mark.slow
def test_nested_components_are_recovered() -> None:
    cube = variance_cube(
        n_models=6, n_seeds=5, n_steps=1, n_metrics=3000, sd_model=2.0, sd_seed=1.5, sd_residual=0, rng=1
    )
    found = variance_components(cube)
    assert of(found, "estimate", "model").mean() == pytest.approx(4.0, rel=0.05)
    assert of(found, "estimate", "seed").mean() == pytest.approx(2.25, rel=0.05)


def test_items_are_taken_out_of_seed() -> None:
    cube = variance_cube(n_seeds=5, n_steps=1, n_metrics=3000, sd_seed=1.0, sd_residual=0, sd_item=0.7, rng=2)
    found = variance_components(cube)
    assert of(found, "estimate", "seed").mean() == pytest.approx(1.0, rel=0.05)
    np.testing.assert_allclose(of(found, "estimate", "items"), 0.49)


def test_crossed_components_are_recovered() -> None:
    cube = variance_cube(
        n_models=4, n_steps=1, n_metrics=3000, sd_model=1.0, sd_seed=0, sd_seed_shared=1.5, sd_residual=0.5, rng=3
    )
    found = variance_components(cube, design="crossed")
    means = [of(found, "estimate", name).mean() for name in ("model", "seed", "residual")]
    np.testing.assert_allclose(means, [1.0, 2.25, 0.25], rtol=0.05)


@pytest.mark.slow
def test_factorial_components_are_recovered_with_replicates() -> None:
    cube = factorial_cube(np.random.default_rng(4), (5, 4, 2), 3000, (1.5, 1.0, 0.8))
    found = variance_components(cube)
    means = [of(found, "estimate", name).mean() for name in ("initialisation", "order", "interaction", "run")]
    np.testing.assert_allclose(means, [2.25, 1.0, 0.64, 1.0], rtol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("design", ["nested", "crossed"])
def test_estimates_are_unbiased_with_missing_runs(design: str) -> None:
    rng = np.random.default_rng(5)
    values = np.sqrt(2.0) * rng.standard_normal((5, 1, 3000)) + rng.standard_normal((5, 6, 3000))
    found = variance_components(cube_of(values, 0.1, rng), design=design)
    assert of(found, "estimate", "model").mean() == pytest.approx(2.0, rel=0.05)


# Algebra.


def test_the_order_of_seeds_does_not_matter_when_nested() -> None:
    cube = nested_cube(np.random.default_rng(6))
    mixed = cube.copy(deep=True)
    mixed["value"][1] = cube["value"].values[1, ::-1]
    xr.testing.assert_allclose(variance_components(cube), variance_components(mixed), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("design", ["nested", "crossed", "factorial"])
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_scaling_a_metric_scales_variances_by_the_square(design: str, missing: float) -> None:
    rng = np.random.default_rng(7)
    cube = factorial_cube(rng) if design == "factorial" else nested_cube(rng)
    cube["value"] = cube["value"].where(rng.random(cube["value"].shape) >= missing)
    plain = variance_components(cube, design=design)
    scaled = variance_components(cube.assign(value=cube["value"] * -3.0), design=design)
    for name in NUMBERS:
        np.testing.assert_allclose(scaled[name], 9.0 * plain[name], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(scaled["p"], plain["p"], rtol=1e-8)


@pytest.mark.parametrize("design", ["nested", "crossed", "factorial"])
def test_shifting_a_metric_changes_nothing(design: str) -> None:
    rng = np.random.default_rng(8)
    cube = factorial_cube(rng) if design == "factorial" else nested_cube(rng)
    moved = cube.assign(value=cube["value"] + 1024.0)
    xr.testing.assert_allclose(
        variance_components(cube, design=design), variance_components(moved, design=design), rtol=1e-9, atol=1e-11
    )


def test_a_copied_run_counts_once() -> None:
    values = np.random.default_rng(9).standard_normal((3, 5, 6, 2))
    twice = np.concatenate([values, values[:, :1]], axis=1)
    xr.testing.assert_allclose(variance_components(make_cube(values)), variance_components(make_cube(twice)))


def test_a_copy_within_models_adds_no_spread() -> None:
    # Two values only: too few for the audit to take the second for a copy.
    values = np.repeat(np.arange(3.0)[:, None, None, None] * 0.1, 4, axis=1)
    found = variance_components(make_cube(values))
    assert of(found, "variance", "seed").tolist() == [0.0]
    assert of(found, "p", "model").tolist() == [0.0]


def test_every_cell_stands_for_itself() -> None:
    rng = np.random.default_rng(10)
    cube = make_cube(np.where(rng.random((3, 5, 4, 6)) < 0.1, np.nan, rng.standard_normal((3, 5, 4, 6))))
    whole = variance_components(cube).drop_vars(["p_adjusted", "n_tests"])
    part = variance_components(cube.isel(step=[2], metric=[1, 4])).drop_vars(["p_adjusted", "n_tests"])
    xr.testing.assert_allclose(whole.isel(step=[2], metric=[1, 4]), part, rtol=1e-9)


def test_the_cube_is_not_changed() -> None:
    cube = nested_cube(np.random.default_rng(11))
    before = cube.copy(deep=True)
    variance_components(cube)
    xr.testing.assert_identical(cube, before)


@pytest.mark.parametrize("design", ["nested", "crossed", "factorial"])
def test_mean_squares_and_their_sizes_give_the_estimates(design: str) -> None:
    rng = np.random.default_rng(110)
    cube = factorial_cube(rng, (3, 4, 2)) if design == "factorial" else nested_cube(rng)
    found = variance_components(cube, design=design)
    for name, low in zip(found["component"].values.tolist(), found["below"].values.tolist(), strict=True):
        if name != "total":
            base = of(found, "mean_square", low) if low else 0.0
            expected = (of(found, "mean_square", name) - base) / of(found, "size", name)
            np.testing.assert_allclose(of(found, "estimate", name), expected, rtol=1e-9, atol=1e-12)


def test_seeds_are_compared_with_items_where_there_are_any() -> None:
    found = variance_components(variance_cube(n_steps=1, sd_item=0.5, rng=111))
    assert found["below"].values.tolist() == ["seed", "items", "", "", ""]
    np.testing.assert_allclose(
        of(found, "estimate", "seed"), of(found, "mean_square", "seed") - of(found, "mean_square", "items")
    )


def test_p_is_adjusted_over_the_steps_and_metrics_of_each_component() -> None:
    values = np.random.default_rng(112).standard_normal((4, 5, 6, 7))
    values[:, :, 2, 3] = np.nan
    found = variance_components(make_cube(values), design="crossed")
    for name in ("model", "seed"):
        p, adjusted = of(found, "p", name), of(found, "p_adjusted", name)
        known = ~np.isnan(p)
        np.testing.assert_allclose(adjusted[known], scipy.stats.false_discovery_control(p[known]))
        assert np.isnan(adjusted[~known]).all()
    assert found["n_tests"].values.tolist() == [41, 41, 0, 0]


# Oracles.


@pytest.mark.parametrize("design", ["nested", "crossed"])
def test_balanced_positive_cells_equal_reml(design: str) -> None:
    cube = nested_cube(np.random.default_rng(12))
    found = variance_components(cube, design=design)
    model, seed = (labels.ravel() for labels in np.indices((4, 5)))
    factors = {"model": model} if design == "nested" else {"model": model, "seed": seed}
    fit = fit_reml(cube["value"].values.reshape(20, -1), factors)
    inside = ~np.asarray(fit.singular)
    assert inside.sum() > 5
    for name, part in fit.variance.items():
        component = "seed" if (design, name) == ("nested", "residual") else name
        np.testing.assert_allclose(of(found, "variance", component)[inside], np.asarray(part)[inside], rtol=1e-8)


@pytest.mark.parametrize("replicates", [1, 2])
def test_balanced_positive_factorial_cells_equal_reml(replicates: int) -> None:
    cube = factorial_cube(np.random.default_rng(13), (4, 3, replicates), sd=(2.0, 2.0, 1.0))
    found = variance_components(cube)
    weight, data = cube["weight_seed"].values[0], cube["data_seed"].values[0]
    factors = {"initialisation": weight, "order": data}
    if replicates > 1:
        factors["interaction"] = 10 * weight + data
    fit = fit_reml(cube["value"].values[0, :, 0], factors)
    inside = ~np.asarray(fit.singular)
    assert inside.sum() > 5
    for name, part in fit.variance.items():
        component = "run" if (replicates, name) == (2, "residual") else name
        np.testing.assert_allclose(of(found, "variance", component)[inside], np.asarray(part)[inside], rtol=1e-8)


def test_unbalanced_cells_hold_reml() -> None:
    rng = np.random.default_rng(14)
    cube = nested_cube(rng, n=8)
    cube["value"][0, 0], cube["value"][2, :2] = np.nan, np.nan
    found = variance_components(cube)
    fit = fit_reml(cube["value"].values.reshape(20, -1), {"model": np.repeat(np.arange(4), 5)})
    assert (found["method"].values == 2).all()
    np.testing.assert_allclose(of(found, "variance", "model"), fit.variance["model"], rtol=1e-8)
    np.testing.assert_allclose(of(found, "variance", "seed"), fit.variance["residual"], rtol=1e-8)


def test_the_nested_f_test_is_the_one_way_one_also_unbalanced() -> None:
    rng = np.random.default_rng(15)
    cube = nested_cube(rng, n=5, sd=0.5)
    cube["value"][1, 3:], cube["value"][2, 0] = np.nan, np.nan
    runs = [[row[~np.isnan(row)] for row in cube["value"].values[:, :, 0, k]] for k in range(5)]
    expected = [scipy.stats.f_oneway(*groups).pvalue for groups in runs]
    np.testing.assert_allclose(of(variance_components(cube), "p", "model"), expected, rtol=1e-9)


def test_the_crossed_f_tests_are_those_of_adjusted_sums_of_squares() -> None:
    import pandas as pd
    import statsmodels.formula.api as smf
    from statsmodels.stats.anova import anova_lm

    cube = nested_cube(np.random.default_rng(16), n=1, sd=0.5)
    cube["value"][1, 3], cube["value"][2, 0] = np.nan, np.nan
    model, seed = (labels.ravel() for labels in np.indices((4, 5)))
    frame = pd.DataFrame({"y": cube["value"].values.ravel(), "m": model, "s": seed}).dropna()
    expected = anova_lm(smf.ols("y ~ C(m) + C(s)", frame).fit(), typ=2)["PR(>F)"]
    found = variance_components(cube, design="crossed")["p"].values.ravel()
    np.testing.assert_allclose(found[:2], expected.values[:2], rtol=1e-8)


def test_the_interval_of_seeds_is_the_chi_square_one() -> None:
    cube = nested_cube(np.random.default_rng(17), n=3)
    found = variance_components(cube, level=0.9)
    spread = cube["value"].var("seed", ddof=1).mean("model").values.ravel()
    low, high = 16 / scipy.stats.chi2.ppf([0.95, 0.05], 16)
    np.testing.assert_allclose(of(found, "lower", "seed"), spread * low, rtol=1e-9)
    np.testing.assert_allclose(of(found, "upper", "seed"), spread * high, rtol=1e-9)


def test_the_interval_of_a_model_component_touches_zero_where_the_f_test_does() -> None:
    found = variance_components(nested_cube(np.random.default_rng(18), n=2000, sd=0.5))
    np.testing.assert_array_equal(of(found, "lower", "model") > 0, of(found, "p", "model") < 0.025)


# Calibration.

CELLS = 4000


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("n_seed", [3, 5, 10])
def test_nested_intervals_cover(n_seed: int, missing: float) -> None:
    rng = np.random.default_rng(20 + n_seed)
    values = rng.standard_normal((4, 1, CELLS)) + rng.standard_normal((4, n_seed, CELLS))
    found = variance_components(cube_of(values, missing, rng))
    assert all(0.93 <= share <= 0.97 for share in coverage(found, {"model": 1, "seed": 1, "total": 2}).values())


@pytest.mark.slow
@pytest.mark.parametrize("n_seed", [3, 5, 10])
def test_crossed_intervals_cover(n_seed: int) -> None:
    rng = np.random.default_rng(40 + n_seed)
    values = rng.standard_normal((4, 1, CELLS)) + rng.standard_normal((1, n_seed, CELLS))
    found = variance_components(cube_of(values + rng.standard_normal((4, n_seed, CELLS))), design="crossed")
    truth = {"model": 1.0, "seed": 1.0, "residual": 1.0, "total": 3.0}
    assert all(0.93 <= share <= 0.97 for share in coverage(found, truth).values())


@pytest.mark.slow
@pytest.mark.parametrize("n_seed", [3, 5, 10])
@pytest.mark.parametrize("replicates", [1, 2])
def test_factorial_intervals_cover(n_seed: int, replicates: int) -> None:
    cube = factorial_cube(np.random.default_rng(60 + n_seed), (n_seed, n_seed, replicates), CELLS, (1.0, 1.0, 1.0))
    truth = {"initialisation": 1.0, "order": 1.0, "total": 4.0}
    truth |= {"residual": 2.0} if replicates == 1 else {"interaction": 1.0, "run": 1.0}
    assert all(0.93 <= share <= 0.97 for share in coverage(variance_components(cube), truth).values())


@pytest.mark.slow
def test_crossed_intervals_cover_with_missing_runs() -> None:
    rng = np.random.default_rng(80)
    values = rng.standard_normal((3, 1, 1500)) + rng.standard_normal((1, 5, 1500)) + rng.standard_normal((3, 5, 1500))
    found = variance_components(cube_of(values, 0.05, rng), design="crossed")
    truth = {"model": 1.0, "seed": 1.0, "residual": 1.0, "total": 3.0}
    assert all(0.93 <= share <= 0.97 for share in coverage(found, truth).values())


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_a_zero_model_component_is_rejected_at_the_stated_rate(missing: float) -> None:
    rng = np.random.default_rng(81)
    found = variance_components(cube_of(rng.standard_normal((4, 5, CELLS)), missing, rng))
    assert 0.04 <= np.mean(of(found, "p", "model") < 0.05) <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize("component", ["initialisation", "order", "interaction"])
def test_a_zero_factorial_component_is_rejected_at_the_stated_rate(component: str) -> None:
    found = variance_components(factorial_cube(np.random.default_rng(82), (5, 3, 2), CELLS, (0.0, 0.0, 0.0)))
    assert 0.04 <= np.mean(of(found, "p", component) < 0.05) <= 0.06


def test_seeds_that_differ_by_item_noise_alone_are_rejected_at_the_stated_rate() -> None:
    cube = variance_cube(n_seeds=4, n_steps=1, n_metrics=CELLS, sd_seed=0, sd_residual=0, sd_item=0.3, rng=83)
    assert 0.04 <= np.mean(of(variance_components(cube), "p", "seed") < 0.05) <= 0.06


# Fractions.


@pytest.mark.slow
def test_fractions_of_the_parts_add_up_to_one() -> None:
    fraction = variance_fractions(variance_components(ps.load_cube("nano")))["fraction"]
    sums = fraction.where(fraction["part"]).sum("component").values
    known = ~np.isnan(fraction.sel(component="total").values)
    np.testing.assert_allclose(sums[known], 1.0)


# Bad input.


def words(result: xr.Dataset, component: str) -> set[str]:
    meanings = result["reason"].attrs["flag_meanings"].split()
    return {meanings[code] for code in of(result, "reason", component).astype(int)}


def test_one_seed_is_said_and_not_zero() -> None:
    found = variance_components(nested_cube(np.random.default_rng(90), n_seed=1))
    assert words(found, "seed") == words(found, "model") == words(found, "total") == {"one_seed"}
    assert np.isnan(found["variance"].values).all()


def test_one_model_has_seeds_but_no_model_component() -> None:
    found = variance_components(nested_cube(np.random.default_rng(91), n_model=1))
    assert words(found, "model") == {"one_model"}
    np.testing.assert_allclose(of(found, "variance", "total"), of(found, "variance", "seed"))


def test_crossed_seeds_of_one_model_cannot_be_told_from_the_residual() -> None:
    found = variance_components(nested_cube(np.random.default_rng(92), n_model=1), design="crossed")
    assert words(found, "seed") == {"not_identifiable"}


@pytest.mark.parametrize("shape", [(1, 2), (2, 1)])
def test_two_runs_have_no_interval(shape: tuple[int, int]) -> None:
    found = variance_components(nested_cube(np.random.default_rng(93), *shape))
    assert np.isnan(found["lower"].values).all()


def test_two_models_have_a_model_component_without_interval() -> None:
    found = variance_components(nested_cube(np.random.default_rng(94), n_model=2))
    assert np.isnan(of(found, "upper", "model")).all()
    assert not np.isnan(of(found, "estimate", "model")).any()


@pytest.mark.parametrize("design", ["nested", "crossed", "factorial"])
def test_a_constant_metric_has_zero_variances_and_no_fractions(design: str) -> None:
    cube = (
        factorial_cube(np.random.default_rng(95)) if design == "factorial" else nested_cube(np.random.default_rng(95))
    )
    found = variance_components(cube.assign(value=xr.full_like(cube["value"], 0.1)), design=design)
    assert (found["variance"].values == 0).all()
    assert np.isnan(variance_fractions(found)["fraction"].values).all()


@pytest.mark.parametrize("design", ["nested", "crossed"])
def test_steps_without_values_are_unknown(design: str) -> None:
    values = np.random.default_rng(96).standard_normal((3, 4, 2, 1))
    values[:, :, 0] = np.nan
    found = variance_components(make_cube(values), design=design).isel(step=0)
    assert np.isnan(found["variance"].values).all()
    assert words(found, "total") == {"not_measured"}


@pytest.mark.parametrize("design", ["nested", "crossed"])
def test_infinite_values_are_not_measured(design: str) -> None:
    cube = nested_cube(np.random.default_rng(97), n=3)
    infinite, missing = cube.copy(deep=True), cube.copy(deep=True)
    infinite["value"][0, 1], missing["value"][0, 1] = np.inf, np.nan
    xr.testing.assert_identical(
        variance_components(infinite, design=design), variance_components(missing, design=design)
    )


def test_a_standard_error_larger_than_the_spread_leaves_no_seed_variance() -> None:
    cube = variance_cube(n_steps=1, sd_seed=0.1, sd_residual=0, sd_item=0.1, rng=98)
    cube["stderr"] = cube["stderr"] * 100
    found = variance_components(cube)
    assert of(found, "variance", "seed").tolist() == [0.0]
    assert (of(found, "estimate", "seed") < 0).all()
    np.testing.assert_array_equal(of(found, "variance", "items"), of(found, "variance", "within"))


def test_without_standard_errors_items_are_part_of_seed() -> None:
    cube = variance_cube(n_steps=2, sd_item=0.1, rng=99)
    cube["stderr"][:, :, 0] = np.nan
    found = variance_components(cube).isel(step=0)
    assert words(found, "items") == {"no_stderr"}
    np.testing.assert_array_equal(of(found, "variance", "seed"), of(found, "variance", "within"))


def test_huge_and_tiny_values_neither_overflow_nor_vanish() -> None:
    cube = nested_cube(np.random.default_rng(100), n=2)
    plain = variance_components(cube)
    for power in (-300, 300):
        moved = variance_components(cube.assign(value=np.ldexp(cube["value"], power)))
        np.testing.assert_allclose(moved["variance"], np.ldexp(plain["variance"], 2 * power))


def test_identical_runs_in_every_model_of_an_unbalanced_cell_stand_on_the_moments() -> None:
    values = np.repeat(np.array([0.1, 0.4, 0.2])[:, None, None], 3, axis=1)
    values[0, 0] = np.nan
    found = variance_components(cube_of(values))
    assert of(found, "variance", "model")[0] == pytest.approx(np.var([0.1, 0.4, 0.2], ddof=1))


def test_a_factorial_without_crossing_says_what_is_confounded() -> None:
    cube = with_seeds(nested_cube(np.random.default_rng(101)), np.arange(5), np.arange(5))
    with pytest.raises(AnalysisError, match="initialisation, order and their interaction are confounded"):
        variance_components(cube, design="factorial")


def test_a_star_of_seeds_is_not_crossed() -> None:
    cube = with_seeds(nested_cube(np.random.default_rng(102)), [0, 1, 2, 0, 0], [0, 0, 0, 1, 2])
    assert variance_components(cube).attrs["design"] == "nested"


def test_a_factorial_without_seeds_of_both_kinds_is_refused() -> None:
    with pytest.raises(AnalysisError, match="no weight_seed and no data_seed"):
        variance_components(nested_cube(np.random.default_rng(103)), design="factorial")


def test_factorials_of_several_models_are_pooled_within_them() -> None:
    one = factorial_cube(np.random.default_rng(104), (3, 3, 1))
    far = one.assign(value=one["value"] + 128.0).assign_coords(model=["far"])
    both = xr.concat([one, far], "model")
    single, pooled = variance_components(one), variance_components(both)
    np.testing.assert_allclose(pooled["estimate"], single["estimate"], rtol=1e-9)
    np.testing.assert_array_equal(pooled["df"], 2 * single["df"])


def test_a_factorial_that_lacks_a_run_is_fitted_by_reml() -> None:
    cube = factorial_cube(np.random.default_rng(105), (4, 4, 1), 6, (2.0, 2.0, 0.0))
    cube["value"][0, 5] = np.nan
    found = variance_components(cube)
    fit = fit_reml(
        cube["value"].values[0, :, 0],
        {"initialisation": cube["weight_seed"].values[0], "order": cube["data_seed"].values[0]},
    )
    assert (found["method"].values == 2).all()
    for name, part in fit.variance.items():
        np.testing.assert_allclose(of(found, "variance", name), part, rtol=1e-6)


def test_a_cube_without_metrics_has_an_empty_answer() -> None:
    cube = nested_cube(np.random.default_rng(106)).isel(metric=[])
    assert variance_components(cube)["variance"].shape == (3, 1, 0)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0, float("nan")])
def test_a_level_outside_zero_to_one_is_refused(level: float) -> None:
    with pytest.raises(AnalysisError, match="level"):
        variance_components(nested_cube(np.random.default_rng(107)), level=level)


def test_an_unknown_design_is_refused_with_a_hint() -> None:
    with pytest.raises(AnalysisError, match="nested"):
        variance_components(nested_cube(np.random.default_rng(108)), design="nestd")
