"""Run tables and catalogs."""

from __future__ import annotations

import pickle
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polystab.errors import ReadError, SelectionError, UnknownNameError
from polystab.sources.run_patterns import parse_steps, steps_text
from polystab.sources.runs import Run, RunTable, RunTableError, catalog, catalogs, read_runs, write_runs


def table(tmp_path: Path, text: str, name: str = "runs.csv") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def folders(tmp_path: Path, *names: str) -> None:
    for name in names:
        (tmp_path / name).mkdir(parents=True)


def mistakes(path: object) -> tuple[str, ...]:
    with pytest.raises(RunTableError) as caught:
        read_runs(path)
    assert all(mistake in str(caught.value) for mistake in caught.value.mistakes)
    return caught.value.mistakes


# --- tables --------------------------------------------------------------------------------------------------------


def test_a_full_row_is_read(tmp_path):
    text = (
        "model,seed,weight_seed,data_seed,location,revision,steps,n_parameters,learning_rate,tokens_per_step\n"
        "m,3,1,2,org/m,step{step},0 1 2 1000:3000:1000,7000,0.001,4096\n"
    )
    (run,) = read_runs(table(tmp_path, text)).runs
    facts = {"n_parameters": 7000, "learning_rate": 0.001, "tokens_per_step": 4096}
    assert run == Run("m", 3, 1, 2, "org/m", "step{step}", (0, 1, 2, 1000, 2000, 3000), facts)


def test_only_three_columns_are_needed(tmp_path):
    folders(tmp_path, "m/0/step1")
    (run,) = read_runs(table(tmp_path, "model,seed,location\nm,0,{model}/{seed}/step{step}\n")).runs
    assert (run.weight_seed, run.data_seed, run.steps, dict(run.facts)) == (-1, -1, (1,), {})


def test_steps_are_found_in_folders_and_sorted_as_numbers(tmp_path):
    folders(tmp_path, "run/step10", "run/step9", "run/step100", "run/step007", "run/stepx", "run/last")
    (tmp_path / "run/step8").write_text("a file")
    (run,) = read_runs(table(tmp_path, "model,seed,location\nm,0,run/step{step}\n")).runs
    assert run.steps == (9, 10, 100)


def test_steps_may_be_padded_and_stand_above_other_folders(tmp_path):
    folders(tmp_path, "step000010/hf", "step000200/hf", "step000300/other")
    (run,) = read_runs(table(tmp_path, "model,seed,location\nm,0,step{step:06d}/hf\n")).runs
    assert run.steps == (10, 200)
    assert run.place(10) == str(tmp_path / "step000010/hf")


def test_models_with_slashes_and_braces_in_folders_are_taken_literally(tmp_path):
    base = tmp_path / "a{b}"
    folders(base, "org/m/step5")
    (run,) = read_runs(table(base, "model,seed,location\norg/m,0,{model}/step{step}\n")).runs
    assert run.steps == (5,)
    assert Path(run.place(5)) == base / "org/m/step5"


