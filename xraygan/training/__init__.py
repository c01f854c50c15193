"""Training: the training loop, its callbacks, and the run from start to report.

May import reports, sessions and what is below them.
"""
