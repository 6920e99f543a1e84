"""Which runs there are and where their checkpoints lie: the run table."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polystab.cube.labels import is_writable
from polystab.errors import PolystabError, ReadError, SelectionError, UnknownNameError, did_you_mean, shown
from polystab.sources.run_patterns import filled, has_field, pattern_mistakes, steps_in_folders

if TYPE_CHECKING:
    import pandas as pd

    from polystab.sources.checkpoints import CheckpointOptions

PathLike = str | os.PathLike[str]

TABLE_NAME = "runs.csv"


class RunTableError(ReadError):
    """A run table cannot be used; ``mistakes`` lists everything that is wrong with it."""

    def __init__(self, where: str, mistakes: Iterable[str]) -> None:
        self.where, self.mistakes = where, tuple(mistakes)
        count = "1 mistake" if len(self.mistakes) == 1 else f"{len(self.mistakes)} mistakes"
        listed = "".join(f"\n  {mistake}." for mistake in self.mistakes)
        super().__init__(f"{where} cannot be used as a run table ({count}):{listed}")

    def __reduce__(self) -> tuple[type[RunTableError], tuple[str, tuple[str, ...]]]:
        return type(self), (self.where, self.mistakes)  # both arguments, so that it passes between processes


@dataclass(frozen=True)
class Run:
    """One run of training: a model and a seed, and where its checkpoints lie.

    Attributes
    ----------
    model, seed
        Its labels in the cube.
    weight_seed, data_seed : int
        Which initialisation and which order of the data it had; runs with equal numbers
        shared it. -1 where unknown.
    location : str
        A pattern of local folders such as ``runs/{model}/seed{seed}/step{step}``; or a
        repository on the Hugging Face Hub, ``organisation/name``, if ``revision`` is not empty.
    revision : str
        Pattern of the Hub revision (branch, tag or commit), e.g. ``step{step}``; empty for
        local folders. ``{step}`` stands in the location or in the revision.
    steps : tuple of int
        Steps of the checkpoints, ascending; empty where they have not been looked for.
    facts : mapping
        What else is known: ``n_parameters``, ``n_layers``, ``hidden_size``,
        ``learning_rate`` (peak), ``tokens_per_step``, and other columns of the table, as text.
    """

    model: str
    seed: int
    weight_seed: int = -1
    data_seed: int = -1
    location: str = ""
    revision: str = ""
    steps: tuple[int, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.model} seed {self.seed}"

    @property
    def on_hub(self) -> bool:
        """Whether the checkpoints lie on the Hugging Face Hub."""
        return bool(self.revision)

    def place(self, step: int) -> str:
        """The folder of a checkpoint, or its repository on the Hub."""
        return filled(self.location, model=self.model, seed=self.seed, step=step)

    def revision_at(self, step: int) -> str:
        """The Hub revision of a checkpoint; empty for local folders."""
        return filled(self.revision, model=self.model, seed=self.seed, step=step)


@dataclass(frozen=True)
class RunTable:
    """Runs with distinct (model, seed), in their order.

    Raises
    ------
    RunTableError
        Two runs have one (model, seed), two models differ in upper and lower case only, or a run is not sound; every
        mistake is listed.
    """

    runs: tuple[Run, ...]

    def __post_init__(self) -> None:
        mistakes = [mistake for run in self.runs for mistake in run_mistakes(run)]
        mistakes += repeated_runs((run.model, run.seed, f"run {number}") for number, run in enumerate(self.runs, 1))
        mistakes += _confusable({run.model for run in self.runs})
        if not self.runs:
            mistakes.append("there is no run in it")
        if mistakes:
            raise RunTableError("the table", mistakes)

    def __iter__(self) -> Iterator[Run]:
        return iter(self.runs)

    def __len__(self) -> int:
        return len(self.runs)

    def select(
        self,
        *,
        models: str | Collection[str] | None = None,
        seeds: int | Collection[int] | None = None,
        steps: int | Collection[int] | None = None,
    ) -> RunTable:
        """The runs with these models and seeds, with those of these steps that they have.

        Parameters
        ----------
        models, seeds, steps : one or a collection, optional
            What to keep; all without it. A run with none of the steps is left out. A run
            whose steps are not known gets the steps that are asked for.

        Raises
        ------
        SelectionError
            A model, seed or step is in no run, or nothing is left.
        """
        wanted_models = {models} if isinstance(models, str) else models
        wanted_seeds, wanted_steps = _collection(seeds), _collection(steps)
        kept = self.runs
        if wanted_models is not None:
            _require(wanted_models, {run.model for run in kept}, "model")
            kept = tuple(run for run in kept if run.model in wanted_models)
        if wanted_seeds is not None:
            _require(wanted_seeds, {run.seed for run in kept}, "seed")
            kept = tuple(run for run in kept if run.seed in wanted_seeds)
        if wanted_steps is not None:
            if all(run.steps for run in kept):
                _require(wanted_steps, {step for run in kept for step in run.steps}, "step")
            kept = tuple(replace(run, steps=_common_steps(run, wanted_steps)) for run in kept)
            kept = tuple(run for run in kept if run.steps)
        if not kept:
            raise SelectionError("no run has what was asked for; ask for other models, seeds or steps.")
        return RunTable(kept)

    def checkpoints(self) -> Iterator[tuple[Run, int]]:
        """Every checkpoint as (run, step): run after run, steps ascending.

        Raises
        ------
        RunTableError
            The steps of a run are not known; see :meth:`with_steps`.
        """
        unknown = [str(run) for run in self.runs if not run.steps]
        if unknown:
            raise RunTableError(
                "the table", [f"no steps are known of {shown(unknown)}; find them with table.with_steps()"]
            )
        return ((run, step) for run in self.runs for step in run.steps)

    def with_steps(self, options: CheckpointOptions | None = None) -> RunTable:
        """The table with the steps of every run, looked for where they are not known.

        Local folders are matched against the pattern of the location; for the Hub, the
        branches of the repository are matched against the pattern of the revision.

        Raises
        ------
        RunTableError
            Nothing is found for a run.
        CheckpointError
            A repository cannot be looked at.
        """
        if all(run.steps for run in self.runs):
            return self
        found = [run if run.steps else replace(run, steps=_found_steps(run, options)) for run in self.runs]
        mistakes = [_nothing_found(run) for run in found if not run.steps]
        if mistakes:
            raise RunTableError("the table", mistakes)
        return RunTable(tuple(found))


def read_runs(
    source: PathLike | pd.DataFrame, *, find_steps: bool = True, options: CheckpointOptions | None = None
) -> RunTable:
    """Read a run table, or take a built-in catalog.

    Parameters
    ----------
    source : path, DataFrame or catalog name
        A CSV file (TSV if it ends so), a folder with a ``runs.csv``, a DataFrame with the same
        columns, or a name from :func:`catalogs`. Columns: ``model``, ``seed`` and ``location`` are
        needed; ``weight_seed``, ``data_seed``, ``revision``, ``steps`` and the facts
        ``n_parameters``, ``n_layers``, ``hidden_size``, ``learning_rate`` and
        ``tokens_per_step`` may be there; others are kept among the facts. An empty cell is
        unknown. ``steps`` holds numbers and inclusive ranges ``start:stop:step``,
        e.g. ``0 1 2 4 1000:143000:1000``; see :class:`Run` for the rest. Relative folders
        count from the folder of the table (from the current one, for a DataFrame).
    find_steps : bool, optional
        Look for the steps of runs whose ``steps`` is empty, as :meth:`RunTable.with_steps` does.
    options : CheckpointOptions, optional
        How the Hub is reached, where it has to be asked for steps.

    Returns
    -------
    RunTable
        With absolute local folders.

    Raises
    ------
    RunTableError
        Something is wrong with the table; every mistake is listed.
    ReadError
        The file cannot be read.
    UnknownNameError
        The name is neither a file nor a catalog.
    CheckpointError
        The Hub cannot be asked for steps.
    """
    from polystab.sources.run_files import runs_of_file, runs_of_frame

    if not isinstance(source, (str, os.PathLike)):
        table, where = RunTable(runs_of_frame(source)), "the DataFrame"
    else:
        path = Path(source).expanduser()
        if not path.exists() and str(source) in catalogs():
            return catalog(str(source))
        if path.is_dir():
            path = path / TABLE_NAME
        if not path.exists():
            raise _no_such_table(str(source), path)
        table, where = RunTable(runs_of_file(path)), str(path)
    try:
        return table.with_steps(options) if find_steps else table
    except RunTableError as error:
        raise RunTableError(where, error.mistakes) from None


def write_runs(table: RunTable, path: PathLike) -> None:
    """Write a run table as CSV; :func:`read_runs` gives the same table back.

    Folders below that of the file are written relative to it, so that both can be moved
    together; others are written absolute.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    from polystab.sources.run_files import write_runs_file

    write_runs_file(table.runs, path)


