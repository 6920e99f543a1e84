"""Which run and step a text names: a model name, a revision, or the path of a file.

What a result file says about itself decides; its path is only ever a check. A
label is taken where the text states it and nowhere else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from polystab.cube.labels import SIZE
from polystab.errors import ReadError

# Python refuses to read numbers of thousands of digits, so that none is looked for.
# step1000, step_1000, global_step1000, checkpoint-1000, iter_0001000, stage1-step1000-tokens5B
STEP = re.compile(
    r"(?:^|[^A-Za-z])(?:global[-_]?step|step|checkpoint|ckpt|iteration|iter)[-_=]?(?P<step>\d{1,999})(?![A-Za-z\d])",
    re.I,
)
_SEED = re.compile(r"[-_.]?(?:(?P<kind>data|weight)[-_])?seed[-_=]?(?P<seed>\d{1,999})(?!\d)", re.I)
_SHOTS = re.compile(
    r"(?:^|[^A-Za-z\d])(?P<shots>\d{1,999}|zero|one|two|three|four|five|ten)[-_]?shot(?![A-Za-z])", re.I
)
_WORDS = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "ten": 10}

# Words in a path that change which model is meant, unlike `evals` or `run2`.
VARIANTS = frozenset({"deduped", "bf16", "fp16", "fp32", "instruct", "chat", "base", "sft", "dpo", "data", "weight"})

# Pythia's sizes were renamed in January 2023; results written before carry the old ones.
OLD_SIZES = {
    "19m": "70m",
    "125m": "160m",
    "350m": "410m",
    "800m": "1b",
    "1.3b": "1.4b",
    "2.7b": "2.8b",
    "6.7b": "6.9b",
    "13b": "12b",
}


@dataclass(frozen=True)
class RunLabel:
    """A run and step as stated by a text; ``None`` where the text does not say.

    ``varied`` tells what a seed in the name varies: ``"data"``, ``"weight"`` or
    ``""`` (both, or unknown).
    """

    model: str
    seed: int | None = None
    step: int | None = None
    varied: str = ""


@lru_cache(maxsize=4096)
def parse_run(name: str, pattern: re.Pattern[str] | None = None) -> RunLabel:
    """Read a model name, hub identifier or checkpoint folder.

    Parameters
    ----------
    name : str
        ``EleutherAI/pythia-410m-seed3``, ``runs/tiny-seed2/checkpoint-500``, ...
    pattern : re.Pattern, optional
        With named groups ``model`` and, optionally, ``seed`` and ``step``; searched in
        the whole text in place of the built-in rules.

    Raises
    ------
    ReadError
        ``pattern`` does not match.

    Examples
    --------
    >>> parse_run("EleutherAI/pythia-410m-seed3")
    RunLabel(model='pythia-410m', seed=3, step=None, varied='')
    >>> parse_run("runs/tiny-seed2/checkpoint-500")
    RunLabel(model='tiny', seed=2, step=500, varied='')
    """
    if pattern is not None:
        match = pattern.search(name)
        if match is None:
            raise ReadError(f"the pattern {pattern.pattern!r} does not match {name!r}")
        found = match.groupdict()
        seed, step = found.get("seed"), found.get("step")
        return RunLabel(found["model"], int(seed) if seed else None, int(step) if step else None)
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    step = None
    while len(parts) > 1 and (match := STEP.search(parts[-1])) and not STEP.sub("", parts[-1]).strip("-_."):
        step = int(match["step"])
        parts.pop()
    base = parts[-1] if parts else name
    if step is None and (match := STEP.search(base)):
        step = int(match["step"])
        base = STEP.sub("", base)
    base = base.replace("pythia-v1.1-", "pythia-").replace("pythia-v1-", "pythia-")
    match = _SEED.search(base)
    if match is None:
        return RunLabel(base.strip("-_."), None, step)
    varied = (match["kind"] or "").lower()
    kept = f"-{varied}-seed" if varied else ""
    model = (base[: match.start()] + kept + base[match.end() :]).strip("-_.")
    return RunLabel(model or base, int(match["seed"]), step, varied)


def step_of(text: str) -> int | None:
    """The step that a revision or file name states, if it does."""
    match = STEP.search(text)
    return int(match["step"]) if match else None


def shots_of(text: str) -> frozenset[int]:
    """Every number of shots that a text states: ``5shot``, ``zero-shot``."""
    return frozenset(_shot_count(match["shots"]) for match in _SHOTS.finditer(text))


def without_shots(text: str) -> str:
    """A text without its ``-5shot``."""
    return _SHOTS.sub("", text)


@dataclass(frozen=True)
class PathClaims:
    """What the folders and the name of a file say about its content.

    ``models`` are the parts that look like a model (they hold a size such as
    ``410m``), reduced by :func:`model_words`; ``bare`` are those of them without a
    seed, with their depth; ``seeded`` those with one.
    """

    steps: frozenset[int] = frozenset()
    seeds: frozenset[int] = frozenset()
    shots: frozenset[int] = frozenset()
    models: frozenset[str] = frozenset()
    bare: frozenset[tuple[int, str]] = frozenset()
    seeded: frozenset[tuple[int, str]] = frozenset()

    def __or__(self, other: PathClaims) -> PathClaims:
        return PathClaims(
            self.steps | other.steps,
            self.seeds | other.seeds,
            self.shots | other.shots,
            self.models | other.models,
            self.bare | other.bare,
            self.seeded | other.seeded,
        )


NO_CLAIMS = PathClaims()


@lru_cache(maxsize=65536)
def folder_claims(folder: str) -> PathClaims:
    """The labels that a path of folders (with ``/``) states, part by part."""
    head, _, last = folder.rpartition("/")
    claims = part_claims(last, folder.count("/"))
    if not head:
        return claims
    return folder_claims(head) if claims is NO_CLAIMS else folder_claims(head) | claims


# The plain names that the harness gives its files; they state nothing.
_PLAIN_NAME = re.compile(r"(?:eval_)?results(?:_[\d.T:-]+)?")


def part_claims(part: str, depth: int) -> PathClaims:
    """The labels that one part of a path states."""
    if _PLAIN_NAME.fullmatch(part):
        return NO_CLAIMS
    seeds = frozenset(int(match["seed"]) for match in _SEED.finditer(part))
    sized = SIZE.search(part.replace("_", "-")) is not None
    names = frozenset({model_words(part)} if sized else ())
    placed = frozenset((depth, name) for name in names)
    return PathClaims(
        frozenset(int(match["step"]) for match in STEP.finditer(part)),
        seeds,
        shots_of(part),
        names,
        frozenset() if seeds else placed,
        placed if seeds else frozenset(),
    )


def claims_above(folder: Path, models: frozenset[str]) -> PathClaims:
    """What the folders that hold a tree state, from the tree's own folder upwards.

    Only folders whose name is nothing but a label count (``step1000``, ``zero-shot``, or
    one of ``models``, as ``pythia-410m-seed3``), and only as long as there are such:
    ``~/410m-work/seed2-notes`` says nothing about the results in it.
    """
    claims = NO_CLAIMS
    for height, above in enumerate((folder, *folder.parents), 1):
        rest = STEP.sub("", _SHOTS.sub("", _SEED.sub("", above.name))).strip("-_.")
        if rest and model_words(above.name) not in models:
            break
        claims |= part_claims(above.name, -height)
    return claims


def contradicts(claim: str, model: str, known: frozenset[str]) -> bool:
    """Whether a path's ``claim`` names another model than ``model``.

    It does if it is the name of another model met in the same tree, states another
    size, or has a word such as ``deduped`` that ``model`` lacks. Other extra words
    (``evals``, ``run2``) are no claim.
    """
    own = model_words(model)
    if claim == own:
        return False
    if claim in known:
        return True
    said, true = _size_of(claim), _size_of(own)
    if said != true and OLD_SIZES.get(said) != true and OLD_SIZES.get(true) != said:
        return bool(true)
    return bool((_words(claim) & VARIANTS) - _words(own))


@lru_cache(maxsize=4096)
def model_words(text: str) -> str:
    """The form in which models of a path and of a file's content are compared.

    Without organisation, seed (the kind that varies is kept), step, shots and the
    ``v1.1`` of Pythia's first names, in small letters.
    """
    text = text.rsplit("__", 1)[-1].lower()
    text = _SEED.sub(lambda match: f"-{match['kind']}" if match["kind"] else "", text)
    text = _SHOTS.sub("", STEP.sub("", text))
    text = re.sub(r"[-_]v1(\.1)?(?=[-_]|$)", "", text).replace("_", "-")
    return re.sub(r"-+", "-", text.removesuffix("-seed")).strip("-.")


def _words(text: str) -> set[str]:
    return set(re.split(r"[-_]", text))


def _size_of(text: str) -> str:
    match = SIZE.search(text)
    return match[0].lower() if match else ""


def _shot_count(text: str) -> int:
    return _WORDS[text.lower()] if text.lower() in _WORDS else int(text)
