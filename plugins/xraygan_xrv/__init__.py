"""TorchXRayVision's DenseNet-121 (Cohen et al., 2022), which was trained on chest X-rays."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_classifiers(register):
    register("xrv_densenet121", "xraygan_xrv.networks:XRVClassifier")


@hookimpl
def xraygan_register_extractors(register):
    register("xrv_densenet121", "xraygan_xrv.networks:XRVExtractor")
