"""The audit of a trained generator: does it copy its training images?

May import reports (for its figure), sessions and what is below them.
"""
