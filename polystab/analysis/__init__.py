"""What a cube is fed to: every function takes a cube and returns a labelled Dataset.

Names are imported when they are first used, so that a report on seed spread does
not wait for the libraries of change points or hidden Markov models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.analysis.aggregates.kernels import interquartile_mean
    from polystab.analysis.aggregates.scores import aggregate_scores, improvement_probability, performance_profile
    from polystab.analysis.agreement.items import item_stability
    from polystab.analysis.agreement.ranks import rank_agreement
    from polystab.analysis.agreement.scores import cohen_kappa, fleiss_kappa, krippendorff_alpha
    from polystab.analysis.audit.checks import audit_cube
    from polystab.analysis.audit.findings import excluded_cells, without_excluded
    from polystab.analysis.audit.runs import duplicate_runs
    from polystab.analysis.bootstrap.detectable import detectable_difference, sizes_needed
    from polystab.analysis.bootstrap.resampling import multibootstrap
    from polystab.analysis.change_points import Segmentation, segment, segment_many
    from polystab.analysis.chunked import metric_parts
    from polystab.analysis.comparisons.cubes import compare_cubes
    from polystab.analysis.comparisons.curves import compare_curves
    from polystab.analysis.comparisons.undecided import undecided_overview
    from polystab.analysis.components.additivity import seed_additivity
    from polystab.analysis.components.at_end import final_components
    from polystab.analysis.components.comparison import variance_by_size, variance_ratio
    from polystab.analysis.components.fractions import variance_fractions
    from polystab.analysis.components.gtheory import decision_study
    from polystab.analysis.components.items import item_components, item_design
    from polystab.analysis.components.last_checkpoints import checkpoint_noise
    from polystab.analysis.components.needed import noise_floor, seeds_needed
    from polystab.analysis.components.permutation import permutation_test
    from polystab.analysis.components.reliability import coefficient_of_variation, seed_reliability
    from polystab.analysis.components.seeds import seed_variances
    from polystab.analysis.components.split import variance_components
    from polystab.analysis.components.windows import variance_over_windows
    from polystab.analysis.coverage import cube_coverage, fingerprint
    from polystab.analysis.early_warning import EarlyWarning, evaluate_warning, prefix_features
    from polystab.analysis.failures import failed_runs, loss_spikes
    from polystab.analysis.maps.agreement import map_agreement, run_agreement
    from polystab.analysis.maps.model import TrainingMap
    from polystab.analysis.maps.performance import performance_from_occupancy
    from polystab.analysis.maps.reading import state_occupancy, state_paths, state_transitions, transition_effects
    from polystab.analysis.multiplicity import adjusted_p
    from polystab.analysis.outliers.distances import curve_depth, joint_distance
    from polystab.analysis.outliers.events import shared_events, spike_scores
    from polystab.analysis.outliers.leads import lead_lag
    from polystab.analysis.outliers.paths import unlikely_paths
    from polystab.analysis.outliers.scores import expected_share, outlier_scores, rank_runs
    from polystab.analysis.outliers.verdicts import outlier_runs
    from polystab.analysis.phases.agreement import adjusted_rand, change_point_f1, covering, hausdorff
    from polystab.analysis.phases.consensus import consensus_change_points, seed_agreement
    from polystab.analysis.phases.sizes import phase_size_trend
    from polystab.analysis.reml.model import RemlFit, fit_reml
    from polystab.analysis.representations.angles import probe_angles, random_subspace_angle, subspace_angles
    from polystab.analysis.representations.codelengths import probe_codelengths
    from polystab.analysis.representations.dimensions import outlier_persistence
    from polystab.analysis.representations.directions import direction_overlap
    from polystab.analysis.representations.embedding import embedding_matrix, embedding_similarity
    from polystab.analysis.sequential import SequentialDetector
    from polystab.analysis.signal.decisions import decision_accuracy
    from polystab.analysis.signal.noise import checkpoint_proxy, monotonicity, relative_signal, signal_to_noise
    from polystab.analysis.training_maps import fit_training_map
    from polystab.analysis.trajectories import (
        asymptotes,
        curve_consistency,
        curve_peaks,
        final_steps,
        forecast_final,
        pick_models,
        rank_metrics,
        seed_band,
    )
    from polystab.analysis.variance import c4, sd_factors, seed_spread, spread_overview

_NAMES = {
    "polystab.analysis.aggregates.kernels": ("interquartile_mean",),
    "polystab.analysis.aggregates.scores": (
        "aggregate_scores",
        "improvement_probability",
        "performance_profile",
    ),
    "polystab.analysis.agreement.items": ("item_stability",),
    "polystab.analysis.agreement.ranks": ("rank_agreement",),
    "polystab.analysis.agreement.scores": (
        "cohen_kappa",
        "fleiss_kappa",
        "krippendorff_alpha",
    ),
    "polystab.analysis.audit.checks": ("audit_cube",),
    "polystab.analysis.audit.findings": (
        "excluded_cells",
        "without_excluded",
    ),
    "polystab.analysis.audit.runs": ("duplicate_runs",),
    "polystab.analysis.bootstrap.detectable": (
        "detectable_difference",
        "sizes_needed",
    ),
    "polystab.analysis.bootstrap.resampling": ("multibootstrap",),
    "polystab.analysis.change_points": (
        "Segmentation",
        "segment",
        "segment_many",
    ),
    "polystab.analysis.chunked": ("metric_parts",),
    "polystab.analysis.comparisons.cubes": ("compare_cubes",),
    "polystab.analysis.comparisons.curves": ("compare_curves",),
    "polystab.analysis.comparisons.undecided": ("undecided_overview",),
    "polystab.analysis.components.additivity": ("seed_additivity",),
    "polystab.analysis.components.at_end": ("final_components",),
    "polystab.analysis.components.comparison": (
        "variance_by_size",
        "variance_ratio",
    ),
    "polystab.analysis.components.fractions": ("variance_fractions",),
    "polystab.analysis.components.gtheory": ("decision_study",),
    "polystab.analysis.components.items": (
        "item_components",
        "item_design",
    ),
    "polystab.analysis.components.last_checkpoints": ("checkpoint_noise",),
    "polystab.analysis.components.needed": (
        "noise_floor",
        "seeds_needed",
    ),
    "polystab.analysis.components.permutation": ("permutation_test",),
    "polystab.analysis.components.reliability": (
        "coefficient_of_variation",
        "seed_reliability",
    ),
    "polystab.analysis.components.seeds": ("seed_variances",),
    "polystab.analysis.components.split": ("variance_components",),
    "polystab.analysis.components.windows": ("variance_over_windows",),
    "polystab.analysis.coverage": (
        "cube_coverage",
        "fingerprint",
    ),
    "polystab.analysis.early_warning": (
        "EarlyWarning",
        "evaluate_warning",
        "prefix_features",
    ),
    "polystab.analysis.failures": (
        "failed_runs",
        "loss_spikes",
    ),
    "polystab.analysis.maps.agreement": (
        "map_agreement",
        "run_agreement",
    ),
    "polystab.analysis.maps.model": ("TrainingMap",),
    "polystab.analysis.maps.performance": ("performance_from_occupancy",),
    "polystab.analysis.maps.reading": (
        "state_occupancy",
        "state_paths",
        "state_transitions",
        "transition_effects",
    ),
    "polystab.analysis.multiplicity": ("adjusted_p",),
    "polystab.analysis.outliers.distances": (
        "curve_depth",
        "joint_distance",
    ),
    "polystab.analysis.outliers.events": (
        "shared_events",
        "spike_scores",
    ),
    "polystab.analysis.outliers.leads": ("lead_lag",),
    "polystab.analysis.outliers.paths": ("unlikely_paths",),
    "polystab.analysis.outliers.scores": (
        "expected_share",
        "outlier_scores",
        "rank_runs",
    ),
    "polystab.analysis.outliers.verdicts": ("outlier_runs",),
    "polystab.analysis.phases.agreement": (
        "adjusted_rand",
        "change_point_f1",
        "covering",
        "hausdorff",
    ),
    "polystab.analysis.phases.consensus": (
        "consensus_change_points",
        "seed_agreement",
    ),
    "polystab.analysis.phases.sizes": ("phase_size_trend",),
    "polystab.analysis.reml.model": (
        "RemlFit",
        "fit_reml",
    ),
    "polystab.analysis.representations.angles": (
        "probe_angles",
        "random_subspace_angle",
        "subspace_angles",
    ),
    "polystab.analysis.representations.codelengths": ("probe_codelengths",),
    "polystab.analysis.representations.dimensions": ("outlier_persistence",),
    "polystab.analysis.representations.directions": ("direction_overlap",),
    "polystab.analysis.representations.embedding": (
        "embedding_matrix",
        "embedding_similarity",
    ),
    "polystab.analysis.sequential": ("SequentialDetector",),
    "polystab.analysis.signal.decisions": ("decision_accuracy",),
    "polystab.analysis.signal.noise": (
        "checkpoint_proxy",
        "monotonicity",
        "relative_signal",
        "signal_to_noise",
    ),
    "polystab.analysis.training_maps": ("fit_training_map",),
    "polystab.analysis.trajectories": (
        "asymptotes",
        "curve_consistency",
        "curve_peaks",
        "final_steps",
        "forecast_final",
        "pick_models",
        "rank_metrics",
        "seed_band",
    ),
    "polystab.analysis.variance": (
        "c4",
        "sd_factors",
        "seed_spread",
        "spread_overview",
    ),
}

__all__ = [
    "EarlyWarning",
    "RemlFit",
    "Segmentation",
    "SequentialDetector",
    "TrainingMap",
    "adjusted_p",
    "adjusted_rand",
    "aggregate_scores",
    "asymptotes",
    "audit_cube",
    "c4",
    "change_point_f1",
    "checkpoint_noise",
    "checkpoint_proxy",
    "coefficient_of_variation",
    "cohen_kappa",
    "compare_cubes",
    "compare_curves",
    "consensus_change_points",
    "covering",
    "cube_coverage",
    "curve_consistency",
    "curve_depth",
    "curve_peaks",
    "decision_accuracy",
    "decision_study",
    "detectable_difference",
    "direction_overlap",
    "duplicate_runs",
    "embedding_matrix",
    "embedding_similarity",
    "evaluate_warning",
    "excluded_cells",
    "expected_share",
    "failed_runs",
    "final_components",
    "final_steps",
    "fingerprint",
    "fit_reml",
    "fit_training_map",
    "fleiss_kappa",
    "forecast_final",
    "hausdorff",
    "improvement_probability",
    "interquartile_mean",
    "item_components",
    "item_design",
    "item_stability",
    "joint_distance",
    "krippendorff_alpha",
    "lead_lag",
    "loss_spikes",
    "map_agreement",
    "metric_parts",
    "monotonicity",
    "multibootstrap",
    "noise_floor",
    "outlier_persistence",
    "outlier_runs",
    "outlier_scores",
    "performance_from_occupancy",
    "performance_profile",
    "permutation_test",
    "phase_size_trend",
    "pick_models",
    "prefix_features",
    "probe_angles",
    "probe_codelengths",
    "random_subspace_angle",
    "rank_agreement",
    "rank_metrics",
    "rank_runs",
    "relative_signal",
    "run_agreement",
    "sd_factors",
    "seed_additivity",
    "seed_agreement",
    "seed_band",
    "seed_reliability",
    "seed_spread",
    "seed_variances",
    "seeds_needed",
    "segment",
    "segment_many",
    "shared_events",
    "signal_to_noise",
    "sizes_needed",
    "spike_scores",
    "spread_overview",
    "state_occupancy",
    "state_paths",
    "state_transitions",
    "subspace_angles",
    "transition_effects",
    "undecided_overview",
    "unlikely_paths",
    "variance_by_size",
    "variance_components",
    "variance_fractions",
    "variance_over_windows",
    "variance_ratio",
    "without_excluded",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
