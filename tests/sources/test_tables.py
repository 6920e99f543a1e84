"""Tidy and wide tables into cubes."""

from __future__ import annotations

import csv
import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import polystab as ps
from polystab.cube.audit import audit_entries, audit_facts
from polystab.cube.describe import fullness
from polystab.errors import ConflictError, ReadError, RecordsError, UnknownNameError
from polystab.sources.tables import guess_table, read_table, read_table_by_model

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
MAPS = SHARED / "pythia-training-maps"
needs_maps = pytest.mark.skipif(not MAPS.is_dir(), reason=f"real training maps are not at {MAPS}")

TIDY = "model,seed,step,metric,value,stderr\nm,0,0,eval/arc/acc,0.25,0.01\nm,1,0,eval/arc/acc,0.5,\n"


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def cells(tree: xr.DataTree) -> dict[tuple[str, int, int, str], float]:
    series = tree.to_dataset()["value"].to_series().dropna()
    return {tuple(key): value for key, value in series.items()}


def notes(tree: xr.DataTree, reason: str) -> list[str]:
    return [entry.detail for entry in audit_entries(tree) if entry.reason == reason]


# --- tidy ----------------------------------------------------------------------------------------------------------


def test_tidy_table_has_values_and_standard_errors(tmp_path):
    tree = read_table(write(tmp_path, "a.csv", TIDY))
    assert cells(tree) == {("m", 0, 0, "eval/arc/acc"): 0.25, ("m", 1, 0, "eval/arc/acc"): 0.5}
    np.testing.assert_array_equal(tree["stderr"].values.ravel(), [0.01, np.nan])
    assert ps.validate_cube(tree) == []


def test_tidy_columns_can_have_other_names(tmp_path):
    path = write(tmp_path, "a.tsv", "arch\trep\tit\ttask\tscore\tse\nm\t3\t9\teval/arc/acc\t0.5\t0.1\n")
    columns = {"model": "arch", "seed": "rep", "step": "it", "metric": "task", "value": "score", "stderr": "se"}
    tree = read_table(path, columns=columns)
    assert cells(tree) == {("m", 3, 9, "eval/arc/acc"): 0.5}
    assert tree["stderr"].item() == 0.1


def test_tidy_json_lines(tmp_path):
    row = {"model": "m", "seed": 0, "step": 1, "metric": "eval/arc/acc", "value": 0.5}
    path = write(tmp_path, "a.jsonl.gz", gzip.compress(json.dumps(row).encode()))
    assert cells(read_table(path)) == {("m", 0, 1, "eval/arc/acc"): 0.5}


def test_coordinates_travel_with_a_tidy_table(tmp_path):
    text = (
        "model,seed,step,metric,value,units,better,component,layer,n_items,chance,n_parameters,tokens,data_seed\n"
        "m,0,2,eval/arc/acc,0.5,1,higher,,,100,0.25,7000,4096,3\n"
        "m,1,2,weight/l/norm,2.5,,,mlp,4,,,7000,4096,\n"
    )
    tree = read_table(write(tmp_path, "a.csv", text))
    cube = tree.to_dataset()
    assert ps.validate_cube(cube) == []
    found = {name: cube[name].values.tolist() for name in ("units", "better", "component", "layer", "n_items")}
    assert found == {
        "units": ["1", ""],
        "better": ["higher", ""],
        "component": ["", "mlp"],
        "layer": [-1, 4],
        "n_items": [100, -1],
    }
    assert (cube["tokens"].item(), cube["n_parameters"].item()) == (4096, 7000)
    assert cube["data_seed"].values.tolist() == [[3, -1]]


def test_coordinates_may_stand_in_one_file_only(tmp_path):
    write(tmp_path, "a.csv", "model,seed,step,metric,value,tokens,units\nm,0,2,eval/a/b,1,64,1\n")
    write(tmp_path, "b.csv", "model,seed,step,metric,value\nm,1,4,eval/a/b,1\n")
    cube = read_table(tmp_path).to_dataset()
    assert (cube["tokens"].values.tolist(), cube["units"].values.tolist()) == ([64, -1], ["1"])


