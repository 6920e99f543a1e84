"""Training curves of every format into cubes."""

from __future__ import annotations

import csv
import gzip
import json
import math
import os
import tempfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import polystab as ps
from polystab.cube.audit import AuditEntry, audit_entries, audit_facts
from polystab.cube.describe import coverage_sentence, fullness
from polystab.errors import ConflictError, CubeTooLargeError, ReadError, UnknownNameError
from polystab.sources import gathering
from polystab.sources.columns import parse_assignments
from polystab.sources.duplicates import settle
from polystab.sources.metric_names import training_metric
from polystab.sources.run_numbers import number_runs
from polystab.sources.training_logs import guess_training_log, read_training_log, read_training_log_by_model

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
NANOGPT = SHARED / "modded-nanogpt"
needs_nanogpt = pytest.mark.skipif(not NANOGPT.is_dir(), reason=f"real training logs are not at {NANOGPT}")

TRAIN = "loss/train/cross_entropy"
VALIDATION = "loss/validation/cross_entropy"


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def cells(tree: xr.DataTree) -> dict[tuple[str, int, int, str], float]:
    """The measured cells of a cube."""
    series = tree.to_dataset()["value"].to_series().dropna()
    return {tuple(key): value for key, value in series.items()}


def notes(tree: xr.DataTree, reason: str) -> list[str]:
    return [entry.detail for entry in audit_entries(tree) if entry.reason == reason]


def statuses(tree: xr.DataTree) -> dict[str, str]:
    return {e.path: e.reason or e.status for e in audit_entries(tree) if e.status in ("read", "refused")}


# --- formats -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "model,seed,step,loss\nm,0,0,9.5\nm,0,10,8.25\n"),
        ("a.tsv", "model\tseed\tstep\tloss\nm\t0\t0\t9.5\nm\t0\t10\t8.25\n"),
        (
            "a.jsonl",
            '{"model": "m", "seed": 0, "step": 0, "loss": 9.5}\n{"model": "m", "seed": 0, "step": 10, "loss": 8.25}\n',
        ),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_every_format_gives_the_same_cells(tmp_path, name, text, packed):
    path = write(tmp_path, name + (".gz" if packed else ""), gzip.compress(text.encode()) if packed else text)
    assert cells(read_training_log(path)) == {("m", 0, 0, TRAIN): 9.5, ("m", 0, 10, TRAIN): 8.25}


@pytest.mark.slow
def test_cube_is_valid_and_survives_saving(tmp_path):
    tree = read_training_log(write(tmp_path, "a.csv", "run,step,loss,val_loss\nb,0,9,\na,0,8,7\n"), model="m")
    assert ps.validate_cube(tree) == []
    ps.save_cube(tree, tmp_path / "cube.nc")
    with ps.open_tree(tmp_path / "cube.nc") as again:
        xr.testing.assert_identical(again.to_dataset().load(), tree.to_dataset())


TRAINER_STATE = {
    "best_metric": None,
    "global_step": 20,
    "log_history": [
        {"step": 10, "epoch": 0.5, "loss": 3.5, "grad_norm": 1.25, "learning_rate": 5e-5},
        {"step": 10, "epoch": 0.5, "eval_loss": 3.25, "eval_accuracy": 0.5, "eval_runtime": 7.0},
        {"step": 20, "epoch": 1.0, "loss": 3.0, "grad_norm": 1.5, "learning_rate": 0.0},
        {"step": 20, "epoch": 1.0, "train_loss": 3.25, "train_runtime": 60.0, "total_flos": 1e18},
    ],
}


def test_trainer_state_losses_norms_and_evaluations(tmp_path):
    path = write(tmp_path, "out-seed7/trainer_state.json", json.dumps(TRAINER_STATE, indent=2))
    assert cells(read_training_log(path, model="m")) == {
        ("m", 7, 10, TRAIN): 3.5,
        ("m", 7, 20, TRAIN): 3.0,
        ("m", 7, 10, VALIDATION): 3.25,
        ("m", 7, 10, "gradient/all/norm"): 1.25,
        ("m", 7, 20, "gradient/all/norm"): 1.5,
        ("m", 7, 10, "eval/validation/accuracy"): 0.5,
    }


def test_closing_train_loss_of_a_trainer_state_is_noted_as_a_mean(tmp_path):
    tree = read_training_log(write(tmp_path, "trainer_state.json", json.dumps(TRAINER_STATE)), model="m")
    assert len(notes(tree, "training-mean")) == 1


def test_text_column_that_looks_like_an_evaluation_is_left_out(tmp_path):
    tree = read_training_log(write(tmp_path, "a.csv", "step,loss,eval_dataset\n0,1,wiki\n"), model="m")
    assert "'eval_dataset'" in notes(tree, "unused-column")[0]


def test_rows_none_of_which_has_labels_refuse_the_file(tmp_path):
    with pytest.raises(ReadError, match="no-labels"):
        read_training_log(write(tmp_path, "a.csv", "step,loss\nx,1\n"), model="m")


def test_decimal_commas_are_shown_in_the_refusal(tmp_path):
    with pytest.raises(ReadError, match=r"Text instead of plain numbers: 'loss' \('3,14'\)"):
        read_training_log(write(tmp_path, "a.csv", "step;loss\n0;3,14\n"), model="m")


def test_missing_header_is_suspected(tmp_path):
    with pytest.raises(ReadError, match="line with their names missing"):
        read_training_log(write(tmp_path, "a.csv", "0,9.5\n1,9.4\n"), model="m")


