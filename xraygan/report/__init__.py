"""Reports: a run as a page, runs side by side, and figures for a publication.

May import statistics, run directories and what is below them.
"""
