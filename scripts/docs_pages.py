"""Pages of the documentation that are made from the code: the API, the cube, the command line, known issues."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import click

import polystab

# Modules outside of the public packages of which some names are public.
NAMED = {
    "polystab.sources.fill": ("FillProgress", "FillResult"),
    "polystab.sources.joining": ("join_units",),
    "polystab.sources.lineage": ("weight_lineage",),
    "polystab.sources.runs": ("read_runs", "Run", "RunTable"),
    "polystab.sources.checkpoints": ("Checkpoint", "CheckpointOptions"),
    "polystab.sources.tables": ("read_table_by_model",),
    "polystab.sources.training_logs": ("read_training_log_by_model",),
    "polystab.sources.registry": ("Source", "get_source", "guess_sources", "sources"),
    "polystab.sources.measuring": ("Measurement", "Measurer"),
}
# A page for each subject: file name, title, and what the modules of its names begin with. The first match counts.
SUBJECTS = (
    ("cubes", "Cubes", ("polystab.cube",)),
    ("report", "The report", ("polystab.report",)),
    ("plots", "Pictures", ("polystab.plots",)),
    ("variance", "Variance", ("polystab.analysis.components", "polystab.analysis.variance", "polystab.analysis.reml")),
    ("phases", "Change points", ("polystab.analysis.phases", "polystab.analysis.change_points")),
    ("maps", "Training maps", ("polystab.analysis.training_maps", "polystab.analysis.maps")),
    (
        "outliers",
        "Outlier runs and failures",
        (
            "polystab.analysis.outliers",
            "polystab.analysis.failures",
            "polystab.analysis.early",
            "polystab.analysis.seq",
        ),
    ),
    ("audit", "Audit", ("polystab.analysis.audit", "polystab.sources.lineage", "polystab.analysis.coverage")),
    (
        "comparison",
        "Comparing recipes",
        ("polystab.analysis.bootstrap", "polystab.analysis.aggregates", "polystab.analysis.signal"),
    ),
    ("agreement", "Agreement", ("polystab.analysis.agreement",)),
    ("representations", "Representations", ("polystab.analysis.representations",)),
    ("curves", "Curves", ("polystab.analysis.trajectories",)),
    ("analysis", "Other analysis", ("polystab.analysis",)),
    ("reading", "Reading results", ("polystab.sources.eval_results", "polystab.sources.t", "polystab.sources.items")),
    ("monitor", "Live monitoring", ("polystab.monitor",)),
    ("filling", "Measuring checkpoints", ("polystab.sources",)),
    ("suites", "Suites to try methods on", ("polystab.suites",)),
    ("testing", "Synthetic cubes", ("polystab.testing",)),
    ("errors", "Errors", ("polystab.errors",)),
    ("other", "Other names", ("polystab",)),
)


@dataclass
class Name:
    """Something public: where it is defined, and all the names it goes by."""

    module: str
    name: str
    public: list[str] = field(default_factory=list)

    @property
    def home(self) -> str:
        return f"{self.module}.{self.name}"

    @property
    def summary(self) -> str:
        """The first line of its docstring, read and not run: torch would have to be there. A constant has none."""
        for node in _source(self.module).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == self.name:
                return (ast.get_docstring(node) or "").split("\n", 1)[0]
        return ""


def _home(module: str, name: str) -> str:
    """The module in which a name is defined that another may only hand on."""
    handed = _handed_on(module)
    return _home(handed[name], name) if name in handed else module


@cache
def _handed_on(module: str) -> dict[str, str]:
    """Where a module has its names from, by name."""
    imports = [node for node in ast.walk(_source(module)) if isinstance(node, ast.ImportFrom) and node.module]
    return {alias.asname or alias.name: node.module for node in imports for alias in node.names if node.module}


@cache
def _source(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise LookupError(f"no module {module}; see NAMED in {Path(__file__).name}")
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def packages() -> list[str]:
    """The public packages, polystab first: those that say what is public."""
    below = [f"polystab.{info.name}" for info in pkgutil.iter_modules(polystab.__path__) if info.ispkg]
    return ["polystab", *(name for name in below if hasattr(importlib.import_module(name), "__all__"))]


def public_names() -> list[Name]:
    """Every public name once, in the order of its first package."""
    found: dict[str, Name] = {}
    for public, said in _public():
        name = public.rsplit(".", 1)[1]
        module = _home(said, name)
        found.setdefault(f"{module}.{name}", Name(module, name)).public.append(public)
    return list(found.values())


def _public() -> Iterator[tuple[str, str]]:
    """Pairs of a public name and the module that defines it."""
    from polystab import errors
    from polystab.sources.registry import measurers, sources

    for package in packages():
        module = importlib.import_module(package)
        yield from ((f"{package}.{name}", package) for name in module.__all__ if not name.startswith("__"))
    for module_name, names in NAMED.items():
        yield from ((f"{module_name}.{name}", module_name) for name in names)
    for measurer in measurers():
        home, _, name = sources()[measurer].measurer.partition(":")
        yield f"{home}.{name}", home
    for name, thing in vars(errors).items():
        if inspect.isclass(thing) and issubclass(thing, Exception) and thing.__module__ == errors.__name__:
            yield f"{errors.__name__}.{name}", errors.__name__


def subject_of(name: Name) -> str:
    """File name of the page that documents it."""
    return next(file for file, _, prefixes in SUBJECTS if name.module.startswith(prefixes))


def api_pages() -> dict[str, str]:
    """The pages of the API by file name, ``index`` first; no public name is on none."""
    names = public_names()
    pages = {"index": _api_index(names)}
    for file, title, _ in SUBJECTS:
        here = [name for name in names if subject_of(name) == file]
        if here:
            pages[file] = f"# {title}\n\n" + "\n\n".join(_documented(name) for name in here) + "\n"
    return pages


def api_titles() -> dict[str, str]:
    """Titles by file name."""
    return {"index": "All names"} | {file: title for file, title, _ in SUBJECTS}


def _documented(name: Name) -> str:
    """The directive, below an anchor for each name it goes by."""
    anchors = "".join(f"[](){{#{public}}}" for public in name.public if public != name.home)
    kept = name.public[0]
    return f"{anchors}\n\n::: {name.home}\n    options:\n      heading: {kept}\n      toc_label: {name.name}"


def _api_index(names: Iterable[Name]) -> str:
    text = [
        "# API",
        "`import polystab as ps` is quick: each name is imported when it is first used. Functions take a cube (or a tree "
        "that holds one) first and everything else by keyword, change no input, print nothing, and return a labelled "
        "Dataset. `rng` is a number or a `numpy.random.Generator`; the same `rng` gives the same bytes.",
    ]
    listed = list(names)
    public = packages()
    for package in public:
        rows = [
            (f"[`{name.name}`][{name.home}]", _cell(name.summary))
            for name in listed
            if package + "." + name.name in name.public
        ]
        text += [f"## {package}", _table(("name", "what it gives"), sorted(rows))]
    rest = [name for name in listed if not any(long.rsplit(".", 1)[0] in public for long in name.public)]
    text += [
        "## Elsewhere",
        _table(
            ("name", "module", "what it gives"),
            [(f"[`{n.name}`][{n.home}]", f"`{n.module}`", _cell(n.summary)) for n in rest],
        ),
    ]
    return "\n\n".join(text) + "\n"


def cube_page() -> str:
    """The specification of the cube, from its specs."""
    from polystab.cube import specs

    def rows(wanted: Iterable[specs.VariableSpec]) -> str:
        return _table(
            ("name", "dimensions", "type", "unknown is", "what"),
            [
                (
                    f"`{spec.name}`" + ("" if spec.required else " (optional)"),
                    ", ".join(spec.dims),
                    specs.DTYPES[spec.kind].replace("U", "text"),
                    "empty" if spec.fill == "" else f"{spec.fill}".replace("nan", "NaN"),
                    _cell(spec.doc),
                )
                for spec in wanted
            ],
        )

    parts = [
        "# The cube",
        f"One `xarray.Dataset` in a netCDF-4 file, schema version {specs.SCHEMA_VERSION}. A cube is valid or refused: "
        "[`ps.validate_cube`][polystab.validate_cube] lists every violation at once, each with its fix. "
        "This page is made from `polystab/cube/specs.py`, as validation is.",
        "## Dimensions",
        _table(
            ("dimension", "labels", "what"),
            [(f"`{d.name}`", "text" if d.kind == "U" else "integer", _cell(d.doc)) for d in specs.DIMENSIONS],
        ),
        "## Variables",
        rows(specs.VARIABLES),
        "## Coordinates",
        "Families of metrics: " + ", ".join(f"`{family}`" for family in specs.FAMILIES) + ". A metric id is "
        "`<family>/<subject>/<measure>`; shots and answer filters are part of it where they are not the plain case: "
        "`eval/arc_easy/acc`, `eval/arc_easy@5shot/acc`, `eval/gsm8k/exact_match@strict-match`.",
        rows(specs.COORDINATES),
        "## Groups",
        "Detail that does not fit four dimensions lives in groups of the same file and opens lazily "
        "([`ps.open_tree`][polystab.open_tree]). More variables than those listed are allowed.",
    ]
    for group in specs.GROUPS:
        parts += [f"### {group.name}", f"{group.doc[0].upper()}{group.doc[1:]}."]
        parts += [rows(group.variables)] if group.variables else []
    parts += [
        "## File attributes",
        _table(
            ("name", "type", "what"),
            [
                (
                    f"`{a.name}`" + ("" if a.required else " (optional)"),
                    "integer" if a.type is int else "text",
                    _cell(a.doc),
                )
                for a in specs.ATTRIBUTES
            ],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def cli_page() -> str:
    """What every command says about itself."""
    from polystab.cli import main

    parts = [
        "# Command line",
        "Exit codes: 0 fine, 1 something was found, 2 wrong usage or bad input. No command replaces an existing file "
        "unless `--overwrite` is given, except that `report` replaces an earlier report.",
    ]
    for path, command in commands(main):
        context = click.Context(command, info_name=path, terminal_width=92, max_content_width=92)
        parts += [f"## {path}" if path.count(" ") < 2 else f"### {path}", f"```text\n{command.get_help(context)}\n```"]
    return "\n\n".join(parts) + "\n"


def commands(command: click.Command, path: str = "polystab") -> Iterator[tuple[str, click.Command]]:
    """A command and all below it, with the words that call them."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                yield from commands(below, f"{path} {name}")


