"""``xraygan export``: a run's networks as files for other programs, with a model card."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_commands(register):
    register("export", "xraygan_export.command:export")
