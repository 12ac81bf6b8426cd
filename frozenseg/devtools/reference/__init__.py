"""Comparisons with the reference vectors, which are outputs of the published implementation."""
