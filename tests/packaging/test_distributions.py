"""What the wheel and the source distribution hold, and that the wheel works where it is put."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="the sources are not here"),
]

# Of the wheel: four bundled cubes take most of it.
MOST_BYTES = 15 * 2**20

CACHES = ("__pycache__", "*.egg-info")


class Built(NamedTuple):
    wheel: Path
    sdist: Path


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return str(done.stdout)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both, made from a copy of the sources, the wheel from what is in the source distribution."""
    version = tuple(int(part) for part in pytest.importorskip("setuptools").__version__.split(".")[:1])
    if version < (77,):
        pytest.skip("setuptools is older than pyproject.toml asks for")
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"
    shutil.copytree(ROOT / "polystab", source / "polystab", ignore=shutil.ignore_patterns(*CACHES))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "import sys, setuptools.build_meta as m; print(getattr(m, sys.argv[1])(sys.argv[2]))"
    sdist = folder / run(sys.executable, "-c", code, "build_sdist", folder, cwd=source).split()[-1]
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    unpacked = next((folder / "unpacked").iterdir())
    wheel = folder / run(sys.executable, "-c", code, "build_wheel", folder, cwd=unpacked).split()[-1]
    return Built(wheel, sdist)


def package_files() -> set[str]:
    found = (path for path in (ROOT / "polystab").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return {path.relative_to(ROOT).as_posix() for path in found}


def wheel_files(built: Built) -> set[str]:
    with zipfile.ZipFile(built.wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_file_of_the_package(built: Built) -> None:
    assert package_files() - wheel_files(built) == set()


def test_the_wheel_holds_nothing_else(built: Built) -> None:
    rest = wheel_files(built) - package_files()
    assert {PurePosixPath(name).parts[0].partition("-")[2] for name in rest} == {"0.1.0.dist-info"}


def test_the_source_distribution_holds_every_file_of_the_package(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = {
            PurePosixPath(name).relative_to(PurePosixPath(name).parts[0]).as_posix() for name in archive.getnames()
        }
    assert package_files() - names == set()


def test_neither_holds_caches(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = [*archive.getnames(), *wheel_files(built)]
    assert [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".swp", "~"))] == []


def test_both_are_small(built: Built) -> None:
    assert max(path.stat().st_size for path in built) < MOST_BYTES


def test_the_metadata_names_licence_readme_and_command(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as archive:
        info = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        said = Parser().parsestr(archive.read(info).decode())
        commands = archive.read(info.replace("METADATA", "entry_points.txt")).decode()
    assert said["License-Expression"] == "Apache-2.0"
    assert said["Description-Content-Type"] == "text/markdown"
    assert str(said.get_payload()).startswith("# ")
    assert "polystab = polystab.cli:main" in commands


@pytest.fixture(scope="module")
def installed(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and nothing else, beside the libraries of this environment."""
    folder = tmp_path_factory.mktemp("installed")
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder, built.wheel)
    return folder


def environment(installed: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(installed)}


def test_the_installed_package_is_the_one_that_is_imported(installed: Path, tmp_path: Path) -> None:
    said = run(
        sys.executable, "-c", "import polystab; print(polystab.__file__)", cwd=tmp_path, env=environment(installed)
    )
    assert Path(said.strip()) == installed / "polystab" / "__init__.py"


def test_the_installed_command_reports_on_the_bundled_cube(installed: Path, tmp_path: Path) -> None:
    command = installed / "bin" / "polystab"
    run(sys.executable, command, "report", "nano", "-o", "r.md", "--sections", "contents",
        cwd=tmp_path, env=environment(installed))  # fmt: skip
    assert "nano" in (tmp_path / "r.md").read_text()


def test_a_license_goes_with_both(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        names = [*archive.getnames(), *wheel_files(built)]
    assert len([name for name in names if name.endswith("LICENSE")]) == 2
