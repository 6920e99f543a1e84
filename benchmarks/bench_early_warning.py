"""Early warning on nano-edge: against its baselines, by family, with what is held out; and how often clean runs have an alarm."""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
from harness import print_ratio, report_line

from polystab.errors import AnalysisError

QUARTER = 200
STEPS = (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 750)


def nano_edge() -> tuple[Any, Any]:
    import polystab as ps
    from polystab.analysis import failed_runs

    tree = ps.load_tree("nano-edge")
    return tree, failed_runs(tree)


def families_of(tree: Any) -> list[str]:
    """The families of the cube, and that of the log."""
    found = list(dict.fromkeys(str(name) for name in tree["family"].values))
    return [*found, "log"] if "log" in tree.children else found


def show(name: str, found: Any, *, detail: bool = False) -> None:
    """One line for each method: at a quarter of training, and over all of it."""
    for method in found["warning"].values.tolist()[: None if detail else 1]:
        own = found.sel(warning=method)
        at = own.sel(step=QUARTER)
        within = at.sel(measure="auroc_within")
        report_line(
            f"{name}, {method}: at step {QUARTER} AUROC within models {float(within['value']):.2f} "
            f"({float(within['lower']):.2f} to {float(within['upper']):.2f}), over all {float(at['value'].sel(measure='auroc')):.2f}; "
            f"caught before seen {float(own['caught']):.0%} ({float(own['caught_lower']):.0%} to {float(own['caught_upper']):.0%}) at "
            f"{float(own['false_alarms']):.0%} false alarms, {float(own['caught_matched']):.0%} at {found.attrs['false_alarm']:.0%} on these runs; "
            f"median lead {float(own['median_lead']):.0f}"
        )


def against_baselines(tree: Any, labels: Any, resamples: int) -> None:
    from polystab.analysis.early_warning import EarlyWarning, evaluate_warning

    methods = {name: EarlyWarning(method=name, steps=STEPS) for name in ("logistic", "gradient_boosting", "novelty")}
    for leave in ("runs", "learning_rate"):
        found = evaluate_warning(tree, labels, methods=methods, leave=leave, n_resamples=resamples)
        show(f"leave {leave} out", found, detail=True)
        at = found.sel(step=QUARTER, measure="auroc_within")
        counts = ", ".join(f"{int(at[name])} {name[2:]}" for name in ("n_wrong", "n_good", "n_already", "n_pairs"))
        report_line(
            f"leave {leave} out: at step {QUARTER} (runs: {counts}) logistic minus the best baseline, {at['best_baseline'].item()}: "
            f"{float(at['gain']):+.2f} ({float(at['gain_lower']):+.2f} to {float(at['gain_upper']):+.2f}); wanted above 0"
        )
        within = found["value"].sel(measure="auroc_within", warning="logistic")
        report_line(
            f"leave {leave} out: AUROC within models against step: "
            + ", ".join(f"{int(step)} {float(within.sel(step=step)):.2f}" for step in found["step"].values)
        )


def candidates() -> dict[str, Any]:
    """Settings of which training runs may choose one."""
    from polystab.analysis.early_warning import EarlyWarning

    losses = ("log", "loss", "gradient")
    return {
        f"{method}, {'losses' if families else 'everything'}, {'+'.join(views)}": EarlyWarning(
            method=method, families=families, views=views, steps=STEPS
        )
        for method, families, views in (
            ("logistic", None, ("all",)),
            ("logistic", losses, ("all",)),
            ("logistic", losses, ("siblings", "all")),
            ("gradient_boosting", losses, ("all",)),
        )
    }


def nested(tree: Any, labels: Any) -> None:
    """Each seed is warned of by the setting that catches most among the other seeds, at as many false alarms there."""
    import xarray as xr

    from polystab.analysis.early_warning import EarlyWarning, evaluate_warning

    wrong, seen = labels["wrong"].values, labels["seen_at"].values
    caught, false, by_quarter = np.zeros(wrong.shape, bool), np.zeros(wrong.shape, bool), np.zeros(wrong.shape, bool)
    chosen: dict[str, int] = {}
    for i in range(wrong.shape[1]):
        rest, held = (
            xr.DataTree.from_dict(
                {"/": tree.to_dataset().isel(seed=part), "/log": tree["log"].to_dataset().isel(seed=part)}
            )
            for part in ([k for k in range(wrong.shape[1]) if k != i], [i])
        )
        known = labels.sel(seed=rest["seed"].values)
        inner = evaluate_warning(rest, known, methods=candidates(), baselines=[], n_splits=4, n_resamples=1)
        best = str(inner["warning"].values[int(np.argmax(inner["caught_matched"].values))])
        chosen[best] = chosen.get(best, 0) + 1
        first = EarlyWarning(**candidates()[best].get_params()).fit(rest, known).warn(held)["first_alarm"].values[:, 0]
        there = first >= 0
        caught[:, i] = there & wrong[:, i] & (first < seen[:, i])
        by_quarter[:, i] = caught[:, i] & (first <= QUARTER)
        false[:, i] = there & ~wrong[:, i]
    both = wrong.any(axis=1) & ~wrong.all(axis=1)
    report_line(
        f"settings chosen on the other seeds ({', '.join(f'{k}: {n}' for k, n in chosen.items())}): caught before seen "
        f"{int(caught.sum())} of {int(wrong.sum())} ({caught.sum() / wrong.sum():.0%}; wanted 50 %), {int(by_quarter.sum())} of them by step {QUARTER}, "
        f"{int(caught[both].sum())} of {int(wrong[both].sum())} at rates with runs of both kinds, at {int(false.sum())} of "
        f"{int((~wrong).sum())} false alarms ({false.sum() / (~wrong).sum():.1%}; budget 5 %)"
    )


