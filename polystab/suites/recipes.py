"""The recipes of the suites: what is trained, how, and with which seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from polystab.errors import UnknownNameError, did_you_mean
from polystab.sources.runs import Run, RunTable


@dataclass(frozen=True)
class Recipe:
    """How one model is trained, apart from its seeds.

    A GPT-NeoX decoder as Pythia has it: parallel residual, rotary embeddings, untied
    head, Pythia's initialisation; AdamW without weight decay on biases and norms; linear
    warm-up, then a cosine. Each document of the corpus is seen once.

    Attributes
    ----------
    model : str
        Label in the cube.
    hidden_size, n_layers, n_heads : int
    learning_rate : float
        Peak.
    steps, batch_size : int
        Optimizer steps, documents in each.
    warmup : float
        Share of the steps over which the rate rises.
    final_rate : float
        Rate at the end, as a share of the peak.
    beta1, beta2, weight_decay : float
        Of AdamW.
    clip : float
        Largest norm of the gradient; 0 for no clipping.
    every : int
        Besides 0, 1, 2, 4, ..., 512, checkpoints are kept at multiples of this.
    context : int
        Words of a document.
    corpus_seed : int
        Decides the documents, which are the same for all seeds of a suite.
    """

    model: str
    hidden_size: int
    n_layers: int
    n_heads: int
    learning_rate: float = 1e-2
    steps: int = 1000
    batch_size: int = 40
    warmup: float = 0.01
    final_rate: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    clip: float = 1.0
    every: int = 50
    context: int = 64
    corpus_seed: int = 1

    def rate(self, step: int) -> float:
        """Learning rate of the update that follows ``step``: linear warm-up, then a cosine to ``final_rate``."""
        warm = round(self.warmup * self.steps)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        return self.learning_rate * (self.final_rate + (1 - self.final_rate) * (1 + math.cos(math.pi * done)) / 2)

    def checkpoints(self) -> tuple[int, ...]:
        """Pythia's grid: 0, the powers of two to 512, and multiples of ``every``, with the last step."""
        early = {0, *(2**k for k in range(10))}
        return tuple(sorted({s for s in early if s <= self.steps} | {*range(0, self.steps, self.every), self.steps}))

    def facts(self) -> dict[str, Any]:
        """What a run table states about a run of this recipe."""
        return {
            "n_layers": self.n_layers,
            "hidden_size": self.hidden_size,
            "learning_rate": self.learning_rate,
            "tokens_per_step": self.batch_size * self.context,
        }


@dataclass(frozen=True)
class Beginning:
    """Finished weights that the first weights of a run are made of, see :func:`polystab.suites.init_from`.

    Attributes
    ----------
    how, vectors : str
        As there; its ``rng`` is the run's weight seed.
    of : SuiteRun, optional
        The run whose last checkpoint it is.
    folder, digest : str
        Where the checkpoint lies and the digest of its weights; empty until it has been looked for.
    """

    how: str
    vectors: str = "final"
    of: SuiteRun | None = None
    folder: str = ""
    digest: str = ""

    def settings(self) -> dict[str, str]:
        """What of it decides the weights; where they lie does not."""
        return {"how": self.how, "vectors": self.vectors, "weights": self.digest}


@dataclass(frozen=True)
class SuiteRun:
    """One run to be trained: a recipe, its seeds, and what it begins with if that is no initialisation of its own."""

    recipe: Recipe
    seed: int
    weight_seed: int
    data_seed: int
    beginning: Beginning | None = None


@dataclass(frozen=True)
class Suite:
    """Runs that are trained together.

    Attributes
    ----------
    name, title, summary : str
    runs : tuple of SuiteRun
    """

    name: str
    title: str
    summary: str
    runs: tuple[SuiteRun, ...] = field(repr=False)

    def settings(self) -> dict[str, Any]:
        """All that decides what is trained, as JSON can hold it."""
        recipes: Mapping[str, Recipe] = {run.recipe.model: run.recipe for run in self.runs}
        begun = [[run.recipe.model, run.seed, run.beginning.settings()] for run in self.runs if run.beginning]
        return {
            "suite": self.name,
            "recipes": [asdict(recipe) for recipe in recipes.values()],
            "runs": [[run.recipe.model, run.seed, run.weight_seed, run.data_seed] for run in self.runs],
            **({"beginnings": begun} if begun else {}),
        }

    def table(self, location: str) -> RunTable:
        """The runs as a run table, with their checkpoints at the pattern ``location``."""
        return RunTable(tuple(as_run(run, location) for run in self.runs))


def as_run(run: SuiteRun, location: str = "") -> Run:
    """A run of a suite as a row of a run table."""
    recipe = run.recipe
    return Run(
        model=recipe.model,
        seed=run.seed,
        weight_seed=run.weight_seed,
        data_seed=run.data_seed,
        location=location,
        steps=recipe.checkpoints(),
        facts={"n_parameters": n_parameters(recipe), **recipe.facts()},
    )


def n_parameters(recipe: Recipe) -> int:
    """Parameters of a recipe's model, embeddings included."""
    from polystab.suites.grammar import vocabulary

    d, words = recipe.hidden_size, len(vocabulary())
    matrices, biases, norms = 12 * d * d, 9 * d, 4 * d
    return 2 * words * d + recipe.n_layers * (matrices + biases + norms) + 2 * d


