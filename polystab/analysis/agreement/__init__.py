"""How far runs agree: on answers, on items, on which model is best."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.analysis.agreement.items import item_stability
    from polystab.analysis.agreement.ranks import rank_agreement
    from polystab.analysis.agreement.runs import agreement
    from polystab.analysis.agreement.scores import cohen_kappa, fleiss_kappa, krippendorff_alpha

_NAMES = {
    "polystab.analysis.agreement.items": ("item_stability",),
    "polystab.analysis.agreement.ranks": ("rank_agreement",),
    "polystab.analysis.agreement.runs": ("agreement",),
    "polystab.analysis.agreement.scores": (
        "cohen_kappa",
        "fleiss_kappa",
        "krippendorff_alpha",
    ),
}

__all__ = [
    "agreement",
    "cohen_kappa",
    "fleiss_kappa",
    "item_stability",
    "krippendorff_alpha",
    "rank_agreement",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
