"""The parts that plugins provide: hooks, interfaces, registry, options, and how they are called.

May import utilities and errors.
"""
