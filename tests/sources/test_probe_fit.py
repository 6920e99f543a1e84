"""The variational probe: against autograd, closed forms, and problems whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from polystab.sources.probes.fit import Fitted, Training, fit_probes, normal_kl, scale_kl  # noqa: E402

QUICK = Training(learning_rate=0.05, batch_size=64, epochs=6, patience=1)
LONG = Training(learning_rate=0.05, batch_size=128, epochs=40)


def problem(n: int = 320, m: int = 96, d: int = 6, layers: int = 2, seed: int = 0) -> dict[str, Any]:
    """Two tasks (three classes, two classes with gaps) that a linear map mostly solves."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(layers, n + m, d)).astype(np.float32)
    three = (x[0] @ rng.normal(size=(d, 3)) + rng.normal(size=(n + m, 3))).argmax(1)
    two = (x[-1] @ rng.normal(size=d) > 0).astype(np.int64)
    two[rng.random(n + m) < 0.3] = -1
    y = np.stack([three, two])
    return {
        "train": torch.from_numpy(x[:, :n].copy()),
        "labels": y[:, :n],
        "dev": torch.from_numpy(x[:, n:].copy()),
        "dev_labels": y[:, n:],
    }


def fitted(given: dict[str, Any], training: Training = QUICK, seeds: Any = ((1,), (2,)), **changes: Any) -> Fitted:
    options = {"classes": [3, 2], "training": training, "seeds": seeds, "seed": [9]} | changes
    return fit_probes(**given, **options)


def one(x: Any, y: Any, classes: int, training: Training = LONG) -> Fitted:
    """A probe of one layer and task; a quarter of the rows is for development."""
    tensor = torch.from_numpy(np.asarray(x, np.float32))[None]
    cut = 3 * len(y) // 4
    return fit_probes(
        tensor[:, :cut],
        y[None, :cut],
        tensor[:, cut:],
        y[None, cut:],
        classes=[classes],
        training=training,
        seeds=[[0]],
        seed=[0],
    )


@pytest.mark.slow
@pytest.mark.parametrize("decay", [False, True])
def test_codelengths_are_those_of_autograd_and_the_optimiser_of_torch(decay: bool) -> None:
    from bench_probes import fit_with_autograd

    given, training = problem(), replace(QUICK, decay=decay)
    ours = fitted(given, training).codelength
    theirs = [
        [
            fit_with_autograd(
                given["train"][layer],
                given["labels"][t],
                given["dev"][layer],
                given["dev_labels"][t],
                classes=n,
                training=training,
                seed=[t + 1],
                shared=[9],
            )
            for t, n in enumerate((3, 2))
        ]
        for layer in range(2)
    ]
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


@pytest.mark.slow
def test_a_probe_comes_out_the_same_whatever_is_trained_beside_it() -> None:
    given = problem()
    together = fitted(given)
    for layer in range(2):
        for t, n in enumerate((3, 2)):
            part = {
                "train": given["train"][layer : layer + 1],
                "labels": given["labels"][t : t + 1],
                "dev": given["dev"][layer : layer + 1],
                "dev_labels": given["dev_labels"][t : t + 1],
            }
            alone = fitted(part, classes=[n], seeds=[[t + 1]])
            np.testing.assert_allclose(alone.codelength[0, 0], together.codelength[layer, t], rtol=1e-4)


@pytest.mark.slow
def test_the_same_seeds_give_the_same_bytes() -> None:
    first, second = fitted(problem()), fitted(problem())
    assert first.codelength.tobytes() == second.codelength.tobytes()
    assert first.weights.tobytes() == second.weights.tobytes()


@pytest.mark.slow
def test_other_seeds_give_other_probes() -> None:
    assert not np.array_equal(fitted(problem()).kl, fitted(problem(), seeds=((3,), (4,))).kl)


@pytest.mark.slow
def test_the_global_random_state_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    fitted(problem())
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.slow
def test_layers_in_another_order_give_the_same_in_that_order() -> None:
    given = problem()
    swapped = {**given, "train": given["train"].flip(0), "dev": given["dev"].flip(0)}
    np.testing.assert_allclose(fitted(swapped).codelength, fitted(given).codelength[::-1], rtol=1e-4)


@pytest.mark.slow
def test_what_rows_without_a_label_hold_does_not_matter() -> None:
    given = problem()
    only = {**given, "labels": given["labels"][1:], "dev_labels": given["dev_labels"][1:]}
    empty = torch.from_numpy(given["labels"][1] < 0)
    changed = given["train"].clone()
    changed[:, empty] = 77.0
    one_task = {"classes": [2], "seeds": [[2]]}
    np.testing.assert_allclose(
        fitted({**only, "train": changed}, **one_task).codelength, fitted(only, **one_task).codelength, rtol=1e-5
    )


