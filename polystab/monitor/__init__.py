"""Live use: is the run that trains now going wrong?

:class:`StabilityCallback` sits in a Hugging Face ``Trainer``, :func:`watch_log` reads the log of any
job while it grows; both feed a :class:`RunWatcher`, which compares the run with a :class:`Reference`
(past runs of the recipe) and with its own past. Only the callback needs transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polystab._lazy import lazy_names

if TYPE_CHECKING:
    from polystab.monitor.callback import StabilityCallback
    from polystab.monitor.past import OwnPast
    from polystab.monitor.reference import Reference
    from polystab.monitor.tail import LogTail
    from polystab.monitor.watch import watch_log
    from polystab.monitor.watcher import Finding, RunWatcher

_NAMES = {
    "polystab.monitor.callback": ("StabilityCallback",),
    "polystab.monitor.past": ("OwnPast",),
    "polystab.monitor.reference": ("Reference",),
    "polystab.monitor.tail": ("LogTail",),
    "polystab.monitor.watch": ("watch_log",),
    "polystab.monitor.watcher": ("Finding", "RunWatcher"),
}

__all__ = ["Finding", "LogTail", "OwnPast", "Reference", "RunWatcher", "StabilityCallback", "watch_log"]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)
