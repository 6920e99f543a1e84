"""Opening a cube of 1 GiB: added memory and time, against reading all of it."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from harness import in_fresh_process, print_ratio, report_line

MODELS, SEEDS, STEPS = 5, 10, 154
METRICS = 2**30 // (8 * MODELS * SEEDS * STEPS) + 1


def write_large_cube(path: Path) -> None:
    """A valid cube of just over 1 GiB of random values, written piece by piece."""
    import netCDF4

    import polystab as ps
    from polystab.cube.build import assemble, finished
    from polystab.testing import CHECKPOINT_STEPS

    steps = np.array(CHECKPOINT_STEPS[:STEPS], dtype=np.int64)
    labels = {
        "model": np.array([f"toy-{2**i}m" for i in range(MODELS)]),
        "seed": np.arange(SEEDS),
        "step": steps,
        "metric": np.array([f"weight/layers.{i:05d}/l2_norm" for i in range(METRICS)]),
    }
    empty = {dim: np.empty(0, dtype=np.intp) for dim in labels}
    ps.save_cube(finished(assemble(empty, labels, np.empty(0)), {"title": "1 GiB"}), path)
    rng = np.random.default_rng(0)
    with netCDF4.Dataset(path, "a") as data:
        for start in range(0, METRICS, 500):
            shape = (MODELS, SEEDS, STEPS, min(500, METRICS - start))
            data["value"][..., start : start + 500] = rng.standard_normal(shape)


def open_it(path: str) -> list[int]:
    import polystab as ps

    return list(ps.open_cube(path)["value"].shape)


def read_it(path: str) -> float:
    import polystab as ps

    return float(ps.open_cube(path)["value"].values.sum())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.nc"
        write_large_cube(path)
        warm = "import numpy, pandas, xarray, netCDF4, polystab; polystab.open_cube"
        opened = [in_fresh_process(__file__, "open_it", str(path), warm=warm) for _ in range(5)]
        read = in_fresh_process(__file__, "read_it", str(path), warm=warm)
    shape = " x ".join(str(n) for n in opened[0].result)
    report_line(f"a cube of {shape} cells, {8 * np.prod(opened[0].result) / 2**30:.2f} GiB")
    seconds, added = [o.seconds for o in opened], [o.added_bytes / 2**20 for o in opened]
    print_ratio("reading all of it over opening it", [read.seconds], seconds, wanted="no bound")
    print_ratio(
        "  limit of half a second over opening it", [0.5], seconds, wanted="above 1", names=("limit", "ours"), place=1
    )
    print_ratio(
        "  limit of 150 MiB over the memory that opening it adds",
        [150.0],
        added,
        wanted="above 1",
        unit="MiB",
        names=("limit", "ours"),
        place=1,
    )


if __name__ == "__main__":
    main()
