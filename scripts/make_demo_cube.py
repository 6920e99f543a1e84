"""Write the bundled cube `demo` and its line of the registry: python scripts/make_demo_cube.py."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from polystab.cube.store import save_cube
from polystab.files import write_text
from polystab.testing import demo_cube

CUBE = Path(__file__).resolve().parents[1] / "polystab" / "cube"


def main() -> None:
    """Make both files anew; the same code and libraries give the same bytes."""
    cube, path = demo_cube(), CUBE / "data" / "demo.nc"
    save_cube(cube, path)
    content = path.read_bytes()
    line = {
        "name": "demo",
        "address": "package:demo.nc",
        "sha256": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "license": cube.attrs["license"],
        "summary": "SYNTHETIC: three toy models x ten seeds x 27 steps; one run goes wrong, one checkpoint is missing",
    }
    registry = CUBE / "registry.json"
    others = json.loads(registry.read_text(encoding="utf-8")) if registry.exists() else []
    lines = [line, *(other for other in others if other["name"] != "demo")]
    write_text(registry, json.dumps(lines, indent=2) + "\n")


if __name__ == "__main__":
    main()