@pytest.mark.slow
def test_separable_labels_take_a_small_part_of_the_uniform_code() -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 4, 2000)
    x = rng.normal(size=(2000, 10)) * 0.1
    x[np.arange(2000), y] += 3
    found = one(x, y, 4)
    assert found.codelength[0, 0] < 0.1 * 1500 * np.log(4)


@pytest.mark.slow
def test_balanced_random_labels_do_not_compress() -> None:
    rng = np.random.default_rng(2)
    found = one(rng.normal(size=(2000, 10)), rng.integers(0, 4, 2000), 4)
    assert 0.93 < 1500 * np.log(4) / found.codelength[0, 0] <= 1.0


@pytest.mark.slow
def test_unequal_random_labels_compress_to_their_entropy() -> None:
    rng = np.random.default_rng(3)
    y = (rng.random(4000) < 0.1).astype(np.int64)
    share = y[:3000].mean()
    entropy = -3000 * (share * np.log(share) + (1 - share) * np.log(1 - share))
    assert entropy < one(rng.normal(size=(4000, 5)), y, 2).codelength[0, 0] < 1.1 * entropy


@pytest.mark.slow
def test_inputs_that_tell_nothing_are_pruned_from_the_weights() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(2000, 8))
    found = one(x, (x[:, 0] > 0).astype(np.int64), 2)
    size = np.abs(found.weights[0, 0]).max(0)
    assert size[1:].max() < 0.1 * size[0]


@pytest.mark.slow
def test_the_probe_is_left_as_it_was_at_its_best() -> None:
    given = problem(n=64, m=32)
    long = fitted(given, Training(0.1, 16, 80, 1, decay=False))
    assert (long.epochs < 78).all()  # it stopped
    for layer in range(2):
        short = fitted(given, Training(0.1, 16, int(long.epochs[layer, 0]), 1, decay=False))
        np.testing.assert_allclose(short.codelength[layer, 0], long.codelength[layer, 0], rtol=1e-5)


@pytest.mark.slow
def test_more_patience_never_takes_an_earlier_epoch() -> None:
    given = problem(n=64, m=32)
    quick, patient = (fitted(given, Training(0.1, 16, 60, p, decay=False)) for p in (0, 10))
    assert (patient.epochs >= quick.epochs).all()


@pytest.mark.slow
def test_states_too_large_to_train_on_have_no_codelength_and_spoil_no_other_layer() -> None:
    given = problem()
    large = given["train"].clone()
    large[1] *= 1e30
    found = fitted({**given, "train": large})
    assert np.isnan(found.codelength[1]).all()
    assert (found.epochs[1] == 0).all()
    np.testing.assert_allclose(found.codelength[0], fitted(given).codelength[0], rtol=1e-5)


@pytest.mark.slow
def test_classes_that_a_task_lacks_have_no_weights() -> None:
    found = fitted(problem())
    assert np.isnan(found.weights[:, 1, 2]).all()
    assert (found.bias[:, 1, 2] == -np.inf).all()
    assert np.isfinite(found.weights[:, 0]).all()


def test_the_kl_of_a_weight_is_that_of_two_normal_distributions() -> None:
    mean, log_variance = torch.tensor([0.0, 0.3, -2.0]), torch.tensor([0.0, -9.0, 1.0])
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, torch.exp(log_variance / 2)), normal(0.0, 1.0))
    np.testing.assert_allclose(normal_kl(mean, log_variance), expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("log_ratio", [-6.0, -3.0, -1.0, 0.0, 1.0, 3.0])
def test_the_kl_of_a_scale_is_the_integral_it_approximates(log_ratio: float) -> None:
    # KL = -log(a) / 2 + E log|e| + const for e ~ N(1, a), with the constant that makes it 0 as a grows.
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    drawn = np.random.default_rng(0).normal(size=2_000_000)
    a = np.exp(log_ratio)
    smooth = np.sum(weights * np.log(np.abs(1 + np.sqrt(a) * nodes))) / weights.sum()
    sampled = np.log(np.abs(1 + np.sqrt(a) * drawn)).mean()
    mean = smooth if log_ratio < -2 else sampled  # far from 0 the integrand is smooth
    exact = -log_ratio / 2 + mean + (np.euler_gamma + np.log(2)) / 2
    # Molchanov et al. report that their approximation is off by less than 0.009.
    assert abs(float(scale_kl(torch.tensor(1.0), torch.tensor(log_ratio))) - exact) < 0.009
