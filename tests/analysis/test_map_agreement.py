"""Agreement of maps: scikit-learn as oracle, and algebra."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from polystab.analysis.maps.agreement import map_agreement, normalised_information, run_agreement
from polystab.analysis.partitions import rand_of_counts
from polystab.errors import AnalysisError


def table(values: np.ndarray) -> xr.DataArray:
    n_seed, n_step = values.shape
    return xr.DataArray(values, dims=("seed", "step"), coords={"seed": np.arange(n_seed), "step": np.arange(n_step)})


def counts(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    result = np.zeros((a.max() + 1, b.max() + 1), dtype=np.int64)
    np.add.at(result, (a, b), 1)
    return result


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("k", "l"), [(1, 1), (1, 3), (3, 3), (5, 2), (30, 30)])
def test_indices_are_scikit_learns(k: int, l: int, seed: int) -> None:  # noqa: E741
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    rng = np.random.default_rng(seed)
    a, b = rng.integers(k, size=40), rng.integers(l, size=40)
    b[:20] = a[:20] % l
    assert rand_of_counts(counts(a, b)) == pytest.approx(adjusted_rand_score(a, b))
    assert normalised_information(counts(a, b)) == pytest.approx(normalized_mutual_info_score(a, b), abs=1e-12)


def test_all_apart_and_all_together_agree_with_themselves() -> None:
    assert rand_of_counts(np.eye(7, dtype=np.int64)) == 1
    assert rand_of_counts(np.array([[7]])) == 1
    assert rand_of_counts(np.array([[1]])) == 1
    assert np.isnan(rand_of_counts(np.zeros((2, 2), dtype=np.int64)))


def test_random_partitions_agree_as_by_chance() -> None:
    rng = np.random.default_rng(0)
    values = [rand_of_counts(counts(rng.integers(3, size=60), rng.integers(3, size=60))) for _ in range(400)]
    assert abs(np.mean(values)) < 3 * np.std(values) / 20


def test_renumbered_states_agree_and_are_aligned_back() -> None:
    a = np.random.default_rng(0).integers(4, size=(3, 30))
    renumber = np.array([2, 0, 3, 1])
    read = map_agreement(table(a), table(renumber[a]))
    assert read["ari"].item() == pytest.approx(1)
    assert read["nmi"].item() == pytest.approx(1)
    assert read["matched"].item() == 1
    assert read["corresponding"].values[renumber].tolist() == [0, 1, 2, 3]
    assert read["aligned"].values[0].tolist() == a.tolist()


def test_states_without_a_match_are_numbered_on() -> None:
    a = np.array([[0, 0, 0, 1, 1, 1]])
    b = np.array([[0, 0, 2, 1, 1, 1]])
    read = map_agreement(table(a), table(b))
    assert read["corresponding"].values.tolist() == [0, 1, -1]
    assert read["aligned"].values[0, 0].tolist() == [0, 0, 2, 1, 1, 1]
    assert read["matched"].item() == pytest.approx(5 / 6)


def test_only_what_both_maps_decoded_is_compared() -> None:
    a = table(np.array([[0, 0, 1, 1], [0, 1, 1, 1]]))
    b = table(np.array([[0, 0, 1, -1], [0, 0, 0, 0]])).isel(seed=[0], step=slice(1, None))
    read = map_agreement(a, b)
    assert read["n"].item() == 2
    assert read["run_n"].values.tolist() == [[2]]


def test_maps_without_common_checkpoints_are_refused() -> None:
    a = table(np.zeros((2, 3), dtype=int))
    with pytest.raises(AnalysisError, match="no checkpoint has a state in both"):
        map_agreement(a, a.assign_coords(seed=[5, 6]))


def test_agreement_does_not_depend_on_which_map_comes_first() -> None:
    rng = np.random.default_rng(1)
    a, b = table(rng.integers(3, size=(4, 20))), table(rng.integers(4, size=(4, 20)))
    one, other = map_agreement(a, b), map_agreement(b, a)
    for name in ("ari", "nmi", "matched"):
        assert one[name].item() == pytest.approx(other[name].item())


def test_runs_are_compared_pair_by_pair() -> None:
    from sklearn.metrics import adjusted_rand_score

    values = np.random.default_rng(2).integers(3, size=(5, 25))
    read = run_agreement(table(values))
    for i, j in np.ndindex(5, 5):
        assert read["ari"].values[i, j] == pytest.approx(adjusted_rand_score(values[i], values[j]))
        assert read["same"].values[i, j] == pytest.approx(np.mean(values[i] == values[j]))


def test_runs_of_several_models_are_labelled_and_gaps_left_out() -> None:
    states = xr.DataArray(
        np.array([[[0, 1, 1, -1], [-1, -1, -1, -1]], [[0, 1, -1, 2], [0, 0, 0, 0]]]),
        dims=("model", "seed", "step"),
        coords={"model": ["a", "b"], "seed": [0, 1], "step": [0, 1, 2, 4]},
    )
    read = run_agreement(states)
    assert list(zip(read["model"].values.tolist(), read["seed"].values.tolist(), strict=True)) == [
        ("a", 0),
        ("b", 0),
        ("b", 1),
    ]
    assert read["n"].values.tolist() == [[3, 2, 3], [2, 3, 3], [3, 3, 4]]
    assert read["same"].values[0, 1] == 1
