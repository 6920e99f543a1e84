"""Weights that descend from each other, and weights that do not."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from polystab.analysis.audit.weights import lineage_findings  # noqa: E402
from polystab.errors import ReadError  # noqa: E402
from polystab.sources.lineage import weight_lineage  # noqa: E402
from polystab.sources.runs import Run, RunTable  # noqa: E402

STEPS = (0, 1, 1000, 2000, 3000, 4000, 5000)
RATE = 1e-3
SIGMA = 0.02
Weights = dict[str, Any]


def initial(seed: int) -> Weights:
    """A matrix larger than what is kept of it, two small ones, and a gain that begins at one."""
    rng = np.random.default_rng(seed)
    shapes = {"a.weight": (80, 90), "b.weight": (30, 20), "c.weight": (8, 8)}
    made = {name: torch.tensor(SIGMA * rng.normal(size=shape), dtype=torch.float32) for name, shape in shapes.items()}
    return {**made, "norm.weight": torch.ones(8)}


def trained(seed: int, start: Weights | None = None, steps: tuple[int, ...] = STEPS) -> dict[int, Weights]:
    """A walk away from its start: one update of Adam's size, then updates that add up."""
    rng = np.random.default_rng(100 + seed)
    weights, made, before = start or initial(seed), {}, 0
    for step in steps:
        size = RATE * min(step - before, 1) + 0.006 * (step - before > 1)
        weights = {
            name: w + torch.tensor(size * np.sign(rng.normal(size=w.shape)), dtype=w.dtype)
            for name, w in weights.items()
        }
        made[step], before = weights, step
    return made


@pytest.fixture
def lineage_of(tmp_path: Path) -> Callable[..., xr.Dataset]:
    """The lineage of one run with these weights at these steps."""
    from safetensors.torch import save_file

    def measured(
        checkpoints: Mapping[int, Weights], *, tokenizers: Mapping[int, str] | None = None, **given: Any
    ) -> xr.Dataset:
        for step, weights in checkpoints.items():
            folder = tmp_path / f"step{step}"
            folder.mkdir()
            (folder / "config.json").write_text(json.dumps({"model_type": "gpt_neox"}))
            save_file({name: w.contiguous() for name, w in weights.items()}, folder / "model.safetensors")
            if tokenizers and step in tokenizers:
                (folder / "tokenizer.json").write_text(tokenizers[step])
        steps = tuple(given.pop("steps", sorted(checkpoints)))
        facts = given.pop("facts", {"learning_rate": RATE})
        run = Run("m", 3, location=str(tmp_path / "step{step}"), steps=steps, facts=facts)
        return weight_lineage(RunTable((run,)), **given)

    return measured


def kinds(lineage: xr.Dataset) -> list[tuple[str, list[int]]]:
    return [(f.kind, [STEPS[t] for t in f.steps or ()]) for f in lineage_findings(lineage)]


def test_a_run_that_continues_has_no_findings(lineage_of: Any) -> None:
    assert kinds(lineage_of(trained(0))) == []


def test_the_correlation_of_a_matrix_kept_whole_is_numpys(lineage_of: Any) -> None:
    made = {step: {"b.weight": weights["b.weight"]} for step, weights in trained(0).items()}
    got = float(lineage_of(made)["correlation"].sel(model="m", seed=3, step=0, other_step=3000))
    expected = np.corrcoef(made[0]["b.weight"].numpy().ravel(), made[3000]["b.weight"].numpy().ravel())[0, 1]
    assert got == pytest.approx(expected, abs=1e-6)


def test_sampling_hardly_changes_a_correlation(lineage_of: Any) -> None:
    made = {step: {"a.weight": weights["a.weight"]} for step, weights in trained(0).items()}
    got = float(lineage_of(made, sample=4096)["correlation"].sel(model="m", seed=3, step=0, other_step=3000))
    expected = np.corrcoef(made[0]["a.weight"].numpy().ravel(), made[3000]["a.weight"].numpy().ravel())[0, 1]
    assert got == pytest.approx(expected, abs=0.02)


def test_the_median_over_matrices_ignores_one_that_is_constant(lineage_of: Any) -> None:
    made = {step: {**weights, "d.weight": torch.zeros(4, 4)} for step, weights in trained(0).items()}
    lineage = lineage_of(made)
    assert int(lineage["n_matrices"].item()) == 4
    assert np.isfinite(lineage["correlation"].values).all()


def test_the_first_update_of_adam_is_what_the_learning_rate_allows(lineage_of: Any) -> None:
    lineage = lineage_of(trained(0)).sel(model="m", seed=3, step=1)
    assert float(lineage["relative_change"]) == pytest.approx(RATE / SIGMA, rel=0.2)
    assert float(lineage["relative_change"]) == pytest.approx(float(lineage["allowed_change"]), rel=1e-3)


