"""Recipes: their keys, and how they are read, merged, checked and described.

May import parts and what is below them.
"""