def test_relative_locations_count_from_the_folder_of_the_table(tmp_path, monkeypatch):
    folders(tmp_path, "runs/step1", "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    (run,) = read_runs(table(tmp_path, "model,seed,location\nm,0,runs/step{step}\n")).runs
    assert run.place(1) == str(tmp_path / "runs/step1")


def test_a_folder_stands_for_the_table_in_it(tmp_path):
    folders(tmp_path, "step1")
    table(tmp_path, "model,seed,location\nm,0,step{step}\n")
    assert len(read_runs(tmp_path)) == 1


def test_a_data_frame_is_a_table(tmp_path):
    frame = pd.DataFrame(
        {
            "model": ["m", "m"],
            "seed": [0.0, 1.0],
            "location": str(tmp_path / "step{step}"),
            "steps": [[1, 2], "5"],
            "data_seed": [None, 4],
        }
    )
    first, second = read_runs(frame).runs
    assert (first.seed, first.steps, first.data_seed) == (0, (1, 2), -1)
    assert (second.seed, second.steps, second.data_seed) == (1, (5,), 4)


def test_tabs_and_a_byte_order_mark_are_read(tmp_path):
    text = "\ufeffmodel\tseed\tlocation\tsteps\nm\t0\tx{step}\t1\n\n"
    assert read_runs(table(tmp_path, text, "runs.tsv")).runs[0].steps == (1,)


def test_other_columns_are_kept_as_facts(tmp_path):
    (run,) = read_runs(table(tmp_path, "model,seed,location,steps,machine\nm,0,x{step},1,tower\n")).runs
    assert run.facts == {"machine": "tower"}


# --- mistakes ------------------------------------------------------------------------------------------------------


def test_all_mistakes_are_listed_with_their_lines(tmp_path):
    text = (
        "model,seed,location,revision,steps\n"
        "m,0,a/{step},,1\n"
        "m,0,b/{step},,1\n"
        "m,one,c/{step},,1\n"
        "m,2,d,,1\n"
        "m,3,e/{stage},,1\n"
        "m,4,,,1\n"
        "m,5,f/{step},,1:x\n"
        ",6,f/{step},,1\n"
        "m,7,org/m,main,1\n"
        "m,8,a/b/c,step{step},1\n"
    )
    found = "\n".join(mistakes(table(tmp_path, text)))
    for part in (
        "line 3: m seed 0 is already in line 2",
        "line 4: seed is 'one', not an integer",
        "line 5: the location of m seed 2",
        "line 6: ",
        "Did you mean 'step'",
        "line 7: m seed 4 has no location",
        "line 8: steps: '1:x'",
        "line 9: the model ''",
        "line 10: the revision of m seed 7",
        "line 11: m seed 8 has a revision",
    ):
        assert part in found


def test_a_missing_column_is_named_with_the_one_that_is_meant(tmp_path):
    found = mistakes(table(tmp_path, "modle,seed,location,steps\nm,0,x{step},1\n"))
    assert "the column 'model' is missing; is 'modle' it?" in found


def test_a_column_that_is_nearly_a_known_one_is_refused(tmp_path):
    found = mistakes(table(tmp_path, "model,seed,location,step,weight_sed\nm,0,x{step},1,1\n"))
    assert len(found) == 2
    assert "Did you mean 'steps'" in found[0]


@pytest.mark.parametrize("text", ["", "\n", "model,seed,location\n", "model,seed,location\n,,\n"])
def test_a_table_without_runs_is_refused(tmp_path, text):
    assert any("no run" in mistake or "missing" in mistake for mistake in mistakes(table(tmp_path, text)))


def test_a_row_with_too_many_cells_is_refused(tmp_path):
    assert "line 2" in mistakes(table(tmp_path, "model,seed,location\nm,0,x{step},1\n"))[0]


def test_a_column_that_stands_twice_is_refused(tmp_path):
    assert "twice" in mistakes(table(tmp_path, "model,seed,seed,location\nm,0,1,x{step}\n"))[0]


def test_a_run_of_which_nothing_is_found_is_refused(tmp_path):
    folders(tmp_path, "a/step1")
    found = mistakes(table(tmp_path, "model,seed,location\nm,0,a/step{step}\nm,1,b/step{step}\n"))
    assert len(found) == 1
    assert "b/step{step}" in found[0]


def test_steps_that_are_not_known_are_said_to_be_missing(tmp_path):
    runs = read_runs(table(tmp_path, "model,seed,location\nm,0,x{step}\n"), find_steps=False)
    with pytest.raises(RunTableError, match="with_steps"):
        runs.checkpoints()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00model", b'model,seed,location\n"m,0,x{step}\n'])
def test_what_is_no_table_is_refused(tmp_path, content):
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    with pytest.raises(ReadError):
        read_runs(path)


def test_a_missing_file_names_the_catalogs():
    with pytest.raises(ReadError, match="polypythias"):
        read_runs("nowhere/runs.csv")


def test_a_folder_without_a_table_is_refused(tmp_path):
    with pytest.raises(ReadError, match=r"holds no runs\.csv"):
        read_runs(tmp_path)


def test_an_unknown_catalog_gets_a_suggestion():
    with pytest.raises(UnknownNameError, match="polypythias"):
        read_runs("polypythia")


# --- round trip ----------------------------------------------------------------------------------------------------


def test_writing_and_reading_gives_the_same_table(tmp_path):
    runs = RunTable(
        (
            Run("m, with a comma", 0, location=str(tmp_path / "a/step{step}"), steps=(0, 1, 2), facts={"n_layers": 2}),
            Run("m", -1, 5, 6, "org/m", "step{step}", (7,), {"learning_rate": 1e-3, "note": "odd"}),
        )
    )
    write_runs(runs, tmp_path / "runs.csv")
    assert read_runs(tmp_path) == runs


def test_a_table_and_its_folders_can_be_moved_together(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    folders(old, "a/step1")
    write_runs(RunTable((Run("m", 0, location=str(old / "a/step{step}"), steps=(1,)),)), old / "runs.csv")
    old.rename(new)
    assert read_runs(new).runs[0].place(1) == str(new / "a/step1")


def test_catalogs_survive_a_round_trip(tmp_path):
    for name in catalogs():
        write_runs(catalog(name), tmp_path / f"{name}.csv")
        assert read_runs(tmp_path / f"{name}.csv") == catalog(name)


@pytest.mark.slow
@given(st.sets(st.integers(0, 500), max_size=60))
def test_steps_survive_being_text(steps):
    assert parse_steps(steps_text(sorted(steps))) == tuple(sorted(steps))


@pytest.mark.parametrize("text", ["-1", "1.5", "5:1", "1:10:2", "1:10:0", "1:2:3:4", "1 1", "0:99999999999:1", "٣"])
def test_steps_that_make_no_sense_are_refused(text):
    with pytest.raises(ValueError, match=r"."):
        parse_steps(text)


def test_runs_pass_between_processes():
    runs = catalog("pythia-160m-data-seed")
    assert pickle.loads(pickle.dumps(runs)) == runs


def test_their_errors_pass_between_processes():
    error = RunTableError("runs.csv", ["one", "two"])
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


# --- selection -----------------------------------------------------------------------------------------------------


def test_selection_keeps_what_is_asked_for():
    few = catalog("polypythias").select(models="pythia-14m", seeds=[0, 3], steps=[1000, 0])
    assert [(run.seed, step) for run, step in few.checkpoints()] == [(0, 0), (0, 1000), (3, 0), (3, 1000)]


def test_runs_without_a_wanted_step_are_left_out():
    runs = RunTable((Run("m", 0, location="a{step}", steps=(1, 2)), Run("m", 1, location="b{step}", steps=(2, 3))))
    assert [run.seed for run in runs.select(steps=3)] == [1]


@pytest.mark.parametrize(
    ("wanted", "said"),
    [({"models": "pythia-14"}, "pythia-14m"), ({"seeds": 77}, "77"), ({"steps": [3]}, "the step 3")],
)
def test_what_no_run_has_is_refused(wanted, said):
    with pytest.raises(SelectionError, match=said):
        catalog("polypythias").select(**wanted)


def test_a_table_with_a_run_twice_cannot_be_made():
    with pytest.raises(RunTableError, match="each run stands once"):
        RunTable((Run("m", 0, location="a{step}"), Run("m", 0, location="b{step}")))


# --- catalogs ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "runs"),
    [("pythia", 18), ("polypythias", 50), ("pythia-160m-data-seed", 3), ("pythia-160m-weight-seed", 3)],
)
def test_catalogs_have_all_runs_with_154_checkpoints(name, runs):
    found = read_runs(name)
    assert len(found) == runs
    assert {len(run.steps) for run in found} == {154}


# Totals on the model cards of the Pythia suite.
@pytest.mark.parametrize(
    ("model", "total"),
    [
        ("pythia-14m", 14_067_712),
        ("pythia-31m", 30_494_720),
        ("pythia-70m", 70_426_624),
        ("pythia-160m", 162_322_944),
        ("pythia-410m", 405_334_016),
        ("pythia-1b", 1_011_781_632),
        ("pythia-1.4b", 1_414_647_808),
        ("pythia-2.8b", 2_775_208_960),
        ("pythia-6.9b", 6_857_302_016),
        ("pythia-12b-deduped", 11_846_072_320),
    ],
)
def test_parameters_are_those_of_the_model_cards(model, total):
    (run,) = catalog("pythia").select(models=model)
    assert run.facts["n_parameters"] == total


def test_the_reference_run_has_the_repository_without_a_seed():
    runs = catalog("polypythias").select(models="pythia-31m", seeds=[0, 9]).runs
    assert [run.place(0) for run in runs] == ["EleutherAI/pythia-31m", "EleutherAI/pythia-31m-seed9"]
    assert [(run.weight_seed, run.data_seed) for run in runs] == [(0, 0), (9, 9)]


def test_decoupled_seeds_vary_one_thing():
    by_data, by_weights = catalog("pythia-160m-data-seed").runs[1], catalog("pythia-160m-weight-seed").runs[1]
    assert (by_data.model, by_data.seed, by_data.weight_seed, by_data.data_seed) == ("pythia-160m-data-seed", 2, 0, 2)
    assert (by_weights.seed, by_weights.weight_seed, by_weights.data_seed) == (2, 2, 0)
    assert by_weights.place(0) == "EleutherAI/pythia-160m-weight-seed2"
