"""Variance over windows of steps: known truth, algebra, oracles, calibration with correlated noise, bad input."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from cubes_of_arrays import make_cube

import polystab as ps
from polystab.analysis import fit_reml, variance_components
from polystab.analysis.components.window_noise import lag_ratio, noise_table, two_way_residuals
from polystab.analysis.components.window_squares import DESIGNS, _adjusted, _balanced
from polystab.analysis.components.windows import variance_over_windows
from polystab.errors import AnalysisError
from polystab.testing import variance_cube

Floats = npt.NDArray[np.float64]
NUMBERS = ("variance", "estimate", "lower", "upper")
NESTED = ("model", "seed", "step", "model:step", "seed:step")
CELLS = 2000


def noise(shape: tuple[int, ...], rho: float, rng: np.random.Generator) -> Floats:
    """First-order autoregressive along the third axis, variance 1."""
    values = rng.standard_normal(shape)
    for t in range(1, shape[2]):
        values[:, :, t] = rho * values[:, :, t - 1] + np.sqrt(1 - rho**2) * values[:, :, t]
    return values


def window_cube(
    rng: np.random.Generator,
    size: tuple[int, int, int] = (4, 5, 10),
    n: int = 3,
    rho: float = 0.0,
    missing: float = 0.0,
    crossed: bool = False,
    **sds: float,
) -> xr.Dataset:
    """Every component with SD 1 unless ``sds`` says otherwise (``ms`` is 0 where nested)."""
    m, s, t = size
    shapes = {"m": (m, 1, 1), "t": (1, 1, t), "mt": (m, 1, t), "s": (1, s, 1) if crossed else (m, s, 1)}
    shapes |= {"ms": (m, s, 1), "st": (1, s, t)} if crossed else {}
    values = sds.get("e", 1.0) * noise((m, s, t, n), rho, rng)
    for name, shape in shapes.items():
        values += sds.get(name, 1.0) * rng.standard_normal((*shape, n))
    if missing:
        values[rng.random((m, s, t)) < missing] = np.nan
    return make_cube(values)


def of(result: xr.Dataset, name: str, component: str) -> Floats:
    return np.asarray(result[name].sel(component=component).values).ravel()


def coverage(found: xr.Dataset, truth: dict[str, float]) -> dict[str, float]:
    return {
        name: float(np.mean((of(found, "lower", name) <= value) & (value <= of(found, "upper", name))))
        for name, value in truth.items()
    }


def words(result: xr.Dataset, component: str) -> set[str]:
    meanings = result["reason"].attrs["flag_meanings"].split()
    return {meanings[code] for code in of(result, "reason", component).astype(int)}


# Windows.


@pytest.mark.slow
def test_by_default_thirds_hold_all_checkpoints() -> None:
    found = variance_over_windows(ps.load_cube("nano"))
    assert found["n_checkpoints"].values.tolist() == [11, 10, 10]
    assert found["first_step"].values[0] == 0
    assert found["last_step"].values[-1] == ps.load_cube("nano")["step"][-1]


def test_few_checkpoints_are_one_window() -> None:
    assert variance_over_windows(window_cube(np.random.default_rng(0), (2, 3, 8))).sizes["window"] == 1


def test_windows_include_both_ends_and_may_overlap() -> None:
    cube = window_cube(np.random.default_rng(1))
    found = variance_over_windows(cube, windows=[(1000, 4000), (2500, 9999)])
    assert found["first_step"].values.tolist() == [1000, 3000]
    assert found["last_step"].values.tolist() == [4000, 9000]
    alone = variance_over_windows(cube.isel(step=slice(3, 10)), windows=1)
    np.testing.assert_array_equal(found["estimate"].values[:, 1], alone["estimate"].values[:, 0])


@pytest.mark.parametrize(
    "windows",
    [
        0,
        11,
        True,
        "late",
        2.5,
        {0: 5000},
        [],
        [(5,)],
        (0, 5000),
        [(9000, 3000)],
        [(100, 200)],
        [("a", "b")],
        [(np.nan, 5)],
    ],
)
def test_what_is_no_window_is_refused(windows: object) -> None:
    with pytest.raises(AnalysisError, match="window"):
        variance_over_windows(window_cube(np.random.default_rng(2)), windows=windows)  # type: ignore[arg-type]


def test_a_cube_without_steps_is_refused() -> None:
    with pytest.raises(AnalysisError, match="no steps"):
        variance_over_windows(window_cube(np.random.default_rng(3)).isel(step=[]))


# Known truth.


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_components_are_recovered(missing: float) -> None:
    cube = variance_cube(
        n_models=5,
        n_seeds=4,
        n_steps=9,
        n_metrics=CELLS,
        sd_model=2.0,
        sd_step=1.5,
        sd_model_step=0.8,
        sd_seed=1.2,
        sd_residual=0.5,
        missing=missing,
        rng=4,
    )
    found = variance_over_windows(cube, windows=1, noise="white")
    means = [of(found, "estimate", name).mean() for name in (*NESTED, "total")]
    np.testing.assert_allclose(means, [4.0, 1.44, 2.25, 0.64, 0.25, 8.58], rtol=0.06)


@pytest.mark.slow
def test_crossed_components_are_recovered() -> None:
    cube = window_cube(np.random.default_rng(5), (5, 5, 8), CELLS, crossed=True, s=1.5, ms=0.7, st=1.2, e=0.5)
    found = variance_over_windows(cube, windows=1, design="crossed", noise="white")
    means = [of(found, "estimate", name).mean() for name in DESIGNS["crossed"]]
    np.testing.assert_allclose(means, [1.0, 2.25, 0.49, 1.0, 1.0, 1.44, 0.25], rtol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("rho", [-0.3, 0.0, 0.3, 0.6])
def test_the_autocorrelation_is_recovered_in_a_short_window(rho: float) -> None:
    found = variance_over_windows(window_cube(np.random.default_rng(6), (4, 10, 10), CELLS // 2, rho), windows=1)
    assert found["autocorrelation"].mean().item() == pytest.approx(rho, abs=0.01)
    assert found["autocorrelation"].std().item() == pytest.approx(
        found["autocorrelation_stderr"].mean().item(), rel=0.1
    )


@pytest.mark.slow
def test_slow_noise_is_not_taken_for_a_seed_effect() -> None:
    cube = window_cube(np.random.default_rng(7), (4, 10, 10), CELLS // 2, 0.6, s=0.0)
    white = variance_over_windows(cube, windows=1, noise="white")
    found = variance_over_windows(cube, windows=1)
    assert np.mean(of(white, "p", "seed") < 0.05) > 0.9
    assert np.mean(of(found, "p", "seed") < 0.05) < 0.06
    assert abs(of(found, "estimate", "seed").mean()) < 0.03
    assert of(white, "estimate", "seed").mean() > 0.2


@pytest.mark.slow
def test_correlation_over_steps_follows_uneven_spacing() -> None:
    steps = [0, 100, 200, 300, 500, 900, 1000, 1400, 1500, 2000]
    rng = np.random.default_rng(8)
    long = noise((4, 10, 21, CELLS // 4), 0.9, rng)
    cube = make_cube(long[:, :, np.array(steps) // 100], steps=steps)
    found = variance_over_windows(cube, windows=1, spacing="step")
    assert found["autocorrelation"].median().item() == pytest.approx(0.9, abs=0.02)


# Algebra.


@pytest.mark.slow
@pytest.mark.parametrize("design", ["nested", "crossed"])
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_scaling_scales_by_the_square_and_shifting_changes_nothing(design: str, missing: float) -> None:
    cube = window_cube(np.random.default_rng(9), missing=missing)
    plain = variance_over_windows(cube, windows=1, design=design)
    moved = variance_over_windows(cube.assign(value=cube["value"] * -4.0 + 1024.0), windows=1, design=design)
    for name in NUMBERS:
        np.testing.assert_allclose(moved[name], 16.0 * plain[name], rtol=1e-7, atol=1e-9)
    for name in ("p", "df", "autocorrelation"):
        np.testing.assert_allclose(moved[name], plain[name], rtol=1e-7)


def test_the_order_of_seeds_within_a_model_does_not_matter() -> None:
    cube = window_cube(np.random.default_rng(10))
    mixed = cube.copy(deep=True)
    mixed["value"][1] = cube["value"].values[1, ::-1]
    xr.testing.assert_allclose(
        variance_over_windows(cube, windows=1), variance_over_windows(mixed, windows=1), rtol=1e-9
    )


def test_the_total_is_the_same_whatever_the_noise() -> None:
    cube = window_cube(np.random.default_rng(11), rho=0.5)
    coloured, white = (variance_over_windows(cube, windows=1, noise=name) for name in ("correlated", "white"))
    np.testing.assert_allclose(of(coloured, "estimate", "total"), of(white, "estimate", "total"), rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_every_metric_stands_for_itself(missing: float) -> None:
    rng = np.random.default_rng(12)
    cube = window_cube(rng, n=5)
    cube["value"] = cube["value"].where(rng.random(cube["value"].shape) >= missing)
    whole = variance_over_windows(cube, windows=2)
    part = variance_over_windows(cube.isel(metric=[1, 4]), windows=2)
    xr.testing.assert_allclose(whole.isel(metric=[1, 4]), part, rtol=1e-9)


@pytest.mark.slow
def test_a_copied_run_counts_once() -> None:
    cube = window_cube(np.random.default_rng(13))
    values = cube["value"].values
    twice = make_cube(np.concatenate([values, values[:, :1]], axis=1))
    xr.testing.assert_allclose(variance_over_windows(cube), variance_over_windows(twice))


def test_gaps_that_leave_a_full_table_change_nothing() -> None:
    values = window_cube(np.random.default_rng(14), (3, 4, 9))["value"].values
    wide = np.full((4, 6, 11, values.shape[-1]), np.nan)
    for m, seeds in enumerate(([0, 1, 3, 4], [1, 2, 3, 5], [0, 2, 4, 5])):
        wide[m, np.array(seeds)[:, None], np.array([0, 1, 2, 4, 5, 6, 7, 9, 10])] = values[m]
    found, expected = (variance_over_windows(make_cube(v), windows=1, noise="white") for v in (wide, values))
    for name in (*NUMBERS, "p", "df", "method"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-9)


def test_the_cube_is_not_changed() -> None:
    cube = window_cube(np.random.default_rng(15), missing=0.1)
    before = cube.copy(deep=True)
    variance_over_windows(cube)
    xr.testing.assert_identical(cube, before)


# Oracles.


@pytest.mark.slow
@pytest.mark.parametrize("design", ["nested", "crossed"])
def test_full_tables_equal_reml_where_all_are_positive(design: str) -> None:
    cube = window_cube(np.random.default_rng(16), (4, 5, 6), 20, crossed=design == "crossed")
    found = variance_over_windows(cube, windows=1, design=design, noise="white")
    index = dict(zip("mst", (codes.ravel() for codes in np.indices((4, 5, 6))), strict=True))
    factors = {
        name: sum(index[f] * 100**i for i, f in enumerate(part))
        for name, part in DESIGNS[design].items()
        if part != "mst"
    }
    fit = fit_reml(cube["value"].values.reshape(120, -1), factors)
    inside = (found["estimate"].values[:-1, 0] > 1e-3).all(axis=0)
    assert inside.sum() >= 2
    for name, part in zip(DESIGNS[design], fit.variance.values(), strict=True):
        np.testing.assert_allclose(of(found, "variance", name)[inside], np.asarray(part)[inside], rtol=1e-8)


@pytest.mark.slow
def test_a_full_table_equals_mixedlm() -> None:
    import pandas as pd
    import statsmodels.formula.api as smf

    cube = window_cube(np.random.default_rng(17), (3, 3, 4), 1, m=3.0, s=2.0, t=2.0, mt=2.0)
    found = variance_over_windows(cube, windows=1, noise="white")
    assert (found["estimate"].values > 0.1).all()
    m, s, t = (codes.ravel() for codes in np.indices((3, 3, 4)))
    frame = pd.DataFrame({"y": cube["value"].values.ravel(), "m": m, "r": 10 * m + s, "t": t, "mt": 10 * m + t})
    parts = {name: f"0 + C({column})" for name, column in (("a", "m"), ("b", "r"), ("c", "t"), ("d", "mt"))}
    fit = smf.mixedlm("y ~ 1", frame, groups=np.ones(36), vc_formula=parts).fit(method="lbfgs")
    np.testing.assert_allclose(found["variance"].values[:5, 0, 0], [*fit.vcomp, fit.scale], rtol=5e-3)


def test_f_tests_with_gaps_are_those_of_nested_least_squares() -> None:
    import scipy.stats

    cube = window_cube(np.random.default_rng(18), (3, 4, 5), 1, missing=0.1, s=0.5, mt=0.5)
    found = variance_over_windows(cube, windows=1, noise="white")
    known = ~np.isnan(cube["value"].values.ravel())
    y = cube["value"].values.ravel()[known]
    m, s, t = (codes.ravel()[known] for codes in np.indices((3, 4, 5)))

    def fitted(*labels: npt.NDArray[np.int64]) -> tuple[float, int]:
        """Residual sum of squares and degrees of freedom."""
        design = np.hstack([np.equal.outer(codes, np.unique(codes)) for codes in labels]).astype(float)
        rest = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
        return float(rest @ rest), len(y) - int(np.linalg.matrix_rank(design))

    run, at = 10 * m + s, 10 * m + t
    whole, df = fitted(run, at)
    for name, without in (("seed", (at,)), ("model:step", (run, t))):
        less, more = fitted(*without)
        f = (less - whole) / (more - df) / (whole / df)
        np.testing.assert_allclose(of(found, "p", name), scipy.stats.f.sf(f, more - df, df), rtol=1e-8)
    np.testing.assert_allclose(of(found, "variance", "seed:step"), whole / df, rtol=1e-9)


@pytest.mark.parametrize("design", ["nested", "crossed"])
def test_a_single_checkpoint_is_variance_components_there(design: str) -> None:
    cube = window_cube(np.random.default_rng(19)).isel(step=[3])
    found = variance_over_windows(cube, design=design)
    expected = variance_components(cube, design=design).isel(step=0)
    names = {"model": "model", "seed": "seed", "model:seed": "residual", "total": "total"}
    for ours, theirs in names.items():
        if ours in found["component"].values:
            for name in (*NUMBERS, "p", "df"):
                np.testing.assert_allclose(of(found, name, ours), of(expected, name, theirs), rtol=1e-8, atol=1e-12)
    assert words(found, "step") == words(found, "model:step") == {"one_step"}


@pytest.mark.parametrize("design", ["nested", "crossed"])
def test_adjusted_sums_of_squares_of_a_full_table_are_the_plain_ones(design: str) -> None:
    values = np.random.default_rng(20).standard_normal((4, 3, 5, 2))
    for plain, adjusted in zip(_balanced(values, design), _adjusted(values, design), strict=True):
        np.testing.assert_allclose(adjusted, plain, rtol=1e-9, atol=1e-12)


def test_the_noise_table_holds_expectations_of_simulated_series() -> None:
    table = noise_table(np.arange(8.0))
    assert table is not None
    series = noise((1, 60_000, 8, 1), 0.7, np.random.default_rng(21))
    rest = series - series.mean(axis=2, keepdims=True)
    found = [lag_ratio(rest, axis=2)[0], 8 * series.mean(axis=2).var(), np.sum(rest**2) / 60_000 / 7]
    expected = [table.at(name, np.array(0.7)) for name in ("ratio", "of_mean", "of_rest")]
    np.testing.assert_allclose(found, expected, rtol=0.02)


def test_white_noise_has_its_textbook_values() -> None:
    table = noise_table(np.arange(8.0))
    assert table is not None
    values = [float(table.at(name, np.array(0.0))) for name in ("ratio", "of_mean", "of_rest", "trace")]
    np.testing.assert_allclose(values, [-1 / 8, 1.0, 1.0, 7.0], rtol=1e-3)


def test_residuals_with_gaps_are_those_of_least_squares() -> None:
    rng = np.random.default_rng(22)
    values = rng.standard_normal((1, 4, 6, 1))
    values[0, [0, 2, 3], [1, 1, 4]] = np.nan
    known = ~np.isnan(values[0, :, :, 0])
    s, t = (codes[known] for codes in np.indices((4, 6)))
    design = np.hstack([np.equal.outer(s, np.arange(4)), np.equal.outer(t, np.arange(6))]).astype(float)
    y = values[0, :, :, 0][known]
    expected = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    np.testing.assert_allclose(two_way_residuals(values)[0, :, :, 0][known], expected, atol=1e-9)


# Calibration. Longer runs stand in benchmarks/bench_windows.py.

TRUTH = dict.fromkeys(NESTED, 1.0) | {"total": 5.0}


@pytest.mark.slow
def test_intervals_cover_in_a_small_simulation() -> None:
    cube = window_cube(np.random.default_rng(29), (4, 5, 10), CELLS, 0.6)
    shares = coverage(variance_over_windows(cube, windows=1), TRUTH)
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


@pytest.mark.slow
@pytest.mark.parametrize("n_seed", [3, 5, 10])
@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6])
def test_intervals_cover(n_seed: int, rho: float) -> None:
    cube = window_cube(np.random.default_rng(130 + n_seed), (4, n_seed, 10), 2 * CELLS, rho)
    shares = coverage(variance_over_windows(cube, windows=1), TRUTH)
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


@pytest.mark.slow
@pytest.mark.parametrize("n_seed", [3, 5, 10])
def test_intervals_of_white_noise_cover(n_seed: int) -> None:
    cube = window_cube(np.random.default_rng(40 + n_seed), (4, n_seed, 10), CELLS)
    shares = coverage(variance_over_windows(cube, windows=1, noise="white"), TRUTH)
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


@pytest.mark.slow
@pytest.mark.parametrize("n_seed", [3, 5, 10])
def test_crossed_intervals_cover(n_seed: int) -> None:
    cube = window_cube(np.random.default_rng(50 + n_seed), (4, n_seed, 10), CELLS, crossed=True)
    truth = dict.fromkeys(DESIGNS["crossed"], 1.0) | {"total": 7.0}
    shares = coverage(variance_over_windows(cube, windows=1, design="crossed"), truth)
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


@pytest.mark.slow
@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_intervals_cover_with_gaps(rho: float) -> None:
    cube = window_cube(np.random.default_rng(60), (4, 5, 10), CELLS, rho, missing=0.1)
    shares = coverage(variance_over_windows(cube, windows=1), TRUTH)
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


@pytest.mark.slow
@pytest.mark.parametrize("null", [("m", "model"), ("s", "seed"), ("t", "step"), ("mt", "model:step")])
@pytest.mark.parametrize("n_seed", [3, 10])
def test_a_zero_component_is_rejected_at_the_stated_rate(null: tuple[str, str], n_seed: int) -> None:
    cube = window_cube(np.random.default_rng(70), (4, n_seed, 12), 2 * CELLS, **{null[0]: 0.0})
    assert 0.04 <= np.mean(of(variance_over_windows(cube, windows=1), "p", null[1]) < 0.05) <= 0.06


# Results.


@pytest.mark.slow
def test_parts_add_up_to_the_total() -> None:
    found = variance_over_windows(ps.load_cube("nano"))
    parts = found["variance"].where(found["part"]).sum("component")
    total = found["variance"].sel(component="total")
    np.testing.assert_allclose(parts.values[total.notnull()], total.values[total.notnull()])


def test_fractions_of_the_parts_add_up_to_one() -> None:
    found = variance_over_windows(variance_cube(n_steps=9, sd_item=0.3, rng=82), windows=1)
    assert float(found["fraction"].where(found["part"]).sum()) == pytest.approx(1.0)
    assert np.isnan(of(found, "fraction", "items")).all()


@pytest.mark.slow
def test_noise_is_at_most_all_of_the_spread_between_siblings() -> None:
    found = variance_over_windows(ps.load_cube("nano"))
    both = of(found, "estimate", "seed") + of(found, "estimate", "seed:step")
    assert (of(found, "variance", "seed:step") <= both * (1 + 1e-12)).all()


@pytest.mark.slow
def test_the_result_can_be_written(tmp_path) -> None:  # type: ignore[no-untyped-def]
    found = variance_over_windows(ps.load_cube("nano"))
    found.to_netcdf(tmp_path / "windows.nc")
    with xr.open_dataset(tmp_path / "windows.nc") as read:
        np.testing.assert_array_equal(read["variance"].values, found["variance"].values)


def test_test_items_stand_beside_the_parts() -> None:
    cube = variance_cube(n_steps=9, sd_item=0.3, rng=80)
    found = variance_over_windows(cube)
    np.testing.assert_allclose(of(found, "variance", "items"), 0.09)
    assert not found["part"].sel(component="items").item()
    bare = variance_over_windows(cube.drop_vars("stderr"))
    np.testing.assert_array_equal(bare["variance"], found["variance"].drop_sel(component="items"))


def test_unknown_standard_errors_are_said() -> None:
    cube = variance_cube(n_steps=9, sd_item=0.3, rng=81)
    cube["stderr"][:] = np.nan
    assert words(variance_over_windows(cube), "items") == {"no_stderr"}


# Bad input.


@pytest.mark.parametrize("design", ["nested", "crossed"])
def test_one_seed_leaves_only_what_all_runs_share_at_a_step(design: str) -> None:
    found = variance_over_windows(window_cube(np.random.default_rng(90), (4, 1, 10)), windows=1, design=design)
    assert words(found, "seed") == words(found, "model") == words(found, "total") == {"one_seed"}
    assert not np.isnan(of(found, "estimate", "step")).any()


def test_one_model_has_seeds_and_noise_but_no_model_component() -> None:
    found = variance_over_windows(window_cube(np.random.default_rng(91), (1, 5, 10)), windows=1)
    assert words(found, "model") == words(found, "model:step") == {"one_model"}
    parts = [of(found, "estimate", name) for name in ("seed", "step", "seed:step")]
    np.testing.assert_allclose(of(found, "estimate", "total"), np.sum(parts, axis=0))


def test_crossed_seeds_of_one_model_are_not_identifiable() -> None:
    found = variance_over_windows(window_cube(np.random.default_rng(92), (1, 5, 10)), windows=1, design="crossed")
    assert words(found, "seed") == words(found, "residual") == {"not_identifiable"}


def test_a_single_run_has_nothing() -> None:
    found = variance_over_windows(window_cube(np.random.default_rng(93), (1, 1, 10)), windows=1)
    assert np.isnan(found["variance"].values).all()
    assert (found["method"].values == 0).all()


def test_two_checkpoints_do_not_tell_the_correlation() -> None:
    found = variance_over_windows(window_cube(np.random.default_rng(94), (3, 4, 2)))
    assert np.isnan(found["autocorrelation"].values).all()
    assert not np.isnan(of(found, "variance", "seed")).any()


def test_two_models_have_a_model_component_without_interval() -> None:
    found = variance_over_windows(window_cube(np.random.default_rng(95), (2, 4, 10)), windows=1)
    assert np.isnan(of(found, "upper", "model")).all()
    assert not np.isnan(of(found, "estimate", "model")).any()


@pytest.mark.parametrize("design", ["nested", "crossed"])
def test_a_constant_metric_has_zero_variances_and_no_tests(design: str) -> None:
    found = variance_over_windows(make_cube(np.full((3, 4, 9, 1), 0.1)), windows=1, design=design)
    assert (found["variance"].values == 0).all()
    assert (found["upper"].values == 0).all()
    assert np.isnan(found["p"].values).all()
    assert np.isnan(found["autocorrelation"].values).all()


def test_runs_that_never_move_have_seeds_and_no_noise() -> None:
    values = np.broadcast_to(np.random.default_rng(96).standard_normal((3, 4, 1, 1)), (3, 4, 9, 1)).copy()
    found = variance_over_windows(make_cube(values), windows=1)
    assert of(found, "variance", "seed:step").tolist() == [0.0]
    np.testing.assert_allclose(of(found, "variance", "seed"), values[:, :, 0].var(axis=1, ddof=1).mean(axis=0))


def test_a_window_without_values_is_unknown() -> None:
    cube = window_cube(np.random.default_rng(97))
    cube["value"][:, :, :5] = np.nan
    found = variance_over_windows(cube, windows=2).isel(window=0)
    assert words(found, "total") == {"not_measured"}
    assert np.isnan(found["variance"].values).all()


def test_steps_without_values_are_left_out() -> None:
    cube = window_cube(np.random.default_rng(98))
    gaps = cube.copy(deep=True)
    gaps["value"][:, :, [2, 9]] = np.nan
    found = variance_over_windows(gaps, windows=1, noise="white")
    expected = variance_over_windows(cube.drop_isel(step=[2, 9]), windows=1, noise="white")
    np.testing.assert_array_equal(found["estimate"], expected["estimate"])
    assert (found["n_steps"].values == 8).all()


def test_infinite_values_are_not_measured() -> None:
    cube = window_cube(np.random.default_rng(99))
    infinite, missing = cube.copy(deep=True), cube.copy(deep=True)
    infinite["value"][0, 1, 3:], missing["value"][0, 1, 3:] = np.inf, np.nan
    xr.testing.assert_identical(variance_over_windows(infinite, windows=1), variance_over_windows(missing, windows=1))


def test_steps_with_one_run_each_tell_nothing_of_seeds() -> None:
    values = window_cube(np.random.default_rng(100), (2, 4, 8))["value"].values.copy()
    values[:, np.arange(4)[:, None] != np.arange(8) % 4] = np.nan
    found = variance_over_windows(make_cube(values), windows=1)
    assert words(found, "seed") == words(found, "total") == {"not_identifiable"}


@pytest.mark.slow
def test_huge_and_tiny_values_neither_overflow_nor_vanish() -> None:
    cube = window_cube(np.random.default_rng(101))
    plain = variance_over_windows(cube)
    for power in (-300, 300):
        moved = variance_over_windows(cube.assign(value=np.ldexp(cube["value"], power)))
        np.testing.assert_allclose(moved["estimate"], np.ldexp(plain["estimate"], 2 * power))


def test_a_cube_without_metrics_has_an_empty_answer() -> None:
    cube = window_cube(np.random.default_rng(102)).isel(metric=[])
    assert variance_over_windows(cube)["variance"].shape == (6, 3, 0)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"level": 95}, "level"),
        ({"level": float("nan")}, "level"),
        ({"design": "nestd"}, "nested"),
        ({"noise": "pink"}, "correlated"),
        ({"spacing": "log"}, "checkpoint"),
    ],
)
def test_options_that_do_not_exist_are_refused_with_a_hint(options: dict[str, object], match: str) -> None:
    with pytest.raises(AnalysisError, match=match):
        variance_over_windows(window_cube(np.random.default_rng(103)), **options)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("level", [0.5, 0.9, 0.999])
def test_intervals_grow_with_the_level(level: float) -> None:
    cube = window_cube(np.random.default_rng(104), n=50, rho=0.5)
    inner, outer = (variance_over_windows(cube, windows=1, level=x) for x in (level * 0.9, level))
    assert (outer["lower"].values <= inner["lower"].values + 1e-9).all()
    assert (outer["upper"].values >= inner["upper"].values - 1e-9).all()


@pytest.mark.slow
def test_lower_ends_are_below_upper_ends_where_learning_looks_like_noise() -> None:
    # Seeds that learn at different times have a correlation at the edge of what is looked for.
    cube = ps.load_cube("nano").sel(metric=["eval/nano_induction/acc", "eval/nano_recall/acc"])
    found = variance_over_windows(cube)
    assert (found["autocorrelation"] > 0.979).any()
    assert not (found["lower"] > found["upper"]).any()


def test_a_single_value_has_no_components() -> None:
    found = variance_over_windows(make_cube(np.ones((1, 1, 1, 1))))
    assert found["estimate"].isnull().all()
    assert (found["reason"] > 0).all()
