"""Identities over the frames of a video: which region is which from frame to frame."""
