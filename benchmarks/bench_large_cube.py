"""Cubes larger than memory: 20 GB are described, checked and summarised under 3 GB, and parts cost little.

Three files are made and deleted again:

- 20 GB of values, nearly all chunks of which were never written: they read as NaN, and take no disk;
- 1 GB of values and 1 GB of standard errors with real noise (``--dense GB`` for more), compressed as ps.save_cube does;
- a small one of the same kind, on which everything is done in parts and at once: the same result, and at what price.

``--folder`` says where (a few GB are needed). Every step runs in a fresh process that the operating system gives no
more than 3 GB (RLIMIT_DATA).
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
from pathlib import Path
from typing import Any

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# Where pandas finds pyarrow, its allocator sets 1 GiB of addresses aside, which the limit would count.
os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"

import numpy as np
from harness import in_fresh_process, print_ratio, report_line

LIMIT = 3_000_000_000
WARM = "import polystab.report.page, polystab.plots, scipy.special, scipy.stats, netCDF4, polystab.cube.store"
MODELS, SEEDS, STEPS = 10, 20, 500

# Metrics whose curves are segmented (200 runs each), and that are written in the file that is nearly empty.
CHANGED, WRITTEN = 1, 60

# Metrics whose curves are fitted, milliseconds each, or that are audited alone.
FITTED = 40

STEPS_OF_WORK = (
    *("info", "validate", "coverage", "fingerprint", "spread", "ranks", "components", "changes", "outliers"),
    *("audit", "audited", "windows", "asymptotes"),
)


def metric_names(n: int) -> list[str]:
    """Of the kind that weight statistics have."""
    measures = ("mean", "sd", "l2", "kurtosis", "stable_rank", "spectral_norm", "alpha", "l1", "median", "skewness")
    parts = ("attention.dense", "attention.query_key_value", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
    found = [f"eval/task_{k}/acc" for k in range(n // 10)]
    layer = 0
    while len(found) < n:
        found += [f"weight/layers.{layer}.{part}/{measure}" for part in parts for measure in measures]
        layer += 1
    return found[:n]


def curves(rng: np.random.Generator) -> Any:
    """One metric, (model, seed, step): a rise, a kink, noise that stays for a while, six digits."""
    time = np.log1p(np.arange(STEPS)) / np.log(STEPS)
    level = rng.normal(size=(MODELS, 1, 1)) + 0.2 * rng.normal(size=(MODELS, SEEDS, 1))
    noise = rng.normal(scale=0.05, size=(MODELS, SEEDS, STEPS))
    kink = np.where(np.arange(STEPS) > rng.integers(100, 400), 0.3, 0.0)
    return (level + rng.normal() * time + kink + noise).astype(np.float32).astype(np.float64)


def make_file(path: str, n_metric: int, *, every: int = 1, stderr: bool = False) -> None:
    """A cube in which one metric in ``every`` was written."""
    import netCDF4
    import xarray as xr

    from polystab.cube.build import finished
    from polystab.cube.specs import DIMS
    from polystab.cube.store import COMPRESSED

    shape = (MODELS, SEEDS, STEPS, n_metric)
    labels = {
        "model": [f"pythia-{k}m" for k in range(MODELS)],
        "seed": np.arange(SEEDS),
        "step": np.arange(STEPS) * 1000,
        "metric": metric_names(n_metric),
    }
    # One NaN that looks like a cube: nothing of its size is ever allocated.
    bare = finished(xr.Dataset({"value": (DIMS, np.broadcast_to(np.nan, shape))}, coords=labels), {"title": "Large"})
    bare = bare.drop_vars("value")
    texts = {str(name): {"dtype": "S1"} for name, array in bare.variables.items() if array.dtype.kind == "U"}
    bare.to_netcdf(path, engine="netcdf4", encoding=texts)
    rng = np.random.default_rng(0)
    with netCDF4.Dataset(path, "a") as file:
        names = ("value", "stderr") if stderr else ("value",)
        width = max(2**17 // (MODELS * SEEDS * STEPS), 1)
        variables = [
            file.createVariable(
                name, "f8", DIMS, fill_value=np.nan, shuffle=True, chunksizes=(*shape[:3], width), **COMPRESSED
            )
            for name in names
        ]
        for start in range(0, n_metric, width * every):
            for variable in variables:
                several = np.stack([curves(rng) for _ in range(min(width, n_metric - start))], axis=-1)
                variable[..., start : start + width] = several if variable.name == "value" else np.abs(several) / 100


def work(path: str, what: str, whole: bool) -> Any:
    """One step of the work; ``whole`` does at once what else goes in parts, without a limit."""
    import polystab as ps
    import polystab.analysis as analysis
    from polystab.cube import parts
    from polystab.cube.describe import cube_facts
    from polystab.cube.store import open_tree, validate_file

    if whole:
        parts.PART_BYTES = 2**50
    else:
        resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    if what == "validate":
        return len(validate_file(path))
    with open_tree(path) as tree:
        if what == "info":
            return cube_facts(tree)["coverage"]
        if what == "fingerprint":
            return analysis.fingerprint(tree)
        if what == "report":
            return len(ps.report(tree, format="html"))
        cube = tree.to_dataset()
        found = {
            "coverage": lambda: analysis.cube_coverage(cube),
            "spread": lambda: analysis.seed_spread(cube),
            "ranks": lambda: analysis.rank_metrics(cube),
            "components": lambda: ps.variance_components(cube),
            "last components": lambda: ps.variance_components(cube.isel(step=slice(-1, None))),
            "changes": lambda: ps.change_points(cube, metrics=cube["metric"].values[:CHANGED].tolist(), rng=0),
            "outliers": lambda: ps.outlier_scores(cube, keep_scores=False),
            "audit": lambda: ps.audit_cube(tree),
            "audited": lambda: analysis.seed_spread(cube, exclude=ps.audit_cube(cube.isel(metric=slice(0, FITTED)))),
            "windows": lambda: analysis.variance_over_windows(cube),
            "asymptotes": lambda: analysis.asymptotes(cube.isel(metric=slice(0, FITTED))),
        }[what]()
        return digest(found)


def digest(found: Any) -> str:
    """Of all numbers of a result."""
    import hashlib

    seen = hashlib.sha256()
    for name in sorted(map(str, found.data_vars)):
        values = found[name].values
        # Of texts an array has the addresses only.
        values = values.astype(str) if values.dtype == object else values
        seen.update(name.encode() + np.ascontiguousarray(values).tobytes())
    return seen.hexdigest()


def measure(path: str, steps: tuple[str, ...], title: str) -> None:
    """Peak of every step against the limit."""
    for what in steps:
        done = in_fresh_process(__file__, "work", path, what, False, warm=WARM)
        print_ratio(
            f"{title}, {what} ({done.seconds:.0f} s)",
            [LIMIT / 1e9],
            [done.added_bytes / 1e9],
            wanted="at least 1x",
            unit="GB",
            names=("limit", "peak"),
            place=9,
        )


def compare(path: str) -> None:
    """In parts and at once."""
    for what in STEPS_OF_WORK[2:]:
        once = in_fresh_process(__file__, "work", path, what, True, warm=WARM)
        parted = in_fresh_process(__file__, "work", path, what, False, warm=WARM)
        assert once.result == parted.result, f"{what} differs"
        names = ("at once", "in parts")
        memory = [once.added_bytes / 1e9], [parted.added_bytes / 1e9]
        print_ratio(f"{what}: memory", *memory, wanted="above 1x", unit="GB", names=names)
        print_ratio(f"{what}: time", [once.seconds], [parted.seconds], wanted="at least 0.5x", names=names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", default=None, help="where the files are made; a few GB are needed")
    parser.add_argument(
        "--sparse", type=float, default=20.0, metavar="GB", help="values of the file that is nearly empty"
    )
    parser.add_argument(
        "--dense", type=float, default=1.0, metavar="GB", help="values of the full file; as much again of stderr"
    )
    given = parser.parse_args()
    each = 8 * MODELS * SEEDS * STEPS
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        path = str(Path(folder) / "compared.nc")
        make_file(path, int(0.4e9 / each), stderr=True)
        compare(path)
        Path(path).unlink()
        path = str(Path(folder) / "dense.nc")
        n = int(given.dense * 1e9 / each)
        make_file(path, n, stderr=True)
        report_line(f"dense: {2 * n * each / 1e9:.1f} GB of numbers, {Path(path).stat().st_size / 1e9:.1f} GB on disk")
        measure(path, (*STEPS_OF_WORK, "report"), f"dense {given.dense:g} + {given.dense:g} GB")
        Path(path).unlink()
        path = str(Path(folder) / "sparse.nc")
        n = int(given.sparse * 1e9 / each)
        make_file(path, n, every=max(n // WRITTEN, 1))
        report_line(f"sparse: {n * each / 1e9:.1f} GB of values, {Path(path).stat().st_size / 1e9:.2f} GB on disk")
        steps = tuple("last components" if step == "components" else step for step in STEPS_OF_WORK)
        measure(path, (*steps, "report"), f"sparse {given.sparse:g} GB")


if __name__ == "__main__":
    main()
