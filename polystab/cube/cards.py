"""The data card of a released cube: what it is and what to know before using it, from the cube itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from polystab.cube.audit import audit_entries
from polystab.cube.describe import coverage_sentence
from polystab.cube.specs import GROUPS
from polystab.cube.validate import as_cube

if TYPE_CHECKING:
    from polystab.cube.registries import CatalogEntry

# Rows of the tables of models and of findings; the cube has the rest.
MOST_ROWS = 40
MOST_FINDINGS = 10
LONGEST_HISTORY = 600


def release_card(
    cube: xr.Dataset | xr.DataTree, entry: CatalogEntry, *, checks: Mapping[str, Sequence[str]] | None = None
) -> str:
    """The data card of a cube that is released as ``entry``, in Markdown.

    Parameters
    ----------
    cube : xarray.Dataset or xarray.DataTree
        As it is released. The values are read once.
    entry : CatalogEntry
        Name, version, checksum, size and licence.
    checks : mapping of str to sequence of str, optional
        Findings about the data by severity. None: the card says that nobody looked.

    Returns
    -------
    str
        The same for the same cube.
    """
    attrs = as_cube(cube).attrs
    measured = as_cube(cube)["value"].notnull().transpose("model", "seed", "step", "metric").values
    parts = [
        f"# {_plain(attrs.get('title') or entry.name)}",
        str(attrs.get("summary") or "").replace("<", "&lt;").strip(),
        _facts(entry),
        "## Contents\n\n" + _families(cube, measured) + _groups(cube),
        "## Coverage\n\n" + coverage_sentence(cube) + "\n\n" + _models(cube, measured),
        "## What varies between seeds\n\n" + _seeds(cube, measured),
        "## Provenance\n\n" + _provenance(attrs),
        "## Audit\n\n" + _audit(cube) + "\n\n" + _checks(checks),
        "## How to cite\n\n" + _citation(attrs, entry),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _facts(entry: CatalogEntry) -> str:
    return (
        f"- name and version: `{entry.label}`\n- licence of the data: {_plain(entry.license)}\n"
        f"- file: `{entry.address}`, {entry.size:,} bytes, netCDF-4\n- SHA-256: `{entry.sha256}`\n\n"
        f"After `polystab cubes add` with the address of the registry beside it:\n\n"
        f'    cube = polystab.load_cube("{entry.label}")'
    )


def _families(cube: xr.Dataset | xr.DataTree, measured: Any) -> str:
    data = as_cube(cube)
    family, metrics = data["family"].values, data["metric"].values
    rows = []
    for name in dict.fromkeys(family.tolist()):
        among = family == name
        some = ", ".join(f"`{metric}`" for metric in metrics[among][:3].tolist())
        rows.append([name, int(among.sum()), f"{100 * measured[..., among].mean():.3g} %", some])
    return _table(["family", "metrics", "measured", "such as"], rows)


def _groups(cube: xr.Dataset | xr.DataTree) -> str:
    if not isinstance(cube, xr.DataTree) or not cube.children:
        return "\n\nThere are no detail groups."
    known = {group.name: group.doc for group in GROUPS}
    lines = []
    for name in sorted(map(str, cube.children)):
        sizes = ", ".join(
            f"{size:,} {dim}" for dim, size in cube.children[name].to_dataset(inherit=False).sizes.items()
        )
        lines.append(f"- `{name}`: {known.get(name, 'see its variables')}{f' ({sizes})' if sizes else ''}")
    return "\n\nDetail groups (`polystab.load_tree`):\n\n" + "\n".join(lines)


def _models(cube: xr.Dataset | xr.DataTree, measured: Any) -> str:
    data = as_cube(cube)
    steps = data["step"].values
    rows = []
    for number, model in enumerate(data["model"].values.tolist()):
        one = measured[number]
        there, at = one.any(axis=(1, 2)), steps[one.any(axis=(0, 2))]
        span = f"{at[0]:,} to {at[-1]:,} ({len(at):,})" if len(at) else "none"
        share = one[there].mean() if there.any() else 0.0
        rows.append([f"`{model}`", int(there.sum()), span, f"{100 * share:.3g} %"])
    more = f"\n\nand {len(rows) - MOST_ROWS:,} more models." if len(rows) > MOST_ROWS else ""
    return _table(["model", "runs", "steps (how many)", "cells of its runs measured"], rows[:MOST_ROWS]) + more


def _seeds(cube: xr.Dataset | xr.DataTree, measured: Any) -> str:
    data, runs = as_cube(cube), measured.any(axis=(2, 3))
    said = {}
    for name, what in (("weight_seed", "initialisations"), ("data_seed", "data orders")):
        if name not in data:
            said[what] = "not known"
            continue
        values = data[name].transpose("model", "seed").values[runs]
        unknown = int((values < 0).sum())
        count = len(np.unique(values[values >= 0]))
        said[what] = f"{count:,} distinct in {len(values) - unknown:,} runs" + (
            f", not known of {unknown:,} runs" if unknown else ""
        )
    return "\n".join(f"- {what}: {text}" for what, text in said.items())


def _provenance(attrs: Mapping[Any, Any]) -> str:
    rows = {
        "source": attrs.get("source") or "not known",
        "first made": attrs.get("created"),
        "made with": f"polystab {attrs.get('polystab_version')}, schema {attrs.get('polystab_schema')}",
        "history": _shortened("; ".join(str(attrs.get("history") or "").splitlines())),
    }
    return "\n".join(f"- {name}: {_plain(text)}" for name, text in rows.items() if text)


def _audit(cube: xr.Dataset | xr.DataTree) -> str:
    entries = audit_entries(cube) if isinstance(cube, xr.DataTree) else []
    if not entries:
        return "The cube has no record of the files that it was made from."
    counts = Counter((entry.status, entry.reason) for entry in entries)
    rows = [[status, reason or "", f"{count:,}"] for (status, reason), count in sorted(counts.items())]
    return "What happened to the files that were read (group `audit`):\n\n" + _table(["", "reason", "entries"], rows)


def _checks(checks: Mapping[str, Sequence[str]] | None) -> str:
    if checks is None:
        return "The values were not checked for copies, restarts and the like (`polystab audit`) for this card."
    if not any(checks.values()):
        return "`polystab audit` found nothing."
    counts = ", ".join(f"{len(found):,} {severity}" for severity, found in checks.items() if found)
    listed = [f"- {severity}: {_plain(text)}" for severity, found in checks.items() for text in found]
    more = f"\n- and {len(listed) - MOST_FINDINGS:,} more" if len(listed) > MOST_FINDINGS else ""
    return f"`polystab audit` found: {counts}.\n\n" + "\n".join(listed[:MOST_FINDINGS]) + more


def _citation(attrs: Mapping[Any, Any], entry: CatalogEntry) -> str:
    title, references = _plain(attrs.get("title") or entry.name), _plain(attrs.get("references") or "")
    own = f"{title} (cube `{entry.name}`, version {entry.version}, SHA-256 `{entry.sha256[:16]}`)."
    works = f"The works that the data come from: {references}" if references else "No work to cite is stated."
    return f"This file: {own}\n\n{works}"


def _plain(text: object) -> str:
    """One line that Markdown takes as text."""
    line = " ".join(str(text).split())
    return line.replace("<", "&lt;").replace("|", "\\|")


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_HISTORY:
        return text
    return f"{text[:LONGEST_HISTORY]} ... (all of it is in the attribute history of the file)"


def _table(head: Iterable[Any], rows: Iterable[Iterable[Any]]) -> str:
    titles = [str(cell) for cell in head]
    lines = [titles, ["---"] * len(titles), *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