def catalogs() -> dict[str, str]:
    """Names of the built-in catalogs, each with one line about it."""
    from polystab.sources.catalogs import SUMMARIES

    return dict(SUMMARIES)


def catalog(name: str) -> RunTable:
    """The runs of a built-in catalog; see :mod:`polystab.sources.catalogs` for what its seeds mean.

    Raises
    ------
    UnknownNameError
        There is none of that name; close names are suggested.

    Examples
    --------
    >>> table = catalog("polypythias").select(models="pythia-14m", seeds=3)
    >>> run = table.runs[0]
    >>> run.place(1000), run.revision_at(1000), len(run.steps)
    ('EleutherAI/pythia-14m-seed3', 'step1000', 154)
    """
    from polystab.sources.catalogs import catalog_runs

    if name not in catalogs():
        raise UnknownNameError(f"no catalog of runs is called {name!r}. {did_you_mean(name, catalogs())}")
    return RunTable(catalog_runs(name))


def run_mistakes(run: Run) -> list[str]:
    """What is wrong with a run by itself; empty if nothing is."""
    mistakes = []
    if not run.model or run.model != run.model.strip() or not is_writable(run.model):
        mistakes.append(f"the model {run.model!r} is empty, or has blanks at its ends or characters that no file keeps")
    if not -(2**63) <= run.seed < 2**63:
        mistakes.append(f"the seed {run.seed} does not fit 64 bits")
    if not run.location:
        return [*mistakes, f"{run} has no location"]
    if "://" in run.location:
        return [
            *mistakes,
            f"{run} lies at {run.location!r}, which is an address; give a folder of this machine, or, with "
            "a revision, a repository organisation/name on the Hub",
        ]
    broken = [*pattern_mistakes(run.location), *pattern_mistakes(run.revision)]
    if not broken and not has_field(run.location, "step") and not has_field(run.revision, "step"):
        where = "revision" if run.on_hub else "location"
        broken = [f"the {where} of {run}, {getattr(run, where)!r}, does not say where {{step}} stands"]
    if run.on_hub and run.location.count("/") > 1:
        broken.append(f"{run} has a revision, so {run.location!r} must be a repository organisation/name on the Hub")
    if any(step < 0 for step in run.steps) or list(run.steps) != sorted(set(run.steps)):
        broken.append(f"the steps of {run} are not distinct, ascending and at least 0")
    return mistakes + broken


