"""The parts that plugins bring: hooks, interfaces, registry, options, and how they are asked.

May import utilities and errors.
"""
