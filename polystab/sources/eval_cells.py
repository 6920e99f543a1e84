"""Which row of a table goes to which cell of a cube, and which wins where several do."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from polystab.cube.audit import AuditLog
from polystab.cube.build import cell_label
from polystab.cube.labels import MetricId, model_order
from polystab.cube.specs import DIMS
from polystab.errors import SHOWN_LABELS, ConflictError, shown
from polystab.sources.duplicates import Settled, settle
from polystab.sources.eval_table import MetricKey, Source, Table

OnDuplicate = Literal["error", "latest", "earliest", "first", "last"]

Labels = npt.NDArray[Any]


@dataclass
class Cells:
    """Rows of a table that are wanted, with codes into the labels of the cube."""

    codes: dict[str, npt.NDArray[np.intp]]
    labels: dict[str, Labels]
    keys: list[MetricKey]
    value: npt.NDArray[np.float64]
    stderr: npt.NDArray[np.float64]
    owner: npt.NDArray[np.int32]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(len(self.labels[dim]) for dim in DIMS)

    def rows(self, chosen: npt.NDArray[np.intp]) -> Cells:
        """The same with only the ``chosen`` rows."""
        codes = {dim: code[chosen] for dim, code in self.codes.items()}
        return Cells(codes, self.labels, self.keys, self.value[chosen], self.stderr[chosen], self.owner[chosen])


def cells_of(table: Table) -> Cells:
    """Label every row of the files that are kept."""
    owner = np.frombuffer(table.owner, dtype=np.int32)
    keep = np.array([source.kept for source in table.sources], dtype=bool)[owner]
    owner = owner[keep]
    used = table.used()
    labels: dict[str, Labels] = {
        "model": np.array(sorted({source.model for source in used}, key=model_order), dtype=np.str_),
        "seed": np.array(sorted({source.seed for source in used}), dtype=np.int64),
        "step": np.array(sorted({source.step for source in used}), dtype=np.int64),
    }
    codes: dict[str, npt.NDArray[np.intp]] = {}
    for dim in ("model", "seed", "step"):
        place = {label: i for i, label in enumerate(labels[dim].tolist())}
        by_file = np.array([place.get(getattr(source, dim), -1) for source in table.sources], dtype=np.intp)
        codes[dim] = by_file[owner]
    codes["metric"], labels["metric"], keys = _metric_codes(table, np.frombuffer(table.metric, dtype=np.int32)[keep])
    value = np.frombuffer(table.value, dtype=np.float64)[keep]
    stderr = np.frombuffer(table.stderr, dtype=np.float64)[keep]
    stderr = np.where((stderr >= 0) & (stderr < np.inf), stderr, np.nan)
    return Cells(codes, labels, keys, value, stderr, owner)


def _metric_codes(
    table: Table, metric: npt.NDArray[np.int32]
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.str_], list[MetricKey]]:
    """Codes into the sorted metric ids that occur among ``metric``, the ids, and their parts."""
    keys = list(table.metrics)
    present = np.unique(metric).tolist()
    ids = {i: str(MetricId("eval", keys[i][0], keys[i][1], keys[i][3], keys[i][2])) for i in present}
    order = sorted(present, key=ids.__getitem__)
    rank = np.full(len(keys), -1, dtype=np.intp)
    rank[order] = np.arange(len(order))
    return rank[metric], np.array([ids[i] for i in order], dtype=np.str_), [keys[i] for i in order]


def settle_duplicates(cells: Cells, sources: list[Source], rule: OnDuplicate, log: AuditLog) -> Cells:
    """Keep one row for each cell; different values are settled by ``rule`` and kept in the audit.

    Raises
    ------
    ConflictError
        There are different values and the rule is ``"error"``, or goes by a time that
        the files do not state.
    """
    # In order of precedence, so that the last row of a cell is the one that stays.
    cells = cells.rows(np.argsort(_rank(sources, rule)[cells.owner], kind="stable"))
    flat = np.ravel_multi_index(tuple(cells.codes[dim] for dim in DIMS), cells.shape)
    settled = settle(flat, cells.value, cells.stderr, "last")
    if settled is None:
        return cells
    if len(settled.losing):
        _record_losses(cells, sources, flat, settled, rule, log)
    return cells.rows(settled.kept)


def _rank(sources: list[Source], rule: OnDuplicate) -> npt.NDArray[np.float64]:
    """Precedence of each file: the highest wins a cell."""
    if rule in ("latest", "earliest"):
        times = np.array([source.time for source in sources])
        return times if rule == "latest" else -times
    by_path = np.empty(len(sources))
    by_path[sorted(range(len(sources)), key=lambda i: sources[i].path)] = np.arange(len(sources))
    return -by_path if rule == "first" else by_path


def _record_losses(
    cells: Cells,
    sources: list[Source],
    flat: npt.NDArray[np.intp],
    settled: Settled,
    rule: OnDuplicate,
    log: AuditLog,
) -> None:
    lost: dict[tuple[int, int], dict[str, float]] = defaultdict(dict)
    for row, other in zip(settled.losing.tolist(), settled.against.tolist(), strict=True):
        pair = int(cells.owner[row]), int(cells.owner[other])
        cell, number = cell_label(int(flat[row]), cells.shape, cells.labels), float(cells.value[row])
        if number == cells.value[other]:
            cell, number = f"{cell}|stderr", float(cells.stderr[row])
        lost[pair][cell] = number
    if rule == "error":
        first = [
            f"{next(iter(values))} in {sources[a].path} and {sources[b].path}"
            for (a, b), values in list(lost.items())[:SHOWN_LABELS]
        ]
        raise ConflictError(
            f"{len(np.unique(flat[settled.losing]))} cells have different values in several files: {shown(first, total=len(lost))}. "
            "Choose --on-duplicate latest, earliest, first or last; what gives way is kept in the audit."
        )
    if rule in ("latest", "earliest"):
        _refuse_unclear_times(lost, sources, rule)
    for (a, b), values in lost.items():
        log.replace(sources[a].path, rule, values, by=sources[b].path, sha256=sources[a].sha256)


def _refuse_unclear_times(lost: Mapping[tuple[int, int], object], sources: list[Source], rule: str) -> None:
    undated = {sources[i].path for pair in lost for i in pair if math.isnan(sources[i].time)}
    tied = {sources[i].path for a, b in lost if sources[a].time == sources[b].time for i in (a, b)}
    if undated or tied:
        raise ConflictError(
            f"--on-duplicate {rule} goes by when each evaluation ran, but {shown(sorted(undated | tied))} do not say so, "
            "or say the same time; use first or last."
        )