def by_family(tree: Any, labels: Any, resamples: int) -> None:
    """What each family alone tells."""
    from polystab.analysis.early_warning import EarlyWarning, evaluate_warning

    for family in families_of(tree):
        alone = EarlyWarning(families=[family], steps=STEPS)
        try:
            found = evaluate_warning(tree, labels, methods={"logistic": alone}, baselines=[], n_resamples=resamples)
        except AnalysisError as error:  # probes stand at a few checkpoints only
            report_line(f"family {family} alone: {error}")
            continue
        show(f"family {family} alone", found)


def clean_runs(sets: int) -> None:
    """Runs without any difference between those labelled wrong and the others: how often new stable ones have an alarm."""
    from polystab.analysis.early_warning import EarlyWarning

    for method in ("logistic", "novelty", "last_loss"):
        alarms = total = 0
        for i in range(sets):
            tree, labels = noise(i)
            half = {"seed": slice(0, 20)}
            train, rest = (tree.isel(half), labels.isel(half)), tree.isel(seed=slice(20, None))
            fitted = EarlyWarning(method=method, steps=STEPS[:6], min_points=8).fit(*train)
            found = fitted.predict(rest).values[~labels["wrong"].values[:, 20:]]
            alarms, total = alarms + int(found.sum()), total + found.size
        report_line(f"clean runs, {method}: {alarms / total:.1%} of {total} new stable runs ever have an alarm at 5 %")


def noise(seed: int) -> tuple[Any, Any]:
    """Two models, forty runs each, of autocorrelated noise; labels at random."""
    import xarray as xr

    from polystab.testing.drawing import bare_cube, wandering

    rng = np.random.default_rng(seed)
    steps = np.arange(0, 310, 10)
    value = wandering((2, 40, len(steps), 4), 0.8, rng)
    cube = bare_cube(
        value, ["a", "b"], steps, ["loss/train/cross_entropy", "eval/x/acc", "eval/y/acc", "gradient/all/norm"]
    )
    cube["value"][..., [0, 3]] = np.exp(0.1 * value[..., [0, 3]])
    wrong = rng.random((2, 40)) < 0.3
    return cube, xr.Dataset(
        {"wrong": (("model", "seed"), wrong)}, coords={"model": cube["model"], "seed": cube["seed"]}
    )


def time_of(tree: Any, labels: Any) -> None:
    """Fitting and warning, against nothing but the logistic regressions that this takes, on columns made before."""
    from sklearn.linear_model import LogisticRegression

    from polystab.analysis.early_warning import EarlyWarning

    start = time.process_time()
    fitted = EarlyWarning(steps=STEPS).fit(tree, labels)
    fitted.warn(tree)
    ours = time.process_time() - start
    x, _ = fitted.scorer_.design(fitted.gather(tree))
    y = np.repeat(labels["wrong"].values.reshape(-1), len(STEPS))
    start = time.process_time()
    for _ in range(fitted.n_folds + 1):
        LogisticRegression(C=fitted.penalty, max_iter=2000).fit(x.reshape(len(y), -1), y)
    peer = time.process_time() - start
    names = ("regressions alone", "fit and warn")
    print_ratio("regressions over fit and warn (processor time)", [peer], [ours], wanted="above 0.1", names=names)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=100, help="clean sets for each share of false alarms")
    parser.add_argument("--resamples", type=int, default=2000)
    asked = parser.parse_args()
    tree, labels = nano_edge()
    time_of(tree, labels)
    against_baselines(tree, labels, asked.resamples)
    nested(tree, labels)
    by_family(tree, labels, asked.resamples)
    clean_runs(asked.sets)


if __name__ == "__main__":
    main()