@pytest.mark.parametrize(
    "text",
    [
        "model,seed,step,metric,value,tokens\nm,0,2,eval/a/b,1,64\nm,1,2,eval/a/b,1,65\n",
        "model,seed,step,metric,value,tokens\nm,0,2,eval/a/b,1,6.5\n",
        "model,seed,step,metric,value,better\nm,0,2,eval/a/b,1,up\n",
    ],
)
def test_bad_coordinate_refuses_its_file_only(tmp_path, text):
    write(tmp_path, "bad.csv", text)
    write(tmp_path, "good.csv", TIDY)
    assert [(e["path"], e["reason"]) for e in audit_facts(read_table(tmp_path))["refused"]] == [
        ("bad.csv", "bad-coordinate")
    ]


def test_coordinates_that_differ_between_files_are_an_error(tmp_path):
    write(tmp_path, "a.csv", "model,seed,step,metric,value,tokens\nm,0,2,eval/a/b,1,64\n")
    write(tmp_path, "b.csv", "model,seed,step,metric,value,tokens\nm,1,2,eval/a/b,1,65\n")
    with pytest.raises(RecordsError, match="tokens"):
        read_table(tmp_path)


def test_run_names_of_a_table_are_kept_beside_its_seeds(tmp_path):
    path = write(tmp_path, "a.csv", "model,seed,run_name,step,metric,value\nm,4,foo,2,eval/a/b,1\n")
    tree = read_table(path)
    assert (tree["seed"].item(), tree["run_name"].item()) == (4, "foo")


@pytest.mark.parametrize("stderr", ["-0.1", "inf"])
def test_impossible_standard_error_is_taken_as_unknown(tmp_path, stderr):
    tree = read_table(write(tmp_path, "a.csv", TIDY.replace("0.01", stderr).replace("0.5,", "0.5,0.2")))
    assert ps.validate_cube(tree) == []
    assert len(notes(tree, "bad-stderr")) == 1


def test_entries_that_are_no_ids_take_the_family(tmp_path):
    path = write(tmp_path, "a.csv", "model,seed,step,metric,value\nm,0,0,acc,1\nm,0,0,eval/a/b,2\n")
    tree = read_table(path, family="eval", subject="arc")
    assert tree["metric"].values.tolist() == ["eval/a/b", "eval/arc/acc"]


def test_entries_that_are_no_ids_are_left_out_without_a_family(tmp_path):
    path = write(tmp_path, "a.csv", "model,seed,step,metric,value\nm,0,0,acc,1\nm,0,0,eval/a/b,2\n")
    tree = read_table(path)
    assert tree["metric"].values.tolist() == ["eval/a/b"]
    assert "'acc'" in notes(tree, "unused-metric")[0]


def test_entries_can_be_named_one_by_one(tmp_path):
    path = write(tmp_path, "a.csv", "model,seed,step,metric,value\nm,0,0,acc,1\nm,0,0,f1,2\n")
    tree = read_table(path, metrics={"acc": "eval/x/acc", "f1": ""})
    assert tree["metric"].values.tolist() == ["eval/x/acc"]


def test_tidy_table_without_any_id_tells_what_to_pass(tmp_path):
    with pytest.raises(ReadError, match=r"no-metric|--family"):
        read_table(write(tmp_path, "a.csv", "model,seed,step,metric,value\nm,0,0,acc,1\n"))


def test_tidy_layout_without_a_value_column_is_refused(tmp_path):
    with pytest.raises(ReadError, match="layout='wide'"):
        read_table(write(tmp_path, "a.csv", "model,seed,step,metric,score\nm,0,0,eval/a/b,1\n"), layout="tidy")


def test_constant_metric_makes_a_tidy_table_of_one_column(tmp_path):
    path = write(tmp_path, "a.csv", "seed,score\n3,0.5\n")
    columns = {"model": "=m", "step": "=143000", "metric": "=eval/arc/acc", "value": "score"}
    assert cells(read_table(path, columns=columns)) == {("m", 3, 143000, "eval/arc/acc"): 0.5}


@pytest.mark.parametrize("layout", ["auto", "wide"])
def test_mapping_for_a_tidy_table_is_not_ignored_in_a_wide_one(tmp_path, layout):
    path = write(tmp_path, "a.csv", "model,seed,step,score\nm,0,0,1\n")
    with pytest.raises(ReadError, match="missing-column"):
        read_table(path, columns={"value": "score"}, layout=layout, family="eval")


