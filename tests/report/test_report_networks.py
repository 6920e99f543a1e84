"""The sections on answers, representations, and weights, activations and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from cubes_to_report import plain_cube

import polystab as ps
from polystab.analysis.representations.codelengths import probe_codelengths
from polystab.analysis.trajectories import rank_metrics, seed_band
from polystab.analysis.variance import seed_spread
from polystab.report.results import bounded
from polystab.report.results.networks import analyse_networks
from polystab.report.sections.answers import answers
from polystab.report.sections.networks import networks
from polystab.report.sections.representations import representations
from polystab.report.summary.agreement import agreement_summary
from polystab.report.summary.networks import NETWORK, network_summary
from polystab.report.summary.representations import representations_summary


@pytest.fixture(scope="module")
def tree() -> xr.DataTree:
    """Two models, four seeds and four steps of nano."""
    whole = ps.load_tree("nano")
    picked = {"model": [0, 1], "seed": slice(0, 4), "step": [0, 10, 20, 30]}
    cube = whole.to_dataset().isel(picked).load()
    groups = {}
    for name in ("items", "probes"):
        own = list(whole[name].to_dataset(inherit=False).data_vars)
        part = whole[name].to_dataset()[own].isel(picked).load()
        groups[name] = part.drop_vars([label for label in part.coords if label in cube.coords])
    return xr.DataTree.from_dict({"/": cube, **groups})


@pytest.fixture(scope="module")
def found(tree: xr.DataTree) -> dict:
    data = tree.to_dataset()
    results = analyse_networks(tree, data, rng=0)
    models = [str(name) for name in data["model"].values.tolist()]
    band, ranked = seed_band(data), rank_metrics(data)
    return {
        "agreement": agreement_summary(results, models),
        "representations": representations_summary(results, models),
        "networks": network_summary(band, seed_spread(data), ranked, models),
    }


@pytest.mark.slow
def test_agreement_rows_are_the_numbers_of_agreement_at_the_last_step(found: dict, tree: xr.DataTree) -> None:
    last = ps.agreement(tree).isel(step=-1).sel(statistic="all_pairs")
    for row in found["agreement"]["rows"]:
        one = last.sel(answer=row["answer"], model=row["model"], task=row["task"])
        np.testing.assert_equal([row["agreement"], row["lower"]], [one["agreement"].item(), one["lower"].item()])


@pytest.mark.slow
def test_agreement_is_given_for_all_tasks_first_and_by_task(found: dict) -> None:
    tasks = {row["task"] for row in found["agreement"]["rows"]}
    assert "pooled" in tasks
    assert len(tasks) == 5
    assert "Agreement over all tasks" in repr(list(answers(found)))


def test_probe_rows_are_medians_of_the_compression(found: dict, tree: xr.DataTree) -> None:
    compression = probe_codelengths(tree)["compression"].isel(step=-1)
    row = found["representations"]["rows"][0]
    values = compression.sel(model=row["model"], task=row["task"], layer=row["layer"]).values
    assert row["compression"] == pytest.approx(np.median(values), rel=1e-12)
    assert row["n_runs"] == 4


def test_angles_between_probes_stand_beside_what_chance_gives(found: dict) -> None:
    for row in found["representations"]["rows"]:
        assert 0 < row["angle"] <= 90
        assert 0 < row["expected"] < 90


def test_layers_that_a_model_does_not_have_have_no_row(found: dict) -> None:
    rows = found["representations"]["rows"]
    assert max(row["layer"] for row in rows if row["model"] == "nano-33k") == 2


def test_every_family_has_a_picture_and_metrics_of_different_measures(found: dict) -> None:
    families = found["networks"]["families"]
    assert [item["family"] for item in families] == list(NETWORK)
    for item in families:
        assert item["picture"]
        names = list(dict.fromkeys(row["metric"] for row in item["rows"]))
        assert len({name.rsplit("/", 1)[1] for name in names}) == len(names)


def test_rows_of_networks_are_first_and_last_medians(found: dict, tree: xr.DataTree) -> None:
    row = found["networks"]["families"][0]["rows"][0]
    values = tree["value"].sel(model=row["model"], metric=row["metric"], step=row["last_step"]).values
    assert row["last"] == pytest.approx(np.median(values), rel=1e-12)


def test_what_is_lacking_is_said_with_the_command_that_fills_it() -> None:
    cube = plain_cube()
    results = analyse_networks(cube, cube, rng=0)
    summary = {
        "agreement": agreement_summary(results, []),
        "representations": representations_summary(results, []),
        "networks": network_summary(seed_band(cube), seed_spread(cube), rank_metrics(cube), []),
    }
    assert "polystab fill evals" in repr(list(answers(summary)))
    assert "polystab fill probes" in repr(list(representations(summary)))
    assert summary["networks"]["lacking"]
    assert "polystab fill " in repr(list(networks(summary)))


def test_many_answers_are_compared_at_fewer_steps_the_last_included(
    monkeypatch: pytest.MonkeyPatch, tree: xr.DataTree
) -> None:
    items = tree["items"].to_dataset()
    monkeypatch.setattr(bounded, "MAX_ANSWERS", 2 * 4 * 1200 * 3)
    steps, notes = bounded.for_agreement(items)
    assert len(steps) == 3
    assert steps[-1] == items["step"].values[-1]
    assert notes[0].startswith("Answers are compared at 3 of 4 checkpoints")
