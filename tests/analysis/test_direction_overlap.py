"""Overlap of directions, similarity of embeddings and persistence of outliers, on groups made by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import xarray as xr

from polystab.analysis.representations.dimensions import outlier_persistence
from polystab.analysis.representations.directions import direction_overlap
from polystab.analysis.representations.embedding import embedding_matrix, embedding_similarity
from polystab.errors import AnalysisError

RUN = ("model", "seed", "step")


def directions(token: Any, vocabulary: int = 100) -> xr.Dataset:
    """A group of (model, seed, step, matrix, direction, place) tokens."""
    token = np.asarray(token)
    coords = {"model": [f"m{i}" for i in range(token.shape[0])], "seed": np.arange(token.shape[1])}
    return xr.Dataset(
        {
            "token": ((*RUN, "matrix", "direction", "place"), token),
            "vocabulary": (RUN, np.full(token.shape[:3], vocabulary)),
        },
        coords=coords
        | {"step": 10 * np.arange(token.shape[2]), "matrix": [f"layers.{i}.x" for i in range(token.shape[3])]},
    )


def random_tokens(shape: tuple[int, ...], k: int, vocabulary: int, rng: int = 0) -> np.ndarray[Any, Any]:
    """Top tokens of directions that mean nothing: k of the vocabulary, none twice."""
    return np.argsort(np.random.default_rng(rng).random((*shape, vocabulary)), axis=-1)[..., :k]


def embedding(pairs: Any) -> xr.Dataset:
    pairs = np.asarray(pairs, dtype=np.float32)
    n = 2
    while n * (n - 1) // 2 < pairs.shape[-1]:
        n += 1
    second, first = np.tril_indices(n, -1)
    return xr.Dataset(
        {"correlation": ((*RUN, "pair"), pairs)},
        coords={"model": ["m"], "seed": np.arange(pairs.shape[1]), "step": 10 * np.arange(pairs.shape[2])}
        | {"pair": np.arange(pairs.shape[-1]), "first_token": ("pair", first), "second_token": ("pair", second)},
    )


def outliers(dimension: Any, ratio: Any) -> xr.Dataset:
    """A group of one run and site: (step, rank)."""
    dims = (*RUN, "site", "rank")
    arrays = [np.asarray(x)[None, None, :, None, :] for x in (dimension, ratio)]
    return xr.Dataset(
        {"dimension": (dims, arrays[0]), "ratio": (dims, arrays[1])},
        coords={"model": ["m"], "seed": [0], "step": 10 * np.arange(arrays[0].shape[2]), "site": ["embed_in"]},
    )


class TestDirectionOverlap:
    def test_with_itself_is_whole(self) -> None:
        found = direction_overlap(directions(random_tokens((1, 2, 3, 2, 4), 5, 100)))
        last = found.isel(step=-1)
        assert (last[["exact", "shared", "best"]].to_array() == 1).all()

    def test_other_order_is_shared_but_not_exact(self) -> None:
        token = np.array([[1, 2, 3], [2, 3, 1]]).reshape(1, 1, 2, 1, 1, 3)
        found = direction_overlap(directions(token)).isel(step=0)
        assert (found["exact"].item(), found["shared"].item()) == (0.0, 1.0)

    def test_directions_that_changed_places_are_found_by_the_best_match_only(self) -> None:
        token = np.array([[[1, 2], [3, 4]], [[3, 4], [1, 2]]]).reshape(1, 1, 2, 1, 2, 2)
        found = direction_overlap(directions(token)).isel(step=0)
        assert (found["shared"].item(), found["best"].item()) == (0.0, 1.0)

    def test_is_counted_as_sets_by_hand(self) -> None:
        token = random_tokens((1, 1, 2, 1, 6), 8, 20)
        found = direction_overlap(directions(token, 20)).isel(step=0)
        one, other = ([set(row) for row in token[0, 0, k, 0].tolist()] for k in (0, 1))
        common = np.array([[len(a & b) for b in other] for a in one]) / 8
        assert found["shared"].item() == pytest.approx(np.diag(common).mean())
        assert found["best"].item() == pytest.approx((common.max(0).mean() + common.max(1).mean()) / 2)
        assert found["exact"].item() == pytest.approx((token[0, 0, 0] == token[0, 0, 1]).mean())

    def test_of_random_tokens_is_what_chance_says(self) -> None:
        found = direction_overlap(directions(random_tokens((1, 2, 1, 400, 8), 6, 40), 40), against="seeds")
        for name in ("exact", "shared", "best"):
            values = found[name].isel(seed=0)
            error = float(values.std()) / math.sqrt(values.size)
            assert float(values.mean()) == pytest.approx(found[f"chance_{name}"].item(), abs=4 * error), name

    def test_against_seeds_is_the_mean_over_the_others(self) -> None:
        token = random_tokens((1, 3, 1, 1, 4), 5, 12)
        found = direction_overlap(directions(token), against="seeds")
        pairs = {
            (a, b): direction_overlap(directions(token[:, [a, b]]), against="seeds")["shared"].isel(seed=0).item()
            for a, b in [(0, 1), (0, 2), (1, 2)]
        }
        assert found["shared"].isel(seed=0).item() == pytest.approx((pairs[0, 1] + pairs[0, 2]) / 2)
        assert found["n_compared"].values.tolist() == [[[2], [2], [2]]]

    def test_seeds_in_another_order_have_the_same(self) -> None:
        group = directions(random_tokens((1, 4, 2, 2, 4), 5, 12))
        one = direction_overlap(group, against="seeds")
        other = direction_overlap(group.isel(seed=[2, 0, 3, 1]), against="seeds").sortby("seed")
        xr.testing.assert_allclose(one, other)

    def test_a_single_seed_has_none_against_seeds(self) -> None:
        found = direction_overlap(directions(random_tokens((1, 1, 2, 1, 4), 5, 12)), against="seeds")
        assert found["shared"].isnull().all()
        assert (found["n_compared"] == 0).all()

    def test_against_a_step_compares_with_that_of_the_run(self) -> None:
        group = directions(random_tokens((1, 1, 3, 1, 4), 5, 12))
        found = direction_overlap(group, against=10)
        assert found["exact"].sel(step=10).item() == 1
        assert (
            found["shared"].sel(step=0).item()
            == direction_overlap(group.isel(step=[0, 1]))["shared"].sel(step=0).item()
        )

    def test_unmeasured_checkpoints_are_left_out_and_the_last_measured_is_last(self) -> None:
        token = random_tokens((1, 1, 3, 1, 4), 5, 12)
        token[0, 0, 2] = -1
        found = direction_overlap(directions(token))
        assert found["exact"].values.ravel()[1] == 1
        assert math.isnan(found["exact"].values.ravel()[2])

    def test_directions_that_are_not_there_do_not_count(self) -> None:
        token = random_tokens((1, 1, 2, 1, 4), 5, 12)
        lesser = token.copy()
        lesser[..., 2:, :] = -1
        one, other = (direction_overlap(directions(t)).isel(step=0) for t in (token[..., :2, :], lesser))
        for name in ("exact", "shared", "best", "chance_best"):
            assert one[name].item() == pytest.approx(other[name].item()), name

    def test_copies_of_runs_are_left_out(self) -> None:
        rng = np.random.default_rng(0)
        value = rng.normal(size=(1, 3, 8, 1))
        value[0, 1] = value[0, 0]
        from polystab.testing import synthetic_cube

        cube = synthetic_cube(rng=0).isel(model=[0], seed=[0, 1, 2], step=slice(0, 8), metric=[0]).copy(deep=True)
        cube["value"].values[...] = value
        group = directions(random_tokens((1, 3, 8, 1, 2), 3, 12)).assign_coords({d: cube[d].values for d in RUN})
        tree = xr.DataTree.from_dict({"/": cube, "/directions": group})
        found = direction_overlap(tree, against="seeds")
        assert found["n_compared"].isel(step=0).values.tolist() == [[1, 0, 1]]

    def test_input_is_not_changed(self) -> None:
        group = directions(random_tokens((1, 2, 2, 1, 4), 5, 12))
        before = group.copy(deep=True)
        direction_overlap(group, against="seeds")
        xr.testing.assert_identical(group, before)

    def test_a_selected_model_and_seed_will_do(self) -> None:
        group = directions(random_tokens((2, 2, 2, 1, 4), 5, 12))
        found = direction_overlap(group.sel(model="m1", seed=1))
        np.testing.assert_array_equal(found["exact"].values[0, 0], direction_overlap(group)["exact"].values[1, 1])

    def test_integers_decoded_as_numbers_with_nan_will_do(self) -> None:
        group = directions(random_tokens((1, 1, 2, 1, 4), 5, 12))
        decoded = group.assign(token=group["token"].astype(float))
        xr.testing.assert_identical(direction_overlap(group), direction_overlap(decoded))

    @pytest.mark.parametrize("against", ["first", 5, True, 2.5])
    def test_a_comparison_that_there_is_not_is_refused(self, against: Any) -> None:
        with pytest.raises(AnalysisError, match="give 'last', 'seeds', or a step"):
            direction_overlap(directions(random_tokens((1, 1, 2, 1, 4), 5, 12)), against=against)

    def test_a_tree_without_the_group_is_refused(self) -> None:
        with pytest.raises(AnalysisError, match="no group 'directions'"):
            direction_overlap(xr.DataTree.from_dict({"/": xr.Dataset({"value": 1})}))

    def test_steps_out_of_order_are_refused(self) -> None:
        with pytest.raises(AnalysisError, match="do not increase"):
            direction_overlap(directions(random_tokens((1, 1, 2, 1, 4), 5, 12)).isel(step=[1, 0]))


class TestEmbeddingSimilarity:
    def test_is_the_correlation_of_numpy(self) -> None:
        pairs = np.random.default_rng(0).normal(size=(1, 1, 2, 10)).astype(np.float32)
        found = embedding_similarity(embedding(pairs))["similarity"].values.ravel()
        assert found == pytest.approx([np.corrcoef(pairs[0, 0].astype(float))[0, 1], 1])

    def test_of_noise_against_seeds_is_near_zero(self) -> None:
        found = embedding_similarity(embedding(np.random.default_rng(0).normal(size=(1, 12, 1, 2016))), against="seeds")
        # 66 pairs of seeds, each with a standard error of 1/sqrt(2016).
        assert float(found["similarity"].mean()) == pytest.approx(0, abs=4 / math.sqrt(66 * 2016))

    def test_does_not_depend_on_scale_and_offset(self) -> None:
        pairs = np.random.default_rng(0).normal(size=(1, 1, 2, 10)).astype(np.float32)
        moved = pairs.copy()
        moved[0, 0, 0] = 0.25 * pairs[0, 0, 0] + 0.5
        one, other = (embedding_similarity(embedding(x))["similarity"].values for x in (pairs, moved))
        np.testing.assert_allclose(one, other, rtol=1e-5)

    def test_pairs_that_only_one_has_are_left_out(self) -> None:
        pairs = np.random.default_rng(0).normal(size=(1, 1, 2, 10))
        lesser = pairs.copy()
        lesser[0, 0, 0, 6:] = np.nan
        found = embedding_similarity(embedding(lesser))["similarity"].values.ravel()[0]
        assert found == pytest.approx(embedding_similarity(embedding(pairs[..., :6]))["similarity"].values.ravel()[0])

    def test_of_constant_correlations_is_not_known(self) -> None:
        found = embedding_similarity(embedding(np.ones((1, 1, 2, 10))))
        assert found["similarity"].isnull().all()

    def test_matrix_is_symmetric_with_ones(self) -> None:
        pairs = np.arange(6, dtype=float).reshape(1, 1, 1, 6) / 8
        square = embedding_matrix(embedding(pairs)).values[0, 0, 0]
        expected = [[1, 0, 0.125, 0.375], [0, 1, 0.25, 0.5], [0.125, 0.25, 1, 0.625], [0.375, 0.5, 0.625, 1]]
        np.testing.assert_array_equal(square, expected)

    def test_matrix_of_a_checkpoint_without_correlations_is_empty(self) -> None:
        assert np.isnan(embedding_matrix(embedding(np.full((1, 1, 1, 6), np.nan))).values).all()


class TestOutlierPersistence:
    def test_the_same_outliers_persist_wholly(self) -> None:
        found = outlier_persistence(outliers([[3, 1], [1, 3], [3, 1]], [[9, 8], [9, 8], [9, 8]]))
        assert found["persistence"].item() == 1
        assert found["largest_persistence"].item() == 0
        assert found["first_step"].item() == 0

    def test_other_outliers_do_not(self) -> None:
        found = outlier_persistence(outliers([[3, 1], [5, 6]], [[9, 8], [9, 8]]))
        assert found["overlap"].values.ravel()[1] == 0
        assert found["first_step"].item() == 10

    def test_first_step_is_that_from_which_all_of_the_last_stand_out(self) -> None:
        found = outlier_persistence(outliers([[3, 1], [3, 1], [3, 1], [3, 1]], [[9, 8], [9, 1], [9, 7], [9, 8]]))
        assert found["first_step"].item() == 20

    def test_without_outliers_nothing_can_be_said_but_of_the_largest(self) -> None:
        found = outlier_persistence(outliers([[3, 1], [3, 1]], [[2, 1], [2, 1]]))
        assert found["persistence"].isnull().all()
        assert found["first_step"].isnull().all()
        assert found["largest_persistence"].item() == 1
        assert found["count"].values.ravel().tolist() == [0, 0]

    def test_unmeasured_steps_are_passed_over(self) -> None:
        found = outlier_persistence(outliers([[3, 1], [-1, -1], [3, 1]], [[9, 8], [np.nan, np.nan], [9, 8]]))
        assert found["overlap"].values.ravel()[2] == 1
        assert math.isnan(found["count"].values.ravel()[1])

    @pytest.mark.parametrize("factor", [1, -2.0, True, math.nan])
    def test_a_factor_that_cannot_be_is_refused(self, factor: Any) -> None:
        with pytest.raises(AnalysisError, match="above 1"):
            outlier_persistence(outliers([[3]], [[9.0]]), factor=factor)
