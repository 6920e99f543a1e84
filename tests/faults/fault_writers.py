"""Every writer of the product, as the tests of faults use it: prepare, write the old or the new, look what stands there.

Each writes below one folder. ``look`` gives what the folder holds ("old", "new" or "none") after it has opened and
validated all of it, or says in other words what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fault_cubes import (
    NEW,
    OLD,
    cube_of,
    look_at_command,
    look_at_file,
    look_at_text,
    page_of,
    plain_of,
    prepare_command,
    run_command,
    save,
    save_tree,
    tree_of,
    write_plain,
    write_report,
)
from fault_releases import (
    add_named,
    add_registry,
    added,
    fetch,
    listed,
    look_at_both_releases,
    look_at_cache,
    look_at_registries,
    look_at_release,
    prepare_registries,
    release_again,
    release_named,
    release_next,
    release_next_too,
)
from fault_runs import (
    fill,
    log_rows,
    look_at_branches,
    look_at_log,
    look_at_runs,
    look_at_suite,
    look_at_units,
    prepare_fill,
    prepare_suite,
    remember_branch,
    save_runs,
    train_suite,
)


@dataclass(frozen=True)
class Writer:
    """``write(folder, which)`` and ``look(folder)``; ``prepare(folder)`` makes what they need."""

    write: Callable[[Path, str], Any]
    look: Callable[[Path], str]
    prepare: Callable[[Path], Any] = lambda folder: None


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
