"""ResNet classifiers (He et al., 2015) for grey images, and two classifiers that build on them."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_classifiers(register):
    register("resnet18", "xraygan_resnet.networks:ResNet18")
    register("resnet34", "xraygan_resnet.networks:ResNet34")
    register("resnet50", "xraygan_resnet.networks:ResNet50")
    register("cral", "xraygan_resnet.cral:CRAL")
    register("patch_grid", "xraygan_resnet.patch_grid:PatchGrid")


@hookimpl
def xraygan_register_extractors(register):
    register("resnet18", "xraygan_resnet.extractors:ResNet18Features")
    register("resnet50", "xraygan_resnet.extractors:ResNet50Features")
