"""What every part of the summary shares: its version, and what it is made of."""

from __future__ import annotations

from typing import Any

SCHEMA = 1

# Texts, numbers, None, lists and dicts only. Unknown numbers are None, infinite ones too (counts of diverged cells stand beside).
Summary = dict[str, Any]
