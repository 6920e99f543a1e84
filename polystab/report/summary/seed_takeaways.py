"""What seeds do, in sentences: how far they end apart, what they explain, and when training changes in all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from polystab.report.summary.schema import Summary
from polystab.words import count, decimals_for, listed, number, percent, plural

# Level, section, text.
Said = tuple[str, str, str]

# A reader who is new to a project knows scores and losses; a metric of another family is told of where there are none.
_KNOWN = ("eval", "loss")

# Models named in one sentence.
_MODELS = 3

# Seeds from which on the interval of a shared change has 95 %.
_FOR_INTERVAL = 6


def what_seeds_do(summary: Summary) -> Iterator[Said]:
    """Sentences on the spread over seeds and on changes that seeds share."""
    yield from _few_runs(summary["final"])
    yield from _ends_apart(summary["final"])
    yield from _spread(summary["final"])
    yield from _shares(summary["variance"])
    yield from _changes(summary["phases"])
    yield from _constant(summary["final"], summary["copies"])


def _known_first(rows: Sequence[Summary]) -> list[tuple[str, list[Summary]]]:
    """Rows by metric, of scores first, then of losses, then others; within each as they come."""
    metrics = [(name, list(own)) for name, own in groupby(rows, key=lambda row: str(row["metric"]))]
    rank = {family: i for i, family in enumerate(_KNOWN)}
    return sorted(metrics, key=lambda item: rank.get(item[0].partition("/")[0], len(rank)))


def _ends_apart(final: Summary) -> Iterator[Said]:
    """Where the seeds of each model end in one metric, with the interval of their spread."""
    spread = [row for row in final["rows"] if row["sd_lower"] is not None and row["sd_c4"]]
    if not spread:
        return
    metric, rows = _known_first(spread)[0]
    rows = sorted(rows, key=lambda row: -row["sd_c4"])
    texts = [f"{_mean_and_sd(row)} in {plural(row['n_seeds'], 'run')} of {row['model']}" for row in rows[:_MODELS]]
    more = f", and less in {plural(len(rows) - _MODELS, 'more model')}" if len(rows) > _MODELS else ""
    text = (
        f"Trained again with another seed, a model ends elsewhere: {metric} has a mean of {listed(texts, _MODELS)}{more} "
        f"(SD over seeds, {percent(final['level'])} interval)."
    )
    yield "info", "final", text


def _mean_and_sd(row: Summary) -> str:
    places = decimals_for(row["sd_c4"])
    mean, sd, low, high = (number(row[name], decimals=places) for name in ("mean", "sd_c4", "sd_lower", "sd_upper"))
    return f"{mean} with an SD of {sd} [{low}, {high}]"


def _few_runs(final: Summary) -> Iterator[Said]:
    fewest = final["min_runs"]
    few = [model["model"] for model in final["models"] if 0 < model["n_seeds"] < fewest]
    if not few:
        return
    if len(few) == sum(model["n_seeds"] > 0 for model in final["models"]):
        most = max(model["n_seeds"] for model in final["models"])
        runs = "one run" if most == 1 else f"{most} runs"
        text = f"No seed statistic can be given: no model has more than {runs} to compare at its final step, and polystab needs at least {fewest}."
        yield ("warn", "final", text)
    else:
        verb = "model has" if len(few) == 1 else "models have"
        yield (
            "info",
            "final",
            f"{count(len(few))} {verb} fewer than {fewest} runs and get no seed statistic: {listed(few, 3)}.",
        )


def _spread(final: Summary) -> Iterator[Said]:
    compared = [model for model in final["models"] if (model["sd_over_stderr"] or 0) > 0]
    moved = [model for model in final["models"] if (model["sd_over_movement"] or 0) > 0]
    if compared:
        said = [(m["sd_over_stderr"], f"{number(m['sd_over_stderr'], digits=2)} times", m["model"]) for m in compared]
        what = "the item-sampling error of one run"
    else:
        said = [(m["sd_over_movement"], percent(m["sd_over_movement"]), m["model"]) for m in moved]
        what = "how far training moves a metric"
    if said:
        link = "" if compared else "of "
        text = f"At the final step the spread over seeds (SD) is {_by_model(said)} {link}{what} (median over metrics)."
        yield ("info", "final", text)


def _shares(variance: Summary) -> Iterator[Said]:
    """What seeds (or initialisations) explain of the metric that training moves most, and of the others."""
    first = next(
        (name for name in ("seed", "initialisation") if name in {p["component"] for p in variance["parts"]}), ""
    )
    rows = [
        row
        for row in variance["rows"]
        if row["informative"] and (row["parts"].get(first) or {}).get("fraction") is not None
    ]
    if not rows:
        return
    labels = {part["component"]: part["label"] for part in variance["parts"]}
    over = next(part for part in variance["parts"] if part["component"] == first)
    # Rows come in order of rank. A metric at its ceiling has large shares of nothing, so not the largest share.
    row = next((row for row in rows if row["parts"][first]["fraction_lower"] is not None), rows[0])
    part = row["parts"][first]
    ends = (
        ""
        if part["fraction_lower"] is None
        else f" [{100 * part['fraction_lower']:.0f}, {100 * part['fraction_upper']:.0f}]"
    )
    others = [
        f"{labels[name]} {percent(other['fraction'])}"
        for name, other in row["parts"].items()
        if name != first and other["fraction"] is not None
    ]
    text = (
        f"{labels[first].capitalize()} {'explain' if first == 'seed' else 'explains'} {percent(part['fraction'])}{ends} of the spread in "
        f"{row['metric']} at the end of training, {listed(others, 5)}"
    )
    if over["n_metrics"] > 1:
        low, middle, high = (over[f"fraction_{which}"] for which in ("least", "median", "largest"))
        text += f"; over {plural(over['n_metrics'], 'metric')} it is {percent(low)} to {percent(high)}, {percent(middle)} in the median"
    yield ("info", "variance", text + ".")


def _changes(phases: Summary) -> Iterator[Said]:
    """When training changes, in the metrics that a reader knows and in which most seeds agree."""
    shared = phases["shared"]
    if not shared:
        return
    metrics = _known_first(shared)
    known = [[rows for metric, rows in metrics if metric.startswith(f"{family}/")] for family in _KNOWN]
    told = [max(found, key=_agreed) for found in known if found] or [max((rows for _, rows in metrics), key=_agreed)]
    for rows in told:
        ordered = sorted(rows, key=lambda row: (-row["n_runs"] / row["n_looked_at"], row["p"]))
        said = [
            f"step {count(row['step'])}{_interval(row)} in {count(row['n_runs'])} of {plural(row['n_looked_at'], 'seed')} "
            f"of {row['model']}"
            for row in ordered[:_MODELS]
        ]
        text = f"Training changes: {rows[0]['metric']} moves to another level at {listed(said, _MODELS)}."
        yield "info", "phases", text
    if len(shared) > sum(map(len, told)):
        everything = f"{plural(len(shared), 'change')} of level in {plural(len(metrics), 'metric')}"
        yield "info", "phases", f"In all, seeds of a model share {everything}."


def _agreed(rows: Sequence[Summary]) -> float:
    return max(float(row["n_runs"] / row["n_looked_at"]) for row in rows)


def _interval(row: Summary) -> str:
    known = row["lower"] >= 0 and row["n_runs"] >= _FOR_INTERVAL
    return f" [{count(row['lower'])}, {count(row['upper'])}]" if known else ""


def _constant(final: Summary, copies: Sequence[Summary]) -> Iterator[Said]:
    """Metrics in which the runs of a model end at exactly the same value."""
    constant = [model for model in final["models"] if model["n_constant"] > 0]
    if not constant:
        return
    where = [f"{plural(model['n_constant'], 'metric')} of {model['model']}" for model in constant]
    why = (
        "look whether they are the same runs"
        if copies
        else "no run is a copy of another, so it is probably a floor or a ceiling"
    )
    row = next((row for row in final["rows"] if row["sd_c4"] == 0 and row["n_seeds"] > 1), None)
    example = f", such as {row['metric']} ({number(row['mean'])})" if row else ""
    yield "info", "final", f"All runs end at exactly the same value in {listed(where, 3)}{example}: {why}."


def _by_model(said: list[tuple[float, str, str]]) -> str:
    """``2.1 times (a) and 3.0 times (b)``, or the range where there are many models."""
    if len(said) == 1:
        return said[0][1]
    if len(said) <= 4:
        return listed([f"{text} ({model})" for _, text, model in said], 4)
    least, most = min(said), max(said)
    return f"between {least[1]} ({least[2]}) and {most[1]} ({most[2]})"
