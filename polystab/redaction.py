"""Texts without the secrets that they hold: every message of ours goes through here, and so does most of what is kept."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_SECRET = re.compile(
    r"(?i)token|sig(nature)?$|secret|passw(or)?d|pwd|(^|[-_])key($|[-_])|apikey|auth|credential|session"
)
# One slash where the address went through a path, which makes one of several.
_USER = re.compile(r"(?i)\b([a-z][a-z0-9+.-]+:/{1,2})[^\s/?#@]+@")
_PARAMETER = re.compile(r"([?&;])([A-Za-z0-9_.~%-]+)=([^&;#\s\"'<>]+)")
# The tokens of hubs, forges and stores that begin in a way of their own, and what follows "Bearer".
_TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|AKIA[A-Z0-9]{16})\b"
    r"|(?i:\bbearer\s+[A-Za-z0-9+/_.~-]{16,}=*)"
)
# What is assigned to a name that ends in such a word, as in arguments, environments and JSON; and what a header says.
# Tokens of a tokenizer, which are no secrets.
_SPECIAL = r"(?:bos|eos|pad|unk|sep|cls|mask)_"
_NAME = r"(?:[A-Za-z0-9]+[_-])*(?:token|secret|password|passwd|pwd|api[_-]?key|access[_-]?key|credentials?)"
_ASSIGNED = re.compile(
    rf"(?i)(?<![A-Za-z0-9])(?!{_SPECIAL})({_NAME}=[\"']?)[^\s\"',;&<>|(){{}}\[\]]{{6,}}"
    rf"|(\\?[\"']{_NAME}\\?[\"']\s*:\s*\\?[\"'])[^\"'\[\]\\]{{6,}}"  # quoted once more where JSON stands in JSON
)
_WHOLE_NAME = re.compile(rf"(?i)(?!{_SPECIAL}){_NAME}")
_HEADER = re.compile(r"(?i)\b(authorization[\"']?\s*[:=]\s*[\"']?)(?:basic|bearer|digest|token)\s+[^\s\"']+")
# A key of a certificate, also one that was cut.
_PEM = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
# Secrets that the environment of this process holds are known, whatever they look like.
_VARIABLES = (
    *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"),
    *("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GITHUB_TOKEN", "GH_TOKEN"),
)
_SHORTEST_KNOWN = 8
# A text without any of these matches none of the patterns.
_MARKS = ("@", "=", '"', "'", "hf_", "gh", "AKIA", "akia", "glpat-", "earer", "EARER", "uthorization", "UTHORIZATION",
          "PRIVATE KEY")  # fmt: skip
HIDDEN = "[removed]"


def without_secrets(text: str) -> str:
    """Text in which names and passwords in addresses, tokens and the like are replaced.

    That is: names and passwords before the host of an address; values of parameters, arguments and JSON keys that are
    called token, password, API key and the like; tokens that begin as those of a known service do; private keys; what
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
    text = _PEM.sub(rf"\1{HIDDEN}\2", text)
    text = _USER.sub(r"\1", text)
    text = _PARAMETER.sub(lambda m: f"{m[1]}{m[2]}={HIDDEN}" if _SECRET.search(m[2]) else m[0], text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    text = _ASSIGNED.sub(lambda m: f"{m[1] or m[2]}{HIDDEN}", text)
    return _TOKEN.sub(HIDDEN, text)


def without_secrets_in(value: Any) -> Any:
    """The same for all texts in mappings and lists; what a key called token, password or the like holds is replaced whole.

    Examples
    --------
    >>> without_secrets_in({"api_key": "abc", "args": ["token=0123456789"], "n": 3})
    {'api_key': '[removed]', 'args': ['token=[removed]'], 'n': 3}
    """
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, Mapping):
        return {
            name: HIDDEN
            if isinstance(held, str) and held and _WHOLE_NAME.fullmatch(str(name))
            else without_secrets_in(held)
            for name, held in value.items()
        }
    return [without_secrets_in(held) for held in value] if isinstance(value, list | tuple) else value


def clean_cause(error: BaseException) -> BaseException | None:
    """An exception of a library to raise another one from; None if it, or what caused it, repeats a secret."""
    seen: BaseException | None = error
    while seen is not None:
        if without_secrets(str(seen)) != str(seen):
            return None
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return error


def names_a_secret(parameter: str) -> bool:
    """Whether a parameter of an address is called like a secret."""
    return bool(_SECRET.search(parameter))


def holds_token(text: str) -> bool:
    """Whether a text holds a token that begins as those of a known service do."""
    return bool(_TOKEN.search(text))
