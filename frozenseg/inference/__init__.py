"""Inference: from images to results, with resizing, post-processing and SAM's proposals."""
