"""The min-max objective of the original GAN (Goodfellow et al., 2014)."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_objectives(register):
    register("minmax", "xraygan_minmax.objective:MinMax")
