"""From a tidy table to a cube."""

from __future__ import annotations

import tracemalloc
import warnings
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import polystab as ps
from polystab.cube.build import concatenated, timestamp
from polystab.cube.specs import DIMS
from polystab.errors import ConflictError, CubeTooLargeError, InvalidCubeError, RecordsError

CREATED = "2026-01-31T12:00:00+00:00"


def build(frame: pd.DataFrame) -> xr.Dataset:
    return ps.cube_from_records(frame, created=CREATED)


# Values


def test_each_row_becomes_its_cell(records: pd.DataFrame) -> None:
    cube = build(records)
    for row in records.itertuples():
        cell = cube.sel(model=row.model, seed=row.seed, step=row.step, metric=row.metric)
        assert (cell["value"].item(), cell["stderr"].item()) == (row.value, row.stderr)


def test_a_cell_without_a_row_is_nan(records: pd.DataFrame) -> None:
    cube = build(records.iloc[1:])
    assert int(cube["value"].isnull().sum()) == 1
    assert np.isnan(cube["value"].sel(model="pythia-1b", seed=0, step=0, metric="eval/arc_easy/acc"))


def test_the_cube_is_valid(records: pd.DataFrame) -> None:
    assert ps.validate_cube(build(records)) == []


@pytest.mark.parametrize("value", [0.0, -1.5, np.inf, -np.inf, 1e308, 5e-324])
def test_every_number_is_kept_as_it_is(one: Callable[..., xr.Dataset], value: float) -> None:
    assert one(value)["value"].item() == value


def test_nan_is_a_cell_that_was_not_measured(one: Callable[..., xr.Dataset]) -> None:
    assert one([np.nan, 0.5], seed=[0, 1])["value"].isnull().values.ravel().tolist() == [True, False]


def test_nan_beside_a_value_for_one_cell_gives_way(one: Callable[..., xr.Dataset]) -> None:
    assert one([np.nan, 0.5, np.nan])["value"].item() == 0.5


def test_stderr_that_is_nan_throughout_is_left_out(one: Callable[..., xr.Dataset]) -> None:
    assert "stderr" not in one(0.5, stderr=np.nan)


def test_without_stderr_there_is_none(records: pd.DataFrame) -> None:
    assert "stderr" not in build(records.drop(columns="stderr"))


def test_integers_become_floats(one: Callable[..., xr.Dataset]) -> None:
    assert one([1, 2], seed=[0, 1])["value"].dtype == np.float64


def test_the_table_is_not_changed(records: pd.DataFrame) -> None:
    before = records.copy(deep=True)
    build(records)
    pd.testing.assert_frame_equal(records, before)


# Order


def test_models_are_ordered_by_size(one: Callable[..., xr.Dataset]) -> None:
    names = ["pythia-1.4b", "pythia-70m", "pythia-12b", "pythia-410m", "pythia-1b", "pythia-160m"]
    assert one([0.5] * 6, model=names)["model"].values.tolist() == [
        "pythia-70m",
        "pythia-160m",
        "pythia-410m",
        "pythia-1b",
        "pythia-1.4b",
        "pythia-12b",
    ]


def test_seeds_and_steps_increase_and_metrics_are_in_order_of_name(records: pd.DataFrame) -> None:
    cube = build(records.iloc[::-1])
    for dim in ("seed", "step", "metric"):
        assert cube[dim].values.tolist() == sorted(cube[dim].values.tolist())


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_order_of_rows_does_not_matter(records: pd.DataFrame, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(records))))
    assert build(records.iloc[order]).identical(build(records))


def test_the_index_of_the_table_does_not_matter(records: pd.DataFrame) -> None:
    assert build(records.set_index(np.zeros(len(records), dtype=int))).identical(build(records))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    cells=st.dictionaries(
        st.tuples(
            st.sampled_from(["a-70m", "a-1b", "x"]),
            st.integers(-3, 10**6),
            st.integers(0, 10**6),
            st.sampled_from(["eval/t/acc", "loss/train/ce", "weight/layers.1.mlp/l2_norm"]),
        ),
        st.floats(allow_nan=False),
        min_size=1,
        max_size=8,
    )
)
def test_a_table_goes_in_and_comes_out_unchanged(cells: dict[tuple[str, int, int, str], float]) -> None:
    frame = pd.DataFrame([(*cell, value) for cell, value in cells.items()], columns=[*DIMS, "value"])
    out = build(frame)["value"].to_series().dropna().to_dict()
    assert out == cells


