"""The readers under fuzz: what is fed to each, and what reads it."""

from __future__ import annotations

import gzip
import json
import os
import struct
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from fuzz_cases import Files, Reader
from fuzz_mutations import json_bytes, json_lines, patched, perhaps_packed
from hypothesis import strategies as st

import polystab as ps
from polystab.cube import netcdf_check
from polystab.cube.store import SEAL, validate_file
from polystab.cube.validate import check_cube
from polystab.errors import PolystabError
from polystab.sources.items import read_lm_eval_samples
from polystab.sources.probes.data import load_data
from polystab.sources.runs import read_runs
from polystab.sources.tables import read_table
from polystab.sources.tensor_files import check_weights, read_tensors, weight_files
from polystab.sources.unit_content import SEAL as UNIT_SEAL
from polystab.sources.unit_content import SEAL_LENGTH, zipped
from polystab.sources.units import read_unit
from polystab.testing import synthetic_cube

# What the readers are fed

_MOMENT = "2026-01-02T03-04-05.678901"


def _row(number: int) -> dict[str, Any]:
    return {
        "doc_id": number,
        "target": "0",
        "filtered_resps": [["-1.0", "False"], ["-2.0", "False"]],
        "filter": "none",
        "metrics": ["acc"],
        "doc_hash": f"{number:064x}",
        "acc": 1.0,
    }


NEW_DIALECT: dict[str, Any] = {
    "results": {"arc": {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.1, "acc_norm,none": 0.25}},
    "group_subtasks": {"arc": []},
    "configs": {"arc": {"task": "arc", "num_fewshot": 0}},
    "n-shot": {"arc": 0},
    "higher_is_better": {"arc": {"acc": True}},
    "n-samples": {"arc": {"original": 2, "effective": 2}},
    "config": {"model_args": "pretrained=org/tiny-70m-seed1,revision=step10", "limit": None, "num_fewshot": 0},
    "git_hash": "abc",
    "date": 1.0,
}
OLD_DIALECT: dict[str, Any] = {
    "results": {"arc": {"acc": 0.5, "acc_stderr": 0.1}, "wiki": {"word_perplexity": 20.5}},
    "versions": {"arc": 0},
    "config": {"model_args": {"iteration": 1000, "load": "/runs/pythia-70m/"}, "num_fewshot": 5, "limit": None},
}
FOLDERS = [
    "",
    "a/",
    "pythia-70m-seed1/step10/",
    "zero-shot/",
    "seed" + "9" * 30 + "/",
    "x" * 200 + "/",
    "\u00b2\u0663/",
]

TABLE = b"model,seed,step,eval/arc/acc,note\ntiny,0,0,0.5,x\ntiny,0,10,0.75,\ntiny,1,0,,y\ntiny,1,10,nan,\n"
LOGS: list[tuple[str, bytes]] = [
    ("log.csv", b"model,seed,step,loss,grad_norm\ntiny,0,0,10.5,1\ntiny,0,10,9.5,2\ntiny,1,0,10.25,nan\n"),
    ("log.tsv", b'run\tstep\tval_loss\n"a b"\t0\t10.9\nb\t100\t6.1\na b\t100\tinf\n'),
    ("wandb.csv", b'"Step","tiny-seed1 - loss","tiny-seed2 - loss","tiny-seed1 - loss__MIN"\n1,2.5,3.5,2\n2,2.25,,2\n'),
]
LOG_ROWS = [{"step": step, "train": {"loss": 9.5 - step}, "grad_norm": 1.0, "seed": 3} for step in range(3)]
STATE = {
    "global_step": 20,
    "log_history": [
        {"step": 10, "loss": 9.5, "learning_rate": 1e-3, "epoch": 0.1},
        {"step": 20, "eval_loss": 9.25, "eval_accuracy": 0.5},
        {"step": 20, "train_loss": 9.5, "train_runtime": 3.5},
    ],
}
RUNS = (
    b"model,seed,weight_seed,data_seed,location,revision,steps,learning_rate,n_parameters\n"
    b"tiny,0,0,0,runs/{model}/seed{seed}/step{step:06d},,0 1 2 10:100:10,0.001,70000\n"
    b'tiny,1,1,,org/{model}-seed{seed},step{step},"0,5",,\n'
)
CONLLU = (
    b"# sent_id = 1\n1-2\tdon't\t_\t_\t_\t_\t_\t_\t_\tSpaceAfter=No\n1\tdo\tdo\tAUX\t_\t_\t3\taux\t_\t_\n"
    b"2\tn't\tnot\tPART\t_\t_\t3\tadvmod:neg\t_\t_\n2.1\tgo\tgo\tVERB\t_\t_\t_\t_\t_\t_\n"
    b"3\tgo\tgo\tVERB\t_\t_\t0\troot\t_\t_\n\n"
)
WORDS = b"# word\tpos\na\tDET\ndog\tNOUN\n\nthe\tDET\ncat\tNOUN\n\nit\tPRON\nruns\tVERB\n"


