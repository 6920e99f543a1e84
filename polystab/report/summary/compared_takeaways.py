"""What a reader should know first of a comparison with another cube: sentences, each with a level."""

from __future__ import annotations

from collections.abc import Iterator

from polystab.report.summary.comparison import DIFFER
from polystab.report.summary.schema import Summary
from polystab.words import count, decimals_for, listed, number, percent, plural

# Rows that are named with their numbers.
MAX_NAMED = 3


def compared_takeaways(found: Summary | None) -> Iterator[tuple[str, str]]:
    """Level (``bad``, ``warn``, ``info``) and sentence, the worst news first."""
    if found is None:
        return
    yield from headlines(found)
    if found["same"]:
        return
    differ = [row for row in found["rows"] if row["verdict"] in DIFFER]
    others = [row for row in differ if row["change"] == "unknown"]
    if others:
        families = sorted({row["family"] for row in others})
        parts = [f"{family} {count(sum(row['family'] == family for row in others))}" for family in families]
        text = (
            f"{plural(len(others), 'comparison differs', 'comparisons differ')} in metrics without a better and a worse"
        )
        yield "info", f"{text} ({listed(parts, 7)}), most {_named(others[0], found)}."
    yield from _open(found)
    for note in _notes(found):
        yield "warn", note


def headlines(found: Summary | None) -> Iterator[tuple[str, str]]:
    """The sentences that stand at the top of the page: what got worse, what got better, which runs are missing."""
    if found is None:
        return
    if found["same"]:
        said = "The other cube has the same runs as this one, to the last bit: it is compared with itself, and nothing can differ."
        yield "warn", said
        return
    differ = [row for row in found["rows"] if row["verdict"] in DIFFER]
    judged = sum(row["change"] != "unknown" and row["verdict"] != "untested" for row in found["rows"])
    for way, level in (("worse", "bad"), ("better", "info")):
        rows = [row for row in differ if row["change"] == way]
        if rows:
            text = f"The other cube is {way} in {count(len(rows))} of {plural(judged, 'comparison')} that have a better and a worse: "
            yield level, text + "; ".join(_named(row, found) for row in rows[:MAX_NAMED]) + _more(rows) + "."
    if judged and not found["worse"] and not found["better"]:
        of = f"{plural(judged, 'comparison')} with the other cube that {'has' if judged == 1 else 'have'} a better and a worse"
        yield "info", f"None of {of} differs by more than the seeds explain."
    elif not differ and found["n_tests"]:
        yield (
            "info",
            f"None of {plural(found['n_tests'], 'comparison')} with the other cube differs by more than the seeds explain.",
        )
    yield from _lost(found)


def _named(row: Summary, found: Summary) -> str:
    """``eval/x/acc of a 0.52 → 0.49 (−0.03 [−0.05, −0.01], q = 0.003)``."""
    places = decimals_for(row["stderr"])
    means = [number(row[f"mean_{side}"], decimals=places) for side in ("this", "other")]
    of = f" of {row['model']}" if len(found["models"]) > 1 else ""
    said = signed(row["difference"], places)
    if row["lower"] is not None:
        said += f" [{signed(row['lower'], places)}, {signed(row['upper'], places)}]"
    return f"{row['metric']}{of} {means[0]} → {means[1]} ({said}, q {p_value(row['q'])})"


def _more(rows: list[Summary]) -> str:
    return f"; and {count(len(rows) - MAX_NAMED)} more" if len(rows) > MAX_NAMED else ""


def _lost(found: Summary) -> Iterator[tuple[str, str]]:
    """Runs that diverged or broke off, where one side has more of them: the means leave them out."""
    worst = max(found["rows"], key=lambda row: abs(lost(row, "other") - lost(row, "this")), default=None)
    if worst is None or lost(worst, "other") == lost(worst, "this"):
        return
    sides = [
        (lost(worst, "this"), f"{worst['model']} here"),
        (lost(worst, "other"), f"{worst['other_model']} in the other cube"),
    ]
    level = "bad" if sides[1][0] > sides[0][0] else "warn"
    (few, where), (many, there) = sorted(sides)
    text = f"{plural(many, 'run')} of {there} diverged or {'has' if many == 1 else 'have'} no value at step {count(worst['step'])}"
    means = f"the means ({worst['metric']}) are of those that are left and say less than they seem to"
    yield level, f"{text}, against {count(few)} of {where}; {means}."


def lost(row: Summary, side: str) -> int:
    """Runs of a side that have no finite value at the step."""
    return int(row[f"n_nonfinite_{side}"] + row[f"n_absent_{side}"])


def _open(found: Summary) -> Iterator[tuple[str, str]]:
    """What stays open, and how large a difference would have to be."""
    undecided = found["undecided"]
    alike = [row for row in found["rows"] if row["verdict"] == "no_larger_difference"]
    if alike:
        text = f"In {plural(len(alike), 'comparison')} a difference of one seed SD or more is ruled out"
        yield "info", f"{text}, e.g. {alike[0]['metric']} (less than {number(alike[0]['margin'], digits=2)})."
    if not undecided["n_rows"]:
        return
    text = (
        f"In {plural(undecided['n_rows'], 'comparison')} the seeds cannot tell, which is not the same as no difference"
    )
    if undecided["n_known"]:
        here, there = (_range(undecided, side) for side in ("this", "other"))
        one, among = (number(undecided[name], digits=2) for name in ("detectable", "detectable_alone"))
        text += (
            f": {here} against {there} runs find a difference with {percent(found['power'])} power from about {one} "
        )
        text += f"seed SDs on in a single test, and from {among} on among so many tests if nothing else differs"
    yield "info", f"{text}."


def _range(undecided: Summary, side: str) -> str:
    least, most = (count(undecided[f"n_seeds_{end}_{side}"]) for end in ("least", "most"))
    return least if least == most else f"{least} to {most}"


def _notes(found: Summary) -> Iterator[str]:
    common = max((int(row["n_common"]) for row in found["rows"]), default=0)
    if common:
        yield f"{plural(common, 'run stands', 'runs stand')} in both cubes with the same values and {'is' if common == 1 else 'are'} left out of the comparison."
    few = sum(row["reason"] == "few_seeds" for row in found["rows"])
    if few:
        yield f"{plural(few, 'comparison has', 'comparisons have')} fewer than three runs on both sides and cannot be tested."
    for note in found["notes"]:
        yield f"{note[:1].upper()}{note[1:]}."


def signed(value: float | None, places: int | None) -> str:
    """A difference with its sign."""
    text = number(value, decimals=places) if places is not None else number(value, digits=3)
    return f"+{text}" if value is not None and value > 0 else text


def p_value(value: float | None) -> str:
    """``= 0.03`` or ``< 0.001``."""
    if value is None:
        return "unknown"
    return "< 0.001" if value < 0.001 else f"= {number(value, digits=2)}"
