"""polystab: seed-stability of language-model training, from one labelled cube.

``import polystab as ps`` is quick: every public name below is imported when it
is first used, so that a person who only opens a cube never waits for
matplotlib, statsmodels or torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names
from polystab._version import __version__
from polystab.errors import PolystabError

if TYPE_CHECKING:
    from polystab.analysis.agreement.runs import agreement
    from polystab.analysis.audit.checks import audit_cube
    from polystab.analysis.bootstrap.resampling import multibootstrap
    from polystab.analysis.comparisons.cubes import compare_cubes
    from polystab.analysis.components.split import variance_components
    from polystab.analysis.early_warning.classifier import EarlyWarning
    from polystab.analysis.outliers.scores import outlier_scores
    from polystab.analysis.outliers.verdicts import outlier_runs
    from polystab.analysis.phases.curves import change_points
    from polystab.analysis.training_maps import fit_training_map
    from polystab.cube.build import cube_from_records
    from polystab.cube.catalog import list_cubes, load_cube, load_tree
    from polystab.cube.merge import merge_cubes
    from polystab.cube.selection import select
    from polystab.cube.store import open_cube, open_tree, save_cube
    from polystab.cube.validate import validate_cube
    from polystab.progress_bars import progress
    from polystab.report.page import report
    from polystab.sources.eval_results import read_lm_eval
    from polystab.sources.fill import fill
    from polystab.sources.items import read_lm_eval_samples
    from polystab.sources.tables import read_table
    from polystab.sources.training_logs import read_training_log
    from polystab.summaries import summary

_NAMES = {
    "polystab.analysis.agreement.runs": ("agreement",),
    "polystab.analysis.audit.checks": ("audit_cube",),
    "polystab.analysis.bootstrap.resampling": ("multibootstrap",),
    "polystab.analysis.comparisons.cubes": ("compare_cubes",),
    "polystab.analysis.components.split": ("variance_components",),
    "polystab.analysis.early_warning.classifier": ("EarlyWarning",),
    "polystab.analysis.outliers.scores": ("outlier_scores",),
    "polystab.analysis.outliers.verdicts": ("outlier_runs",),
    "polystab.analysis.phases.curves": ("change_points",),
    "polystab.analysis.training_maps": ("fit_training_map",),
    "polystab.cube.build": ("cube_from_records",),
    "polystab.cube.catalog": ("list_cubes", "load_cube", "load_tree"),
    "polystab.cube.merge": ("merge_cubes",),
    "polystab.cube.selection": ("select",),
    "polystab.cube.store": ("open_cube", "open_tree", "save_cube"),
    "polystab.cube.validate": ("validate_cube",),
    "polystab.progress_bars": ("progress",),
    # The subpackage is itself the function: see polystab/report/__init__.py.
    "polystab.report": ("report",),
    "polystab.sources.eval_results": ("read_lm_eval",),
    "polystab.sources.items": ("read_lm_eval_samples",),
    "polystab.sources.fill": ("fill",),
    "polystab.sources.tables": ("read_table",),
    "polystab.sources.training_logs": ("read_training_log",),
    "polystab.summaries": ("summary",),
}

__all__ = [
    "EarlyWarning",
    "PolystabError",
    "__version__",
    "agreement",
    "audit_cube",
    "change_points",
    "compare_cubes",
    "cube_from_records",
    "fill",
    "fit_training_map",
    "list_cubes",
    "load_cube",
    "load_tree",
    "merge_cubes",
    "multibootstrap",
    "open_cube",
    "open_tree",
    "outlier_runs",
    "outlier_scores",
    "progress",
    "read_lm_eval",
    "read_lm_eval_samples",
    "read_table",
    "read_training_log",
    "report",
    "save_cube",
    "select",
    "summary",
    "validate_cube",
    "variance_components",
]


__getattr__, __dir__ = lazy_names(__name__, _NAMES)
