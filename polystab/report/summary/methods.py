"""How it was computed.

``methods``
    ``versions`` (name -> version), ``settings`` (name -> value), ``bibtex`` (works behind the parts that have results).
"""

from __future__ import annotations

from importlib.metadata import version

from polystab._version import __version__
from polystab.analysis.audit.runs import MIN_DISTINCT
from polystab.report.references import bibtex
from polystab.report.results.computed import MAX_MODELS, MAX_PANELS, RNG
from polystab.report.results.judged import DRAWS
from polystab.report.summary.schema import Summary


def methods_summary(summary: Summary) -> Summary:
    """Versions, and the settings of the parts that were computed."""
    final, outliers, verdicts, warning = (
        summary.get(name) or {} for name in ("final", "outliers", "verdicts", "warning")
    )
    early = warning.get("early") or {}
    settings = {
        "confidence level of intervals": final.get("level"),
        "fewest runs for an interval": final.get("min_runs"),
        "robust z threshold": outliers.get("threshold"),
        "false alarms of outlier verdicts, per model": verdicts.get("false_alarm"),
        "rotations behind outlier verdicts": DRAWS if verdicts else None,
        "different values that make equal trajectories copies": MIN_DISTINCT,
        "panels at most": MAX_PANELS,
        "models in a panel at most": MAX_MODELS,
        "parts of the seeds that early warnings are told of in turn": early.get("splits"),
        "parts of the other runs that their alarms are calibrated with": early.get("folds"),
        "resamples behind intervals of early warnings": early.get("resamples"),
        "rng of simulations": RNG,
    }
    return {
        "versions": {
            "polystab": __version__,
            **{name: version(name) for name in ("numpy", "scipy", "xarray", "matplotlib")},
        },
        "settings": {name: value for name, value in settings.items() if value is not None},
        "bibtex": bibtex(summary),
    }
