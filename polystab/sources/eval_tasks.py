"""Finding the harness's tasks, and keeping them ready for one checkpoint after another.

Loading tasks, building requests from documents and turning those into tokens takes
several times as long as the forward passes of a small model. None of it depends on
the weights, so it is done once a process.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from polystab.errors import ReadError, ReasonedError, UnknownNameError, did_you_mean, shown
from polystab.sources.eval_quiet import FEWSHOT_SEED
from polystab.sources.walk import paused_collection

# Where the harness does not look for tasks.
_PASSED_OVER = frozenset({"__pycache__", ".ipynb_checkpoints"})

# Token ids are kept for so many tokenizers.
_TOKENIZERS_KEPT = 4

# (((context, continuation), token ids of the context, token ids of the continuation), ...)
Encoded = list[tuple[Any, list[int], list[int]]]


class EvaluationError(ReasonedError):
    """Tasks cannot be run, or not on this checkpoint."""


class Bench:
    """Tasks with their documents, requests and tokens, to be run on many models.

    ``token_ids`` are the requests as tokens, by what they depend on beside the tasks;
    ``plans`` say how to run them, see :func:`polystab.sources.eval_scoring.scorer`.
    """

    def __init__(self, loaded: dict[str, Any], limit: int | None) -> None:
        self.loaded = loaded
        self.limit = limit
        self.token_ids: OrderedDict[object, Encoded] = OrderedDict()
        self.plans: OrderedDict[object, Any] = OrderedDict()
        for task in self.tasks.values():
            _keep_documents(task)
            _keep_requests(task)

    @property
    def tasks(self) -> dict[str, Any]:
        """The harness's task objects by name."""
        tasks: dict[str, Any] = self.loaded["tasks"]
        return tasks

    def remember(self, key: object, encoded: Encoded) -> None:
        """Keep token ids; the oldest give way."""
        _keep(self.token_ids, key, encoded)

    def remember_plan(self, key: object, plan: Any) -> None:
        """Keep a plan; the oldest give way."""
        _keep(self.plans, key, plan)

    def run(self, lm: Any) -> dict[str, Any]:
        """What ``lm_eval.evaluate`` returns, with samples; standard errors that need resampling are left out."""
        import lm_eval

        with paused_collection():
            results: dict[str, Any] = lm_eval.evaluate(
                lm=lm, task_dict=self.loaded, limit=self.limit, bootstrap_iters=0, log_samples=True
            )
        for name, task in self.tasks.items():
            _add_analytic_errors(task, results["results"][name], results["samples"][name])
        return results


def _keep(kept: OrderedDict[object, Any], key: object, value: Any) -> None:
    kept[key] = value
    while len(kept) > _TOKENIZERS_KEPT:
        kept.popitem(last=False)


def bench(tasks: tuple[str, ...], include_path: tuple[str, ...], num_fewshot: int | None, limit: int | None) -> Bench:
    """The bench for these tasks, the one of this process if their files are as they were.

    Raises
    ------
    UnknownNameError, ReadError
        As :func:`check_tasks`.
    EvaluationError
        ``dataset-unavailable`` or ``broken-task``.
    """
    return _bench(tasks, include_path, num_fewshot, limit, _stamp(include_path))


@functools.lru_cache(maxsize=4)
def _bench(
    tasks: tuple[str, ...],
    include_path: tuple[str, ...],
    num_fewshot: int | None,
    limit: int | None,
    stamp: tuple[object, ...],
) -> Bench:
    loaded = _load(check_tasks(tasks, include_path), tasks, include_path, stamp)
    for task in loaded["tasks"].values():
        stated = task.get_config("num_fewshot")
        # As in `lm_eval.simple_evaluate`: a task that says 0 itself is never given examples.
        if num_fewshot is not None and stated != 0:
            task.set_config(key="num_fewshot", value=num_fewshot)
        elif stated is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=FEWSHOT_SEED)
    return Bench(loaded, limit)


def check_tasks(tasks: Sequence[str], include_path: tuple[str, ...]) -> Any:
    """The harness's index of tasks, once every name is known to be in it.

    Raises
    ------
    UnknownNameError
        A task, group or tag that neither the harness nor ``include_path`` has.
    ReadError
        A folder of ``include_path`` is missing, has no task in it, or has a broken
        file.
    """
    _check_files(include_path)
    stamp = _stamp(include_path)
    if include_path:
        own = _manager(include_path, stamp, built_in=False)
        if set(tasks) <= own.task_index.keys():
            return own
    every = _manager(include_path, stamp, built_in=True)
    unknown = [name for name in tasks if name not in every.task_index]
    if unknown:
        hints = " ".join(did_you_mean(name, every.task_index) for name in unknown[:1])
        raise UnknownNameError(f"the harness has no task, group or tag {shown(unknown)}. {hints}")
    return every


def content_digest(include_path: Sequence[str]) -> str:
    """SHA-256 over the files of task folders: names within the folder and content, not where the folder is."""
    digest = hashlib.sha256()
    for folder in include_path:
        for path, name in _files(folder):
            digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
        digest.update(b"\1")
    return digest.hexdigest() if include_path else ""


