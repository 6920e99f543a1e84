"""Which measures of weights belong to which set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from polystab.sources.weights.fits import FAMILIES

SETS = ("hu2023", "core", "moments", "fits", "spectra", "changes", "updates", "singular_values", "histograms")
LEVELS = ("parameter", "component", "layer", "all")

_MEASURES: dict[str, tuple[str, ...]] = {
    "moments": (
        "mean", "variance", "std", "skewness", "kurtosis", "median", "max_abs", "l1", "l2", "l1_over_l2",
    ),
    "fits": (
        "normal_loglik", "normal_aic", "logistic_loglik", "logistic_aic", "logistic_scale",
        "t_loglik", "t_aic", "t_nu", "t_scale", "gennorm_loglik", "gennorm_aic", "gennorm_beta", "gennorm_scale",
        "qq_correlation", "hill_index",
    ),
    "spectra": (
        "trace", "spectral_norm", "trace_over_spectral_norm", "singular_mean", "singular_variance", "stable_rank",
        "effective_rank", "participation_ratio", "rank_slope", "mp_outliers",
        "power_law_alpha", "power_law_from", "power_law_n", "power_law_ks",
    ),
    "changes": ("distance", "cosine", "update_size", "update_cosine"),
    "updates": ("update_correlation", "update_size_correlation"),
}  # fmt: skip

# A dozen of a matrix, and a few of what has no spectrum.
_CORE = (
    "l2", "std", "kurtosis", "max_abs", "t_nu", "spectral_norm", "stable_rank", "power_law_alpha", "mp_outliers",
    "distance", "cosine", "update_size",
)  # fmt: skip
_CORE_OF_LISTS = ("mean", "l2")


@dataclass(frozen=True)
class Wanted:
    """What has to be measured for some sets."""

    matrices: frozenset[str]
    lists: frozenset[str]
    hu2023: bool
    updates: bool
    singular_values: bool
    histograms: bool

    @classmethod
    def of(cls, sets: Iterable[str]) -> Wanted:
        chosen = set(sets)
        whole = {measure for name in chosen for measure in _MEASURES.get(name, ())}
        core = "core" in chosen
        return cls(
            matrices=frozenset(whole | set(_CORE if core else ())),
            lists=frozenset(whole | set(_CORE_OF_LISTS if core else ())),
            hu2023="hu2023" in chosen,
            updates="updates" in chosen,
            singular_values="singular_values" in chosen,
            histograms="histograms" in chosen,
        )

    def of_kind(self, matrix: bool) -> frozenset[str]:
        """The measures wanted of a matrix, or of a list of numbers such as a bias."""
        return self.matrices if matrix else self.lists

    @property
    def fits(self) -> bool:
        return bool(self.matrices.intersection(_MEASURES["fits"]))

    @property
    def families(self) -> tuple[str, ...]:
        """Distributions that have to be fitted."""
        return tuple(name for name in FAMILIES if any(measure.startswith(f"{name}_") for measure in self.matrices))

    @property
    def spectrum(self) -> bool:
        return self.singular_values or bool(self.matrices.intersection(_MEASURES["spectra"]))

    @property
    def changes(self) -> bool:
        return self.updates or bool((self.matrices | self.lists).intersection(_MEASURES["changes"]))
