"""Evaluation: what metrics measure, and images of a trained generator.

May import statistics, run directories and what is below them.
"""
