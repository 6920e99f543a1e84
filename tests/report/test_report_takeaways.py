"""What the first section says of seeds, changes and runs: which metric, which numbers, how sure."""

from __future__ import annotations

from typing import Any

import pytest

from polystab.report.summary.seed_takeaways import what_seeds_do
from polystab.report.summary.takeaways import takeaways


def row(metric: str, model: str, sd: float, **more: Any) -> dict[str, Any]:
    found = {"metric": metric, "model": model, "mean": 0.5, "sd_c4": sd, "sd_lower": sd / 2, "sd_upper": 2 * sd}
    return found | {"n_seeds": 10} | more


def model(name: str, n_constant: int = 0) -> dict[str, Any]:
    return {"model": name, "n_seeds": 10, "n_constant": n_constant, "sd_over_stderr": None, "sd_over_movement": None}


def change(metric: str, name: str, step: int, n_runs: int) -> dict[str, Any]:
    place = {"step": step, "lower": step - 10, "upper": step + 10, "p": 0.01, "n_looked_at": 10}
    return {"metric": metric, "model": name, "n_runs": n_runs} | place


def summary(
    rows: list | None = None, shared: list | None = None, runs: list | None = None, judged: int = 1, constant: int = 0
) -> dict[str, Any]:
    """A summary with these final values, shared changes and outlier runs, and nothing else to say."""
    models = [{"model": f"m{i}", "n_judged": 10} for i in range(judged)]
    outliers = [run | {"p_any_model": run["p_value"] * judged} for run in runs or ()]
    return {
        "contents": {"measured": 1},
        "comparison": None,
        "audit": None,
        "findings": {"kinds": [], "rows": []},
        "copies": [],
        "diverged": [],
        "verdicts": {"rows": outliers, "models": models, "n_models": judged, "false_alarm": 0.05},
        "outliers": {"runs": []},
        "warning": None,
        "final": {"rows": rows or [], "models": [model("a", constant)], "min_runs": 3, "level": 0.95},
        "variance": {"rows": [], "parts": []},
        "phases": {"shared": shared or []},
    }


def texts(found: dict[str, Any], section: str) -> list[str]:
    return [text for _, where, text in what_seeds_do(found) if where == section]


def test_the_spread_is_told_of_a_score_with_its_interval() -> None:
    rows = [row("weight/all/l2", "a", 3.0), row("eval/x/acc", "a", 0.02), row("eval/x/acc", "b", 0.04)]
    (said,) = texts(summary(rows), "final")
    assert "eval/x/acc has a mean of 0.500 with an SD of 0.040 [0.020, 0.080] in 10 runs of b" in said
    assert "0.020 [0.010, 0.040] in 10 runs of a" in said
    assert "weight" not in said


def test_of_many_models_those_with_the_largest_spread_are_named() -> None:
    (said,) = texts(summary([row("eval/x/acc", f"m{i}", 0.01 * (i + 1)) for i in range(6)]), "final")
    assert "of m5" in said
    assert "and less in 3 more models" in said
    assert "of m2" not in said


def test_a_spread_without_an_interval_is_not_told_of() -> None:
    assert texts(summary([row("eval/x/acc", "a", 0.02, sd_lower=None)]), "final") == []


def test_changes_are_told_of_the_score_and_the_loss_in_which_most_seeds_agree() -> None:
    shared = [
        change("weight/all/l2", "a", 5, 10),
        change("eval/x/acc", "a", 50, 5),
        change("eval/y/acc", "a", 70, 9),
        change("loss/validation/cross_entropy", "a", 20, 8),
    ]
    said = texts(summary(shared=shared), "phases")
    assert "eval/y/acc moves to another level at step 70 [60, 80] in 9 of 10 seeds of a." in said[0]
    assert "cross_entropy moves to another level at step 20 [10, 30]" in said[1]
    assert said[2] == "In all, seeds of a model share 4 changes of level in 4 metrics."


def test_without_scores_and_losses_another_metric_is_told_of() -> None:
    said = texts(summary(shared=[change("weight/all/l2", "a", 15, 10)]), "phases")
    assert said == ["Training changes: weight/all/l2 moves to another level at step 15 [5, 25] in 10 of 10 seeds of a."]


def test_metrics_that_end_alike_are_named_and_copies_suspected_only_if_there_are_some() -> None:
    found = summary([row("eval/x/acc", "a", 0.0, sd_lower=None, mean=1.0)], constant=1)
    (said,) = texts(found, "final")
    assert "such as eval/x/acc (1.000)" in said
    assert "floor or a ceiling" in said
    found["copies"] = [{"whole": True}]
    assert "same runs" in texts(found, "final")[0]


def outlier(seed: int, p: float) -> dict[str, Any]:
    return {
        "model": "m0",
        "seed": seed,
        "kind": "deviates",
        "p_value": p,
        "from_step": 5,
        "until_step": 9,
        "because": [],
    }


@pytest.mark.parametrize(("judged", "level", "said"), [(1, "bad", "seed 1 is an outlier"), (3, "warn", "may be")])
def test_of_many_models_judged_an_outlier_is_told_with_more_care(judged: int, level: str, said: str) -> None:
    (found,) = takeaways(summary(runs=[outlier(1, 0.03)], judged=judged))
    assert found["level"] == level
    assert said in found["text"]


def test_further_runs_are_outliers_or_may_be() -> None:
    found = takeaways(summary(runs=[outlier(i, p) for i, p in enumerate([0.002, 0.002, 0.002, 0.002, 0.04])], judged=2))
    assert found[-1]["text"] == "2 more runs are or may be outliers: m0 seed 3 and m0 seed 4."
    assert found[-1]["level"] == "bad"


def test_problems_come_before_what_asks_for_a_look_and_that_before_the_rest() -> None:
    rows, shared = [row("eval/x/acc", "a", 0.02)], [change("eval/x/acc", "a", 50, 9)]
    found = takeaways(summary(rows, shared, [outlier(0, 0.002), outlier(1, 0.04)], judged=2))
    assert [item["level"] for item in found] == ["bad", "warn", "info", "info"]


def test_the_interval_of_a_change_in_few_seeds_is_not_told_of() -> None:
    (said,) = texts(summary(shared=[change("eval/x/acc", "a", 50, 5)]), "phases")
    assert "at step 50 in 5 of 10 seeds" in said
