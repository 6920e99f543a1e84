"""What the report asks the analyses, and of which part of a large cube; nothing is computed that no section asks for."""

from __future__ import annotations

from polystab.report.results.computed import Results, analyse

__all__ = ["Results", "analyse"]
