"""First weights made of finished ones: what is kept of them, what is lost, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats

import polystab as ps
from polystab.errors import PolystabError, ReadError, UnknownNameError
from polystab.sources.checkpoints import CheckpointError
from polystab.sources.joining import join_units
from polystab.sources.runs import Run, RunTable
from polystab.sources.weights import Weights
from polystab.sources.weights.fits import fit_all, grouped
from polystab.sources.weights.histograms import bin_edges, counts
from polystab.suites import InitError, init_from, weights_digest
from polystab.suites.initialisation import HOWS
from polystab.suites.models import new_model
from polystab.suites.recipes import Recipe

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

RECIPE = Recipe("tiny", 16, 2, 2)
OTHER = Recipe("wider", 24, 2, 2)
MATRIX = "gpt_neox.layers.1.mlp.dense_h_to_4h.weight"
GAIN = "gpt_neox.final_layer_norm.weight"


def finished(seed: int = 0) -> Any:
    """A model whose weights, gains and biases are all different, and heavier in the tails than normal."""
    model: Any = new_model(RECIPE, seed)
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.from_numpy(0.1 * rng.standard_t(4, size=tuple(parameter.shape))))
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    return finished()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: Any) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "tiny" / "step10"
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> xr.DataTree:
    """The weights of the checkpoint as measured into a cube."""
    run = Run("tiny", 0, location=str(folder.parent / "step{step}"), steps=(10,))
    output = tmp_path_factory.mktemp("filled")
    result = ps.fill(Weights(sets=("moments", "fits", "histograms")), runs=RunTable((run,)), output=output)
    assert result.failed == ()
    return join_units(output)


def one(values: Any, name: str = MATRIX) -> dict[str, Any]:
    return {name: torch.from_numpy(np.asarray(values))}


def drawn(values: Any, how: str, rng: int = 0) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = init_from(one(values), how, rng=rng)[MATRIX].numpy()
    return found


def heavy(*shape: int) -> np.ndarray[Any, Any]:
    return 0.1 * np.random.default_rng(5).standard_t(3, size=shape)


# What a permutation keeps and what it loses.


def test_a_permutation_keeps_every_element_of_every_parameter(model: Any) -> None:
    state = init_from(model, "permute", rng=0)
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name].flatten().sort().values, tensor.flatten().sort().values), name


def test_a_permutation_loses_the_singular_vectors() -> None:
    flat = np.outer(np.linspace(1, 2, 40), np.linspace(-1, 1, 30))
    s = np.linalg.svd(drawn(flat, "permute"), compute_uv=False)
    assert (s**2).sum() / s[0] ** 2 > 5


@pytest.mark.slow
def test_every_place_is_as_likely_for_an_element() -> None:
    places = [int(np.flatnonzero(drawn(np.arange(8.0), "permute", rng) == 0)[0]) for rng in range(800)]
    assert stats.chisquare(np.bincount(places, minlength=8)).pvalue > 1e-3


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float8_e4m3fn", "float64"])
def test_elements_of_other_types_are_permuted_exactly(dtype: str) -> None:
    tensor = torch.from_numpy(heavy(8, 8)).to(getattr(torch, dtype))
    found = init_from({MATRIX: tensor}, "permute", rng=0)[MATRIX]
    assert found.dtype == tensor.dtype
    assert torch.equal(
        found.to(torch.float64).flatten().sort().values, tensor.to(torch.float64).flatten().sort().values
    )


# Chance.


@pytest.mark.parametrize("how", HOWS)
def test_the_same_rng_gives_the_same_bytes(model: Any, how: str) -> None:
    assert weights_digest(init_from(model, how, rng=7)) == weights_digest(init_from(model, how, rng=7))


@pytest.mark.parametrize("how", HOWS)
def test_another_rng_gives_other_weights_in_every_parameter(model: Any, how: str) -> None:
    first, second = (init_from(model, how, rng=rng) for rng in (7, 8))
    assert not any(torch.equal(first[name], second[name]) for name in first)


def test_a_generator_moves_on() -> None:
    rng = np.random.default_rng(0)
    first, second = (init_from(one(heavy(8, 8)), rng=rng)[MATRIX] for _ in range(2))
    assert not torch.equal(first, second)


def test_a_parameter_is_drawn_alike_whatever_stands_beside_it_in_whatever_order(model: Any) -> None:
    state = model.state_dict()
    alone = init_from({MATRIX: state[MATRIX]}, rng=3)[MATRIX]
    turned = init_from(dict(reversed(state.items())), rng=3)[MATRIX]
    assert torch.equal(alone, turned)


def test_parameters_of_equal_elements_get_different_orders() -> None:
    x = torch.arange(64.0).reshape(8, 8)
    state = init_from({MATRIX: x, MATRIX.replace("layers.1", "layers.0"): x}, rng=0)
    assert not torch.equal(*state.values())


@pytest.mark.slow
def test_a_model_and_its_file_give_the_same_although_their_names_differ(model: Any, folder: Path) -> None:
    from_file, from_memory = (init_from(source, rng=0, like=model) for source in (folder, model))
    assert weights_digest(from_file) == weights_digest(from_memory)


def test_the_source_is_left_as_it_was(model: Any) -> None:
    before = weights_digest(model)
    for how in HOWS:
        init_from(model, how, rng=0)
    assert weights_digest(model) == before


# Draws.


def test_draws_from_a_histogram_fill_its_bins_by_their_counts() -> None:
    x = heavy(200, 200)
    expected, found = counts(np.sort(x, axis=None)), counts(np.sort(drawn(x, "histogram"), axis=None))
    common = expected >= 20
    table = np.stack([np.append(a[common], a[~common].sum()) for a in (expected, found)])
    assert stats.chi2_contingency(table).pvalue > 1e-3


def test_draws_from_a_histogram_agree_with_the_sample_by_an_outside_test() -> None:
    x = heavy(60, 60)
    assert stats.ks_2samp(x.ravel(), drawn(x, "histogram").ravel()).pvalue > 1e-3


def test_draws_from_a_histogram_are_new_numbers() -> None:
    x = heavy(60, 60)
    assert not np.isin(drawn(x, "histogram"), x).any()


def test_what_is_beyond_the_bins_comes_back_at_their_end() -> None:
    assert set(drawn(np.full((3, 4), 1e6), "histogram").ravel()) == {bin_edges()[-2]}


def test_vectors_are_drawn_from_their_own_elements() -> None:
    """Gains near 1 would all be in the same bins."""
    x = 1 + 0.01 * np.arange(32.0)
    found = init_from(one(x, GAIN), "histogram", rng=0)[GAIN].numpy()
    assert np.isin(found, x).all()
    assert len(np.unique(found)) < 32


def test_a_fit_has_the_tails_of_the_weights() -> None:
    fits = fit_all([grouped(np.sort(a, axis=None)) for a in (heavy(200, 200), drawn(heavy(200, 200), "fit"))], ("t",))
    # Of 40,000 elements nu is known to about 2 %.
    assert fits[1]["t_nu"] == pytest.approx(fits[0]["t_nu"], rel=0.1)
    assert fits[1]["t_scale"] == pytest.approx(fits[0]["t_scale"], rel=0.05)


def test_normal_keeps_mean_and_spread_and_no_tails() -> None:
    x = 0.3 + heavy(200, 200)
    found = drawn(x, "normal")
    assert found.mean() == pytest.approx(x.mean(), abs=5 * x.std() / 200)
    assert found.std() == pytest.approx(x.std(), rel=5 / 280)
    assert abs(stats.kurtosis(found, axis=None)) < 0.2 < stats.kurtosis(x, axis=None)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("shape", [(), (1,), (0, 4), (1, 1), (1, 5)])
def test_small_and_empty_parameters_keep_their_shape(how: str, shape: tuple[int, ...]) -> None:
    found = drawn(np.full(shape, 0.5), how)
    assert found.shape == shape
    assert np.isfinite(found).all()


@pytest.mark.parametrize("how", ["permute", "fit", "normal"])
def test_a_constant_stays_constant(how: str) -> None:
    np.testing.assert_array_equal(drawn(np.full((8, 8), 0.5), how), 0.5)


# From a cube.


@pytest.mark.slow
def test_a_cube_with_histograms_gives_the_matrices_that_its_checkpoint_gives(folder: Path, tree: xr.DataTree) -> None:
    from_cube, from_folder = (init_from(source, "histogram", like=RECIPE, rng=2) for source in (tree, folder))
    matrices = [name for name, tensor in from_folder.items() if tensor.ndim == 2]
    assert len(matrices) == 10
    assert all(torch.equal(from_cube[name], from_folder[name]) for name in matrices)


@pytest.mark.parametrize("how", ["fit", "normal"])
def test_a_cube_with_moments_and_fits_gives_what_its_checkpoint_gives(
    folder: Path, tree: xr.DataTree, how: str
) -> None:
    from_cube, from_folder = (init_from(source, how, like=RECIPE, rng=2) for source in (tree.to_dataset(), folder))
    for name, tensor in from_folder.items():
        torch.testing.assert_close(from_cube[name], tensor, rtol=1e-4, atol=1e-5)


def test_norms_and_means_are_enough_for_the_spread_of_vectors(folder: Path, tree: xr.DataTree) -> None:
    few = tree.to_dataset()
    few = few.isel(metric=np.isin(few["measure"], ["mean", "l2"]))
    from_cube, from_folder = (init_from(source, "normal", like=RECIPE, rng=2) for source in (few, folder))
    torch.testing.assert_close(from_cube[GAIN], from_folder[GAIN], rtol=1e-4, atol=1e-5)


@pytest.fixture
def several(tree: xr.DataTree) -> xr.Dataset:
    cube = tree.to_dataset()
    return xr.concat([cube, cube.assign_coords(seed=[1])], "seed", data_vars="minimal", coords="minimal")


def test_of_several_runs_the_one_that_was_asked_for_is_taken(several: xr.Dataset, tree: xr.DataTree) -> None:
    chosen, only = (init_from(several, "normal", like=RECIPE, run=("tiny", 1), rng=0),
                    init_from(tree, "normal", like=RECIPE, rng=0))  # fmt: skip
    assert weights_digest(chosen) == weights_digest(only)


def test_of_several_runs_one_has_to_be_chosen(several: xr.Dataset) -> None:
    with pytest.raises(InitError, match=r"2 runs.*\('tiny', 1\).*run="):
        init_from(several, "normal", like=RECIPE)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"how": "permute"}, "give a checkpoint"),
        ({"how": "normal", "like": None}, "like="),
        ({"how": "normal", "like": OTHER}, None),
        ({"how": "histogram", "like": OTHER}, r"embed_in \(1,920 elements, not 2,880\)"),
        ({"how": "normal", "like": Recipe("deep", 16, 3, 2)}, r"layers\.2\.input_layernorm"),
        ({"how": "normal", "run": ("tiny", 3)}, r"no weights of the run \('tiny', 3\)"),
        ({"how": "normal", "step": 3}, "at the steps 10, not at 3"),
    ],
)
def test_what_a_cube_cannot_give_is_refused(tree: xr.DataTree, asked: dict[str, Any], said: str | None) -> None:
    asked = {"like": RECIPE} | asked
    if said is None:  # it knows no sizes without histograms
        assert init_from(tree, **asked)[MATRIX].shape == (96, 24)
        return
    with pytest.raises(InitError, match=said):
        init_from(tree, **asked)


def test_a_cube_without_groups_says_that_histograms_need_one(tree: xr.DataTree) -> None:
    with pytest.raises(InitError, match="open_tree"):
        init_from(tree.to_dataset(), "histogram", like=RECIPE)


@pytest.mark.slow
def test_a_cube_without_single_parameters_names_what_it_lacks_and_the_command() -> None:
    with ps.load_cube("nano") as nano, pytest.raises(InitError, match=r"'embed_in'.*and \d+ more.*--levels parameter"):
        init_from(nano, "normal", like=RECIPE, run=("nano-33k", 5))


def test_a_cube_without_weights_says_so() -> None:
    with ps.load_cube("nano") as nano, pytest.raises(InitError, match="no measures of weights"):
        init_from(ps.select(nano, family="eval"), "normal", like=RECIPE)


# Gains and biases.


@pytest.mark.parametrize("how", HOWS)
def test_fresh_vectors_are_those_of_an_untrained_model(model: Any, how: str) -> None:
    state, untrained = init_from(model, how, vectors="fresh", rng=0), new_model(RECIPE, 0).state_dict()
    for name, tensor in untrained.items():
        assert torch.equal(state[name], tensor) == (tensor.ndim == 1), name


def test_a_vector_of_unknown_name_cannot_be_fresh() -> None:
    with pytest.raises(InitError, match=r"mixer\.scale.*vectors='final'"):
        init_from(one(np.ones(4), "mixer.scale"), vectors="fresh")


# Tied embeddings.


@pytest.fixture(scope="module")
def tied() -> Any:
    config = transformers.GPT2Config(vocab_size=12, n_embd=8, n_layer=1, n_head=1, n_positions=16)
    assert config.tie_word_embeddings
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config)


WORDS, HEAD = "transformer.wte.weight", "lm_head.weight"


def test_tied_embeddings_are_drawn_once(tied: Any) -> None:
    state = init_from(tied, rng=0)
    assert state[WORDS] is state[HEAD]


def test_a_file_that_holds_tied_embeddings_once_serves_the_model(tied: Any, tmp_path: Path) -> None:
    tied.save_pretrained(tmp_path)
    state = init_from(tmp_path, like=tied, rng=0)
    assert weights_digest(state) == weights_digest(init_from(tied, rng=0))


def test_a_model_of_shapes_alone_says_what_the_weights_are_for(tied: Any) -> None:
    with torch.device("meta"):
        shapes = transformers.GPT2LMHeadModel(tied.config)
    assert weights_digest(init_from(tied, like=shapes, rng=0)) == weights_digest(init_from(tied, rng=0))


def test_equal_embeddings_in_two_tensors_are_tied_without_a_model_to_ask() -> None:
    x = torch.from_numpy(heavy(12, 8))
    state = init_from({WORDS: x, HEAD: x.clone()}, rng=0)
    assert torch.equal(state[WORDS], state[HEAD])


def test_different_embeddings_do_not_fit_a_model_that_ties_them(tied: Any) -> None:
    apart = {name: tensor + (name == HEAD) for name, tensor in tied.state_dict().items()}
    with pytest.raises(InitError, match=r"ties.*(lm_head|wte)"):
        init_from(apart, like=tied)


# What does not fit.


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (lambda m: {n: t for n, t in m.state_dict().items() if n != MATRIX}, f"lacks '{MATRIX}'"),
        (lambda m: {**m.state_dict(), "mixer.scale": torch.ones(3)}, r"has besides 'mixer\.scale'"),
        (lambda m: {**m.state_dict(), MATRIX: m.state_dict()[MATRIX].T}, r"shape '.*\(16 x 64, not 64 x 16\)'"),
        (lambda m: {**m.state_dict(), GAIN: torch.full((16,), torch.nan)}, f"'{GAIN}' hold NaN"),
        (lambda m: {**m.state_dict(), GAIN: torch.ones(16, dtype=torch.int8)}, f"'{GAIN}' are no floating"),
        (lambda m: {}, "lacks"),
        (lambda m: {"a": 3.0}, "'a' hold something else"),
        (lambda m: 3, "from int"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(model: Any, source: Callable[[Any], Any], said: str) -> None:
    with pytest.raises(InitError, match=said):
        init_from(source(model), like=model)


@pytest.mark.parametrize("asked", [{"how": "permutate"}, {"vectors": "fresch"}])
def test_a_misspelt_way_gets_a_suggestion(model: Any, asked: dict[str, str]) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean"):
        init_from(model, **asked)


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no weights"):
        init_from(tmp_path)


def test_run_and_step_are_for_cubes(model: Any) -> None:
    with pytest.raises(InitError, match="choose from a cube"):
        init_from(model, step=3)


def test_no_parameters_are_refused() -> None:
    with pytest.raises(InitError, match="no parameters"):
        init_from({})


def test_its_error_is_one_of_reading() -> None:
    assert issubclass(InitError, ReadError)
    assert issubclass(InitError, PolystabError)


def test_masks_and_tables_of_the_model_come_back_as_they_are(model: Any) -> None:
    mask = torch.ones(4, dtype=torch.bool)
    like = {**model.state_dict(), "gpt_neox.layers.0.attention.bias": mask}
    assert init_from(model, like=like, rng=0)["gpt_neox.layers.0.attention.bias"] is mask


def test_the_digest_is_of_the_weights_and_not_of_the_file(model: Any, folder: Path, tmp_path: Path) -> None:
    torch.save(dict(_file_names(folder)), tmp_path / "pytorch_model.bin")
    assert weights_digest(tmp_path) == weights_digest(folder)
    assert weights_digest(folder) != weights_digest(init_from(folder, rng=0))


def _file_names(folder: Path) -> Any:
    from polystab.sources.tensor_files import read_tensors, weight_files

    return read_tensors(weight_files(folder))