def test_file_without_a_number_is_refused(tmp_path):
    with pytest.raises(ReadError, match="no-values"):
        read_training_log(write(tmp_path, "a.csv", "step,loss\n0,\n1,nan\n"), model="m")


def test_trainer_states_of_several_checkpoints_are_one_run(tmp_path):
    for step in (10, 20):
        state = {"log_history": [row for row in TRAINER_STATE["log_history"] if row["step"] <= step]}
        write(tmp_path, f"gpt/checkpoint-{step}/trainer_state.json", json.dumps(state))
    tree = read_training_log(tmp_path, model="m")
    assert tree["run_name"].values.tolist() == [["gpt"]]


WANDB = (
    '"Step","tiny - a - train/loss","tiny - a - train/loss__MIN","tiny - a - train/loss__MAX",'
    '"b - train/loss","b - train/loss__MIN","b - train/loss__MAX","b - _step","b - _step__MIN","b - _step__MAX"\n'
    '"0","9.5","9.5","9.5","9.25","9.25","9.25","0","0","0"\n'
    '"10","8.5","8.5","8.5","","","","10","10","10"\n'
)


def test_wandb_export_has_a_run_in_each_column(tmp_path):
    tree = read_training_log(write(tmp_path, "wandb.csv", WANDB), model="m")
    assert cells(tree) == {("m", 1, 0, TRAIN): 9.5, ("m", 1, 10, TRAIN): 8.5, ("m", 0, 0, TRAIN): 9.25}
    assert tree["run_name"].values.tolist() == [["b", "tiny - a"]]


def test_wandb_bounds_are_left_out_and_said_so(tmp_path):
    tree = read_training_log(write(tmp_path, "wandb.csv", WANDB), model="m")
    assert notes(tree, "bounds-left-out")[0].startswith("6 columns")
    assert notes(tree, "means-of-several") == []


def test_wandb_means_are_recognised_by_their_bounds(tmp_path):
    text = WANDB.replace('"9.5","9.5","9.5"', '"9.5","9.0","10.0"')
    tree = read_training_log(write(tmp_path, "wandb.csv", text), model="m")
    assert notes(tree, "means-of-several")[0].startswith("1 values of 'tiny - a - train/loss'")


def test_wandb_run_names_can_state_model_and_seed(tmp_path):
    text = '"Step","gpt_3 - loss","llama_4 - loss"\n"0","1.0","2.0"\n'
    tree = read_training_log(write(tmp_path, "w.csv", text), run_pattern=r"(?P<model>\w+)_(?P<seed>\d+)")
    assert cells(tree) == {("gpt", 3, 0, TRAIN): 1.0, ("llama", 4, 0, TRAIN): 2.0}


def test_wandb_export_over_time_is_refused_for_want_of_steps(tmp_path):
    path = write(tmp_path, "w.csv", '"Relative Time (Process)","a - loss"\n"0","1.0"\n')
    with pytest.raises(ReadError, match="no-step"):
        read_training_log(path, model="m")


# --- columns -------------------------------------------------------------------------------------------------------


def test_mapping_joins_columns_and_takes_constants(tmp_path):
    path = write(tmp_path, "a.csv", "track,record,run,it,loss\nt,r/x,5,3,1.5\n")
    tree = read_training_log(path, columns={"model": "track+record", "seed": "run", "step": "it"})
    assert cells(tree) == {("t/r/x", 5, 3, TRAIN): 1.5}
    tree = read_training_log(path, columns={"model": "=gpt2", "seed": "=4", "step": "it"})
    assert cells(tree) == {("gpt2", 4, 3, TRAIN): 1.5}


def test_command_line_mapping_is_parsed():
    parsed = parse_assignments("model==gpt2-124m,seed=run,step=global_step")
    assert parsed == {"model": "=gpt2-124m", "seed": "run", "step": "global_step"}


@pytest.mark.parametrize("text", ["model", "=x", "seed=a,seed=b"])
def test_malformed_command_line_mapping_is_refused(text):
    with pytest.raises(ReadError, match="--columns"):
        parse_assignments(text)


@pytest.mark.parametrize("column", ["step", "global_step", "_step", "iteration", "iter", "Step"])
def test_obvious_step_columns_are_found(tmp_path, column):
    tree = read_training_log(write(tmp_path, "a.csv", f"{column},loss\n7,1\n"), model="m")
    assert tree["step"].values.tolist() == [7]


@pytest.mark.parametrize("column", ["seed", "run", "run_id", "run_name"])
def test_obvious_run_columns_are_found(tmp_path, column):
    tree = read_training_log(write(tmp_path, "a.csv", f"{column},step,loss\n7,0,1\n"), model="m")
    assert tree["seed"].values.tolist() == [7]


def test_missing_mapped_column_names_the_close_ones(tmp_path):
    path = write(tmp_path, "a.csv", "record,run,step,loss\nr,0,0,1\n")
    with pytest.raises(ReadError, match=r"'records'.*Did you mean 'record'"):
        read_training_log(path, columns={"model": "records"})


def test_missing_mapped_column_among_several_files_refuses_one(tmp_path):
    write(tmp_path, "a.csv", "record,run,step,loss\nr,0,0,1\n")
    write(tmp_path, "b.csv", "run,step,loss\n0,0,1\n")
    tree = read_training_log(tmp_path, columns={"model": "record"})
    assert statuses(tree) == {"a.csv": "read", "b.csv": "missing-column"}


