"""``polystab release`` and ``polystab cubes``: cubes that others load by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from polystab.cli_common import JSON, print_json

if TYPE_CHECKING:
    import xarray as xr

    from polystab.cube.registries import Registry


@click.command(
    short_help="Write a cube as others can load it by name.",
    epilog="Example: polystab release all.nc --name mine --version 1.0 --license CC-BY-4.0 -o release/",
)
@click.argument("cube", metavar="CUBE_OR_NAME")
@click.option("--name", required=True, help="What it is loaded by: ps.load_cube(NAME).")
@click.option("--version", required=True, help="E.g. 1.0 or 2026-11-22; ps.load_cube('NAME@VERSION') is that one.")
@click.option(
    "--license", "license_", default="", help="Licence of the data, by its SPDX name; default: what the cube says."
)
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder, made if it is not there.")
@click.option("--title", default="", help="One line; default: what the cube says.")
@click.option("--summary", default="", help="What is in it; default: what the cube says.")
@click.option("--cite", "references", default="", help="What to cite, with a DOI; default: what the cube says.")
@click.option("--no-audit", is_flag=True, help="Do not look for copies, restarts and the like for the data card.")
@click.option("--overwrite", is_flag=True, help="Replace files of the same name and version.")
@JSON
def release(cube: str, license_: str, output: str, no_audit: bool, as_json: bool, **given: Any) -> None:
    """Write into the folder OUTPUT the cube, its data card, checksums, and a line of registry.json.

    Put the folder on any web server, and others add it with `polystab cubes add ADDRESS/registry.json`.
    The same cube and options give the same bytes.
    """
    from polystab.cube import open_any
    from polystab.cube.release import release as write_release

    with open_any(cube) as tree:
        checks = None if no_audit else _checks(tree)
        done = write_release(tree, output, license=license_, checks=checks, **given)
    if as_json:
        files = {name: str(getattr(done, name)) for name in ("cube", "card", "checksums", "registry")}
        print_json({**vars(done.entry), "files": files, "removed_secrets_from": list(done.cleaned)})
        return
    click.echo(f"{done.cube}: {done.entry.label}, {done.entry.size:,} bytes, SHA-256 {done.entry.sha256}")
    click.echo(f"  data card {done.card}, checksums {done.checksums}, listed in {done.registry}")
    for place in done.cleaned:
        click.echo(f"  removed a name, password or token from {place}")
    click.echo(f"  try it: polystab cubes add {done.registry}, then polystab info {done.entry.label}")


def _checks(tree: xr.DataTree) -> dict[str, list[str]]:
    """Findings of the audit by severity, but what is only for information."""
    from polystab.analysis.audit.checks import audit_cube

    findings = audit_cube(tree)
    checks: dict[str, list[str]] = {"error": [], "warning": []}
    for severity, evidence in zip(
        findings["severity"].values.tolist(), findings["evidence"].values.tolist(), strict=True
    ):
        if severity in checks:
            checks[severity].append(evidence)
    return checks


class _Cubes(click.Group):
    """``polystab cubes NAME`` prints the data card of NAME, beside the commands with names of their own."""

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        command = super().get_command(ctx, name)
        if command is not None:
            return command

        def card(as_json: bool) -> None:
            _print_card(name, as_json)

        return click.command(name, help=f"Print the data card of {name}.")(JSON(card))


@click.group(
    cls=_Cubes,
    invoke_without_command=True,
    subcommand_metavar="[NAME | add ADDRESS | remove ADDRESS]",
    short_help="List the cubes that go by name; add those of others.",
    epilog="Example: polystab cubes nano",
)
@JSON
@click.pass_context
def cubes(ctx: click.Context, as_json: bool) -> None:
    """List the cubes that go by name: bundled with polystab, or released. With NAME, print its data card."""
    if ctx.invoked_subcommand is not None:
        if as_json:
            raise click.UsageError("write --json at the end.")
        return
    from polystab.cube import list_cubes

    listed = list_cubes()
    if as_json:
        print_json(listed.reset_index().to_dict(orient="records"))
        return
    width = max(len(str(name)) for name in listed.index)
    for label, entry in listed.iterrows():
        version = f"  {entry['version']}" if entry["version"] else ""
        click.echo(
            f"{label!s:<{width}}  {entry['size'] / 1e6:6.2f} MB  {entry['license']}{version}  {entry['summary']}"
        )


@cubes.command(
    "add",
    short_help="Add the cubes of a registry.",
    epilog="Example: polystab cubes add https://example.org/cubes/registry.json",
)
@click.argument("source", metavar="ADDRESS_OR_FILE")
@click.option("--replace", is_flag=True, help="Take these cubes instead of others of the same names.")
@JSON
def add(source: str, replace: bool, as_json: bool) -> None:
    """Make the released cubes of a registry known: an address of the web, a file, or a folder.

    None is fetched before it is loaded, and each is verified by its SHA-256. Passwords are not kept: put them
    into ~/.netrc.
    """
    from polystab.cube.catalog import add_cubes

    _print_registry(add_cubes(source, replace=replace), "added", as_json)


@cubes.command(
    "remove",
    short_help="Forget a registry that was added.",
    epilog="Example: polystab cubes remove https://example.org/cubes/registry.json",
)
@click.argument("source", metavar="ADDRESS_OR_FILE")
@JSON
def remove(source: str, as_json: bool) -> None:
    """Forget a registry that was added; files that were fetched stay in the cache."""
    from polystab.cube.catalog import remove_cubes

    _print_registry(remove_cubes(source), "removed", as_json)


def _print_registry(registry: Registry, verb: str, as_json: bool) -> None:
    if as_json:
        print_json({"registry": registry.source, verb: [vars(entry) for entry in registry.entries]})
        return
    count = len(registry.entries)
    click.echo(f"{verb} {count:,} cube{'' if count == 1 else 's'} of {registry.source}")
    for entry in registry.entries:
        click.echo(f"  {entry.label}  {entry.size / 1e6:.2f} MB  {entry.license}  {entry.summary}")


def _print_card(name: str, as_json: bool) -> None:
    from polystab.cube import data_card

    card = data_card(name)
    if as_json:
        print_json({"name": name, "card": card})
    else:
        click.echo(card)
