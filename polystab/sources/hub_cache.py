"""A bounded cache of checkpoints from the Hub that many processes share.

The layout is that of ``huggingface_hub``. Beside it, in ``.locks/polystab``, stands one file
for each revision that polystab used: locked (shared) while a process uses the revision,
changed last when it was last used, and holding the number of bytes that polystab set out to
fetch; it is empty for what somebody else fetched, which is neither counted nor removed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from polystab.sources.checkpoint_errors import library

try:
    import fcntl
except ImportError:  # Windows has none; leases are then not seen by others, so nothing may be removed
    fcntl = None  # type: ignore[assignment]

CACHE_VARIABLE = "POLYSTAB_HUB_CACHE"

# A download writes all the time; what stood still for so long (seconds) was left by a killed process.
LEFT_OVER_AFTER = 3600.0

# How often a look at a changing cache is tried.
SCANS = 5


def default_folder() -> Path:
    """Where checkpoints are kept unless told otherwise: a folder of polystab's own."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    return Path(library("pooch").os_cache("polystab")) / "hub"


class Lease:
    """A revision in use: no process removes it until it is released."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def reserve(self, size: int) -> None:
        """Say that this revision is being fetched and will take ``size`` bytes."""
        if self._descriptor is not None:
            os.truncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(max(size, 1)).encode(), 0)

    def release(self) -> None:
        """Let go of it, once; what is used last goes last."""
        if self._descriptor is not None:
            with suppress(OSError):
                os.utime(self._descriptor)
            os.close(self._descriptor)  # which unlocks it
            self._descriptor = None


@dataclass(frozen=True)
class HubCache:
    """The cache in ``folder``, of which polystab fills at most ``limit`` bytes (None: any number)."""

    folder: Path
    limit: int | None = None

    def repository(self, repo: str) -> Path:
        """The folder of a repository."""
        return self.folder / f"models--{repo.replace('/', '--')}"

    def snapshot(self, repo: str, sha: str) -> Path:
        """The folder with the files of a commit."""
        return self.repository(repo) / "snapshots" / sha

    def commit(self, repo: str, revision: str) -> str:
        """The commit that a revision was when it was last fetched; empty if it never was."""
        if is_commit(revision):
            return revision
        try:
            said = self._reference(repo, revision).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return ""
        return said if is_commit(said) else ""

    def revisions(self, repo: str) -> list[str]:
        """Branches and tags of a repository that were fetched."""
        refs = self.repository(repo) / "refs"
        return sorted(path.relative_to(refs).as_posix() for path in refs.rglob("*") if path.is_file())

    def remember(self, repo: str, revision: str, sha: str) -> None:
        """Keep which commit a revision is, as ``huggingface_hub`` does, so that it is found without the network.

        Not that of a revision with a name that git has not: its file would be elsewhere.
        """
        if is_commit(revision) or self.commit(repo, revision) == sha:
            return
        try:
            path = self._reference(repo, revision)
        except ValueError:
            return
        with self.fetching():
            path.parent.mkdir(parents=True, exist_ok=True)
            # Not beside it: whatever lies below refs is taken for a branch, also by huggingface_hub.
            temporary = self.repository(repo) / f".ref.{os.getpid()}.part"
            try:
                temporary.write_text(sha, encoding="ascii")
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)

    def _reference(self, repo: str, revision: str) -> Path:
        """The file that says which commit a revision is.

        Raises
        ------
        ValueError
            It is no name that git allows, such as ``../x``: it would be a file elsewhere.
        """
        if any(part.strip(".") != part or set(part) & set("\0\\: ") or not part for part in revision.split("/")):
            raise ValueError(f"{revision[:100]!r} cannot be a branch or tag")
        return self.repository(repo) / "refs" / revision

    def lease(self, repo: str, sha: str) -> Lease:
        """Mark a revision as in use; waits while another process is removing it."""
        try:
            path = self._locks() / f"{self.repository(repo).name}--{sha}"
            descriptor = _opened(path)
        except OSError:  # a cache that we may only read: nobody of ours removes anything from it either
            return Lease(None)
        _lock(descriptor, exclusive=False)
        os.utime(descriptor)
        return Lease(descriptor)

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """Held while files are fetched: nothing is removed meanwhile, as revisions share files."""
        with self._whole_cache(exclusive=False):
            yield

    def make_room(self) -> bool:
        """Remove what was used least recently until everything, with what is reserved, is below the limit.

        Returns
        -------
        bool
            Whether it is: not if what is in use takes too much by itself.
        """
        if self.limit is None:
            return True
        with self._whole_cache(exclusive=True):
            self._remove_left_overs()
            scan = self._scanned()
            locks = [path for path in self._locks().iterdir() if _reserved(path)]
            kept = sorted(locks, key=lambda path: path.stat().st_mtime)
            with _Taken() as victims:
                for lock in list(kept):
                    if _bytes(scan, kept) <= self.limit:
                        break
                    if victims.take(lock):
                        kept.remove(lock)
                self._delete(scan, victims.paths)
            return _bytes(scan, kept) <= self.limit

    def remove(self, repo: str, sha: str) -> None:
        """Remove one revision that polystab fetched, unless somebody uses it."""
        with self._whole_cache(exclusive=True), _Taken() as victims:
            lock = self._locks() / f"{self.repository(repo).name}--{sha}"
            if _reserved(lock) and victims.take(lock):
                self._delete(self._scanned(), victims.paths)

    def _delete(self, scan: Mapping[str, Any], locks: Iterable[Path]) -> None:
        shas = [scan[lock.name].commit_hash for lock in locks if lock.name in scan]
        if shas:
            self._scan().delete_revisions(*shas).execute()
        for lock in locks:
            os.truncate(lock, 0)

    def _scanned(self) -> dict[str, Any]:
        """What is on the disk of each revision, by the name of its lock."""
        found = self._scan()
        return {
            f"{repo.repo_path.name}--{revision.commit_hash}": revision
            for repo in found.repos
            for revision in repo.revisions
        }

    def _scan(self) -> Any:
        for _ in range(SCANS - 1):
            # Other programs that fetch into the same folder move files while it is looked through.
            with suppress(OSError):
                return library("huggingface_hub").scan_cache_dir(self.folder)
            time.sleep(0.1)
        return library("huggingface_hub").scan_cache_dir(self.folder)

    def _remove_left_overs(self) -> None:
        for path in chain(self.folder.glob("models--*/blobs/*.incomplete"), self.folder.glob("models--*/.ref.*.part")):
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > LEFT_OVER_AFTER:
                    path.unlink()

    def _locks(self) -> Path:
        folder = self.folder / ".locks" / "polystab"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def _whole_cache(self, *, exclusive: bool) -> Iterator[None]:
        self._locks()
        descriptor = _opened(self.folder / ".locks" / "polystab.lock")
        try:
            _lock(descriptor, exclusive=exclusive)
            yield
        finally:
            os.close(descriptor)


class _Taken:
    """Revisions that this process alone has, so that they can be removed."""

    def __init__(self) -> None:
        self.paths: list[Path] = []
        self._descriptors: list[int] = []

    def __enter__(self) -> _Taken:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._descriptors:
            os.close(descriptor)

    def take(self, path: Path) -> bool:
        descriptor = _opened(path)
        if not _lock(descriptor, exclusive=True, wait=False):
            os.close(descriptor)
            return False
        self._descriptors.append(descriptor)
        self.paths.append(path)
        return True


def is_commit(revision: str) -> bool:
    """Whether a revision is the full name of a commit, which never comes to mean another one."""
    return len(revision) == 40 and all(letter in "0123456789abcdef" for letter in revision)


def _bytes(scan: Mapping[str, Any], locks: Iterable[Path]) -> int:
    """What revisions take; a file that several have counts once, and what is being fetched in full."""
    files: dict[Path, int] = {}
    coming = 0
    for lock in locks:
        own = {file.blob_path: file.size_on_disk for file in scan[lock.name].files} if lock.name in scan else {}
        files |= own
        if _in_use(lock):
            coming += max(0, _reserved(lock) - sum(own.values()))
    return sum(files.values()) + coming


def _reserved(lock: Path) -> int:
    """The number of bytes in a lock file; 0 for what polystab did not fetch."""
    try:
        return int(lock.read_text(encoding="ascii") or 0)
    except (OSError, ValueError):
        return 0


def _in_use(lock: Path) -> bool:
    with _Taken() as taken:
        return not taken.take(lock)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _lock(descriptor: int, *, exclusive: bool, wait: bool = True) -> bool:
    """Lock an open file; false if somebody has it and we do not wait."""
    if fcntl is None:
        return not exclusive
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True
