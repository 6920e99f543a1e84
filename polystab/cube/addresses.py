"""Addresses as they may be kept and shown: without names, passwords and tokens."""

from __future__ import annotations

import os
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
# What is assigned to a name that ends in such a word, as in arguments, environments and JSON; and what a header says.
_NAME = r"(?:[A-Za-z0-9]+[_-])*(?:token|secret|password|passwd|pwd|api[_-]?key|access[_-]?key|credentials?)"
_ASSIGNED = re.compile(
    rf"(?i)(?<![A-Za-z0-9])(?!(?:bos|eos|pad|unk|sep|cls|mask)_)({_NAME}=[\"']?)[^\s\"',;&<>|(){{}}\[\]]{{6,}}"
    rf"|([\"']{_NAME}[\"']\s*:\s*[\"'])[^\"'\[\]]{{6,}}"
)
_HEADER = re.compile(r"(?i)\b(authorization[\"']?\s*[:=]\s*[\"']?)(?:basic|bearer|digest|token)\s+[^\s\"']+")
# Secrets that the environment of this process holds are known, whatever they look like.
_VARIABLES = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GITHUB_TOKEN", "GH_TOKEN"),
)
_SHORTEST_KNOWN = 8
# A text without any of these matches none of the patterns.
_MARKS = ("@", "=", '"', "'", "hf_", "gh", "AKIA", "akia", "glpat-", "earer", "EARER", "uthorization", "UTHORIZATION")
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

    That is: names and passwords before the host of an address; values of parameters, arguments and JSON keys that are
    called token, password, API key and the like; tokens that begin as those of a known service do; what
    an ``Authorization`` header says; and what ``HF_TOKEN``, ``WANDB_API_KEY`` and a few other variables hold now.
    A secret that none of this tells is not found.

    Examples
    --------
    >>> without_secrets("from https://me:secret@example.org/a.csv?token=abc&page=2")
    'from https://example.org/a.csv?token=[removed]&page=2'
    """
    for name in _VARIABLES:
        known = os.environ.get(name, "")
        if len(known) >= _SHORTEST_KNOWN and known in text:
            text = text.replace(known, HIDDEN)
    if not any(mark in text for mark in _MARKS):  # as in most texts, of which an audit has thousands
        return text
    text = _USER.sub(r"\1", text)
    text = _PARAMETER.sub(lambda m: f"{m[1]}{m[2]}={HIDDEN}" if _SECRET.search(m[2]) else m[0], text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    text = _ASSIGNED.sub(lambda m: f"{m[1] or m[2]}{HIDDEN}", text)
    return _TOKEN.sub(HIDDEN, text)


def clean_cause(error: BaseException) -> BaseException | None:
    """An exception of a library to raise another one from; None if it, or what caused it, repeats a secret."""
    seen: BaseException | None = error
    while seen is not None:
        if without_secrets(str(seen)) != str(seen):
            return None
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return error


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
