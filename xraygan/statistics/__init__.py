"""Confidence intervals, differences of two systems, and the variance over training seeds.

May import run directories and what is below them.
"""
