"""Recipes: their keys, reading, merging and checking.

May import parts and what is below them.
"""
