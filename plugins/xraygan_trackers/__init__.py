"""Trackers for a run's numbers and samples: a CSV table, TensorBoard."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_trackers(register):
    register("csv", "xraygan_trackers.table:CSV")
    register("tensorboard", "xraygan_trackers.board:TensorBoard")
