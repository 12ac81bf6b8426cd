"""Adapters that make FrozenSeg's models and data sets available in other frameworks."""
