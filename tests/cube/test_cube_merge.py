"""Joining cubes: nothing is lost, and nothing overwritten without a rule that says so."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import polystab as ps
from polystab.cube import merge
from polystab.cube.audit import AuditEntry, audit_entries
from polystab.errors import ConflictError, CubeTooLargeError, InvalidCubeError, NotACubeError, UnknownNameError
from polystab.testing import synthetic_cube

Make = Callable[..., xr.Dataset]

OLD, NEW = "2025-01-01T00:00:00+00:00", "2026-01-01T00:00:00+00:00"


def data_of(cube: xr.Dataset | xr.DataTree) -> xr.Dataset:
    return cube.to_dataset() if isinstance(cube, xr.DataTree) else cube


def same_data(one: xr.Dataset | xr.DataTree, other: xr.Dataset | xr.DataTree) -> bool:
    """Whether all labels, values and coordinates are equal, whatever the attributes of the file say."""
    return data_of(one).equals(data_of(other))


# Union


def test_disjoint_runs_are_joined(one: Make) -> None:
    merged = ps.merge_cubes([one(0.1, seed=3), one(0.2, seed=1, model="n")])
    assert merged["value"].sel(model="m", seed=3).item() == 0.1
    assert merged["value"].sel(model="n", seed=1).item() == 0.2
    assert int(merged["value"].notnull().sum()) == 2


@pytest.mark.parametrize(
    ("dim", "labels"),
    [("model", ["a-1b", "a-70m"]), ("seed", [5, 2]), ("step", [100, 7]), ("metric", ["loss/t/ce", "eval/t/acc"])],
)
def test_labels_are_in_the_order_of_every_cube(one: Make, dim: str, labels: list[object]) -> None:
    merged = ps.merge_cubes([one(0.1, **{dim: labels[0]}), one(0.2, **{dim: labels[1]})])
    assert merged[dim].values.tolist() == labels[::-1]


@pytest.mark.slow
def test_a_merged_cube_is_valid(cube: xr.Dataset, one: Make) -> None:
    assert ps.validate_cube(ps.merge_cubes([cube, one(0.5)])) == []


def test_a_cube_cut_in_pieces_is_joined_again(cube: xr.Dataset) -> None:
    pieces = [cube.isel(model=[m], seed=[s]) for m, s in itertools.product(range(2), range(3))]
    assert same_data(ps.merge_cubes(pieces), cube)


def test_one_cube_merges_to_itself(cube: xr.Dataset) -> None:
    assert same_data(ps.merge_cubes([cube]), cube)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["error", "latest", "earliest", "first", "last"])
def test_a_cube_merged_with_itself_is_itself(cube: xr.Dataset, rule: str) -> None:
    assert same_data(ps.merge_cubes([cube, cube], on_conflict=rule), cube)  # type: ignore[call-overload]


def test_a_tree_merged_with_itself_is_itself(tree: xr.DataTree) -> None:
    merged = ps.merge_cubes([tree, tree])
    assert isinstance(merged, xr.DataTree)
    assert same_data(merged, tree)
    assert audit_entries(merged) == audit_entries(tree)
    assert merged["spectra/layers.0/singular"].equals(tree["spectra/layers.0/singular"])


@pytest.mark.slow
def test_the_order_of_cubes_does_not_matter_without_conflicts(cube: xr.Dataset, one: Make) -> None:
    cubes = [cube.isel(seed=[0]), cube.isel(seed=[1, 2]), one(0.5, stderr=0.1), one(0.7, model="pythia-12b")]
    merged = [ps.merge_cubes(list(order)) for order in itertools.permutations(cubes)]
    assert all(same_data(other, merged[0]) for other in merged)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["latest", "earliest"])
def test_the_order_of_cubes_does_not_matter_where_dates_decide(one: Make, rule: str) -> None:
    cubes = [one([value, value], seed=[0, k], created=f"202{k}-01-01") for k, value in ((1, 0.1), (2, 0.2), (3, 0.3))]
    merged = [ps.merge_cubes(list(order), on_conflict=rule) for order in itertools.permutations(cubes)]  # type: ignore[call-overload]
    assert all(same_data(other, merged[0]) for other in merged)


cells = st.dictionaries(
    st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 2), st.sampled_from([0, 10])), st.floats(0, 1), min_size=1
)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(cells, cells)
def test_every_value_of_every_cube_is_in_the_union(
    first: dict[tuple[str, int, int], float], second: dict[tuple[str, int, int], float]
) -> None:
    def build(values: dict[tuple[str, int, int], float]) -> xr.Dataset:
        frame = pd.DataFrame(
            [(*cell, value) for cell, value in values.items()], columns=["model", "seed", "step", "value"]
        )
        return ps.cube_from_records(frame.assign(metric="eval/t/acc"), created=OLD)

    merged = data_of(ps.merge_cubes([build(first), build(second)], on_conflict="last"))
    found = merged["value"].squeeze("metric", drop=True).to_series().dropna().to_dict()
    assert found == first | second


def test_inputs_are_not_changed(cube: xr.Dataset, one: Make) -> None:
    before = cube.copy(deep=True)
    ps.merge_cubes([cube, one(0.5)])
    xr.testing.assert_identical(cube, before)


@pytest.mark.slow
def test_lazy_cubes_are_merged(cube: xr.Dataset, tmp_path: Path) -> None:
    ps.save_cube(cube, tmp_path / "cube.nc")
    with ps.open_cube(tmp_path / "cube.nc") as lazy:
        assert same_data(ps.merge_cubes([lazy.isel(seed=[0]), lazy.isel(seed=[1, 2])]), cube)


# Values


def test_equal_values_do_not_conflict(one: Make) -> None:
    assert ps.merge_cubes([one(0.5), one(0.5)])["value"].item() == 0.5


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["error", "first", "last", "latest", "earliest"])
@pytest.mark.parametrize("position", [0, 1])
def test_nan_never_overwrites(one: Make, rule: str, position: int) -> None:
    empty = one([np.nan, 0.1], seed=[0, 1], created=[OLD, NEW][position])
    full = one([0.7, 0.1], seed=[0, 1], created=[NEW, OLD][position])
    cubes = [empty, full] if position == 0 else [full, empty]
    merged = data_of(ps.merge_cubes(cubes, on_conflict=rule))  # type: ignore[call-overload]
    assert merged["value"].sel(seed=0).item() == 0.7


def test_infinite_values_that_agree_do_not_conflict(one: Make) -> None:
    assert ps.merge_cubes([one(np.inf), one(np.inf)])["value"].item() == np.inf


def test_two_values_are_refused_with_the_cell_and_the_way_out(one: Make) -> None:
    with pytest.raises(
        ConflictError, match=r"1 cells differ .* 'm\|0\|10\|eval/arc/acc'\. Choose on_conflict='latest'"
    ):
        ps.merge_cubes([one(0.5), one(0.6)])


def test_many_conflicts_are_listed_five_at_most(one: Make) -> None:
    seeds = list(range(8))
    with pytest.raises(ConflictError, match=r"8 cells differ .* and 3 more"):
        ps.merge_cubes([one([0.1] * 8, seed=seeds), one([0.2] * 8, seed=seeds)])


@pytest.mark.slow
@pytest.mark.parametrize(("rule", "winner"), [("first", 0.1), ("last", 0.3), ("latest", 0.2), ("earliest", 0.1)])
def test_each_rule_has_its_winner(one: Make, rule: str, winner: float) -> None:
    cubes = [one(0.1, created="2024-01-01"), one(0.2, created="2026-01-01"), one(0.3, created="2025-01-01")]
    merged = ps.merge_cubes(cubes, on_conflict=rule)  # type: ignore[call-overload]
    assert merged["value"].item() == winner


@pytest.mark.parametrize("rule", ["first", "last", "latest", "earliest"])
def test_the_standard_error_comes_with_the_value(one: Make, rule: str) -> None:
    cubes = [one(0.1, stderr=0.01, created=OLD), one(0.2, created=NEW)]
    merged = data_of(ps.merge_cubes(cubes, on_conflict=rule))  # type: ignore[call-overload]
    expected = 0.01 if merged["value"].item() == 0.1 else np.nan
    np.testing.assert_array_equal(merged["stderr"].values.ravel(), [expected])


def test_two_standard_errors_of_one_value_are_refused(one: Make) -> None:
    with pytest.raises(ConflictError, match=r"'m\|0\|10\|eval/arc/acc\|stderr'"):
        ps.merge_cubes([one(0.5, stderr=0.1), one(0.5, stderr=0.2)])


def test_a_standard_error_that_gave_way_is_in_the_audit(one: Make) -> None:
    merged = ps.merge_cubes([one(0.5, stderr=0.1), one(0.5, stderr=0.2)], on_conflict="last")
    assert data_of(merged)["stderr"].item() == 0.2
    (entry,) = audit_entries(merged)
    assert json.loads(entry.detail) == {"m|0|10|eval/arc/acc|stderr": 0.1}


@pytest.mark.slow
def test_a_standard_error_is_added_to_an_equal_value(one: Make) -> None:
    for cubes in ([one(0.5), one(0.5, stderr=0.1)], [one(0.5, stderr=0.1), one(0.5)]):
        assert ps.merge_cubes(cubes)["stderr"].item() == 0.1


# Rules and dates


def test_an_unknown_rule_is_refused_with_a_suggestion(one: Make) -> None:
    with pytest.raises(UnknownNameError, match=r"no rule 'lates' .* Did you mean 'latest'"):
        ps.merge_cubes([one(0.5)], on_conflict="lates")  # type: ignore[call-overload]


@pytest.mark.parametrize("rule", ["latest", "earliest"])
def test_dates_that_tie_decide_nothing(one: Make, rule: str) -> None:
    with pytest.raises(ConflictError, match="created at the same time"):
        ps.merge_cubes([one(0.5), one(0.6)], on_conflict=rule)  # type: ignore[call-overload]


@pytest.mark.parametrize("rule", ["latest", "earliest"])
def test_dates_that_tie_do_no_harm_without_a_conflict(one: Make, rule: str) -> None:
    merged = data_of(ps.merge_cubes([one(0.5), one(0.6, seed=1)], on_conflict=rule))  # type: ignore[call-overload]
    assert merged["value"].values.ravel().tolist() == [0.5, 0.6]


def test_dates_are_compared_across_time_zones(one: Make) -> None:
    earlier = one(0.1, created="2026-01-01T12:00:00+09:00")
    later = one(0.2, created="2026-01-01T04:00:00")  # no zone: UTC
    merged = ps.merge_cubes([later, earlier], on_conflict="latest")
    assert merged["value"].item() == 0.2
    assert data_of(merged).attrs["created"] == "2026-01-01T04:00:00"


# Audit


@pytest.mark.parametrize(
    ("rule", "loser", "winner"), [("first", "two", "one"), ("last", "one", "two"), ("latest", "one", "two")]
)
def test_what_gave_way_is_in_the_audit(one: Make, rule: str, loser: str, winner: str) -> None:
    cubes = [
        one([0.1, 0.5], seed=[0, 1], title="one", created=OLD),
        one([0.2, 0.5], seed=[0, 1], title="two", created=NEW),
    ]
    merged = ps.merge_cubes(cubes, on_conflict=rule)  # type: ignore[call-overload]
    number = {"one": 0, "two": 1}
    lost = {"one": 0.1, "two": 0.2}[loser]
    assert audit_entries(merged) == [
        AuditEntry(
            f"cube {number[loser]}: {loser}",
            "replaced",
            f"duplicate-{rule}",
            json.dumps({"m|0|10|eval/arc/acc": lost}),
            "",
            f"cube {number[winner]}: {winner}",
        )
    ]


def test_every_loser_of_three_is_in_the_audit(one: Make) -> None:
    merged = ps.merge_cubes([one(0.1), one(0.2), one(0.3)], on_conflict="last")
    lost = [value for entry in audit_entries(merged) for value in json.loads(entry.detail).values()]
    assert sorted(lost) == [0.1, 0.2]


def test_datasets_stay_a_dataset_without_a_rule_and_become_a_tree_with_one(one: Make) -> None:
    assert isinstance(ps.merge_cubes([one(0.5)]), xr.Dataset)
    assert isinstance(ps.merge_cubes([one(0.5)], on_conflict="last"), xr.DataTree)


@pytest.mark.slow
def test_entries_of_trees_are_joined_and_repeated_ones_are_not(tree: xr.DataTree, one: Make) -> None:
    other = ps.merge_cubes([one(0.1, title="x"), one(0.2, title="y")], on_conflict="last")
    merged = ps.merge_cubes([tree, other, tree])
    assert set(audit_entries(merged)) == {*audit_entries(tree), *audit_entries(other)}
    assert len(audit_entries(merged)) == 4


@pytest.mark.slow
def test_a_merged_tree_can_be_saved(tree: xr.DataTree, one: Make, tmp_path: Path) -> None:
    ps.save_cube(ps.merge_cubes([tree, one(0.5)]), tmp_path / "cube.nc")
    with ps.open_tree(tmp_path / "cube.nc") as back:
        assert len(audit_entries(back)) == 3


@pytest.mark.slow
def test_a_long_list_of_losses_can_be_saved(one: Make, tmp_path: Path) -> None:
    n = 20_000
    merged = ps.merge_cubes([one([0.1] * n, seed=range(n)), one([0.2] * n, seed=range(n))], on_conflict="last")
    ps.save_cube(merged, tmp_path / "cube.nc")
    with ps.open_tree(tmp_path / "cube.nc") as back:
        (entry,) = audit_entries(back)
        assert len(json.loads(entry.detail)) == n


# Coordinates


@pytest.mark.slow
def test_an_unknown_coordinate_takes_a_known_one(one: Make) -> None:
    for cubes in ([one(0.5), one(0.5, units="1", tokens=99)], [one(0.5, units="1", tokens=99), one(0.5)]):
        merged = ps.merge_cubes(cubes)
        assert (merged["units"].item(), merged["tokens"].item()) == ("1", 99)


def test_labels_that_only_one_cube_knows_about_keep_what_it_knows(one: Make) -> None:
    merged = ps.merge_cubes([one(0.5, model="a", n_parameters=7, run_name="x"), one(0.5, model="b")])
    assert merged["n_parameters"].values.tolist() == [7, -1]
    assert merged["run_name"].values.tolist() == [["x"], [""]]


@pytest.mark.slow
@pytest.mark.parametrize(
    "columns",
    [
        {"units": ("1", "nats")},
        {"chance": (0.25, 0.5)},
        {"n_parameters": (7, 8)},
        {"tokens": (1, 2)},
        {"weight_seed": (1, 2)},
        {"run_name": ("a", "b")},
    ],
)
def test_coordinates_that_contradict_are_refused_by_name(one: Make, columns: dict[str, tuple[object, object]]) -> None:
    ((name, (mine, yours)),) = columns.items()
    with pytest.raises(ConflictError, match=f"coordinate '{name}' differs at"):
        ps.merge_cubes([one(0.5, **{name: mine}), one(0.5, **{name: yours})])


def test_long_texts_are_not_cut_to_short_ones(one: Make) -> None:
    merged = ps.merge_cubes([one(0.5, units="1"), one(0.5, metric="loss/t/ce", units="nats per token of text")])
    assert merged["units"].values.tolist() == ["1", "nats per token of text"]


def test_own_variables_and_coordinates_are_kept(one: Make) -> None:
    mine = one(0.5, model="a").assign_coords(optimizer=("model", ["adam"])).assign(hours=("model", [3.5]))
    merged = ps.merge_cubes([one(0.5, model="b"), mine])
    assert merged["optimizer"].values.tolist() == ["adam", ""]
    np.testing.assert_array_equal(merged["hours"], [3.5, np.nan])


def test_own_variables_that_contradict_are_refused(one: Make) -> None:
    with pytest.raises(ConflictError, match="variables outside the schema differ"):
        ps.merge_cubes([one(0.5).assign(hours=("model", [1.0])), one(0.5).assign(hours=("model", [2.0]))])


# Groups


def items(models: list[str], choices: list[int]) -> xr.Dataset:
    shape = (len(models), 1, 1, 2)
    return xr.Dataset(
        {
            "choice": (("model", "seed", "step", "item"), np.array(choices).reshape(shape)),
            "task": ("item", ["arc", "arc"]),
            "doc_hash": ("item", ["h1", "h2"]),
        },
        coords={"model": models, "seed": [0], "step": [10]},
    )


def test_items_of_other_models_are_joined_and_stay_integers(one: Make) -> None:
    trees = [
        xr.DataTree.from_dict({"/": one(0.5, model=model), "/items": items([model], choices)})
        for model, choices in (("a", [1, 2]), ("b", [0, -1]))
    ]
    merged = ps.merge_cubes(trees)["items"].to_dataset()
    assert merged["choice"].dtype.kind == "i"
    assert merged["choice"].values.reshape(2, 2).tolist() == [[1, 2], [0, -1]]


def test_integers_of_details_stay_as_narrow_as_they_were(one: Make) -> None:
    narrow = items(["a"], [1, 2])
    narrow["choice"] = narrow["choice"].astype(np.int16)
    trees = [xr.DataTree.from_dict({"/": one(0.5, model="a"), "/items": narrow}), one(0.5, model="b")]
    assert ps.merge_cubes(trees)["items/choice"].dtype == np.int16


def test_models_without_items_are_not_evaluated(one: Make) -> None:
    tree = xr.DataTree.from_dict({"/": one(0.5, model="a"), "/items": items(["a"], [1, 2])})
    merged = ps.merge_cubes([tree, one(0.5, model="b", seed=7)])
    assert merged["items/choice"].sel(model="b").values.ravel().tolist() == [-1] * 4


@pytest.mark.slow
def test_a_merged_tree_with_items_is_valid_and_can_be_saved(one: Make, tmp_path: Path) -> None:
    tree = xr.DataTree.from_dict({"/": one(0.5, model="a"), "/items": items(["a"], [1, 2])})
    merged = ps.merge_cubes([tree, one(0.5, model="b")])
    assert ps.validate_cube(merged) == []
    ps.save_cube(merged, tmp_path / "cube.nc")
    with ps.open_tree(tmp_path / "cube.nc") as back:
        assert back["items/task"].values.tolist() == ["arc", "arc"]


def test_groups_that_contradict_are_refused_by_name(one: Make) -> None:
    trees = [
        xr.DataTree.from_dict({"/": one(0.5, model="a"), "/items": items(["a"], choices)})
        for choices in ([1, 2], [1, 3])
    ]
    with pytest.raises(ConflictError, match="detail group 'items' differ"):
        ps.merge_cubes(trees)


def test_nested_groups_are_kept(tree: xr.DataTree, one: Make) -> None:
    merged = ps.merge_cubes([tree, one(0.5)])
    spectra = merged["spectra/layers.0/singular"]
    np.testing.assert_array_equal(spectra.sel(model=["pythia-70m", "pythia-1b"]), np.arange(6.0).reshape(2, 3))
    assert spectra.sel(model="m").isnull().all()


# Attributes


def test_texts_are_joined_without_repetition(one: Make) -> None:
    cubes = [one(0.5, title="a"), one(0.5, title="b"), one(0.5, title="a")]
    merged = ps.merge_cubes(cubes)
    assert merged.attrs["title"] == "a + b"
    assert merged.attrs["history"].endswith(f"merged 3 cubes with polystab {ps.__version__}")


def test_created_is_the_latest_of_all(one: Make) -> None:
    cubes = [one(0.5, created=OLD), one(0.5, created=NEW), one(0.5, created="2025-06-01T00:00:00+00:00")]
    assert ps.merge_cubes(cubes).attrs["created"] == NEW


@pytest.mark.slow
def test_merging_gives_the_same_bytes_whenever_it_is_done(one: Make, tmp_path: Path) -> None:
    for name in ("a.nc", "b.nc"):
        ps.save_cube(ps.merge_cubes([one(0.1), one(0.2)], on_conflict="last"), tmp_path / name)
    assert (tmp_path / "a.nc").read_bytes() == (tmp_path / "b.nc").read_bytes()


def test_own_attributes_of_every_cube_are_kept(one: Make) -> None:
    merged = ps.merge_cubes([one(0.5).assign_attrs(mine=1), one(0.5).assign_attrs(yours=2)])
    assert (merged.attrs["mine"], merged.attrs["yours"]) == (1, 2)


# Refusals


def test_nothing_to_merge_is_refused() -> None:
    with pytest.raises(ConflictError, match="give at least one cube"):
        ps.merge_cubes([])


def test_an_invalid_cube_is_refused_by_number_and_title(one: Make) -> None:
    with pytest.raises(InvalidCubeError, match=r"cube 1 \(broken\) is not a valid cube"):
        ps.merge_cubes([one(0.5), one(0.5, title="broken").assign_attrs(created="never")])


def test_what_is_no_cube_is_refused(one: Make) -> None:
    with pytest.raises(NotACubeError):
        ps.merge_cubes([one(0.5), xr.Dataset({"x": 1})])


def test_a_union_that_is_too_large_is_refused(one: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merge, "MAX_CELLS", 3)
    with pytest.raises(CubeTooLargeError, match="the union has 4 cells"):
        ps.merge_cubes([one(0.5), one(0.5, seed=1, model="n")])


@pytest.mark.slow
def test_the_runs_of_a_suite_are_joined_again() -> None:
    cube = synthetic_cube(n_models=4, n_seeds=10, rng=0)
    pieces = [cube.isel(model=[m], seed=[s]) for m, s in itertools.product(range(4), range(10))]
    assert same_data(ps.merge_cubes(pieces), cube)
