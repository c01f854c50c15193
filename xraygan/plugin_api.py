"""The tools that plugins may use, beside the classes of :mod:`xraygan` and the checks of
:mod:`xraygan.testing`.

Everything else in the package may change from one version to the next. Importing this module
imports neither torch nor matplotlib: each name is imported when it is first used. So a module that
defines a command can import its options from here, and ``xraygan --help`` stays quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see; the groups are explained below
    from xraygan.audit.copy_shares import copy_shares as copy_shares
    from xraygan.audit.nearest_neighbors import Neighbours as Neighbours
    from xraygan.audit.nearest_neighbors import as_shown as as_shown
    from xraygan.audit.nearest_neighbors import nearest_neighbors as nearest_neighbors
    from xraygan.audit.nearest_neighbors import nearest_training_images as nearest_training_images
    from xraygan.audit.nearest_neighbors import squared_distances as squared_distances
    from xraygan.cli.options import SEED_TYPE as SEED_TYPE
    from xraygan.cli.options import BoundedInt as BoundedInt
    from xraygan.cli.options import SafePath as SafePath
    from xraygan.cli.options import checkpoint_option as checkpoint_option
    from xraygan.cli.options import quiet_option as quiet_option
    from xraygan.cli.options import run_argument as run_argument
    from xraygan.cli.options import set_option as set_option
    from xraygan.data.datamodule import open_dataset as open_dataset
    from xraygan.data.datamodule import to_range as to_range
    from xraygan.data.images import file_identity as file_identity
    from xraygan.data.images import read_grey as read_grey
    from xraygan.data.index import NO_FINDING as NO_FINDING
    from xraygan.data.split_names import SPLIT_NAMES as SPLIT_NAMES
    from xraygan.data.tables import normalized_name as normalized_name
    from xraygan.data.tables import raise_at_row as raise_at_row
    from xraygan.data.tables import read_ages as read_ages
    from xraygan.data.tables import read_lines as read_lines
    from xraygan.data.tables import read_table as read_table
    from xraygan.errors import describe_error as describe_error
    from xraygan.errors import did_you_mean as did_you_mean
    from xraygan.evaluation.generation import Generated as Generated
    from xraygan.evaluation.generation import to_uint8 as to_uint8
    from xraygan.graph.build import rebuild_options as rebuild_options
    from xraygan.graph.penalties import image_gradients as image_gradients
    from xraygan.graph.penalties import zero_centred_penalty as zero_centred_penalty
    from xraygan.parts.layers import ConditionalNorm as ConditionalNorm
    from xraygan.parts.layers import doubled as doubled
    from xraygan.parts.layers import with_deviation as with_deviation
    from xraygan.parts.registry import installed as installed
    from xraygan.parts.weights import GREY_MEAN as GREY_MEAN
    from xraygan.parts.weights import GREY_STD as GREY_STD
    from xraygan.parts.weights import download_weights as download_weights
    from xraygan.parts.weights import grey_convolution as grey_convolution
    from xraygan.parts.weights import load_matching as load_matching
    from xraygan.parts.weights import read_weights as read_weights
    from xraygan.parts.weights import weights_digest as weights_digest
    from xraygan.report.plots import FIGURE_STYLE as FIGURE_STYLE
    from xraygan.report.plots import axes_in_inches as axes_in_inches
    from xraygan.report.plots import draw_mosaic as draw_mosaic
    from xraygan.report.plots import figure_bytes as figure_bytes
    from xraygan.rundir.completion import missing_results as missing_results
    from xraygan.rundir.completion import training_left as training_left
    from xraygan.rundir.directory import RunDirectory as RunDirectory
    from xraygan.rundir.file_readers import read_number_table as read_number_table
    from xraygan.rundir.file_schemas import cautions as cautions
    from xraygan.rundir.provenance import read_environment as read_environment
    from xraygan.session.sampling import sample_images as sample_images
    from xraygan.session.session import Session as Session
    from xraygan.session.session import restore_session as restore_session
    from xraygan.statistics.intervals import auc_interval as auc_interval
    from xraygan.statistics.intervals import bootstrap_variance as bootstrap_variance
    from xraygan.statistics.intervals import difference_interval as difference_interval
    from xraygan.statistics.intervals import mean_interval as mean_interval
    from xraygan.statistics.intervals import percentile_interval as percentile_interval
    from xraygan.statistics.intervals import share_interval as share_interval
    from xraygan.utils.atomic_files import write_together as write_together
    from xraygan.utils.csv_cells import unescape_formula as unescape_formula
    from xraygan.utils.csv_cells import write_table as write_table
    from xraygan.utils.depthwise import depthwise_conv2d as depthwise_conv2d
    from xraygan.utils.depthwise import is_depthwise as is_depthwise
    from xraygan.utils.images import resize_square as resize_square
    from xraygan.utils.naming import SubgroupFigure as SubgroupFigure
    from xraygan.utils.output_folder import require_empty_folder as require_empty_folder
    from xraygan.utils.output_folder import write_folder as write_folder
    from xraygan.utils.parsing import describe_read_error as describe_read_error
    from xraygan.utils.paths import path_fault as path_fault
    from xraygan.utils.paths import require_data_folder as require_data_folder
    from xraygan.utils.planning import is_planning as is_planning
    from xraygan.utils.progress import Display as Display
    from xraygan.utils.seeding import derive_seed as derive_seed
    from xraygan.utils.seeding import rng as rng
    from xraygan.utils.tensors import as_float32 as as_float32

#: name -> the module that defines it
_HOMES = {
    # Commands: the argument RUN, the options that commands share, and types for more options.
    "run_argument": "xraygan.cli.options",
    "checkpoint_option": "xraygan.cli.options",
    "set_option": "xraygan.cli.options",
    "quiet_option": "xraygan.cli.options",
    "BoundedInt": "xraygan.cli.options",
    "SafePath": "xraygan.cli.options",
    "SEED_TYPE": "xraygan.cli.options",
    # A trained run for a command: its files, its networks and data, images from its generator.
    "RunDirectory": "xraygan.rundir.directory",
    "Session": "xraygan.session.session",
    "restore_session": "xraygan.session.session",
    "open_dataset": "xraygan.data.datamodule",
    "sample_images": "xraygan.session.sampling",
    "Generated": "xraygan.evaluation.generation",
    "rebuild_options": "xraygan.graph.build",
    "Display": "xraygan.utils.progress",
    # What a run directory says: which results are missing, how they were measured, the environment.
    "missing_results": "xraygan.rundir.completion",
    "training_left": "xraygan.rundir.completion",
    "SPLIT_NAMES": "xraygan.data.split_names",
    "cautions": "xraygan.rundir.file_schemas",
    "read_environment": "xraygan.rundir.provenance",
    # Files that are written whole or not at all, and tables that no spreadsheet takes for formulas.
    "write_together": "xraygan.utils.atomic_files",
    "require_empty_folder": "xraygan.utils.output_folder",
    "write_folder": "xraygan.utils.output_folder",
    "write_table": "xraygan.utils.csv_cells",
    "unescape_formula": "xraygan.utils.csv_cells",
    "read_number_table": "xraygan.rundir.file_readers",
    # Data sets: the folder, tables and lists, grey images, and messages that name the faulty row.
    "require_data_folder": "xraygan.utils.paths",
    "path_fault": "xraygan.utils.paths",
    "read_table": "xraygan.data.tables",
    "read_lines": "xraygan.data.tables",
    "read_ages": "xraygan.data.tables",
    "raise_at_row": "xraygan.data.tables",
    "normalized_name": "xraygan.data.tables",
    "read_grey": "xraygan.data.images",
    "file_identity": "xraygan.data.images",
    "NO_FINDING": "xraygan.data.index",
    # Networks: published or local weights, grey first layers, sizes, common layers, float32.
    "read_weights": "xraygan.parts.weights",
    "download_weights": "xraygan.parts.weights",
    "is_planning": "xraygan.utils.planning",
    "load_matching": "xraygan.parts.weights",
    "weights_digest": "xraygan.parts.weights",
    "grey_convolution": "xraygan.parts.weights",
    "GREY_MEAN": "xraygan.parts.weights",
    "GREY_STD": "xraygan.parts.weights",
    "depthwise_conv2d": "xraygan.utils.depthwise",
    "is_depthwise": "xraygan.utils.depthwise",
    "resize_square": "xraygan.utils.images",
    "ConditionalNorm": "xraygan.parts.layers",
    "doubled": "xraygan.parts.layers",
    "with_deviation": "xraygan.parts.layers",
    "as_float32": "xraygan.utils.tensors",
    # Losses: penalties on the discriminator's gradient towards images.
    "zero_centred_penalty": "xraygan.graph.penalties",
    "image_gradients": "xraygan.graph.penalties",
    # Random numbers: one stream for each purpose, derived from a seed.
    "derive_seed": "xraygan.utils.seeding",
    "rng": "xraygan.utils.seeding",
    # Metrics: 95 % intervals, nearest neighbours, copies of training images.
    "percentile_interval": "xraygan.statistics.intervals",
    "share_interval": "xraygan.statistics.intervals",
    "auc_interval": "xraygan.statistics.intervals",
    "difference_interval": "xraygan.statistics.intervals",
    "mean_interval": "xraygan.statistics.intervals",
    "bootstrap_variance": "xraygan.statistics.intervals",
    "SubgroupFigure": "xraygan.utils.naming",
    "Neighbours": "xraygan.audit.nearest_neighbors",
    "nearest_neighbors": "xraygan.audit.nearest_neighbors",
    "nearest_training_images": "xraygan.audit.nearest_neighbors",
    "squared_distances": "xraygan.audit.nearest_neighbors",
    "copy_shares": "xraygan.audit.copy_shares",
    # Pictures: the greys of images, and figures in the style of the report.
    "to_range": "xraygan.data.datamodule",
    "to_uint8": "xraygan.evaluation.generation",
    "as_shown": "xraygan.audit.nearest_neighbors",
    "FIGURE_STYLE": "xraygan.report.plots",
    "axes_in_inches": "xraygan.report.plots",
    "draw_mosaic": "xraygan.report.plots",
    "figure_bytes": "xraygan.report.plots",
    # Messages and the registry: hints at similar names, exceptions in one line, installed parts.
    "did_you_mean": "xraygan.errors",
    "describe_read_error": "xraygan.utils.parsing",
    "describe_error": "xraygan.errors",
    "installed": "xraygan.parts.registry",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # the next time it is found without this function
    return value


def __dir__() -> list[str]:
    return __all__
