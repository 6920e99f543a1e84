"""Build wheel and source distribution, install the wheel in a fresh environment, and run the quick tests against it.

The tests run in a folder without the package's sources, so that what they import is what was installed. Needs a
package index. ``make wheel`` runs it; ``--python`` names another interpreter, ``--core`` installs no extras and only
makes a report.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

# Read by tests. The package itself is not among them.
BESIDE = (
    "tests", "benchmarks", "scripts", "docs", "notebooks", "recipes", "pyproject.toml", "constraints.txt", "README.md",
    "CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "SECURITY.md", "Makefile", "mkdocs.yml",
)  # fmt: skip
IGNORED = shutil.ignore_patterns("__pycache__", "*.egg-info", ".hypothesis")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--python", default=sys.executable, help="the interpreter that the environment is made with")
    parser.add_argument("--core", action="store_true", help="install no extras, and only make a report")
    parser.add_argument("--jobs", default="auto", help="tests at a time")
    parser.add_argument("--out", type=Path, help="also leave wheel and source distribution in this folder")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="polystab-wheel-") as text:
        folder = Path(text)
        wheel = build(folder, given.python)
        if given.out:
            shutil.copytree(wheel.parent, given.out, dirs_exist_ok=True)
        python = environment(folder / "env", given.python)
        extras = "" if given.core else "[fill,test]"
        run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{wheel}{extras}")
        run(python, "-m", "pip", "check")
        work = folder / "work"
        work.mkdir()
        print(f"imported: {imported_from(python, work)}", flush=True)
        run(python.parent / "polystab", "report", "nano", "-o", work / "nano.html", cwd=work)
        return 0 if given.core else tests(python, work, given.jobs)


def build(folder: Path, base: str) -> Path:
    """The wheel, made from the source distribution beside it; both are checked."""
    source = folder / "source"
    shutil.copytree(ROOT / "polystab", source / "polystab", ignore=IGNORED)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    python = environment(folder / "tools", base)
    run(python, "-m", "pip", "install", "-q", "build", "twine")
    run(python, "-m", "build", "--outdir", folder / "dist", source, quiet=True)
    made = sorted((folder / "dist").iterdir())
    run(python, "-m", "twine", "check", "--strict", *made)
    return next(path for path in made if path.suffix == ".whl")


def environment(folder: Path, base: str) -> Path:
    """A new virtual environment's interpreter."""
    run(base, "-m", "venv", folder)
    return folder / "bin" / "python"


def imported_from(python: Path, work: Path) -> str:
    """Where the package comes from, which has to be the environment."""
    code = "import polystab; print(polystab.__file__)"
    found = subprocess.run([python, "-c", code], cwd=work, capture_output=True, text=True, check=True)  # noqa: S603  our own words
    place = found.stdout.strip()
    if "site-packages" not in place:
        raise SystemExit(f"the package was imported from {place}, not from the wheel.")
    return place


def tests(python: Path, work: Path, jobs: str) -> int:
    """The quick tests, in a folder that holds everything but the package; their exit code."""
    for name in BESIDE:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, work / name, ignore=IGNORED)
        elif path.exists():
            shutil.copy(path, work)
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", jobs, "-m", "not slow", "tests"]
    return subprocess.run(command, cwd=work, check=False).returncode  # noqa: S603  our own words


def run(*command: str | Path, cwd: Path | None = None, quiet: bool = False) -> None:
    """A command that has to work, without what this process was told by its environment."""
    plain = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words, out = [str(word) for word in command], subprocess.DEVNULL if quiet else None
    subprocess.run(words, check=True, cwd=cwd, env=plain, stdout=out)  # noqa: S603  our own words


if __name__ == "__main__":
    sys.exit(main())
