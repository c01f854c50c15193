"""Residual networks with self-attention (SAGAN, BigGAN) at 32 to 512 pixels."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_generators(register):
    register("residual", "xraygan_residual.generators:ResidualGenerator")
    register("residual_conditional", "xraygan_residual.generators:ConditionalResidualGenerator")


@hookimpl
def xraygan_register_discriminators(register):
    register("residual", "xraygan_residual.discriminators:ResidualDiscriminator")
    register("projection", "xraygan_residual.discriminators:ProjectionDiscriminator")
