"""Impossible values, items and shots that change, holes; what reading said; known issues."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from cubes_of_arrays import make_cube

from polystab.analysis.audit.checks import audit_cube
from polystab.analysis.audit.known import known_issues
from polystab.cube.audit import AuditLog

Array = npt.NDArray[np.float64]


@pytest.fixture
def value() -> Array:
    return np.random.default_rng(0).uniform(0.3, 0.6, (1, 4, 8, 6))


def rows(cube: xr.Dataset | xr.DataTree) -> list[tuple[str, str, int, int, int]]:
    """Kind, model, seed, first and last step."""
    found = audit_cube(cube)
    columns = ("kind", "model", "seed", "first_step", "last_step")
    return list(zip(*(found[name].values.tolist() for name in columns), strict=True))


class TestImpossible:
    @pytest.mark.parametrize(
        ("metric", "bad"),
        [
            ("eval/t/acc", 1.2), ("eval/t/acc", -0.1), ("eval/t/ppl", 0.9), ("loss/val/loss", -1.0),
            ("weight/w/l2_norm", -1e-3), ("agreement/t/kappa", -1.5),
        ],
    )  # fmt: skip
    def test_a_value_beyond_its_limits_is_found(self, value: Array, metric: str, bad: float) -> None:
        metrics = [metric, *(f"eval/t{i}/score" for i in range(5))]
        value[..., 0] += 1.0 if metric.endswith("ppl") else 0.0
        value[0, 2, 5, 0] = bad
        assert rows(make_cube(value, metrics=metrics)) == [("impossible-value", "m0", 2, 5000, 5000)]

    @pytest.mark.parametrize("edge", [0.0, 1.0, 1.0 + 1e-12])
    def test_the_limits_themselves_are_possible(self, value: Array, edge: float) -> None:
        value[0, 2, 5, 0] = edge
        assert rows(make_cube(value)) == []

    def test_percentages_are_recognised(self, value: Array) -> None:
        found = audit_cube(make_cube(100 * value))
        assert set(found["kind"].values.tolist()) == {"impossible-value"}
        assert all("divide them by 100" in text for text in found["advice"].values.tolist())

    def test_percentages_that_say_so_are_possible(self, value: Array) -> None:
        assert rows(make_cube(100 * value, units=["%"] * 6)) == []

    def test_scores_without_limits_may_be_anything(self, value: Array) -> None:
        assert rows(make_cube(-50 * value, metrics=[f"eval/t{i}/likelihood_difference" for i in range(6)])) == []

    def test_infinite_values_are_a_diverged_run(self, value: Array) -> None:
        value[0, 1, 5:] = np.inf
        assert rows(make_cube(value)) == [("diverged", "m0", 1, 5000, 7000)]


class TestItems:
    def cube(self, n: npt.NDArray[np.int64]) -> xr.Dataset:
        rng = np.random.default_rng(1)
        right = rng.binomial(n, 0.4, (1, 4, 8, 1))
        p = right / n
        return make_cube(p, stderr=np.sqrt(p * (1 - p) / (n - 1)))

    def test_one_count_of_items_is_as_it_should_be(self) -> None:
        assert rows(self.cube(np.full((1, 4, 8, 1), 500))) == []

    def test_items_that_change_along_a_run_are_found(self) -> None:
        n = np.full((1, 4, 8, 1), 500)
        n[0, 2, 6:] = 100
        assert rows(self.cube(n)) == [("mixed-items", "m0", 2, 6000, 7000)]

    def test_another_kind_of_standard_error_says_nothing(self) -> None:
        cube = self.cube(np.full((1, 4, 8, 1), 500))
        cube["stderr"] = cube["stderr"] * np.random.default_rng(2).uniform(0.9, 1.1, cube["stderr"].shape)
        assert rows(cube) == []

    def test_shots_that_change_along_a_run_are_found(self, value: Array) -> None:
        value[:, :, :4, 0] = np.nan
        value[:, :, 4:, 1] = np.nan
        metrics = ["eval/arc/acc", "eval/arc@5shot/acc", *(f"eval/t{i}/acc" for i in range(4))]
        found = [row[0] for row in rows(make_cube(value, metrics=metrics))]
        assert found == ["mixed-shots"] * 4

    def test_shots_side_by_side_are_as_they_should_be(self, value: Array) -> None:
        value[:, :, :4, 1] = np.nan
        metrics = ["eval/arc/acc", "eval/arc@5shot/acc", *(f"eval/t{i}/acc" for i in range(4))]
        assert rows(make_cube(value, metrics=metrics)) == []


class TestCoverage:
    def test_a_run_that_stops_early_is_found(self, value: Array) -> None:
        value[0, 3, 5:] = np.nan
        assert rows(make_cube(value)) == [("ends-early", "m0", 3, 5000, 7000)]

    def test_a_hole_is_found(self, value: Array) -> None:
        value[0, 3, 2:4, 1] = np.nan
        assert rows(make_cube(value)) == [("coverage-hole", "m0", 3, 2000, 3000)]

    def test_runs_with_the_same_hole_go_together(self) -> None:
        value = np.random.default_rng(0).uniform(0.3, 0.6, (1, 9, 8, 6))
        value[0, [2, 5, 6], 3] = np.nan
        found = audit_cube(make_cube(value))
        assert found["seed"].values.tolist() == [-1]
        assert found["evidence"].item().startswith("3 runs of m0 (seeds 2, 5, 6) lack")

    def test_a_metric_that_few_runs_have_is_no_hole_of_the_others(self, value: Array) -> None:
        value[0, 1:, :, 2] = np.nan
        assert rows(make_cube(value)) == []

    def test_a_seed_that_a_model_does_not_have_is_no_hole(self, value: Array) -> None:
        both = np.concatenate([value, value[:, ::-1] + 0.01])
        both[1, 3] = np.nan
        assert rows(make_cube(both)) == []

    def test_a_model_without_values_is_said(self, value: Array) -> None:
        both = np.concatenate([value, np.full_like(value, np.nan)])
        assert rows(make_cube(both)) == [("no-values", "m1", -1, 0, 7000)]


class TestReading:
    def tree(self, value: Array, log: AuditLog) -> xr.DataTree:
        return xr.DataTree.from_dict({"/": make_cube(value), "/audit": log.dataset()})

    def test_refused_files_are_carried_over_by_reason(self, value: Array) -> None:
        log = AuditLog()
        for i in range(7):
            log.refuse(f"bad{i}.json", "label-mismatch", f"path says seed {i}, content 0.")
        log.refuse("cut.json", "invalid-json", "not JSON.")
        found = audit_cube(self.tree(value, log))
        assert found["kind"].values.tolist() == ["label-mismatch", "refused-files"]
        assert found["evidence"].values[0].startswith("7 files refused as label-mismatch, first bad0.json")
        assert not found["at_step"].any()

    def test_values_that_gave_way_are_carried_over(self, value: Array) -> None:
        log = AuditLog()
        log.replace("old.json", "latest", {"m0|0|0|eval/task0/acc": 0.5}, by="new.json")
        assert [row[0] for row in rows(self.tree(value, log))] == ["replaced-values"]

    def test_a_plain_note_is_for_information(self, value: Array) -> None:
        log = AuditLog()
        log.note("a.tsv", "renamed", "L1/L2 is L1_over_L2")
        assert audit_cube(self.tree(value, log))["severity"].values.tolist() == ["info"]

    def test_items_that_differ_are_a_warning(self, value: Array) -> None:
        log = AuditLog()
        log.note("(all files)", "item-count-differs", "arc was measured on 50 and 100 items.")
        assert [row[0] for row in rows(self.tree(value, log))] == ["mixed-items"]

    def test_versions_that_change_along_a_run_are_found(self, value: Array) -> None:
        log = AuditLog()
        for t in range(8):
            version = "lm-eval 0.3" if t < 6 else "lm-eval 0.4.3"
            log.read(f"{t}.json", detail=f"m0 seed 1 step {1000 * t}, 6 values, {version}")
        assert rows(self.tree(value, log)) == [("mixed-versions", "m0", 1, 6000, 7000)]

    def test_versions_that_differ_between_runs_are_found(self, value: Array) -> None:
        log = AuditLog()
        log.read("a.json", detail="m0 seed 0 step 0, 6 values, lm-eval 0.3")
        log.read("b.json", detail="m0 seed 1 step 0, 6 values, lm-eval 0.4.3")
        assert [row[:3] for row in rows(self.tree(value, log))] == [("mixed-versions", "", -1)]

    def test_a_group_of_an_empty_log_says_nothing(self, value: Array) -> None:
        assert rows(self.tree(value, AuditLog())) == []


class TestKnownIssues:
    def cube(self, model: str, steps: list[int], value: Array) -> xr.Dataset:
        return make_cube(value[:, :, : len(steps)], steps=steps).assign_coords(model=[model])

    def test_every_issue_has_a_link_and_a_sentence(self) -> None:
        for issue in known_issues():
            assert issue["link"].startswith("https://github.com/EleutherAI/pythia/issues/")
            assert issue["id"] == f"pythia-{issue['link'].rsplit('/', 1)[1]}"
            assert issue["models"]
            assert issue["what"]
            assert issue["kinds"]

    def test_a_checkpoint_that_is_reported_is_matched(self, value: Array) -> None:
        found = audit_cube(self.cube("pythia-12b-deduped", [31000, 32000], value))
        assert found["kind"].values.tolist() == ["known-issue"]
        assert found["first_step"].item() == found["last_step"].item() == 32000
        assert "issues/108" in found["evidence"].item()

    def test_other_steps_and_other_models_are_not(self, value: Array) -> None:
        assert rows(self.cube("pythia-12b-deduped", [31000, 33000], value)) == []
        assert rows(self.cube("mymodel-12b", [31000, 32000], value)) == []

    def test_an_issue_that_the_cube_shows_is_a_warning(self, value: Array) -> None:
        steps = [0, 1, 1000, 2000, 3000, 4000, 5000, 6000]
        plain = audit_cube(self.cube("pythia-70m", steps, value))
        assert set(plain["severity"].values.tolist()) == {"info"}
        value[0, 0, 1] = value[0, 0, 0]
        shows = audit_cube(self.cube("pythia-70m", steps, value))
        issue = shows["evidence"].values[shows["kind"].values == "known-issue"].tolist()
        assert [text for text in issue if "this cube shows it for pythia-70m seed 0" in text and "issues/83" in text]

    def test_equal_steps_that_are_not_both_measured_are_not_matched(self, value: Array) -> None:
        assert rows(self.cube("pythia-70m", [0, 1000], value)) == []
