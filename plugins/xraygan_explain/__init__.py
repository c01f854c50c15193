"""``xraygan explain``: pictures of what a run's networks look at and generate."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_commands(register):
    register("explain", "xraygan_explain.command:explain")
