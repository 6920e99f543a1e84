"""Built-in run tables: the Pythia suites on the Hugging Face Hub.

Seeds here are identifiers, as in the cube: ``weight_seed`` and ``data_seed`` say which
runs shared an initialisation or an order of the data, not which number the generator got.

- ``pythia``: one run per size, seed 0, initialisation 0, data order 0. Its generator
  was seeded with 1234. ``-deduped`` models were trained on other text.
- ``polypythias``: that run as seed 0, and seeds 1 to 9, in which initialisation and data
  order vary together: seed n has initialisation n and data order n.
- ``pythia-160m-data-seed``: seeds 1 to 3 have data order n, and the initialisation of
  the reference run (0). ``pythia-160m-weight-seed``: the other way round. This is what
  the release says of them; that it is true of the files is for the audit to tell.

Every run has the checkpoints of :data:`PYTHIA_STEPS`, as the revision ``step{step}``.

References
----------
Biderman et al., Pythia, ICML 2023, arXiv 2304.01373: table 1 (layers, width, learning rates).
van der Wal et al., PolyPythias, ICLR 2025, arXiv 2503.09543 (14M, 31M, seeds), and the
configurations in the Pythia repository.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from polystab.sources.runs import Run

# Step 0, powers of two to 512, then every 1,000 steps: 154 checkpoints.
PYTHIA_STEPS = (0, *(2**power for power in range(10)), *range(1000, 144_000, 1000))
# 1,024 sequences of 2,048 tokens.
PYTHIA_TOKENS_PER_STEP = 2_097_152

SUMMARIES = {
    "pythia": "Pythia, 14M to 12B, and the -deduped models from 70M: one seed, 154 checkpoints each",
    "polypythias": "PolyPythias: Pythia 14M to 410M with 10 seeds of weights and data order together",
    "pythia-160m-data-seed": "Pythia 160M: 3 orders of the data, one initialisation",
    "pythia-160m-weight-seed": "Pythia 160M: 3 initialisations, one order of the data",
}


class _Size(NamedTuple):
    layers: int
    width: int
    vocabulary: int  # rows of the embedding, padded for the number of devices the model was trained on
    learning_rate: float  # peak
    deduped: bool = True


# The vocabulary follows from the total and non-embedding counts on the model cards, e.g. 6.9B: 6,857,302,016 and
# 6,444,163,072 differ by 2 x 4,096 x 50,432.
_SIZES = {
    "14m": _Size(6, 128, 50304, 1e-3, deduped=False),
    "31m": _Size(6, 256, 50304, 1e-3, deduped=False),
    "70m": _Size(6, 512, 50304, 1e-3),
    "160m": _Size(12, 768, 50304, 6e-4),
    "410m": _Size(24, 1024, 50304, 3e-4),
    "1b": _Size(16, 2048, 50304, 3e-4),
    "1.4b": _Size(24, 2048, 50304, 2e-4),
    "2.8b": _Size(32, 2560, 50304, 1.6e-4),
    "6.9b": _Size(32, 4096, 50432, 1.2e-4),
    "12b": _Size(36, 5120, 50688, 1.2e-4),
}
_SEEDED = ("14m", "31m", "70m", "160m", "410m")


def catalog_runs(name: str) -> tuple[Run, ...]:
    """The runs of the catalog ``name``, one of :data:`SUMMARIES`."""
    if name == "pythia":
        return tuple(
            _run(f"pythia-{size}{end}", 0, size)
            for end in ("", "-deduped")
            for size, about in _SIZES.items()
            if about.deduped or not end
        )
    if name == "polypythias":
        return tuple(
            _run(f"pythia-{size}", seed, size, f"-seed{seed}" if seed else "") for size in _SEEDED for seed in range(10)
        )
    varied = "weight_seed" if name == "pythia-160m-weight-seed" else "data_seed"
    return tuple(_run(name, seed, "160m", str(seed), varied) for seed in (1, 2, 3))


def _run(model: str, seed: int, size: str, ending: str = "", varied: str = "both") -> Run:
    return Run(
        model,
        seed,
        weight_seed=seed if varied in {"both", "weight_seed"} else 0,
        data_seed=seed if varied in {"both", "data_seed"} else 0,
        location=f"EleutherAI/{model}{ending}",
        revision="step{step}",
        steps=PYTHIA_STEPS,
        facts=_facts(_SIZES[size]),
    )


def _facts(size: _Size) -> dict[str, Any]:
    width = size.width
    # GPT-NeoX: 12 d^2 weights and 13 d biases and norms a layer, a final norm, embedding and unembedding apart.
    parameters = size.layers * (12 * width**2 + 13 * width) + 2 * width + 2 * size.vocabulary * width
    return {
        "n_parameters": parameters,
        "n_layers": size.layers,
        "hidden_size": width,
        "learning_rate": size.learning_rate,
        "tokens_per_step": PYTHIA_TOKENS_PER_STEP,
    }
