"""Runs of suites that begin with finished weights: which, where they lie, and that they fit."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from polystab.sources.run_patterns import filled, pattern_mistakes
from polystab.suites.init_laws import InitError
from polystab.suites.initialisation import HOWS, VECTORS, check_ways, init_from, weights_digest
from polystab.suites.recipes import Beginning, Suite, SuiteRun

if TYPE_CHECKING:
    import torch


def first_weights(beginning: Beginning, model: torch.nn.Module, *, rng: int) -> dict[str, torch.Tensor]:
    """The first weights of a run, of the weights that were looked at when its suite was begun.

    Raises
    ------
    InitError
        Those weights are not there any more, or do not fit.
    """
    if (found := weights_digest(beginning.folder)) != beginning.digest:
        raise InitError(
            f"the weights in {beginning.folder} have changed: their digest was {beginning.digest[:16]}, it is now "
            f"{found[:16]}. Put them back, or train into another folder."
        )
    return init_from(beginning.folder, beginning.how, like=model, vectors=beginning.vectors, rng=rng)


def begun_by_recipe(chosen: Suite) -> tuple[SuiteRun, ...]:
    """The runs whose finished weights others of the suite begin with."""
    wanted = (run.beginning.of for run in chosen.runs if run.beginning is not None)
    return tuple(dict.fromkeys(run for run in wanted if run is not None))


def begun(chosen: Suite, source: str | os.PathLike[str] | None, how: str | None, vectors: str | None) -> Suite:
    """The suite with the weights that its runs begin with found and looked at; see :func:`polystab.suites.train.train`.

    Raises
    ------
    InitError
        They do not fit, or the options contradict the recipe.
    """
    by_recipe = begun_by_recipe(chosen)
    if (how or vectors) and (by_recipe or source is None):
        why = f"the recipe of {chosen.name} says how its runs begin" if by_recipe else "init_from says with which"
        raise InitError(f"init_how and init_vectors say how all runs begin with finished weights; {why}.")
    if source is None:
        return chosen
    pattern = _pattern(source)
    if not by_recipe:
        way = Beginning(how or HOWS[0], vectors or VECTORS[0])
        check_ways(way.how, way.vectors)
        runs = tuple(replace(run, beginning=replace(way, of=run)) for run in chosen.runs)
        runs = tuple(replace(run, recipe=replace(run.recipe, model=f"{run.recipe.model}-{way.how}")) for run in runs)
        title = f"{chosen.title}; first weights by {way.how} of finished ones"
        chosen = replace(chosen, title=title, runs=runs)
    return replace(chosen, runs=tuple(_found(run, pattern) for run in chosen.runs))


def _pattern(source: str | os.PathLike[str]) -> str:
    """The source as a pattern; a folder that is there is meant as it is called."""
    path = Path(source).expanduser()
    if path.is_file():
        raise InitError(f"{path} is a file; name the folder of a checkpoint, with its model.safetensors.")
    if path.is_dir():
        return str(path.resolve()).replace("{", "{{").replace("}", "}}")
    if mistakes := pattern_mistakes(str(path)):
        raise InitError(f"{'; '.join(mistakes)}.")
    return str(path.absolute())


def _found(run: SuiteRun, pattern: str) -> SuiteRun:
    """The run with the place and digest of the weights that it begins with, which were found to fit."""
    begun = run.beginning
    if begun is None or begun.of is None:
        return run
    of = begun.of
    folder = filled(pattern, model=of.recipe.model, seed=of.seed, step=of.recipe.steps)
    init_from(folder, begun.how, like=run.recipe, vectors=begun.vectors, rng=0)
    return replace(run, beginning=replace(begun, of=None, folder=folder, digest=weights_digest(folder)))
