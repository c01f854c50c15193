"""Adversarial losses: hinge, least squares, WGAN-GP and relativistic pairs."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_objectives(register):
    register("hinge", "xraygan_objectives.losses:Hinge")
    register("least_squares", "xraygan_objectives.losses:LeastSquares")
    register("wgan_gp", "xraygan_objectives.losses:WGANGP")
    register("relativistic", "xraygan_objectives.losses:Relativistic")