@functools.lru_cache(maxsize=4)
def _manager(include_path: tuple[str, ...], stamp: tuple[object, ...], *, built_in: bool) -> Any:  # noqa: ARG001
    """An index of tasks. With the built-in ones it takes some ten seconds: 14,000 files are parsed."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=list(include_path), include_defaults=built_in)


def _load(manager: Any, tasks: tuple[str, ...], include_path: tuple[str, ...], stamp: tuple[object, ...]) -> Any:
    try:
        return manager.load(list(tasks))
    except MemoryError:
        raise
    except Exception as error:  # tasks run code of their own, and loaders of data raise anything
        every = _manager(include_path, stamp, built_in=True) if _has_group(manager, tasks) else manager
        if every is not manager:  # a group of one's own may list built-in tasks
            return _load(every, tasks, include_path, stamp)
        raise _said(error, tasks) from error


def _has_group(manager: Any, tasks: tuple[str, ...]) -> bool:
    return not {*tasks}.isdisjoint([*manager.all_groups, *manager.all_tags])


def _said(error: Exception, tasks: tuple[str, ...]) -> EvaluationError:
    """An error in loading tasks, told apart by who is to act on it."""
    text = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
    library = type(error).__module__.partition(".")[0]
    if isinstance(error, OSError) or library in ("datasets", "huggingface_hub", "requests", "httpx"):
        return EvaluationError(
            "dataset-unavailable",
            f"the data of {shown(tasks)} cannot be loaded: {text}. Without a network, a dataset of the Hub must be "
            "in the cache, and the files that a task of your own names must be there.",
        )
    return EvaluationError("broken-task", f"{shown(tasks)} cannot be loaded: {text}.")


def _files(folder: str) -> list[tuple[Path, str]]:
    """The files below a task folder, with their names in it, in order."""
    root = Path(folder).expanduser()
    if not root.is_dir():
        said = "is not a folder" if root.exists() else "does not exist"
        raise ReadError(f"the task folder {folder} {said}; --include-path names folders that hold task YAML files.")
    found = [path for path in root.rglob("*") if path.is_file() and _PASSED_OVER.isdisjoint(path.parts)]
    return sorted(((path, path.relative_to(root).as_posix()) for path in found), key=lambda item: item[1])


def _stamp(include_path: tuple[str, ...]) -> tuple[object, ...]:
    """Changes when a file of the folders does."""
    stats = ((str(path), path.stat()) for folder in include_path for path, _ in _files(folder))
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def _check_files(include_path: tuple[str, ...]) -> None:
    """Refuse what the harness would pass over without a word."""
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc, unused-ignore]
        """Takes any tag (`!function`), and runs nothing."""

    Loader.add_multi_constructor("!", lambda *_: None)
    for folder in include_path:
        paths = [path for path, _ in _files(folder) if path.suffix == ".yaml"]
        if not paths:
            raise ReadError(f"the task folder {folder} holds no task: no file in it ends in .yaml.")
        for path in paths:
            try:
                content = yaml.load(path.read_text(encoding="utf-8"), Loader=Loader)  # noqa: S506 (derives from SafeLoader)  # nosec B506
            except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
                raise ReadError(f"the task file {path} cannot be read: {' '.join(str(error).split())}.") from error
            included = content.get("include", []) if isinstance(content, dict) else []
            for name in included if isinstance(included, list) else [included]:
                if not (path.parent / os.fspath(name)).exists():
                    raise ReadError(f"the task file {path} includes {name}, which does not exist.")


def _keep_documents(task: Any) -> None:
    """Let a task go through its documents without reading them from its dataset again."""
    for name in ("test_docs", "validation_docs"):
        setattr(task, name, functools.cache(getattr(task, name)))
    read = task.doc_iterator
    kept: dict[int | None, list[tuple[int, Any]]] = {}

    def documents(*, limit: int | None = None, **given: Any) -> Iterator[tuple[int, Any]]:
        if limit not in kept:
            kept[limit] = list(read(limit=limit, **given))
        # A copy, because a task may write into the document it scores.
        return ((number, copy.deepcopy(doc)) for number, doc in kept[limit])

    task.doc_iterator = documents


def _keep_requests(task: Any) -> None:
    """Let a task build its requests once; later they are given out again without answers."""
    build = task.build_all_requests
    built: list[bool] = []

    def requests(**given: Any) -> None:
        if not built:
            build(**given)
            built.append(True)
        for instance in task.instances:
            instance.resps, instance.filtered_resps = [], {}

    task.build_all_requests = requests


def _add_analytic_errors(task: Any, scores: dict[str, Any], samples: list[dict[str, Any]]) -> None:
    """The harness's standard errors of means, which it does not compute when told not to resample."""
    from lm_eval.api import metrics

    formulas = {metrics.mean: metrics.mean_stderr, metrics.acc_all: metrics.acc_all_stderr}
    averages = task.aggregation()
    for key in [key for key in scores if "," in key and "_stderr," not in key]:
        metric, _, chosen = key.partition(",")
        formula = formulas.get(averages.get(metric, metrics.mean))
        values = [row[metric] for row in samples if row["filter"] == chosen and metric in row]
        if formula is not None and len(values) > 1:
            scores[f"{metric}_stderr,{chosen}"] = formula(values)
