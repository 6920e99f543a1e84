"""Variance over windows: speed against fit_reml and statsmodels on a sample of cells, memory, coverage."""

from __future__ import annotations

import argparse
import re
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from harness import in_fresh_process, print_ratio, report_line

MODELS, SEEDS, STEPS, METRICS, WINDOWS = 5, 10, 154, 1000, 10
NULLS = {"model": "m", "seed": "s", "step": "t", "model:step": "mt"}


def big_cube(missing: float) -> Any:
    """A cube of independent Gaussian components; ``missing`` is the share of checkpoints without values."""
    from polystab.testing import variance_cube

    return variance_cube(
        n_models=MODELS, n_seeds=SEEDS, n_steps=STEPS, n_metrics=METRICS, sd_step=1.0, missing=missing, rng=0
    )


def decompose(missing: float) -> list[float]:
    """Seconds and added bytes of one call on the whole cube, measured inside: the cube is not counted."""
    from polystab.analysis.components.windows import variance_over_windows

    cube = big_cube(missing)

    def memory(field: str) -> int:
        found = re.search(field + r":\s+(\d+) kB", Path("/proc/self/status").read_text())
        return int(found[1]) * 1024 if found else 0

    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, start = memory("VmRSS"), time.perf_counter()
    variance_over_windows(cube, windows=WINDOWS)
    return [time.perf_counter() - start, float(memory("VmHWM") - before), float(cube["value"].nbytes)]


def compare_speed(missing: float, sample: int) -> None:
    """Our time for each metric and window against one fit of the same effects."""
    from polystab.analysis import fit_reml

    seconds, added, size = in_fresh_process(__file__, "decompose", missing).result
    cube = big_cube(missing).isel(step=slice(0, STEPS // WINDOWS))
    m, s, t = (codes.ravel() for codes in np.indices(tuple(cube.sizes[name] for name in ("model", "seed", "step"))))
    factors = {"model": m, "seed": 100 * m + s, "step": t, "model:step": 100 * m + t}
    times = []
    for k in range(sample):
        y = cube["value"].values[..., k].ravel()
        start = time.perf_counter()
        fit_reml(y, factors)
        times.append(time.perf_counter() - start)
    what = f"{MODELS} x {SEEDS} x {STEPS} x {METRICS}, {WINDOWS} windows, {missing:.0%} of checkpoints missing"
    ours = seconds / (WINDOWS * METRICS)
    print_ratio(
        f"{what}, fit_reml over ours, a cell",
        [statistics.mean(times)],
        [ours],
        wanted="at least 50",
        names=("fit_reml", "ours"),
    )
    if not missing:
        compare_mixedlm(cube["value"].values[..., 0].ravel(), factors, ours)
    report_line(f"  {seconds:.3g} s in all; added memory over that of the cube {added / size:.2f} (wanted at most 2)")


def compare_mixedlm(y: Any, factors: dict[str, Any], ours: float) -> None:
    import pandas as pd
    from statsmodels.regression.mixed_linear_model import MixedLM

    frame = pd.DataFrame({"y": y} | {name.replace(":", "_"): codes for name, codes in factors.items()})
    parts = {name: f"0 + C({name})" for name in frame.columns[1:]}
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = MixedLM.from_formula("y ~ 1", frame, groups=np.ones(len(frame)), vc_formula=parts).fit()
    print_ratio(
        "  one fit of MixedLM over ours, a cell",
        [time.perf_counter() - start],
        [ours],
        wanted="at least 500",
        names=("MixedLM", "ours"),
    )
    report_line(f"  MixedLM {'converged' if fit.converged else 'did not converge'}")


def drawn(size: tuple[int, int, int], n: int, rho: float, rng: np.random.Generator, **sds: float) -> Any:
    """A cube whose components all have SD 1 unless ``sds`` says otherwise, with first-order noise."""
    import pandas as pd
    import xarray as xr

    m, s, t = size
    values = rng.standard_normal((m, s, t, n))
    for step in range(1, t):
        values[:, :, step] = rho * values[:, :, step - 1] + np.sqrt(1 - rho**2) * values[:, :, step]
    for name, shape in {"m": (m, 1, 1), "s": (m, s, 1), "t": (1, 1, t), "mt": (m, 1, t)}.items():
        values += sds.get(name, 1.0) * rng.standard_normal((*shape, n))
    dims = ("model", "seed", "step", "metric")
    names = [f"eval/task{k}/acc" for k in range(n)]
    coords = {"model": [f"m{k}" for k in range(m)], "seed": np.arange(s), "step": np.arange(t), "metric": names}
    return xr.Dataset({"value": (dims, values)}, coords={name: pd.Index(labels) for name, labels in coords.items()})


def calibrate(cells: int) -> None:
    """Coverage of 95 % intervals and rate of 5 % tests, for seeds, checkpoints and correlations of the noise."""
    from polystab.analysis.components.windows import variance_over_windows

    rng = np.random.default_rng(0)
    truth = {"model": 1.0, "seed": 1.0, "step": 1.0, "model:step": 1.0, "seed:step": 1.0, "total": 5.0}
    report_line("95 % intervals cover (4 models; seeds, checkpoints, correlation), and 5 % tests of a zero component:")
    for seeds in (3, 5, 10):
        for steps in (5, 10, 50):
            for rho in (0.0, 0.3, 0.6, 0.9):
                n = cells if steps < 50 else cells // 5
                found = variance_over_windows(drawn((4, seeds, steps), n, rho, rng), windows=1).isel(window=0)
                shares = []
                for name, value in truth.items():
                    part = found.sel(component=name)
                    inside = (part["lower"] <= value) & (part["upper"] >= value)
                    shares.append(f"{name} {100 * float(inside.mean()):.1f}")
                rates = []
                for name, key in NULLS.items():
                    cube = drawn((4, seeds, steps), n, rho, rng, **{key: 0.0})
                    p = variance_over_windows(cube, windows=1)["p"].sel(component=name).values
                    rates.append(f"{name} {100 * float(np.mean(p < 0.05)):.1f}")
                report_line(f"  {seeds:2} {steps:2} {rho}: cover {', '.join(shares)}; reject {', '.join(rates)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=5000, help="simulated metrics for each line of the coverage table")
    parser.add_argument("--sample", type=int, default=10, help="cells fitted by the peers")
    options = parser.parse_args()
    compare_speed(0.0, options.sample)
    compare_speed(0.05, options.sample)
    calibrate(options.cells)


if __name__ == "__main__":
    main()
