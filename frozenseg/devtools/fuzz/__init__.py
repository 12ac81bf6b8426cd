"""Damaged files for every reader, none of which may raise anything but a `UserError`."""
