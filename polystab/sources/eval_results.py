"""A tree of lm-evaluation-harness results into one cube, with its audit.

What a file says about itself decides which cell its values go to; a path that
says otherwise gets the file refused, because one of the two is wrong.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import get_args

import numpy as np
import xarray as xr

from polystab.cube.audit import AuditLog
from polystab.cube.build import assemble, finished
from polystab.errors import SHOWN_LABELS, ReadError, UnknownNameError, did_you_mean, shown
from polystab.sources.eval_cells import Cells, OnDuplicate, cells_of, settle_duplicates
from polystab.sources.eval_files import Options
from polystab.sources.eval_parts import read_parts
from polystab.sources.eval_table import Source
from polystab.sources.run_labels import (
    NO_CLAIMS,
    PathClaims,
    claims_above,
    contradicts,
    folder_claims,
    model_words,
    part_claims,
)
from polystab.sources.walk import paused_collection

PYTHIA_TOKENS_PER_STEP = 2_097_152

_HIGHER = frozenset({"acc", "acc_norm", "exact_match", "em", "f1", "mcc", "bleu", "chrf", "rouge1", "rouge2", "rougeL"})
_LOWER = frozenset({"ppl", "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "ter", "brier_score"})
SHARES = frozenset({"acc", "acc_norm", "exact_match", "em", "f1", "pct_stereotype", "pct_male_preferred"})

# Accuracy from guessing, for tasks whose every item has the same number of options.
_CHANCE = {
    **dict.fromkeys(("piqa", "winogrande", "wsc", "boolq", "copa", "rte"), 0.5),
    **dict.fromkeys(("sciq", "logiqa", "hellaswag", "swag", "openbookqa"), 0.25),
    "lambada_openai": 0.0,
}
_CHANCE_PREFIXES = (("hendrycksTest-", 0.25), ("mmlu_", 0.25), ("blimp_", 0.5))


def guess_lm_eval(path: str | os.PathLike[str]) -> bool:
    """Whether a path looks like harness results: a JSON file with ``results``, or a folder with JSON below it."""
    source = Path(path)
    if source.is_dir():
        return next(source.rglob("*.json"), None) is not None
    if source.suffix != ".json":
        return False
    with source.open("rb") as stream:
        return b'"results"' in stream.read(2**20)


def read_lm_eval(
    tree: str | os.PathLike[str],
    *,
    on_duplicate: OnDuplicate = "error",
    allow_limit: bool = False,
    run_pattern: str | None = None,
    revision_steps: Mapping[str, int] | None = None,
    title: str = "",
) -> xr.DataTree:
    """Read every results file below a folder into a cube.

    Parameters
    ----------
    tree : path
        A folder (symbolic links are followed, each folder is visited once) or one
        results file. Both dialects of the harness are read, also mixed: 0.3 (``acc``;
        arguments as text or mapping, GPT-NeoX with ``iteration``) and 0.4 or later
        (``acc,none``).
    on_duplicate : {"error", "latest", "earliest", "first", "last"}
        What to do where files give different values for one cell: raise; keep the
        latest or earliest evaluation (by ``date`` in the file, or the time in its
        name); keep the first or last path in alphabetical order. What lost is kept in
        the audit. Equal values are no conflict.
    allow_limit : bool, optional
        Also read files that were measured with ``--limit``.
    run_pattern : str, optional
        Regular expression with the named group ``model`` and optionally ``seed`` and
        ``step``, searched in ``<model name>@<revision>`` of each file's content, for
        names that the built-in rules (``-seed3``, ``step1000``) do not understand.
        Where it is given, models are not looked for in paths.
    revision_steps : mapping, optional
        Steps of revisions that do not state one, e.g. ``{"main": 143000}``.
    title : str, optional
        Title of the cube.

    Returns
    -------
    xarray.DataTree
        The cube at the root: ``value`` and ``stderr`` over (model, seed, step,
        metric). Metric ids are ``eval/<task>[@<k>shot]/<measure>[@<filter>]``. A model
        without ``seed`` in its name is seed 0. Standard errors of groups are left out,
        as the harness's formula for them does not match the group's mean. The child
        ``audit`` has an entry for every file, read or refused.

    Raises
    ------
    ReadError
        No such folder, no results file in it, or every file was refused.
    ConflictError
        Different values for one cell, with ``on_duplicate="error"``; or a rule by
        time where a file does not say when it was made.
    UnknownNameError
        ``on_duplicate`` is not one of the rules.

    Notes
    -----
    Refused, by reason: ``label-mismatch`` (path and content disagree on model, size,
    seed, step or shots, or the content disagrees with itself), ``limited``,
    ``no-step``, ``no-model``, ``no-config``, ``no-results``, ``no-values``,
    ``not-results``, ``invalid-json``, ``duplicate-keys``, ``too-deep``, ``too-large``,
    ``not-utf8``, ``empty``, ``unreadable``. The folders that hold ``tree`` count as part of
    the path where their names are nothing but labels. For shots alone, a path that contradicts
    itself (folder ``zero-shot``, file ``5shot``) is settled by the content and noted
    as ``path-ambiguous``. Values that are text, null or NaN are left out and noted
    as ``not-a-number``; infinite values are kept.

    Examples
    --------
    >>> tree = read_lm_eval("results/")                              # doctest: +SKIP
    >>> tree.value.sel(metric="eval/arc_easy/acc").std("seed")       # doctest: +SKIP
    """
    if on_duplicate not in get_args(OnDuplicate):
        raise UnknownNameError(
            f"no rule {on_duplicate!r} for duplicates. {did_you_mean(on_duplicate, get_args(OnDuplicate))}"
        )
    options = Options(_compiled(run_pattern), tuple(sorted((revision_steps or {}).items())), allow_limit)
    with paused_collection():
        return _read(tree, on_duplicate, options, title)


def _read(tree: str | os.PathLike[str], on_duplicate: OnDuplicate, options: Options, title: str) -> xr.DataTree:
    log = AuditLog()
    table = read_parts(tree, options, log)
    if not table.sources and not log.entries:
        raise ReadError(f"no results files (*.json) below {tree}.")
    _refuse_mislabelled(Path(tree), table.used(), log, check_models=options.pattern is None)
    used = table.used()
    if not used:
        raise ReadError(_nothing_read(tree, log))
    cells = settle_duplicates(cells_of(table), table.sources, on_duplicate, log)
    cube = _with_facts(assemble(cells.codes, cells.labels, cells.value, cells.stderr), cells, used, log)
    for source in used:
        log.read(
            source.path, sha256=source.sha256, detail=f"{_said(source)}, {source.n_values} values, {source.version}"
        )
    models = len(cells.labels["model"])
    attrs = {
        "title": title or f"Evaluations of {models} model{'s' if models > 1 else ''}",
        "source": f"{len(used)} results files of the lm-evaluation-harness; see the audit group",
    }
    return xr.DataTree.from_dict({"/": finished(cube, attrs), "/audit": log.dataset()})


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ReadError(f"the run pattern {pattern!r} is not a regular expression: {error}.") from error
    if "model" not in compiled.groupindex:
        raise ReadError(f"the run pattern {pattern!r} has no group (?P<model>...).")
    return compiled


def _path_claims(sources: Iterable[Source]) -> list[PathClaims]:
    """What the path of each file says; files of one folder with plain names share one answer."""
    by_folder: dict[str, PathClaims] = {}
    found = []
    for source in sources:
        folder, _, file = source.path.rpartition("/")
        claims = by_folder.get(folder)
        if claims is None:
            claims = by_folder[folder] = folder_claims(folder) if folder else NO_CLAIMS
        own = part_claims(file.removesuffix(".json"), folder.count("/") + 1 if folder else 0)
        found.append(claims if own is NO_CLAIMS else claims | own)
    return found


def _nothing_read(tree: str | os.PathLike[str], log: AuditLog) -> str:
    refused = [entry for entry in log.entries if entry.status == "refused"]
    reasons = ", ".join(
        f"{count} {reason}" for reason, count in Counter(e.reason for e in refused).most_common(SHOWN_LABELS)
    )
    first = refused[0]
    return (
        f"none of the {len(refused)} files below {tree} could be used ({reasons}). First, {first.path}: {first.detail}"
    )


def _refuse_mislabelled(tree: Path, sources: list[Source], log: AuditLog, *, check_models: bool) -> None:
    """Refuse files whose path and content disagree."""
    models = frozenset(model_words(source.model) for source in sources)
    known = models if check_models else None
    above = claims_above(tree.absolute() if tree.is_dir() else tree.absolute().parent, models)
    claims = _path_claims(sources)
    if above is not NO_CLAIMS:
        claims = [claim | above for claim in claims]
    seeded = frozenset[tuple[int, str]]().union(*(claim.seeded for claim in {id(c): c for c in claims}.values()))
    checked: dict[tuple[int, int, frozenset[int]], str] = {}
    for source, claim in zip(sources, claims, strict=True):
        # Claims and identities are shared between files, so few combinations differ.
        key = (id(claim), id(source.identity), source.shots)
        if key not in checked:
            checked[key] = _mismatches(source, claim, known, seeded)
        problems = checked[key]
        if problems:
            source.kept = False
            log.refuse(source.path, "label-mismatch", f"{problems}.", sha256=source.sha256)
        elif claim.shots - source.shots:
            said = f"the path says {_listed(claim.shots)} shots, the content {_listed(source.shots)}"
            log.note(source.path, "path-ambiguous", f"{said}: read as the content says.", sha256=source.sha256)


def _mismatches(
    source: Source,
    claims: PathClaims,
    known: frozenset[str] | None,
    seeded: frozenset[tuple[int, str]],
) -> str:
    """What a path says otherwise than the content; empty where they agree."""
    found = []
    if wrong := claims.steps - {source.step}:
        found.append(f"path says step {_listed(wrong)}, content {source.step}")
    # Beside `pythia-410m-seed1`, a folder `pythia-410m` is the one of the reference run.
    reference = frozenset({0} if claims.bare & seeded else ())
    if wrong := (claims.seeds | reference) - {source.seed}:
        found.append(f"path says seed {_listed(wrong)}, content {source.seed}")
    if known is not None:
        other = sorted(claim for claim in claims.models if contradicts(claim, source.model, known))
        if other:
            found.append(f"path says model {shown(other)}, content {source.model!r}")
    # One folder may hold several shots; a path is wrong only if nothing it says is right.
    if claims.shots and not claims.shots & source.shots:
        found.append(f"path says {_listed(claims.shots)} shots, content {_listed(source.shots)}")
    return "; ".join(found)


def _listed(numbers: Iterable[int]) -> str:
    return " and ".join(str(number) for number in sorted(numbers))


def _said(source: Source) -> str:
    return f"{source.model} seed {source.seed} step {source.step}"


def _with_facts(cube: xr.Dataset, cells: Cells, used: list[Source], log: AuditLog) -> xr.Dataset:
    """Coordinates that the files state or that are known of the harness's measures."""
    better: dict[tuple[str, str], str] = {}
    counts: dict[str, set[int]] = defaultdict(set)
    for facts in {id(source.facts): source.facts for source in used}.values():
        better.update(facts.better)
        for task, count in facts.n_items.items():
            counts[task].add(count)
    for task, several in counts.items():
        if len(several) > 1:
            log.note("(all files)", "item-count-differs", f"{task} was measured on {_listed(several)} items.")
    n_items = [min(found) if len(found := counts.get(task, ())) == 1 else -1 for task, _, _, _ in cells.keys]
    direction = [better.get((task, measure)) or usual_direction(measure) for task, measure, _, _ in cells.keys]
    cube = cube.assign_coords(
        better=("metric", np.array(direction, dtype=np.str_)),
        units=(
            "metric",
            np.array(["1" if measure in SHARES else "" for _, measure, _, _ in cells.keys], dtype=np.str_),
        ),
        chance=("metric", np.array([chance_level(task, measure) for task, measure, _, _ in cells.keys])),
        n_items=("metric", np.array(n_items, dtype=np.int64)),
    )
    if all(source.model.startswith("pythia-") for source in used):
        cube = cube.assign_coords(tokens=("step", cube["step"].values * PYTHIA_TOKENS_PER_STEP))
        cube = _with_varied_seeds(cube, used)
    return cube


def _with_varied_seeds(cube: xr.Dataset, used: list[Source]) -> xr.Dataset:
    """What Pythia's seeds vary: plain ones both, ``data-seed`` and ``weight-seed`` one."""
    if cube.sizes["seed"] == 1:
        return cube
    models, seeds = cube["model"].values.tolist(), cube["seed"].values.tolist()
    arrays = {kind: np.full((len(models), len(seeds)), -1, dtype=np.int64) for kind in ("weight", "data")}
    for source in {id(source.identity): source for source in used}.values():
        at = models.index(source.model), seeds.index(source.seed)
        for kind, array in arrays.items():
            array[at] = source.seed if source.identity.run.varied in ("", kind) else 0
    return cube.assign({f"{kind}_seed": (("model", "seed"), array) for kind, array in arrays.items()})


def usual_direction(measure: str) -> str:
    if measure in _HIGHER or measure.startswith("pass@"):
        return "higher"
    return "lower" if measure in _LOWER else ""


def chance_level(task: str, measure: str) -> float:
    if measure not in ("acc", "acc_norm"):
        return math.nan
    by_prefix = next((chance for prefix, chance in _CHANCE_PREFIXES if task.startswith(prefix)), math.nan)
    return _CHANCE.get(task, by_prefix)
