"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

# Real data that lies beside the repository where we work; it is not ours to ship.
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real inputs; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real data is not at {SHARED.relative_to(SHARED.parents[2])}")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def _own_record_of_known_files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests save and open is not remembered on this machine, nor anything that was opened before known to them."""
    from polystab.cube import known_files

    path = tmp_path_factory.mktemp("record") / "known-files.txt"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(known_files, "record_path", lambda: path)
        yield
