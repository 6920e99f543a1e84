"""The documentation: its links lead somewhere, its commands and snippets are real, and no public name is missing."""

from __future__ import annotations

import ast
import doctest
import importlib
import importlib.util
import random
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from released_tree import write_released_tree

from polystab.cli import main

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`[^`\n]+`")
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
_REFERENCE = re.compile(r"\]\[(polystab[\w.]*)\]")
_INDENTED = re.compile(r"^    (polystab (?:.*\\\n)*.*)", re.MULTILINE)
_NAMED_TEST = re.compile(r"`([\w/]+\.py)?::(\w+)`")

# Pages whose snippets need what an earlier page makes.
_AFTER = {"howto/audit.md": "howto/lm-eval.md", "howto/report.md": "howto/lm-eval.md"}


@pytest.fixture(scope="module")
def made() -> Iterator[Any]:
    """The module that makes pages from the code."""
    sys.path.insert(0, str(ROOT / "scripts"))
    yield importlib.import_module("docs_pages")
    sys.path.remove(str(ROOT / "scripts"))


@pytest.fixture(scope="module")
def generated(made: Any) -> dict[str, str]:
    """The generated pages by the place where MkDocs sees them; those that take long are there by name only."""
    pages = {f"reference/api/{name}.md": text for name, text in made.api_pages().items()}
    pages |= {"reference/cube.md": made.cube_page(), "reference/cli.md": made.cli_page()}
    return pages | {"known-issues.md": made.known_issues_page(), "gallery.md": "", "changelog.md": ""}


def name_of(page: Path) -> str:
    return page.relative_to(DOCS).as_posix()


def fences(page: Path) -> list[tuple[str, str]]:
    """Language and content of each block of a page."""
    return _FENCE.findall(page.read_text(encoding="utf-8"))


def commands_of(page: Path) -> list[str]:
    """Every ``polystab ...`` line of a page, in blocks of any kind."""
    text = page.read_text(encoding="utf-8")
    lines = _INDENTED.findall(text)
    for _, content in fences(page):
        lines += re.findall(r"^(?:\$ )?(polystab .*)$", content, re.MULTILINE)
    return [re.sub(r"\\\n\s*", "", line) for line in lines]


COMMANDS = [
    pytest.param(line, id=f"{name_of(page)}-{number}")
    for page in PAGES
    for number, line in enumerate(commands_of(page))
]


@pytest.mark.slow
def test_every_link_leads_somewhere(generated: dict[str, str]) -> None:
    texts = {name_of(page): page.read_text(encoding="utf-8") for page in PAGES} | generated
    broken = []
    for name, text in texts.items():
        for link in _LINK.findall(_CODE.sub("", _FENCE.sub("", text))):
            if link.startswith(("https://", "#")):
                continue
            target = (DOCS / name).parent.joinpath(link.split("#")[0]).resolve()
            if target.relative_to(DOCS).as_posix() not in texts:
                broken.append(f"{name}: {link}")
    assert broken == []


@pytest.mark.slow
def test_every_name_that_is_linked_is_public(made: Any, generated: dict[str, str]) -> None:
    known = {public for name in made.public_names() for public in (*name.public, name.home)}
    texts = {name_of(page): page.read_text(encoding="utf-8") for page in PAGES} | generated
    assert {
        (name, link) for name, text in texts.items() for link in _REFERENCE.findall(text) if link not in known
    } == set()


def test_every_page_is_in_the_navigation(generated: dict[str, str]) -> None:
    nav = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    pages = {name_of(page) for page in PAGES} | {name for name in generated if not name.startswith("reference/api/")}
    assert nav == pages


def test_every_public_name_is_on_one_page_of_the_api(made: Any, generated: dict[str, str]) -> None:
    documented = [
        home
        for name, text in generated.items()
        if "/api/" in name
        for home in re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    ]
    wanted = set()
    for package in made.packages():
        module = importlib.import_module(package)
        # Looked up through the package itself: this does not trust the table of the generator.
        wanted |= {f"{package}.{name}" for name in module.__all__ if not name.startswith("__")}
    anchored = {anchor for text in generated.values() for anchor in re.findall(r"\[\]\(\)\{#([\w.]+)\}", text)} | set(
        documented
    )
    assert wanted - anchored == set()
    assert len(documented) == len(set(documented))


def test_every_documented_name_is_defined_where_the_api_says(made: Any) -> None:
    missing = []
    for name in made.public_names():
        source = Path(importlib.util.find_spec(name.module).origin).read_text(encoding="utf-8")
        if not re.search(rf"^(?:def |class )?{name.name}\b", source, re.MULTILINE):
            missing.append(name.home)
    assert missing == []


def test_every_variable_of_the_cube_is_specified(generated: dict[str, str]) -> None:
    from polystab.cube import specs

    page = generated["reference/cube.md"]
    names = [spec.name for spec in (*specs.DIMENSIONS, *specs.VARIABLES, *specs.COORDINATES, *specs.ATTRIBUTES)]
    names += [variable.name for group in specs.GROUPS for variable in group.variables]
    assert [name for name in names if f"| `{name}`" not in page] == []


def test_every_known_issue_is_listed(generated: dict[str, str]) -> None:
    from polystab.analysis.audit.known import known_issues

    assert generated["known-issues.md"].count("\n- ") == len(known_issues())


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_has_the_options_shown(line: str) -> None:
    words = shlex.split(re.split(r" # | \|\|? ", line)[0])[1:]
    command: click.Command = main
    context = click.Context(main, info_name="polystab")
    while isinstance(command, click.Group):
        found = command.get_command(context, words[0])
        if found is None and words[0] == "my-scores":  # the source that a page shows how to register
            return
        assert found is not None, f"there is no command {words[0]}"
        command, words = found, words[1:]
    command.make_context("polystab", words)


def test_every_test_that_is_named_exists() -> None:
    named_tests, missing = 0, []
    for promise in (DOCS / "trust.md").read_text(encoding="utf-8").split("\n- "):
        file = ""
        for named, test in _NAMED_TEST.findall(promise):
            file, named_tests = named or file, named_tests + 1
            path = ROOT / "tests" / file
            if not path.is_file() or f"def {test}(" not in path.read_text(encoding="utf-8"):
                missing.append(f"{file}::{test}")
    assert named_tests > 0
    assert missing == []


def test_no_page_holds_a_place_of_a_machine(generated: dict[str, str]) -> None:
    texts = {name_of(page): page.read_text(encoding="utf-8") for page in PAGES} | generated
    place = re.compile(r"(?<![\w.])/(?:home|root|Users|work|tmp|opt)/")
    assert [name for name, text in texts.items() if place.search(text)] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_of_python_is_python(page: Path) -> None:
    for language, content in fences(page):
        if language == "python":
            ast.parse(content)


def prepare(folder: Path) -> None:
    """The files that the pages speak of."""
    steps, tasks = (0, 1000, 143000), (("arc_easy", "sciq"),)
    write_released_tree(folder / "results", sizes=("14m", "410m"), seeds=3, steps=steps, groups=tasks)
    runs = [f"my-125m-seed{seed} - train/loss" for seed in (0, 1)]
    columns = ["Step", *(f"{run}{end}" for run in runs for end in ("", "__MIN", "__MAX"))]
    rows = [",".join(f'"{column}"' for column in columns)]
    rows += [f"{step},{a},{a},{a},{b},{b},{b}" for step, a, b in ((0, 10.9, 10.8), (500, 5.1, 5.3), (1000, 4.2, 4.1))]
    (folder / "wandb_export.csv").write_text("\n".join(rows) + "\n")
    losses = [
        f"{recipe},{run},{step},{10 - step / 100 + run}" for recipe in ("a", "b") for run in (0, 1) for step in (0, 500)
    ]
    (folder / "losses.csv").write_text("\n".join(["recipe,run,step,val_loss", *losses]) + "\n")
    noise = random.Random(0)
    curve = [2 + 3 * 0.975**step + noise.uniform(-0.1, 0.1) + 4 * (step >= 280) for step in range(1, 301)]
    (folder / "log.csv").write_text("\n".join(["step,loss", *(f"{i},{y:.3f}" for i, y in enumerate(curve, 1))]) + "\n")
    scores = [f"my-125m,{seed},1000,eval/my_task/acc,{value},0.02" for seed, value in ((0, 0.41), (1, 0.44), (2, 0.40))]
    (folder / "scores.csv").write_text("\n".join(["model,seed,step,metric,value,stderr", *scores]) + "\n")


def run_page(page: Path, names: dict[str, Any]) -> None:
    """Run a page from top to bottom; what is printed must be what stands there (``...`` for anything)."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    for language, content in fences(page):
        if language == "python":
            exec(compile(content, str(page), "exec"), names)
        elif language == "pycon":
            test = doctest.DocTestParser().get_doctest(content, names, page.name, str(page), 0)
            runner = doctest.DocTestRunner(optionflags=flags, verbose=False)
            said: list[str] = []
            runner.run(test, out=said.append, clear_globs=False)
            names.update(test.globs)
            assert not runner.failures, "".join(said)
        elif language == "console":
            command, _, wanted = content.partition("\n")
            got = CliRunner().invoke(main, shlex.split(command)[2:]).output
            assert doctest.OutputChecker().check_output(wanted, got, flags), f"{command}\n{got}"


RUNNABLE = [page for page in PAGES if {"python", "pycon", "console"} & {language for language, _ in fences(page)}]


def test_roles_of_public_names_become_links_and_others_code(made: Any) -> None:
    markdown = importlib.import_module("docs_markdown").markdown
    text = markdown("See :func:`polystab.report` and :func:`~a.b.hidden`, ``x``.", linked={"polystab.report"})
    assert text == "See [`polystab.report`][polystab.report] and `hidden`, `x`."


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("    way : {'a', 'b'}, optional", "    way : 'a' | 'b', optional"),
        ('one, other : {"last", "seeds"} or int', 'one, other : "last" | "seeds" | int'),
        ("path : path-like", "path : path-like object"),
        ("    A set {1, 2} : no types, and a path-like thing.", "    A set {1, 2} : no types, and a path-like thing."),
    ],
)
def test_types_that_would_be_read_as_sets_or_subtractions_are_written_otherwise(
    made: Any, written: str, shown: str
) -> None:
    assert importlib.import_module("docs_markdown").markdown(written) == shown


def test_simple_tables_become_pipe_tables(made: Any) -> None:
    table = "  ====  =====\n  size  what\n  ====  =====\n  one   a|b\n        more\n  two   c\n  ====  =====\nafter"
    wanted = "  | size | what |\n  | --- | --- |\n  | one | a\\|b more |\n  | two | c |\nafter"
    assert importlib.import_module("docs_markdown").markdown(table) == wanted


@pytest.mark.slow
@pytest.mark.parametrize("page", RUNNABLE, ids=name_of)
def test_the_snippets_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    if name_of(page) in _AFTER:
        run_page(DOCS / _AFTER[name_of(page)], {"__name__": "page"})
    run_page(page, {"__name__": "page"})


@pytest.mark.slow
def test_the_gallery_draws_every_picture_with_words(made: Any) -> None:
    from polystab import plots

    gallery = importlib.import_module("docs_gallery")
    page = gallery.gallery_page()
    pictures = {name for name in plots.__all__ if not name.startswith("describe_") and name != "to_svg"}
    assert {entry.function for entry in gallery.ENTRIES} | set(gallery.NOT_DRAWN) == pictures
    assert len(re.findall(r"<desc id=\"\w+\">[^<]{20,}</desc>", page)) == len(gallery.ENTRIES)
