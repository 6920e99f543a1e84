"""Labels: metric ids, and the order in which models are listed."""

from __future__ import annotations

import re
from dataclasses import dataclass

from polystab.cube.specs import FAMILIES
from polystab.errors import RecordsError, shown

_SHOTS = re.compile(r"(?P<subject>.+)@(?P<shots>\d{1,999})shot", re.DOTALL)
# A size such as 70m, 1.4b, 124M standing alone between separators.
SIZE = re.compile(r"(?<![A-Za-z0-9.])(?P<number>\d+(?:\.\d+)?)(?P<unit>[kKmMbB])(?![A-Za-z0-9])")
NaturalKey = tuple[tuple[int, int, str], ...]
_UNITS = {"k": 1e3, "m": 1e6, "b": 1e9}


@dataclass(frozen=True)
class MetricId:
    """The parts of a metric id; ``str()`` gives the id back.

    ``shots`` is 0 for the plain (zero-shot) case and ``filter`` is empty for the
    harness's ``none``; both are written only where they are not plain.
    """

    family: str
    subject: str
    measure: str
    shots: int = 0
    filter: str = ""

    def __str__(self) -> str:
        subject = f"{self.subject}@{self.shots}shot" if self.shots else self.subject
        measure = f"{self.measure}@{self.filter}" if self.filter else self.measure
        return f"{self.family}/{subject}/{measure}"


def parse_metric_id(text: str) -> MetricId:
    """Split ``<family>/<subject>[@<k>shot]/<measure>[@<filter>]`` into its parts.

    A filter never consists of digits only, so that ``pass@1`` is a measure.

    Raises
    ------
    RecordsError
        The text has fewer than three parts, an empty part, an unknown family, or
        shots written otherwise than ``@5shot`` (none at all for zero-shot).
    """
    family, _, rest = text.partition("/")
    subject, _, measure = rest.rpartition("/")
    if not (family and subject and measure):
        raise RecordsError(
            f"metric id {text!r} is not <family>/<subject>/<measure>, e.g. 'eval/arc_easy/acc' or 'loss/train/cross_entropy'."
        )
    if family not in FAMILIES:
        raise RecordsError(
            f"metric id {text!r} starts with an unknown family; use one of {shown(FAMILIES, len(FAMILIES))}."
        )
    shots = 0
    if match := _SHOTS.fullmatch(subject):
        subject, shots = match["subject"], int(match["shots"])
        if match["shots"] != str(shots) or not shots:
            plain = f"{subject}@{shots}shot" if shots else subject
            raise RecordsError(f"metric id {text!r} has another spelling; write {family}/{plain}/{measure}.")
    name, at, chosen = measure.rpartition("@")
    if at and name and chosen and not chosen.isdigit():
        return MetricId(family, subject, name, shots, chosen)
    return MetricId(family, subject, measure, shots)


def is_writable(text: str) -> bool:
    """Whether netCDF keeps the text: it cuts at a NUL, and refuses half of a surrogate pair."""
    if "\0" in text:
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def writable(text: str) -> str:
    """The text with an escape (``\\x00``, ``\\udc80``) for what netCDF does not keep."""
    if text.isascii() and "\0" not in text:
        return text
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def model_size(name: str) -> float:
    """Parameters that a model's name claims (``pythia-410m`` -> 4.1e8), NaN if none."""
    match = SIZE.search(name)
    return float(match["number"]) * _UNITS[match["unit"].lower()] if match else float("nan")


def model_order(name: str) -> tuple[NaturalKey, float, NaturalKey]:
    """Sort key that lists models by family, then size, then name (numbers as numbers)."""
    match = SIZE.search(name)
    head = name[: match.start()] if match else name
    size = model_size(name) if match else 0.0
    return (natural_order(head), size, natural_order(name))


def natural_order(text: str) -> NaturalKey:
    """Sort key that puts ``run2`` before ``run10``."""
    parts = re.findall(r"\d+|\D+", text)
    # Python refuses to read numbers of thousands of digits.
    return tuple((0, int(part), "") if part.isdecimal() and len(part) < 1000 else (1, 0, part) for part in parts)
