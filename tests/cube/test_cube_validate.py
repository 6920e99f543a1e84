"""Every way in which a dataset can fail to be a cube."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr

import polystab as ps
from polystab.cube.specs import ATTRIBUTES, COORDINATES, DIMENSIONS, DIMS, GROUPS, VARIABLES
from polystab.cube.validate import as_cube, check_cube, check_schema
from polystab.errors import InvalidCubeError, NewerSchemaError, NotACubeError

Break = Callable[[xr.Dataset], xr.Dataset]


def codes(cube: xr.Dataset | xr.DataTree, **options: bool) -> list[str]:
    return [violation.code for violation in ps.validate_cube(cube, **options)]


def with_value(cube: xr.Dataset, name: str, cell: tuple[int, ...], new: object) -> xr.Dataset:
    values = cube[name].values.copy()
    if values.dtype.kind == "U":
        values = values.astype("<U40")
    values[cell] = new
    if name in cube.dims:
        return cube.assign_coords({name: (name, values)})
    return cube.assign({name: (cube[name].dims, values)})


def without_attribute(cube: xr.Dataset) -> xr.Dataset:
    cube.attrs.pop("created")
    return cube


def unlabelled(cube: xr.Dataset) -> xr.Dataset:
    return cube.drop_vars("seed")


# One breaker for each code, and exactly what it must bring to light.
BREAKERS: dict[str, tuple[Break, list[str]]] = {
    "attribute missing": (without_attribute, ["missing-attribute"]),
    "known attribute of another type": (lambda c: c.assign_attrs(title=3), ["attribute-type"]),
    "known attribute that is a list": (lambda c: c.assign_attrs(title=["a"]), ["attribute-type"]),
    "own attribute that netCDF refuses": (lambda c: c.assign_attrs(mine={"a": 1}), ["attribute-type"]),
    "own attribute that netCDF turns into a number": (lambda c: c.assign_attrs(mine=True), ["attribute-type"]),
    "schema as text": (lambda c: c.assign_attrs(polystab_schema="1"), ["attribute-type"]),
    "schema unknown": (lambda c: c.assign_attrs(polystab_schema=99), ["unknown-schema"]),
    "schema zero": (lambda c: c.assign_attrs(polystab_schema=0), ["unknown-schema"]),
    "date that is none": (lambda c: c.assign_attrs(created="yesterday"), ["attribute-value"]),
    "attribute with a NUL": (lambda c: c.assign_attrs(title="a\0b"), ["unwritable-text"]),
    "dimension missing": (
        lambda c: c.drop_vars(["run_name", "weight_seed"]).isel(seed=0, drop=True),
        ["missing-dimension", "wrong-dimensions", "wrong-dimensions"],
    ),
    "labels missing": (unlabelled, ["missing-labels"]),
    "no labels along a dimension": (lambda c: c.isel(step=slice(0)), ["empty-dimension"]),
    "seeds are text": (lambda c: c.assign_coords(seed=["a", "b", "c"]), ["label-type"]),
    "steps are fractional": (lambda c: c.assign_coords(step=[0.0, 0.5]), ["label-type"]),
    "models are numbers": (lambda c: c.assign_coords(model=[1, 2]), ["label-type"]),
    "label twice": (lambda c: c.assign_coords(seed=[0, 1, 1]), ["duplicate-labels"]),
    "step below zero": (lambda c: c.assign_coords(step=[-1, 5]), ["negative-step"]),
    "steps decrease": (lambda c: c.isel(step=[1, 0]), ["unsorted-step"]),
    "label blank": (lambda c: c.assign_coords(model=["a", " "]), ["blank-label"]),
    "label with a NUL": (lambda c: c.assign_coords(model=["a", "b\0c"]), ["unwritable-text"]),
    "label that is half a character": (lambda c: c.assign_coords(model=["a", "b\udc80"]), ["unwritable-text"]),
    "coordinate text with a NUL": (
        lambda c: with_value(c, "units", (0,), "a\0b").set_coords("units"),
        ["unwritable-text"],
    ),
    "value missing": (lambda c: c.drop_vars("value"), ["missing-variable"]),
    "coordinate missing": (lambda c: c.drop_vars("family"), ["missing-coordinate"]),
    "coordinate along the wrong dimension": (
        lambda c: c.drop_vars("tokens").assign_coords(tokens=("seed", [1, 2, 3])),
        ["wrong-dimensions"],
    ),
    "dimensions in another order": (lambda c: c.assign(value=c["value"].transpose()), ["dimension-order"]),
    "value is text": (lambda c: c.assign(value=c["value"].astype(str)), ["wrong-type"]),
    "value is whole": (lambda c: c.assign(value=c["value"].astype(int)), ["wrong-type"]),
    "coordinate as a variable": (lambda c: c.reset_coords("units"), ["not-a-coordinate"]),
    "variable as a coordinate": (lambda c: c.set_coords("stderr"), ["not-a-variable"]),
    "metric id of an unknown family": (lambda c: with_value(c, "metric", (0,), "evil/arc_easy/acc"), ["metric-id"]),
    "metric id against its family": (
        lambda c: with_value(c, "family", (0,), "probe").set_coords("family"),
        ["metric-id"],
    ),
    "metric id against its shots": (lambda c: with_value(c, "shots", (0,), 5).set_coords("shots"), ["metric-id"]),
    "unknown direction": (lambda c: with_value(c, "better", (0,), "up").set_coords("better"), ["coordinate-value"]),
    "standard error below zero": (lambda c: with_value(c, "stderr", (0, 0, 0, 0), -0.1), ["negative-stderr"]),
    "standard error infinite": (lambda c: with_value(c, "stderr", (0, 0, 0, 0), np.inf), ["infinite-stderr"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BREAKERS)
def test_each_violation_is_found_alone(cube: xr.Dataset, name: str) -> None:
    breaker, expected = BREAKERS[name]
    assert codes(breaker(cube)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", BREAKERS)
def test_each_violation_says_what_to_do(cube: xr.Dataset, name: str) -> None:
    for violation in ps.validate_cube(BREAKERS[name][0](cube)):
        assert violation.place
        assert violation.message.endswith(".")
        assert len(violation.fix) > 5
        assert violation.code in str(violation)


def test_a_valid_cube_has_no_violation(cube: xr.Dataset) -> None:
    assert ps.validate_cube(cube) == []


def test_a_cube_broken_in_ten_ways_shows_all_ten(cube: xr.Dataset) -> None:
    broken = cube.assign_coords(seed=[0, 0, 1], step=[5, -5]).drop_vars(["family", "layer"])
    broken = with_value(broken, "stderr", (0, 0, 0, 0), -1.0)
    broken = with_value(broken, "stderr", (0, 0, 0, 1), np.inf)
    broken = broken.assign_attrs(created="never", title=1, mine=None)
    broken = broken.assign(value=broken["value"].astype(str))
    assert sorted(codes(broken)) == sorted(
        [
            "duplicate-labels",
            "negative-step",
            "unsorted-step",
            "missing-coordinate",
            "missing-coordinate",
            "negative-stderr",
            "infinite-stderr",
            "attribute-value",
            "attribute-type",
            "attribute-type",
            "wrong-type",
        ]
    )


def test_labels_are_listed_five_at_most_then_counted(one: Callable[..., xr.Dataset]) -> None:
    many = one([0.5] * 20, seed=list(range(20))).assign_coords(seed=[k // 2 for k in range(20)])
    (violation,) = ps.validate_cube(many)
    assert violation.message == "0, 1, 2, 3, 4 and 5 more stand more than once."


@pytest.mark.slow
@pytest.mark.parametrize("name", BREAKERS)
def test_validation_never_changes_its_input(cube: xr.Dataset, name: str) -> None:
    broken = BREAKERS[name][0](cube)
    before = broken.copy(deep=True)
    ps.validate_cube(broken)
    assert broken.identical(before)


@pytest.mark.parametrize("size", [{"model": 1}, {"seed": 1}, {"step": 1}, {"metric": 1}])
def test_one_label_along_a_dimension_is_valid(cube: xr.Dataset, size: dict[str, int]) -> None:
    small = cube.isel({dim: slice(n) for dim, n in size.items()})
    assert ps.validate_cube(small) == []


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_nan_and_infinite_values_are_valid(cube: xr.Dataset, special: float) -> None:
    assert ps.validate_cube(with_value(cube, "value", (0, 0, 0, 0), special)) == []


def test_object_text_is_text(cube: xr.Dataset) -> None:
    assert ps.validate_cube(cube.assign_coords(model=cube["model"].values.astype(object))) == []


def test_values_are_not_looked_at_if_told_not_to(cube: xr.Dataset) -> None:
    broken = with_value(cube, "stderr", (0, 0, 0, 0), -1.0)
    assert codes(broken, values=False) == []


@pytest.mark.slow
def test_a_lazy_cube_stays_lazy_without_values(cube: xr.Dataset, tmp_path: object) -> None:
    ps.save_cube(cube, f"{tmp_path}/cube.nc")
    with ps.open_cube(f"{tmp_path}/cube.nc") as lazy:
        ps.validate_cube(lazy, values=False)
        assert not lazy["value"].variable._in_memory
        assert not lazy["stderr"].variable._in_memory


@pytest.mark.parametrize("thing", [None, 3, "cube.nc", np.zeros(3), xr.DataArray([1.0])])
def test_what_is_no_dataset_is_one_violation(thing: object) -> None:
    assert codes(thing) == ["not-a-dataset"]  # type: ignore[arg-type]


def test_an_empty_dataset_is_all_violations_and_no_crash() -> None:
    found = codes(xr.Dataset())
    assert found.count("missing-dimension") == len(DIMENSIONS)
    assert found.count("missing-attribute") == sum(spec.required for spec in ATTRIBUTES)
    assert found.count("missing-coordinate") == sum(spec.required for spec in COORDINATES)


def test_a_tree_is_checked_like_its_cube(tree: xr.DataTree) -> None:
    assert codes(tree) == []
    tree.attrs["created"] = "never"
    assert codes(tree) == ["attribute-value"]


def test_an_audit_without_a_column_is_a_violation(tree: xr.DataTree) -> None:
    tree["audit"] = tree["audit"].to_dataset().drop_vars("reason")
    (violation,) = ps.validate_cube(tree)
    assert (violation.code, violation.place) == ("missing-variable", "group audit, variable reason")


def test_items_of_the_wrong_type_are_a_violation(cube: xr.Dataset) -> None:
    items = xr.Dataset(
        {
            "correct": (("model", "seed", "step", "item"), np.full((2, 3, 2, 1), 0.5)),
            "task": ("item", ["arc_easy"]),
            "doc_hash": ("item", ["aa"]),
        }
    )
    (violation,) = ps.validate_cube(xr.DataTree.from_dict({"/": cube, "/items": items}))
    assert (violation.code, violation.place) == ("wrong-type", "group items, variable correct")


def test_check_cube_raises_with_every_violation(cube: xr.Dataset) -> None:
    broken = cube.assign_attrs(created="never", title=1)
    with pytest.raises(InvalidCubeError, match=r"mine is not a valid cube \(2 violations\)") as caught:
        check_cube(broken, where="mine")
    assert [violation.code for violation in caught.value.violations] == ["attribute-type", "attribute-value"]
    assert all(str(violation) in str(caught.value) for violation in caught.value.violations)


def test_check_cube_is_silent_about_a_valid_cube(cube: xr.Dataset) -> None:
    check_cube(cube)


def test_check_schema_names_the_newer_polystab() -> None:
    with pytest.raises(NewerSchemaError, match=r"x\.nc has schema 7, written by polystab 9\.1"):
        check_schema({"polystab_schema": 7, "polystab_version": "9.1"}, where="x.nc")


def test_check_schema_refuses_what_has_none() -> None:
    with pytest.raises(NotACubeError, match="no attribute polystab_schema"):
        check_schema({}, where="x.nc")


def test_as_cube_gives_the_cube_of_a_tree(tree: xr.DataTree, cube: xr.Dataset) -> None:
    xr.testing.assert_identical(as_cube(tree), cube)


@pytest.mark.parametrize(
    ("thing", "message"),
    [("cube.nc", r"ps\.open_cube"), (3, "got int"), (xr.Dataset({"x": 1}), "no variable 'value'")],
)
def test_as_cube_says_what_it_got(thing: object, message: str) -> None:
    with pytest.raises(NotACubeError, match=message):
        as_cube(thing)  # type: ignore[arg-type]


def test_every_spec_has_a_name_of_its_own_and_a_doc() -> None:
    specs = [*DIMENSIONS, *VARIABLES, *COORDINATES]
    assert len({spec.name for spec in specs}) == len(specs)
    assert all(spec.doc for spec in [*specs, *ATTRIBUTES, *GROUPS])


def test_every_coordinate_lies_along_dimensions_of_the_cube() -> None:
    assert all(set(spec.dims) <= set(DIMS) for spec in (*VARIABLES, *COORDINATES))
