"""What scikit-learn's own tools (``clone``, searches over settings) ask of an estimator, without importing it."""

from __future__ import annotations

import inspect
from typing import Any, Self

import numpy as np
import pandas as pd

from polystab.analysis.options import check_choice
from polystab.summaries import Column, Summary
from polystab.words import listed


class Parameters:
    """Arguments that ``__init__`` stores as they are, by name."""

    def get_params(self, deep: bool = True) -> dict[str, Any]:  # noqa: ARG002  it has no estimators inside
        """Arguments by name."""
        return {name: getattr(self, name) for name in inspect.signature(type(self)).parameters}

    def set_params(self, **params: Any) -> Self:
        """Change arguments; what was fitted stays until ``fit`` is called again."""
        for name, value in params.items():
            check_choice(f"parameter of {type(self).__name__}", name, inspect.signature(type(self)).parameters)
            setattr(self, name, value)
        return self

    def summary(self, *, rows: int = 30) -> Summary:
        """Arguments and, after ``fit``, what was learned, a row each; see :func:`polystab.summary`."""
        learned = {k: v for k, v in vars(self).items() if k.endswith("_") and not k.startswith("_") and k != "notes_"}
        told = {name: _in_words(value) for name, value in (self.get_params() | learned).items()}
        table = pd.DataFrame([(name, text) for name, text in told.items() if text], columns=["name", "value"])
        columns = (Column("name", ("name",), "those that end in _ were learned"), Column("value", ("value",)))
        heading = type(self).__name__ + ("" if learned else ", not fitted")
        return Summary(table, columns, heading, tuple(getattr(self, "notes_", ())), rows)

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        changed = {k: v for k, v in self.get_params().items() if v is not defaults[k].default}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in changed.items())})"


def _in_words(value: Any) -> str:
    """A value on one line; nothing for what has none."""
    if isinstance(value, np.ndarray) and value.ndim == 1:
        value = value.tolist()
    if isinstance(value, tuple | list):
        return listed([_in_words(item) for item in value])
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return str(value) if isinstance(value, str | bool | int | np.integer) or value is None else ""