def repeated_runs(labels: Iterable[tuple[str, int, str]]) -> list[str]:
    """A mistake for each (model, seed) that is met again; the third entry says where it stands."""
    first: dict[tuple[str, int], str] = {}
    mistakes = []
    for model, seed, where in labels:
        if (model, seed) in first:
            mistakes.append(f"{where}: {model} seed {seed} is already in {first[model, seed]}; each run stands once")
        first.setdefault((model, seed), where)
    return mistakes


def _confusable(models: Iterable[str]) -> list[str]:
    """A mistake for each model whose folder would be that of another one on systems that do not tell ``A`` from ``a``."""
    first: dict[str, str] = {}
    return [
        f"the models {known!r} and {model!r} differ in upper and lower case only: in some folders their files would be "
        "the same; rename one"
        for model in sorted(models)
        if (known := first.setdefault(model.lower(), model)) != model
    ]


def _found_steps(run: Run, options: CheckpointOptions | None) -> tuple[int, ...]:
    if not run.on_hub:
        try:
            return tuple(steps_in_folders(run.location, model=run.model, seed=run.seed))
        except OSError as error:
            raise ReadError(
                f"the checkpoints of {run} at {run.location} cannot be listed: {error.strerror}."
            ) from error
    if has_field(run.location, "step"):
        return ()
    from polystab.sources.hub import steps_on_hub

    return steps_on_hub(run, options)


def _nothing_found(run: Run) -> str:
    if not run.on_hub:
        return f"no folder is like {run.location!r}, the location of {run}"
    if has_field(run.location, "step"):
        return f"the repository of {run} depends on the step, so list its steps"
    return f"no branch of {run.location} is like {run.revision!r}, the revision of {run}"


def _no_such_table(name: str, path: Path) -> PolystabError:
    if path.name == TABLE_NAME and path.parent.is_dir() and Path(name).expanduser() != path:
        return ReadError(f"the folder {name} holds no {TABLE_NAME}; name the run table.")
    if os.sep in name or "." in name:
        return ReadError(
            f"{name} does not exist; name a run table ({TABLE_NAME}), or a catalog: {shown(catalogs(), 12)}."
        )
    return UnknownNameError(f"{name!r} is neither a run table nor a catalog. {did_you_mean(name, catalogs())}")


def _collection(wanted: int | Collection[int] | None) -> Collection[int] | None:
    return {wanted} if isinstance(wanted, int) else wanted


def _common_steps(run: Run, wanted: Collection[int]) -> tuple[int, ...]:
    return tuple(step for step in run.steps if step in wanted) if run.steps else tuple(sorted(set(wanted)))


def _require(wanted: Collection[Any], known: Collection[Any], noun: str) -> None:
    absent = [label for label in wanted if label not in known]
    if not absent:
        return
    if isinstance(absent[0], str):
        raise SelectionError(f"no run has the {noun} {shown(absent)}. {did_you_mean(absent[0], known)}")
    raise SelectionError(f"no run has the {noun} {shown(absent)}; there are {shown(sorted(known), 12)}.")
