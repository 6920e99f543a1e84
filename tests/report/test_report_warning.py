"""The section on early warning: its numbers, its sentence, and what it says where there is nothing to learn from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xarray as xr

import polystab as ps
from polystab import plots
from polystab.analysis import failed_runs
from polystab.errors import AnalysisError, UnknownNameError
from polystab.report.blocks import Paragraph
from polystab.report.render.pictures import draw
from polystab.report.results import analyse, warned
from polystab.report.results.warned import Warned, warn
from polystab.report.sections.warning import warning
from polystab.report.summary import plain, summarise, summary_of
from polystab.report.summary.warning import verdict, warning_summary


def edge(models: slice = slice(None)) -> xr.DataTree:
    return ps.load_tree("nano-edge").isel(model=models)


@pytest.fixture(scope="module", name="found")
def _found() -> Warned:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warned, "SPLITS", 2)
        patch.setattr(warned, "FOLDS", 2)
        patch.setattr(warned, "RESAMPLES", 50)
        found = warn(edge(), rng=0)
    assert found is not None
    return found


@pytest.fixture(scope="module", name="early")
def _early(found: Warned) -> dict[str, Any]:
    return plain(warning_summary(found))["early"]


@pytest.mark.slow
def test_the_numbers_are_those_of_the_evaluation(found: Warned, early: dict[str, Any]) -> None:
    at = found.evaluation.sel(measure="auroc_within", step=200)
    assert (early["step"], early["share"]) == (200, 0.25)
    assert early["gain"] == float(at["gain"])
    assert [row["auroc"] for row in early["methods"]] == at["value"].values.tolist()
    assert [row["caught"] for row in early["methods"]] == found.evaluation["caught"].values.tolist()


@pytest.mark.slow
def test_runs_evaluated_are_those_that_went_wrong_and_the_others(found: Warned, early: dict[str, Any]) -> None:
    failed = failed_runs(edge())
    assert (early["wrong"], early["good"]) == (27, int(failed["known"].sum()) - 27)


@pytest.mark.slow
def test_the_section_has_the_sentence_the_picture_and_a_row_a_method(found: Warned, early: dict[str, Any]) -> None:
    blocks = list(warning({"warning": plain(warning_summary(found))}))
    said = [part for block in blocks if isinstance(block, Paragraph) for part in block.parts]
    assert any(verdict(early) in str(part) for part in said)
    assert [len(group.rows) for group in blocks[-1].groups] == [len(early["methods"])]
    assert blocks[-2].key == "warning"


@pytest.mark.slow
def test_the_picture_draws_the_method_and_the_best_baseline(found: Warned, early: dict[str, Any]) -> None:
    figure = plots.warning_curves(found.evaluation)
    drawn = [line.get_ydata().tolist() for line in figure.axes[0].lines[:2]]
    values = {row["name"]: row["value"] for row in early["curves"]}
    assert drawn == [values["logistic"], values[early["baseline"]]]
    means = {name: np.mean(value) for name, value in values.items() if name != "logistic"}
    assert early["baseline"] == max(means, key=means.__getitem__)


@pytest.mark.slow
def test_an_unknown_measure_and_what_is_no_evaluation_are_refused(found: Warned) -> None:
    with pytest.raises(UnknownNameError, match="auroc_within"):
        plots.warning_curves(found.evaluation, measure="auroc_withn")
    with pytest.raises(AnalysisError, match="evaluate_warning"):
        plots.describe_warning(ps.load_cube("demo"))


def told(gain: float, low: float | None, high: float | None) -> str:
    row = {"name": "logistic", "auroc": 0.7, "auroc_lower": 0.6, "auroc_upper": 0.8}
    gains = {
        "gain": gain,
        "gain_lower": low,
        "gain_upper": high,
        "best_baseline": "last_loss",
        "n_wrong": 5,
        "n_good": 25,
    }
    return verdict({"method": "logistic", "methods": [row], "step": 10, "share": 0.25, "level": 0.95, **gains})


@pytest.mark.parametrize(
    ("gain", "low", "high", "said"),
    [
        (0.2, 0.1, 0.3, "others better than"),
        (0.2, -0.1, 0.5, "others neither clearly better nor clearly worse than"),
        (-0.2, -0.3, -0.1, "others worse than"),
        (0.2, None, None, "others neither clearly better nor clearly worse than"),
    ],
)
def test_only_an_interval_without_zero_makes_it_better_or_worse(
    gain: float, low: float | None, high: float | None, said: str
) -> None:
    assert said in told(gain, low, high)


@pytest.mark.slow
def test_few_runs_that_went_wrong_are_said_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warned, "MIN_EACH", 28)
    found = warn(edge(), rng=0)
    assert found.evaluation is None
    said = repr(list(warning({"warning": plain(warning_summary(found))})))
    assert "of 72 runs only 27 went wrong, and it takes 28 of either kind" in said


@pytest.mark.slow
def test_one_seed_cannot_be_held_out_and_the_section_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warned, "MIN_EACH", 1)
    found = warn(edge().isel(seed=[0]), rng=0)
    assert found.evaluation is None
    assert "one part only" in found.reason


def test_without_logs_there_is_no_early_warning() -> None:
    assert warn(ps.load_cube("nano-edge"), rng=0) is None


@pytest.mark.slow
def test_the_page_of_one_section_has_its_picture_and_no_other(monkeypatch: pytest.MonkeyPatch, found: Warned) -> None:
    results = analyse(edge())
    results.__dict__["warned"] = found
    drawn = draw(results, summary_of(results, sections=["warning"]), ["warning"])
    assert list(drawn.svg) == ["warning"]


@pytest.mark.slow
def test_takeaways_have_the_sentence(found: Warned, early: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("polystab.report.results.computed.warn", lambda *_args, **_kwargs: found)
    said = [item["text"] for item in summarise(edge(slice(4, 5)).isel(seed=slice(0, 4)))["takeaways"]]
    assert verdict(early) in said
