"""The top level of a results file, parsed only as far as it is needed.

The harness writes ``json.dumps(..., indent=2)``, and most of a file is task
configurations and a report of the environment that nothing here uses. Text between
quotes cannot hold a line break, so in such a file a line that starts with one level
of indentation and a quote is a key of the top level, and the text can be cut there.
Whatever does not look exactly like that is parsed as a whole instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from polystab.errors import RefusedFileError, shown

# The sections that anything is read from.
WANTED = frozenset(
    {"results", "config", "groups", "group_subtasks", "configs", "n-shot", "n-samples", "higher_is_better"}
    | {"date", "git_hash", "lm_eval_version", "versions"}
)

_INDENT = re.compile(r'\{(\r?\n[ \t]+")')


def decoded(content: bytes) -> str:
    """The text of a JSON file.

    Raises
    ------
    RefusedFileError
        ``empty`` or ``not-utf8``.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise RefusedFileError("not-utf8", f"not UTF-8 text: {error.reason} at byte {error.start}.") from error
    if not text.startswith("{") or not text.endswith("}"):
        text = text.strip("\ufeff \t\r\n")
    if not text:
        raise RefusedFileError("empty", "the file is empty.")
    return text


def sections(text: str) -> dict[str, str]:
    """Wanted top-level keys of a JSON object, each with the text of its value, still unparsed.

    Raises
    ------
    RefusedFileError
        ``invalid-json``, ``too-deep``, ``duplicate-keys`` or ``not-results`` (not an object).
    """
    return _cut(text) or parsed_whole(text)


def _cut(text: str) -> dict[str, str] | None:
    """The wanted sections of a uniformly indented object; None where that is not certain."""
    match = _INDENT.match(text)
    if match is None or not text.endswith("\n}"):
        return None
    mark = match[1]
    found: dict[str, str] = {}
    start = match.end()
    while start > 0:
        stop = text.find('": ', start)
        after = text.find(mark, start)
        key = text[start:stop]
        if stop < 0 or "\n" in key or key in found:
            return None
        if key in WANTED:
            body = text[stop + 3 : after if after >= 0 else len(text) - 2].rstrip()
            if (after >= 0) != body.endswith(","):
                return None
            found[key] = body[:-1] if after >= 0 else body
        start = after + len(mark) if after >= 0 else -1
    return found


def parsed_whole(text: str) -> dict[str, str]:
    """:func:`sections` of any object, however it is indented."""
    value = parse(text)
    if not isinstance(value, dict):
        raise RefusedFileError("not-results", f"the top level is a {type(value).__name__}, not an object.")
    return {key: json.dumps(item) for key, item in value.items() if key in WANTED}


def parse(text: str) -> Any:
    """One JSON value; text after it, deep nesting and repeated keys are refused."""
    try:
        value, end = _DECODER.raw_decode(text)
        # Counting is quicker than a hook on every object; the hook decides where the counts differ.
        if text.count('":') != _key_count(value):
            json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError as error:
        raise RefusedFileError("too-deep", "nested too deeply.") from error
    except ValueError as error:
        raise RefusedFileError("invalid-json", f"not JSON: {error}.") from error
    if end != len(text) and text[end:].strip():
        raise RefusedFileError(
            "invalid-json", f"not JSON: more text after the end of the value ({text[end : end + 20]!r})."
        )
    return value


def _key_count(value: Any) -> int:
    """Keys of an object and of the objects in it, two levels deep, which is as deep as scores are."""
    if not isinstance(value, dict):
        return 0
    return len(value) + sum([len(inner) for inner in value.values() if isinstance(inner, dict)])


@lru_cache(maxsize=512)
def parse_shared(text: str) -> Any:
    """:func:`parse` for sections that stand alike in many files; the result must not be changed."""
    return parse(text)


def parse_mapping(text: str | None, *, shared: bool = True) -> Mapping[str, Any]:
    """A section that should be an object; empty where it is missing or something else."""
    if text is None:
        return {}
    value = parse_shared(text) if shared else parse(text)
    return value if isinstance(value, dict) else {}


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        raise RefusedFileError("duplicate-keys", f"{shown(repeated)} stand twice in one object.")
    return found


_DECODER = json.JSONDecoder()
