"""The sources by name, built in or registered by another package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path
from typing import Any

import pytest
import xarray as xr
from click.testing import CliRunner

import polystab as ps
import polystab.testing
from polystab.cli import main
from polystab.cube import AuditLog
from polystab.sources import registry
from polystab.sources.registry import Source, get_source, guess_sources, sources


def read_toy(path: Path) -> xr.DataTree:
    log = AuditLog()
    log.read(Path(path).name)
    return xr.DataTree.from_dict({"/": polystab.testing.synthetic_cube(n_models=1, rng=0), "/audit": log.dataset()})


def guess_toy(path: Path) -> bool:
    return str(path).endswith(".toy")


TOY = Source("toy", "toy files", f"{__name__}:read_toy", f"{__name__}:guess_toy")
BROKEN = Source(
    "broken", "needs what is not there", "no_such_package.reader:read", f"{__name__}:guess_toy", extra="fill"
)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Two more sources, as an installed package would register them."""
    points = EntryPoints(
        EntryPoint(name, f"{__name__}:{name.upper()}", "polystab.sources") for name in ("toy", "broken")
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: points.select(group=group))
    sources.cache_clear()
    yield
    sources.cache_clear()


def test_the_built_in_sources_are_found() -> None:
    assert {"lm-eval", "training-log", "table"} <= set(sources())


def test_an_unknown_source_gets_a_suggestion() -> None:
    with pytest.raises(ps.PolystabError, match="Did you mean 'lm-eval'"):
        get_source("lmeval")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("results.json", {"results": {"a": {"acc": 1.0}}, "config": {}}, ["lm-eval"]),
        ("trainer_state.json", {"log_history": [{"step": 1, "loss": 2.0}]}, ["training-log"]),
        ("t.csv", "model,seed,step,metric,value\na,0,0,eval/x/acc,1.0\n", ["table"]),
        ("t.txt", "nothing of ours", []),
    ],
)
def test_each_source_recognises_its_own_files(tmp_path: Path, name: str, content: Any, expected: list[str]) -> None:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert guess_sources(path) == expected


def test_what_is_not_there_is_recognised_by_none(tmp_path: Path) -> None:
    assert guess_sources(tmp_path / "nope.json") == []


@pytest.mark.slow
@pytest.mark.usefixtures("registered")
def test_a_registered_source_is_a_command_of_its_own(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["read", "toy", "x.toy", "-o", str(tmp_path / "x.nc"), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["read"] == 1
    assert "toy files" in CliRunner().invoke(main, ["read", "--help"]).output


@pytest.mark.usefixtures("registered")
def test_a_source_whose_package_is_missing_says_what_to_install() -> None:
    with pytest.raises(ps.PolystabError, match=r"pip install 'polystab\[fill\]'"):
        get_source("broken").read("x")
