"""Broken input, drawn by hypothesis: bytes cut and patched, JSON with anything in any place."""

from __future__ import annotations

import copy
import gzip
import json
import math
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

# What has broken parsers before: numbers that no type holds, texts that no file keeps, ways out of a folder.
NUMBERS: list[Any] = [
    0,
    -1,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    -(2**63) - 1,
    10**40,
    1e308,
    math.inf,
    -math.inf,
    math.nan,
]
TEXTS = [
    "",
    " ",
    "\0",
    "\ud800",
    "../../outside",
    "/etc/passwd",
    "~nobody-of-this-name/x",
    "a" * 300,
    "step" + "9" * 30,
    "step" + "9" * 5000,
    "seed" + "9" * 5000,
    "x-seed99999999999999999999-step7",
    "²",
    "٣",
    "NaN",
    "none",
    "acc,none",
    "acc_stderr,none",
    "{step}",
    "{seed.__class__}",
    "{step:999999999d}",
    "<script>",
    "a,b=c,=d",
    "CON",
    "x\ny",
    "eval//",
    "eval/a/b/c",
]
PATCHES = [
    *(text.encode("utf-8", "surrogatepass") for text in TEXTS),
    *(repr(number).encode() for number in NUMBERS),
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r",
    b"\n\n",
    b"\t",
    b'"',
    b",",
    b"9" * 5000,
    b"[" * 3000,
    b'{"a":' * 3000,
    b"1e999",
    b"0x10",
    b"1_000",
    b"null",
    b"NaN",
    b"\0" * 64,
    b"\xff" * 8,
]

leaves = (
    st.none() | st.booleans() | st.sampled_from(NUMBERS) | st.sampled_from(TEXTS) | st.integers() | st.text(max_size=8)
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(TEXTS) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def patched(draw: st.DrawFn, originals: Sequence[bytes], *, most: int = 4) -> bytes:
    """One of the originals, cut, repeated or overwritten in a few places."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(0, most))):
        kind = draw(st.integers(0, 5))
        start = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 40))
        if kind == 0:
            del content[start:]
        elif kind == 1:
            del content[start : start + length]
        elif kind == 2:
            content[start:start] = draw(st.sampled_from(PATCHES))
        elif kind == 3:
            patch = draw(st.sampled_from(PATCHES) | st.binary(max_size=8))
            content[start : start + len(patch)] = patch
        elif kind == 4:
            content[start:start] = content[start : start + length] * draw(st.integers(1, 3))
        elif content:
            content[min(start, len(content) - 1)] ^= 1 << draw(st.integers(0, 7))
    return bytes(content)


def places(document: Any) -> list[tuple[Any, Any]]:
    """Every (container, key or index) in a JSON document."""
    found: list[tuple[Any, Any]] = []
    todo = [document]
    while todo:
        here = todo.pop()
        keys = list(here) if isinstance(here, dict) else list(range(len(here))) if isinstance(here, list) else []
        found += [(here, key) for key in keys]
        todo += [here[key] for key in keys]
    return found


@st.composite
def disturbed(draw: st.DrawFn, original: Any) -> Any:
    """A JSON document with up to three places that hold something else, are gone, or have another name."""
    document = copy.deepcopy(original)
    for _ in range(draw(st.integers(0, 3))):
        known = places(document)
        if not known:
            break
        holder, key = known[draw(st.integers(0, len(known) - 1))]
        kind = draw(st.integers(0, 3))
        if kind <= 1:
            holder[key] = draw(values)
        elif kind == 2:
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw(st.sampled_from(TEXTS) | st.text(max_size=6))] = holder.pop(key)
    return document


@st.composite
def json_bytes(draw: st.DrawFn, original: Any) -> bytes:
    """A disturbed document as text, in one of the ways to write it; now and then patched as bytes too."""
    document = draw(disturbed(original))
    content = json.dumps(document, indent=draw(st.sampled_from([None, 2]))).encode()
    return draw(patched([content], most=2)) if draw(st.integers(0, 3)) == 0 else content


@st.composite
def json_lines(draw: st.DrawFn, rows: Sequence[Any]) -> bytes:
    """Rows, some of them disturbed, one on a line."""
    lines = [json.dumps(draw(disturbed(row)) if draw(st.booleans()) else row).encode() for row in rows]
    content = b"\n".join(lines) + b"\n"
    return draw(patched([content], most=2)) if draw(st.integers(0, 3)) == 0 else content


@st.composite
def perhaps_packed(draw: st.DrawFn, content: st.SearchStrategy[bytes]) -> bytes:
    """The content as it is, gzipped, or gzipped and then damaged."""
    plain = draw(content)
    kind = draw(st.integers(0, 5))
    if kind > 1:
        return plain
    packed = gzip.compress(plain, mtime=0)
    return packed if kind == 0 else draw(patched([packed], most=2))
