"""Writers of releases, registries and the cache of downloads; see ``fault_writers.py``."""

from __future__ import annotations

import os
from pathlib import Path

from fault_cubes import NEW, NUMBER, OLD, cube_of

import polystab as ps
from polystab.cube.catalog import add_cubes
from polystab.cube.registries import read_registry
from polystab.cube.release import release


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
