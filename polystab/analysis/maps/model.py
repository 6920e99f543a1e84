"""The training map itself: what was fitted, and decoding runs with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import xarray as xr

from polystab.analysis.arrays import Bools, described, median
from polystab.analysis.maps.choice import seeds_in
from polystab.analysis.maps.inputs import Normalise, Rows, Scale, gather, normalised, reference_scale
from polystab.analysis.maps.kernels import Covariance, Parameters
from polystab.analysis.maps.results import labelled_states
from polystab.cube.validate import as_cube
from polystab.errors import AnalysisError, did_you_mean, shown
from polystab.summaries import Summary, summary


@dataclass(frozen=True, eq=False)
class TrainingMap:
    """A fitted training map; made by :func:`fit_training_map`.

    Attributes
    ----------
    parameters : xarray.Dataset
        ``start(map_state)``, ``transition(map_state, to_state)``, ``mean(map_state, metric)`` and
        ``variance(map_state, metric)`` of the scaled metrics, for full and tied covariances also
        ``covariance(map_state, metric, other_metric)``; ``centre(model, metric)`` and
        ``spread(model, metric)``, in the metric's units: the scale of each model. What was
        asked for is in ``attrs``.
    selection : xarray.Dataset
        Every number of states that was tried, along ``n_states``: ``log_likelihood``,
        ``n_parameters``, ``n_rows``, ``aic``, ``bic``, ``held_out`` and
        ``held_out_per_checkpoint`` (NaN where nothing was held out), ``optimum_share``,
        ``converged``, ``converged_share``, ``n_unvisited``, ``refused``.
    states : xarray.Dataset
        The cube that the map was fitted to, decoded: see :meth:`decode`.
    notes : tuple of str
        What a reader must know: checkpoints and metrics left out, fits that did not converge,
        states that nobody visits.
    """

    parameters: xr.Dataset
    selection: xr.Dataset
    states: xr.Dataset
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"TrainingMap({self.n_states} states, {len(self.metrics)} metrics, {self.covariance} covariance, "
            f"normalise={self.normalise!r}{', recipe=' + repr(self.recipe) if self.recipe else ''})"
        )

    def summary(self, *, rows: int = 20) -> Summary:
        """Where the states stand, one row each; see :func:`polystab.summary`.

        Of the decoded runs: the share of checkpoints in a state, how many runs visit it, and the median of the steps
        at which they first do. Of the map: the three metrics that are furthest from their mean in it, in standard
        deviations.
        """
        told = summary(_about_states(self.parameters, self.states), rows=rows)
        return replace(told, heading=repr(self), notes=(*told.notes, *self.notes))

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    @property
    def n_states(self) -> int:
        """Number of states."""
        return self.parameters.sizes["map_state"]

    @property
    def metrics(self) -> tuple[str, ...]:
        """Ids of the metrics, in order."""
        return tuple(str(name) for name in self.parameters["metric"].values.tolist())

    @property
    def covariance(self) -> Covariance:
        """``"diag"``, ``"full"`` or ``"tied"``."""
        kind: Covariance = self.parameters.attrs["covariance"]
        return kind

    @property
    def normalise(self) -> Normalise:
        """``"reference"``, ``"causal"`` or ``"run"``."""
        name: Normalise = self.parameters.attrs["normalise"]
        return name

    @property
    def recipe(self) -> str:
        """``"polypythias"``, or empty."""
        return str(self.parameters.attrs["recipe"])

    def decode(
        self,
        cube: xr.Dataset | xr.DataTree,
        *,
        reference: Sequence[int] | None = None,
        one_sequence: bool | None = None,
    ) -> xr.Dataset:
        """The states of the runs of a cube: those fitted, other runs, other sizes, or the beginnings of runs.

        Parameters
        ----------
        cube : xarray.Dataset or xarray.DataTree
            A cube with the metrics of the map.
        reference : sequence of int, optional
            Under ``normalise="reference"`` only: seeds of ``cube`` whose checkpoints set the scale
            of each of its models. Needed for a model that the map was not fitted to, whose metrics
            have a scale of their own; the models it was fitted to keep theirs by default. The
            scale is that of all checkpoints given: take whole runs.
        one_sequence : bool, optional
            Decode all runs as if they were one long run, as the PolyPythias code does. By default
            only under that recipe.

        Returns
        -------
        xarray.Dataset
            Over (model, seed, step): ``state``, on the most likely path (Viterbi);
            ``state_online``, most likely given the checkpoints up to there; both -1 where nothing
            was decoded; ``posterior`` and ``posterior_online`` (also over ``map_state``; NaN
            there); ``distance``, root mean square over metrics of how far the checkpoint is from
            the mean of its state, in standard deviations of the state: well above 1 the map does
            not know such checkpoints. Over (model, seed): ``log_likelihood`` (natural
            logarithm; NaN where all runs are one sequence), ``n_checkpoints``, ``n_incomplete``, ``n_nonfinite``, ``role``.

        Raises
        ------
        AnalysisError
            The cube lacks a metric of the map, or a model has no scale.

        Notes
        -----
        A checkpoint at which a metric is not measured or infinite is left out of the sequence and
        counted; its neighbours then follow each other. A single run or checkpoint is fine.
        """
        cube = as_cube(cube)
        present = {str(name) for name in cube["metric"].values.tolist()}
        if missing := [name for name in self.metrics if name not in present]:
            raise AnalysisError(
                f"the cube lacks {len(missing)} of the {len(self.metrics)} metrics of the map: {shown(missing)}. "
                f"{did_you_mean(missing[0], present)}"
            )
        rows = gather(cube, self.metrics)
        scale = self._scale(cube, rows, reference)
        z = normalised(rows, self.normalise, scale)
        joined = bool(self.recipe) if one_sequence is None else one_sequence
        return labelled_states(cube, rows, z, self._hmm(), joined=joined)

    def _hmm(self) -> Parameters:
        p = self.parameters
        kind = self.covariance
        covariance = p["variance"].values if kind == "diag" else p["covariance"].values
        return Parameters(
            p["start"].values,
            p["transition"].values,
            p["mean"].values,
            covariance[0] if kind == "tied" else covariance,
            kind,
        )

    def _scale(self, cube: xr.Dataset, rows: Rows, reference: Sequence[int] | None) -> Scale:
        if reference is not None:
            if self.normalise != "reference":
                raise AnalysisError(f"this map takes no reference: it was fitted with normalise={self.normalise!r}.")
            scale = reference_scale(rows, seed_mask(cube, rows, reference))
        else:
            known = self.parameters.reindex(model=list(rows.models))
            scale = Scale(known["centre"].values, known["spread"].values)
        if self.normalise != "reference":
            return scale
        needed = np.unique(rows.model[rows.used.any(axis=1)])
        if unknown := [rows.models[m] for m in needed if np.isnan(scale.centre[m]).any()]:
            why = "none of the reference seeds is measured" if reference is not None else "the map has no scale"
            raise AnalysisError(
                f"{why} for {shown(unknown)}; name seeds of this cube to take it from, e.g. "
                f"decode(cube, reference={[int(s) for s in cube['seed'].values[:3]]}), or fit with normalise='causal'."
            )
        for m in needed:
            if (flat := scale.spread[m] == 0).any():
                names = [name for name, constant in zip(self.metrics, flat, strict=True) if constant]
                raise AnalysisError(
                    f"{shown(names)} do not vary over the reference runs of {rows.models[m]!r}, so there is no scale."
                )
        return scale

    def to_tree(self) -> xr.DataTree:
        """The map as a tree of Datasets that netCDF can keep; :meth:`from_tree` gives it back.

        Examples
        --------
        >>> import polystab.testing
        >>> from polystab.analysis.training_maps import TrainingMap, fit_training_map
        >>> fitted = fit_training_map(polystab.testing.phase_cube(rng=0), n_states=2, n_restarts=2)
        >>> TrainingMap.from_tree(fitted.to_tree()).n_states
        2
        """
        root = self.parameters.assign_attrs(notes=json.dumps(self.notes))
        return xr.DataTree.from_dict({"/": root, "/selection": self.selection, "/states": self.states})

    @classmethod
    def from_tree(cls, tree: xr.DataTree) -> TrainingMap:
        """A map from what :meth:`to_tree` made, read back from a file or not."""
        root = tree.to_dataset(inherit=False)
        notes = tuple(json.loads(root.attrs.pop("notes")))
        selection, states = (tree.children[name].to_dataset(inherit=False) for name in ("selection", "states"))
        return cls(root, selection, states, notes)


def _about_states(parameters: xr.Dataset, states: xr.Dataset) -> xr.Dataset:
    """Each state in a few numbers."""
    numbers = parameters["map_state"].values
    here = states["state"].values[..., None] == numbers  # model, seed, step, state
    visited = here.any(axis=2)
    first = np.where(visited, states["step"].values[here.argmax(axis=2)], np.nan)
    mean = parameters["mean"].values
    names = parameters["metric"].values.astype(str)
    furthest = [
        ", ".join(f"{names[m]} {mean[k, m]:+.1f}" for m in np.argsort(-np.abs(mean[k]), kind="stable")[:3])
        for k in range(len(numbers))
    ]
    columns = {
        "share": here.sum(axis=(0, 1, 2)) / max(here.sum(), 1),
        "runs": visited.sum(axis=(0, 1)),
        "first_step": median(first.reshape(-1, len(numbers)), axis=0),
        "furthest": np.array(furthest),
    }
    docs = {
        "share": "share of the decoded checkpoints",
        "runs": "runs that visit it",
        "first_step": "median over these runs of the first step in it",
        "furthest": "metrics furthest from their mean in it, in standard deviations",
    }
    found = xr.Dataset({name: ("map_state", column) for name, column in columns.items()}, coords={"map_state": numbers})
    return described(found, docs)


def seed_mask(cube: xr.Dataset, rows: Rows, seeds: Sequence[int]) -> Bools:
    all_seeds = [int(seed) for seed in cube["seed"].values.tolist()]
    wanted = seeds_in(all_seeds, seeds, "reference")
    return np.asarray(np.isin(np.asarray(all_seeds)[rows.seed], wanted) & ~rows.copies)
