"""Addresses as they may be kept and shown: without names, passwords and tokens."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, parse_qsl, urlsplit, urlunsplit

from polystab.errors import ReadError

WEB = ("http", "https")
LONGEST = 2000

_SECRET = re.compile(
    r"(?i)token|sig(nature)?$|secret|passw(or)?d|pwd|(^|[-_])key($|[-_])|apikey|auth|credential|session"
)
_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]*://)[^\s/?#@]+@")
_PARAMETER = re.compile(r"([?&;])([A-Za-z0-9_.~%-]+)=([^&;#\s\"'<>]+)")
# The tokens of hubs, forges and stores that begin in a way of their own, and what follows "Bearer".
_TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|AKIA[A-Z0-9]{16})\b"
    r"|(?i:\bbearer\s+[A-Za-z0-9+/_.~-]{16,}=*)"
)
HIDDEN = "[removed]"


def public_address(address: str) -> str:
    """An address without name, password, query and fragment: what messages and records may say.

    Examples
    --------
    >>> public_address("https://me:secret@example.org/cubes/registry.json?token=abc#x")
    'https://example.org/cubes/registry.json'
    """
    parts = split_address(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def without_secrets(text: str) -> str:
    """Text in which names and passwords in addresses, tokens and the like are replaced.

    Examples
    --------
    >>> without_secrets("from https://me:secret@example.org/a.csv?token=abc&page=2")
    'from https://example.org/a.csv?token=[removed]&page=2'
    """
    text = _USER.sub(r"\1", text)
    text = _PARAMETER.sub(lambda m: f"{m[1]}{m[2]}={HIDDEN}" if _SECRET.search(m[2]) else m[0], text)
    return _TOKEN.sub(HIDDEN, text)


def holds_secrets(address: str) -> bool:
    """Whether an address holds a name, a password, or a parameter that looks like a token."""
    parts = split_address(address)
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    return "@" in parts.netloc or any(_SECRET.search(name) for name in names) or bool(_TOKEN.search(address))


def is_web(address: str) -> bool:
    """Whether an address is one of the web."""
    return address.lower().startswith(("http://", "https://"))


def split_address(address: str) -> SplitResult:
    """The parts of an address of the web.

    Raises
    ------
    ReadError
        It is none, or has characters that no address has. The message does not repeat it.
    """
    try:
        parts = urlsplit(address)
        _ = parts.port  # raises if it is no number
    except ValueError:
        raise ReadError("an address of the web cannot be read as one; write it like https://host/path.") from None
    if any(ord(letter) <= 32 or ord(letter) >= 127 for letter in address) or len(address) > LONGEST:
        raise ReadError(
            "an address of the web has blanks, control characters or letters outside ASCII, or is too long; "
            "percent-encode them."
        )
    return parts
