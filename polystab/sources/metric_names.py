"""What training logs call their quantities, and what a cube calls them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from polystab.cube.labels import MetricId, parse_metric_id
from polystab.errors import ReadError, RecordsError, RefusedFileError

NOT_A_METRIC = ""

_SUBJECTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "eval", "evaluation", "dev"), "validation"),
    "test": "test",
}
_CROSS_ENTROPY = frozenset(
    {"loss", "lm_loss", "ce", "ce_loss", "cross_entropy", "cross_entropy_loss", "crossentropyloss", "nll", "nll_loss"}
)
_PERPLEXITY = frozenset({"perplexity", "ppl"})
_GRADIENT_NORM = frozenset({"grad_norm", "gradient_norm", "gradients_norm", "grads_norm", "total_grad_norm"})

# Clock, progress and settings: true, but nothing that was measured about the model.
_CLOCKWORK = frozenset(
    {"epoch", "epochs", "lr", "time", "times", "timestamp", "runtime", "elapsed", "walltime", "eta"}
    | {"second", "seconds", "sec", "secs", "ms", "minute", "minutes", "hour", "hours"}
    | {"flos", "flops", "tflops", "throughput", "mfu"}
    | {"gpu", "cpu", "memory", "samples", "tokens"}
)
_COUNTERS = frozenset({"step", "steps", "global_step", "iteration", "iter", "index", "seed", "rank", "learning_rate"})

_HIGHER = (
    "accuracy",
    "acc",
    "acc_norm",
    "f1",
    "f1_macro",
    "macro_f1",
    "exact_match",
    "em",
    "bleu",
    "mcc",
    "auc",
    "precision",
    "recall",
)
_LOWER = (
    "loss",
    "cross_entropy",
    "perplexity",
    "ppl",
    "word_perplexity",
    "byte_perplexity",
    "bits_per_byte",
    "mse",
    "rmse",
    "mae",
)
_MEASURES = sorted((*_HIGHER, *_LOWER), key=len, reverse=True)


def is_metric_id(name: str) -> bool:
    """Whether a name already reads ``<family>/<subject>/<measure>``."""
    try:
        parse_metric_id(name)
    except RecordsError:
        return False
    return True


def checked_id(name: str, *, said_by: str) -> str:
    """The id that a user gave, or an error that says what is wrong with it."""
    try:
        return str(parse_metric_id(name))
    except RecordsError as error:
        raise ReadError(f"{said_by}: {error}") from error


def checked_metrics(metrics: Mapping[str, str] | None) -> dict[str, str]:
    """The mapping of columns to metric ids, each id checked."""
    return {
        name: checked_id(target, said_by=f"metrics[{name!r}]") if target.strip() else NOT_A_METRIC
        for name, target in (metrics or {}).items()
    }


def one_column_each(chosen: Mapping[str, str], explicit: Mapping[str, str], left_out: list[str]) -> dict[str, str]:
    """Make sure that no two columns claim one metric; one that the user named goes before a guess.

    Raises
    ------
    RefusedFileError
        ``ambiguous-metric``: two columns claim one metric with equal right.
    """
    named = {metric for name, metric in chosen.items() if name in explicit}
    kept: dict[str, str] = {}
    owner: dict[str, str] = {}
    for name, metric in chosen.items():
        if metric in named and name not in explicit:
            left_out.append(name)
            continue
        if metric in owner:
            raise RefusedFileError(
                "ambiguous-metric",
                f"columns {owner[metric]!r} and {name!r} both read as {metric}; give one of them another id with "
                f"metrics= (--metrics {name}=ID), or none (--metrics {name}=).",
            )
        kept[name] = owner.setdefault(metric, name) and metric
    return kept


def training_metric(name: str) -> str | None:
    """The metric id that a column of a training log stands for.

    Returns
    -------
    str or None
        An id; ``NOT_A_METRIC`` for clock, progress and settings; None if the name does
        not say.

    Examples
    --------
    >>> training_metric("train/loss"), training_metric("valLoss"), training_metric("grad_norm")
    ('loss/train/cross_entropy', 'loss/validation/cross_entropy', 'gradient/all/norm')
    >>> training_metric("eval_accuracy"), training_metric("eval_wikitext_loss")
    ('eval/validation/accuracy', 'eval/wikitext/loss')
    >>> training_metric("learning_rate"), training_metric("entropy")
    ('', None)
    """
    if is_metric_id(name):
        return name
    key = _plain(name)
    subject, rest = _split_subject(key)
    if rest in _CROSS_ENTROPY:
        return f"loss/{subject or 'train'}/cross_entropy"
    if rest in _PERPLEXITY and subject:
        return f"loss/{subject}/perplexity"
    if rest in _GRADIENT_NORM and subject in ("", "train"):
        return "gradient/all/norm"
    if subject == "validation" and (found := _evaluation(name, subject)):
        return found
    if key in _COUNTERS or rest in _COUNTERS or _CLOCKWORK & set(key.split("_")):
        return NOT_A_METRIC
    evaluated = re.match(r"eval[/_.\- ]+(?P<rest>\S.*)", name, re.I)
    return f"eval/{evaluated['rest']}/value" if evaluated else None


def _plain(name: str) -> str:
    """Lower case, words joined by ``_``: ``train/loss``, ``trainLoss`` and ``Train Loss`` are one name."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def _split_subject(key: str) -> tuple[str, str]:
    """``val_loss``, ``loss_val`` and Lightning's ``train_loss_step`` into subject and quantity."""
    first, _, rest = key.partition("_")
    if rest and first in _SUBJECTS:
        return _SUBJECTS[first], rest.removesuffix("_step")
    rest, _, last = key.rpartition("_")
    if rest and last in _SUBJECTS:
        return _SUBJECTS[last], rest
    return "", key


def _evaluation(name: str, subject: str) -> str | None:
    """``eval_arc_easy_acc`` as ``eval/arc_easy/acc``, if it ends in a measure that is known."""
    match = re.match(r"(?:val|valid|validation|eval|evaluation|dev)[/_.\- ]+(?P<rest>\S.*)", name, re.I)
    if match is None:
        return None
    rest = match["rest"]
    for measure in _MEASURES:
        if rest.lower() == measure:
            return f"eval/{subject}/{measure}"
        head = rest[: -len(measure)]
        if rest.lower().endswith(measure) and head[-1:] in ("_", "/", ".", "-", " ") and head[:-1].strip("/ "):
            return f"eval/{head[:-1]}/{measure}"
    return None


def direction(metric: MetricId) -> str:
    """``higher`` or ``lower`` where a measure's name leaves no doubt, else empty."""
    if metric.family not in ("eval", "loss"):
        return ""
    if metric.measure in _HIGHER:
        return "higher"
    return "lower" if metric.measure in _LOWER else ""


def units(metric: MetricId) -> str:
    """Units that follow from the id: nats for the cross-entropy of a language model."""
    return "nat" if metric.family == "loss" and metric.measure == "cross_entropy" else ""
