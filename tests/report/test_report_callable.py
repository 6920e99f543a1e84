"""``ps.report`` is a function and a subpackage; whichever is used first, both keep working."""

from __future__ import annotations

import subprocess
import sys

import pytest

CALL = "import polystab as ps; assert ps.report(ps.load_cube('demo'), format='json').startswith('{')"
IMPORT = "import polystab.report.summary as s; from polystab.report.page import is_report; assert s.summarise"


@pytest.mark.slow
@pytest.mark.parametrize("order", [(CALL, IMPORT), (IMPORT, CALL)], ids=["call first", "import first"])
def test_calling_and_importing_work_in_either_order(order: tuple[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", "\n".join(order)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