def test_entries_without_a_metric_are_left_out(tmp_path):
    tree = read_table(write(tmp_path, "a.csv", TIDY + "m,2,0,,1,\n"))
    assert tree["seed"].values.tolist() == [0, 1]
    assert len(notes(tree, "unused-metric")) == 1


def test_tidy_table_without_a_number_is_refused(tmp_path):
    with pytest.raises(ReadError, match="no-values"):
        read_table(write(tmp_path, "a.csv", "model,seed,step,metric,value\nm,0,0,eval/a/b,x\n"))


def test_text_in_a_numeric_coordinate_is_taken_as_unknown(tmp_path):
    path = write(tmp_path, "a.csv", "model,seed,step,metric,value,tokens\nm,0,1,eval/a/b,1,many\n")
    tree = read_table(path)
    assert tree["tokens"].values.tolist() == [-1]
    assert "'many'" in notes(tree, "not-a-number")[0]


# --- wide ----------------------------------------------------------------------------------------------------------


def test_wide_columns_take_family_and_subject(tmp_path):
    path = write(tmp_path, "a.csv", "seed,step,acc,eval/boolq/acc\n0,0,0.5,0.75\n")
    tree = read_table(path, model="m", family="eval", subject="arc/easy")
    assert tree["metric"].values.tolist() == ["eval/arc/easy/acc", "eval/boolq/acc"]


def test_slash_in_a_column_name_is_written_over_and_noted(tmp_path):
    tree = read_table(write(tmp_path, "a.csv", "seed,step,L1/L2\n0,0,2\n"), model="m", family="weight")
    assert tree["metric"].values.tolist() == ["weight/all/L1_over_L2"]
    assert tree["measure"].values.tolist() == ["L1_over_L2"]
    assert "'L1/L2' is weight/all/L1_over_L2" in notes(tree, "renamed")[0]


def test_names_that_meet_when_written_over_are_refused(tmp_path):
    path = write(tmp_path, "a.csv", "seed,step,a/b,a_over_b\n0,0,1,2\n")
    with pytest.raises(ReadError, match="ambiguous-metric"):
        read_table(path, model="m", family="weight")


def test_wide_table_without_ids_tells_what_to_pass(tmp_path):
    with pytest.raises(ReadError, match=r"among 'L1'.*--family"):
        read_table(write(tmp_path, "a.csv", "seed,step,L1\n0,0,2\n"), model="m")


def test_named_columns_need_no_family_and_the_others_are_noted(tmp_path):
    path = write(tmp_path, "a.csv", ',score,state,step,seed,group\n0,-1.5,2,0,3,"[0, 1]"\n')
    tree = read_table(path, model="m", metrics={"score": "eval/downstream/score"})
    assert cells(tree) == {("m", 3, 0, "eval/downstream/score"): -1.5}
    assert "'state'" in notes(tree, "unused-column")[0]


@pytest.mark.parametrize("extra", ["", "Unnamed: 0", "index", "layer", "iteration", "run_id"])
def test_columns_that_number_things_are_no_metrics(tmp_path, extra):
    path = write(tmp_path, "a.csv", f"{extra},seed,step,L1\n5,0,0,2\n")
    tree = read_table(path, model="m", family="weight")
    assert tree["metric"].values.tolist() == ["weight/all/L1"]


def test_column_of_mostly_text_is_no_metric(tmp_path):
    path = write(tmp_path, "a.csv", "seed,step,L1,commit\n0,0,2,abc\n0,1,2,123\n0,2,2,fed\n")
    assert read_table(path, model="m", family="weight")["metric"].values.tolist() == ["weight/all/L1"]


def test_coordinates_travel_with_a_wide_table(tmp_path):
    path = write(tmp_path, "a.csv", "model,seed,step,tokens,n_layers,L1\nm,0,1,10,3,2\nm,0,2,20,3,2\n")
    cube = read_table(path, family="weight").to_dataset()
    assert (cube["tokens"].values.tolist(), cube["n_layers"].values.tolist()) == ([10, 20], [3])
    assert cube["metric"].values.tolist() == ["weight/all/L1"]


