"""Distances between the real and the generated batch: energy, optimal transport, MMD; pixels."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_scores(register):
    register("energy_distance", "xraygan_distances.energy:EnergyDistance")
    register("mixture_mmd", "xraygan_distances.kernels:MixtureMMD")
    register("polynomial_mmd", "xraygan_distances.kernels:PolynomialMMD")
    register("sinkhorn", "xraygan_distances.transport:Sinkhorn")
    register("sliced_wasserstein", "xraygan_distances.transport:SlicedWasserstein")


@hookimpl
def xraygan_register_extractors(register):
    register("pixels", "xraygan_distances.pixels:Pixels")
