"""DCGAN: the generator and discriminator of Radford et al. (2015), at 32 to 256 pixels."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_generators(register):
    register("dcgan", "xraygan_dcgan.networks:DCGANGenerator")


@hookimpl
def xraygan_register_discriminators(register):
    register("dcgan", "xraygan_dcgan.networks:DCGANDiscriminator")
