"""Data parallelism: several processes that train one run.

May import parts and what is below them.
"""