@st.composite
def _eval_tree(draw: st.DrawFn) -> Files:
    names = draw(st.lists(st.sampled_from(FOLDERS), min_size=1, max_size=2, unique=True))
    originals = st.sampled_from([NEW_DIALECT, OLD_DIALECT])
    return {f"{name}results_{_MOMENT}.json": draw(json_bytes(draw(originals))) for name in names}


@st.composite
def _samples_tree(draw: st.DrawFn) -> Files:
    steady = draw(st.integers(0, 3)) > 0
    results = json.dumps(NEW_DIALECT, indent=2).encode() if steady else draw(json_bytes(NEW_DIALECT))
    rows = draw(json_lines([_row(0), _row(1)]))
    return {f"results_{_MOMENT}.json": results, f"samples_arc_{_MOMENT}.jsonl": rows}


@st.composite
def _log(draw: st.DrawFn) -> Files:
    kind = draw(st.integers(0, 2))
    if kind == 0:
        name, content = draw(st.sampled_from(LOGS))
        drawn = perhaps_packed(patched([content]))
    elif kind == 1:
        name, drawn = draw(st.sampled_from(["seed3.jsonl", "log.ndjson"])), perhaps_packed(json_lines(LOG_ROWS))
    else:
        return {"run-seed1/trainer_state.json": draw(json_bytes(STATE))}
    content = draw(drawn)
    return {name + (".gz" if content[:2] == b"\x1f\x8b" else ""): content}


@st.composite
def _safetensors(draw: st.DrawFn) -> Files:
    header = {
        "__metadata__": {"format": "pt"},
        "layers.0.weight": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        "layers.0.bias": {"dtype": "F16", "shape": [4], "data_offsets": [24, 32]},
    }
    text = draw(json_bytes(header))
    length = len(text) if draw(st.integers(0, 9)) else draw(st.sampled_from([0, 1, 2**31, 2**40, 2**63, 2**64 - 1]))
    content = struct.pack("<Q", length) + text + bytes(32)
    content = draw(patched([content], most=2)) if draw(st.integers(0, 3)) == 0 else content
    if draw(st.integers(0, 3)):
        return {"model.safetensors": content}
    index = {"metadata": {"total_size": 32}, "weight_map": {"layers.0.weight": "a.safetensors", "layers.0.bias": "b"}}
    return {"model.safetensors.index.json": draw(json_bytes(index)), "a.safetensors": content, "b": content}


@st.composite
def _unit(draw: st.DrawFn) -> Files:
    members = dict(_unit_members())
    for name in draw(st.lists(st.sampled_from(sorted(members)), max_size=2, unique=True)):
        original = members[name]
        members[name] = draw(json_bytes(json.loads(original)) if name.endswith("json") else patched([original], most=2))
    content = zipped(members)
    if draw(st.booleans()):  # damage that the checksum does not tell of
        body = draw(patched([content[:-SEAL_LENGTH]], most=2))
        content = body + UNIT_SEAL % zlib.crc32(body)
    return {"unit.npz": content}


@cache
def _unit_members() -> Mapping[str, bytes]:
    import io

    def npy(array: Any) -> bytes:
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=False)
        return stream.getvalue()

    variables = {
        "item": {"dims": ["item"], "shape": [2], "dtype": "U", "coordinate": True, "attrs": {}},
        "rank": {"dims": ["item"], "shape": [2], "dtype": "<f8", "coordinate": False, "attrs": {"units": "1"}},
    }
    head = {
        "format": 1,
        "key": ["evals", "tiny", 0, 10],
        "facts": {"weight_seed": 0, "data_seed": 0, "location": "x", "revision": "", "sha": "", "run": {}},
        "settings": "0",
        "notes": [["reason", "detail"]],
        "provenance": {"host": "x"},
    }
    return {
        "unit.json": json.dumps(head).encode(),
        "metrics.json": json.dumps(
            {"ids": ["eval/a/acc", "eval/b/acc"], "metrics": {"eval/a/acc": {"units": "1"}}}
        ).encode(),
        "values.npy": npy(np.array([0.5, np.nan])),
        "stderr.npy": npy(np.array([0.1, np.nan])),
        "details.json": json.dumps({"items": {"attrs": {}, "variables": variables}}).encode(),
        "details/items/item.json": b'["a/1", "a/2"]',
        "details/items/rank.npy": npy(np.array([1.0, 2.0])),
    }


