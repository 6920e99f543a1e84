"""Tests of hostile input know of no file, whatever was opened on this machine before."""

from __future__ import annotations

from pathlib import Path

import pytest

from polystab.cube import known_files, netcdf_check


@pytest.fixture(autouse=True)
def record(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The record of known files, of this test alone."""
    path = tmp_path_factory.mktemp("record") / "known-files.txt"
    monkeypatch.setattr(known_files, "record_path", lambda: path)
    netcdf_check._fault.cache_clear()
    return path