def known_issues_page() -> str:
    """The publicly reported faults that the audit knows."""
    from polystab.analysis.audit.known import known_issues

    parts = []
    for name, issues in groupby(known_issues(), key=lambda issue: issue["id"]):
        several = list(issues)
        parts += [f"## {name}", f"Reported at <{several[0]['link']}>."]
        parts += ["\n".join(_issue(issue) for issue in several)]
    return (
        "# Known issues of public checkpoints\n\n"
        "Faults that others reported in public. We repeat them; we did not check them all ourselves. "
        "[`ps.audit_cube`][polystab.audit_cube] and `polystab audit` name those that concern your cube, as a warning where the "
        "numbers show the fault and as information where they do not. Models are regular expressions that a cube's model "
        "label must match in full, so runs under other names are not recognised.\n\n"
        "This page is made from the list that the audit uses. How to look at your own data: "
        "[Check the data first](howto/audit.md).\n\n" + "\n\n".join(parts) + "\n"
    )


def _issue(issue: Mapping[str, Any]) -> str:
    models = " or ".join(f"`{model}`" for model in issue["models"])
    seeds = f", seed {' and '.join(str(seed) for seed in issue['seeds'])}" if "seeds" in issue else ", all seeds"
    listed = ", ".join(step.replace(":", " to ") for step in issue.get("steps", ()))
    steps = f", step {listed}" if listed else ", all steps"
    advice = f" {issue['advice']}" if issue.get("advice") else ""
    return f"- {models}{seeds}{steps}: {issue['what']}.{advice}"


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """Text that can stand in a cell of a table; names in angle brackets are no tags."""
    return text.replace("|", "\\|").replace("``", "`").replace("<", "&lt;").replace("\n", " ")
