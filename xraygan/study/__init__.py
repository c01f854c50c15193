"""Utility studies: do generated images help a classifier, by how much, and how sure is that?

The generator is frozen, or unknown: only a folder of its images is needed. Fresh classifiers are
trained under one budget of steps on real images and on real and generated ones. What is chosen (how
many generated images, which of them, in which order) is chosen on validation images by runs of
other seeds than those that are tested, so that neither images nor seeds of the test chose anything.
"""
