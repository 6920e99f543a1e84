"""What all tests share."""

from __future__ import annotations

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
