"""Reading 8,474 results files: time and added memory against json.load + DataFrame + pivot.

All read the same tree, in a fresh process each, in turn; imports are done before the
clock starts. The usual way neither checks labels nor hashes files, and ends with a wide
table of which nobody knows that 1,095 of its rows belong elsewhere. polystab parses on
all cores; `one process` keeps it to one, so that its memory can be compared.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from harness import in_fresh_process, print_ratio, report_line
from released_tree import FILES, MISLABELLED, SINGLE_TASKS, write_released_tree

IMPORTS = """
import importlib.util, json, pandas, numpy, xarray, polystab
polystab.read_lm_eval
if importlib.util.find_spec("dask"):  # xarray imports it where it is installed, which takes longer than the files
    import dask.array
"""


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


def a_frame_a_file(tree: str) -> dict[str, int]:
    """What notebooks do as often: a DataFrame for each file, all of them joined, one pivot."""
    import pandas as pd

    frames = []
    for path in Path(tree).rglob("*.json"):
        with path.open() as stream:
            data = json.load(stream)
        model, _, seed = path.relative_to(tree).parts[0].partition("-seed")
        frame = pd.DataFrame(data["results"]).T.drop(columns="alias").rename_axis("task").reset_index()
        step = int(path.relative_to(tree).parts[1].removeprefix("step"))
        frames.append(frame.assign(model=model, seed=int(seed or 0), step=step))
    long = pd.concat(frames).melt(["model", "seed", "step", "task"]).dropna()
    wide = long.pivot_table(
        index=["model", "seed", "step"], columns=["task", "variable"], values="value", aggfunc="first"
    )
    return {"values": int(wide.notna().to_numpy().sum())}


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


def polystab_in_one_process(tree: str) -> dict[str, int]:
    from polystab.sources import eval_parts

    eval_parts._cores = lambda: 1  # type: ignore[assignment]
    return polystab_way(tree)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        written = write_released_tree(Path(folder))
        assert written == FILES, written
        frames = [in_fresh_process(__file__, "a_frame_a_file", folder, warm=IMPORTS)]
        usual, ours, alone = [], [], []
        for _ in range(5):
            usual.append(in_fresh_process(__file__, "the_usual_way", folder, warm=IMPORTS))
            ours.append(in_fresh_process(__file__, "polystab_way", folder, warm=IMPORTS))
            alone.append(in_fresh_process(__file__, "polystab_in_one_process", folder, warm=IMPORTS))
    said = ours[0].result
    report_line(
        f"files {said['files']:,}, refused for label-mismatch {said['label_mismatch']:,} (exactly {MISLABELLED:,} are mislabelled)"
    )
    assert said["label_mismatch"] == said["refused"] == MISLABELLED, said
    peer = [run.seconds for run in usual]
    print_ratio("read 8,474 lm-eval files, time", peer, [run.seconds for run in ours], wanted="at least 3x", place=1)
    print_ratio(
        "the same against a DataFrame for each file, time",
        [run.seconds for run in frames],
        [run.seconds for run in ours],
        wanted="no bound",
    )
    print_ratio("the same in one process, time", peer, [run.seconds for run in alone], wanted="no bound")
    print_ratio(
        "the same in one process, added peak memory",
        [run.added_bytes / 2**20 for run in usual],
        [run.added_bytes / 2**20 for run in alone],
        wanted="at least 2x",
        place=1,
        unit="MiB",
    )


def small_files() -> None:
    """The same with one task a file, where opening and hashing files is most of the work."""
    with tempfile.TemporaryDirectory() as folder:
        write_released_tree(Path(folder), groups=SINGLE_TASKS)
        usual, ours = [], []
        for _ in range(5):
            usual.append(in_fresh_process(__file__, "the_usual_way", folder, warm=IMPORTS))
            ours.append(in_fresh_process(__file__, "polystab_way", folder, warm=IMPORTS))
    peer = [run.seconds for run in usual]
    print_ratio("8,474 files of one task each, time", peer, [run.seconds for run in ours], wanted="no bound")


if __name__ == "__main__":
    main()
    small_files()
