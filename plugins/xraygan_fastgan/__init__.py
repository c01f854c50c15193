"""FastGAN: a light generator with skip-layer excitation (Liu et al., ICLR 2021)."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_generators(register):
    register("fastgan", "xraygan_fastgan.generators:FastGANGenerator")
    register("fastgan_conditional", "xraygan_fastgan.generators:ConditionalFastGANGenerator")
