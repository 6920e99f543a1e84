"""How far weights have moved: from the start of the run, and since the checkpoint before."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from polystab.errors import PolystabError, shown
from polystab.sources.checkpoints import Checkpoint, open_checkpoint
from polystab.sources.weights.moments import CHUNK

if TYPE_CHECKING:
    import torch

Array = npt.NDArray[np.floating]

# A matrix of another initialisation has a cosine of about 1 / sqrt(elements): this many times that is not chance.
_CHANCE = 5.0


@dataclass(frozen=True)
class Change:
    """Sums over the elements of an array now and at another time; those of several arrays can be added.

    Attributes
    ----------
    now, then : float
        Sums of squares.
    product : float
        Sum of products of the two.
    moved, along : float
        Sum of squares of the differences (now - then), and of their products with what was then.
    """

    now: float = 0.0
    then: float = 0.0
    product: float = 0.0
    moved: float = 0.0
    along: float = 0.0

    def __add__(self, other: Change) -> Change:
        return Change(
            self.now + other.now, self.then + other.then, self.product + other.product,
            self.moved + other.moved, self.along + other.along,
        )  # fmt: skip

    @property
    def distance(self) -> float:
        return math.sqrt(self.moved)

    @property
    def cosine(self) -> float:
        """Between now and then; NaN where either is zero."""
        return _over(self.product, math.sqrt(self.now) * math.sqrt(self.then))

    @property
    def update_cosine(self) -> float:
        """Between the difference and what was then: below 0 where weights shrink; NaN where either is zero."""
        return _over(self.along, math.sqrt(self.moved) * math.sqrt(self.then))


def change(now: Array, then: Array) -> Change:
    """Compare two arrays of one shape, finite and contiguous."""
    x, y = now.reshape(-1), then.reshape(-1)
    sums = np.zeros(5)
    with np.errstate(over="ignore", under="ignore"):
        for start in range(0, x.size, CHUNK):
            a, b = x[start : start + CHUNK], y[start : start + CHUNK]
            d = a - b
            sums += [np.dot(a, a), np.dot(b, b), np.dot(a, b), np.dot(d, d), np.dot(d, b)]
    return Change(*sums.tolist())


@dataclass
class Other:
    """Another checkpoint of the run, whose tensors are read alongside.

    Attributes
    ----------
    what : str
        How messages call it: ``step 0``, ``the checkpoint before, step 64``.
    absent : list of str
        Parameters that it lacks, or has in another shape.
    """

    what: str
    read: Iterator[tuple[str, torch.Tensor]]
    absent: list[str] = field(default_factory=list)
    _ahead: dict[str, torch.Tensor] = field(default_factory=dict)

    def get(self, name: str, shape: tuple[int, ...]) -> torch.Tensor | None:
        """Its tensor of that name; None where it has none of that shape.

        Files of one run have their tensors in one order, so that none waits in memory for its turn.
        """
        while name not in self._ahead:
            found = next(self.read, None)
            if found is None:
                self.absent.append(name)
                return None
            self._ahead[found[0]] = found[1]
        tensor = self._ahead.pop(name)
        if tuple(tensor.shape) != shape:
            self.absent.append(name)
            return None
        return tensor

    def notes(self, n_compared: int) -> list[tuple[str, str]]:
        """What to say of parameters that could not be compared."""
        surplus = [*self._ahead, *(name for name, _ in self.read)]
        if not self.absent and not surplus:
            return []
        reason = "other-parameters" if n_compared else "other-model"
        return [
            (
                reason,
                f"{self.what} lacks {len(self.absent)} of the parameters, or has them in another shape "
                f"({shown(self.absent) or 'none'}), and has {len(surplus)} others ({shown(surplus) or 'none'}): "
                + ("these were not compared." if n_compared else "it is another model's; nothing was compared."),
            )
        ]


def moved(changes: Mapping[str, Change]) -> dict[str, float]:
    """The measures of changes since step 0 (``init``) and since the checkpoint before (``update``), as far as there are."""
    found: dict[str, float] = {}
    if "init" in changes:
        found |= {"distance": changes["init"].distance, "cosine": changes["init"].cosine}
    if "update" in changes:
        found |= {"update_size": changes["update"].distance, "update_cosine": changes["update"].update_cosine}
    return found


def open_other(checkpoint: Checkpoint, step: int, what: str) -> tuple[Checkpoint | None, list[tuple[str, str]]]:
    """Another checkpoint of the same run, or why it cannot be read."""
    run = checkpoint.run
    reason = "no-step-0" if step == 0 else "no-previous-step"
    if not run.location:
        return None, [(reason, f"{what} cannot be read: the model is in memory, and its run says no location.")]
    try:
        return open_checkpoint(run, step, options=checkpoint.options), []
    except PolystabError as error:
        return None, [(reason, f"{what} cannot be read: {error}")]


def previous_step(checkpoint: Checkpoint) -> int | None:
    """The last step of the run before this checkpoint; None for the first, or where the run does not say."""
    return max((step for step in checkpoint.run.steps if step < checkpoint.step), default=None)


def looks_unrelated(matrices: Iterable[tuple[Change, int]]) -> bool:
    """Whether most matrices are no more like those then than chance makes two matrices of their number of elements."""
    near = [abs(one.cosine) * math.sqrt(n) < _CHANCE for one, n in matrices if math.isfinite(one.cosine)]
    return bool(near) and sum(near) > len(near) / 2


def _over(value: float, size: float) -> float:
    return value / size if size > 0 and math.isfinite(size) else math.nan
