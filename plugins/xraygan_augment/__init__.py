"""Augmentation of the discriminator's images for small data sets: DiffAugment and ADA."""

from xraygan import hookimpl


@hookimpl
def xraygan_register_augmenters(register):
    register("diffaugment", "xraygan_augment.diffaugment:DiffAugment")
    register("ada", "xraygan_augment.ada:ADA")
