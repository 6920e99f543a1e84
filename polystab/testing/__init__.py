"""Synthetic cubes whose truth is known, to test a method before it is believed.

Three kinds, from life-like to plain:

- :func:`synthetic_cube` looks like a training suite: accuracies that rise from
  chance, losses that fall, weight norms that grow, over several models and seeds,
  with phases, events (a run that goes wrong, a loss spike, a glitch), copied runs and
  missing checkpoints where they are asked for. ``Recipe(...).make(rng)`` gives the
  truth along with the cube.
- :func:`variance_cube` is linear and Gaussian, so that every variance component is
  exactly what its argument says.
- :func:`phase_cube` is piecewise linear with changes at given steps.

The same arguments and ``rng`` give the same cube, and so the same file, byte for byte.
"""

from polystab.testing.plain import phase_cube, variance_cube
from polystab.testing.recipes import CHECKPOINT_STEPS, EVAL_STEPS, Event, Made, Recipe
from polystab.testing.suites import demo_cube, synthetic_cube

__all__ = [
    "CHECKPOINT_STEPS",
    "EVAL_STEPS",
    "Event",
    "Made",
    "Recipe",
    "demo_cube",
    "phase_cube",
    "synthetic_cube",
    "variance_cube",
]
