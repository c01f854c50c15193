"""Keeps the imports of plugins that were written for xraygan 0.1.0 working.

Modules that templates, documentation and built-in plugins of that version imported from are listed
here with the modules that hold their names now. Importing one of the old modules gives a stand-in
that looks each name up in its new place and warns, once for each place that imports it.
"""

from __future__ import annotations

import sys
import warnings
from functools import partial
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

#: old module -> the module that holds its names now
MOVED = {
    "xraygan.cells": "xraygan.utils.csv_cells",
    "xraygan.cli.common": "xraygan.cli.options",
    "xraygan.display": "xraygan.utils.progress",
    "xraygan.ending": "xraygan.rundir.completion",
    "xraygan.engine": "xraygan.session.session",
    "xraygan.evaluate": "xraygan.evaluation.evaluation",
    "xraygan.faults": "xraygan.parts.plugin_errors",
    "xraygan.figures": "xraygan.report.plots",
    "xraygan.filling": "xraygan.utils.output_folder",
    "xraygan.generate": "xraygan.evaluation.generation",
    "xraygan.images": "xraygan.data.images",
    "xraygan.index": "xraygan.data.index",
    "xraygan.interfaces": "xraygan.parts.interfaces",
    "xraygan.intervals": "xraygan.statistics.intervals",
    "xraygan.nearest": "xraygan.audit.nearest_neighbors",
    "xraygan.paths": "xraygan.utils.paths",
    "xraygan.penalties": "xraygan.graph.penalties",
    "xraygan.planning": "xraygan.utils.planning",
    "xraygan.reading": "xraygan.utils.parsing",
    "xraygan.registry": "xraygan.parts.registry",
    "xraygan.sampling": "xraygan.session.sampling",
    "xraygan.seeding": "xraygan.utils.seeding",
    "xraygan.step": "xraygan.graph.step",
    "xraygan.store": "xraygan.data.datamodule",
    "xraygan.tables": "xraygan.data.tables",
    "xraygan.weights": "xraygan.parts.weights",
    "xraygan.writing": "xraygan.utils.atomic_files",
}

#: old module -> the names of it that are called otherwise now
RENAMED = {
    "xraygan.cells": {"guarded": "escape_formula", "unguarded": "unescape_formula"},
    "xraygan.cli.common": {"Place": "SafePath", "SEED": "SEED_TYPE", "Whole": "BoundedInt"},
    "xraygan.ending": {"unmeasured": "missing_results", "untrained": "training_left"},
    "xraygan.engine": {"restore": "restore_session"},
    "xraygan.evaluate": {"Evaluation": "RunEvaluation"},
    "xraygan.figures": {
        "STYLE": "FIGURE_STYLE",
        "axes_at": "axes_in_inches",
        "mosaic": "draw_mosaic",
        "rendered": "figure_bytes",
    },
    "xraygan.filling": {"fill": "write_folder", "refuse_filled": "require_empty_folder"},
    "xraygan.generate": {"to_bytes": "to_uint8"},
    "xraygan.index": {"NORMAL": "NO_FINDING"},
    "xraygan.interfaces": {"wide": "as_float32"},
    "xraygan.nearest": {"nearest": "nearest_neighbors"},
    "xraygan.paths": {"data_folder": "require_data_folder"},
    "xraygan.penalties": {"gradients": "image_gradients", "zero_centred": "zero_centred_penalty"},
    "xraygan.reading": {"unreadable": "describe_read_error"},
    "xraygan.sampling": {"sample": "sample_images"},
    "xraygan.step": {"Step": "TrainingStep"},
    "xraygan.tables": {"spelling": "normalized_name", "stop_at": "raise_at_row"},
    "xraygan.weights": {"digest": "weights_digest"},
}


class _Finder:
    """Finds the old modules, which are in no folder.

    No base class: importing ``importlib.abc`` would take longer than the rest of the package.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self) if name in MOVED else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> None:
        """An ordinary empty module will do."""

    def exec_module(self, module: ModuleType) -> None:
        module.__getattr__ = partial(_look_up, module.__name__)  # type: ignore[method-assign]


def _look_up(old: str, name: str) -> Any:
    """A name of an old module, from where it is now."""
    from xraygan import __all__ as public_names
    from xraygan import plugin_api

    if name.startswith("__"):  # what Python itself asks of a module
        raise AttributeError(f"module {old!r} has no attribute {name!r}")
    now, home = RENAMED.get(old, {}).get(name, name), import_module(MOVED[old])
    public = next((f"xraygan.{n}" for n in (name, now) if n in public_names), "")
    if not hasattr(home, now) and now in plugin_api.__all__:
        home = plugin_api
    value = getattr(home, now)
    if not public:
        public = f"{'xraygan.plugin_api' if now in plugin_api.__all__ else home.__name__}.{now}"
    warnings.warn(f"{old}.{name} has moved: import {public}", DeprecationWarning, stacklevel=2)
    return value


def install() -> None:
    """Let the old modules be imported. They are looked for last, so nothing else is slower."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
