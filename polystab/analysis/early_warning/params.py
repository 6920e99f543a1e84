"""What scikit-learn's own tools (``clone``, searches over settings) ask of an estimator, without importing it."""

from __future__ import annotations

import inspect
from typing import Any, Self

from polystab.analysis.options import check_choice


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

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        changed = {k: v for k, v in self.get_params().items() if v is not defaults[k].default}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in changed.items())})"
