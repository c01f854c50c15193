"""Where else a run's numbers and samples can go: a table, TensorBoard."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_trackers(register):
    register("csv", "xraygan_trackers.table:CSV")
    register("tensorboard", "xraygan_trackers.board:TensorBoard")
