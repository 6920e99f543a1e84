"""Write the items of the nano tasks beside their task files. Usage: python scripts/make_nano_tasks.py"""

from __future__ import annotations

import json
from pathlib import Path

from polystab.files import write_text
from polystab.suites import nano_items

FOLDER = Path(nano_items.__file__).parent / "tasks"

if __name__ == "__main__":
    for task in nano_items.TASKS:
        write_text(FOLDER / f"{task}.jsonl", "".join(json.dumps(item) + "\n" for item in nano_items.items(task)))