@cache
def cube_bytes(*, tool: str = "") -> bytes:
    """A small cube with a detail group, as a file; without a checksum, and laid out in another way, if by another tool."""
    cube = synthetic_cube(n_seeds=2, steps=[0, 1, 2], rng=0)
    from polystab.cube.audit import AuditLog

    log = AuditLog()
    log.read("a.json", sha256="0" * 64, detail="one file")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cube.nc"
        tree = xr.DataTree.from_dict({"/": cube, "/audit": log.dataset()})
        if not tool:
            ps.save_cube(tree, path)
        elif tool == "contiguous":
            tree.to_netcdf(path, engine="netcdf4")  # of texts, HDF5's strings
        else:
            cube.drop_vars([name for name in cube.variables if cube[name].dtype.kind == "U"]).to_netcdf(
                path, engine="netcdf4", format=tool
            )
        return path.read_bytes()


@st.composite
def _netcdf(draw: st.DrawFn) -> Files:
    """A damaged cube; mostly one whose checksum is gone, or was made right again, so that HDF5 has to read it."""
    content = cube_bytes(tool=draw(st.sampled_from(["", "", "", "contiguous", "NETCDF3_64BIT"])))
    old = content[-len(SEAL % 0) :] if content.endswith(b"\n") and SEAL[:15] in content else b""
    body = bytearray(content[: len(content) - len(old)])
    for _ in range(draw(st.integers(0, 4))):
        kind, start = draw(st.integers(0, 4)), draw(st.integers(0, len(body)))
        if kind == 0:
            patch = draw(st.binary(min_size=1, max_size=16))
            body[start : start + len(patch)] = patch
        elif kind == 1:
            length = draw(st.sampled_from([1, 8, 64, 2048]))
            body[start : start + length] = bytes(len(body[start : start + length]))
        elif kind == 2:
            start -= start % 8
            body[start : start + 8] = struct.pack("<q", draw(st.sampled_from([-1, 1, 10**9, 2**31, 2**62])))
        elif kind == 3 and start < len(body):
            body[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == 4 and draw(st.integers(0, 3)) == 0:
            del body[start:]
    seal = draw(st.sampled_from([old, b"", b"", SEAL % zlib.crc32(body), SEAL % zlib.crc32(body)]))
    return {"cube.nc": bytes(body) + seal}


# What reads them


def _read_evals(folder: Path) -> None:
    _keep(ps.read_lm_eval(folder / "in", on_duplicate="last"), folder)


def _read_samples(folder: Path) -> None:
    _keep(read_lm_eval_samples(folder / "in", on_duplicate="last"), folder)


def _read_log(folder: Path) -> None:
    _keep(ps.read_training_log(folder / "in", model="tiny", on_duplicate="last"), folder)


def _read_table(folder: Path) -> None:
    _keep(read_table(folder / "in", model="tiny", on_duplicate="first"), folder)


def _keep(tree: Any, folder: Path) -> None:
    """What a reader gives can be saved, and opens again; looked at once in sixteen times, as it takes long."""
    check_cube(tree)
    if zlib.crc32(repr(tree.attrs.get("summary")).encode() + tree["value"].values.tobytes()) % 16:
        return
    (folder / "out").mkdir(exist_ok=True)
    try:
        ps.save_cube(tree, folder / "out" / "cube.nc")
        ps.open_tree(folder / "out" / "cube.nc").close()
    except PolystabError as error:
        raise AssertionError("what was read cannot be kept") from error


def _read_netcdf(folder: Path) -> None:
    path = folder / "in" / "cube.nc"
    if zlib.crc32(path.read_bytes()) % 100:  # else as it is for a user, which takes half a second
        netcdf_check._look_apart, netcdf_check.PATIENCE = _look_in_a_fork, 1
    for opener in (ps.open_cube, ps.open_tree):
        with suppress(PolystabError), opener(path) as opened, suppress(OSError, RuntimeError):
            opened.load()  # damaged values, met when they are read
    validate_file(path)


def _look_in_a_fork(path: str, depth: str) -> tuple[int, bytes]:
    """The same look, in a copy of this process, which has imported everything; only ever in a process for one case."""
    end, start = os.pipe()
    child = os.fork()
    if child == 0:
        status = 0
        sys.argv[1:] = [path, depth]
        try:
            exec(compile(netcdf_check._script(), "look", "exec"), {})
        except SystemExit as stopped:
            status = os.write(start, str(stopped.code).encode()) and 1
        except BaseException as error:  # noqa: BLE001
            status = os.write(start, repr(error).encode()[:1000]) and 1
        os._exit(status)
    os.close(start)
    with os.fdopen(end, "rb") as stream:
        said = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said


@cache
def _open_a_cube() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cube.nc"
        path.write_bytes(cube_bytes())
        with ps.open_cube(path) as cube:
            cube.load()
        validate_file(path)


@cache
def _import_torch() -> None:
    import safetensors  # noqa: F401
    import torch  # noqa: F401


def _read_weights(folder: Path) -> None:
    weights = weight_files(folder / "in")
    check_weights(weights)
    for _, tensor in read_tensors(weights):
        tensor.shape  # noqa: B018


def _read_runs(folder: Path) -> None:
    for run in read_runs(folder / "in" / "runs.csv", find_steps=False):
        run.place(10), run.revision_at(10)


def _read_texts(folder: Path) -> None:
    for path in sorted((folder / "in").iterdir()):
        for kind in ("conllu", "words", "texts"):
            try:
                load_data(f"{kind}:{path}", 1000).digest  # noqa: B018
            except PolystabError:
                continue


def _read_unit(folder: Path) -> None:
    read_unit(folder / "in" / "unit.npz")


READERS = {
    reader.name: reader
    for reader in (
        Reader("evals", _eval_tree(), _read_evals, prepare=_open_a_cube),
        Reader("samples", _samples_tree(), _read_samples, prepare=_open_a_cube),
        Reader("logs", _log(), _read_log, prepare=_open_a_cube),
        Reader(
            "tables",
            st.builds(lambda content: {"table.csv": content}, patched([TABLE])),
            _read_table,
            prepare=_open_a_cube,
        ),
        Reader("runs", st.builds(lambda content: {"runs.csv": content}, patched([RUNS])), _read_runs),
        Reader(
            "texts",
            st.builds(
                lambda name, content: {name: content}, st.sampled_from(["a.txt", "a.csv"]), patched([CONLLU * 4, WORDS])
            ),
            _read_texts,
        ),
        Reader("weights", _safetensors(), _read_weights, prepare=_import_torch),
        Reader("units", _unit(), _read_unit),
        Reader("netcdf", _netcdf(), _read_netcdf, forked=True, prepare=_open_a_cube),
    )
}


# The same readers over bytes: valid files to begin with, and the files that any bytes stand for

_CASE_OF_LOG = ["log.csv", "log.tsv", "seed3.jsonl", "run-seed1/trainer_state.json", "log.csv.gz"]


def _log_of(content: bytes) -> Files:
    return {_CASE_OF_LOG[content[0] % len(_CASE_OF_LOG) if content else 0]: content[1:]}


def _logs() -> list[bytes]:
    rows = b"\n".join(json.dumps(row).encode() for row in LOG_ROWS)
    tables = [(b"\1" if name.endswith(".tsv") else b"\0") + content for name, content in LOGS]
    return [*tables, b"\2" + rows, b"\3" + json.dumps(STATE).encode(), b"\4" + gzip.compress(LOGS[0][1], mtime=0)]


def _unit_of(content: bytes) -> Files:
    """A unit file of which one member holds these bytes, sealed."""
    members = dict(_unit_members())
    names = sorted(members)
    members[names[content[0] % len(names) if content else 0]] = content[1:]
    return {"unit.npz": zipped(members)}


def _units() -> list[bytes]:
    return [bytes([number]) + content for number, (_, content) in enumerate(sorted(_unit_members().items()))]


def _weights_of(content: bytes) -> Files:
    if content[:1] == b"{":
        return {"model.safetensors.index.json": content, "a.safetensors": b"\2" + bytes(7) + b"{}"}
    return {"model.safetensors": content}


def _weights() -> list[bytes]:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {}}).encode()
    index = {"metadata": {"total_size": 32}, "weight_map": {"a": "a.safetensors"}}
    return [struct.pack("<Q", len(header)) + header + bytes(24), json.dumps(index).encode()]


def _samples_of(content: bytes) -> Files:
    results = json.dumps(NEW_DIALECT).encode()
    return {f"results_{_MOMENT}.json": results, f"samples_arc_{_MOMENT}.jsonl": content}


AS_BYTES: dict[str, tuple[Callable[[], list[bytes]], Callable[[bytes], Files]]] = {
    "evals": (
        lambda: [json.dumps(document).encode() for document in (NEW_DIALECT, OLD_DIALECT)],
        lambda content: {f"results_{_MOMENT}.json": content},
    ),
    "samples": (lambda: [b"\n".join(json.dumps(_row(i)).encode() for i in range(2))], _samples_of),
    "logs": (_logs, _log_of),
    "tables": (lambda: [TABLE], lambda content: {"table.csv": content}),
    "runs": (lambda: [RUNS], lambda content: {"runs.csv": content}),
    "texts": (lambda: [CONLLU, WORDS], lambda content: {"a.txt": content}),
    "weights": (_weights, _weights_of),
    "units": (_units, _unit_of),
}
