"""REML: published values, statsmodels and direct minimisation as oracles, algebra, known truth, bad input."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.stats

from polystab.analysis.variance import RemlFit, fit_reml
from polystab.errors import AnalysisError

# Box and Tiao (1973), Bayesian Inference in Statistical Analysis, table 5.1.4: six batches of five.
# fmt: off
BOX_TIAO = np.array([
    7.298, 3.846, 2.434, 9.566, 7.990, 5.220, 6.556, 0.608, 11.788, -0.892, 0.110, 10.386, 13.434, 5.510, 8.166,
    2.212, 4.852, 7.092, 9.288, 4.980, 0.282, 9.014, 4.458, 9.446, 7.198, 1.722, 4.782, 8.106, 0.758, 3.758,
])
# fmt: on
BATCH = np.repeat(list("ABCDEF"), 5)

# Davies and Goldsmith (1972), Statistical Methods in Research and Production, table 6.5:
# strength of a paste, two assays of each of three casks of each of ten batches.
# fmt: off
PASTES = np.array([
    62.8, 62.6, 60.1, 62.3, 62.7, 63.1, 60.0, 61.4, 57.5, 56.9, 61.1, 58.9, 58.7, 57.5, 63.9, 63.1, 65.4, 63.7,
    57.1, 56.4, 56.9, 58.6, 64.7, 64.5, 55.1, 55.1, 54.7, 54.2, 58.8, 57.5, 63.4, 64.9, 59.3, 58.1, 60.5, 60.0,
    62.5, 62.6, 61.0, 58.7, 56.9, 57.7, 59.2, 59.4, 65.2, 66.0, 64.8, 64.1, 54.8, 54.8, 64.0, 64.0, 57.7, 56.8,
    58.3, 59.3, 59.2, 59.2, 58.9, 56.6,
])
# fmt: on
PASTE_BATCH = np.repeat(list("ABCDEFGHIJ"), 6)
CASK = np.repeat([f"{batch}:{cask}" for batch in "ABCDEFGHIJ" for cask in "abc"], 2)


def table(shared_data: Path, name: str) -> pd.DataFrame:
    path = shared_data / "varcomp" / f"{name}.csv"
    if not path.is_file():
        pytest.skip(f"{name}.csv is not among the shared data")
    return pd.read_csv(path)


# Published values


def test_dyestuff_has_the_values_of_lme4(shared_data: Path) -> None:
    data = table(shared_data, "Dyestuff")
    fit = fit_reml(data["Yield"], {"batch": data["Batch"]})
    assert round(fit.variance["batch"], 2) == 1764.05
    assert round(fit.variance["residual"], 2) == 2451.25
    assert round(fit.criterion, 3) == 319.654
    assert (round(fit.fixed_effects["intercept"], 4), round(fit.standard_errors["intercept"], 3)) == (1527.5, 19.383)
    assert (fit.singular, fit.converged, fit.n, fit.n_missing) == (False, True, 30, 0)


def test_penicillin_has_the_values_of_lme4(shared_data: Path) -> None:
    data = table(shared_data, "Penicillin")
    fit = fit_reml(data["diameter"], data[["plate", "sample"]])
    assert {name: round(value, 4) for name, value in fit.variance.items()} == {
        "plate": 0.7169,
        "sample": 3.7309,
        "residual": 0.3024,
    }
    assert round(fit.criterion, 3) == 330.861
    assert (round(fit.fixed_effects["intercept"], 4), round(fit.standard_errors["intercept"], 4)) == (22.9722, 0.8086)


def test_sleepstudy_has_the_values_of_lme4(shared_data: Path) -> None:
    data = table(shared_data, "sleepstudy")
    fit = fit_reml(data["Reaction"], {"subject": data["Subject"]}, {"days": data["Days"]})
    assert round(fit.variance["subject"], 2) == 1378.18
    assert round(fit.variance["residual"], 2) == 960.46
    assert round(fit.criterion, 2) == 1786.47
    assert round(fit.fixed_effects["days"], 4) == 10.4673
    assert round(fit.standard_errors["days"], 4) == 0.8042


def test_pastes_nested_has_the_values_of_lme4() -> None:
    # lme4 1.1: lmer(strength ~ 1 + (1 | batch) + (1 | sample), Pastes).
    fit = fit_reml(PASTES, {"sample": CASK, "batch": PASTE_BATCH})
    assert {name: round(value, 3) for name, value in fit.variance.items()} == {
        "sample": 8.434,
        "batch": 1.657,
        "residual": 0.678,
    }
    assert round(fit.criterion, 2) == 246.99


def test_a_true_zero_is_exactly_zero_and_said_to_be_singular() -> None:
    # lme4 1.1: lmer(Yield ~ 1 + (1 | Batch), Dyestuff2).
    fit = fit_reml(BOX_TIAO, {"batch": BATCH})
    assert fit.variance["batch"] == 0.0
    assert fit.singular is True
    assert round(fit.variance["residual"], 2) == 13.81
    assert round(fit.criterion, 4) == 161.8283
    assert round(fit.fixed_effects["intercept"], 4) == 5.6656


# Oracles


def unbalanced(rng: np.random.Generator) -> pd.DataFrame:
    model = rng.choice(8, size=70, p=rng.dirichlet(np.full(8, 3.0)))
    lr, kind = rng.normal(size=70), rng.choice(["a", "b", "c"], size=70)
    y = rng.normal(size=8)[model] + 0.5 * lr + (kind == "b") + 0.7 * rng.normal(size=70)
    return pd.DataFrame({"y": y, "model": model, "lr": lr, "kind": kind})


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_unbalanced_factor_agrees_with_statsmodels(seed: int) -> None:
    import statsmodels.formula.api as smf

    data = unbalanced(np.random.default_rng(seed))
    fit = fit_reml(data["y"], data[["model"]], data[["lr", "kind"]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = smf.mixedlm("y ~ lr + kind", data, groups=data["model"]).fit(reml=True, method="bfgs", gtol=1e-9)
    assert fit.variance["model"] == pytest.approx(float(peer.cov_re.iloc[0, 0]), rel=1e-7)
    assert fit.variance["residual"] == pytest.approx(peer.scale, rel=1e-7)
    assert fit.criterion == pytest.approx(-2 * peer.llf, abs=1e-8)
    for ours, theirs in [("intercept", "Intercept"), ("lr", "lr"), ("kind[b]", "kind[T.b]"), ("kind[c]", "kind[T.c]")]:
        assert fit.fixed_effects[ours] == pytest.approx(peer.fe_params[theirs], abs=1e-7)
        # Theirs come from the joint curvature with the variance, ours and lme4's from least squares.
        assert fit.standard_errors[ours] == pytest.approx(peer.bse_fe[theirs], rel=5e-3)


@pytest.mark.slow
def test_an_unbalanced_nested_design_agrees_with_statsmodels() -> None:
    import statsmodels.formula.api as smf

    rng = np.random.default_rng(3)
    seed = rng.integers(0, 24, size=110)
    model = seed // 4
    y = rng.normal(size=6)[model] + 0.8 * rng.normal(size=24)[seed] + 0.5 * rng.normal(size=110)
    data = pd.DataFrame({"y": y, "model": model, "seed": seed})
    fit = fit_reml(y, {"model": model, "seed": seed})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = smf.mixedlm("y ~ 1", data, groups="model", vc_formula={"seed": "0 + C(seed)"}, re_formula="1")
        peer = peer.fit(method="bfgs", gtol=1e-9)
    assert fit.variance["model"] == pytest.approx(float(peer.cov_re.iloc[0, 0]), rel=1e-6)
    assert fit.variance["seed"] == pytest.approx(float(peer.vcomp[0]), rel=1e-6)
    assert fit.variance["residual"] == pytest.approx(peer.scale, rel=1e-6)


def direct_criterion(y: Any, indicators: list[Any], x: Any, ratio: Any) -> float:
    """The definition, with inverses of n x n matrices."""
    n, p = x.shape
    v = np.eye(n) + sum(r * z @ z.T for r, z in zip(ratio, indicators, strict=True))
    inverse = np.linalg.inv(v)
    inner = x.T @ inverse @ x
    projected = inverse @ y - inverse @ x @ np.linalg.solve(inner, x.T @ inverse @ y)
    return float(
        np.linalg.slogdet(v)[1]
        + np.linalg.slogdet(inner)[1]
        + (n - p) * (1 + np.log(2 * np.pi * (y @ projected) / (n - p)))
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_criterion_is_the_definition_and_no_direct_search_finds_less(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = 40
    codes = [rng.integers(0, rng.integers(3, 7), n) for _ in range(1 + seed % 3)]
    x = np.column_stack([np.ones(n), rng.normal(5, 1, size=(n, 2))])
    y = 7 + rng.normal(size=n) + sum(rng.choice([0, 0.5, 3]) * rng.normal(size=9)[c] for c in codes)
    fit = fit_reml(y, {f"f{k}": c for k, c in enumerate(codes)}, (x, ["one", "a", "b"]))
    indicators = [(c[:, None] == np.unique(c)).astype(float) for c in codes]
    variance = np.array(list(fit.variance.values()))
    assert fit.criterion == pytest.approx(direct_criterion(y, indicators, x, variance[:-1] / variance[-1]), abs=1e-8)
    found = scipy.optimize.minimize(
        lambda theta: direct_criterion(y, indicators, x, theta**2), np.full(len(codes), 0.7), method="Nelder-Mead"
    )
    assert fit.criterion <= found.fun + 1e-7
    assert fit.converged


def crossed(rng: np.random.Generator, n: int, sizes: tuple[int, int], sd: tuple[float, float, float]) -> Any:
    """Two crossed unbalanced factors in which every level occurs."""
    codes = [rng.permutation(np.concatenate([np.arange(q), rng.integers(0, q, n - q)])) for q in sizes]
    y = sum(s * rng.normal(size=q)[c] for s, q, c in zip(sd, sizes, codes, strict=False)) + sd[2] * rng.normal(size=n)
    return y, codes


@pytest.mark.slow
def test_many_levels_satisfy_the_likelihood_equations_of_a_direct_inverse() -> None:
    # 280 levels: beyond the dense engine. Score: tr(P Z Z') = y'P Z Z'P y / residual.
    rng = np.random.default_rng(5)
    y, (a, b) = crossed(rng, 700, (200, 80), (0.7, 0.4, 1.0))
    x = np.column_stack([np.ones(700), rng.normal(size=700)])
    fit = fit_reml(y, {"a": a, "b": b}, {"x": x[:, 1]})
    residual = fit.variance["residual"]
    indicators = [(c[:, None] == np.arange(c.max() + 1)).astype(float) for c in (a, b)]
    v = np.eye(700) + sum(fit.variance[k] / residual * z @ z.T for k, z in zip("ab", indicators, strict=True))
    inverse = np.linalg.inv(v)
    covariance = np.linalg.inv(x.T @ inverse @ x)
    p = inverse - inverse @ x @ covariance @ x.T @ inverse
    for z in indicators:
        assert np.trace(z.T @ p @ z) == pytest.approx(((z.T @ p @ y) ** 2).sum() / residual, rel=1e-6)
    assert y @ p @ y / 698 == pytest.approx(residual, rel=1e-8)
    ratio = [fit.variance[k] / residual for k in "ab"]
    assert fit.criterion == pytest.approx(direct_criterion(y, indicators, x, ratio), abs=1e-7)
    effects = covariance @ x.T @ inverse @ y
    np.testing.assert_allclose(list(fit.fixed_effects.values()), effects, rtol=1e-7)
    np.testing.assert_allclose(list(fit.standard_errors.values()), np.sqrt(np.diag(covariance) * residual), rtol=1e-7)


def test_balanced_one_way_is_the_analysis_of_variance() -> None:
    rng = np.random.default_rng(6)
    y = rng.normal(size=(6, 1, 500)) * rng.uniform(0, 2, size=500) + rng.normal(size=(6, 4, 500))
    fit = fit_reml(y.reshape(24, 500), {"model": np.repeat(np.arange(6), 4)})
    within = y.var(axis=1, ddof=1).mean(axis=0)
    between = (4 * y.mean(axis=1).var(axis=0, ddof=1) - within) / 4
    positive = between > 0
    np.testing.assert_allclose(fit.variance["model"][positive], between[positive], rtol=1e-8)
    np.testing.assert_allclose(fit.variance["residual"][positive], within[positive], rtol=1e-8)
    np.testing.assert_array_equal(fit.singular, ~positive)
    assert (fit.variance["model"][~positive] == 0).all()
    pooled = ((y - y.mean(axis=(0, 1))) ** 2).sum(axis=(0, 1)) / 23
    np.testing.assert_allclose(fit.variance["residual"][~positive], pooled[~positive], rtol=1e-8)


# Algebra


def example(seed: int = 7) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(seed)
    y, (a, b) = crossed(rng, 90, (9, 7), (1.0, 0.6, 0.8))
    return y, {"a": a, "b": b}, {"x": rng.normal(size=90), "kind": rng.choice(["u", "v", "w"], size=90)}


def large_example() -> tuple[Any, dict[str, Any], dict[str, Any]]:
    rng = np.random.default_rng(8)
    y, (a, b) = crossed(rng, 1500, (220, 60), (1.0, 0.6, 0.8))
    return y, {"a": a, "b": b}, {"x": rng.normal(size=1500), "kind": rng.choice(["u", "v", "w"], size=1500)}


EXAMPLES = pytest.mark.parametrize("make", [example, large_example])
Make = Callable[[], tuple[Any, dict[str, Any], dict[str, Any]]]


def same(one: RemlFit, two: RemlFit, *, rel: float = 1e-6) -> None:
    for name in one.variance:
        assert two.variance[name] == pytest.approx(one.variance[name], rel=rel)
    assert two.criterion == pytest.approx(one.criterion, rel=1e-9)
    for name in one.standard_errors:
        assert two.standard_errors[name] == pytest.approx(one.standard_errors[name], rel=rel)


@pytest.mark.slow
@EXAMPLES
@pytest.mark.parametrize("factor", [-3.0, 1e-120, 1e100])
def test_scaling_y_scales_variances_and_shifts_the_criterion(make: Make, factor: float) -> None:
    y, factors, fixed = make()
    one, two = fit_reml(y, factors, fixed), fit_reml(factor * y, factors, fixed)
    for name, value in one.variance.items():
        assert two.variance[name] == pytest.approx(factor**2 * value, rel=1e-6)
    df = one.n - len(one.fixed_effects)
    assert two.criterion == pytest.approx(one.criterion + 2 * df * np.log(abs(factor)), rel=1e-9)
    for name, value in one.fixed_effects.items():
        assert two.fixed_effects[name] == pytest.approx(factor * value, rel=1e-6)


@pytest.mark.slow
@EXAMPLES
def test_adding_fixed_effects_to_y_moves_only_them(make: Make) -> None:
    y, factors, fixed = make()
    one = fit_reml(y, factors, fixed)
    two = fit_reml(y + 1000 + 20 * fixed["x"] - 5 * (fixed["kind"] == "v"), factors, fixed)
    same(one, two)
    moved = [two.fixed_effects[name] - one.fixed_effects[name] for name in ("intercept", "x", "kind[v]", "kind[w]")]
    np.testing.assert_allclose(moved, [1000, 20, -5, 0], atol=1e-7)


@pytest.mark.slow
@EXAMPLES
def test_permuting_rows_changes_nothing(make: Make) -> None:
    y, factors, fixed = make()
    order = np.random.default_rng(0).permutation(len(y))
    shuffled = [{name: column[order] for name, column in columns.items()} for columns in (factors, fixed)]
    same(fit_reml(y, factors, fixed), fit_reml(y[order], *shuffled))


@pytest.mark.slow
@EXAMPLES
def test_relabelling_and_reordering_factors_changes_nothing(make: Make) -> None:
    y, factors, fixed = make()
    renamed = {"b": [("level", -int(k)) for k in factors["b"]], "a": [f"n{k}" for k in factors["a"]]}
    same(fit_reml(y, factors, fixed), fit_reml(y, renamed, fixed))


@pytest.mark.slow
@EXAMPLES
def test_a_matrix_means_the_same_as_its_columns(make: Make) -> None:
    y, factors, fixed = make()
    kind = fixed["kind"]
    columns = [np.ones(len(y)), fixed["x"], kind == "v", kind == "w"]
    one = fit_reml(y, factors, fixed)
    two = fit_reml(y, factors, (np.stack(columns, axis=1), ["c", "x", "v", "w"]))
    np.testing.assert_allclose(list(two.fixed_effects.values()), list(one.fixed_effects.values()), rtol=1e-6)
    assert list(one.fixed_effects) == ["intercept", "x", "kind[v]", "kind[w]"]
    assert list(two.fixed_effects) == ["c", "x", "v", "w"]


@pytest.mark.slow
@EXAMPLES
def test_missing_rows_are_left_out_and_counted(make: Make) -> None:
    y, factors, fixed = make()
    gap, unlabelled, unknown = 3, 10, 20
    holes = y.copy()
    holes[gap] = np.nan
    a = [None if i == unlabelled else str(k) for i, k in enumerate(factors["a"])]
    x = [None if i == unknown else value for i, value in enumerate(fixed["x"])]
    fit = fit_reml(holes, factors | {"a": a}, fixed | {"x": x})
    kept = np.delete(np.arange(len(y)), [gap, unlabelled, unknown])
    rest = [{name: column[kept] for name, column in columns.items()} for columns in (factors, fixed)]
    same(fit_reml(y[kept], *rest), fit)
    assert (fit.n, fit.n_missing) == (len(y) - 3, 3)


def test_input_is_not_changed() -> None:
    y, factors, fixed = example()
    before = y.copy(), {k: v.copy() for k, v in factors.items()}, {k: v.copy() for k, v in fixed.items()}
    fit_reml(y, factors, fixed)
    np.testing.assert_equal((y, factors, fixed), before)


# Many responses


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0.0, 0.08])
@pytest.mark.parametrize("names", ["a", "ab"])
def test_many_responses_are_fitted_as_one_by_one(missing: float, names: str) -> None:
    rng = np.random.default_rng(9)
    a, b = (c.ravel() for c in np.indices((5, 8)))
    y = rng.normal(size=(5, 30))[a] + 0.4 * rng.normal(size=(8, 30))[b] + rng.normal(size=(40, 30))
    y[rng.random(y.shape) < missing] = np.nan
    factors = {name: {"a": a, "b": b}[name] for name in names}
    fixed = {"x": rng.normal(size=40)}
    many = fit_reml(y.reshape(40, 5, 6), factors, fixed)
    assert many.criterion.shape == many.variance["a"].shape == many.singular.shape == (5, 6)
    for i in range(30):
        one = fit_reml(y[:, i], factors, fixed)
        for name, value in one.variance.items():
            assert many.variance[name].flat[i] == pytest.approx(value, rel=1e-7, abs=1e-12)
        assert many.criterion.flat[i] == pytest.approx(one.criterion, abs=1e-9)
        assert many.standard_errors["x"].flat[i] == pytest.approx(one.standard_errors["x"], rel=1e-7)
        assert many.fixed_effects["x"].flat[i] == pytest.approx(one.fixed_effects["x"], abs=1e-9)
        assert (many.n.flat[i], bool(many.singular.flat[i])) == (one.n, one.singular)


def test_a_response_without_estimates_does_not_spoil_the_others() -> None:
    few = np.where(np.arange(30) < 2, BOX_TIAO, np.nan)
    one_batch = np.where(np.arange(30) < 5, BOX_TIAO, np.nan)
    copies = np.repeat([1.0, 2, 4, 3, 2, 5], 5)
    y = np.stack([BOX_TIAO, few, np.full(30, 2.0), one_batch, copies, np.full(30, np.nan)], axis=1)
    fit = fit_reml(y, {"batch": BATCH})
    assert [bool(text) for text in fit.problem] == [False, True, False, True, True, True]
    np.testing.assert_array_equal(np.isnan(fit.variance["residual"]), [False, True, False, True, True, True])
    assert fit.criterion[0] == pytest.approx(161.8283, abs=1e-4)
    assert fit.variance["residual"][2] == 0.0
    assert fit.fixed_effects["intercept"][2] == pytest.approx(2.0)


def test_a_response_alone_in_two_dimensions_keeps_its_axis() -> None:
    fit = fit_reml(BOX_TIAO[:, None], {"batch": BATCH})
    assert fit.criterion.shape == (1,)


# Truth


def within_standard_errors(found: Any, truth: float, allowed: float = 4.0) -> None:
    assert abs(found.mean() - truth) < allowed * found.std(ddof=1) / np.sqrt(len(found))


@pytest.mark.slow
def test_the_truth_of_an_unbalanced_crossed_design_is_recovered() -> None:
    rng = np.random.default_rng(10)
    a, b = (c.ravel() for c in np.indices((12, 10)))
    kept = rng.random(120) > 0.2
    a, b = a[kept], b[kept]
    y = rng.normal(0, 1.5, (12, 1000))[a] + rng.normal(0, 1.0, (10, 1000))[b] + rng.normal(0, 0.5, (len(a), 1000))
    fit = fit_reml(y, {"a": a, "b": b})
    assert fit.converged.all()
    for name, truth in (("a", 2.25), ("b", 1.0), ("residual", 0.25)):
        within_standard_errors(fit.variance[name], truth)


@pytest.mark.slow
def test_the_truth_of_an_unbalanced_nested_design_is_recovered() -> None:
    rng = np.random.default_rng(11)
    seed = np.sort(np.concatenate([np.arange(60), rng.integers(0, 60, 120)]))
    model = seed // 5
    n = len(seed)
    y = rng.normal(0, 2.0, (12, 1000))[model] + rng.normal(0, 1.0, (60, 1000))[seed] + rng.normal(0, 1.0, (n, 1000))
    fit = fit_reml(y, {"model": model, "seed": seed})
    assert fit.converged.all()
    for name, truth in (("model", 4.0), ("seed", 1.0), ("residual", 1.0)):
        within_standard_errors(fit.variance[name], truth)


def test_data_without_a_component_give_exact_zeros_about_as_often_as_theory_says() -> None:
    # Balanced one-way, no batch effect: singular when F(5, 24) <= 1.
    rng = np.random.default_rng(12)
    fit = fit_reml(rng.normal(size=(30, 4000)), {"batch": BATCH})
    share = scipy.stats.f.cdf(1, 5, 24)
    assert abs(fit.singular.mean() - share) < 4 * np.sqrt(share * (1 - share) / 4000)
    np.testing.assert_array_equal(fit.variance["batch"] == 0, fit.singular)


@pytest.mark.slow
def test_a_large_crossed_table_is_recovered() -> None:
    # 5,000 rows of a table like lme4's InstEval: 400 and 150 levels, a third factor, two fixed effects.
    rng = np.random.default_rng(13)
    _, (s, d) = crossed(rng, 5000, (400, 150), (0, 0, 0))
    service = rng.integers(0, 2, 5000)
    cell = (d % 14) * 2 + service
    y = 3 + 0.6 * rng.normal(size=400)[s] + 0.5 * rng.normal(size=150)[d] + 0.4 * rng.normal(size=28)[cell]
    y += rng.normal(size=5000) - 0.3 * (s % 3 == 1)
    fit = fit_reml(
        y,
        {"s": s, "d": d, "cell": cell},
        {"service": service, "group": np.array(["g0", "g1", "g2"])[s % 3]},
    )
    assert fit.converged
    assert not fit.singular
    truth = {"s": 0.36, "d": 0.25, "cell": 0.16, "residual": 1.0}
    levels = {"s": 400, "d": 150, "cell": 28, "residual": 4600}
    for name, value in truth.items():
        assert abs(np.log(fit.variance[name] / value)) < 4 * np.sqrt(2 / levels[name])
    assert abs(fit.fixed_effects["group[g1]"] + 0.3) < 4 * fit.standard_errors["group[g1]"]


@pytest.mark.slow
def test_a_long_chain_of_nested_factors_with_many_levels_is_recovered() -> None:
    rng = np.random.default_rng(14)
    fine = rng.permutation(np.concatenate([np.arange(3000), rng.integers(0, 3000, 9000)]))
    middle, coarse = fine // 10, fine // 100
    y = (
        rng.normal(size=3000)[fine]
        + rng.normal(size=300)[middle]
        + rng.normal(size=30)[coarse]
        + rng.normal(size=12000)
    )
    fit = fit_reml(y, {"coarse": coarse, "fine": fine, "middle": middle})
    for name, count in (("fine", 3000), ("middle", 300), ("coarse", 30), ("residual", 9000)):
        assert abs(np.log(fit.variance[name])) < 6 * np.sqrt(2 / count)
    assert fit.converged


def test_a_true_zero_among_many_levels_is_exactly_zero() -> None:
    rng = np.random.default_rng(15)
    s = np.repeat(np.arange(300), 6)
    y = rng.normal(size=1800)
    y -= np.bincount(s, y)[s] / 6  # less spread between levels than chance would give
    fit = fit_reml(y, {"s": s})
    assert (fit.variance["s"], fit.singular, fit.converged) == (0.0, True, True)
    assert fit.variance["residual"] == pytest.approx(y.var(ddof=1), rel=1e-7)


# Intervals


@pytest.mark.slow
def test_profile_interval_of_a_balanced_design_is_where_the_criterion_has_risen() -> None:
    fit = fit_reml(PASTES, {"sample": CASK})
    within = PASTES.reshape(30, 2).var(axis=1, ddof=1).mean()
    between = 2 * PASTES.reshape(30, 2).mean(axis=1).var(ddof=1)

    def criterion(sample: float, residual: float) -> float:
        mixed = residual + 2 * sample
        return 30 * np.log(residual) + 29 * np.log(mixed) + 30 * within / residual + 29 * between / mixed

    def profile(sample: float) -> float:
        return float(scipy.optimize.minimize_scalar(lambda log: criterion(sample, np.exp(log)), bounds=(-5, 5)).fun)

    least = criterion(fit.variance["sample"], fit.variance["residual"])
    for end in fit.profile_interval("sample"):
        assert profile(end) - least == pytest.approx(scipy.stats.chi2.ppf(0.95, 1), abs=1e-5)


@pytest.mark.slow
def test_profile_interval_of_a_component_at_zero_starts_at_zero() -> None:
    fit = fit_reml(BOX_TIAO, {"batch": BATCH})
    low, high = fit.profile_interval("batch")
    assert low == 0.0
    assert high > 0
    low, high = fit.profile_interval("residual", level=0.5)
    assert low < fit.variance["residual"] < high


@pytest.mark.slow
def test_profile_intervals_widen_with_the_level() -> None:
    fit = fit_reml(PASTES, {"sample": CASK, "batch": PASTE_BATCH})
    for name in fit.variance:
        ends = [fit.profile_interval(name, level=level) for level in (0.5, 0.9, 0.99)]
        for (low, high), (lower, higher) in pairwise(ends):
            assert lower <= low <= fit.variance[name] <= high <= higher


def test_a_factor_with_two_levels_gets_no_interval() -> None:
    fit = fit_reml(BOX_TIAO, {"half": np.arange(30) % 2})
    assert np.isnan(fit.profile_interval("half")).all()


def test_profile_intervals_of_many_responses_have_their_shape() -> None:
    fit = fit_reml(np.stack([BOX_TIAO, np.full(30, 1.0), np.full(30, np.nan)], axis=1), {"batch": BATCH})
    low, high = fit.profile_interval("residual")
    assert low[0] > 0
    assert (low[1], high[1]) == (0.0, 0.0)
    assert np.isnan([low[2], high[2]]).all()


@pytest.mark.slow
def test_profile_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(16)
    model = np.repeat(np.arange(20), 4)
    y = rng.normal(size=(20, 200))[model] + rng.normal(size=(80, 200))
    low, high = fit_reml(y, {"model": model}).profile_interval("model")
    assert abs(((low <= 1) & (high >= 1)).mean() - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 200)


# Bad input


def test_a_constant_has_no_variance() -> None:
    fit = fit_reml(np.full(30, 3.3), {"batch": BATCH})
    assert fit.variance == {"batch": 0.0, "residual": 0.0}
    assert (fit.fixed_effects["intercept"], fit.singular, fit.criterion) == (pytest.approx(3.3), True, -np.inf)


@pytest.mark.parametrize("many", [0, 300])
@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ({"b": np.zeros}, "factor 'b' cannot be estimated: it has one level"),
        ({"b": np.arange}, "'residual', 'b' cannot be told apart .*'b' has one row for every level"),
        ({"b": lambda n: np.arange(n) % 5, "c": lambda n: -(np.arange(n) % 5)}, "'b', 'c' cannot be told apart"),
        ({"b": lambda n: np.arange(n) % 2}, "factor 'b' cannot be estimated: it is a combination of the fixed"),
    ],
)
def test_components_that_cannot_be_told_apart_are_named(factors: dict[str, Any], message: str, many: int) -> None:
    n = 1200 if many else 30
    labels = {name: make(n) for name, make in factors.items()}
    if many:  # a factor with many levels, for the sparse engine
        labels["s"] = np.random.default_rng(0).permutation(np.repeat(np.arange(300), 4))
    y = np.random.default_rng(1).normal(size=n)
    with pytest.raises(AnalysisError, match=message):
        fit_reml(y, labels, {"half": np.arange(n) % 2})


@pytest.mark.parametrize(
    ("y", "factors", "fixed", "message"),
    [
        (np.where(BOX_TIAO > 11, np.inf, BOX_TIAO), {"b": BATCH}, None, "y is infinite in 8, 12"),
        (BOX_TIAO * 1j, {"b": BATCH}, None, "not real numbers"),
        (list("abc"), {"b": list("aab")}, None, "not real numbers"),
        ([], {"b": []}, None, "must be .rows,."),
        (BOX_TIAO * np.nan, {"b": BATCH}, None, "no row has a value"),
        (BOX_TIAO, {}, None, "factors is empty"),
        (BOX_TIAO, [BATCH], None, "give a mapping"),
        (BOX_TIAO, {"b": BATCH[:5]}, None, "factor 'b' has shape .5,.; y has 30 rows"),
        (BOX_TIAO, {"b": "ABC"}, None, "give one label for every row"),
        (BOX_TIAO, {"b": [{}] * 30}, None, "labels that cannot be told apart"),
        (BOX_TIAO, {"residual": BATCH}, None, "rename it"),
        (BOX_TIAO, {3: BATCH}, None, "names are text"),
        (BOX_TIAO, {"b": BATCH}, {"x": np.where(BOX_TIAO > 11, np.inf, 0)}, "fixed effect 'x' is infinite in 2 rows"),
        (BOX_TIAO, {"b": BATCH}, {"x": np.arange(30), "z": 2 * np.arange(30)}, "'z' are combinations"),
        (BOX_TIAO, {"b": BATCH}, {"x": np.arange(5)}, "fixed effect 'x' has shape"),
        (BOX_TIAO, {"b": BATCH}, (np.ones((30, 2)), ["x"]), "one name, and no name twice"),
        (BOX_TIAO, {"b": BATCH}, {"x": np.arange(30).astype("M8[D]")}, "numbers and text are allowed"),
        ([1.0, 2, 3], {"b": list("aab")}, {"x": [1, 2, 5], "z": [1, 4, 9]}, "3 rows with a value cannot give 3 fixed"),
        (np.repeat([1.0, 2, 4, 3, 2, 5], 5), {"b": BATCH}, None, "explain y exactly"),
    ],
)
def test_what_cannot_be_fitted_is_refused(y: Any, factors: Any, fixed: Any, message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        fit_reml(y, factors, fixed)


def test_profile_of_an_unknown_component_suggests_one() -> None:
    with pytest.raises(AnalysisError, match="Did you mean 'batch'"):
        fit_reml(BOX_TIAO, {"batch": BATCH}).profile_interval("bacth")


def test_a_level_of_the_interval_lies_between_zero_and_one() -> None:
    with pytest.raises(AnalysisError, match="level is 95"):
        fit_reml(BOX_TIAO, {"batch": BATCH}).profile_interval("batch", level=95)


def test_a_large_common_part_costs_no_digits() -> None:
    fit = fit_reml(1e12 + np.arange(6.0), {"a": [1, 1, 2, 2, 3, 3]})
    assert fit.variance["a"] == pytest.approx(3.75, rel=1e-12)


def test_a_large_common_part_comes_back_in_the_intercept() -> None:
    fit = fit_reml(1e12 + np.arange(6.0), {"a": [1, 1, 2, 2, 3, 3]})
    assert fit.fixed_effects["intercept"] == 1e12 + 2.5


def test_differences_of_rounding_are_no_spread() -> None:
    fit = fit_reml([0.1 + 0.2, 0.3, 0.3, 0.3, 0.1 + 0.2, 0.3], {"a": [1, 1, 2, 2, 3, 3]})
    assert fit.variance["residual"] == 0.0


def test_variances_beyond_the_largest_float_are_infinite() -> None:
    assert fit_reml(1e305 * np.arange(6.0), {"a": [1, 1, 2, 2, 3, 3]}).variance["residual"] == np.inf


def test_values_too_far_apart_to_be_moved_are_fitted() -> None:
    y = np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 0.5, 1.0])
    factor = {"a": [1, 1, 2, 2, 3, 3, 4, 4]}
    big, small = fit_reml(1.7e308 * y, factor), fit_reml(y, factor)
    n_free = len(y) - 1
    assert big.criterion - small.criterion == pytest.approx(2 * n_free * np.log(1.7e308), rel=1e-9)
