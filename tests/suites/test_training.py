"""Training one run: what it starts from, what its seeds decide, and that nothing else does."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import polystab as ps
from polystab.suites import training as steps
from polystab.suites.grammar import corpus, vocabulary
from polystab.suites.models import new_model
from polystab.suites.recipes import Recipe, SuiteRun, as_run, n_parameters, suite, suites
from polystab.suites.training import Training

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

TINY = Recipe("tiny", 16, 1, 1, steps=12, batch_size=4, every=4, context=16)
WIDE = Recipe("wide", 64, 4, 4)
INTO_STREAM = ("attention.dense.weight", "mlp.dense_4h_to_h.weight")


def tiny(weight_seed: int = 0, data_seed: int = 0, **changes: Any) -> SuiteRun:
    return SuiteRun(replace(TINY, **changes), 0, weight_seed, data_seed)


def trained(run: SuiteRun, until: int | None = None) -> Training:
    training = steps.start(run)
    steps.reproducibly(lambda: list(steps.advance(training, run.recipe.steps if until is None else until)))
    return training


def weights(training: Training) -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in training.model.state_dict().items()}


@pytest.fixture(scope="module")
def wide() -> dict[str, Any]:
    return dict(steps.start(SuiteRun(WIDE, 0, 0, 0)).model.named_parameters())


# The initialisation.


@pytest.mark.parametrize("into_stream", [False, True])
def test_initial_weights_have_the_variance_that_pythia_states(wide: dict[str, Any], into_stream: bool) -> None:
    d, layers = WIDE.hidden_size, WIDE.n_layers
    variance = 4 / (layers**2 * d) if into_stream else 2 / (5 * d)
    found = [tensor for name, tensor in wide.items() if tensor.ndim == 2 and name.endswith(INTO_STREAM) == into_stream]
    assert len(found) == 2 * layers + 2 * (not into_stream)
    for tensor in found:
        # The variance of n normal numbers scatters by sqrt(2 / n) of itself.
        assert tensor.var().item() == pytest.approx(variance, rel=5 * math.sqrt(2 / tensor.numel()))
        assert abs(tensor.mean().item()) < 5 * math.sqrt(variance / tensor.numel())


def test_rotary_embeddings_turn_whole_heads() -> None:
    """Under its newer name too: of a quarter of such a narrow head, little would be left."""
    model: Any = new_model(TINY, 0)
    assert 2 * len(model.gpt_neox.rotary_emb.inv_freq) == TINY.hidden_size // TINY.n_heads


def test_biases_start_at_0_and_gains_at_1(wide: dict[str, Any]) -> None:
    vectors = {name: tensor for name, tensor in wide.items() if tensor.ndim == 1}
    assert len(vectors) == 8 * WIDE.n_layers + 2
    for name, tensor in vectors.items():
        assert (tensor == (0.0 if name.endswith("bias") else 1.0)).all(), name


@pytest.mark.slow
@given(st.integers(1, 4), st.integers(1, 3), st.sampled_from([4, 8, 12]))
def test_the_number_of_parameters_is_that_of_the_model(layers: int, heads: int, width: int) -> None:
    recipe = replace(TINY, hidden_size=heads * width, n_heads=heads, n_layers=layers)
    model = steps.start(SuiteRun(recipe, 0, 0, 0)).model
    assert n_parameters(recipe) == sum(parameter.numel() for parameter in model.parameters())


def test_names_of_the_nano_models_say_their_number_of_parameters() -> None:
    for run in suite("nano").runs:
        assert run.recipe.model == f"nano-{n_parameters(run.recipe) / 1000:.0f}k"


def test_input_and_output_embeddings_are_not_tied(wide: dict[str, Any]) -> None:
    large = [tensor for tensor in wide.values() if tensor.shape[0] == len(vocabulary())]
    assert len(large) == 2
    assert not torch.equal(large[0], large[1])


# The seeds.


def test_the_same_weight_seed_gives_the_same_first_weights_whatever_the_data_seed() -> None:
    assert weights(steps.start(tiny(3, 0))) == weights(steps.start(tiny(3, 1)))


def test_another_weight_seed_gives_other_first_weights() -> None:
    one, two = (dict(steps.start(tiny(seed)).model.named_parameters()) for seed in (0, 1))
    matrices = [name for name, tensor in one.items() if tensor.ndim == 2]
    assert not any(torch.equal(one[name], two[name]) for name in matrices)


def test_another_data_seed_gives_other_batches() -> None:
    """The first loss of the same weights depends on nothing but the batch."""
    assert trained(tiny(0, 0), 1).log.loss != trained(tiny(0, 1), 1).log.loss


@pytest.mark.slow
def test_the_same_data_seed_gives_the_same_batches_whatever_the_weight_seed() -> None:
    """At a learning rate of 0 each loss is that of the first weights on one batch, which we know."""
    training = trained(tiny(5, 2, learning_rate=0.0, weight_decay=0.0))
    documents = corpus(TINY.steps * TINY.batch_size, TINY.context, rng=TINY.corpus_seed)
    order = np.random.default_rng(2).permutation(len(documents))
    for step, loss in enumerate(training.log.loss):
        words = torch.from_numpy(documents[order[4 * step : 4 * step + 4]].astype(np.int64))
        with torch.no_grad():
            logits = training.model(input_ids=words).logits[:, :-1]
        wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), words[:, 1:].flatten())
        assert loss == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.slow
def test_the_same_seeds_give_the_same_bytes() -> None:
    one, two = trained(tiny(1, 2)), trained(tiny(1, 2))
    assert weights(one) == weights(two)
    assert one.log == two.log


def test_training_draws_nothing_from_global_generators() -> None:
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    trained(tiny())
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    np.testing.assert_array_equal(np.random.get_state()[1], before[2])  # noqa: NPY002


@pytest.mark.slow
def test_global_generators_do_not_matter() -> None:
    one = trained(tiny())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(12345)
        assert weights(trained(tiny())) == weights(one)


@pytest.fixture
def _settings_of_torch() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_settings_of_torch")
@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("only_warned", [False, True])
def test_settings_of_torch_are_put_back_even_after_an_error(deterministic: bool, only_warned: bool) -> None:
    environment = dict(os.environ)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(deterministic, warn_only=only_warned)

    def fail() -> None:
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        steps.reproducibly(fail)
    assert dict(os.environ) == environment
    assert torch.get_num_threads() == 2
    assert torch.are_deterministic_algorithms_enabled() == deterministic
    assert torch.is_deterministic_algorithms_warn_only_enabled() == only_warned


# Interruption.


@pytest.mark.slow
@pytest.mark.parametrize("stop", [0, 1, 7, 11])
def test_a_resumed_run_gives_the_same_bytes_as_one_that_was_not_interrupted(stop: int, tmp_path: Path) -> None:
    whole = trained(tiny(1, 2))
    steps.save_state(trained(tiny(1, 2), stop), tmp_path / "state.pt")
    resumed = steps.resume(tiny(1, 2), tmp_path / "state.pt")
    assert resumed.step == stop
    steps.reproducibly(lambda: list(steps.advance(resumed, TINY.steps)))
    assert weights(resumed) == weights(whole)
    assert resumed.log == whole.log


def test_leftovers_of_a_killed_process_are_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in ("state.pt", ".state.pt.abc123.part", ".other.pt.abc123.part"):
        (tmp_path / name).write_bytes(b"")
    steps.remove_leftovers(tmp_path / "state.pt")
    assert {path.name for path in tmp_path.iterdir()} == {"state.pt", ".other.pt.abc123.part"}


def test_without_a_state_a_run_starts_anew(tmp_path: Path) -> None:
    training = steps.resume(tiny(1), tmp_path / "state.pt")
    assert training.step == 0
    assert weights(training) == weights(steps.start(tiny(1)))


@pytest.mark.slow
def test_advance_says_each_step_and_stops_where_it_is_told() -> None:
    training = steps.start(tiny())
    assert list(steps.advance(training, 5)) == [1, 2, 3, 4, 5]
    assert list(steps.advance(training, 5)) == []


# The recipe.


@pytest.mark.slow
@given(st.integers(1, 3000), st.floats(0, 0.5), st.floats(0, 1))
def test_the_learning_rate_rises_to_its_peak_and_falls_to_its_end(steps: int, warmup: float, final: float) -> None:
    recipe = replace(TINY, steps=steps, warmup=warmup, final_rate=final, learning_rate=0.5)
    warm = round(warmup * steps)
    rates = [recipe.rate(step) for step in range(steps + 1)]
    assert all(a < b for a, b in pairwise(rates[:warm]))
    assert rates[warm] == pytest.approx(0.5)
    if warm:
        assert rates[0] == pytest.approx(0.5 / warm)
        assert rates[warm - 1] == pytest.approx(0.5)
    assert all(a >= b for a, b in pairwise(rates[warm:]))
    assert rates[-1] == pytest.approx(0.5 * final)


def test_the_rate_of_each_update_is_the_one_in_the_log(tmp_path: Path) -> None:
    training = trained(tiny(warmup=0.3))
    steps.write_log(training, tmp_path / "log.csv")
    rates = np.loadtxt(tmp_path / "log.csv", delimiter=",", skiprows=1)[:, 3]
    np.testing.assert_allclose(rates, [training.run.recipe.rate(step) for step in range(12)], rtol=1e-8)
    assert training.optimizer.param_groups[0]["lr"] == training.run.recipe.rate(11)


def test_biases_and_norms_do_not_decay() -> None:
    decays = {
        parameter.ndim: group["weight_decay"]
        for group in steps.start(tiny()).optimizer.param_groups
        for parameter in group["params"]
    }
    assert decays == {1: 0.0, 2: TINY.weight_decay}


def test_checkpoints_are_pythias_grid_of_a_long_run() -> None:
    early = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
    assert replace(TINY, steps=3000, every=1000).checkpoints() == (*early, 1000, 2000, 3000)


@pytest.mark.slow
@given(st.integers(1, 2000), st.integers(1, 500))
def test_checkpoints_rise_from_0_to_the_last_step(steps: int, every: int) -> None:
    grid = replace(TINY, steps=steps, every=every).checkpoints()
    assert grid[0] == 0
    assert grid[-1] == steps
    assert list(grid) == sorted(set(grid))
    assert set(range(0, steps, every)) <= set(grid)


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("name", suites())
def test_runs_of_a_suite_are_unique_and_its_table_says_so(name: str, quick: bool) -> None:
    chosen = suite(name, quick=quick)
    assert len({(run.recipe.model, run.seed) for run in chosen.runs}) == len(chosen.runs)
    assert len({(run.recipe, run.weight_seed, run.data_seed) for run in chosen.runs}) == len(chosen.runs)
    assert len(chosen.table("x/{model}/seed{seed}/step{step}").runs) == len(chosen.runs)


def test_the_factorial_crosses_initialisations_with_data_orders() -> None:
    pairs = {(run.weight_seed, run.data_seed) for run in suite("nano-factorial").runs}
    assert pairs == {(w, d) for w in range(5) for d in range(5)}


def test_nano_varies_both_seeds_together() -> None:
    assert all(run.weight_seed == run.data_seed == run.seed for run in suite("nano").runs)


def test_an_unknown_suite_gets_a_suggestion() -> None:
    with pytest.raises(ps.PolystabError, match="nano-factorial"):
        suite("nano-factorail")


def test_a_row_of_the_run_table_knows_both_seeds_and_the_tokens() -> None:
    row = as_run(tiny(3, 4))
    assert (row.weight_seed, row.data_seed) == (3, 4)
    assert row.facts["tokens_per_step"] == 4 * 16
    assert row.steps == (0, 1, 2, 4, 8, 12)


# Divergence.


def test_an_absurd_learning_rate_ends_a_run_early() -> None:
    training = trained(tiny(learning_rate=1e30, warmup=0.0))
    assert training.diverged
    assert training.step < TINY.steps
    assert all(math.isfinite(loss) for loss in training.log.loss[:-1])


@pytest.mark.slow
def test_a_poisoned_weight_ends_a_run_at_its_next_update() -> None:
    training = trained(tiny(), 4)
    with torch.no_grad():
        next(training.model.parameters()).fill_(math.nan)
    assert list(steps.advance(training, TINY.steps)) == [5]
    assert training.diverged


def test_a_run_that_diverged_makes_no_more_updates() -> None:
    training = trained(tiny(learning_rate=1e30, warmup=0.0))
    assert list(steps.advance(training, 10**6)) == []


def test_a_run_before_its_first_update_has_not_diverged() -> None:
    assert not steps.start(tiny()).diverged


# What is measured and logged.


@pytest.mark.slow
def test_the_first_validation_loss_is_near_that_of_guessing() -> None:
    """Logits start with variance d 2 / (5 d), half of which comes on top of the loss of equal ones."""
    found = [steps.validation_loss(steps.start(tiny(seed))) for seed in range(10)]
    assert np.mean(found) == pytest.approx(math.log(len(vocabulary())) + 0.2, abs=0.1)


@pytest.mark.slow
def test_measuring_the_validation_loss_changes_nothing() -> None:
    measured, plain = trained(tiny(), 4), trained(tiny(), 4)
    one, two = steps.validation_loss(measured), steps.validation_loss(measured)
    assert one == two
    assert measured.model.training == plain.model.training
    assert all(parameter.grad is None for parameter in measured.model.parameters())
    for training in (measured, plain):
        steps.reproducibly(lambda training=training: list(steps.advance(training, TINY.steps)))
    assert weights(measured) == weights(plain)


@pytest.mark.slow
def test_training_lowers_the_validation_loss() -> None:
    training = steps.start(tiny())
    before = steps.validation_loss(training)
    list(steps.advance(training, TINY.steps))
    assert steps.validation_loss(training) < before - 0.1


@pytest.mark.slow
def test_no_run_trains_on_the_validation_documents() -> None:
    seeds = {run.recipe.corpus_seed for name in suites() for run in suite(name).runs}
    assert steps.VALIDATION_SEED not in seeds
    seen = {row.tobytes() for row in corpus(2000, 64, rng=1)}
    assert not seen & {row.tobytes() for row in corpus(steps.VALIDATION_DOCUMENTS, 64, rng=steps.VALIDATION_SEED)}


def test_losses_at_a_checkpoint_are_means_since_the_one_before() -> None:
    training = trained(tiny(), 8)
    found = steps.measure_losses(training, 4).values
    assert found["loss/train/cross_entropy"] == pytest.approx(np.mean(training.log.loss[4:8]))
    assert found["gradient/all/norm"] == pytest.approx(np.mean(training.log.grad_norm[4:8]))
    assert found["loss/validation/cross_entropy"] == steps.validation_loss(training)


def test_before_the_first_update_there_is_only_the_validation_loss() -> None:
    assert list(steps.measure_losses(steps.start(tiny()), 0).values) == ["loss/validation/cross_entropy"]


def test_the_logged_gradient_norm_is_the_one_before_clipping() -> None:
    free, clipped = trained(tiny(clip=0.0), 1), trained(tiny(clip=1e-3), 1)
    assert free.log.grad_norm == clipped.log.grad_norm
    assert free.log.grad_norm[0] > 1e-3


def test_polystab_reads_the_log(tmp_path: Path) -> None:
    training = trained(tiny())
    steps.write_log(training, tmp_path / "seed0.csv")
    cube = ps.read_training_log(tmp_path / "seed0.csv", columns={"seed": "=0"}, model="tiny").to_dataset()
    assert cube["step"].values.tolist() == list(range(1, 13))
    loss = cube["value"].sel(metric="loss/train/cross_entropy").values.squeeze()
    np.testing.assert_array_equal(loss.astype(np.float32), np.float32(training.log.loss))


def test_a_log_gives_losses_back_to_the_last_bit(tmp_path: Path) -> None:
    training = trained(tiny())
    steps.write_log(training, tmp_path / "log.csv")
    rows = np.loadtxt(tmp_path / "log.csv", delimiter=",", skiprows=1)
    assert rows[:, 0].tolist() == list(range(1, 13))
    np.testing.assert_array_equal(rows[:, 1].astype(np.float32), np.float32(training.log.loss))
    np.testing.assert_array_equal(rows[:, 2].astype(np.float32), np.float32(training.log.grad_norm))
