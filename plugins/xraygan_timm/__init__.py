"""Networks of timm, PyTorch Image Models (Wightman, 2019), with one grey channel; Projected GAN."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_classifiers(register):
    register("timm", "xraygan_timm.networks:TimmClassifier")


@hookimpl
def xraygan_register_discriminators(register):
    register("projected", "xraygan_timm.projected:ProjectedDiscriminator")
    register("projected_conditional", "xraygan_timm.projected:ConditionalProjectedDiscriminator")


@hookimpl
def xraygan_register_extractors(register):
    register("timm", "xraygan_timm.networks:TimmExtractor")
