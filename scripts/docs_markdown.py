"""Docstrings are numpydoc with a little reStructuredText; the documentation is Markdown. This turns one into the other."""

from __future__ import annotations

import re
from collections.abc import Collection

_ROLE = re.compile(r":(?:func|class|meth|mod|data):`(~?)([\w.]+)`")
_RULE = re.compile(r"^( *)(=+(?: +=+)+) *$")
# What would be taken for a set whose first member is the default, or for a subtraction.
_CHOICES = re.compile(r"^( *[\w, ]+ : )\{([^}]+)\}( or )?", re.MULTILINE)
_PATH = re.compile(r"^( *[\w, ]+ : )path-like\b", re.MULTILINE)
_CITATION = re.compile(r"^( *)\.\. \[(\d+)\] ", re.MULTILINE)


def markdown(text: str, linked: Collection[str] = ()) -> str:
    """A docstring with roles, tables and citations as Markdown has them; roles of ``linked`` names become links."""

    def named(match: re.Match[str]) -> str:
        shown = f"`{match[2].rsplit('.', 1)[-1] if match[1] else match[2]}`"
        return f"[{shown}][{match[2]}]" if match[2] in linked else shown

    text = _ROLE.sub(named, text)
    text = re.sub(r"``([^`]+)``", r"`\1`", text)
    text = _CHOICES.sub(lambda match: match[1] + " | ".join(match[2].split(", ")) + (" | " if match[3] else ""), text)
    text = _PATH.sub(r"\1path-like object", text)
    text = _CITATION.sub(r"\1[\2] ", text)
    text = re.sub(r"\[(\d+)\]_", r"[\1]", text)
    return "\n".join(_tables(text.split("\n")))


def _tables(lines: list[str]) -> list[str]:
    """Simple tables (rows of = above, below the header if there is one, and at the end) as pipe tables."""
    done: list[str] = []
    while lines:
        rule = _RULE.match(lines[0])
        rules = [i for i, line in enumerate(lines[:40]) if rule and line.rstrip() == lines[0].rstrip()]
        if rule is None or len(rules) < 2:
            done.append(lines.pop(0))
            continue
        # With two rules there is no header, with three the second stands below it.
        last = rules[2] if len(rules) > 2 and rules[1] == 2 else rules[1]
        starts = [match.start() for match in re.finditer("=+", lines[0])]
        rows = [_cells(line, starts) for i, line in enumerate(lines[1:last], 1) if i not in rules]
        header = rows.pop(0) if last != rules[1] else [""] * len(starts)
        table = [header, ["---"] * len(starts), *_joined(rows)]
        done += [rule[1] + "| " + " | ".join(row) + " |" for row in table]
        lines = lines[last + 1 :]
    return done


def _cells(line: str, starts: list[int]) -> list[str]:
    ends = [*starts[1:], None]
    return [line[start:end].strip().replace("|", "\\|") for start, end in zip(starts, ends, strict=True)]


def _joined(rows: list[list[str]]) -> list[list[str]]:
    """Rows without a first cell go on with the row above."""
    joined: list[list[str]] = []
    for row in rows:
        if joined and not row[0]:
            joined[-1] = [f"{above} {here}".strip() for above, here in zip(joined[-1], row, strict=True)]
        else:
            joined.append(row)
    return joined
