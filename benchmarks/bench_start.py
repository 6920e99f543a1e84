"""How long `polystab --help` takes against `python -c "import click"`, whole processes in turn."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from harness import print_ratio


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    polystab = [str(Path(sys.executable).with_name("polystab")), "--help"]
    click = [sys.executable, "-c", "import click"]
    ours, peer = [], []
    for _ in range(11):
        peer.append(seconds(click))
        ours.append(seconds(polystab))
    print_ratio(
        "polystab --help over import click", ours[1:], peer[1:], wanted="at most 3x", names=("ours", "peer"), place=1
    )


if __name__ == "__main__":
    main()