# Duplicates


def test_equal_repetitions_are_one_value(records: pd.DataFrame) -> None:
    assert build(pd.concat([records, records])).identical(build(records))


def test_two_values_for_one_cell_are_refused_by_name(one: Callable[..., xr.Dataset]) -> None:
    with pytest.raises(ConflictError, match=r"1 cells have two different values: 'm\|0\|10\|eval/arc/acc'"):
        one([0.5, 0.6])


def test_two_standard_errors_for_one_cell_are_refused(one: Callable[..., xr.Dataset]) -> None:
    with pytest.raises(ConflictError, match="two different standard errors"):
        one([0.5, 0.5], stderr=[0.1, 0.2])


def test_many_conflicts_are_listed_five_at_most(one: Callable[..., xr.Dataset]) -> None:
    with pytest.raises(ConflictError, match=r"8 cells .* and 3 more"):
        one([*[0.1] * 8, *[0.2] * 8], seed=[*range(8), *range(8)])


# Columns


@pytest.mark.parametrize("column", ["model", "seed", "step", "metric", "value"])
def test_a_missing_column_is_named(records: pd.DataFrame, column: str) -> None:
    with pytest.raises(RecordsError, match=f"columns '{column}' are missing"):
        build(records.drop(columns=column))


def test_an_unknown_column_is_named(records: pd.DataFrame) -> None:
    with pytest.raises(RecordsError, match="unknown columns 'wandb_id'"):
        build(records.assign(wandb_id="x"))


def test_a_repeated_column_is_named(records: pd.DataFrame) -> None:
    with pytest.raises(RecordsError, match="columns 'value' stand more than once"):
        build(pd.concat([records, records[["value"]]], axis=1))


def test_a_table_without_rows_is_refused(records: pd.DataFrame) -> None:
    with pytest.raises(RecordsError, match="no rows"):
        build(records.iloc[:0])


@pytest.mark.parametrize("column", ["value", "stderr"])
def test_numbers_as_text_are_refused(records: pd.DataFrame, column: str) -> None:
    with pytest.raises(RecordsError, match=f"column '{column}' is (str|object), not numbers"):
        build(records.assign(**{column: "0.5"}))


# Labels


@pytest.mark.parametrize("column", ["seed", "step"])
@pytest.mark.parametrize("label", ["a", "3", 0.5, np.inf, 10**30, pd.Timestamp("2026-01-01")])
def test_labels_that_are_no_integers_are_refused(records: pd.DataFrame, column: str, label: object) -> None:
    labels = records[column].astype(object)
    labels[0] = label
    with pytest.raises(RecordsError, match=f"column '{column}' must hold integers"):
        build(records.assign(**{column: labels}))


@pytest.mark.parametrize("column", ["model", "seed", "step", "metric"])
@pytest.mark.parametrize("label", [None, np.nan, pd.NA])
def test_empty_labels_are_refused(records: pd.DataFrame, column: str, label: object) -> None:
    labels = records[column].astype(object)
    labels[3] = label
    with pytest.raises(RecordsError, match=f"column '{column}' has 1 empty labels"):
        build(records.assign(**{column: labels}))


@pytest.mark.parametrize("column", ["model", "metric"])
def test_blank_labels_are_refused(records: pd.DataFrame, column: str) -> None:
    with pytest.raises(RecordsError, match=f"column '{column}' has empty labels"):
        build(records.assign(**{column: "  "}))


def test_a_step_below_zero_is_refused(records: pd.DataFrame) -> None:
    with pytest.raises(RecordsError, match=r"counts from 0, but has -5"):
        build(records.assign(step=-5))


