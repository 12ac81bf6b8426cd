"""Damaged files for every reader: none may fail with anything but a `UserError`."""
