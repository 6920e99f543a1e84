"""Checkpoints on the Hugging Face Hub: the files that are needed, of one commit, and no others.

``HF_ENDPOINT``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` mean what they mean to
``huggingface_hub``, which does the talking.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from polystab._version import __version__
from polystab.errors import did_you_mean, shown
from polystab.redaction import clean_cause, without_secrets
from polystab.sources.checkpoint_errors import CheckpointError, library, quiet
from polystab.sources.hub_cache import HubCache, Lease, default_folder
from polystab.sources.run_patterns import steps_among
from polystab.sources.tensor_files import PICKLE_INDEX, SAFETENSORS_INDEX, WEIGHT_FILES, index_shards, weight_files

if TYPE_CHECKING:
    from polystab.sources.checkpoints import CheckpointOptions
    from polystab.sources.runs import Run

T = TypeVar("T")

# What a model and its tokenizer are made from, beside the weights.
SMALL_FILES = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab)\.json"
    r"|merges\.txt|vocab\.txt|(tokenizer|spiece|sentencepiece\.bpe)\.model|chat_template\.jinja"
)
# How shards are named; their index says exactly, but it has to be fetched first.
_SHARDS = {
    SAFETENSORS_INDEX: re.compile(r"model-\d+-of-\d+\.safetensors"),
    PICKLE_INDEX: re.compile(r"pytorch_model-\d+-of-\d+\.bin"),
}

# Seconds before the first repetition; each further one waits twice as long.
FIRST_WAIT = 1.0
LONGEST_WAIT = 300.0


@dataclass(frozen=True)
class Fetched:
    """A commit whose files are in the cache, and stay there until it is released.

    Attributes
    ----------
    folder : path
        With its files.
    sha : str
        The commit.
    notes : tuple of (reason, detail)
        What a person should know.
    release : callable
        Call it when the files are not needed any more.
    """

    folder: Path
    sha: str
    notes: tuple[tuple[str, str], ...]
    release: Callable[[], None]


def fetch(repo: str, revision: str, options: CheckpointOptions) -> Fetched:
    """Fetch the files of a checkpoint that are not in the cache yet.

    The revision is resolved to a commit once, and everything is fetched by that. Only the
    config, the tokenizer and the weights are: safetensors if there are any, else what
    ``torch.save`` wrote. With a cache limit, the least recently used revisions that no process
    has in use are removed first; a checkpoint above the limit by itself is removed when it is
    released, and a note says so.

    Parameters
    ----------
    repo, revision : str
        Repository on the Hub, and branch, tag or commit.
    options : CheckpointOptions
        Cache folder and limit, number of retries, whether the network may be used.

    Returns
    -------
    Fetched
        Release it when done.

    Raises
    ------
    CheckpointError
        ``missing-revision`` (or repository; near names are given), ``gated`` (log in),
        ``missing-config``, ``missing-weights``, ``missing-shard``, ``unreachable`` (after the
        retries), ``not-cached`` (without the network), ``no-space`` or ``unwritable-cache``.
    """
    cache = HubCache(
        Path(options.cache_dir).expanduser() if options.cache_dir else default_folder(), options.cache_limit
    )
    if _offline(options):
        return _from_cache(cache, repo, revision)
    with quiet(transformers=False), ExitStack() as on_failure:
        link = _Link(repo, revision, options.retries)
        commit = link.ask(partial(link.api.repo_info, repo, revision=revision, files_metadata=True))
        sizes = {entry.rfilename: entry.size or 0 for entry in commit.siblings or ()}
        needed = _needed(sizes, link, trust_remote_code=options.trust_remote_code)
        size = _size(needed, sizes)
        lease = cache.lease(repo, commit.sha)
        on_failure.callback(lease.release)
        folder = cache.snapshot(repo, commit.sha)
        notes: tuple[tuple[str, str], ...] = ()
        try:
            if not _complete(folder, needed):
                lease.reserve(size)
                notes = _limit_notes(cache, size, link)
                with cache.fetching():
                    _download(needed, sizes, cache, commit.sha, link)
            cache.remember(repo, revision, commit.sha)
        except OSError as error:
            raise _unwritable(cache.folder, error) from error
        on_failure.pop_all()
    too_large = options.cache_limit is not None and size > options.cache_limit
    return Fetched(folder, commit.sha, notes, partial(_release, lease, cache, repo, commit.sha, remove=too_large))


def steps_on_hub(run: Run, options: CheckpointOptions | None) -> tuple[int, ...]:
    """Steps, ascending, for which the repository of a run has a branch or tag like the run's revision.

    Without the network, of those that are in the cache.

    Raises
    ------
    CheckpointError
        As :func:`fetch`.
    """
    from polystab.sources.checkpoints import CheckpointOptions

    options = options or CheckpointOptions()
    repo = run.place(0)
    if _offline(options):
        names = HubCache(Path(options.cache_dir or default_folder()).expanduser()).revisions(repo)
    else:
        with quiet(transformers=False):
            link = _Link(repo, "", options.retries)
            names = link.ask(link.branches)
    return tuple(steps_among(run.revision, names, model=run.model, seed=run.seed))


class _Link:
    """Asks the Hub about one revision of a repository, again where that may help."""

    def __init__(self, repo: str, revision: str, retries: int) -> None:
        self.repo, self.revision, self.retries = repo, revision, retries
        # Read now: huggingface_hub itself reads it only once, when it is imported.
        self.endpoint = os.environ.get("HF_ENDPOINT") or None
        self.library, self.errors = library("huggingface_hub"), library("huggingface_hub.errors")
        self.api = self.library.HfApi(endpoint=self.endpoint, library_name="polystab", library_version=__version__)

    def __str__(self) -> str:
        return f"{self.repo} at revision {self.revision!r}" if self.revision else self.repo

    def ask(self, question: Callable[[], T]) -> T:
        """The answer, or the :class:`CheckpointError` that says why there is none."""
        for attempt in range(self.retries + 1):
            try:
                return question()
            except (OSError, ValueError, self.errors.HTTPError) as error:
                cause = error.__cause__ if isinstance(error, self.errors.LocalEntryNotFoundError) else None
                failure = cause or error
                if not self._may_pass(failure) or attempt == self.retries:
                    raise self._refusal(failure) from clean_cause(error)
                time.sleep(_wait(failure, attempt))
        raise AssertionError("unreachable")

    def branches(self) -> list[str]:
        """Branches and tags of the repository."""
        refs = self.api.list_repo_refs(self.repo)
        return [ref.name for ref in (*refs.branches, *refs.tags)]

    def download(self, name: str, sha: str, folder: Path) -> None:
        """Fetch one file of a commit into the cache in ``folder``, unless it is there."""
        self.ask(
            lambda: self.library.hf_hub_download(
                self.repo,
                name,
                revision=sha,
                cache_dir=folder,
                endpoint=self.endpoint,
                library_name="polystab",
                library_version=__version__,
            )
        )

    def _may_pass(self, error: BaseException) -> bool:
        status = _status(error)
        if status is not None:
            return status in {408, 429} or status >= 500
        if isinstance(error, self.errors.OfflineModeIsEnabled):
            return False
        cut_short = isinstance(error, OSError) and "Consistency check failed" in str(error)
        return cut_short or isinstance(error, (ConnectionError, TimeoutError, self.errors.HTTPError))

    def _refusal(self, error: BaseException) -> CheckpointError:
        status, errors = _status(error), self.errors
        if isinstance(error, errors.RevisionNotFoundError):
            return CheckpointError("missing-revision", f"{self.repo} has no revision {self.revision!r}.{self._near()}")
        if isinstance(error, errors.GatedRepoError) or status in {401, 403}:
            return CheckpointError(
                "gated",
                f"{self} is not open to you (status {status}): it is private or gated, or there is no such repository. "
                "Check its name; if it is right, log in (hf auth login, or HF_TOKEN) with an account that may read it.",
            )
        if isinstance(error, (errors.RepositoryNotFoundError, errors.HFValidationError)) or status == 404:
            return CheckpointError("missing-revision", f"the Hub has no {self}; check the name of the repository.")
        if isinstance(error, OSError) and error.errno and not isinstance(error, (ConnectionError, TimeoutError)):
            return _unwritable(Path(error.filename or "the cache"), error)
        first = (without_secrets(str(error)).strip().splitlines() or [type(error).__name__])[0]
        said = f"status {status}" if status else first[:200]
        return CheckpointError(
            "unreachable",
            f"{self} could not be fetched from {self.endpoint or 'the Hub'}, tried {self.retries + 1} times if that "
            f"could help: {said}. Try again later; what is in the cache can be used without the network "
            "(local_files_only).",
        )

    def _near(self) -> str:
        try:
            return f" {did_you_mean(self.revision, self.branches())}"
        except (OSError, ValueError, self.errors.HTTPError):
            return ""  # the revision is missing all the same


def _needed(sizes: Mapping[str, int], link: _Link, *, trust_remote_code: bool) -> list[str]:
    """Names of the files to fetch: small ones, then the weights or the index of their shards."""
    if "config.json" not in sizes:
        raise CheckpointError("missing-config", f"{link} holds no config.json, which says what the model is.")
    weights = next((name for name in WEIGHT_FILES if name in sizes), None)
    if weights is None:
        raise CheckpointError(
            "missing-weights", f"{link} holds no weights: none of {shown(WEIGHT_FILES)}. It has {shown(sorted(sizes))}."
        )
    small = [name for name in sizes if SMALL_FILES.fullmatch(name) or (trust_remote_code and name.endswith(".py"))]
    return [*sorted(small), weights]


def _size(needed: list[str], sizes: Mapping[str, int]) -> int:
    """Bytes to fetch, with the shards behind an index."""
    pattern = _SHARDS.get(needed[-1])
    shards = [name for name in sizes if pattern.fullmatch(name)] if pattern else []
    return sum(sizes[name] for name in (*needed, *shards))


def _complete(folder: Path, needed: list[str]) -> bool:
    if not all((folder / name).exists() for name in needed):
        return False
    shards = index_shards(folder / needed[-1]) if needed[-1] in _SHARDS else {}
    return all((folder / shard).exists() for shard in shards)


def _download(needed: list[str], sizes: Mapping[str, int], cache: HubCache, sha: str, link: _Link) -> None:
    for name in needed:
        link.download(name, sha, cache.folder)
    if needed[-1] not in _SHARDS:
        return
    shards = index_shards(cache.snapshot(link.repo, sha) / needed[-1])
    if absent := [shard for shard in shards if shard not in sizes]:
        raise CheckpointError(
            "missing-shard", f"{link} lacks {shown(absent)} of the {len(shards)} files that its {needed[-1]} lists."
        )
    for shard in shards:
        link.download(shard, sha, cache.folder)


def _limit_notes(cache: HubCache, size: int, link: _Link) -> tuple[tuple[str, str], ...]:
    if cache.make_room() or cache.limit is None:
        return ()
    if size > cache.limit:
        return (
            (
                "cache-limit",
                f"{link} takes {size} bytes, more than the cache limit of {cache.limit}: it is removed after use",
            ),
        )
    return (("cache-limit", f"with {link} the cache is above its limit of {cache.limit} bytes: the rest is in use"),)


def _from_cache(cache: HubCache, repo: str, revision: str) -> Fetched:
    sha = cache.commit(repo, revision)
    folder = cache.snapshot(repo, sha)
    if not sha or not folder.is_dir():
        known = f" {did_you_mean(revision, names)}" if (names := cache.revisions(repo)) else ""
        raise CheckpointError(
            "not-cached",
            f"{repo} at revision {revision!r} is not in the cache {cache.folder}, and the network is not to be "
            f"used.{known} Fetch it first, with the network.",
        )
    lease = cache.lease(repo, sha)
    try:
        weight_files(folder)
    except CheckpointError as error:
        lease.release()
        raise CheckpointError(
            "not-cached", f"of {repo} at revision {revision!r} only a part is in the cache: {error.detail}"
        ) from error
    return Fetched(folder, sha, (), lease.release)


def _release(lease: Lease, cache: HubCache, repo: str, sha: str, *, remove: bool) -> None:
    lease.release()
    if remove:
        with quiet(transformers=False):
            cache.remove(repo, sha)


def _unwritable(path: Path, error: OSError) -> CheckpointError:
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return CheckpointError(
            "no-space", f"the disk is full: {path} cannot be written. Make room, or set a cache limit."
        )
    return CheckpointError(
        "unwritable-cache", f"{path} cannot be written: {error.strerror or error}. Name another cache folder."
    )


def _offline(options: CheckpointOptions) -> bool:
    return options.local_files_only or bool(library("huggingface_hub.constants").HF_HUB_OFFLINE)


def _status(error: BaseException) -> int | None:
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def _wait(error: BaseException, attempt: int) -> float:
    """Seconds until the next attempt: what the server asks for, or twice as long each time."""
    asked = str(getattr(getattr(error, "response", None), "headers", {}).get("Retry-After", "")).strip()
    wait: float = FIRST_WAIT * 2**attempt
    if asked.isdecimal():
        wait = float(asked)
    elif asked:
        with suppress(ValueError, TypeError):  # not a date with a time zone: as if it had said nothing
            wait = (parsedate_to_datetime(asked) - datetime.now(UTC)).total_seconds()
    return min(max(wait, 0.0), LONGEST_WAIT)
