"""A recipe with its data and networks, and images drawn from a trained one.

May import evaluation and what is below it.
"""
