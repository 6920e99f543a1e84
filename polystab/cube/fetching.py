"""Fetching files from the web: verified before they are there, and never half of one.

Timeouts: :data:`TIMEOUT` seconds without a byte end an attempt, and so does a transfer that, after
:data:`GRACE` seconds, is slower than :data:`SLOWEST` bytes a second. What may pass (no connection, a broken-off or
slow answer, status 408, 429 and from 500 on) is tried :data:`ATTEMPTS` times.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import netrc
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any
from urllib.parse import SplitResult, unquote, urlunsplit

from polystab._version import __version__
from polystab.cube.addresses import WEB, split_address
from polystab.errors import ReadError
from polystab.files import atomic_path, remove_leftovers

TIMEOUT = 30.0
GRACE = 60.0
SLOWEST = 10_000
ATTEMPTS = 3
FIRST_WAIT = 1.0

# Bytes of a text whose size is not known beforehand.
LONGEST_TEXT = 2_000_000

_PIECE = 2**16
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class FetchError(ReadError):
    """Something could not be fetched; ``may_pass`` tells whether it may help to try again."""

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass


def fetch_file(address: str, target: Path, *, sha256: str, size: int | None = None) -> None:
    """Fetch a file to ``target``, which is only there once its size and SHA-256 are right.

    Parameters
    ----------
    address : str
        ``http://`` or ``https://``. A name and password in it, or those that ``~/.netrc`` (or the file
        ``NETRC``) has for the host, are sent to that host alone: not to where it redirects.
    target : path
        Its folder is made.
    sha256, size : str, int
        What it must be. Without a size it may have up to :data:`LONGEST_TEXT` bytes.

    Raises
    ------
    FetchError
        It cannot be fetched, or is something else.
    OutputError
        ``target`` cannot be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(target)  # before the room is counted
    free = shutil.disk_usage(target.parent).free
    if size is not None and size > free:
        raise FetchError(f"it takes {size:,} bytes, and {target.parent} has {free:,} left; make room.")
    for attempt in range(ATTEMPTS):
        try:
            # Where several users share the folder, one could leave a link there to a file of another.
            with atomic_path(target, follow=False) as temporary, temporary.open("wb") as stream:
                _copy(address, stream, sha256=sha256, size=size)
            return
        except FetchError as error:
            _wait_or_raise(error, attempt)


def fetch_bytes(address: str, *, limit: int) -> bytes:
    """Fetch something short: at most ``limit`` bytes.

    Raises
    ------
    FetchError
        It cannot be fetched, or is longer.
    """
    for attempt in range(ATTEMPTS):
        try:
            return b"".join(_pieces(address, limit))
        except FetchError as error:
            _wait_or_raise(error, attempt)
    raise AssertionError("unreachable")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in pieces that need no memory to speak of."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _copy(address: str, stream: IO[bytes], *, sha256: str, size: int | None) -> None:
    digest, received = hashlib.sha256(), 0
    for piece in _pieces(address, LONGEST_TEXT if size is None else size, exactly=size is not None):
        stream.write(piece)
        digest.update(piece)
        received += len(piece)
    if size is not None and received < size:
        raise FetchError(f"the answer broke off after {received:,} of {size:,} bytes.", may_pass=True)
    if digest.hexdigest() != sha256:
        raise FetchError(
            f"its SHA-256 is {digest.hexdigest()[:12]}..., not {sha256[:12]}... as the registry says: it was damaged "
            "on the way, or is another file. It was not kept."
        )


def _wait_or_raise(error: FetchError, attempt: int) -> None:
    if not error.may_pass:
        raise error
    if attempt == ATTEMPTS - 1:
        raise FetchError(f"{error} Tried {ATTEMPTS} times.") from error
    time.sleep(FIRST_WAIT * 2**attempt)


