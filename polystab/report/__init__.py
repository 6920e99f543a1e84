"""The report: one page from the analyses. ``polystab.report(cube, path)`` writes it.

This subpackage has the same name as the public function, so it *is* the function: the
module can be called, and calling it calls :func:`polystab.report.page.report`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _CallableModule(ModuleType):
    """A module that can be called like the function it is named after."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Write the report of a cube; see :func:`polystab.report.page.report`."""
        from polystab.report.page import report

        return report(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