def test_a_seed_below_zero_is_fine(one: Callable[..., xr.Dataset]) -> None:
    assert one(0.5, seed=-1)["seed"].item() == -1


def test_whole_floats_are_integers(one: Callable[..., xr.Dataset]) -> None:
    assert one(0.5, step=1000.0)["step"].item() == 1000


def test_labels_that_read_the_same_are_the_same(one: Callable[..., xr.Dataset]) -> None:
    cube = one([0.5, 0.6], model=[1, "1"], seed=[0, 1])
    assert cube["model"].values.tolist() == ["1"]
    assert cube["value"].values.ravel().tolist() == [0.5, 0.6]


def test_a_metric_of_an_unknown_family_is_refused(records: pd.DataFrame) -> None:
    with pytest.raises(RecordsError, match="'accuracy/arc/acc' starts with an unknown family"):
        build(records.replace({"metric": {"eval/arc_easy/acc": "accuracy/arc/acc"}}))


@pytest.mark.parametrize("label", ["größe-70m", "模型", "a b", "🙂", "a/b", "x" * 5000])
def test_any_text_is_a_model(one: Callable[..., xr.Dataset], label: str) -> None:
    assert one(0.5, model=label)["model"].item() == label


# Types of pandas


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["int32", "uint16", "Int64", "Float64", "object", "category", "bool"])
def test_seeds_may_have_any_integer_type(records: pd.DataFrame, dtype: str) -> None:
    two = records[records["seed"] < 2]
    assert build(two.astype({"seed": dtype})).identical(build(two))


@pytest.mark.parametrize("dtype", ["category", "string", "object"])
def test_names_may_have_any_text_type(records: pd.DataFrame, dtype: str) -> None:
    assert build(records.astype({"model": dtype, "metric": dtype, "run_name": dtype})).identical(build(records))


@pytest.mark.parametrize("dtype", ["float32", "Float64"])
def test_values_may_have_any_float_type(records: pd.DataFrame, dtype: str) -> None:
    np.testing.assert_allclose(build(records.astype({"value": dtype}))["value"], build(records)["value"], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["Int64", "Float64"])
def test_a_nullable_value_that_is_missing_is_nan(one: Callable[..., xr.Dataset], dtype: str) -> None:
    cube = one(pd.array([1, None], dtype=dtype), seed=[0, 1])
    assert np.isnan(cube["value"].sel(seed=1).item())


def test_an_unused_category_is_no_label(records: pd.DataFrame) -> None:
    models = pd.Categorical(records["model"], categories=["other", "pythia-1b", "pythia-70m"])
    assert "other" not in build(records.assign(model=models))["model"].values


# Coordinates


def test_coordinates_come_from_constant_columns(cube: xr.Dataset) -> None:
    assert cube["n_parameters"].sel(model="pythia-1b").item() == 1_000_000_000
    assert cube["units"].values.tolist() == ["1", "nats"]
    assert cube["tokens"].values.tolist() == [0, 2_097_152_000]
    assert cube["run_name"].dims == ("model", "seed")
    assert cube["weight_seed"].sel(seed=2).values.tolist() == [102, 102]


def test_weight_seed_is_a_variable_and_run_name_a_coordinate(cube: xr.Dataset) -> None:
    assert "weight_seed" in cube.data_vars
    assert "run_name" in cube.coords


def test_a_coordinate_that_contradicts_itself_is_refused(records: pd.DataFrame) -> None:
    units = records["units"].copy()
    units[0] = "percent"
    with pytest.raises(RecordsError, match="column 'units' must be constant along"):
        build(records.assign(units=units))


def test_a_coordinate_may_be_given_in_some_rows_only(records: pd.DataFrame) -> None:
    tokens = records["tokens"].astype("Int64")
    tokens[1:] = pd.NA
    assert build(records.assign(tokens=tokens))["tokens"].values.tolist() == [0, -1]


def test_an_unknown_text_is_empty(records: pd.DataFrame) -> None:
    assert build(records.assign(run_name=None))["run_name"].values.ravel().tolist() == [""] * 6


