"""The audit as a whole: its table, what it leaves out, small and odd cubes, real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import xarray as xr
from cubes_of_arrays import make_cube

import polystab as ps
import polystab.testing
from polystab.analysis.audit.checks import audit_cube
from polystab.analysis.audit.findings import KINDS, SEVERITIES, excluded_cells, without_excluded
from polystab.errors import AnalysisError, NotACubeError

Array = npt.NDArray[np.float64]


@pytest.fixture
def value() -> Array:
    return np.random.default_rng(0).uniform(0.3, 0.6, (2, 4, 8, 6))


class TestTable:
    @pytest.mark.slow
    def test_a_clean_cube_has_none(self) -> None:
        found = audit_cube(polystab.testing.synthetic_cube(n_models=2, rng=0))
        assert found.sizes["finding"] == 0
        assert found["kind"].dtype.kind == "U"

    def test_every_variable_says_what_it_is(self, value: Array) -> None:
        value[0, 1] = value[0, 0]
        found = audit_cube(make_cube(value))
        assert all(found[name].attrs["long_name"] for name in found.data_vars)

    def test_errors_come_first(self, value: Array) -> None:
        value[1, 2, 5:] = np.nan
        value[1, 3] = value[1, 0]
        severities = [SEVERITIES.index(name) for name in audit_cube(make_cube(value))["severity"].values.tolist()]
        assert severities == sorted(severities)
        assert len(set(severities)) > 1

    def test_every_kind_has_a_severity_and_an_advice(self) -> None:
        assert all(kind.severity in SEVERITIES and kind.advice.endswith(".") for kind in KINDS.values())

    def test_the_cube_is_left_as_it_was(self, value: Array) -> None:
        value[0, 1] = value[0, 0]
        cube = make_cube(value)
        before = cube.copy(deep=True)
        audit_cube(cube)
        assert cube.identical(before)

    def test_twice_is_the_same(self, value: Array) -> None:
        value[0, 1] = value[0, 0]
        assert audit_cube(make_cube(value)).identical(audit_cube(make_cube(value)))

    def test_names_of_runs_are_said(self, value: Array) -> None:
        value[0, 1] = value[0, 0]
        names = np.array([[f"log{m}{s}" for s in range(4)] for m in range(2)])
        cube = make_cube(value).assign_coords(run_name=(("model", "seed"), names))
        assert "m0 seed 1 (log01) has the values of m0 seed 0 (log00)" in audit_cube(cube)["evidence"].item()

    @pytest.mark.slow
    def test_it_can_be_written_to_a_file(self, value: Array, tmp_path: Path) -> None:
        value[0, 1] = value[0, 0]
        audit_cube(make_cube(value)).to_netcdf(tmp_path / "x.nc")
        audit_cube(polystab.testing.synthetic_cube(rng=0)).to_netcdf(tmp_path / "none.nc")


class TestExcluded:
    def test_of_two_copies_the_first_stays(self, value: Array) -> None:
        value[1, 2, :6] = value[0, 3, :6]
        mask = excluded_cells(make_cube(value), audit_cube(make_cube(value)))
        expected = np.zeros(value.shape, dtype=bool)
        expected[1, 2, :6] = True
        assert (mask.values == expected).all()

    def test_a_finding_that_asks_for_a_look_excludes_nothing(self, value: Array) -> None:
        value[0, 3, 5:] = np.nan
        cube = make_cube(value)
        assert not excluded_cells(cube, audit_cube(cube)).any()
        assert excluded_cells(cube, audit_cube(cube), kinds=["ends-early"]).sum() == 18

    def test_the_cells_become_nan_and_nothing_else_changes(self, value: Array) -> None:
        value[0, 1] = value[0, 0]
        cube = make_cube(value, stderr=np.full(value.shape, 0.02))
        kept = without_excluded(cube, audit_cube(cube))
        assert kept["value"].isel(model=0, seed=1).isnull().all()
        assert kept["stderr"].isel(model=0, seed=1).isnull().all()
        rest = {"model": 1}
        assert kept.isel(rest).identical(cube.isel(rest))

    def test_a_selection_of_the_cube_takes_the_findings_of_all_of_it(self, value: Array) -> None:
        value[1, 2] = value[0, 3]
        found = audit_cube(make_cube(value))
        part = make_cube(value).sel(model=["m1"], seed=[0, 2], step=[3000, 4000])
        assert excluded_cells(part, found).any(("step", "metric")).values.tolist() == [[False, True]]

    def test_an_unknown_kind_is_refused_with_the_nearest(self, value: Array) -> None:
        cube = make_cube(value)
        with pytest.raises(AnalysisError, match="Did you mean 'restart'"):
            excluded_cells(cube, audit_cube(cube), kinds=["restarts"])

    def test_something_else_than_findings_is_refused(self, value: Array) -> None:
        with pytest.raises(AnalysisError, match="give what audit_cube returned"):
            excluded_cells(make_cube(value), xr.Dataset())


class TestOddCubes:
    @pytest.mark.parametrize("n_seed", [1, 2])
    @pytest.mark.parametrize("n_step", [1, 2, 27])
    @pytest.mark.parametrize("n_metric", [1, 7])
    def test_few_runs_steps_and_metrics_pass(self, n_seed: int, n_step: int, n_metric: int) -> None:
        value = np.random.default_rng(0).uniform(0.2, 0.8, (1, n_seed, n_step, n_metric))
        assert audit_cube(make_cube(value)).sizes["finding"] == 0

    def test_all_nan_is_said(self, value: Array) -> None:
        assert audit_cube(make_cube(np.full_like(value, np.nan)))["kind"].values.tolist() == ["no-values"]

    def test_all_infinite_is_all_diverged(self, value: Array) -> None:
        assert set(audit_cube(make_cube(np.full_like(value, np.inf)))["kind"].values.tolist()) == {"diverged"}

    def test_all_runs_identical(self, value: Array) -> None:
        value[:] = value[:1, :1]
        found = audit_cube(make_cube(value))
        assert found["kind"].values.tolist() == ["identical-run"] * 7

    def test_one_step_of_copied_runs(self) -> None:
        value = np.random.default_rng(1).uniform(0.2, 0.8, (1, 3, 1, 9))
        value[0, 2] = value[0, 0]
        found = audit_cube(make_cube(value, steps=[500]))
        assert found["kind"].values.tolist() == ["identical-run"]

    @pytest.mark.parametrize("scale", [1e-300, 1e300])
    def test_extreme_sizes_pass(self, value: Array, scale: float) -> None:
        metrics = [f"eval/t{i}/score" for i in range(6)]
        assert audit_cube(make_cube(value * scale, metrics=metrics)).sizes["finding"] == 0

    def test_something_else_is_refused(self) -> None:
        with pytest.raises(NotACubeError, match="expected a cube"):
            audit_cube("cube.nc")  # type: ignore[arg-type]

    def test_an_empty_dimension_is_refused(self, value: Array) -> None:
        with pytest.raises(AnalysisError, match="nothing along seed"):
            audit_cube(make_cube(value).isel(seed=[]))

    def test_another_dataset_is_no_lineage(self, value: Array) -> None:
        with pytest.raises(AnalysisError, match="make it with weight_lineage"):
            audit_cube(make_cube(value), lineage=xr.Dataset())


def lineage(steps: list[int], correlation: Array) -> xr.Dataset:
    """A lineage of model m0, seed 2, as weight_lineage gives it."""
    n, dims = len(steps), ("model", "seed", "step")
    shape = (1, 1, n)
    return xr.Dataset(
        {
            "correlation": ((*dims, "other_step"), correlation[None, None]),
            "content": (dims, np.array([f"h{i}" for i in range(n)]).reshape(shape)),
            "relative_change": (dims, np.full(shape, 0.1)),
            "allowed_change": (dims, np.full(shape, np.nan)),
            "tokenizer": (dims, np.full(shape, "")),
            "half_precision": (dims, np.zeros(shape, dtype=bool)),
        },
        coords={"model": ["m0"], "seed": [2], "step": steps, "other_step": steps},
    )


class TestLineage:
    # Steps 1000 to 3000 follow each other; 4500 and 5500 come from step 1000.
    STEPS = (1000, 2000, 3000, 4500, 5500)
    PARENT = np.array(
        [[1, 0.9, 0.8, 0.9, 0.8], [0.9, 1, 0.9, 0.8, 0.7], [0.8, 0.9, 1, 0.7, 0.6], [0.9, 0.8, 0.7, 1, 0.9], [0.8, 0.7, 0.6, 0.9, 1]]
    )  # fmt: skip

    def test_a_restart_of_the_weights_excludes_what_follows(self, value: Array) -> None:
        cube = make_cube(value)
        found = audit_cube(cube, lineage=lineage(list(self.STEPS), self.PARENT))
        assert found["kind"].values.tolist() == ["weights-restart"]
        assert (found["first_step"].item(), found["last_step"].item()) == (4500, 7000)

    def test_steps_of_values_stay_right_beside_other_steps_of_weights(self, value: Array) -> None:
        value[1, 2, :6] = value[0, 3, :6]
        cube = make_cube(value)
        alone = excluded_cells(cube, audit_cube(cube))
        both = excluded_cells(cube, audit_cube(cube, lineage=lineage(list(self.STEPS), self.PARENT)))
        assert (both.values >= alone.values).all()
        more = both.values & ~alone.values
        # Of the steps of the restart, 4500 and 5500, the cube has none: it has those that come after.
        assert np.argwhere(more.any(axis=3)).tolist() == [[0, 2, 5], [0, 2, 6], [0, 2, 7]]


class TestRealData:
    @pytest.mark.slow
    def test_pythia_evals_have_equal_steps_0_and_1_in_every_run(self, shared_data: Path) -> None:
        found = audit_cube(ps.read_lm_eval(shared_data / "pythia-evals" / "evals" / "pythia-v1" / "pythia-70m"))
        frozen = found["kind"].values == "frozen-checkpoint"
        assert frozen.sum() == 1
        assert found["last_step"].values[frozen].tolist() == [1]

    @pytest.mark.slow
    def test_pythia_evals_of_all_models(self, shared_data: Path) -> None:
        found = audit_cube(ps.read_lm_eval(shared_data / "pythia-evals" / "evals"))
        frozen = found["kind"].values == "frozen-checkpoint"
        assert frozen.sum() == 10
        assert set(found["last_step"].values[frozen].tolist()) == {1}
        worse = set(found["kind"].values[found["severity"].values != "info"].tolist())
        assert worse == {"frozen-checkpoint", "known-issue"}

    @pytest.mark.slow
    def test_records_that_share_trajectories_are_those_of_a_plain_comparison(self, shared_data: Path) -> None:
        from polystab.sources.training_logs import read_training_log

        path = shared_data / "modded-nanogpt" / "val_loss.csv.gz"
        found = audit_cube(read_training_log(path, columns={"model": "track+record", "seed": "run", "step": "step"}))
        copied = found["kind"].values == "identical-run"
        table = pd.read_csv(path)
        curves = table.sort_values("step").groupby(["track", "record", "run"]).agg({"step": tuple, "val_loss": tuple})
        repeated = curves[curves.duplicated()].reset_index()
        expected = sorted((repeated["track"] + "/" + repeated["record"]).tolist())
        assert copied.sum() == len(expected) == 32
        assert (
            found.sizes["finding"] - copied.sum()
            == (np.isin(found["kind"], ["coverage-hole", "ends-early", "diverged", "reading-note", "no-values"])).sum()
        )