def _pieces(address: str, limit: int, *, exactly: bool = False) -> Iterator[bytes]:
    """What an address answers, piece by piece; at most ``limit`` bytes, and just as many if ``exactly``."""
    start, received = time.monotonic(), 0
    try:
        with closing(_open(address)) as answer:
            promised = _promised(answer)
            if promised is not None and (promised > limit or (exactly and promised < limit)):
                raise _wrong_length(promised, limit, exactly)
            while piece := answer.read1(_PIECE):
                received += len(piece)
                if received > limit:
                    raise _wrong_length(received, limit, exactly)
                if (taken := time.monotonic() - start) > GRACE + received / SLOWEST:
                    raise FetchError(
                        f"only {received:,} bytes came in {taken:.0f} s, less than {SLOWEST:,} a second.", may_pass=True
                    )
                yield piece
    except urllib.error.HTTPError as error:
        error.close()
        raise _refused(error.code) from None
    except TimeoutError:
        raise FetchError(f"no answer for {TIMEOUT:g} s.", may_pass=True) from None
    except urllib.error.URLError as error:
        # The reason is an exception of the network, or a sentence of ours about a redirect.
        said = f"no answer for {TIMEOUT:g} s" if isinstance(error.reason, TimeoutError) else error.reason
        raise FetchError(f"{said}.", may_pass=isinstance(error.reason, OSError)) from None
    except (
        ValueError,
        http.client.InvalidURL,
    ):  # of the standard library, about a redirect or proxy that is no address
        raise FetchError(
            "it redirects to something that is no address, answers with what is no HTTP, or goes through a proxy (http_proxy, "
            "https_proxy) that is no address."
        ) from None
    except (OSError, http.client.HTTPException) as error:
        raise FetchError(
            f"the answer broke off after {received:,} bytes ({type(error).__name__}).", may_pass=True
        ) from None
    if promised is not None and received < promised:
        raise FetchError(f"the answer broke off after {received:,} of {promised:,} bytes.", may_pass=True)


def _open(address: str) -> Any:
    parts = split_address(address)
    if parts.scheme not in WEB or not parts.hostname:
        raise FetchError("only addresses that begin with https:// or http:// are fetched.")
    host = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(urlunsplit((parts.scheme, host, parts.path, parts.query, "")))  # noqa: S310
    request.add_header("User-Agent", f"polystab/{__version__}")
    request.add_header("Accept-Encoding", "identity")
    if said := _credentials(parts):
        coded = base64.b64encode(":".join(said).encode()).decode("ascii")
        request.add_unredirected_header("Authorization", f"Basic {coded}")
    return urllib.request.build_opener(_Redirects()).open(request, timeout=TIMEOUT)


def _credentials(parts: SplitResult) -> tuple[str, str] | None:
    """Name and password of the address, or of ``.netrc`` where they do not travel in the open."""
    if parts.username is not None:
        return unquote(parts.username), unquote(parts.password or "")
    if parts.scheme != "https" and parts.hostname not in _LOOPBACK:
        return None
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        found = netrc.netrc(path).authenticators(parts.hostname or "")
    except OSError:
        return None
    except netrc.NetrcParseError as error:
        raise FetchError(f"line {error.lineno} of {path} cannot be read; mend it.") from None
    return (found[0], found[2] or "") if found else None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects within the web, never from https to http."""

    def http_error_302(self, req: Any, fp: Any, code: int, msg: str, headers: Any) -> Any:
        try:
            return super().http_error_302(req, fp, code, msg, headers)
        except ValueError:  # the library leaves the answer open where the new address is none
            fp.close()
            raise

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        scheme = newurl.partition(":")[0].lower()
        if scheme not in WEB or (req.type == "https" and scheme != "https"):
            if fp is not None:
                fp.close()
            raise urllib.error.URLError(f"it redirects from {req.type} to {scheme[:20]}, which is not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _promised(answer: Any) -> int | None:
    said = answer.headers.get("Content-Length") or ""
    return int(said) if said.isascii() and said.isdecimal() and len(said) < 20 else None


def _wrong_length(found: int, limit: int, exactly: bool) -> FetchError:
    if exactly:
        return FetchError(f"it has {found:,} bytes or more, and should have {limit:,}: it is another file.")
    return FetchError(f"it is longer than {limit:,} bytes, which is too long for what it should be.")


def _refused(status: int) -> FetchError:
    meant = {
        401: "it asks for a name and a password; put them into ~/.netrc",
        403: "it is not open to you",
        404: "there is no such file",
        410: "the file was removed",
    }.get(status, "the server refuses" if status < 500 else "the server is in trouble; try again later")
    if 300 <= status < 400:
        meant = "it redirects in a circle, or to what is not followed"
    return FetchError(f"status {status}: {meant}.", may_pass=status in (408, 429) or status >= 500)
