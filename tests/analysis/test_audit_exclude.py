"""``exclude="audit"``: analyses leave out what does not belong where it stands, and say how much that was."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import xarray as xr
from cubes_of_arrays import make_cube

import polystab as ps
import polystab.testing
from polystab.analysis.audit.checks import audit_cube
from polystab.analysis.audit.exclude import leave_out, leave_out_items
from polystab.analysis.audit.findings import KINDS, excluded_cells, without_excluded
from polystab.analysis.outliers.verdicts import outlier_runs
from polystab.analysis.phases.curves import change_points
from polystab.analysis.variance import seed_spread
from polystab.errors import AnalysisError

ANALYSES: dict[str, Callable[..., xr.Dataset]] = {
    "variance_components": ps.variance_components,
    "change_points": lambda cube, **given: change_points(cube, rng=0, **given),
    "outlier_runs": lambda cube, **given: outlier_runs(cube, draws=99, **given),
    "seed_spread": seed_spread,
}


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    """Two models of five runs; seed 4 of the second is one with seed 1 up to the middle, and one score is impossible."""
    value = np.random.default_rng(0).uniform(0.3, 0.6, (2, 5, 12, 6))
    value[1, 4, :6] = value[1, 1, :6]
    value[0, 2, 7, 3] = 1.5
    return make_cube(value)


@pytest.mark.slow
@pytest.mark.parametrize("name", ANALYSES)
def test_an_analysis_with_exclude_is_that_of_the_cube_without_these_cells(name: str, cube: xr.Dataset) -> None:
    analysis = ANALYSES[name]
    found = analysis(cube, exclude="audit")
    xr.testing.assert_equal(found, analysis(without_excluded(cube, audit_cube(cube))))


@pytest.mark.slow
@pytest.mark.parametrize("name", ANALYSES)
def test_the_result_says_how_much_was_left_out(name: str, cube: xr.Dataset) -> None:
    attrs = ANALYSES[name](cube, exclude="audit").attrs
    assert attrs["excluded_values"] == 6 * 6 + 1
    assert attrs["excluded_share"] == pytest.approx(37 / cube["value"].size)
    assert attrs["excluded_by"] == "identical-until (1), impossible-value (1)"


@pytest.mark.slow
@pytest.mark.parametrize("name", ANALYSES)
def test_without_exclude_nothing_is_said(name: str, cube: xr.Dataset) -> None:
    assert not [key for key in ANALYSES[name](cube).attrs if key.startswith("excluded")]


@pytest.mark.slow
def test_findings_made_before_do_the_same(cube: xr.Dataset) -> None:
    assert leave_out(cube, audit_cube(cube))[0].identical(leave_out(cube, "audit")[0])


def test_some_findings_leave_out_their_cells_only(cube: xr.Dataset) -> None:
    findings = audit_cube(cube)
    chosen = findings.isel(finding=findings["kind"].values == "impossible-value")
    assert leave_out(cube, chosen)[1]["excluded_values"] == 1


@pytest.mark.slow
def test_a_clean_cube_stays_as_it_is() -> None:
    clean = polystab.testing.synthetic_cube(rng=0)
    kept, said = leave_out(clean, "audit")
    assert kept.identical(clean)
    assert said == {"excluded_values": 0, "excluded_share": 0.0, "excluded_by": ""}


def test_the_input_is_not_changed(cube: xr.Dataset) -> None:
    before = cube.copy(deep=True)
    seed_spread(cube, exclude="audit")
    assert cube.identical(before)


@pytest.mark.parametrize("wrong", ["audits", True, ["identical-run"]])
def test_anything_else_is_refused_with_what_is_allowed(wrong: object, cube: xr.Dataset) -> None:
    with pytest.raises(AnalysisError, match="it is 'audit', what audit_cube"):
        seed_spread(cube, exclude=wrong)  # type: ignore[arg-type]


def test_the_documented_table_is_that_of_the_kinds() -> None:
    table = (excluded_cells.__doc__ or "").split("kind    ")[1].split("Everything else")[0]
    listed = [line.split()[0] for line in table.splitlines()[1:] if line.strip() and "===" not in line]
    assert sorted(listed) == sorted(name for name, kind in KINDS.items() if kind.excluded)


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    """nano's smallest model at three steps, seed 2 a copy of seed 0 up to the second, with its answers."""
    whole = ps.load_tree("nano")
    picked = {"model": [0], "seed": slice(0, 4), "step": [10, 20, 30]}
    cube = whole.to_dataset().isel(picked).load()
    items = whole["items"].to_dataset(inherit=False)
    full = whole["items"].to_dataset().isel(picked).load()
    group = full[list(items.data_vars)].drop_vars(["model", "seed", "step"])
    cube["value"][0, 2, :2] = cube["value"][0, 0, :2].values
    return xr.DataTree.from_dict({"/": cube, "/items": group.drop_vars("metric", errors="ignore")})


@pytest.mark.slow
def test_answers_at_excluded_checkpoints_are_missing(tree: xr.DataTree) -> None:
    kept, said = leave_out_items(tree, "audit")
    choice = kept["items"]["choice"].transpose("model", "seed", "step", "item").values[0]  # type: ignore[union-attr]
    assert (choice[2, :2] == -1).all()
    assert (choice[2, 2] >= 0).all()
    assert said["excluded_values"] == 2 * choice.shape[2]


@pytest.mark.slow
def test_agreement_takes_exclude(tree: xr.DataTree) -> None:
    found = ps.agreement(tree, level=None, exclude="audit")
    runs = found["n_runs"].sel(statistic="fleiss", answer="choice", task="pooled").isel(model=0)
    assert runs.values.tolist() == [3, 3, 4]
    assert found.attrs["excluded_share"] == pytest.approx(2 / 12)


def test_a_group_of_items_alone_cannot_be_audited(tree: xr.DataTree) -> None:
    with pytest.raises(AnalysisError, match="give the tree"):
        ps.agreement(tree["items"].to_dataset(), exclude="audit")
