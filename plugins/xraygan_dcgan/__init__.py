"""DCGAN (Radford et al., 2015) at 32 to 256 pixels: for all images, or one for each class."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_generators(register):
    register("dcgan", "xraygan_dcgan.networks:DCGANGenerator")
    register("dcgan_per_class", "xraygan_dcgan.per_class:PerClassGenerator")


@hookimpl
def xraygan_register_discriminators(register):
    register("dcgan", "xraygan_dcgan.networks:DCGANDiscriminator")
    register("dcgan_per_class", "xraygan_dcgan.per_class:PerClassDiscriminator")
