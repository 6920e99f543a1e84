"""What the task files beside this one call to load their items, without network or cache."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any


def _load(task: str, **_: Any) -> dict[str, Any]:
    """The items of ``<task>.jsonl`` as the test split."""
    from datasets import Dataset

    lines = (Path(__file__).parent / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    return {"test": Dataset.from_list([json.loads(line) for line in lines])}


load_agreement = partial(_load, "nano_agreement")
load_induction = partial(_load, "nano_induction")
load_recall = partial(_load, "nano_recall")
load_brackets = partial(_load, "nano_brackets")