def test_layout_can_be_forced(tmp_path):
    path = write(tmp_path, "a.csv", "model,seed,step,metric,value\nm,0,0,1,2\n")
    tree = read_table(path, layout="wide", family="eval")
    assert tree["metric"].values.tolist() == ["eval/all/metric", "eval/all/value"]


def test_table_without_a_seed_column_is_one_run_a_file(tmp_path):
    write(tmp_path, "seed4.csv", "step,L1\n0,2\n")
    write(tmp_path, "seed5.csv", "step,L1\n0,2\n")
    tree = read_table(tmp_path, model="m", family="weight")
    assert tree["seed"].values.tolist() == [4, 5]


# --- values, duplicates, options -----------------------------------------------------------------------------------


def test_non_finite_values_are_handled_as_in_logs(tmp_path):
    text = "model,seed,step,metric,value\nm,0,0,eval/a/b,inf\nm,0,1,eval/a/b,NaN\nm,0,2,eval/a/b,\nm,0,3,eval/a/b,x\n"
    tree = read_table(write(tmp_path, "a.csv", text))
    assert cells(tree) == {("m", 0, 0, "eval/a/b"): np.inf}
    assert notes(tree, "not-measured") == ["of 4 cells: 'value' 1 empty and 1 NaN."]
    assert "'x'" in notes(tree, "not-a-number")[0]


@pytest.mark.parametrize(("rule", "kept"), [("first", (1.0, 0.1)), ("last", (2.0, 0.2))])
def test_value_and_standard_error_win_together(tmp_path, rule, kept):
    text = "model,seed,step,metric,value,stderr\nm,0,0,eval/a/b,1,0.1\nm,0,0,eval/a/b,2,0.2\n"
    tree = read_table(write(tmp_path, "a.csv", text), on_duplicate=rule)
    assert (tree["value"].item(), tree["stderr"].item()) == kept


def test_different_values_are_an_error(tmp_path):
    text = "model,seed,step,metric,value\nm,0,0,eval/a/b,1\nm,0,0,eval/a/b,2\n"
    with pytest.raises(ConflictError, match="1 cells have different values"):
        read_table(write(tmp_path, "a.csv", text))


def test_one_value_with_two_standard_errors_is_an_error(tmp_path):
    text = "model,seed,step,metric,value,stderr\nm,0,0,eval/a/b,1,0.1\nm,0,0,eval/a/b,1,0.2\n"
    with pytest.raises(ConflictError, match="different standard errors"):
        read_table(write(tmp_path, "a.csv", text))


def test_lost_standard_error_is_kept_in_the_audit(tmp_path):
    text = "model,seed,step,metric,value,stderr\nm,0,0,eval/a/b,1,0.1\nm,0,0,eval/a/b,1,0.2\n"
    tree = read_table(write(tmp_path, "a.csv", text), on_duplicate="last")
    assert audit_facts(tree)["replaced"][0]["values"] == {"m|0|0|eval/a/b|stderr": 0.1}


@pytest.mark.parametrize("rule", ["error", "first", "last"])
def test_known_standard_error_of_an_equal_value_is_kept(tmp_path, rule):
    text = "model,seed,step,metric,value,stderr\nm,0,0,eval/a/b,1,\nm,0,0,eval/a/b,1,0.2\nm,0,0,eval/a/b,1,\n"
    assert read_table(write(tmp_path, "a.csv", text), on_duplicate=rule)["stderr"].item() == 0.2


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"layout": "tiddy"}, UnknownNameError),
        ({"family": "weights"}, UnknownNameError),
        ({"family": "weight", "subject": ""}, ReadError),
        ({"on_duplicate": "latest"}, UnknownNameError),
        ({"columns": {"valu": "x"}}, ReadError),
    ],
)
def test_option_that_makes_no_sense_is_refused_before_reading(tmp_path, options, error):
    with pytest.raises(error):
        read_table(tmp_path / "not-there.csv", **options)


def test_misspelt_metric_is_an_error(tmp_path):
    with pytest.raises(ReadError, match="Did you mean 'score'"):
        read_table(
            write(tmp_path, "a.csv", "seed,step,score\n0,0,2\n"),
            model="m",
            family="eval",
            metrics={"scroe": "eval/x/score"},
        )