def test_without_a_model_the_error_tells_what_to_pass(tmp_path):
    with pytest.raises(ReadError, match=r"--model NAME"):
        read_training_log(write(tmp_path, "a.csv", "seed,step,loss\n0,0,1\n"))


def test_model_given_twice_is_refused(tmp_path):
    with pytest.raises(ReadError, match="given twice"):
        read_training_log(tmp_path, model="a", columns={"model": "=b"})


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"columns": {"sede": "run"}}, ReadError),
        ({"columns": {"seed": ""}}, ReadError),
        ({"metrics": {"loss": "train_loss"}}, ReadError),
        ({"run_pattern": "("}, ReadError),
        ({"run_pattern": "seed"}, ReadError),
        ({"on_duplicate": "lastt"}, UnknownNameError),
        ({"tittle": "x"}, UnknownNameError),
    ],
)
def test_option_that_makes_no_sense_is_refused_before_reading(tmp_path, options, error):
    with pytest.raises(error):
        read_training_log(tmp_path / "not-there.csv", model="m", **options)


@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("loss", TRAIN),
        ("train_loss", TRAIN),
        ("train/loss", TRAIN),
        ("Train Loss", TRAIN),
        ("trainLoss", TRAIN),
        ("train_loss_step", TRAIN),
        ("train/lm_loss", TRAIN),
        ("train/CrossEntropyLoss", TRAIN),
        ("val_loss", VALIDATION),
        ("eval_loss", VALIDATION),
        ("val/loss", VALIDATION),
        ("validation_loss", VALIDATION),
        ("loss/val", VALIDATION),
        ("test_loss", "loss/test/cross_entropy"),
        ("val_ppl", "loss/validation/perplexity"),
        ("grad_norm", "gradient/all/norm"),
        ("train/grad_norm", "gradient/all/norm"),
        ("eval_accuracy", "eval/validation/accuracy"),
        ("val_acc", "eval/validation/acc"),
        ("eval_arc_easy_acc_norm", "eval/arc_easy/acc_norm"),
        ("eval/MMLU/acc", "eval/MMLU/acc"),
        ("eval_kappa", "eval/kappa/value"),
        ("weight/all/norm", "weight/all/norm"),
        ("learning_rate", ""),
        ("lr", ""),
        ("epoch", ""),
        ("eval_runtime", ""),
        ("eval_samples_per_second", ""),
        ("_timestamp", ""),
        ("_step", ""),
        ("total_flos", ""),
        ("z_loss", None),
        ("entropy", None),
        ("val_kappa", None),
    ],
)
def test_column_names_are_understood_or_left_alone(name, metric):
    assert training_metric(name) == metric


def test_losses_are_in_nats_and_lower_is_better(tmp_path):
    tree = read_training_log(write(tmp_path, "a.csv", "step,loss,eval_acc,grad_norm\n0,1,0.5,2\n"), model="m")
    said = {
        m: (u, b) for m, u, b in zip(*(tree[n].values.tolist() for n in ("metric", "units", "better")), strict=True)
    }
    assert said == {
        TRAIN: ("nat", "lower"),
        "eval/validation/acc": ("", "higher"),
        "gradient/all/norm": ("", ""),
    }


def test_unknown_columns_are_noted_and_can_be_named(tmp_path):
    path = write(tmp_path, "a.csv", "step,loss,wnorm,lr,host\n0,1,3,0.1,n1\n")
    tree = read_training_log(path, model="m")
    assert tree["metric"].values.tolist() == [TRAIN]
    assert "'wnorm', 'host'" in notes(tree, "unused-column")[0]
    assert "'lr'" in notes(tree, "not-a-metric")[0]
    tree = read_training_log(path, model="m", metrics={"wnorm": "weight/all/norm", "loss": ""})
    assert tree["metric"].values.tolist() == ["weight/all/norm"]


def test_misspelt_metric_column_is_an_error(tmp_path):
    path = write(tmp_path, "a.csv", "step,loss,wnorm\n0,1,3\n")
    with pytest.raises(ReadError, match="Did you mean 'wnorm'"):
        read_training_log(path, model="m", metrics={"wnrom": "weight/all/norm"})


def test_two_columns_for_one_metric_are_refused(tmp_path):
    with pytest.raises(ReadError, match="ambiguous-metric"):
        read_training_log(write(tmp_path, "a.csv", "step,loss,train_loss\n0,1,2\n"), model="m")


def test_column_that_the_user_named_goes_before_a_guess(tmp_path):
    path = write(tmp_path, "a.csv", "step,loss,train_loss\n0,1,2\n")
    assert list(cells(read_training_log(path, model="m", metrics={"train_loss": TRAIN})).values()) == [2.0]


def test_log_without_a_known_metric_tells_what_to_pass(tmp_path):
    with pytest.raises(ReadError, match=r"--metrics COLUMN=.*'entropy'"):
        read_training_log(write(tmp_path, "a.csv", "step,entropy\n0,1\n"), model="m")


# --- runs ----------------------------------------------------------------------------------------------------------


def test_names_are_numbered_in_natural_order_within_each_model(tmp_path):
    path = write(tmp_path, "a.csv", "model,run,step,loss\na,run10,0,1\na,run9,0,2\nb,x,0,3\n")
    tree = read_training_log(path)
    assert cells(tree) == {("a", 0, 0, TRAIN): 2.0, ("a", 1, 0, TRAIN): 1.0, ("b", 0, 0, TRAIN): 3.0}
    assert tree["run_name"].values.tolist() == [["run9", "run10"], ["x", ""]]


