"""Cubes of older schemas: each step from one schema to the next is one function.

A cube of schema 1 opens for ever. When ``SCHEMA_VERSION`` counts up, a function is added to :data:`STEPS` that makes
the content of a file of the schema before into content of the new one; opening a file applies those that it needs.
Files themselves are never changed: saving what was opened writes the new schema.

A step takes the datasets of a file by path (``/`` is the cube; groups may be absent, as where the cube alone is
opened) and returns them in the new schema. It changes no input, reads no values where labels do, and is tested against
a file of the old schema that is kept in ``tests/cube/data``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr

from polystab.cube.specs import SCHEMA_VERSION

Nodes = Mapping[str, xr.Dataset]
Step = Callable[[Nodes], Nodes]

# By the schema that a step starts from. Schema 1 is the first and still the newest, so there is none yet.
STEPS: Mapping[int, Step] = {}


def migrated(nodes: Nodes) -> dict[str, xr.Dataset]:
    """The content of a file in the newest schema.

    Parameters
    ----------
    nodes : mapping of path to Dataset
        Of one file; the root, ``/``, says its schema. Content that says none, or one that is not known, is
        returned as it is, for validation to refuse.

    Returns
    -------
    dict of path to Dataset
        With ``polystab_schema`` set to the newest schema. Content of that schema already is returned as it is.

    Examples
    --------
    >>> import polystab.testing
    >>> cube = polystab.testing.synthetic_cube(rng=0)
    >>> migrated({"/": cube})["/"].identical(cube)
    True
    """
    found = dict(nodes)
    version = found["/"].attrs.get("polystab_schema")
    if isinstance(version, bool) or not isinstance(version, (int, np.integer)) or not 1 <= version < SCHEMA_VERSION:
        return found
    for schema in range(int(version), SCHEMA_VERSION):
        found = dict(STEPS[schema](found))
        # A copy with its own attributes: the input is not changed.
        found["/"] = found["/"].assign_attrs(polystab_schema=schema + 1)
    return found