SMALL = Recipe("nano-33k", hidden_size=32, n_layers=2, n_heads=2)
MIDDLE = Recipe("nano-96k", hidden_size=48, n_layers=3, n_heads=3)
LARGE = Recipe("nano-215k", hidden_size=64, n_layers=4, n_heads=4)
SIZES = (SMALL, MIDDLE, LARGE)

# At a constant rate of 0.2 this recipe is steady, at 0.5 nearly every run spikes; in between the seed decides.
EDGE_RATES = (0.2, 0.3, 0.4, 0.5)
EDGE = replace(MIDDLE, steps=800, batch_size=4, warmup=0.02, final_rate=1.0, beta2=0.99, clip=0.0)
# At rates so high nothing is learned but which words go together. Here abilities are, by most seeds, with none to spare.
SLOW_RATES = (0.006, 0.012)
SLOW = replace(MIDDLE, steps=800, batch_size=24, clip=0.0)

QUICK = {"steps": 200, "batch_size": 16, "every": 25}


def _together(recipes: tuple[Recipe, ...], seeds: int) -> tuple[SuiteRun, ...]:
    return tuple(SuiteRun(recipe, seed, seed, seed) for recipe in recipes for seed in range(seeds))


def _nano() -> Suite:
    return Suite(
        "nano",
        "nano: 3 sizes x 10 seeds, initialisation and data order varied together",
        "Three GPT-NeoX sizes trained ten times each on a small English-like language.",
        _together(SIZES, 10),
    )


def _factorial() -> Suite:
    crossed = tuple(SuiteRun(MIDDLE, 5 * w + d, w, d) for w in range(5) for d in range(5))
    return Suite(
        "nano-factorial",
        "nano-factorial: 5 initialisations x 5 data orders, crossed",
        "One GPT-NeoX size trained with each of five initialisations on each of five data orders.",
        crossed,
    )


def _edge() -> Suite:
    recipes = tuple(replace(EDGE, model=f"{MIDDLE.model}-lr{rate:g}", learning_rate=rate) for rate in EDGE_RATES)
    slow = tuple(replace(SLOW, model=f"{MIDDLE.model}-b24-lr{rate:g}", learning_rate=rate) for rate in SLOW_RATES)
    return Suite(
        "nano-edge",
        "nano-edge: runs that go wrong, 12 seeds at each of 6 learning rates",
        "One GPT-NeoX size without gradient clipping: at constant rates of 0.2 to 0.5 with batches of 4, where losses "
        "spike, and at 0.006 and 0.012 with batches of 24, where some seeds do not learn what the others do.",
        _together((*recipes, *slow), 12),
    )


def _init() -> Suite:
    """The finished runs are none of the ordinary ones beside them, and had another order of the documents."""
    begun = tuple(
        SuiteRun(
            replace(SMALL, model=f"{SMALL.model}-{how}"),
            seed, seed, seed,
            Beginning(how, of=SuiteRun(SMALL, seed + 5, seed + 5, seed + 5)),
        )
        for how in ("permute", "histogram", "normal")
        for seed in range(5)
    )  # fmt: skip
    return Suite(
        "nano-init",
        "nano-init: 4 initialisations x 5 seeds, three of them from finished weights",
        "The smallest size of nano from its ordinary initialisation, and from weights with the distribution of "
        "finished ones, matrix by matrix: permuted, drawn from histograms, and normal with their mean and spread.",
        (*_together((SMALL,), 5), *begun),
    )


_SUITES = {"nano": _nano, "nano-factorial": _factorial, "nano-edge": _edge, "nano-init": _init}


def suites() -> tuple[str, ...]:
    """Names of the suites."""
    return tuple(_SUITES)


def suite(name: str, *, quick: bool = False) -> Suite:
    """The suite called ``name``.

    Parameters
    ----------
    name : str
        One of :func:`suites`.
    quick : bool
        A version of it that takes minutes: fewer steps, smaller batches, four seeds at
        most. What it shows is how things work, not what training is like.

    Raises
    ------
    UnknownNameError
        There is no such suite; close names are suggested.
    """
    if name not in _SUITES:
        raise UnknownNameError(f"no suite is called {name!r}. {did_you_mean(name, _SUITES)}")
    full = _SUITES[name]()
    return _quick(full) if quick else full


def _quick(full: Suite) -> Suite:
    """The suite with the shortened recipe: four seeds of each model, or two of each kind where they are crossed."""
    crossed = any(run.weight_seed != run.data_seed for run in full.runs)
    n = 2 if crossed else 4
    runs = tuple(_short(run) for run in full.runs if run.weight_seed < n and run.data_seed < n)
    title = f"{full.name}-quick: {len(runs)} short runs of {full.name}"
    return Suite(f"{full.name}-quick", title, "A short version of a suite, to see how things work.", runs)


def _short(run: SuiteRun) -> SuiteRun:
    begun = run.beginning
    if begun is not None and begun.of is not None:
        begun = replace(begun, of=_short(begun.of))
    return replace(run, recipe=replace(run.recipe, model=f"{run.recipe.model}-quick", **QUICK), beginning=begun)