def test_integer_labels_are_the_seeds(tmp_path):
    tree = read_training_log(write(tmp_path, "a.csv", "seed,step,loss\n42,0,1\n7.0,0,2\n"), model="m")
    assert tree["seed"].values.tolist() == [7, 42]
    assert "run_name" not in tree.coords


@pytest.mark.parametrize(
    ("labels", "seeds", "named"),
    [
        (["3", "1"], [3, 1], False),
        (["007", "7"], [0, 1], True),
        (["1", "2", "base"], [0, 1, 2], True),
        (["a-seed5", "b-seed2"], [5, 2], True),
        (["a-seed5", "b-seed5"], [0, 1], True),
        (["9" * 30], [0], True),
        (["-1"], [-1], False),
        (["1_0"], [0], True),
    ],
)
def test_labels_become_seeds(labels, seeds, named):
    assert number_runs(labels) == (seeds, named)


@pytest.mark.slow
@given(st.lists(st.text(max_size=6), unique=True, min_size=1, max_size=12))
def test_numbering_gives_every_run_a_seed_of_its_own_in_any_order(labels):
    seeds, _ = number_runs(labels)
    again, _ = number_runs(labels[::-1])
    assert len(set(seeds)) == len(labels)
    assert again[::-1] == seeds


def test_seed_is_taken_from_the_path_of_each_file(tmp_path):
    write(tmp_path, "tiny-seed3/log.csv", "step,loss\n0,1\n")
    write(tmp_path, "tiny-seed12/log.csv", "step,loss\n0,2\n")
    tree = read_training_log(tmp_path, model="tiny")
    assert cells(tree) == {("tiny", 3, 0, TRAIN): 1.0, ("tiny", 12, 0, TRAIN): 2.0}
    assert len(notes(tree, "seed-from-path")) == 2


def test_train_and_validation_files_of_one_seed_are_one_run(tmp_path):
    write(tmp_path, "seed3/train.csv", "step,loss\n0,1\n")
    write(tmp_path, "seed3/val.csv", "step,val_loss\n0,2\n")
    assert dict(read_training_log(tmp_path, model="m").sizes) == {"model": 1, "seed": 1, "step": 1, "metric": 2}


def test_enclosing_folder_of_a_named_file_states_the_seed(tmp_path):
    path = write(tmp_path, "tiny-seed3/checkpoint-500/trainer_state.json", json.dumps(TRAINER_STATE))
    assert read_training_log(path, model="m")["seed"].values.tolist() == [3]


def test_files_without_a_seed_are_runs_named_by_their_paths(tmp_path):
    write(tmp_path, "b/log.csv", "step,loss\n0,1\n")
    write(tmp_path, "a/log.csv", "step,loss\n0,2\n")
    tree = read_training_log(tmp_path, model="m")
    assert tree["run_name"].values.tolist() == [["a/log", "b/log"]]
    assert len(notes(tree, "run-from-path")) == 2


def test_run_pattern_takes_model_and_seed_from_the_path(tmp_path):
    write(tmp_path, "gpt_s1/log.csv", "step,loss\n0,1\n")
    write(tmp_path, "llama_s2/log.csv", "step,loss\n0,2\n")
    tree = read_training_log(tmp_path, run_pattern=r"(?P<model>\w+)_s(?P<seed>\d+)/")
    assert cells(tree) == {("gpt", 1, 0, TRAIN): 1.0, ("llama", 2, 0, TRAIN): 2.0}


def test_file_that_the_pattern_does_not_match_is_refused(tmp_path):
    write(tmp_path, "s1.csv", "step,loss\n0,1\n")
    write(tmp_path, "other.csv", "step,loss\n0,1\n")
    tree = read_training_log(tmp_path, model="m", run_pattern=r"s(?P<seed>\d+)")
    assert statuses(tree) == {"other.csv": "no-run", "s1.csv": "read"}


# --- values --------------------------------------------------------------------------------------------------------


def test_empty_null_and_nan_are_not_measured_and_counted(tmp_path):
    lines = ['{"step": 0, "loss": 1.0}', '{"step": 1, "loss": null}', '{"step": 2, "loss": NaN}', '{"step": 3}']
    tree = read_training_log(write(tmp_path, "a.jsonl", "\n".join(lines)), model="m")
    assert list(cells(tree)) == [("m", 0, 0, TRAIN)]
    assert notes(tree, "not-measured") == ["of 4 cells: 'loss' 1 empty and 1 NaN."]


@pytest.mark.parametrize("text", ["inf", "Infinity", "-inf"])
def test_infinite_values_are_kept(tmp_path, text):
    tree = read_training_log(write(tmp_path, "a.csv", f"step,loss\n0,1\n1,{text}\n"), model="m")
    assert math.isinf(cells(tree)["m", 0, 1, TRAIN])


def test_text_among_numbers_is_left_out_and_shown(tmp_path):
    tree = read_training_log(write(tmp_path, "a.csv", "step,loss\n0,1\n1,oops\n2,1_0\n3,2\n"), model="m")
    assert list(cells(tree).values()) == [1.0, 2.0]
    assert "'loss' 2 (first at line 3: 'oops', '1_0')" in notes(tree, "not-a-number")[0]


def test_true_is_not_a_number(tmp_path):
    tree = read_training_log(write(tmp_path, "a.jsonl", '{"step": 0, "loss": true}\n{"step": 1, "loss": 2}'), model="m")
    assert list(cells(tree).values()) == [2.0]


