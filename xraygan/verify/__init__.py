"""Checks of finished runs and sweeps, for a reader who did not make them.

Nothing in the folder is changed: what is measured again stays in memory.
"""
