"""Training: the loop, what it calls after its steps, and the run from start to report.

May import reports, sessions and what is below them.
"""