def test_integer_too_large_for_a_float_is_not_a_number(tmp_path):
    text = '{"step": 0, "loss": 1' + "0" * 400 + '}\n{"step": 1, "loss": 2}'
    assert list(cells(read_training_log(write(tmp_path, "a.jsonl", text), model="m")).values()) == [2.0]


def test_rows_without_a_usable_step_are_left_out_and_counted(tmp_path):
    path = write(tmp_path, "a.csv", "step,loss\n-1,1\n0.5,1\nnan,1\n,1\ninf,1\nx,1\n3.0,2\n1e3,3\n")
    tree = read_training_log(path, model="m")
    assert tree["step"].values.tolist() == [3, 1000]
    assert notes(tree, "bad-step")[0].startswith("6 rows left out")


def test_rows_without_a_label_are_left_out_and_counted(tmp_path):
    path = write(
        tmp_path,
        "a.jsonl",
        '{"model": "m", "step": 0, "loss": 1}\n{"step": 0, "loss": 2}\n{"model": "a\\ud800", "step": 0, "loss": 3}',
    )
    tree = read_training_log(path)
    assert list(cells(tree).values()) == [1.0]
    assert notes(tree, "no-label")[0].startswith("2 rows left out without a usable model, first at line 2")


def test_run_without_one_value_is_named(tmp_path):
    tree = read_training_log(write(tmp_path, "a.csv", "run,step,loss\na,0,1\nb,0,nan\n"), model="m")
    assert "'m|b'" in notes(tree, "run-without-values")[0]


def test_steps_that_go_back_are_noted(tmp_path):
    tree = read_training_log(write(tmp_path, "a.csv", "run,step,loss\na,0,3\na,9,2\nb,0,3\na,5,2.5\n"), model="m")
    assert notes(tree, "steps-go-back")[0].startswith("1 times: run a from 9 to 5 at line 5")


def test_interleaved_runs_do_not_go_back(tmp_path):
    tree = read_training_log(write(tmp_path, "a.csv", "run,step,loss\na,5,3\nb,0,3\na,6,3\nb,1,3\n"), model="m")
    assert notes(tree, "steps-go-back") == []


def test_lines_cut_by_a_crash_do_not_cost_the_rest(tmp_path):
    tree = read_training_log(write(tmp_path, "a.jsonl", '{"step": 0, "loss": 1}\n{"step": 1, "lo'), model="m")
    assert notes(tree, "broken-lines")[0].startswith("1 left out, first line 2")


def test_values_are_read_to_the_last_bit(tmp_path):
    numbers = np.random.default_rng(0).normal(size=200) * 10.0 ** np.arange(-100, 100)
    text = "step,loss\n" + "".join(f"{i},{number!r}\n" for i, number in enumerate(numbers.tolist()))
    tree = read_training_log(write(tmp_path, "a.csv", text), model="m")
    np.testing.assert_array_equal(tree["value"].values.ravel(), numbers)


# --- duplicates ----------------------------------------------------------------------------------------------------

RESTARTED = "seed,step,loss\n0,0,3\n0,1,2\n0,1,2.5\n0,1,2.75\n0,2,1\n"


def test_different_values_for_a_cell_are_an_error_that_names_five(tmp_path):
    rows = "".join(f"0,{step},{value}\n" for value in (1, 2) for step in range(7))
    path = write(tmp_path, "a.csv", "seed,step,loss\n" + rows)
    with pytest.raises(ConflictError, match=r"7 cells.*'m\|0\|4\|loss/train/cross_entropy' and 2 more.*--on-duplicate"):
        read_training_log(path, model="m")


def test_equal_values_for_a_cell_are_no_conflict(tmp_path):
    tree = read_training_log(write(tmp_path, "a.csv", "seed,step,loss\n0,0,3\n0,0,3.0\n"), model="m")
    assert audit_facts(tree)["replaced"] == []


@pytest.mark.parametrize(("rule", "kept", "lost"), [("first", 2.0, [2.5, 2.75]), ("last", 2.75, [2.0, 2.5])])
def test_rule_keeps_one_and_the_audit_keeps_the_others(tmp_path, rule, kept, lost):
    tree = read_training_log(write(tmp_path, "a.csv", RESTARTED), model="m", on_duplicate=rule)
    assert cells(tree)["m", 0, 1, TRAIN] == kept
    (replaced,) = audit_facts(tree)["replaced"]
    cell = f"m|0|1|{TRAIN}"
    assert replaced["values"] == {cell: lost[0], f"{cell}#2": lost[1]}
    assert (replaced["reason"], replaced["path"], replaced["by"]) == (f"duplicate-{rule}", "a.csv", "a.csv")


@pytest.mark.parametrize(("rule", "kept", "loser"), [("first", 1.0, "b10.csv"), ("last", 2.0, "b9.csv")])
def test_files_are_ordered_naturally(tmp_path, rule, kept, loser):
    write(tmp_path, "b10.csv", "seed,step,loss\n0,0,2\n")
    write(tmp_path, "b9.csv", "seed,step,loss\n0,0,1\n")
    tree = read_training_log(tmp_path, model="m", on_duplicate=rule)
    assert list(cells(tree).values()) == [kept]
    assert [entry["path"] for entry in audit_facts(tree)["replaced"]] == [loser]


