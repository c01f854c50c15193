"""Loss networks: VGG, or the run's own classifier."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_extractors(register):
    register("vgg16", "xraygan_vgg.extractors:VGG16")
    register("vgg19", "xraygan_vgg.extractors:VGG19")
    register("classifier", "xraygan_vgg.extractors:ClassifierFeatures")
