"""The DenseNet-121 classifier (Huang et al., 2016) for grey images, CheXNet's network."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_classifiers(register):
    register("densenet121", "xraygan_densenet.networks:DenseNet121")
