"""The works behind a page, as BibTeX: those of the methods whose results are on it."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import Any

from polystab._version import __version__

# Part of the summary -> what in it is empty where there is no result, and keys of references.bib.
_OF_PARTS = {
    "contents": ("measured", ("vanderwal2025polypythias",)),
    "comparison": ("rows", ("welch1947generalization", "hedges1981distribution", "schuirmann1987comparison")),
    "final": ("rows", ("holtzman1950unbiased",)),
    "variance": ("rows", ("searle1992variance", "burdick1992confidence")),
    "phases": ("curves", ("jackson2005algorithm", "killick2012optimal", "glaz2001scan", "hu2023latent")),
    "agreement": ("rows", ("cohen1960coefficient", "fleiss1971measuring", "efron1981jackknife")),
    "representations": ("rows", ("voita2020information", "knyazev2002principal")),
    "outliers": ("runs", ("iglewicz1993detect",)),
    "verdicts": ("models", ("langsrud2005rotation", "benjamini1995controlling")),
    "warning": ("early", ("vanhouwelingen2007dynamic", "vovk2005algorithmic", "clopper1934use")),
}

_POLYSTAB = f"""@software{{polystab,
  author = {{{{The polystab developers}}}},
  title = {{polystab: Seed-Stability of Language-Model Training}},
  version = {{{__version__}}}
}}"""


def bibtex(summary: dict[str, Any]) -> str:
    """The entries for the parts of a summary that have results, as one text; polystab's own comes first."""
    entries = _entries()
    keys = [key for part, (result, keys) in _OF_PARTS.items() if (summary.get(part) or {}).get(result) for key in keys]
    return "\n\n".join([_POLYSTAB, *(entries[key] for key in keys)])


@cache
def _entries() -> dict[str, str]:
    """Key -> entry of the file."""
    text = files(__package__).joinpath("references.bib").read_text(encoding="utf-8")
    found = [entry.strip() for entry in re.split(r"\n\s*\n", text) if entry.strip()]
    return {re.match(r"@\w+\{([^,]+),", entry)[1]: entry for entry in found}  # type: ignore[index]
