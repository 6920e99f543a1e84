"""The driver that harms writers, and what is done with it."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import pytest
from planted_secrets import CANARY, ENVIRONMENT, PASSWORD, assert_clean

HERE = Path(__file__).parent
# What any writer may import late; children are forked after it.
NEEDED = ("polystab.sources.fill", "polystab.sources.checkpoints", "polystab.sources.joining", "polystab.report.page",
          "polystab.monitor.tail", "polystab.cli", "pooch")  # fmt: skip
TORCH = ("torch", "transformers", "polystab.suites.train", "polystab.suites.measuring")


class Driver:
    """Gives orders to ``fault_driver.py`` and waits for each answer."""

    def __init__(self, *modules: str) -> None:
        self._cache = TemporaryDirectory()
        self._process = subprocess.Popen(
            [sys.executable, "-B", str(HERE / "fault_driver.py"), *modules],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={
                **os.environ, "OMP_NUM_THREADS": "1", "SOURCE_DATE_EPOCH": "1700000000", "XDG_CACHE_HOME": self._cache.name,
            },
        )  # fmt: skip

    def ask(self, order: str, **what: Any) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"order": order, **what}, default=str) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._cache.cleanup()

    def look(self, writer: str, folder: Path) -> str:
        """What stands in the folder; an error of looking as text, which is no state."""
        answer = self.ask("look", writer=writer, folder=folder)
        return str(answer["gave"]) if "gave" in answer else str(answer.get("traceback") or answer)

    def prepared(self, writer: str, folder: Path, *, which: str = "old") -> Path:
        """A folder in which the old content stands."""
        folder.mkdir()
        for answer in (
            self.ask("prepare", writer=writer, folder=folder),
            self.ask("write", writer=writer, folder=folder, which=which),
        ):
            assert "gave" in answer, answer
        return folder


def _driver(*modules: str) -> Iterator[Driver]:
    if not hasattr(os, "fork"):
        pytest.skip("children are forked")
    driver = Driver(*modules)
    yield driver
    driver.close()


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of files are written, and each is flushed."""
    shared = Path("/dev/shm")
    folder = Path(mkdtemp(dir=shared)) if os.access(shared, os.W_OK) else tmp_path
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def driver() -> Iterator[Driver]:
    """One for all writers that need no torch."""
    yield from _driver(*NEEDED)


@pytest.fixture(scope="session")
def torch_driver() -> Iterator[Driver]:
    """One that has imported torch."""
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    yield from _driver(*NEEDED, *TORCH)


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Secrets in the environment and in ``.netrc``; what is logged, at any level, is looked at in the end."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login me password {PASSWORD}\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("POLYSTAB_DATA", str(tmp_path / "out" / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "out" / "cache"))
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    caplog.set_level(logging.DEBUG)
    yield
    assert CANARY not in caplog.text.lower()
    assert_clean(tmp_path / "out")
