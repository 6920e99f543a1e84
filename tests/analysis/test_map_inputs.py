"""Which metrics and checkpoints a map takes, and how they are scaled."""

from __future__ import annotations

import numpy as np
import pytest
from cubes_of_arrays import make_cube

from polystab.analysis.maps.inputs import (
    HU2023,
    LARGEST,
    choose_metrics,
    gather,
    hu2023_metrics,
    normalised,
    reference_scale,
)
from polystab.errors import AnalysisError

HU_IDS = [f"weight/all/{name.replace('/', '_over_')}" for name in HU2023]


def walks(n_run: int = 3, n_step: int = 20, n_metric: int = 2, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(1, n_run, n_step, n_metric)).cumsum(axis=2)


def scaled(value: np.ndarray, normalise: str, chosen: list[bool] | None = None) -> np.ndarray:
    cube = make_cube(value)
    rows = gather(cube, cube["metric"].values.tolist())
    picked = np.ones(rows.n_runs, dtype=bool) if chosen is None else np.array(chosen)
    return normalised(rows, normalise, reference_scale(rows, picked))  # type: ignore[arg-type]


def test_the_14_weight_features_are_found_in_the_order_of_the_papers() -> None:
    ids = [*HU_IDS[::-1], "weight/all/kurtosis", "eval/sciq/acc"]
    cube = make_cube(np.zeros((1, 1, 2, len(ids))), metrics=ids)
    assert hu2023_metrics(cube) == HU_IDS
    assert choose_metrics(cube, None) == HU_IDS


def test_features_of_another_subject_do_not_fill_a_gap() -> None:
    ids = [*HU_IDS[1:], "weight/layers.0/L1", "eval/sciq/acc"]
    cube = make_cube(np.zeros((1, 1, 2, len(ids))), metrics=ids)
    assert hu2023_metrics(cube) == []
    assert choose_metrics(cube, None) == ids


def test_the_set_named_hu2023_comes_before_others() -> None:
    named = [name.replace("/all/", "/hu2023/") for name in HU_IDS]
    cube = make_cube(np.zeros((1, 1, 2, 28)), metrics=[*HU_IDS, *named])
    assert hu2023_metrics(cube) == named


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (["eval/task0/ac"], "Did you mean 'eval/task0/acc'"),
        ([], "metrics lists none"),
        (["eval/task0/acc", "eval/task0/acc"], "more than once"),
    ],
)
def test_metrics_that_cannot_be_taken_are_named(metrics: list[str], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        choose_metrics(make_cube(walks()), metrics)


def test_checkpoints_left_out_are_counted_by_reason() -> None:
    value = walks()
    value[0, 0, 3, 1] = np.nan
    value[0, 0, 5, 0] = np.inf
    value[0, 1, 6:] = np.nan
    cube = make_cube(value)
    rows = gather(cube, cube["metric"].values.tolist())
    assert rows.incomplete.tolist() == [1, 0, 0]
    assert rows.nonfinite.tolist() == [1, 0, 0]
    assert rows.used.sum(axis=1).tolist() == [18, 6, 20]


def test_run_scale_is_the_z_score_of_the_papers() -> None:
    from scipy.stats import zscore

    value = walks()
    np.testing.assert_allclose(scaled(value, "run"), zscore(value[0], axis=1, ddof=0), rtol=1e-9, atol=1e-12)


def test_causal_scale_is_the_z_score_of_each_prefix() -> None:
    from scipy.stats import zscore

    value = walks()
    found = scaled(value, "causal")
    assert (found[:, 0] == 0).all()
    for t in range(1, 20):
        np.testing.assert_allclose(found[:, t], zscore(value[0, :, : t + 1], axis=1)[:, -1], rtol=1e-9, atol=1e-9)


def test_reference_scale_is_the_pooled_one_of_the_chosen_runs() -> None:
    value = walks()
    pooled = value[0, :2].reshape(-1, 2)
    expected = (value[0] - pooled.mean(axis=0)) / pooled.std(axis=0)
    np.testing.assert_allclose(scaled(value, "reference", [True, True, False]), expected, rtol=1e-9)


@pytest.mark.parametrize("normalise", ["reference", "causal"])
def test_what_a_run_does_later_moves_no_earlier_value(normalise: str) -> None:
    value = walks()
    later = value.copy()
    later[0, 2, 10:] += 100
    chosen = [True, True, False]
    before, after = scaled(value, normalise, chosen), scaled(later, normalise, chosen)
    assert before[:, :10].tobytes() == after[:, :10].tobytes()


def test_under_run_scale_it_does() -> None:
    value = walks()
    later = value.copy()
    later[0, 2, 10:] += 100
    assert np.abs(scaled(value, "run")[2, :10] - scaled(later, "run")[2, :10]).min() > 0.1


@pytest.mark.parametrize("normalise", ["reference", "causal", "run"])
def test_units_do_not_matter(normalise: str) -> None:
    value = walks()
    np.testing.assert_allclose(
        scaled(value * [1e-9, 1e9] + [5e-9, -3e9], normalise), scaled(value, normalise), rtol=1e-6, atol=1e-6
    )


@pytest.mark.parametrize("normalise", ["causal", "run"])
def test_a_metric_that_is_flat_in_a_run_is_0_there(normalise: str) -> None:
    value = walks()
    value[0, 1, :, 0] = 0.1
    assert (scaled(value, normalise)[1, :, 0] == 0).all()


def test_wild_values_are_held_within_bounds() -> None:
    value = walks()
    value[0, 2, 5, 0] = 1e300
    assert np.nanmax(scaled(value, "reference", [True, True, False])) == LARGEST


def test_a_late_explosion_does_not_flatten_the_causal_past() -> None:
    value = walks()
    later = value.copy()
    later[0, 0, 15] = 1e300
    before, after = scaled(value, "causal"), scaled(later, "causal")
    assert before[0, :15].tobytes() == after[0, :15].tobytes()
    assert np.isfinite(after).all()
