"""Classifiers of torchvision for grey images: ConvNeXt (Liu et al., 2022), EfficientNet (2019)."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_classifiers(register):
    register("convnext_tiny", "xraygan_torchvision.networks:ConvNeXtTiny")
    register("efficientnet_b0", "xraygan_torchvision.networks:EfficientNetB0")
