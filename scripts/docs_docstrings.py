"""What mkdocstrings loads: every docstring becomes Markdown before it is parsed."""

from __future__ import annotations

from typing import Any

# docs_hook.py, which MkDocs loads first, has imported these.
import docs_pages
import griffe
from docs_markdown import markdown


class Docstrings(griffe.Extension):
    """Makes Markdown of every docstring before it is parsed."""

    def __init__(self) -> None:
        super().__init__()
        self.linked = {name for each in docs_pages.public_names() for name in (each.home, *each.public)}

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = markdown(obj.docstring.value, self.linked)
