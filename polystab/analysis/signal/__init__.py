"""What a benchmark can tell: signal, noise, decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.analysis.signal.decisions import decision_accuracy
    from polystab.analysis.signal.noise import checkpoint_proxy, monotonicity, relative_signal, signal_to_noise

_NAMES = {
    "polystab.analysis.signal.decisions": ("decision_accuracy",),
    "polystab.analysis.signal.noise": (
        "checkpoint_proxy",
        "monotonicity",
        "relative_signal",
        "signal_to_noise",
    ),
}

__all__ = [
    "checkpoint_proxy",
    "decision_accuracy",
    "monotonicity",
    "relative_signal",
    "signal_to_noise",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
