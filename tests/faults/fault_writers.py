"""Every writer of the product, as the tests of faults use it: prepare, write the old or the new, look what stands there.

Each writes below one folder. ``look`` gives what the folder holds ("old", "new" or "none") after it has opened and
validated all of it, or says in other words what is wrong.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import xarray as xr

import polystab as ps
from polystab.cube.catalog import add_cubes
from polystab.cube.registries import read_registry
from polystab.cube.release import release
from polystab.cube.store import open_tree, validate_file
from polystab.files import write_text
from polystab.testing import synthetic_cube

sys.path.append(str(Path(__file__).parents[1] / "sources"))  # for measurers_for_tests

OLD, NEW = "old", "new"
NUMBER = {OLD: 0, NEW: 1}


@dataclass(frozen=True)
class Writer:
    """``write(folder, which)`` and ``look(folder)``; ``prepare(folder)`` makes what they need."""

    write: Callable[[Path, str], Any]
    look: Callable[[Path], str]
    prepare: Callable[[Path], Any] = lambda folder: None


@cache
def cube_of(which: str) -> xr.Dataset:
    cube = synthetic_cube(n_models=1, n_seeds=3, rng=NUMBER[which]).load()
    return cube.assign_attrs(created="2026-01-01T00:00:00+00:00", license="CC0-1.0")


@cache
def tree_of(which: str) -> xr.DataTree:
    """A cube with groups, large enough that most of the time goes into writing it."""
    rng = np.random.default_rng(NUMBER[which])
    group = xr.Dataset(
        {
            "noise": (("item", "draw"), rng.normal(size=(200, 2000))),
            "text": ("item", [f"item {n}" for n in range(200)]),
        },
        coords={"item": np.arange(200)},
    )
    return xr.DataTree.from_dict({"/": cube_of(which), "/mine": group, "/other/deep": group.isel(draw=slice(3))})


def seen(found: Any, of: Callable[[str], Any]) -> str:
    return next((which for which in (OLD, NEW) if found.identical(of(which))), "neither the old nor the new")


def look_at_file(path: Path, of: Callable[[str], Any]) -> str:
    """Which cube a file holds, once it is opened both ways, read and validated."""
    if not path.exists():
        return "none"
    if violations := validate_file(path):
        return f"violations: {violations}"
    with ps.open_cube(path) as cube, open_tree(path) as tree:
        found = tree.load() if isinstance(of(OLD), xr.DataTree) else cube.load()
        return seen(found, of) if cube.load().identical(tree.to_dataset().load()) else "opens in two ways"


def save(folder: Path, which: str) -> None:
    ps.save_cube(cube_of(which), folder / "cube.nc")


def save_tree(folder: Path, which: str) -> None:
    ps.save_cube(tree_of(which), folder / "cube.nc")


# Pages and other texts


def write_report(folder: Path, which: str) -> None:
    ps.report(cube_of(which), folder / "page.md", sections=["final"])


@cache
def page_of(which: str) -> str:
    return str(ps.report(cube_of(which), format="md", sections=["final"]))


def look_at_text(name: str, of: Callable[[str], str]) -> Callable[[Path], str]:
    def look(folder: Path) -> str:
        if not (folder / name).exists():
            return "none"
        text = (folder / name).read_text()
        return next((which for which in (OLD, NEW) if text == of(which)), "neither the old nor the new")

    return look


def run_command(folder: Path, which: str) -> int:
    """The command line: ``merge -o``, as a user would call it; gives the exit code."""
    from polystab.cli import main

    try:
        main(["merge", str(folder / f"given-{which}.nc"), "-o", str(folder / "cube.nc"), "--overwrite"])
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def prepare_command(folder: Path) -> None:
    for which in (OLD, NEW):
        ps.save_cube(cube_of(which), folder / f"given-{which}.nc")


def look_at_command(folder: Path) -> str:
    if not (folder / "cube.nc").exists():
        return "none"
    with ps.open_cube(folder / "cube.nc") as cube:
        found = cube["value"].load()
    return next((w for w in (OLD, NEW) if found.equals(cube_of(w)["value"])), "neither the old nor the new")


# Releases and registries


def release_again(folder: Path, which: str) -> None:
    """The same version with other content."""
    release(cube_of(which), folder / "released", name="mine", version="1.0", overwrite=True)


def release_next(folder: Path, which: str) -> None:
    """Another version beside the first, without leave to overwrite."""
    release(cube_of(which), folder / "released", name="mine", version=f"1.{NUMBER[which]}")


def release_next_too(folder: Path, which: str) -> None:
    """The first version, with the content of the second."""
    assert which == NEW
    release(cube_of(NEW), folder / "released", name="mine", version="1.0")


def release_named(folder: Path, which: str) -> None:
    """A cube of the name that is said."""
    release(cube_of(OLD), folder / "released", name=which, version="1.0")


def add_named(folder: Path, which: str) -> None:
    """The registry of a folder below ``made``, without leave to replace."""
    os.environ["POLYSTAB_DATA"] = str(folder / "data")
    add_cubes(folder / "made" / which)


def listed(folder: Path) -> str:
    """The labels of the registry in ``released``, after each file was compared with its checksum."""
    entries = read_registry(folder / "released").entries
    wrong = [e.label for e in entries if sha256_of(folder / "released" / f"{e.name}-{e.version}.nc") != e.sha256]
    return f"wrong: {wrong}" if wrong else " ".join(sorted(entry.label for entry in entries))


def added(folder: Path) -> str:
    """The cubes of all registries that were added."""
    os.environ["POLYSTAB_DATA"] = str(folder / "data")
    return " ".join(sorted(label for label in ps.list_cubes().index if label.startswith(("mine", "only"))))


def look_at_release(folder: Path) -> str:
    """The last listed version, after every listed file and card has been compared with its checksum."""
    if not (folder / "released" / "registry.json").exists():
        return "none"
    found = "none"
    for entry in read_registry(folder / "released").entries:
        path = folder / "released" / f"{entry.name}-{entry.version}.nc"
        with ps.open_cube(path) as cube:
            values = cube["value"].load()
        for name, sha256 in ((path.name, entry.sha256), (f"{path.stem}.md", entry.card_sha256)):
            if sha256_of(folder / "released" / name) != sha256:
                return f"{name} is listed with another checksum"
        found = next((w for w in (OLD, NEW) if values.equals(cube_of(w)["value"])), "neither the old nor the new")
    return found


def look_at_both_releases(folder: Path) -> str:
    found = look_at_release(folder)
    kept = [entry.version for entry in read_registry(folder / "released").entries] if found != "none" else []
    return found if kept in ([], ["1.0"], ["1.0", "1.1"]) else f"lists {kept}"


def sha256_of(path: Path) -> str:
    from polystab.cube.fetching import file_sha256

    return file_sha256(path)


def prepare_registries(folder: Path) -> None:
    for which in (OLD, NEW):
        release(cube_of(which), folder / "made" / which, name="mine", version="1.0")
        release(cube_of(which), folder / "made" / which, name=f"only-{which}", version="1.0")


def add_registry(folder: Path, which: str) -> None:
    os.environ["POLYSTAB_DATA"] = str(folder / "data")
    add_cubes(folder / "made" / which, replace=True)


def look_at_registries(folder: Path) -> str:
    """Whose ``mine`` is loaded; what either registry has alone must never be lost once it was there."""
    os.environ["POLYSTAB_DATA"] = str(folder / "data")
    known = set(ps.list_cubes().index)
    if "mine" not in known:
        return "none"
    if "only-old" not in known:
        return f"only {sorted(known)}"
    with ps.load_cube("mine") as cube:
        found = cube["value"].load()
    return next((w for w in (OLD, NEW) if found.equals(cube_of(w)["value"])), "neither the old nor the new")


def fetch(folder: Path, which: str) -> None:
    """Load the cube of a registry on the web into the cache; ``folder/address`` says where."""
    os.environ["POLYSTAB_DATA"] = str(folder / "data")
    add_cubes(f"{(folder / 'address').read_text()}/{which}/registry.json", replace=True)
    ps.load_cube("mine").close()


def look_at_cache(folder: Path) -> str:
    """Every cube of the cache, without the network: what has the name must be whole."""
    kept = sorted((folder / "data").glob("*.nc"))
    for path in kept:
        if not sha256_of(path).startswith(path.stem.rpartition("-")[2]):
            return f"{path.name} is not what its name says"
    shas = {which: sha256_of(folder / "made" / which / "mine-1.0.nc")[:12] for which in (OLD, NEW)}
    return next((w for w in (NEW, OLD) if any(shas[w] in path.name for path in kept)), "none")


# Units, run tables, logs, references of branches


def fill(folder: Path, which: str) -> None:
    """Measure seed 0 (old), or both seeds (new)."""
    from measurers_for_tests import Toy

    seeds = [0] if which == OLD else [0, 1]
    result = ps.fill(Toy(items=1500), runs=folder / "runs.csv", output=folder / "out", seeds=seeds)
    assert not result.failed


def prepare_fill(folder: Path) -> None:
    from measurers_for_tests import make_checkpoints

    from polystab.sources.runs import write_runs

    write_runs(make_checkpoints(folder / "checkpoints", steps=(0, 4)), folder / "runs.csv")
    (folder / "out").mkdir()


def look_at_units(folder: Path) -> str:
    """Join the units: seed 0 of the old fill must always be there and whole."""
    from polystab.errors import ReadError
    from polystab.sources.joining import join_units

    try:
        tree = join_units(folder / "out")
    except ReadError:
        return "none"
    value = tree["value"].sel(metric="eval/toy/acc").isel(model=0)
    wrong = [int(seed) for seed in value["seed"] if not _as_measured(value.sel(seed=seed))]
    if wrong:
        return f"wrong values of seeds {wrong}"
    whole = value.notnull().all("step")
    complete = {int(seed) for seed in value["seed"] if bool(whole.sel(seed=seed)) and value.sizes["step"] == 2}
    return NEW if complete == {0, 1} else OLD if 0 in complete else "none"


def _as_measured(value: xr.DataArray) -> bool:
    expected = 100.0 * int(value["seed"]) + value["step"]
    return bool((value.isnull() | (value == expected)).all())


def table_of(which: str) -> Any:
    from polystab.sources.runs import Run, RunTable

    seeds = range(40 if which == OLD else 80)
    return RunTable(tuple(Run("toy", n, n, n, f"/somewhere/seed{n}/step{{step}}", "", (0, 1), {}) for n in seeds))


def save_runs(folder: Path, which: str) -> None:
    from polystab.sources.runs import write_runs

    write_runs(table_of(which), folder / "runs.csv")


def look_at_runs(folder: Path) -> str:
    from polystab.sources.runs import read_runs

    if not (folder / "runs.csv").exists():
        return "none"
    found = len(tuple(read_runs(folder / "runs.csv", find_steps=False)))
    return {40: OLD, 80: NEW}.get(found, f"{found} runs")


ROWS = {OLD: 20, NEW: 40}


def log_rows(folder: Path, which: str) -> None:
    """Go on with the log of a run at the row where it stands, as a trainer does after a kill."""
    from polystab.errors import OutputError
    from polystab.monitor.logbook import Logbook

    book = Logbook(folder / "log.jsonl")
    rows = book.start(ROWS[OLD] if which == NEW else 0)
    for step in range(len(rows) + 1, ROWS[which] + 1):
        book.write({"step": step, "loss": 1.0 / step})
        if book.lost:  # a training would go on; here what is on the disk by now is looked at
            raise OutputError(f"cannot write {book.path}")
    book.close()


def look_at_log(folder: Path) -> str:
    """The rows of the old part must be there; of the new one as many as were written, the last perhaps cut."""
    from polystab.monitor.tail import LogTail

    if not (folder / "log.jsonl").exists():
        return "none"
    tail = LogTail(folder / "log.jsonl")
    steps = [row.step for row in tail.read(last=True)]
    tail.close()
    if steps != list(range(1, len(steps) + 1)):
        return f"steps {steps}"
    return NEW if len(steps) == ROWS[NEW] else OLD if len(steps) >= ROWS[OLD] else f"{len(steps)} rows"


COMMITS = {OLD: "a" * 40, NEW: "b" * 40}


def remember_branch(folder: Path, which: str) -> None:
    from polystab.sources.hub import _unwritable
    from polystab.sources.hub_cache import HubCache

    try:
        HubCache(folder / "hub").remember("me/toy", "step1000", COMMITS[which])
    except OSError as error:  # as fetching a checkpoint says it
        raise _unwritable(folder, error) from error


def look_at_branches(folder: Path) -> str:
    """What the cache, and huggingface_hub, take a branch to be."""
    from polystab.sources.hub_cache import HubCache

    cache = HubCache(folder / "hub")
    names = cache.revisions("me/toy")
    if names not in ([], ["step1000"]):
        return f"branches {names}"
    sha = cache.commit("me/toy", "step1000")
    return next((which for which in (OLD, NEW) if COMMITS[which] == sha), "none" if not names else f"commit {sha!r}")


# Training


def train_suite(folder: Path, which: str) -> None:
    """Two runs of six updates that keep their checkpoints: the first of them, then both."""
    from polystab.suites.recipes import Recipe, Suite, SuiteRun
    from polystab.suites.train import train

    recipe = Recipe("tiny", 16, 1, 1, steps=4, batch_size=4, every=2, context=16)
    suite = Suite("toy", "A toy.", "A run.", (SuiteRun(recipe, 0, 0, 0),))
    if which == NEW:
        train(suite, folder / "suite", device="cpu")


def look_at_suite(folder: Path) -> str:
    """Every checkpoint that stands there can be opened, and its weights are those of an undisturbed training."""
    from polystab.sources.runs import read_runs

    if not (folder / "suite" / "logs").exists():
        return OLD
    for checkpoint in sorted((folder / "suite").glob("checkpoints/*/*/step*")):
        if fault := _checkpoint_fault(checkpoint, folder):
            return fault
    finished = list((folder / "suite" / "logs").rglob("*.csv"))
    if not finished:
        return OLD
    steps = [step for run in read_runs(folder / "suite" / "runs.csv") for step in run.steps]
    if len(list((folder / "suite").glob("checkpoints/*/*/step*"))) != len(steps):
        return "says that it is finished, and lacks checkpoints"
    return NEW


def _checkpoint_fault(checkpoint: Path, folder: Path) -> str:
    whole = folder / "whole" / checkpoint.relative_to(folder / "suite")
    for path in sorted(whole.iterdir()):
        other = checkpoint / path.name
        if not other.is_file():
            return f"{checkpoint.name} lacks {path.name}"
        if other.read_bytes() != path.read_bytes():
            return f"{path.name} of {checkpoint.name} is another"
    return ""


def prepare_suite(folder: Path) -> None:
    train_suite(folder, NEW)
    (folder / "suite").rename(folder / "whole")


def write_plain(folder: Path, which: str) -> None:
    write_text(folder / "plain.txt", plain_of(which))


def plain_of(which: str) -> str:
    return json.dumps({"which": which, "much": list(range(5000))})


WRITERS: dict[str, Writer] = {
    "text": Writer(write_plain, look_at_text("plain.txt", plain_of)),
    "cube": Writer(save, lambda folder: look_at_file(folder / "cube.nc", cube_of)),
    "tree": Writer(save_tree, lambda folder: look_at_file(folder / "cube.nc", tree_of)),
    "report": Writer(write_report, look_at_text("page.md", page_of)),
    "command": Writer(run_command, look_at_command, prepare_command),
    "release-again": Writer(release_again, look_at_release),
    "release-next": Writer(release_next, look_at_both_releases),
    "registry": Writer(add_registry, look_at_registries, prepare_registries),
    "download": Writer(fetch, look_at_cache, prepare_registries),
    "release-next-too": Writer(release_next_too, look_at_release),
    "release-named": Writer(release_named, listed),
    "registry-named": Writer(add_named, added, prepare_registries),
    "fill": Writer(fill, look_at_units, prepare_fill),
    "runs": Writer(save_runs, look_at_runs),
    "log": Writer(log_rows, look_at_log),
    "branch": Writer(remember_branch, look_at_branches),
    "train": Writer(train_suite, look_at_suite, prepare_suite),
}


def warm() -> None:
    """Make now what all children need, so that their time goes into writing."""
    with TemporaryDirectory() as folder:
        for which in (OLD, NEW):
            tree_of(which), page_of(which)
            save_tree(Path(folder), which)
            look_at_file(Path(folder) / "cube.nc", tree_of)


# What a folder may hold beside the old and the new: a version that is replaced is withdrawn first, so that the registry
# at no moment lists what is not there.
BETWEEN = {"release-again": ("none",)}


def fault_of(writer: str, found: str) -> str:
    """Empty if a writer may leave its folder like that."""
    return "" if found in (OLD, NEW, *BETWEEN.get(writer, ())) else found
