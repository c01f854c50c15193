"""The data: images are read, cached, split and drawn as batches, with labels and metadata.

May import recipes, parts and what is below them.
"""
