"""Utilities that know nothing of runs, recipes or plugins.

May import errors alone.
"""
