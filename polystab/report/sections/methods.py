"""The section on methods and settings."""

from __future__ import annotations

from collections.abc import Iterator

from polystab.report.blocks import (
    Block,
    Bullets,
    Code,
    Details,
    Listing,
)
from polystab.report.summary.schema import Summary
from polystab.words import percent


def methods(summary: Summary) -> Iterator[Block]:
    settings, versions = summary["methods"]["settings"], summary["methods"]["versions"]
    level = percent(settings.get("confidence level of intervals", 0.95))
    # What each is about; of a page of some sections those of the others are left out.
    definitions = [
        ("contents", "The run (model and seed) is the unit. Runs whose trajectories are equal to the last bit count once; infinite values are runs that diverged: they are counted, not averaged."),
        ("curves", "Median and middle half: quantiles over runs at each step, by linear interpolation. With fewer than three runs there is no band."),
        ("final", f"Seed SD: ddof 1, divided by c4(n), unbiased for normal data (Holtzman 1950, doi:10.2307/1418879). Its {level} interval: SD × √((n − 1) / χ²), exact for normal data, too short for heavy tails."),
        ("final", "Item error: root mean square over runs of the standard error over test items. It is about a single run's score and no part of the seed SD where all runs answer the same items."),
        ("outliers", "Robust z: Iglewicz and Hoaglin 1993; with more than half of the runs equal, the mean absolute deviation stands in for the MAD. The share by chance is simulated from independent normal runs."),
        ("variance", "Shares of the variance: analysis of variance where the runs are balanced, else REML (Searle, Casella and McCulloch 1992, doi:10.1002/9780470316856); parts below zero are cut to zero. Test items: the mean squared standard error."),
        ("phases", "Change points: exact segmentation by dynamic programming under AR(1) noise, penalty calibrated to the stated share of false alarms (Killick, Fearnhead and Eckley 2012, doi:10.1080/01621459.2012.737745). Shared changes: a scan over stretches of checkpoints against changes moved at random within each run."),
        ("phases", "Training map: Gaussian hidden Markov model, number of states by BIC (Hu et al. 2023, doi:10.48550/arXiv.2308.09543)."),
        ("curves", "Metrics drawn: the range of the median over training against its noise (item error, else seed SD, else change between checkpoints); families and kinds of metrics take turns."),
        ("contents", "Coverage of a model: relative to its own runs, steps and metrics; of the cube: to all its cells."),
        ("warning", "Early warning: ridge-penalised logistic regression on robust distances from stable runs at the same step, alarms calibrated on stable runs held out (conformal ranking; Vovk, Gammerman and Shafer 2005, doi:10.1007/b106715). Seeds are held out in turn, all models together; intervals resample runs within models and leave out the chance of training again."),
    ]  # fmt: skip
    yield Bullets(tuple((text,) for part, text in definitions if part in summary))
    yield Bullets(
        (
            *((f"{name}: {value:g}",) for name, value in settings.items()),
            ("Versions: " + ", ".join(f"{name} {said}" for name, said in versions.items()),),
            ("SHA-256 of labels and values: ", Code(summary["polystab_report"]["fingerprint"])),
        )
    )
    yield Details("BibTeX of the methods used", (Listing(summary["methods"]["bibtex"]),))
