"""Sweeps: run one recipe over named variants, a grid of keys and seeds, and write a table.

A sweep file is TOML::

    title = "Table 4: AUC against the pseudo-label threshold"
    recipe = "ucgan_full"
    seeds = [0, 1, 2]

    [grid]
    labeler.threshold = [0.6, 0.7, 0.8, 0.9]

    [table]
    metrics = ["auc/Pneumonia", "auc/Edema", "auc/Hernia"]
    paper."0.6" = [0.57, 0.82, 0.94]

    [presets.fast]
    seeds = [0]
    set.run.steps = 20

``[[variants]]`` (each with ``name``, ``set``, and ``recipe`` if it is not the sweep's) may replace
the grid or be combined with it: every variant runs with every combination of the grid and every
seed. ``set`` overrides keys of the recipe; so do a preset, with ``--preset NAME``, and ``--set``.
The preset ``fast`` only shows that the sweep works, and the table says so. A key that is set for
all rows is skipped in rows that have no such table in their recipe or their own ``set``: a
real-only baseline, for example, has no ``[generator]``.
"""

from xraygan.sweep.file import Row, Sweep, find, load, shipped
from xraygan.sweep.runner import run_all
from xraygan.sweep.table import write_tables

__all__ = ["Row", "Sweep", "find", "load", "run_all", "shipped", "write_tables"]