def test_seeds_of_64_bits_are_kept_to_the_last(one: Callable[..., xr.Dataset]) -> None:
    assert one(0.5, data_seed=2**60 + 1)["data_seed"].item() == 2**60 + 1


@pytest.mark.parametrize("n_items", [0.5, np.inf, "many"])
def test_a_whole_number_is_asked_for_where_one_is_needed(one: Callable[..., xr.Dataset], n_items: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RecordsError, match="'n_items' does not hold what it should"):
            one(0.5, n_items=n_items)


def test_chance_may_be_unknown_for_some(one: Callable[..., xr.Dataset]) -> None:
    cube = one([0.5, 0.6], metric=["eval/a/acc", "eval/b/acc"], chance=[0.25, np.nan])
    np.testing.assert_array_equal(cube["chance"], [0.25, np.nan])


def test_shots_and_filter_come_from_the_id(one: Callable[..., xr.Dataset]) -> None:
    cube = one([1.0, 2.0], metric=["eval/gsm8k@5shot/exact_match@strict-match", "loss/train/ce"])
    assert cube["shots"].values.tolist() == [5, -1]
    assert cube["filter"].values.tolist() == ["strict-match", ""]
    assert cube["subject"].values.tolist() == ["gsm8k", "train"]


@pytest.mark.parametrize(
    ("columns", "code"),
    [({"family": "loss"}, "metric-id"), ({"better": "up"}, "coordinate-value"), ({"stderr": -0.1}, "negative-stderr")],
)
def test_columns_that_would_break_the_cube_are_refused(
    one: Callable[..., xr.Dataset], columns: dict[str, object], code: str
) -> None:
    with pytest.raises(InvalidCubeError) as caught:
        one(0.5, **columns)
    assert [violation.code for violation in caught.value.violations] == [code]


# Attributes


def test_attributes_are_set_and_documented(cube: xr.Dataset) -> None:
    assert (cube.attrs["title"], cube.attrs["created"], cube.attrs["polystab_schema"]) == ("test", CREATED, 1)
    assert "NaN means not measured" in cube["value"].attrs["long_name"]


def test_an_unknown_attribute_is_refused(records: pd.DataFrame) -> None:
    with pytest.raises(RecordsError, match="unknown attributes 'licence'"):
        ps.cube_from_records(records, licence="MIT")


def test_a_date_that_is_none_is_refused(records: pd.DataFrame) -> None:
    with pytest.raises(InvalidCubeError, match="'yesterday' is not ISO 8601"):
        ps.cube_from_records(records, created="yesterday")


def test_created_is_now_in_utc_unless_given(records: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    created = pd.Timestamp(ps.cube_from_records(records).attrs["created"])
    assert abs((pd.Timestamp.now(tz="UTC") - created).total_seconds()) < 60


def test_source_date_epoch_stands_in_for_now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert timestamp() == "1970-01-02T00:00:00+00:00"


def test_an_epoch_that_is_no_number_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    assert pd.Timestamp(timestamp()).year >= 2025


def test_concatenated_drops_repetitions_and_blanks() -> None:
    assert concatenated(["a", "", "b", "a"]) == "a\nb"


# Size


@pytest.mark.slow
def test_a_cube_that_is_too_large_is_refused_before_memory_is_taken() -> None:
    n = 30_000
    frame = pd.DataFrame({"model": "m", "seed": range(n), "step": range(n), "metric": "loss/train/ce", "value": 1.0})
    tracemalloc.start()
    try:
        with pytest.raises(CubeTooLargeError, match=r"1 models x 30000 seeds x 30000 steps x 1 metrics is 900,000,000"):
            build(frame)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_size_that_overflows_an_integer_is_refused_too() -> None:
    n = 2**16
    frame = pd.DataFrame(
        {
            "model": [f"m{i}" for i in range(n)],
            "seed": range(n),
            "step": range(n),
            "metric": [f"eval/t{i}/acc" for i in range(n)],
            "value": 1.0,
        }
    )
    with pytest.raises(CubeTooLargeError):
        build(frame)
