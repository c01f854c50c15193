"""``xraygan explain``: what a run's networks look at, make and resemble, as pictures."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_commands(register):
    register("explain", "xraygan_explain.command:explain")