def test_by_model_gives_each_its_own_grid(tmp_path):
    path = write(tmp_path, "a.csv", "model,seed,step,eval/a/b\nx,0,1,1\ny,0,2,1\n")
    trees = read_table_by_model(path)
    assert {model: fullness(tree) for model, tree in trees.items()} == {"x": 1.0, "y": 1.0}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model,seed,step,metric,value\n", True),
        ("seed,step,L1\n", True),
        ("step,metric,value\n", True),
        ("step,L1\n", False),
        ("seed,L1\n", False),
        ("", False),
    ],
)
def test_guess_looks_at_the_header(tmp_path, text, expected):
    assert guess_table(write(tmp_path, "a.csv", text)) is expected


VALUES = st.dictionaries(
    st.tuples(
        st.sampled_from(["a", "b-70m"]),
        st.integers(0, 3),
        st.integers(0, 3),
        st.sampled_from(["eval/x/acc", "loss/train/cross_entropy", "weight/w/norm"]),
    ),
    st.floats(allow_nan=False),
    min_size=1,
    max_size=25,
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(values=VALUES)
def test_tidy_and_wide_tables_agree(values):
    tidy = pd.DataFrame(
        [(*key, value) for key, value in values.items()], columns=["model", "seed", "step", "metric", "value"]
    )
    wide = tidy.pivot_table(
        index=["model", "seed", "step"], columns="metric", values="value", aggfunc="first"
    ).reset_index()
    with tempfile.TemporaryDirectory() as folder:
        cubes = []
        for name, frame in (("tidy", tidy), ("wide", wide)):
            frame.to_csv(Path(folder) / f"{name}.csv", index=False)
            tree = read_table(Path(folder) / f"{name}.csv", created="2026-01-01T00:00:00+00:00", title="t", source="s")
            assert cells(tree) == values
            cubes.append(tree.to_dataset())
    xr.testing.assert_identical(*cubes)


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(values=VALUES)
def test_cube_written_as_a_table_is_read_back(values):
    frame = pd.DataFrame(
        [(*key, value) for key, value in values.items()], columns=["model", "seed", "step", "metric", "value"]
    )
    cube = ps.cube_from_records(frame)
    with tempfile.TemporaryDirectory() as folder:
        cube["value"].to_series().dropna().reset_index().to_csv(Path(folder) / "a.csv", index=False)
        again = read_table(Path(folder) / "a.csv").to_dataset()
    xr.testing.assert_equal(again["value"].drop_vars(["units", "better"]), cube["value"].drop_vars(["units", "better"]))


# --- real tables ---------------------------------------------------------------------------------------------------


def plain_rows(name: str) -> list[dict[str, str]]:
    with (MAPS / name).open(newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t"))


@pytest.mark.slow
@needs_maps
def test_real_weight_statistics_are_all_there():
    rows = plain_rows("Pythia70m_Hu_metrics.tsv")
    tree = read_table(MAPS / "Pythia70m_Hu_metrics.tsv", model="pythia-70m", family="weight")
    assert dict(tree.sizes) == {"model": 1, "seed": 5, "step": 154, "metric": 14}
    assert fullness(tree) == 1.0
    expected = {
        ("pythia-70m", int(row["seed"]), int(row["step"]), f"weight/all/{name.replace('/', '_over_')}"): float(text)
        for row in rows
        for name, text in row.items()
        if name not in ("seed", "step")
    }
    assert len(expected) == 770 * 14
    assert cells(tree) == expected


@needs_maps
def test_real_training_map_scores_are_all_there():
    rows = plain_rows("training_maps.tsv")
    tree = read_table(
        MAPS / "training_maps.tsv", columns={"model": "=pythia-410m"}, metrics={"score": "eval/downstream/score"}
    )
    assert dict(tree.sizes) == {"model": 1, "seed": 10, "step": 27, "metric": 1}
    expected = {
        ("pythia-410m", int(row["seed"]), int(row["step"]), "eval/downstream/score"): float(row["score"])
        for row in rows
    }
    assert len(expected) == 270
    assert cells(tree) == expected
