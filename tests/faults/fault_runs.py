"""Writers of units, run tables, logs, references of branches and trainings; see ``fault_writers.py``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import xarray as xr
from fault_cubes import NEW, OLD

import polystab as ps

sys.path.append(str(Path(__file__).parents[1] / "sources"))  # for measurers_for_tests


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
