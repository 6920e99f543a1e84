"""Whether matrices change together: correlations of the updates of pairs of matrices."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from safetensors.torch import save_file  # noqa: E402

from polystab.sources.checkpoints import CheckpointOptions, open_checkpoint  # noqa: E402
from polystab.sources.fill import fill  # noqa: E402
from polystab.sources.joining import join_units  # noqa: E402
from polystab.sources.measuring import Measurement  # noqa: E402
from polystab.sources.runs import Run, RunTable  # noqa: E402
from polystab.sources.weights.measurer import Weights  # noqa: E402
from polystab.sources.weights.names import parameter  # noqa: E402
from polystab.sources.weights.updates import SAMPLE, Pair, Updates, component_means  # noqa: E402

CPU = CheckpointOptions(device="cpu")
DENSE = "gpt_neox.layers.{}.attention.dense.weight"
QKV = "gpt_neox.layers.{}.attention.query_key_value.weight"


def pairs_of(updates: dict[str, np.ndarray]) -> dict[tuple[str, str], Pair]:
    """Pairs of updates from zero, by the subjects of their matrices."""
    found = Updates()
    for name, update in updates.items():
        found.add(parameter(name), update, np.zeros_like(update))
    return {(pair.first.subject, pair.second.subject): pair for pair in found.pairs()}


def drawn(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_updates_that_share_a_part_correlate_by_its_share() -> None:
    a, b, shared = drawn(0, 200, 200), drawn(1, 200, 200), drawn(2, 200, 200)
    (pair,) = pairs_of({DENSE.format(0): a + shared, DENSE.format(1): b + shared}).values()
    assert pair.correlation == pytest.approx(0.5, abs=4 / 200)


def test_the_correlations_are_numpys() -> None:
    a, b = drawn(0, 30, 40), drawn(1, 30, 40) + 0.3
    (pair,) = pairs_of({DENSE.format(0): a, DENSE.format(1): b}).values()
    x, y = a.ravel().astype(float), b.ravel().astype(float)
    assert pair.correlation == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-6)
    assert pair.size_correlation == pytest.approx(np.corrcoef(abs(x), abs(y))[0, 1], rel=1e-6)


def test_elements_that_move_together_either_way_correlate_in_size_only() -> None:
    where = np.random.default_rng(3).random((200, 200)) < 0.1
    (pair,) = pairs_of({DENSE.format(i): drawn(i, 200, 200) * (0.01 + where) for i in (0, 1)}).values()
    assert abs(pair.correlation) < 0.05
    assert pair.size_correlation > 0.5


@pytest.mark.slow
def test_unrelated_large_updates_scatter_as_their_sample_does() -> None:
    found = pairs_of({DENSE.format(i): drawn(i, 700, 700) for i in range(8)})
    cosines = np.array([pair.correlation for pair in found.values()])
    assert {pair.n for pair in found.values()} == {SAMPLE}
    # The mean square of 28 values with variance 1 / SAMPLE: 1 +- 4 sqrt(2 / 28).
    assert np.mean(cosines**2) * SAMPLE == pytest.approx(1, abs=4 * math.sqrt(2 / 28))


def test_pairs_are_one_part_of_two_layers_or_two_parts_of_one_layer() -> None:
    found = pairs_of({name.format(layer): drawn(layer, 8, 8) for layer in (0, 1) for name in (DENSE, QKV)})
    dense, qkv = ([f"layers.{layer}.attention.{part}" for layer in (0, 1)] for part in ("dense", "query_key_value"))
    wanted = [dense, qkv, (dense[0], qkv[0]), (dense[1], qkv[1])]
    assert {frozenset(pair) for pair in found} == {frozenset(pair) for pair in wanted}


def test_matrices_of_other_shapes_are_in_no_pair() -> None:
    assert not pairs_of({DENSE.format(0): drawn(0, 8, 8), DENSE.format(1): drawn(0, 8, 9)})


@pytest.mark.parametrize("update", [np.zeros((8, 8), np.float32), np.full((8, 8), np.nan, np.float32)])
def test_a_matrix_that_did_not_change_or_was_not_finite_is_in_no_pair(update: np.ndarray) -> None:
    assert not pairs_of({DENSE.format(0): drawn(0, 8, 8), DENSE.format(1): update})


def test_tiny_updates_have_the_correlations_of_large_ones() -> None:
    plain = pairs_of({DENSE.format(i): drawn(i, 20, 20) for i in (0, 1)})
    tiny = pairs_of({DENSE.format(i): drawn(i, 20, 20) * np.float32(1e-30) for i in (0, 1)})
    assert [p.correlation for p in tiny.values()] == pytest.approx([p.correlation for p in plain.values()], rel=1e-5)


def test_means_are_over_the_pairs_of_layers_of_a_component() -> None:
    found = pairs_of({name.format(layer): drawn(layer, 8, 8) for layer in (0, 1, 2) for name in (DENSE, QKV)})
    dense = [pair.correlation for (a, b), pair in found.items() if a.endswith("dense") and b.endswith("dense")]
    means = component_means(list(found.values()))
    assert means["attention.dense"]["update_correlation"] == pytest.approx(np.mean(dense))
    assert len(dense) == 3


# --- in the measurer ---------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run("m", 0, location=str(tmp_path / "step{step}"), steps=(0, 1, 2))
    start = {DENSE.format(i): drawn(10 + i, 16, 16) for i in (0, 1)}
    change = {DENSE.format(0): drawn(20, 16, 16), DENSE.format(1): drawn(20, 16, 16)}
    for step, sign in ((0, 0.0), (1, 1.0), (2, 2.0)):
        folder = Path(run.place(step))
        folder.mkdir(parents=True)
        tensors = {name: torch.tensor(start[name] + np.float32(sign) * change[name]) for name in start}
        save_file(tensors, folder / "model.safetensors")
        (folder / "config.json").write_text('{"model_type": "gpt_neox"}')
    return run


def measured(run: Run, step: int, sets: str = "updates") -> Measurement:
    with open_checkpoint(run, step, options=CPU) as checkpoint:
        return Weights(sets=sets, levels=("component",)).measure(checkpoint)


def test_equal_updates_of_two_layers_have_correlation_1(run: Run) -> None:
    assert measured(run, 1).values == {
        "weight/attention.dense/update_correlation": pytest.approx(1),
        "weight/attention.dense/update_size_correlation": pytest.approx(1),
    }


def test_the_first_checkpoint_has_no_updates(run: Run) -> None:
    found = measured(run, 0)
    assert not found.values
    assert "updates" not in found.details


def test_other_sets_do_not_have_the_group(run: Run) -> None:
    assert "updates" not in measured(run, 1, "changes").details


def test_groups_join_over_steps(run: Run, tmp_path: Path) -> None:
    done = fill(Weights(sets="updates"), runs=RunTable([run]), output=tmp_path / "out", options=CPU)
    assert not done.failed
    group = join_units(tmp_path / "out")["updates"]
    pair = "layers.0.attention.dense ~ layers.1.attention.dense"
    found = group["correlation"].sel(model="m", seed=0, pair=pair)
    assert np.isnan(found.sel(step=0))
    np.testing.assert_allclose(found.sel(step=[1, 2]), 1, rtol=1e-5)
