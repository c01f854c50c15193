"""The run directory: its files, their schemas and readers, checkpoints and provenance.

May import the training graph, the data and what is below them.
"""
