"""Peaks, asymptotes, forecasts and likeness of curves: calibration in full, and time against named peers."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from harness import in_fresh_process, print_ratio, report_line

SHAPE = (1, 10, 154, 100)
RHOS = (0.0, 0.5, 0.9)


def noise(curves: int, steps: int, rho: float, rng: Any) -> Any:
    from polystab.analysis.segments.null import ar1_noise

    return ar1_noise(rho, curves, steps, rng)[..., 0]


def cube_of(value: Any) -> Any:
    """A cube from (model, seed, step, metric)."""
    import polystab as ps  # noqa: F401
    from polystab.testing.drawing import bare_cube

    models = [f"m{i}" for i in range(value.shape[0])]
    names = [f"weight/all/m{i}" for i in range(value.shape[3])]
    return bare_cube(value, models, np.arange(value.shape[2]) * 1000, names)


def shapes(steps: int) -> dict[str, Any]:
    u = np.arange(steps) / (steps - 1)
    return {
        "flat": 0 * u,
        "rising": 2 * u,
        "saturating": 20 * (1 - np.exp(-8 * u)),
        "up at once": 50 * (u > 3 / steps),
        "hump of 3 SD": 3 * np.exp(-(((u - 0.4) / 0.25) ** 2)),
    }


def peaks(curves: int) -> None:
    from polystab.analysis.trajectories import curve_peaks

    for steps in (31, 154):
        for runs in (1, 3, 10):
            for rho in RHOS:
                line = []
                for name, shape in shapes(steps).items():
                    value = shape + noise(runs * curves, steps, rho, np.random.default_rng([steps, runs])).reshape(
                        1, runs, curves, steps
                    )
                    found = curve_peaks(cube_of(np.moveaxis(value, 2, 3)), rng=0, n_resamples=1)
                    shares = [float((found[p] <= 0.05).mean()) for p in ("p", "runs_p")]
                    line.append(f"{name} {shares[0]:.1%} by itself, {shares[1]:.1%} over runs")
                report_line(f"peaks at 5 %, {steps} steps, {runs} runs, rho {rho}: " + "; ".join(line))


def decays(curves: int) -> None:
    from polystab.analysis.trajectories.decays import fit_decays

    for steps in (22, 130):
        u = np.linspace(0, 1, steps)
        for rho in (0.0, 0.6, 0.9):
            for sd in (0.01, 0.05):
                line = []
                for name, shape in {
                    "exponential": np.exp(-u / 0.2),
                    "power": 1 / (1 + u / 0.05),
                    "none": 0 * u,
                }.items():
                    y = 1 + shape + sd * noise(curves, steps, rho, np.random.default_rng(steps))
                    found = fit_decays(y, u)
                    inside = ((found.lower <= 1) & (found.upper >= 1))[found.bounded]
                    line.append(f"{name} {inside.mean():.1%} of the {found.bounded.mean():.0%} with one")
                report_line(f"asymptotes, nominal 95 %, {steps} steps, rho {rho}, SD {sd}: " + "; ".join(line))


def forecasts(curves: int) -> None:
    from polystab.analysis.trajectories import forecast_final

    for runs in (3, 5, 10):
        for name in ("walk", "offset", "decay"):
            rng, t = np.random.default_rng(runs), np.arange(32)[:, None]
            white = rng.standard_normal((1, runs, 32, curves))
            own = rng.standard_normal((1, runs, 1, curves))
            value = {
                "walk": white.cumsum(axis=2),
                "offset": 2 * own + 0.5 * white + t / 6,
                "decay": 1 + (2 + 0.2 * own) * np.exp(-t / 6) + 0.05 * white,
            }[name]
            found = forecast_final(cube_of(value), at=(0.4, 0.75))
            for at in found["at"].values.tolist():
                here = found.sel(at=at).mean(("model", "metric"))
                line = [
                    f"{p} error {float(here['error'].sel(predictor=p)):.3g} covers {float(here['coverage'].sel(predictor=p)):.1%}"
                    for p in found["predictor"].values
                ]
                report_line(f"forecasts, nominal 90 %, {runs} runs, {name}, at {at}: " + "; ".join(line))


def likenesses(metrics: int) -> None:
    from polystab.analysis.trajectories.likeness import likeness, null_likeness, p_of, unit_curves

    x = np.log1p(np.arange(31) * 50.0)
    for runs in (3, 10):
        groups = np.repeat([0, 1], runs)
        for name in ("white", "rho 0.8", "walk"):
            rng = np.random.default_rng(runs)
            curves = noise(metrics * 2 * runs, 31, 0.8 if name == "rho 0.8" else 0.0, rng).reshape(
                metrics, 2 * runs, 31
            )
            curves = curves.cumsum(axis=-1) if name == "walk" else curves
            p = p_of(likeness(unit_curves(curves, x), groups), null_likeness(curves, x, groups, 199, rng))
            report_line(
                f"unrelated curves taken for alike at 5 %, {runs} runs, {name}: {(p <= 0.05).mean(axis=1).round(3)}"
            )


def seconds_of(name: str) -> float:
    """Processor time of one function on a cube of noisy decays."""
    from polystab.analysis import trajectories

    rng = np.random.default_rng(0)
    decay = np.exp(-np.arange(SHAPE[2]) / 30)[:, None]
    cube = cube_of(1 + decay + 0.02 * rng.standard_normal(SHAPE))
    options = {"rng": 0} if name in ("curve_peaks", "curve_consistency") else {}
    start = time.process_time()
    getattr(trajectories, name)(cube, **options)
    return time.process_time() - start


def seconds_of_scipy(curves: int) -> float:
    """Processor time of ``scipy.optimize.curve_fit`` for the same power laws, one start each."""
    from scipy.optimize import curve_fit

    rng, u = np.random.default_rng(0), np.linspace(0, 1, 139)
    y = 1 + np.exp(-u * 139 / 30) + 0.02 * rng.standard_normal((curves, 139))
    start = time.process_time()
    for curve in y:
        curve_fit(
            lambda t, a, b, s, c: a + b * (1 + t / np.exp(s)) ** -np.exp(c),
            u,
            curve,
            [1, 1, -1, 0],
            maxfev=5000,
            ftol=1e-6,
        )
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--curves", type=int, default=2000, help="curves for each share")
    curves = parser.parse_args().curves
    n_curves = SHAPE[1] * SHAPE[3]
    ours = in_fresh_process(__file__, "seconds_of", "asymptotes", warm="import polystab, scipy.special").result
    theirs = in_fresh_process(__file__, "seconds_of_scipy", n_curves // 5, warm="import scipy.optimize").result * 5
    print_ratio(
        f"asymptotes of {n_curves} curves with profile intervals and correlated noise, against one curve_fit each",
        [theirs],
        [ours],
        wanted="above 0.5",
        names=("curve_fit", "ours"),
    )
    for name in ("curve_peaks", "forecast_final", "curve_consistency"):
        spent = in_fresh_process(__file__, "seconds_of", name, warm="import polystab, scipy.special").result
        print_ratio(
            f"{name} of the same curves, against the same",
            [theirs],
            [spent],
            wanted="above 0.25",
            names=("curve_fit", "ours"),
        )
    peaks(curves)
    decays(curves)
    forecasts(max(curves // 5, 20))
    likenesses(max(curves // 5, 20))


if __name__ == "__main__":
    main()
