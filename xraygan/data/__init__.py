"""The data: images read and cached, splits, batches, and what else is known of an image.

May import recipes, parts and what is below them.
"""
