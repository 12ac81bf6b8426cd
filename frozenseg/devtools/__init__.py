"""Instruments of the developers: speed studies and comparisons with reference vectors."""
