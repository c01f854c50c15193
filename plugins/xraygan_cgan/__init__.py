"""CGAN: the conditional GAN of Mirza and Osindero (2014), after Gupta and Lynch (2019)."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_generators(register):
    register("cgan", "xraygan_cgan.networks:CGANGenerator")


@hookimpl
def xraygan_register_discriminators(register):
    register("cgan", "xraygan_cgan.networks:CGANDiscriminator")
