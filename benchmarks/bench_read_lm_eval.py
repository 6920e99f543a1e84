"""Reading 8,474 results files: time and added memory against json.load + DataFrame + pivot.

Both sides read the same tree, in a fresh process each, in turn, three times; imports
are done before the clock starts. The usual way neither checks labels nor hashes files.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from harness import in_fresh_process, print_ratio, report_line
from released_tree import FILES, MISLABELLED, write_released_tree


def the_usual_way(tree: str) -> dict[str, int]:
    """What a notebook does: every file whole, a row per value, one pivot."""
    import pandas as pd

    rows = []
    for path in Path(tree).rglob("*.json"):
        with path.open() as stream:
            data = json.load(stream)
        folder = path.relative_to(tree).parts[0]
        model, _, seed = folder.partition("-seed")
        step = int(path.relative_to(tree).parts[1].removeprefix("step"))
        for task, measured in data["results"].items():
            for key, value in measured.items():
                if isinstance(value, float) and "_stderr" not in key:
                    error = measured.get(key.replace(",", "_stderr,"))
                    rows.append(
                        {
                            "model": model,
                            "seed": int(seed or 0),
                            "step": step,
                            "metric": f"{task}/{key}",
                            "value": value,
                            "stderr": error,
                        }
                    )
    frame = pd.DataFrame(rows)
    wide = frame.pivot_table(index=["model", "seed", "step"], columns="metric", values=["value", "stderr"])
    return {"values": int(wide["value"].notna().to_numpy().sum())}


def polystab_way(tree: str) -> dict[str, int]:
    import polystab as ps
    from polystab.cube import audit_facts

    facts = audit_facts(ps.read_lm_eval(tree))
    wrong = [entry for entry in facts["refused"] if entry["reason"] == "label-mismatch"]
    return {
        "values": facts["values"],
        "files": facts["files"],
        "label_mismatch": len(wrong),
        "refused": len(facts["refused"]),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = write_released_tree(Path(folder))
        assert written == FILES, written
        imports = "import json, pandas, numpy, xarray, polystab; polystab.read_lm_eval"
        usual, ours = [], []
        for _ in range(3):
            usual.append(in_fresh_process(__file__, "the_usual_way", folder, warm=imports))
            ours.append(in_fresh_process(__file__, "polystab_way", folder, warm=imports))
    said = ours[0].result
    report_line(
        f"files {said['files']:,}, refused for label-mismatch {said['label_mismatch']:,} (exactly {MISLABELLED:,} are mislabelled)"
    )
    assert said["label_mismatch"] == said["refused"] == MISLABELLED, said
    print_ratio(
        "read 8,474 lm-eval files, time",
        [u.seconds for u in usual],
        [o.seconds for o in ours],
        wanted="at least 3x faster",
    )
    print_ratio(
        "read 8,474 lm-eval files, added peak memory",
        [u.added_bytes / 2**20 for u in usual],
        [o.added_bytes / 2**20 for o in ours],
        wanted="at most half",
        unit="MiB",
    )


if __name__ == "__main__":
    sys.exit(main())
