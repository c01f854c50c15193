"""Procedural chest radiographs: data without a download, with a known truth for tests."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_datasets(register):
    register("phantom", "xraygan_phantom.dataset:Phantom")
