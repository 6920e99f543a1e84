"""Large cubes: analyses work on some metrics at a time, and say the same to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from cubes_of_arrays import make_cube

import polystab as ps
import polystab.analysis as an
from polystab.analysis import chunked
from polystab.analysis.arrays import cells
from polystab.analysis.audit import runs
from polystab.analysis.components import last_checkpoints, split
from polystab.analysis.outliers.tallies import RunTally
from polystab.cube import parts
from polystab.cube.parts import metric_slices
from polystab.cube.specs import DIMS
from polystab.errors import CubeTooLargeError
from polystab.report.results.bounded import for_reading
from polystab.summaries.contents import summary_of_cube

SHAPE = (3, 5, 14, 9)
METRIC_BYTES = 8 * 3 * 5 * 14


def cube_with_gaps() -> xr.Dataset:
    """Nine metrics of three models: gaps, a run that is a copy, two metrics that are, infinite values."""
    rng = np.random.default_rng(0)
    value = rng.normal(size=(3, 1, 1, 9)) + rng.normal(size=(3, 5, 1, 9)) + np.cumsum(rng.normal(size=SHAPE), axis=2)
    value[rng.random(SHAPE) < 0.03] = np.nan
    value[0, 3] = value[0, 1]
    value[1, 4, :, 2:4] = value[1, 0, :, 2:4]
    value[2, 2, 9:, :6] = np.inf
    return make_cube(value, stderr=np.abs(rng.normal(scale=0.1, size=SHAPE))).assign_coords(
        n_parameters=("model", np.array([10, 100, 1000]))
    )


def with_faults(cube: xr.Dataset) -> xr.Dataset:
    """The cube with most of what an audit looks for: copies of all kinds, impossible values, holes, shots that change."""
    value = cube["value"].values.copy()
    value[0, 1, :7] = value[0, 0, :7]
    value[0, 2, 3:12, 4:6] = value[0, 0, 3:12, 4:6]
    value[1, 1, 6] = value[1, 1, 5]
    value[1, 2, 9] = value[1, 2, 2]
    value[1, 3, 6:] = value[1, 1, :8]
    value[2, 0, 8:, ::2] = value[2, 0, :6, ::2]
    value[2, 1, 10:] = np.nan
    value[2, 3, 2:6, 7] = np.nan
    value[0, 4, 2, 1] = -3.0
    value[2, 4, ::2, 2] = value[2, 4, 1::2, 6] = np.nan
    measures = ["loss" if k % 2 else "acc" for k in range(9)]
    names = [f"eval/task{k % 4}/{measure}" for k, measure in enumerate(measures)]
    named = cube.assign(value=(DIMS, value)).assign_coords(measure=("metric", measures))
    shots = {"subject": ("metric", [name.split("/")[1] for name in names]), "shots": ("metric", np.arange(9) // 4)}
    return named.assign_coords(shots)


def in_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_BYTES", 3 * METRIC_BYTES)


def equal(one: xr.Dataset, other: xr.Dataset) -> None:
    xr.testing.assert_identical(one, other)
    assert list(one.variables) == list(other.variables)
    for name in one.variables:
        assert one[name].dtype == other[name].dtype
        np.testing.assert_array_equal(one[name].values, other[name].values)


def at_last(cube: xr.Dataset) -> int:
    return int(cube["step"].values[-1])


QUICK: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "seed_spread": an.seed_spread,
    "seed_spread at a step": lambda cube: an.seed_spread(cube, step=at_last(cube)),
    "seed_band": an.seed_band,
    "final_steps": an.final_steps,
    "rank_metrics": an.rank_metrics,
    "cube_coverage": an.cube_coverage,
    "duplicate_runs": an.duplicate_runs,
    "seed_variances": an.seed_variances,
    "checkpoint_noise": an.checkpoint_noise,
    "signal_to_noise": an.signal_to_noise,
    "monotonicity": an.monotonicity,
    "checkpoint_proxy": an.checkpoint_proxy,
    "coefficient_of_variation": an.coefficient_of_variation,
    "seed_reliability": an.seed_reliability,
    "noise_floor": an.noise_floor,
    "variance_ratio": lambda cube: an.variance_ratio(cube, models=("m0", "m1")),
    "variance_by_size": an.variance_by_size,
    "outlier_scores": lambda cube: ps.outlier_scores(cube, method="leave_one_out"),
    "outlier_scores by plain z": lambda cube: ps.outlier_scores(cube, method="z", threshold=1.5),
}

SLOW: dict[str, Callable[[xr.Dataset], xr.Dataset]] = {
    "outlier_scores": ps.outlier_scores,
    "outlier_scores without scores": lambda cube: ps.outlier_scores(cube, keep_scores=False),
    "outlier_scores by seeds": lambda cube: ps.outlier_scores(cube, method="reference", reference=[0, 1, 2, 4]),
    "outlier_scores by a cube": lambda cube: ps.outlier_scores(
        cube, method="reference", reference=cube.isel(seed=slice(1, None), metric=slice(None, None, 2))
    ),
    "permutation_test": lambda cube: an.permutation_test(cube, n_permutations=49, rng=1),
    "asymptotes": an.asymptotes,
    "forecast_final": lambda cube: an.forecast_final(cube, at=0.5),
    "variance_over_windows": an.variance_over_windows,
    "audit_cube": an.audit_cube,
    "audit_cube of faults": lambda cube: an.audit_cube(with_faults(cube)),
    "without_excluded": lambda cube: an.without_excluded(cube, an.audit_cube(with_faults(cube))),
    "curve_peaks": lambda cube: an.curve_peaks(cube, rng=0),
    "curve_consistency": lambda cube: an.curve_consistency(cube, n_draws=19, rng=0),
    "seed_spread but for what an audit excludes": lambda cube: an.seed_spread(with_faults(cube), exclude="audit"),
    "change_points": lambda cube: ps.change_points(cube, rng=0),
    "change_points of lines": lambda cube: ps.change_points(cube, cost="linear", metrics=names(cube)[1:8], rng=2),
}

COMPONENTS: dict[str, dict[str, Any]] = {
    "nested": {},
    "crossed": {"design": "crossed"},
    "fixed": {"fixed": {"first": xr.DataArray([0.0, 1, 0, 1, 0], dims="seed")}},
    "bootstrap": {"intervals": "bootstrap", "n_resamples": 41, "rng": 3},
}


def names(cube: xr.Dataset) -> list[str]:
    return [str(name) for name in cube["metric"].values.tolist()]


@pytest.mark.parametrize("name", QUICK)
def test_parts_give_the_same_as_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Products of matrices depend, in their last digits, on what else is in them: parts begin where blocks do.
    monkeypatch.setattr(last_checkpoints, "_BLOCK", 2 * 15 * 14)
    cube = cube_with_gaps()
    whole = QUICK[name](cube)
    in_three(monkeypatch)
    equal(whole, QUICK[name](cube))


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_parts_give_the_same_as_the_whole_where_that_takes_longer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cube = cube_with_gaps()
    whole = SLOW[name](cube)
    in_three(monkeypatch)
    equal(whole, SLOW[name](cube))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "block"), [("nested", 15 * 5), *((name, 15 * 14 * 2) for name in COMPONENTS)])
def test_variance_components_are_the_same_in_parts(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "_BLOCK", block)
    cube = cube_with_gaps()
    whole = ps.variance_components(cube, **COMPONENTS[name])
    in_three(monkeypatch)
    equal(whole, ps.variance_components(cube, **COMPONENTS[name]))


@pytest.mark.slow
def test_variance_components_but_for_what_is_excluded_are_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "_BLOCK", 15 * 5)
    cube = with_faults(cube_with_gaps())
    whole = ps.variance_components(cube, exclude="audit")
    in_three(monkeypatch)
    equal(whole, ps.variance_components(cube, exclude="audit"))


def test_the_fingerprint_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = cube_with_gaps()
    whole = an.fingerprint(cube)
    in_three(monkeypatch)
    assert an.fingerprint(cube) == whole


@pytest.mark.slow
def test_a_file_is_read_in_parts_and_not_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ps.save_cube(cube_with_gaps(), tmp_path / "cube.nc")
    in_three(monkeypatch)
    with ps.open_cube(tmp_path / "cube.nc") as cube:
        an.seed_spread(cube)
        an.seed_band(cube)
        assert not cube.variables["value"]._in_memory
        assert not cube.variables["stderr"]._in_memory


def test_what_takes_all_values_at_once_says_so_before_it_reads_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ps.save_cube(cube_with_gaps(), tmp_path / "cube.nc")
    in_three(monkeypatch)
    monkeypatch.setattr(parts, "memory", lambda: 9 * METRIC_BYTES)
    with (
        ps.open_cube(tmp_path / "cube.nc") as cube,
        pytest.raises(CubeTooLargeError, match="select metrics first"),
    ):
        ps.outlier_runs(cube)


def test_a_tree_is_taken_in_parts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = cube_with_gaps()
    in_three(monkeypatch)
    equal(an.seed_spread(cube), an.seed_spread(xr.DataTree(cube)))


def test_a_cube_is_not_changed_by_being_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = cube_with_gaps()
    in_three(monkeypatch)
    an.seed_spread(cube)
    equal(cube, cube_with_gaps())


@pytest.mark.slow
def test_an_audit_of_parts_finds_faults_of_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    in_three(monkeypatch)
    kinds = set(an.audit_cube(with_faults(cube_with_gaps()))["kind"].values.tolist())
    assert kinds >= {
        *("identical-until", "identical-stretch", "frozen-checkpoint", "copied-checkpoint", "shifted-values"),
        *("repeated-stretch", "impossible-value", "diverged", "ends-early", "coverage-hole", "mixed-shots"),
    }


FIXED = ["asymptotes", "curve_peaks", "curve_consistency", "forecast_final", "variance_over_windows"]


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED)
def test_metrics_say_the_same_among_few_and_many(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = {"rng": 0} if name.startswith("curve") else {}
    analysis, cube = getattr(an, name), cube_with_gaps()
    whole = analysis(cube, **chance)
    monkeypatch.setattr(chunked, "FIXED_BYTES", 2 * METRIC_BYTES)
    xr.testing.assert_allclose(whole, analysis(cube, **chance), rtol=1e-6)


@pytest.mark.slow
def test_what_is_left_out_of_a_file_is_not_read_before_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty = cube_with_gaps()
    ps.save_cube(faulty.assign(value=with_faults(faulty)["value"]), tmp_path / "cube.nc")
    in_three(monkeypatch)
    with ps.open_cube(tmp_path / "cube.nc") as cube:
        findings = an.audit_cube(cube)
        kept = an.without_excluded(cube, findings)
        assert not kept.variables["value"]._in_memory
        assert not cube.variables["value"]._in_memory
        excluded = an.excluded_cells(cube, findings)
        some = {"model": [2, 0], "step": slice(1, 9, 2), "metric": 4}
        expected = cube["value"].where(~excluded).isel(some)
        np.testing.assert_array_equal(kept["value"].isel(some).values, expected.values)


def coarse_copies() -> xr.Dataset:
    """Six metrics of three different values each: that a run is a copy is told by all of them together only."""
    rng = np.random.default_rng(1)
    value = rng.integers(0, 3, size=(1, 4, 10, 6)) + 10.0 * np.arange(6)
    value[0, 2] = value[0, 0]
    return make_cube(value)


def test_a_copy_that_shows_in_no_part_alone_is_a_copy_in_every_part() -> None:
    cube = coarse_copies()
    found = [an.duplicate_runs(part)["duplicate_run"].values[0] for part in an_parts(cube)]
    assert [copied.tolist() for copied in found] == [[False, False, True, False]] * 3
    alone = cube.isel(metric=slice(0, 1))
    assert not an.duplicate_runs(alone)["duplicate_run"].any()


def an_parts(cube: xr.Dataset) -> list[xr.Dataset]:
    return list(chunked.metric_parts(cube, max_bytes=2 * 8 * 40))


def test_a_copy_is_told_in_parts_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = coarse_copies()
    monkeypatch.setattr(parts, "PART_BYTES", 2 * 8 * 40)
    assert an.duplicate_runs(cube)["duplicate_run"].values[0].tolist() == [False, False, True, False]


def test_runs_with_the_same_fingerprint_are_compared_cell_by_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "hashed", lambda rows: np.zeros(rows.shape[:-1], dtype=np.uint64))
    cube = make_cube(np.random.default_rng(0).normal(size=(1, 4, 10, 6)))
    monkeypatch.setattr(parts, "PART_BYTES", 2 * 8 * 40)
    assert not an.duplicate_runs(cube)["duplicate_run"].any()


def test_flat_runs_are_no_copies_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = make_cube(np.ones((1, 4, 10, 6)) * np.arange(1.0, 7) % 4)
    monkeypatch.setattr(parts, "PART_BYTES", 2 * 8 * 40)
    assert not an.duplicate_runs(cube)["duplicate_run"].any()


def test_change_points_of_one_metric_know_copies_by_the_others() -> None:
    cube = coarse_copies()
    found = ps.change_points(cube, metrics=names(cube)[:1], rng=0)
    assert found["reason"].values[0, :, 0].tolist().count(2) == 1


def test_a_generator_moves_on_as_if_all_were_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = cube_with_gaps()
    in_three(monkeypatch)
    seen = np.random.default_rng(5)
    chunked.in_parts(
        lambda part, rng: part[[]].assign(x=("metric", rng.random(1).repeat(part.sizes["metric"]))), cube, rng=seen
    )
    once = np.random.default_rng(5)
    once.random(1)
    assert seen.random() == once.random()


def test_every_part_gets_the_same_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    in_three(monkeypatch)

    def drawn(part: xr.Dataset, rng: Any) -> xr.Dataset:
        draw = np.random.default_rng(rng).random(1)
        return xr.Dataset({"x": ("metric", draw.repeat(part.sizes["metric"]))})

    for rng in (None, 3, np.random.default_rng(3)):
        found = chunked.in_parts(drawn, cube_with_gaps(), rng=rng)["x"].values
        assert len(np.unique(found)) == 1


def test_joined_results_are_as_long_as_the_longest() -> None:
    short = xr.Dataset({"step": (("metric", "change"), [[5]]), "p": (("metric", "change"), [[0.1]])})
    long = xr.Dataset({"step": (("metric", "change"), [[1, 2]]), "p": (("metric", "change"), [[0.2, 0.3]])})
    found = chunked.joined([short, long])
    assert found["step"].values.tolist() == [[5, -1], [1, 2]]
    np.testing.assert_array_equal(found["p"].values, [[0.1, np.nan], [0.2, 0.3]])


def test_without_scores_nothing_is_as_large_as_the_cube() -> None:
    found = ps.outlier_scores(cube_with_gaps(), method="z", keep_scores=False)
    assert "metric" not in found.dims
    assert "score" not in found


def test_of_equal_scores_the_earlier_step_counts_and_then_the_first_metric() -> None:
    score = np.zeros((1, 1, 3, 4))
    score[0, 0, 1, 3] = score[0, 0, 2, 0] = score[0, 0, 1, 2] = -9.0
    for width in (1, 2, 4):
        tally = RunTally((1, 1, 3, 4), 3.0)
        for start in range(0, 4, width):
            part = score[..., start : start + width]
            tally.add(part, part, np.full((1, 3, width), 5))
        said = tally.summary(np.array([10, 20, 30]), np.array(["a", "b", "c", "d"]))
        assert (said["largest_step"].item(), said["largest_metric"].item(), said["largest"].item()) == (20, "c", -9.0)


@pytest.mark.slow
def test_what_an_audit_excludes_is_excluded_of_a_large_cube_too(monkeypatch: pytest.MonkeyPatch) -> None:
    cube = cube_with_gaps()
    findings = an.audit_cube(cube)
    whole = an.seed_spread(cube, exclude=findings)
    in_three(monkeypatch)
    equal(whole, an.seed_spread(cube, exclude=findings))


@pytest.mark.parametrize(
    "read",
    [cells, for_reading, metric_slices, partial(summary_of_cube, rows=3)],
    ids=["cells", "report", "parts", "summary"],
)
def test_a_metric_beyond_all_measure_is_refused_before_it_is_read(read: Any) -> None:
    # No memory stands behind it, as in a file whose cells were never written.
    value = np.broadcast_to(np.float64("nan"), (1, 30_000, 30_000, 1))
    cube = xr.Dataset(
        {"value": (DIMS, value)}, coords={dim: np.arange(n) for dim, n in zip(DIMS, value.shape, strict=True)}
    )
    with pytest.raises(CubeTooLargeError, match=r"900,000,000 cells of model, seed and step\. Select fewer"):
        read(cube)
