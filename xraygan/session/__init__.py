"""Sessions: a recipe with its data and networks, and images sampled from a trained one.

May import evaluation and what is below it.
"""