def test_files_that_are_listed_keep_their_order(tmp_path):
    late = write(tmp_path, "b.csv", "seed,step,loss\n0,0,2\n")
    early = write(tmp_path, "a.csv", "seed,step,loss\n0,0,1\n")
    assert list(cells(read_training_log([late, early], model="m", on_duplicate="last")).values()) == [1.0]


def test_unmeasured_repetition_takes_nothing_away(tmp_path):
    path = write(tmp_path, "a.csv", "seed,step,loss\n0,0,3\n0,0,nan\n")
    assert list(cells(read_training_log(path, model="m", on_duplicate="last")).values()) == [3.0]


@pytest.mark.parametrize("rule", ["latest", "earliest"])
def test_rules_by_time_are_refused_with_the_reason(tmp_path, rule):
    with pytest.raises(UnknownNameError, match="do not say; use 'last'"):
        read_training_log(tmp_path, on_duplicate=rule)


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from([1.0, 2.0, math.inf])), min_size=1, max_size=30),
    st.sampled_from(["first", "last"]),
)
def test_settling_agrees_with_a_dictionary(rows, rule):
    cell = np.array([row[0] for row in rows])
    value = np.array([row[1] for row in rows])
    settled = settle(cell, value, None, rule)
    expected = dict(rows) if rule == "last" else dict(rows[::-1])
    kept = np.arange(len(rows)) if settled is None else settled.kept
    assert dict(zip(cell[kept].tolist(), value[kept].tolist(), strict=True)) == expected
    losing = [] if settled is None else settled.losing.tolist()
    assert sorted(losing) == [i for i, (c, v) in enumerate(rows) if v != expected[c]]


# --- files ---------------------------------------------------------------------------------------------------------


def test_one_bad_file_never_spoils_the_rest(tmp_path):
    write(tmp_path, "good.csv", "seed,step,loss\n0,0,1\n")
    write(tmp_path, "bad.csv", b"\xff\xfe\x00")
    write(tmp_path, "cut.csv.gz", gzip.compress(b"seed,step,loss\n0,0,1\n")[:-9])
    write(tmp_path, "empty.jsonl", "")
    tree = read_training_log(tmp_path, model="m")
    assert statuses(tree) == {
        "bad.csv": "not-utf8",
        "cut.csv.gz": "truncated-gzip",
        "empty.jsonl": "empty",
        "good.csv": "read",
    }


def test_entries_carry_hash_and_mapping(tmp_path):
    path = write(tmp_path, "a.csv", "seed,step,loss\n0,0,1\n")
    (entry,) = [entry for entry in audit_entries(read_training_log(path, model="m")) if entry.status == "read"]
    assert entry == AuditEntry("a.csv", "read", "", f"csv, 1 rows, 1 values; 'loss' is {TRAIN}.", entry.sha256)
    assert len(entry.sha256) == 64


def test_nothing_read_says_what_was_refused_and_why(tmp_path):
    for number in range(7):
        write(tmp_path, f"{number}.csv", "")
    with pytest.raises(ReadError, match=r"(?s)none of 7 files.*0\.csv: there is nothing in it\. \(empty\).*and 2 more"):
        read_training_log(tmp_path, model="m")


def test_missing_file_is_a_read_error(tmp_path):
    with pytest.raises(ReadError, match="No such file"):
        read_training_log(tmp_path / "gone.csv", model="m")


def test_folder_without_logs_is_a_read_error(tmp_path):
    write(tmp_path, "notes.txt", "hello")
    with pytest.raises(ReadError, match="no file below"):
        read_training_log(tmp_path, model="m")


def test_no_paths_are_a_read_error():
    with pytest.raises(ReadError, match="no path"):
        read_training_log([], model="m")


def test_file_that_vanishes_among_several_is_refused(tmp_path):
    good = write(tmp_path, "a.csv", "seed,step,loss\n0,0,1\n")
    tree = read_training_log([good, tmp_path / "gone.csv"], model="m")
    assert statuses(tree) == {"a.csv": "read", "gone.csv": "unreadable"}


def test_unreadable_folder_is_listed_and_the_rest_is_read(tmp_path, monkeypatch):
    write(tmp_path, "a.csv", "seed,step,loss\n0,0,1\n")
    locked = tmp_path / "locked"
    locked.mkdir()
    real = os.scandir

    def scandir(path):
        if Path(path) == locked:
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert statuses(read_training_log(tmp_path, model="m")) == {"a.csv": "read", "locked": "unreadable"}


def test_loop_of_links_ends(tmp_path):
    write(tmp_path, "runs/a.csv", "seed,step,loss\n0,0,1\n")
    (tmp_path / "runs" / "again").symlink_to(tmp_path / "runs")
    (tmp_path / "runs" / "self.csv").symlink_to("self.csv")
    tree = read_training_log(tmp_path, model="m")
    assert statuses(tree) == {"runs/a.csv": "read", "runs/self.csv": "unreadable"}


def test_link_to_a_file_is_not_a_second_run(tmp_path):
    write(tmp_path, "run3.csv", "step,loss\n0,1\n")
    (tmp_path / "latest.csv").symlink_to("run3.csv")
    tree = read_training_log(tmp_path, model="m")
    assert tree["run_name"].values.tolist() == [["run3"]]
    assert statuses(tree) == {"latest.csv": "same-file", "run3.csv": "read"}