def test_warmup_lowers_what_is_allowed(lineage_of: Any) -> None:
    lineage = lineage_of(trained(0), warmup=1430).sel(model="m", seed=3)
    full = float(lineage["allowed_change"].sel(step=1)) * 1430
    assert full == pytest.approx(RATE / SIGMA, rel=0.2)
    # From the end of the warm-up on every update counts in full: 1,000 of them between two checkpoints.
    assert float(lineage["allowed_change"].sel(step=3000)) > 100 * full


def test_a_restart_is_found_at_the_step_where_it_happens(lineage_of: Any) -> None:
    made = trained(0)
    again = trained(7, start=made[1], steps=(0, 1000, 2000))
    made |= {4000: again[1000], 5000: again[2000]}
    assert kinds(lineage_of(made)) == [("weights-restart", [4000, 5000])]


def test_another_run_spliced_in_is_no_continuation(lineage_of: Any) -> None:
    other = trained(9)
    made = trained(0) | {step: other[step] for step in (3000, 4000, 5000)}
    found = lineage_findings(lineage_of(made))
    # Nothing that came before is close to it, so that only the change of the weights can say so.
    assert [f.kind for f in found] == ["weights-splice"]


def test_a_step_0_of_another_initialisation_is_found(lineage_of: Any) -> None:
    assert kinds(lineage_of(trained(0) | {0: initial(5)})) == [("weights-jump", [0])]


def test_without_a_learning_rate_a_step_0_of_another_initialisation_is_found(lineage_of: Any) -> None:
    lineage = lineage_of(trained(0) | {0: initial(5)}, facts={})
    assert np.isnan(lineage["allowed_change"].values).all()
    assert kinds(lineage) == [("weights-jump", [0])]


def test_a_late_checkpoint_under_an_early_step_is_out_of_line(lineage_of: Any) -> None:
    made = trained(0)
    late = trained(11, start=made[5000], steps=(0, 1000))[1000]
    assert kinds(lineage_of(made | {2000: late})) == [("weights-order", [2000])]


def test_copies_with_others_in_between_are_copies(lineage_of: Any) -> None:
    made = trained(0)
    assert kinds(lineage_of(made | {2000: made[5000]})) == [("weights-copied", [2000, 5000])]


def test_equal_neighbours_are_frozen_and_the_first_stays(lineage_of: Any) -> None:
    made = trained(0)
    found = lineage_findings(lineage_of(made | {1: made[0]}))
    assert [(f.kind, f.steps) for f in found] == [("weights-frozen", [1])]
    assert "full precision" in found[0].evidence


def test_half_precision_is_said_of_frozen_weights(lineage_of: Any) -> None:
    made = {step: {name: w.half() for name, w in weights.items()} for step, weights in trained(0).items()}
    found = lineage_findings(lineage_of(made | {1: made[0]}))
    assert "half precision" in found[0].evidence


def test_the_sign_of_zero_and_the_precision_do_not_make_two_checkpoints(lineage_of: Any) -> None:
    made = {step: {name: w.half().float() for name, w in weights.items()} for step, weights in trained(0).items()}
    made[0]["b.weight"][0] = 0.0
    made[1] = {name: w.half() for name, w in made[0].items()}
    made[1]["b.weight"][0] = -0.0
    assert kinds(lineage_of(made)) == [("weights-frozen", [1])]


def test_a_tokenizer_that_changes_is_found(lineage_of: Any) -> None:
    texts = dict.fromkeys(STEPS, "{}") | {3000: '{"other": 1}'}
    assert kinds(lineage_of(trained(0), tokenizers=texts)) == [("mixed-tokenizers", [3000])]


def test_a_missing_checkpoint_leaves_a_hole(lineage_of: Any) -> None:
    made = trained(0)
    del made[2000]
    lineage = lineage_of(made, steps=STEPS)
    assert lineage.attrs["missing"] == 1
    assert np.isnan(lineage["correlation"].sel(step=2000).values).all()
    assert kinds(lineage) == []


def test_weights_that_are_not_finite_have_no_correlation_and_no_finding(lineage_of: Any) -> None:
    made = trained(0)
    made[5000] = {name: torch.full_like(w, float("nan")) for name, w in made[5000].items()}
    lineage = lineage_of(made)
    assert np.isnan(lineage["correlation"].sel(step=5000).values).all()
    assert kinds(lineage) == []


def test_one_checkpoint_is_compared_with_nothing(lineage_of: Any) -> None:
    assert kinds(lineage_of({0: initial(0)})) == []


def test_no_readable_checkpoint_is_an_error(lineage_of: Any) -> None:
    with pytest.raises(ReadError, match="no checkpoint could be read; first, m seed 3 step 0"):
        lineage_of({}, steps=(0, 1))


def test_too_small_a_sample_is_refused(lineage_of: Any) -> None:
    with pytest.raises(ReadError, match="at least 2 elements"):
        lineage_of({0: initial(0)}, sample=1)


def test_a_run_is_measured_alike_twice(lineage_of: Any, tmp_path: Path) -> None:
    first = lineage_of(trained(0))
    run = Run("m", 3, location=str(tmp_path / "step{step}"), steps=STEPS, facts={"learning_rate": RATE})
    assert weight_lineage(RunTable((run,))).identical(first)
