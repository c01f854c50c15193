"""The training graph: networks, loss terms, and one step over them.

May import the data, recipes, distributed processes and what is below them.
"""
