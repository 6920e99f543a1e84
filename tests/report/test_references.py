"""BibTeX of the methods: of those on the page, and of works that the docstrings name."""

from __future__ import annotations

import re
from pathlib import Path

import polystab
from polystab.report.references import _OF_PARTS, _entries, bibtex

PACKAGE = Path(polystab.__file__).parent


def test_every_entry_belongs_to_a_part_and_every_key_has_an_entry() -> None:
    used = {key for _, keys in _OF_PARTS.values() for key in keys}
    assert used == set(_entries())


def test_every_doi_stands_in_the_code_that_follows_the_work() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    dois = [re.search(r"doi = \{(.+)\}", entry) for entry in _entries().values()]
    assert [doi[1] for doi in dois if doi and doi[1] not in text] == []


def test_only_parts_with_results_have_entries() -> None:
    found = bibtex({"variance": {"rows": [1]}, "agreement": {"rows": [], "reason": "no items"}, "warning": None})
    assert "searle1992variance" in found
    assert "cohen1960coefficient" not in found
    assert "vovk2005algorithmic" not in found


def test_braces_of_every_entry_are_balanced() -> None:
    assert all(entry.count("{") == entry.count("}") for entry in bibtex({}).split("\n\n"))
    assert all(entry.count("{") == entry.count("}") for entry in _entries().values())
