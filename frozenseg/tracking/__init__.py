"""Tracking: regions keep their identities over the frames of a video."""
