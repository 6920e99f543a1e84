"""Addresses: what of them may be kept and shown."""

from __future__ import annotations

from urllib.parse import SplitResult, parse_qsl, urlsplit, urlunsplit

from polystab.errors import ReadError
from polystab.redaction import holds_token, names_a_secret

WEB = ("http", "https")
LONGEST = 2000


def public_address(address: str) -> str:
    """An address without name, password, query and fragment: what messages and records may say.

    Examples
    --------
    >>> public_address("https://me:secret@example.org/cubes/registry.json?token=abc#x")
    'https://example.org/cubes/registry.json'
    """
    parts = split_address(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def holds_secrets(address: str) -> bool:
    """Whether an address holds a name, a password, or a parameter that looks like a token."""
    parts = split_address(address)
    names = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    return "@" in parts.netloc or any(names_a_secret(name) for name in names) or holds_token(address)


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
