"""Known answers on published data: the maps of Pythia 70m and 410m."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import polystab as ps
from polystab.analysis.maps.inputs import HU2023, choose_metrics, gather, normalised, reference_scale
from polystab.analysis.maps.performance import performance_from_occupancy
from polystab.analysis.maps.reading import state_occupancy, state_paths
from polystab.analysis.training_maps import fit_training_map

RESTART_AT = 100_000


@pytest.fixture(scope="module")
def pythia70m(shared_data: Path) -> xr.Dataset:
    path = shared_data / "pythia-training-maps" / "Pythia70m_Hu_metrics.tsv"
    return ps.read_table(path, model="pythia-70m", family="weight").to_dataset()


@pytest.fixture(scope="module")
def maps410m(shared_data: Path) -> tuple[xr.DataArray, xr.DataArray]:
    """Published states (seed, step) of Pythia 410m, and the final score of each seed."""
    table = pd.read_csv(shared_data / "pythia-training-maps" / "training_maps.tsv", sep="\t")
    states = table.set_index(["seed", "step"])["state"].to_xarray()
    return states, table.set_index(["seed", "step"])["score"].to_xarray().isel(step=-1, drop=True)


@pytest.mark.slow
def test_the_default_metrics_are_the_14_weight_features(pythia70m: xr.Dataset) -> None:
    fitted = fit_training_map(pythia70m, n_states=1)
    assert [name.rsplit("/", 1)[1] for name in fitted.metrics] == [name.replace("/", "_over_") for name in HU2023]


@pytest.mark.slow
def test_paper_mode_gives_the_published_pipelines_criteria(pythia70m: xr.Dataset) -> None:
    table = fit_training_map(pythia70m, recipe="polypythias", n_states=[1, 2, 3, 4]).selection
    assert table["n_rows"].values.tolist() == [154] * 4
    assert table["n_parameters"].values.tolist() == [28, 59, 92, 127]
    assert table["log_likelihood"].values[0] == pytest.approx(-3059.2315, abs=5e-5)
    assert table["bic"].values[0] == pytest.approx(6259.4976, abs=5e-5)
    np.testing.assert_allclose(table["bic"].values[1:], [4477.57, 3399.3, 2994.43], atol=0.5)


@pytest.mark.slow
def test_paper_mode_counts_parameters_up_to_8_states(pythia70m: xr.Dataset) -> None:
    table = fit_training_map(pythia70m, recipe="polypythias").selection
    assert table["n_states"].values.tolist() == list(range(1, 9))
    assert table["n_parameters"].values.tolist() == [28, 59, 92, 127, 164, 203, 244, 287]
    assert table["restart_held_out"].shape == (8, 5)


@pytest.mark.slow
def test_decoding_without_lengths_as_the_papers_code_does_changes_8_labels(pythia70m: xr.Dataset) -> None:
    fitted = fit_training_map(pythia70m, recipe="polypythias", n_states=4)
    apart = fitted.decode(pythia70m, one_sequence=False)["state"].values
    assert int((fitted.states["state"].values != apart).sum()) == 8
    assert any("changes 8 of 770 states" in note for note in fitted.notes)


@pytest.mark.slow
def test_decoding_in_paper_mode_is_hmmlearns_predict_without_lengths(pythia70m: xr.Dataset) -> None:
    from hmmlearn.hmm import GaussianHMM
    from scipy.stats import zscore

    fitted = fit_training_map(pythia70m, recipe="polypythias", n_states=5)
    p = fitted.parameters
    theirs = GaussianHMM(5)
    theirs.startprob_, theirs.transmat_, theirs.means_ = (p[name].values for name in ("start", "transition", "mean"))
    theirs.n_features, theirs.covars_ = 14, p["variance"].values
    x = zscore(pythia70m["value"].sel(metric=list(fitted.metrics)).values[0], axis=1)
    assert fitted.states["state"].values.ravel().tolist() == theirs.predict(x.reshape(770, 14)).tolist()


def restarted(cube: xr.Dataset) -> tuple[xr.Dataset, int]:
    """Seed 0 with its first checkpoints put in place of those from ``RESTART_AT`` on, and how many come before."""
    at = int(np.searchsorted(cube["step"].values, RESTART_AT))
    changed = cube.copy(deep=True)
    changed["value"][0, 0, at:] = cube["value"].values[0, 0, : cube.sizes["step"] - at]
    return changed, at


@pytest.mark.slow
@pytest.mark.parametrize(
    "n_states", [pytest.param(3, marks=pytest.mark.slow), 4, pytest.param(5, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("normalise", "least", "most"), [("reference", 0, 2), ("causal", 0, 2), ("run", 12, 110)])
def test_a_late_restart_changes_earlier_states_under_the_papers_scale_only(
    pythia70m: xr.Dataset, normalise: Any, least: int, most: int, n_states: int
) -> None:
    changed, at = restarted(pythia70m)
    fitted = fit_training_map(pythia70m, n_states=n_states, normalise=normalise, n_restarts=4)
    before = fitted.states["state"].values[0, 0, :at]
    n_changed = int((fitted.decode(changed)["state"].values[0, 0, :at] != before).sum())
    assert least <= n_changed <= most


@pytest.mark.slow
def test_the_documented_number_of_states_that_a_restart_changes(pythia70m: xr.Dataset) -> None:
    import polystab.analysis.training_maps as module

    changed, at = restarted(pythia70m)
    fitted = fit_training_map(pythia70m, n_states=4, normalise="run")
    n_changed = int(
        (fitted.decode(changed)["state"].values[0, 0, :at] != fitted.states["state"].values[0, 0, :at]).sum()
    )
    assert at == 110
    assert f" {n_changed} of the 110" in (module.__doc__ or "")


@pytest.mark.slow
def test_hmmlearn_climbs_higher_from_our_optimum_than_from_its_own_starts(pythia70m: xr.Dataset) -> None:
    from hmmlearn.hmm import GaussianHMM

    rows = gather(pythia70m, choose_metrics(pythia70m, None))
    x = normalised(rows, "reference", reference_scale(rows, np.ones(5, dtype=bool))).reshape(770, 14)
    lengths = [154] * 5
    own = [
        GaussianHMM(5, n_iter=2000, tol=1e-3, random_state=seed).fit(x, lengths).score(x, lengths) for seed in range(5)
    ]
    found = fit_training_map(pythia70m, n_states=5).parameters
    ours = GaussianHMM(5, n_iter=2000, tol=1e-3, init_params="")
    ours.startprob_, ours.transmat_, ours.means_ = (found[name].values for name in ("start", "transition", "mean"))
    ours.n_features, ours.covars_ = 14, found["variance"].values
    assert ours.fit(x, lengths).score(x, lengths) > max(own) + 100


def test_r_squared_of_the_410m_map_does_not_travel_alone(maps410m: tuple[xr.DataArray, xr.DataArray]) -> None:
    result = performance_from_occupancy(*maps410m)
    assert result["r2"].item() == pytest.approx(0.98698, abs=5e-6)
    assert result["q2"].item() == pytest.approx(-0.85, abs=5e-3)
    assert result["expected_r2"].item() == pytest.approx(0.44, abs=5e-3)
    assert result["r2_without"].sel(seed=3, other_seed=4).item() == pytest.approx(0.03, abs=5e-3)
    assert result["without_two"].values.tolist() == [3, 4]
    assert result["smallest_without_two"].item() == result["r2_without"].sel(seed=3, other_seed=4).item()
    assert result["p_value"].item() > 0.05


def test_the_410m_outliers_skip_state_3_and_leave_the_modal_path(maps410m: tuple[xr.DataArray, xr.DataArray]) -> None:
    states, _ = maps410m
    paths = state_paths(states).isel(model=0)
    assert paths["modal_path"].item() == "0 > 1 > 2 > 3 > 4"
    assert paths["seed"].values[~paths["on_modal_path"].values].tolist() == [3, 4]
    forks = {int(s): int(f) for s, f in zip(paths["seed"], paths["fork_step"], strict=True) if f >= 0}
    assert forks == {3: 33000, 4: 73000}
    assert state_occupancy(states)["detour"].values.tolist() == [[False, False, False, True, False]]
