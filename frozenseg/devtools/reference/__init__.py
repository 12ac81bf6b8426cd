"""Comparisons with the reference vectors: numbers of the published implementation."""