def test_path_behind_a_locked_folder_is_unreadable(tmp_path, monkeypatch):
    def locked(self, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", locked)
    with pytest.raises(ReadError, match="Permission denied"):
        read_training_log(tmp_path / "a.csv", model="m")


def test_path_given_twice_is_read_once(tmp_path):
    path = write(tmp_path, "a.csv", "seed,step,loss\n0,0,1\n")
    tree = read_training_log([path, str(path)], model="m")
    assert audit_facts(tree)["read"] == 1


def test_hidden_files_are_passed_over(tmp_path):
    write(tmp_path, "a.csv", "seed,step,loss\n0,0,1\n")
    write(tmp_path, ".ipynb_checkpoints/a.csv", "seed,step,loss\n0,0,2\n")
    assert statuses(read_training_log(tmp_path, model="m")) == {"a.csv": "read"}


def test_several_folders_are_shown_below_their_parent(tmp_path):
    write(tmp_path, "x/a.csv", "seed,step,loss\n0,0,1\n")
    write(tmp_path, "y/a.csv", "seed,step,loss\n1,0,1\n")
    tree = read_training_log([tmp_path / "x", tmp_path / "y"], model="m")
    assert set(statuses(tree)) == {"x/a.csv", "y/a.csv"}


def test_file_name_that_is_not_utf8_can_be_saved(tmp_path):
    write(tmp_path, "a.csv", "seed,step,loss\n0,0,1\n")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/b\xff.csv")).write_text("seed,step,loss\n1,0,1\n")
    tree = read_training_log(tmp_path, model="m")
    ps.save_cube(tree, tmp_path / "cube.nc")
    assert "b\\xff.csv" in statuses(tree)


# --- cubes ---------------------------------------------------------------------------------------------------------

TWO_MODELS = "model,seed,step,loss\nb-2m,0,0,3\nb-2m,0,5,2\na-1m,0,7,1\na-1m,1,7,\n"


def test_summary_says_how_full_the_cube_is(tmp_path):
    tree = read_training_log(write(tmp_path, "a.csv", TWO_MODELS))
    assert tree.attrs["summary"] == "2 runs; 3 of 6 cells (2 models x 1 seed x 3 steps x 1 metric) are measured, 50 %."
    assert fullness(tree) == 0.5


def test_nearly_full_is_not_called_full():
    value = np.ones((1, 1, 10_000, 1))
    value[0, 0, 0, 0] = np.nan
    cube = xr.Dataset({"value": (("model", "seed", "step", "metric"), value)})
    assert coverage_sentence(cube).endswith("99.9 %.")


def test_by_model_gives_each_its_own_grid(tmp_path):
    trees = read_training_log_by_model(write(tmp_path, "a.csv", TWO_MODELS))
    assert {model: tree["step"].values.tolist() for model, tree in trees.items()} == {"a-1m": [7], "b-2m": [0, 5]}
    assert all(fullness(tree) == 1.0 and ps.validate_cube(tree) == [] for tree in trees.values())


def test_by_model_keeps_the_audit_of_its_files_and_of_refused_ones(tmp_path):
    write(tmp_path, "a.csv", "model,seed,step,loss\na,0,0,3\n")
    write(tmp_path, "b.csv", "model,seed,step,loss\nb,0,0,3\n")
    write(tmp_path, "bad.csv", "")
    trees = read_training_log_by_model(tmp_path)
    assert statuses(trees["a"]) == {"a.csv": "read", "bad.csv": "empty"}
    assert statuses(trees["b"]) == {"b.csv": "read", "bad.csv": "empty"}


@pytest.mark.slow
def test_by_model_joined_is_the_common_cube(tmp_path):
    path = write(tmp_path, "a.csv", TWO_MODELS)
    joined = ps.merge_cubes([tree.to_dataset() for tree in read_training_log_by_model(path).values()])
    xr.testing.assert_equal(joined["value"], read_training_log(path).to_dataset()["value"])


@pytest.mark.slow
def test_huge_empty_grid_is_refused_with_the_way_out(tmp_path, monkeypatch):
    monkeypatch.setattr(gathering, "SPARSE_CELLS", 20)
    monkeypatch.setattr(gathering, "SPARSE_SHARE", 0.5)
    rows = "".join(f"m{i},0,{i},1\n" for i in range(6))
    path = write(tmp_path, "a.csv", "model,seed,step,loss\n" + rows)
    with pytest.raises(CubeTooLargeError, match="--split model"):
        read_training_log(path)
    assert len(read_training_log_by_model(path)) == 6


def test_attributes_are_taken_over(tmp_path):
    path = write(tmp_path, "a.csv", TWO_MODELS)
    attrs = read_training_log(path, title="My runs", license="MIT").attrs
    assert (attrs["title"], attrs["license"], attrs["source"]) == ("My runs", "MIT", "training log: a.csv")


@pytest.mark.slow
def test_same_input_gives_the_same_bytes(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    saved = []
    for place in ("here", "there"):
        tree = read_training_log(write(tmp_path, f"{place}/runs/a.csv", TWO_MODELS))
        ps.save_cube(tree, tmp_path / f"{place}.nc")
        saved.append((tmp_path / f"{place}.nc").read_bytes())
    assert saved[0] == saved[1]


RUNS = st.dictionaries(
    st.tuples(st.sampled_from(["a", "b-70m"]), st.sampled_from(["x", "run2", "run10"]), st.integers(0, 5)),
    st.floats(allow_nan=False),
    min_size=1,
    max_size=20,
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(runs=RUNS, random=st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(runs, random):
    rows = [{"model": m, "run": r, "step": s, "loss": v} for (m, r, s), v in runs.items()]
    shuffled = random.sample(rows, len(rows))
    with tempfile.TemporaryDirectory() as folder:
        cubes = []
        for number, order in enumerate((rows, shuffled)):
            path = write(Path(folder), f"{number}/a.jsonl", "\n".join(json.dumps(row) for row in order))
            cubes.append(read_training_log(path, created="2026-01-01T00:00:00+00:00").to_dataset())
    xr.testing.assert_identical(*cubes)
    assert int(cubes[0]["value"].notnull().sum()) == len(runs)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "step,loss\n", True),
        ("trainer_state.json", '{"epoch": 1, "log_history": []}', True),
        ("wandb.csv", WANDB, True),
        ("a.jsonl", '{"_step": 0, "train/loss": 1}', True),
        ("a.csv", "seed,step,L1\n", False),
        ("a.csv", "x,loss\n", False),
        ("a.csv", "", False),
        ("results.json", '{"results": {}}', False),
    ],
)
def test_guess_looks_at_name_and_first_bytes(tmp_path, name, text, expected):
    path = write(tmp_path, name, text)
    assert guess_training_log(path) is expected
    # Below a folder only names that say so are looked at.
    assert guess_training_log(tmp_path) is expected


# --- real logs -----------------------------------------------------------------------------------------------------


def plain_rows(name: str, column: str) -> dict[tuple[str, str], dict[int, float]]:
    """Curves by (track/record, run), read without the package."""
    curves: dict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    with gzip.open(NANOGPT / name, "rt", newline="") as stream:
        for row in csv.DictReader(stream):
            curves[f"{row['track']}/{row['record']}", row["run"]][int(row["step"])] = float(row[column])
    return curves


def assert_holds(cube: xr.Dataset, curves: dict[tuple[str, str], dict[int, float]]) -> None:
    steps = {step: i for i, step in enumerate(cube["step"].values.tolist())}
    models = {model: i for i, model in enumerate(cube["model"].values.tolist())}
    named = "run_name" in cube.coords
    value = cube["value"].values
    for (model, run), curve in curves.items():
        at = models[model]
        names = cube["run_name"].values[at].tolist() if named else [str(seed) for seed in cube["seed"].values.tolist()]
        seed = names.index(run) if run in names else cube["seed"].values.tolist().index(int(run))
        read = value[at, seed, [steps[step] for step in curve], 0]
        np.testing.assert_array_equal(read, list(curve.values()))
    assert int(np.isfinite(value).sum()) == sum(map(len, curves.values()))


@pytest.mark.slow
@needs_nanogpt
@pytest.mark.parametrize(
    ("name", "column", "sizes", "runs"),
    [
        ("val_loss.csv.gz", "val_loss", {"model": 145, "seed": 75, "step": 1017, "metric": 1}, 1219),
        ("train_loss.csv.gz", "train_loss", {"model": 14, "seed": 7, "step": 19074, "metric": 1}, 31),
    ],
)
def test_real_curves_are_all_there_and_nothing_else(name, column, sizes, runs):
    curves = plain_rows(name, column)
    tree = read_training_log(NANOGPT / name, columns={"model": "track+record", "seed": "run"})
    assert dict(tree.sizes) == sizes
    assert len(curves) == runs
    assert tree.attrs["summary"].startswith(f"{runs:,} runs; ")
    assert_holds(tree.to_dataset(), curves)


@pytest.mark.slow
@needs_nanogpt
def test_real_curves_by_model_are_all_there_and_mostly_full():
    curves = plain_rows("val_loss.csv.gz", "val_loss")
    trees = read_training_log_by_model(NANOGPT / "val_loss.csv.gz", columns={"model": "track+record", "seed": "run"})
    assert set(trees) == {model for model, _ in curves}
    for model, tree in trees.items():
        assert_holds(tree.to_dataset(), {key: curve for key, curve in curves.items() if key[0] == model})
    assert np.median([fullness(tree) for tree in trees.values()]) == 1.0


@pytest.mark.slow
@needs_nanogpt
def test_real_folder_on_one_grid_is_refused():
    with pytest.raises(CubeTooLargeError, match="418,426,500 cells"):
        read_training_log(NANOGPT, columns={"model": "track+record", "seed": "run"})


def test_what_a_trainer_logs_beside_losses_is_no_metric(tmp_path):
    """The entries that transformers 5.23 writes: one per logging step, and one per evaluation."""
    history = [
        {"epoch": 0.125, "grad_norm": 2.26, "learning_rate": 5e-05, "loss": 2.88, "step": 1},
        {
            "epoch": 0.125,
            "eval_loss": 2.85,
            "eval_runtime": 0.01,
            "eval_samples_per_second": 1541.1,
            "eval_steps_per_second": 192.6,
            "step": 1,
        },
        {
            "epoch": 0.125,
            "step": 1,
            "total_flos": 272302080.0,
            "train_loss": 2.88,
            "train_runtime": 0.2,
            "train_samples_per_second": 654.9,
            "train_steps_per_second": 81.86,
        },
    ]
    path = tmp_path / "tiny-seed2" / "trainer_state.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"log_history": history, "global_step": 1}))
    cube = read_training_log(tmp_path, model="tiny").to_dataset()
    assert {str(metric): cube["value"].sel(metric=metric).item() for metric in cube["metric"].values} == {
        "gradient/all/norm": 2.26,
        "loss/train/cross_entropy": 2.88,
        "loss/validation/cross_entropy": 2.85,
    }
    assert cube["seed"].values.tolist() == [2]
