"""What a cube consists of, as data: validation, building and documentation are made from it.

Each dimension, coordinate, variable, group and file attribute is one frozen
spec. ``SCHEMA_VERSION`` counts up when a reader of older cubes would have to
know about the change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SCHEMA_VERSION = 1

DIMS = ("model", "seed", "step", "metric")

FAMILIES = ("eval", "probe", "weight", "activation", "gradient", "loss", "agreement")

BETTER = ("higher", "lower", "")

# dtype kinds: U text, i integer, f floating point
DTYPES = {"U": "U", "i": "int64", "f": "float64"}


@dataclass(frozen=True)
class DimSpec:
    """A dimension and the labels along it."""

    name: str
    kind: str
    doc: str


@dataclass(frozen=True)
class VariableSpec:
    """A variable or coordinate: its dimensions, dtype kind, and the value that means unknown."""

    name: str
    dims: tuple[str, ...]
    kind: str
    doc: str
    required: bool = False
    fill: str | int | float = ""
    units: str = ""


@dataclass(frozen=True)
class GroupSpec:
    """A detail group of the same file; more variables than the ones listed are allowed."""

    name: str
    doc: str
    variables: tuple[VariableSpec, ...] = ()


@dataclass(frozen=True)
class AttributeSpec:
    """A file attribute. netCDF keeps only text and numbers faithfully, so nothing else is allowed."""

    name: str
    type: type
    doc: str
    required: bool = False
    default: str | int = ""


DIMENSIONS = (
    DimSpec("model", "U", "a recipe: architecture, size, data"),
    DimSpec("seed", "i", "a repetition of the recipe; 0 is the reference run"),
    DimSpec("step", "i", "optimizer steps taken at the checkpoint, increasing, irregular"),
    DimSpec("metric", "U", "what was measured: <family>/<subject>/<measure>"),
)

VARIABLES = (
    VariableSpec("value", DIMS, "f", "the measured value; NaN means not measured", required=True, fill=math.nan),
    VariableSpec("stderr", DIMS, "f", "sampling standard error over test items; NaN where unknown", fill=math.nan),
    VariableSpec("weight_seed", ("model", "seed"), "i", "seed of the weight initialisation; -1 unknown", fill=-1),
    VariableSpec("data_seed", ("model", "seed"), "i", "seed of the data order; -1 unknown", fill=-1),
)

COORDINATES = (
    VariableSpec("family", ("metric",), "U", "kind of measurement, one of: " + ", ".join(FAMILIES), required=True),
    VariableSpec("subject", ("metric",), "U", "task, or parameter such as layers.3.attention.dense", required=True),
    VariableSpec("measure", ("metric",), "U", "acc, kurtosis, ...", required=True),
    VariableSpec("component", ("metric",), "U", "part of the network, empty where none", required=True),
    VariableSpec("layer", ("metric",), "i", "layer number, -1 where none", required=True, fill=-1),
    VariableSpec("units", ("metric",), "U", "units of the value, empty where unknown, 1 for a share", required=True),
    VariableSpec("better", ("metric",), "U", "higher, lower, or empty where neither", required=True),
    VariableSpec("shots", ("metric",), "i", "examples in the prompt; -1 where it does not apply", fill=-1),
    VariableSpec("filter", ("metric",), "U", "lm-evaluation-harness answer filter, empty for none"),
    VariableSpec("n_items", ("metric",), "i", "test items behind the value; -1 unknown", fill=-1),
    VariableSpec("chance", ("metric",), "f", "value expected from guessing; NaN unknown", fill=math.nan),
    VariableSpec("n_parameters", ("model",), "i", "number of parameters; -1 unknown", fill=-1),
    VariableSpec("n_layers", ("model",), "i", "number of layers; -1 unknown", fill=-1),
    VariableSpec("hidden_size", ("model",), "i", "width of the residual stream; -1 unknown", fill=-1),
    VariableSpec("tokens", ("step",), "i", "training tokens seen at the step; -1 unknown", fill=-1),
    VariableSpec("run_name", ("model", "seed"), "U", "the run's own name where seeds were numbered by the reader"),
)

GROUPS = (
    GroupSpec(
        "audit",
        "every file that was read, refused or replaced, with the reason",
        (
            VariableSpec("path", ("entry",), "U", "file, relative to what was read", required=True),
            VariableSpec("status", ("entry",), "U", "read, refused, replaced, or noted", required=True),
            VariableSpec("reason", ("entry",), "U", "a short code, e.g. label-mismatch", required=True),
            VariableSpec("detail", ("entry",), "U", "what exactly, for a person", required=True),
            VariableSpec(
                "sha256", ("entry",), "U", "SHA-256 of the file, empty if it could not be read", required=True
            ),
            VariableSpec("by", ("entry",), "U", "for replaced: what took its place", required=True),
        ),
    ),
    GroupSpec(
        "items",
        "per test item: the chosen option and whether it was correct",
        (
            VariableSpec("choice", ("model", "seed", "step", "item"), "i", "chosen option; -1 not evaluated", fill=-1),
            VariableSpec("correct", ("model", "seed", "step", "item"), "i", "1, 0, or -1 for not evaluated", fill=-1),
            VariableSpec("task", ("item",), "U", "task of the item", required=True),
            VariableSpec("doc_hash", ("item",), "U", "hash of the document; items are joined on it", required=True),
        ),
    ),
    GroupSpec(
        "log",
        "what training logged at every update",
        (
            VariableSpec("loss", ("model", "seed", "update"), "f", "training loss of the batch", units="nat"),
            VariableSpec("grad_norm", ("model", "seed", "update"), "f", "norm of the gradient before clipping"),
        ),
    ),
    GroupSpec("spectra", "singular values by rank"),
    GroupSpec("histograms", "counts on fixed, shared bins"),
    GroupSpec("directions", "top tokens of SVD directions"),
    GroupSpec("embedding", "token correlation of the embedding"),
)

ATTRIBUTES = (
    AttributeSpec("polystab_schema", int, "version of the cube's schema", required=True, default=SCHEMA_VERSION),
    AttributeSpec("title", str, "one line"),
    AttributeSpec("summary", str, "what is in the cube"),
    AttributeSpec("source", str, "where the numbers came from; empty means unknown"),
    AttributeSpec("license", str, "licence of the data"),
    AttributeSpec("references", str, "DOI or address of what to cite"),
    AttributeSpec("history", str, "one line for each thing done to the cube"),
    AttributeSpec("Conventions", str, "metadata conventions", default="CF-1.11 ACDD-1.3"),
    AttributeSpec("created", str, "when the cube was first made, ISO 8601 in UTC", required=True),
    AttributeSpec("polystab_version", str, "version that made the cube", required=True),
)

METRIC_COORDINATES = tuple(spec for spec in COORDINATES if spec.dims == ("metric",))

SPECS: dict[str, VariableSpec] = {spec.name: spec for spec in (*VARIABLES, *COORDINATES)}
