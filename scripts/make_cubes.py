"""Make the bundled cubes anew, with their data cards and lines of the registry.

Usage: python scripts/make_cubes.py [NAME ...]          demo, nano, nano-factorial, nano-edge, nano-init; default all

The suites are trained, or what is left of them, in the user's cache folder (POLYSTAB_SUITES names another), on two
processes; all four take about two hours there. nano-init begins with checkpoints of nano, which it trains if nano
has not been.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pooch
import xarray as xr

from polystab.cube.merge import merge_cubes
from polystab.cube.store import save_cube
from polystab.errors import PolystabError
from polystab.files import write_text
from polystab.sources.fill import fill
from polystab.sources.joining import join_units
from polystab.suites.beginnings import begun_by_recipe
from polystab.suites.cards import data_card
from polystab.suites.cubes import suite_cube
from polystab.suites.measuring import DETAIL_STEPS, suite_measurers
from polystab.suites.recipes import suite, suites
from polystab.suites.train import CHECKPOINTS, train
from polystab.testing import demo_cube

CUBE = Path(__file__).resolve().parents[1] / "polystab" / "cube"
DATA = CUBE / "data"

# Measured while a suite is trained; and afterwards, from the checkpoints that are kept in the cache.
MEASURE = ("evals",)
# Without the weights of probes, and with measurements of float32 rounded to float32.
LIGHT = ("nano-factorial", "nano-edge")
# Made for one question, so without what it does not need: which wrong option was chosen, digits of the log that are
# noise, and the list of units that were read.
SHORT = ("nano-init",)
LEFT_OUT = "without the margins of items"
MORE_LEFT_OUT = {
    **dict.fromkeys(LIGHT, "without the margins of items and the weights of probes"),
    **dict.fromkeys(
        SHORT, "without margins and wrong choices of items and the list of units; its log is rounded to one in 2,000"
    ),
}
# At which steps; None for all.
FILLED: dict[str, dict[str, Sequence[int] | None]] = {
    "nano": dict.fromkeys(("probes", "weights", "activations", "directions", "embedding")),
    "nano-factorial": {"weights": None, "activations": None, "probes": DETAIL_STEPS},
    "nano-edge": {"weights": None, "activations": None, "probes": (0, 100, 200, 400, 800)},
}

SUMMARIES = {
    "demo": "SYNTHETIC: three toy models x ten seeds x 27 steps; one run goes wrong, one checkpoint is missing",
    "nano": "trained here: 3 sizes x 10 seeds x 31 steps, losses and four tasks, with items and logs",
    "nano-factorial": "trained here: 5 initialisations x 5 data orders, crossed, of one size",
    "nano-edge": "trained here: 72 runs at 6 learning rates, of which some spike and some never learn what others do",
    "nano-init": "trained here: 5 seeds each from the ordinary initialisation and from finished weights, permuted or drawn",
}


def main(names: list[str]) -> None:
    """Make the cubes of these names."""
    # So that the same code and libraries give the same bytes.
    os.environ.setdefault("SOURCE_DATE_EPOCH", "1795305600")
    for name in names or list(SUMMARIES):
        tree = xr.DataTree(demo_cube()) if name == "demo" else _trained(name)
        save_cube(tree, DATA / f"{name}.nc")
        if name in suites():
            card = data_card(tree, suite(name))
            write_text(DATA / f"{name}.md", card.replace(LEFT_OUT, MORE_LEFT_OUT.get(name, LEFT_OUT)))
        _register(name, str(tree.attrs["license"]))


def _trained(name: str) -> xr.DataTree:
    folder = Path(os.environ.get("POLYSTAB_SUITES") or Path(pooch.os_cache("polystab")) / "suites") / name
    folder.mkdir(parents=True, exist_ok=True)
    result = train(
        name,
        folder,
        jobs=2,
        measure=MEASURE,
        keep_checkpoints=True,
        init_from=_sources(name, folder.parent / "nano"),
        progress=lambda p: print(f"\r{name}: {p.runs_done} runs", end=""),
    )
    print(f"\n{name}: {result.seconds:.0f} s, {len(result.diverged)} diverged")
    if result.failed:
        raise PolystabError(f"{len(result.failed)} units of {name} failed, first {result.failed[0]}.")
    tree = suite_cube(folder)
    if name in FILLED:
        tree = enriched(tree, filled(folder, FILLED[name]))
    return trimmed(name, tree)


def _sources(name: str, nano: Path) -> str | None:
    """The pattern of the checkpoints of nano, if the suite begins with them and they are there."""
    pattern = str(nano / CHECKPOINTS)
    begun_with = begun_by_recipe(suite(name))
    last = [pattern.format(model=run.recipe.model, seed=run.seed, step=run.recipe.steps) for run in begun_with]
    return pattern if last and all(Path(folder).is_dir() for folder in last) else None


def enriched(tree: xr.DataTree, more: xr.DataTree) -> xr.DataTree:
    """The cube of a suite with what was measured afterwards; it stays the cube of that suite."""
    merged = merge_cubes([tree, more])
    merged.attrs |= {name: tree.attrs[name] for name in ("title", "summary", "source")}
    return merged


def filled(folder: Path, sources: Mapping[str, Sequence[int] | None]) -> xr.DataTree:
    """What other sources measure on the checkpoints that training kept."""
    output = folder / "filled"
    for steps in dict.fromkeys(sources.values()):
        together = [source for source, its in sources.items() if its == steps]
        result = fill(suite_measurers(together), runs=folder, output=output, jobs=2, steps=steps)
        if result.failed:
            raise PolystabError(f"{len(result.failed)} units failed, first {result.failed[0]}.")
    return join_units(output)


def trimmed(name: str, tree: xr.DataTree) -> xr.DataTree:
    """The tree without what would make it large: margins of items, probe weights of most steps; of some cubes more."""
    cube = tree.to_dataset()
    groups = {str(group): node.to_dataset() for group, node in tree.children.items()}
    # Margins do not compress; choice and correctness say what the analyses ask.
    groups["items"] = groups["items"].drop_vars("margin", errors="ignore")
    if name in SHORT:
        groups["items"] = groups["items"].drop_vars("choice")
        groups["log"] = groups["log"].map(lambda logged: rounded(logged, bits=10))
        del groups["audit"]
    if name in LIGHT:
        groups["probes"] = groups["probes"].drop_vars("weights")
        single = cube["value"].astype(np.float32).astype(np.float64)
        cube["value"] = cube["value"].where(~cube["family"].isin(("weight", "probe")), single)
    elif "probes" in groups:
        probes = groups["probes"]
        groups["probes"] = probes.assign(weights=probes["weights"].where(probes["step"].isin(DETAIL_STEPS)))
    return xr.DataTree.from_dict({"/": cube, **groups})


def rounded(logged: xr.DataArray, *, bits: int) -> xr.DataArray:
    """Values of float32 with so many binary digits after the first (10: one in 2,000), of which files get smaller."""
    rest = 23 - bits
    words = logged.values.astype(np.float32).view(np.uint32)
    near = (words + np.uint32(1 << (rest - 1))) & np.uint32(0xFFFFFFFF << rest & 0xFFFFFFFF)
    kept = np.where(np.isfinite(logged.values), near.view(np.float32), logged.values)
    comment = f"rounded to {bits} binary digits after the first"
    return logged.copy(data=kept).assign_attrs(comment=comment)


def _register(name: str, license_: str) -> None:
    content = (DATA / f"{name}.nc").read_bytes()
    line = {
        "name": name,
        "address": f"package:{name}.nc",
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "license": license_,
        "summary": SUMMARIES[name],
    }
    registry = CUBE / "registry.json"
    known = {each["name"]: each for each in json.loads(registry.read_text(encoding="utf-8"))} | {name: line}
    lines = sorted(known.values(), key=lambda each: list(SUMMARIES).index(each["name"]))
    write_text(registry, json.dumps(lines, indent=2) + "\n")
    print(f"{name}: {len(content) / 1e6:.2f} MB")


if __name__ == "__main__":
    unknown = [name for name in sys.argv[1:] if name not in SUMMARIES]
    if unknown:
        sys.exit(f"no bundled cube is called {unknown[0]!r}; there are {', '.join(SUMMARIES)}")
    main(sys.argv[1:])
