"""The data card of a suite's cube: what it is, how it was made, and what to know before using it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import xarray as xr

from polystab.analysis.failures import RULES, failed_runs
from polystab.cube.describe import coverage_sentence
from polystab.cube.validate import as_cube
from polystab.suites.recipes import Recipe, Suite

_RECIPE_ROWS = (
    ("hidden_size", "width"),
    ("n_layers", "layers"),
    ("n_heads", "heads"),
    ("steps", "steps"),
    ("batch_size", "documents a step"),
    ("context", "words a document"),
    ("learning_rate", "peak learning rate"),
    ("warmup", "warm-up, share of steps"),
    ("final_rate", "rate at the end, share of the peak"),
    ("beta1", "Adam beta1"),
    ("beta2", "Adam beta2"),
    ("weight_decay", "weight decay"),
    ("clip", "gradient clipping, 0 for none"),
)

_WORDS = """\
## Text

Documents of a small English-like language ({module}): sentences with subject-verb agreement across
attractors and relative clauses, name-attribute bindings over a distance, repeated pieces of spans, and brackets. All
runs see the same documents, each once; the data seed decides their order. The language comes with gold labels (part of
speech, number, depth, head). No outside text was used.

## Seeds

`weight_seed` decides the initialisation, `data_seed` the order of the documents; nothing else is random. Runs of
different models with one data seed saw the same order: they are not independent.

## Tasks

Four tasks of 300 generated items each, run by the lm-evaluation-harness, zero-shot, one word to choose:
`nano_agreement` (2 options), `nano_induction` (4), `nano_recall` (4), `nano_brackets` (3). The standard error of a score
near one half is 0.029. The items are in the package beside the task files, for `lm_eval --include_path`.

## Limits

Models of this size on a language of this size show how methods behave, not how large models train. On another machine
or another version of torch the last digits of a training step differ, and curves with them; on one machine the same
command gives the same bytes."""

_BEGINNINGS = """\
These runs begin with weights made of finished ones, parameter by parameter (`polystab.suites.init_from`), with the
weight seed as the source of chance; all other runs begin with Pythia's initialisation. The finished runs are trained
first, into the folder `sources`, unless `--init-from` says where they are.

"""

_RULES = """\
By the rules of `polystab.analysis.failed_runs`; a run can fail by several.

- non-finite: the loss or the gradient stopped being finite;
- spike: after warm-up, a loss above the mean of the previous 128 by 6 of their standard deviations;
- high-loss: a mean loss of the last 50 updates more than 0.1 nat above the median of the model's good runs;
- missing-ability: a task whose last score is less than half way from chance to 1, where at least four fifths of the
  other runs of the model are further.

"""


# Families whose last values are listed; of the others only the number of metrics.
SCORES = ("eval", "loss")


def data_card(tree: xr.DataTree, trained: Suite) -> str:
    """A data card in Markdown.

    Parameters
    ----------
    tree : xarray.DataTree
        What :func:`polystab.suites.cubes.suite_cube` gives.
    trained : Suite
        The suite that it is the cube of.
    """
    cube = as_cube(tree)
    recipes = list({run.recipe.model: run.recipe for run in trained.runs}.values())
    parts = [
        f"# {trained.title}",
        trained.summary + " Trained by the polystab developers for this package.",
        f"- what: {coverage_sentence(tree)}\n- made with: `{cube.attrs['source']} --measure evals` (which `make cubes` does, without the margins of items)\n"
        f"- licence: {cube.attrs['license']}\n- detail groups: {', '.join(sorted(map(str, tree.children)))}",
        "## Recipe\n\nGPT-NeoX with parallel residual, rotary embeddings over whole heads and an untied head; Pythia's "
        "initialisation; AdamW in float32.\n\n" + _recipes(recipes),
        *_beginnings(trained),
        _WORDS.format(module="`polystab.suites.grammar`"),
        "## What is in it\n\n" + _last_scores(cube),
        "## Runs that went wrong\n\n" + _failures(tree),
    ]
    return "\n\n".join(parts) + "\n"


def _beginnings(trained: Suite) -> list[str]:
    """How runs begin with finished weights, if any does."""
    rows = [
        [
            run.recipe.model, run.seed, run.beginning.how, run.beginning.vectors,
            f"{run.beginning.of.recipe.model} seed {run.beginning.of.seed} step {run.beginning.of.recipe.steps}",
        ]
        for run in trained.runs
        if run.beginning is not None and run.beginning.of is not None
    ]  # fmt: skip
    return [
        "## First weights\n\n" + _BEGINNINGS + _table(["model", "seed", "how", "gains and biases", "of"], rows)
    ] * bool(rows)


def _recipes(recipes: Sequence[Recipe]) -> str:
    facts = [asdict(recipe) for recipe in recipes]
    rows = [[text, *(f"{fact[name]:g}" for fact in facts)] for name, text in _RECIPE_ROWS]
    return _table(["", *(recipe.model for recipe in recipes)], rows)


def _last_scores(cube: xr.Dataset) -> str:
    """Median and range over seeds at the last step of each model."""
    rows = []
    scores = np.isin(cube["family"].values, SCORES)
    for metric in cube["metric"].values[scores].tolist():
        row: list[Any] = [f"`{metric}`"]
        for model in cube["model"].values.tolist():
            values = cube["value"].sel(model=model, metric=metric).transpose("seed", "step").values
            # Models of one suite end at one step; a run that diverged has nothing there.
            last = values[:, -1][np.isfinite(values[:, -1])]
            row.append(f"{np.median(last):.3f} ({last.min():.3f} to {last.max():.3f})" if len(last) else "none")
        rows.append(row)
    head = f"At step {int(cube['step'][-1])}, median over the seeds and their range:\n\n"
    families, counts = np.unique(cube["family"].values[~scores], return_counts=True)
    others = [f"{n} of family `{name}`" for name, n in zip(families.tolist(), counts.tolist(), strict=True)]
    rest = f"\n\nBesides: {', '.join(others)}." if others else ""
    return head + _table(["metric", *cube["model"].values.tolist()], rows) + rest


def _failures(tree: xr.DataTree) -> str:
    """How many runs of each model fail by which rule."""
    found = failed_runs(tree)
    rows = []
    for model in found["model"].values.tolist():
        one = found.sel(model=model)
        by_rule = [int(one["failed"].sel(rule=rule).sum()) for rule in RULES]
        rows.append([model, int(one["known"].sum()), int(one["wrong"].sum()), *by_rule])
    return _RULES + _table(["model", "runs", "went wrong", *RULES], rows)


def _table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    titles = [str(cell) for cell in head]
    lines = [titles, ["---"] * len(titles), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
