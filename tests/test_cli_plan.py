"""What a fill would take: counted by hand, and said with what it rests on."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner, Result

from polystab.cli import main
from polystab.cli_plan import plan_text
from polystab.errors import ReadError, SelectionError, UnknownNameError
from polystab.sources import plan as plan_module
from polystab.sources import plan_rates
from polystab.sources.plan import checkpoint_bytes, plan_fill
from polystab.sources.plan_rates import RATES, TASKS, Rate, bytes_of_unit, seconds_of_checkpoint, task_size
from polystab.sources.runs import catalog

# The weights files of these repositories, in MB, as their pages on the Hub list them.
ON_THE_HUB = {"pythia-70m": 166, "pythia-160m": 375, "pythia-410m": 911, "pythia-1.4b": 2930, "pythia-2.8b": 5680}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def table(**columns: Any) -> pd.DataFrame:
    row = {"model": "m", "seed": 0, "location": "me/m", "revision": "step{step}", "steps": "0 1 2"}
    return pd.DataFrame([row | columns])


class TestBytes:
    @pytest.mark.parametrize(("model", "megabytes"), ON_THE_HUB.items())
    def test_a_checkpoint_is_as_large_as_the_hub_says(self, model: str, megabytes: int) -> None:
        size = checkpoint_bytes(catalog("pythia").select(models=model).runs[0]) or 0
        assert (size - plan_module.SMALL_FILES_BYTES) / 1e6 == pytest.approx(megabytes, rel=0.003)

    def test_downloads_are_the_sum_over_checkpoints(self) -> None:
        runs = catalog("polypythias")
        found = plan_fill("weights", runs=runs)
        assert (found.runs, found.checkpoints, found.units, found.downloads) == (50, 7700, 7700, 7700)
        assert found.download_bytes == sum((checkpoint_bytes(run) or 0) * 154 for run in runs)
        assert found.largest_bytes == checkpoint_bytes(runs.runs[-1])

    def test_two_sources_share_a_download(self) -> None:
        one, two = (
            plan_fill(names, runs="polypythias", models="pythia-14m") for names in ("weights", ["weights", "evals"])
        )
        assert two.units == 2 * one.units
        assert two.download_bytes == one.download_bytes

    def test_weights_of_a_late_step_also_fetch_step_0(self) -> None:
        assert plan_fill("weights", runs="polypythias", models="pythia-14m", steps=143000).downloads == 20
        assert plan_fill("embedding", runs="polypythias", models="pythia-14m", steps=143000).downloads == 10

    def test_checkpoints_of_this_machine_are_not_downloaded(self, tmp_path: Path) -> None:
        (tmp_path / "step5").mkdir()
        header = json.dumps({"a.weight": {"dtype": "F32", "shape": [1000, 1000], "data_offsets": [0, 0]}}).encode()
        (tmp_path / "step5" / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
        found = plan_fill("weights", runs=table(location=f"{tmp_path}/step{{step}}", revision="", steps="5"))
        assert (found.downloads, found.download_bytes, found.unknown) == (0, 0, ())
        assert found.seconds == pytest.approx(seconds_of_checkpoint("weights", 1_000_000))


class TestHours:
    def test_units_of_a_model_take_its_rate_each(self) -> None:
        found = plan_fill("weights", runs="polypythias", models="pythia-70m", seeds=[0, 1])
        assert found.seconds == pytest.approx(2 * 154 * (seconds_of_checkpoint("weights", 70_426_624) or 0))

    def test_workers_share_the_measuring_and_not_the_downloads(self) -> None:
        one, four = (plan_fill("weights", runs="polypythias", workers=n, bandwidth=1e8) for n in (1, 4))
        download = one.download_bytes / 1e8 / 3600
        assert four.hours_most - download == pytest.approx((one.hours_most - download) / 4)
        assert four.hours_least == pytest.approx(max(download, four.seconds / 4 / 3600))

    def test_more_workers_than_checkpoints_do_not_help(self) -> None:
        few, many = (
            plan_fill("weights", runs="polypythias", models="pythia-14m", seeds=0, steps=[0, 1], workers=n)
            for n in (2, 100)
        )
        assert few.hours_most == many.hours_most

    def test_a_faster_worker_takes_less(self) -> None:
        one, ten = (plan_fill("evals", runs="polypythias", speed=speed) for speed in (1, 10))
        assert ten.seconds == pytest.approx(one.seconds / 10)

    def test_what_is_done_is_not_counted(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plan_module, "is_done", lambda _, key: key.step < 1000)
        found = plan_fill("weights", runs="polypythias", models="pythia-14m", output=tmp_path)
        assert (found.already_done, found.rows[0].units, found.downloads) == (110, 1430, 1440)

    def test_a_finished_fill_takes_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(plan_module, "is_done", lambda *_: True)
        found = plan_fill(["weights", "evals"], runs="polypythias", output=tmp_path)
        assert (found.download_bytes, found.seconds, found.hours_most, found.already_done) == (0, 0, 0, 15400)
        assert "0 checkpoints" in plan_text(found)


class TestRates:
    @pytest.mark.parametrize("source", RATES)
    def test_sizes_that_were_measured_get_what_was_measured(self, source: str) -> None:
        for rate in RATES[source]:
            assert seconds_of_checkpoint(source, rate.parameters, tokens=1.0) == pytest.approx(rate.seconds)

    @pytest.mark.parametrize("source", [name for name in RATES if name != "embedding"])
    def test_larger_models_take_longer(self, source: str) -> None:
        seconds = [seconds_of_checkpoint(source, size, tokens=1.0) or 0 for size in (1e6, 2e7, 1e8, 3e8, 1e9, 1e10)]
        assert seconds == sorted(seconds)

    def test_a_power_law_is_continued(self, monkeypatch: pytest.MonkeyPatch) -> None:
        law = tuple(Rate(size, 3 * size**1.3, 100 * size) for size in (10, 1000, 100_000))
        monkeypatch.setitem(plan_rates.RATES, "weights", law)
        for size in (1.0, 10, 50, 1000, 3e4, 1e7):
            assert seconds_of_checkpoint("weights", size) == pytest.approx(3 * size**1.3)
            assert bytes_of_unit("weights", size) == pytest.approx(100 * size)

    def test_every_source_that_measures_has_a_rate(self) -> None:
        assert sorted(RATES) == ["activations", "directions", "embedding", "evals", "probes", "weights"]

    def test_tasks_have_as_many_documents_as_the_released_scores_say(self, shared_data: Path) -> None:
        path = shared_data / "pythia-evals/evals/pythia-v1/pythia-1.4b/zero-shot/1.4b_step143000.json"
        results = json.loads(path.read_text())["results"]
        for name in sorted({*TASKS} & {*results}):
            if "acc" in results[name]:
                acc, stderr = results[name]["acc"], results[name]["acc_stderr"]
                assert round(acc * (1 - acc) / stderr**2 + 1) == TASKS[name].documents, name

    def test_minimal_pairs_have_one_size(self) -> None:
        size = task_size("blimp_anaphor_gender_agreement")
        assert size is not None
        assert size.documents == 1000

    def test_documents_make_units_of_evals_larger(self) -> None:
        assert (bytes_of_unit("evals", 1e8, documents=1200) or 0) == pytest.approx(35_000, rel=0.1)  # as those of nano


class TestSaid:
    def test_default_tasks_are_an_assumption(self) -> None:
        found = plan_fill("evals", runs="polypythias")
        assert any("no --tasks named, so arc_challenge" in text for text in found.assumptions)

    def test_an_unknown_task_is_an_assumption(self) -> None:
        found = plan_fill("evals", runs="polypythias", tasks=["sciq", "mine"])
        assert any("the size of 'mine' is not known" in text for text in found.assumptions)

    def test_sizes_beyond_those_measured_are_an_assumption(self) -> None:
        found = plan_fill("weights", runs="pythia", models=["pythia-70m", "pythia-12b"])
        assert any("extrapolated" in text and "'weights of pythia-12b'" in text for text in found.assumptions)

    def test_models_of_unknown_size_are_counted_as_units_and_listed(self) -> None:
        found = plan_fill("weights", runs=table())
        assert (found.units, found.seconds, found.rows[0].seconds) == (3, 0, None)
        assert "the number of parameters of 'm'" in found.unknown[0]
        assert "?" in plan_text(found)

    def test_a_source_without_a_rate_is_listed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delitem(plan_rates.RATES, "probes")
        found = plan_fill(["probes", "weights"], runs="polypythias")
        assert found.unknown == ("how long 'probes' takes: hours and units' bytes are not counted",)
        assert math.isfinite(found.hours_most)


class TestRefused:
    def test_a_source_that_is_none_gets_a_suggestion(self) -> None:
        with pytest.raises(UnknownNameError, match=r"'weigths'\. Did you mean 'weights'"):
            plan_fill("weigths", runs="polypythias")

    @pytest.mark.parametrize("source", ["lm-eval", "table"])
    def test_a_source_that_reads_files_is_refused(self, source: str) -> None:
        with pytest.raises(UnknownNameError, match="no source that measures"):
            plan_fill(source, runs="polypythias")

    def test_no_source_is_refused(self) -> None:
        with pytest.raises(UnknownNameError, match="no source was given"):
            plan_fill([], runs="polypythias")

    def test_runs_that_are_none_are_refused(self) -> None:
        with pytest.raises(UnknownNameError, match="Did you mean 'polypythias'"):
            plan_fill("weights", runs="polypithias")

    def test_a_seed_that_is_in_no_run_is_refused(self) -> None:
        with pytest.raises(SelectionError, match="no run has the seed 77"):
            plan_fill("weights", runs="polypythias", seeds=77)

    @pytest.mark.parametrize(
        "option", [{"workers": 0}, {"speed": 0.0}, {"speed": math.nan}, {"bandwidth": -1.0}, {"bandwidth": math.inf}]
    )
    def test_numbers_out_of_range_are_refused(self, option: dict[str, Any]) -> None:
        with pytest.raises(ReadError, match=f"^{next(iter(option))} is"):
            plan_fill("weights", runs="polypythias", **option)


class TestCommand:
    def test_it_prints_units_bytes_hours_and_assumptions(self) -> None:
        result = run("plan", "--runs", "polypythias", "--sources", "weights,evals", "--workers", 16)
        assert result.exit_code == 0, result.output
        for said in (
            "50 runs, 7,700 checkpoints, 15,400 units",
            "2.47 TB",
            "on 16 workers",
            "pythia-410m",
            "This rests on:",
            "50 MB/s",
        ):
            assert said in result.output

    def test_json_has_the_same_numbers(self) -> None:
        said = json.loads(
            run("plan", "--runs", "polypythias", "--sources", "weights", "--seeds", "0:1", "--json").stdout
        )
        found = plan_fill("weights", runs="polypythias", seeds=[0, 1])
        assert (said["units"], said["seconds"], said["download_bytes"]) == (
            found.units,
            found.seconds,
            found.download_bytes,
        )
        assert said["rows"][0]["source"] == "weights"

    @pytest.mark.parametrize("text", ["fast", "", "50MB/h", "-5MB", "0"])
    def test_a_bandwidth_that_is_none_is_wrong_usage(self, text: str) -> None:
        result = run("plan", "--runs", "polypythias", "--sources", "weights", "--bandwidth", text)
        assert result.exit_code == 2
        assert "bandwidth" in result.output

    def test_a_bandwidth_may_be_written_a_second(self) -> None:
        result = run("plan", "--runs", "polypythias", "--sources", "weights", "--bandwidth", "1GB/s")
        assert "1000 MB/s" in result.output

    def test_a_misspelt_source_is_bad_input(self) -> None:
        result = run("plan", "--runs", "polypythias", "--sources", "evels")
        assert result.exit_code == 2
        assert "Did you mean 'evals'" in result.output
