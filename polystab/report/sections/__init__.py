"""From the summary to the sections of the page: words and tables, no numbers of their own. One module a section."""

from __future__ import annotations

from polystab.report.sections.order import SECTIONS, known_sections, lead, sections

__all__ = ["SECTIONS", "known_sections", "lead", "sections"]
